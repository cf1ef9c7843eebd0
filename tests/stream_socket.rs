//! The pull interface: the same behaviour with the shard inline and on threads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use proscenium::{
    Address, Backoff, ConnectError, Connector, Event, Listener, RouterId, StreamSocket,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn open(shards: usize, receive_max: usize) -> (StreamSocket, SocketAddr) {
    let socket = StreamSocket::builder()
        .listen(Listener::tcp("127.0.0.1:0").unwrap())
        .shards(shards)
        .receive_max(receive_max)
        .open()
        .unwrap();
    let Address::Tcp(address) = socket.local_addrs()[0] else {
        panic!("not TCP")
    };
    (socket, address)
}

fn echo_until(socket: &mut StreamSocket, disconnects: usize) -> usize {
    let (mut messages, mut ended) = (0, 0);
    while ended < disconnects {
        let (from, event) = socket
            .recv_timeout(PATIENCE)
            .unwrap()
            .expect("an event in time");
        match event {
            Event::Message(body) => {
                messages += 1;
                socket.send(from, &body).unwrap();
            }
            Event::Disconnected(reason) => {
                assert_eq!(reason.name(), "peer_closed");
                ended += 1;
            }
            _ => {}
        }
    }
    messages
}

/// Clients send numbered messages without waiting for the answers, which have to come in order.
fn echo_with(shards: usize, receive_max: usize) {
    const CLIENTS: usize = 4;
    const MESSAGES: u32 = 5_000;
    let (mut socket, address) = open(shards, receive_max);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut reader = stream.try_clone().unwrap();
                let writing = std::thread::spawn(move || {
                    for number in 0..MESSAGES {
                        let frame = [4u32.to_be_bytes(), number.to_be_bytes()].concat();
                        stream.write_all(&frame).unwrap();
                    }
                    stream
                });
                for number in 0..MESSAGES {
                    let mut frame = [0; 8];
                    reader.read_exact(&mut frame).unwrap();
                    assert_eq!(frame[4..], number.to_be_bytes());
                }
                drop(writing.join().unwrap());
            })
        })
        .collect();
    assert_eq!(
        echo_until(&mut socket, CLIENTS),
        CLIENTS * MESSAGES as usize
    );
    for client in clients {
        client.join().unwrap();
    }
    let report = socket.shutdown(PATIENCE).unwrap();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn echoes_in_order_inline() {
    echo_with(1, 1);
}

#[test]
fn echoes_in_order_across_threads() {
    echo_with(2, 65_536);
}

#[test]
fn a_full_receive_queue_pauses_the_peers_and_loses_nothing() {
    echo_with(2, 3);
}

#[test]
fn connects_out_with_the_same_object() {
    for shards in [1, 2] {
        let (mut server, address) = open(1, 1);
        let mut client = StreamSocket::builder().shards(shards).open().unwrap();
        client.connect(&Connector::to(address)).unwrap();
        let mut answered = false;
        while !answered {
            if let Some((id, event)) = client.recv_timeout(Duration::from_millis(1)).unwrap() {
                match event {
                    Event::Connected(_) => client.send(id, b"ping").unwrap(),
                    Event::Message(body) => {
                        assert_eq!(&body[..], b"ping");
                        answered = true;
                        client.close(id);
                    }
                    other => panic!("{other:?}"),
                }
            }
            if let Some((id, Event::Message(body))) = server.try_recv().unwrap() {
                server.send(id, &body).unwrap();
                server.flush();
            }
        }
    }
}

#[test]
fn failed_attempts_to_connect_are_events() {
    // Bound, so that nobody else gets the port, and not listening.
    let nowhere = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    nowhere.bind(&any.into()).unwrap();
    let address = nowhere.local_addr().unwrap().as_socket().unwrap();
    let backoff = Backoff {
        first: Duration::from_millis(1),
        max: Duration::from_millis(2),
    };
    for shards in [1, 3] {
        let mut socket = StreamSocket::builder()
            .shards(shards)
            .receive_max(2)
            .open()
            .unwrap();
        let once = socket.connect(&Connector::to(address)).unwrap();
        let again = Connector::to(address).reconnect(backoff);
        let again = [(); 3].map(|()| socket.connect(&again).unwrap());
        let (mut final_ones, mut told_again) = (0, [0; 3]);
        while final_ones == 0 || told_again.contains(&0) || told_again.contains(&1) {
            let event = socket.recv_timeout(PATIENCE).unwrap();
            let Some((RouterId::NONE, Event::ConnectFailed(failed))) = event else {
                panic!("{event:?}");
            };
            let ConnectError::Io(error) = &failed.error else {
                panic!("{failed:?}");
            };
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            match again.iter().position(|one| *one == failed.connect) {
                Some(one) => {
                    assert!(failed.retry.is_some());
                    told_again[one] += 1;
                }
                None => {
                    assert_eq!((failed.connect, failed.retry), (once, None));
                    final_ones += 1;
                }
            }
        }
        assert_eq!(final_ones, 1);
        let report = socket.shutdown(PATIENCE).unwrap();
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn nothing_to_receive_is_none_and_a_stopped_socket_says_so() {
    for shards in [1, 2] {
        let (mut socket, _) = open(shards, 16);
        assert!(socket.try_recv().unwrap().is_none());
        assert!(
            socket
                .recv_timeout(Duration::from_millis(5))
                .unwrap()
                .is_none()
        );
        socket.handle().shutdown(PATIENCE);
        let ended = socket.recv().unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::BrokenPipe);
    }
}

#[test]
fn a_peer_that_finished_sending_still_gets_its_answers() {
    for shards in [1, 2] {
        let (mut socket, address) = open(shards, 4);
        let client = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // More than two receive chunks: they and the end may be read in one slice.
            let frames = [0, 0, 0, 1, b'x'].repeat(40_000);
            let (mut writer, sent) = (stream.try_clone().unwrap(), frames.clone());
            let writing = std::thread::spawn(move || {
                writer.write_all(&sent).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            writing.join().unwrap();
            assert!(back == frames, "{} of {} bytes", back.len(), frames.len());
        });
        assert_eq!(echo_until(&mut socket, 1), 40_000);
        client.join().unwrap();
    }
}
