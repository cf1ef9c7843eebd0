//! [`Turns`]: how one server of a service is chosen by a [`Policy`].

use proscenium_nodelink::routing::{Candidate, RoundRobin, Weighted, by_key, least_pending};

use crate::target::Policy;

/// What the policies remember of a service.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    round_robin: RoundRobin,
    weighted: Weighted,
}

impl Turns {
    /// One of these; `None` if there is none. `random` decides between equals.
    pub(crate) fn pick<'c>(
        &mut self,
        candidates: &'c [Candidate],
        by: Policy<'_>,
        random: u64,
    ) -> Option<&'c Candidate> {
        match by {
            Policy::RoundRobin => self.round_robin.pick(candidates),
            Policy::Weighted => self.weighted.pick(candidates),
            Policy::ByKey(key) => by_key(candidates, key),
            Policy::LeastPending => least_pending(candidates, random),
        }
    }
}
