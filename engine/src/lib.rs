//! The engine of Proscenium: event loop, shards, connections, mailboxes, timers.
