//! [`Gate`]: what stands before the stages of a shard. Connections that are nobody's yet, their
//! deadlines and tries; heartbeats; rates.
//!
//! ```text
//! fresh ──authenticates──► joining (not read meanwhile) ──let in──► bound to the stage: not here
//!   ▲                         │                                          │ leaves it
//!   └────────refused──────────┘                     left ◄───────────────┘
//! ```
//!
//! A fresh connection that says anything else is closed. One that has left a stage is told that it
//! is not authenticated: what it says may have been under way.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proscenium_engine::{CloseReason, Message, Origin, Peer, RouterId, SendError, Time};
use proscenium_framing::packet::{ClientPacket, DEBUG, ErrorCode, HEARTBEAT, lz4::Pickler};
use proscenium_stages::{Front, Interest, Local};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::call::LateReply;
use crate::directory::{Directory, RoomMsg};
use crate::error::DeliverError;
use crate::join::{Outcome, Ticket, Verdict};
use crate::mesh::{Mesh, NodeReply};
use crate::seats::Session;
use crate::shared::{Leftover, Shared};
use crate::stats::{Count, Counts};
use crate::wire::{self, Head};

/// How often a connection is sent a heartbeat that is not read because its stage has a full
/// backlog. Clients send theirs every 10 s and wait for 30 s by default.
const STALLED_BEAT: Duration = Duration::from_secs(5);

/// A connection that is not bound to a stage.
struct Waiting {
    deadline: Time,
    tries: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Joining,
    Left,
}

/// What a connection sent in the second that began at `since`.
struct Rate {
    since: Time,
    messages: u32,
    bytes: u64,
}

/// See the module's page.
pub(crate) struct Gate {
    shared: Arc<Shared>,
    shard: usize,
    pub(crate) directory: Directory,
    pub(crate) mesh: Rc<Mesh>,
    waiting: RefCell<FxHashMap<RouterId, Waiting>>,
    /// Deadlines in order, also of connections that are not waiting any more.
    deadlines: RefCell<VecDeque<(Time, RouterId)>>,
    /// A timer is set for the first deadline.
    armed: Cell<bool>,
    rates: RefCell<FxHashMap<RouterId, Rate>>,
    /// Connections that were not read at some time since the last beat.
    stalled: RefCell<FxHashSet<RouterId>>,
    /// A timer is set for the next beat.
    beating: Cell<bool>,
    pickler: RefCell<Option<Box<Pickler>>>,
}

impl Gate {
    pub(crate) fn new(shared: Arc<Shared>, shard: usize) -> Self {
        let mesh = Rc::new(Mesh::new(Arc::clone(&shared), shard));
        Self {
            directory: Directory::new(Arc::clone(&shared), shard, Rc::clone(&mesh)),
            mesh,
            shared,
            shard,
            waiting: RefCell::default(),
            deadlines: RefCell::default(),
            armed: Cell::new(false),
            rates: RefCell::default(),
            stalled: RefCell::default(),
            beating: Cell::new(false),
            pickler: RefCell::new(None),
        }
    }

    /// Calls `call` with the gate of this shard.
    pub(crate) fn with<R: Default>(local: &Local<'_>, call: impl FnOnce(&Self) -> R) -> R {
        match local.front::<Self>() {
            Some(gate) => call(gate),
            None => {
                debug_assert!(false, "every shard of a Play server has a gate");
                R::default()
            }
        }
    }

    /// The other servers, as this shard sees them.
    pub(crate) fn mesh(local: &Local<'_>) -> Rc<Mesh> {
        match local.front::<Self>() {
            Some(gate) => Rc::clone(&gate.mesh),
            None => unreachable!("every shard of a Play server has a gate"),
        }
    }

    /// What compresses on this shard.
    pub(crate) fn pickler(&self) -> RefMut<'_, Pickler> {
        let pickler = self.pickler.borrow_mut();
        RefMut::map(pickler, |pickler| {
            &mut **pickler.get_or_insert_with(|| Box::new(Pickler::new()))
        })
    }

    fn counts(&self) -> &Counts {
        self.shared.counts(self.shard)
    }

    /// Closes a connection for a reason that is counted.
    fn close(&self, local: &Local<'_>, id: RouterId, which: impl FnOnce(&Counts) -> &Count) {
        which(self.counts()).add(1);
        self.waiting.borrow_mut().remove(&id);
        local.close(id);
    }

    /// A connection cannot be sent the answer to a request: it would wait for ever.
    #[cold]
    pub(crate) fn mute(local: &Local<'_>, id: RouterId) {
        Self::with(local, |gate| {
            gate.close(local, id, |counts| &counts.closed_mute);
        });
    }

    /// A connection has to authenticate from now on.
    fn expect(&self, local: &Local<'_>, id: RouterId, tries: u32, state: State) {
        let deadline = local.now() + self.shared.config.authentication_deadline;
        let waiting = Waiting {
            deadline,
            tries,
            state,
        };
        self.waiting.borrow_mut().insert(id, waiting);
        let mut deadlines = self.deadlines.borrow_mut();
        deadlines.push_back((deadline, id));
        if deadlines.len() > 64 + 2 * self.waiting.borrow().len() {
            let waiting = self.waiting.borrow();
            deadlines.retain(|(deadline, id)| {
                waiting
                    .get(id)
                    .is_some_and(|waiting| waiting.deadline == *deadline)
            });
        }
        drop(deadlines);
        if !self.armed.replace(true) {
            local.after(self.shared.config.authentication_deadline, Self::look);
        }
    }

    /// Closes the connections whose time is up, and sets the timer for the next one.
    fn look(local: &Local<'_>) {
        Self::with(local, |gate| {
            let now = local.now();
            let next = loop {
                let first = gate.deadlines.borrow().front().copied();
                let Some((deadline, id)) = first else {
                    break None;
                };
                let waits = {
                    let waiting = gate.waiting.borrow();
                    waiting
                        .get(&id)
                        .is_some_and(|waiting| waiting.deadline == deadline)
                };
                if waits && deadline > now {
                    break Some(deadline);
                }
                gate.deadlines.borrow_mut().pop_front();
                if waits {
                    gate.close(local, id, |counts| &counts.closed_deadline);
                }
            };
            gate.armed.set(next.is_some());
            if let Some(next) = next {
                // A little late rather than once too often.
                let wait = next.since(now) + Duration::from_millis(1);
                local.after(wait, Self::look);
            }
        });
    }

    /// A connection that has left its stage, or was taken for one of it.
    pub(crate) fn readmit(&self, local: &Local<'_>, id: RouterId) {
        local.unbind(id);
        self.expect(local, id, 0, State::Left);
    }

    /// A connection authenticates: it is not read until that is decided, on the stage's shard.
    fn authenticate(&self, local: &Local<'_>, from: RouterId, body: Bytes, stage_id: i64) {
        let peer = local.peer(from);
        let listener = match peer.map(|peer| peer.origin) {
            Some(Origin::Accepted { listener }) => listener,
            _ => usize::MAX,
        };
        let session = Session {
            id: from,
            gate: self.shard,
            lz4: self.shared.listener(listener).lz4,
            address: peer.and_then(|peer| peer.address),
        };
        let shared = Arc::clone(&self.shared);
        let shard = shared.place(stage_id);
        // Needs no room: as many are under way as there are connections that wait.
        local.run_on(shard, move |local| {
            let ticket = Ticket::new(shared, session, listener, body, shard);
            Self::with(local, |gate| {
                let kind = ticket.default_stage();
                let join = RoomMsg::Join(Box::new(ticket));
                gate.directory.tell(local, stage_id, kind, join);
            });
        });
    }

    /// Has the gate of a session do what was decided.
    pub(crate) fn finish_on(local: &Local<'_>, outcome: Outcome) {
        let gate = outcome.session.gate;
        local.run_on(gate, move |local| {
            Self::with(local, |gate| gate.finish(local, outcome));
        });
    }

    fn finish(&self, local: &Local<'_>, outcome: Outcome) {
        let (id, reply, verdict) = outcome.into_parts();
        match reply.map(|reply| local.send(id, &reply)) {
            None | Some(Ok(()) | Err(SendError::Gone)) => {}
            Some(Err(_)) => Self::mute(local, id),
        }
        if let Verdict::In(stage) = verdict {
            self.waiting.borrow_mut().remove(&id);
            // If it is gone, the stage is told so.
            return stage.bind(local, id);
        }
        let tries = {
            let mut waiting = self.waiting.borrow_mut();
            let Some(waiting) = waiting.get_mut(&id) else {
                return; // it is gone, or about to
            };
            waiting.state = State::Fresh;
            waiting.tries += u32::from(matches!(verdict, Verdict::Refused));
            waiting.tries
        };
        if tries >= self.shared.config.authentication_tries {
            return self.close(local, id, |counts| &counts.closed_tries);
        }
        local.unbind(id); // reads on
    }

    /// Answers a request that no stage is there for.
    pub(crate) fn answer(
        local: &Local<'_>,
        to: RouterId,
        packet: &ClientPacket<'_>,
        code: ErrorCode,
    ) {
        if packet.seq != 0 {
            let head = Head {
                msg_id: packet.msg_id,
                seq: packet.seq,
                stage_id: packet.stage_id,
                error: code,
            };
            Self::respond(local, to, head, "");
        }
    }

    /// Sends an answer; where a request cannot be given one, its connection is closed.
    fn respond(local: &Local<'_>, to: RouterId, head: Head<'_>, text: &str) {
        match wire::send(local, (to, false), head, text) {
            Ok(()) | Err(DeliverError::Disconnected) => {}
            // Who is not waiting for it may read on.
            Err(_) if head.seq == 0 => {}
            Err(_) => Self::mute(local, to),
        }
    }

    /// Messages of the system, whether authenticated or not; true if it was one.
    #[cold]
    fn system(&self, local: &Local<'_>, from: RouterId, body: &[u8]) -> bool {
        let Ok(packet) = ClientPacket::decode(body) else {
            return false;
        };
        match packet.msg_id {
            HEARTBEAT => {
                self.counts().heartbeats.add(1);
                let head = Head {
                    msg_id: HEARTBEAT,
                    seq: packet.seq,
                    stage_id: packet.stage_id,
                    error: ErrorCode::SUCCESS,
                };
                Self::respond(local, from, head, "");
                true
            }
            DEBUG if self.shared.config.debug => {
                let text = format!(
                    "shard {}: {} stages, {} connections not authenticated",
                    self.shard,
                    self.directory.len(),
                    self.waiting.borrow().len(),
                );
                let head = Head {
                    msg_id: DEBUG,
                    seq: packet.seq,
                    stage_id: packet.stage_id,
                    error: ErrorCode::SUCCESS,
                };
                Self::respond(local, from, head, &text);
                true
            }
            _ => false,
        }
    }

    /// Answers the heartbeats that stand behind a full backlog, unseen: who is not read because
    /// its stage is busy must not take the server for dead. They look as answers do to heartbeats
    /// without a number.
    fn beat(local: &Local<'_>) {
        Self::with(local, |gate| {
            let mut ids: Vec<RouterId> = gate.stalled.take().into_iter().collect();
            ids.retain(|&id| local.is_stalled(id));
            ids.sort_unstable(); // simulations replay
            for &id in &ids {
                // Who does not take it does not read either.
                let _ = wire::send(local, (id, false), Head::push(HEARTBEAT, 0), &());
            }
            gate.beating.set(!ids.is_empty());
            gate.stalled.borrow_mut().extend(ids);
            if gate.beating.get() {
                local.after(STALLED_BEAT, Self::beat);
            }
        });
    }

    /// False if the connection sends more than it may.
    fn is_moderate(&self, local: &Local<'_>, from: RouterId, len: usize) -> bool {
        let config = &self.shared.config;
        let now = local.now();
        let mut rates = self.rates.borrow_mut();
        let rate = rates.entry(from).or_insert(Rate {
            since: now,
            messages: 0,
            bytes: 0,
        });
        if now.since(rate.since) >= Duration::from_secs(1) {
            (rate.since, rate.messages, rate.bytes) = (now, 0, 0);
        }
        rate.messages += 1;
        rate.bytes += len as u64;
        let (messages, bytes) = (config.messages_per_second, config.bytes_per_second);
        (messages == 0 || rate.messages <= messages)
            && (bytes == 0 || rate.bytes <= u64::from(bytes))
    }
}

impl Front for Gate {
    fn on_connect(&self, local: &Local<'_>, id: RouterId, _peer: &Peer) {
        self.expect(local, id, 0, State::Fresh);
    }

    fn interest(&self) -> Interest {
        if self.shared.config.has_rates() {
            Interest::All
        } else {
            Interest::Byte { at: 1, is: b'@' } // where the id begins
        }
    }

    fn on_message(&self, local: &Local<'_>, from: RouterId, message: Message<'_>) -> bool {
        if self.shared.config.has_rates() && !self.is_moderate(local, from, message.len()) {
            self.close(local, from, |counts| &counts.closed_rate);
            return true;
        }
        let body = message.bytes();
        body.get(1) == Some(&b'@') && self.system(local, from, body)
    }

    fn on_unbound(&self, local: &Local<'_>, from: RouterId, message: Message<'_>) {
        let packet = match ClientPacket::decode(message.bytes()) {
            Ok(packet) => packet,
            Err(error) => {
                tracing::debug!(%error, "a connection sent no packet");
                return self.close(local, from, |counts| &counts.closed_bad_packet);
            }
        };
        let state = self
            .waiting
            .borrow()
            .get(&from)
            .map(|waiting| waiting.state);
        let config = &self.shared.config;
        if packet.msg_id != config.authentication_id {
            if state == Some(State::Left) {
                self.counts().strays.add(1);
                return Self::answer(local, from, &packet, ErrorCode::NOT_AUTHENTICATED);
            }
            return self.close(local, from, |counts| &counts.closed_chatter);
        }
        if state.is_none() {
            // Its stage ended as this arrived: it is being closed.
            return;
        }
        if message.len() > config.authentication_bytes_max {
            return self.close(local, from, |counts| &counts.closed_long_authentication);
        }
        if !local.hold(from) {
            return;
        }
        if let Some(waiting) = self.waiting.borrow_mut().get_mut(&from) {
            waiting.state = State::Joining;
        }
        let body = Bytes::copy_from_slice(message.bytes());
        self.authenticate(local, from, body, packet.stage_id);
    }

    fn on_stalled(&self, local: &Local<'_>, id: RouterId) {
        self.stalled.borrow_mut().insert(id);
        if !self.beating.replace(true) {
            local.after(STALLED_BEAT, Self::beat);
        }
    }

    fn on_disconnect(&self, _local: &Local<'_>, id: RouterId, _reason: &CloseReason) {
        self.waiting.borrow_mut().remove(&id);
        self.stalled.borrow_mut().remove(&id);
        self.rates.borrow_mut().remove(&id);
    }

    fn on_departed(&self, _local: &Local<'_>, id: RouterId) {
        self.rates.borrow_mut().remove(&id);
    }

    fn run(&self, local: &Local<'_>) -> bool {
        let leftovers = self.shared.leftovers(self.shard);
        let any = !leftovers.is_empty();
        for leftover in leftovers {
            match leftover {
                Leftover::Join {
                    session,
                    msg_id,
                    seq,
                    stage_id,
                    code,
                } => {
                    self.counts().joins_refused.add(1);
                    let head = Head {
                        msg_id: &msg_id,
                        seq,
                        stage_id,
                        error: code,
                    };
                    let outcome = Outcome::dropped(local, session, head);
                    Self::finish_on(local, outcome);
                }
                Leftover::Unanswered { asker, stage_id } => {
                    self.counts().unanswered.add(1);
                    LateReply::drop_on(local, &self.shared, stage_id, asker);
                }
                Leftover::Remote { to, stage_id, code } => {
                    self.counts().unanswered.add(1);
                    let mut reply = NodeReply::new(&self.shared, to, stage_id);
                    self.mesh.refuse(self.shard, &mut reply, "", code);
                }
                Leftover::Ended { id, number, actors } => {
                    self.counts().actors.take(actors);
                    self.directory.gone(local, id, number);
                }
            }
        }
        self.mesh.deliver_inside(local) || any
    }
}
