//! TLS as a layer: records in, plaintext out, and the other way round.
//!
//! | who | what |
//! |---|---|
//! | [`TlsSession`] | the protocol, sans-IO: records and plaintext in the caller's buffers |
//! | `session.rs` | it on rustls |
//! | [`TlsLayer`] | one connection's session with what waits on either side of it |
//! | [`ShardTls`] | what a shard has of it once: memory, the queue of handshakes |
//! | [`TlsServer`], [`TlsClient`] | what an embedder sets up |
//!
//! A session is made when the first whole record of the peer is there and it is its turn, so that
//! somebody who only connects costs no more than without TLS; and certificates are those of then.

mod client;
mod identity;
mod info;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod properties;
mod server;
mod session;
mod verify;

use std::collections::VecDeque;
use std::ops::Range;

pub use self::client::{Pin, TlsClient, TlsClientBuilder};
pub use self::identity::{Identity, TlsConfigError};
pub use self::info::{HandshakeKind, TlsInfo, TlsVersion};
pub use self::server::{ClientCertificates, TlsServer, TlsServerBuilder};
use crate::layer::error::TlsError;
use crate::layer::leased::LeasedBytes;
use crate::router_id::RouterId;
use crate::send_queue::BufferPool;

/// Greatest plaintext of one record (RFC 8446 §5.1).
pub(crate) const RECORD_MAX: usize = 1 << 14;
/// What a record may be longer than its plaintext: header, content type, tag; TLS 1.2: explicit
/// nonce. And a key update before it.
pub(crate) const RECORD_OVERHEAD: usize = (5 + 1 + 16) + 8 + (5 + 5 + 1 + 16);
/// Header of a record: content type, version, length.
const HEADER: usize = 5;
/// Greatest length in a record's header: TLS 1.2 allows the plaintext + 2,048.
const BODY_MAX: usize = RECORD_MAX + 2048;

/// The protocol, without I/O: the only thing that knows how TLS is done. Everything happens in
/// buffers of the caller.
pub(crate) trait TlsSession: Send {
    /// Whether the handshake is over, on both sides.
    fn is_up(&self) -> bool;

    /// Takes records from the front of `records`, decrypting in place, until there is plaintext,
    /// an end, or nothing more. Appends to `reply` what is to be sent for it, also after an error
    /// (the alert).
    ///
    /// What was not used has to come again, unchanged, with more behind it.
    fn read(&mut self, records: &mut [u8], reply: &mut Vec<u8>) -> Read;

    /// Writes `plain`, of at most [`RECORD_MAX`] bytes, as one record to the front of `out`, which
    /// has room for [`RECORD_OVERHEAD`] more. Returns the length of the record.
    fn write(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError>;

    /// Appends our end of the stream (close_notify) to `reply`.
    fn close(&mut self, reply: &mut Vec<u8>);

    /// What was agreed on; complete once the session is up.
    fn info(&self) -> &TlsInfo;
}

/// What [`TlsSession::read`] did.
pub(crate) struct Read {
    /// Bytes of the front that were used up.
    pub(crate) used: usize,
    pub(crate) event: Result<Event, TlsError>,
}

pub(crate) enum Event {
    /// Nothing more to be had from these bytes.
    Nothing,
    /// Plaintext, within the bytes used.
    Plain(Range<usize>),
    /// The peer ended its stream.
    Closed,
}

/// Which side of TLS a connection is, with its options.
#[derive(Clone, Debug)]
pub(crate) enum TlsEnd {
    Server(TlsServer),
    Client(TlsClient),
}

impl TlsEnd {
    fn session(&self) -> Result<Box<dyn TlsSession>, TlsError> {
        match self {
            Self::Server(server) => server.session(),
            Self::Client(client) => client.session(),
        }
    }
}

/// How far the peer's stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerEnd {
    Open,
    /// Its close_notify has arrived.
    Seen,
    /// The handler knows.
    Told,
}

/// TLS of one connection.
pub(crate) struct TlsLayer {
    end: TlsEnd,
    session: Option<Box<dyn TlsSession>>,
    /// Received and not decrypted: an incomplete record, or a handshake that waits.
    pub(crate) input: LeasedBytes,
    /// Encrypted and not written.
    pub(crate) output: LeasedBytes,
    peer_end: PeerEnd,
    /// Our close_notify is in the output, or an alert that makes it needless.
    said_end: bool,
}

impl TlsLayer {
    pub(crate) fn new(end: TlsEnd) -> Self {
        Self {
            end,
            session: None,
            input: LeasedBytes::default(),
            output: LeasedBytes::default(),
            peer_end: PeerEnd::Open,
            said_end: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_up())
    }

    pub(crate) fn is_client(&self) -> bool {
        matches!(self.end, TlsEnd::Client(_))
    }

    pub(crate) fn info(&self) -> Option<&TlsInfo> {
        self.session.as_ref().map(|session| session.info())
    }

    /// Whether the peer has ended its stream as TLS demands.
    pub(crate) fn has_ended(&self) -> bool {
        self.peer_end != PeerEnd::Open
    }

    /// Whether the peer has ended its stream; true once.
    pub(crate) fn take_end(&mut self) -> bool {
        let seen = self.peer_end == PeerEnd::Seen;
        if seen {
            self.peer_end = PeerEnd::Told;
        }
        seen
    }

    /// Reads what it holds: see [`TlsSession::read`]. Plaintext is where it says in the input, as
    /// long as `used` was not consumed.
    pub(crate) fn read_held(&mut self, shard: &mut ShardTls, buffers: &mut BufferPool) -> Read {
        let mut input = std::mem::take(&mut self.input);
        let read = self.read(input.bytes_mut(), shard, buffers);
        self.input = input;
        read
    }

    /// Reads records in place, and makes the session if there is none yet.
    pub(crate) fn read(
        &mut self,
        records: &mut [u8],
        shard: &mut ShardTls,
        buffers: &mut BufferPool,
    ) -> Read {
        let session = match &mut self.session {
            Some(session) => session,
            none => match self.end.session() {
                Ok(session) => none.insert(session),
                Err(error) => {
                    let event = Err(error);
                    return Read { used: 0, event };
                }
            },
        };
        shard.reply.clear();
        let read = session.read(records, &mut shard.reply);
        self.output.append(&shard.reply, buffers);
        match &read.event {
            Ok(Event::Closed) => self.peer_end = PeerEnd::Seen,
            Err(_) => self.said_end = true,
            Ok(_) => {}
        }
        read
    }

    /// Encrypts some of `plain` behind what is in the output; returns how much of it. A record
    /// that would not be full and would not fit waits for the next output.
    pub(crate) fn write(
        &mut self,
        plain: &[u8],
        more: usize,
        buffers: &mut BufferPool,
    ) -> Result<usize, TlsError> {
        let Some(session) = &mut self.session else {
            return Ok(0);
        };
        if self.output.memory() == 0 {
            let all = plain.len() + more;
            let need = all + (all / RECORD_MAX + 1) * RECORD_OVERHEAD;
            self.output.room(need.min(OUTPUT_MAX), buffers);
        }
        let room = self.output.room(0, buffers);
        let take = plain
            .len()
            .min(RECORD_MAX)
            .min(room.len().saturating_sub(RECORD_OVERHEAD));
        if take == 0 {
            return Ok(0);
        }
        let written = session.write(&plain[..take], room)?;
        self.output.add(written);
        Ok(take)
    }

    /// Puts our end of the stream behind what is in the output; false if it is there already.
    pub(crate) fn say_end(&mut self, shard: &mut ShardTls, buffers: &mut BufferPool) -> bool {
        if std::mem::replace(&mut self.said_end, true) {
            return false;
        }
        let Some(session) = self.session.as_mut().filter(|session| session.is_up()) else {
            return false;
        };
        shard.reply.clear();
        session.close(&mut shard.reply);
        self.output.append(&shard.reply, buffers);
        true
    }
}

/// Encrypted bytes of one connection that wait for its socket, at most: about four records.
const OUTPUT_MAX: usize = 64 << 10;

/// How many bytes are missing until the first record of `bytes` is whole; 0 if it is, or if its
/// header shows that it never will be.
pub(crate) fn missing(bytes: &[u8]) -> usize {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return HEADER - bytes.len();
    };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    // Also a heartbeat (24, RFC 6520), which rustls refuses only when all of it is there.
    let is_record = matches!(header[0], 20..=24) && length <= BODY_MAX;
    if is_record {
        (HEADER + length).saturating_sub(bytes.len())
    } else {
        0
    }
}

/// What a shard has for all its TLS connections.
pub(crate) struct ShardTls {
    /// Memory for what was received and cannot be decrypted yet.
    pub(crate) received: BufferPool,
    /// Handshakes that wait for their next step, in order.
    pub(crate) waiting: VecDeque<RouterId>,
    /// Steps of handshakes left in this turn.
    pub(crate) steps_left: usize,
    reply: Vec<u8>,
    /// Plaintext on its way from a held record to the connection's tail.
    pub(crate) plain: Vec<u8>,
}

impl ShardTls {
    pub(crate) fn new(free_bytes_max: usize) -> Self {
        Self {
            received: BufferPool::new(free_bytes_max),
            waiting: VecDeque::new(),
            steps_left: 0,
            reply: Vec::new(),
            plain: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_by_its_header_or_hopeless_by_it() {
        for (bytes, expected) in [
            (&[][..], 5),
            (&[22, 3, 1], 2),
            (&[22, 3, 1, 0, 4], 4),
            (&[22, 3, 1, 0, 4, 1, 2], 2),
            (&[22, 3, 1, 0, 2, 1, 2, 23], 0),
            (&[24, 3, 3, 0, 2, 0], 1),
            (&[25, 3, 3, 0, 2, 0], 0),
            (b"GET /", 0),
            (&[23, 3, 3, 0x48, 0x01], 0),
        ] {
            assert_eq!(missing(bytes), expected, "{bytes:?}");
        }
    }
}
