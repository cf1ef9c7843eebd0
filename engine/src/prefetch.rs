//! [`prefetch`]: memory that will be needed soon.

/// A cache line, on every machine where it matters here.
const LINE: usize = 64;
/// Lines of one value that are fetched: what is longer begins with what is needed first.
const LINES_MAX: usize = 6;

/// Has the CPU fetch `value` into its caches, at most the first 384 bytes of it, while it does
/// something else. Worth it some hundred nanoseconds before the value is used, if it is probably
/// not in a cache: a system call is a good time. A hint: nothing depends on it. Does nothing except
/// on x86-64.
#[inline]
pub fn prefetch<T>(value: &T) {
    let first = std::ptr::from_ref(value).cast::<u8>();
    for line in 0..lines(first.addr(), size_of::<T>()) {
        fetch(first.wrapping_add(line * LINE));
    }
}

/// How many lines of `size` bytes at `address` are fetched.
#[inline]
fn lines(address: usize, size: usize) -> usize {
    (address % LINE + size).div_ceil(LINE).min(LINES_MAX)
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn fetch(line: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing that the program could notice, and never faults, whatever
    // the address; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn fetch(_line: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_that_a_value_touches_is_fetched_up_to_a_bound() {
        for (address, size, expected) in [
            (128, 1, 1),
            (128, 64, 1),
            (128, 65, 2),
            (191, 1, 1),
            (191, 2, 2),
            (160, 312, 6),
            (128, 4096, LINES_MAX),
        ] {
            assert_eq!(lines(address, size), expected, "{size} at {address}");
        }
        assert_eq!(lines(128, 0), 0, "nothing of nothing");
    }
}
