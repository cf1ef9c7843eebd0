//! How connections begin and end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

#[cfg(feature = "ws")]
use proscenium_framing::websocket::CloseCode;

use super::Shard;
use super::core::Timer;
use super::envelope::{Envelope, Lost};
use crate::connection::{Connection, State};
use crate::context::Context;
use crate::driver::{Driver, RawSocket};
use crate::error::CloseReason;
use crate::handler::{ConnectId, Handler, Origin, Peer};
use crate::router_id::RouterId;

/// A connection that may be idle is looked at again after so long, when all has been read that had
/// arrived.
const IDLE_RECHECK: Duration = Duration::from_millis(1);
/// A shard that has so many control items waiting is dealt no more connections.
const DEAL_BACKLOG_MAX: usize = 4096;

impl<D: Driver, H: Handler> Shard<D, H> {
    /// A listener of this shard accepted a connection: kept here, or dealt out.
    pub(super) fn accepted(&mut self, listener: u32, socket: RawSocket, peer: Option<SocketAddr>) {
        let core = &mut self.core;
        core.stats.accepted += 1;
        if let Some(address) = peer
            && !core.accept_rate.admit(address.ip(), core.now)
        {
            core.stats.refused_rate += 1;
            return; // dropping the socket closes it
        }
        let deals = self
            .listening
            .get(listener as usize)
            .is_some_and(|l| l.deal);
        let mailboxes = &core.shared.mailboxes;
        if !deals || mailboxes.len() == 1 {
            return self.keep_accepted(listener, socket, peer);
        }
        for _ in 0..mailboxes.len() {
            let to = self.next_deal % mailboxes.len();
            self.next_deal = to + 1;
            if to == core.shard {
                return self.keep_accepted(listener, socket, peer);
            }
            if !mailboxes[to].is_closed() && mailboxes[to].control_len() < DEAL_BACKLOG_MAX {
                mailboxes[to].push_control(Envelope::Accepted {
                    listener,
                    socket,
                    peer,
                });
                return;
            }
        }
        core.stats.refused_limit += 1;
    }

    /// An accepted connection begins its life here.
    pub(super) fn keep_accepted(
        &mut self,
        listener: u32,
        socket: RawSocket,
        address: Option<SocketAddr>,
    ) {
        let core = &mut self.core;
        let Some(listening) = self.listening.get(listener as usize) else {
            return;
        };
        if core.shutting_down || !core.take_place() {
            core.stats.refused_limit += 1;
            return;
        }
        let options = &listening.options;
        let layers = options.make_layers(&core.limits, &mut core.random);
        let peer = Peer {
            address,
            origin: Origin::Accepted {
                listener: listener as usize,
            },
        };
        let slot = core
            .connections
            .insert(|id| Connection::new(id, options.wire(), options.overflow, peer));
        if let Err(error) = self.driver.register(slot, socket, Some(&options.socket)) {
            // The peer may be gone already: setting an option says so.
            tracing::debug!(%error, "an accepted connection could not be set up");
            core.stats.accept_failed += 1;
            core.remove(slot, None);
            return;
        }
        match layers {
            None => self.opened(slot),
            Some(layers) => self.begin_handshake(slot, layers),
        }
    }

    /// A connection is open, accepted or made: tells the handler.
    pub(super) fn opened(&mut self, slot: u32) {
        let core = &mut self.core;
        let idle = core.limits.idle_timeout;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        connection.last_read = core.now;
        connection.announced = true;
        let (id, peer) = (connection.id, connection.peer);
        if !idle.is_zero() {
            let due = connection.idle_due(core.now, core.now, idle);
            let timer = core.timers.insert(due.as_nanos(), Timer::Connection(id));
            connection.timer = Some(timer);
        }
        self.handler.on_connect(&mut Context::new(core), id, &peer);
    }

    /// Accepting failed: counted, and tried again by timer.
    pub(super) fn accept_failed(&mut self, listener: u32, error: &io::Error, shed: bool) {
        let core = &mut self.core;
        core.stats.accept_failed += 1;
        core.stats.accept_shed += u64::from(shed);
        let retry = core.limits.accept_retry;
        tracing::warn!(%error, shed, listener, "accept failed, next try in {retry:?}");
        core.set_timer_in(retry, Timer::ResumeAccept { listener });
    }

    /// The peer finished sending; if there are layers, the topmost says so.
    pub(super) fn read_closed(&mut self, slot: u32) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        let told = std::mem::replace(&mut connection.read_closed, true);
        let id = connection.id;
        match connection.state {
            State::Open if told => {} // before it moved here
            #[cfg(feature = "ws")]
            State::Open if connection.has_web_socket() => {
                // No close frame came before: RFC 6455 §7.1.5.
                let (code, reason) = (CloseCode::ABNORMAL.0, String::new());
                core.close(slot, CloseReason::WebSocketClosed { code, reason });
            }
            State::Open => {
                if let Some(tail) = &connection.tail {
                    // Reads are on, so what is kept is an incomplete frame.
                    let received = tail.len();
                    core.close(slot, CloseReason::PeerClosedMidFrame { received });
                    return;
                }
                self.handler.on_read_closed(&mut Context::new(core), id);
            }
            State::Lingering => {
                let reason = connection.ending.take().unwrap_or(CloseReason::Local);
                core.kill(slot, reason);
            }
            State::Connecting | State::Handshaking | State::Closing | State::Dead => {}
        }
    }

    pub(super) fn broken(&mut self, slot: u32, error: io::Error) {
        let lingering = self.core.connections.get_mut(slot).and_then(|connection| {
            // Everything was written; a peer that resets instead of closing has had it all.
            if connection.state == State::Lingering {
                connection.ending.take()
            } else {
                None
            }
        });
        self.core
            .kill(slot, lingering.unwrap_or(CloseReason::Broken(error)));
    }

    /// A graceful close: what is queued goes out within the linger time.
    pub(super) fn begin_close(&mut self, id: RouterId) {
        let core = &mut self.core;
        let Some(slot) = core.connections.find(id) else {
            return;
        };
        let linger = core.limits.linger;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        if connection.state != State::Closing {
            return;
        }
        // However it ends from here on, it is this side that wanted it.
        connection.wanted = matches!(
            connection.ending,
            Some(CloseReason::Local | CloseReason::Shutdown)
        );
        if !connection.reading {
            connection.reading = true;
            self.driver.set_reading(slot, true);
        }
        #[cfg(feature = "ws")]
        core.say_close(slot);
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        // A shutdown has a deadline of its own for what is queued.
        let is_shutdown = matches!(connection.ending, Some(CloseReason::Shutdown));
        let timer = (!is_shutdown).then(|| {
            let due = (core.now + linger).as_nanos();
            core.timers.insert(due, Timer::Connection(id))
        });
        if let Some(idle) = std::mem::replace(&mut connection.timer, timer) {
            core.timers.cancel(idle);
        }
        self.flush(slot);
    }

    /// Everything queued is written: FIN, and wait for the peer's.
    pub(super) fn finish_close(&mut self, slot: u32) {
        let core = &mut self.core;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        if connection.read_closed {
            let reason = connection.ending.take().unwrap_or(CloseReason::Local);
            core.kill(slot, reason);
            return;
        }
        connection.state = State::Lingering;
        if connection.timer.is_none() {
            let due = (core.now + core.limits.linger).as_nanos();
            connection.timer = Some(core.timers.insert(due, Timer::Connection(connection.id)));
        }
        self.driver.finish(slot);
    }

    /// Idle timeout or linger time.
    pub(super) fn connection_timer(&mut self, id: RouterId) {
        let core = &mut self.core;
        let Some(slot) = core.connections.find(id) else {
            return;
        };
        let idle = core.limits.idle_timeout;
        let Some(connection) = core.connections.get_mut(slot) else {
            return;
        };
        connection.timer = None;
        match connection.state {
            State::Handshaking => core.kill(slot, CloseReason::HandshakeTimeout),
            State::Open => {
                // While we pause it, its clock stands still. What has arrived counts, even if it
                // has not been read yet.
                let since = if connection.reading {
                    connection.last_read
                } else {
                    core.now
                };
                if since + idle <= core.swept {
                    core.kill(slot, CloseReason::IdleTimeout);
                } else {
                    #[cfg(feature = "ws")]
                    core.ping_if_silent(slot, since);
                    let Some(connection) = core.connections.get_mut(slot) else {
                        return;
                    };
                    let due = connection
                        .idle_due(since, core.now, idle)
                        .max(core.now + IDLE_RECHECK);
                    let timer = core.timers.insert(due.as_nanos(), Timer::Connection(id));
                    connection.timer = Some(timer);
                }
            }
            State::Closing | State::Lingering => {
                let ours = matches!(connection.ending, Some(CloseReason::Shutdown));
                let reason = if ours {
                    CloseReason::Shutdown
                } else {
                    CloseReason::LingerTimeout
                };
                core.kill(slot, reason);
            }
            State::Connecting | State::Dead => {}
        }
    }

    /// Frees a dead connection and tells the handler.
    pub(super) fn bury(&mut self, slot: u32) {
        let core = &mut self.core;
        if core
            .connections
            .get(slot)
            .is_none_or(|connection| connection.state != State::Dead)
        {
            return;
        }
        if core.connections.get(slot).is_some_and(|c| c.truncated) {
            self.driver.reset(slot);
        } else {
            self.driver.close(slot);
        }
        let Some(mut connection) = core.remove(slot, None) else {
            return;
        };
        if let Some(to) = connection.moves_on {
            core.give_up_move(connection.id, usize::from(to));
        }
        let reason = connection.ending.take().unwrap_or(CloseReason::Local);
        if let Some(timer) = connection.timer.take() {
            core.timers.cancel(timer);
        }
        if !connection.announced {
            return self.bury_unannounced(slot, &connection.peer, reason);
        }
        let id = connection.id;
        let lost = match connection.peer.origin {
            Origin::Outgoing(ConnectId(connect)) => Some(Lost {
                connect,
                spoke: connection.spoke,
                wanted: connection.wanted
                    || matches!(reason, CloseReason::Local | CloseReason::Shutdown),
            }),
            Origin::Accepted { .. } => None,
        };
        let is_guest = id.shard() != core.shard;
        if is_guest {
            core.shared.mailboxes[id.shard()].push_control(Envelope::Ended { id, lost });
        }
        core.shared.stats[core.shard].count_close(&reason);
        tracing::trace!(%id, %reason, "connection ended");
        core.leaving = Some((id, connection.tag));
        self.handler
            .on_disconnect(&mut Context::new(core), id, &reason);
        core.leaving = None;
        if let Some(lost) = lost.filter(|_| !is_guest) {
            self.outgoing_ended(lost);
        }
    }
}
