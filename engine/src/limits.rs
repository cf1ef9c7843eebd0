//! [`Limits`]: every bound of a shard in one place.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What happens when a connection's send queue passes its high watermark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Stop reading from this peer until the queue is below the low watermark: whoever does not
    /// read its answers cannot ask more. Sends of others are accepted up to
    /// [`Limits::send_queue_max`], then refused with `Full`. For one end of a connection only, see
    /// [`Connector::overflow`](crate::Connector::overflow). The default of listeners.
    #[default]
    PauseReading,
    /// Refuse the new message with `Full` and count it as dropped; the connection goes on. A
    /// message that would pass the high watermark is taken all the same while the queue is below
    /// the low one: else a message longer than the watermark could never be sent. The default of
    /// connectors.
    DropNewest,
    /// Close the connection with [`CloseReason::SlowConsumer`](crate::CloseReason::SlowConsumer);
    /// not while its queue is below the low watermark, see above.
    Close,
}

macro_rules! limits {
    ($( $(#[$doc:meta])* $name:ident : $type:ty = $default:expr; )*) => {
        /// The bounds of one shard. Each is documented with its unit and default; set them in
        /// builder style:
        ///
        /// ```
        /// use proscenium_engine::Limits;
        /// let limits = Limits::default().connections_max(1_000).frame_max(64 * 1024);
        /// assert_eq!(limits.connections_max, 1_000);
        /// ```
        ///
        /// The greatest memory of a shard is about `connections_max` × 300 B
        /// + `receive_chunks_max` × `receive_chunk` + `reassembly_bytes_max` + `send_bytes_max`
        /// + `mailbox_max` × 64 B (and the bodies that wait in the mailbox).
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub struct Limits { $( $(#[$doc])* pub $name: $type, )* }

        impl Default for Limits {
            fn default() -> Self {
                Self { $( $name: $default, )* }
            }
        }

        impl Limits {
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

limits! {
    /// Connections of one shard, accepted, outgoing, moved here and about to. One more is closed at
    /// once and counted, or not made, or not moved. One that moved away counts where it lives, but
    /// keeps its slot (of about 300 B) where it was born. Default 100,000.
    connections_max: usize = 100_000;
    /// Accepted connections per second and peer address (an IPv4 address, or the /64 network of an
    /// IPv6 address, all of which one host may have), averaged over
    /// [`accept_burst`](Self#structfield.accept_burst); more are closed at once and counted.
    /// 0 = no limit, the default.
    accepts_per_second: u32 = 0;
    /// How many connections of one address may come at once under `accepts_per_second`.
    /// Default 100.
    accept_burst: u32 = 100;
    /// How long a listener rests after accepting failed, mostly for want of descriptors, before it
    /// tries again. Not zero. Default 50 ms.
    accept_retry: Duration = Duration::from_millis(50);
    /// Greatest body length of a frame in bytes, both directions. Default 2 MiB.
    frame_max: usize = 2 * MIB;
    /// Size of a receive chunk, in bytes. Longer than `receive_max` it pays for handlers that leave
    /// the beginnings of long messages there ([`Context::leave`](crate::Context::leave)).
    /// Default 64 KiB.
    receive_chunk: usize = 64 * KIB;
    /// Bytes read from one connection at once, if the chunk has so many; the rest waits until every
    /// other ready connection had its turn. Default 64 KiB.
    receive_max: usize = 64 * KIB;
    /// Receive chunks of a shard that may be leased out as bodies at the same time. When the last
    /// one is in use, bodies are copied to their own size instead. Default 64 (4 MiB).
    receive_chunks_max: usize = 64;
    /// Bytes of incomplete or held-back frames of all connections of a shard. When exhausted,
    /// the connection with the oldest incomplete frame is closed. Default 256 MiB.
    reassembly_bytes_max: usize = 256 * MIB;
    /// Send queue of one connection: above this many bytes the listener's [`Overflow`] policy
    /// acts, unless it is a single message that is longer. Default 1 MiB.
    send_high: usize = MIB;
    /// Below this many bytes, whoever was paused or told `Full` is told once that it goes on.
    /// Default 256 KiB.
    send_low: usize = 256 * KIB;
    /// Send queue of one connection: never more bytes than this, whatever the policy.
    /// Default 8 MiB.
    send_queue_max: usize = 8 * MIB;
    /// Memory for unsent bytes of all connections of a shard, counted in leased buffers (powers of
    /// two from 4 KiB); may be passed by the size of one buffer. When exhausted, sends are refused
    /// with `Full` and the connection with the most unsent bytes is closed. Default 512 MiB.
    send_bytes_max: usize = 512 * MIB;
    /// Messages in a shard's mailbox; beyond, the producer gets `Full`. Default 16,384.
    mailbox_max: usize = 16 * 1024;
    /// A connection from which nothing arrives for so long is closed. Time during which *we*
    /// paused reading does not count, nor does a shard that is late call anybody idle whose bytes
    /// wait in the socket. Zero = never, the default.
    idle_timeout: Duration = Duration::ZERO;
    /// After a graceful close: how long the peer may take to read what is queued and to close its
    /// side. Default 2 s.
    linger: Duration = Duration::from_secs(2);
    /// How long the layers of an accepted connection may take to make their handshakes; the rest
    /// end counted (`handshake_timeout`). Those of outgoing ones end with the connect deadline.
    /// Not zero. Default 10 s.
    handshake_timeout: Duration = Duration::from_secs(10);
    /// Steps of TLS handshakes (a flight of the peer, worked on) in one turn of a shard. The rest
    /// wait in order for the next turns, so that a flood of handshakes (about 0.2 ms each with
    /// ECDSA, 0.4 ms with RSA) prolongs a turn by a few milliseconds at most. Default 8.
    handshakes_per_turn: usize = 8;
}

impl Limits {
    /// Checks that the limits fit together.
    ///
    /// # Errors
    /// Says which two fields contradict each other, with both values.
    pub fn validate(&self) -> Result<(), String> {
        if self.frame_max > u32::MAX as usize - 4 {
            let (given, most) = (self.frame_max, u32::MAX - 4);
            return Err(format!("limits: frame_max is {given}, the most is {most}"));
        }
        let rules = [
            (
                self.receive_chunk >= 4 * KIB,
                "receive_chunk",
                self.receive_chunk,
                "4096",
                4 * KIB,
            ),
            (
                self.receive_max >= 4 * KIB,
                "receive_max",
                self.receive_max,
                "4096",
                4 * KIB,
            ),
            (
                self.receive_chunks_max >= 1,
                "receive_chunks_max",
                self.receive_chunks_max,
                "1",
                1,
            ),
            (
                self.handshakes_per_turn >= 1,
                "handshakes_per_turn",
                self.handshakes_per_turn,
                "1",
                1,
            ),
            (
                self.mailbox_max >= 1,
                "mailbox_max",
                self.mailbox_max,
                "1",
                1,
            ),
            (
                self.send_high > self.send_low,
                "send_high",
                self.send_high,
                "send_low",
                self.send_low,
            ),
            (
                self.send_queue_max >= self.send_high,
                "send_queue_max",
                self.send_queue_max,
                "send_high",
                self.send_high,
            ),
            (
                self.send_queue_max >= self.frame_max + 4,
                "send_queue_max",
                self.send_queue_max,
                "frame_max + 4",
                self.frame_max + 4,
            ),
            (
                self.reassembly_bytes_max >= crate::pool::size_for(self.frame_max + 4),
                "reassembly_bytes_max",
                self.reassembly_bytes_max,
                "the buffer of the longest frame",
                crate::pool::size_for(self.frame_max + 4),
            ),
        ];
        for (holds, name, value, bound_name, bound) in rules {
            if !holds {
                return Err(format!(
                    "limits: {name} is {value}, but must be at least {bound_name} ({bound})"
                ));
            }
        }
        if self.accept_retry.is_zero() {
            return Err("limits: accept_retry is 0, but must be longer".to_owned());
        }
        if self.handshake_timeout.is_zero() {
            return Err("limits: handshake_timeout is 0, but must be longer".to_owned());
        }
        if self.connections_max >= crate::RouterId::SLOTS_MAX {
            let most = crate::RouterId::SLOTS_MAX - 1;
            let given = self.connections_max;
            return Err(format!(
                "limits: connections_max is {given}, the most is {most}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fit_together_and_contradictions_are_named() {
        assert_eq!(Limits::default().validate(), Ok(()));
        let error = Limits::default().send_low(2 * MIB).validate().unwrap_err();
        assert!(
            error.contains("send_high") && error.contains("send_low"),
            "{error}"
        );
        let limits = Limits::default().accept_retry(Duration::ZERO);
        assert!(limits.validate().unwrap_err().contains("accept_retry"));
    }
}
