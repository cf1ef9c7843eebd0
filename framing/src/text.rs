//! Short texts of headers, which are ASCII nearly always.

use std::str::Utf8Error;

use ascii::AsciiStr;

/// The same bytes as text. Of what is shorter than 16 bytes, or longer and not aligned, the
/// standard library's check takes one byte at a time; its check for ASCII takes words.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Utf8Error> {
    match AsciiStr::from_ascii(bytes) {
        Ok(ascii) => Ok(ascii.as_str()),
        Err(_) => text_beyond_ascii(bytes),
    }
}

#[inline(never)]
fn text_beyond_ascii(bytes: &[u8]) -> Result<&str, Utf8Error> {
    std::str::from_utf8(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_the_standard_library_says(
            text_ in ".{0,40}", noise in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assert_eq!(text(text_.as_bytes()), Ok(&text_[..]));
            prop_assert_eq!(text(&noise), std::str::from_utf8(&noise));
        }
    }
}
