//! The mailbox with real threads and real queues. `loom_mailbox.rs` covers the interleavings.
#![cfg(not(loom))]

use proscenium_engine::mailbox::{Consumer, Mailbox, PushError, ShardWaker, Wake};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Stands in for the driver's eventfd: stays signalled until it is read.
#[derive(Clone, Default)]
struct Eventfd(Arc<(Mutex<bool>, Condvar)>);

impl Wake for Eventfd {
    fn wake(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_one();
    }
}

impl Eventfd {
    fn wait(&self) {
        let mut signalled = self.0.0.lock().unwrap();
        while !*signalled {
            signalled = self.0.1.wait(signalled).unwrap();
        }
        *signalled = false;
    }
}

fn mailbox<T>(capacity: usize) -> (Arc<Mailbox<T>>, Consumer<T>) {
    Mailbox::new(capacity, Box::new(Eventfd::default()))
}

/// Only ends a test that hangs; no test that passes comes near it.
fn much_later() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn drain<T>(consumer: &mut Consumer<T>) -> Vec<T> {
    std::iter::from_fn(|| consumer.pop()).collect()
}

fn tokens<T>(consumer: &mut Consumer<T>) -> Vec<u64> {
    let mut tokens = Vec::new();
    consumer.drain_wakes(|token| tokens.push(token));
    tokens
}

#[test]
fn threads_share_a_sleeping_consumer_and_each_keeps_its_order() {
    const PRODUCERS: usize = 4;
    const ITEMS: usize = 20_000;
    let eventfd = Eventfd::default();
    let (mailbox, mut consumer) = Mailbox::new(64, Box::new(eventfd.clone()));
    let woken = Arc::new(AtomicUsize::new(0));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|id| {
            let (mailbox, woken) = (Arc::clone(&mailbox), Arc::clone(&woken));
            thread::spawn(move || {
                let waker = mailbox.waker(id as u64);
                for n in 0..ITEMS {
                    match n % 100 {
                        98 => mailbox.push_control((id, n)),
                        99 => {
                            woken.fetch_add(1, Ordering::Relaxed);
                            waker.wake();
                        }
                        _ => mailbox.push_deadline((id, n), much_later()).unwrap(),
                    }
                }
            })
        })
        .collect();

    let (mut next, mut next_control) = ([0; PRODUCERS], [98; PRODUCERS]);
    let (mut got, mut seen_woken) = (0, 0);
    let wakes_expected = PRODUCERS * ITEMS / 100;
    while got < PRODUCERS * (ITEMS - ITEMS / 100) || seen_woken < wakes_expected {
        while let Some((id, n)) = consumer.pop_control() {
            assert_eq!(n, next_control[id]);
            next_control[id] += 100;
            got += 1;
        }
        for _ in 0..32 {
            let Some((id, n)) = consumer.pop() else { break };
            assert_eq!(n, next[id]);
            next[id] = if n % 100 == 97 { n + 3 } else { n + 1 };
            got += 1;
        }
        // Every count that came before a wake is seen in the run of it.
        consumer.drain_wakes(|_| seen_woken = woken.load(Ordering::Relaxed));
        if consumer.is_empty() && consumer.prepare_sleep() {
            // All may be done already: then nobody is left to wake us, and nothing is missing.
            if got == PRODUCERS * (ITEMS - ITEMS / 100) && seen_woken == wakes_expected {
                break;
            }
            eventfd.wait();
            consumer.awake();
        }
    }
    for producer in producers {
        producer.join().unwrap();
    }
    // A waker whose count was seen in another's run may come after it.
    assert!(tokens(&mut consumer).len() <= PRODUCERS);
    assert!(consumer.is_empty());
}

#[test]
fn full_gives_the_item_back_and_recovers() {
    let (mailbox, mut consumer) = mailbox(2);
    mailbox.try_push(Box::new(1)).unwrap();
    mailbox.try_push(Box::new(2)).unwrap();
    let refused = mailbox.try_push(Box::new(3));
    assert!(matches!(&refused, Err(PushError::Full(item)) if **item == 3));
    assert_eq!(mailbox.len(), 2);
    assert_eq!(consumer.pop(), Some(Box::new(1)));
    mailbox.try_push(refused.unwrap_err().into_inner()).unwrap();
    assert_eq!(drain(&mut consumer), [Box::new(2), Box::new(3)]);
    assert!(mailbox.is_empty());
}

#[test]
fn control_and_wakes_need_no_room() {
    let (mailbox, mut consumer) = mailbox(1);
    mailbox.try_push(0).unwrap();
    let wakers: Vec<ShardWaker> = (0..100).map(|token| mailbox.waker(token)).collect();
    for n in 1..=100 {
        mailbox.push_control(n);
    }
    wakers.iter().for_each(ShardWaker::wake);
    assert_eq!(mailbox.len(), 1);
    assert!((1..=100).all(|n| consumer.pop_control() == Some(n)));
    assert_eq!(consumer.pop_control(), None);
    assert_eq!(tokens(&mut consumer), (0..100).collect::<Vec<_>>());
    assert_eq!(consumer.pop(), Some(0));
    assert!(consumer.is_empty());
}

#[test]
fn a_deadline_ends_the_wait() {
    let (mailbox, mut consumer) = mailbox(1);
    mailbox.try_push(1).unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    assert_eq!(mailbox.push_deadline(2, deadline), Err(PushError::Full(2)));
    assert!(Instant::now() >= deadline);
    assert_eq!(
        mailbox.push_deadline(2, Instant::now()),
        Err(PushError::Full(2))
    );
    // A wait that was given up leaves the mailbox in order.
    assert_eq!(drain(&mut consumer), [1]);
    assert_eq!(mailbox.push_deadline(3, Instant::now()), Ok(()));
    assert_eq!(drain(&mut consumer), [3]);
}

#[test]
fn parked_producers_get_through_in_their_order() {
    for capacity in [1, 2, 5] {
        let (mailbox, mut consumer) = mailbox(capacity);
        let producers: Vec<_> = (0..3)
            .map(|id| {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || {
                    (0..1_000).try_for_each(|n| mailbox.push_deadline((id, n), much_later()))
                })
            })
            .collect();
        let mut next = [0; 3];
        while next != [1_000; 3] {
            match consumer.pop() {
                Some((id, n)) => {
                    assert_eq!(n, next[id]);
                    next[id] += 1;
                }
                None => thread::yield_now(),
            }
        }
        for producer in producers {
            producer.join().unwrap().unwrap();
        }
    }
}

#[test]
fn closing_ends_the_wait_and_keeps_what_was_accepted() {
    let (mailbox, mut consumer) = mailbox(1);
    mailbox.try_push(1).unwrap();
    let parked = {
        let mailbox = Arc::clone(&mailbox);
        thread::spawn(move || mailbox.push_deadline(2, much_later()))
    };
    assert!(!mailbox.is_closed());
    mailbox.close();
    assert!(consumer.mailbox().is_closed());
    assert_eq!(parked.join().unwrap(), Err(PushError::Closed(2)));
    assert_eq!(mailbox.try_push(3), Err(PushError::Closed(3)));
    mailbox.push_control(4);
    assert_eq!(drain(&mut consumer), [1]);
    assert_eq!(consumer.pop_control(), Some(4));
    assert_eq!(mailbox.lost(), 0);
}

#[test]
fn a_dropped_consumer_ends_the_wait_and_leaves_nothing_behind() {
    let (mailbox, consumer) = mailbox(1);
    let item = Arc::new(());
    mailbox.try_push(Arc::clone(&item)).unwrap();
    mailbox.push_control(Arc::clone(&item));
    let waker = mailbox.waker(1);
    waker.wake();
    let parked = {
        let (mailbox, item) = (Arc::clone(&mailbox), Arc::clone(&item));
        thread::spawn(move || mailbox.push_deadline(item, much_later()))
    };
    drop(consumer);
    // It may have got in just after the consumer emptied the lane, and dropped the item itself.
    let late = matches!(parked.join().unwrap(), Ok(()));
    mailbox.push_control(Arc::clone(&item));
    waker.wake();
    mailbox.waker(2).wake();
    assert_eq!(
        mailbox.try_push(Arc::clone(&item)).map_err(drop_item),
        Err(())
    );
    assert_eq!(Arc::strong_count(&item), 1);
    assert_eq!(mailbox.lost(), 3 + u64::from(late));
    assert_eq!(mailbox.wakes(), 0);
}

fn drop_item<T>(refused: PushError<T>) {
    assert!(matches!(refused, PushError::Closed(_)));
}

#[test]
fn one_wake_per_batch_and_none_while_awake() {
    let (mailbox, mut consumer) = mailbox(8);
    let waker = mailbox.waker(7);
    mailbox.try_push(1).unwrap();
    mailbox.push_control(2);
    waker.wake();
    assert_eq!(mailbox.wakes(), 0, "the consumer begins awake");
    assert!(!consumer.prepare_sleep(), "there is work");
    mailbox.try_push(3).unwrap();
    assert_eq!(mailbox.wakes(), 0, "it did not go to sleep");

    drain(&mut consumer);
    assert!(!consumer.prepare_sleep(), "the control lane is work");
    assert_eq!(consumer.pop_control(), Some(2));
    assert!(!consumer.prepare_sleep(), "a wake is work");
    assert_eq!(tokens(&mut consumer), [7]);

    assert!(consumer.prepare_sleep());
    for n in 0..4 {
        mailbox.try_push(n).unwrap();
        mailbox.push_control(n);
        waker.wake();
    }
    assert_eq!(mailbox.wakes(), 1);
    consumer.awake();
    mailbox.try_push(9).unwrap();
    assert_eq!(mailbox.wakes(), 1);

    drain(&mut consumer);
    while consumer.pop_control().is_some() {}
    assert_eq!(tokens(&mut consumer), [7]);
    assert!(consumer.prepare_sleep());
    consumer.awake();
    waker.wake();
    assert_eq!(mailbox.wakes(), 1, "it woke by itself, of a timer");
    assert_eq!(tokens(&mut consumer), [7]);
    assert!(consumer.prepare_sleep());
    mailbox.close();
    assert_eq!(mailbox.wakes(), 2, "the consumer learns of the end");
}

#[test]
fn wakes_of_one_token_are_one_until_it_runs() {
    let (mailbox, mut consumer) = mailbox::<()>(1);
    let (a, b) = (mailbox.waker(1), mailbox.waker(2));
    a.wake();
    b.wake();
    a.clone().wake();
    a.wake();
    assert_eq!(tokens(&mut consumer), [1, 2]);
    assert_eq!(tokens(&mut consumer), []);
    a.wake();
    drop(a);
    assert_eq!(tokens(&mut consumer), [1], "a wake outlives its waker");
}

#[test]
fn a_wake_during_its_own_run_is_for_the_next_drain() {
    let (mailbox, mut consumer) = mailbox::<()>(1);
    let waker = mailbox.waker(3);
    waker.wake();
    for _ in 0..3 {
        let mut runs = 0;
        consumer.drain_wakes(|_| {
            runs += 1;
            waker.wake();
        });
        assert_eq!(runs, 1);
        assert!(!consumer.is_empty());
    }
}

#[test]
fn a_panic_in_a_run_keeps_the_other_wakes() {
    let (mailbox, mut consumer) = mailbox::<()>(1);
    let wakers: Vec<_> = (0..3).map(|token| mailbox.waker(token)).collect();
    wakers.iter().for_each(ShardWaker::wake);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        consumer.drain_wakes(|token| assert_ne!(token, 0, "a stage that panics"));
    }));
    assert!(panicked.is_err());
    assert!(!consumer.is_empty());
    wakers[0].wake();
    assert_eq!(tokens(&mut consumer), [1, 2, 0]);
}

#[test]
#[should_panic(expected = "capacity of at least 1")]
fn a_capacity_of_zero_is_refused() {
    mailbox::<()>(0);
}
