//! Messages on their way out, as bytes of ZMTP; and messages as they arrive.

use bytes::Bytes;
use proscenium_engine::Body;
use proscenium_framing::route::RouteHeader;
use proscenium_framing::zmtp::FrameHeader;

use crate::Nid;
use crate::link::LinkKey;
use crate::outbox::Outbox;
use crate::peer::PeerId;

/// A shared payload of so many bytes is a segment of its own in an [`Outbox`], and is not copied.
pub(crate) const LONG: usize = 16 * 1024;

/// A message of another node: a send, or a request if there is `reply_to`.
#[derive(Debug)]
#[non_exhaustive]
pub struct NodeMessage<'a> {
    /// Who sent it, as its link says.
    pub from: &'a Nid,
    /// The same, for answering with sends of one's own.
    pub peer: PeerId,
    /// Its header.
    pub header: RouteHeader<'a>,
    /// Its payload.
    pub payload: &'a [u8],
    /// Where the answer goes, if one is wanted.
    pub reply_to: Option<ReplyTo>,
    /// What the payload was received in, if it stands there in one piece.
    pub(crate) received: Option<&'a Received<'a>>,
}

/// What one read brought.
pub(crate) type Received<'a> = proscenium_engine::Message<'a>;

/// `bytes` as a part of what was received, if they are one.
pub(crate) fn part_of<'a>(received: &Received<'a>, bytes: &[u8]) -> Option<Received<'a>> {
    let at = bytes.as_ptr().addr();
    let at = at.checked_sub(received.bytes().as_ptr().addr())?;
    let end = at.checked_add(bytes.len())?;
    (end <= received.len()).then(|| received.slice(at..end))
}

impl NodeMessage<'_> {
    /// Keeps the payload beyond the call: by a lease on the shard's receive memory if it stands
    /// there in one piece and is long enough for that to pay (1 KiB), else as a copy.
    pub fn lease(&self) -> Body {
        if let Some(received) = self.received
            && self.payload.len() >= LEASE_MIN
            && let Some(part) = part_of(received, self.payload)
        {
            return part.lease();
        }
        Body::from(self.payload)
    }
}

/// A shorter payload is not worth a chunk of receive memory.
const LEASE_MIN: usize = 1024;

/// Where the reply to a request goes. It may be kept and sent to other threads; a request that is
/// not answered fails at its sender's deadline.
#[derive(Debug)]
#[must_use = "a request that is not answered fails at its deadline"]
pub struct ReplyTo {
    pub(crate) peer: PeerId,
    pub(crate) seq: u32,
    /// The link by which the request came: its end ends the request.
    pub(crate) link: LinkKey,
    pub(crate) run: u64,
}

/// A message whose header was encoded before, by [`NodeHandle::encode_header`].
///
/// [`NodeHandle::encode_header`]: crate::NodeHandle::encode_header
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// The header, without its number. Fields of protobuf may follow what was encoded, for
    /// example the entries of another [`Chain`](crate::Chain).
    pub head: &'a [u8],
    /// The payload, as long as the header says.
    pub payload: &'a [u8],
}

/// The header of a message on its way out.
pub(crate) enum Head<'a> {
    Route(RouteHeader<'a>),
    /// A header without number, encoded by another thread.
    Encoded {
        seq: u32,
        rest: &'a [u8],
    },
}

#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    Borrowed(&'a [u8]),
    Shared(&'a Bytes),
    /// A part of what is being received.
    Received(Received<'a>),
}

impl Payload<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Received(message) => message.bytes(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }
}

/// Which part of a link's queue a message may take; what each adds to the ones before is said at
/// [`NodeOptions::reply_bytes_max`](crate::NodeOptions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Sends and requests: whoever is refused is told so.
    Ordinary,
    Reply,
    /// In place of a reply that found no room.
    Excuse,
}

/// A message on its way out: two frames, header and payload.
pub(crate) struct Outgoing<'a> {
    head: Head<'a>,
    head_len: usize,
    payload: Payload<'a>,
    share: Share,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(head: Head<'a>, payload: Payload<'a>) -> Self {
        let head_len = match &head {
            Head::Route(header) => header.encoded_len(),
            Head::Encoded { seq, rest } => seq_field(*seq).encoded_len() + rest.len(),
        };
        Self {
            head,
            head_len,
            payload,
            share: Share::Ordinary,
        }
    }

    pub(crate) fn with_share(self, share: Share) -> Self {
        Self { share, ..self }
    }

    pub(crate) fn share(&self) -> Share {
        self.share
    }

    fn frames(&self) -> (FrameHeader, FrameHeader) {
        let payload = self.payload.bytes().len();
        (
            FrameHeader::message(self.head_len, true),
            FrameHeader::message(payload, false),
        )
    }

    /// The header as a frame, without the framing, in bytes.
    pub(crate) fn head_len(&self) -> usize {
        self.head_len
    }

    /// Everything before the payload, in bytes.
    fn lead_len(&self) -> usize {
        let (head, payload) = self.frames();
        head.encoded_len() + self.head_len + payload.encoded_len()
    }

    /// The whole message with its framing, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.lead_len() + self.payload.bytes().len()
    }

    /// Writes what comes before the payload to `out`, which has room.
    fn write_lead(&self, out: &mut [u8]) -> Option<usize> {
        let (head, payload) = self.frames();
        let mut at = head.write(out)?;
        match &self.head {
            Head::Route(header) => at += header.encode(&mut out[at..])?,
            Head::Encoded { seq, rest } => {
                at += seq_field(*seq).encode(&mut out[at..])?;
                out.get_mut(at..at + rest.len())?.copy_from_slice(rest);
                at += rest.len();
            }
        }
        at += payload.write(&mut out[at..])?;
        Some(at)
    }

    /// For a long payload that is not shared: what is to be sent before what was received, and
    /// that. If it was not received in one piece, it is copied behind what goes before it.
    pub(crate) fn relayed(&self) -> (Vec<u8>, Option<&Received<'a>>) {
        let (lead, received) = match &self.payload {
            Payload::Received(received) => (self.lead_len(), Some(received)),
            _ => (self.len(), None),
        };
        let mut head = Vec::with_capacity(lead);
        head.resize(self.lead_len(), 0);
        let written = self.write_lead(&mut head);
        debug_assert_eq!(written, Some(head.len()));
        if received.is_none() {
            head.extend_from_slice(self.payload.bytes());
        }
        (head, received)
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.payload, Payload::Shared(_))
    }

    /// Writes the whole message to the front of `out`, which has room; returns its length.
    #[inline]
    pub(crate) fn write(&self, out: &mut [u8]) -> usize {
        let at = self.write_lead(out);
        debug_assert_eq!(at, Some(self.lead_len()));
        let at = at.unwrap_or(0);
        let payload = self.payload.bytes();
        out[at..at + payload.len()].copy_from_slice(payload);
        at + payload.len()
    }

    /// Puts the message into a queue.
    pub(crate) fn queue(&self, outbox: &mut Outbox) {
        let write = |room: &mut [u8]| {
            let written = self.write_lead(room);
            debug_assert_eq!(written, Some(room.len()));
        };
        match self.payload {
            Payload::Shared(bytes) if bytes.len() >= LONG => {
                outbox.push_with(self.lead_len(), write, &[], 0);
                outbox.push_shared(bytes.clone(), 1);
            }
            _ => {
                outbox.push_with(self.lead_len(), write, self.payload.bytes(), 1);
            }
        }
    }
}

/// A header of nothing but a number. Its field is the first, whatever follows.
fn seq_field(msg_seq: u32) -> RouteHeader<'static> {
    RouteHeader {
        msg_seq,
        ..RouteHeader::default()
    }
}

/// The header without its number, for [`Head::Encoded`].
pub(crate) fn encode_rest(header: RouteHeader<'_>) -> Vec<u8> {
    let header = RouteHeader {
        msg_seq: 0,
        ..header
    };
    let mut rest = vec![0; header.encoded_len()];
    let written = header.encode(&mut rest);
    debug_assert_eq!(written, Some(rest.len()));
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proscenium_framing::zmtp::{Decoded, Decoder, Limits};

    fn bytes_of(outgoing: &Outgoing<'_>) -> Vec<u8> {
        let mut outbox = Outbox::default();
        outgoing.queue(&mut outbox);
        assert_eq!((outbox.bytes(), outbox.messages()), (outgoing.len(), 1));
        let mut bytes = Vec::new();
        while let Some(segment) = outbox.front() {
            bytes.extend_from_slice(&segment.bytes);
            outbox.pop();
        }
        let mut direct = vec![0; outgoing.len()];
        assert_eq!(outgoing.write(&mut direct), direct.len());
        assert_eq!(direct, bytes);
        bytes
    }

    #[test]
    fn both_ways_of_making_a_header_give_the_same_bytes() {
        for (seq, length) in [(0, 0), (1, 5), (70_000, 255), (u32::MAX, 256), (9, LONG)] {
            let payload = vec![7; length];
            let header = RouteHeader {
                msg_seq: seq,
                msg_id: "Move",
                from: "play-1",
                stage_id: -3,
                payload_size: length as u32,
                ..RouteHeader::default()
            };
            let direct = Outgoing::new(Head::Route(header), Payload::Borrowed(&payload));
            let direct = bytes_of(&direct);
            let rest = encode_rest(header);
            let head = Head::Encoded { seq, rest: &rest };
            let shared = Bytes::from(payload.clone());
            assert_eq!(
                bytes_of(&Outgoing::new(head, Payload::Shared(&shared))),
                direct
            );
            let mut decoder = Decoder::new(Limits::default());
            let Ok(Decoded::Message(message)) = decoder.decode(&direct) else {
                panic!("{length} bytes are no message");
            };
            let parts: Vec<_> = message.parts().collect();
            assert_eq!(RouteHeader::decode(parts[0]), Ok(header));
            assert_eq!(parts[1], payload);
        }
    }
}
