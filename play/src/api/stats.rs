//! [`ApiStats`]: what an API server has done.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// What the handlers of an API server have done: numbers since the start, except where it
        /// says "now". What its links did is told by [`NodeStats`](proscenium_nodelink::NodeStats).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ApiStats {
            $( $(#[$doc])* pub $name: u64, )*
        }

        /// The same, being counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counts {
            $( pub(crate) $name: Count, )*
        }

        impl Counts {
            pub(crate) fn read(&self) -> ApiStats {
                ApiStats { $( $name: self.$name.0.load(Ordering::Relaxed), )* }
            }
        }

        impl ApiStats {
            /// Every number with its name, for metrics.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [ $( (stringify!($name), self.$name), )* ].into_iter()
            }
        }
    };
}

/// A number that any thread counts.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }
}

stats! {
    /// Handlers under way, and answers on their way to the links, now.
    running,
    /// Bytes of the payloads that these were given, and of the names of servers that wait for
    /// them, now.
    running_bytes,
    /// Messages that were given to a handler.
    handled,
    /// Of these: handlers that returned an error.
    failures,
    /// Handlers that panicked.
    panics,
    /// Handlers that were ended at their deadline.
    timed_out,
    /// Handlers that were ended because the server did.
    abandoned,
    /// Messages whose payload was not what their handler decodes.
    invalid,
    /// Messages for which there is no handler.
    unknown,
    /// Messages refused because too many handlers were under way, or their payloads too large.
    refused_full,
    /// Messages refused because more requests wait for them than may be nested.
    refused_deep,
    /// Messages refused because the server is about to end.
    refused_ending,
    /// Answers that were lost: whoever asked is gone, or does not read.
    replies_lost,
    /// Requests of HTTP (feature `http`, as the next two).
    http_requests,
    /// Requests of HTTP whose route panicked.
    http_panics,
    /// Requests of HTTP that took too long.
    http_timed_out,
}
