//! What a peer can do wrong once the connection is a WebSocket.

use std::error::Error;
use std::fmt;

use super::close::CloseCode;

/// Why what a peer sent is no WebSocket traffic, or more of it than we take. The connection is
/// lost: RFC 6455 §7.1.7 has it failed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A bit of RSV1 (4), RSV2 (2), RSV3 (1) that no extension negotiated gives a meaning.
    ReservedBits(u8),
    /// An opcode that no version of the protocol defines.
    UnknownOpcode(u8),
    /// A client's frame without a mask.
    NotMasked,
    /// A server's frame with a mask.
    Masked,
    /// A payload length in a longer form than it needs.
    LengthNotMinimal {
        /// The length, in bytes.
        announced: u64,
    },
    /// A payload length of 2⁶³ bytes or more.
    LengthTopBit,
    /// A control frame without FIN.
    ControlFragmented,
    /// A control frame of more than 125 bytes of payload.
    ControlTooLong,
    /// A continuation where no message was begun.
    NothingToContinue,
    /// A new message before the one under way was finished.
    MessageNotFinished,
    /// A frame longer than we take.
    FrameTooLong {
        /// Its announced length, in bytes.
        announced: u64,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A message longer than we take.
    MessageTooLong {
        /// What its frames so far announced, in bytes.
        announced: u64,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A message of more frames than we take.
    TooManyFragments {
        /// The limit.
        limit: u32,
    },
    /// More control frames in a row than we take.
    TooManyControlFrames {
        /// The limit.
        limit: u32,
    },
    /// Text that is not UTF-8.
    TextNotUtf8,
    /// A close frame with one byte of payload: less than a code.
    CloseTooShort,
    /// A close frame with a code that may not be sent.
    CloseCode(CloseCode),
    /// A close frame whose reason is not UTF-8.
    CloseReasonNotUtf8,
    /// Something after the close frame.
    AfterClose,
}

impl ProtocolError {
    /// The code with which the connection is to be closed.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::FrameTooLong { .. } | Self::MessageTooLong { .. } => CloseCode::TOO_BIG,
            Self::TooManyFragments { .. } | Self::TooManyControlFrames { .. } => CloseCode::POLICY,
            Self::TextNotUtf8 | Self::CloseReasonNotUtf8 => CloseCode::INVALID_DATA,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits(bits) => write!(f, "reserved bits {bits:03b} are set"),
            Self::UnknownOpcode(opcode) => write!(f, "opcode {opcode:#x} is reserved"),
            Self::NotMasked => f.write_str("a client's frame is not masked"),
            Self::Masked => f.write_str("a server's frame is masked"),
            Self::LengthNotMinimal { announced } => {
                write!(f, "length {announced} is in a longer form than it needs")
            }
            Self::LengthTopBit => f.write_str("the length has its top bit set"),
            Self::ControlFragmented => f.write_str("a control frame is fragmented"),
            Self::ControlTooLong => f.write_str("a control frame of more than 125 bytes"),
            Self::NothingToContinue => f.write_str("a continuation of no message"),
            Self::MessageNotFinished => {
                f.write_str("a message begins before the one before it is finished")
            }
            Self::FrameTooLong { announced, limit } => {
                write!(
                    f,
                    "a frame of {announced} bytes is over the limit of {limit} bytes"
                )
            }
            Self::MessageTooLong { announced, limit } => {
                write!(
                    f,
                    "a message of {announced} bytes is over the limit of {limit} bytes"
                )
            }
            Self::TooManyFragments { limit } => {
                write!(f, "a message of more than {limit} frames")
            }
            Self::TooManyControlFrames { limit } => {
                write!(f, "more than {limit} control frames in a row")
            }
            Self::TextNotUtf8 => f.write_str("text is not UTF-8"),
            Self::CloseTooShort => f.write_str("a close frame with half a code"),
            Self::CloseCode(code) => write!(f, "close code {code} may not be sent"),
            Self::CloseReasonNotUtf8 => f.write_str("the reason of a close frame is not UTF-8"),
            Self::AfterClose => f.write_str("something follows the close frame"),
        }
    }
}

impl Error for ProtocolError {}
