//! Listeners: Unix sockets, inherited descriptors, spreading over shards.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use proscenium::{Address, Balance, Connector, Listener};
use support::{
    Behaviour, Seen, Server, ask, connect, engine, eventually, frame, loopback, read_frame,
    try_read_frame,
};

/// A path for a socket of this test.
fn socket_path(name: &str) -> PathBuf {
    let unique = format!("proscenium-{}-{name}", std::process::id());
    std::env::temp_dir().join(unique)
}

fn serve(listener: Listener, shards: usize) -> Server {
    let builder = engine().shards(shards).listen(listener);
    Server::start(builder, Behaviour::echo())
}

fn ask_unix(stream: &mut UnixStream, body: &[u8]) {
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    stream.write_all(&frame(body)).unwrap();
    assert_eq!(read_frame(stream), body);
}

#[test]
fn unix_sockets_are_served_on_all_shards_and_removed_at_the_end() {
    let path = socket_path("served");
    let server = serve(Listener::unix(&path), 2);
    assert_eq!(server.engine.local_addrs(), [Address::Unix(path.clone())]);
    let mut clients: Vec<_> = (0..10)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    for client in &mut clients {
        ask_unix(client, &[7; 100_000]);
    }
    let peers = server.log.all();
    let strange = peers
        .iter()
        .any(|seen| matches!(seen, Seen::Connected { peer, .. } if peer.address.is_some()));
    assert!(!strange, "Unix peers have no address");
    eventually("dealt out evenly", || {
        let shards = server.handle.stats().shards;
        shards
            .iter()
            .all(|shard| shard.connections == 5)
            .then_some(())
    });
    // Outgoing, too: one engine connects to the other.
    let calling = Server::start(
        engine(),
        Behaviour::sink().on_connect(|cx, id| cx.send(id, b"over Unix").unwrap()),
    );
    let connector = Connector::to(Address::Unix(path.clone()));
    calling.handle.connect(0, connector).unwrap();
    calling.until_stats(|stats| stats.messages_in == 1);
    calling.end_clean();
    drop(clients);
    assert!(path.exists());
    server.end_clean();
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_refused() {
    let path = socket_path("stale");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a file that nobody listens at");
    let server = serve(Listener::unix(&path), 1);
    ask_unix(&mut UnixStream::connect(&path).unwrap(), b"replaced");
    let second = engine()
        .listen(Listener::unix(&path))
        .start(|_| Behaviour::echo().handler(&support::Log::default()));
    let error = second.expect_err("somebody listens there");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(
        error.to_string().contains("stale"),
        "names the path: {error}"
    );
    // The attempt did no harm.
    ask_unix(&mut UnixStream::connect(&path).unwrap(), b"still served");
    server.end_clean();
    assert!(!path.exists());
}

#[test]
fn a_plain_file_in_the_way_of_a_socket_is_left_alone() {
    let path = socket_path("file");
    std::fs::write(&path, "precious").unwrap();
    let started = engine()
        .listen(Listener::unix(&path))
        .start(|_| Behaviour::echo().handler(&support::Log::default()));
    assert!(started.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn an_inherited_listener_is_taken_over_with_who_waits_in_it() {
    let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = inherited.local_addr().unwrap();
    let mut early = connect(address);
    early.write_all(&frame(b"early")).unwrap();
    let server = serve(Listener::from_fd(OwnedFd::from(inherited)), 2);
    assert_eq!(server.address(), address);
    assert_eq!(read_frame(&mut early), b"early");
    ask(&mut server.connect(), b"late");
    drop(early);
    server.end_clean();

    let not_listening = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let started = engine()
        .listen(Listener::from_fd(OwnedFd::from(not_listening)))
        .start(|_| Behaviour::echo().handler(&support::Log::default()));
    let error = started.expect_err("UDP does not listen");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

/// The server of the next test, in a process of its own, which was given its sockets.
fn serve_inherited_sockets() {
    let listeners = Listener::from_environment().unwrap();
    assert_eq!(listeners.len(), 2);
    let again = Listener::from_environment().unwrap_err();
    assert!(again.to_string().contains("descriptor 3"), "{again}");
    let builder = listeners
        .into_iter()
        .fold(engine(), |builder, one| builder.listen(one));
    let server = Server::start(builder, Behaviour::echo());
    let mut out = std::io::stdout().lock();
    out.write_all(b"\nready\n").unwrap();
    out.flush().unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    server.end_clean();
}

#[test]
fn a_supervisor_may_pass_the_listening_sockets() {
    if std::env::var_os("PROSCENIUM_INHERITED").is_some() {
        return serve_inherited_sockets();
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let path = socket_path("passed");
    let unix = UnixListener::bind(&path).unwrap();
    // The shell moves its standard input and error to 3 and 4, as a supervisor would.
    let script = "exec 3<&0 4<&2 0<&1 1>\"$READY\" 2>/dev/null; \
                  LISTEN_FDS=2 LISTEN_PID=$$ exec \"$@\"";
    let ready = socket_path("ready");
    let _ = std::fs::remove_file(&ready);
    assert!(
        Command::new("mkfifo")
            .arg(&ready)
            .status()
            .unwrap()
            .success()
    );
    let (alive, ours) = UnixStream::pair().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_supervisor_may_pass_the_listening_sockets"])
        .arg("--nocapture")
        .env("PROSCENIUM_INHERITED", "1")
        .env("READY", &ready)
        .stdin(Stdio::from(OwnedFd::from(tcp)))
        .stderr(Stdio::from(OwnedFd::from(unix)))
        .stdout(Stdio::from(OwnedFd::from(alive)))
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(std::fs::File::open(&ready).unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"));
    ask(&mut connect(address), b"over TCP");
    ask_unix(&mut UnixStream::connect(&path).unwrap(), b"over Unix");
    drop(ours);
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
    assert!(path.exists(), "the path is the supervisor's");
    for path in [path, ready] {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn sockets_meant_for_another_process_are_not_taken() {
    assert!(Listener::from_environment().unwrap().is_empty());
}

#[test]
fn round_robin_deals_out_evenly() {
    const SHARDS: usize = 3;
    let server = serve(loopback().balance(Balance::RoundRobin), SHARDS);
    let mut clients: Vec<_> = (0..30).map(|_| server.accept()).collect();
    for (number, (client, id)) in clients.iter_mut().enumerate() {
        assert_eq!(id.shard(), number % SHARDS);
        ask(client, b"wherever it is");
    }
    eventually("ten on each", || {
        let shards = server.handle.stats().shards;
        shards
            .iter()
            .all(|shard| shard.connections == 10)
            .then_some(())
    });
    drop(clients);
    server.end_clean();
}

#[test]
fn shared_ports_spread_connections_over_the_shards() {
    let server = serve(loopback().balance(Balance::ReusePort), 2);
    // The kernel's hash: with 200 connections, none at all on one side is out of the question.
    let mut clients: Vec<_> = (0..200).map(|_| server.accept()).collect();
    let on_first = clients.iter().filter(|(_, id)| id.shard() == 0).count();
    assert!((20..=180).contains(&on_first), "{on_first} of 200");
    for (client, _) in &mut clients {
        ask(client, b"served");
    }
    eventually("all are counted where they are", || {
        let shards = server.handle.stats().shards;
        let accepted = [shards[0].accepted as usize, shards[1].accepted as usize];
        (accepted == [on_first, 200 - on_first]).then_some(())
    });
    drop(clients);
    server.end_clean();
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let server = serve(loopback(), 1);
    let started = engine()
        .listen(Listener::at(server.address()))
        .start(|_| Behaviour::echo().handler(&support::Log::default()));
    let error = started.expect_err("somebody listens there");
    assert!(
        error.to_string().contains(&server.address().to_string()),
        "{error}"
    );
    let mut client = server.connect();
    ask(&mut client, b"unharmed");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(try_read_frame(&mut client).unwrap(), None);
    server.end_clean();
}

#[test]
fn a_listener_of_one_shard_gives_it_all_connections() {
    for only in 0..3 {
        let server = serve(loopback().balance(Balance::Only(only)), 3);
        let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
        for client in &mut clients {
            ask(client, b"who accepts?");
        }
        eventually("all on one shard", || {
            let shards = server.handle.stats().shards;
            let counts: Vec<_> = shards.iter().map(|shard| shard.connections).collect();
            (counts[only] == 20 && counts.iter().sum::<u64>() == 20).then_some(())
        });
    }
    let builder = engine().listen(loopback().balance(Balance::Only(1)));
    let error = builder.start(|_| Behaviour::echo().handler(&support::Log::default()));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("shard 1"), "{error}");
}
