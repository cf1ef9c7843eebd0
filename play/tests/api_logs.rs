//! What API servers log: failures of handlers, each with its message id.

#[path = "support/scripted.rs"]
mod scripted;

use std::fmt::{Debug, Write};
use std::sync::Mutex;

use proscenium_play::{Content, Failure};
use scripted::{api, ask, asker, wait_until};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Lines of all that is logged: level, then the fields.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("proscenium_play")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LINES.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

#[test]
fn failures_of_handlers_are_logged_with_their_message_ids() {
    tracing::subscriber::set_global_default(Lines).unwrap();
    let server = api("api-1")
        .handle("Buy", |_, _| async {
            Err::<(), _>(Failure::new("no gold"))
        })
        .handle("Sell", |_, _| async {
            Err::<(), _>(Failure::code(1234).with("Why", "poor"))
        })
        .handle("Break", |_, _| async {
            Ok(Vec::<Content>::new().remove(0))
        })
        .handle("Fine", |_, _| async { Ok(()) });
    let server = server.start().unwrap();
    let node = asker("other", &server);
    for (msg_id, code) in [("Buy", 15), ("Sell", 1234), ("Break", 15), ("Fine", 0)] {
        assert_eq!(ask(&node, "api-1", msg_id, "").0, code, "{msg_id}");
    }
    wait_until("all are over", || server.stats().running == 0);
    let lines = LINES.lock().unwrap().clone();
    let of = |msg_id: &str| -> Vec<&String> {
        let named = lines.iter().filter(|line| line.contains(msg_id));
        named.collect()
    };
    // What the handler meant is no fault of the server.
    for (msg_id, level, says) in [
        ("Buy", "WARN", "no gold"),
        ("Sell", "DEBUG", "1234"),
        ("Break", "ERROR", "panicked"),
    ] {
        let [line] = of(msg_id)[..] else {
            panic!("{msg_id}: {lines:#?}");
        };
        assert!(line.starts_with(level) && line.contains(says), "{line}");
    }
    assert!(of("Fine").is_empty(), "{lines:#?}");
}
