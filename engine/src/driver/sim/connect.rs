//! How connections are made: attempts, listeners and their queues.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::link::{End, EndKey, Handshake, Link, Owner, Pipe};
use super::net::{Event, Network};
use super::random::nanos;
use super::trace::SimEventKind;
use crate::options::Address;
use crate::time::Time;

/// How many connections wait in a listener's queue.
const BACKLOG: usize = 4096;
/// How long the system tries to connect before it gives up by itself, as Linux does with its
/// default of six repetitions.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(127);
/// How long after an attempt that found the queue full the next one is made.
const SYN_REPEAT: Duration = Duration::from_secs(1);

/// Names a listening (or bound) socket; `birth` is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListenerKey {
    pub(super) index: usize,
    pub(super) birth: u64,
}

#[derive(Debug)]
pub(super) struct ListenSocket {
    pub(super) birth: u64,
    pub(super) address: Address,
    /// Who accepts; `None` while it is only bound. In `Slot`, `conn` is the listener's number.
    pub(super) owner: Option<Owner>,
    /// Accepted ends that wait for their owner, oldest first.
    pub(super) queue: VecDeque<EndKey>,
    /// The process has no descriptors until then.
    pub(super) failing_until: Time,
}

impl Network {
    /// A new connection, of which only the connecting end exists.
    pub(super) fn begin_connect(&mut self, owner: Owner, from: Address, to: Address) -> EndKey {
        let birth = self.next_birth();
        let random = &mut self.random;
        let faults = &self.faults;
        let latency = random.duration(*faults.latency.start(), *faults.latency.end());
        let segment_max = faults.segment_bytes.as_ref().map(|range| {
            random
                .between_log(*range.start() as u64, *range.end() as u64)
                .max(1) as usize
        });
        let (least, most) = (*faults.buffer_bytes.start(), *faults.buffer_bytes.end());
        let mut buffer = || random.between_log(least as u64, most as u64) as usize;
        let pipes = [Pipe::new(buffer(), buffer()), Pipe::new(buffer(), buffer())];
        let end = |address, owner, open| End {
            address,
            owner,
            open,
            broken: None,
        };
        let link = Link {
            birth,
            ends: [end(from, owner, true), end(to, Owner::Nobody, false)],
            pipes,
            handshake: Handshake::Waiting,
            latency_ns: nanos(latency),
            segment_max,
            reset_after: None,
            connect_until: self.clock.now() + CONNECT_TIMEOUT,
        };
        let index = self.links.insert(link);
        let end = EndKey {
            index,
            birth,
            side: 0,
        };
        self.note(end, SimEventKind::Connect, 0);
        self.plan_reset(end);
        end
    }

    fn plan_reset(&mut self, end: EndKey) {
        if !self.random.chance(self.faults.reset) {
            return;
        }
        if self.random.chance(0.5) {
            let after = self.random.between_log(1, self.faults.reset_bytes_max);
            self.links[end.index].reset_after = Some(after);
        } else {
            let after = self
                .random
                .duration(Duration::ZERO, self.faults.reset_time_max);
            let at = self.clock.now() + after;
            self.clock.schedule_background(at, Event::Break(end));
        }
    }

    /// Sends the attempt on its way.
    pub(super) fn send_syn(&mut self, end: EndKey) {
        let at = self.after_latency(end, 1);
        self.clock.schedule(at, Event::Syn(end));
    }

    /// Lets the attempt be refused after a round trip.
    pub(super) fn refuse(&mut self, end: EndKey) {
        let at = self.after_latency(end, 2);
        self.clock.schedule(
            at,
            Event::ConnectFailed(end, io::ErrorKind::ConnectionRefused),
        );
    }

    /// Lets the attempt go unanswered.
    pub(super) fn ignore(&mut self, end: EndKey) {
        let at = self.clock.now() + CONNECT_TIMEOUT;
        self.clock
            .schedule_background(at, Event::ConnectFailed(end, io::ErrorKind::TimedOut));
    }

    fn after_latency(&self, end: EndKey, times: u64) -> Time {
        let latency = self.link(end).map_or(0, |link| link.latency_ns);
        self.clock.now() + Duration::from_nanos(latency.saturating_mul(times))
    }

    pub(super) fn on_syn(&mut self, end: EndKey) {
        let Some(link) = self.link(end) else { return };
        if link.ends[0].broken.is_some() {
            return;
        }
        let (to, until) = (link.ends[1].address.clone(), link.connect_until);
        let candidates: Vec<ListenerKey> = self
            .listeners
            .iter()
            .filter(|(_, socket)| socket.owner.is_some() && reaches(&socket.address, &to))
            .map(|(index, socket)| ListenerKey {
                index,
                birth: socket.birth,
            })
            .collect();
        if candidates.is_empty() {
            let at = self.after_latency(end, 1);
            let event = Event::ConnectFailed(end, io::ErrorKind::ConnectionRefused);
            return self.clock.schedule(at, event);
        }
        let key = candidates[self.random.index(candidates.len())];
        if self.listeners[key.index].queue.len() >= BACKLOG {
            let again = self.clock.now() + SYN_REPEAT;
            let event = if again < until {
                Event::Syn(end)
            } else {
                Event::ConnectFailed(end, io::ErrorKind::TimedOut)
            };
            return self.clock.schedule(again, event);
        }
        self.note(end.other(), SimEventKind::Queued, 0);
        let established = self.after_latency(end, 1);
        self.links[end.index].ends[1].open = true;
        // Scheduled before anything that the accepting end sends, with the same latency: it
        // arrives first.
        self.clock.schedule(established, Event::Established(end));
        self.listeners[key.index].queue.push_back(end.other());
        self.notify_listener(key);
    }

    pub(super) fn on_established(&mut self, end: EndKey) {
        let Some(link) = self.link_mut(end) else {
            return;
        };
        if link.ends[0].broken.is_some() || !link.ends[0].open {
            return;
        }
        link.handshake = Handshake::Done;
        self.note(end, SimEventKind::Established, 0);
        self.notify(end);
    }

    pub(super) fn on_connect_failed(&mut self, end: EndKey, kind: io::ErrorKind) {
        let Some(link) = self.link_mut(end) else {
            return;
        };
        if link.handshake != Handshake::Waiting {
            return;
        }
        link.handshake = Handshake::Failed(kind);
        let refused = kind == io::ErrorKind::ConnectionRefused;
        let what = if refused {
            SimEventKind::Refused
        } else {
            SimEventKind::TimedOut
        };
        self.note(end, what, 0);
        self.notify(end);
    }

    /// What the connecting end knows of its attempt. A connection that broke on the way counts
    /// as refused by whatever broke it.
    pub(super) fn handshake(&self, end: EndKey) -> Handshake {
        let Some(link) = self.link(end) else {
            return Handshake::Done;
        };
        match (link.handshake, link.ends[end.side].broken) {
            (Handshake::Waiting, Some(kind)) => Handshake::Failed(kind),
            (handshake, _) => handshake,
        }
    }

    pub(super) fn bind(&mut self, address: &Address) -> io::Result<ListenerKey> {
        let mut address = address.clone();
        match &mut address {
            Address::Tcp(tcp) if tcp.port() == 0 => {
                let port = self.fresh_address().port();
                tcp.set_port(port);
            }
            Address::Tcp(_) => {}
            Address::Unix(_) => {
                if self
                    .listeners
                    .iter()
                    .any(|(_, socket)| socket.address == address)
                {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
            }
        }
        let birth = self.next_birth();
        let (queue, failing_until) = (VecDeque::new(), Time::ZERO);
        let socket = ListenSocket {
            birth,
            address,
            owner: None,
            queue,
            failing_until,
        };
        let index = self.listeners.insert(socket);
        Ok(ListenerKey { index, birth })
    }

    /// A listening socket that is known to exist.
    pub(super) fn listener(&self, key: ListenerKey) -> &ListenSocket {
        let socket = self.listeners.get(key.index);
        self.demand(
            socket.is_some_and(|socket| socket.birth == key.birth),
            "the listening socket was closed before",
        );
        &self.listeners[key.index]
    }

    pub(super) fn start_listening(&mut self, key: ListenerKey, owner: Owner) {
        let listening = self.listener(key).owner.is_some();
        self.demand(!listening, "the socket is listening already");
        self.listeners[key.index].owner = Some(owner);
    }

    /// Takes the oldest connection of a listener's queue for `owner`.
    pub(super) fn accept(&mut self, key: ListenerKey, owner: Owner) -> Option<EndKey> {
        self.listener(key);
        let end = self.listeners[key.index].queue.pop_front()?;
        if let Some(link) = self.link_mut(end) {
            link.ends[end.side].owner = owner;
        }
        self.note(end, SimEventKind::Accepted, 0);
        Some(end)
    }

    /// Closes a listening socket; connections that nobody accepted are reset.
    pub(super) fn close_listener(&mut self, key: ListenerKey) {
        self.listener(key);
        let socket = self.listeners.remove(key.index);
        for end in socket.queue {
            self.reset_end(end);
        }
    }
}

/// True if a socket bound to `bound` takes connections to `to`.
fn reaches(bound: &Address, to: &Address) -> bool {
    match (bound, to) {
        (Address::Tcp(bound), Address::Tcp(to)) if bound.ip().is_unspecified() => {
            bound.port() == to.port()
        }
        _ => bound == to,
    }
}
