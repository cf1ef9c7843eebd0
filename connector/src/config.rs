//! How a connector is set up.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use proscenium_framing::packet::lz4::ORIGINAL_SIZE_MAX;
use proscenium_framing::{ByteOrder, LengthPrefix};

use crate::connector::Handler;
use crate::{BuildError, Connector, Event};

/// The longest of all durations, a hundred years, so that every one can be added to a time.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What carries the packets.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// TLS 1.3 on TCP.
    #[cfg(feature = "tls")]
    Tls,
    /// WebSocket on TCP.
    #[cfg(feature = "ws")]
    Ws,
    /// WebSocket on TLS 1.3.
    #[cfg(all(feature = "tls", feature = "ws"))]
    Wss,
}

impl Transport {
    #[cfg(feature = "tls")]
    pub(crate) fn is_encrypted(self) -> bool {
        match self {
            Self::Tls => true,
            #[cfg(feature = "ws")]
            Self::Wss => true,
            _ => false,
        }
    }

    #[cfg(feature = "ws")]
    pub(crate) fn is_web_socket(self) -> bool {
        match self {
            Self::Ws => true,
            #[cfg(feature = "tls")]
            Self::Wss => true,
            _ => false,
        }
    }
}

/// On which thread callbacks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// On the thread that calls [`Connector::main_thread_action`], when it does. Until then events
    /// wait in a bounded queue, and while that is full nothing is read from the server.
    #[default]
    Queue,
    /// On the I/O thread of all connectors, at once. They must not block: every connector waits
    /// meanwhile. One that panics closes its connector. Without
    /// [`on_event`](Builder::on_event) events are dropped.
    IoThread,
}

/// When to connect again after a connection was lost. An attempt comes `first` after the loss, the
/// next ones after twice as long each, up to `max`; every delay is a random half to the whole of
/// that, so that clients that lost the same server do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The first delay.
    pub first: Duration,
    /// The greatest delay.
    pub max: Duration,
    /// Attempts after each loss, 0 for no end.
    pub attempts: u32,
}

impl Default for Reconnect {
    /// From 200 ms to 30 s, without end.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            max: Duration::from_secs(30),
            attempts: 0,
        }
    }
}

impl Reconnect {
    /// The delay before attempt `attempt`, 0 being the first.
    pub(crate) fn delay(&self, attempt: u32, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.max);
        let half = whole / 2;
        half + half.mul_f64(random as f64 / u64::MAX as f64)
    }
}

/// The options of a connector; begin with [`Connector::builder`]. Durations over a hundred years
/// are a hundred years.
#[must_use = "options alone do nothing"]
pub struct Builder {
    pub(crate) config: Config,
    pub(crate) on_event: Option<Handler>,
    #[cfg(feature = "tls")]
    pub(crate) tls: crate::tls::Trust,
}

/// What a connector keeps of its options.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) transport: Transport,
    pub(crate) codec: LengthPrefix,
    pub(crate) inflated_max: usize,
    pub(crate) send_queue_bytes_max: usize,
    pub(crate) event_queue_max: usize,
    pub(crate) event_queue_bytes_max: usize,
    pub(crate) requests_max: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) dead_after: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) delivery: Delivery,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::Client>,
    #[cfg(feature = "ws")]
    pub(crate) path: String,
    #[cfg(feature = "ws")]
    pub(crate) opening: Option<proscenium_framing::websocket::handshake::Opening>,
}

impl Builder {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        let config = Config {
            host: host.to_owned(),
            port,
            addresses: Vec::new(),
            transport: Transport::Tcp,
            codec: LengthPrefix::le32(),
            inflated_max: ORIGINAL_SIZE_MAX,
            send_queue_bytes_max: 4 * 1024 * 1024,
            event_queue_max: 10_000,
            event_queue_bytes_max: 16 * 1024 * 1024,
            requests_max: 1024,
            heartbeat: Duration::from_secs(10),
            dead_after: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            reconnect: None,
            delivery: Delivery::Queue,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "ws")]
            path: "/ws".to_owned(),
            #[cfg(feature = "ws")]
            opening: None,
        };
        Self {
            config,
            on_event: None,
            #[cfg(feature = "tls")]
            tls: crate::tls::Trust::default(),
        }
    }

    /// What carries the packets. [`Transport::Tcp`].
    pub fn transport(mut self, transport: Transport) -> Self {
        self.config.transport = transport;
        self
    }

    /// The path, and perhaps query, that a WebSocket asks for. `/ws`.
    #[cfg(feature = "ws")]
    pub fn path(mut self, path: &str) -> Self {
        self.config.path = path.to_owned();
        self
    }

    /// Addresses to connect to, tried in turn, instead of those that the host's name resolves to.
    /// A name is resolved by the system on the I/O thread, where a slow name server delays all
    /// connectors; who cannot have that resolves it elsewhere.
    pub fn addresses(mut self, addresses: &[SocketAddr]) -> Self {
        self.config.addresses = addresses.to_vec();
        self
    }

    /// The byte order of the length in front of each packet. [`ByteOrder::Little`].
    pub fn length_order(mut self, order: ByteOrder) -> Self {
        self.config.codec = LengthPrefix::new(order, self.config.codec.limit());
        self
    }

    /// The longest packet in either direction, in bytes, its length prefix not counted. 2 MiB.
    pub fn packet_bytes_max(mut self, bytes: usize) -> Self {
        self.config.codec = LengthPrefix::new(self.config.codec.order(), bytes);
        self
    }

    /// The longest payload that is inflated, in bytes; a server that sends a longer one loses the
    /// connection. 10 MiB, which is also the most.
    pub fn inflated_bytes_max(mut self, bytes: usize) -> Self {
        self.config.inflated_max = bytes.min(ORIGINAL_SIZE_MAX);
        self
    }

    /// How many bytes may wait to be sent; over it is [`SendError::Full`](crate::SendError).
    /// 4 MiB.
    pub fn send_queue_bytes_max(mut self, bytes: usize) -> Self {
        self.config.send_queue_bytes_max = bytes;
        self
    }

    /// How many events may wait to be taken, and how many bytes of them; answers to callbacks
    /// count among them. While there are more, nothing is read from the server, and what is alive
    /// is not judged. 10,000 and 16 MiB.
    pub fn event_queue_max(mut self, events: usize, bytes: usize) -> Self {
        self.config.event_queue_max = events;
        self.config.event_queue_bytes_max = bytes;
        self
    }

    /// How many requests may wait for their answers, at most 65,535. 1,024.
    pub fn requests_max(mut self, requests: usize) -> Self {
        self.config.requests_max = requests;
        self
    }

    /// How often an authenticated connection sends a heartbeat; zero for never. 10 s.
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.config.heartbeat = every;
        self
    }

    /// After how long without a byte from the server an authenticated connection is dead; zero for
    /// never. It has to be longer than the interval of the heartbeats. 30 s.
    pub fn dead_after(mut self, silence: Duration) -> Self {
        self.config.dead_after = silence;
        self
    }

    /// How long connecting may take, with every address and handshake. 30 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// How long a request waits for its answer. 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// Connects again when a connection was lost, and authenticates with what
    /// [`Connector::authenticate`] was last given and the server took. Off. It is not for the
    /// first connection, whose failure [`Connector::connect`] tells.
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.config.reconnect = Some(policy);
        self
    }

    /// On which thread callbacks run. [`Delivery::Queue`].
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.config.delivery = delivery;
        self
    }

    /// Calls this for every event; without it they are taken with [`Connector::next_event`].
    pub fn on_event(mut self, handler: impl FnMut(Event) + Send + 'static) -> Self {
        self.on_event = Some(Box::new(handler));
        self
    }

    /// A connector, not connected yet.
    ///
    /// # Errors
    /// [`BuildError`] for options that contradict each other, unusable certificates, or when the
    /// system refuses the I/O thread.
    pub fn build(self) -> Result<Connector, BuildError> {
        let config = &self.config;
        let wrong = |what| Err(BuildError::Option(what));
        let (heartbeat, dead) = (config.heartbeat, config.dead_after);
        if !dead.is_zero() && (heartbeat.is_zero() || heartbeat >= dead) {
            return wrong("dead_after: has to be longer than the interval of heartbeats");
        }
        if config.connect_timeout.is_zero() || config.request_timeout.is_zero() {
            return wrong("connect_timeout, request_timeout: have to be more than zero");
        }
        if !(1..=usize::from(u16::MAX)).contains(&config.requests_max) {
            return wrong("requests_max: 1 to 65,535");
        }
        if config.event_queue_max == 0 || config.event_queue_bytes_max == 0 {
            return wrong("event_queue_max: at least one event and one byte");
        }
        Connector::start(self.bounded())
    }

    /// With durations that mean "never" cut to what can be added to a time.
    fn bounded(mut self) -> Self {
        let config = &mut self.config;
        let mut durations = vec![
            &mut config.heartbeat,
            &mut config.dead_after,
            &mut config.connect_timeout,
            &mut config.request_timeout,
        ];
        if let Some(policy) = &mut config.reconnect {
            durations.extend([&mut policy.first, &mut policy.max]);
        }
        for duration in durations {
            *duration = DURATION_MAX.min(*duration);
        }
        self
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_greatest_and_are_jittered() {
        let policy = Reconnect {
            first: Duration::from_millis(100),
            max: Duration::from_secs(1),
            attempts: 0,
        };
        for (attempt, whole) in [(0, 100), (1, 200), (3, 800), (4, 1000), (40, 1000)] {
            let whole = Duration::from_millis(whole);
            assert_eq!(policy.delay(attempt, 0), whole / 2);
            assert_eq!(policy.delay(attempt, u64::MAX), whole);
            let middle = policy.delay(attempt, u64::MAX / 2);
            assert!(whole / 2 < middle && middle < whole);
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let second = Duration::from_secs(1);
        let builder = || Builder::new("localhost", 1);
        for wrong in [
            builder().heartbeat(second).dead_after(second),
            builder().heartbeat(Duration::ZERO),
            builder().request_timeout(Duration::ZERO),
            builder().connect_timeout(Duration::ZERO),
            builder().requests_max(0),
            builder().requests_max(65_536),
            builder().event_queue_max(0, 1),
        ] {
            let built = wrong.build();
            assert!(matches!(built, Err(BuildError::Option(_))), "{built:?}");
        }
    }
}
