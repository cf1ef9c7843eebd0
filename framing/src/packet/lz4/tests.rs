//! Against containers that were written by hand from the description of the format.

use super::*;

/// 100 × 'a': one literal, a match of 94 bytes at distance 1 (4 + 15 + 75), five literals.
const BLOCK: [u8; 11] = [0x1F, b'a', 1, 0, 75, 0x50, b'a', b'a', b'a', b'a', b'a'];

/// 100 - 11.
const DIFFERENCE: u8 = 89;

fn container(header: &[u8]) -> Vec<u8> {
    [header, &BLOCK].concat()
}

#[test]
fn every_width_of_the_difference_is_read() {
    let payload = vec![b'a'; 100];
    for header in [
        &[0x40, DIFFERENCE][..],
        &[0x80, DIFFERENCE, 0],
        &[0xC0, DIFFERENCE, 0, 0, 0],
    ] {
        assert_eq!(unpickle(&container(header), 100, 100), Ok(payload.clone()));
    }
}

#[test]
fn without_a_difference_the_bytes_are_as_they_are() {
    let plain = [0x00, b'p', b'l', b'a', b'i', b'n'];
    assert_eq!(unpickle(&plain, 5, 100).as_deref(), Ok(&b"plain"[..]));
    let wide = [0xC0, 0, 0, 0, 0, b'x'];
    assert_eq!(unpickle(&wide, 1, 100).as_deref(), Ok(&b"x"[..]));
}

#[test]
fn sizes_are_checked_against_the_packet_and_the_cap() {
    let good = container(&[0x40, DIFFERENCE]);
    let cap = 100;
    for original_size in [0, -1, i32::MIN, 101, i32::MAX] {
        let error = UnpickleError::OriginalSize { original_size, cap };
        assert_eq!(unpickle(&good, original_size, cap), Err(error));
    }
    let error = UnpickleError::Mismatch {
        original: 99,
        held: 100,
    };
    assert_eq!(unpickle(&good, 99, cap), Err(error));
    // Nobody can ask for more than 10 MiB.
    let over = ORIGINAL_SIZE_MAX as i32 + 1;
    let error = UnpickleError::OriginalSize {
        original_size: over,
        cap: ORIGINAL_SIZE_MAX,
    };
    assert_eq!(unpickle(&good, over, usize::MAX), Err(error));
}

#[test]
fn every_truncation_is_refused() {
    let full = container(&[0x80, DIFFERENCE, 0]);
    for len in 0..full.len() {
        let outcome = unpickle(&full[..len], 100, 100);
        if len < 3 {
            assert_eq!(outcome, Err(UnpickleError::Truncated { len }));
        } else {
            let held = 100 - (full.len() - len) as u64;
            let original = 100;
            assert_eq!(outcome, Err(UnpickleError::Mismatch { original, held }));
        }
        // Also when the sizes are made to agree with what is left.
        let size = 100 - (full.len() - len) as i32;
        if len >= 3 {
            assert_eq!(
                unpickle(&full[..len], size, 100),
                Err(UnpickleError::Corrupt)
            );
        }
    }
}

#[test]
fn other_versions_are_refused() {
    for version in 1..8 {
        let bytes = container(&[0x40 | version, DIFFERENCE]);
        let error = UnpickleError::Version { version };
        assert_eq!(unpickle(&bytes, 100, 100), Err(error));
    }
}

/// A bomb: a few bytes that claim to be megabytes.
#[test]
fn what_cannot_be_in_so_few_bytes_is_refused() {
    let size = ORIGINAL_SIZE_MAX as i32;
    let difference = (size - BLOCK.len() as i32).to_le_bytes();
    let bomb = container(&[&[0xC0], &difference[..]].concat());
    assert_eq!(
        unpickle(&bomb, size, ORIGINAL_SIZE_MAX),
        Err(UnpickleError::Corrupt)
    );
    // Announced as small, claims to be large, and the other way round.
    let error = UnpickleError::Mismatch {
        original: 100,
        held: size as u64,
    };
    assert_eq!(unpickle(&bomb, 100, ORIGINAL_SIZE_MAX), Err(error));
    let largest = container(&[0xC0, 0xFF, 0xFF, 0xFF, 0xFF]);
    let held = u64::from(u32::MAX) + BLOCK.len() as u64;
    let error = UnpickleError::Mismatch { original: 1, held };
    assert_eq!(unpickle(&largest, 1, ORIGINAL_SIZE_MAX), Err(error));
}

#[test]
fn a_block_that_inflates_to_more_or_less_is_refused() {
    // The match is one byte longer, or one shorter, than the header says.
    for wrong in [74, 76] {
        let mut bytes = container(&[0x40, DIFFERENCE]);
        bytes[2 + 4] = wrong;
        assert_eq!(unpickle(&bytes, 100, 1000), Err(UnpickleError::Corrupt));
    }
    // A match that begins before the payload.
    let mut bytes = container(&[0x40, DIFFERENCE]);
    bytes[2 + 2] = 9;
    assert_eq!(unpickle(&bytes, 100, 1000), Err(UnpickleError::Corrupt));
}

#[test]
fn containers_are_written_with_the_narrowest_difference() {
    let mut pickler = Pickler::new();
    let mut first = |payload: &[u8]| {
        let pickled = pickler.pickle(payload).expect("under the cap");
        let size = payload.len() as i32;
        if size > 0 {
            let back = unpickle(pickled, size, ORIGINAL_SIZE_MAX);
            assert_eq!(back.as_deref(), Ok(payload));
        }
        (pickled[0], pickled.len())
    };
    assert_eq!(first(b""), (0x00, 1));
    assert_eq!(first(b"incompressible"), (0x00, 15));
    assert_eq!(first(&[b'a'; 100]).0, 0x40);
    assert_eq!(first(&[b'a'; 4000]).0, 0x80);
    assert_eq!(first(&vec![b'a'; 70_000]).0, 0xC0);
    // Tables and buffer are as good as new afterwards.
    assert_eq!(first(&[b'a'; 100]).0, 0x40);
    let largest = vec![0; ORIGINAL_SIZE_MAX];
    assert_eq!(first(&largest).0, 0xC0);
    assert_eq!(first(&[b'a'; 100]).0, 0x40);
    assert!(pickler.scratch.len() <= SCRATCH_KEPT_MAX);
    assert_eq!(pickler.pickle(&vec![0; ORIGINAL_SIZE_MAX + 1]), None);
}

/// Bytes without repetition that LZ4 could use.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn compression_has_to_be_worth_it() {
    let mut pickler = Pickler::new();
    assert_eq!(pickler.compress(&[0; 512]), None);
    assert!(pickler.compress(&[0; 513]).is_some());
    assert_eq!(pickler.compress(&noise(2000)), None);
    assert_eq!(pickler.compress(&vec![0; ORIGINAL_SIZE_MAX + 1]), None);
    // 10 % saved is too little, a little more is enough: zeros behind noise move the border.
    let mut saved = 0;
    for zeros in 100..400 {
        let payload = [noise(2000), vec![0; zeros]].concat();
        let pickled = pickler.pickle(&payload).expect("under the cap").len();
        let worth = pickled * 10 < payload.len() * 9;
        assert_eq!(pickler.compress(&payload).is_some(), worth);
        saved += usize::from(worth);
    }
    assert!(
        (1..300).contains(&saved),
        "the border was not crossed: {saved}"
    );
}

#[test]
fn errors_name_their_numbers() {
    let cap = 10;
    let texts = [
        UnpickleError::OriginalSize {
            original_size: -1,
            cap,
        },
        UnpickleError::Truncated { len: 1 },
        UnpickleError::Version { version: 3 },
        UnpickleError::Mismatch {
            original: 5,
            held: 6,
        },
        UnpickleError::Corrupt,
    ]
    .map(|error| error.to_string());
    let expected = [
        "original size -1, allowed are 1 to 10",
        "compressed payload of 1 bytes ends in its header",
        "compressed payload of version 3",
        "compressed payload of size 6, announced as 5",
        "compressed payload is corrupt",
    ];
    assert_eq!(texts, expected);
}
