//! [`Known`]: the servers that a watch has found, and those that are missing for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::store::{Entry, Found};
use crate::Nid;
use crate::directory::ServerInfo;

/// What a watch knows. No I/O and no clock.
pub(super) struct Known {
    grace: Duration,
    servers: BTreeMap<Nid, Seen>,
    told: Option<Vec<ServerInfo>>,
}

struct Seen {
    server: ServerInfo,
    /// When it was first missed.
    missing: Option<Instant>,
}

impl Known {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            servers: BTreeMap::new(),
            told: None,
        }
    }

    /// A read has found this. Answers the servers, if they are others than the last time.
    pub(super) fn update(&mut self, found: &Found, now: Instant) -> Option<Vec<ServerInfo>> {
        for seen in self.servers.values_mut() {
            seen.missing.get_or_insert(now);
        }
        for (name, entry) in &found.entries {
            match entry {
                Entry::Server(server) => {
                    let seen = Seen {
                        server: server.clone(),
                        missing: None,
                    };
                    self.servers.insert(server.nid.clone(), seen);
                }
                Entry::Left => {
                    self.servers.remove(name.as_str());
                }
            }
        }
        let grace = self.grace;
        self.servers.retain(|nid, seen| {
            let gone = seen
                .missing
                .is_some_and(|since| now.duration_since(since) >= grace);
            if gone {
                tracing::warn!(%nid, "a server has vanished from the directory");
            }
            !gone
        });
        let servers: Vec<ServerInfo> = self
            .servers
            .values()
            .map(|seen| seen.server.clone())
            .collect();
        if self.told.as_ref() == Some(&servers) {
            return None;
        }
        self.told = Some(servers.clone());
        Some(servers)
    }

    /// When the next missing server is given up.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let missing = self.servers.values().filter_map(|seen| seen.missing);
        missing.min().map(|since| since + self.grace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(entries: &[(&str, &str)]) -> Found {
        let mut found = Found::default();
        for (name, entry) in entries {
            found.add(name.as_bytes(), entry.as_bytes());
        }
        found
    }

    fn names(servers: Option<Vec<ServerInfo>>) -> Option<String> {
        let names = |servers: Vec<ServerInfo>| {
            let names: Vec<_> = servers
                .iter()
                .map(|server| server.nid.to_string())
                .collect();
            names.join(" ")
        };
        servers.map(names)
    }

    #[test]
    fn what_vanishes_is_kept_for_the_grace_and_what_is_withdrawn_is_not() {
        let mut known = Known::new(Duration::from_secs(10));
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (a, b) = (("a", "a 127.0.0.1:1 play 1"), ("b", "b 127.0.0.1:2 play 1"));
        assert_eq!(names(known.update(&found(&[]), at(0))).as_deref(), Some(""));
        let told = known.update(&found(&[a, b]), at(1));
        assert_eq!(names(told).as_deref(), Some("a b"));
        assert_eq!(
            known.update(&found(&[a, b]), at(2)),
            None,
            "the same is not told twice"
        );
        assert_eq!(known.next_end(), None);
        // Redis comes back empty, and `a` announces itself again.
        assert_eq!(known.update(&found(&[]), at(3)), None);
        assert_eq!(known.next_end(), Some(at(13)));
        assert_eq!(known.update(&found(&[a]), at(4)), None);
        assert_eq!(known.update(&found(&[a]), at(12)), None);
        let told = known.update(&found(&[a]), at(13));
        assert_eq!(names(told).as_deref(), Some("a"), "b did not come back");
        let told = known.update(&found(&[("a", "left")]), at(14));
        assert_eq!(names(told).as_deref(), Some(""));
        // A broken entry is a missing one.
        known.update(&found(&[a]), at(15));
        assert_eq!(known.update(&found(&[("a", "nonsense")]), at(16)), None);
        let told = known.update(&found(&[("a", "nonsense")]), at(26));
        assert_eq!(names(told).as_deref(), Some(""));
    }
}
