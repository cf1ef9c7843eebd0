//! The stages of one shard by their ids, which are one set for all types.
//!
//! ```text
//! wanted ──► opened: in the directory at once, so that everybody who wants it meets at its backlog
//!        ──► created by what comes first there; refused: out of the directory
//!        ──► ousted: who opened it got nowhere, and what comes next wants another type: out of the
//!            directory, what is in its backlog begins anew
//!        ──► closing: what wants to join or create it is parked, and begins anew when it is gone
//!        ──► gone
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use proscenium_engine::RouterId;
use proscenium_framing::packet::ErrorCode;
use proscenium_stages::{CreateError, Local, Reply, StageRef, TellError};
use prost::Message;

use crate::call::StageReply;
use crate::gate::Gate;
use crate::handle::Created;
use crate::join::Ticket;
use crate::kind::RoomSeat;
use crate::mesh::{Mesh, NodeReply, Served, ServedAsker};
use crate::packet::Content;
use crate::room::Room;
use crate::shared::Shared;
use crate::stage::PlayStage;
use crate::system::{CreateStageRes, GetOrCreateStageRes, SystemMessage};

/// What may wait for a stage to be gone.
const PARKED_MAX: usize = 4096;

/// What a stage is told. Each says in its own way that it was dropped.
pub(crate) enum RoomMsg {
    /// A connection authenticates for it.
    Join(Box<Ticket>),
    /// It is wanted: created, unless it is.
    Create(Box<Create>),
    /// A message of another stage, of the program, or of another server.
    Serve(Box<Served>),
}

pub(crate) struct Create {
    pub(crate) kind: usize,
    pub(crate) content: Content,
    /// It is an error if it exists.
    pub(crate) anew: bool,
    pub(crate) reply: CreateReply,
    /// The requests that wait for it, as the fields of a header.
    pub(crate) trail: Box<[u8]>,
}

/// Who wants to know what became of a creation.
pub(crate) enum CreateReply {
    Nobody,
    Here(Reply<Result<Created, ErrorCode>>),
    /// Another server. True: it asked for a new stage.
    There(NodeReply, bool),
}

impl CreateReply {
    pub(crate) fn there(mut reply: NodeReply, anew: bool) -> Self {
        reply.fallback = ErrorCode::STAGE_CREATION_FAILED;
        Self::There(reply, anew)
    }

    /// Who asked may have given up.
    pub(crate) fn send(self, local: &Local<'_>, answer: Result<Created, ErrorCode>) {
        let (mut reply, anew) = match self {
            Self::Nobody => return,
            Self::Here(reply) => return drop(reply.send(answer)),
            Self::There(reply, anew) => (reply, anew),
        };
        let (code, is_created, content) = match answer {
            Ok(created) => (ErrorCode::SUCCESS, created.is_new, created.content),
            Err(code) => (code, false, None),
        };
        let result = code.is_success();
        let answer_of = |content: Content| {
            let (payload_id, payload) = (content.msg_id.into_owned(), content.payload.to_vec());
            if anew {
                let created = CreateStageRes {
                    result,
                    payload_id,
                    payload,
                };
                (CreateStageRes::ID, created.encode_to_vec())
            } else {
                let created = GetOrCreateStageRes {
                    result,
                    is_created,
                    payload_id,
                    payload,
                };
                (GetOrCreateStageRes::ID, created.encode_to_vec())
            }
        };
        Gate::with(local, |gate| {
            let mut answer = |content| {
                let (msg_id, body) = answer_of(content);
                let head = (code, msg_id);
                gate.mesh.answer(local.shard(), &mut reply, head, &body)
            };
            if let Err(error) = answer(content.unwrap_or_default()) {
                // Too long: the stage is there all the same, so that is said without its content.
                tracing::warn!(%error, "what a stage answers to its creation is not sent");
                let _ = answer(Content::default());
            }
        });
    }
}

impl RoomMsg {
    /// It did not get to the shard of the stage. (A join says so when it is dropped.)
    pub(crate) fn lost(self) {
        match self {
            Self::Join(_) => {}
            Self::Create(create) => {
                if let CreateReply::Here(reply) = create.reply {
                    let _ = reply.send(Err(ErrorCode::SYSTEM_ERROR));
                }
            }
            Self::Serve(served) => {
                if let ServedAsker::Here(reply) = served.asker {
                    let (error, content) = (ErrorCode::SYSTEM_ERROR, Content::default());
                    let _ = reply.send(StageReply { error, content });
                }
            }
        }
    }

    /// Says no.
    pub(crate) fn refuse(self, local: &Local<'_>, code: ErrorCode) {
        match self {
            Self::Join(ticket) => ticket.turn_away(local, code),
            Self::Create(create) => create.reply.send(local, Err(code)),
            Self::Serve(served) => served.refuse(local, code),
        }
    }

    /// The stage type that is created if the stage is missing.
    pub(crate) fn kind(&self) -> Option<usize> {
        match self {
            Self::Create(create) => Some(create.kind),
            Self::Join(ticket) => ticket.default_stage(),
            Self::Serve(..) => None,
        }
    }

    /// The requests that wait for it.
    fn trail(&self) -> &[u8] {
        match self {
            Self::Join(_) => &[],
            Self::Create(create) => &create.trail,
            Self::Serve(served) => served.body.trail(),
        }
    }

    /// It may bring a stage into being; what does not is no reason to keep one.
    fn wants_stage(&self) -> bool {
        !matches!(self, Self::Serve(..))
    }
}

/// A stage of a shard, whatever its type.
pub(crate) trait AnyRoom: Send + Sync {
    fn tell(&self, local: &Local<'_>, message: RoomMsg) -> Result<(), TellError<RoomMsg>>;
    fn bind(&self, local: &Local<'_>, session: RouterId);
    /// Has it end after what is in its backlog.
    fn stop(&self, local: &Local<'_>);
}

impl<S: PlayStage> AnyRoom for StageRef<Room<S>> {
    fn tell(&self, local: &Local<'_>, message: RoomMsg) -> Result<(), TellError<RoomMsg>> {
        local.tell(*self, message)
    }

    fn bind(&self, local: &Local<'_>, session: RouterId) {
        local.bind(session, *self);
    }

    fn stop(&self, local: &Local<'_>) {
        local.stop(*self);
    }
}

struct Entry {
    room: Arc<dyn AnyRoom>,
    /// Tells it from others of the same id.
    number: u64,
    /// Messages under way to it that want it to exist.
    wanted: u32,
    closing: bool,
    parked: Vec<RoomMsg>,
}

/// See the module's page.
pub(crate) struct Directory {
    shared: Arc<Shared>,
    shard: usize,
    mesh: Rc<Mesh>,
    entries: RefCell<HashMap<i64, Entry>>,
    last: RefCell<u64>,
}

impl Directory {
    pub(crate) fn new(shared: Arc<Shared>, shard: usize, mesh: Rc<Mesh>) -> Self {
        Self {
            shared,
            shard,
            mesh,
            entries: RefCell::default(),
            last: RefCell::new(0),
        }
    }

    /// Tells a stage of this shard; if it is missing, `kind` is created, if there is one.
    pub(crate) fn tell(&self, local: &Local<'_>, id: i64, kind: Option<usize>, message: RoomMsg) {
        if self.mesh.is_cycle(id, message.trail()) {
            return message.refuse(local, ErrorCode::SYSTEM_ERROR);
        }
        let found = {
            let mut entries = self.entries.borrow_mut();
            match entries.get_mut(&id) {
                Some(entry) if entry.closing && message.wants_stage() => {
                    if entry.parked.len() < PARKED_MAX {
                        entry.parked.push(message);
                        return;
                    }
                    drop(entries);
                    return message.refuse(local, ErrorCode::SYSTEM_ERROR);
                }
                Some(entry) => {
                    entry.wanted += u32::from(message.wants_stage());
                    Some((Arc::clone(&entry.room), entry.number))
                }
                None => None,
            }
        };
        let (room, number) = match found {
            Some(found) => found,
            None => match self.open(local, id, kind.filter(|_| message.wants_stage())) {
                Ok(room) => room,
                Err(code) => return message.refuse(local, code),
            },
        };
        let wants = message.wants_stage();
        if let Err(TellError::Full(message) | TellError::Gone(message)) = room.tell(local, message)
        {
            if wants {
                self.handled(id, number);
            }
            message.refuse(local, ErrorCode::SYSTEM_ERROR);
        }
    }

    /// Puts a stage on this shard, and one message under way to it.
    fn open(
        &self,
        local: &Local<'_>,
        id: i64,
        kind: Option<usize>,
    ) -> Result<(Arc<dyn AnyRoom>, u64), ErrorCode> {
        let kind = kind.and_then(|kind| self.shared.kinds.get(kind));
        let kind = kind.ok_or(ErrorCode::STAGE_NOT_FOUND)?;
        let number = *self.last.borrow() + 1;
        *self.last.borrow_mut() = number;
        let seat = RoomSeat {
            id,
            number,
            shared: Arc::clone(&self.shared),
        };
        let room = kind.open(local, seat).map_err(|error| {
            tracing::warn!(stage_id = id, kind = kind.name(), %error, "a stage is not made");
            match error {
                CreateError::Stopped => ErrorCode::SYSTEM_ERROR,
                _ => ErrorCode::STAGE_CREATION_FAILED,
            }
        })?;
        self.shared.counts(self.shard).stages.add(1);
        let entry = Entry {
            room: Arc::clone(&room),
            number,
            wanted: 1,
            closing: false,
            parked: Vec::new(),
        };
        self.entries.borrow_mut().insert(id, entry);
        Ok((room, number))
    }

    /// A message that wanted the stage to exist is being handled.
    pub(crate) fn handled(&self, id: i64, number: u64) {
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(&id).filter(|entry| entry.number == number) {
            entry.wanted = entry.wanted.saturating_sub(1);
        }
    }

    /// How many of them are under way.
    pub(crate) fn wanted(&self, id: i64, number: u64) -> u32 {
        let entries = self.entries.borrow();
        let entry = entries.get(&id).filter(|entry| entry.number == number);
        entry.map_or(0, |entry| entry.wanted)
    }

    /// The stage closes: what wants it from now on waits until it is gone. False if it is not
    /// there, or closes already.
    pub(crate) fn close(&self, local: &Local<'_>, id: i64) -> bool {
        let room = {
            let mut entries = self.entries.borrow_mut();
            let entry = entries.get_mut(&id).filter(|entry| !entry.closing);
            entry.map(|entry| {
                entry.closing = true;
                Arc::clone(&entry.room)
            })
        };
        if let Some(room) = &room {
            room.stop(local);
        }
        room.is_some()
    }

    /// The stage is no more; what waited for that begins anew.
    pub(crate) fn gone(&self, local: &Local<'_>, id: i64, number: u64) {
        let entry = {
            let mut entries = self.entries.borrow_mut();
            match entries.get(&id) {
                Some(entry) if entry.number == number => entries.remove(&id),
                _ => None,
            }
        };
        let Some(entry) = entry else {
            return;
        };
        self.shared.counts(self.shard).stages.take(1);
        for message in entry.parked {
            let kind = message.kind();
            self.tell(local, id, kind, message);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.borrow().len()
    }
}
