//! Accepting: at the limit of descriptors, of connections, of the rate per address.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use support::{
    Behaviour, Server, ask, connect, eventually, expect_end, frame, loopback, patient, prepare,
};

/// The server of the next test, in a process of its own.
fn serve_with_few_descriptors() {
    let server = Server::with(patient(), loopback(), Behaviour::echo());
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    };
    say(format!("listening {}", server.address()));
    let stats = server.until_stats(|stats| stats.accept_failed >= 2 && stats.accept_shed >= 1);
    assert!(stats.accept_shed <= stats.accept_failed);
    assert_eq!(stats.refused_limit, 0);
    say(format!("full {}", stats.connections));
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let stats = server.until_stats(|stats| stats.connections == 0);
    assert_eq!(
        stats.closed("peer_closed") + stats.closed("broken"),
        stats.accepted
    );
    server.end_clean();
}

#[test]
fn goes_on_accepting_after_descriptors_ran_out() {
    if std::env::var_os("PROSCENIUM_FEW_DESCRIPTORS").is_some() {
        return serve_with_few_descriptors();
    }
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$@\"", "sh"])
        .arg(program)
        .args(["--exact", "goes_on_accepting_after_descriptors_ran_out"])
        .arg("--nocapture")
        .env("PROSCENIUM_FEW_DESCRIPTORS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until_line = |word: &str| {
        let found = lines.find_map(|line| {
            let line = line.unwrap();
            line.strip_prefix(word).map(|rest| rest.trim().to_owned())
        });
        found.expect("the server says so")
    };
    let address: SocketAddr = until_line("listening ").parse().unwrap();
    let mut clients: Vec<TcpStream> = (0..80).map(|_| connect(address)).collect();
    let kept: usize = until_line("full ").parse().unwrap();
    assert!((30..64).contains(&kept), "{kept}");
    // Those who are in are served as ever.
    for client in &mut clients[..30] {
        ask(client, b"in");
    }
    // Those who are not learn at once, instead of waiting.
    let mut last = clients.pop().unwrap();
    expect_end(&mut last);
    // Room again, and accepting goes on by itself.
    drop(clients.split_off(10));
    for _ in 0..20 {
        let client = eventually("a new client is served", || {
            let mut client = connect(address);
            client.write_all(&frame(b"new")).ok()?;
            let answer = support::try_read_frame(&mut client).ok()??;
            (answer == b"new").then_some(client)
        });
        clients.push(client);
    }
    for client in &mut clients {
        ask(client, b"all of us");
    }
    drop((clients, last));
    drop(child.stdin.take());
    // Reads to the end, so that the child never blocks on its output.
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}

#[test]
fn one_connection_more_than_the_limit_is_closed_at_once_and_counted() {
    let limits = patient().connections_max(5);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    let mut clients: Vec<_> = (0..5).map(|_| server.accept()).collect();
    for refused in 1..=3 {
        expect_end(&mut server.connect());
        let stats = server.until_stats(|stats| stats.refused_limit == refused);
        assert_eq!((stats.connections, stats.accepted), (5, 5 + refused));
    }
    for (client, _) in &mut clients {
        ask(client, b"still here");
    }
    let (gone, id) = clients.pop().unwrap();
    drop(gone);
    server.log.until_closed(id);
    let (mut next, _) = server.accept();
    ask(&mut next, b"room again");
    let stats = server.until_stats(|stats| stats.connections == 5);
    assert_eq!(
        stats.closes.iter().sum::<u64>(),
        1,
        "the refused are no closes"
    );
    drop((clients, next));
    server.end_clean();
}

/// A client whose own address is chosen, from the loopback network.
fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from: SocketAddr = ([127, 0, 0, last], 0).into();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    prepare(&stream);
    stream
}

#[test]
fn the_rate_of_accepts_holds_for_each_address_alone() {
    const RATE: u32 = 5;
    const BURST: u64 = 10;
    let limits = patient()
        .accepts_per_second(RATE)
        .accept_burst(BURST as u32);
    let server = Server::with(limits, loopback(), Behaviour::echo());
    let began = Instant::now();
    let flood: Vec<TcpStream> = (0..200)
        .map(|_| connect_from(2, server.address()))
        .collect();
    let stats = server.until_stats(|stats| stats.accepted == 200);
    let most = BURST + (began.elapsed().as_secs() + 1) * u64::from(RATE);
    assert!((BURST..=most).contains(&stats.connections), "{stats:?}");
    assert_eq!(stats.refused_rate + stats.connections, 200);
    // The flood of one address is not the affair of another.
    let mut others: Vec<_> = (3..13)
        .map(|last| connect_from(last, server.address()))
        .collect();
    for other in &mut others {
        ask(other, b"served");
    }
    // And it is forgiven with time.
    eventually("the flooding address is let in again", || {
        let mut late = connect_from(2, server.address());
        late.write_all(&frame(b"sorry")).ok()?;
        (support::try_read_frame(&mut late).ok()?? == b"sorry").then_some(())
    });
    let stats = server.stats();
    assert_eq!(stats.closed("local"), 0);
    drop((flood, others));
    server.until_stats(|stats| stats.connections == 0);
    server.end_clean();
}
