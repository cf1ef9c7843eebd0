//! A rolling restart under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use proscenium_nodelink::directory::{Directory, ServerInfo, ServerType};
use proscenium_nodelink::routing::RoundRobin;
use proscenium_nodelink::{
    Node, NodeContext, NodeHandle, NodeHandler, NodeMessage, ReplyTo, Request, RequestOptions,
};

use super::{PATIENCE, any, header, options, wait_until};

const SERVICE: u16 = 7;
/// So many ask at the same time.
const THREADS: u64 = 2;
const RESTARTS: u64 = 4;

/// Has another thread answer, so that some requests are always under way.
struct Late {
    work: Sender<(NodeHandle, ReplyTo, Vec<u8>)>,
    handled: Arc<AtomicU64>,
}

impl Late {
    fn new(handled: &Arc<AtomicU64>) -> Self {
        let (work, taken) = channel::<(NodeHandle, ReplyTo, Vec<u8>)>();
        // It ends with the handler.
        std::thread::spawn(move || {
            for (node, reply_to, payload) in taken {
                node.reply(reply_to, &header("Late"), payload).unwrap();
            }
        });
        let handled = Arc::clone(handled);
        Self { work, handled }
    }
}

impl NodeHandler<()> for Late {
    fn on_message(&mut self, cx: &mut NodeContext<'_, '_, ()>, message: NodeMessage<'_>) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        let reply_to = message.reply_to.expect("requests are sent");
        let work = (cx.node().handle(), reply_to, message.payload.to_vec());
        self.work.send(work).unwrap();
    }
}

/// What has become of the requests of one thread.
#[derive(Default)]
struct Outcome {
    answered: u64,
    /// Nobody had taken them.
    refused: u64,
    /// They were taken, and the link was lost.
    failed: u64,
}

/// Asks, with a window, until `over`, and then once more until everything has an end.
fn ask(node: &NodeHandle, over: &AtomicBool, asked: &AtomicU64) -> Outcome {
    let mut turns = RoundRobin::default();
    let mut outcome = Outcome::default();
    let mut window: Vec<(u64, Request)> = Vec::new();
    let mut end = |window: &mut Vec<(u64, Request)>, most: usize| {
        while window.len() > most {
            let (number, request) = window.remove(0);
            match request.wait() {
                Ok(reply) => {
                    assert_eq!(&reply.payload[..], number.to_string().as_bytes());
                    outcome.answered += 1;
                }
                Err(proscenium_nodelink::RequestError::Send(_)) => outcome.refused += 1,
                Err(proscenium_nodelink::RequestError::LinkLost) => outcome.failed += 1,
                Err(other) => panic!("request {number}: {other}"),
            }
        }
    };
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        let candidates = node.candidates(SERVICE);
        let Some(server) = turns.pick(&candidates) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        number += 1;
        let payload = number.to_string();
        let options = RequestOptions::within(PATIENCE);
        let request = node.request(&server.nid, &header("Ask"), payload, options);
        window.push((number, request));
        asked.fetch_add(1, Ordering::Relaxed);
        end(&mut window, 16);
    }
    end(&mut window, 0);
    assert_eq!(outcome.answered + outcome.refused + outcome.failed, number);
    outcome
}

/// Servers come and go, one after the other, while two threads ask without a pause.
pub fn rolling_restart(directory: &(impl Directory + Clone + 'static)) {
    let handled = Arc::new(AtomicU64::new(0));
    let start = |number: u64| {
        let nid = format!("play-{number}");
        let node = Node::builder(options(&nid)).bind(any());
        let mut node = node.start(Late::new(&handled)).unwrap();
        let address = node.local_addrs()[0].clone();
        let server = ServerInfo::new(node.nid().clone(), address, ServerType::Play, SERVICE);
        node.join(directory.clone(), server, Duration::from_secs(15))
            .unwrap();
        node
    };
    let client = Node::builder(options("api-1"))
        .start(super::Echo::default())
        .unwrap();
    let handle = client.handle();
    let watch = handle.follow(directory).unwrap();
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| ask(&handle, &over, &asked)))
            .collect();
        let mut serving = start(0);
        for number in 1..=RESTARTS {
            let next = start(number);
            let reached = || {
                handle
                    .candidates(SERVICE)
                    .iter()
                    .any(|one| one.nid == *next.nid())
            };
            wait_until("the new one is chosen", reached);
            let before = asked.load(Ordering::Relaxed);
            wait_until("both work", || asked.load(Ordering::Relaxed) > before + 200);
            let report = serving.shutdown(PATIENCE);
            // Connections may be closed by the other end at the same time.
            let lost = [report.bytes_lost, report.work_lost, report.mailbox_lost];
            assert_eq!(lost, [0; 3], "{report}");
            serving = next;
        }
        over.store(true, Ordering::Relaxed);
        let outcomes = threads.into_iter().map(|thread| thread.join().unwrap());
        let outcomes: Vec<Outcome> = outcomes.collect();
        drop(serving);
        outcomes
    });
    drop(watch);
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (answered, failed) = (sum(|one| one.answered), sum(|one| one.failed));
    assert!(answered >= 800, "only {answered} were answered");
    // What a server has begun, it has answered.
    assert_eq!(handled.load(Ordering::Relaxed), answered);
    // Each thread may have chosen a server just before that said it leaves, and asked it after it
    // had left.
    let most = THREADS * RESTARTS;
    assert!(failed <= most, "{failed} of {answered} were lost");
}
