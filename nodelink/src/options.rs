//! [`NodeOptions`]: who a node is, and its bounds.

use std::time::Duration;

use proscenium_engine::Backoff;
use proscenium_framing::zmtp;

use crate::message::Share;
use crate::{AllowList, Nid};

const MIB: usize = 1 << 20;

macro_rules! options {
    ($( $(#[$doc:meta])* $name:ident : $type:ty = $default:expr; )*) => {
        /// Who a node is, and its bounds; set them in builder style:
        ///
        /// ```
        /// use std::time::Duration;
        /// use proscenium_nodelink::{Nid, NodeOptions};
        /// let options = NodeOptions::new(Nid::new("play-1")?)
        ///     .request_deadline(Duration::from_secs(5));
        /// # Ok::<(), proscenium_nodelink::NidError>(())
        /// ```
        ///
        /// The greatest memory of a node is about `links_max` × 1 KiB + `peers_max` × (2 ×
        /// (`queue_bytes_max` + `reply_bytes_max`) + `requests_max` × 150 B) +
        /// `reassembly_bytes_max` + what waits in `commands_max`, whose queue of 140 B each is
        /// allocated as a whole. A mesh of 100 peers that are all stuck at the defaults is 8 GiB of
        /// queues for each direction: lower `queue_bytes_max` where that is too much.
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub struct NodeOptions {
            /// The node's name.
            pub nid: Nid,
            $( $(#[$doc])* pub $name: $type, )*
        }

        impl NodeOptions {
            /// The defaults, under that name.
            pub fn new(nid: Nid) -> Self {
                Self { nid, $( $name: $default, )* }
            }

            $(
                #[doc = concat!(
                    "Sets [`", stringify!($name), "`](Self#structfield.", stringify!($name), ")."
                )]
                #[must_use]
                pub fn $name(mut self, value: $type) -> Self {
                    self.$name = value;
                    self
                }
            )*
        }
    };
}

options! {
    /// Never send on a link that was accepted: for meshes whose servers have two sockets each, one
    /// that only dials and sends, one that only listens and receives. A peer is then reachable
    /// once this node has dialled it. Default off.
    split: bool = false;
    /// From which addresses peers may come. Default loopback only.
    allow: AllowList = AllowList::default();
    /// How long a connection attempt, and after it greeting and handshake, may take each.
    /// Default 10 s.
    handshake_deadline: Duration = Duration::from_secs(10);
    /// A link on which nothing arrived for so long is sent a PING (to peers of ZMTP 3.1).
    /// Default 5 s.
    heartbeat: Duration = Duration::from_secs(5);
    /// A peer that was asked for a sign of life, or that has been sent something it does not read,
    /// is dead after so long: the link is closed and its requests fail. Default 15 s.
    dead_after: Duration = Duration::from_secs(15);
    /// When a request without a deadline of its own fails. Default 30 s.
    request_deadline: Duration = Duration::from_secs(30);
    /// The delays between attempts to connect. They start over with the first message that a peer
    /// sends, not when the connection is made. Default 100 ms to 30 s.
    backoff: Backoff = Backoff::default();
    /// TCP keep-alive: idle time before the first probe, time between probes. Default 60 s, 10 s.
    keep_alive: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
    /// Messages that may wait for one link, beyond what its connection has taken into the
    /// engine's send queue; then senders are told `Full`. Default 100,000.
    queue_messages_max: usize = 100_000;
    /// Bytes that may wait for one link, likewise. A single message is taken by an empty queue
    /// whatever its length. Default 64 MiB.
    queue_bytes_max: usize = 64 * MIB;
    /// Bytes beyond `queue_bytes_max` that nothing but replies may take in the queue of one link,
    /// so that these need no room among what is sent; their number is not limited. While more than
    /// half of it is taken, further requests of that peer are not accepted but answered 14 at once;
    /// what was accepted has three quarters for its replies; the last quarter is for what is sent
    /// in place of a reply that finds no room: an empty one with code 14. If even that finds none,
    /// the link on which the peer asked is closed, which tells it as well. Default 16 MiB.
    reply_bytes_max: usize = 16 * MIB;
    /// Requests to one peer that may be unanswered at the same time. Default 1,048,576.
    requests_max: usize = 1 << 20;
    /// Different peers. A further one is refused. Default 4,096.
    peers_max: usize = 4096;
    /// Connections of all kinds, those in handshake included. A further accepted one is refused.
    /// Default 8,448.
    links_max: usize = 2 * 4096 + 256;
    /// Memory for incomplete messages of all links, in bytes; the link that exceeds it is closed.
    /// Default 256 MiB.
    reassembly_bytes_max: usize = 256 * MIB;
    /// What handles of other threads may have asked for that the shard has not yet begun; then
    /// they are told `Full`. Default 65,536.
    commands_max: usize = 65_536;
    /// The bounds of what one peer sends: frame, message, properties.
    zmtp: zmtp::Limits = zmtp::Limits::default();
}

impl NodeOptions {
    /// The longest payload that a message can have with any header of up to 4 KiB, in bytes.
    pub fn payload_max(&self) -> usize {
        let message = self.zmtp.message_max.saturating_sub(4096 + 18);
        self.zmtp.frame_max.min(message).min(u32::MAX as usize)
    }

    /// Whether requests are still accepted from a peer whose link has that much waiting.
    #[inline]
    pub(crate) fn accepts_requests(&self, queued: usize) -> bool {
        queued
            <= self
                .queue_bytes_max
                .saturating_add(self.reply_bytes_max / 2)
    }

    /// Messages and bytes that may wait for one link, for that share.
    pub(crate) fn queue_max(&self, share: Share) -> (usize, usize) {
        let replies = match share {
            Share::Ordinary => return (self.queue_messages_max, self.queue_bytes_max),
            Share::Reply => self.reply_bytes_max / 4 * 3,
            Share::Excuse => self.reply_bytes_max,
        };
        (usize::MAX, self.queue_bytes_max.saturating_add(replies))
    }

    /// How often links are looked at.
    pub(crate) fn tick(&self) -> Duration {
        let shortest = self
            .heartbeat
            .min(self.dead_after)
            .min(self.handshake_deadline);
        (shortest / 8).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }

    /// Ticks that make up `time`, at least two: one may be nearly over when counting begins.
    pub(crate) fn ticks(&self, time: Duration) -> u32 {
        let ticks = time.as_nanos().div_ceil(self.tick().as_nanos());
        u32::try_from(ticks)
            .unwrap_or(u32::MAX)
            .max(1)
            .saturating_add(1)
    }
}
