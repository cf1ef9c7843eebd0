//! The wire format of protobuf, as far as a route header needs it.

use super::RouteError;

/// The value of a field.
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Eight or four bytes.
    Fixed,
}

/// Takes a message apart into fields.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes that are left.
    #[inline]
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next field: its number and value.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, RouteError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).map_err(|_| RouteError::Varint)?;
        if field == 0 || field >= 1 << 29 {
            return Err(RouteError::Varint);
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).map_err(|_| RouteError::Truncated)?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            other => {
                let wire_type = other as u8; // three bits
                return Err(RouteError::UnknownWireType { wire_type });
            }
        };
        Ok(Some((field, value)))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, RouteError> {
        if let Some((&first, rest)) = self.rest.split_first()
            && first < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, RouteError> {
        let mut value = 0;
        for (at, &byte) in self.rest.iter().take(10).enumerate() {
            if at == 9 && byte > 1 {
                return Err(RouteError::Varint);
            }
            value |= u64::from(byte & 0x7F) << (7 * at);
            if byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 {
            RouteError::Truncated
        } else {
            RouteError::Varint
        })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], RouteError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(RouteError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Bytes that `value` takes.
#[inline]
pub(super) fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Puts fields one behind the other into a buffer.
pub(super) struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl<'o> Writer<'o> {
    pub(super) fn new(out: &'o mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    pub(super) fn written(&self) -> usize {
        self.at
    }

    /// A numeric field, unless it is 0.
    #[inline]
    pub(super) fn number(&mut self, field: u32, value: u64) -> Option<()> {
        if value != 0 {
            self.varint(u64::from(field << 3))?;
            self.varint(value)?;
        }
        Some(())
    }

    /// A field of bytes, unless it is empty.
    #[inline]
    pub(super) fn bytes(&mut self, field: u32, value: &[u8]) -> Option<()> {
        if value.is_empty() {
            return Some(());
        }
        self.prefix(field, value.len())?;
        self.raw(value)
    }

    /// The number and the length of a field of bytes.
    pub(super) fn prefix(&mut self, field: u32, len: usize) -> Option<()> {
        self.varint(u64::from(field << 3 | 2))?;
        self.varint(len as u64)
    }

    #[inline]
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Option<()> {
        let room = self.out.get_mut(self.at..self.at + bytes.len())?;
        room.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }

    #[inline]
    fn varint(&mut self, mut value: u64) -> Option<()> {
        loop {
            let byte = self.out.get_mut(self.at)?;
            self.at += 1;
            if value < 0x80 {
                *byte = value as u8; // seven bits
                return Some(());
            }
            *byte = value as u8 | 0x80; // the low seven bits
            value >>= 7;
        }
    }
}
