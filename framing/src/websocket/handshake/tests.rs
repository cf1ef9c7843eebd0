//! Handshakes as they should be, and as they should not.

use super::*;

/// RFC 6455 §1.3, and more lines.
fn request(lines: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
}

#[track_caller]
fn answered(policy: &Policy, request: &str) -> Answer {
    let limits = HandshakeLimits::default();
    match Request::parse(request.as_bytes(), &limits) {
        Ok(Some((parsed, taken))) => {
            assert_eq!(taken, request.len());
            policy.answer(&parsed)
        }
        Ok(None) => panic!("not whole"),
        Err(error) => Answer::refusal(error),
    }
}

#[track_caller]
fn refused(request: &str) -> (HandshakeError, u16) {
    let answer = answered(&Policy::any_path(), request);
    let error = answer.refused.expect("a refusal");
    let status = format!("HTTP/1.1 {} ", error.status());
    assert!(answer.bytes.starts_with(&status), "{}", answer.bytes);
    let (head, body) = answer.bytes.split_once("\r\n\r\n").expect("an empty line");
    assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())));
    assert!(head.contains("close"));
    (error, error.status())
}

#[test]
fn the_example_of_the_standard_and_what_follows_it() {
    let limits = HandshakeLimits::default();
    let request =
        request("Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, superchat\r\n");
    let stream = format!("{request}first frames");
    for cut in 0..stream.len() {
        let parsed = Request::parse(&stream.as_bytes()[..cut], &limits).expect("nothing wrong");
        assert_eq!(parsed.is_some(), cut >= request.len(), "{cut}");
        if let Some((parsed, taken)) = parsed {
            assert_eq!(taken, request.len());
            assert_eq!((parsed.path(), parsed.query()), ("/chat", None));
            assert_eq!(parsed.origin(), Some("http://example.com"));
            let offered: Vec<_> = parsed.subprotocols().collect();
            assert_eq!(offered, ["chat", "superchat"]);
        }
    }
    let answer = answered(&Policy::at("/chat").subprotocol("chat"), &request);
    assert_eq!(answer.subprotocol.as_deref(), Some("chat"));
    assert_eq!(
        answer.bytes,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Protocol: chat\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn names_tokens_and_lists_come_in_any_case_and_shape() {
    let text = request("")
        .replace(
            "Upgrade: websocket",
            "upgrade: h2c,\r\nUPGRADE:  WebSocket ",
        )
        .replace("Connection: Upgrade", "connection: keep-alive , uPGRADE")
        .replace("Sec-WebSocket-Version", "sec-websocket-version");
    assert_eq!(answered(&Policy::any_path(), &text).refused, None);
}

#[test]
fn a_subprotocol_is_the_first_of_the_clients_that_we_speak() {
    let policy = Policy::any_path().subprotocol("b").subprotocol("a");
    let chosen = |lines: &str| answered(&policy, &request(lines)).subprotocol;
    let line = |names: &str| format!("Sec-WebSocket-Protocol: {names}\r\n");
    assert_eq!(chosen("").as_deref(), None);
    assert_eq!(chosen(&line("x, a, b")).as_deref(), Some("a"));
    assert_eq!(chosen(&(line("x,") + &line(" b,a"))).as_deref(), Some("b"));
    assert_eq!(chosen(&line("x")).as_deref(), None);
    // A name of ours that would break the header is never sent.
    let policy = Policy::any_path().subprotocol("a b");
    assert_eq!(answered(&policy, &request(&line("a b"))).subprotocol, None);
}

#[test]
fn what_is_refused_and_how() {
    use HandshakeError as E;
    let ask = request("");
    let without = |name: &str| -> String {
        let lines = ask.split_inclusive("\r\n");
        lines.filter(|line| !line.starts_with(name)).collect()
    };
    let with = |from: &str, to: &str| ask.replace(from, to);

    assert_eq!(refused(&with("GET ", "POST ")), (E::Method, 405));
    assert_eq!(
        refused(&with("HTTP/1.1", "HTTP/1.0")),
        (E::HttpVersion, 505)
    );
    assert_eq!(
        refused(&with("HTTP/1.1", "HTTP/2.0")),
        (E::HttpVersion, 505)
    );
    assert_eq!(refused(&without("Host")), (E::Missing("Host"), 400));
    let host = "Host: a\r\n";
    assert_eq!(refused(&request(host)), (E::Repeated("Host"), 400));
    assert_eq!(refused(&without("Upgrade")), (E::NoUpgrade, 426));
    assert_eq!(refused(&without("Connection")), (E::NoUpgrade, 426));
    assert_eq!(refused(&with("websocket", "h2c")), (E::NoUpgrade, 426));
    assert_eq!(
        refused(&with("Version: 13", "Version: 8")),
        (E::Version, 426)
    );
    assert_eq!(
        refused(&without("Sec-WebSocket-Version")),
        (E::Version, 426)
    );
    let key = "Sec-WebSocket-Key";
    assert_eq!(refused(&without(key)), (E::Missing(key), 400));
    assert_eq!(
        refused(&request("Sec-WebSocket-Key: x\r\n")),
        (E::Repeated(key), 400)
    );
    for bad in [
        "",
        "x",
        "AAAA",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZTA=",
        "é",
    ] {
        let text = with("dGhlIHNhbXBsZSBub25jZQ==", bad);
        assert_eq!(refused(&text), (E::BadHeader(key), 400), "{bad}");
    }
    assert_eq!(refused(&request("Content-Length: 5\r\n")), (E::Body, 400));
    assert_eq!(
        refused(&request("Transfer-Encoding: chunked\r\n")),
        (E::Body, 400)
    );
    assert_eq!(
        refused("\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03"),
        (E::NotHttp, 400)
    );
    assert_eq!(
        refused("GET / HTTP/1.1\r\nbad header\r\n\r\n"),
        (E::NotHttp, 400)
    );

    let version = answered(&Policy::any_path(), &with("Version: 13", "Version: 8")).bytes;
    assert!(version.contains("\r\nSec-WebSocket-Version: 13\r\n"));
    let plain = answered(&Policy::any_path(), &without("Upgrade")).bytes;
    assert!(plain.contains("\r\nUpgrade: websocket\r\n"), "{plain}");
    assert!(
        plain.contains("\r\nConnection: Upgrade, close\r\n"),
        "{plain}"
    );
    let post = answered(&Policy::any_path(), &with("GET ", "POST ")).bytes;
    assert!(post.contains("\r\nAllow: GET\r\n"));
}

#[test]
fn paths_with_queries_and_absolute_ones() {
    let policy = Policy::at("/ws");
    for (target, expected) in [
        ("/ws", true),
        ("/ws?token=1", true),
        ("http://server.example.com/ws", true),
        ("https://server.example.com/ws?a", true),
        ("http://server.example.com", false),
        ("/ws/", false),
        ("/WS", false),
        ("/", false),
        ("?/ws", false),
        ("ftp://server/ws", false),
        ("*", false),
    ] {
        let text = request("").replace("GET /chat", &format!("GET {target}"));
        let refused = answered(&policy, &text).refused;
        let wrong = Some(HandshakeError::Path);
        assert_eq!(refused, if expected { None } else { wrong }, "{target}");
    }
    let text = request("").replace("GET /chat", "GET /a?b?c");
    let parsed = Request::parse(text.as_bytes(), &HandshakeLimits::default());
    let (parsed, _) = parsed.expect("HTTP").expect("whole");
    assert_eq!((parsed.path(), parsed.query()), ("/a", Some("b?c")));
}

#[test]
fn origins_are_allowed_by_name() {
    let own = Origins::Only(vec!["https://game.example".to_owned()]);
    let policy = Policy::any_path().origins(own);
    let refused = |lines: &str| answered(&policy, &request(lines)).refused;
    assert_eq!(refused(""), None, "no browser");
    assert_eq!(refused("Origin: https://game.example\r\n"), None);
    let wrong = Some(HandshakeError::Origin);
    assert_eq!(refused("Origin: https://evil.example\r\n"), wrong);
    assert_eq!(
        refused("Origin: https://game.example.evil.example\r\n"),
        wrong
    );
    assert_eq!(refused("Origin: null\r\n"), wrong);
    let twice = "Origin: https://game.example\r\nOrigin: https://evil.example\r\n";
    assert_eq!(refused(twice), Some(HandshakeError::Repeated("Origin")));
    assert_eq!(HandshakeError::Origin.status(), 403);
}

#[test]
fn limits_hold_before_the_request_is_whole() {
    let text = request("");
    let exact = HandshakeLimits::default()
        .bytes_max(text.len())
        .headers_max(5);
    assert!(matches!(
        Request::parse(text.as_bytes(), &exact),
        Ok(Some(_))
    ));
    // What follows a whole request does not count.
    let more = format!("{text}{text}");
    assert!(matches!(
        Request::parse(more.as_bytes(), &exact),
        Ok(Some(_))
    ));

    let limit = text.len() - 1;
    let short = exact.bytes_max(limit);
    let too_long = Some(HandshakeError::TooLong { limit });
    assert_eq!(Request::parse(text.as_bytes(), &short).err(), too_long);
    let cut = &text.as_bytes()[..limit];
    assert_eq!(
        Request::parse(cut, &short).err(),
        too_long,
        "it cannot become whole"
    );
    assert!(matches!(
        Request::parse(&cut[1..], &short.bytes_max(limit)),
        Ok(None) | Err(_)
    ));

    let few = exact.headers_max(4);
    let limit = 4;
    let error = HandshakeError::TooManyHeaders { limit };
    assert_eq!(Request::parse(text.as_bytes(), &few).err(), Some(error));
    assert_eq!(error.status(), 431);
    let many = request(&"X: y\r\n".repeat(HEADERS_MAX));
    let all = HandshakeLimits::default().headers_max(usize::MAX);
    let refused = Request::parse(many.as_bytes(), &all).err();
    assert!(matches!(
        refused,
        Some(HandshakeError::TooManyHeaders { .. })
    ));
}

fn opening() -> Opening {
    Opening::new("server.example.com", "/chat").expect("a plain path")
}

#[test]
fn a_client_asks_what_a_server_understands() {
    let opening = opening()
        .subprotocol("chat")
        .and_then(|opening| opening.header("Authorization", "Bearer x"))
        .expect("plain text");
    let key = Opening::key([9; 16]);
    let text = opening.request(&key);
    let (parsed, taken) = Request::parse(text.as_bytes(), &HandshakeLimits::default())
        .expect("HTTP")
        .expect("whole");
    assert_eq!(taken, text.len());
    assert_eq!(parsed.header("authorization"), Some("Bearer x"));
    let answer = Policy::at("/chat").subprotocol("chat").answer(&parsed);
    assert_eq!(answer.refused, None);

    let limits = HandshakeLimits::default();
    let bytes = format!("{}\x01\x02", answer.bytes);
    for cut in 0..answer.bytes.len() {
        assert_eq!(
            opening.response(&bytes.as_bytes()[..cut], &key, &limits),
            Ok(None)
        );
    }
    let established = opening.response(bytes.as_bytes(), &key, &limits);
    let expected = Established {
        taken: answer.bytes.len(),
        subprotocol: Some("chat".to_owned()),
    };
    assert_eq!(established, Ok(Some(expected)));
    let other = Opening::key([8; 16]);
    let refused = opening.response(bytes.as_bytes(), &other, &limits);
    assert_eq!(refused, Err(HandshakeError::AcceptKey));
}

#[test]
fn a_client_accepts_nothing_it_did_not_ask_for() {
    use HandshakeError as E;
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let response = |lines: &str| {
        let answer = answered(&Policy::any_path(), &request("")).bytes;
        let (first, rest) = answer.split_once("\r\n").expect("a status line");
        format!("{first}\r\n{lines}{rest}")
    };
    let limits = HandshakeLimits::default();
    let refused = |text: &str| opening().response(text.as_bytes(), key, &limits).err();
    assert_eq!(refused(&response("")), None);
    assert_eq!(
        refused(&response("Sec-WebSocket-Protocol: chat\r\n")),
        Some(E::Subprotocol)
    );
    let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    assert_eq!(refused(&response(extension)), Some(E::Extension));
    let plain = response("");
    let with = |from: &str, to: &str| refused(&plain.replace(from, to));
    assert_eq!(
        with("Upgrade: websocket", "Upgrade: h2c"),
        Some(E::BadHeader("Upgrade"))
    );
    assert_eq!(
        with("Upgrade: websocket\r\n", ""),
        Some(E::BadHeader("Upgrade"))
    );
    assert_eq!(
        with("Connection: Upgrade", "Connection: close"),
        Some(E::BadHeader("Connection"))
    );
    assert_eq!(with("s3pPLMB", "s3pplmb"), Some(E::AcceptKey));
    assert_eq!(with("HTTP/1.1", "HTTP/1.0"), Some(E::HttpVersion));
    assert_eq!(
        with("101 Switching Protocols", "200 OK"),
        Some(E::Status(200))
    );
    assert_eq!(
        refused(&Answer::refusal(E::Path).bytes),
        Some(E::Status(404))
    );
    assert_eq!(refused("SSH-2.0-OpenSSH_9.9\r\n"), Some(E::HttpVersion));
    assert_eq!(refused("HTTP/1.1 101\0"), Some(E::NotHttp));
    let limit = 64;
    let short = limits.bytes_max(limit);
    let endless = opening().response(&plain.as_bytes()[..64], key, &short);
    assert_eq!(endless, Err(E::TooLong { limit }));
}

#[test]
fn a_client_writes_no_line_that_is_not_its_own() {
    for (host, target) in [
        ("", "/"),
        ("a b", "/"),
        ("a\r\nX: y", "/"),
        ("a", ""),
        ("a", "ws"),
        ("a", "/a b"),
        ("a", "/\r\nX: y"),
        ("a", "/#fragment"),
        ("a", "/é"),
    ] {
        assert!(Opening::new(host, target).is_err(), "{host:?} {target:?}");
    }
    for (name, value) in [
        ("host", "b"),
        ("Sec-WebSocket-Key", "x"),
        ("Content-Length", "1"),
        ("X y", "z"),
        ("", "z"),
        ("X", "a\r\nY: b"),
        ("X", "a\nY: b"),
        ("X", "\0"),
    ] {
        assert!(opening().header(name, value).is_err(), "{name:?} {value:?}");
    }
    for name in ["", "a b", "a,b", "a\r\nb"] {
        assert!(opening().subprotocol(name).is_err(), "{name:?}");
    }
}
