//! The sleep flag, the parking of producers and the wake list, under every interleaving and every
//! memory ordering loom knows:
//! `RUSTFLAGS="--cfg loom" cargo test -p proscenium-engine --release --test loom_mailbox`
//!
//! A lost wake shows as a deadlock, which loom reports; a lost node as a leak, which it reports as
//! well. Loom has no time: a wait with a deadline waits until it is released.
#![cfg(loom)]

use loom::sync::{Arc as LoomArc, Condvar, Mutex};
use loom::thread;
use proscenium_engine::mailbox::{Consumer, Mailbox, PushError, Wake};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Stands in for the driver's eventfd: stays signalled until it is read.
#[derive(Clone)]
struct Eventfd(LoomArc<(Mutex<bool>, Condvar)>);

impl Eventfd {
    fn new() -> Self {
        Eventfd(LoomArc::new((Mutex::new(false), Condvar::new())))
    }

    fn wait(&self) {
        let mut signalled = self.0.0.lock().unwrap();
        while !*signalled {
            signalled = self.0.1.wait(signalled).unwrap();
        }
        *signalled = false;
    }
}

impl Wake for Eventfd {
    fn wake(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_one();
    }
}

/// All interleavings with at most this many switches away from a thread that could go on.
fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

fn mailbox<T>(capacity: usize) -> (Arc<Mailbox<T>>, Consumer<T>, Eventfd) {
    let eventfd = Eventfd::new();
    let (mailbox, consumer) = Mailbox::new(capacity, Box::new(eventfd.clone()));
    (mailbox, consumer, eventfd)
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

/// Takes turns until `done`, asleep in between; counts how often it said it would sleep.
fn run<T>(
    consumer: &mut Consumer<T>,
    eventfd: &Eventfd,
    mut turn: impl FnMut(&mut Consumer<T>) -> bool,
) -> u64 {
    let mut announced = 0;
    while !turn(consumer) {
        announced += 1;
        if consumer.prepare_sleep() {
            eventfd.wait();
            consumer.awake();
        }
    }
    announced
}

#[test]
fn no_push_is_slept_through() {
    model(4, || {
        let (mailbox, mut consumer, eventfd) = mailbox(2);
        let producer = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                mailbox.try_push(1).unwrap();
                mailbox.push_control(2);
            })
        };
        let mut got = Vec::new();
        let announced = run(&mut consumer, &eventfd, |consumer| {
            got.extend(consumer.pop());
            got.extend(consumer.pop_control());
            got.len() == 2
        });
        assert!(mailbox.wakes() <= announced, "more than one wake per sleep");
        producer.join().unwrap();
    });
}

#[test]
fn no_push_of_two_producers_is_slept_through() {
    model(2, || {
        let (mailbox, mut consumer, eventfd) = mailbox(2);
        let producers = [1, 2].map(|n| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.try_push(n).unwrap())
        });
        let mut got = Vec::new();
        let announced = run(&mut consumer, &eventfd, |consumer| {
            while let Some(n) = consumer.pop() {
                got.push(n);
            }
            got.len() == 2
        });
        assert!(mailbox.wakes() <= announced, "more than one wake per sleep");
        got.sort();
        assert_eq!(got, [1, 2]);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn no_wake_is_lost_and_none_runs_twice() {
    model(3, || {
        let (mailbox, mut consumer, eventfd) = mailbox::<()>(1);
        let waker = mailbox.waker(7);
        // Outside of the model's scheduling: only counts.
        let woken = Arc::new(AtomicUsize::new(0));
        let threads = [2, 1].map(|times| {
            let (waker, woken) = (waker.clone(), Arc::clone(&woken));
            thread::spawn(move || {
                for _ in 0..times {
                    woken.fetch_add(1, Ordering::Relaxed);
                    waker.wake();
                }
            })
        });
        let (mut runs, mut seen) = (0, 0);
        let announced = run(&mut consumer, &eventfd, |consumer| {
            consumer.drain_wakes(|token| {
                assert_eq!(token, 7);
                runs += 1;
                seen = woken.load(Ordering::Relaxed);
                assert!(runs <= seen, "a run without a wake");
            });
            seen == 3
        });
        assert!(mailbox.wakes() <= announced, "more than one wake per sleep");
        for thread in threads {
            thread.join().unwrap();
        }
        // A wake that was counted before the last run may still follow it, once.
        consumer.drain_wakes(|_| runs += 1);
        assert!(runs <= 3);
        consumer.drain_wakes(|_| panic!("a run without a wake"));
    });
}

#[test]
fn tokens_of_two_wakers_are_all_on_the_list() {
    model(3, || {
        let (mailbox, mut consumer, eventfd) = mailbox::<()>(1);
        let threads = [0, 1].map(|token| {
            let waker = mailbox.waker(token);
            thread::spawn(move || waker.wake())
        });
        let mut runs = [0, 0];
        run(&mut consumer, &eventfd, |consumer| {
            consumer.drain_wakes(|token| runs[token as usize] += 1);
            runs.iter().sum::<usize>() == 2
        });
        assert_eq!(runs, [1, 1]);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(consumer.is_empty());
    });
}

#[test]
fn what_was_written_before_a_wake_is_seen_by_its_run() {
    use loom::sync::atomic::AtomicUsize;
    model(3, || {
        let (mailbox, mut consumer, eventfd) = mailbox::<()>(1);
        let waker = mailbox.waker(0);
        let words = LoomArc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let threads = [0, 1].map(|i| {
            let (waker, words) = (waker.clone(), LoomArc::clone(&words));
            thread::spawn(move || {
                words[i].store(1, Ordering::Relaxed);
                waker.wake();
            })
        });
        // If a wake could be merged into an earlier one whose run does not see this wake's word,
        // this would sleep for ever.
        let mut seen = 0;
        run(&mut consumer, &eventfd, |consumer| {
            consumer.drain_wakes(|_| {
                seen = words.iter().map(|word| word.load(Ordering::Relaxed)).sum();
            });
            seen == 2
        });
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_parked_producer_is_released() {
    model(3, || {
        let (mailbox, mut consumer, eventfd) = mailbox(1);
        mailbox.try_push(0).unwrap();
        let producer = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.push_deadline(1, far_away()).unwrap())
        };
        let mut got = Vec::new();
        run(&mut consumer, &eventfd, |consumer| {
            got.extend(consumer.pop());
            got.len() == 2
        });
        assert_eq!(got, [0, 1]);
        producer.join().unwrap();
    });
}

#[test]
fn two_parked_producers_are_released() {
    model(2, || {
        let (mailbox, mut consumer, eventfd) = mailbox(1);
        mailbox.try_push(0).unwrap();
        let producers = [1, 2].map(|n| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.push_deadline(n, far_away()).unwrap())
        });
        let mut got = Vec::new();
        run(&mut consumer, &eventfd, |consumer| {
            got.extend(consumer.pop());
            got.len() == 3
        });
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn closing_releases_a_parked_producer() {
    model(3, || {
        let (mailbox, mut consumer, _eventfd) = mailbox(1);
        mailbox.try_push(0).unwrap();
        let producer = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                assert_eq!(
                    mailbox.push_deadline(1, far_away()),
                    Err(PushError::Closed(1))
                );
            })
        };
        let closer = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.close())
        };
        producer.join().unwrap();
        closer.join().unwrap();
        assert_eq!(consumer.pop(), Some(0));
        assert_eq!(consumer.pop(), None);
        assert!(!consumer.prepare_sleep(), "the close is news");
        assert!(consumer.prepare_sleep(), "once");
    });
}

#[test]
fn no_close_is_slept_through() {
    model(4, || {
        let (mailbox, mut consumer, eventfd) = mailbox::<()>(1);
        let closer = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.close())
        };
        let announced = run(&mut consumer, &eventfd, |consumer| {
            consumer.mailbox().is_closed()
        });
        assert!(mailbox.wakes() <= announced, "more than one wake per sleep");
        closer.join().unwrap();
    });
}

#[test]
fn a_push_beside_close_is_either_popped_or_refused() {
    model(2, || {
        let (mailbox, mut consumer, eventfd) = mailbox(1);
        let closer = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.close())
        };
        let producer = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.try_push(1))
        };
        let mut popped = None;
        run(&mut consumer, &eventfd, |consumer| {
            popped = popped.or(consumer.pop());
            consumer.mailbox().is_closed()
        });
        closer.join().unwrap();
        let accepted = producer.join().unwrap();
        match popped.or(consumer.pop()) {
            Some(item) => assert!(item == 1 && accepted.is_ok()),
            None => assert_eq!(accepted, Err(PushError::Closed(1))),
        }
    });
}

#[test]
fn a_dropped_consumer_leaves_nothing_behind() {
    model(4, || {
        let (mailbox, consumer, _eventfd) = mailbox(2);
        let item = Arc::new(());
        let waker = mailbox.waker(0);
        mailbox.try_push(Arc::clone(&item)).unwrap();
        waker.wake();
        let producer = {
            let (mailbox, item) = (Arc::clone(&mailbox), Arc::clone(&item));
            let other = mailbox.waker(1);
            thread::spawn(move || {
                let refused = mailbox.try_push(Arc::clone(&item)).is_err();
                mailbox.push_control(item);
                // Wakes, and drops its waker: if nobody takes the node off the list, it leaks,
                // together with the list.
                other.wake();
                refused
            })
        };
        drop(consumer);
        let refused = producer.join().unwrap();
        assert_eq!(Arc::strong_count(&item), 1, "an item outlives the consumer");
        assert_eq!(mailbox.lost(), 3 - u64::from(refused));
        assert_eq!(mailbox.wakes(), 0);
        drop(waker);
    });
}

#[test]
fn a_dropped_consumer_releases_a_parked_producer() {
    model(3, || {
        let (mailbox, consumer, _eventfd) = mailbox(1);
        mailbox.try_push(0).unwrap();
        let producer = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.push_deadline(1, far_away()).is_ok())
        };
        drop(consumer);
        let accepted = producer.join().unwrap();
        assert_eq!(mailbox.lost(), 1 + u64::from(accepted));
    });
}
