//! Endpoints: attempts, and the delays between them.

use proscenium_engine::{Context, TimerKey};

use crate::dial::{Attempt, Dial, Endpoint, EndpointId};
use crate::error::LinkEnd;
use crate::link::{Direction, LinkKey};
use crate::node_link::{DIALS, NodeLink};

impl NodeLink {
    /// Connects to another node, and again whenever the link is lost.
    pub fn connect<P>(&mut self, cx: &mut Context<'_, P>, endpoint: Endpoint) -> EndpointId {
        let id = self.add_endpoint(endpoint);
        if self.is_started() {
            self.attempt(cx, id.slot);
        }
        id
    }

    /// The same before the node has started: the first attempt is made then.
    pub fn add_endpoint(&mut self, endpoint: Endpoint) -> EndpointId {
        let generation = self.next_generation();
        let entry = self.dials.vacant_entry();
        let slot = entry.key() as u32;
        let id = EndpointId { slot, generation };
        entry.insert(Dial {
            id,
            endpoint,
            attempt: Attempt::Idle,
            attempts: 0,
            answered: None,
        });
        id
    }

    /// Ends the link to an endpoint, if there is one, and does not connect there again.
    pub fn disconnect<P>(&mut self, cx: &mut Context<'_, P>, endpoint: EndpointId) {
        if let Some(Attempt::Connected(slot)) = self.forget_dial(cx, endpoint)
            && let Some(link) = self.links.get(slot as usize)
        {
            let key = link.key;
            self.close(cx, key, LinkEnd::Local);
        }
    }

    /// The link that an endpoint has, up or in handshake.
    pub(crate) fn link_of(&self, endpoint: EndpointId) -> Option<LinkKey> {
        let dial = self.dials.get(endpoint.slot as usize)?;
        match dial.attempt {
            Attempt::Connected(slot) if dial.id == endpoint => {
                self.links.get(slot as usize).map(|link| link.key)
            }
            _ => None,
        }
    }

    /// An endpoint that has its link already, which was dialled for an earlier one.
    pub(crate) fn adopt(&mut self, key: LinkKey, endpoint: Endpoint) -> EndpointId {
        let answered = endpoint.nid.clone();
        let id = self.add_endpoint(endpoint);
        if let Some(link) = self.link_mut(key) {
            link.direction = Direction::Dialled { dial: id.slot };
            let dial = &mut self.dials[id.slot as usize];
            dial.attempt = Attempt::Connected(key.slot);
            dial.answered = answered;
        }
        id
    }

    /// No further attempts there. A link that is up stays.
    pub(crate) fn forget_dial<P>(
        &mut self,
        cx: &mut Context<'_, P>,
        endpoint: EndpointId,
    ) -> Option<Attempt> {
        let dial = self.dials.get(endpoint.slot as usize)?;
        if dial.id != endpoint {
            return None;
        }
        let dial = self.dials.remove(endpoint.slot as usize);
        match dial.attempt {
            Attempt::Waiting(timer) => {
                cx.cancel_timer(timer);
            }
            Attempt::Connecting(connect) => {
                self.by_connect.remove(&connect);
                cx.cancel_connect(connect);
            }
            Attempt::Connected(slot) => {
                if let Some(link) = self.links.get_mut(slot as usize) {
                    link.direction = Direction::Dialled { dial: u32::MAX };
                }
            }
            Attempt::Idle => {}
        }
        Some(dial.attempt)
    }

    /// Begins the next attempt.
    pub(crate) fn attempt<P>(&mut self, cx: &mut Context<'_, P>, slot: u32) {
        let Some(dial) = self.dials.get(slot as usize) else {
            return;
        };
        if matches!(dial.attempt, Attempt::Connecting(_) | Attempt::Connected(_)) {
            return;
        }
        let connect = cx.connect(&self.connector(dial));
        self.by_connect.insert(connect, slot);
        let dial = &mut self.dials[slot as usize];
        dial.attempts = dial.attempts.saturating_add(1);
        dial.attempt = Attempt::Connecting(connect);
    }

    /// The connection was made; the handshake begins.
    pub(crate) fn connected(&mut self, slot: u32, link: u32) {
        if let Some(dial) = self.dials.get_mut(slot as usize) {
            dial.attempt = Attempt::Connected(link);
        }
    }

    /// The attempt failed, or its link ended: again, after a while.
    pub(crate) fn retry<P>(&mut self, cx: &mut Context<'_, P>, slot: u32) {
        if self.ending {
            return;
        }
        let Some(dial) = self.dials.get(slot as usize) else {
            return;
        };
        let attempt = dial.attempts.saturating_sub(1);
        let delay = self.options.backoff.delay(attempt, cx.random());
        let timer: TimerKey = cx.set_timer(delay, Self::TOKEN | (DIALS + u64::from(slot)));
        self.dials[slot as usize].attempt = Attempt::Waiting(timer);
    }

    /// The endpoint whose attempt is in that slot of links.
    pub(crate) fn is_attempt_of(&self, dial: u32, link: u32) -> bool {
        let dial = self.dials.get(dial as usize);
        dial.is_some_and(|dial| matches!(dial.attempt, Attempt::Connected(slot) if slot == link))
    }

    /// The endpoint that a link was dialled for, if it is still wanted.
    pub(crate) fn dial_of(&self, key: LinkKey) -> Option<u32> {
        match self.link_at(key)?.direction {
            Direction::Dialled { dial } => self.dials.contains(dial as usize).then_some(dial),
            Direction::Accepted => None,
        }
    }
}
