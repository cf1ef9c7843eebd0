//! Error codes of server packets.

use std::error::Error;
use std::fmt;

/// How a request went: the error code of a [`ServerPacket`](super::ServerPacket).
///
/// 0 is success; 1 to 99 are the framework's; from [`APPLICATION`](Self::APPLICATION) on they are
/// the application's own; 60201 to 60203 never travel, a connector makes them up for what happens
/// on its side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub u16);

/// The constants, and the table that `name` looks into, from one list.
macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $code:literal, $name:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $constant: Self = Self($code);)*

            /// What the code means, for people; `None` for a code that has no fixed meaning.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some($name),)*
                    _ => None,
                }
            }

            /// Every code that has a fixed meaning.
            pub const KNOWN: &'static [Self] = &[$(Self::$constant,)*];
        }
    };
}

codes! {
    /// No error.
    SUCCESS = 0, "success";
    /// The server's own request for this one took too long.
    REQUEST_TIMEOUT = 1, "request timeout";
    /// The server that was addressed is not known.
    SERVER_NOT_FOUND = 2, "server not found";
    /// There is no such stage.
    STAGE_NOT_FOUND = 3, "stage not found";
    /// There is no such actor in the stage.
    ACTOR_NOT_FOUND = 4, "actor not found";
    /// The credentials were refused; the connection stays, to try again.
    AUTHENTICATION_FAILED = 5, "authentication failed";
    /// The connection has not authenticated yet.
    NOT_AUTHENTICATED = 6, "not authenticated";
    /// The connection has authenticated before.
    ALREADY_AUTHENTICATED = 7, "already authenticated";
    /// A stage of this id exists.
    STAGE_ALREADY_EXISTS = 8, "stage already exists";
    /// The stage refused to be created, or failed at it.
    STAGE_CREATION_FAILED = 9, "stage creation failed";
    /// Joining the stage failed.
    JOIN_STAGE_FAILED = 10, "join stage failed";
    /// The message could not be understood.
    INVALID_MESSAGE = 11, "invalid message";
    /// Nobody handles messages of this id.
    HANDLER_NOT_FOUND = 12, "handler not found";
    /// No stage type of this name is registered.
    INVALID_STAGE_TYPE = 13, "invalid stage type";
    /// The system failed.
    SYSTEM_ERROR = 14, "system error";
    /// A handler failed in a way that it did not foresee.
    UNCHECKED_CONTENTS_ERROR = 15, "unchecked contents error";
    /// Authentication left the account id empty.
    INVALID_ACCOUNT_ID = 16, "invalid account id";
    /// The stage did not let the actor in.
    JOIN_STAGE_REJECTED = 17, "join stage rejected";
    /// Something inside the server is broken.
    INTERNAL_ERROR = 99, "internal error";
    /// Connector: the connection is gone, or was never there.
    DISCONNECTED = 60201, "disconnected";
    /// Connector: no answer came in time.
    CONNECTOR_REQUEST_TIMEOUT = 60202, "connector request timeout";
    /// Connector: the connection has not authenticated.
    UNAUTHENTICATED = 60203, "unauthenticated";
}

impl ErrorCode {
    /// The first code that is the application's to give out.
    pub const APPLICATION: u16 = 1000;

    /// True for [`SUCCESS`](Self::SUCCESS).
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }
}

impl From<u16> for ErrorCode {
    fn from(code: u16) -> Self {
        Self(code)
    }
}

impl From<ErrorCode> for u16 {
    fn from(code: ErrorCode) -> Self {
        code.0
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "error {}", self.0),
        }
    }
}

/// So that `?` passes a code on; [`ErrorCode::SUCCESS`] is none, of course.
impl Error for ErrorCode {}
