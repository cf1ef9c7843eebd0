//! What is compared: pairs and shapes, and the goals that they are judged by.

use super::super::args::Profile;
use crate::load::node::NodeMode;

/// What is sent, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) id: &'static str,
    pub(super) mode: NodeMode,
    pub(super) size: usize,
    pub(super) window: u32,
    /// Messages that either side's queues take. Of 64 KiB a hundred thousand would be 6 GiB.
    pub(super) hwm: u32,
    /// Requests per second that are offered; only stages are.
    pub(super) rate: Option<f64>,
}

const fn shape(id: &'static str, mode: NodeMode, size: usize, window: u32, hwm: u32) -> Shape {
    Shape {
        id,
        mode,
        size,
        window,
        hwm,
        rate: None,
    }
}

/// Whose program one side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ours,
    /// Play servers of ours, whose stages ask and answer.
    Stages,
    Zmq,
    /// libzmq without route headers: the payload is the message.
    Bare,
}

/// Who sends to whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) name: &'static str,
    pub(super) client: Side,
    pub(super) server: Side,
    /// A goal speaks of it: it runs in all rounds.
    pub(super) in_all: bool,
}

const fn pair(name: &'static str, client: Side, server: Side, in_all: bool) -> Pair {
    Pair {
        name,
        client,
        server,
        in_all,
    }
}

impl Pair {
    /// True if a program of libzmq takes part.
    pub(super) fn has_zmq(&self) -> bool {
        let is_zmq = |side| matches!(side, Side::Zmq | Side::Bare);
        is_zmq(self.client) || is_zmq(self.server)
    }

    /// True if it can do what is asked.
    pub(super) fn can(&self, shape: &Shape) -> bool {
        shape.rate.is_none() || self.client == Side::Stages
    }
}

/// What a goal is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    /// Rate, or p50 and p99 of single requests, as ratios to the base.
    Relative { rate_min: f64, latency_max: f64 },
    /// Requests per second, or p99 in µs where latency is what counts.
    Absolute { rate_min: f64, p99_max: f64 },
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) shapes: &'static [Shape],
    pub(super) pairs: &'static [Pair],
    /// The pair that goals speak of, and what the others are related to.
    pub(super) ours: &'static str,
    pub(super) base: &'static str,
    pub(super) bound: Bound,
    /// Shapes without a goal.
    pub(super) beside: &'static [&'static str],
}

impl Shape {
    /// True if latency is what counts.
    pub(super) fn is_latency(id: &str) -> bool {
        id.starts_with("single") || id.starts_with("open")
    }
}

static NODES: Suite = Suite {
    shapes: &[
        shape("send-64", NodeMode::Send, 64, 1, 100_000),
        shape("send-1024", NodeMode::Send, 1024, 1, 100_000),
        shape("send-65536", NodeMode::Send, 65_536, 1, 1000),
        shape("request-64", NodeMode::Request, 64, 1000, 100_000),
        shape("request-1024", NodeMode::Request, 1024, 1000, 100_000),
        shape("request-65536", NodeMode::Request, 65_536, 1000, 1000),
        shape("single-64", NodeMode::Request, 64, 1, 100_000),
        shape("single-1024", NodeMode::Request, 1024, 1, 100_000),
        shape("single-65536", NodeMode::Request, 65_536, 1, 1000),
    ],
    pairs: &[
        pair("proscenium", Side::Ours, Side::Ours, true),
        pair("proscenium (A/A)", Side::Ours, Side::Ours, true),
        pair("libzmq", Side::Zmq, Side::Zmq, true),
        pair("proscenium to libzmq", Side::Ours, Side::Zmq, false),
        pair("libzmq to proscenium", Side::Zmq, Side::Ours, false),
        pair("libzmq without header", Side::Bare, Side::Bare, false),
    ],
    ours: "proscenium",
    base: "libzmq",
    bound: Bound::Relative {
        rate_min: 1.2,
        latency_max: 0.8,
    },
    beside: &[],
};

static STAGES: Suite = Suite {
    shapes: &[
        shape("window-1000", NodeMode::Request, 64, 1000, 100_000),
        shape("single", NodeMode::Request, 64, 1, 100_000),
        Shape {
            rate: Some(50_000.0),
            ..shape("open-50000", NodeMode::Request, 64, 1000, 100_000)
        },
    ],
    pairs: &[
        pair("stages", Side::Stages, Side::Stages, true),
        pair("stages (A/A)", Side::Stages, Side::Stages, true),
        pair("link alone", Side::Ours, Side::Ours, true),
    ],
    ours: "stages",
    base: "link alone",
    bound: Bound::Absolute {
        rate_min: 600_000.0,
        p99_max: 2_000.0,
    },
    beside: &["single"],
};

/// What the profile compares.
pub(super) fn of(profile: Profile) -> &'static Suite {
    match profile {
        Profile::Mesh => &STAGES,
        _ => &NODES,
    }
}
