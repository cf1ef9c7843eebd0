//! Who sends when: into windows that have room, or when it is due.

use proscenium_engine::{Context, Time};

use super::{Client, FILL_AT_ONCE, Order, TICK};
use crate::load::protocol::Protocol;
use crate::load::window::Window;

impl<P: Protocol> Client<P> {
    /// Sends until the connection's window is full.
    #[inline]
    pub(super) fn fill(&mut self, cx: &mut Context<'_, Order>, at: usize) {
        if self.fan.is_some() {
            return self.fill_crowd(cx, at);
        }
        for _ in 0..self.exchange.room(self.connections[at].window) {
            // `Full`: `on_drained` goes on. `Gone`: `on_disconnect` follows.
            if !self.send(cx, at) {
                return;
            }
            self.exchange.on_sent(&mut self.connections[at].window);
        }
    }

    /// Sends the next message on this connection, whatever its window is.
    #[inline]
    pub(super) fn send(&mut self, cx: &mut Context<'_, Order>, at: usize) -> bool {
        let connection = &mut self.connections[at];
        let before = connection.state;
        self.protocol
            .address(&mut connection.state, self.template.prefix_mut());
        let message = self.template.bytes();
        let sent = cx.send_with(connection.id, message.len(), |buffer| {
            buffer[..message.len()].copy_from_slice(message);
            message.len()
        });
        if sent.is_err() {
            connection.state = before;
        }
        sent.is_ok()
    }

    /// Speaks to all until the stage has as many messages on their way as it may.
    pub(super) fn fill_crowd(&mut self, cx: &mut Context<'_, Order>, at: usize) {
        while self.may_speak(at, 1) && self.speak(cx, at) {}
    }

    /// True if this client speaks, and may do so as many times.
    pub(super) fn may_speak(&self, at: usize, messages: u32) -> bool {
        let may_send = self.exchange.room(Window::default()) > 0;
        let fan = self.fan.as_ref();
        let has_room = fan.is_some_and(|fan| fan.has_room(at, messages));
        may_send && has_room && self.connections[at].alive
    }

    /// Sends a message that everybody in the stage will get.
    pub(super) fn speak(&mut self, cx: &mut Context<'_, Order>, speaker: usize) -> bool {
        if !self.send(cx, speaker) {
            return false;
        }
        let Some(fan) = &mut self.fan else {
            return false;
        };
        let mut deliveries = 0;
        for at in fan.crowd(speaker, self.connections.len()) {
            let listener = &mut self.connections[at];
            if listener.alive {
                self.exchange.on_sent(&mut listener.window);
                deliveries += 1;
            }
        }
        fan.on_sent(speaker, deliveries);
        true
    }

    /// The connection that sends when something arrived at this one.
    #[inline]
    pub(super) fn speaker(&self, at: usize) -> usize {
        self.fan.as_ref().map_or(at, |fan| fan.speaker(at))
    }

    /// Fills the windows of a few connections that never had theirs filled. True if more wait.
    pub(super) fn fill_some(&mut self, cx: &mut Context<'_, Order>) -> bool {
        if self.fill_from >= self.connections.len() {
            return false;
        }
        self.read_clock(cx);
        self.batch_of = None;
        let until = (self.fill_from + FILL_AT_ONCE).min(self.connections.len());
        for at in self.fill_from..until {
            if self.connections[at].alive {
                self.fill(cx, at);
            }
        }
        self.fill_from = until;
        until < self.connections.len()
    }

    /// Puts the connection in line for a burst if its window has room for one.
    pub(super) fn stand_in_line(&mut self, at: usize) {
        let Some(schedule) = &self.schedule else {
            return;
        };
        let has_room = match self.fan {
            Some(_) => self.may_speak(at, self.settings.speeches),
            None => self.exchange.room(self.connections[at].window) >= schedule.burst(),
        };
        let connection = &mut self.connections[at];
        if connection.alive && !connection.queued && has_room {
            connection.queued = true;
            self.line.push_back(at as u32);
        }
    }

    /// Sends the bursts that are due, as far as there are connections with room. True if more
    /// could be sent at once.
    pub(super) fn send_due(&mut self, cx: &mut Context<'_, Order>) -> bool {
        if !self.exchange.phase().sends() {
            return false;
        }
        let now = cx.now().as_nanos();
        for _ in 0..FILL_AT_ONCE {
            let Some(schedule) = &self.schedule else {
                return false;
            };
            let (due, burst) = (schedule.next(), schedule.burst());
            if due > now {
                self.set_tick(cx, due);
                return false;
            }
            // Nobody has room: the next answer makes some.
            let Some(at) = self.line.pop_front() else {
                return false;
            };
            self.connections[at as usize].queued = false;
            if self.send_burst(cx, at as usize, due, burst)
                && let Some(schedule) = &mut self.schedule
            {
                schedule.take();
            }
            self.stand_in_line(at as usize);
        }
        true
    }

    /// Sends a burst that was due at `due`; false if the connection cannot take it.
    pub(super) fn send_burst(
        &mut self,
        cx: &mut Context<'_, Order>,
        at: usize,
        due: u64,
        burst: u32,
    ) -> bool {
        self.template.set_stamp(due);
        if self.fan.is_some() {
            let times = self.settings.speeches;
            return self.may_speak(at, times) && (0..times).all(|_| self.speak(cx, at));
        }
        let connection = &self.connections[at];
        if !connection.alive || self.exchange.room(connection.window) < burst {
            return false;
        }
        for _ in 0..burst {
            if !self.send(cx, at) {
                return false;
            }
            self.exchange.on_sent(&mut self.connections[at].window);
        }
        true
    }

    pub(super) fn set_tick(&mut self, cx: &mut Context<'_, Order>, due: u64) {
        if !self.tick_is_set {
            self.tick_is_set = true;
            cx.set_timer_at(Time::from_nanos(due).max(cx.now() + TICK), 0);
        }
    }
}
