//! [`To`]: which server a message goes to; [`StageTarget`]: which stage.

use proscenium_nodelink::Nid;

/// How one server of a service is chosen, among those that are running and can be reached. See
/// [`routing`](proscenium_nodelink::routing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy<'a> {
    /// One after the other.
    #[default]
    RoundRobin,
    /// By weight, evenly spread.
    Weighted,
    /// The one with the fewest requests that it has not answered to this server, for its weight.
    LeastPending,
    /// The same for the same key, whoever asks, as long as it is there.
    ByKey(&'a [u8]),
}

/// Which server a message goes to: the one of that name, or one of a service.
///
/// ```
/// use proscenium_play::To;
///
/// let one = To::from("api-1");
/// let any = To::service(2);
/// let mine = To::service(2).by_key(b"account 7");
/// # let _ = (one, any, mine);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum To<'a> {
    /// That server.
    Nid(&'a str),
    /// One of that service.
    Service(u16, Policy<'a>),
}

impl<'a> To<'a> {
    /// The servers of a service, one after the other.
    pub const fn service(service_id: u16) -> Self {
        Self::Service(service_id, Policy::RoundRobin)
    }

    /// The service, if it is one, with that policy.
    #[must_use]
    pub const fn by<'b>(self, policy: Policy<'b>) -> To<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Nid(nid) => To::Nid(nid),
            Self::Service(id, _) => To::Service(id, policy),
        }
    }

    /// Of the service the server of that key.
    #[must_use]
    pub const fn by_key<'b>(self, key: &'b [u8]) -> To<'b>
    where
        'a: 'b,
    {
        self.by(Policy::ByKey(key))
    }
}

impl<'a> From<&'a str> for To<'a> {
    fn from(nid: &'a str) -> Self {
        Self::Nid(nid)
    }
}

impl<'a> From<&'a String> for To<'a> {
    fn from(nid: &'a String) -> Self {
        Self::Nid(nid)
    }
}

impl<'a> From<&'a Nid> for To<'a> {
    fn from(nid: &'a Nid) -> Self {
        Self::Nid(nid)
    }
}

/// A stage: one of this server by its id (`7`), or of another one (`("play-2", 7)`,
/// `(To::service(1).by_key(b"room 7"), 7)`). If that server turns out to be this one, it is as
/// good: then nothing is serialized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTarget<'a> {
    /// `None`: this server.
    pub(crate) server: Option<To<'a>>,
    pub(crate) stage_id: i64,
}

impl From<i64> for StageTarget<'_> {
    fn from(stage_id: i64) -> Self {
        let server = None;
        Self { server, stage_id }
    }
}

impl<'a, S: Into<To<'a>>> From<(S, i64)> for StageTarget<'a> {
    fn from((server, stage_id): (S, i64)) -> Self {
        let server = Some(server.into());
        Self { server, stage_id }
    }
}
