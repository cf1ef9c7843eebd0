//! Requests whose time is over, each with the time-out of its own.

mod support;

use std::sync::mpsc;
use std::time::Duration;

use proscenium_connector::{ErrorCode, RequestError};
use support::{PATIENCE, Peer, Server, pump_until};

const SHORT: Duration = Duration::from_millis(30);

/// Takes everything, and answers nothing but `Answer`.
fn reticent(mut peer: Peer) -> usize {
    peer.accept_credentials();
    let mut ignored = 0;
    while let Some(received) = peer.read() {
        match &*received.id {
            "Answer" => peer.answer(&received, 0, b"yes"),
            _ => ignored += 1,
        }
    }
    ignored
}

#[test]
fn a_request_may_have_a_time_out_of_its_own() {
    let server = Server::once(reticent);
    let connector = server.client(); // with a minute for every request
    let patient = connector.request(1, "Ignored", b"");
    // The one that was made later is over first.
    let error = connector.request_within(SHORT, 1, "Ignored", b"").wait();
    let error = error.expect_err("nobody answers");
    let timed_out = (&RequestError::Timeout, ErrorCode::CONNECTOR_REQUEST_TIMEOUT);
    assert_eq!((&error, error.code()), timed_out);
    let (told, called) = mpsc::channel();
    let callback = move |answer| drop(told.send(answer));
    connector
        .request_within_with(SHORT, 1, "Ignored", b"", callback)
        .expect("sent");
    let mut answer = None;
    pump_until(&connector, || {
        answer = called.try_recv().ok();
        answer.is_some()
    });
    assert_eq!(answer, Some(Err(RequestError::Timeout)));
    // That took none of the others' time, and nothing from the connection.
    let answer = connector.request_within(PATIENCE, 1, "Answer", b"").wait();
    assert_eq!(answer.expect("an answer").payload, b"yes");
    assert_eq!(connector.unknown_answers(), 0);
    connector.disconnect();
    assert_eq!(
        patient.wait().expect_err("gone"),
        RequestError::Disconnected
    );
    assert_eq!(server.join(), 3);
}

#[test]
fn a_time_out_may_be_longer_than_that_of_the_others() {
    let server = Server::once(|mut peer: Peer| {
        let mut kept = Vec::new();
        while let Some(received) = peer.read() {
            match &*received.id {
                support::AUTH => peer.answer(&received, 0, b"welcome"),
                // Then the other one is over, whatever the machine is busy with.
                "Last" => peer.answer(&kept[0], 0, b"late"),
                _ => kept.push(received),
            }
        }
        kept.len()
    });
    let builder = server.builder().request_timeout(SHORT);
    let connector = builder.build().expect("a connector");
    connector.connect().wait().expect("connected");
    // The short time is for this, too: until it is enough once.
    while let Err(error) = connector.authenticate(1, support::AUTH, b"token").wait() {
        assert_eq!(error, RequestError::Timeout);
    }
    let late = connector.request_within(PATIENCE, 1, "Late", b"");
    let lost = connector.request(1, "Lost", b"");
    assert_eq!(lost.wait().expect_err("lost"), RequestError::Timeout);
    connector.send(1, "Last", b"").expect("sent");
    assert_eq!(late.wait().expect("an answer").payload, b"late");
    drop(connector);
    assert_eq!(server.join(), 2);
}

#[test]
fn no_time_is_over_at_once_and_no_time_out_is_too_long() {
    let server = Server::once(reticent);
    let connector = server.client();
    let none = connector.request_within(Duration::ZERO, 1, "Ignored", b"");
    assert_eq!(none.wait().expect_err("over"), RequestError::Timeout);
    let long = connector.request_within(Duration::MAX, 1, "Answer", b"");
    assert_eq!(long.wait().expect("an answer").payload, b"yes");
    drop(connector);
    assert_eq!(server.join(), 1);
}
