//! Echo and load over TLS and WebSocket: what fits passes, what does not says why.

mod common;

use common::{Echo, Folder, LARGE, Loaded, assert_explained, load};

/// A certificate and its key, in files of a folder.
fn certificate(folder: &Folder, host: &str) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a host name");
    let files = [
        folder.file("cert.pem", &made.cert.pem()),
        folder.file("key.pem", &made.signing_key.serialize_pem()),
    ];
    files.map(|path| path.to_str().expect("a name in text").to_owned())
}

#[track_caller]
fn assert_passes(run: &Loaded, transport: &str) {
    run.assert_pass();
    assert_eq!(run.record["transport"], transport, "{run}");
    assert_eq!(run.number("connect_success"), run.number("ccu"), "{run}");
}

/// Nothing is echoed, and the errors name a reason.
#[track_caller]
fn assert_refused(run: &Loaded, reason: &str) {
    run.assert_fail();
    assert_eq!(run.number("recv"), 0.0, "{run}");
    assert!(run.record["errors"].to_string().contains(reason), "{run}");
}

#[test]
fn tls_with_a_certificate_made_on_the_spot_is_not_verified_and_says_so() {
    let echo = Echo::start(&["--tls"]);
    let pid = echo.pid().to_string();
    let run = load(
        &echo.address,
        "s2",
        &["--tls", "--verify", "full", "--server-pid", &pid],
    );
    assert_passes(&run, "tls");
    assert!(run.summary.contains("not verified"), "{run}");
    assert!(run.number("server_cpu_us_per_connect") > 0.0, "{run}");
    let summary = echo.terminate();
    let accepted = format!("{} accepted", 50 * run.tries);
    assert!(summary.contains(&accepted), "{summary}");
}

#[test]
fn tls_with_given_certificates_demands_the_right_one() {
    let (right, wrong) = (Folder::new("right"), Folder::new("wrong"));
    let files = certificate(&right, "127.0.0.1");
    let echo = Echo::start(&["--tls", "--cert", &files[0], "--key", &files[1]]);
    let run = load(&echo.address, "s2", &["--tls", "--ca", &files[0]]);
    assert_passes(&run, "tls");
    assert!(!run.summary.contains("not verified"), "{run}");

    let [other, _] = certificate(&wrong, "127.0.0.1");
    let run = load(&echo.address, "s2", &["--tls", "--ca", &other]);
    assert_refused(&run, "handshake (TLS");
    let named = [
        "--tls",
        "--ca",
        &files[0],
        "--server-name",
        "elsewhere.test",
    ];
    assert_refused(&load(&echo.address, "s2", &named), "certificate");
}

#[test]
fn every_interface_and_framing_echoes_over_tls() {
    for (echo, client) in [
        (&["--mode", "stage"][..], &[][..]),
        (&["--interface", "socket"], &[]),
        (&["--answer", "send", "--shards", "2"], &["--threads", "2"]),
        (&["--framing", "le32"], &["--framing", "le32"]),
    ] {
        let server = Echo::start(&[&["--tls"], echo].concat());
        let run = load(&server.address, "s2", &[&["--tls"], client].concat());
        assert_passes(&run, "tls");
    }
}

#[test]
fn web_socket_echoes_messages_as_they_are_or_packets_in_them() {
    for (echo, client, transport) in [
        (&["--ws"][..], &["--ws"][..], "ws"),
        (&["--ws", "--tls"], &["--ws", "--tls"], "wss"),
        (
            &["--ws", "--framing", "be32"],
            &["--ws", "--framing", "be32", "--ws-path", "/any?token=1"],
            "ws",
        ),
        (&["--ws", "--mode", "stage"], &["--ws"], "ws"),
        (&["--ws", "--interface", "socket"], &["--ws"], "ws"),
        (
            &["--ws", "--shards", "2"],
            &["--ws", "--threads", "2", "--rate", "2000"],
            "ws",
        ),
    ] {
        let server = Echo::start(echo);
        let full = [client, &["--verify", "full"]].concat();
        assert_passes(&load(&server.address, "s2", &full), transport);
    }
}

#[test]
fn large_messages_and_unix_sockets_take_every_layer() {
    let folder = Folder::new("wss");
    let address = format!("unix:{}", folder.0.join("sock").display());
    let echo = Echo::start(&["--ws", "--tls", "--listen", &address]);
    let layers = ["--ws", "--tls"];
    assert_passes(
        &load(&echo.address, "s2", &[&LARGE[..], &layers].concat()),
        "wss",
    );
    assert_passes(&load(&echo.address, "s0", &layers), "wss");
}

#[test]
fn who_speaks_another_layer_gets_no_echo() {
    for layer in ["--tls", "--ws"] {
        let echo = Echo::start(&[layer]);
        load(&echo.address, "s2", &["--ccu", "2"]).assert_fail();
        let plain = Echo::start(&[]);
        let patience = [layer, "--ccu", "2", "--connect-timeout", "2s"];
        let run = load(&plain.address, "s1", &patience);
        run.assert_fail();
        assert_eq!(run.number("connect_success"), 0.0, "{run}");
    }
}

#[test]
fn messages_of_many_records_come_back_whole() {
    let echo = Echo::start(&["--tls"]);
    let large = [&LARGE[..], &["--tls"]].concat();
    assert_passes(&load(&echo.address, "s2", &large), "tls");
}

#[test]
fn options_that_do_not_fit_are_explained() {
    for (args, expected) in [
        (&["echo", "--cert", "c.pem", "--key", "k.pem"][..], "--tls"),
        (&["echo", "--tls", "--cert", "c.pem"], "--key"),
        (
            &[
                "load",
                "stream",
                "--target",
                "127.0.0.1:1",
                "--scenario",
                "s2",
                "--framing",
                "raw",
            ],
            "--ws",
        ),
        (
            &[
                "echo",
                "--tls",
                "--cert",
                "no-such-c.pem",
                "--key",
                "no-such-k.pem",
            ],
            "no-such-c.pem",
        ),
    ] {
        assert_explained(args, expected);
    }
}
