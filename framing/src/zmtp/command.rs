//! Commands: what the ends of a connection say to each other beside messages.

use super::{FrameHeader, ZmtpError};

/// The longest context of a PING, in bytes (RFC 37 §"Connection Heartbeating").
pub const CONTEXT_MAX: usize = 16;

/// A command, borrowed from its frame's body.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// The handshake is over; what follows are [`Properties`](super::Properties).
    Ready {
        /// The properties, as on the wire.
        properties: &'a [u8],
    },
    /// The peer refuses the connection, and says why.
    Error {
        /// The reason; text for people, of whatever encoding.
        reason: &'a [u8],
    },
    /// Asks for a [`Pong`](Self::Pong).
    Ping {
        /// Tenths of a second after which the sender may be taken for dead if nothing further
        /// comes from it; 0: it does not say.
        ttl: u16,
        /// What the answer has to carry, at most [`CONTEXT_MAX`] bytes.
        context: &'a [u8],
    },
    /// Answers a [`Ping`](Self::Ping).
    Pong {
        /// The context of the PING.
        context: &'a [u8],
    },
    /// Any other: of another mechanism, or for another type of socket (SUBSCRIBE, CANCEL, JOIN,
    /// LEAVE).
    Other {
        /// Its name.
        name: &'a [u8],
        /// What follows the name.
        data: &'a [u8],
    },
}

impl<'a> Command<'a> {
    /// Reads the body of a command's frame.
    ///
    /// # Errors
    /// [`ZmtpError::Command`] when its parts do not fit in.
    pub fn decode(body: &'a [u8]) -> Result<Self, ZmtpError> {
        let broken = |name| ZmtpError::Command { name };
        let (&len, rest) = body.split_first().ok_or(broken("without a name"))?;
        let (name, data) = rest
            .split_at_checked(usize::from(len))
            .filter(|(name, _)| !name.is_empty())
            .ok_or(broken("with a broken name"))?;
        Ok(match name {
            b"READY" => Self::Ready { properties: data },
            b"ERROR" => {
                let (&len, reason) = data.split_first().ok_or(broken("ERROR"))?;
                if reason.len() != usize::from(len) {
                    return Err(broken("ERROR"));
                }
                Self::Error { reason }
            }
            b"PING" => {
                let (ttl, context) = data.split_first_chunk().ok_or(broken("PING"))?;
                if context.len() > CONTEXT_MAX {
                    return Err(broken("PING"));
                }
                let ttl = u16::from_be_bytes(*ttl);
                Self::Ping { ttl, context }
            }
            b"PONG" if data.len() > CONTEXT_MAX => return Err(broken("PONG")),
            b"PONG" => Self::Pong { context: data },
            _ => Self::Other { name, data },
        })
    }

    /// Its name, as far as it is text.
    pub fn name(&self) -> String {
        match self {
            Self::Ready { .. } => "READY".to_owned(),
            Self::Error { .. } => "ERROR".to_owned(),
            Self::Ping { .. } => "PING".to_owned(),
            Self::Pong { .. } => "PONG".to_owned(),
            Self::Other { name, .. } => name.escape_ascii().to_string(),
        }
    }

    /// Appends the command as a whole frame to `out`. The reason of an ERROR is cut at 255 bytes.
    ///
    /// # Panics
    /// If the context of a PING or PONG is longer than [`CONTEXT_MAX`], or a name longer than 255
    /// bytes: they are the program's own.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Ready { properties } => put(out, b"READY", &[properties]),
            Self::Error { reason } => {
                let reason = &reason[..reason.len().min(255)];
                put(out, b"ERROR", &[&[reason.len() as u8], reason]);
            }
            Self::Ping { ttl, context } => {
                assert!(context.len() <= CONTEXT_MAX, "a PING's context is short");
                put(out, b"PING", &[&ttl.to_be_bytes(), context]);
            }
            Self::Pong { context } => {
                assert!(context.len() <= CONTEXT_MAX, "a PONG's context is short");
                put(out, b"PONG", &[context]);
            }
            Self::Other { name, data } => put(out, name, &[data]),
        }
    }
}

fn put(out: &mut Vec<u8>, name: &[u8], data: &[&[u8]]) {
    let name_len = u8::try_from(name.len()).expect("a command's name is short");
    let len = 1 + name.len() + data.iter().map(|part| part.len()).sum::<usize>();
    out.extend_from_slice(FrameHeader::command(len).encode().as_slice());
    out.push(name_len);
    out.extend_from_slice(name);
    for part in data {
        out.extend_from_slice(part);
    }
}
