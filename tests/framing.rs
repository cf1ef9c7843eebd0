//! Frames over real sockets: what is wrong costs the connection that sent it, and only that one.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use proscenium::{Framing, Limits};
use support::{
    Behaviour, PATIENCE, Seen, Server, ask, connect_narrow, engine, eventually, expect_end, frame,
    loopback, patient, read_frame, reset, try_read_frame,
};

fn echo(limits: Limits) -> Server {
    Server::with(limits, loopback(), Behaviour::echo())
}

#[test]
fn an_oversized_frame_closes_its_connection_with_both_numbers() {
    let server = echo(patient().frame_max(1000));
    let (mut bystander, _) = server.accept();
    ask(&mut bystander, &[7; 1000]);
    for announced in [1001u32, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let (mut bad, id) = server.accept();
        ask(&mut bad, b"good");
        bad.write_all(&announced.to_be_bytes()).unwrap();
        expect_end(&mut bad);
        drop(bad);
        let (reason, text) = server.log.until_closed(id);
        assert_eq!(reason, "bad_frame");
        assert!(
            text.contains(&announced.to_string()) && text.contains("1000"),
            "{text}"
        );
        ask(&mut bystander, b"still here");
    }
    let stats = server.until_stats(|stats| stats.connections == 1);
    assert_eq!(stats.closed("bad_frame"), 4);
    assert_eq!(stats.reassembly_bytes, 0);
    drop(bystander);
    server.end_clean();
}

#[test]
fn good_frames_before_a_bad_one_are_answered() {
    // A linger time that no test waits for: nothing here ends by it.
    let limits = patient().frame_max(100_000).linger(PATIENCE * 10);
    let server = echo(limits);
    // Short answers, and more than the socket takes at once.
    for (count, length) in [(1, 0), (3, 10), (200, 100_000)] {
        let (mut client, id) = server.accept();
        let good = vec![length as u8; length];
        let mut writer = client.try_clone().unwrap();
        let bytes = [frame(&good).repeat(count), u32::MAX.to_be_bytes().to_vec()].concat();
        let writing = std::thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            // Discarded, and no reason to reset what is still to be read.
            writer.write_all(&[1; 1000]).unwrap();
        });
        for answer in 0..count {
            assert!(read_frame(&mut client) == good, "{answer} of {count}");
        }
        assert_eq!(try_read_frame(&mut client).unwrap(), None);
        writing.join().unwrap();
        drop(client);
        let (reason, text) = server.log.until_closed(id);
        assert_eq!(reason, "bad_frame");
        assert!(text.contains(&u32::MAX.to_string()), "{text}");
    }
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!((stats.closed("bad_frame"), stats.bytes_lost), (3, 0));
    server.end_clean();
}

#[test]
fn a_bad_frame_stays_the_reason_however_its_sender_ends() {
    let limits = patient()
        .send_high(4 << 20)
        .linger(Duration::from_millis(100));
    let listener = loopback().socket_buffers(None, Some(16 << 10));
    let server = Server::with(limits, listener, Behaviour::echo());
    let (mut resets, resets_id) = server.accept();
    resets.write_all(&u32::MAX.to_be_bytes()).unwrap();
    reset(resets);
    assert_eq!(server.log.until_closed(resets_id).0, "bad_frame");
    let (mut stays, stays_id) = server.accept();
    stays.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(server.log.until_closed(stays_id).0, "bad_frame");
    // One that does not read its answers is cut off, which its peer can tell.
    let mut narrow = connect_narrow(server.address(), 4096);
    let narrow_id = server.id_of(&narrow);
    let bytes = [
        frame(&[7; 50_000]).repeat(40),
        u32::MAX.to_be_bytes().to_vec(),
    ]
    .concat();
    narrow.write_all(&bytes).unwrap();
    assert_eq!(server.log.until_closed(narrow_id).0, "bad_frame");
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!(stats.closed("bad_frame"), 3);
    let _ = server.shutdown();
}

#[test]
fn garbage_closes_its_connection() {
    let server = echo(patient());
    let (mut bystander, _) = server.accept();
    let (mut http, http_id) = server.accept();
    http.write_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
        .unwrap();
    expect_end(&mut http);
    drop(http);
    assert_eq!(server.log.until_closed(http_id).0, "bad_frame");
    ask(&mut bystander, b"still here");
    drop(bystander);
    server.end_clean();
}

#[test]
fn a_close_in_the_middle_of_a_frame_is_told_apart() {
    let server = echo(patient());
    // Into the header, behind the header, into the body; behind a whole frame or not.
    for (before, part) in [(0, 1), (0, 4), (0, 10), (1, 3), (1, 4), (1, 103)] {
        let (mut stream, id) = server.accept();
        for _ in 0..before {
            ask(&mut stream, b"whole");
        }
        stream.write_all(&frame(&[1; 100])[..part]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (reason, text) = server.log.until_closed(id);
        assert_eq!(reason, "peer_closed_mid_frame");
        assert!(text.contains(&format!("{part} bytes")), "{text}");
        expect_end(&mut stream);
    }
    let (stream, id) = server.accept();
    drop(stream);
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!(stats.closed("peer_closed_mid_frame"), 6);
    assert_eq!(stats.closed("peer_closed"), 1);
    assert_eq!(stats.reassembly_bytes, 0);
    server.end_clean();
}

#[test]
fn a_reset_in_the_middle_of_a_frame_breaks_only_that_connection() {
    let server = echo(patient());
    let (mut bystander, _) = server.accept();
    for part in [0, 2, 4, 50_000] {
        let (mut stream, id) = server.accept();
        ask(&mut stream, b"whole");
        stream.write_all(&frame(&[1; 100_000])[..part]).unwrap();
        if part > 4 {
            server.until_stats(|stats| stats.reassembly_bytes > 0);
        }
        reset(stream);
        let (reason, text) = server.log.until_closed(id);
        assert_eq!(reason, "broken", "{text}");
        ask(&mut bystander, b"still here");
    }
    let stats = server.until_stats(|stats| stats.connections == 1);
    assert_eq!(stats.closed("broken"), 4);
    assert_eq!(stats.reassembly_bytes, 0);
    drop(bystander);
    server.end_clean();
}

#[test]
fn replies_still_arrive_after_the_peer_has_finished_sending() {
    let server = echo(patient());
    let (mut stream, id) = server.accept();
    const MESSAGES: u32 = 2_000;
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            let mut body = [0; 1000];
            body[..4].copy_from_slice(&number.to_be_bytes());
            writer.write_all(&frame(&body)).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    for number in 0..MESSAGES {
        assert_eq!(read_frame(&mut stream)[..4], number.to_be_bytes());
    }
    assert_eq!(try_read_frame(&mut stream).unwrap(), None);
    writing.join().unwrap();
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    assert_eq!(
        server.log.count(|seen| matches!(seen, Seen::ReadClosed(_))),
        1
    );
    server.end_clean();
}

#[test]
fn a_handler_may_go_on_sending_to_a_half_closed_peer() {
    let server = Server::with(patient(), loopback(), Behaviour::echo().keep_half_open());
    let (mut stream, id) = server.accept();
    stream.shutdown(Shutdown::Write).unwrap();
    eventually("on_read_closed", || {
        server
            .log
            .find(|seen| matches!(seen, Seen::ReadClosed(_)).then_some(()))
    });
    for number in 0..100u32 {
        let body = number.to_be_bytes();
        server.on(0, move |cx| cx.send(id, &body)).unwrap();
        assert_eq!(read_frame(&mut stream), body);
    }
    server.on(0, move |cx| cx.close(id));
    assert_eq!(try_read_frame(&mut stream).unwrap(), None);
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    assert_eq!(server.log.disconnects(id), 1);
    server.end_clean();
}

#[test]
fn little_endian_lengths_and_raw_bytes() {
    let builder = engine()
        .limits(patient().frame_max(1 << 16))
        .listen(loopback().framing(Framing::Le32))
        .listen(loopback().framing(Framing::Raw));
    let server = Server::start(builder, Behaviour::echo());
    let addresses: Vec<_> = server.engine.local_addrs().to_vec();
    let mut le32 = support::connect(support::tcp_address(&addresses[0]));
    let mut bytes = Vec::new();
    for length in [0u32, 1, 255, 256, 65_536] {
        bytes.extend(length.to_le_bytes());
        bytes.extend(vec![length as u8; length as usize]);
    }
    le32.write_all(&bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    le32.read_exact(&mut back).unwrap();
    assert!(back == bytes);
    // The same length read the other way round is far over the limit.
    le32.write_all(&257u32.to_be_bytes()).unwrap();
    let id = server.id_of(&le32);
    expect_end(&mut le32);
    drop(le32);
    assert_eq!(server.log.until_closed(id).0, "bad_frame");

    let mut raw = support::connect(support::tcp_address(&addresses[1]));
    let mut writer = raw.try_clone().unwrap();
    let all: Vec<u8> = (0..3_000_000u32).map(|n| (n >> 5) as u8).collect();
    let sent = all.clone();
    let writing = std::thread::spawn(move || {
        for part in sent.chunks(7919) {
            writer.write_all(part).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    raw.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == all);
    let id = server.id_of(&raw);
    assert_eq!(server.log.until_closed(id).0, "peer_closed");
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!(stats.bytes_out, stats.bytes_in - 4);
    server.end_clean();
}
