//! Masking of payloads: RFC 6455 §5.3.

/// Exclusive-ors `bytes` with `key`, over and over: masks what is plain, and the other way round
/// (RFC 6455 §5.3). The first byte meets `key[0]`; see [`advance`] for payloads in parts.
///
/// Works in place, a word at a time, which compilers turn into vector instructions.
#[inline]
pub fn apply_mask(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    // Fewer than eight: the key begins anew, because eight is a multiple of its length.
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

/// The key for what follows `bytes` bytes of a payload.
///
/// ```
/// use proscenium_framing::websocket::{advance, apply_mask};
///
/// let (key, mut whole, mut parts) = ([1, 2, 3, 4], *b"a payload", *b"a payload");
/// apply_mask(&mut whole, key);
/// apply_mask(&mut parts[..3], key);
/// apply_mask(&mut parts[3..], advance(key, 3));
/// assert_eq!(whole, parts);
/// ```
#[inline]
#[must_use]
pub fn advance(key: [u8; 4], bytes: usize) -> [u8; 4] {
    let mut key = key;
    key.rotate_left(bytes % 4);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The formula of RFC 6455 §5.3, byte by byte.
    fn by_the_book(bytes: &[u8], key: [u8; 4]) -> Vec<u8> {
        let octet = |(i, byte): (usize, &u8)| byte ^ key[i % 4];
        bytes.iter().enumerate().map(octet).collect()
    }

    #[test]
    fn every_length_and_alignment_is_as_the_formula_says() {
        let source: Vec<u8> = (0..200_u8).collect();
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for start in 0..9 {
            for end in start..source.len() {
                let mut bytes = source.clone();
                apply_mask(&mut bytes[start..end], key);
                assert_eq!(bytes[start..end], by_the_book(&source[start..end], key));
                assert_eq!(bytes[..start], source[..start]);
                assert_eq!(bytes[end..], source[end..]);
            }
        }
    }

    proptest! {
        #[test]
        fn parts_are_masked_as_the_whole_is(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            key: [u8; 4],
            cut in 0..300_usize,
        ) {
            let cut = cut.min(bytes.len());
            let mut parts = bytes.clone();
            apply_mask(&mut parts[..cut], key);
            apply_mask(&mut parts[cut..], advance(key, cut));
            prop_assert_eq!(&parts, &by_the_book(&bytes, key));
            apply_mask(&mut parts, key);
            prop_assert_eq!(parts, bytes);
        }
    }
}
