//! Messages and control frames on their way into the send queue.

use proscenium_framing::websocket::{CONTROL_MAX, Opcode};

use super::WebSocketLayer;
use crate::connection::Connection;
use crate::options::Framing;
use crate::send_queue::BufferPool;
use crate::wire::{Head, WsWire};

impl Connection {
    #[inline]
    pub(crate) fn web_socket(&mut self) -> Option<&mut WebSocketLayer> {
        self.layers.as_mut()?.web_socket.as_mut()
    }

    #[inline]
    pub(crate) fn has_web_socket(&self) -> bool {
        let layers = self.layers.as_ref();
        layers.is_some_and(|layers| layers.web_socket.is_some())
    }

    /// The key of the next frame, if this end masks.
    #[inline]
    fn key(&mut self, ws: WsWire) -> [u8; 4] {
        match self.web_socket() {
            Some(layer) if ws.masks => layer.keys.mask(),
            _ => [0; 4],
        }
    }

    /// What precedes a body of `len` bytes.
    #[inline]
    pub(crate) fn head(&mut self, ws: WsWire, text: bool, len: usize) -> Head {
        let key = self.key(ws);
        // Packets of a framing are binary, whatever is in them.
        let text = text && ws.framing == Framing::Raw;
        let opcode = if text { Opcode::Text } else { Opcode::Binary };
        ws.head(opcode, len, key)
    }

    /// The rest of [`push_within`](Connection::push_within), for WebSockets.
    #[inline(never)]
    pub(crate) fn push_message_within(&mut self, ws: WsWire, body: &[u8], most: usize) -> usize {
        let head = self.head(ws, false, body.len());
        self.out.push_head_within(&head, body, most)
    }

    /// Queues a copy of `body` as a message; returns the bytes queued.
    pub(crate) fn push_message(
        &mut self,
        ws: WsWire,
        text: bool,
        body: &[u8],
        buffers: &mut BufferPool,
    ) -> usize {
        let head = self.head(ws, text, body.len());
        self.queue().push_head(&head, body, buffers)
    }

    /// The rest of [`push_with`](Connection::push_with), for WebSockets.
    pub(crate) fn push_message_with(
        &mut self,
        ws: WsWire,
        max: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
        buffers: &mut BufferPool,
    ) -> (usize, usize) {
        let key = self.key(ws);
        let room = (ws.head_max(max), max);
        let head = |length| ws.head(Opcode::Binary, length, key);
        self.queue().push_head_with(room, buffers, encode, head)
    }

    /// Queues a control frame, before all that is held back; returns the bytes queued.
    pub(crate) fn push_control(
        &mut self,
        opcode: Opcode,
        body: &[u8],
        buffers: &mut BufferPool,
    ) -> usize {
        debug_assert!(body.len() <= CONTROL_MAX && opcode.is_control());
        let masks = self.web_socket().is_some_and(|layer| layer.is_client());
        let framing = Framing::Raw;
        let ws = WsWire { framing, masks };
        let key = self.key(ws);
        let head = ws.head(opcode, body.len(), key);
        self.out.push_head(&head, body, buffers)
    }
}
