//! [`Nid`]: the name of a node.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The name of a node in its mesh, and its identity in ZMTP: 1 to 255 bytes of UTF-8, without
/// control characters, since names of peers are in logs, metrics and on terminals. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nid(Arc<str>);

impl Nid {
    /// Its greatest length, in bytes: what ZMTP allows for an identity.
    pub const MAX: usize = 255;

    /// The name, if it is one.
    ///
    /// # Errors
    /// [`NidError`], which says why it is none.
    pub fn new(name: &str) -> Result<Self, NidError> {
        match name.len() {
            1..=Self::MAX if name.contains(char::is_control) => Err(NidError::Control),
            1..=Self::MAX => Ok(Self(name.into())),
            length => Err(NidError::Length(length)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Nid {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Nid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no [`Nid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NidError {
    /// It is empty, or too long: its length, in bytes.
    Length(usize),
    /// It has a control character, for example the end of a line.
    Control,
}

impl fmt::Display for NidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => {
                let most = Nid::MAX;
                write!(f, "a NID has 1 to {most} bytes, not {length}")
            }
            Self::Control => f.write_str("a NID has no control characters"),
        }
    }
}

impl std::error::Error for NidError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_bounds_and_no_control_characters() {
        assert_eq!(Nid::new("1:play-ä").unwrap().as_str(), "1:play-ä");
        assert!(Nid::new(&"x".repeat(Nid::MAX)).is_ok());
        assert_eq!(Nid::new(""), Err(NidError::Length(0)));
        assert_eq!(Nid::new(&"x".repeat(256)), Err(NidError::Length(256)));
        for name in ["a\nINFO all is well", "\u{1b}[2J", "a\0", "\u{85}"] {
            assert_eq!(Nid::new(name), Err(NidError::Control), "{name:?}");
        }
    }
}
