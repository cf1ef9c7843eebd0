//! What must hold of compressed payloads for any bytes whatever. One copy of this code is run by
//! the fuzz target, by the replay of its corpus and by proptest. An input is read as
//!
//! ```text
//! cap u8 | original size i32 | container, and also a payload
//! ```
//!
//! `cap` chooses from [`CAPS`]. A size of 0 stands for the one that the container claims.

use proscenium_framing::packet::lz4::{ORIGINAL_SIZE_MAX, Pickler, UnpickleError, unpickle};

/// The caps that an input can choose.
pub(crate) const CAPS: [usize; 4] = [ORIGINAL_SIZE_MAX, 0, 300, usize::MAX];

/// Panics if inflating or compressing breaks a promise on this input.
pub(crate) fn check(input: &[u8]) {
    let Some((setup, container)) = input.split_first_chunk::<5>() else {
        return;
    };
    let [cap, size @ ..] = *setup;
    let cap = CAPS[usize::from(cap & 3)];
    let size = match i32::from_le_bytes(size) {
        0 => claimed(container).and_then(|(claimed, _)| i32::try_from(claimed).ok()),
        size => Some(size),
    };
    if let Some(size) = size {
        inflated(container, size, cap);
    }
    compressed(container);
}

/// The original size that a container claims, and what follows its header.
fn claimed(container: &[u8]) -> Option<(u64, &[u8])> {
    let first = *container.first()?;
    let width = [0, 1, 2, 4][usize::from(first / 64)];
    if first % 8 != 0 || container.len() < 1 + width {
        return None;
    }
    let mut difference = 0;
    for i in (0..width).rev() {
        difference = difference * 256 + u64::from(container[1 + i]);
    }
    let rest = &container[1 + width..];
    Some((difference + rest.len() as u64, rest))
}

fn inflated(container: &[u8], size: i32, cap: usize) {
    let allowed = size > 0 && size as usize <= cap.min(ORIGINAL_SIZE_MAX);
    let claims = claimed(container);
    match unpickle(container, size, cap) {
        Ok(payload) => {
            assert!(allowed);
            assert_eq!(payload.len(), size as usize);
            let (claimed, rest) = claims.expect("the model takes the header");
            assert_eq!(claimed, payload.len() as u64);
            if rest.len() == payload.len() {
                assert_eq!(payload, rest);
            } else {
                assert_eq!(Some(payload), inflate(rest));
            }
        }
        Err(UnpickleError::OriginalSize { .. }) => assert!(!allowed),
        Err(UnpickleError::Truncated { .. } | UnpickleError::Version { .. }) => {
            assert!(claims.is_none());
        }
        Err(UnpickleError::Mismatch { original, held }) => {
            assert_eq!(Some(held), claims.map(|(claimed, _)| claimed));
            assert!(original as u64 != held && original == size as usize);
        }
        Err(UnpickleError::Corrupt) => assert!(allowed && claims.is_some()),
        Err(other) => panic!("an error that nothing is said about: {other}"),
    }
}

/// LZ4 blocks in the plainest way, without the rules about their last bytes.
fn inflate(block: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = block.iter().copied();
    let mut out = Vec::new();
    while let Some(token) = bytes.next() {
        for _ in 0..length(token >> 4, &mut bytes)? {
            out.push(bytes.next()?);
        }
        let Some(low) = bytes.next() else {
            return Some(out); // the last sequence has literals only
        };
        let distance = usize::from(u16::from_le_bytes([low, bytes.next()?]));
        for _ in 0..length(token & 15, &mut bytes)? + 4 {
            let at = out.len().checked_sub(distance).filter(|_| distance > 0)?;
            out.push(*out.get(at)?);
        }
    }
    Some(out)
}

/// A length of four bits, and while they and the bytes after them are full, those bytes.
fn length(nibble: u8, bytes: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut length = usize::from(nibble);
    if nibble == 15 {
        loop {
            let byte = bytes.next()?;
            length += usize::from(byte);
            if byte < 255 {
                break;
            }
        }
    }
    Some(length)
}

/// Any bytes are a payload; what is made of them inflates to them, by either decoder.
fn compressed(payload: &[u8]) {
    let mut pickler = Pickler::new();
    let pickled = pickler.pickle(payload).expect("under the cap").to_vec();
    assert!(
        pickled.len() <= payload.len() + 1,
        "longer than the bytes as they are"
    );
    let (size, rest) = claimed(&pickled).expect("a header");
    assert_eq!(size, payload.len() as u64);
    if rest.len() < payload.len() {
        assert_eq!(inflate(rest).as_deref(), Some(payload));
    }
    if !payload.is_empty() {
        let size = payload.len() as i32;
        assert_eq!(
            unpickle(&pickled, size, payload.len()).as_deref(),
            Ok(payload)
        );
    }
    if let Some(worthwhile) = pickler.compress(payload) {
        assert_eq!(
            worthwhile, pickled,
            "a used compressor differs from a new one"
        );
        assert!(payload.len() > 512 && pickled.len() < payload.len() - payload.len() / 10);
    }
}
