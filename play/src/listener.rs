//! [`PlayListener`]: where clients come in.

use std::io;
use std::net::ToSocketAddrs;

use proscenium_engine::{Framing, Listener};

/// A listener of a Play server: one of the engine, with what is of packets.
///
/// ```
/// use proscenium_engine::Listener;
/// use proscenium_play::PlayListener;
///
/// let plain = PlayListener::tcp("127.0.0.1:0")?;
/// let later_protocol = PlayListener::new(Listener::tcp("127.0.0.1:0")?.backlog(1024))
///     .big_endian_length()
///     .compress()
///     .default_stage("lobby");
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
#[derive(Debug)]
pub struct PlayListener {
    pub(crate) listener: Listener,
    pub(crate) lz4: bool,
    pub(crate) default_stage: Option<String>,
}

impl PlayListener {
    /// A listener of the engine, with all its options but the framing, which is that of packets:
    /// their length is little-endian.
    pub fn new(listener: Listener) -> Self {
        Self {
            listener: listener.framing(Framing::Le32),
            lz4: false,
            default_stage: None,
        }
    }

    /// Listens on TCP; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address does not resolve.
    pub fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Self::new(Listener::tcp(address)?))
    }

    /// Has the length of packets big-endian, as a later generation of clients has it. All else
    /// stays little-endian.
    pub fn big_endian_length(mut self) -> Self {
        self.listener = self.listener.framing(Framing::Be32);
        self
    }

    /// Compresses payloads for clients (LZ4) that are longer than 512 bytes, if that saves more
    /// than a tenth. Off by default: not every deployed client inflates.
    pub fn compress(mut self) -> Self {
        self.lz4 = true;
        self
    }

    /// Sets the stage type that is created when a client authenticates for a stage that does not
    /// exist; default: that of the server
    /// ([`PlayServerBuilder::default_stage`](crate::PlayServerBuilder::default_stage)).
    pub fn default_stage(mut self, stage_type: impl Into<String>) -> Self {
        self.default_stage = Some(stage_type.into());
        self
    }
}

impl From<Listener> for PlayListener {
    fn from(listener: Listener) -> Self {
        Self::new(listener)
    }
}
