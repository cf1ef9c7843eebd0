//! Proscenium: a networking engine for real-time servers.

pub use proscenium_engine as engine;
pub use proscenium_framing as framing;
