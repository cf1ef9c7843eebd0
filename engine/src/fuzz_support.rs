//! What the fuzz target of this crate needs of its inside (feature `fuzz`). Not an interface.

pub use crate::layer::tls::properties::{Ends, check};
