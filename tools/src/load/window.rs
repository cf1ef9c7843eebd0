//! The rules of the exchange, without sockets: who may send when, and what an answer means.
//!
//! A connection has at most `inflight` messages outstanding (sent and not answered). While the
//! phase is warm-up or measure an answered message is replaced at once; in the drain nothing is
//! sent, and the exchange is over when nothing is outstanding. An answer with nothing outstanding
//! is a gating violation, and so would be a message sent into a full window.

use std::ops::AddAssign;

/// The phases of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Phase {
    /// Connections are being made; nothing is sent.
    Connect = 0,
    /// Load without measuring.
    Warmup = 1,
    /// Load; answers count.
    Measure = 2,
    /// Nothing is sent; what is outstanding is awaited.
    Drain = 3,
}

impl Phase {
    /// The phase as the body's first byte says it.
    pub(super) const fn to_byte(self) -> u8 {
        self as u8
    }

    /// True if messages are sent in this phase.
    pub(super) const fn sends(self) -> bool {
        matches!(self, Self::Warmup | Self::Measure)
    }
}

/// What one connection has under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Messages sent and not answered.
    outstanding: u32,
}

impl Window {
    /// Messages sent and not answered.
    pub(super) const fn outstanding(self) -> u32 {
        self.outstanding
    }
}

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// One that was awaited.
    Expected,
    /// One that nobody asked for: a gating violation.
    Unsolicited,
}

/// What happened so far; all counts of messages unless said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Sent.
    pub(super) sent: u64,
    /// Answered.
    pub(super) received: u64,
    /// Answered inside the measuring window.
    pub(super) received_in_window: u64,
    /// Answers with nothing outstanding, and messages sent into a full window.
    pub(super) gating_violations: u64,
    /// Answers whose content is not what was sent.
    pub(super) corrupt: u64,
    /// Outstanding on connections that were lost.
    pub(super) lost_messages: u64,
    /// Connections lost.
    pub(super) lost_connections: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.received_in_window += other.received_in_window;
        self.gating_violations += other.gating_violations;
        self.corrupt += other.corrupt;
        self.lost_messages += other.lost_messages;
        self.lost_connections += other.lost_connections;
    }
}

/// The exchange of one client thread.
#[derive(Debug)]
pub(super) struct Exchange {
    inflight: u32,
    /// Messages that may still be sent, over all connections.
    budget: u64,
    phase: Phase,
    outstanding: u64,
    tally: Tally,
}

impl Exchange {
    /// At most `inflight` outstanding per connection, at most `budget` messages altogether.
    pub(super) fn new(inflight: u32, budget: u64) -> Self {
        let (phase, tally) = (Phase::Connect, Tally::default());
        Self {
            inflight,
            budget,
            phase,
            outstanding: 0,
            tally,
        }
    }

    /// The current phase.
    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    /// What happened so far.
    pub(super) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Goes on to a later phase.
    pub(super) fn enter(&mut self, phase: Phase) {
        assert!(
            phase >= self.phase,
            "phases only go forward: {:?} to {phase:?}",
            self.phase
        );
        self.phase = phase;
    }

    /// How many messages may be sent on this connection now.
    #[inline]
    pub(super) fn room(&self, window: Window) -> u32 {
        if !self.phase.sends() {
            return 0;
        }
        let free = self.inflight.saturating_sub(window.outstanding);
        u32::try_from(self.budget).unwrap_or(u32::MAX).min(free)
    }

    /// A message was queued on this connection.
    #[inline]
    pub(super) fn on_sent(&mut self, window: &mut Window) {
        window.outstanding += 1;
        if window.outstanding > self.inflight {
            self.tally.gating_violations += 1;
        }
        self.outstanding += 1;
        self.budget = self.budget.saturating_sub(1);
        self.tally.sent += 1;
    }

    /// A frame arrived on this connection.
    #[inline]
    pub(super) fn on_answer(&mut self, window: &mut Window) -> Answer {
        if window.outstanding == 0 {
            self.tally.gating_violations += 1;
            return Answer::Unsolicited;
        }
        window.outstanding -= 1;
        self.outstanding -= 1;
        self.tally.received += 1;
        if self.phase == Phase::Measure {
            self.tally.received_in_window += 1;
        }
        Answer::Expected
    }

    /// The answer that arrived is not what was sent.
    pub(super) fn on_corrupt(&mut self) {
        self.tally.corrupt += 1;
    }

    /// The connection ended while it was needed; its outstanding messages are not awaited.
    pub(super) fn on_lost(&mut self, window: Window) {
        self.tally.lost_connections += 1;
        self.tally.lost_messages += u64::from(window.outstanding);
        self.outstanding -= u64::from(window.outstanding);
    }

    /// True if everything sent is answered and nothing more will be sent.
    pub(super) fn is_drained(&self) -> bool {
        let silent = self.phase == Phase::Drain || self.budget == 0;
        self.outstanding == 0 && silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDLESS: u64 = u64::MAX;

    /// Sends until the window is full; returns how many.
    fn fill(exchange: &mut Exchange, window: &mut Window) -> u32 {
        let mut sent = 0;
        while exchange.room(*window) > 0 {
            exchange.on_sent(window);
            sent += 1;
        }
        sent
    }

    #[test]
    fn nothing_is_sent_before_the_warm_up() {
        let exchange = Exchange::new(4, ENDLESS);
        assert_eq!(exchange.room(Window::default()), 0);
        assert!(!exchange.is_drained());
    }

    #[test]
    fn a_window_fills_once_and_an_answer_makes_room_for_one() {
        let mut exchange = Exchange::new(4, ENDLESS);
        let mut window = Window::default();
        exchange.enter(Phase::Warmup);
        assert_eq!(fill(&mut exchange, &mut window), 4);
        assert_eq!(fill(&mut exchange, &mut window), 0);
        assert_eq!(exchange.on_answer(&mut window), Answer::Expected);
        assert_eq!(fill(&mut exchange, &mut window), 1);
        let expected = Tally {
            sent: 5,
            received: 1,
            ..Tally::default()
        };
        assert_eq!(*exchange.tally(), expected);
    }

    #[test]
    fn windows_are_per_connection() {
        let mut exchange = Exchange::new(2, ENDLESS);
        let (mut one, mut two) = (Window::default(), Window::default());
        exchange.enter(Phase::Warmup);
        assert_eq!(fill(&mut exchange, &mut one), 2);
        assert_eq!(fill(&mut exchange, &mut two), 2);
        exchange.on_answer(&mut two);
        assert_eq!((exchange.room(one), exchange.room(two)), (0, 1));
    }

    #[test]
    fn only_answers_inside_the_window_are_measured() {
        let mut exchange = Exchange::new(10, ENDLESS);
        let mut window = Window::default();
        exchange.enter(Phase::Warmup);
        fill(&mut exchange, &mut window);
        for (phase, answers) in [(Phase::Warmup, 2), (Phase::Measure, 3), (Phase::Drain, 5)] {
            exchange.enter(phase);
            for _ in 0..answers {
                assert_eq!(exchange.on_answer(&mut window), Answer::Expected);
            }
        }
        assert_eq!(exchange.tally().received, 10);
        assert_eq!(exchange.tally().received_in_window, 3);
    }

    #[test]
    fn the_drain_sends_nothing_and_ends_with_the_last_answer() {
        let mut exchange = Exchange::new(2, ENDLESS);
        let mut window = Window::default();
        exchange.enter(Phase::Measure);
        fill(&mut exchange, &mut window);
        exchange.enter(Phase::Drain);
        assert_eq!(exchange.room(window), 0);
        exchange.on_answer(&mut window);
        assert_eq!(exchange.room(window), 0);
        assert!(!exchange.is_drained());
        exchange.on_answer(&mut window);
        assert!(exchange.is_drained());
    }

    #[test]
    fn answers_nobody_asked_for_are_violations_in_every_phase() {
        let mut exchange = Exchange::new(1, ENDLESS);
        let mut window = Window::default();
        assert_eq!(exchange.on_answer(&mut window), Answer::Unsolicited);
        exchange.enter(Phase::Measure);
        assert_eq!(exchange.on_answer(&mut window), Answer::Unsolicited);
        exchange.on_sent(&mut window);
        assert_eq!(exchange.on_answer(&mut window), Answer::Expected);
        exchange.enter(Phase::Drain);
        assert_eq!(exchange.on_answer(&mut window), Answer::Unsolicited);
        assert_eq!(exchange.tally().gating_violations, 3);
        assert_eq!(exchange.tally().received, 1, "violations are not answers");
        assert!(exchange.is_drained());
    }

    #[test]
    fn sending_into_a_full_window_is_our_own_violation() {
        let mut exchange = Exchange::new(1, ENDLESS);
        let mut window = Window::default();
        exchange.enter(Phase::Measure);
        exchange.on_sent(&mut window);
        exchange.on_sent(&mut window);
        assert_eq!(exchange.tally().gating_violations, 1);
    }

    #[test]
    fn the_budget_bounds_all_connections_together() {
        let mut exchange = Exchange::new(4, 5);
        let (mut one, mut two) = (Window::default(), Window::default());
        exchange.enter(Phase::Measure);
        assert_eq!(fill(&mut exchange, &mut one), 4);
        assert_eq!(fill(&mut exchange, &mut two), 1);
        for _ in 0..4 {
            exchange.on_answer(&mut one);
        }
        assert_eq!(fill(&mut exchange, &mut one), 0);
        assert!(!exchange.is_drained());
        exchange.on_answer(&mut two);
        assert!(
            exchange.is_drained(),
            "without a drain phase, once the budget is spent"
        );
    }

    #[test]
    fn a_lost_connection_is_counted_and_not_awaited() {
        let mut exchange = Exchange::new(3, ENDLESS);
        let (mut one, mut two) = (Window::default(), Window::default());
        exchange.enter(Phase::Measure);
        fill(&mut exchange, &mut one);
        fill(&mut exchange, &mut two);
        exchange.on_answer(&mut one);
        exchange.on_lost(one);
        exchange.enter(Phase::Drain);
        assert!(!exchange.is_drained());
        for _ in 0..3 {
            exchange.on_answer(&mut two);
        }
        assert!(exchange.is_drained());
        let tally = exchange.tally();
        assert_eq!((tally.lost_connections, tally.lost_messages), (1, 2));
        assert_eq!(tally.sent - tally.received, tally.lost_messages);
    }

    #[test]
    #[should_panic(expected = "phases only go forward")]
    fn phases_do_not_go_back() {
        let mut exchange = Exchange::new(1, ENDLESS);
        exchange.enter(Phase::Drain);
        exchange.enter(Phase::Measure);
    }
}
