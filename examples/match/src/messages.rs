//! What the parts of the game say to each other: messages of protobuf, each under its name.

use std::hash::{BuildHasher, RandomState};

use prost::Message;

/// The service of the Play servers in the directory, and that of the API servers.
pub(crate) const PLAY: u16 = 1;
pub(crate) const API: u16 = 2;

/// Client to Play server, first of all: who comes. The answer is empty.
pub(crate) const JOIN: &str = "Join";

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Join {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) ticket: u64,
}

/// Client to match: a point for me. Answered with a [`Player`], which the others get as a push.
pub(crate) const SCORE: &str = "Score";

/// Client to match: I want to go to another match. Answered with a [`Seat`] there.
pub(crate) const TRAVEL: &str = "Travel";

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Travel {
    #[prost(int64, tag = "1")]
    pub(crate) match_id: i64,
}

/// Match to clients: somebody came, somebody left. The payload is a [`Player`].
pub(crate) const JOINED: &str = "Joined";
pub(crate) const LEFT: &str = "Left";

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Player {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) points: u32,
}

/// API server or another match to a match: that player is going to come. Answered with a [`Seat`].
pub(crate) const EXPECT: &str = "Expect";

/// Where a client goes, and what it says there.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Seat {
    /// Host and port, for clients.
    #[prost(string, tag = "1")]
    pub(crate) address: String,
    #[prost(int64, tag = "2")]
    pub(crate) match_id: i64,
    #[prost(uint64, tag = "3")]
    pub(crate) ticket: u64,
}

/// API server to match: who plays? Answered with a [`Board`].
pub(crate) const DESCRIBE: &str = "Describe";

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Board {
    #[prost(message, repeated, tag = "1")]
    pub(crate) players: Vec<Player>,
}

/// Match to API server: where is that match? A [`Travel`], answered with a [`Place`].
pub(crate) const FIND: &str = "Find";

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Place {
    /// The name of a Play server.
    #[prost(string, tag = "1")]
    pub(crate) server: String,
}

/// A number that nobody guesses: the keys of `RandomState` come from the system's generator.
pub(crate) fn ticket() -> u64 {
    RandomState::new().hash_one("ticket")
}
