//! Where the first inputs of the corpus come from. The first byte is the setup of the property.

/// File names and contents.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let hello = greeting(3, 1, b"NULL");
    let ready = command(b"\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\x01a");
    let message = [&b"\x01\x02ab"[..], b"\x00\x05hello"].concat();
    let long = [&b"\x02\0\0\0\0\0\0\x01\x00"[..], &[b'x'; 256]].concat();
    let ping = command(b"\x04PING\0\x0aabcd");
    let with = |setup: u8, parts: &[&[u8]]| [&[setup], &parts.concat()[..]].concat();
    vec![
        ("nothing", Vec::new()),
        ("handshake", with(0, &[&hello, &ready])),
        (
            "handshake_and_message",
            with(4, &[&hello, &ready, &message, &ping]),
        ),
        ("greeting_30", with(0, &[&greeting(3, 0, b"NULL"), &ready])),
        ("greeting_4", with(0, &[&greeting(4, 9, b"NULL"), &ready])),
        ("greeting_2", with(0, &[&greeting(2, 0, b"NULL")])),
        ("greeting_plain", with(0, &[&greeting(3, 1, b"PLAIN")])),
        ("greeting_broken_name", with(0, &[&greeting(3, 1, b"null")])),
        ("greeting_no_signature", with(0, &[&[0xFF; 9], b"\x7E"])),
        ("greeting_short", with(8, &[&hello[..40]])),
        ("http", with(0, &[b"GET / HTTP/1.1\r\n\r\n"])),
        ("refused", with(0, &[&hello, &command(b"\x05ERROR\x02no")])),
        ("message_too_early", with(0, &[&hello, &message])),
        (
            "property_cut",
            with(0, &[&hello, &command(b"\x05READY\x0bSocket")]),
        ),
        (
            "property_bad_name",
            with(0, &[&hello, &command(b"\x05READY\x01 \0\0\0\0")]),
        ),
        (
            "subscribe_in_handshake",
            with(0, &[&hello, &command(b"\x09SUBSCRIBEx")]),
        ),
        ("messages", with(8, &[&message, &long, &message])),
        ("message_cut", with(8, &[&message, &message[..6]])),
        ("short_as_long", with(0, &[b"\x02\0\0\0\0\0\0\0\x01x"])),
        ("empty_parts", with(0, &[b"\x01\0\x01\0\0\0"])),
        (
            "ping_between_parts",
            with(4, &[b"\x01\x02ab", &ping, b"\x00\x01c"]),
        ),
        ("pong", with(0, &[&command(b"\x04PONGabcd")])),
        (
            "ping_long_context",
            with(0, &[&command(b"\x04PING\0\0seventeen bytes !!")]),
        ),
        ("error_later", with(0, &[&command(b"\x05ERROR\x03why")])),
        ("subscribe", with(0, &[&command(b"\x09SUBSCRIBEtopic")])),
        (
            "command_without_name",
            with(0, &[b"\x04\0", b"\x04\x02\x09x"]),
        ),
        ("command_more", with(0, &[b"\x05\x01x"])),
        ("reserved_flags", with(0, &[b"\x08\x01x"])),
        ("frame_too_long", with(2, &[b"\x00\x0bx"])),
        (
            "frame_huge",
            with(0, &[b"\x02\xff\xff\xff\xff\xff\xff\xff\xff"]),
        ),
        ("command_too_long", with(3, &[b"\x04\x1f"])),
        (
            "message_too_long",
            with(
                1,
                &[b"\x01\xff", &[0; 255], b"\x01\xff", &[0; 255], b"\0\xff"],
            ),
        ),
        ("too_many_parts", with(2, &[b"\x01\0\x01\0\x00\0"])),
        (
            "pings_without_end",
            with(2, &[b"\x01\0", &ping, &ping, &ping]),
        ),
    ]
}

fn greeting(major: u8, minor: u8, mechanism: &[u8]) -> Vec<u8> {
    let mut greeting = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, major, minor];
    greeting.extend_from_slice(mechanism);
    greeting.resize(64, 0);
    greeting
}

fn command(body: &[u8]) -> Vec<u8> {
    [&[4, body.len() as u8], body].concat()
}
