//! [`Directory`]: who is in the mesh, where, and in which state.

mod file;
mod list;
#[cfg(feature = "redis")]
mod redis;
mod worker;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use proscenium_engine::Address;

use crate::Nid;

pub use file::FileDirectory;
pub use list::StaticDirectory;
#[cfg(feature = "redis")]
pub use redis::{RedisDirectory, RedisStats};

/// What kind of server a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ServerType {
    /// 1: a Play server, with stages.
    Play,
    /// 2: an API server, stateless.
    Api,
    /// Any other.
    Other(u16),
}

impl ServerType {
    /// Its number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Play => 1,
            Self::Api => 2,
            Self::Other(number) => number,
        }
    }

    /// The type of that number.
    pub const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Play,
            2 => Self::Api,
            other => Self::Other(other),
        }
    }
}

/// Whether a server takes new work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// 0: it does.
    #[default]
    Running,
    /// 1: it finishes what it has; no policy of [`routing`](crate::routing) chooses it. Messages
    /// that name it still reach it.
    Disabled,
}

/// One server of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// Its name.
    pub nid: Nid,
    /// Where it listens for other nodes.
    pub address: Address,
    /// What kind of server it is.
    pub server_type: ServerType,
    /// The service that it belongs to.
    pub service_id: u16,
    /// Whether it takes new work.
    pub state: ServerState,
    /// Its share of the work, in comparison to the others of its service. Default 100.
    pub weight: u32,
}

impl ServerInfo {
    /// A running server of weight 100.
    pub fn new(
        nid: Nid,
        address: impl Into<Address>,
        server_type: ServerType,
        service_id: u16,
    ) -> Self {
        Self {
            nid,
            address: address.into(),
            server_type,
            service_id,
            state: ServerState::Running,
            weight: 100,
        }
    }

    /// In that state.
    #[must_use]
    pub fn state(mut self, state: ServerState) -> Self {
        self.state = state;
        self
    }

    /// With that weight; 0 counts as 1.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight.max(1);
        self
    }
}

impl fmt::Display for ServerInfo {
    /// The line that [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server_type = match self.server_type {
            ServerType::Play => "play".to_owned(),
            ServerType::Api => "api".to_owned(),
            ServerType::Other(number) => number.to_string(),
        };
        let state = match self.state {
            ServerState::Running => "running",
            ServerState::Disabled => "disabled",
        };
        write!(
            f,
            "{} {} {server_type} {} {state} {}",
            self.nid, self.address, self.service_id, self.weight
        )
    }
}

impl FromStr for ServerInfo {
    type Err = ServerInfoError;

    /// `NID ADDRESS TYPE SERVICE [STATE [WEIGHT]]`, separated by blanks: the type is `play`, `api`
    /// or a number, the state `running` (unless given) or `disabled`, the weight 100 unless given.
    /// The address may name a host, which the system's resolver is asked for.
    fn from_str(line: &str) -> Result<Self, ServerInfoError> {
        Self::read(line, true)
    }
}

impl ServerInfo {
    /// See [`FromStr`]; without `resolve` the address has to be one in numbers, or of a Unix
    /// socket, and one that can be connected to.
    fn read(line: &str, resolve: bool) -> Result<Self, ServerInfoError> {
        let error = |what: &'static str| ServerInfoError {
            what,
            line: line.to_owned(),
        };
        let mut words = line.split_whitespace();
        let nid = words.next().ok_or(error("a NID"))?;
        let nid = Nid::new(nid)
            .map_err(|_| error("a NID of 1 to 255 bytes, without control characters"))?;
        let address = words.next().ok_or(error("an address"))?;
        let is_path = address.starts_with("unix:") || address.starts_with('/');
        let address = if resolve || is_path {
            Address::parse(address).map_err(|_| error("HOST:PORT or unix:/PATH"))?
        } else {
            let address = address.parse::<SocketAddr>().ok().map(Address::Tcp);
            let address = address.filter(is_reachable);
            address.ok_or(error("IP:PORT that can be connected to, or unix:/PATH"))?
        };
        let server_type = match words.next() {
            Some("play") => ServerType::Play,
            Some("api") => ServerType::Api,
            Some(number) => {
                let number = number.parse().map_err(|_| error("play, api or a number"))?;
                ServerType::from_number(number)
            }
            None => return Err(error("play, api or a number")),
        };
        let service = words.next().and_then(|service| service.parse().ok());
        let service = service.ok_or(error("the number of a service"))?;
        let state = match words.next() {
            None | Some("running") => ServerState::Running,
            Some("disabled") => ServerState::Disabled,
            Some(_) => return Err(error("running or disabled")),
        };
        let weight = match words.next() {
            None => 100,
            Some(weight) => weight.parse().map_err(|_| error("a weight"))?,
        };
        if words.next().is_some() {
            return Err(error("nothing behind the weight"));
        }
        let info = Self::new(nid, address, server_type, service);
        Ok(info.state(state).weight(weight))
    }
}

/// False for addresses that one can listen at, and nobody can connect to.
pub(crate) fn is_reachable(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => !address.ip().is_unspecified() && address.port() != 0,
        _ => true,
    }
}

/// A line is no [`ServerInfo`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfoError {
    what: &'static str,
    line: String,
}

impl fmt::Display for ServerInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: expected {}", self.line, self.what)
    }
}

impl std::error::Error for ServerInfoError {}

/// Is told all servers of the mesh whenever they have changed. It may be called from any thread
/// and must not block.
pub type OnServers = Arc<dyn Fn(&[ServerInfo]) + Send + Sync>;

/// Keeps a watch going; dropping it ends the watch.
pub trait Watch: Send + Sync {}

/// Where servers announce themselves and learn of each other.
///
/// A node that uses one stays linked to all servers in it, and goes on with what it knows when the
/// directory is out of reach. An implementation that needs I/O does it on a thread (or a runtime)
/// of its own, never on that of a shard.
pub trait Directory: Send + Sync {
    /// Announces `server`, or changes what was announced under its name: its state, its weight.
    /// That stands until it is withdrawn; the directory refreshes it where it has to be. When this
    /// process ends without a word, or the directory is dropped, it is forgotten after `ttl`, where
    /// the directory can do that.
    ///
    /// # Errors
    /// When the directory cannot be reached or written.
    fn announce(&self, server: &ServerInfo, ttl: Duration) -> io::Result<()>;

    /// Takes an announcement back.
    ///
    /// # Errors
    /// When the directory cannot be reached or written.
    fn withdraw(&self, nid: &Nid) -> io::Result<()>;

    /// Has `changed` told all servers: those of now, soon, and again after each change.
    ///
    /// # Errors
    /// When watching cannot begin. A directory that is out of reach later is no error: `changed`
    /// is told when it is back.
    fn watch(&self, changed: OnServers) -> io::Result<Box<dyn Watch>>;
}

impl<D: Directory + ?Sized> Directory for Arc<D> {
    fn announce(&self, server: &ServerInfo, ttl: Duration) -> io::Result<()> {
        (**self).announce(server, ttl)
    }

    fn withdraw(&self, nid: &Nid) -> io::Result<()> {
        (**self).withdraw(nid)
    }

    fn watch(&self, changed: OnServers) -> io::Result<Box<dyn Watch>> {
        (**self).watch(changed)
    }
}
