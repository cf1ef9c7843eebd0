//! [`Chain`]: the requests that wait for a request, so that a cycle of them is refused.

use std::fmt;

use super::varint::{Reader, Value, Writer, varint_len};
use super::{RouteError, text};

/// One request that waits: which stage of which node made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainEntry<'a> {
    /// 1: the node that made the request.
    pub nid: &'a str,
    /// 2: the stage there.
    pub stage: i64,
    /// 3: the invocation of the stage's handler that made it.
    pub invocation: u64,
    /// 4: its number on that node.
    pub request: u64,
}

impl<'a> ChainEntry<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, RouteError> {
        let mut entry = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((field, value)) = reader.next()? {
            match (field, value) {
                (1, Value::Bytes(value)) => entry.nid = text(Chain::FIELD, value)?,
                (2, Value::Varint(value)) => entry.stage = value as i64,
                (3, Value::Varint(value)) => entry.invocation = value,
                (4, Value::Varint(value)) => entry.request = value,
                (1..=4, _) => {
                    let field = Chain::FIELD;
                    return Err(RouteError::WireType { field });
                }
                _ => {}
            }
        }
        Ok(entry)
    }

    fn encoded_len(&self) -> usize {
        let number = |value: u64| {
            if value == 0 { 0 } else { 1 + varint_len(value) }
        };
        let nid = match self.nid.len() {
            0 => 0,
            len => 1 + varint_len(len as u64) + len,
        };
        nid + number(self.stage as u64) + number(self.invocation) + number(self.request)
    }

    fn write(&self, out: &mut Writer<'_>) -> Option<()> {
        out.prefix(Chain::FIELD, self.encoded_len())?;
        out.bytes(1, self.nid.as_bytes())?;
        out.number(2, self.stage as u64)?;
        out.number(3, self.invocation)?;
        out.number(4, self.request)
    }
}

/// The requests that wait for a request, the outermost first: those of a program, or those of a
/// decoded header, which are read when they are asked for.
#[derive(Clone, Copy)]
pub struct Chain<'a> {
    source: Source<'a>,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Entries(&'a [ChainEntry<'a>]),
    /// Fields of a header, from the first entry to the last one, which are known to be sound.
    Fields {
        bytes: &'a [u8],
        /// There is nothing else among them.
        pure: bool,
    },
}

/// Where the entries of a header are.
#[derive(Default)]
pub(super) struct Span {
    at: usize,
    end: usize,
    gaps: bool,
}

impl Span {
    /// An entry was found.
    #[inline]
    pub(super) fn add(&mut self, at: usize, end: usize) {
        if self.end == 0 {
            self.at = at;
        } else {
            self.gaps |= self.end != at;
        }
        self.end = end;
    }
}

impl<'a> Chain<'a> {
    /// The number of the repeated field.
    pub const FIELD: u32 = 20;

    /// Of these entries.
    pub const fn new(entries: &'a [ChainEntry<'a>]) -> Self {
        Self {
            source: Source::Entries(entries),
        }
    }

    /// Of entries as fields of a header that has no others: what [`encoded`](Self::encoded) gave,
    /// or headers of nothing but a chain, one behind the other. What is behind a broken entry is
    /// left out.
    pub const fn of_fields(bytes: &'a [u8]) -> Self {
        if bytes.is_empty() {
            return Self::new(&[]);
        }
        Self {
            source: Source::Fields { bytes, pure: true },
        }
    }

    pub(super) fn set(&mut self, span: Span, header: &'a [u8]) {
        if span.end > 0 {
            self.source = Source::Fields {
                bytes: &header[span.at..span.end],
                pure: !span.gaps,
            };
        }
    }

    /// The entries as they came, as fields of a header; `None` if they did not come in one piece,
    /// or are those of a program.
    #[inline]
    pub fn encoded(&self) -> Option<&'a [u8]> {
        match self.source {
            Source::Fields { bytes, pure: true } => Some(bytes),
            _ => None,
        }
    }

    /// Its entries, the outermost first.
    pub fn iter(&self) -> ChainIter<'a> {
        match self.source {
            Source::Entries(entries) => ChainIter {
                entries,
                fields: Reader::new(&[]),
            },
            Source::Fields { bytes, .. } => ChainIter {
                entries: &[],
                fields: Reader::new(bytes),
            },
        }
    }

    /// True if it has no entry.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Only a header with entries is kept.
        matches!(self.source, Source::Entries([]))
    }

    #[inline]
    pub(super) fn encoded_len(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let fields = self.iter().map(|entry| {
            let len = entry.encoded_len();
            varint_len(u64::from(Self::FIELD << 3)) + varint_len(len as u64) + len
        });
        fields.sum()
    }

    #[inline]
    pub(super) fn write(&self, out: &mut Writer<'_>) -> Option<()> {
        if self.is_empty() {
            return Some(());
        }
        self.iter().try_for_each(|entry| entry.write(out))
    }
}

impl Default for Chain<'_> {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl PartialEq for Chain<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Chain<'_> {}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for Chain<'a> {
    type Item = ChainEntry<'a>;
    type IntoIter = ChainIter<'a>;

    fn into_iter(self) -> ChainIter<'a> {
        self.iter()
    }
}

/// Iterates over a [`Chain`].
pub struct ChainIter<'a> {
    entries: &'a [ChainEntry<'a>],
    fields: Reader<'a>,
}

impl fmt::Debug for ChainIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainIter").finish_non_exhaustive()
    }
}

impl<'a> Iterator for ChainIter<'a> {
    type Item = ChainEntry<'a>;

    fn next(&mut self) -> Option<ChainEntry<'a>> {
        if let Some((first, rest)) = self.entries.split_first() {
            self.entries = rest;
            return Some(*first);
        }
        while let Ok(Some((field, value))) = self.fields.next() {
            if let (Chain::FIELD, Value::Bytes(bytes)) = (field, value) {
                return ChainEntry::decode(bytes).ok();
            }
        }
        None
    }
}
