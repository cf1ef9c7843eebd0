//! Received messages on their way out again, without a copy where that is possible: see
//! [`Relay`](crate::relay::Relay).

use super::core::Core;
use crate::body::{Chunk, Message, Spot};
use crate::error::SendError;
use crate::router_id::RouterId;

/// Shorter messages are cheaper to copy than to forward: 36 against 43 ns of the whole at 64 B.
const FORWARD_MIN: usize = 256;

impl<P> Core<P> {
    /// Sends a received message on, without copying it if that is possible and pays.
    #[inline]
    pub(crate) fn forward(
        &mut self,
        to: RouterId,
        spot: Spot<'_>,
        text: bool,
    ) -> Result<(), SendError> {
        #[cfg(feature = "ws")]
        if text {
            return self.send_text(to, spot.bytes());
        }
        let _ = text; // of WebSockets only
        if spot.len() < FORWARD_MIN {
            return self.send(to, spot.bytes());
        }
        let waits = self.send_memory();
        if let Some((slot, connection)) = self.connections.find_mut(to)
            && let Some(frame) = connection.frame_of(&spot)
            && let bytes = frame.end - frame.start // cheaper than `len`, which minds empty ones
            && waits + bytes <= self.limits.send_bytes_max
            && connection.relay(spot.chunk, frame, self.send_within)
        {
            if connection.becomes_dirty() {
                self.add_dirty(slot);
            }
            self.book(bytes);
            return Ok(());
        }
        self.send(to, spot.bytes())
    }

    /// Whether `bytes` would be taken by [`forward_behind`](Self::forward_behind).
    pub(crate) fn forwards_behind(&self, to: RouterId, bytes: usize) -> bool {
        let has_room = self.send_memory() + bytes <= self.limits.send_bytes_max;
        let slot = self.connections.find(to).filter(|_| has_room);
        slot.and_then(|slot| self.connections.get(slot))
            .is_some_and(|connection| connection.relays_behind(bytes, self.send_within))
    }

    /// Sends `head` and behind it a part of what was received, without copying them; says whether
    /// it did.
    pub(crate) fn forward_behind(
        &mut self,
        to: RouterId,
        head: Vec<u8>,
        message: Option<&Message<'_>>,
    ) -> bool {
        let bytes = head.len() + message.map_or(0, |message| message.len());
        let has_room = self.send_memory() + bytes <= self.limits.send_bytes_max;
        let most = self.send_within;
        let Some((slot, connection)) = self.connections.find_mut(to).filter(|_| has_room) else {
            return false;
        };
        let head = head.into_boxed_slice();
        let taken = match message {
            Some(message) => {
                let spot = message.spot();
                spot.with_header([])
                    .is_some_and(|range| connection.relay_behind(head, spot.chunk, range, most))
            }
            None => connection.relay_behind(Box::default(), &Chunk::of(head), 0..bytes, most),
        };
        if taken {
            self.mark_dirty(slot);
            self.book(bytes);
        }
        taken
    }
}
