//! Many requests at once: each is answered, once, and nothing is left. Answers once had to find
//! room in the queue of the node's handle, and were lost when that was full.

#[path = "support/scripted.rs"]
mod scripted;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proscenium_nodelink::{RequestOptions, RouteHeader, SendError};
use scripted::{PATIENCE, api, asker, wait_until};

/// Requests of each node: more than its queues and those of the server have room for.
const REQUESTS: usize = 70_000;

#[test]
fn every_request_of_a_crowd_is_answered() {
    crowd(10_000);
}

#[test]
fn every_request_beyond_the_bound_is_refused() {
    crowd(10);
}

fn crowd(running_max: usize) {
    let server = api("api-1").running_max(running_max);
    let server = server.handle("Echo", |_, content| async { Ok(content) });
    let server = server.start().unwrap();
    let nodes: Vec<_> = (0..3)
        .map(|n| asker(&format!("node-{n}"), &server))
        .collect();
    let answered = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for node in &nodes {
            let (answered, refused) = (Arc::clone(&answered), Arc::clone(&refused));
            scope.spawn(move || {
                let handle = node.handle();
                let header = RouteHeader {
                    msg_id: "Echo",
                    ..RouteHeader::default()
                };
                let options = RequestOptions::within(PATIENCE);
                for number in 0..REQUESTS {
                    let payload = number.to_le_bytes();
                    loop {
                        let (answered, refused) = (Arc::clone(&answered), Arc::clone(&refused));
                        let sent = handle.request_with(
                            "api-1",
                            &header,
                            payload.to_vec(),
                            options,
                            move |reply| match reply {
                                Ok(reply) if reply.header.error_code == 0 => {
                                    let right = reply.payload == payload;
                                    answered.fetch_add(usize::from(right), Ordering::Relaxed);
                                }
                                Ok(reply) if reply.header.error_code == 14 => {
                                    refused.fetch_add(1, Ordering::Relaxed);
                                }
                                _ => {}
                            },
                        );
                        match sent {
                            Ok(()) => break,
                            Err(SendError::Full) => std::thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    let done = || answered.load(Ordering::Relaxed) + refused.load(Ordering::Relaxed);
    wait_until("all are answered", || done() == nodes.len() * REQUESTS);
    wait_until("all are over", || server.stats().running == 0);
    let stats = server.stats();
    assert_eq!(stats.replies_lost, 0, "{stats:?}");
    assert_eq!(stats.handled as usize, answered.load(Ordering::Relaxed));
    assert_eq!(stats.refused_full as usize, refused.load(Ordering::Relaxed));
    assert!(server.shutdown(PATIENCE).is_clean());
}
