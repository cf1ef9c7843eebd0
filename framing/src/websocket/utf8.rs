//! UTF-8 that arrives in parts.

/// Checks that the concatenation of parts is UTF-8 (RFC 3629), and says so with the first byte
/// that cannot be part of it, wherever the parts were cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    /// The beginning of a character whose end is still to come.
    pending: [u8; 4],
    len: u8,
}

/// Bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUtf8;

impl Utf8 {
    /// A text of which nothing was seen.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pending: [0; 4],
            len: 0,
        }
    }

    /// The next part of the text.
    ///
    /// # Errors
    /// [`NotUtf8`] if no continuation can make the text valid.
    pub fn feed(&mut self, part: &[u8]) -> Result<(), NotUtf8> {
        let mut part = part;
        while self.len > 0 {
            let Some((&byte, rest)) = part.split_first() else {
                return Ok(());
            };
            part = rest;
            // At most four: no valid character is longer, and no incomplete one has four.
            self.pending[usize::from(self.len)] = byte;
            self.len += 1;
            match std::str::from_utf8(&self.pending[..self.len.into()]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(NotUtf8),
            }
        }
        let Err(error) = simdutf8::compat::from_utf8(part) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        let cut = &part[error.valid_up_to()..];
        self.pending[..cut.len()].copy_from_slice(cut);
        self.len = cut.len() as u8;
        Ok(())
    }

    /// The text ended; what is fed next begins another one.
    ///
    /// # Errors
    /// [`NotUtf8`] if it ended inside a character.
    pub fn finish(&mut self) -> Result<(), NotUtf8> {
        match std::mem::take(&mut self.len) {
            0 => Ok(()),
            _ => Err(NotUtf8),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fed(parts: &[&[u8]]) -> Result<(), NotUtf8> {
        let mut text = Utf8::new();
        for part in parts {
            text.feed(part)?;
        }
        text.finish()
    }

    #[test]
    fn a_text_is_valid_however_it_is_cut() {
        let text = "κόσμε, żółć, 舞台, 🎭".as_bytes();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let parts = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(fed(&parts), Ok(()), "{first}, {second}");
            }
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(fed(&bytes), Ok(()));
    }

    #[test]
    fn an_end_inside_a_character_is_no_text() {
        for cut in 1..4 {
            assert_eq!(fed(&[&"🎭".as_bytes()[..cut]]), Err(NotUtf8));
        }
        // The next text is not that one's.
        let mut text = Utf8::new();
        assert_eq!(text.feed(&[0xF0]), Ok(()));
        assert_eq!(text.finish(), Err(NotUtf8));
        assert_eq!(text.feed(b"ok"), Ok(()));
        assert_eq!(text.finish(), Ok(()));
    }

    #[test]
    fn the_first_impossible_byte_is_refused_at_once() {
        // Bytes that can begin a text, and the byte that ends all hope.
        for (prefix, bad) in [
            (&b""[..], 0x80),                // continuation without a beginning
            (&b""[..], 0xC0),                // overlong
            (&b""[..], 0xC1),                //
            (&b""[..], 0xF5),                // beyond U+10FFFF
            (&b""[..], 0xFF),                //
            (&[0xE0][..], 0x9F),             // overlong
            (&[0xED][..], 0xA0),             // surrogate
            (&[0xF0][..], 0x8F),             // overlong
            (&[0xF4][..], 0x90),             // beyond U+10FFFF
            (&[0xC3][..], b'a'),             // no continuation
            (&[0xF0, 0x9F, 0x8E][..], b'a'), //
            (&[0xF0, 0x9F, 0x8E][..], 0xC0), //
        ] {
            let mut text = Utf8::new();
            for byte in prefix {
                assert_eq!(text.feed(&[*byte]), Ok(()), "{prefix:x?}");
            }
            assert_eq!(text.feed(&[bad]), Err(NotUtf8), "{prefix:x?} {bad:x}");
            let mut text = Utf8::new();
            let whole = [prefix, &[bad]].concat();
            assert_eq!(text.feed(&whole), Err(NotUtf8), "{whole:x?}");
        }
    }

    proptest! {
        /// Biased towards what is nearly UTF-8: all parts together mean what std says.
        #[test]
        fn parts_mean_what_the_whole_means(
            bytes in proptest::collection::vec(
                prop_oneof![
                    any::<char>().prop_map(|c| c.to_string().into_bytes()),
                    "[a-z]{0,80}".prop_map(String::into_bytes),
                    proptest::sample::select(vec![0x80, 0xBF, 0xE0, 0xED, 0xF0, 0xF4])
                        .prop_map(|byte| vec![byte]),
                ],
                0..12,
            ).prop_map(|parts| parts.concat()),
            size in 1_usize..90,
        ) {
            let parts: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(fed(&parts).is_ok(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
