//! Servers of one service are ended and started again, one after the other, while they are asked:
//! every request is answered, or its sender told at once that it was not handled.

#[path = "support/scripted.rs"]
mod scripted;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use proscenium_nodelink::directory::StaticDirectory;
use proscenium_play::api::{ApiServer, To};
use proscenium_play::{Content, ErrorCode};
use scripted::{PATIENCE, api, wait_until};

const SERVICE: u16 = 7;
const ROUNDS: usize = 3;
const ASKERS: usize = 4;

fn member(nid: &'static str, directory: &StaticDirectory) -> ApiServer {
    let server = api(nid)
        .service(SERVICE)
        .directory(directory.clone(), Duration::from_secs(3600))
        .handle(
            "Who",
            move |_, _| async move { Ok(Content::new("Me", nid)) },
        );
    server.start().unwrap()
}

#[test]
fn a_rolling_restart_loses_no_request_silently() {
    let directory = StaticDirectory::default();
    let mut members = [member("a", &directory), member("b", &directory)];
    let ttl = Duration::from_secs(3600);
    let asking = api("asking")
        .directory(directory.clone(), ttl)
        .start()
        .unwrap();
    let candidates = || asking.sender().node().candidates(SERVICE).len();
    wait_until("both are reached", || candidates() == 2);
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let errors = std::thread::scope(|scope| {
        let asks = || {
            let sender = asking.sender();
            let mut errors = Vec::new();
            while !over.load(Ordering::Relaxed) {
                match sender
                    .request_to_api(To::service(SERVICE), "Who", ())
                    .wait()
                {
                    Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                    Err(code) => errors.push(code),
                }
            }
            errors
        };
        let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(asks)).collect();
        for _ in 0..ROUNDS {
            for slot in &mut members {
                let asked = answered.load(Ordering::Relaxed);
                wait_until("some more", || {
                    answered.load(Ordering::Relaxed) > asked + 100
                });
                let nid = if slot.node().nid().as_str() == "a" {
                    "a"
                } else {
                    "b"
                };
                let before = std::mem::replace(slot, api("gone").start().unwrap());
                assert!(before.shutdown(PATIENCE).is_clean());
                *slot = member(nid, &directory);
                wait_until("it is back", || candidates() == 2);
            }
        }
        over.store(true, Ordering::Relaxed);
        let errors = askers.into_iter().flat_map(|asker| asker.join().unwrap());
        errors.collect::<Vec<_>>()
    });
    // Who has chosen a server, and is slower to send than that is to leave, is told so: one request
    // of each asker for each server that has left, at most. Mostly there is none.
    let told = errors
        .iter()
        .all(|code| *code == ErrorCode::SERVER_NOT_FOUND);
    assert!(told && errors.len() <= ASKERS * ROUNDS * 2, "{errors:?}");
}
