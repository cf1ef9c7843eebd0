//! WebSocket over real sockets: what goes through, how it is cut, how it ends.

mod support;
#[path = "support/web_socket.rs"]
mod web_socket;

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use proscenium::framing::websocket::CloseCode;
use proscenium::framing::websocket::handshake::Origins;
use proscenium::{Connector, Framing, Listener, WebSocketClient, WebSocketServer};
use support::{Behaviour, Seen, Server, connect, engine, eventually, loopback, patient};
use web_socket::{Client, Got, binary, frame, request, text};

const MIB: usize = 1 << 20;

fn listener() -> Listener {
    loopback()
        .framing(Framing::Raw)
        .web_socket(&WebSocketServer::new())
}

fn echo() -> Behaviour {
    // `forward` keeps text what it is.
    Behaviour::on_message(|cx, from, message| {
        let _ = cx.forward(from, &message);
    })
}

fn echo_server() -> Server {
    Server::with(patient(), listener(), echo())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn messages_of_any_length_go_both_ways_and_stay_what_they_are() {
    let server = echo_server();
    let mut client = Client::connect(server.address());
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, MIB, 2 * MIB] {
        let body = pattern(len);
        client.send(&binary(&body));
        assert!(
            client.get() == Got::Binary(body),
            "{len} bytes came back changed"
        );
    }
    client.send(&text("舞台"));
    assert_eq!(client.get(), Got::Text("舞台".to_owned()));
    let id = server.nth(0);
    let info = server.on(0, move |cx| cx.web_socket(id).cloned()).unwrap();
    assert_eq!((info.path.as_str(), info.query), ("/ws", None));
    client.send(&frame(0x88, b"\x03\xe8done"));
    assert_eq!(client.get(), Got::Close(Some(1000), String::new()));
    assert_eq!(client.get(), Got::End);
    drop(client);
    let (name, text) = server.log.until_closed(id);
    assert_eq!(name, "web_socket_closed");
    assert!(text.contains("1000") && text.contains("done"), "{text}");
    server.end_clean();
}

/// Kept, and sent on from there: as leases and as copies.
#[test]
fn kept_messages_stay_what_they_are() {
    for chunks in [1, 64] {
        let keep = Behaviour::on_message(|cx, from, message| {
            let body = message.lease();
            assert_eq!(body.is_text(), message.is_text());
            cx.forward_body(from, &body.clone()).unwrap();
        });
        let limits = patient().receive_chunks_max(chunks);
        let server = Server::with(limits, listener(), keep);
        let mut client = Client::connect(server.address());
        for len in [0, 1, 300, 65_536, 300_000] {
            let body = "舞".repeat(len / 3 + 1);
            client.send(&text(&body));
            client.send(&binary(body.as_bytes()));
            assert!(client.get() == Got::Text(body.clone()), "{len} bytes");
            assert!(
                client.get() == Got::Binary(body.into_bytes()),
                "{len} bytes"
            );
        }
        drop(client);
        server.end_clean();
    }
}

#[test]
fn a_foreign_client_talks_to_the_engine() {
    let server = echo_server();
    let stream = connect(server.address());
    let (mut socket, _) = tungstenite::client("ws://localhost/ws", stream).unwrap();
    for len in [0, 125, 126, 65_536, MIB] {
        let body = tungstenite::Message::binary(pattern(len));
        socket.send(body.clone()).unwrap();
        assert!(
            socket.read().unwrap() == body,
            "{len} bytes came back changed"
        );
    }
    let text = tungstenite::Message::text("舞台");
    socket.send(text.clone()).unwrap();
    assert_eq!(socket.read().unwrap(), text);
    socket.send(tungstenite::Message::Ping("?".into())).unwrap();
    assert_eq!(
        socket.read().unwrap(),
        tungstenite::Message::Pong("?".into())
    );
    socket.close(None).unwrap();
    assert!(matches!(socket.read(), Ok(tungstenite::Message::Close(_))));
    assert!(matches!(
        socket.read(),
        Err(tungstenite::Error::ConnectionClosed)
    ));
    drop(socket);
    assert_eq!(
        server.log.until_closed(server.nth(0)).0,
        "web_socket_closed"
    );
    server.end_clean();
}

#[test]
fn the_engine_talks_to_a_foreign_server() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let foreign = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut socket = tungstenite::accept(stream).unwrap();
        let mut lengths = Vec::new();
        loop {
            match socket.read() {
                Ok(message @ tungstenite::Message::Text(_)) => socket.send(message).unwrap(),
                Ok(tungstenite::Message::Binary(body)) => {
                    assert!(body[..] == pattern(body.len()));
                    lengths.push(body.len());
                    socket.send(tungstenite::Message::Ping("?".into())).unwrap();
                }
                Ok(tungstenite::Message::Close(frame)) => {
                    assert_eq!(frame.unwrap().code, 4000.into());
                    return lengths;
                }
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let behaviour = Behaviour::on_message(move |_, _, message| {
        let text = message.is_text();
        log.lock().unwrap().push((text, message.to_vec()));
    });
    let limits = patient().send_high(4 * MIB);
    let client = Server::start(engine().limits(limits), behaviour);
    let socket = WebSocketClient::new("localhost", "/ws?a=b").unwrap();
    let connector = Connector::to(address)
        .framing(Framing::Raw)
        .web_socket(&socket);
    client.on(0, move |cx| cx.connect(&connector));
    let id = client.nth(0);
    let lengths = [1, 125, 126, 65_536, MIB];
    client.on(0, move |cx| {
        for len in lengths {
            cx.send(id, &pattern(len)).unwrap();
        }
        // Encoded in place, shorter than it might have been.
        let written = cx.send_with(id, 70_000, |room| {
            room[..100].copy_from_slice(&pattern(100));
            100
        });
        assert_eq!(written, Ok(100));
        cx.send_shared(id, &pattern(10_000).into()).unwrap();
        cx.send_text(id, "舞台").unwrap();
    });
    let got = eventually("the text comes back", || {
        let seen = seen.lock().unwrap();
        (!seen.is_empty()).then(|| seen.clone())
    });
    assert_eq!(got, [(true, "舞台".as_bytes().to_vec())]);
    client.on(0, move |cx| {
        cx.close_web_socket(id, CloseCode(4000), "enough")
    });
    let expected = [&lengths[..], &[100, 10_000]].concat();
    assert_eq!(foreign.join().unwrap(), expected);
    assert_eq!(client.log.until_closed(id).0, "local");
    client.end_clean();
}

#[test]
fn packets_in_messages_are_a_stream() {
    let listener = loopback()
        .framing(Framing::Le32)
        .web_socket(&WebSocketServer::new());
    let server = Server::with(patient(), listener, Behaviour::echo());
    let mut client = Client::connect(server.address());
    let packet = |len: usize| [&(len as u32).to_le_bytes()[..], &pattern(len)].concat();
    // One packet per message; text messages are payload like others.
    client.send(&binary(&packet(5)));
    assert_eq!(client.get(), Got::Binary(packet(5)));
    client.send(&text("\x02\0\0\0hi"));
    assert_eq!(client.get(), Got::Binary(b"\x02\0\0\0hi".to_vec()));
    // Several in one, one in several, cut anywhere, fragments and control frames in between.
    let stream: Vec<u8> = [packet(1), packet(0), packet(300), packet(70_000)].concat();
    for size in [1, 3, 7, 1000, 65_536, stream.len()] {
        let mut bytes = Vec::new();
        for (i, part) in stream.chunks(size).enumerate() {
            if i % 3 == 0 && size > 1 {
                bytes.extend(frame(0x02, &part[..1]));
                bytes.extend(frame(0x8a, b"unasked"));
                bytes.extend(frame(0x80, &part[1..]));
            } else {
                bytes.extend(binary(part));
            }
        }
        let mut sender = client.stream.try_clone().unwrap();
        let writer = thread::spawn(move || sender.write_all(&bytes).unwrap());
        for len in [1, 0, 300, 70_000] {
            assert!(client.get() == Got::Binary(packet(len)), "{size}: {len}");
        }
        writer.join().unwrap();
    }
    // A packet over the limit is the peer's fault as ever, and said so.
    let too_long = (u32::MAX).to_le_bytes();
    client.breaks_the_rules(&binary(&too_long), 1009);
    assert_eq!(server.log.until_closed(server.nth(0)).0, "bad_frame");
    server.end_clean();
}

#[test]
fn every_cut_gives_the_same_messages() {
    let server = echo_server();
    let stream = [
        binary(b"first"),
        frame(0x01, "舞".as_bytes()),
        frame(0x89, b"ping"),
        frame(0x00, &"台".as_bytes()[..1]),
        frame(0x80, &"台".as_bytes()[1..]),
        binary(&[]),
        binary(&pattern(300)),
    ]
    .concat();
    let expected = [
        Got::Binary(b"first".to_vec()),
        Got::Pong(b"ping".to_vec()),
        Got::Text("舞台".to_owned()),
        Got::Binary(Vec::new()),
        Got::Binary(pattern(300)),
    ];
    let answers =
        |client: &mut Client| -> Vec<Got> { expected.iter().map(|_| client.get()).collect() };
    let mut client = Client::connect(server.address());
    let mut before = request("/ws").0.len() as u64;
    for cut in 0..stream.len() {
        // The first part has to be read on its own: a ping behind it would be cut by nobody, so
        // the server's count of bytes says when it was.
        client.send(&stream[..cut]);
        let sent = before + cut as u64;
        server.until_stats(|stats| stats.bytes_in == sent);
        client.send(&stream[cut..]);
        before += stream.len() as u64;
        assert_eq!(answers(&mut client), expected, "cut at {cut}");
    }
    for byte in &stream {
        client.send(&[*byte]);
    }
    assert_eq!(answers(&mut client), expected);
    // Frames that come with the request are frames.
    let mut hasty = Client::connect_with(server.address(), &stream);
    assert_eq!(answers(&mut hasty), expected);
    drop((client, hasty));
    server.end_clean();
}

#[test]
fn an_engine_connects_to_an_engine() {
    for framing in [Framing::Raw, Framing::Le32, Framing::Be32] {
        let options = WebSocketServer::new()
            .any_path()
            .subprotocol("b")
            .subprotocol("a");
        let listener = loopback().framing(framing).web_socket(&options);
        let server = Server::with(patient(), listener, Behaviour::echo());
        let client = Server::start(engine(), Behaviour::sink());
        let socket = WebSocketClient::new("localhost", "/any/path?room=9")
            .and_then(|socket| socket.subprotocol("x")?.subprotocol("a"))
            .and_then(|socket| socket.header("Origin", "https://game.example"))
            .unwrap();
        let connector = Connector::to(server.address())
            .framing(framing)
            .web_socket(&socket);
        client.on(0, move |cx| cx.connect(&connector));
        let (ours, theirs) = (client.nth(0), server.nth(0));
        client.on(0, move |cx| {
            for i in 0..100 {
                cx.send(ours, &pattern(i * 100)).unwrap();
            }
        });
        client.until_stats(|stats| stats.messages_in == 100);
        let info = server
            .on(0, move |cx| cx.web_socket(theirs).cloned())
            .unwrap();
        assert_eq!(info.path, "/any/path");
        assert_eq!(info.query.as_deref(), Some("room=9"));
        assert_eq!(info.origin.as_deref(), Some("https://game.example"));
        assert_eq!(info.subprotocol.as_deref(), Some("a"));
        let info = client
            .on(0, move |cx| cx.web_socket(ours).cloned())
            .unwrap();
        assert_eq!(info.subprotocol.as_deref(), Some("a"));
        server.on(0, move |cx| {
            cx.close_web_socket(theirs, CloseCode(3001), "bye")
        });
        let (name, text) = client.log.until_closed(ours);
        assert_eq!(name, "web_socket_closed");
        assert!(text.contains("3001") && text.contains("bye"), "{text}");
        assert_eq!(server.log.until_closed(theirs).0, "local");
        client.end_clean();
        server.end_clean();
    }
}

#[test]
fn what_is_no_handshake_is_refused_and_nobody_is_told() {
    let options = WebSocketServer::new().origins(Origins::Only(vec!["https://a".to_owned()]));
    let listener = loopback().framing(Framing::Raw).web_socket(&options);
    let server = Server::with(patient(), listener, echo());
    let good = request("/ws").0;
    let cases = [
        (good.replace("/ws", "/other"), "404"),
        (good.replace("Upgrade: websocket\r\n", ""), "426"),
        (good.replace("Version: 13", "Version: 12"), "426"),
        (good.replace("GET", "POST"), "405"),
        (good.replace("Host", "Origin: https://b\r\nHost"), "403"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), "505"),
        (
            format!("GET /ws HTTP/1.1\r\nX: {}", "x".repeat(9000)),
            "431",
        ),
        ("\x16\x03\x01\x02\0 hello".to_owned(), "400"),
    ];
    let count = cases.len() as u64;
    for (text, status) in cases {
        let mut stream = connect(server.address());
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{text}: {answer}"
        );
    }
    let stats = server.until_stats(|stats| stats.closed("handshake_failed") == count);
    assert_eq!(stats.messages_in, 0);
    assert!(server.log.all().is_empty(), "{:?}", server.log.all());

    let failing = Server::start(engine(), Behaviour::sink());
    let socket = WebSocketClient::new("localhost", "/elsewhere").unwrap();
    let connector = Connector::to(server.address())
        .framing(Framing::Raw)
        .web_socket(&socket);
    failing.on(0, move |cx| cx.connect(&connector));
    let why = eventually("the attempt fails", || {
        failing.log.find(|seen| match seen {
            Seen::ConnectFailed { text, .. } => Some(text.clone()),
            _ => None,
        })
    });
    assert!(why.contains("404"), "{why}");
    failing.end_clean();
    server.end_clean();
}

#[test]
fn a_stalled_handshake_ends_at_the_deadline() {
    let limits = patient().handshake_timeout(Duration::from_millis(50));
    let server = Server::with(limits, listener(), echo());
    let mut stream = connect(server.address());
    stream
        .write_all(&request("/ws").0.as_bytes()[..40])
        .unwrap();
    assert_eq!(
        support::read_some(&mut stream, &mut [0; 64]).unwrap_or(0),
        0
    );
    server.until_stats(|stats| stats.closed("handshake_timeout") == 1);
    server.end_clean();
}

#[test]
fn broken_rules_end_the_connection_with_a_code() {
    let options = WebSocketServer::new()
        .message_max(1000)
        .fragments_max(3)
        .control_frames_max(5);
    let listener = loopback().framing(Framing::Raw).web_socket(&options);
    let server = Server::with(patient(), listener, echo());
    let cases = [
        (b"\x82\x01x".to_vec(), 1002),  // not masked
        (frame(0xc2, b"x"), 1002),      // reserved bit
        (frame(0x83, b"x"), 1002),      // unknown opcode
        (frame(0x80, b"x"), 1002),      // nothing to continue
        (frame(0x09, b""), 1002),       // a fragmented ping
        (frame(0x89, &[0; 126]), 1002), // a long one
        ([frame(0x01, b"a"), text("b")].concat(), 1002),
        (frame(0x81, b"\xff"), 1007),
        (frame(0x88, b"\x03"), 1002),
        (frame(0x88, b"\x03\xed"), 1002),
        (frame(0x82, &[0; 1001])[..8].to_vec(), 1009), // by its header alone
        (
            [frame(0x02, &[0; 600]), frame(0x80, &[0; 600])].concat(),
            1009,
        ),
        (
            [frame(0x02, b""), frame(0x00, b"").repeat(3)].concat(),
            1008,
        ),
    ];
    for (frames, code) in &cases {
        Client::connect(server.address()).breaks_the_rules(frames, *code);
    }
    // Bad text is refused at its first bad byte, though frame and message go on.
    let cut = frame(0x01, b"good until here \xf4\x90 and more");
    Client::connect(server.address()).breaks_the_rules(&cut[..6 + 16 + 2], 1007);
    let mut flood = Client::connect(server.address());
    flood.send(&frame(0x8a, b"").repeat(6));
    assert_eq!(
        flood.get(),
        Got::Close(Some(1008), "more than 5 control frames in a row".into())
    );
    drop(flood);
    let count = cases.len() as u64 + 2;
    let stats = server.until_stats(|stats| stats.closed("web_socket") == count);
    assert_eq!(stats.messages_in, 0);
    server.end_clean();
}

#[test]
fn an_end_without_a_close_frame_is_abnormal() {
    let server = echo_server();
    let client = Client::connect(server.address());
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let (name, text) = server.log.until_closed(server.nth(0));
    assert_eq!(name, "web_socket_closed");
    assert!(text.contains("1006"), "{text}");
    server.end_clean();
}

#[test]
fn shutdown_says_that_we_go_away() {
    let server = echo_server();
    let mut client = Client::connect(server.address());
    client.send(&binary(b"x"));
    assert_eq!(client.get(), Got::Binary(b"x".to_vec()));
    let ending = thread::spawn(move || server.shutdown());
    assert_eq!(client.get(), Got::Close(Some(1001), String::new()));
    assert_eq!(client.get(), Got::End);
    drop(client);
    let report = ending.join().unwrap();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn nothing_is_lost_while_the_handler_pauses_after_every_message() {
    for framing in [Framing::Raw, Framing::Be32] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let behaviour = Behaviour::on_message(move |cx, from, message| {
            log.lock().unwrap().push(message.to_vec());
            cx.pause_reading(from);
            let handle = cx.handle();
            let resume = support::Job::new(move |cx| {
                cx.resume_reading(from);
            });
            handle.post(cx.shard(), resume).unwrap();
        });
        let listener = loopback()
            .framing(framing)
            .web_socket(&WebSocketServer::new());
        let server = Server::with(patient(), listener, behaviour);
        let mut client = Client::connect(server.address());
        let bodies: Vec<Vec<u8>> = (0..200).map(|i| pattern(i * 13)).collect();
        let mut bytes = Vec::new();
        for (i, body) in bodies.iter().enumerate() {
            let body = match framing {
                Framing::Raw => body.clone(),
                _ => support::frame(body),
            };
            let (front, back) = body.split_at(body.len() / 2);
            match i % 3 {
                0 => bytes.extend(binary(&body)),
                1 => {
                    bytes.extend(frame(0x02, front));
                    bytes.extend(frame(0x89, b""));
                    bytes.extend(frame(0x80, back));
                }
                _ => bytes.extend(frame(0x82, &body)),
            }
        }
        client.send(&bytes);
        let count = bodies.len() as u64;
        server.until_stats(|stats| stats.messages_in == count);
        assert!(*seen.lock().unwrap() == bodies);
        drop(client);
        server.end_clean();
    }
}

#[test]
fn a_silent_peer_is_asked_by_ping_and_kept_by_its_pong() {
    let options = WebSocketServer::new().ping_after(Duration::from_millis(20));
    let listener = loopback().framing(Framing::Raw).web_socket(&options);
    let limits = patient().idle_timeout(Duration::from_secs(3600));
    let server = Server::with(limits, listener, echo());
    let mut client = Client::connect(server.address());
    for _ in 0..3 {
        assert_eq!(client.get(), Got::Ping(Vec::new()));
        client.send(&frame(0x8a, b""));
    }
    drop(client);
    server.end_clean();
}

#[test]
fn parts_of_messages_count_as_memory_for_incomplete_frames() {
    let limits = patient().reassembly_bytes_max(4 * MIB);
    let server = Server::with(limits, listener(), echo());
    let part = frame(0x02, &pattern(MIB));
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(server.address())).collect();
    for client in &mut clients {
        // The oldest may have been ended meanwhile.
        let _ = client.stream.write_all(&part);
    }
    let closed = server.until_stats(|stats| stats.closed("reassembly_pressure") > 0);
    assert!(closed.reassembly_bytes <= 4 * MIB as u64);
    drop(clients);
    server.until_stats(|stats| stats.connections == 0 && stats.reassembly_bytes == 0);
    server.end_clean();
}

#[cfg(feature = "tls")]
#[path = "support/tls.rs"]
mod tls;

/// `wss`, both ends ours and one end foreign: the layers are one upon the other.
#[cfg(feature = "tls")]
#[test]
fn web_sockets_go_through_tls() {
    let authority = tls::Authority::new();
    let end = authority.server().build().unwrap();
    let server = Server::with(patient(), listener().tls(&end), echo());
    let config = Arc::new(authority.foreign());
    let stream = tls::foreign(server.address(), &config, tls::NAME);
    let mut foreign = Client::over(stream, "/ws");
    for len in [0, 1, 125, 126, 16_380, 65_536, MIB] {
        let body = pattern(len);
        foreign.send(&binary(&body));
        assert!(
            foreign.get() == Got::Binary(body),
            "{len} bytes came back changed"
        );
    }
    foreign.send(&frame(0x88, b"\x03\xe8"));
    assert_eq!(foreign.get(), Got::Close(Some(1000), String::new()));
    drop(foreign);
    server.log.until_closed(server.nth(0));

    let client = Server::start(engine(), Behaviour::sink());
    let socket = WebSocketClient::new(tls::NAME, "/ws").unwrap();
    let connector = Connector::to(server.address())
        .framing(Framing::Raw)
        .tls(&authority.client().build().unwrap())
        .web_socket(&socket);
    client.on(0, move |cx| cx.connect(&connector));
    let id = client.nth(0);
    client.on(0, move |cx| {
        for i in 0..50 {
            cx.send(id, &pattern(i * 500)).unwrap();
        }
    });
    client.until_stats(|stats| stats.messages_in == 50);
    client.on(0, move |cx| cx.close(id));
    assert_eq!(client.log.until_closed(id).0, "local");
    client.end_clean();
    server.end_clean();
}

/// What a server says and the end of TLS behind it, all in one read: the end does not hide it.
#[cfg(feature = "tls")]
#[test]
fn what_comes_with_the_end_of_tls_counts() {
    let authority = tls::Authority::new();
    let hasty = Behaviour::sink().on_connect(|cx, id| {
        for _ in 0..3 {
            cx.send(id, b"quick").unwrap();
        }
        cx.close(id);
    });
    let end = authority.server().build().unwrap();
    let server = Server::with(patient(), listener().tls(&end), hasty);
    let client = Server::start(engine(), Behaviour::sink());
    let tls = authority.client().build().unwrap();
    let to = |path| {
        let socket = WebSocketClient::new(tls::NAME, path).unwrap();
        let connector = Connector::to(server.address()).framing(Framing::Raw);
        connector.tls(&tls).web_socket(&socket)
    };
    let wrong = to("/elsewhere");
    client.on(0, move |cx| cx.connect(&wrong));
    let why = eventually("the attempt fails", || {
        client.log.find(|seen| match seen {
            Seen::ConnectFailed { text, .. } => Some(text.clone()),
            _ => None,
        })
    });
    assert!(why.contains("404"), "{why}");

    let right = to("/ws");
    client.on(0, move |cx| cx.connect(&right));
    let (name, text) = client.log.until_closed(client.nth(0));
    assert_eq!(name, "web_socket_closed", "{text}");
    client.until_stats(|stats| stats.messages_in == 3);
    client.end_clean();
    server.end_clean();
}

/// A connection that moves in the middle of a message takes the beginning along.
#[test]
fn a_message_under_way_moves_along() {
    let server = Server::start(engine().shards(2).listen(listener()), echo());
    let mut client = Client::connect(server.address());
    let id = server.nth(0);
    let mut home = id.shard();
    let mut sent = request("/ws").0.len() as u64;
    for len in [10, 1000, 100_000] {
        let body = pattern(len);
        let frames = [frame(0x02, &body[..len / 2]), frame(0x80, &body[len / 2..])].concat();
        for cut in [1, 5, 9, frames.len() / 2 - 1, frames.len() / 2 + 3] {
            client.send(&frames[..cut]);
            let expected = sent + cut as u64;
            server.until_stats(|stats| stats.bytes_in == expected);
            server
                .on(home, move |cx| cx.rehome(id, 1 - cx.shard()))
                .unwrap();
            client.send(&frames[cut..]);
            assert!(
                client.get() == Got::Binary(body.clone()),
                "{len} cut at {cut}"
            );
            sent += frames.len() as u64;
            home = 1 - home;
        }
    }
    drop(client);
    server.end_clean();
}
