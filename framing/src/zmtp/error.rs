//! [`ZmtpError`]: how a peer breaks the protocol.

use std::error::Error;
use std::fmt;

/// Why a connection cannot go on: the peer's fault, each kind under a name for statistics.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZmtpError {
    /// The first bytes are not those of a ZMTP greeting: no signature.
    Signature {
        /// Where the first wrong byte is.
        at: usize,
        /// What it is.
        byte: u8,
    },
    /// The peer speaks a version before 3.0.
    Version {
        /// Its major version.
        major: u8,
    },
    /// The mechanism's name is not upper-case text, padded with zeros.
    MechanismName,
    /// The peer uses another security mechanism than we do.
    Mechanism {
        /// Its name.
        name: String,
    },
    /// A bit of a frame's flags is set that is reserved, or a command has MORE set.
    Flags {
        /// The flags.
        flags: u8,
    },
    /// A frame of a message is longer than [`Limits::frame_max`](super::Limits).
    FrameTooLong {
        /// Announced length in bytes.
        announced: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A command is longer than [`Limits::command_max`](super::Limits).
    CommandTooLong {
        /// Announced length in bytes.
        announced: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A message is longer than [`Limits::message_max`](super::Limits).
    MessageTooLong {
        /// Its length in bytes as far as it is known.
        length: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A message has more parts than [`Limits::parts_max`](super::Limits).
    TooManyParts {
        /// The limit.
        limit: usize,
    },
    /// A command ends too early, or has too much behind its end.
    Command {
        /// Which one, as far as it is known.
        name: &'static str,
    },
    /// The name or the length of a property is wrong.
    Property {
        /// Where it begins in the list, in bytes.
        at: usize,
    },
    /// A command that has no business here.
    Unexpected {
        /// Its name.
        name: String,
    },
    /// A message before the handshake was over.
    MessageInHandshake,
    /// The mechanism refused the peer; it was told the reason.
    Refused {
        /// The reason.
        reason: String,
    },
    /// The peer refused us, by an ERROR command.
    RefusedByPeer {
        /// Its reason.
        reason: String,
    },
}

impl ZmtpError {
    /// The kind's name in statistics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Signature { .. } => "signature",
            Self::Version { .. } => "version",
            Self::MechanismName => "mechanism_name",
            Self::Mechanism { .. } => "mechanism",
            Self::Flags { .. } => "flags",
            Self::FrameTooLong { .. } => "frame_too_long",
            Self::CommandTooLong { .. } => "command_too_long",
            Self::MessageTooLong { .. } => "message_too_long",
            Self::TooManyParts { .. } => "too_many_parts",
            Self::Command { .. } => "command",
            Self::Property { .. } => "property",
            Self::Unexpected { .. } => "unexpected_command",
            Self::MessageInHandshake => "message_in_handshake",
            Self::Refused { .. } => "refused",
            Self::RefusedByPeer { .. } => "refused_by_peer",
        }
    }
}

impl fmt::Display for ZmtpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature { at, byte } => {
                write!(f, "no ZMTP greeting: byte {at} is {byte:#04x}")
            }
            Self::Version { major } => write!(f, "ZMTP version {major}, at least 3 is needed"),
            Self::MechanismName => f.write_str("the mechanism's name is not upper-case text"),
            Self::Mechanism { name } => write!(f, "mechanism {name} is not ours"),
            Self::Flags { flags } => write!(f, "frame with flags {flags:#04x}"),
            Self::FrameTooLong { announced, limit } => {
                write!(f, "frame of {announced} bytes, the limit is {limit}")
            }
            Self::CommandTooLong { announced, limit } => {
                write!(f, "command of {announced} bytes, the limit is {limit}")
            }
            Self::MessageTooLong { length, limit } => {
                write!(
                    f,
                    "message of at least {length} bytes, the limit is {limit}"
                )
            }
            Self::TooManyParts { limit } => {
                write!(f, "message of more than {limit} parts, the limit")
            }
            Self::Command { name } => write!(f, "the command {name} has a wrong length"),
            Self::Property { at } => write!(f, "the property at byte {at} is broken"),
            Self::Unexpected { name } => write!(f, "the command {name} has no business here"),
            Self::MessageInHandshake => f.write_str("a message before the handshake was over"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::RefusedByPeer { reason } => write!(f, "refused by the peer: {reason}"),
        }
    }
}

impl Error for ZmtpError {}
