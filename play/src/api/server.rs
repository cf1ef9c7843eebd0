//! [`ApiServer`]: an API server that runs, and its builder.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use proscenium_engine::{Address, DrainReport};
use proscenium_framing::packet::ErrorCode;
use proscenium_nodelink::directory::{Directory, ServerType};
use proscenium_nodelink::{Endpoint, Nid, Node, NodeBuilder, NodeOptions};

#[cfg(feature = "http")]
use super::http::{Http, HttpAddrs, Serving};

use super::context::ApiCx;
use super::executor::Executor;
use super::handlers::{Handlers, Incoming, Spawn};
use super::running::{Bounds, Running};
use super::sender::ApiSender;
use super::stats::ApiStats;
use super::status::Status;
use crate::announce::{Announcement, LONGEST, Place};
use crate::error::{DeliverError, Failure, Result};
use crate::packet::Content;
use crate::shared::MapErrors;
use crate::system::is_system_id;

/// The token of the wake that says that there are answers.
const ANSWERS: u64 = 1;

/// An API server that runs: a node of the mesh, on a thread of its own, and handlers without a
/// state of their own, on others. Dropping it shuts it down without waiting for handlers.
#[must_use = "dropping a server shuts it down"]
pub struct ApiServer {
    /// First: others are told before the links end.
    place: Place,
    node: Node,
    sender: ApiSender,
    status: Arc<Status>,
    #[cfg(feature = "http")]
    drain_delay: Duration,
    #[cfg(feature = "http")]
    http: Option<Serving>,
    // Kept, in this order: each ends when it is dropped.
    _abort: AbortOnDrop,
    _executor: Option<Arc<Executor>>,
    _deadlines: Deadlines,
}

/// What became of an API server that was shut down.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiReport {
    /// Handlers that were under way when the deadline came. Their requests were answered 14.
    pub abandoned: usize,
    /// What its links lost.
    pub links: DrainReport,
}

impl ApiReport {
    /// True if nothing was lost.
    pub fn is_clean(&self) -> bool {
        self.abandoned == 0 && self.links.is_clean()
    }
}

impl ApiServer {
    /// Prepares a server of that name and with those bounds.
    pub fn builder(options: NodeOptions) -> ApiServerBuilder {
        ApiServerBuilder::new(options)
    }

    /// Sends to other servers, from any thread.
    pub fn sender(&self) -> ApiSender {
        self.sender.clone()
    }

    /// The node under it: where it listens, its engine.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Where it listens for other nodes, in the order of the calls to `bind`, with real ports.
    pub fn local_addrs(&self) -> &[Address] {
        self.node.local_addrs()
    }

    /// What its handlers have done so far.
    pub fn stats(&self) -> ApiStats {
        self.status.running.counts.read()
    }

    /// True until a shutdown begins.
    pub fn is_ready(&self) -> bool {
        self.status.why_not_ready().is_none()
    }

    /// Where it serves HTTP, if it does.
    #[cfg(feature = "http")]
    pub fn http_addrs(&self) -> Option<HttpAddrs> {
        self.http.as_ref().map(Serving::addrs)
    }

    /// Shuts down, all within `deadline`. `/ready` says so at once; a delay (`drain_delay`) later,
    /// when balancers have seen it, HTTP takes no further requests and finishes those under way.
    /// The server leaves the directory
    /// ([`Membership::leave`](proscenium_nodelink::Membership::leave)): others do not choose it any
    /// more, and what they have sent until they know of it is answered. From then on messages are
    /// refused with error 2. Handlers that are still under way at three quarters of the time are
    /// ended, their requests answered 14; at last the links are flushed and closed.
    pub fn shutdown(mut self, deadline: Duration) -> ApiReport {
        let (began, deadline) = (Instant::now(), deadline.min(LONGEST));
        let eighths = |eighths| began + deadline / 8 * eighths;
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        self.status.end();
        // Its routes ask other servers: before the links.
        #[cfg(feature = "http")]
        if let Some(http) = self.http.take() {
            std::thread::sleep(self.drain_delay.min(deadline / 4));
            http.shutdown(eighths(4), eighths(5));
        }
        self.place.leave(eighths(6)); // what is left is waited for below, and reported
        let running = &self.status.running;
        running.refuse();
        let mut abandoned = 0;
        if !running.wait(eighths(6)) {
            abandoned = running.abort();
            // One that blocks its thread does not end: it is left to itself.
            running.wait(eighths(7));
        }
        let links = self.node.shutdown(left(eighths(8)));
        ApiReport { abandoned, links }
    }
}

/// Ends handlers that would wait for what never comes any more.
struct AbortOnDrop(Arc<Running>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.refuse();
        self.0.abort();
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Prepares an [`ApiServer`].
#[must_use]
pub struct ApiServerBuilder {
    node: NodeBuilder,
    nid: Nid,
    reply_max: usize,
    announcement: Announcement,
    #[cfg(feature = "http")]
    drain_delay: Duration,
    handlers: Handlers,
    wrong: Option<String>,
    threads: usize,
    spawn: Option<Box<Spawn>>,
    running_max: usize,
    running_bytes_max: usize,
    handler_deadline: Duration,
    map_errors: Option<Box<MapErrors>>,
    #[cfg(feature = "http")]
    http: Option<Http>,
}

impl fmt::Debug for ApiServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.handlers.ids().collect();
        f.debug_struct("ApiServerBuilder")
            .field("nid", &self.nid)
            .field("service_id", &self.announcement.service_id)
            .field("handlers", &ids)
            .finish_non_exhaustive()
    }
}

/// # Handlers
impl ApiServerBuilder {
    fn new(options: NodeOptions) -> Self {
        let threads = std::thread::available_parallelism();
        Self {
            nid: options.nid.clone(),
            reply_max: options.payload_max(),
            node: Node::builder(options),
            announcement: Announcement::new(ServerType::Api, 2),
            #[cfg(feature = "http")]
            drain_delay: Duration::from_secs(1),
            handlers: Handlers::default(),
            wrong: None,
            threads: threads.map_or(2, |threads| threads.get().min(4)),
            spawn: None,
            running_max: 10_000,
            running_bytes_max: 256 << 20,
            handler_deadline: Duration::from_secs(60),
            map_errors: None,
            #[cfg(feature = "http")]
            http: None,
        }
    }

    /// Has `handler` called for every message of that id, and answers its requests with what it
    /// returns: `()` for an empty answer, or a [`Content`]; without an id of its own it has that
    /// of the request.
    ///
    /// Any number of them run at the same time and in any order, also those of one sender. An error
    /// answers its code, else 15, as does a panic; both are logged with the message id and counted.
    ///
    /// ```
    /// use proscenium_play::api::{ApiCx, ApiServer};
    /// use proscenium_play::{Content, Result};
    /// # use proscenium_nodelink::{Nid, NodeOptions};
    ///
    /// async fn greet(_cx: ApiCx, request: Content) -> Result<Content> {
    ///     let name = std::str::from_utf8(&request.payload)?;
    ///     Ok(Content::new("Greeting", format!("hello {name}")))
    /// }
    ///
    /// let server = ApiServer::builder(NodeOptions::new(Nid::new("api-1")?))
    ///     .handle("Greet", greet)
    ///     .handle("Ping", |_cx, _request| async { Ok(()) });
    /// # drop(server);
    /// # Ok::<(), proscenium_nodelink::NidError>(())
    /// ```
    pub fn handle<F, T>(
        mut self,
        msg_id: impl Into<Cow<'static, str>>,
        handler: impl Fn(ApiCx, Content) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Into<Content>,
    {
        let msg_id = self.check(msg_id.into());
        let is_new = self.handlers.add(msg_id.clone(), move |cx, content, _| {
            let answer = handler(cx, content);
            Box::pin(async move { answer.await.map(Into::into) })
        });
        self.once(&msg_id, is_new)
    }

    /// The same for messages that are protobuf. What is none of that type is answered 11, invalid
    /// message, and counted.
    ///
    /// ```
    /// # use proscenium_nodelink::{Nid, NodeOptions};
    /// use proscenium_play::api::ApiServer;
    /// use proscenium_play::{Content, Proto};
    ///
    /// // `String` is the well-known type `google.protobuf.StringValue`.
    /// let server = ApiServer::builder(NodeOptions::new(Nid::new("api-1")?))
    ///     .handle_proto("Greet", |_cx, name: String| async move {
    ///         Ok(Content::new("Greeting", Proto(&format!("hello {name}"))))
    ///     });
    /// # drop(server);
    /// # Ok::<(), proscenium_nodelink::NidError>(())
    /// ```
    pub fn handle_proto<M, F, T>(
        mut self,
        msg_id: impl Into<Cow<'static, str>>,
        handler: impl Fn(ApiCx, M) -> F + Send + Sync + 'static,
    ) -> Self
    where
        M: prost::Message + Default + Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        T: Into<Content>,
    {
        let msg_id = self.check(msg_id.into());
        let is_new = self
            .handlers
            .add(msg_id.clone(), move |cx, content, running| {
                match content.decode() {
                    Ok(message) => {
                        let answer = handler(cx, message);
                        Box::pin(async move { answer.await.map(Into::into) })
                    }
                    Err(error) => {
                        running.counts.invalid.add(1);
                        tracing::debug!(msg_id = %content.msg_id, %error, "a message is malformed");
                        let code = ErrorCode::INVALID_MESSAGE;
                        Box::pin(async move { Err(Failure::code(code)) })
                    }
                }
            });
        self.once(&msg_id, is_new)
    }

    fn check(&mut self, msg_id: Cow<'static, str>) -> Cow<'static, str> {
        if let Err(error) = DeliverError::check_id(&msg_id) {
            self.wrong = Some(error.to_string());
        } else if is_system_id(&msg_id) {
            self.wrong = Some(format!("{msg_id} is the id of a system message"));
        }
        msg_id
    }

    fn once(mut self, msg_id: &str, is_new: bool) -> Self {
        if !is_new {
            self.wrong = Some(format!("there are two handlers for {msg_id}"));
        }
        self
    }

    /// Which code an error of a handler has that does not say so itself; `None`: 15.
    pub fn map_errors(
        mut self,
        map: impl Fn(&(dyn Error + 'static)) -> Option<ErrorCode> + Send + Sync + 'static,
    ) -> Self {
        self.map_errors = Some(Box::new(map));
        self
    }

    /// Sets how many threads handlers run on; default: one per CPU, at most 4. A handler that
    /// blocks has one of them for itself.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Has `spawn` run the handlers instead, on an executor of the program: for what needs one, as
    /// clients of databases do. It is called on the thread of the links and must not block. A
    /// future that it drops is answered 14.
    ///
    /// With tokio: `.spawn_by(move |handler| drop(runtime.spawn(handler)))`.
    pub fn spawn_by(
        mut self,
        spawn: impl Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync + 'static,
    ) -> Self {
        self.spawn = Some(Box::new(spawn));
        self
    }
}

/// # In the mesh
impl ApiServerBuilder {
    /// Listens for other nodes there. An address beyond loopback needs an allow-list that says who
    /// may come: [`NodeOptions::allow`].
    pub fn bind(mut self, address: impl Into<Address>) -> Self {
        self.node = self.node.bind(address);
        self
    }

    /// Connects to another node, and again whenever the link is lost. Not needed for those in the
    /// directory.
    pub fn connect(mut self, endpoint: Endpoint) -> Self {
        self.node = self.node.connect(endpoint);
        self
    }

    /// Sets the number of the service that it belongs to; default 2.
    pub fn service(mut self, service_id: u16) -> Self {
        self.announcement.service_id = service_id;
        self
    }

    /// Sets its share of the service's work, in comparison to the others; default 100.
    pub fn weight(mut self, weight: u32) -> Self {
        self.announcement.weight = weight;
        self
    }

    /// Links it to all servers of a directory, and announces it there (if it listens anywhere), to
    /// be forgotten `ttl` after the process has ended without a word; 15 s are a good choice.
    pub fn directory(mut self, directory: impl Directory + 'static, ttl: Duration) -> Self {
        self.announcement.directory = Some((Arc::new(directory), ttl));
        self
    }

    /// Sets the address that is announced; default: the first that it listens at.
    pub fn advertise(mut self, address: impl Into<Address>) -> Self {
        self.announcement.advertise = Some(address.into());
        self
    }
}

/// # HTTP
#[cfg(feature = "http")]
impl ApiServerBuilder {
    /// Serves HTTP, too.
    pub fn http(mut self, http: Http) -> Self {
        self.http = Some(http);
        self
    }

    /// Sets how long a shutdown goes on taking requests of HTTP while `/ready` says that it should
    /// be sent none, at most a quarter of its deadline; default 1 s.
    pub fn drain_delay(mut self, delay: Duration) -> Self {
        self.drain_delay = delay;
        self
    }
}

/// # Bounds
impl ApiServerBuilder {
    /// Sets how many handlers may be under way; beyond, requests are answered 14. Default 10,000.
    pub fn running_max(mut self, handlers: usize) -> Self {
        self.running_max = handlers;
        self
    }

    /// Sets how many bytes the payloads of these may have; beyond, requests are answered 14.
    /// Default 256 MiB.
    pub fn running_bytes_max(mut self, bytes: usize) -> Self {
        self.running_bytes_max = bytes;
        self
    }

    /// Sets how long a handler may take; then it is dropped at its next await, and its request
    /// answered 1. Default 60 s, looked at eight times in that.
    pub fn handler_deadline(mut self, deadline: Duration) -> Self {
        self.handler_deadline = deadline;
        self
    }

    /// Binds and starts.
    ///
    /// # Errors
    /// Two handlers for one message, or one for a system message; a deadline, TTL or number of
    /// handlers of zero; those of [`NodeBuilder::start`], and of
    /// [`NodeHandle::join`](proscenium_nodelink::NodeHandle::join) if there is a directory; an
    /// address that HTTP cannot be served at.
    pub fn start(self) -> io::Result<ApiServer> {
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text);
        if let Some(wrong) = &self.wrong {
            return Err(invalid(wrong));
        }
        if self.running_max == 0 || self.handler_deadline.is_zero() {
            return Err(invalid("a deadline or number of handlers is zero"));
        }
        self.announcement.check().map_err(invalid)?;
        let name = format!("api {}", self.nid);
        let (spawn, executor) = match self.spawn {
            Some(spawn) => (spawn, None),
            None => {
                let executor = Arc::new(Executor::start(&name, self.threads)?);
                let shared = Arc::clone(&executor);
                let spawn: Box<Spawn> = Box::new(move |work| shared.spawn(work));
                (spawn, Some(executor))
            }
        };
        let bounds = Bounds {
            running: self.running_max,
            bytes: self.running_bytes_max,
            deadline: self.handler_deadline,
            reply: self.reply_max,
        };
        let (handlers, map_errors) = (self.handlers, self.map_errors);
        let service_id = self.announcement.service_id;
        let mut parts = None;
        let node = self.node.start_with(|node| {
            let sender = ApiSender::new(node);
            let running = Arc::new(Running::new(bounds, service_id, map_errors));
            parts = Some((sender.clone(), Arc::clone(&running)));
            Incoming {
                handlers,
                running,
                sender,
                spawn,
            }
        })?;
        let Some((sender, running)) = parts else {
            return Err(invalid("the node has no handler"));
        };
        if let Some(waker) = node.engine().handle().waker(0, ANSWERS) {
            running.start(waker);
        }
        let deadlines = Deadlines::start(&name, &running)?;
        let listens_at = node.local_addrs().first();
        let place = self.announcement.join(sender.node(), listens_at)?;
        let (handle, engine) = (node.handle(), node.engine().handle());
        let abort = AbortOnDrop(Arc::clone(&running));
        let status = Arc::new(Status::new(running, handle, engine));
        #[cfg(feature = "http")]
        let http = match self.http {
            Some(http) => Some(Serving::start(http, sender.clone(), &status)?),
            None => None,
        };
        Ok(ApiServer {
            place,
            node,
            sender,
            status,
            #[cfg(feature = "http")]
            drain_delay: self.drain_delay,
            #[cfg(feature = "http")]
            http,
            _abort: abort,
            _executor: executor,
            _deadlines: deadlines,
        })
    }
}

/// The thread that looks for handlers whose deadline is over, until this is dropped.
struct Deadlines {
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Deadlines {
    fn start(name: &str, running: &Arc<Running>) -> io::Result<Self> {
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let (ours, running) = (Arc::clone(&ended), Arc::clone(running));
        let run = move || {
            let (ended, changed) = &*ours;
            let mut ended = ended.lock();
            while !*ended {
                changed.wait_for(&mut ended, running.period());
                running.expire(Instant::now());
            }
        };
        let thread = std::thread::Builder::new().name(format!("{name} deadlines"));
        drop(thread.spawn(run)?);
        Ok(Self { ended })
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        *self.ended.0.lock() = true;
        self.ended.1.notify_all();
    }
}
