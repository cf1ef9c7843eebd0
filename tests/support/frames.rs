//! Frames as the wire has them: for the tests of all packages.

/// `body` with its length in front, big-endian.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Takes the whole frames off the front of `bytes`.
pub fn take_frames(bytes: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(body) = bytes.get(at + 4..at + 4 + length) else {
            break;
        };
        frames.push(body.to_vec());
        at += 4 + length;
    }
    bytes.drain(..at);
    frames
}
