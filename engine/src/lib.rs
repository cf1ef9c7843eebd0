//! The engine of Proscenium: event loop, shards, connections, mailboxes, timers.

pub mod mailbox;
pub mod timer;
