//! What handlers say when something goes wrong, and what they are told.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use proscenium_engine::SendError;
use proscenium_framing::packet::{ErrorCode, ID_MAX, ServerPacket};
use proscenium_nodelink::SendError as NodeError;

use crate::packet::{Content, Payload};

/// What handlers return.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// That a handler failed, and what whoever asked is told: an [`ErrorCode`], and a payload if one
/// is given.
///
/// Any error becomes one by `?`. An [`ErrorCode`] keeps its code; that of others is what
/// [`map_errors`](crate::PlayServerBuilder::map_errors) makes of it, else 15, unchecked contents
/// error.
pub struct Failure {
    pub(crate) code: Option<ErrorCode>,
    pub(crate) content: Option<Content>,
    source: Option<Box<dyn Error + Send + Sync>>,
    text: Cow<'static, str>,
}

impl Failure {
    /// A failure with an error code, for application errors 1000 or more.
    pub fn code(code: impl Into<ErrorCode>) -> Self {
        Self {
            code: Some(code.into()),
            content: None,
            source: None,
            text: Cow::Borrowed(""),
        }
    }

    /// A failure without a code of its own. `text` is for the log only.
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code: None,
            content: None,
            source: None,
            text: text.into(),
        }
    }

    /// Adds what is sent along with the code.
    #[must_use]
    pub fn with(mut self, msg_id: impl Into<Cow<'static, str>>, payload: impl Payload) -> Self {
        self.content = Some(Content::new(msg_id, payload));
        self
    }

    /// The error that it was made of, if it was made of one.
    pub fn source(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.source.as_deref()
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        // That of another stage is passed on as it came.
        let any: &dyn Any = &error;
        Self {
            code: any.downcast_ref::<ErrorCode>().copied(),
            content: None,
            source: Some(Box::new(error)),
            text: Cow::Borrowed(""),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, self.code) {
            (Some(source), _) => source.fmt(f),
            (None, Some(code)) if self.text.is_empty() => code.fmt(f),
            (None, _) => f.write_str(&self.text),
        }
    }
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeliverError {
    /// The actor has no connection now, or has left.
    Disconnected,
    /// A bound was reached: of the connection's send queue, of the shard's send memory or of a
    /// mailbox. If it was the answer to a client's request, the connection is closed: its client
    /// would wait for ever.
    Full,
    /// The packet is longer than packets may be.
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// Message ids have 1 to 128 bytes.
    MessageId {
        /// Bytes of the one given.
        len: usize,
    },
    /// A second reply to one request.
    AnsweredAlready,
    /// No other server of that name, or of that service, can be reached now.
    Unroutable,
}

impl DeliverError {
    /// Checks the length of a message id.
    #[inline]
    pub(crate) fn check_id(msg_id: &str) -> Result<(), Self> {
        let len = msg_id.len();
        if (1..=ID_MAX).contains(&len) {
            Ok(())
        } else {
            Err(Self::MessageId { len })
        }
    }

    /// The code that stands for it in packets.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unroutable => ErrorCode::SERVER_NOT_FOUND,
            Self::MessageId { .. } => ErrorCode::INVALID_MESSAGE,
            Self::Disconnected | Self::Full | Self::TooLong { .. } | Self::AnsweredAlready => {
                ErrorCode::SYSTEM_ERROR
            }
        }
    }
}

impl From<NodeError> for DeliverError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Full => Self::Full,
            NodeError::TooLong { length, limit } => Self::TooLong { length, limit },
            _ => Self::Unroutable,
        }
    }
}

impl From<SendError> for DeliverError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full => Self::Full,
            SendError::TooLong { length, limit } => Self::TooLong { length, limit },
            _ => Self::Disconnected,
        }
    }
}

impl fmt::Display for DeliverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the actor has no connection"),
            Self::Full => f.write_str("no room for the message"),
            Self::TooLong { length, limit } => {
                let head = ServerPacket::FIXED;
                write!(
                    f,
                    "packet of {length} bytes ({head} and the id before the payload), \
                     the limit is {limit}"
                )
            }
            Self::MessageId { len } => {
                write!(f, "message id of {len} bytes, allowed are 1 to {ID_MAX}")
            }
            Self::Unroutable => f.write_str("that server cannot be reached"),
            Self::AnsweredAlready => f.write_str("the request was answered before"),
        }
    }
}

impl Error for DeliverError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails() -> Result {
        "seven".parse::<u32>()?;
        Ok(())
    }

    #[test]
    fn any_error_is_a_failure() {
        let failure = fails().unwrap_err();
        assert_eq!(failure.code, None);
        assert!(failure.source().unwrap().is::<std::num::ParseIntError>());
        assert!(failure.to_string().contains("invalid digit"));
        let passed_on = || -> Result { Err(ErrorCode(1500))? };
        assert_eq!(passed_on().unwrap_err().code, Some(ErrorCode(1500)));
        let coded = Failure::code(1234).with("No", "gold");
        assert_eq!(coded.code, Some(ErrorCode(1234)));
        assert_eq!(coded.to_string(), "error 1234");
        assert_eq!(coded.content.unwrap().packet().payload(), b"gold");
        assert_eq!(Failure::new("no gold").to_string(), "no gold");
    }
}
