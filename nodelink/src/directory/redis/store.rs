//! [`Store`]: a connection to Redis, and the three things that are done there.

use std::fmt;
use std::io;
use std::time::Duration;

use redis::{Client, Connection, ErrorKind, RedisError, ServerErrorKind};

use super::Config;
use crate::directory::{ServerInfo, ServerInfoError};

/// A longer entry is broken. What is read of one is no longer, either.
pub(super) const ENTRY_MAX: usize = 1024;
/// The entry of a server that has been withdrawn: so nobody waits whether it comes back.
const LEFT: &str = "left";
/// How long that is remembered.
const LEFT_FOR: Duration = Duration::from_secs(60);

// In each script KEYS[1] is the set of all names. The key of a server is KEYS[2], or begins with
// what is given.

/// ARGV: NID, entry, TTL in milliseconds, channel.
const ANNOUNCE: &str = "
local was = redis.pcall('GET', KEYS[2])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], 0, ARGV[1])
if was ~= ARGV[2] then redis.call('PUBLISH', ARGV[4], ARGV[1]) end
return 1";

/// ARGV: NID, the entry that we made, `left`, for how many milliseconds, channel. What somebody
/// else has announced under that name in the meantime stays.
const WITHDRAW: &str = "
if redis.pcall('GET', KEYS[2]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[1])
return 1";

/// ARGV: the beginning of a server's key, how many servers at most, how many bytes of each. Names
/// whose entry has expired are removed on the way. Answers how many names there are, then names
/// and entries.
const READ: &str = "
local found = {redis.call('ZCARD', KEYS[1])}
local names = redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1)
for _, name in ipairs(names) do
  local entry = redis.pcall('GETRANGE', ARGV[1] .. name, 0, ARGV[3])
  if type(entry) ~= 'string' then entry = '?' end
  if entry == '' then
    redis.call('ZREM', KEYS[1], name)
  else
    found[#found + 1] = string.sub(name, 1, 256)
    found[#found + 1] = entry
  end
end
return found";

/// What stands there under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A server.
    Server(ServerInfo),
    /// It was withdrawn.
    Left,
}

/// What a read found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) entries: Vec<(String, Entry)>,
    /// Entries that are none, and why: name and reason.
    pub(super) broken: Vec<(String, String)>,
    /// Names beyond `servers_max`.
    pub(super) left_out: u64,
}

impl Found {
    /// Judges one name and what stands under it.
    pub(super) fn add(&mut self, name: &[u8], entry: &[u8]) {
        let shown = name.escape_ascii().to_string();
        match judge(name, entry) {
            Ok(entry) => self.entries.push((shown, entry)),
            Err(reason) => self.broken.push((shown, reason)),
        }
    }
}

fn judge(name: &[u8], entry: &[u8]) -> Result<Entry, String> {
    if entry == LEFT.as_bytes() {
        return Ok(Entry::Left);
    }
    if entry.len() > ENTRY_MAX {
        return Err(format!("longer than {ENTRY_MAX} bytes"));
    }
    let text = std::str::from_utf8(entry).map_err(|_| "not UTF-8".to_owned())?;
    let server = readable(text).map_err(|error| error.to_string())?;
    if server.nid.as_bytes() != name {
        return Err(format!("it names {}", server.nid));
    }
    Ok(Entry::Server(server))
}

/// A server as it is written, its address in numbers: a name in an entry of somebody else's would
/// keep us waiting for the resolver.
pub(super) fn readable(text: &str) -> Result<ServerInfo, ServerInfoError> {
    ServerInfo::read(text, false)
}

/// A connection to Redis.
pub(super) struct Store {
    pub(super) connection: Connection,
    keys: Keys,
}

/// The names of what is kept.
#[derive(Clone)]
struct Keys {
    servers: String,
    server: String,
    changes: String,
}

impl Keys {
    /// The braces keep them together in a cluster.
    fn new(mesh: &str) -> Self {
        Self {
            servers: format!("proscenium:{{{mesh}}}:servers"),
            server: format!("proscenium:{{{mesh}}}:server:"),
            changes: format!("proscenium:{{{mesh}}}:changes"),
        }
    }
}

impl Store {
    /// Connects and logs in.
    pub(super) fn connect(config: &Config) -> io::Result<Self> {
        let explain = |error| explain(config, &error);
        let client = Client::open(config.target.clone()).map_err(explain)?;
        let connection = client.get_connection_with_timeout(config.timeout);
        let connection = connection.map_err(explain)?;
        let most = Some(config.timeout);
        connection.set_read_timeout(most).map_err(explain)?;
        connection.set_write_timeout(most).map_err(explain)?;
        Ok(Self {
            connection,
            keys: Keys::new(&config.mesh),
        })
    }

    /// The channel that changes are told on.
    pub(super) fn channel(config: &Config) -> String {
        Keys::new(&config.mesh).changes
    }

    pub(super) fn announce(
        &mut self,
        nid: &str,
        entry: &str,
        ttl: Duration,
    ) -> Result<(), RedisError> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX >> 12);
        redis::cmd("EVAL")
            .arg(ANNOUNCE)
            .arg(2)
            .arg(&self.keys.servers)
            .arg(format!("{}{nid}", self.keys.server))
            .arg(nid)
            .arg(entry)
            .arg(ttl)
            .arg(&self.keys.changes)
            .exec(&mut self.connection)
    }

    pub(super) fn withdraw(&mut self, nid: &str, entry: &str) -> Result<(), RedisError> {
        redis::cmd("EVAL")
            .arg(WITHDRAW)
            .arg(2)
            .arg(&self.keys.servers)
            .arg(format!("{}{nid}", self.keys.server))
            .arg(nid)
            .arg(entry)
            .arg(LEFT)
            .arg(LEFT_FOR.as_millis() as u64)
            .arg(&self.keys.changes)
            .exec(&mut self.connection)
    }

    pub(super) fn read(&mut self, servers_max: usize) -> Result<Found, RedisError> {
        let answer: redis::Value = redis::cmd("EVAL")
            .arg(READ)
            .arg(1)
            .arg(&self.keys.servers)
            .arg(&self.keys.server)
            .arg(servers_max)
            .arg(ENTRY_MAX)
            .query(&mut self.connection)?;
        found(&answer, servers_max)
    }
}

/// The answer of [`READ`].
fn found(answer: &redis::Value, servers_max: usize) -> Result<Found, RedisError> {
    use redis::Value::{Array, BulkString, Int};
    let wrong = || RedisError::from((ErrorKind::UnexpectedReturnType, "not what a read answers"));
    let Array(items) = answer else {
        return Err(wrong());
    };
    let [Int(names), pairs @ ..] = &items[..] else {
        return Err(wrong());
    };
    let mut found = Found {
        left_out: u64::try_from(*names)
            .unwrap_or(0)
            .saturating_sub(servers_max as u64),
        ..Found::default()
    };
    for pair in pairs.chunks(2) {
        let [BulkString(name), BulkString(entry)] = pair else {
            return Err(wrong());
        };
        found.add(name, entry);
    }
    Ok(found)
}

/// An error of Redis as one of ours: where it happened, what it was, what could be done about it.
pub(super) fn explain(config: &Config, error: &RedisError) -> io::Error {
    let no_right = lacks_rights(error);
    let advice = advice(error);
    let text = Explained {
        address: config.target.addr().to_string(),
        error: error.to_string(),
        advice,
    };
    let kind = match error.kind() {
        ErrorKind::AuthenticationFailed => io::ErrorKind::PermissionDenied,
        _ if no_right => io::ErrorKind::PermissionDenied,
        ErrorKind::Extension if error.code() == Some("NOAUTH") => io::ErrorKind::PermissionDenied,
        _ if error.is_connection_refusal() => io::ErrorKind::ConnectionRefused,
        _ if error.is_timeout() => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, text)
}

/// True if the user may not do that; scripts say so in words only.
fn lacks_rights(error: &RedisError) -> bool {
    let script = "user executing the script can't";
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || error.detail().is_some_and(|detail| detail.contains(script))
}

fn advice(error: &RedisError) -> &'static str {
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) => {
            "check user and password of the URL, redis://USER:PASSWORD@HOST"
        }
        (_, Some("NOAUTH")) => "it wants a password: redis://:PASSWORD@HOST",
        _ if lacks_rights(error) => {
            "its user needs EVAL, GET, GETRANGE, SET, ZADD, ZCARD, ZRANGE, ZREM, PUBLISH and \
             SUBSCRIBE, the keys proscenium:* and the channels proscenium:*"
        }
        (_, Some("READONLY")) => "the URL has to name the primary, not a replica",
        (_, Some("DENIED")) => "set a password in Redis, or let it listen on loopback only",
        (_, Some("LOADING")) => "it is still reading its data; this passes",
        (_, Some("MOVED")) => "it is a cluster; a directory needs a single Redis",
        (_, Some("OOM")) => "it is out of memory; see its maxmemory",
        _ if error.is_timeout() => "it takes the connection and does not answer: is it stopped?",
        _ if error.is_io_error() => "is it running, and can this host reach it?",
        _ => "is that a Redis of version 6 or newer?",
    }
}

struct Explained {
    address: String,
    error: String,
    advice: &'static str,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            error,
            advice,
        } = self;
        write!(f, "Redis at {address}: {error} ({advice})")
    }
}

impl fmt::Debug for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Explained {}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::Value::{Array, BulkString, Int, Nil};

    fn bulk(text: &str) -> redis::Value {
        BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn entries_are_judged_one_by_one() {
        let well = "a 127.0.0.1:1 play 1";
        let long = format!("{well} running {}", "1".repeat(ENTRY_MAX));
        let mut answer = vec![Int(12)];
        for (name, entry) in [
            ("a", well),
            ("b", well),
            ("c", "left"),
            ("d", "d localhost:1 play 1"),
            ("e", "e 127.0.0.1:1 play 70000"),
            ("a", &long),
            ("g", "?"),
            ("h", "h 0.0.0.0:7000 play 1"),
            ("i", "i 127.0.0.1:0 play 1"),
        ] {
            answer.extend([bulk(name), bulk(entry)]);
        }
        answer.extend([BulkString(vec![0xFF]), BulkString(vec![0xFF])]);
        let found = found(&Array(answer), 10).unwrap();
        let names: Vec<_> = found.entries.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(found.entries[0].1, Entry::Server(readable(well).unwrap()));
        assert_eq!(found.entries[1].1, Entry::Left);
        assert_eq!(found.left_out, 2);
        let broken: Vec<String> = found
            .broken
            .iter()
            .map(|(n, r)| format!("{n}: {r}"))
            .collect();
        let reasons = [
            "b: it names a",
            "d: ",
            "e: ",
            "a: longer",
            "g: ",
            "h: ",
            "i: ",
            "\\xff: not UTF-8",
        ];
        assert_eq!(broken.len(), reasons.len(), "{broken:?}");
        for (broken, reason) in broken.iter().zip(reasons) {
            assert!(broken.starts_with(reason), "{broken}");
        }
    }

    #[test]
    fn answers_of_another_shape_are_errors() {
        for answer in [
            Nil,
            Array(vec![]),
            Array(vec![bulk("a")]),
            Array(vec![Int(1), bulk("a")]),
            Array(vec![Int(1), bulk("a"), Int(3)]),
        ] {
            assert!(found(&answer, 10).is_err(), "{answer:?}");
        }
    }
}
