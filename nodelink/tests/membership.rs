//! Nodes that join a directory and leave it.

mod support;

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proscenium_nodelink::directory::{
    Directory, OnServers, ServerInfo, ServerState, ServerType, StaticDirectory, Watch,
};
use proscenium_nodelink::{
    Nid, Node, NodeContext, NodeHandle, NodeHandler, NodeMessage, ReplyTo, RequestError,
    RequestOptions,
};
use support::{Echo, PATIENCE, any, echo, header, options, wait_routable, wait_until};

const TTL: Duration = Duration::from_secs(15);

fn info_of(node: &Node) -> ServerInfo {
    let address = node.local_addrs()[0].clone();
    ServerInfo::new(node.nid().clone(), address, ServerType::Play, 1)
}

/// Passes requests on to the test, which answers them.
struct Keep(Sender<(ReplyTo, Vec<u8>)>);

impl NodeHandler<()> for Keep {
    fn on_message(&mut self, _: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        let reply_to = message.reply_to.unwrap();
        self.0.send((reply_to, message.payload.to_vec())).unwrap();
    }
}

fn candidates(node: &NodeHandle) -> String {
    let candidates = node.candidates(1);
    let names: Vec<_> = candidates.iter().map(|one| one.nid.to_string()).collect();
    names.join(" ")
}

fn ask(node: &NodeHandle, to: &str) -> proscenium_nodelink::Request {
    node.request(to, &header("Ask"), "x", RequestOptions::within(PATIENCE))
}

/// A directory that takes no changes: it tells everybody for ever what it was told in the
/// beginning.
#[derive(Clone, Default)]
struct Frozen(StaticDirectory);

impl Directory for Frozen {
    fn announce(&self, server: &ServerInfo, ttl: Duration) -> io::Result<()> {
        if self.0.servers().iter().any(|known| known.nid == server.nid) {
            return Err(io::Error::other("out of reach"));
        }
        self.0.announce(server, ttl)
    }

    fn withdraw(&self, _: &Nid) -> io::Result<()> {
        Err(io::Error::other("out of reach, too"))
    }

    fn watch(&self, changed: OnServers) -> io::Result<Box<dyn Watch>> {
        self.0.watch(changed)
    }
}

#[test]
fn a_node_that_has_joined_is_found_and_changes_its_state() {
    let list = StaticDirectory::default();
    let mut play = echo("play-1");
    let api = Node::builder(options("api-1"))
        .start(Echo::default())
        .unwrap();
    let (watch, handle) = (api.handle().follow(&list).unwrap(), api.handle());
    let server = info_of(&play);
    play.join(list.clone(), server.clone(), TTL).unwrap();
    let again = play.join(list.clone(), server, TTL).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    wait_until("it is found", || candidates(&handle) == "play-1");
    let membership = play.membership().unwrap();
    membership.set_weight(250).unwrap();
    wait_until("its weight is seen", || {
        handle.candidates(1)[0].weight == 250
    });
    membership.set_state(ServerState::Disabled).unwrap();
    wait_until("it is not chosen", || candidates(&handle).is_empty());
    assert!(handle.is_routable("play-1"));
    membership.set_state(ServerState::Running).unwrap();
    wait_until("it is chosen again", || candidates(&handle) == "play-1");
    assert_eq!(membership.server().weight, 250);
    // Without a word of goodbye.
    drop(play);
    assert_eq!(list.servers(), []);
    drop(watch);
}

#[test]
fn what_nobody_could_connect_to_is_not_announced() {
    let list = StaticDirectory::default();
    let node = echo("play-1");
    for address in ["127.0.0.1:0", "0.0.0.0:7000", "[::]:7000"] {
        let address: SocketAddr = address.parse().unwrap();
        let server = ServerInfo::new(node.nid().clone(), address, ServerType::Play, 1);
        let error = node.handle().join(list.clone(), server, TTL).unwrap_err();
        assert!(error.to_string().contains("nobody can connect"), "{error}");
    }
    let other = info_of(&echo("play-2"));
    let error = node.handle().join(list.clone(), other, TTL).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(list.servers(), []);
}

/// Also without a directory that would tell it.
#[test]
fn a_node_that_leaves_gets_no_new_work_and_finishes_what_it_has() {
    let list = Frozen::default();
    let (kept, requests) = channel();
    let mut play = Node::builder(options("play-1"))
        .bind(any())
        .start(Keep(kept))
        .unwrap();
    let server = info_of(&play);
    play.join(list.clone(), server, TTL).unwrap();
    let api = Node::builder(options("api-1"))
        .start(Echo::default())
        .unwrap();
    let (_watch, handle) = (api.handle().follow(&list).unwrap(), api.handle());
    wait_until("it is found", || candidates(&handle) == "play-1");
    let first = ask(&handle, "play-1");
    let (reply_to, payload) = requests.recv_timeout(PATIENCE).unwrap();
    let node = play.handle();
    let leaving = std::thread::spawn(move || play.shutdown(PATIENCE));
    wait_until("nobody chooses it", || candidates(&handle).is_empty());
    let stats = handle.stats(PATIENCE).unwrap();
    assert!(stats.peer("play-1").unwrap().leaving, "{stats:?}");
    // By its name it is still reached.
    let second = ask(&handle, "play-1");
    let (reply_to_2, _) = requests.recv_timeout(PATIENCE).unwrap();
    let unanswered = || {
        let stats = node.stats(PATIENCE).unwrap();
        stats.peer("api-1").unwrap().unanswered
    };
    assert_eq!(unanswered(), 2);
    assert!(!leaving.is_finished());
    node.reply(reply_to, &header("Ask"), payload).unwrap();
    assert_eq!(&first.wait().unwrap().payload[..], b"x");
    assert_eq!(unanswered(), 1);
    assert!(!leaving.is_finished(), "a request is under way");
    node.reply(reply_to_2, &header("Ask"), "y").unwrap();
    assert_eq!(&second.wait().unwrap().payload[..], b"y");
    let report = leaving.join().unwrap();
    assert!(report.is_clean(), "{report}");
    // The next one of that name is chosen again.
    let next = echo("play-1");
    list.0.set([info_of(&next)]);
    wait_until("it is found", || candidates(&handle) == "play-1");
}

#[test]
fn leaving_ends_at_its_deadline_and_says_what_was_left() {
    let list = Frozen::default();
    let (kept, requests) = channel();
    let play = Node::builder(options("play-1"))
        .bind(any())
        .start(Keep(kept))
        .unwrap();
    let membership = play
        .handle()
        .join(list.clone(), info_of(&play), TTL)
        .unwrap();
    let api = Node::builder(options("api-1"))
        .start(Echo::default())
        .unwrap();
    let _watch = api.handle().follow(&list).unwrap();
    wait_routable(&api.handle(), "play-1");
    let request = ask(&api.handle(), "play-1");
    let kept = requests.recv_timeout(PATIENCE).unwrap();
    let departure = membership.leave(Duration::from_millis(50));
    assert!(!departure.is_clean());
    assert_eq!(
        (departure.unanswered, departure.pending),
        (1, 0),
        "{departure}"
    );
    let text = departure.to_string();
    assert!(text.contains("1 requests unanswered"), "{text}");
    assert!(text.contains("the directory: out of reach"), "{text}");
    // Who asked is told.
    drop(kept);
    let _ = play.shutdown(Duration::ZERO);
    assert_eq!(request.wait().unwrap_err(), RequestError::LinkLost);
}

/// What it had still answered is read.
#[test]
fn a_server_that_has_left_the_directory_keeps_its_link_until_that_is_quiet() {
    let list = StaticDirectory::default();
    let (kept, requests) = channel();
    let play = Node::builder(options("play-1"))
        .bind(any())
        .start(Keep(kept))
        .unwrap();
    let api = Node::builder(options("api-1"))
        .start(Echo::default())
        .unwrap();
    let (_watch, handle) = (api.handle().follow(&list).unwrap(), api.handle());
    list.set([info_of(&play)]);
    wait_routable(&handle, "play-1");
    let request = ask(&handle, "play-1");
    let (reply_to, payload) = requests.recv_timeout(PATIENCE).unwrap();
    list.set([]);
    wait_until("it is not chosen", || candidates(&handle).is_empty());
    // It comes back in time: the same link.
    list.set([info_of(&play)]);
    wait_until("it is chosen", || candidates(&handle) == "play-1");
    list.set([]);
    wait_until("it is not chosen", || candidates(&handle).is_empty());
    let stats = handle.stats(PATIENCE).unwrap();
    let of = stats.peer("play-1").unwrap();
    assert_eq!((of.counters.links_up, of.pending), (1, 1), "{stats:?}");
    play.handle()
        .reply(reply_to, &header("Ask"), payload)
        .unwrap();
    assert_eq!(&request.wait().unwrap().payload[..], b"x");
    wait_until("the link is closed", || !handle.is_routable("play-1"));
    // Elsewhere, under the same name: that is dialled at once.
    list.set([info_of(&play)]);
    wait_routable(&handle, "play-1");
    let request = ask(&handle, "play-1");
    let _kept = requests.recv_timeout(PATIENCE).unwrap();
    list.set([]);
    let moved = echo("play-1");
    list.set([info_of(&moved)]);
    assert_eq!(request.wait().unwrap_err(), RequestError::LinkLost);
    wait_until("the new one answers", || {
        ask(&handle, "play-1").wait().is_ok()
    });
}

#[test]
fn a_rolling_restart_loses_no_request() {
    support::rolling::rolling_restart(&StaticDirectory::default());
}

#[test]
fn a_shared_directory_is_a_directory() {
    let list: Arc<dyn Directory> = Arc::new(StaticDirectory::default());
    let node = echo("play-1");
    let membership = node
        .handle()
        .join(Arc::clone(&list), info_of(&node), TTL)
        .unwrap();
    let told = Arc::new(Mutex::new(0));
    let telling = Arc::clone(&told);
    let watch = list.watch(Arc::new(move |servers| {
        *telling.lock().unwrap() = servers.len()
    }));
    assert_eq!(*told.lock().unwrap(), 1);
    assert!(membership.leave(PATIENCE).is_clean());
    assert_eq!(*told.lock().unwrap(), 0);
    drop(watch);
}
