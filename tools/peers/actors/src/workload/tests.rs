use super::*;

/// Two counters to whom `told` goes, the second of each pair being the counter.
fn verified(told: &[(u64, u32)], sent: u64) -> Result<(), String> {
    let ledger = Arc::new(Ledger::default());
    let mut counters = [0, 1].map(|index| Counter::new(index, &ledger));
    for &(message, to) in told {
        counters[to as usize].take(message);
    }
    assert_eq!(ledger.processed(), told.len() as u64);
    drop(counters);
    ledger.verify(2, sent)
}

#[test]
fn what_was_told_and_seen_agrees() {
    assert_eq!(verified(&[], 0), Ok(()));
    assert_eq!(verified(&[(1, 0)], 1), Ok(()));
    assert_eq!(
        verified(&[(1, 0), (2, 1), (3, 0), (4, 1), (5, 0)], 5),
        Ok(())
    );
}

#[test]
fn every_fault_is_found() {
    for (fault, told, sent) in [
        ("lost", &[(1, 0), (2, 1), (3, 0)][..], 4),
        (
            "lost and another doubled",
            &[(1, 0), (2, 1), (2, 1), (3, 0)],
            4,
        ),
        ("doubled", &[(1, 0), (2, 1), (2, 1)], 2),
        ("altered", &[(1, 0), (3, 1)], 2),
        ("at the wrong actor", &[(1, 0), (2, 0)], 2),
        ("out of order", &[(3, 0), (2, 1), (1, 0), (4, 1)], 4),
    ] {
        let error = verified(told, sent).expect_err(fault);
        assert!(error.contains("was told"), "{fault}: {error}");
    }
}

#[test]
fn a_missing_or_second_report_is_found() {
    let ledger = Arc::new(Ledger::default());
    drop(Counter::new(0, &ledger));
    assert!(ledger.verify(2, 0).unwrap_err().contains("1 of 2"));
    drop(Counter::new(0, &ledger));
    assert!(ledger.verify(2, 0).unwrap_err().contains("actor 1"));
}

#[test]
fn sums_hold_beyond_64_bits() {
    let (first, step, count) = (1 << 62, 1 << 60, 9);
    let mut seen = Tally::default();
    for message in (0..count).map(|i| first + i * step) {
        seen.take(message);
    }
    assert_eq!(seen, Tally::expected(first, step, count));
}

#[test]
fn players_return_rest_and_leave() {
    let court = Arc::new(Court::default());
    let [mut zero, mut one] = Player::pair(&court, false);
    court.play_until(4);
    assert_eq!(zero.receive(1), Play::Return(2));
    assert_eq!(one.receive(2), Play::Return(3));
    assert_eq!(zero.receive(3), Play::Return(4));
    assert_eq!(one.receive(4), Play::Rest);
    assert_eq!(zero.receive(LEAVE), Play::Leave);
    drop((zero, one));
    assert_eq!((court.left(), court.verify(4)), (2, Ok(())));
    assert!(court.verify(6).is_err());
    assert_eq!(court.apart(), None);
}

#[test]
fn players_notice_whether_they_share_a_thread() {
    let play = |elsewhere: bool| {
        let court = Arc::new(Court::default());
        let [mut zero, mut one] = Player::pair(&court, true);
        court.play_until(1 << 20);
        let half = move |player: &mut Player| {
            for message in 1..=LOOK_EVERY * 10 {
                player.receive(message);
            }
        };
        half(&mut zero);
        if elsewhere {
            std::thread::spawn(move || half(&mut one)).join().unwrap();
        } else {
            half(&mut one);
        }
        court.apart()
    };
    assert_eq!(play(false), Some(0.0));
    assert_eq!(play(true), Some(1.0));
}

#[test]
fn phases_end_by_number_or_by_time() {
    let mut pace = Pace::begin(Amount::Messages(5), 2);
    let batches: Vec<_> = std::iter::from_fn(|| pace.next_batch()).collect();
    assert_eq!((batches, pace.end().messages), (vec![2, 2, 1], 5));

    let mut pace = Pace::begin(Amount::For(Duration::ZERO), 7);
    assert_eq!((pace.next_batch(), pace.next_batch()), (Some(7), None));
    let mut pace = Pace::begin(Amount::For(Duration::from_secs(3600)), 7);
    assert_eq!((pace.next_batch(), pace.next_batch()), (Some(7), Some(7)));
    assert_eq!(Pace::begin(Amount::Messages(0), 2).next_batch(), None);
}

#[test]
fn the_state_of_an_idle_actor_is_as_large_as_the_page_says() {
    assert_eq!(size_of::<Counter>(), 48); // tools/peers/README.md
}
