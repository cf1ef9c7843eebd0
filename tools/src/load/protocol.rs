//! What is on the wire around the bodies that are sent and verified.

/// A protocol between client and server: what a message looks like, whether clients have to be let
/// in first. One value for each client thread.
pub(super) trait Protocol: Send + 'static {
    /// What it remembers of one connection.
    type State: Copy + Default + Send;

    /// Bytes before the body of every message.
    fn prefix(&self) -> &[u8];

    /// Bytes that the server puts before the body of an answer, at most.
    fn answer_prefix_max(&self) -> usize;

    /// Makes `prefix` that of the next message on this connection.
    fn address(&self, state: &mut Self::State, prefix: &mut [u8]);

    /// The message that asks the server to let the client of connection `at` in; `None` if there
    /// is no such thing.
    fn hello(&self, at: usize, state: &mut Self::State) -> Option<Vec<u8>>;

    /// What a message of the server is.
    fn read<'a>(&self, state: &mut Self::State, message: &'a [u8]) -> Incoming<'a>;
}

/// What a message of the server is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    /// An answer to the oldest message that has none; its body.
    Answer(&'a [u8]),
    /// The client was let in, or not: why.
    Hello(Result<(), String>),
    /// Nothing that was asked for, and nothing wrong.
    Other,
    /// An answer, but not one that is right: in what way.
    Wrong(String),
}

/// Messages that are bodies and nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bodies;

impl Protocol for Bodies {
    type State = ();

    #[inline]
    fn prefix(&self) -> &[u8] {
        &[]
    }

    fn answer_prefix_max(&self) -> usize {
        0
    }

    #[inline]
    fn address(&self, (): &mut (), _: &mut [u8]) {}

    fn hello(&self, _: usize, (): &mut ()) -> Option<Vec<u8>> {
        None
    }

    #[inline]
    fn read<'a>(&self, (): &mut (), message: &'a [u8]) -> Incoming<'a> {
        Incoming::Answer(message)
    }
}
