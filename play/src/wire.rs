//! Putting packets for clients into the send queues of their connections.

use bytes::Bytes;
use proscenium_engine::RouterId;
use proscenium_framing::packet::{ErrorCode, ServerPacket, lz4};
use proscenium_stages::Local;

use crate::error::DeliverError;
use crate::gate::Gate;
use crate::packet::Payload;

/// What stands before the payload.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) msg_id: &'a str,
    pub(crate) seq: u16,
    pub(crate) stage_id: i64,
    pub(crate) error: ErrorCode,
}

impl<'a> Head<'a> {
    /// That of a message that nobody asked for.
    pub(crate) const fn push(msg_id: &'a str, stage_id: i64) -> Self {
        Self {
            msg_id,
            seq: 0,
            stage_id,
            error: ErrorCode::SUCCESS,
        }
    }

    #[inline]
    fn size(&self) -> usize {
        ServerPacket::FIXED + self.msg_id.len()
    }

    /// Writes head and payload to the front of `out`, which has room for them.
    #[inline]
    fn write(
        &self,
        out: &mut [u8],
        original_size: i32,
        payload: &(impl Payload + ?Sized),
    ) -> usize {
        let head = ServerPacket {
            msg_id: self.msg_id,
            seq: self.seq,
            stage_id: self.stage_id,
            error: self.error,
            original_size,
            payload: &[],
        };
        let Ok(at) = head.encode(out) else {
            unreachable!("the id's length was checked, and there is room");
        };
        at + payload.write(&mut out[at..])
    }
}

/// Queues one packet for one connection, encoded in place.
#[inline]
pub(crate) fn send(
    local: &Local<'_>,
    (to, lz4): (RouterId, bool),
    head: Head<'_>,
    payload: &(impl Payload + ?Sized),
) -> Result<(), DeliverError> {
    DeliverError::check_id(head.msg_id)?;
    let size = payload.size();
    if lz4 && size > lz4::UNCOMPRESSED_MAX {
        return send_compressed(local, to, head, payload);
    }
    local.send_with(to, head.size() + size, |out| head.write(out, 0, payload))?;
    Ok(())
}

#[cold]
fn send_compressed(
    local: &Local<'_>,
    to: RouterId,
    head: Head<'_>,
    payload: &(impl Payload + ?Sized),
) -> Result<(), DeliverError> {
    let body = encode(local, true, head, payload)?;
    local.send(to, &body)?;
    Ok(())
}

/// A packet in memory of its own, for many connections, or for one that is somewhere else.
pub(crate) fn encode(
    local: &Local<'_>,
    lz4: bool,
    head: Head<'_>,
    payload: &(impl Payload + ?Sized),
) -> Result<Bytes, DeliverError> {
    DeliverError::check_id(head.msg_id)?;
    let size = payload.size();
    if lz4
        && (lz4::UNCOMPRESSED_MAX + 1..=lz4::ORIGINAL_SIZE_MAX).contains(&size)
        && let Some(gate) = local.front::<Gate>()
    {
        let plain = payload.to_bytes();
        let mut pickler = gate.pickler();
        if let Some(pickled) = pickler.compress(&plain) {
            let original_size = plain.len() as i32; // at most 10 MiB
            return Ok(filled(head.size() + pickled.len(), |out| {
                head.write(out, original_size, pickled)
            }));
        }
    }
    Ok(filled(head.size() + size, |out| {
        head.write(out, 0, payload)
    }))
}

fn filled(size: usize, write: impl FnOnce(&mut [u8]) -> usize) -> Bytes {
    let mut bytes = vec![0; size];
    let len = write(&mut bytes);
    bytes.truncate(len);
    bytes.into()
}
