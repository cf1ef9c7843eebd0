//! The bytes that the benches decode and echo.

use proscenium::framing::LengthPrefix;

/// `count` frames of `size` bytes of body each, one after the other.
pub(crate) fn frames(size: usize, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * (LengthPrefix::HEADER + size));
    for number in 0..count {
        let body = vec![number as u8; size];
        let encoded = LengthPrefix::be32().encode(&body, &mut bytes);
        encoded.expect("a body within the default limit");
    }
    bytes
}
