//! HTTP for API servers (feature `http`): routes of the crate [`axum`], and beside them `/health`,
//! `/ready` and `/metrics`.
//!
//! Everything of HTTP runs on one thread with a runtime of tokio of its own; the threads of the
//! links and handlers know nothing of it. The router's state is an [`ApiSender`]:
//!
//! ```
//! use proscenium_play::Content;
//! use proscenium_play::api::ApiSender;
//! use proscenium_play::api::http::axum::extract::{Path, State};
//! use proscenium_play::api::http::axum::{Router, routing::post};
//! use proscenium_play::api::http::{Http, HttpError};
//!
//! async fn create(
//!     State(sender): State<ApiSender>,
//!     Path(id): Path<i64>,
//! ) -> Result<String, HttpError> {
//!     let created = sender.create_stage("play-1", "Match", id, Content::default()).await?;
//!     Ok(format!("match {id}: new {}", created.is_new))
//! }
//!
//! let router = Router::new().route("/matches/{id}", post(create));
//! let any: std::net::SocketAddr = "127.0.0.1:0".parse()?;
//! let http = Http::new(any, router);
//! # let _ = http;
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! | path | answers |
//! |---|---|
//! | `/health` | 200 as long as the server runs, also while it shuts down |
//! | `/ready` | 200 if it takes work: no shutdown has begun, and [`Http::ready_when`] agrees; else 503 with the reason |
//! | `/metrics` | the numbers of handlers, HTTP, peers and engine, in the text format of OpenMetrics |
//!
//! A peer that is slow to send its request is closed at a deadline, as is one that reads nothing of
//! its answer; a request that takes too long is answered 504, and so many connections and no more
//! are served at a time; what reads its answer slowly keeps its connection. Connections are not
//! upgraded: WebSocket is what Play servers speak. To the public internet, put a reverse proxy
//! before it.

mod error;
mod metrics;
mod serve;
mod write;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;

use super::sender::ApiSender;
use super::status::Status;

pub use axum;
pub use error::HttpError;

type ReadyWhen = dyn Fn(&ApiSender) -> bool + Send + Sync;

/// What an API server serves over HTTP, and its bounds.
#[must_use]
pub struct Http {
    address: SocketAddr,
    operations: Option<SocketAddr>,
    router: Router<ApiSender>,
    ready_when: Option<Box<ReadyWhen>>,
    bounds: Bounds,
}

/// The bounds of each listener.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    header_deadline: Duration,
    request_deadline: Duration,
    write_deadline: Duration,
}

impl Http {
    /// Serves `router` at `address`, and beside it `/health`, `/ready` and `/metrics`, which come
    /// before routes of the same path.
    pub fn new(address: impl Into<SocketAddr>, router: Router<ApiSender>) -> Self {
        Self {
            address: address.into(),
            operations: None,
            router,
            ready_when: None,
            bounds: Bounds {
                connections: 1024,
                header_deadline: Duration::from_secs(10),
                request_deadline: Duration::from_secs(60),
                write_deadline: Duration::from_secs(30),
            },
        }
    }

    /// Serves `/health`, `/ready` and `/metrics` there instead, where the public does not come.
    pub fn operations_at(mut self, address: impl Into<SocketAddr>) -> Self {
        self.operations = Some(address.into());
        self
    }

    /// Adds a condition of `/ready`, for example that there is a Play server. It must not block.
    pub fn ready_when(
        mut self,
        condition: impl Fn(&ApiSender) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.ready_when = Some(Box::new(condition));
        self
    }

    /// Sets how many connections each listener serves at a time; further ones wait in the
    /// system's queue. Default 1,024.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.bounds.connections = connections;
        self
    }

    /// Sets how long a connection may take to send a request's head, the time between two requests
    /// included. Default 10 s.
    pub fn header_deadline(mut self, deadline: Duration) -> Self {
        self.bounds.header_deadline = deadline;
        self
    }

    /// Sets how long a request may take, its body included; then it is dropped and answered 504.
    /// Default 60 s.
    pub fn request_deadline(mut self, deadline: Duration) -> Self {
        self.bounds.request_deadline = deadline;
        self
    }

    /// Sets how long a peer may read nothing of an answer that waits for it; then its connection is
    /// closed. Default 30 s.
    pub fn write_deadline(mut self, deadline: Duration) -> Self {
        self.bounds.write_deadline = deadline;
        self
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("address", &self.address)
            .field("operations", &self.operations)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// Where HTTP is served, with real ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpAddrs {
    /// The routes.
    pub routes: SocketAddr,
    /// `/health`, `/ready`, `/metrics`.
    pub operations: SocketAddr,
}

/// The thread that serves HTTP; dropping this ends it soon.
pub(crate) struct Serving {
    addrs: HttpAddrs,
    ending: tokio::sync::watch::Sender<Option<Instant>>,
    /// Disconnected when its thread has ended.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Serving {
    pub(crate) fn start(http: Http, sender: ApiSender, status: &Arc<Status>) -> io::Result<Self> {
        let bind = |address| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let local = listener.local_addr()?;
            Ok::<_, io::Error>((listener, local))
        };
        let operations = operations(sender.clone(), status, http.ready_when);
        let routes = http.router.with_state(sender.clone());
        let (listener, at) = bind(http.address)?;
        let (listeners, addrs) = match http.operations {
            None => {
                let all = operations.fallback_service(routes);
                (vec![(listener, all)], (at, at))
            }
            Some(address) => {
                let (second, beside) = bind(address)?;
                (vec![(listener, routes), (second, operations)], (at, beside))
            }
        };
        let (ending, to_end) = tokio::sync::watch::channel(None);
        let (running, ended) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            // Scrapes wait there for the shard's numbers.
            .max_blocking_threads(2)
            .thread_name("api http blocking")
            .build()?;
        let (bounds, status) = (http.bounds, Arc::clone(status));
        let run = move || {
            let _running: mpsc::Sender<()> = running;
            runtime.block_on(serve::all(listeners, bounds, &status, to_end));
            // A scrape under way is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name(format!("api {} http", sender.nid()));
        // Not joined: a route that blocks for ever must not keep the server from ending.
        drop(thread.spawn(run)?);
        Ok(Self {
            addrs: HttpAddrs {
                routes: addrs.0,
                operations: addrs.1,
            },
            ending,
            ended: Mutex::new(ended),
        })
    }

    pub(crate) fn addrs(&self) -> HttpAddrs {
        self.addrs
    }

    /// Takes no further connections and requests, finishes those under way until `until`, and
    /// waits for that; until `at_last` for a route that blocks the thread, which is then left to
    /// itself.
    pub(crate) fn shutdown(self, until: Instant, at_last: Instant) {
        let _ = self.ending.send(Some(until));
        let left = at_last.saturating_duration_since(Instant::now());
        if let Err(RecvTimeoutError::Timeout) = self.ended.lock().recv_timeout(left) {
            tracing::error!("a route blocks the thread of HTTP, which is given up");
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.ending.send(Some(Instant::now()));
    }
}

/// The routes for whoever operates the server.
fn operations(
    sender: ApiSender,
    status: &Arc<Status>,
    ready_when: Option<Box<ReadyWhen>>,
) -> Router {
    let ready_when: Arc<Option<Box<ReadyWhen>>> = Arc::new(ready_when);
    let ready = move |State(status): State<Arc<Status>>| async move {
        let agrees = || {
            ready_when
                .as_ref()
                .as_ref()
                .is_none_or(|when| when(&sender))
        };
        match status.why_not_ready() {
            Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            None if !agrees() => {
                let text = "the application is not ready\n".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }
            None => (StatusCode::OK, "ready\n".to_owned()),
        }
    };
    Router::new()
        .route("/health", get(async || "healthy\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Arc::clone(status))
}

async fn scrape(State(status): State<Arc<Status>>) -> impl IntoResponse {
    // The numbers of the links are the shard's to tell: that is waited for, elsewhere.
    let text = tokio::task::spawn_blocking(move || metrics::text(&status)).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
