//! The body of a load message: what is sent, and the check of what comes back.
//!
//! Byte 0 is the phase in which the message was sent, bytes 1..9 its send time in nanoseconds
//! (u64, little-endian), the rest a pattern that depends on the position only. So one buffer
//! serves all connections, both for sending and for comparing.

use std::ops::RangeInclusive;

/// Bytes before the pattern; also the smallest body.
pub(super) const HEADER: usize = 9;

/// Bytes at the end that are compared in every message: they catch bodies that are shifted, cut
/// and padded, or mixed with the next one.
const TAIL: usize = 8;

/// A body ready to be sent, of which only the header changes.
#[derive(Clone, Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    /// What stands before the body, and is the protocol's.
    prefix: usize,
}

impl Template {
    /// A body of `size` bytes, at least [`HEADER`].
    pub(super) fn new(size: usize) -> Self {
        let size = size.max(HEADER);
        let pattern = (0..size).map(|position| {
            // The top byte of a multiplicative hash: neighbours differ, and no short period lets a
            // shifted body pass.
            ((position as u32).wrapping_mul(0x9e37_79b1) >> 24) as u8
        });
        Self {
            bytes: pattern.collect(),
            prefix: 0,
        }
    }

    /// The same with these bytes before the body.
    pub(super) fn behind(self, prefix: &[u8]) -> Self {
        Self {
            bytes: [prefix, &self.bytes[self.prefix..]].concat(),
            prefix: prefix.len(),
        }
    }

    /// What stands before the body.
    #[inline]
    pub(super) fn prefix_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.prefix]
    }

    /// Sets the phase of the messages that follow.
    pub(super) fn set_phase(&mut self, phase: u8) {
        self.bytes[self.prefix] = phase;
    }

    /// Sets the send time of the messages that follow.
    pub(super) fn set_stamp(&mut self, nanos: u64) {
        let at = self.prefix + 1;
        self.bytes[at..at + 8].copy_from_slice(&nanos.to_le_bytes());
    }

    /// The whole message.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// How thoroughly the pattern of an answer is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Every byte of every `n`-th message; of the others length, phase, time, and the last bytes.
    Every(u32),
}

impl Verify {
    /// Every byte of every message.
    pub(crate) const FULL: Self = Self::Every(1);
    /// Every byte of every 64th message: costs the client a few thousandths of its time.
    pub(crate) const SAMPLE: Self = Self::Every(64);

    /// Parses `full`, `sample` or a number.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("full", _) => Ok(Self::FULL),
            ("sample", _) => Ok(Self::SAMPLE),
            (_, Ok(n)) if n > 0 => Ok(Self::Every(n)),
            _ => Err(format!(
                "`{text}`: expected `full` (every byte of every message), `sample` (of every \
                 64th), or N (of every N-th, N > 0)"
            )),
        }
    }
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Corrupt {
    /// It has another length than what was sent.
    Length,
    /// Its phase is not one in which we had sent.
    Phase,
    /// Its send time is in the future, or before that of the answer before it.
    Stamp,
    /// Its pattern differs.
    Pattern,
}

/// Checks answers.
#[derive(Debug)]
pub(super) struct Checker {
    expected: Template,
    every: u32,
    until_full: u32,
}

impl Checker {
    /// Expects bodies of `size` bytes.
    pub(super) fn new(size: usize, verify: Verify) -> Self {
        let Verify::Every(every) = verify;
        Self {
            expected: Template::new(size),
            every,
            until_full: 0,
        }
    }

    /// Checks one answer and returns its send time. `stamps` is the range in which it must lie:
    /// from that of the connection's answer before it to now; `phases` likewise.
    #[inline]
    pub(super) fn check(
        &mut self,
        body: &[u8],
        phases: &RangeInclusive<u8>,
        stamps: RangeInclusive<u64>,
    ) -> Result<u64, Corrupt> {
        let expected = self.expected.bytes();
        if body.len() != expected.len() {
            return Err(Corrupt::Length);
        }
        if !phases.contains(&body[0]) {
            return Err(Corrupt::Phase);
        }
        let mut stamp = [0; 8];
        stamp.copy_from_slice(&body[1..HEADER]);
        let stamp = u64::from_le_bytes(stamp);
        if !stamps.contains(&stamp) {
            return Err(Corrupt::Stamp);
        }
        let in_full = self.until_full == 0 || body.len() < HEADER + TAIL;
        if self.until_full == 0 {
            self.until_full = self.every;
        }
        self.until_full -= 1;
        let is_right = if in_full {
            body[HEADER..] == expected[HEADER..]
        } else {
            // Of a fixed length: two loads and a comparison, no call.
            body.last_chunk::<TAIL>() == expected.last_chunk::<TAIL>()
        };
        if is_right {
            Ok(stamp)
        } else {
            Err(Corrupt::Pattern)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(size: usize, phase: u8, stamp: u64) -> Vec<u8> {
        let mut template = Template::new(size);
        template.set_phase(phase);
        template.set_stamp(stamp);
        template.bytes().to_vec()
    }

    #[test]
    fn an_intact_answer_passes_and_tells_its_time() {
        for size in [0, 9, 10, 17, 1024] {
            let body = sent(size, 2, 77);
            assert_eq!(body.len(), size.max(9));
            let mut checker = Checker::new(size, Verify::FULL);
            assert_eq!(checker.check(&body, &(1..=2), 77..=77), Ok(77));
        }
    }

    #[test]
    fn every_byte_counts_under_full_verification() {
        let intact = sent(64, 1, 1 << 40);
        for position in 0..intact.len() {
            let mut body = intact.clone();
            body[position] ^= 0x80;
            let mut checker = Checker::new(64, Verify::FULL);
            let result = checker.check(&body, &(1..=2), (1 << 40)..=(1 << 40));
            let expected = match position {
                0 => Corrupt::Phase,
                1..=8 => Corrupt::Stamp,
                _ => Corrupt::Pattern,
            };
            assert_eq!(result, Err(expected), "byte {position}");
        }
    }

    #[test]
    fn sampling_compares_every_nth_body_and_always_the_tail() {
        let mut middle = sent(64, 1, 5);
        middle[30] ^= 1;
        let mut checker = Checker::new(64, Verify::Every(4));
        let results: Vec<bool> = (0..8)
            .map(|_| checker.check(&middle, &(1..=2), 0..=9).is_ok())
            .collect();
        assert_eq!(results, [false, true, true, true, false, true, true, true]);

        let mut tail = sent(64, 1, 5);
        tail[63] ^= 1;
        for _ in 0..8 {
            assert_eq!(checker.check(&tail, &(1..=2), 0..=9), Err(Corrupt::Pattern));
        }
    }

    #[test]
    fn a_shifted_pattern_never_passes() {
        let long = sent(4096, 1, 5);
        for shift in 1..1024 {
            let mut body = sent(1024, 1, 5);
            body[HEADER..].copy_from_slice(&long[HEADER + shift..1024 + shift]);
            let mut checker = Checker::new(1024, Verify::FULL);
            let result = checker.check(&body, &(1..=2), 0..=9);
            assert_eq!(result, Err(Corrupt::Pattern), "shift {shift}");
        }
    }

    #[test]
    fn lengths_and_times_out_of_range_are_named() {
        let mut checker = Checker::new(64, Verify::SAMPLE);
        assert_eq!(checker.check(&[], &(1..=2), 0..=9), Err(Corrupt::Length));
        assert_eq!(
            checker.check(&sent(65, 1, 5), &(1..=2), 0..=9),
            Err(Corrupt::Length)
        );
        assert_eq!(
            checker.check(&sent(64, 1, 10), &(1..=2), 0..=9),
            Err(Corrupt::Stamp)
        );
        assert_eq!(
            checker.check(&sent(64, 1, 4), &(1..=2), 5..=9),
            Err(Corrupt::Stamp)
        );
        assert_eq!(
            checker.check(&sent(64, 3, 5), &(1..=2), 0..=9),
            Err(Corrupt::Phase)
        );
    }

    #[test]
    fn verification_levels_parse() {
        assert_eq!(Verify::parse("full"), Ok(Verify::FULL));
        assert_eq!(Verify::parse("sample"), Ok(Verify::SAMPLE));
        assert_eq!(Verify::parse("100"), Ok(Verify::Every(100)));
        for text in ["0", "-1", "", "some"] {
            assert!(
                Verify::parse(text).unwrap_err().contains("expected"),
                "{text}"
            );
        }
    }
}
