//! [`ApiCx`]: what a handler of an API server is given beside the message.

use std::fmt;
use std::ops::Deref;

use proscenium_nodelink::{Nid, NodeMessage};

use super::sender::ApiSender;

/// What a handler is given beside its message: who sent it, and by [`Deref`] an [`ApiSender`],
/// whose requests tell the stages that they reach on whose behalf they are made, so that a cycle
/// of requests is refused and not waited out.
pub struct ApiCx {
    sender: ApiSender,
    from: Nid,
    stage_id: i64,
    account_id: i64,
    sid: i64,
    is_request: bool,
}

impl ApiCx {
    pub(crate) fn new(sender: &ApiSender, message: &NodeMessage<'_>) -> Self {
        Self {
            sender: sender.in_chain(&message.header.chain),
            from: message.from.clone(),
            stage_id: message.header.stage_id,
            account_id: message.header.account_id,
            sid: message.header.sid,
            is_request: message.reply_to.is_some(),
        }
    }

    /// Sends to other servers; for what outlives the handler, clone it.
    pub fn sender(&self) -> &ApiSender {
        &self.sender
    }

    /// The server that sent the message, as its link says.
    pub fn from(&self) -> &Nid {
        &self.from
    }

    /// The stage that the message's header names; 0 = none.
    pub fn stage_id(&self) -> i64 {
        self.stage_id
    }

    /// The account that the message's header names; 0 = none.
    pub fn account_id(&self) -> i64 {
        self.account_id
    }

    /// The session that the message's header names; 0 = none.
    pub fn session_id(&self) -> i64 {
        self.sid
    }

    /// True if the sender waits for an answer.
    pub fn is_request(&self) -> bool {
        self.is_request
    }
}

impl Deref for ApiCx {
    type Target = ApiSender;

    fn deref(&self) -> &ApiSender {
        &self.sender
    }
}

impl fmt::Debug for ApiCx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiCx")
            .field("from", &self.from)
            .field("stage_id", &self.stage_id)
            .finish_non_exhaustive()
    }
}
