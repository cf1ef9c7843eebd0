//! The one background thread. Alone in its process, because it counts threads and descriptors.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Instant;

use support::{PATIENCE, Server, accept, log_in};

/// As the kernel has it: cut after 15 bytes.
const NAME: &str = "proscenium-conn";

fn io_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("the threads of this process");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == NAME).count()
}

/// A thread that was waited for may still be seen for a moment.
fn wait_for_no_io_thread() {
    let begin = Instant::now();
    while io_threads() > 0 {
        assert!(
            begin.elapsed() < PATIENCE,
            "it does not end with the last connector"
        );
        thread::yield_now();
    }
}

fn descriptors() -> usize {
    let folder = fs::read_dir("/proc/self/fd").expect("the descriptors of this process");
    folder.count()
}

#[test]
fn one_thread_for_all_while_there_are_any() {
    const CONNECTORS: usize = 50;
    let all = std::env::var_os("PROSCENIUM_ALL").is_some_and(|value| value == "1");
    let cycles = if all { 5000 } else { 300 };
    assert_eq!(io_threads(), 0);
    let before = descriptors();
    for _ in 0..3 {
        let server = Server::start(|listener: TcpListener| {
            let serve = |_| {
                let mut peer = accept(&listener);
                thread::spawn(move || {
                    peer.accept_credentials();
                    peer.echo().len()
                })
            };
            let threads: Vec<_> = (0..CONNECTORS).map(serve).collect();
            threads
                .into_iter()
                .map(|one| one.join().expect("served"))
                .sum::<usize>()
        });
        let connectors: Vec<_> = (0..CONNECTORS).map(|_| server.client()).collect();
        // One that ends and one that begins never overlap.
        assert_eq!(io_threads(), 1);
        let answers: Vec<_> = connectors
            .iter()
            .map(|one| one.request(1, "R", b""))
            .collect();
        for answer in answers {
            answer.wait().expect("an answer");
        }
        drop(connectors);
        wait_for_no_io_thread();
        assert_eq!(server.join(), CONNECTORS);
    }

    // Connect, authenticate, drop, again and again: nothing is left behind.
    let server = Server::start(move |listener: TcpListener| {
        for _ in 0..cycles {
            let mut peer = accept(&listener);
            peer.accept_credentials();
            peer.echo();
        }
    });
    for _ in 0..cycles {
        let connector = server.builder().build().expect("a connector");
        log_in(&connector);
    }
    server.join();
    wait_for_no_io_thread();
    assert_eq!(descriptors(), before);
}
