//! Framed echo on tokio, parsed by hand: one task per connection, every frame of a read given to
//! a handler that appends its answer to one buffer, one write per read.

use bytes::{Buf, BufMut, BytesMut};
use proscenium_peers::{ByteOrder, Counters, FRAME_BYTES_MAX, HEADER_BYTES, serve};
use std::cell::RefCell;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a read may bring at once. Also what a connection keeps, whether it is busy or not: a task
/// that waits in `read_buf` has to own the buffer it will read into.
const RECEIVE_BYTES: usize = 64 * 1024;

/// Send buffers kept for reuse on each thread, and the capacity above which one is not kept.
const POOLED_COUNT_MAX: usize = 256;
const POOLED_BYTES_MAX: usize = 128 * 1024;

thread_local! {
    /// The shard's send buffers that no session uses. Last in, first out: the next session gets
    /// the one that is still in the cache, and a session without unsent bytes holds none.
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

fn take_send_buffer() -> BytesMut {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| BytesMut::with_capacity(RECEIVE_BYTES))
}

fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < POOLED_COUNT_MAX && buffer.capacity() <= POOLED_BYTES_MAX {
            pool.push(buffer);
        }
    });
}

fn main() -> ExitCode {
    serve("peer-tokio", session)
}

async fn session(
    mut stream: TcpStream,
    order: ByteOrder,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let mut received = BytesMut::with_capacity(RECEIVE_BYTES);
    loop {
        // Writing before the next read is the back-pressure: a peer that does not read is not read.
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        let mut answers = take_send_buffer();
        let Some(frames) = dispatch_frames(&mut received, order, &mut answers) else {
            counters.add_oversized();
            return Ok(());
        };
        counters.add_frames(frames);
        if !answers.is_empty() {
            stream.write_all(&answers).await?;
        }
        give_back(answers);
        make_room(&mut received);
    }
}

/// Takes every complete frame out of `received` and returns how many; `None`: one over the limit.
fn dispatch_frames(
    received: &mut BytesMut,
    order: ByteOrder,
    answers: &mut BytesMut,
) -> Option<u64> {
    let mut rest: &[u8] = received;
    let mut frames = 0;
    while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let length = order.decode(*header) as usize;
        if length > FRAME_BYTES_MAX {
            return None;
        }
        let Some((body, next)) = after.split_at_checked(length) else {
            break;
        };
        on_message(body, order, answers);
        frames += 1;
        rest = next;
    }
    let consumed = received.len() - rest.len();
    received.advance(consumed);
    Some(frames)
}

#[inline]
fn on_message(body: &[u8], order: ByteOrder, answers: &mut BytesMut) {
    answers.reserve(HEADER_BYTES + body.len());
    answers.put_slice(&order.encode(body.len() as u32)); // at most FRAME_BYTES_MAX
    answers.put_slice(body);
}

/// Makes room for the next read, moving an incomplete tail to the front. Only a frame longer than
/// the buffer makes it grow, and then by as much as has arrived of it, not by what it announces.
fn make_room(received: &mut BytesMut) {
    let tail = received.len();
    if tail < RECEIVE_BYTES {
        received.reserve(RECEIVE_BYTES - tail);
    } else if tail == received.capacity() {
        received.reserve(tail);
    }
}
