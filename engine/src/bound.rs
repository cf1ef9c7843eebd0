//! Listeners as they are bound: their sockets, and the files of Unix sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::driver::socket;
use crate::options::{Address, Balance, ListenSource, Listener};
use crate::shard::Listening;

/// A listener with its sockets: one for each shard, or one for one shard.
pub(crate) struct Bound {
    pub(crate) sockets: Vec<OwnedFd>,
    /// The shard of the first socket; the others follow.
    pub(crate) first_shard: usize,
    pub(crate) address: Address,
    pub(crate) listening: Listening,
    pub(crate) unix_path: Option<PathBuf>,
}

impl Bound {
    pub(crate) fn new(listener: Listener, shards: usize) -> io::Result<Self> {
        let Listener {
            source,
            backlog,
            balance,
            options,
        } = listener;
        let first_shard = balance.first_shard(shards)?;
        let (first, share, unix_path) = match source {
            ListenSource::Inherited(fd) => (socket::adopt_listener(fd)?, false, None),
            ListenSource::Bind(address) => {
                let tcp = matches!(address, Address::Tcp(_));
                let share = tcp && balance == Balance::ReusePort && shards > 1;
                let first = socket::bind(&address, backlog, share)?;
                let unix_path = match address {
                    Address::Unix(path) => Some(path),
                    Address::Tcp(_) => None,
                };
                (first, share, unix_path)
            }
        };
        let address = socket::local_address(first.as_fd())?;
        let mut sockets = vec![first];
        while share && sockets.len() < shards {
            sockets.push(socket::bind(&address, backlog, true)?);
        }
        let listening = Listening {
            options,
            deal: !share && !matches!(balance, Balance::Only(_)),
        };
        Ok(Self {
            sockets,
            first_shard,
            address,
            listening,
            unix_path,
        })
    }
}

impl Balance {
    /// The shard that accepts, or the first of those that do.
    ///
    /// # Errors
    /// When there is none of that number.
    pub(crate) fn first_shard(self, shards: usize) -> io::Result<usize> {
        match self {
            Self::Only(shard) if shard < shards => Ok(shard),
            Self::Only(shard) => {
                let text = format!("shard {shard} is to accept, but there are {shards}");
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            Self::ReusePort | Self::RoundRobin => Ok(0),
        }
    }
}

/// Socket files to remove at the end.
#[derive(Debug, Default)]
pub(crate) struct UnixPaths(Vec<(PathBuf, u64)>);

impl UnixPaths {
    pub(crate) fn push(&mut self, path: PathBuf) {
        let inode = std::fs::metadata(&path).map_or(0, |found| found.ino());
        self.0.push((path, inode));
    }
}

impl Drop for UnixPaths {
    fn drop(&mut self) {
        for (path, inode) in &self.0 {
            // A successor may have put its own there meanwhile.
            let is_ours = std::fs::metadata(path).is_ok_and(|found| found.ino() == *inode);
            if is_ours {
                // Gone already is as good.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}
