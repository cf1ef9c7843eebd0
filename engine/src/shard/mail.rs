//! What other threads and shards want of this one.

use proscenium_framing::LengthPrefix;

use super::Shard;
use super::envelope::Envelope;
use crate::connection::State;
use crate::context::Context;
use crate::driver::Driver;
use crate::error::CloseReason;
use crate::handler::Handler;
use crate::router_id::RouterId;

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Handles wakes, control items, and at most `budget` items of the bounded lane.
    pub(super) fn take_mail(&mut self, budget: usize) {
        let Self {
            mailbox,
            handler,
            core,
            ..
        } = self;
        mailbox.drain_wakes(|token| handler.on_wake(&mut Context::new(core), token));
        self.take_control();
        for _ in 0..budget {
            let Some(envelope) = self.mailbox.pop() else {
                break;
            };
            self.core.stats.mailbox_items += 1;
            self.open_envelope(envelope);
            self.run_ops();
        }
    }

    pub(super) fn take_control(&mut self) {
        // What comes meanwhile is for the next slice.
        for _ in 0..self.mailbox.mailbox().control_len() {
            let Some(envelope) = self.mailbox.pop_control() else {
                break;
            };
            self.core.stats.mailbox_items += 1;
            self.open_envelope(envelope);
            self.run_ops();
        }
    }

    fn open_envelope(&mut self, envelope: Envelope<H::Post>) {
        match envelope {
            Envelope::Send { to, body, text } => {
                // What became of it is counted; the sender has long gone on.
                let _ = self.core.send_shared(to, &body, text);
            }
            Envelope::Post(posted) => {
                self.handler
                    .on_posted(&mut Context::new(&mut self.core), posted);
            }
            Envelope::Close(id) => Context::new(&mut self.core).close(id),
            Envelope::Connect(id, connector) => self.core.connect(id, *connector),
            Envelope::ReadFence(id) => {
                // The connection itself came by the control lane before, perhaps just now.
                self.take_control();
                self.reads_go_on(id);
            }
            Envelope::SendFence { id, from } => {
                // What was passed on before must be ahead of the answer.
                self.take_control();
                self.core.shared.mailboxes[from].push_control(Envelope::SendsArrived(id));
            }
            Envelope::Accepted {
                listener,
                socket,
                peer,
            } => {
                self.keep_accepted(listener, socket, peer);
            }
            Envelope::Adopt(moved) => self.adopt(*moved),
            Envelope::Forward { to, body, text } => self.forwarded(to, &body, text),
            Envelope::ForwardClose(id) => self.forwarded_close(id),
            Envelope::ForwardOverflow(id) => match self.core.connections.find(id) {
                Some(slot) => self.core.kill(slot, CloseReason::ForwardOverflow),
                None => self.back_to_birth_shard(id, Envelope::ForwardOverflow(id)),
            },
            Envelope::SendsArrived(id) => self.sends_arrived(id),
            Envelope::Ended { id, lost } => {
                self.core.connections.forget_moved(id);
                if let Some(lost) = lost {
                    self.outgoing_ended(lost);
                }
            }
            Envelope::Shutdown(deadline) => self.begin_shutdown(deadline),
        }
    }

    /// A send that its birth shard passed on to us.
    fn forwarded(&mut self, to: RouterId, body: &bytes::Bytes, text: bool) {
        let core = &mut self.core;
        let Some(slot) = core.connections.find(to) else {
            return self.back_to_birth_shard(
                to,
                Envelope::Forward {
                    to,
                    body: body.clone(),
                    text,
                },
            );
        };
        let Some(connection) = core.connections.get(slot) else {
            return;
        };
        if connection.state != State::Open {
            core.stats.sends_gone += 1;
            return;
        }
        // Its sender cannot be told any more that there is no room; it is counted.
        if core
            .make_room(slot, LengthPrefix::HEADER + body.len())
            .is_ok()
        {
            core.push_shared(slot, body, text, true);
        }
    }

    fn forwarded_close(&mut self, id: RouterId) {
        match self.core.connections.find(id) {
            Some(slot) => self.core.close(slot, CloseReason::Local),
            None => self.back_to_birth_shard(id, Envelope::ForwardClose(id)),
        }
    }

    /// The connection has left this shard meanwhile: its birth shard knows where it is, or that
    /// it ended.
    fn back_to_birth_shard(&mut self, id: RouterId, envelope: Envelope<H::Post>) {
        let core = &mut self.core;
        if id.shard() != core.shard {
            core.shared.mailboxes[id.shard()].push_control(envelope);
            return;
        }
        match (core.connections.moved_to(id), envelope) {
            (Some(there), envelope) => core.shared.mailboxes[there].push_control(envelope),
            (None, Envelope::Forward { .. }) => core.stats.sends_gone += 1,
            (None, _) => {}
        }
    }
}
