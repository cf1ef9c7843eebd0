//! HTTP of API servers on real sockets: routes, errors, health, readiness, metrics, and the end.

#[path = "support/scripted.rs"]
mod scripted;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proscenium_play::api::http::axum::extract::{ConnectInfo, Path, State};
use proscenium_play::api::http::axum::routing::{get, post};
use proscenium_play::api::http::axum::{Json, Router};
use proscenium_play::api::http::{Http, HttpError};
use proscenium_play::api::{ApiSender, ApiServer};
use proscenium_play::system::CreateStageRes;
use proscenium_play::{Content, ErrorCode};
use proscenium_stages::Reply;
use prost::Message;
use scripted::{PATIENCE, any, api, scripted, wait_until};

/// Status and body of an answer.
fn ask(at: SocketAddr, method: &str, path: &str) -> (u16, String) {
    try_ask(at, method, path).expect("an answer")
}

/// `None`: nobody answers any more.
fn try_ask(at: SocketAddr, method: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then(|| parse(&answer))
}

fn parse(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn routes(server: &ApiServer) -> SocketAddr {
    server.http_addrs().unwrap().routes
}

async fn create(
    State(sender): State<ApiSender>,
    Path(id): Path<i64>,
) -> Result<Json<serde_json::Value>, HttpError> {
    let map = Content::new("Map", "north");
    let created = sender.create_stage("play-1", "Match", id, map).await?;
    let text = created.content.unwrap_or_default();
    let text = String::from_utf8_lossy(&text.payload).into_owned();
    Ok(Json(
        serde_json::json!({ "new": created.is_new, "text": text }),
    ))
}

#[test]
fn a_request_creates_a_stage() {
    let router = Router::new().route("/matches/{id}", post(create));
    let server = api("api-1").http(Http::new(any(), router)).start().unwrap();
    let at = routes(&server);
    let nobody = (
        503,
        r#"{"code":2,"error":"server not found (2)"}"#.to_owned(),
    );
    assert_eq!(ask(at, "POST", "/matches/7"), nobody);
    let (_play, arrived) = scripted("play-1", &server, |seen| match seen.stage_id {
        7 => {
            let answer = CreateStageRes {
                result: true,
                payload_id: "Welcome".to_owned(),
                payload: b"hello".to_vec(),
            };
            Some((0, "CreateStageRes".to_owned(), answer.encode_to_vec()))
        }
        _ => Some((8, String::new(), Vec::new())),
    });
    let created = (200, r#"{"new":true,"text":"hello"}"#.to_owned());
    assert_eq!(ask(at, "POST", "/matches/7"), created);
    let seen = arrived.recv_timeout(PATIENCE).unwrap();
    assert_eq!((seen.msg_id.as_str(), seen.stage_id), ("CreateStageReq", 7));
    let there = (
        409,
        r#"{"code":8,"error":"stage already exists (8)"}"#.to_owned(),
    );
    assert_eq!(ask(at, "POST", "/matches/8"), there);
    assert_eq!(ask(at, "GET", "/matches/8").0, 405);
    assert_eq!(ask(at, "GET", "/nothing").0, 404);
    assert!(server.shutdown(PATIENCE).is_clean());
}

#[test]
fn routes_that_fail_cost_nobody_else_anything() {
    let router = Router::new()
        .route("/panic", get(async || -> &str { panic!("a route") }))
        .route("/forever", get(std::future::pending::<&str>))
        .route(
            "/coded",
            get(async || Err::<(), _>(HttpError(ErrorCode(1500)))),
        )
        .route(
            "/peer",
            get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()),
        );
    let http = Http::new(any(), router)
        .request_deadline(Duration::from_secs(1))
        .header_deadline(PATIENCE);
    let server = api("api-1").http(http).start().unwrap();
    let at = routes(&server);
    assert_eq!(ask(at, "GET", "/panic").0, 500);
    assert_eq!(ask(at, "GET", "/forever").0, 504);
    assert_eq!(ask(at, "GET", "/coded").0, 422);
    assert!(ask(at, "GET", "/peer").1.starts_with("127.0.0.1:"));
    let stats = server.stats();
    assert_eq!(
        (stats.http_panics, stats.http_timed_out, stats.http_requests),
        (1, 1, 4)
    );
}

#[test]
fn who_does_not_send_a_head_in_time_is_closed() {
    let router = Router::new().route("/", get(async || "here"));
    let http = Http::new(any(), router).header_deadline(Duration::from_millis(200));
    let server = api("api-1").http(http).start().unwrap();
    let at = routes(&server);
    // One that does not send its head, and one that sends none after its first request.
    let mut silent = TcpStream::connect(at).unwrap();
    silent.write_all(b"GET / HT").unwrap();
    let mut idle = TcpStream::connect(at).unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .unwrap();
    for mut stream in [silent, idle] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap(); // it is closed
    }
}

#[test]
fn connections_beyond_the_limit_wait() {
    let router = Router::new().route("/", get(async || "here"));
    let http = Http::new(any(), router).connections_max(1);
    let http = http.header_deadline(Duration::from_secs(600));
    let server = api("api-1").http(http).start().unwrap();
    let at = routes(&server);
    let mut first = TcpStream::connect(at).unwrap();
    first
        .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut some = [0; 1];
    first.read_exact(&mut some).unwrap(); // it has the only place
    let second = std::thread::spawn(move || ask(at, "GET", "/"));
    // While the first one stays, nothing of the second is handled.
    first
        .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .unwrap();
    wait_until("two are handled", || server.stats().http_requests == 2);
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.join().unwrap(), (200, "here".to_owned()));
    assert_eq!(server.stats().http_requests, 3);
}

#[test]
fn who_does_not_read_its_answer_does_not_keep_its_connection() {
    let long = get(|| async { vec![0_u8; 64 << 20] }); // more than sockets hold
    let http = Http::new(any(), Router::new().route("/long", long));
    let http = http
        .connections_max(1)
        .write_deadline(Duration::from_millis(50));
    let server = api("api-1").http(http).start().unwrap();
    let mut stuck = TcpStream::connect(routes(&server)).unwrap();
    stuck
        .write_all(b"GET /long HTTP/1.1\r\nHost: here\r\n\r\n")
        .unwrap();
    let next = ask(routes(&server), "GET", "/health");
    assert_eq!(next, (200, "healthy\n".to_owned()));
    drop(stuck);
}

#[test]
fn readiness_is_what_the_application_says() {
    let ready = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let agrees = Arc::clone(&ready);
    let http = Http::new(any(), Router::new())
        .ready_when(move |_| agrees.load(std::sync::atomic::Ordering::SeqCst));
    let server = api("api-1").http(http).start().unwrap();
    let at = routes(&server);
    assert_eq!(ask(at, "GET", "/health"), (200, "healthy\n".to_owned()));
    let not_yet = (503, "the application is not ready\n".to_owned());
    wait_until("the directory knows", || {
        ask(at, "GET", "/ready") == not_yet
    });
    ready.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(ask(at, "GET", "/ready"), (200, "ready\n".to_owned()));
}

#[test]
fn a_shutdown_is_told_before_anything_is_refused() {
    assert!((0..5).any(|_| a_shutdown_is_told_in_time()), "never seen");
}

/// False: whoever was to see it had no turn while it could be seen.
fn a_shutdown_is_told_in_time() -> bool {
    let gates = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&gates);
    let wait = async move || {
        let (open, gate) = Reply::<()>::pair();
        kept.lock().unwrap().push(open);
        let _ = gate.await;
        "done"
    };
    let http = Http::new(any(), Router::new().route("/wait", get(wait))).operations_at(any());
    let server = api("api-1")
        .drain_delay(PATIENCE)
        .http(http)
        .start()
        .unwrap();
    let addrs = server.http_addrs().unwrap();
    assert_ne!(addrs.routes, addrs.operations);
    assert_eq!(ask(addrs.routes, "GET", "/ready").0, 404);
    assert_eq!(ask(addrs.operations, "GET", "/ready").0, 200);
    let (told, answers) = channel();
    let (waits, at) = (told.clone(), addrs.routes);
    std::thread::spawn(move || waits.send(ask(at, "GET", "/wait")));
    wait_until("it waits", || gates.lock().unwrap().len() == 1);

    // The delay is a quarter of this: long enough to look.
    let ends = std::thread::spawn(move || server.shutdown(Duration::from_secs(24)));
    let mut told = None;
    while told.is_none() && TcpStream::connect(addrs.routes).is_ok() {
        told = try_ask(addrs.operations, "GET", "/ready").filter(|(status, _)| *status != 200);
    }
    let Some(told) = told else {
        gates.lock().unwrap().clear();
        ends.join().unwrap();
        return false;
    };
    assert_eq!(told, (503, "the server shuts down\n".to_owned()));
    // Requests are taken until the delay is over, and then no more; those under way are finished.
    wait_until("no connection is taken", || {
        TcpStream::connect(addrs.routes).is_err()
    });
    assert!(!ends.is_finished());
    assert!(answers.try_recv().is_err());
    gates.lock().unwrap().clear();
    assert_eq!(
        answers.recv_timeout(PATIENCE).unwrap(),
        (200, "done".to_owned())
    );
    assert!(ends.join().unwrap().is_clean());
    true
}

#[test]
fn metrics_tell_of_handlers_peers_and_the_engine() {
    let server = api("api-1").handle("Ping", |_, _| async { Ok(()) });
    let server = server
        .http(Http::new(any(), Router::new()))
        .start()
        .unwrap();
    let (play, _) = scripted("play \"1\"", &server, |_| None);
    assert_eq!(scripted::ask(&play, "api-1", "Ping", "").0, 0);
    wait_until("it is over", || server.stats().running == 0);
    // Without the numbers of the links where their shard does not tell them soon.
    let (mut scrapes, mut text) = (0, String::new());
    wait_until("the links are told, too", || {
        let (status, scraped) = ask(routes(&server), "GET", "/metrics");
        assert_eq!(status, 200);
        (scrapes, text) = (scrapes + 1, scraped);
        text.contains("\nproscenium_peer_links{")
    });
    let requests = format!("proscenium_api_http_requests_total {scrapes}");
    for line in [
        "proscenium_api_handled_total 1",
        "proscenium_api_running 0",
        &requests,
        "proscenium_peer_links{peer=\"play \\\"1\\\"\"} 1",
        "proscenium_peer_messages_in_total{peer=\"play \\\"1\\\"\"} 1",
        "proscenium_links_ended_total{reason=\"handover\"} 0",
        "proscenium_connections{shard=\"0\"} 1",
        "# EOF",
    ] {
        assert!(
            text.lines().any(|one| one == line),
            "no {line:?} in\n{text}"
        );
    }
    // Every metric is described once.
    let mut described: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .collect();
    let count = described.len();
    described.sort_unstable();
    described.dedup();
    assert!(described.len() == count && count > 50, "{count}");
}

#[test]
fn an_address_in_use_is_an_error() {
    let taken = std::net::TcpListener::bind(any()).unwrap();
    let http = Http::new(taken.local_addr().unwrap(), Router::new());
    let error = api("api-1").http(http).start().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
}

#[test]
fn a_route_that_blocks_its_thread_does_not_keep_the_server_from_ending() {
    let (began, begins) = channel();
    let (release, released) = channel::<()>();
    let parts = Arc::new(Mutex::new((began, released)));
    let route = move || {
        let parts = Arc::clone(&parts);
        async move {
            let (began, released) = &*parts.lock().unwrap();
            began.send(()).unwrap();
            let _ = released.recv();
            "at last"
        }
    };
    let router = Router::new().route("/", get(route));
    let server = api("api-1").http(Http::new(any(), router)).start().unwrap();
    let at = routes(&server);
    let mut client = TcpStream::connect(at).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .unwrap();
    begins.recv_timeout(PATIENCE).unwrap();
    let (ended, ends) = channel();
    std::thread::spawn(move || ended.send(server.shutdown(Duration::from_millis(400))));
    ends.recv_timeout(PATIENCE).expect("the shutdown ends");
    drop(release);
}
