//! Proscenium: a networking engine for real-time servers.

pub use proscenium_engine::*;
pub use proscenium_framing as framing;
