//! [`Greeting`]: the first 64 bytes of each direction.

use std::fmt;

use super::ZmtpError;

/// The name of a security mechanism: up to 20 of `A`–`Z`, `0`–`9`, `-`, `_`, `.`, `+`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MechanismName {
    padded: [u8; Self::MAX],
}

impl MechanismName {
    /// Its greatest length, in bytes.
    pub const MAX: usize = 20;
    /// No security: see [`Null`](super::Null).
    pub const NULL: Self = match Self::new("NULL") {
        Some(name) => name,
        None => unreachable!(),
    };

    /// The name, if it is one.
    pub const fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > Self::MAX {
            return None;
        }
        let mut padded = [0; Self::MAX];
        let mut at = 0;
        while at < bytes.len() {
            padded[at] = bytes[at];
            at += 1;
        }
        Self::from_padded(padded)
    }

    const fn from_padded(padded: [u8; Self::MAX]) -> Option<Self> {
        let (mut at, mut ended) = (0, false);
        while at < padded.len() {
            match padded[at] {
                0 => ended = true,
                b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'+' if !ended => {}
                _ => return None,
            }
            at += 1;
        }
        if padded[0] == 0 {
            return None;
        }
        Some(Self { padded })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let end = self.padded.iter().position(|&byte| byte == 0);
        let name = &self.padded[..end.unwrap_or(Self::MAX)];
        // Checked when it was made: ASCII.
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl fmt::Debug for MechanismName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for MechanismName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What both ends send first (RFC 23 §"Greeting"): signature, version, mechanism, role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Minor version; the major one is 3.
    pub minor: u8,
    /// The security mechanism; both ends have to name the same.
    pub mechanism: MechanismName,
    /// The role, for mechanisms with two. Means nothing with NULL.
    pub as_server: bool,
}

impl Greeting {
    /// Its length, in bytes.
    pub const LEN: usize = 64;
    /// The minor version that we speak: 3.1.
    pub const MINOR: u8 = 1;

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = 0xFF;
        bytes[8] = 1; // as a length of old versions: an empty identity and its flags
        bytes[9] = 0x7F;
        bytes[10] = 3;
        bytes[11] = self.minor;
        bytes[12..32].copy_from_slice(&self.mechanism.padded);
        bytes[32] = u8::from(self.as_server);
        bytes
    }

    /// Reads the front of `bytes`; `None` if there are too few yet. What can never become a
    /// greeting is refused at its first wrong byte, so that who speaks another protocol (or an old
    /// ZeroMQ, whose greeting is shorter) is not waited for.
    ///
    /// The padding of the signature and the filler are not looked at: libzmq puts a length there.
    /// A major version above 3 counts as 3.1, as the RFC allows: the peer has to come down to us.
    ///
    /// # Errors
    /// `Signature`, `Version`, `MechanismName` of [`ZmtpError`].
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, ZmtpError> {
        for (at, wanted) in [(0, 0xFF), (9, 0x01)] {
            if let Some(&byte) = bytes.get(at)
                && byte & wanted != wanted
            {
                return Err(ZmtpError::Signature { at, byte });
            }
        }
        let major = match bytes.get(10) {
            Some(&major) if major < 3 => return Err(ZmtpError::Version { major }),
            Some(&major) => major,
            None => return Ok(None),
        };
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Ok(None);
        };
        let mut padded = [0; MechanismName::MAX];
        padded.copy_from_slice(&bytes[12..32]);
        let mechanism = MechanismName::from_padded(padded).ok_or(ZmtpError::MechanismName)?;
        let minor = if major > 3 { Self::MINOR } else { bytes[11] };
        Ok(Some(Self {
            minor,
            mechanism,
            as_server: bytes[32] & 1 == 1,
        }))
    }
}
