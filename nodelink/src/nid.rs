//! [`Nid`]: the name of a node.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The name of a node in its mesh, and its identity in ZMTP: 1 to 255 bytes of UTF-8. Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nid(Arc<str>);

impl Nid {
    /// Its greatest length, in bytes: what ZMTP allows for an identity.
    pub const MAX: usize = 255;

    /// The name, if it is one.
    ///
    /// # Errors
    /// [`NidError`] with its length.
    pub fn new(name: &str) -> Result<Self, NidError> {
        match name.len() {
            1..=Self::MAX => Ok(Self(name.into())),
            length => Err(NidError { length }),
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

/// A text is no [`Nid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NidError {
    /// Its length, in bytes.
    pub length: usize,
}

impl fmt::Display for NidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (length, most) = (self.length, Nid::MAX);
        write!(f, "a NID has 1 to {most} bytes, not {length}")
    }
}

impl std::error::Error for NidError {}
