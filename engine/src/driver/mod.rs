//! Everything the operating system touches.
//!
//! A [`Driver`] turns sockets into *completions*: "this connection received so many bytes", "that
//! one was made". The shard above never sees readiness, edges or descriptors, so that the same
//! shard runs on epoll ([`epoll`]) and on the seeded simulation (`sim`), and an io_uring or UDP
//! driver needs no second shard.
//!
//! Connections and listeners are named by small numbers that the shard chooses (its own slots);
//! the driver keeps a table beside the shard's. After [`Driver::close`] or [`Driver::detach`] no
//! completion of that connection is reported any more, even if the slot is reused at once.

pub(crate) mod epoll;
#[cfg(feature = "sim")]
pub(crate) mod sim;
pub(crate) mod socket;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::mailbox::Wake;
use crate::options::{Address, SocketOptions};
use crate::time::Time;

/// An open socket on its way between shards, or out of the engine.
#[derive(Debug)]
pub(crate) enum RawSocket {
    /// A descriptor of the operating system.
    Fd(OwnedFd),
    /// A socket of the simulated network; dropping it without registering it resets it.
    #[cfg(feature = "sim")]
    Sim(sim::SimSocket),
}

/// What happened to a connection or listener.
#[derive(Debug)]
pub(crate) enum Completion {
    /// A listener accepted a connection. `peer` is `None` for Unix sockets.
    Accepted {
        listener: u32,
        socket: RawSocket,
        peer: Option<SocketAddr>,
    },
    /// Accepting failed. The driver accepts no more on this listener until
    /// [`Driver::resume_accept`]. With `shed`, the driver gave up its spare descriptor to take
    /// and close one waiting connection.
    AcceptFailed {
        listener: u32,
        error: io::Error,
        shed: bool,
    },
    /// An outgoing connection was made, or not (then the driver has already closed it).
    Connected { conn: u32, result: io::Result<()> },
    /// `len` > 0 bytes of the connection are at the front of the chunk given to
    /// [`Driver::next`].
    Received { conn: u32, len: usize },
    /// The peer finished sending. Reported once.
    ReadClosed { conn: u32 },
    /// A pending send went on: `len` bytes of what was handed to [`Driver::send`] were taken
    /// (0 with readiness drivers: "try again").
    Sent { conn: u32, len: usize },
    /// The connection broke. The shard closes it.
    Failed { conn: u32, error: io::Error },
}

/// What became of a send.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// So many bytes were taken. Fewer than offered means that the socket's buffer is full: a
    /// [`Completion::Sent`] follows when there is room.
    Taken(usize),
    /// Nothing was taken; a [`Completion::Sent`] follows when there is room.
    Pending,
    /// The connection broke. The shard closes it; no `Failed` follows.
    Failed(io::Error),
}

/// The system below a shard. Not shared between threads.
pub(crate) trait Driver {
    /// Reads the clock.
    fn now(&self) -> Time;

    /// The same clock, for handlers to read while the driver is out of their reach.
    fn clock(&self) -> Box<dyn Fn() -> Time>;

    /// What other threads use to end a [`wait`](Self::wait).
    fn waker(&self) -> io::Result<Box<dyn Wake>>;

    /// True if [`next`](Self::next) has something without waiting: sockets that had more to read
    /// than one chunk, listeners with more to accept.
    fn has_ready(&self) -> bool;

    /// Starts a round: collects what is ready, sleeping until `until` if nothing is
    /// (`Time::ZERO` = do not sleep, `Time::MAX` = for ever), and moves what was left of the
    /// previous round behind it. A wake ends the sleep.
    fn wait(&mut self, until: Time) -> io::Result<()>;

    /// How many events the last [`wait`](Self::wait) brought if there may have been more of them
    /// than it could bring; 0 if it brought all there were.
    fn brought_a_part(&self) -> usize {
        0
    }

    /// The next completion of this round, `None` when the round is over. Receives into `chunk`.
    /// Per round, a connection receives at most one chunk and a listener accepts a few dozen.
    fn next(&mut self, chunk: &mut [u8]) -> Option<Completion>;

    /// The connection of which [`next`](Self::next) will perhaps report something when it has been
    /// called `after` times more. A hint.
    fn upcoming(&self, after: usize) -> Option<u32> {
        let _ = after;
        None
    }

    /// Starts accepting on a bound socket.
    fn listen(&mut self, listener: u32, socket: RawSocket) -> io::Result<()>;

    /// Stops listening and closes the listening socket.
    fn unlisten(&mut self, listener: u32);

    /// Accepts again after an [`Completion::AcceptFailed`].
    fn resume_accept(&mut self, listener: u32);

    /// Starts an outgoing connection; a [`Completion::Connected`] follows.
    fn connect(&mut self, conn: u32, to: &Address, options: &SocketOptions) -> io::Result<()>;

    /// Takes a connected socket into the slot `conn`, reading at once. Without `options` it keeps
    /// those it has.
    fn register(
        &mut self,
        conn: u32,
        socket: RawSocket,
        options: Option<&SocketOptions>,
    ) -> io::Result<()>;

    /// Takes a socket out without closing it.
    fn detach(&mut self, conn: u32) -> Option<RawSocket>;

    /// Stops or starts reading from a connection. What arrived while reading was off is reported
    /// after it is on again.
    fn set_reading(&mut self, conn: u32, on: bool);

    /// Writes once, vectored. With `Taken(all)` another send may follow at once; otherwise not
    /// before the next `Sent`.
    fn send(&mut self, conn: u32, parts: &[IoSlice<'_>]) -> Submitted;

    /// Ends our side of the stream (FIN) after what was taken by `send`; reading goes on.
    fn finish(&mut self, conn: u32);

    /// Closes a connection at once, in whatever state it is. Idempotent.
    fn close(&mut self, conn: u32);

    /// Closes a connection at once by a reset, so that its peer does not take what it has
    /// received for all there was. Idempotent.
    fn reset(&mut self, conn: u32);
}
