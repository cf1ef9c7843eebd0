//! [`Worker`]: a thread of a directory that ends when its owner is dropped.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::Watch;

/// A thread, and the channel by which it is told things. Dropping it closes the channel, which
/// tells the thread to end, and waits for that.
pub(super) struct Worker<T> {
    tell: Option<Sender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts `body` on a thread of that name.
    pub(super) fn start(
        name: &str,
        body: impl FnOnce(Receiver<T>) + Send + 'static,
    ) -> io::Result<Self> {
        let (tell, told) = channel();
        let thread = std::thread::Builder::new().name(name.to_owned());
        Ok(Self {
            tell: Some(tell),
            thread: Some(thread.spawn(move || body(told))?),
        })
    }

    /// Tells the thread something. False if it has ended.
    #[cfg(feature = "redis")]
    pub(super) fn tell(&self, what: T) -> bool {
        let tell = self.tell.as_ref();
        tell.is_some_and(|tell| tell.send(what).is_ok())
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        drop(self.tell.take());
        if let Some(thread) = self.thread.take()
            // Who drops a watch in its own callback does not wait for itself.
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the callback was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Watch for Worker<()> {}
