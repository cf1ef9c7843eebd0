//! [`Verdict`]: yes or no, and what is said with it.

use std::borrow::Cow;

use crate::packet::{Content, Payload};

/// The answer of [`PlayStage::on_create`](crate::PlayStage::on_create),
/// [`PlayStage::on_join`](crate::PlayStage::on_join) and
/// [`Actor::on_authenticate`](crate::Actor::on_authenticate): yes or no, and a message for who
/// asked.
///
/// ```
/// use proscenium_play::Verdict;
///
/// let welcome = Verdict::accept().with("AuthenticateReply", "welcome");
/// assert!(welcome.is_accepted());
/// let no = Verdict::refuse();
/// assert!(!no.is_accepted());
/// ```
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    accepted: bool,
    pub(crate) content: Option<Content>,
}

impl Verdict {
    /// Yes. Without a message of its own, the answer has the id of the request and no payload.
    pub const fn accept() -> Self {
        Self {
            accepted: true,
            content: None,
        }
    }

    /// No.
    pub const fn refuse() -> Self {
        Self {
            accepted: false,
            content: None,
        }
    }

    /// Adds a message: its id and payload are those of the answer.
    pub fn with(mut self, msg_id: impl Into<Cow<'static, str>>, payload: impl Payload) -> Self {
        self.content = Some(Content::new(msg_id, payload));
        self
    }

    /// True if it is a yes.
    pub const fn is_accepted(&self) -> bool {
        self.accepted
    }
}
