//! Where the first inputs of the corpus come from: packets of either direction, without length.
//! Inputs that a fuzzer found are added to the corpus as files.

/// File names and contents.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let client = packet(b"Move", &[1, 0, 7, 0, 0, 0, 0, 0, 0, 0], b"north");
    let server = packet(
        b"Moved",
        &[1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 15, 0, 4, 3, 2, 0],
        b"up",
    );
    let mut negative = server.clone();
    negative[1 + 5 + 15] = 0x80;
    vec![
        ("nothing", Vec::new()),
        ("client", client.clone()),
        ("client_truncated", client[..1 + 4 + 9].to_vec()),
        ("client_without_payload", client[..1 + 4 + 10].to_vec()),
        ("server", server.clone()),
        ("server_truncated", server[..1 + 5 + 15].to_vec()),
        ("server_without_payload", server[..1 + 5 + 16].to_vec()),
        ("negative_size", negative),
        ("heartbeat", packet(b"@Heart@Beat@", &[0; 10], b"")),
        ("smallest", packet(b"x", &[0; 10], b"")),
        ("id_missing", packet(b"", &[0; 16], b"payload")),
        ("id_of_two_bytes", packet("é".as_bytes(), &[0xFF; 10], b"")),
        ("id_longest", packet(&[b'a'; 128], &[0; 16], b"payload")),
        ("id_too_long", packet(&[b'a'; 129], &[0; 16], b"payload")),
        ("id_not_utf8", packet(b"ab\xFF", &[0; 16], b"payload")),
        ("id_cut_in_a_character", packet(b"a\xC3", &[0xA9; 16], b"")),
        ("id_beyond_the_end", b"\x20short".to_vec()),
        ("full_numbers", packet(b"id", &[0xFF; 16], b"")),
    ]
}

fn packet(id: &[u8], numbers: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[id.len() as u8], id, numbers, payload].concat()
}
