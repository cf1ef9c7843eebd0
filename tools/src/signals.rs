//! SIGTERM and SIGINT.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls `first` when the process is asked to end (SIGTERM, or SIGINT: Ctrl-C), on a thread of its
/// own. The second time it ends the process at once, as the signal would have.
///
/// # Errors
/// When the system refuses the handler or the thread.
pub(crate) fn on_termination(first: impl FnOnce() + Send + 'static) -> Result<(), String> {
    watch(first).map_err(|error| format!("cannot watch for signals: {error}"))
}

/// True once the process was asked to end; see [`on_termination`].
///
/// # Errors
/// Those of [`on_termination`].
pub(crate) fn asked_to_end() -> Result<Arc<AtomicBool>, String> {
    let asked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked);
    on_termination(move || flag.store(true, Ordering::Relaxed))?;
    Ok(asked)
}

fn watch(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let watch = move || {
        let mut asked = signals.forever();
        if asked.next().is_some() {
            first();
        }
        if let Some(signal) = asked.next() {
            // What a shell reports for a process that a signal ended.
            process::exit(128 + signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watch)?;
    Ok(())
}
