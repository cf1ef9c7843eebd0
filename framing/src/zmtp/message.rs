//! [`Decoder`]: messages of several parts, and the commands between them.

use super::{Command, FrameHeader, Limits, ZmtpError};

/// What [`Decoder::decode`] found at the front of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole message. Drop [`Message::consumed`] bytes of the input, then go on.
    Message(Message<'a>),
    /// A command. Drop `consumed` bytes, then go on.
    Command {
        /// The command.
        command: Command<'a>,
        /// Bytes to drop; 0 if it stands between the parts of a message, which is then still there
        /// from its beginning (libzmq lets PING and PONG cut in).
        consumed: usize,
    },
    /// Neither yet. What is there has to be given again, with more behind it.
    Incomplete {
        /// Bytes that are needed before looking again is worthwhile; always more than the input
        /// has. A peer's word: not to allocate by.
        needs: usize,
    },
}

/// A message of one or more parts, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its frames, commands between them included. Whole, and within the limits.
    frames: &'a [u8],
    parts: usize,
}

impl<'a> Message<'a> {
    /// Bytes that it took of the input.
    #[inline]
    pub fn consumed(&self) -> usize {
        self.frames.len()
    }

    /// How many parts it has; at least 1.
    #[inline]
    pub fn len(&self) -> usize {
        self.parts
    }

    /// Never: a message has a part. (Of no bytes, perhaps.)
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its parts, in order.
    #[inline]
    pub fn parts(&self) -> Parts<'a> {
        Parts { rest: self.frames }
    }
}

/// Iterates over the parts of a [`Message`].
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (header, taken) = FrameHeader::decode(self.rest, &UNLIMITED).ok()??;
            let body = self.rest.get(taken..taken + header.len)?;
            self.rest = &self.rest[taken + header.len..];
            if !header.command {
                return Some(body);
            }
        }
    }
}

/// For what has been checked.
const UNLIMITED: Limits = Limits {
    frame_max: usize::MAX,
    parts_max: usize::MAX,
    message_max: usize::MAX,
    command_max: usize::MAX,
};

/// Finds messages and commands in what arrives after the handshake. It keeps no bytes, only how far
/// it has looked into a message that is not whole: the caller gives the bytes that were not
/// consumed again, with more behind them.
#[derive(Clone, Debug)]
pub struct Decoder {
    limits: Limits,
    /// Bytes of the incomplete message at the front that have been looked at: whole frames.
    scanned: usize,
    /// Parts of the message within these.
    parts: usize,
}

impl Decoder {
    /// With these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: limits.clamped(),
            scanned: 0,
            parts: 0,
        }
    }

    /// Looks at the front of `bytes`.
    ///
    /// # Errors
    /// A [`ZmtpError`]: the stream is lost.
    #[inline]
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Decoded<'a>, ZmtpError> {
        loop {
            let begin = self.scanned;
            let rest = bytes.get(begin..).unwrap_or_default();
            let Some((header, taken)) = FrameHeader::decode(rest, &self.limits)? else {
                let needs = bytes.len().max(begin) + 1;
                return Ok(Decoded::Incomplete { needs });
            };
            let end = begin + taken + header.len; // both are within limits far below overflow
            if self.parts > 0 || !header.command {
                self.admit(header, end)?;
            }
            let Some(body) = rest.get(taken..taken + header.len) else {
                return Ok(Decoded::Incomplete { needs: end });
            };
            if header.command {
                return self.command(body, end);
            }
            self.parts += 1;
            if !header.more {
                let parts = std::mem::take(&mut self.parts);
                self.scanned = 0;
                let frames = &bytes[..end];
                return Ok(Decoded::Message(Message { frames, parts }));
            }
            self.scanned = end;
        }
    }

    /// Whether the message may have this frame too.
    #[inline]
    fn admit(&self, header: FrameHeader, end: usize) -> Result<(), ZmtpError> {
        if end > self.limits.message_max {
            let (length, limit) = (end as u64, self.limits.message_max);
            return Err(ZmtpError::MessageTooLong { length, limit });
        }
        let parts = self.parts + usize::from(!header.command);
        if parts > self.limits.parts_max || (header.more && parts == self.limits.parts_max) {
            let limit = self.limits.parts_max;
            return Err(ZmtpError::TooManyParts { limit });
        }
        Ok(())
    }

    #[cold]
    fn command<'a>(&mut self, body: &'a [u8], end: usize) -> Result<Decoded<'a>, ZmtpError> {
        let command = Command::decode(body)?;
        let consumed = if self.parts == 0 { end } else { 0 };
        self.scanned = if self.parts == 0 { 0 } else { end };
        if let Command::Other { .. } | Command::Ready { .. } = command {
            let name = command.name();
            return Err(ZmtpError::Unexpected { name });
        }
        Ok(Decoded::Command { command, consumed })
    }
}
