//! What must hold of the client packet codec for any bytes whatever. One copy of this code is run
//! by the fuzz target, by the replay of its corpus and by proptest. The input is a packet of either
//! direction, without its length.

use proscenium_framing::packet::{ClientPacket, ErrorCode, ID_MAX, PacketError, ServerPacket};

/// Panics if the codec breaks a promise on this input.
pub(crate) fn check(input: &[u8]) {
    as_client(input);
    as_server(input);
}

fn as_client(body: &[u8]) {
    let decoded = ClientPacket::decode(body);
    let Some((id, head)) = model(body, 10) else {
        check_refusal(decoded, body, 10);
        return;
    };
    let packet = decoded.expect("the model takes it");
    assert_eq!(packet.msg_id.as_bytes(), id);
    assert_eq!(u64::from(packet.seq), number(&head[..2]));
    assert_eq!(packet.stage_id as u64, number(&head[2..10]));
    assert!(std::ptr::eq(packet.payload, &body[1 + id.len() + 10..]));
    assert_eq!(packet.encoded_len(), body.len());
    encodes_to(body, |out| packet.encode(out));
}

fn as_server(body: &[u8]) {
    let decoded = ServerPacket::decode(body);
    // The one thing that a server's packet can have wrong behind the id.
    let model = model(body, 16).filter(|(_, head)| number(&head[12..16]) < 1 << 31);
    let Some((id, head)) = model else {
        check_refusal(decoded, body, 16);
        return;
    };
    let packet = decoded.expect("the model takes it");
    assert_eq!(packet.msg_id.as_bytes(), id);
    assert_eq!(u64::from(packet.seq), number(&head[..2]));
    assert_eq!(packet.stage_id as u64, number(&head[2..10]));
    assert_eq!(packet.error, ErrorCode(number(&head[10..12]) as u16));
    assert_eq!(packet.original_size as u64, number(&head[12..16]));
    assert!(std::ptr::eq(packet.payload, &body[1 + id.len() + 16..]));
    assert_eq!(packet.encoded_len(), body.len());
    encodes_to(body, |out| packet.encode(out));
}

/// The format written down a second time: the id, and the `head` bytes of numbers behind it.
fn model(body: &[u8], head: usize) -> Option<(&[u8], &[u8])> {
    let len = usize::from(*body.first()?);
    if len == 0 || len > 128 || body.len() < 1 + len + head {
        return None;
    }
    let id = &body[1..1 + len];
    std::str::from_utf8(id).ok()?;
    Some((id, &body[1 + len..1 + len + head]))
}

fn number(little_endian: &[u8]) -> u64 {
    let mut number = 0;
    for &byte in little_endian.iter().rev() {
        number = number << 8 | u64::from(byte);
    }
    number
}

/// What is refused is refused for a reason that is there.
fn check_refusal<P: std::fmt::Debug>(decoded: Result<P, PacketError>, body: &[u8], head: usize) {
    match decoded.expect_err("the model refuses it") {
        PacketError::TooShort { len, needed } => {
            assert_eq!(len, body.len());
            assert!(len < needed && needed <= 1 + ID_MAX + head);
        }
        PacketError::IdLength { len } => {
            assert_eq!(len, usize::from(body[0]));
            assert!(len == 0 || len > 128);
        }
        PacketError::IdNotUtf8 { valid_up_to } => {
            let id = &body[1..1 + usize::from(body[0])];
            assert!(std::str::from_utf8(&id[..valid_up_to]).is_ok());
            assert!(std::str::from_utf8(id).is_err());
        }
        PacketError::OriginalSize { original_size } => assert!(original_size < 0 && head == 16),
        other => panic!("not a reason for refusing bytes: {other}"),
    }
}

/// There is one encoding, it fits exactly, and what does not fit is left alone.
fn encodes_to(body: &[u8], encode: impl Fn(&mut [u8]) -> Result<usize, PacketError>) {
    let mut out = vec![0xA5; body.len() + 3];
    assert_eq!(encode(&mut out), Ok(body.len()));
    assert_eq!(
        (&out[..body.len()], &out[body.len()..]),
        (body, &[0xA5; 3][..])
    );
    let room = body.len() - 1;
    let mut out = vec![0xA5; room];
    let needed = body.len();
    assert_eq!(encode(&mut out), Err(PacketError::NoRoom { needed, room }));
    assert!(out.iter().all(|&byte| byte == 0xA5));
}
