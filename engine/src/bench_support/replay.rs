//! The production shard over a driver that plays a recording: what is left is the shard.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::driver::{Completion, Driver, RawSocket, Submitted};
use crate::handle::Shared;
use crate::handler::Handler;
use crate::limits::Limits;
use crate::mailbox::{Mailbox, Wake};
use crate::options::{Address, Connector, Framing, SocketOptions};
use crate::shard::Shard;
use crate::time::Time;

/// A shard whose connections receive the same recording over and over, in pieces that take no
/// account of frames, and whose writes go nowhere. Time stands still.
pub struct ReplayShard<H: Handler> {
    shard: Shard<Replay, H>,
}

impl<H: Handler> ReplayShard<H> {
    /// A shard with `connections` connections, all made. Each turn, each of them receives the next
    /// `read` bytes of `recording`, which begins again where it ends.
    ///
    /// # Panics
    /// If `recording` is shorter than `read`, or `read` longer than a receive chunk.
    pub fn new(
        handler: H,
        framing: Framing,
        connections: usize,
        recording: &[u8],
        read: usize,
    ) -> Self {
        let limits = Limits::default();
        assert!(read <= recording.len() && read <= limits.receive_chunk);
        let (mailbox, consumer) = Mailbox::new(limits.mailbox_max, Box::new(NoWake));
        let shared = Arc::new(Shared::new(vec![mailbox], limits));
        let driver = Replay {
            // What follows the end is its beginning, so that a piece is one copy.
            recording: [recording, &recording[..read]].concat(),
            length: recording.len(),
            read,
            connections: Vec::new(),
            fresh: Vec::new(),
            next: 0,
            speaking: 0,
            change: None,
            written: 0,
            writes: 0,
        };
        let mut shard = Shard::new(0, driver, handler, consumer, &shared, Vec::new(), 1);
        let nowhere = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        shard.with(|_, cx| {
            for _ in 0..connections {
                cx.connect(&Connector::to(nowhere.clone()).framing(framing));
            }
        });
        let mut replay = Self { shard };
        replay.turn(); // the connections are made
        replay.hush(usize::MAX);
        replay
    }

    /// One turn: every connection receives once, and what the handler sent is written.
    #[inline(never)]
    pub fn turn(&mut self) {
        let turned = self.shard.turn(Duration::ZERO);
        turned.expect("the replaying driver does not fail");
    }

    /// Has what each connection receives changed before: `call` is given the bytes and the number
    /// of the connection.
    pub fn change(&mut self, call: impl FnMut(&mut [u8], usize) + 'static) {
        self.shard.driver_mut().change = Some(Box::new(call));
    }

    /// From now on only the first `connections` receive.
    pub fn hush(&mut self, connections: usize) {
        self.shard.driver_mut().speaking = connections;
    }

    /// Writes so far, by all connections.
    pub fn writes(&self) -> u64 {
        self.shard.driver().writes
    }

    /// Bytes that were written so far, by all connections.
    pub fn written(&self) -> u64 {
        self.shard.driver().written
    }
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

type Change = Box<dyn FnMut(&mut [u8], usize)>;

struct Replay {
    recording: Vec<u8>,
    /// Of the recording without what was appended.
    length: usize,
    read: usize,
    /// Where in the recording each connection is.
    connections: Vec<(u32, usize)>,
    /// Connections that are being made.
    fresh: Vec<u32>,
    /// The connection that receives next in this round.
    next: usize,
    /// So many of them receive.
    speaking: usize,
    change: Option<Change>,
    written: u64,
    writes: u64,
}

impl Driver for Replay {
    fn now(&self) -> Time {
        Time::from_nanos(1)
    }

    fn clock(&self) -> Box<dyn Fn() -> Time> {
        Box::new(|| Time::from_nanos(1))
    }

    fn waker(&self) -> io::Result<Box<dyn Wake>> {
        Ok(Box::new(NoWake))
    }

    fn has_ready(&self) -> bool {
        true
    }

    fn wait(&mut self, _until: Time) -> io::Result<()> {
        self.next = 0;
        Ok(())
    }

    #[inline]
    fn next(&mut self, chunk: &mut [u8]) -> Option<Completion> {
        if let Some(conn) = self.fresh.pop() {
            let result = Ok(());
            return Some(Completion::Connected { conn, result });
        }
        if self.next >= self.speaking {
            return None;
        }
        let (conn, at) = self.connections.get_mut(self.next)?;
        self.next += 1;
        let len = self.read;
        chunk[..len].copy_from_slice(&self.recording[*at..*at + len]);
        if let Some(change) = &mut self.change {
            change(&mut chunk[..len], self.next - 1);
        }
        *at = (*at + len) % self.length;
        Some(Completion::Received { conn: *conn, len })
    }

    #[inline]
    fn upcoming(&self, after: usize) -> Option<u32> {
        let at = self.next + after;
        let (conn, _) = self.connections[..self.speaking.min(self.connections.len())].get(at)?;
        Some(*conn)
    }

    fn listen(&mut self, _listener: u32, _socket: RawSocket) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn unlisten(&mut self, _listener: u32) {}

    fn resume_accept(&mut self, _listener: u32) {}

    fn connect(&mut self, conn: u32, _to: &Address, _options: &SocketOptions) -> io::Result<()> {
        self.fresh.push(conn);
        self.connections.push((conn, 0));
        Ok(())
    }

    fn register(&mut self, _: u32, _: RawSocket, _: Option<&SocketOptions>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn detach(&mut self, _conn: u32) -> Option<RawSocket> {
        None
    }

    fn set_reading(&mut self, _conn: u32, _on: bool) {}

    #[inline]
    fn send(&mut self, _conn: u32, parts: &[IoSlice<'_>]) -> Submitted {
        let taken = parts
            .iter()
            .map(|part| std::hint::black_box(part).len())
            .sum();
        self.written += taken as u64;
        self.writes += 1;
        Submitted::Taken(taken)
    }

    fn finish(&mut self, _conn: u32) {}

    fn reset(&mut self, conn: u32) {
        self.close(conn);
    }

    fn close(&mut self, conn: u32) {
        self.connections.retain(|(one, _)| *one != conn);
    }
}
