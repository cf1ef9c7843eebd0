//! Connections: how many, for how long, and their end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower_service::Service;

use super::Bounds;
use super::write::Written;
use crate::api::status::Status;

/// When to end, once that is known.
type Ending = watch::Receiver<Option<Instant>>;

/// Serves all listeners until the end, and then what is under way.
pub(super) async fn all(
    listeners: Vec<(TcpListener, Router)>,
    bounds: Bounds,
    status: &Arc<Status>,
    ending: Ending,
) {
    let tasks: Vec<_> = listeners
        .into_iter()
        .map(|(listener, router)| {
            let (status, ending) = (Arc::clone(status), ending.clone());
            tokio::spawn(serve(listener, router, bounds, status, ending))
        })
        .collect();
    for task in tasks {
        if task.await.is_err() {
            tracing::error!("a listener of HTTP panicked");
        }
    }
}

async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    status: Arc<Status>,
    mut ending: Ending,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "HTTP is not served"),
    };
    let permits = Arc::new(Semaphore::new(bounds.connections.max(1)));
    let connections = GracefulShutdown::new();
    loop {
        let next = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let Some(accepted) = until_ending(&mut ending, next).await else {
            break;
        };
        match accepted {
            Some((permit, Ok((stream, peer)))) => {
                let router = router.clone();
                connect(
                    (stream, peer),
                    permit,
                    router,
                    bounds,
                    &status,
                    &connections,
                );
            }
            // Out of descriptors, most likely: do not spin.
            Some((_, Err(error))) => {
                tracing::warn!(%error, "HTTP does not accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None => break,
        }
    }
    drop(listener);
    let until = (*ending.borrow()).unwrap_or_else(Instant::now);
    let left = until.saturating_duration_since(Instant::now());
    if tokio::time::timeout(left, connections.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("HTTP requests were under way at the end");
    }
}

/// The output of `work`, or `None` if the end comes first.
async fn until_ending<T>(ending: &mut Ending, work: impl Future<Output = T>) -> Option<T> {
    let mut end = pin!(ending.wait_for(Option::is_some));
    let mut work = pin!(work);
    poll_fn(|cx| {
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Serves one connection, on a task of its own.
fn connect(
    (stream, peer): (TcpStream, SocketAddr),
    permit: OwnedSemaphorePermit,
    router: Router,
    bounds: Bounds,
    status: &Arc<Status>,
    connections: &GracefulShutdown,
) {
    let _ = stream.set_nodelay(true); // small answers; without it they are only slower
    let stream = Written::within(bounds.write_deadline, TokioIo::new(stream));
    let status = Arc::clone(status);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let (router, status) = (router.clone(), Arc::clone(&status));
        async move { Ok::<_, Infallible>(answer(router, request, bounds, &status).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_deadline)
        .serve_connection(stream, service);
    let served = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::debug!(%peer, %error, "an HTTP connection failed");
        }
        drop(permit);
    });
}

/// Answers one request, whatever the routes do with it.
async fn answer(
    mut router: Router,
    request: hyper::Request<Incoming>,
    bounds: Bounds,
    status: &Status,
) -> Response {
    let counts = status.counts();
    counts.http_requests.add(1);
    let path = request.uri().path().to_owned();
    let mut work = pin!(router.call(Request::from(request)));
    let caught = poll_fn(|cx| {
        let poll = AssertUnwindSafe(|| work.as_mut().poll(cx));
        match catch_unwind(poll) {
            Ok(polled) => polled.map(Ok),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    });
    match tokio::time::timeout(bounds.request_deadline, caught).await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(payload)) => {
            counts.http_panics.add(1);
            tracing::error!(path, "a route panicked");
            crate::api::running::forget_panic(payload);
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Err(_) => {
            counts.http_timed_out.add(1);
            tracing::warn!(path, "a request takes too long");
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
    }
}
