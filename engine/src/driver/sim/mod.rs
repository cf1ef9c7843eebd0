//! The seeded simulation: virtual time and an in-memory network in which things go wrong.
//!
//! The same shards that run on epoll in production run here, all on one thread, on a
//! [`SimNet`]: byte streams with finite buffers and latency, which split, delay, stall and reset
//! as the fault plan ([`Faults`]) says. Everything that is random is drawn from one seed, nothing
//! reads a real clock and nothing iterates a randomly seeded map, so that a run is a function of
//! its seed, the code, and what the test does. [`SimWorld`] is the runner: it lets one shard turn
//! at a time, in an order drawn from the seed, and when none has anything to do, the clock jumps to
//! the next event or deadline. An hour of heartbeats takes milliseconds.
//!
//! # Replaying a seed
//! A test runs many seeds and names the one that fails; that number is all it takes to see the
//! same run again, with more printed:
//!
//! ```text
//! let net = SimNet::from_seed(seed);      // or SimNet::new(seed, faults)
//! net.keep_last_events(200);              // before the run
//! …
//! for event in net.last_events() { eprintln!("{event}"); }
//! ```
//!
//! [`SimNet::trace_hash`] covers every event with its time: two runs of one seed that differ in
//! it contain something that does not come from the seed (a real clock, a thread, a hash map, an
//! address in memory). What the test itself draws should come from [`SimNet::fork_random`].
//! A seed is valid for one version of the code only: a change that draws one more number gives
//! it another run.
//!
//! # What is simulated, and what is not
//! - A connection delivers its bytes in order and whole, or a prefix of them followed by a reset.
//!   Different connections overtake each other.
//! - Closing follows `close(2)`: what was sent is still delivered, but unread bytes at the
//!   closing end, or bytes that arrive there later, are answered by a reset.
//! - A failed assertion names the seed and the virtual time. Asserted is what a shard promises its
//!   driver: no send to a closed connection, none before the `Sent` that is still to come, none
//!   after `finish`, no slot taken twice.
//! - TCP addresses and Unix paths are names. There is no packet loss (TCP hides it as delay, as
//!   stalls and jitter do here), no congestion, and no host name look-up.

mod clock;
mod connect;
mod driver;
mod faults;
mod link;
mod net;
mod peer;
mod random;
mod table;
mod trace;
mod transport;
mod world;

#[cfg(test)]
mod tests;

pub(crate) use driver::SimDriver;
pub use faults::{Costs, Faults};
pub use net::SimNet;
pub(crate) use net::SimSocket;
pub use peer::{SimListener, SimPeer};
pub use random::SimRandom;
pub use trace::{SimEvent, SimEventKind};
pub use world::{SimTurn, SimWorld};
