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
    let lead = first.addr() % LINE;
    let lines = (lead + size_of::<T>()).div_ceil(LINE).min(LINES_MAX);
    for line in 0..lines {
        fetch(first.wrapping_add(line * LINE));
    }
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
    fn values_of_any_size_are_fetched_and_stay_as_they_are() {
        prefetch(&());
        prefetch(&7_u8);
        let bytes = vec![1_u8; 4096];
        prefetch::<[u8; 4096]>(bytes.as_slice().try_into().unwrap());
        assert!(bytes.iter().all(|byte| *byte == 1));
    }
}
