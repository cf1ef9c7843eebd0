//! Compressed payloads: an LZ4 block in the container that .NET clients call a pickle.
//!
//! ```text
//! byte 0            bits 0–2: version (0); bits 6–7: width of the next field, 3 for 4 bytes
//! difference        little-endian: original size minus the size of the rest
//! rest              an LZ4 block, or where the difference is 0 the bytes as they are
//! ```
//!
//! Not every deployed client inflates: a server compresses only where it was told to.

use std::error::Error;
use std::fmt;

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

/// The greatest original size that is compressed or inflated, in bytes: 10 MiB.
pub const ORIGINAL_SIZE_MAX: usize = 10 * 1024 * 1024;

/// Payloads up to this many bytes are not worth compressing.
pub const UNCOMPRESSED_MAX: usize = 512;

/// Bytes of the longest header.
const HEADER_MAX: usize = 1 + 4;

const VERSION_MASK: u8 = 0b0000_0111;
const WIDTH_SHIFT: u8 = 6;

/// The most that one byte of an LZ4 block can stand for: a byte of 255 continues the length of a
/// match.
const EXPANSION_MAX: u64 = 255;

/// A scratch buffer that is longer than this is given back when a smaller one would do.
const SCRATCH_KEPT_MAX: usize = 256 * 1024;

/// Compresses payloads. Keeps its tables (8 to 16 KiB) and its buffer from one to the next, at
/// most 256 KiB of it once payloads are small again; one per thread is enough.
pub struct Pickler {
    table: CompressTable,
    /// Room for a header in front, so that the block behind it need not move.
    scratch: Vec<u8>,
}

impl Pickler {
    /// A compressor that has not allocated its buffer yet.
    pub fn new() -> Self {
        Self {
            table: CompressTable::default(),
            scratch: Vec::new(),
        }
    }

    /// The container of `payload` if that is worth it: over [`UNCOMPRESSED_MAX`] bytes, at most
    /// [`ORIGINAL_SIZE_MAX`], and more than a tenth smaller than the payload. The `original_size`
    /// that belongs to it is the payload's length; with `None`, send the payload and 0.
    ///
    /// ```
    /// use proscenium_framing::packet::{ServerPacket, lz4};
    ///
    /// let payload = vec![7; 4096];
    /// let mut packet = ServerPacket::reply("Map", 1, 0, &payload);
    /// let mut pickler = lz4::Pickler::new();
    /// if let Some(pickled) = pickler.compress(&payload) {
    ///     packet.payload = pickled;
    ///     packet.original_size = payload.len() as i32; // at most 10 MiB
    /// }
    /// let inflated = lz4::unpickle(packet.payload, packet.original_size, 1 << 20)?;
    /// assert_eq!(inflated, payload);
    /// # Ok::<(), lz4::UnpickleError>(())
    /// ```
    pub fn compress(&mut self, payload: &[u8]) -> Option<&[u8]> {
        if payload.len() <= UNCOMPRESSED_MAX || payload.len() > ORIGINAL_SIZE_MAX {
            return None;
        }
        let pickled = self.pickle(payload)?;
        // In tenths, so that nothing is rounded; cannot overflow below 10 MiB.
        (10 * pickled.len() < 9 * payload.len()).then_some(pickled)
    }

    /// The container of `payload`, whether that saves anything or not. `None` for a payload over
    /// [`ORIGINAL_SIZE_MAX`].
    pub fn pickle(&mut self, payload: &[u8]) -> Option<&[u8]> {
        if payload.len() > ORIGINAL_SIZE_MAX {
            return None;
        }
        let needed = HEADER_MAX + get_maximum_output_size(payload.len());
        if self.scratch.len() > SCRATCH_KEPT_MAX && needed <= SCRATCH_KEPT_MAX {
            self.scratch = Vec::new();
        }
        if self.scratch.len() < needed {
            self.scratch.resize(needed, 0);
        }
        let block = &mut self.scratch[HEADER_MAX..];
        // It fails only for want of room. Where it did, the bytes as they are would be right too.
        let compressed = compress_into_with_table(payload, block, &mut self.table);
        let len = compressed.unwrap_or(payload.len()).min(payload.len());
        let difference = (payload.len() - len) as u32; // at most 10 MiB
        if difference == 0 {
            self.scratch[HEADER_MAX..HEADER_MAX + len].copy_from_slice(payload);
        }
        let (code, width) = match difference {
            0 => (0, 0),
            1..=0xFF => (1, 1),
            0x100..=0xFFFF => (2, 2),
            _ => (3, 4),
        };
        let start = HEADER_MAX - 1 - width;
        self.scratch[start] = code << WIDTH_SHIFT;
        self.scratch[start + 1..HEADER_MAX].copy_from_slice(&difference.to_le_bytes()[..width]);
        Some(&self.scratch[start..HEADER_MAX + len])
    }
}

impl Default for Pickler {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Pickler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pickler")
            .field("scratch", &self.scratch.len())
            .finish_non_exhaustive()
    }
}

/// What is in a container: the payload that has `original_size` bytes.
///
/// `cap` bounds the original size and with it what is allocated; [`ORIGINAL_SIZE_MAX`] bounds it
/// too. Everything that a size can contradict is checked before allocating, also whether so few
/// bytes can stand for so many.
///
/// # Errors
/// An [`UnpickleError`] when the container does not hold what was said: the peer's fault.
pub fn unpickle(
    container: &[u8],
    original_size: i32,
    cap: usize,
) -> Result<Vec<u8>, UnpickleError> {
    let cap = cap.min(ORIGINAL_SIZE_MAX);
    let original = match usize::try_from(original_size) {
        Ok(size) if (1..=cap).contains(&size) => size,
        _ => return Err(UnpickleError::OriginalSize { original_size, cap }),
    };
    let (difference, rest) = split_header(container)?;
    let held = u64::from(difference) + rest.len() as u64;
    if held != original as u64 {
        return Err(UnpickleError::Mismatch { original, held });
    }
    if difference == 0 {
        return Ok(rest.to_vec());
    }
    if held > EXPANSION_MAX * rest.len() as u64 {
        return Err(UnpickleError::Corrupt);
    }
    let mut payload = vec![0; original];
    match decompress_into(rest, &mut payload) {
        Ok(len) if len == original => Ok(payload),
        _ => Err(UnpickleError::Corrupt),
    }
}

/// The difference of the sizes, and what follows the header.
fn split_header(container: &[u8]) -> Result<(u32, &[u8]), UnpickleError> {
    let truncated = UnpickleError::Truncated {
        len: container.len(),
    };
    let (&first, rest) = container.split_first().ok_or(truncated)?;
    let version = first & VERSION_MASK;
    if version != 0 {
        return Err(UnpickleError::Version { version });
    }
    let width = match first >> WIDTH_SHIFT {
        3 => 4,
        width => usize::from(width),
    };
    let (field, rest) = rest.split_at_checked(width).ok_or(truncated)?;
    let mut difference = [0; 4];
    difference[..width].copy_from_slice(field);
    Ok((u32::from_le_bytes(difference), rest))
}

/// Why a container does not hold what its packet said.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpickleError {
    /// The size that the packet announces is not positive or over the cap.
    OriginalSize {
        /// The size announced.
        original_size: i32,
        /// The greatest that is allowed.
        cap: usize,
    },
    /// The container ends inside its header.
    Truncated {
        /// Its length, in bytes.
        len: usize,
    },
    /// The container is of a version other than 0.
    Version {
        /// What it says.
        version: u8,
    },
    /// The container's own size is not the one that the packet announces.
    Mismatch {
        /// The size that the packet announces.
        original: usize,
        /// The size that the container's header makes it.
        held: u64,
    },
    /// The block is no LZ4, or does not inflate to the announced size.
    Corrupt,
}

impl fmt::Display for UnpickleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OriginalSize { original_size, cap } => {
                write!(f, "original size {original_size}, allowed are 1 to {cap}")
            }
            Self::Truncated { len } => {
                write!(f, "compressed payload of {len} bytes ends in its header")
            }
            Self::Version { version } => write!(f, "compressed payload of version {version}"),
            Self::Mismatch { original, held } => {
                write!(
                    f,
                    "compressed payload of size {held}, announced as {original}"
                )
            }
            Self::Corrupt => f.write_str("compressed payload is corrupt"),
        }
    }
}

impl Error for UnpickleError {}

#[cfg(test)]
mod tests;
