//! Moving bytes through WebSocket: handshakes, received frames, control frames, ends.
//!
//! ```text
//! received ─► handshake: held until it is whole, then answered or checked
//!          ─► what is held first: a header that was cut off, frames that came while paused
//!          ─► whole frames in the chunk: unmasked in place, whole messages to the handler
//!          ─► parts of messages: to the connection's tail; the last part has it dispatched
//!          ─► the beginning of a header: held
//! ```
//!
//! With a framing above, payload is a stream: it goes through the framing as the bytes of a plain
//! connection do.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use proscenium_framing::websocket::handshake::{Answer, Opening, Request};
use proscenium_framing::websocket::{
    CONTROL_MAX, CloseCode, Decoded, Decoder, Opcode, ProtocolError, close_body, unmask_whole,
};

use super::Shard;
use super::core::Core;
use crate::body::{Lease, Message};
use crate::connection::State;
use crate::context::Context;
use crate::driver::Driver;
use crate::error::{CloseReason, SendError};
use crate::handler::Handler;
use crate::layer::error::HandshakeError;
use crate::layer::web_socket::{WebSocketEnd, WebSocketInfo};
use crate::messages::Messages;
use crate::options::Framing;
use crate::router_id::RouterId;
use crate::time::Time;
use crate::wire::{HEAD_MAX, Wire, WsWire};

/// Control frames are counted anew after so long.
const CONTROL_PERIOD: std::time::Duration = std::time::Duration::from_secs(1);

/// What a WebSocket does with the next bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Handshake,
    /// Nothing for now: the handler paused it, or moves it.
    Hold,
    /// Some are held, which come first.
    Held,
    Frames,
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// The layers below are up: a client speaks first.
    pub(super) fn start_web_socket(&mut self, slot: u32) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        if connection.state != State::Handshaking {
            return;
        }
        #[cfg(feature = "tls")]
        if let Some(layers) = &connection.layers
            && layers.tls.as_ref().is_some_and(|tls| !tls.is_up())
        {
            return;
        }
        let Some(ws) = connection.web_socket() else {
            return;
        };
        if let WebSocketEnd::Client(client) = &ws.end
            && !ws.asked
        {
            ws.asked = true;
            ws.key = Opening::key(ws.keys.nonce());
            let request = client.inner.opening.request(&ws.key);
            core.push_bytes(slot, request.as_bytes());
        }
    }

    /// What is in `range` of the chunk belongs to the WebSocket of `slot`, behind what it holds.
    pub(super) fn received_web_socket(&mut self, slot: u32, id: RouterId, range: Range<usize>) {
        let Some(framing) = self.core.begin_web_socket(slot) else {
            return;
        };
        if framing != Framing::Raw && range.is_empty() {
            self.received_framed(slot, id, 0..0); // packets that came while it was paused
        }
        let mut range = range;
        // Up to here, whole frames are unmasked.
        let mut unmasked = range.start;
        while let Some(step) = self.core.web_socket_step(slot) {
            match step {
                Step::Handshake => {
                    self.core
                        .hold_frames(slot, &self.chunk.bytes()[range.clone()]);
                    range.start = range.end;
                    if !self.shake_hands(slot) {
                        return;
                    }
                }
                Step::Hold => {
                    return self.core.hold_frames(slot, &self.chunk.bytes()[range]);
                }
                Step::Held => {
                    if !self.decode_held(slot, id, &mut range) {
                        return;
                    }
                }
                Step::Frames if range.is_empty() => return,
                Step::Frames => {
                    range = self.decode_chunk(slot, id, framing, range, &mut unmasked);
                }
            }
        }
    }

    /// Looks whether the handshake is whole; true if the WebSocket is up.
    fn shake_hands(&mut self, slot: u32) -> bool {
        let core = &mut self.core;
        let Some(ws) = core.connections.get_mut(slot).and_then(|c| c.web_socket()) else {
            return false;
        };
        let limits = &ws.end.common().handshake;
        let input = ws.input.bytes();
        let (mut taken, mut answer, mut info) = (0, None, WebSocketInfo::default());
        let failed = match &ws.end {
            WebSocketEnd::Server(server) => {
                let mut done = match Request::parse(input, limits) {
                    Ok(None) => return false,
                    Ok(Some((request, len))) => {
                        taken = len;
                        let answer = server.inner.policy.answer(&request);
                        info = WebSocketInfo::of(&request, answer.subprotocol.clone());
                        answer
                    }
                    Err(error) => Answer::refusal(error),
                };
                let failed = done.refused.take();
                answer = Some(done.bytes);
                failed
            }
            WebSocketEnd::Client(client) => {
                let opening = &client.inner.opening;
                match opening.response(input, &ws.key, limits) {
                    Ok(None) => return false,
                    Ok(Some(established)) => {
                        taken = established.taken;
                        info = WebSocketInfo::asked(opening, established.subprotocol);
                        None
                    }
                    Err(error) => Some(error),
                }
            }
        };
        if failed.is_none() {
            (ws.up, ws.info, ws.key) = (true, info, String::new());
        }
        if let Some(answer) = answer {
            core.push_bytes(slot, answer.as_bytes());
        }
        match failed {
            Some(error) => {
                self.handshake_failed(slot, HandshakeError::WebSocket(error));
                false
            }
            None => {
                core.release_frames(slot, taken);
                self.layer_is_up(slot);
                true
            }
        }
    }

    /// Decodes the front of what is held, completing it from the chunk; false if that takes more
    /// than there is.
    fn decode_held(&mut self, slot: u32, id: RouterId, range: &mut Range<usize>) -> bool {
        let core = &mut self.core;
        let Some(ws) = core.connections.get_mut(slot).and_then(|c| c.web_socket()) else {
            return false;
        };
        match ws.decoder.decode(ws.input.bytes_mut()) {
            Err(error) => core.close(slot, CloseReason::WebSocket(error)),
            Ok(Decoded::Incomplete { needs }) => {
                let take = (needs - ws.input.len()).min(range.len());
                let from = range.start;
                range.start += take;
                core.hold_frames(slot, &self.chunk.bytes()[from..from + take]);
                return take > 0;
            }
            Ok(decoded) => {
                let body = body_of(&decoded);
                let mut payload = std::mem::take(&mut core.web_socket.payload);
                payload.clear();
                payload.extend_from_slice(&ws.input.bytes()[body.clone()]);
                core.release_frames(slot, body.end);
                self.take_decoded(slot, id, &decoded, &payload);
                self.core.web_socket.payload = payload;
            }
        }
        true
    }

    /// Goes through the frames in `range` of the chunk, of which nothing is held; returns what is
    /// left.
    fn decode_chunk(
        &mut self,
        slot: u32,
        id: RouterId,
        framing: Framing,
        range: Range<usize>,
        unmasked: &mut usize,
    ) -> Range<usize> {
        let Some(ws) = self.core.web_socket(slot) else {
            return range.end..range.end;
        };
        if ws.decoder.frame_left() > 0 {
            return self.decode_part(slot, id, range);
        }
        if !ws.is_client() && range.start >= *unmasked {
            let Some(chunk) = Rc::get_mut(&mut self.chunk) else {
                return self.hold_rest(slot, range);
            };
            let bytes = &mut chunk.bytes_mut()[range.clone()];
            *unmasked = range.start + unmask_whole(bytes);
        }
        let (rest, other) = match framing {
            Framing::Raw => self.dispatch_messages(slot, id, range),
            _ => {
                let bytes = &self.chunk.bytes()[range.clone()];
                let decoded = ws.decoder.decode_whole(bytes);
                (range, Some(decoded))
            }
        };
        match other {
            None => rest, // stopped
            Some(Ok(Decoded::Incomplete { .. })) => self.decode_part(slot, id, rest),
            Some(Ok(decoded)) => self.take_from_chunk(slot, id, &decoded, rest, framing),
            Some(Err(error)) => self.web_socket_failed(slot, error, rest),
        }
    }

    /// Hands whole messages in `range` of the chunk to the handler; returns what is left, and
    /// what was found there that is no whole message. Of that, the range still has the body.
    fn dispatch_messages(
        &mut self,
        slot: u32,
        id: RouterId,
        range: Range<usize>,
    ) -> (Range<usize>, Option<Result<Decoded, ProtocolError>>) {
        let core = &mut self.core;
        let Some(ws) = core.web_socket(slot) else {
            return (range.end..range.end, None);
        };
        // Its own while the handler has the core, which may end the connection.
        let mut decoder = ws.decoder.clone();
        let stop = Rc::clone(&core.stop_dispatch);
        let frames = range.clone();
        let mut messages =
            Messages::in_frames(&mut decoder, &self.chunk, frames, self.lease, &stop);
        self.handler
            .on_messages(&mut Context::new(core), id, &mut messages);
        for message in &mut messages {
            self.handler
                .on_message(&mut Context::new(core), id, message);
        }
        core.stats.messages_in += messages.taken();
        let (left, mut other) = messages.into_frames();
        let rest = range.end - left..range.end;
        let stopped = stop.get() && matches!(other, Some(Ok(Decoded::Data(_))));
        if let Some(ws) = core.web_socket(slot) {
            if stopped {
                // A part may end a message, which has to wait: it is held and decoded later.
                let frames = &self.chunk.bytes()[range.start..range.end];
                decode_again(&mut ws.decoder, frames, rest.start - range.start);
                other = None;
            } else {
                ws.decoder = decoder;
            }
        }
        (rest, other)
    }

    /// What is in `range` of the chunk is no whole frame: decodes what there is of it.
    fn decode_part(&mut self, slot: u32, id: RouterId, range: Range<usize>) -> Range<usize> {
        if range.is_empty() {
            return range;
        }
        let Some(chunk) = Rc::get_mut(&mut self.chunk) else {
            return self.hold_rest(slot, range); // and decode it there
        };
        let Some(ws) = self.core.web_socket(slot) else {
            return range.end..range.end;
        };
        let framing = ws.framing;
        match ws.decoder.decode(&mut chunk.bytes_mut()[range.clone()]) {
            Ok(Decoded::Incomplete { .. }) => self.hold_rest(slot, range),
            Ok(decoded) => self.take_from_chunk(slot, id, &decoded, range, framing),
            Err(error) => self.web_socket_failed(slot, error, range),
        }
    }

    fn hold_rest(&mut self, slot: u32, range: Range<usize>) -> Range<usize> {
        let end = range.end;
        self.core.hold_frames(slot, &self.chunk.bytes()[range]);
        end..end
    }

    fn web_socket_failed(
        &mut self,
        slot: u32,
        error: ProtocolError,
        range: Range<usize>,
    ) -> Range<usize> {
        self.core.close(slot, CloseReason::WebSocket(error));
        range.end..range.end
    }

    /// Takes what was decoded at the front of `range` of the chunk; returns what is left.
    fn take_from_chunk(
        &mut self,
        slot: u32,
        id: RouterId,
        decoded: &Decoded,
        range: Range<usize>,
        framing: Framing,
    ) -> Range<usize> {
        let body = body_of(decoded);
        let place = range.start + body.start..range.start + body.end;
        let rest = place.end..range.end;
        if framing != Framing::Raw && matches!(decoded, Decoded::Data(_)) {
            self.received_framed(slot, id, place);
            return rest;
        }
        let chunk = Rc::clone(&self.chunk);
        self.take_decoded(slot, id, decoded, &chunk.bytes()[place]);
        rest
    }

    /// Takes what was decoded, whose body is `body`.
    fn take_decoded(&mut self, slot: u32, id: RouterId, decoded: &Decoded, body: &[u8]) {
        let core = &mut self.core;
        match decoded {
            Decoded::Incomplete { .. } | Decoded::Pong { .. } => {}
            Decoded::Ping { .. } => core.answer_ping(slot, body),
            Decoded::Close { code, .. } => {
                let code = code.unwrap_or(CloseCode::NO_STATUS).0;
                let reason = String::from_utf8_lossy(body).into_owned();
                core.close(slot, CloseReason::WebSocketClosed { code, reason });
            }
            Decoded::Data(data) => {
                let Some(ws) = core.web_socket(slot) else {
                    return;
                };
                ws.text = data.text;
                let framing = ws.framing;
                if !body.is_empty() {
                    core.keep(slot, body);
                }
                if framing != Framing::Raw {
                    self.received_framed(slot, id, 0..0);
                } else if data.last {
                    self.dispatch_assembled(slot, id);
                }
            }
        }
    }

    /// Hands the message that was put together in the tail to the handler.
    fn dispatch_assembled(&mut self, slot: u32, id: RouterId) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        if connection.state != State::Open || connection.ending.is_some() {
            return; // the memory for it was taken away
        }
        let text = connection.web_socket().is_some_and(|ws| ws.text);
        let (chunk, range, lease) = match &connection.tail {
            Some(tail) => (Rc::clone(&tail.chunk), tail.start..tail.end, Lease::Tail),
            None => (Rc::clone(&self.chunk), 0..0, Lease::Copy), // an empty one
        };
        core.stats.messages_in += 1;
        let message = Message::new(&chunk, range, lease).as_text(text);
        self.handler
            .on_message(&mut Context::new(core), id, message);
        drop(chunk);
        self.core.release_tail(slot);
    }
}

/// Brings `decoder` behind the first `taken` bytes of `frames`, which are whole messages.
fn decode_again(decoder: &mut Decoder, frames: &[u8], taken: usize) {
    let mut at = 0;
    while at < taken
        && let Ok(Decoded::Data(data)) = decoder.decode_whole(&frames[at..])
    {
        at += data.body.end;
    }
}

/// Where the payload is that is of interest; behind it begins what was not decoded.
fn body_of(decoded: &Decoded) -> Range<usize> {
    match decoded {
        Decoded::Incomplete { .. } => 0..0,
        Decoded::Data(data) => data.body.clone(),
        Decoded::Ping { body } | Decoded::Pong { body } => body.clone(),
        Decoded::Close { reason, .. } => reason.clone(),
    }
}

impl<P> Core<P> {
    #[inline]
    fn web_socket(&mut self, slot: u32) -> Option<&mut crate::layer::web_socket::WebSocketLayer> {
        self.connections.get_mut(slot)?.web_socket()
    }

    /// Something arrived, or reading goes on: the framing above, if it is a WebSocket.
    fn begin_web_socket(&mut self, slot: u32) -> Option<Framing> {
        let now = self.now;
        let ws = self.web_socket(slot)?;
        ws.pinged = false;
        if now.since(ws.counted_from) >= CONTROL_PERIOD {
            ws.counted_from = now;
            ws.decoder.forget_control_frames();
        }
        Some(ws.framing)
    }

    /// What is next; `None` if the connection does not listen any more.
    fn web_socket_step(&mut self, slot: u32) -> Option<Step> {
        let stop = self.stop_dispatch.get();
        let connection = self.connections.get_mut(slot)?;
        if connection.ending.is_some() {
            return None;
        }
        let state = connection.state;
        let ws = connection.web_socket()?;
        match state {
            State::Handshaking if !ws.up => Some(Step::Handshake),
            State::Open if stop => Some(Step::Hold),
            State::Open if ws.input.is_empty() => Some(Step::Frames),
            State::Open => Some(Step::Held),
            _ => None,
        }
    }

    /// Holds `bytes` behind what is held already.
    pub(super) fn hold_frames(&mut self, slot: u32, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let listens = matches!(connection.state, State::Handshaking | State::Open);
        if bytes.is_empty() || !listens || connection.ending.is_some() {
            return;
        }
        let was_linked = connection.holds_received();
        let Some(ws) = connection.web_socket() else {
            return;
        };
        ws.input.append(bytes, &mut self.web_socket.received);
        if !was_linked {
            self.link_newest(slot);
        }
        self.relieve_reassembly_pressure();
    }

    /// The first `bytes` of what is held are done with.
    fn release_frames(&mut self, slot: u32, bytes: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let Some(ws) = connection.web_socket() else {
            return;
        };
        let held = ws.input.memory() > 0;
        ws.input.consume(bytes, &mut self.web_socket.received);
        if held && !connection.holds_received() {
            self.unlink(slot);
        }
    }

    /// Forgets what is held.
    pub(super) fn discard_frames(&mut self, slot: u32) {
        let held = self.web_socket(slot).map_or(0, |ws| ws.input.len());
        if held > 0 {
            self.release_frames(slot, held);
        }
    }

    /// Queues bytes of a handshake.
    fn push_bytes(&mut self, slot: u32, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(slot) {
            let queued = connection.out.push(&[], bytes, &mut self.buffers);
            self.queued = self.queued.wrapping_add(queued);
            self.mark_dirty(slot);
        }
    }

    fn push_control(&mut self, slot: u32, opcode: Opcode, body: &[u8]) {
        if let Some(connection) = self.connections.get_mut(slot) {
            let queued = connection.push_control(opcode, body, &mut self.buffers);
            self.queued = self.queued.wrapping_add(queued);
            self.mark_dirty(slot);
        }
    }

    /// RFC 6455 §5.5.2: "as soon as is practical". Not to a peer that does not read: what it has
    /// not taken yet shows well enough that we are there. Nor when the shard's memory for what is
    /// to be sent is used up: pings must not get what messages do not.
    fn answer_ping(&mut self, slot: u32, body: &[u8]) {
        let most = self.limits.send_high;
        let need = HEAD_MAX + body.len();
        let has_memory = self.send_memory() + need <= self.limits.send_bytes_max;
        let connection = self.connections.get(slot);
        if has_memory && connection.is_some_and(|connection| connection.unsent() <= most) {
            self.push_control(slot, Opcode::Pong, body);
        }
    }

    /// Nothing has come since `since`: sends a ping if it is time for one.
    pub(super) fn ping_if_silent(&mut self, slot: u32, since: Time) {
        let now = self.now;
        let Some(ws) = self.web_socket(slot) else {
            return;
        };
        let due = ws.end.common().ping_after.map(|silence| since + silence);
        if !ws.pinged && due.is_some_and(|due| due <= now) {
            ws.pinged = true;
            self.push_control(slot, Opcode::Ping, &[]);
        }
    }

    /// What the close frame of a connection is to say.
    pub(crate) fn set_farewell(&mut self, id: RouterId, code: CloseCode, reason: &str) {
        let slot = self.connections.find(id);
        if let Some(ws) = slot.and_then(|slot| self.web_socket(slot)) {
            let code = if code.is_sendable() {
                code
            } else {
                CloseCode::NORMAL
            };
            ws.farewell = Some((code, reason.to_owned()));
        }
    }

    /// The connection closes: our close frame goes behind what is queued (RFC 6455 §7.1.2).
    pub(super) fn say_close(&mut self, slot: u32) {
        self.discard_frames(slot);
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let (code, reason) = match &connection.ending {
            Some(CloseReason::WebSocket(error)) => (error.close_code(), error.to_string()),
            // §5.5.1: "it typically echos the status code it received".
            Some(CloseReason::WebSocketClosed { code, .. }) => (CloseCode(*code), String::new()),
            Some(CloseReason::BadFrame(error)) => (CloseCode::TOO_BIG, error.to_string()),
            Some(CloseReason::Shutdown) => (CloseCode::GOING_AWAY, String::new()),
            _ => (CloseCode::NORMAL, String::new()),
        };
        let is_ours = matches!(connection.ending, None | Some(CloseReason::Local));
        let Some(ws) = connection.web_socket() else {
            return;
        };
        if !ws.up || std::mem::replace(&mut ws.said_end, true) {
            return;
        }
        let (code, reason) = match ws.farewell.take() {
            Some(farewell) if is_ours => farewell,
            _ => (code, reason),
        };
        let mut body = [0; CONTROL_MAX];
        let len = match code {
            CloseCode::ABNORMAL | CloseCode::NO_STATUS => 0,
            code => close_body(code, &reason, &mut body),
        };
        self.push_control(slot, Opcode::Close, &body[..len]);
    }

    /// Queues `text` as a text message, if it goes to a WebSocket without framing.
    pub(crate) fn send_text(&mut self, to: RouterId, text: &[u8]) -> Result<(), SendError> {
        let send_memory = self.send_memory();
        let Some((slot, connection)) = self.connections.find_mut(to) else {
            self.admit_elsewhere(to, text.len())?;
            return self.send_elsewhere(to, Bytes::copy_from_slice(text), true);
        };
        let Wire::WebSocket(ws) = connection.wire else {
            return self.send(to, text);
        };
        let need = HEAD_MAX + text.len();
        if !connection.takes(need, text.len(), send_memory, &self.limits) {
            self.admit_slowly(slot, need, text.len())?;
        }
        if let Some(connection) = self.connections.get_mut(slot) {
            let queued = connection.push_message(ws, true, text, &mut self.buffers);
            self.book(queued);
            self.mark_dirty(slot);
        }
        Ok(())
    }

    /// The rest of [`push_shared`](Self::push_shared), for WebSockets. What has to be masked has
    /// to be copied.
    pub(super) fn push_shared_message(
        &mut self,
        slot: u32,
        ws: WsWire,
        text: bool,
        body: &Bytes,
        passed_on: bool,
    ) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let head = connection.head(ws, text, body.len());
        let queue = match &mut connection.held {
            Some(held) if !passed_on => &mut **held,
            _ => &mut connection.out,
        };
        let queued = if ws.masks {
            queue.push_head(&head, body, &mut self.buffers)
        } else {
            queue.push_shared(&head.bytes[..head.len], body, &mut self.buffers);
            head.len + body.len()
        };
        self.book(queued);
        self.mark_dirty(slot);
    }
}
