//! Framed echo on tokio with the codec most programs take: `LengthDelimitedCodec` of tokio-util.
//!
//! `forward` is the best way to couple its two ends. It encodes frame after frame for as long as
//! the reading side has one ready and flushes only when that side has to wait, so that a read
//! full of frames costs one write; `send` per frame would cost one write each. The two ends stand
//! on the halves of `into_split`, since the halves of `Framed::split` share a lock that is taken
//! at each frame.

use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt};
use proscenium_peers::{ByteOrder, Counters, FRAME_BYTES_MAX, HEADER_BYTES, serve};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

/// What a read may bring at once, and how much is encoded before a flush is forced. The defaults
/// of 8 KiB would make four reads and four writes of thirty frames of 1 KiB.
const BUFFER_BYTES: usize = 64 * 1024;

fn main() -> ExitCode {
    serve("peer-tokio-codec", session)
}

async fn session(stream: TcpStream, order: ByteOrder, counters: Arc<Counters>) -> io::Result<()> {
    let (read_half, write_half) = stream.into_split();
    let frames = FramedRead::with_capacity(read_half, codec(order), BUFFER_BYTES);
    let mut answers = FramedWrite::new(write_half, codec(order));
    answers.set_backpressure_boundary(BUFFER_BYTES);
    let echoed = frames.map_ok(|body: BytesMut| {
        counters.add_frames(1);
        body.freeze()
    });
    let ended = echoed.forward(answers).await;
    if ended
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
    {
        counters.add_oversized();
    }
    ended
}

fn codec(order: ByteOrder) -> LengthDelimitedCodec {
    let mut builder = LengthDelimitedCodec::builder();
    builder
        .length_field_length(HEADER_BYTES)
        .max_frame_length(FRAME_BYTES_MAX);
    match order {
        ByteOrder::Big => builder.big_endian(),
        ByteOrder::Little => builder.little_endian(),
    };
    builder.new_codec()
}
