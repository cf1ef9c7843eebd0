//! Sending to stages and servers: what the handlers of stages and actors can do, and [`Link`].

use std::fmt;
use std::rc::Rc;

use proscenium_framing::packet::ErrorCode;
use proscenium_framing::route::{Chain, RouteHeader};
use proscenium_stages::{Local, Reply};

use super::outbox::What;
use super::routes::Place;
use super::{DEPTH_MAX, Mesh, Request, Served, Waiting};
use crate::actor::ActorCx;
use crate::context::StageCx;
use crate::error::DeliverError;
use crate::gate::Gate;
use crate::packet::{Content, Payload};
use crate::stage::PlayStage;
use crate::target::{StageTarget, To};

/// Who sends.
struct Sender<'a> {
    mesh: Rc<Mesh>,
    /// `None` for a detached future, for which nobody's stage waits.
    local: Option<Local<'a>>,
    stage_id: i64,
    /// The requests that wait for what the sender does.
    trail: &'a [u8],
}

/// Where a message turned out to go.
enum Found {
    Stage(i64),
    Peer,
}

impl Sender<'_> {
    fn header<'h>(to: Option<To<'_>>, stage_id: i64, msg_id: &'h str) -> RouteHeader<'h> {
        let service_id = match to {
            Some(To::Service(id, _)) => u32::from(id),
            _ => 0,
        };
        RouteHeader {
            msg_id,
            stage_id,
            service_id,
            ..RouteHeader::default()
        }
    }

    /// Puts a message for another server into the outbox; `Stage` if it is for this one.
    fn push(
        &self,
        target: StageTarget<'_>,
        msg_id: &str,
        request: Option<u64>,
        payload: &impl Payload,
    ) -> Result<Found, DeliverError> {
        let Some(to) = target.server else {
            return Ok(Found::Stage(target.stage_id));
        };
        let node = self.mesh.node().ok_or(DeliverError::Unroutable)?;
        let mut chosen = None;
        let (nid, place) = self.mesh.routes.find(&node.handle, to, &mut chosen);
        match place {
            Place::Here => return Ok(Found::Stage(target.stage_id)),
            Place::Nowhere => return Err(DeliverError::Unroutable),
            Place::There => {}
        }
        let header = Self::header(Some(to), target.stage_id, msg_id);
        let sent = self.mesh.routes.with(nid, |peer| {
            let (what, waiting) = match request {
                None => (What::Send(peer.id), Waiting::default()),
                Some(number) => {
                    let what = What::Request {
                        peer: peer.id,
                        number,
                        deadline: None,
                    };
                    (what, self.waiting(number))
                }
            };
            let what = (what, Some(&peer.gauge));
            self.mesh.push(what, &header, waiting, payload)
        });
        match sent {
            Some(Ok(())) => Ok(Found::Peer),
            Some(Err((error, _))) => Err(error),
            None => Err(DeliverError::Unroutable),
        }
    }

    fn waiting(&self, number: u64) -> Waiting<'_> {
        // Nobody waits for what a detached future asks.
        let own = self.local.map(|_| (self.stage_id, number));
        Waiting {
            trail: self.trail,
            own,
        }
    }

    fn tell_here(&self, stage_id: i64, served: Box<Served>) -> Result<(), DeliverError> {
        match &self.local {
            Some(local) => {
                let shard = self.mesh.shared.place(stage_id);
                super::tell(local, shard, stage_id, served).map_err(|_| DeliverError::Full)
            }
            None => {
                let mut inside = self.mesh.inside.borrow_mut();
                if inside.len() >= INSIDE_MAX {
                    return Err(DeliverError::Full);
                }
                inside.push_back((stage_id, served));
                Ok(())
            }
        }
    }

    fn send(
        &self,
        target: StageTarget<'_>,
        msg_id: &str,
        payload: &impl Payload,
    ) -> Result<(), DeliverError> {
        DeliverError::check_id(msg_id)?;
        match self.push(target, msg_id, None, payload)? {
            Found::Peer => {
                let counts = self.mesh.shared.counts(self.mesh.shard);
                counts.node_sends.add(1);
                Ok(())
            }
            Found::Stage(stage_id) => {
                let content = Content::new(msg_id.to_owned(), payload);
                self.tell_here(stage_id, Served::here(content, None))
            }
        }
    }

    /// The number of a request that is about to be made, if it may be.
    fn begin(&self, target: StageTarget<'_>, msg_id: &str) -> Result<u64, ErrorCode> {
        DeliverError::check_id(msg_id).map_err(|_| ErrorCode::INVALID_MESSAGE)?;
        let is_deep = !self.trail.is_empty() && depth(self.trail) >= DEPTH_MAX;
        let asks_itself =
            self.local.is_some() && target.server.is_none() && target.stage_id == self.stage_id;
        let (requests, shared) = (&self.mesh.requests, &self.mesh.shared);
        if is_deep || asks_itself {
            shared.counts(self.mesh.shard).cycles.add(1);
            return Err(ErrorCode::SYSTEM_ERROR);
        }
        let deadline = shared.config.request_deadline;
        let here = target.server.is_none();
        let number = requests.begin(self.stage_id, self.local.is_some(), here, deadline);
        number.ok_or(ErrorCode::SYSTEM_ERROR)
    }

    fn request<'r>(
        &self,
        target: StageTarget<'_>,
        msg_id: &str,
        payload: &impl Payload,
    ) -> Request<'r> {
        let number = match self.begin(target, msg_id) {
            Ok(number) => number,
            Err(code) => return Request::refused(code),
        };
        // From here on the number is given back when the future is dropped.
        let mesh = Rc::clone(&self.mesh);
        let found = self.push(target, msg_id, Some(number), payload);
        let told = match found {
            Ok(Found::Peer) => {
                let counts = mesh.shared.counts(mesh.shard);
                counts.node_requests.add(1);
                return Request::sent(mesh, number, None);
            }
            Ok(Found::Stage(stage_id)) => {
                if target.server.is_some() {
                    mesh.requests.is_here(number);
                }
                let (reply, asked) = Reply::pair();
                let content = Content::new(msg_id.to_owned(), payload);
                let waiting = (mesh.nid(), self.waiting(number));
                let served = Served::asked_here(content, reply, waiting);
                self.tell_here(stage_id, served).map(|()| asked)
            }
            Err(error) => Err(error),
        };
        match told {
            Ok(asked) => Request::sent(mesh, number, Some(asked)),
            Err(error) => {
                drop(Request::sent(mesh, number, None));
                Request::refused(error.code())
            }
        }
    }
}

/// Messages of detached futures within this server that may wait for the end of a slice.
const INSIDE_MAX: usize = 65_536;

/// How many requests wait for one.
fn depth(trail: &[u8]) -> usize {
    Chain::of_fields(trail).iter().count()
}

fn whole_server<'a>(to: impl Into<To<'a>>) -> StageTarget<'a> {
    StageTarget {
        server: Some(to.into()),
        stage_id: 0,
    }
}

macro_rules! sending {
    ($sender:ident, $life:lifetime) => {
        /// Sends a stage a message, of this server (by its id) or of another one
        /// (see [`StageTarget`]): its [`on_dispatch_server`](PlayStage::on_dispatch_server) gets
        /// it. That there is no such stage is not told.
        ///
        /// # Errors
        /// `Unroutable` if that server cannot be reached now, `Full` if there is no room on the
        /// way, `TooLong`, `MessageId`.
        pub fn send_to_stage<'t>(
            &self,
            to: impl Into<StageTarget<'t>>,
            msg_id: &str,
            payload: impl Payload,
        ) -> Result<(), DeliverError> {
            self.$sender().send(to.into(), msg_id, &payload)
        }

        /// Asks a stage something, of this server or of another one; the request is sent at once,
        /// its answer awaited, at most for
        /// [`PlayServerBuilder::request_deadline`](crate::PlayServerBuilder::request_deadline)
        /// unless told [otherwise](Request::within).
        ///
        /// # Errors
        /// Of the future: the code of the answer if it is not 0; 3 if there is no such stage; 2 if
        /// that server cannot be reached, or is lost before it has answered; 1 if no answer came in
        /// time; 14 if there was no room, or if that stage waits, directly or over others, for this
        /// very request; 11 for a message id that is none.
        pub fn request_to_stage<'t>(
            &self,
            to: impl Into<StageTarget<'t>>,
            msg_id: &str,
            payload: impl Payload,
        ) -> Request<$life> {
            self.$sender().request(to.into(), msg_id, &payload)
        }

        /// Sends a server a message that is for none of its stages: an API server.
        ///
        /// # Errors
        /// Those of [`send_to_stage`](Self::send_to_stage).
        pub fn send_to_api<'t>(
            &self,
            to: impl Into<To<'t>>,
            msg_id: &str,
            payload: impl Payload,
        ) -> Result<(), DeliverError> {
            self.$sender().send(whole_server(to), msg_id, &payload)
        }

        /// Asks an API server something, as [`request_to_stage`](Self::request_to_stage) does.
        ///
        /// # Errors
        /// Those of [`request_to_stage`](Self::request_to_stage).
        pub fn request_to_api<'t>(
            &self,
            to: impl Into<To<'t>>,
            msg_id: &str,
            payload: impl Payload,
        ) -> Request<$life> {
            self.$sender().request(whole_server(to), msg_id, &payload)
        }
    };
}

/// # Other stages and servers
///
/// While a request is awaited, the stage is busy. Who waits for whom travels along, over all
/// servers: a request to a stage that waits for this one is refused at once.
impl<'a, S: PlayStage> StageCx<'a, S> {
    sending!(sender, 'a);

    /// The same for futures that are [detached](StageCx::detach).
    pub fn link(&self) -> Link {
        Link::new(self.local(), self.stage_id())
    }

    fn sender(&self) -> Sender<'a> {
        Sender {
            mesh: Gate::mesh(self.local()),
            local: Some(*self.local()),
            stage_id: self.stage_id(),
            trail: self.call().trail(),
        }
    }
}

/// # Stages and servers
///
/// As those of [`StageCx`]: while a request is awaited, the stage of the actor is busy.
impl<'a> ActorCx<'a> {
    sending!(sender, 'a);

    fn sender(&self) -> Sender<'a> {
        Sender {
            mesh: Gate::mesh(self.local()),
            local: Some(*self.local()),
            stage_id: self.stage_id(),
            trail: &[],
        }
    }
}

/// What a future that is [detached](StageCx::detach) sends by: messages of the stage for which
/// nobody waits, so that what is asked begins a new chain. It stays on its shard.
///
/// ```
/// # use proscenium_play::{PlayStage, StageCx};
/// # fn ask<S: PlayStage>(cx: &StageCx<'_, S>) {
/// let link = cx.link();
/// let asked = async move { link.request_to_api("api-1", "GetPrices", "swords").await };
/// let detached = cx.detach(asked, |_stage, _cx, prices| drop(prices));
/// # drop(detached);
/// # }
/// ```
pub struct Link {
    mesh: Rc<Mesh>,
    stage_id: i64,
}

impl Link {
    fn new(local: &Local<'_>, stage_id: i64) -> Self {
        let mesh = Gate::mesh(local);
        Self { mesh, stage_id }
    }

    sending!(sender, 'static);

    fn sender(&self) -> Sender<'static> {
        Sender {
            mesh: Rc::clone(&self.mesh),
            local: None,
            stage_id: self.stage_id,
            trail: &[],
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("stage_id", &self.stage_id)
            .finish_non_exhaustive()
    }
}
