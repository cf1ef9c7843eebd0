//! What a node is, from a TOML file. Every error names the line and the key.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proscenium_engine::Address;
use proscenium_nodelink::directory::{Directory, FileDirectory, RedisDirectory, ServerType};
use proscenium_nodelink::{AddressRange, AllowList, Endpoint, Nid, NodeOptions};
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

use crate::units::{parse_bytes, parse_duration};

/// A file with everything in it that can be said, as `--example-config` prints it.
pub(super) const EXAMPLE: &str = r#"# A node of a mesh. Needed are `nid`, and one
# of `bind`, [[peers]] and [directory].

# Its name in the mesh, 1 to 255 bytes, no control characters.
nid = "play-1"
# Where other nodes reach it; port 0 takes a free one.
bind = ["127.0.0.1:7100"]
# From which addresses they may come. Beyond loopback there is no listening without.
allow = ["127.0.0.0/8", "::1"]
# Send only on links that this node has dialled: for meshes of two sockets per server.
split = false
# How long the end may take when SIGTERM comes: requests are answered, queues written.
drain = "5s"

# Nodes to connect to, besides those of the directory. A name is optional; another one is refused.
[[peers]]
address = "127.0.0.1:7101"
nid = "play-2"

# Who is in the mesh: a file (see docs/guide/nodelink.md), or redis://HOST:PORT, where the node
# also announces itself. Relative paths begin at this file's folder.
#[directory]
#source = "mesh.txt"
#mesh = "default"            # its name in Redis
#ttl = "15s"                 # after which Redis forgets a node that says nothing
#type = "play"               # play, api or a number: what it is announced as
#service = 1
#weight = 100
#address = "10.0.0.1:7100"   # where others reach it; default the first of `bind`

# Bounds; these are the defaults.
[limits]
queue_messages = 100_000     # that wait for one link
queue_bytes = "64MiB"
reply_bytes = "16MiB"        # for replies, beyond that
requests = 1_048_576         # unanswered by one peer
peers = 4096
frame = "16MiB"              # the longest part of a message

[times]
heartbeat = "5s"             # of silence, then a PING
dead_after = "15s"
request_deadline = "30s"
handshake_deadline = "10s"
backoff_first = "100ms"      # between attempts to connect
backoff_max = "30s"
"#;

/// Room for the header beside the longest payload.
const HEAD: usize = 64 * 1024;

/// The file.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) nid: Parsed<Nid>,
    #[serde(default)]
    pub(super) bind: Vec<Parsed<Address>>,
    allow: Option<Vec<Parsed<AddressRange>>>,
    #[serde(default)]
    split: bool,
    pub(super) drain: Option<Parsed<Duration>>,
    #[serde(default)]
    peers: Vec<PeerConfig>,
    pub(super) directory: Option<DirectoryConfig>,
    #[serde(default)]
    limits: LimitsConfig,
    #[serde(default)]
    times: TimesConfig,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerConfig {
    address: Parsed<Address>,
    nid: Option<Parsed<Nid>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DirectoryConfig {
    pub(super) source: String,
    pub(super) mesh: Option<String>,
    pub(super) ttl: Option<Parsed<Duration>>,
    #[serde(rename = "type")]
    pub(super) server_type: Option<Parsed<ServerType>>,
    #[serde(default)]
    pub(super) service: u16,
    pub(super) weight: Option<u32>,
    pub(super) address: Option<Parsed<Address>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsConfig {
    queue_messages: Option<usize>,
    queue_bytes: Option<Bytes>,
    reply_bytes: Option<Bytes>,
    requests: Option<usize>,
    peers: Option<usize>,
    frame: Option<Bytes>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TimesConfig {
    heartbeat: Option<Parsed<Duration>>,
    dead_after: Option<Parsed<Duration>>,
    request_deadline: Option<Parsed<Duration>>,
    handshake_deadline: Option<Parsed<Duration>>,
    backoff_first: Option<Parsed<Duration>>,
    backoff_max: Option<Parsed<Duration>>,
}

/// A value that is written as text.
#[derive(Clone, Debug)]
pub(super) struct Parsed<T>(pub(super) T);

/// What texts are read as.
trait Text: Sized {
    fn read(text: &str) -> Result<Self, String>;
}

impl Text for Nid {
    fn read(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| error.to_string())
    }
}

impl Text for Address {
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|error| error.to_string())
    }
}

impl Text for AddressRange {
    fn read(text: &str) -> Result<Self, String> {
        let error = |_| format!("`{text}` is no range: expected 10.0.0.0/8 or 192.168.0.7");
        text.parse().map_err(error)
    }
}

impl Text for Duration {
    fn read(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
}

impl Text for ServerType {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "play" => Ok(Self::Play),
            "api" => Ok(Self::Api),
            other => other
                .parse()
                .map(Self::Other)
                .map_err(|_| format!("`{other}` is no type: expected play, api or a number")),
        }
    }
}

impl<'de, T: Text> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        T::read(&text).map(Self).map_err(D::Error::custom)
    }
}

/// A number of bytes, or `64MiB`.
#[derive(Clone, Copy, Debug)]
struct Bytes(usize);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes, such as 1024 or \"64MiB\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Bytes, E> {
                let number = usize::try_from(number);
                number
                    .map(Bytes)
                    .map_err(|_| E::custom("less than nothing"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                parse_bytes(text).map(Bytes).map_err(E::custom)
            }
        }
        from.deserialize_any(Either)
    }
}

impl Config {
    /// The file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or says something that cannot be: names the line.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("--config {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("--config {}: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if config.bind.is_empty() && config.peers.is_empty() && config.directory.is_none() {
            return Err(
                "nobody can be linked to: one of `bind`, `[[peers]]` and `[directory]` is needed"
                    .to_owned(),
            );
        }
        Ok(config)
    }

    /// The node's options.
    pub(super) fn options(&self) -> NodeOptions {
        let mut options = NodeOptions::new(self.nid.0.clone()).split(self.split);
        if let Some(allow) = &self.allow {
            let ranges = allow.iter().map(|range| range.0);
            options = options.allow(AllowList::new(ranges));
        }
        let limits = &self.limits;
        let set = |place: &mut usize, value: Option<usize>| {
            if let Some(value) = value {
                *place = value;
            }
        };
        set(&mut options.queue_messages_max, limits.queue_messages);
        set(
            &mut options.queue_bytes_max,
            limits.queue_bytes.map(|bytes| bytes.0),
        );
        set(
            &mut options.reply_bytes_max,
            limits.reply_bytes.map(|bytes| bytes.0),
        );
        set(&mut options.requests_max, limits.requests);
        set(&mut options.peers_max, limits.peers);
        if let Some(Bytes(frame)) = limits.frame {
            options.zmtp.frame_max = frame;
            options.zmtp.message_max = options.zmtp.message_max.max(frame.saturating_add(HEAD));
        }
        let times = &self.times;
        let set = |place: &mut Duration, value: &Option<Parsed<Duration>>| {
            if let Some(Parsed(value)) = value {
                *place = *value;
            }
        };
        set(&mut options.heartbeat, &times.heartbeat);
        set(&mut options.dead_after, &times.dead_after);
        set(&mut options.request_deadline, &times.request_deadline);
        set(&mut options.handshake_deadline, &times.handshake_deadline);
        set(&mut options.backoff.first, &times.backoff_first);
        set(&mut options.backoff.max, &times.backoff_max);
        options
    }

    /// Where to connect to, besides the directory.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        self.peers.iter().map(|peer| {
            let address = peer.address.0.clone();
            match &peer.nid {
                Some(Parsed(nid)) => Endpoint::of(nid.clone(), address),
                None => Endpoint::new(address),
            }
        })
    }
}

/// Where nodes are looked up.
pub(super) enum Source {
    File(FileDirectory),
    Redis(Box<RedisDirectory>),
}

impl Source {
    /// A file, or `redis://HOST:PORT`. Relative paths begin at `folder`.
    ///
    /// # Errors
    /// When it is neither.
    pub(super) fn new(text: &str, mesh: Option<&str>, folder: &Path) -> Result<Self, String> {
        if text.starts_with("redis://") || text.starts_with("rediss://") {
            let directory = RedisDirectory::new(text).and_then(|redis| match mesh {
                Some(mesh) => redis.mesh(mesh),
                None => Ok(redis),
            });
            let directory = directory.map_err(|error| format!("the directory: {error}"))?;
            return Ok(Self::Redis(Box::new(directory)));
        }
        if mesh.is_some() {
            return Err("the directory: a file has no `mesh`; that is for Redis".to_owned());
        }
        Ok(Self::File(FileDirectory::new(folder.join(text))))
    }

    pub(super) fn as_directory(&self) -> &dyn Directory {
        match self {
            Self::File(file) => file,
            Self::Redis(redis) => &**redis,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_what_it_says_it_is() {
        let config = Config::parse(EXAMPLE).unwrap();
        let (options, default) = (
            config.options(),
            NodeOptions::new(Nid::new("play-1").unwrap()),
        );
        let numbers = |of: &NodeOptions| {
            (
                (
                    of.queue_messages_max,
                    (of.queue_bytes_max, of.reply_bytes_max),
                    of.requests_max,
                    of.peers_max,
                ),
                (
                    of.heartbeat,
                    of.dead_after,
                    of.request_deadline,
                    of.handshake_deadline,
                ),
                (
                    of.backoff.first,
                    of.backoff.max,
                    of.zmtp.frame_max,
                    of.zmtp.message_max,
                ),
            )
        };
        assert_eq!(
            numbers(&options),
            numbers(&default),
            "it claims to show the defaults"
        );
        assert_eq!(config.endpoints().count(), 1);
        // What is commented out has to be right, too.
        let whole: Vec<&str> = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => rest,
                _ => line,
            })
            .collect();
        let config = Config::parse(&whole.join("\n")).unwrap();
        assert_eq!(config.directory.unwrap().service, 1);
    }

    #[test]
    fn errors_name_the_line_and_what_was_expected() {
        for (text, line, expected) in [
            ("nid = \"a\"\nbind = [\"nowhere\"]", "line 2", "nowhere"),
            ("nid = \"\"\nbind = []", "line 1", "255"),
            ("bind = [\"127.0.0.1:0\"]", "line 1", "nid"),
            ("nid = \"a\"\nbound = []", "line 2", "bound"),
            (
                "nid = \"a\"\nallow = [\"10.0.0.0/40\"]",
                "line 2",
                "10.0.0.0/8",
            ),
            (
                "nid = \"a\"\n\n[times]\nheartbeat = \"5\"",
                "line 4",
                "500ms",
            ),
            (
                "nid = \"a\"\n[limits]\nqueue_bytes = \"big\"",
                "line 3",
                "64KiB",
            ),
            ("nid = \"a\"\n[limits]\npeers = -1", "line 3", "-1"),
            ("nid = \"a\"\n[[peers]]\nnid = \"b\"", "line 2", "address"),
            (
                "nid = \"a\"\n[directory]\nsource = \"f\"\ntype = \"x\"",
                "line 4",
                "play, api",
            ),
            ("nid = \"a", "line 1", "string"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(line), "{line}: {text}: {error}");
            assert!(error.contains(expected), "{expected}: {text}: {error}");
        }
        let error = Config::parse("nid = \"a\"").unwrap_err();
        assert!(error.contains("bind"), "{error}");
    }

    #[test]
    fn limits_and_times_are_taken_over() {
        let text = "nid = \"a\"\nbind = [\"127.0.0.1:0\"]\nsplit = true\nallow = [\"10.0.0.0/8\"]\n\
                    [limits]\nqueue_bytes = 1000\nframe = \"1KiB\"\n[times]\nbackoff_max = \"1s\"";
        let options = Config::parse(text).unwrap().options();
        assert_eq!(
            (options.queue_bytes_max, options.zmtp.frame_max),
            (1000, 1024)
        );
        assert_eq!(options.backoff.max, Duration::from_secs(1));
        assert!(options.split && options.allow.allows("10.1.2.3".parse().unwrap()));
        assert!(!options.allow.allows("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_directory_is_a_file_or_a_redis() {
        let here = Path::new("/mesh");
        assert!(matches!(
            Source::new("a.txt", None, here),
            Ok(Source::File(_))
        ));
        let redis = Source::new("redis://127.0.0.1:1", Some("m"), here);
        assert!(matches!(redis, Ok(Source::Redis(_))));
        let error = Source::new("a.txt", Some("m"), here).err().unwrap();
        assert!(error.contains("Redis"), "{error}");
    }
}
