//! The directory in Redis, with the real one: see `tests/support/foreign.rs` of the workspace.

#[path = "../../tests/support/foreign.rs"]
mod foreign;
mod support;
#[path = "support/redis.rs"]
mod support_redis;

use std::io;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proscenium_engine::Backoff;
use proscenium_nodelink::directory::{
    Directory, RedisDirectory, ServerInfo, ServerState, ServerType, Watch,
};
use proscenium_nodelink::{Nid, Node, RequestOptions};
use support::{PATIENCE, echo, header, wait_until};
use support_redis::Redis;

/// Long enough to see nothing of it.
const LONG: Duration = Duration::from_secs(600);

fn directory(redis: &Redis) -> RedisDirectory {
    let most = Duration::from_millis(200);
    RedisDirectory::new(&redis.url())
        .unwrap()
        .timeout(PATIENCE)
        .every(Duration::from_millis(50))
        .grace(LONG)
        .backoff(Backoff {
            first: Duration::from_millis(10),
            max: most,
        })
}

fn nid(name: &str) -> Nid {
    Nid::new(name).unwrap()
}

fn info(name: &str, port: u16) -> ServerInfo {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    ServerInfo::new(nid(name), address, ServerType::Play, 1)
}

fn info_of(node: &Node) -> ServerInfo {
    let address = node.local_addrs()[0].clone();
    ServerInfo::new(node.nid().clone(), address, ServerType::Play, 1)
}

/// A watch, and the lists that it tells, as names.
struct Lists {
    _watch: Box<dyn Watch>,
    lists: Receiver<Vec<ServerInfo>>,
}

impl Lists {
    fn of(directory: &dyn Directory) -> Self {
        Self::try_of(directory).unwrap()
    }

    fn try_of(directory: &dyn Directory) -> io::Result<Self> {
        let (sender, lists) = channel();
        let sender = Mutex::new(sender);
        let watch = directory.watch(Arc::new(move |servers| {
            let _ = sender.lock().unwrap().send(servers.to_vec());
        }));
        Ok(Self {
            _watch: watch?,
            lists,
        })
    }

    fn next(&self) -> String {
        let servers = self.lists.recv_timeout(PATIENCE).unwrap();
        let names: Vec<_> = servers.iter().map(|one| one.nid.to_string()).collect();
        names.join(" ")
    }

    /// Waits for a list of these names; answers those before it.
    fn until(&self, names: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let next = self.next();
            if next == names {
                return before;
            }
            before.push(next);
        }
    }
}

fn keys(connection: &mut redis::Connection, pattern: &str) -> Vec<String> {
    let mut keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query(connection).unwrap();
    keys.sort();
    keys
}

#[test]
fn nodes_find_each_other_and_follow_what_changes() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let (one, two) = (echo("play-1"), echo("play-2"));
    let directories = [directory(&redis), directory(&redis)];
    let mut watches = Vec::new();
    for (node, directory) in [&one, &two].into_iter().zip(&directories) {
        watches.push(node.handle().follow(directory).unwrap());
        directory.announce(&info_of(node), LONG).unwrap();
    }
    let handle = one.handle();
    let candidates = || {
        let candidates = handle.candidates(1).into_iter();
        let named = candidates.map(|one| format!("{} {}", one.nid, one.weight));
        named.collect::<Vec<_>>().join(", ")
    };
    wait_until("they are linked", || candidates() == "play-2 100");
    let request = handle.request("play-2", &header("Ask"), "x", RequestOptions::default());
    assert_eq!(&request.wait().unwrap().payload[..], b"x");
    // More work, then no new work.
    let server = info_of(&two).weight(300);
    directories[1].announce(&server, LONG).unwrap();
    wait_until("the weight is seen", || candidates() == "play-2 300");
    let disabled = server.state(ServerState::Disabled);
    directories[1].announce(&disabled, LONG).unwrap();
    wait_until("it is not chosen", || candidates().is_empty());
    assert!(
        handle.is_routable("play-2"),
        "a message by name still reaches it"
    );
    directories[1].withdraw(two.nid()).unwrap();
    wait_until("it is not dialled any more", || {
        let stats = handle.stats(PATIENCE).unwrap();
        stats.peer("play-2").is_none_or(|peer| !peer.dialled)
    });
    let stats = directories[1].stats();
    assert_eq!(
        (stats.writes, stats.failures, stats.broken),
        (4, 0, 0),
        "{stats:?}"
    );
}

/// Nothing is read again by itself here.
#[test]
fn changes_are_told_at_once() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let (reader, writer) = (directory(&redis).every(LONG), directory(&redis));
    let lists = Lists::of(&reader);
    assert_eq!(lists.next(), "");
    let next = || lists.lists.recv_timeout(PATIENCE).unwrap();
    let server = info("play-1", 1);
    writer.announce(&server, LONG).unwrap();
    assert_eq!(next(), std::slice::from_ref(&server));
    let disabled = server.state(ServerState::Disabled);
    writer.announce(&disabled, LONG).unwrap();
    assert_eq!(next(), [disabled]);
    writer.withdraw(&nid("play-1")).unwrap();
    assert_eq!(next(), []);
    // Many changes are one reading, or some, and the last of them is seen.
    for number in 0..500 {
        writer.announce(&info("play-2", 1 + number), LONG).unwrap();
    }
    while next() != [info("play-2", 500)] {}
}

#[test]
fn a_process_that_is_killed_is_forgotten_when_its_ttl_is_over() {
    const URL: &str = "PROSCENIUM_TEST_ANNOUNCE";
    if let Ok(url) = std::env::var(URL) {
        // This is the process.
        let directory = RedisDirectory::new(&url).unwrap().timeout(PATIENCE);
        let ttl = Duration::from_secs(2);
        directory.announce(&info("killed", 1), ttl).unwrap();
        loop {
            std::thread::park();
        }
    }
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let directory = directory(&redis).grace(Duration::ZERO);
    directory.announce(&info("stays", 2), LONG).unwrap();
    let lists = Lists::of(&directory);
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_process_that_is_killed_is_forgotten_when_its_ttl_is_over",
        ])
        .env(URL, redis.url())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    lists.until("killed stays");
    process.kill().unwrap();
    process.wait().unwrap();
    lists.until("stays");
    // Nothing of it is left in Redis, either.
    let mut client = redis.client();
    wait_until("its name is removed", || {
        let names: Vec<String> = redis::cmd("ZRANGE")
            .arg(&["proscenium:{default}:servers", "0", "-1"])
            .query(&mut client)
            .unwrap();
        names == ["stays"]
    });
}

/// Established links go on, the servers known stay, and what changes is seen afterwards.
#[test]
fn a_redis_that_is_killed_and_comes_back_empty_costs_nobody_anything() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    let (one, two) = (echo("play-1"), echo("play-2"));
    // Read when they have connected and when they are told, not otherwise.
    let directory = || directory(&redis).every(LONG);
    let directories = [directory(), directory()];
    let ttl = Duration::from_secs(3); // refreshed every second
    let mut watches = Vec::new();
    for (node, directory) in [&one, &two].into_iter().zip(&directories) {
        watches.push(node.handle().follow(directory).unwrap());
        directory.announce(&info_of(node), ttl).unwrap();
    }
    let handle = one.handle();
    wait_until("they are linked", || handle.candidates(1).len() == 1);
    let lists = Lists::of(&directories[0]);
    assert_eq!(lists.next(), "play-1 play-2");
    let ask = || {
        let request = handle.request("play-2", &header("Ask"), "x", RequestOptions::default());
        assert_eq!(&request.wait().unwrap().payload[..], b"x");
    };
    redis.kill();
    wait_until("the loss is noticed", || {
        directories
            .iter()
            .all(|directory| directory.stats().failures > 2)
    });
    ask();
    // What changes meanwhile is told now, and made later; withdrawing ends the refreshing.
    let disabled = info_of(&two).state(ServerState::Disabled);
    assert!(directories[1].announce(&disabled, ttl).is_err());
    let error = directories[1].announce(&info("late", 9), ttl).unwrap_err();
    assert!(error.to_string().contains("is it running"), "{error}");
    redis.run();
    let mut client = redis.client();
    let server = |name: &str| format!("proscenium:{{default}}:server:{name}");
    wait_until("they announce themselves again", || {
        keys(&mut client, &server("*")) == [server("play-1"), server("play-2")]
    });
    wait_until("the change is seen", || handle.candidates(1).is_empty());
    directories[1].announce(&info("play-3", 7), ttl).unwrap();
    let before = lists.until("play-1 play-2 play-3");
    let whole = |list: &String| list == "play-1 play-2";
    assert!(before.iter().all(whole), "somebody was lost: {before:?}");
    ask();
    let stats = two.handle().stats(PATIENCE).unwrap();
    assert_eq!(
        stats.peer("play-1").unwrap().counters.links_up,
        2,
        "the links stayed"
    );
}

#[test]
fn a_rolling_restart_loses_no_request() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    support::rolling::rolling_restart(&directory(&redis));
}

#[test]
fn broken_entries_are_skipped_and_counted() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let directory = directory(&redis);
    directory.announce(&info("well", 1), LONG).unwrap();
    let mut client = redis.client();
    let long = "x".repeat(100_000);
    let name = "n".repeat(300);
    let entries: [(&[u8], &[u8]); 7] = [
        (b"text", b"nonsense"),
        (b"bytes", &[0xFF, 0xFE]),
        (b"long", long.as_bytes()),
        (b"other", b"well 127.0.0.1:9 play 1"),
        (b"host", b"host example.invalid:7000 play 1"),
        (&[0xC0, 0x00], b"x 127.0.0.1:9 play 1"),
        (name.as_bytes(), b"x 127.0.0.1:9 play 1"),
    ];
    for (name, entry) in entries {
        let key = [b"proscenium:{default}:server:", name].concat();
        redis::cmd("SET")
            .arg(key)
            .arg(entry)
            .exec(&mut client)
            .unwrap();
        let names = "proscenium:{default}:servers";
        redis::cmd("ZADD")
            .arg(names)
            .arg(0)
            .arg(name)
            .exec(&mut client)
            .unwrap();
    }
    let key = "proscenium:{default}:server:list";
    redis::cmd("RPUSH")
        .arg(key)
        .arg("x")
        .exec(&mut client)
        .unwrap();
    let names = "proscenium:{default}:servers";
    redis::cmd("ZADD")
        .arg(names)
        .arg(0)
        .arg("list")
        .exec(&mut client)
        .unwrap();
    let lists = Lists::of(&directory);
    assert_eq!(lists.next(), "well");
    let stats = directory.stats();
    assert_eq!((stats.broken, stats.servers), (8, 1), "{stats:?}");
    // A server whose name holds something broken announces itself all the same.
    for name in ["list", "text"] {
        directory.announce(&info(name, 2), LONG).unwrap();
    }
    lists.until("list text well");
    // Where the names should be is something else: the watch goes on when that has gone.
    redis::cmd("SET")
        .arg(names)
        .arg("x")
        .exec(&mut client)
        .unwrap();
    let before = directory.stats().failures;
    wait_until("reading fails", || directory.stats().failures > before);
    redis::cmd("DEL").arg(names).exec(&mut client).unwrap();
    directory.announce(&info("zoe", 3), LONG).unwrap();
    lists.until("list text well zoe");
}

#[test]
fn errors_say_what_to_do() {
    let text = |result: io::Result<()>| result.unwrap_err().to_string();
    let watch = |directory: &RedisDirectory| directory.watch(Arc::new(|_| ())).map(drop);
    for wrong in ["", "http://x", "redis://", "10.0.0.1:6379"] {
        let error = RedisDirectory::new(wrong).unwrap_err();
        assert!(error.to_string().contains("expected redis://"), "{error}");
    }
    let none = RedisDirectory::new("redis+unix:///no/such/socket").unwrap();
    let error = text(watch(&none));
    assert!(
        error.contains("/no/such/socket") && error.contains("is it running"),
        "{error}"
    );
    assert!(none.clone().mesh("a b").is_err() && none.clone().mesh("").is_err());
    let Some(redis) = Redis::start(&["--requirepass", "secret"]) else {
        return;
    };
    let open = |query: &str| {
        let directory = RedisDirectory::new(&redis.url_with(query)).unwrap();
        directory.timeout(PATIENCE)
    };
    let server = info("play-1", 1);
    let missing = open("");
    assert!(text(missing.announce(&server, LONG)).contains("it wants a password"));
    assert!(text(watch(&missing)).contains("it wants a password"));
    let wrong = open("pass=guess");
    for error in [
        watch(&wrong).unwrap_err(),
        wrong.announce(&server, LONG).unwrap_err(),
    ] {
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let error = error.to_string();
        assert!(error.contains("check user and password"), "{error}");
        assert!(!error.contains("guess"), "{error}");
    }
    assert!(!format!("{wrong:?}").contains("guess"));
    let right = open("pass=secret&db=3");
    right.announce(&server, LONG).unwrap();
    assert_eq!(Lists::of(&right).next(), "play-1");
    assert_eq!(
        Lists::of(&open("pass=secret")).next(),
        "",
        "another database"
    );
    // What cannot be read back is not written.
    let blank = info("play 1", 1);
    assert!(text(right.announce(&blank, LONG)).contains("blanks"));
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 7000));
    let server = ServerInfo::new(nid("x"), everywhere, ServerType::Play, 1);
    assert!(text(right.announce(&server, LONG)).contains("can be connected to"));
    assert!(text(right.announce(&info("x", 1), Duration::ZERO)).contains("TTL"));
}

/// What the guide says that a user needs is what it needs.
#[test]
fn a_user_with_the_rights_of_the_guide_can_do_everything() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let guide = include_str!("../../docs/guide/discovery.md");
    let line = guide
        .lines()
        .find(|line| line.starts_with("ACL SETUSER mesh"));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    let mut client = redis.client();
    let set = |words: &[&str], client: &mut redis::Connection| {
        redis::cmd(words[0]).arg(&words[1..]).exec(client).unwrap();
    };
    set(&words, &mut client);
    let open = || {
        let url = redis.url_with("user=mesh&pass=secret&db=1");
        RedisDirectory::new(&url).unwrap().timeout(PATIENCE)
    };
    let directory = open();
    directory.announce(&info("play-1", 1), LONG).unwrap();
    let lists = Lists::of(&directory);
    assert_eq!(lists.next(), "play-1");
    directory.withdraw(&nid("play-1")).unwrap();
    assert_eq!(lists.next(), "");
    for missing in ["-eval", "-set", "-publish", "-zadd"] {
        set(&["ACL", "SETUSER", "mesh", missing], &mut client);
        let error = open().announce(&info("play-2", 2), LONG).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("its user needs EVAL"), "{missing}: {text}");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{missing}");
        set(&words, &mut client);
    }
    for missing in ["-zrange", "-subscribe"] {
        set(&["ACL", "SETUSER", "mesh", missing], &mut client);
        let error = open().watch(Arc::new(|_| ())).map(drop).unwrap_err();
        assert!(
            error.to_string().contains("its user needs EVAL"),
            "{missing}: {error}"
        );
        set(&words, &mut client);
    }
}

#[test]
fn a_redis_that_hangs_is_given_up_within_the_timeout() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let directory = directory(&redis);
    directory.announce(&info("play-1", 1), LONG).unwrap();
    let lists = Lists::of(&directory);
    assert_eq!(lists.next(), "play-1");
    drop(lists);
    let hasty = directory.clone().timeout(Duration::from_millis(50));
    // The time is for connecting, too: until it is enough once.
    let mut watched = None;
    wait_until("a watch in time", || {
        watched = Lists::try_of(&hasty).ok();
        watched.is_some()
    });
    let lists = watched.unwrap();
    assert_eq!(lists.next(), "play-1");
    redis.signal("STOP");
    let fresh = RedisDirectory::new(&redis.url()).unwrap();
    let fresh = fresh.timeout(Duration::from_millis(50));
    let error = fresh.announce(&info("play-2", 2), LONG).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("does not answer"), "{error}");
    let before = hasty.stats().failures;
    wait_until("the watch notices", || hasty.stats().failures > before);
    redis.signal("CONT");
    directory.announce(&info("play-3", 3), LONG).unwrap();
    // The first attempt of `play-2` may have got through after all.
    wait_until("the watch has caught up", || {
        lists.next().ends_with("play-3")
    });
}

#[test]
fn meshes_are_apart_and_bounded() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let one = directory(&redis).mesh("one").unwrap().servers_max(3);
    let two = directory(&redis).mesh("two").unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        one.announce(&info(name, 1), LONG).unwrap();
    }
    two.announce(&info("z", 1), LONG).unwrap();
    assert_eq!(Lists::of(&two).next(), "z");
    assert_eq!(Lists::of(&one).next(), "a b c");
    assert_eq!(one.stats().left_out, 2);
}

/// A process that ends late does not take back what its successor has announced.
#[test]
fn only_the_announcement_of_its_own_is_withdrawn() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let (old, new) = (directory(&redis), directory(&redis));
    old.announce(&info("play-1", 1), LONG).unwrap();
    let lists = Lists::of(&new);
    assert_eq!(
        lists.lists.recv_timeout(PATIENCE).unwrap(),
        [info("play-1", 1)]
    );
    new.announce(&info("play-1", 2), LONG).unwrap();
    assert_eq!(
        lists.lists.recv_timeout(PATIENCE).unwrap(),
        [info("play-1", 2)]
    );
    old.withdraw(&nid("play-1")).unwrap();
    assert_eq!(Lists::of(&old).next(), "play-1");
    new.withdraw(&nid("play-1")).unwrap();
    assert_eq!(lists.next(), "");
    new.withdraw(&nid("play-1")).unwrap();
}

#[test]
fn redis_is_reached_over_tcp() {
    let arguments = |port: &str| {
        let arguments = [
            "--port",
            port,
            "--bind",
            "127.0.0.1",
            "--requirepass",
            "secret",
        ];
        arguments.map(str::to_owned).into()
    };
    let Some((_redis, port)) = Redis::on_port(arguments) else {
        return;
    };
    let directory = RedisDirectory::new(&format!("redis://:secret@127.0.0.1:{port}/1"));
    let directory = directory.unwrap().timeout(PATIENCE);
    directory.announce(&info("play-1", 1), LONG).unwrap();
    assert_eq!(Lists::of(&directory).next(), "play-1");
}

/// The authorities of the system are those of this process: so the client is one of its own.
#[cfg(feature = "redis-tls")]
#[test]
fn redis_is_reached_over_tls_by_who_trusts_it() {
    const URL: &str = "PROSCENIUM_TEST_TLS";
    if let Ok(url) = std::env::var(URL) {
        // This is the client. It ends well if it is let in, and says why it is not.
        let directory = RedisDirectory::new(&url).unwrap().timeout(PATIENCE);
        directory.announce(&info("play-1", 1), LONG).unwrap();
        assert_eq!(Lists::of(&directory).next(), "play-1");
        return;
    }
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = std::env::temp_dir().join(format!("proscenium-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let cert = file("cert.pem", made.cert.pem());
    let key = file("key.pem", made.signing_key.serialize_pem());
    let stranger = file("other.pem", other.cert.pem());
    let arguments = |port: &str| {
        let arguments = [
            "--tls-port",
            port,
            "--bind",
            "127.0.0.1",
            "--tls-auth-clients",
            "no",
        ];
        let files = [
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &cert,
        ];
        arguments
            .into_iter()
            .chain(files)
            .map(str::to_owned)
            .collect()
    };
    let redis = Redis::on_port(arguments);
    let port = redis.as_ref().map_or("", |(_, port)| port);
    let client = |trusted: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "redis_is_reached_over_tls_by_who_trusts_it",
                "--nocapture",
            ])
            .env(URL, format!("rediss://localhost:{port}"))
            .env("SSL_CERT_FILE", trusted)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), text)
    };
    if redis.is_some() {
        let (welcome, text) = client(&cert);
        assert!(welcome, "{text}");
        let (welcome, text) = client(&stranger);
        assert!(!welcome && text.contains("certificate"), "{text}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
