//! [`Properties`]: what the ends of a connection tell about themselves in READY.

use std::fmt;

use super::ZmtpError;

/// Names with values, encoded as on the wire: `name length u8 | name | value length u32 | value`.
/// Names are 1 to 255 of ASCII letters, digits, `-`, `_`, `.`, `+`, and compared without case
/// (RFC 23 §"The NULL Security Mechanism").
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties {
    encoded: Vec<u8>,
}

impl Properties {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a property.
    ///
    /// # Panics
    /// If `name` is not one, or `value` is longer than `u32::MAX`: names are the program's own.
    pub fn push(&mut self, name: &str, value: &[u8]) -> &mut Self {
        assert!(is_name(name.as_bytes()), "{name:?} names no property");
        let len = u32::try_from(value.len()).expect("a property is short");
        self.encoded.push(name.len() as u8); // at most 255, as `is_name` says
        self.encoded.extend_from_slice(name.as_bytes());
        self.encoded.extend_from_slice(&len.to_be_bytes());
        self.encoded.extend_from_slice(value);
        self
    }

    /// Reads all of `bytes`.
    ///
    /// # Errors
    /// [`ZmtpError::Property`] names where the first broken one begins.
    pub fn decode(bytes: &[u8]) -> Result<Self, ZmtpError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let Some((name, _, after)) = split(rest) else {
                return Err(ZmtpError::Property { at });
            };
            if !is_name(name) {
                return Err(ZmtpError::Property { at });
            }
            rest = after;
        }
        Ok(Self {
            encoded: bytes.to_vec(),
        })
    }

    /// The value of the first property of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.iter();
        all.find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> PropertiesIter<'_> {
        PropertiesIter {
            rest: &self.encoded,
        }
    }

    /// As on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }
}

impl<'a> IntoIterator for &'a Properties {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = PropertiesIter<'a>;

    fn into_iter(self) -> PropertiesIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let readable = self
            .iter()
            .map(|(name, value)| (name, value.escape_ascii().to_string()));
        f.debug_map().entries(readable).finish()
    }
}

/// Iterates over [`Properties`].
#[derive(Clone, Debug)]
pub struct PropertiesIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for PropertiesIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value, rest) = split(self.rest)?;
        self.rest = rest;
        // Checked when it was made or decoded: ASCII.
        std::str::from_utf8(name).ok().map(|name| (name, value))
    }
}

/// The first property and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(len))?;
    let (len, rest) = rest.split_first_chunk()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    let (value, rest) = rest.split_at_checked(len)?;
    Some((name, value, rest))
}

fn is_name(name: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(byte);
    (1..=255).contains(&name.len()) && name.iter().all(legal)
}
