//! The echo on the pull interface: the program asks for events.

use proscenium_engine::{Limits, Listener};

use crate::cli::EchoArgs;

/// Serves until the process is asked to end.
pub(super) fn run(_: &EchoArgs, _: Vec<Listener>, _: Limits) -> Result<(), String> {
    Err("--interface socket is not part of this build; use --interface callback".to_owned())
}
