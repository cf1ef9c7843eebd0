//! One body for many connections.

use std::rc::Rc;

use bytes::Bytes;

use super::core::Core;
use crate::body::Chunk;
use crate::error::SendError;
use crate::router_id::RouterId;
use crate::send_queue::SHARED_MIN;
use crate::wire::{HEADER, Wire};

/// A body as a frame: of each framing one, made when it is first wanted.
struct Frames<'a> {
    body: &'a [u8],
    be32: Option<Rc<Chunk>>,
    le32: Option<Rc<Chunk>>,
    raw: Option<Rc<Chunk>>,
}

impl<'a> Frames<'a> {
    fn new(body: &'a [u8]) -> Self {
        Self {
            body,
            be32: None,
            le32: None,
            raw: None,
        }
    }

    /// `None` for connections that frame it anew each.
    #[inline]
    fn of(&mut self, wire: Wire) -> Option<&Rc<Chunk>> {
        let length = self.body.len() as u32;
        let (frame, header) = match wire {
            Wire::Be32 => (&mut self.be32, length.to_be_bytes()),
            Wire::Le32 => (&mut self.le32, length.to_le_bytes()),
            Wire::Raw => (&mut self.raw, [0; HEADER]),
            #[cfg(feature = "ws")]
            Wire::WebSocket(_) => return None,
        };
        if frame.is_none() {
            let header = if wire == Wire::Raw { &[][..] } else { &header };
            *frame = Some(Chunk::of([header, self.body].concat().into()));
        }
        frame.as_ref()
    }
}

impl<P> Core<P> {
    /// Queues a body for each of `to`; says how many did not take it.
    ///
    /// Where nothing waits, as mostly, it is not copied but relayed: a buffer for each connection
    /// would be cold memory for each, and it is freed before the next turn.
    pub(crate) fn broadcast(
        &mut self,
        to: impl IntoIterator<Item = RouterId>,
        body: &Bytes,
    ) -> usize {
        let mut refused = 0;
        let mut frames = Frames::new(body);
        let need = HEADER + body.len();
        let fits = body.len() <= self.limits.frame_max && need <= self.limits.send_high;
        for id in to {
            let has_room = self.send_memory() + need <= self.limits.send_bytes_max;
            if fits
                && has_room
                && let Some((slot, connection)) = self.connections.find_mut(id)
                && let Some(frame) = frames.of(connection.wire)
                && connection.relay_frame(frame)
            {
                if connection.becomes_dirty() {
                    self.dirty.push(slot);
                }
                self.book(frame.len());
                continue;
            }
            refused += usize::from(self.send_shared_within(id, body).is_err());
        }
        refused
    }

    /// [`send_shared`](Self::send_shared), after a look whether the connection's open buffer takes
    /// it.
    fn send_shared_within(&mut self, to: RouterId, body: &Bytes) -> Result<(), SendError> {
        if body.len() < SHARED_MIN
            && let Some((slot, connection)) = self.connections.find_mut(to)
        {
            let queued = connection.push_within(body, self.send_within);
            if queued > 0 {
                self.mark_dirty(slot);
                self.book(queued);
                return Ok(());
            }
        }
        self.send_shared(to, body, false)
    }
}
