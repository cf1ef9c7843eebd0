//! C interface of [`proscenium_connector`]: `cdylib` and `staticlib`, with the header
//! `include/proscenium_connector.h` that cbindgen makes of this.
//!
//! No panic crosses the boundary: it becomes [`PscStatus::Panic`], or the neutral value of
//! functions that have no status.

mod boundary;
mod functions;
mod types;

pub use functions::*;
pub use types::*;
