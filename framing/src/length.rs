//! Length-prefixed framing: `u32 body length | body`, the length not counting itself.

use std::error::Error;
use std::fmt;
use std::iter::FusedIterator;

/// The largest limit that can be set: what the header can express, and on 32-bit targets what
/// still leaves room for the header in a `usize`, so that `HEADER + len` never overflows.
const LIMIT_MAX: usize = {
    let expressible = u32::MAX as usize;
    let addressable = usize::MAX - LengthPrefix::HEADER;
    if addressable < expressible {
        addressable
    } else {
        expressible
    }
};

/// The order in which the four bytes of the length travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Most significant byte first (network order).
    Big,
    /// Least significant byte first.
    Little,
}

/// Length-prefixed framing: a header of four bytes holds the length of the body that follows, not
/// counting itself. Zero-length bodies are legal.
///
/// The codec is a small value without state; copy it freely. The limit on the body is checked in
/// both directions, and when decoding as soon as the header is there, before any byte of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthPrefix {
    order: ByteOrder,
    /// At most `LIMIT_MAX`; kept as `u32` so that the codec fits in one register.
    limit: u32,
}

impl LengthPrefix {
    /// Bytes in a header.
    pub const HEADER: usize = 4;

    /// The limit of [`be32`](Self::be32) and [`le32`](Self::le32): 2 MiB of body.
    pub const DEFAULT_LIMIT: usize = 2 * 1024 * 1024;

    /// A codec whose bodies have at most `limit` bytes. A limit that four bytes cannot express
    /// becomes the greatest that they can, `u32::MAX` (on 32-bit targets `usize::MAX - 4`).
    pub const fn new(order: ByteOrder, limit: usize) -> Self {
        let limit = if limit > LIMIT_MAX { LIMIT_MAX } else { limit };
        Self {
            order,
            limit: limit as u32,
        }
    }

    /// Big-endian length and [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT).
    pub const fn be32() -> Self {
        Self::new(ByteOrder::Big, Self::DEFAULT_LIMIT)
    }

    /// Little-endian length and [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT).
    pub const fn le32() -> Self {
        Self::new(ByteOrder::Little, Self::DEFAULT_LIMIT)
    }

    /// The byte order of the length.
    pub const fn order(&self) -> ByteOrder {
        self.order
    }

    /// The greatest length of a body, in bytes.
    pub const fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Looks at the front of `bytes`: a whole frame, not a whole frame yet, or bytes that can
    /// never become one. Borrows, copies nothing, keeps nothing.
    ///
    /// ```
    /// use proscenium_framing::{Decoded, LengthPrefix};
    ///
    /// let codec = LengthPrefix::be32();
    /// let input = [0, 0, 0, 2, b'h', b'i', 0, 0];
    /// assert_eq!(codec.decode(&input), Decoded::Frame { body: b"hi", consumed: 6 });
    /// assert_eq!(codec.decode(&input[..5]), Decoded::Incomplete { needs: Some(6) });
    /// assert_eq!(codec.decode(&input[6..]), Decoded::Incomplete { needs: None });
    /// ```
    #[inline]
    #[must_use]
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Decoded<'a> {
        let Some((header, rest)) = bytes.split_first_chunk::<{ Self::HEADER }>() else {
            return Decoded::Incomplete { needs: None };
        };
        let announced = match self.order {
            ByteOrder::Big => u32::from_be_bytes(*header),
            ByteOrder::Little => u32::from_le_bytes(*header),
        };
        if announced > self.limit {
            return Decoded::Invalid(self.too_long(announced as usize));
        }
        // Cannot overflow: the limit is at most LIMIT_MAX.
        let len = announced as usize;
        let total = Self::HEADER + len;
        match rest.get(..len) {
            Some(body) => Decoded::Frame {
                body,
                consumed: total,
            },
            None => Decoded::Incomplete { needs: Some(total) },
        }
    }

    /// The header for a body of `len` bytes.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when `len` is over the limit.
    #[inline]
    pub fn header(&self, len: usize) -> Result<[u8; Self::HEADER], FrameError> {
        if len > self.limit() {
            return Err(self.too_long(len));
        }
        let len = len as u32; // not over the limit, which is a u32
        Ok(match self.order {
            ByteOrder::Big => len.to_be_bytes(),
            ByteOrder::Little => len.to_le_bytes(),
        })
    }

    /// Writes the header for a body of `len` bytes in place, for a caller that reserved the four
    /// bytes before it knew the length.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when `len` is over the limit; `out` is then left as it was.
    #[inline]
    pub fn encode_header(
        &self,
        len: usize,
        out: &mut [u8; Self::HEADER],
    ) -> Result<(), FrameError> {
        *out = self.header(len)?;
        Ok(())
    }

    /// Appends one frame, header and body, to `out`.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when `body` is over the limit; `out` is then left as it was.
    pub fn encode(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        let header = self.header(body.len())?;
        out.reserve(Self::HEADER + body.len());
        out.extend_from_slice(&header);
        out.extend_from_slice(body);
        Ok(())
    }

    /// The bodies of all whole frames at the front of `bytes`, in order.
    ///
    /// The iterator ends at the first frame that is not whole, or after an error; then
    /// [`consumed`](Frames::consumed) says what may be dropped and [`rest`](Frames::rest) is the
    /// tail to keep.
    #[inline]
    pub fn frames<'a>(&self, bytes: &'a [u8]) -> Frames<'a> {
        Frames {
            codec: *self,
            rest: bytes,
            consumed: 0,
            failed: false,
        }
    }

    /// Out of the way, so that the callers' hot paths stay short.
    #[cold]
    fn too_long(&self, announced: usize) -> FrameError {
        FrameError::TooLong {
            announced,
            limit: self.limit(),
        }
    }
}

/// What [`LengthPrefix::decode`] found at the front of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole frame.
    Frame {
        /// The body, borrowed from the input; may be empty.
        body: &'a [u8],
        /// Bytes of the input that the frame took, header and body.
        consumed: usize,
    },
    /// Not a whole frame yet: an ordinary state of a stream, not an error.
    Incomplete {
        /// Bytes that the frame takes in all, header included and what is there already counted;
        /// always more than the input has, and at most the limit plus
        /// [`HEADER`](LengthPrefix::HEADER). `None` while even the header is incomplete.
        ///
        /// It is a peer's word: use it to decide when looking again is worthwhile, not to
        /// allocate.
        needs: Option<usize>,
    },
    /// The bytes are no frame and no further byte can make them one. There is no way to find the
    /// next frame: the stream is lost.
    Invalid(FrameError),
}

/// Why bytes are no frame, or a body cannot be made one.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The body is longer than the codec's limit. When decoding, the peer announced it; when
    /// encoding, the caller did.
    TooLong {
        /// The length of the body, in bytes.
        announced: usize,
        /// The greatest that is allowed, in bytes.
        limit: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { announced, limit } => {
                write!(
                    f,
                    "frame body of {announced} bytes is over the limit of {limit} bytes"
                )
            }
        }
    }
}

impl Error for FrameError {}

/// The bodies of the whole frames at the front of a buffer; see [`LengthPrefix::frames`].
///
/// An error is yielded once and ends the iteration; the offending header is then the first thing
/// in [`rest`](Self::rest).
///
/// ```
/// use proscenium_framing::LengthPrefix;
///
/// let input = [0, 0, 0, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 9, b'x'];
/// let mut frames = LengthPrefix::be32().frames(&input);
/// let bodies: Result<Vec<_>, _> = frames.by_ref().collect();
/// assert_eq!(bodies, Ok(vec![&b"a"[..], b""]));
/// assert_eq!(frames.consumed(), 9);
/// assert_eq!(frames.rest(), [0, 0, 0, 9, b'x']);
/// assert_eq!(frames.needs(), Some(13));
/// ```
#[derive(Clone, Debug)]
#[must_use = "iterators are lazy"]
pub struct Frames<'a> {
    codec: LengthPrefix,
    rest: &'a [u8],
    consumed: usize,
    failed: bool,
}

impl<'a> Frames<'a> {
    /// What has not been decoded yet; once the iterator is exhausted, the incomplete tail.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes taken so far by whole frames, headers included.
    #[inline]
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Bytes that the frame at the front of [`rest`](Self::rest) takes in all, header included.
    /// `None` when its header is incomplete or invalid. Once the iterator is exhausted, this is
    /// the `needs` of [`Decoded::Incomplete`].
    pub fn needs(&self) -> Option<usize> {
        match self.codec.decode(self.rest) {
            Decoded::Frame { consumed, .. } => Some(consumed),
            Decoded::Incomplete { needs } => needs,
            Decoded::Invalid(_) => None,
        }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<&'a [u8], FrameError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.codec.decode(self.rest) {
            Decoded::Frame { body, consumed } => {
                self.rest = &self.rest[consumed..];
                self.consumed += consumed;
                Some(Ok(body))
            }
            Decoded::Incomplete { .. } => None,
            Decoded::Invalid(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

impl FusedIterator for Frames<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [ByteOrder; 2] = [ByteOrder::Big, ByteOrder::Little];

    fn too_long(announced: usize, limit: usize) -> FrameError {
        FrameError::TooLong { announced, limit }
    }

    #[test]
    fn the_header_excludes_itself_and_has_the_stated_order() {
        assert_eq!(LengthPrefix::be32().header(0x0001_0203), Ok([0, 1, 2, 3]));
        assert_eq!(LengthPrefix::le32().header(0x0001_0203), Ok([3, 2, 1, 0]));
        assert_eq!(
            LengthPrefix::be32().decode(&[0, 0, 0, 1, 7]),
            Decoded::Frame {
                body: &[7],
                consumed: 5
            }
        );
        assert_eq!(
            LengthPrefix::le32().decode(&[1, 0, 0, 0, 7]),
            Decoded::Frame {
                body: &[7],
                consumed: 5
            }
        );
    }

    #[test]
    fn getters_give_back_what_was_set() {
        for order in BOTH {
            let codec = LengthPrefix::new(order, 77);
            assert_eq!((codec.order(), codec.limit()), (order, 77));
        }
        assert_eq!(
            LengthPrefix::be32(),
            LengthPrefix::new(ByteOrder::Big, 2 << 20)
        );
        assert_eq!(
            LengthPrefix::le32(),
            LengthPrefix::new(ByteOrder::Little, 2 << 20)
        );
    }

    #[test]
    fn a_limit_beyond_four_bytes_saturates() {
        let codec = LengthPrefix::new(ByteOrder::Big, usize::MAX);
        assert_eq!(codec.limit(), LIMIT_MAX);
        // Neither decoding nor asking may overflow at the very top.
        let top = (LIMIT_MAX as u32).to_be_bytes();
        assert_eq!(
            codec.decode(&top),
            Decoded::Incomplete {
                needs: Some(LIMIT_MAX + 4)
            }
        );
        assert_eq!(codec.header(LIMIT_MAX), Ok(top));
        if let Some(beyond) = LIMIT_MAX.checked_add(1) {
            assert_eq!(codec.header(beyond), Err(too_long(beyond, LIMIT_MAX)));
        }
    }

    #[test]
    fn a_length_that_would_truncate_to_a_small_one_is_refused() {
        let codec = LengthPrefix::new(ByteOrder::Little, 100);
        if let Some(wraps) = (u32::MAX as usize).checked_add(11) {
            assert_eq!(codec.header(wraps), Err(too_long(wraps, 100)));
        }
    }

    #[test]
    fn a_zero_length_body_is_a_frame() {
        for order in BOTH {
            let codec = LengthPrefix::new(order, 0);
            assert_eq!(
                codec.decode(&[0; 4]),
                Decoded::Frame {
                    body: &[],
                    consumed: 4
                }
            );
            assert_eq!(codec.frames(&[0; 12]).count(), 3);
            let mut out = Vec::new();
            codec.encode(&[], &mut out).unwrap();
            assert_eq!(out, [0; 4]);
        }
    }

    #[test]
    fn needs_is_unknown_until_the_header_is_whole() {
        let frame = [0, 0, 0, 3, 1, 2, 3];
        let codec = LengthPrefix::be32();
        for cut in 0..4 {
            assert_eq!(
                codec.decode(&frame[..cut]),
                Decoded::Incomplete { needs: None }
            );
        }
        for cut in 4..7 {
            assert_eq!(
                codec.decode(&frame[..cut]),
                Decoded::Incomplete { needs: Some(7) }
            );
        }
        assert_eq!(
            codec.decode(&frame),
            Decoded::Frame {
                body: &[1, 2, 3],
                consumed: 7
            }
        );
    }

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        for order in BOTH {
            let codec = LengthPrefix::new(order, 5);
            let mut out = Vec::new();
            codec.encode(&[9; 5], &mut out).unwrap();
            assert_eq!(
                codec.decode(&out),
                Decoded::Frame {
                    body: &[9; 5],
                    consumed: 9
                }
            );

            let before = out.clone();
            assert_eq!(codec.encode(&[9; 6], &mut out), Err(too_long(6, 5)));
            assert_eq!(out, before, "a refused body leaves no bytes behind");
            let mut header = [1, 2, 3, 4];
            assert_eq!(codec.encode_header(6, &mut header), Err(too_long(6, 5)));
            assert_eq!(header, [1, 2, 3, 4]);

            let six = LengthPrefix::new(order, 6).header(6).unwrap();
            assert_eq!(codec.decode(&six), Decoded::Invalid(too_long(6, 5)));
        }
    }

    #[test]
    fn hostile_lengths_are_refused_on_the_header_alone() {
        for len in [
            0xFFFF_FFFF_u32,
            0x8000_0000,
            0x7FFF_FFFF,
            0xFFFF_FFFC,
            0x0020_0001,
        ] {
            let expected = Decoded::Invalid(too_long(len as usize, 2 << 20));
            assert_eq!(LengthPrefix::be32().decode(&len.to_be_bytes()), expected);
            assert_eq!(LengthPrefix::le32().decode(&len.to_le_bytes()), expected);
        }
    }

    #[test]
    fn an_error_ends_the_iteration_and_keeps_what_came_before() {
        let codec = LengthPrefix::new(ByteOrder::Big, 3);
        let input = [0, 0, 0, 2, 8, 9, 0, 0, 0, 4, 1, 1, 1, 1, 0, 0, 0, 0];
        let mut frames = codec.frames(&input);
        assert_eq!(frames.needs(), Some(6));
        assert_eq!(frames.next(), Some(Ok(&[8, 9][..])));
        assert_eq!(frames.next(), Some(Err(too_long(4, 3))));
        assert_eq!(frames.next(), None);
        assert_eq!(frames.next(), None);
        assert_eq!(frames.consumed(), 6);
        assert_eq!(frames.rest(), &input[6..]);
        assert_eq!(frames.needs(), None);
    }

    #[test]
    fn an_exhausted_iterator_tells_the_tail() {
        let codec = LengthPrefix::le32();
        let input = [1, 0, 0, 0, 5, 200, 0, 0, 0, 1, 2];
        let mut frames = codec.frames(&input);
        assert_eq!(frames.by_ref().count(), 1);
        assert_eq!((frames.consumed(), frames.rest()), (5, &input[5..]));
        assert_eq!(frames.needs(), Some(204));

        let mut frames = codec.frames(&input[..8]);
        assert_eq!(frames.by_ref().count(), 1);
        assert_eq!((frames.rest(), frames.needs()), (&input[5..8], None));
    }

    #[test]
    fn the_error_names_both_numbers() {
        let text = too_long(4_294_967_295, 2_097_152).to_string();
        assert!(
            text.contains("4294967295") && text.contains("2097152"),
            "{text}"
        );
    }
}
