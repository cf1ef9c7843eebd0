//! Why a WebSocket is closed: RFC 6455 §5.5.1 and §7.4.

use std::fmt;

use super::frame::CONTROL_MAX;

/// The number in a close frame that says why (RFC 6455 §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// What the connection was for is done.
    pub const NORMAL: Self = Self(1000);
    /// The endpoint goes away: a server shuts down, a page is left.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A kind of message that is not served here.
    pub const UNSUPPORTED: Self = Self(1003);
    /// Never sent: the close frame said nothing (RFC 6455 §7.1.5).
    pub const NO_STATUS: Self = Self(1005);
    /// Never sent: the connection ended without a close frame (RFC 6455 §7.1.5).
    pub const ABNORMAL: Self = Self(1006);
    /// A message whose bytes do not fit its kind, such as text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// Against a rule for which there is no better code.
    pub const POLICY: Self = Self(1008);
    /// A message that is too big.
    pub const TOO_BIG: Self = Self(1009);
    /// The client misses an extension in the server's answer.
    pub const MISSING_EXTENSION: Self = Self(1010);
    /// The server failed.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The service restarts (IANA registry).
    pub const SERVICE_RESTART: Self = Self(1012);
    /// The service has too much to do (IANA registry).
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// A gateway got a bad answer (IANA registry).
    pub const BAD_GATEWAY: Self = Self(1014);

    /// True if the code may stand in a close frame: 1000 to 1014 except those that are reserved
    /// or only for local use (1004, 1005 and 1006), and 3000 to 4999 for libraries and
    /// applications. RFC 6455 §7.4.2 and the IANA registry it began.
    #[must_use]
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Writes the body of a close frame, `code` and `reason`; returns its length. A reason of more
/// than 123 bytes is cut between two characters: a control frame holds no more.
pub fn close_body(code: CloseCode, reason: &str, out: &mut [u8; CONTROL_MAX]) -> usize {
    let (head, rest) = out.split_at_mut(2);
    head.copy_from_slice(&code.0.to_be_bytes()); // §5.5.1: in network byte order
    let len = floor_char_boundary(reason, rest.len());
    rest[..len].copy_from_slice(&reason.as_bytes()[..len]);
    2 + len
}

fn floor_char_boundary(text: &str, at_most: usize) -> usize {
    if text.len() <= at_most {
        return text.len();
    }
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    (0..=at_most).rev().find(is_boundary).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_be_sent_are_those_of_the_registry() {
        for code in [
            1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999,
        ] {
            assert!(CloseCode(code).is_sendable(), "{code}");
        }
        for code in [
            0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
        ] {
            assert!(!CloseCode(code).is_sendable(), "{code}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut out = [0; CONTROL_MAX];
        let reason = "é".repeat(80); // 160 bytes; 123 is inside a character
        let len = close_body(CloseCode::NORMAL, &reason, &mut out);
        assert_eq!(len, 2 + 122);
        assert_eq!(out[..2], [0x03, 0xE8]);
        assert_eq!(std::str::from_utf8(&out[2..len]), Ok(&reason[..122]));
        assert_eq!(close_body(CloseCode(4000), "", &mut out), 2);
        assert_eq!(close_body(CloseCode(4000), &"x".repeat(123), &mut out), 125);
    }
}
