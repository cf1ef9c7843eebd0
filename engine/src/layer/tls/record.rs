//! The record layer of TLS 1.3 after the handshake (RFC 8446 §5), with the keys that rustls agreed
//! on.
//!
//! ```text
//! record: │ 23 │ 3 3 │ length │ encrypted: │ plaintext │ its type │ zeros │ │ tag │
//!         └────── 5, authenticated ──────┘                               └─ 16 ┘
//! ```
//!
//! rustls makes the handshake and keeps the key schedule; this module only moves bytes, because
//! rustls's own way has an allocation and two copies for each record, and keeps the memory of a
//! handshake for as long as the connection lives. Decrypting happens where the record was received,
//! encrypting from the send queue straight into the output.

use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use super::{HEADER, RECORD_MAX};
use crate::layer::error::TlsError;

/// Length of the authentication tag, of every cipher.
const TAG: usize = 16;
/// Greatest length in the header of a protected record (RFC 8446 §5.2).
const PROTECTED_MAX: usize = RECORD_MAX + 256;
/// What the header of every protected record begins with.
const OUTER: [u8; 3] = [APPLICATION_DATA, 3, 3];
/// Records under one key after which it is changed. RFC 8446 §5.5 allows 2^24.5 with AES-GCM.
pub(super) const KEY_RECORDS: u64 = 1 << 23;

pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// A plaintext record, where it was found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) content: u8,
    pub(super) range: Range<usize>,
}

/// One direction's key, and how many records it has seen.
pub(super) struct RecordKey {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    sequence: u64,
}

impl RecordKey {
    /// From what rustls agreed on; `sequence` records were made with it already.
    pub(super) fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, TlsError> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&aead::CHACHA20_POLY1305, key, iv)
            }
            _ => return Err(unusable()),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable())?;
        let iv = iv.as_ref().try_into().map_err(|_| unusable())?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv,
            sequence,
        })
    }

    /// Records made with this key.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    #[cfg(test)]
    pub(super) fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Never the same twice: the sequence number only grows (RFC 8446 §5.3).
    fn next_nonce(&mut self) -> Result<Nonce, TlsError> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1).ok_or_else(unusable)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Decrypts the record at the front of `bytes` in place. The whole of it is there, as
    /// [`missing`](super::missing) says. Returns its length as well.
    pub(super) fn open(&mut self, bytes: &mut [u8]) -> Result<(usize, Opened), TlsError> {
        let Some((header, body)) = bytes.split_first_chunk_mut::<HEADER>() else {
            return Err(unexpected("half a header"));
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != APPLICATION_DATA {
            let found = format!("a record of type {} that is not encrypted", header[0]);
            return Err(TlsError::Misbehaved { found });
        }
        if length > PROTECTED_MAX {
            return Err(TlsError::OversizedRecord);
        }
        let Some(body) = body.get_mut(..length) else {
            return Err(unexpected("half a record"));
        };
        let nonce = self.next_nonce()?;
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(*header), body)
            .map_err(|_| TlsError::BadRecordMac)?;
        // The type is the last byte that is not zero; the zeros behind it are padding.
        let Some(end) = plain.iter().rposition(|&byte| byte != 0) else {
            return Err(unexpected("a record of nothing but padding"));
        };
        if end > RECORD_MAX {
            return Err(TlsError::OversizedRecord);
        }
        let (content, range) = (plain[end], HEADER..HEADER + end);
        Ok((HEADER + length, Opened { content, range }))
    }

    /// Encrypts `plain` into a record at the front of `out`; returns its length.
    pub(super) fn seal(
        &mut self,
        content: u8,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<usize, TlsError> {
        let length = plain.len() + 1 + TAG;
        debug_assert!(plain.len() <= RECORD_MAX);
        let (Some(out), [high, low]) = (out.get_mut(..HEADER + length), lower_bytes(length)) else {
            return Err(unusable());
        };
        let header = [OUTER[0], OUTER[1], OUTER[2], high, low];
        let (head, body) = out.split_at_mut(HEADER);
        let (encrypted, rest) = body.split_at_mut(plain.len());
        head.copy_from_slice(&header);
        let nonce = self.next_nonce()?;
        let aad = Aad::from(header);
        self.key
            .seal_out_of_place_scatter(nonce, aad, plain, encrypted, &[content], rest)
            .map_err(|_| unusable())?;
        Ok(HEADER + length)
    }

    /// The same, behind what is in `out`.
    pub(super) fn seal_behind(
        &mut self,
        content: u8,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        let at = out.len();
        out.resize(at + HEADER + plain.len() + 1 + TAG, 0);
        self.seal(content, plain, &mut out[at..]).map(drop)
    }
}

/// A length that fits into two bytes, as they stand in a header.
fn lower_bytes(length: usize) -> [u8; 2] {
    (length as u16).to_be_bytes()
}

fn unusable() -> TlsError {
    let found = "the keys cannot be used any more".to_owned();
    TlsError::Other { found }
}

pub(super) fn unexpected(what: &str) -> TlsError {
    let found = what.to_owned();
    TlsError::Misbehaved { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(algorithm: &'static aead::Algorithm) -> RecordKey {
        let bytes: Vec<u8> = (0..algorithm.key_len() as u8).collect();
        RecordKey {
            key: LessSafeKey::new(UnboundKey::new(algorithm, &bytes).unwrap()),
            iv: [9; 12],
            sequence: 5,
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    /// The server's application data of RFC 8448 §3 (simple 1-RTT handshake).
    #[test]
    fn the_record_of_rfc_8448_is_made_and_read() {
        let new = || RecordKey {
            key: LessSafeKey::new(
                UnboundKey::new(&aead::AES_128_GCM, &hex("9f02283b6c9c07efc26bb9f2ac92e356"))
                    .unwrap(),
            ),
            iv: hex("cf782b88dd83549aadf1e984").try_into().unwrap(),
            // The first record under this key was a ticket.
            sequence: 1,
        };
        let plain: Vec<u8> = (0..50).collect();
        let record = hex(
            "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f
             82 aa 1b 36 e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2
             1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2 95 5d",
        );
        let mut out = [0; 100];
        let written = new().seal(APPLICATION_DATA, &plain, &mut out).unwrap();
        assert_eq!(out[..written], record);
        let mut received = record.clone();
        let (used, opened) = new().open(&mut received).unwrap();
        assert_eq!((used, opened.content), (record.len(), APPLICATION_DATA));
        assert_eq!(received[opened.range], plain);
    }

    #[test]
    fn records_of_every_cipher_come_back_in_order_and_only_so() {
        for algorithm in [
            &aead::AES_128_GCM,
            &aead::AES_256_GCM,
            &aead::CHACHA20_POLY1305,
        ] {
            let (mut to, mut from) = (key(algorithm), key(algorithm));
            let mut wire = Vec::new();
            let lengths = [0, 1, 100, RECORD_MAX];
            for length in lengths {
                to.seal_behind(APPLICATION_DATA, &vec![7; length], &mut wire)
                    .unwrap();
            }
            let mut skipped = wire.clone();
            let mut at = 0;
            for length in lengths {
                let (used, opened) = from.open(&mut wire[at..]).unwrap();
                let plain = at + opened.range.start..at + opened.range.end;
                assert_eq!(wire[plain], vec![7; length]);
                at += used;
            }
            assert_eq!(at, wire.len());
            let second = HEADER + 1 + TAG;
            let error = key(algorithm).open(&mut skipped[second..]).unwrap_err();
            assert_eq!(error, TlsError::BadRecordMac, "one was left out");
        }
    }

    #[test]
    fn padding_is_taken_off_and_hostile_records_are_named() {
        let seal = |inner: &[u8]| {
            // `seal` puts the type behind the plaintext: the last byte given is that.
            let (last, plain) = inner.split_last().unwrap();
            let mut out = vec![0; inner.len() + 64];
            let written = key(&aead::AES_128_GCM)
                .seal(*last, plain, &mut out)
                .unwrap();
            out.truncate(written);
            out
        };
        let open = |mut record: Vec<u8>| {
            key(&aead::AES_128_GCM)
                .open(&mut record)
                .map(|(_, opened)| (opened.content, record[opened.range].to_vec()))
        };
        assert_eq!(open(seal(b"abc\x17\0\0\0")), Ok((23, b"abc".to_vec())));
        assert_eq!(open(seal(b"\x15")), Ok((21, Vec::new())));
        assert!(matches!(
            open(seal(&[0; 20])),
            Err(TlsError::Misbehaved { .. })
        ));
        let mut changed = seal(b"abc\x17");
        changed[7] ^= 1;
        assert_eq!(open(changed), Err(TlsError::BadRecordMac));
        let mut header = seal(b"abc\x17");
        header[1] = 2;
        assert_eq!(
            open(header),
            Err(TlsError::BadRecordMac),
            "it is authenticated"
        );
        let mut plain = seal(b"abc\x17");
        plain[0] = HANDSHAKE;
        assert!(matches!(open(plain), Err(TlsError::Misbehaved { .. })));
        let mut long = vec![23, 3, 3, 0x41, 0x01];
        long.resize(5 + 0x4101, 0);
        assert_eq!(open(long), Err(TlsError::OversizedRecord));
        assert_eq!(
            open(vec![23, 3, 3, 0, 3, 1, 2, 3]),
            Err(TlsError::BadRecordMac)
        );
    }
}
