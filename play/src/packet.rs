//! [`Packet`]: what a handler is given of a message; [`Payload`]: what it sends.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use proscenium_engine::Body;
use proscenium_framing::packet::ClientPacket;

/// A message, borrowed from the memory in which it was received.
///
/// What a handler wants to keep it copies: [`Content`] is an owned one.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    msg_id: &'a str,
    seq: u16,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A message without an answer, of which nobody is the sender: for tests of handlers.
    pub const fn new(msg_id: &'a str, payload: &'a [u8]) -> Self {
        Self {
            msg_id,
            seq: 0,
            payload,
        }
    }

    pub(crate) const fn asking(msg_id: &'a str, payload: &'a [u8]) -> Self {
        Self {
            msg_id,
            seq: 1,
            payload,
        }
    }

    #[inline]
    pub(crate) const fn of(packet: &ClientPacket<'a>) -> Self {
        Self {
            msg_id: packet.msg_id,
            seq: packet.seq,
            payload: packet.payload,
        }
    }

    /// What the message is: 1 to 128 bytes. Empty only for the packet with which a stage of the
    /// default type is created.
    #[inline]
    pub const fn msg_id(&self) -> &'a str {
        self.msg_id
    }

    /// The message itself; may be empty.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// True if the sender waits for an answer.
    #[inline]
    pub const fn is_request(&self) -> bool {
        self.seq != 0
    }

    /// The payload as a protobuf message.
    ///
    /// # Errors
    /// When it is none of that type.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.payload)
    }
}

impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packet({:?}, {} bytes)", self.msg_id, self.payload.len())
    }
}

/// A message that owns its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// What the message is: 1 to 128 bytes.
    pub msg_id: Cow<'static, str>,
    /// The message itself.
    pub payload: Bytes,
}

impl Content {
    /// Encodes `payload`.
    pub fn new(msg_id: impl Into<Cow<'static, str>>, payload: impl Payload) -> Self {
        Self {
            msg_id: msg_id.into(),
            payload: payload.to_bytes(),
        }
    }

    /// The payload as a protobuf message.
    ///
    /// # Errors
    /// When it is none of that type.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(&self.payload[..])
    }

    /// The same, borrowed.
    pub fn packet(&self) -> Packet<'_> {
        Packet::new(&self.msg_id, &self.payload)
    }
}

/// Nothing: as an answer, an empty one with the id of the request.
impl From<()> for Content {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<Packet<'_>> for Content {
    fn from(packet: Packet<'_>) -> Self {
        Self {
            msg_id: Cow::Owned(packet.msg_id.to_owned()),
            payload: Bytes::copy_from_slice(packet.payload),
        }
    }
}

/// What can be sent as the payload of a message: bytes and text in their usual types, `()` for
/// nothing, and protobuf messages as `Proto(&message)`.
///
/// It is encoded straight into the send buffer.
pub trait Payload {
    /// Bytes that it takes at most.
    fn size(&self) -> usize;

    /// Writes it to the front of `out`, which has [`size`](Self::size) bytes and may hold old
    /// ones; returns how many bytes that were.
    fn write(&self, out: &mut [u8]) -> usize;

    /// The payload in memory of its own.
    fn to_bytes(&self) -> Bytes {
        let mut bytes = vec![0; self.size()];
        let len = self.write(&mut bytes);
        bytes.truncate(len);
        bytes.into()
    }
}

impl Payload for [u8] {
    #[inline]
    fn size(&self) -> usize {
        self.len()
    }

    #[inline]
    fn write(&self, out: &mut [u8]) -> usize {
        out[..self.len()].copy_from_slice(self);
        self.len()
    }
}

impl<P: Payload + ?Sized> Payload for &P {
    #[inline]
    fn size(&self) -> usize {
        (**self).size()
    }

    #[inline]
    fn write(&self, out: &mut [u8]) -> usize {
        (**self).write(out)
    }

    fn to_bytes(&self) -> Bytes {
        (**self).to_bytes()
    }
}

macro_rules! payload_as_bytes {
    ($($(#[$of:meta])* impl[$($generics:tt)*] $type:ty;)*) => {$(
        $(#[$of])*
        impl<$($generics)*> Payload for $type {
            #[inline]
            fn size(&self) -> usize {
                self.len()
            }

            #[inline]
            fn write(&self, out: &mut [u8]) -> usize {
                let bytes: &[u8] = self.as_ref();
                bytes.write(out)
            }
        }
    )*};
}

payload_as_bytes! {
    impl[const N: usize] [u8; N];
    impl[] Vec<u8>;
    impl[] str;
    impl[] String;
    impl[] Body;
}

impl Payload for Bytes {
    #[inline]
    fn size(&self) -> usize {
        self.len()
    }

    #[inline]
    fn write(&self, out: &mut [u8]) -> usize {
        (**self).write(out)
    }

    fn to_bytes(&self) -> Bytes {
        self.clone()
    }
}

impl Payload for () {
    #[inline]
    fn size(&self) -> usize {
        0
    }

    #[inline]
    fn write(&self, _: &mut [u8]) -> usize {
        0
    }
}

/// A protobuf message as a [`Payload`].
#[derive(Clone, Copy, Debug)]
pub struct Proto<'a, M>(pub &'a M);

impl<M: prost::Message> Payload for Proto<'_, M> {
    fn size(&self) -> usize {
        self.0.encoded_len()
    }

    fn write(&self, mut out: &mut [u8]) -> usize {
        let room = out.len();
        // There is room for all of it: the size was asked for just before.
        let _ = self.0.encode(&mut out);
        room - out.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(payload: impl Payload) -> Vec<u8> {
        let mut out = vec![0xee; payload.size()];
        let len = payload.write(&mut out);
        assert_eq!(payload.to_bytes(), out[..len]);
        out[..len].to_vec()
    }

    #[test]
    fn payloads_are_written_as_they_are() {
        assert_eq!(written(b"north"), b"north");
        assert_eq!(written(&b"north"[..]), b"north");
        assert_eq!(written("north"), b"north");
        assert_eq!(written(String::from("north")), b"north");
        assert_eq!(written(vec![1, 2]), [1, 2]);
        assert_eq!(written(Bytes::from_static(b"x")), b"x");
        assert_eq!(written(Body::from(&b"x"[..])), b"x");
        assert!(written(()).is_empty());
    }

    #[test]
    fn protobuf_messages_come_back() {
        // `String` is the well-known type `google.protobuf.StringValue`.
        let name = String::from("arthur");
        let bytes = written(Proto(&name));
        assert_eq!(bytes, b"\x0a\x06arthur");
        let packet = Packet::new("Name", &bytes);
        assert_eq!(packet.decode::<String>().unwrap(), name);
        assert!(Packet::new("Name", b"\xff").decode::<String>().is_err());
    }
}
