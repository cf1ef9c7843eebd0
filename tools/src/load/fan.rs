//! Who gets what one client says to all in its stage.

/// Stages whose first clients speak; the clients are dealt out over the stages in turn.
#[derive(Debug)]
pub(super) struct Fan {
    stages: Vec<Crowd>,
    inflight: u64,
}

/// All clients of one stage.
#[derive(Clone, Copy, Debug, Default)]
struct Crowd {
    members: u64,
    /// Deliveries that are awaited.
    outstanding: u64,
}

impl Fan {
    /// `stages` stages, in each of which at most `inflight` messages are on their way to all.
    pub(super) fn new(stages: usize, inflight: u32) -> Self {
        Self {
            stages: vec![Crowd::default(); stages.max(1)],
            inflight: inflight.into(),
        }
    }

    /// The connection that speaks where connection `at` listens.
    #[inline]
    pub(super) fn speaker(&self, at: usize) -> usize {
        at % self.stages.len()
    }

    /// The connections of the stage in which `speaker` speaks, of `connections` in all.
    pub(super) fn crowd(
        &self,
        speaker: usize,
        connections: usize,
    ) -> impl Iterator<Item = usize> + use<> {
        (speaker..connections).step_by(self.stages.len())
    }

    /// A client of this connection is in.
    pub(super) fn on_joined(&mut self, at: usize) {
        let stage = self.speaker(at);
        self.stages[stage].members += 1;
    }

    /// The connection ended, on which `outstanding` deliveries are awaited no more.
    pub(super) fn on_lost(&mut self, at: usize, outstanding: u64) {
        let stage = self.speaker(at);
        let crowd = &mut self.stages[stage];
        crowd.members = crowd.members.saturating_sub(1);
        crowd.outstanding = crowd.outstanding.saturating_sub(outstanding);
    }

    /// True if `at` speaks and may do so now, so many times.
    #[inline]
    pub(super) fn has_room(&self, at: usize, messages: u32) -> bool {
        self.stages.get(at).is_some_and(|crowd| {
            let more = crowd.members * u64::from(messages);
            more > 0 && crowd.outstanding + more <= crowd.members * self.inflight
        })
    }

    /// A message was sent, so many deliveries of which are awaited.
    pub(super) fn on_sent(&mut self, speaker: usize, deliveries: u64) {
        self.stages[speaker].outstanding += deliveries;
    }

    /// A delivery came on this connection.
    #[inline]
    pub(super) fn on_delivered(&mut self, at: usize) {
        let stage = self.speaker(at);
        let crowd = &mut self.stages[stage];
        crowd.outstanding = crowd.outstanding.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_speaks_in_each_stage_and_all_in_it_hear() {
        let mut fan = Fan::new(2, 1);
        (0..5).for_each(|at| fan.on_joined(at));
        assert_eq!(fan.crowd(1, 5).collect::<Vec<_>>(), [1, 3]);
        assert!(fan.has_room(0, 1) && fan.has_room(1, 1) && !fan.has_room(2, 1));
        fan.on_sent(0, 3);
        assert!(!fan.has_room(0, 1) && fan.has_room(1, 1));
        for at in [0, 2] {
            fan.on_delivered(at);
        }
        assert!(!fan.has_room(0, 1));
        fan.on_lost(4, 1);
        assert!(fan.has_room(0, 1));
    }

    #[test]
    fn where_nobody_is_nobody_speaks() {
        let mut fan = Fan::new(1, 4);
        assert!(!fan.has_room(0, 1));
        fan.on_joined(0);
        assert!(fan.has_room(0, 4) && !fan.has_room(0, 5));
        for _ in 0..4 {
            assert!(fan.has_room(0, 1));
            fan.on_sent(0, 1);
        }
        assert!(!fan.has_room(0, 1));
    }
}
