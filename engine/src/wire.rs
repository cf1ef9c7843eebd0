//! How a body stands in the send queue: what is written before it, and if it is masked.

use proscenium_framing::LengthPrefix;

use crate::options::Framing;

/// Bytes of the length that precedes each body of a framed connection.
pub(crate) const HEADER: usize = LengthPrefix::HEADER;

/// Of a connection. A plain one never looks at the last variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Be32,
    Le32,
    Raw,
    #[cfg(feature = "ws")]
    WebSocket(WsWire),
}

impl Wire {
    /// How bodies are told apart, whatever layers are below.
    pub(crate) fn framing(self) -> Framing {
        match self {
            Self::Be32 => Framing::Be32,
            Self::Le32 => Framing::Le32,
            Self::Raw => Framing::Raw,
            #[cfg(feature = "ws")]
            Self::WebSocket(ws) => ws.framing,
        }
    }
}

impl From<Framing> for Wire {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Be32 => Self::Be32,
            Framing::Le32 => Self::Le32,
            Framing::Raw => Self::Raw,
        }
    }
}

/// The length that precedes a body of `len` bytes, and how many bytes of that count.
#[cfg(feature = "ws")]
pub(crate) fn prefix(framing: Framing, len: usize) -> ([u8; HEADER], usize) {
    match framing {
        Framing::Be32 => ((len as u32).to_be_bytes(), HEADER),
        Framing::Le32 => ((len as u32).to_le_bytes(), HEADER),
        Framing::Raw => ([0; HEADER], 0),
    }
}

#[cfg(feature = "ws")]
pub(crate) use web_socket::{HEAD_MAX, Head, WsWire};

#[cfg(feature = "ws")]
mod web_socket {
    use proscenium_framing::websocket::{FrameHeader, HEADER_MAX, Opcode, apply_mask};

    use super::{HEADER, prefix};
    use crate::options::Framing;

    /// Room for what precedes a body: the frame's header and the framing's length, 18 bytes at
    /// most; a little more, so that copying all of it is two moves of a fixed size.
    pub(crate) const HEAD_MAX: usize = 24;

    /// What precedes a body in its frame.
    #[derive(Clone, Copy)]
    pub(crate) struct Head {
        pub(crate) bytes: [u8; HEAD_MAX],
        pub(crate) len: usize,
        /// Where the masked payload begins, and its key.
        pub(crate) mask: Option<(usize, [u8; 4])>,
    }

    impl Head {
        /// Masks a frame that begins with this head, if it is to be.
        #[inline]
        pub(crate) fn mask(&self, frame: &mut [u8]) {
            if let Some((begin, key)) = self.mask {
                apply_mask(&mut frame[begin..], key);
            }
        }
    }

    /// Messages of a WebSocket: one body each, with the framing's length before it if there is
    /// one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct WsWire {
        pub(crate) framing: Framing,
        /// This is the client's end.
        pub(crate) masks: bool,
    }

    impl WsWire {
        /// What precedes a body of `body` bytes.
        #[inline]
        pub(crate) fn head(self, opcode: Opcode, body: usize, key: [u8; 4]) -> Head {
            let (prefix, prefix_len) = prefix(self.framing, body);
            let mut header = FrameHeader::new(opcode, prefix_len + body);
            if self.masks {
                header = header.masked(key);
            }
            let mut bytes = [0; HEAD_MAX];
            let mut frame = [0; HEADER_MAX];
            let begin = header.encode(&mut frame);
            bytes[..HEADER_MAX].copy_from_slice(&frame);
            if prefix_len > 0 {
                bytes[begin..begin + HEADER].copy_from_slice(&prefix);
            }
            Head {
                bytes,
                len: begin + prefix_len,
                mask: self.masks.then_some((begin, key)),
            }
        }

        /// Bytes that precede a body of at most `body` bytes, at most.
        pub(crate) fn head_max(self, body: usize) -> usize {
            let prefix = prefix(self.framing, body).1;
            FrameHeader::encoded_len(prefix + body, self.masks) + prefix
        }
    }
}
