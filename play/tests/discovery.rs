//! Play servers that find each other in a directory, and leave it.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proscenium_nodelink::directory::{Directory, ServerInfo, StaticDirectory, Watch};
use proscenium_nodelink::{Node, RequestOptions, RouteHeader};
use proscenium_play::PlayServer;
use support::PATIENCE;
use support::mesh::{any, create, node_of, options, server_at};

const TTL: Duration = Duration::from_secs(15);

fn start(nid: &str, list: &StaticDirectory) -> PlayServer {
    let list = list.clone();
    let (server, _) = server_at(nid, &[], move |builder| {
        builder.directory(list, TTL).service(7).weight(30)
    });
    server
}

/// What stands in a directory, as a node that only follows it sees it.
struct Follower {
    servers: Arc<Mutex<Vec<ServerInfo>>>,
    _watch: Box<dyn Watch>,
}

impl Follower {
    fn new(list: &StaticDirectory) -> Self {
        let servers = Arc::<Mutex<Vec<ServerInfo>>>::default();
        let seen = Arc::clone(&servers);
        let watch = list.watch(Arc::new(move |servers| {
            *seen.lock().unwrap() = servers.to_vec();
        }));
        Self {
            servers,
            _watch: watch.unwrap(),
        }
    }

    fn names(&self) -> Vec<String> {
        let servers = self.servers.lock().unwrap();
        servers.iter().map(|one| one.nid.to_string()).collect()
    }
}

#[test]
fn play_servers_join_a_directory_and_leave_it_in_good_order() {
    let list = StaticDirectory::default();
    let (one, two) = (start("play-1", &list), start("play-2", &list));
    create(&two, [1]);
    let node = node_of(&one);
    assert!(node.wait_candidates(7, 1, PATIENCE));
    assert_eq!(node.candidates(7)[0].weight, 30);
    let header = RouteHeader {
        msg_id: "Echo",
        stage_id: 1,
        ..RouteHeader::default()
    };
    let asked = node.request("play-2", &header, "hi", RequestOptions::within(PATIENCE));
    assert_eq!(&asked.wait().unwrap().payload[..], b"hi");

    let follower = Follower::new(&list);
    assert_eq!(follower.names(), ["play-1", "play-2"]);
    let report = two.shutdown(Duration::MAX);
    assert_eq!((report.bytes_lost, report.work_lost), (0, 0), "{report}");
    assert_eq!(follower.names(), ["play-1"]);
    // By a handle, as a signal does it.
    let handle = one.handle();
    handle.shutdown(Duration::MAX);
    let report = one.join();
    assert_eq!((report.bytes_lost, report.work_lost), (0, 0), "{report}");
    assert!(follower.names().is_empty());
}

#[test]
fn a_server_that_is_dropped_is_not_announced_any_more_whoever_has_a_handle() {
    let list = StaticDirectory::default();
    let server = start("play-1", &list);
    let handle = server.handle();
    let follower = Follower::new(&list);
    assert_eq!(follower.names(), ["play-1"]);
    drop(server);
    assert!(follower.names().is_empty());
    drop(handle);
}

#[test]
fn a_server_that_listens_nowhere_follows_the_directory_without_joining() {
    let list = StaticDirectory::default();
    let one = start("play-1", &list);
    let two = PlayServer::builder().node(Node::builder(options("play-2")));
    let two = two.directory(list.clone(), TTL).start().unwrap();
    assert!(node_of(&two).wait_candidates(7, 1, PATIENCE));
    assert_eq!(Follower::new(&list).names(), ["play-1"]);
    drop((one, two));
}

#[test]
fn another_address_can_be_announced() {
    let list = StaticDirectory::default();
    let follower = Follower::new(&list);
    let elsewhere = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let (server, _) = server_at("play-1", &[], |builder| {
        builder.directory(list.clone(), TTL).advertise(elsewhere)
    });
    let seen = follower.servers.lock().unwrap()[0].clone();
    let announced = (seen.address.to_string(), seen.service_id, seen.weight);
    assert_eq!(announced, ("127.0.0.1:9".to_owned(), 1, 100));
    drop(server);
}

#[test]
fn a_directory_needs_a_node_a_ttl_and_a_server_that_is_started() {
    let list = StaticDirectory::default;
    let no_node = PlayServer::builder().directory(list(), TTL).start();
    assert!(no_node.unwrap_err().to_string().contains("node"));
    let node = || Node::builder(options("play-1")).bind(any());
    let builder = PlayServer::builder().node(node());
    let no_ttl = builder.directory(list(), Duration::ZERO).start();
    assert!(no_ttl.unwrap_err().to_string().contains("TTL"));
    let builder = PlayServer::builder().node(node());
    let parts = builder.directory(list(), TTL).into_parts();
    assert!(parts.unwrap_err().to_string().contains("directory"));
}
