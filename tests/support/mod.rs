//! What the behaviour tests over real sockets share: a server whose handler can be told anything,
//! a log of what the handler was told, plain blocking clients, and waiting without sleeping for
//! luck.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

mod clients;
pub use clients::*;

use std::fmt::Debug;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use proscenium::{
    Address, CloseReason, ConnectError, ConnectId, Context, DrainReport, Engine, EngineBuilder,
    Handle, Handler, Limits, Listener, Message, Origin, Peer, RouterId, ShardStats,
};

type Work = dyn FnOnce(&mut Context<'_, Job>) + Send;

/// Something to be done on a shard.
pub struct Job(Box<Work>);

impl Job {
    pub fn new(work: impl FnOnce(&mut Context<'_, Job>) + Send + 'static) -> Self {
        Self(Box::new(work))
    }
}

impl Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

/// What the handler was told.
#[derive(Clone, Debug)]
pub enum Seen {
    Connected {
        shard: usize,
        id: RouterId,
        peer: Peer,
    },
    ReadClosed(RouterId),
    Drained(RouterId),
    Disconnected {
        shard: usize,
        id: RouterId,
        reason: &'static str,
        text: String,
        tag: u64,
    },
    ConnectFailed {
        connect: ConnectId,
        timed_out: bool,
        text: String,
        retry: Option<Duration>,
    },
    Adopted {
        shard: usize,
        id: RouterId,
    },
    Departed {
        shard: usize,
        id: RouterId,
        to: usize,
        tag: u64,
    },
    Timer(u64),
    Woken(u64),
    ShutdownBegan(usize),
}

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Seen>>>);

impl Log {
    fn push(&self, seen: Seen) {
        self.0.lock().unwrap().push(seen);
    }

    pub fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    pub fn find<R>(&self, pick: impl FnMut(&Seen) -> Option<R>) -> Option<R> {
        self.0.lock().unwrap().iter().find_map(pick)
    }

    pub fn count(&self, mut which: impl FnMut(&Seen) -> bool) -> usize {
        let log = self.0.lock().unwrap();
        log.iter().filter(|seen| which(seen)).count()
    }

    /// The connections that were announced, in this order.
    pub fn connected(&self) -> Vec<RouterId> {
        let log = self.0.lock().unwrap();
        let ids = log.iter().filter_map(|seen| match seen {
            Seen::Connected { id, .. } => Some(*id),
            _ => None,
        });
        ids.collect()
    }

    pub fn drained(&self, id: RouterId) -> usize {
        self.count(|seen| matches!(seen, Seen::Drained(drained) if *drained == id))
    }

    pub fn disconnects(&self, id: RouterId) -> usize {
        self.count(|seen| matches!(seen, Seen::Disconnected { id: gone, .. } if *gone == id))
    }

    /// The reason for which a connection ended, by name and as text.
    #[track_caller]
    pub fn until_closed(&self, id: RouterId) -> (&'static str, String) {
        eventually("the connection's end", || {
            self.find(|seen| match seen {
                Seen::Disconnected {
                    id: gone,
                    reason,
                    text,
                    ..
                } if *gone == id => Some((*reason, text.clone())),
                _ => None,
            })
        })
    }
}

type OnMessage = dyn Fn(&mut Context<'_, Job>, RouterId, Message<'_>) + Send + Sync;
type OnConnection = dyn Fn(&mut Context<'_, Job>, RouterId) + Send + Sync;

/// What the handler does; the same on every shard.
#[derive(Clone)]
pub struct Behaviour {
    message: Arc<OnMessage>,
    drained: Arc<OnConnection>,
    connected: Arc<OnConnection>,
    keep_half_open: bool,
    /// What `pending_work` says.
    pub work: Arc<AtomicUsize>,
}

impl Behaviour {
    pub fn on_message(
        call: impl Fn(&mut Context<'_, Job>, RouterId, Message<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            message: Arc::new(call),
            drained: Arc::new(|_, _| {}),
            connected: Arc::new(|_, _| {}),
            keep_half_open: false,
            work: Arc::default(),
        }
    }

    /// Every message goes back to where it came from.
    pub fn echo() -> Self {
        Self::on_message(|cx, from, message| {
            let _ = cx.send(from, &message);
        })
    }

    /// Messages are read and forgotten.
    pub fn sink() -> Self {
        Self::on_message(|_, _, _| {})
    }

    pub fn on_drained(
        mut self,
        call: impl Fn(&mut Context<'_, Job>, RouterId) + Send + Sync + 'static,
    ) -> Self {
        self.drained = Arc::new(call);
        self
    }

    pub fn on_connect(
        mut self,
        call: impl Fn(&mut Context<'_, Job>, RouterId) + Send + Sync + 'static,
    ) -> Self {
        self.connected = Arc::new(call);
        self
    }

    /// Goes on sending to peers that have finished sending.
    pub fn keep_half_open(mut self) -> Self {
        self.keep_half_open = true;
        self
    }

    pub fn handler(&self, log: &Log) -> Probe {
        Probe {
            behaviour: self.clone(),
            log: log.clone(),
        }
    }
}

pub struct Probe {
    behaviour: Behaviour,
    log: Log,
}

impl Handler for Probe {
    type Post = Job;

    fn on_connect(&mut self, cx: &mut Context<'_, Job>, id: RouterId, peer: &Peer) {
        let (shard, peer) = (cx.shard(), *peer);
        self.log.push(Seen::Connected { shard, id, peer });
        (self.behaviour.connected)(cx, id);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Job>, from: RouterId, message: Message<'_>) {
        (self.behaviour.message)(cx, from, message);
    }

    fn on_posted(&mut self, cx: &mut Context<'_, Job>, job: Job) {
        (job.0)(cx);
    }

    fn on_timer(&mut self, _: &mut Context<'_, Job>, token: u64) {
        self.log.push(Seen::Timer(token));
    }

    fn on_wake(&mut self, _: &mut Context<'_, Job>, token: u64) {
        self.log.push(Seen::Woken(token));
    }

    fn on_drained(&mut self, cx: &mut Context<'_, Job>, id: RouterId) {
        self.log.push(Seen::Drained(id));
        (self.behaviour.drained)(cx, id);
    }

    fn on_read_closed(&mut self, cx: &mut Context<'_, Job>, id: RouterId) {
        self.log.push(Seen::ReadClosed(id));
        if !self.behaviour.keep_half_open {
            cx.close(id);
        }
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_, Job>, id: RouterId, reason: &CloseReason) {
        self.log.push(Seen::Disconnected {
            shard: cx.shard(),
            id,
            reason: reason.name(),
            text: reason.to_string(),
            tag: cx.tag(id),
        });
    }

    fn on_connect_failed(
        &mut self,
        _: &mut Context<'_, Job>,
        connect: ConnectId,
        error: &ConnectError,
        retry: Option<Duration>,
    ) {
        self.log.push(Seen::ConnectFailed {
            connect,
            timed_out: matches!(error, ConnectError::TimedOut),
            text: error.to_string(),
            retry,
        });
    }

    fn on_adopted(&mut self, cx: &mut Context<'_, Job>, id: RouterId, _: &Peer) {
        let shard = cx.shard();
        self.log.push(Seen::Adopted { shard, id });
    }

    fn on_departed(&mut self, cx: &mut Context<'_, Job>, id: RouterId, to: usize) {
        let (shard, tag) = (cx.shard(), cx.tag(id));
        self.log.push(Seen::Departed { shard, id, to, tag });
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_, Job>) {
        self.log.push(Seen::ShutdownBegan(cx.shard()));
    }

    fn pending_work(&self) -> usize {
        self.behaviour.work.load(Ordering::Relaxed)
    }
}

/// A running engine with a [`Probe`] on each shard.
pub struct Server {
    pub engine: Engine<Job>,
    pub handle: Handle<Job>,
    pub log: Log,
}

impl Server {
    #[track_caller]
    pub fn start(builder: EngineBuilder, behaviour: Behaviour) -> Self {
        let log = Log::default();
        let shared = log.clone();
        let engine = builder
            .start(move |_| behaviour.handler(&shared))
            .expect("the engine starts");
        Self {
            handle: engine.handle(),
            engine,
            log,
        }
    }

    /// One shard with one TCP listener.
    #[track_caller]
    pub fn with(limits: Limits, listener: Listener, behaviour: Behaviour) -> Self {
        Self::start(Engine::builder().limits(limits).listen(listener), behaviour)
    }

    pub fn address(&self) -> SocketAddr {
        tcp_address(&self.engine.local_addrs()[0])
    }

    /// A client of the first listener.
    #[track_caller]
    pub fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    /// A client of the first listener, and what the engine calls it.
    #[track_caller]
    pub fn accept(&self) -> (TcpStream, RouterId) {
        // An earlier client may have had the same port.
        let before = self.log.0.lock().unwrap().len();
        let stream = self.connect();
        let id = self.id_since(before, &stream);
        (stream, id)
    }

    /// The n-th connection that is announced, from 0 and in either direction.
    #[track_caller]
    pub fn nth(&self, n: usize) -> RouterId {
        eventually("a connection is announced", || {
            self.log.connected().get(n).copied()
        })
    }

    /// What the engine calls the other end of `stream`, where clients do not come and go.
    #[track_caller]
    pub fn id_of(&self, stream: &TcpStream) -> RouterId {
        self.id_since(0, stream)
    }

    /// The same, from what was seen after so much else.
    #[track_caller]
    fn id_since(&self, before: usize, stream: &TcpStream) -> RouterId {
        let local = stream.local_addr().unwrap();
        eventually("on_connect", || {
            let log = self.log.0.lock().unwrap();
            log[before..].iter().find_map(|seen| match seen {
                Seen::Connected { id, peer, .. }
                    if peer.address == Some(local)
                        && matches!(peer.origin, Origin::Accepted { .. }) =>
                {
                    Some(*id)
                }
                _ => None,
            })
        })
    }

    /// Does something on a shard and waits for the answer.
    #[track_caller]
    pub fn on<R: Send + 'static>(
        &self,
        shard: usize,
        work: impl FnOnce(&mut Context<'_, Job>) -> R + Send + 'static,
    ) -> R {
        on_shard(&self.handle, shard, work)
    }

    pub fn stats(&self) -> ShardStats {
        self.handle.stats().total()
    }

    /// Statistics for which `fits` holds. They are published once per turn.
    #[track_caller]
    pub fn until_stats(&self, mut fits: impl FnMut(&ShardStats) -> bool) -> ShardStats {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats();
            if fits(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "never so: {stats:#?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn shutdown(self) -> DrainReport {
        self.engine.shutdown(PATIENCE)
    }

    /// Shuts down, and fails the test if anything was lost.
    #[track_caller]
    pub fn end_clean(self) {
        let report = self.shutdown();
        assert!(report.is_clean(), "{report}");
    }
}

/// Does something on a shard and waits for the answer.
#[track_caller]
pub fn on_shard<R: Send + 'static>(
    handle: &Handle<Job>,
    shard: usize,
    work: impl FnOnce(&mut Context<'_, Job>) -> R + Send + 'static,
) -> R {
    let (answer, answers) = mpsc::channel();
    let job = Job::new(move |cx| {
        let _ = answer.send(work(cx));
    });
    handle
        .post_timeout(shard, job, PATIENCE)
        .expect("the shard takes the job");
    answers.recv_timeout(PATIENCE).expect("the job is done")
}

/// The defaults, but patient with peers: a slow machine may take long to finish what it has begun.
pub fn patient() -> Limits {
    Limits::default()
        .linger(PATIENCE)
        .handshake_timeout(PATIENCE)
}

/// An engine with these limits, unless others are set.
pub fn engine() -> EngineBuilder {
    Engine::builder().limits(patient())
}

/// A listener on a free port of the loopback device.
pub fn loopback() -> Listener {
    Listener::tcp("127.0.0.1:0").unwrap()
}

#[track_caller]
pub fn tcp_address(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        other => panic!("{other} is not TCP"),
    }
}

/// A client whose kernel takes no more than about `bytes` that it does not read.
#[track_caller]
pub fn connect_narrow(address: SocketAddr, bytes: usize) -> TcpStream {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )
    .unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    prepare(&stream);
    stream
}

/// Ends a connection with a reset.
pub fn reset(stream: TcpStream) {
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Sends one message and expects it back.
#[track_caller]
pub fn ask(stream: &mut TcpStream, body: &[u8]) {
    stream.write_all(&frame(body)).expect("the server reads");
    assert_eq!(read_frame(stream), body);
}

/// The peer has closed: the end of the stream, or a reset if it had not read everything.
#[track_caller]
pub fn expect_end(stream: &mut TcpStream) {
    match read_some(stream, &mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("expected the end, not {other:?}"),
    }
}

/// Resident memory of this process, in bytes.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
