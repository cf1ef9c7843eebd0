//! How API servers end: in the directory first, then their handlers, then their links.

#[path = "support/scripted.rs"]
mod scripted;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proscenium_nodelink::directory::{
    Directory, OnServers, ServerInfo, ServerState, StaticDirectory, Watch,
};
use proscenium_nodelink::{Nid, RequestOptions, RouteHeader};
use proscenium_stages::Reply;
use scripted::{PATIENCE, api, asker, wait_until};

/// Tells the test what is asked of it, and may be out of reach.
struct Told {
    list: StaticDirectory,
    told: Mutex<Sender<Option<ServerInfo>>>,
    broken: AtomicBool,
}

impl Directory for Told {
    fn announce(&self, server: &ServerInfo, ttl: Duration) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.list.announce(server, ttl)?;
        let _ = self.told.lock().unwrap().send(Some(server.clone()));
        Ok(())
    }

    fn withdraw(&self, nid: &Nid) -> io::Result<()> {
        let _ = self.told.lock().unwrap().send(None);
        self.list.withdraw(nid)
    }

    fn watch(&self, changed: OnServers) -> io::Result<Box<dyn Watch>> {
        self.list.watch(changed)
    }
}

fn request(msg_id: &str) -> RouteHeader<'_> {
    RouteHeader {
        msg_id,
        ..RouteHeader::default()
    }
}

#[test]
fn what_is_under_way_is_finished_after_the_directory_was_told() {
    let (told, announced) = channel();
    let directory = Arc::new(Told {
        list: StaticDirectory::default(),
        told: Mutex::new(told),
        broken: AtomicBool::new(false),
    });
    let gates = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&gates);
    let server = api("api-1")
        .directory(directory, Duration::from_secs(3600))
        .weight(7)
        .handle("Wait", move |_, _| {
            let (open, gate) = Reply::<()>::pair();
            kept.lock().unwrap().push(open);
            async move { Ok(gate.await?) }
        });
    let server = server.start().unwrap();
    let first = announced.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((first.state, first.weight), (ServerState::Running, 7));
    assert_eq!(&first.address, &server.local_addrs()[0]);
    let node = asker("other", &server);
    let options = RequestOptions::within(PATIENCE);
    let ask = || {
        node.handle()
            .request("api-1", &request("Wait"), "", options)
    };
    let early = ask();
    wait_until("it waits", || gates.lock().unwrap().len() == 1);

    let ends = std::thread::spawn(move || server.shutdown(PATIENCE));
    let second = announced.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(second.state, ServerState::Disabled);
    // Who has not heard of that is served like the first.
    let late = ask();
    wait_until("both wait", || gates.lock().unwrap().len() == 2);
    assert!(!ends.is_finished());
    for open in gates.lock().unwrap().drain(..) {
        open.send(()).unwrap();
    }
    assert_eq!(early.wait().unwrap().error_code, 0);
    assert_eq!(late.wait().unwrap().error_code, 0);
    let report = ends.join().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(announced.recv_timeout(PATIENCE).unwrap(), None);
}

#[test]
fn without_a_directory_new_messages_are_refused_while_handlers_end() {
    let gates = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&gates);
    let server = api("api-1").handle("Wait", move |_, _| {
        let (open, gate) = Reply::<()>::pair();
        kept.lock().unwrap().push(open);
        async move { Ok(gate.await?) }
    });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    let options = RequestOptions::within(PATIENCE);
    let ask = || {
        node.handle()
            .request("api-1", &request("Wait"), "", options)
    };
    let early = ask();
    wait_until("it waits", || gates.lock().unwrap().len() == 1);
    let ends = std::thread::spawn(move || server.shutdown(PATIENCE));
    let mut taken = Vec::new();
    wait_until("new ones are refused", || {
        let (before, another) = (gates.lock().unwrap().len(), ask());
        let (told, answered) = channel();
        std::thread::spawn(move || told.send(another.wait().unwrap().error_code));
        loop {
            if gates.lock().unwrap().len() > before {
                taken.push(answered); // the shutdown has not begun
                return false;
            }
            if let Ok(code) = answered.try_recv() {
                assert_eq!(code, 2);
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert!(!ends.is_finished());
    for open in gates.lock().unwrap().drain(..) {
        open.send(()).unwrap();
    }
    assert_eq!(early.wait().unwrap().error_code, 0);
    for answered in taken {
        assert_eq!(answered.recv_timeout(PATIENCE).unwrap(), 0);
    }
    assert!(ends.join().unwrap().is_clean());
}

#[test]
fn what_does_not_end_is_ended_and_answered() {
    let server = api("api-1").handle("Forever", |_, _| async {
        std::future::pending::<()>().await;
        Ok(())
    });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    let options = RequestOptions::within(PATIENCE);
    let handle = node.handle();
    let requests = [(); 3].map(|()| handle.request("api-1", &request("Forever"), "", options));
    wait_until("all are under way", || server.stats().running == 3);
    let report = server.shutdown(Duration::from_secs(16));
    assert_eq!(report.abandoned, 3, "{report:?}");
    for request in requests {
        assert_eq!(request.wait().unwrap().error_code, 14);
    }
}

#[test]
fn a_server_that_is_dropped_leaves_no_handler() {
    struct Held(#[allow(dead_code, reason = "its drop is what counts")] Sender<()>);
    let (held, dropped) = channel();
    let held = Mutex::new(Some(held));
    let server = api("api-1").handle("Forever", move |_, _| {
        let held = held.lock().unwrap().take().map(Held);
        async move {
            std::future::pending::<()>().await;
            drop(held);
            Ok(())
        }
    });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    let _asked = node
        .handle()
        .request("api-1", &request("Forever"), "", RequestOptions::default());
    wait_until("it is under way", || server.stats().running == 1);
    drop(server);
    let end = dropped.recv_timeout(PATIENCE);
    assert_eq!(end, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn a_directory_that_is_out_of_reach_is_told_at_the_start_and_not_waited_for_at_the_end() {
    let (told, announced) = channel();
    let directory = Arc::new(Told {
        list: StaticDirectory::default(),
        told: Mutex::new(told),
        broken: AtomicBool::new(true),
    });
    let ttl = Duration::from_secs(3600);
    let start = || api("api-1").directory(Arc::clone(&directory), ttl).start();
    assert_eq!(start().unwrap_err().kind(), io::ErrorKind::NotConnected);
    directory.broken.store(false, Ordering::SeqCst);
    let server = start().unwrap();
    assert_eq!(
        announced.recv_timeout(PATIENCE).unwrap().unwrap().state,
        ServerState::Running
    );
    directory.broken.store(true, Ordering::SeqCst);
    assert!(server.shutdown(PATIENCE).is_clean());
}
