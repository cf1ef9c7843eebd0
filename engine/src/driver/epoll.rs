//! The driver for epoll, on mio: readiness turned into completions.
//!
//! Registration is edge-triggered, so the driver remembers what the edges said: a socket that
//! filled a whole chunk, or was told of the peer's FIN, goes to the list of the next round until a
//! read came back short; one that becomes readable while its reading is off is remembered as
//! such. A short read needs no second system call, because whatever arrives later is a new edge.
//!
//! Tokens carry kind, slot and epoch. The epoch changes whenever a slot gets another socket, so
//! that events which were collected before a close never reach the successor.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::{Completion, Driver, RawSocket, Submitted, socket};
use crate::mailbox::Wake;
use crate::options::{Address, SocketOptions};
use crate::time::Time;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// Connections accepted per listener and round.
const ACCEPTS_PER_ROUND: u8 = 64;
/// epoll counts in milliseconds and mio rounds up: shorter sleeps use a timerfd.
const TIMERFD_BELOW: Duration = Duration::from_millis(5);

const KIND_CONNECTION: u8 = 0;
const KIND_LISTENER: u8 = 1;
const KIND_WAKE: u8 = 2;
const KIND_TIMER: u8 = 3;

const READ: u8 = 1;
const WRITE: u8 = 2;
/// The peer's FIN is among what can be read: a short read is not the end.
const HANGUP: u8 = 4;
/// The connection broke.
const ERROR: u8 = 8;
/// mio counts milliseconds in 32 bits: longer sleeps are made of several.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// One connection's descriptor and what is known about it.
struct Socket {
    fd: OwnedFd,
    epoch: u32,
    connecting: bool,
    reading: bool,
    /// What is known of it and not handled yet; it is in `ready` or `again`, once, as long as
    /// there is something.
    pending: u8,
    /// Edges that came while reading was off.
    missed: u8,
    blocked: bool,
    read_closed: bool,
}

struct ListenSocket {
    fd: OwnedFd,
    epoch: u32,
    paused: bool,
    /// It is in `ready` or `again`.
    queued: bool,
}

/// A socket with something pending, or a listener.
#[derive(Clone, Copy)]
struct Ready {
    kind: u8,
    accepts: u8,
    slot: u32,
    epoch: u32,
}

pub(crate) struct EpollDriver {
    poll: Poll,
    events: Events,
    /// Events of the last wait.
    brought: usize,
    epoch_start: Instant,
    sockets: Vec<Option<Socket>>,
    listeners: Vec<Option<ListenSocket>>,
    next_epoch: u32,
    ready: VecDeque<Ready>,
    again: Vec<Ready>,
    timer: OwnedFd,
    /// When the timerfd goes off; `Time::MAX` if it is not armed.
    timer_at: Time,
    /// Given up for a moment when descriptors run out, to take and close a waiting connection.
    spare: Option<File>,
}

struct EpollWake(mio::Waker);

impl Wake for EpollWake {
    fn wake(&self) {
        // Fails only if the counter is at its maximum: then a wake is pending anyway.
        let _ = self.0.wake();
    }
}

fn token(kind: u8, slot: u32, epoch: u32) -> Token {
    Token((u64::from(kind) << 56 | u64::from(slot) << 32 | u64::from(epoch)) as usize)
}

const _: () = assert!(usize::BITS == 64, "tokens need 64 bits");

impl EpollDriver {
    /// `epoch_start`: the zero of the clock, the same for all shards of an engine.
    pub(crate) fn new(epoch_start: Instant) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = make_timer()?;
        let source = timer.as_raw_fd();
        poll.registry().register(
            &mut SourceFd(&source),
            token(KIND_TIMER, 0, 0),
            Interest::READABLE,
        )?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            brought: 0,
            epoch_start,
            sockets: Vec::new(),
            listeners: Vec::new(),
            next_epoch: 0,
            ready: VecDeque::with_capacity(EVENTS_MAX),
            again: Vec::new(),
            timer,
            timer_at: Time::MAX,
            spare: File::open("/dev/null").ok(),
        })
    }

    fn sleep(&mut self, until: Time) -> io::Result<()> {
        let mut timeout = None;
        if until != Time::MAX {
            let rest = until.since(self.now());
            if rest.is_zero() {
                timeout = Some(Duration::ZERO);
            } else if rest < TIMERFD_BELOW {
                self.arm(until, rest)?;
            } else {
                // Rounded down, so that the last milliseconds are the timerfd's.
                let whole = Duration::from_millis(rest.as_millis() as u64);
                timeout = Some(whole.min(SLEEP_MAX));
            }
        }
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            result => result?,
        }
        Ok(())
    }

    fn arm(&mut self, until: Time, rest: Duration) -> io::Result<()> {
        if self.timer_at == until {
            return Ok(());
        }
        let spec = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: 0,
                tv_nsec: i64::from(rest.subsec_nanos()).max(1),
            },
        };
        // SAFETY: the descriptor is ours and open; `spec` lives for the call; no old value is
        // asked for.
        let result = unsafe {
            libc::timerfd_settime(self.timer.as_raw_fd(), 0, &spec, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        self.timer_at = until;
        Ok(())
    }

    fn collect(&mut self) {
        self.brought = 0;
        for event in &self.events {
            self.brought += 1;
            let raw = event.token().0 as u64;
            let kind = (raw >> 56) as u8;
            if kind == KIND_TIMER {
                self.timer_at = Time::MAX;
                continue;
            }
            if kind == KIND_WAKE {
                continue;
            }
            let mut flags = 0;
            if event.is_readable() || event.is_error() {
                flags |= READ;
            }
            if event.is_writable() || event.is_error() {
                flags |= WRITE;
            }
            if event.is_read_closed() || event.is_error() {
                flags |= READ | HANGUP;
            }
            if event.is_error() {
                flags |= ERROR;
            }
            let slot = (raw >> 32) as u32 & 0x00ff_ffff;
            let ready = Ready {
                kind,
                accepts: 0,
                slot,
                epoch: raw as u32,
            };
            if Self::note(&mut self.sockets, &mut self.listeners, ready, flags) {
                self.ready.push_back(ready);
            }
        }
    }

    /// Adds to what is pending; true if the socket has to be queued for it.
    fn note(
        sockets: &mut [Option<Socket>],
        listeners: &mut [Option<ListenSocket>],
        ready: Ready,
        flags: u8,
    ) -> bool {
        let index = ready.slot as usize;
        if ready.kind == KIND_LISTENER {
            return match listeners.get_mut(index) {
                Some(Some(entry)) if entry.epoch == ready.epoch => {
                    !std::mem::replace(&mut entry.queued, true)
                }
                _ => false,
            };
        }
        match sockets.get_mut(index) {
            Some(Some(socket)) if socket.epoch == ready.epoch => {
                let was = socket.pending;
                socket.pending |= flags;
                was == 0 && flags != 0
            }
            _ => false,
        }
    }

    /// Queues a connection for the next round.
    fn again(&mut self, ready: Ready, flags: u8) {
        if Self::note(&mut self.sockets, &mut self.listeners, ready, flags) {
            self.again.push(ready);
        }
    }

    /// What the front of the ready list has come to; `None`: nothing to report, go on.
    fn handle_connection(&mut self, ready: Ready, chunk: &mut [u8]) -> Option<Completion> {
        let conn = ready.slot;
        let socket = self.sockets.get_mut(conn as usize)?.as_mut()?;
        if socket.epoch != ready.epoch {
            return None;
        }
        let flags = std::mem::take(&mut socket.pending);
        if socket.connecting {
            return self.handle_connecting(ready, flags);
        }
        if flags & WRITE != 0 && socket.blocked {
            socket.blocked = false;
            socket.pending = flags & !WRITE;
            if socket.pending != 0 {
                self.ready.push_front(ready);
            }
            return Some(Completion::Sent { conn, len: 0 });
        }
        if socket.read_closed && flags & ERROR != 0 {
            let error = socket::take_error(socket.fd.as_fd()).unwrap_or_else(Some);
            return error.map(|error| Completion::Failed { conn, error });
        }
        if flags & READ == 0 || socket.read_closed {
            return None;
        }
        if !socket.reading {
            socket.missed |= flags & !WRITE;
            return None;
        }
        match socket::receive(socket.fd.as_fd(), chunk) {
            Ok(0) => {
                socket.read_closed = true;
                Some(Completion::ReadClosed { conn })
            }
            Ok(len) => {
                if len == chunk.len() || flags & HANGUP != 0 {
                    self.again(ready, flags & !WRITE);
                }
                Some(Completion::Received { conn, len })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                socket.read_closed = true;
                Some(Completion::Failed { conn, error })
            }
        }
    }

    fn handle_connecting(&mut self, ready: Ready, flags: u8) -> Option<Completion> {
        let conn = ready.slot;
        if flags & (WRITE | HANGUP) == 0 {
            return None;
        }
        let socket = self.sockets.get_mut(conn as usize)?.as_mut()?;
        let error = socket::take_error(socket.fd.as_fd()).unwrap_or_else(Some);
        if let Some(error) = error {
            self.close(conn);
            return Some(Completion::Connected {
                conn,
                result: Err(error),
            });
        }
        socket.connecting = false;
        if flags & READ != 0 {
            self.again(ready, flags & !WRITE);
        }
        Some(Completion::Connected {
            conn,
            result: Ok(()),
        })
    }

    fn handle_listener(&mut self, ready: Ready) -> Option<Completion> {
        let listener = ready.slot;
        let entry = self.listeners.get_mut(listener as usize)?.as_mut()?;
        if entry.epoch != ready.epoch || entry.paused {
            entry.queued = false;
            return None;
        }
        if ready.accepts == ACCEPTS_PER_ROUND {
            self.again.push(Ready {
                accepts: 0,
                ..ready
            });
            return None;
        }
        match socket::accept(entry.fd.as_fd()) {
            Ok((socket, peer)) => {
                self.ready.push_front(Ready {
                    accepts: ready.accepts + 1,
                    ..ready
                });
                Some(Completion::Accepted {
                    listener,
                    socket: RawSocket::Fd(socket),
                    peer,
                })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                entry.queued = false;
                None
            }
            // The peer gave up, or a signal came: the next one may be fine.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::EPERM)
                ) =>
            {
                self.ready.push_front(Ready {
                    accepts: ready.accepts + 1,
                    ..ready
                });
                None
            }
            Err(error) => {
                entry.paused = true;
                entry.queued = false;
                let full = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                let shed = full && self.shed(listener);
                Some(Completion::AcceptFailed {
                    listener,
                    error,
                    shed,
                })
            }
        }
    }

    /// Out of descriptors: uses the spare one to take a waiting connection and close it, so that
    /// its peer learns at once.
    fn shed(&mut self, listener: u32) -> bool {
        if self.spare.take().is_none() {
            self.spare = File::open("/dev/null").ok();
            return false;
        }
        let entry = self
            .listeners
            .get(listener as usize)
            .and_then(Option::as_ref);
        let shed = entry.is_some_and(|entry| socket::accept(entry.fd.as_fd()).is_ok());
        self.spare = File::open("/dev/null").ok();
        shed
    }

    fn fresh_epoch(&mut self) -> u32 {
        self.next_epoch = self.next_epoch.wrapping_add(1);
        self.next_epoch
    }

    fn insert(&mut self, conn: u32, fd: OwnedFd, connecting: bool) -> io::Result<()> {
        let epoch = self.fresh_epoch();
        let raw = fd.as_raw_fd();
        self.poll.registry().register(
            &mut SourceFd(&raw),
            token(KIND_CONNECTION, conn, epoch),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let index = conn as usize;
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, || None);
        }
        debug_assert!(self.sockets[index].is_none(), "slot {conn} is in use");
        self.sockets[index] = Some(Socket {
            fd,
            epoch,
            connecting,
            reading: true,
            pending: 0,
            missed: 0,
            blocked: false,
            read_closed: false,
        });
        Ok(())
    }
}

impl Driver for EpollDriver {
    fn now(&self) -> Time {
        Time::ZERO + self.epoch_start.elapsed()
    }

    fn clock(&self) -> Box<dyn Fn() -> Time> {
        let start = self.epoch_start;
        Box::new(move || Time::ZERO + start.elapsed())
    }

    fn waker(&self) -> io::Result<Box<dyn Wake>> {
        let waker = mio::Waker::new(self.poll.registry(), token(KIND_WAKE, 0, 0))?;
        Ok(Box::new(EpollWake(waker)))
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.again.is_empty()
    }

    fn wait(&mut self, until: Time) -> io::Result<()> {
        if !self.ready.is_empty() {
            return Ok(()); // the last round was left early
        }
        self.sleep(if self.again.is_empty() {
            until
        } else {
            Time::ZERO
        })?;
        self.collect();
        self.ready.extend(self.again.drain(..));
        Ok(())
    }

    fn brought_a_part(&self) -> usize {
        if self.brought < EVENTS_MAX {
            0
        } else {
            self.brought
        }
    }

    fn next(&mut self, chunk: &mut [u8]) -> Option<Completion> {
        while let Some(ready) = self.ready.pop_front() {
            let completion = match ready.kind {
                KIND_CONNECTION => self.handle_connection(ready, chunk),
                KIND_LISTENER => self.handle_listener(ready),
                _ => None,
            };
            if completion.is_some() {
                return completion;
            }
        }
        None
    }

    #[inline]
    fn upcoming(&self, after: usize) -> Option<u32> {
        let ready = self.ready.get(after)?;
        (ready.kind == KIND_CONNECTION).then_some(ready.slot)
    }

    fn listen(&mut self, listener: u32, socket: RawSocket) -> io::Result<()> {
        let fd = descriptor(socket)?;
        let epoch = self.fresh_epoch();
        let raw = fd.as_raw_fd();
        self.poll.registry().register(
            &mut SourceFd(&raw),
            token(KIND_LISTENER, listener, epoch),
            Interest::READABLE,
        )?;
        let index = listener as usize;
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, || None);
        }
        self.listeners[index] = Some(ListenSocket {
            fd,
            epoch,
            paused: false,
            queued: false,
        });
        Ok(())
    }

    fn unlisten(&mut self, listener: u32) {
        if let Some(entry) = self.listeners.get_mut(listener as usize) {
            *entry = None;
        }
    }

    fn resume_accept(&mut self, listener: u32) {
        if let Some(Some(entry)) = self.listeners.get_mut(listener as usize) {
            entry.paused = false;
            let ready = Ready {
                kind: KIND_LISTENER,
                accepts: 0,
                slot: listener,
                epoch: entry.epoch,
            };
            self.again(ready, READ);
        }
    }

    fn connect(&mut self, conn: u32, to: &Address, options: &SocketOptions) -> io::Result<()> {
        let fd = socket::connect(to, options)?;
        self.insert(conn, fd, true)
    }

    fn register(
        &mut self,
        conn: u32,
        socket: RawSocket,
        options: Option<&SocketOptions>,
    ) -> io::Result<()> {
        let fd = descriptor(socket)?;
        if let Some(options) = options {
            socket::configure(fd.as_fd(), options)?;
        }
        self.insert(conn, fd, false)
    }

    fn detach(&mut self, conn: u32) -> Option<RawSocket> {
        let socket = self.sockets.get_mut(conn as usize)?.take()?;
        let raw = socket.fd.as_raw_fd();
        // Cannot fail for a registered descriptor; if it did, its events find no slot.
        let _ = self.poll.registry().deregister(&mut SourceFd(&raw));
        Some(RawSocket::Fd(socket.fd))
    }

    fn set_reading(&mut self, conn: u32, on: bool) {
        let Some(Some(socket)) = self.sockets.get_mut(conn as usize) else {
            return;
        };
        socket.reading = on;
        if on && socket.missed != 0 {
            let flags = std::mem::take(&mut socket.missed);
            let ready = Ready {
                kind: KIND_CONNECTION,
                accepts: 0,
                slot: conn,
                epoch: socket.epoch,
            };
            self.again(ready, flags);
        }
    }

    fn send(&mut self, conn: u32, parts: &[IoSlice<'_>]) -> Submitted {
        let Some(Some(socket)) = self.sockets.get_mut(conn as usize) else {
            return Submitted::Failed(io::Error::from(io::ErrorKind::NotConnected));
        };
        match socket::send(socket.fd.as_fd(), parts) {
            Ok(taken) => {
                socket.blocked = taken < parts.iter().map(|part| part.len()).sum();
                Submitted::Taken(taken)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.blocked = true;
                Submitted::Pending
            }
            Err(error) => Submitted::Failed(error),
        }
    }

    fn finish(&mut self, conn: u32) {
        if let Some(Some(socket)) = self.sockets.get_mut(conn as usize) {
            socket::finish(socket.fd.as_fd());
        }
    }

    fn close(&mut self, conn: u32) {
        if let Some(entry) = self.sockets.get_mut(conn as usize) {
            *entry = None; // closing the descriptor ends its registration
        }
    }

    fn reset(&mut self, conn: u32) {
        if let Some(Some(socket)) = self.sockets.get(conn as usize) {
            socket::reset_on_close(socket.fd.as_fd());
        }
        self.close(conn);
    }
}

impl AsFd for EpollDriver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `poll`, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) }
    }
}

fn descriptor(socket: RawSocket) -> io::Result<OwnedFd> {
    match socket {
        RawSocket::Fd(fd) => Ok(fd),
        #[cfg(feature = "sim")]
        RawSocket::Sim(_) => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

fn make_timer() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe {
        libc::timerfd_create(
            libc::CLOCK_MONOTONIC,
            libc::TFD_NONBLOCK | libc::TFD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
