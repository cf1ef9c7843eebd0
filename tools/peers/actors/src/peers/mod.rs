//! The peers. A new one is a variant of [`Peer`] with its arms below, and a module with a `run`.

mod actix;
mod drive;
mod kameo;
mod ractor;
mod tokio;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::workload::{Job, Outcome, Workload};

/// What plays the actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// A plain tokio task with an unbounded mpsc channel for each actor
    TokioUnbounded,
    /// A plain tokio task with a bounded mpsc channel for each actor
    TokioBounded,
    /// actix, told with `do_send`, which knows no bound
    Actix,
    /// ractor, whose mailboxes have no bound
    Ractor,
    /// kameo with unbounded mailboxes
    KameoUnbounded,
    /// kameo with bounded mailboxes
    KameoBounded,
}

impl Peer {
    /// Runs a job in this process, which should have run no other: memory and allocator are
    /// part of what is measured.
    ///
    /// # Errors
    /// When a message was lost, doubled, altered or out of order, or when an actor ended early.
    pub(crate) fn run(self, job: &Job) -> Result<Outcome, String> {
        match self {
            Self::TokioUnbounded => tokio::unbounded(job),
            Self::TokioBounded => tokio::bounded(job),
            Self::Actix => actix::run(job),
            Self::Ractor => ractor::run(job),
            Self::KameoUnbounded => kameo::unbounded(job),
            Self::KameoBounded => kameo::bounded(job),
        }
    }

    /// False for those that are not what the others are compared with.
    pub(crate) fn is_foreign(self) -> bool {
        match self {
            Self::TokioUnbounded
            | Self::TokioBounded
            | Self::Actix
            | Self::Ractor
            | Self::KameoUnbounded
            | Self::KameoBounded => true,
        }
    }

    /// False if there is no such thing in this library.
    pub(crate) fn offers(self, workload: Workload) -> bool {
        // An actix actor never leaves the thread it was started on.
        !(self == Self::Actix && workload == Workload::WorkStealing)
    }

    /// The package it is built from.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::TokioUnbounded | Self::TokioBounded => "tokio",
            Self::Actix => "actix",
            Self::Ractor => "ractor",
            Self::KameoUnbounded | Self::KameoBounded => "kameo",
        }
    }

    /// The version of [`Peer::package`] that was built.
    pub(crate) fn version(self) -> &'static str {
        locked(include_str!("../../../../../Cargo.lock"), self.package()).unwrap_or("unknown")
    }
}

/// The version of a package in a lock file; of several the first.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1)?.strip_prefix("version = \"")?;
    version.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"9.9.9\"\n\n[[package]]\n\
                    name = \"a\"\nversion = \"1.2.3\"\n";
        assert_eq!(locked(lock, "a"), Some("1.2.3"));
        assert_eq!(locked(lock, "b"), None);
        for peer in Peer::value_variants() {
            assert_ne!(peer.version(), "unknown", "{peer:?}");
        }
    }
}
