//! One connector on the I/O thread: from connecting to reconnecting.
//!
//! ```text
//! Idle ─► Connecting ─► Open ─► lost ─► Idle, or Waiting ─► Connecting …
//! ```
//!
//! A connection that the user has left goes on beside that, until its last bytes are sent.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proscenium_framing::packet::ServerPacket;

use crate::io_thread::Turn;
use crate::shared::{Command, Phase, Shared};
use crate::transport::{Handshake, Read, Transport};
use crate::{ConnectError, DisconnectReason, ProtocolError};

/// Bytes of one connection handled before the others have their turn.
const READ_BUDGET: usize = 256 * 1024;

/// How long what was sent before disconnecting may take to go out.
const LINGER: Duration = Duration::from_millis(500);

/// A receive or send buffer that is longer than this is given back when it is empty.
const BUFFER_KEPT_MAX: usize = 64 * 1024;

pub(crate) struct Session {
    shared: Arc<Shared>,
    link: Link,
    closing: Option<Closing>,
    /// Failed attempts since the connection was lost; `None` until there was one.
    attempt: Option<u32>,
}

enum Link {
    Idle,
    Connecting(Box<Attempt>),
    Open(Box<Open>),
    Waiting(Instant),
}

struct Attempt {
    transport: Transport,
    /// Addresses that are left, the next one last.
    addresses: Vec<SocketAddr>,
    /// Until when this address may take, and until when all.
    address_until: Instant,
    until: Instant,
}

struct Open {
    transport: Transport,
    since: Instant,
    /// Received and not taken: at most a packet of the limit and what was read with its end.
    inbound: Vec<u8>,
    /// Being sent, up to `sent` done.
    flushing: Vec<u8>,
    sent: usize,
    /// Empty; what the send queue is swapped with, so that its memory goes round.
    spare: Vec<u8>,
    last_received: Instant,
    /// Set once authenticated.
    heartbeat_at: Option<Instant>,
    was_paused: bool,
}

/// A connection that the user left.
struct Closing {
    transport: Transport,
    bytes: Vec<u8>,
    sent: usize,
    until: Instant,
    /// All is sent and said; the server's end is awaited, so that no reset overtakes our bytes.
    said: bool,
}

/// What the reactor is to do with a session.
pub(crate) enum Next {
    /// Drive it when something is ready, or at this time.
    At(Option<Instant>),
    /// Drive it again at once.
    Again,
    /// Forget it.
    Gone,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            link: Link::Idle,
            closing: None,
            attempt: None,
        }
    }

    /// Driving it panicked: its connection ends, or the attempt to have one, and it is not tried
    /// again.
    pub(crate) fn abandon(&mut self) {
        *self = Self::new(self.shared.clone());
        self.shared.broke();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A socket became ready: that of the link, or that of the connection that closes.
    pub(crate) fn ready(&mut self, closing: bool, readable: bool, writable: bool) {
        let transport = match (&mut self.link, &mut self.closing) {
            (_, Some(closed)) if closing => &mut closed.transport,
            (Link::Connecting(attempt), _) if !closing => &mut attempt.transport,
            (Link::Open(open), _) if !closing => &mut open.transport,
            _ => return,
        };
        transport.readable |= readable;
        transport.writable |= writable;
    }

    /// Does all that can be done without waiting.
    pub(crate) fn drive(&mut self, turn: &mut Turn<'_>) -> Next {
        if let Some((command, last_words)) = self.shared.take_command() {
            self.leave(last_words, turn);
            self.attempt = None;
            if command == Command::Connect {
                self.connect(turn);
            }
        }
        if let Some(closing) = &mut self.closing
            && closing.is_over(turn)
        {
            self.closing = None;
        }
        if let Link::Waiting(at) = self.link
            && at <= turn.now
        {
            self.connect(turn);
        }
        self.handshake(turn);
        let mut again = false;
        if let Link::Open(open) = &mut self.link {
            match open.drive(&self.shared, turn) {
                Ok(more) => again = more,
                Err(reason) => self.lost(reason, turn),
            }
        }
        if again {
            return Next::Again;
        }
        let idle = matches!(self.link, Link::Idle) && self.closing.is_none();
        if idle && self.shared.phase() == Phase::Closed {
            return Next::Gone;
        }
        Next::At(self.next_deadline())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let link = match &self.link {
            Link::Idle => None,
            Link::Connecting(attempt) => Some(attempt.address_until.min(attempt.until)),
            Link::Waiting(at) => Some(*at),
            Link::Open(open) => open.next_deadline(&self.shared),
        };
        let closing = self.closing.as_ref().map(|closing| closing.until);
        link.into_iter().chain(closing).min()
    }

    /// Ends the link. An open one sends its last words on the side.
    fn leave(&mut self, mut last_words: Vec<u8>, turn: &mut Turn<'_>) {
        let link = std::mem::replace(&mut self.link, Link::Idle);
        if let Link::Open(open) = link {
            self.part(*open, &mut last_words, turn);
        }
    }

    /// Goes on with a connection that is no longer the link, until all is sent and said.
    fn part(&mut self, open: Open, last_words: &mut Vec<u8>, turn: &mut Turn<'_>) {
        let Open {
            mut transport,
            mut flushing,
            sent,
            ..
        } = open;
        transport.encode(last_words, &mut flushing, turn.random);
        transport.encode_close(&mut flushing, turn.random);
        if transport.rename(turn.registry, turn.slot * 2 + 1).is_ok() {
            self.closing = Some(Closing {
                transport,
                bytes: flushing,
                sent,
                until: turn.now + LINGER,
                said: false,
            });
        }
    }

    /// Begins an attempt to connect.
    fn connect(&mut self, turn: &mut Turn<'_>) {
        let mut addresses = match self.addresses() {
            Ok(addresses) => addresses,
            Err(error) => {
                let error = ConnectError::Resolve(Arc::new(error));
                return self.connect_failed(error, turn);
            }
        };
        addresses.reverse();
        let until = turn.now + self.shared.config.connect_timeout;
        self.try_next(addresses, until, None, turn);
    }

    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let config = &self.shared.config;
        if !config.addresses.is_empty() {
            return Ok(config.addresses.clone());
        }
        if let Ok(ip) = config.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, config.port)]);
        }
        Ok((&*config.host, config.port).to_socket_addrs()?.collect())
    }

    /// Begins with the next address that can be begun with.
    fn try_next(
        &mut self,
        mut addresses: Vec<SocketAddr>,
        until: Instant,
        mut error: Option<ConnectError>,
        turn: &mut Turn<'_>,
    ) {
        self.link = Link::Idle;
        while let Some(address) = addresses.pop() {
            match Transport::connect(address, &self.shared.config, turn) {
                Ok(transport) => {
                    let left = until.saturating_duration_since(turn.now);
                    let share = left / (addresses.len() as u32 + 1);
                    self.link = Link::Connecting(Box::new(Attempt {
                        transport,
                        addresses,
                        address_until: turn.now + share,
                        until,
                    }));
                    return;
                }
                Err(refused) => error = Some(refused),
            }
        }
        let nowhere = || {
            let error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
            ConnectError::Resolve(Arc::new(error))
        };
        self.connect_failed(error.unwrap_or_else(nowhere), turn);
    }

    /// Goes on with connecting, if that is what is done.
    fn handshake(&mut self, turn: &mut Turn<'_>) {
        // One round for each address that fails at once.
        while let Link::Connecting(attempt) = &mut self.link {
            let error = match attempt.transport.handshake(turn) {
                Ok(Handshake::Done(early)) => return self.open(early, turn),
                Ok(Handshake::UnderWay) if turn.now < attempt.address_until => return,
                Ok(Handshake::UnderWay) => ConnectError::Timeout,
                Err(error) => error,
            };
            let addresses = std::mem::take(&mut attempt.addresses);
            let until = attempt.until;
            self.try_next(addresses, until, Some(error), turn);
        }
    }

    /// `early` is what came with the end of the handshake.
    fn open(&mut self, early: Vec<u8>, turn: &mut Turn<'_>) {
        let Link::Connecting(attempt) = std::mem::replace(&mut self.link, Link::Idle) else {
            return;
        };
        self.link = Link::Open(Box::new(Open {
            transport: attempt.transport,
            since: turn.now,
            inbound: early,
            flushing: Vec::new(),
            sent: 0,
            spare: Vec::new(),
            last_received: turn.now,
            heartbeat_at: None,
            was_paused: false,
        }));
        self.shared.opened();
    }

    fn connect_failed(&mut self, error: ConnectError, turn: &mut Turn<'_>) {
        self.link = Link::Idle;
        let reconnecting = self.plan_attempt(turn);
        self.shared.connect_failed(error, reconnecting);
    }

    fn lost(&mut self, reason: DisconnectReason, turn: &mut Turn<'_>) {
        let Link::Open(open) = std::mem::replace(&mut self.link, Link::Idle) else {
            return;
        };
        let since = open.since;
        if let DisconnectReason::PeerClosed = reason {
            self.part(*open, &mut Vec::new(), turn); // a good-bye wants another
        }
        let refused = matches!(
            reason,
            DisconnectReason::AuthenticationRefused(_) | DisconnectReason::Replaced
        );
        let policy = self.shared.config.reconnect;
        let reconnecting = match policy {
            Some(policy) if !refused => {
                // Who is thrown out again and again comes back later and later.
                let lasted = turn.now - since;
                if self.attempt.is_none() || lasted > policy.max {
                    self.attempt = Some(0);
                }
                self.plan_attempt(turn)
            }
            _ => false,
        };
        self.shared.lost(reason, reconnecting);
    }

    /// Sets the time of the next attempt, if there is to be one.
    fn plan_attempt(&mut self, turn: &mut Turn<'_>) -> bool {
        let (Some(policy), Some(attempt)) = (self.shared.config.reconnect, self.attempt) else {
            return false;
        };
        if policy.attempts > 0 && attempt >= policy.attempts {
            self.attempt = None;
            return false;
        }
        let delay = policy.delay(attempt, turn.random.next());
        self.attempt = Some(attempt.saturating_add(1));
        self.link = Link::Waiting(turn.now + delay);
        true
    }
}

impl Open {
    /// True if there is more to do at once.
    fn drive(&mut self, shared: &Shared, turn: &mut Turn<'_>) -> Result<bool, DisconnectReason> {
        shared.expire(turn.now)?;
        let more = self.read(shared, turn)?;
        self.beat(shared, turn.now)?;
        self.flush(shared, turn).map_err(DisconnectReason::Io)?;
        Ok(more)
    }

    fn next_deadline(&self, shared: &Shared) -> Option<Instant> {
        let config = &shared.config;
        let dead_at = self.last_received.checked_add(config.dead_after);
        let judged = self.heartbeat_at.is_some() && !config.dead_after.is_zero();
        let dead_at = dead_at.filter(|_| judged && !self.was_paused);
        let heartbeat_at = self.heartbeat_at.filter(|_| !config.heartbeat.is_zero());
        let first = dead_at.into_iter().chain(heartbeat_at);
        first.chain(shared.first_deadline()).min()
    }

    /// Heartbeats, and whether the server is alive. Neither begins before authentication: until
    /// then the server takes no other message.
    fn beat(&mut self, shared: &Shared, now: Instant) -> Result<(), DisconnectReason> {
        let config = &shared.config;
        let paused = shared.is_paused();
        if self.was_paused || paused {
            // We did not listen: silence says nothing.
            self.last_received = now;
        }
        self.was_paused = paused;
        let Some(at) = self.heartbeat_at else {
            if shared.phase() == Phase::Authenticated {
                self.heartbeat_at = Some(now + config.heartbeat);
                self.last_received = now;
            }
            return Ok(());
        };
        if !config.dead_after.is_zero() && now >= self.last_received + config.dead_after {
            return Err(DisconnectReason::Silent);
        }
        if !config.heartbeat.is_zero() && now >= at {
            shared.push_heartbeat();
            self.heartbeat_at = Some(now + config.heartbeat);
        }
        Ok(())
    }

    /// Reads and takes packets, until nothing is there, the budget is used up, or the event queue
    /// is full.
    fn read(&mut self, shared: &Shared, turn: &mut Turn<'_>) -> Result<bool, DisconnectReason> {
        let mut budget = READ_BUDGET;
        loop {
            self.take_packets(shared)?;
            if shared.is_paused() {
                return Ok(false);
            }
            if budget == 0 {
                return Ok(true);
            }
            match self.transport.read(turn, &mut self.inbound)? {
                Read::Bytes(n) => {
                    budget = budget.saturating_sub(n.max(1));
                    self.last_received = turn.now;
                }
                Read::Blocked => return Ok(false),
                Read::End => {
                    self.take_packets(shared)?;
                    // What is behind a full queue is read first.
                    if shared.is_paused() {
                        return Ok(false);
                    }
                    return Err(DisconnectReason::PeerClosed);
                }
            }
        }
    }

    fn take_packets(&mut self, shared: &Shared) -> Result<(), DisconnectReason> {
        let mut frames = shared.config.codec.frames(&self.inbound);
        while !shared.is_paused()
            && let Some(body) = frames.next()
        {
            let body = body.map_err(ProtocolError::Frame)?;
            let packet = ServerPacket::decode(body).map_err(ProtocolError::Packet)?;
            shared.received(packet)?;
        }
        let consumed = frames.consumed();
        self.inbound.drain(..consumed);
        give_back(&mut self.inbound);
        Ok(())
    }

    /// Sends until the socket takes no more, or nothing is left.
    fn flush(&mut self, shared: &Shared, turn: &mut Turn<'_>) -> io::Result<()> {
        loop {
            if self.sent == self.flushing.len() {
                self.flushing.clear();
                self.sent = 0;
                give_back(&mut self.flushing);
                let packets = &mut self.spare;
                shared.take_outbound(packets);
                self.transport
                    .encode(packets, &mut self.flushing, turn.random);
                give_back(packets);
                if self.flushing.is_empty() {
                    return self.transport.flush().map(drop);
                }
            }
            let n = self.transport.write(&self.flushing[self.sent..])?;
            self.sent += n;
            shared.set_in_flight(self.flushing.len() - self.sent);
            if n == 0 {
                return Ok(());
            }
        }
    }
}

fn give_back(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > BUFFER_KEPT_MAX {
        *buffer = Vec::new();
    }
}

impl Closing {
    /// Sends what is left, says good-bye, waits for the server to end.
    fn is_over(&mut self, turn: &mut Turn<'_>) -> bool {
        turn.now >= self.until || self.step(turn).unwrap_or(true)
    }

    fn step(&mut self, turn: &mut Turn<'_>) -> Result<bool, DisconnectReason> {
        if !self.said {
            while self.sent < self.bytes.len() {
                let n = self.transport.write(&self.bytes[self.sent..]);
                match n.map_err(DisconnectReason::Io)? {
                    0 => return Ok(false),
                    n => self.sent += n,
                }
            }
            self.transport.begin_close();
            if !self.transport.flush().map_err(DisconnectReason::Io)? {
                return Ok(false);
            }
            self.transport.shut_down();
            self.said = true;
        }
        let mut unwanted = Vec::new();
        loop {
            match self.transport.read(turn, &mut unwanted)? {
                Read::Bytes(_) => unwanted.clear(),
                Read::Blocked => return Ok(false),
                Read::End => return Ok(true),
            }
        }
    }
}
