//! Handlers of API servers: what they answer, when they fail, and how many there may be.

#[path = "support/scripted.rs"]
mod scripted;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proscenium_nodelink::directory::StaticDirectory;
use proscenium_nodelink::{Endpoint, RequestOptions, RouteHeader};
use proscenium_play::api::{ApiCx, ApiServer, Policy, To};
use proscenium_play::{Content, ErrorCode, Failure, Proto, Result};
use proscenium_stages::Reply;
use scripted::{PATIENCE, any, api, ask, asker, options, wait_routable, wait_until};

fn answer(code: u32, id: &str, payload: &str) -> (u32, String, String) {
    (code, id.to_owned(), payload.to_owned())
}

async fn greet(cx: ApiCx, request: Content) -> Result<Content> {
    let name = std::str::from_utf8(&request.payload)?;
    let from = cx.from();
    Ok(Content::new("Greeting", format!("hello {name} of {from}")))
}

#[test]
fn handlers_answer() {
    let (noted, notes) = channel();
    let noted = Mutex::new(noted);
    let server = api("api-1")
        .handle("Greet", greet)
        .handle("Ping", |_, _| async { Ok(()) })
        .handle(String::from("Note"), move |cx: ApiCx, content| {
            let _ = noted.lock().unwrap().send((cx.is_request(), content));
            async { Ok(()) }
        })
        .handle_proto("Double", |_, number: u32| async move {
            Ok(Content::new("Doubled", Proto(&(number * 2))))
        });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    let greeting = answer(0, "Greeting", "hello arthur of other");
    assert_eq!(ask(&node, "api-1", "Greet", "arthur"), greeting);
    assert_eq!(ask(&node, "api-1", "Ping", "x"), answer(0, "Ping", ""));
    // `u32` is the well-known type `google.protobuf.UInt32Value`: field 1, a varint.
    let doubled = answer(0, "Doubled", "\x08\x2a");
    assert_eq!(ask(&node, "api-1", "Double", "\x08\x15"), doubled);
    let header = RouteHeader {
        msg_id: "Note",
        ..RouteHeader::default()
    };
    node.handle().send("api-1", &header, "text").unwrap();
    let (is_request, content) = notes.recv_timeout(PATIENCE).unwrap();
    assert!(!is_request);
    assert_eq!(content, Content::new("Note", "text"));
    wait_until("all are over", || server.stats().running == 0);
    let stats = server.stats();
    assert_eq!((stats.handled, stats.running_bytes), (4, 0), "{stats:?}");
    assert!(server.shutdown(Duration::MAX).is_clean());
}

#[derive(Debug)]
struct NoGold;

impl std::fmt::Display for NoGold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no gold")
    }
}

impl std::error::Error for NoGold {}

#[test]
fn failures_are_answered() {
    let server = api("api-1")
        .handle("Fail", |_, _| async { Err::<(), _>(Failure::new("no")) })
        .handle("Parse", |_, content: Content| async move {
            let _: u32 = std::str::from_utf8(&content.payload)?.parse()?;
            Ok(())
        })
        .handle("Coded", |_, _| async {
            Err::<(), _>(Failure::code(1234).with("Why", "poor"))
        })
        .handle("PassedOn", |_, _| async { Ok(Err::<(), _>(ErrorCode(8))?) })
        .handle("Mapped", |_, _| async { Ok(Err::<(), _>(NoGold)?) })
        .map_errors(|error| error.is::<NoGold>().then_some(ErrorCode(2000)))
        .handle("Panic", |_, _| async {
            Ok(Vec::<Content>::new().remove(0))
        })
        .handle("PanicAtOnce", |_, content| {
            assert!(content.payload.is_empty(), "a payload");
            async { Ok(()) }
        })
        .handle_proto("Typed", |_, _: String| async { Ok(()) });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    let ask = |msg_id, payload| ask(&node, "api-1", msg_id, payload);
    for _ in 0..3 {
        assert_eq!(ask("Fail", ""), answer(15, "Fail", ""));
        assert_eq!(ask("Parse", "seven"), answer(15, "Parse", ""));
        assert_eq!(ask("Parse", "7"), answer(0, "Parse", ""));
        assert_eq!(ask("Coded", ""), answer(1234, "Why", "poor"));
        assert_eq!(ask("PassedOn", ""), answer(8, "PassedOn", ""));
        assert_eq!(ask("Mapped", ""), answer(2000, "Mapped", ""));
        assert_eq!(ask("Panic", ""), answer(15, "Panic", ""));
        assert_eq!(ask("PanicAtOnce", "x"), answer(15, "PanicAtOnce", ""));
        assert_eq!(ask("Typed", "\x0a\x05ab"), answer(11, "Typed", ""));
        assert_eq!(ask("Unknown", ""), answer(12, "Unknown", ""));
        assert_eq!(ask("CreateStageReq", ""), answer(12, "CreateStageReq", ""));
    }
    wait_until("all are over", || server.stats().running == 0);
    let stats = server.stats();
    assert_eq!((stats.panics, stats.unknown, stats.invalid), (6, 6, 3));
    assert_eq!(stats.handled, 27);
}

#[test]
fn too_many_are_refused_and_others_go_on() {
    let gates = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&gates);
    let server = api("api-1").running_max(2).handle("Wait", move |_, _| {
        let (open, gate) = Reply::<()>::pair();
        kept.lock().unwrap().push(open);
        async move { Ok(gate.await?) }
    });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    let header = RouteHeader {
        msg_id: "Wait",
        ..RouteHeader::default()
    };
    let options = RequestOptions::within(PATIENCE);
    let request = || node.handle().request("api-1", &header, "", options);
    let first = [request(), request()];
    wait_until("both wait", || gates.lock().unwrap().len() == 2);
    assert_eq!(request().wait().unwrap().error_code, 14);
    assert_eq!(server.stats().refused_full, 1);
    for open in gates.lock().unwrap().drain(..) {
        open.send(()).unwrap();
    }
    for request in first {
        assert_eq!(request.wait().unwrap().error_code, 0);
    }
    // The answer may be here before the place is free.
    wait_until("both are over", || server.stats().running == 0);
    let again = request();
    wait_until("it waits", || gates.lock().unwrap().len() == 1);
    gates.lock().unwrap().clear(); // dropped: the handler fails
    assert_eq!(again.wait().unwrap().error_code, 15);
}

#[test]
fn payloads_that_are_too_much_together_are_refused() {
    let gates = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&gates);
    let server = api("api-1")
        .running_bytes_max(1000)
        .handle("Wait", move |_, _| {
            let (open, gate) = Reply::<()>::pair();
            kept.lock().unwrap().push(open);
            async move { Ok(gate.await?) }
        });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    let header = RouteHeader {
        msg_id: "Wait",
        ..RouteHeader::default()
    };
    let options = RequestOptions::within(PATIENCE);
    let request = |bytes| {
        node.handle()
            .request("api-1", &header, vec![7; bytes], options)
    };
    // A single one is taken whatever its length.
    let long = request(2000);
    wait_until("it waits", || gates.lock().unwrap().len() == 1);
    assert_eq!(server.stats().running_bytes, 2000);
    assert_eq!(request(1).wait().unwrap().error_code, 14);
    gates.lock().unwrap().clear();
    assert_eq!(long.wait().unwrap().error_code, 15);
}

#[test]
fn handlers_end_at_their_deadline() {
    struct Told(std::sync::mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (told, dropped) = channel();
    let told = Mutex::new(told);
    let server = api("api-1")
        .handler_deadline(Duration::from_millis(100))
        .handle("Forever", move |_, _| {
            let told = Told(told.lock().unwrap().clone());
            async move {
                std::future::pending::<()>().await;
                drop(told);
                Ok(())
            }
        });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    assert_eq!(ask(&node, "api-1", "Forever", ""), answer(1, "Forever", ""));
    dropped.recv_timeout(PATIENCE).unwrap();
    wait_until("it is over", || server.stats().running == 0);
    assert_eq!(server.stats().timed_out, 1);
}

#[test]
fn what_an_executor_drops_is_answered() {
    let spawned = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&spawned);
    let server = api("api-1")
        .spawn_by(move |handler| {
            drop(handler);
            if count.fetch_add(1, Ordering::SeqCst) == 1 {
                panic!("an executor that is broken");
            }
        })
        .handle("Ping", |_, _| async { Ok(()) });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    for _ in 0..3 {
        assert_eq!(ask(&node, "api-1", "Ping", ""), answer(14, "Ping", ""));
    }
    assert_eq!(spawned.load(Ordering::SeqCst), 3);
    assert_eq!(server.stats().abandoned, 3);
}

#[test]
fn handlers_of_one_service_share_its_work() {
    let directory = StaticDirectory::default();
    let ttl = Duration::from_secs(3600);
    let member = |nid: &'static str| {
        api(nid)
            .service(7)
            .directory(directory.clone(), ttl)
            .handle(
                "Who",
                move |_, _| async move { Ok(Content::new("Me", nid)) },
            )
            .start()
            .unwrap()
    };
    let members = ["a", "b", "c"].map(member);
    let asking = api("asking")
        .directory(directory.clone(), ttl)
        .start()
        .unwrap();
    let sender = asking.sender();
    wait_until("all are reached", || sender.node().candidates(7).len() == 3);
    let who = |to: To<'_>| {
        let content = sender.request_to_api(to, "Who", ()).wait().unwrap();
        String::from_utf8(content.payload.to_vec()).unwrap()
    };
    let mut turns: Vec<_> = (0..6).map(|_| who(To::service(7))).collect();
    turns.sort();
    assert_eq!(turns, ["a", "a", "b", "b", "c", "c"]);
    let mine = who(To::service(7).by_key(b"account 7"));
    for _ in 0..5 {
        assert_eq!(who(To::service(7).by_key(b"account 7")), mine);
    }
    assert_eq!(who(To::from("b")), "b");
    who(To::service(7).by(Policy::LeastPending));
    who(To::service(7).by(Policy::Weighted));
    let nobody = sender.request_to_api(To::service(8), "Who", ()).wait();
    assert_eq!(nobody, Err(ErrorCode::SERVER_NOT_FOUND));
    assert_eq!(
        sender.choose(8, Policy::Weighted),
        Err(ErrorCode::SERVER_NOT_FOUND)
    );

    // One that is about to end is not chosen any more, and still reached by its name.
    let [a, b, c] = members;
    let ends = std::thread::spawn(move || a.shutdown(PATIENCE));
    wait_until("it is not chosen", || {
        sender.node().candidates(7).len() == 2
    });
    let mut turns: Vec<_> = (0..4).map(|_| who(To::service(7))).collect();
    turns.sort();
    assert_eq!(turns, ["b", "b", "c", "c"]);
    assert!(ends.join().unwrap().is_clean());
    wait_until("it is withdrawn", || directory.servers().len() == 3);
    drop((b, c));
}

#[test]
fn servers_ask_each_other_from_their_handlers() {
    let back = api("back").handle("Number", |_, _| async { Ok(Content::new("Is", "42")) });
    let back = back.start().unwrap();
    let front = ApiServer::builder(options("front"))
        .bind(any())
        .connect(Endpoint::new(back.local_addrs()[0].clone()))
        .handle("Ask", |cx, _| async move {
            let number = cx.request_to_api("back", "Number", ()).await?;
            Ok(Content::new("Asked", number.payload))
        })
        .handle("AskWrongly", |cx, _| async move {
            Ok(cx.request_to_api("back", "None", ()).await?)
        })
        .handle("AskNobody", |cx, _| async move {
            Ok(cx.request_to_api("nobody", "Number", ()).await?)
        });
    let front = front.start().unwrap();
    wait_routable(front.sender().node(), "back");
    let node = asker("other", &front);
    assert_eq!(ask(&node, "front", "Ask", ""), answer(0, "Asked", "42"));
    assert_eq!(
        ask(&node, "front", "AskWrongly", ""),
        answer(12, "AskWrongly", "")
    );
    assert_eq!(
        ask(&node, "front", "AskNobody", ""),
        answer(2, "AskNobody", "")
    );
}

#[test]
fn what_cannot_work_does_not_start() {
    let twice = api("x").handle("A", |_, _| async { Ok(()) });
    let twice = twice.handle("A", |_, _| async { Ok(()) });
    assert!(
        twice
            .start()
            .unwrap_err()
            .to_string()
            .contains("two handlers for A")
    );
    let system = api("x").handle("TimerMsg", |_, _| async { Ok(()) });
    assert!(system.start().is_err());
    assert!(
        api("x")
            .handle("", |_, _| async { Ok(()) })
            .start()
            .is_err()
    );
    assert!(api("x").running_max(0).start().is_err());
    let beyond: std::net::SocketAddr = "0.0.0.0:0".parse().unwrap();
    assert!(
        ApiServer::builder(options("x"))
            .bind(beyond)
            .start()
            .is_err()
    );
}
