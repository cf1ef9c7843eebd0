//! The actors of a stage: who they are, where their connections are, and the actors themselves.
//!
//! An actor lies in a box of its own. For the time of a handler it is taken out of its seat, as a
//! [`Member`], which puts it back when it is dropped: so a handler has its actor, the stage and all
//! the other actors at hand at the same time. No borrow is held while code of others runs.

mod rows;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use proscenium_engine::RouterId;
use proscenium_stages::TimerId;
use rustc_hash::FxHashMap;

use self::rows::Rows;

/// Names an actor within its stage; no other one of that stage ever has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorId {
    slot: u32,
    /// Counts the actors of the stage.
    number: u32,
}

/// Why an actor left its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leave {
    /// [`StageCx::leave`](crate::StageCx::leave). Its connection stays, not authenticated.
    Left,
    /// [`StageCx::kick`](crate::StageCx::kick). Its connection is closed.
    Kicked,
    /// It was without a connection for as long as it may be.
    Disconnected,
}

/// The connection of an actor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) id: RouterId,
    /// The shard whose gate let it in.
    pub(crate) gate: usize,
    /// Its client takes compressed payloads.
    pub(crate) lz4: bool,
    pub(crate) address: Option<SocketAddr>,
}

/// An actor, in a box that a [`Member`] takes out of its seat.
struct Occupant<A> {
    actor: A,
    /// That of the seat, at hand without it.
    account: Rc<str>,
}

struct Seat<A> {
    number: u32,
    /// Taken out while a handler has it.
    occupant: Option<Box<Occupant<A>>>,
    account: Rc<str>,
    session: Option<Session>,
    /// False until its stage has let it in.
    joined: bool,
    /// Runs while it has no connection.
    keep: Option<TimerId>,
}

struct Table<A> {
    seats: Rows<Seat<A>>,
    by_session: FxHashMap<RouterId, u32>,
    /// Accounts are chosen by strangers.
    by_account: HashMap<Rc<str>, u32>,
    last: u32,
    joined: usize,
}

/// See the module's page.
pub(crate) struct Seats<A> {
    table: RefCell<Table<A>>,
    /// The slot whose session spoke last.
    hint: Cell<u32>,
    /// Actors that are to leave when the handler is over.
    leaving: RefCell<Vec<(ActorId, Leave)>>,
}

impl<A> Seats<A> {
    pub(crate) fn new() -> Self {
        Self {
            table: RefCell::new(Table {
                seats: Rows::new(),
                by_session: FxHashMap::default(),
                by_account: HashMap::new(),
                last: 0,
                joined: 0,
            }),
            hint: Cell::new(0),
            leaving: RefCell::default(),
        }
    }

    /// Those that have joined.
    pub(crate) fn len(&self) -> usize {
        self.table.borrow().joined
    }

    /// Takes an actor in that has not joined yet.
    pub(crate) fn add(&self, actor: A, account: &str, session: Session) -> ActorId {
        let mut table = self.table.borrow_mut();
        table.last += 1;
        let number = table.last;
        let account: Rc<str> = account.into();
        let slot = table.seats.insert(Seat {
            number,
            occupant: Some(Box::new(Occupant {
                actor,
                account: Rc::clone(&account),
            })),
            account,
            session: Some(session),
            joined: false,
            keep: None,
        });
        ActorId { slot, number }
    }

    /// The actor has joined: its session and its account find it from now on.
    pub(crate) fn join(&self, id: ActorId) {
        let table = &mut *self.table.borrow_mut();
        if let Some(seat) = table.seat(id) {
            seat.joined = true;
            let (account, session) = (Rc::clone(&seat.account), seat.session);
            table.joined += 1;
            table.by_account.insert(account, id.slot);
            if let Some(session) = session {
                table.by_session.insert(session.id, id.slot);
            }
        }
    }

    /// Takes an actor away; `None` if it is not there (any more).
    pub(crate) fn remove(&self, id: ActorId) -> Option<Removed<A>> {
        let table = &mut *self.table.borrow_mut();
        table.seat(id)?;
        let seat = table.seats.remove(id.slot)?;
        if seat.joined {
            table.joined -= 1;
            table.by_account.remove(&seat.account);
            if let Some(session) = seat.session {
                table.by_session.remove(&session.id);
            }
        }
        Some(Removed {
            actor: seat.occupant.map(|occupant| occupant.actor),
            account: seat.account,
            session: seat.session,
            joined: seat.joined,
            keep: seat.keep,
        })
    }

    /// Takes the actor of a session out of its seat, and says if its client takes compressed
    /// payloads. `None` if there is none, or it is out already.
    #[inline]
    pub(crate) fn speaker(&self, from: RouterId) -> Option<(Member<'_, A>, bool)> {
        let table = &mut *self.table.borrow_mut();
        let hint = self.hint.get();
        if let Some(seat) = table.seats.get_mut(hint)
            && let Some(session) = &seat.session
            && session.id == from
            && seat.joined
        {
            return self.taken(hint, seat);
        }
        let slot = *table.by_session.get(&from)?;
        self.hint.set(slot);
        self.taken(slot, table.seats.get_mut(slot)?)
    }

    #[inline]
    fn taken(&self, slot: u32, seat: &mut Seat<A>) -> Option<(Member<'_, A>, bool)> {
        let lz4 = seat.session.as_ref()?.lz4;
        let occupant = seat.occupant.take()?;
        let number = seat.number;
        let member = Member {
            seats: self,
            id: ActorId { slot, number },
            occupant: Some(occupant),
        };
        Some((member, lz4))
    }

    /// True if the session is that of an actor.
    pub(crate) fn knows(&self, session: RouterId) -> bool {
        self.table.borrow().by_session.contains_key(&session)
    }

    /// Takes an actor out of its seat; `None` if it is out already, or not there.
    pub(crate) fn member(&self, id: ActorId) -> Option<Member<'_, A>> {
        let mut table = self.table.borrow_mut();
        let seat = table.seat(id)?;
        Some(Member {
            seats: self,
            id,
            occupant: Some(seat.occupant.take()?),
        })
    }

    pub(crate) fn find(&self, account: &str) -> Option<ActorId> {
        let table = self.table.borrow();
        let slot = *table.by_account.get(account)?;
        let number = table.seats.get(slot)?.number;
        Some(ActorId { slot, number })
    }

    /// All that have joined, in the order of their slots.
    pub(crate) fn ids(&self) -> Vec<ActorId> {
        let table = self.table.borrow();
        let joined = table.seats.iter().filter(|(_, seat)| seat.joined);
        joined
            .map(|(slot, seat)| ActorId {
                slot,
                number: seat.number,
            })
            .collect()
    }

    pub(crate) fn has_joined(&self, id: ActorId) -> bool {
        let mut table = self.table.borrow_mut();
        table.seat(id).is_some_and(|seat| seat.joined)
    }

    /// The connection of an actor, if it has one.
    #[inline]
    pub(crate) fn session(&self, id: ActorId) -> Option<Session> {
        self.table.borrow_mut().seat(id)?.session
    }

    /// Calls `call` with the connection of every actor that has one.
    pub(crate) fn each_session(&self, mut call: impl FnMut(ActorId, &Session)) {
        for (slot, seat) in self.table.borrow().seats.iter() {
            if let (true, Some(session)) = (seat.joined, &seat.session) {
                let number = seat.number;
                call(ActorId { slot, number }, session);
            }
        }
    }

    /// The connections of those whom `keep` wants, apart: of clients that take plain payloads, and
    /// of those that take compressed ones. `keep` is not anybody's code.
    pub(crate) fn sessions(
        &self,
        mut keep: impl FnMut(ActorId) -> bool,
    ) -> (Vec<RouterId>, Vec<RouterId>) {
        let (mut plain, mut packed) = (Vec::with_capacity(self.len()), Vec::new());
        self.each_session(|id, session| {
            if keep(id) {
                let list = if session.lz4 { &mut packed } else { &mut plain };
                list.push(session.id);
            }
        });
        (plain, packed)
    }

    /// A session has ended: its actor, which has none now. `None` if it was not (or is no longer)
    /// that of an actor.
    pub(crate) fn disconnect(&self, session: RouterId) -> Option<ActorId> {
        let table = &mut *self.table.borrow_mut();
        let slot = table.by_session.remove(&session)?;
        let seat = table.seats.get_mut(slot)?;
        seat.session = None;
        let number = seat.number;
        Some(ActorId { slot, number })
    }

    /// Gives an actor another session; returns the one that it had, and the timer that ran while it
    /// had none.
    pub(crate) fn rebind(
        &self,
        id: ActorId,
        session: Session,
    ) -> (Option<Session>, Option<TimerId>) {
        let table = &mut *self.table.borrow_mut();
        let Some(seat) = table.seat(id) else {
            return (None, None);
        };
        let (before, keep) = (seat.session.replace(session), seat.keep.take());
        if let Some(before) = before {
            table.by_session.remove(&before.id);
        }
        table.by_session.insert(session.id, id.slot);
        (before, keep)
    }

    /// Notes the timer that runs while an actor has no connection.
    pub(crate) fn keep(&self, id: ActorId, timer: TimerId) {
        if let Some(seat) = self.table.borrow_mut().seat(id) {
            seat.keep = Some(timer);
        }
    }

    /// The actor leaves when the handler is over. False if it is not there.
    pub(crate) fn leave(&self, id: ActorId, why: Leave) -> bool {
        let there = self.table.borrow_mut().seat(id).is_some();
        if there {
            self.leaving.borrow_mut().push((id, why));
        }
        there
    }

    #[inline]
    pub(crate) fn has_leaving(&self) -> bool {
        !self.leaving.borrow().is_empty()
    }

    pub(crate) fn next_leaving(&self) -> Option<(ActorId, Leave)> {
        let mut leaving = self.leaving.borrow_mut();
        if leaving.is_empty() {
            return None;
        }
        Some(leaving.remove(0))
    }
}

impl<A> Table<A> {
    #[inline]
    fn seat(&mut self, id: ActorId) -> Option<&mut Seat<A>> {
        let seat = self.seats.get_mut(id.slot)?;
        (seat.number == id.number).then_some(seat)
    }
}

/// What was in a seat.
pub(crate) struct Removed<A> {
    /// `None` if it was out and never came back.
    pub(crate) actor: Option<A>,
    pub(crate) account: Rc<str>,
    pub(crate) session: Option<Session>,
    pub(crate) joined: bool,
    pub(crate) keep: Option<TimerId>,
}

/// An actor of a stage, for the time of a handler: the actor itself (it derefs to that), and who it
/// is. See [`StageCx::actor`](crate::StageCx::actor) for the others.
pub struct Member<'a, A> {
    seats: &'a Seats<A>,
    id: ActorId,
    /// There until it is put back.
    occupant: Option<Box<Occupant<A>>>,
}

impl<A> Member<'_, A> {
    #[inline]
    fn occupant(&self) -> &Occupant<A> {
        match &self.occupant {
            Some(occupant) => occupant,
            None => unreachable!("there until it is dropped"),
        }
    }

    /// Its name within the stage: what [`StageCx`](crate::StageCx) sends to.
    #[inline]
    pub fn id(&self) -> ActorId {
        self.id
    }

    /// The account that it stands for.
    pub fn account_id(&self) -> &str {
        &self.occupant().account
    }

    /// True if it has a connection now.
    pub fn is_connected(&self) -> bool {
        self.seats.session(self.id).is_some()
    }
}

impl<A> Deref for Member<'_, A> {
    type Target = A;

    #[inline]
    fn deref(&self) -> &A {
        &self.occupant().actor
    }
}

impl<A> DerefMut for Member<'_, A> {
    #[inline]
    fn deref_mut(&mut self) -> &mut A {
        match &mut self.occupant {
            Some(occupant) => &mut occupant.actor,
            None => unreachable!("there until it is dropped"),
        }
    }
}

impl<A> Drop for Member<'_, A> {
    #[inline]
    fn drop(&mut self) {
        let occupant = self.occupant.take();
        if let Some(seat) = self.seats.table.borrow_mut().seat(self.id) {
            seat.occupant = occupant;
        }
    }
}

impl<A> fmt::Debug for Member<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.id)
            .field("account", &self.account_id())
            .finish_non_exhaustive()
    }
}
