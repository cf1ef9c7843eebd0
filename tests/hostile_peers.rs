//! A set of hostile peers at once, and one that behaves: every request of it is answered.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use support::{Behaviour, Server, ask, connect_narrow, frame, loopback, patient, prepare, reset};

const KIB: usize = 1024;

/// What a hostile peer may be ahead of the one that behaves: on a machine with few processors
/// it is the scheduler that would starve that one, not the server.
const AHEAD: u64 = 20;

/// The hostile ones, each on a thread of its own until told to stop.
struct Crowd {
    stop: Arc<AtomicBool>,
    /// Requests of the peer that behaves.
    requests: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    acts: Vec<(&'static str, Arc<AtomicU64>)>,
}

impl Crowd {
    fn new() -> Self {
        Self {
            stop: Arc::default(),
            requests: Arc::default(),
            threads: Vec::new(),
            acts: Vec::new(),
        }
    }

    /// `act` does one hostile thing; errors are the server's answer to it.
    fn add(&mut self, name: &'static str, mut act: impl FnMut() + Send + 'static) {
        let (stop, count) = (Arc::clone(&self.stop), Arc::<AtomicU64>::default());
        let requests = Arc::clone(&self.requests);
        self.acts.push((name, Arc::clone(&count)));
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if count.load(Ordering::Relaxed) < requests.load(Ordering::Relaxed) + AHEAD {
                    act();
                    count.fetch_add(1, Ordering::Relaxed);
                } else {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }));
    }

    fn all_have_acted(&self, times: u64) -> bool {
        let mut counts = self
            .acts
            .iter()
            .map(|(_, count)| count.load(Ordering::Relaxed));
        counts.all(|count| count >= times)
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn dial(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(address).ok()?;
    prepare(&stream);
    Some(stream)
}

/// Sends a frame byte by byte, and gets it back. False: the connection was ended meanwhile.
fn speaks_slowly(address: SocketAddr) -> bool {
    let Some(mut stream) = dial(address) else {
        return false;
    };
    let sent = frame(b"one byte at a time");
    for byte in &sent {
        let _ = stream.write_all(&[*byte]);
    }
    let mut back = vec![0; sent.len()];
    let is_back = stream.read_exact(&mut back).is_ok();
    assert!(!is_back || back == sent, "{back:?}");
    reset(stream);
    is_back
}

fn crowd(address: SocketAddr) -> Crowd {
    let mut crowd = Crowd::new();
    let mut slow: Vec<TcpStream> = Vec::new();
    crowd.add("slowloris: ever more incomplete frames", move || {
        slow.retain_mut(|stream| stream.write_all(&[0]).is_ok());
        if slow.len() < 200
            && let Some(mut stream) = dial(address)
        {
            let _ = stream.write_all(&(60 * KIB as u32).to_be_bytes());
            slow.push(stream);
        }
    });
    // Slow is no crime. But one whose thread has no turn in the middle of it is the oldest with an
    // incomplete frame before long, and the first to go when the others are too many.
    crowd.add(
        "one byte at a time",
        move || {
            while !speaks_slowly(address) {}
        },
    );
    crowd.add("connect flood", move || {
        for stream in (0..20).filter_map(|_| dial(address)).collect::<Vec<_>>() {
            reset(stream);
        }
    });
    crowd.add("oversized frames, many at once", move || {
        let mut streams: Vec<_> = (0..20).filter_map(|_| dial(address)).collect();
        for stream in &mut streams {
            let _ = stream.write_all(&[0xff; 100]);
        }
        streams.into_iter().for_each(reset);
    });
    crowd.add("asks and never reads", move || {
        let mut stream = connect_narrow(address, 4 * KIB);
        stream
            .set_write_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let question = frame(&[1; 50 * KIB]);
        while stream.write_all(&question).is_ok() {}
        reset(stream);
    });
    crowd.add("garbage", move || {
        if let Some(mut stream) = dial(address) {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    crowd
}

#[test]
fn a_peer_that_behaves_is_answered_in_the_middle_of_all_kinds_of_hostility() {
    let limits = patient()
        .frame_max(64 * KIB)
        .reassembly_bytes_max(512 * KIB)
        .send_high(128 * KIB)
        .send_low(32 * KIB)
        .send_queue_max(256 * KIB)
        .send_bytes_max(4 * KIB * KIB)
        .linger(Duration::from_millis(200));
    let server = Server::with(limits.clone(), loopback(), Behaviour::echo());
    let (mut good, id) = server.accept();
    ask(&mut good, b"before");
    let crowd = crowd(server.address());
    let mut requests = 0u64;
    // Each request must be answered within the patience of the test, and correctly.
    let reasons = ["bad_frame", "reassembly_pressure", "broken"];
    let mut ended = false; // some for each of these reasons
    while requests < 300 || !crowd.all_have_acted(AHEAD) || !ended {
        let mut body = vec![requests as u8; 1 + (requests as usize * 37) % (8 * KIB)];
        body[0] = 7;
        ask(&mut good, &body);
        requests += 1;
        crowd.requests.store(requests, Ordering::Relaxed);
        let stats = server.stats();
        assert!(stats.reassembly_bytes <= limits.reassembly_bytes_max as u64);
        assert!(stats.send_queue_bytes <= limits.send_bytes_max as u64);
        ended = reasons.iter().all(|reason| stats.closed(reason) > 0);
    }
    crowd.end();
    assert_eq!(server.log.disconnects(id), 0);
    let stats = server.until_stats(|stats| {
        let ended = stats.closes.iter().sum::<u64>();
        stats.connections == 1 && ended + 1 == stats.accepted - stats.accept_failed
    });
    assert_eq!((stats.reassembly_bytes, stats.send_queue_bytes), (0, 0));
    ask(&mut good, b"after");
    drop(good);
    server.end_clean();
}
