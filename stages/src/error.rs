//! Errors, split by what they answer.

use std::fmt;
use std::time::Duration;

/// Why a message was not taken. The message comes back.
#[non_exhaustive]
pub enum TellError<M> {
    /// The stage's backlog (or its shard's mailbox) is full.
    Full(M),
    /// The stage does not live any more, or its shard has stopped or never ran.
    Gone(M),
}

impl<M> TellError<M> {
    /// The message that was not taken.
    pub fn into_message(self) -> M {
        match self {
            Self::Full(message) | Self::Gone(message) => message,
        }
    }

    /// True for [`Full`](Self::Full): trying again later makes sense.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<M> fmt::Debug for TellError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() {
            "Full(..)"
        } else {
            "Gone(..)"
        })
    }
}

impl<M> fmt::Display for TellError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() {
            "the stage's backlog or its shard's mailbox is full"
        } else {
            "the stage does not live any more"
        })
    }
}

impl<M> std::error::Error for TellError<M> {}

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The stage does not live any more, or its shard has stopped.
    Gone,
    /// The stage's backlog, or its shard's mailbox, is full.
    Full,
    /// The stage dropped the [`Reply`](crate::Reply) without answering: its handler forgot it,
    /// panicked, or the stage ended.
    NoReply,
    /// No answer came within this time.
    Deadline(Duration),
    /// The stage waits, directly or over others, for the one that asks: it could never answer. The
    /// names of the stages, from the one that asks to itself.
    Cycle(Vec<String>),
    /// Requests are nested deeper than this.
    TooDeep(usize),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the stage does not live any more"),
            Self::Full => f.write_str("the stage's backlog or its shard's mailbox is full"),
            Self::NoReply => f.write_str("the stage dropped the request without a reply"),
            Self::Deadline(after) => write!(f, "no reply within {after:?}"),
            Self::Cycle(names) => write!(f, "a cycle of requests: {}", names.join(" → ")),
            Self::TooDeep(limit) => write!(f, "requests are nested deeper than {limit}"),
        }
    }
}

impl std::error::Error for RequestError {}

impl<M> From<&TellError<M>> for RequestError {
    /// Of a reference: a message that is dropped before its request is refused answers it, by the
    /// token in it.
    fn from(error: &TellError<M>) -> Self {
        if error.is_full() {
            Self::Full
        } else {
            Self::Gone
        }
    }
}

/// Why a stage was not created.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CreateError {
    /// The type was not registered with [`StagesBuilder`](crate::StagesBuilder).
    UnknownType(&'static str),
    /// The type was registered without a factory.
    NoFactory(&'static str),
    /// The shard has as many stages of the type as it may have
    /// ([`StageType::stages_max`](crate::StageType::stages_max)).
    TooMany(usize),
    /// The factory (or what else makes the stage) panicked.
    Panicked,
    /// The one that had the id before is still ending, after the request deadline.
    Ending,
    /// The shard's mailbox is full.
    Full,
    /// There is no such shard, or it has stopped, or the engine was never started.
    Stopped,
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownType(name) => write!(f, "the stage type {name} was not registered"),
            Self::NoFactory(name) => write!(f, "the stage type {name} has no factory"),
            Self::TooMany(limit) => write!(f, "the shard has {limit} stages of the type already"),
            Self::Panicked => f.write_str("the factory panicked"),
            Self::Ending => f.write_str("the stage of that id is still ending"),
            Self::Full => f.write_str("the shard's mailbox is full"),
            Self::Stopped => f.write_str("there is no such shard, or it does not run"),
        }
    }
}

impl std::error::Error for CreateError {}

/// Why a future was not [detached](crate::Cx::detach). It was dropped, and its closure too.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DetachError {
    /// The stage has as many detached futures as it may have
    /// ([`StageType::tasks_max`](crate::StageType::tasks_max)).
    TooMany(usize),
}

impl fmt::Display for DetachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(limit) => write!(f, "the stage has {limit} detached futures already"),
        }
    }
}

impl std::error::Error for DetachError {}

/// Why work that was [offloaded](crate::Local::offload_io) has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffloadError {
    /// As much work waits as may wait.
    Full,
    /// The work panicked, with this message.
    Panicked(String),
    /// The pool ends.
    Stopped,
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("as much offloaded work waits as may wait"),
            Self::Panicked(message) => write!(f, "the offloaded work panicked: {message}"),
            Self::Stopped => f.write_str("the offload pool has stopped"),
        }
    }
}

impl std::error::Error for OffloadError {}
