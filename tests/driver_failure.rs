//! A shard whose driver fails ends, takes the engine with it, and the report says so.
//!
//! Alone in its process: it looks for the epoll descriptors of this process and breaks one.

mod support;

use std::io::Read;
use std::os::fd::AsRawFd;

use proscenium::{Balance, Engine, SendError};
use support::{Behaviour, Server, ask, loopback};

/// The epoll descriptors of this process, in the order in which they were opened.
fn epolls() -> Vec<i32> {
    let mut found: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let target = std::fs::read_link(&path).ok()?;
            let number = path.file_name()?.to_str()?.parse().ok()?;
            (target.to_str()? == "anon_inode:[eventpoll]").then_some(number)
        })
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn a_shard_whose_driver_fails_is_in_the_report_and_ends_the_engine() {
    let builder = Engine::builder()
        .shards(2)
        .listen(loopback().balance(Balance::RoundRobin));
    let server = Server::start(builder, Behaviour::echo());
    let mut clients = [(); 4].map(|()| server.accept());
    for (client, _) in &mut clients {
        ask(client, b"before");
    }
    let all = epolls();
    assert_eq!(all.len(), 2, "{all:?}");
    let broken = all[1];
    let null = std::fs::File::open("/dev/null").unwrap();
    server.on(1, move |_| {
        // SAFETY: both descriptors are open; the one replaced is only used for epoll, which is to
        // fail from now on.
        assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), broken) }, broken);
    });
    let (handle, log) = (server.handle.clone(), server.log.clone());
    let ids = clients.each_ref().map(|(_, id)| *id);
    let ends = std::thread::spawn(move || {
        clients.map(|(mut client, _)| {
            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest);
            assert_eq!(rest, b"");
        })
    });
    let report = server.engine.join();
    ends.join().unwrap();
    assert_eq!(report.shards_failed, 1, "{report}");
    assert!(!report.is_clean());
    assert!(report.to_string().contains("1 shards failed"), "{report}");
    let connections = (report.connections, report.cut, report.flushed);
    assert_eq!(connections, (4, 2, 2), "{report}");
    for id in ids {
        let reasons: &[&str] = match id.shard() {
            1 => &["broken"],
            _ => &["shutdown", "peer_closed"],
        };
        assert!(reasons.contains(&log.until_closed(id).0));
        assert_eq!(log.disconnects(id), 1);
        assert_eq!(handle.send(id, &b"late"[..]), Err(SendError::Gone));
    }
}
