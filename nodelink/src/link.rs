//! [`Link`]: one connection, from its first byte.

use proscenium_engine::{RouterId, Time};
use proscenium_framing::zmtp::{Decoder, Handshake, Null};

use crate::error::LinkEnd;
use crate::outbox::Outbox;
use crate::peer::PeerId;

/// Names a link for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkKey {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl LinkKey {
    #[cfg(test)]
    pub(crate) const fn test(slot: u32) -> Self {
        let generation = 0;
        Self { slot, generation }
    }
}

/// Which end made the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// This one, for the endpoint in that slot.
    Dialled {
        dial: u32,
    },
    Accepted,
}

impl Direction {
    pub(crate) fn is_dialled(self) -> bool {
        matches!(self, Self::Dialled { .. })
    }
}

/// How far a link is.
pub(crate) enum Stage {
    Handshaking(Box<Handshake<Null>>),
    Up(PeerId),
    /// Being closed for this reason; the engine's `on_disconnect` is still to come.
    Closing(LinkEnd),
}

pub(crate) struct Link {
    pub(crate) key: LinkKey,
    pub(crate) id: RouterId,
    pub(crate) direction: Direction,
    pub(crate) stage: Stage,
    /// The peer of a link that is being closed.
    pub(crate) closing_peer: Option<PeerId>,
    pub(crate) decoder: Decoder,
    /// What was received and is not whole.
    pub(crate) tail: Vec<u8>,
    /// Bytes that were left with the engine, and are told again.
    pub(crate) unfinished: usize,
    pub(crate) outbox: Outbox,
    /// The peer speaks ZMTP 3.1: PING.
    pub(crate) pings: bool,
    /// The peer is a Proscenium node: its run, else 0.
    pub(crate) run: u64,
    /// The turn of the peer's sending that this link is at; see `establish.rs`.
    pub(crate) turn_in: u64,
    pub(crate) messages_in: u64,
    pub(crate) messages_out: u64,
    /// Requests that came by it and have no answer yet.
    pub(crate) unanswered: usize,
    /// A node that leaves has said so on it, and the peer has not confirmed that yet.
    pub(crate) unaware: bool,
    /// When it came up, or began.
    pub(crate) since: Time,
    pub(crate) last_received: Time,
    /// Ticks since the handshake began, or since a PING that nothing followed has left.
    pub(crate) waiting_ticks: Option<u32>,
    /// Where that PING ends, in bytes handed to this link: it may stand behind others.
    pub(crate) ping_end: u64,
    /// Ticks since something that waits has last left.
    pub(crate) stuck_ticks: u32,
    /// Bytes ever handed to this link, and when a tick last saw that grow.
    pub(crate) bytes_out: u64,
    pub(crate) last_sent: (u64, Time),
    /// How many of them had left at the last tick.
    pub(crate) left: u64,
    /// The peer wants to be taken for dead after so many ticks without a sign of life.
    pub(crate) ttl_ticks: Option<u32>,
    /// Ticks since anything was received, for `ttl_ticks`.
    pub(crate) silent_ticks: u32,
    /// A sender was told `Full`.
    pub(crate) told_full: bool,
    /// What is sent waits until the peer has everything that was sent on another link.
    pub(crate) held: bool,
}

impl Link {
    pub(crate) fn new(
        key: LinkKey,
        id: RouterId,
        direction: Direction,
        handshake: Handshake<Null>,
        decoder: Decoder,
        now: Time,
    ) -> Self {
        Self {
            key,
            id,
            direction,
            stage: Stage::Handshaking(Box::new(handshake)),
            closing_peer: None,
            decoder,
            tail: Vec::new(),
            unfinished: 0,
            outbox: Outbox::default(),
            pings: false,
            run: 0,
            turn_in: 0,
            messages_in: 0,
            messages_out: 0,
            unanswered: 0,
            unaware: false,
            since: now,
            last_received: now,
            waiting_ticks: Some(0),
            ping_end: 0,
            stuck_ticks: 0,
            bytes_out: 0,
            last_sent: (0, now),
            left: 0,
            ttl_ticks: None,
            silent_ticks: 0,
            told_full: false,
            held: false,
        }
    }

    /// The peer, if the link is up.
    pub(crate) fn peer(&self) -> Option<PeerId> {
        match self.stage {
            Stage::Up(peer) => Some(peer),
            _ => None,
        }
    }

    /// True if the peer is a Proscenium node, so that numbers of requests are wide.
    pub(crate) fn is_wide(&self) -> bool {
        self.run != 0
    }
}
