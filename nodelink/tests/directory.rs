//! Directories: lists and files, and nodes that follow them.

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use proscenium_nodelink::directory::{
    Directory, FileDirectory, ServerInfo, ServerState, ServerType, StaticDirectory,
};
use proscenium_nodelink::routing::RoundRobin;
use proscenium_nodelink::{Nid, Node};
use support::{Echo, PATIENCE, any, echo, options, wait_until};

fn info(nid: &str, port: u16) -> ServerInfo {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    ServerInfo::new(Nid::new(nid).unwrap(), address, ServerType::Play, 1)
}

fn info_of(node: &Node) -> ServerInfo {
    let address = node.local_addrs()[0].clone();
    ServerInfo::new(node.nid().clone(), address, ServerType::Play, 1)
}

/// A file that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("proscenium-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn write(&self, text: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &self.0).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn told(directory: &dyn Directory) -> (Box<dyn std::any::Any>, Receiver<Vec<ServerInfo>>) {
    let (sender, lists) = channel();
    let watch = directory.watch(Arc::new(move |servers| {
        let _ = sender.send(servers.to_vec());
    }));
    (Box::new(watch.unwrap()), lists)
}

#[test]
fn servers_are_written_and_read() {
    let line = "play-1 127.0.0.1:7000 play 1 disabled 200";
    let server: ServerInfo = line.parse().unwrap();
    assert_eq!(server.to_string(), line);
    assert_eq!((server.state, server.weight), (ServerState::Disabled, 200));
    let short: ServerInfo = "x unix:/run/x.sock 7 65535".parse().unwrap();
    assert_eq!(short.server_type, ServerType::Other(7));
    assert_eq!(
        (short.state, short.weight, short.service_id),
        (ServerState::Running, 100, 65_535)
    );
    for (wrong, expected) in [
        ("", "a NID"),
        ("x", "an address"),
        ("x y play 1", "HOST:PORT"),
        ("x 127.0.0.1:1 chess 1", "play, api or a number"),
        ("x 127.0.0.1:1 play 65536", "a service"),
        ("x 127.0.0.1:1 play 1 asleep", "running or disabled"),
        ("x 127.0.0.1:1 play 1 running x", "a weight"),
        ("x 127.0.0.1:1 play 1 running 1 x", "nothing behind"),
    ] {
        let error = wrong.parse::<ServerInfo>().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_list_tells_its_watchers_what_has_changed() {
    let list = StaticDirectory::new([info("a", 1)]);
    let (watch, lists) = told(&list);
    assert_eq!(lists.recv_timeout(PATIENCE).unwrap(), [info("a", 1)]);
    list.announce(&info("b", 2), Duration::from_secs(1))
        .unwrap();
    assert_eq!(
        lists.recv_timeout(PATIENCE).unwrap(),
        [info("a", 1), info("b", 2)]
    );
    list.announce(&info("b", 2), Duration::from_secs(1))
        .unwrap();
    list.withdraw(&Nid::new("a").unwrap()).unwrap();
    assert_eq!(
        lists.recv_timeout(PATIENCE).unwrap(),
        [info("b", 2)],
        "the same is not told twice"
    );
    drop(watch);
    list.set([]);
    let after = lists.recv_timeout(PATIENCE);
    assert_eq!(after, Err(RecvTimeoutError::Disconnected), "it has ended");
}

#[test]
fn a_file_is_followed_and_a_broken_one_changes_nothing() {
    let file = Scratch::new("directory");
    let directory = FileDirectory::new(&file.0).every(Duration::from_millis(5));
    assert!(directory.read().is_err(), "there is none yet");
    let (watch, lists) = told(&directory);
    file.write("# the mesh\n\nplay-1 127.0.0.1:1 play 1\n");
    assert_eq!(lists.recv_timeout(PATIENCE).unwrap(), [info("play-1", 1)]);
    file.write("play-1 127.0.0.1:1 play 1\nplay-2 127.0.0.1:2 pl");
    let error = directory.read().unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
    file.write("a 127.0.0.1:1 play 1\na 127.0.0.1:2 play 1\n");
    let error = directory.read().unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
    file.write("play-2 127.0.0.1:2 play 1\nplay-1 127.0.0.1:1 play 1\n");
    // Whatever was read in between, the next list is this one.
    let next = lists.recv_timeout(PATIENCE).unwrap();
    assert_eq!(next, [info("play-1", 1), info("play-2", 2)]);
    drop(watch);
}

#[test]
fn a_node_is_linked_to_the_servers_of_its_directory() {
    let list = StaticDirectory::default();
    let api = Node::builder(options("api-1")).bind(any());
    let api = api.start(Echo::default()).unwrap();
    let handle = api.handle();
    let watch = handle.follow(&list).unwrap();
    let (one, two) = (echo("play-1"), echo("play-2"));
    list.set([info_of(&one), info_of(&two), info_of(&api)]);
    let names = || {
        let candidates = handle.candidates(1);
        let names: Vec<_> = candidates.iter().map(|one| one.nid.to_string()).collect();
        names.join(" ")
    };
    wait_until("both can be reached", || names() == "play-1 play-2");
    let mut turns = RoundRobin::default();
    let candidates = handle.candidates(1);
    let first = turns.pick(&candidates).unwrap();
    assert_eq!(first.nid.as_str(), "play-1");
    assert!(handle.candidates(2).is_empty());
    // Disabled: it is not chosen, but it can be reached.
    list.set([info_of(&one).state(ServerState::Disabled), info_of(&two)]);
    wait_until("one is disabled", || names() == "play-2");
    assert!(handle.is_routable("play-1"));
    // It has left.
    list.withdraw(one.nid()).unwrap();
    wait_until("the link is gone", || !handle.is_routable("play-1"));
    // Another one of that name, elsewhere.
    let moved = echo("play-1");
    list.announce(&info_of(&moved), Duration::from_secs(1))
        .unwrap();
    wait_until("it is found", || names() == "play-1 play-2");
    // Without the directory the links stay.
    drop(watch);
    list.set([]);
    assert_eq!(names(), "play-1 play-2");
    drop(one);
}

/// Whoever writes the list decides whom a node dials, and not how many.
#[test]
fn a_list_that_is_too_long_is_followed_to_its_bound() {
    let node = Node::builder(options("api-1").peers_max(2))
        .start(Echo::default())
        .unwrap();
    let servers: Vec<Node> = ["a", "b", "c"].map(echo).into();
    let list = StaticDirectory::new(servers.iter().map(info_of));
    let handle = node.handle();
    let _watch = handle.follow(&list).unwrap();
    wait_until("the first two are linked", || {
        handle.is_routable("a") && handle.is_routable("b")
    });
    // Had the third been dialled with them, it would have seen that by now.
    let third = servers[2].handle().stats(PATIENCE).unwrap();
    assert_eq!((third.links, third.ended.iter().sum()), (0, 0), "{third:?}");
    list.withdraw(&Nid::new("a").unwrap()).unwrap();
    wait_until("there is room for the third", || handle.is_routable("c"));
}

#[test]
fn waiting_for_a_server_ends_when_it_is_there_or_the_node_is_not() {
    let (one, two) = (echo("one"), echo("two"));
    let (handle, other) = (one.handle(), two.handle());
    assert!(!handle.wait_routable("two", Duration::from_millis(1)));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| handle.wait_routable("two", PATIENCE));
        other.connect(support::at(&one)).unwrap();
        assert!(waiting.join().unwrap());
    });
    // Linked, but nothing is known of its service.
    assert!(!handle.wait_candidates(1, 1, Duration::from_millis(1)));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| handle.wait_candidates(1, 1, PATIENCE));
        handle.set_servers(&[info_of(&two)]);
        assert!(waiting.join().unwrap());
    });
    std::thread::scope(|scope| {
        // Longer than the test may take: what ends it is the end of the node.
        let waiting = scope.spawn(|| handle.wait_candidates(1, 2, Duration::MAX));
        one.shutdown(Duration::MAX);
        assert!(!waiting.join().unwrap());
    });
    assert!(!handle.wait_routable("two", Duration::MAX));
}
