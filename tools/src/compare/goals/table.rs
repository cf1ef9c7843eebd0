//! The list of goals.

use super::Bound::{AtLeast, AtMost};
use super::Measure::{Memory, MemoryRatio, Passed, Ratio, Tail};
use super::{Bound, Goal, Measure};
use crate::compare::args::Profile;
use crate::compare::stacks::{
    ASIO, ASIO_TLS, BARE_CLIENT, BROADCAST, BUN, EACH, NODE_WS, PLAY, PROSCENIUM, RAW, SOCKET,
    STAGE, TLS, TOKIO_CODEC, TWO_SHARDS, UWS, WS,
};

const S2: (u32, usize, u32) = (10_000, 1024, 30);
const SMALL: (u32, usize, u32) = (10_000, 64, 1);
const DEEP: (u32, usize, u32) = (100, 64, 1000);

/// Without a quota the unthrottled shape is the next best.
const AT_S2: &[&str] = &["s2-quota", "s2"];
const AT_SMALL: &[&str] = &["small-quota", "small"];
const AT_DEEP: &[&str] = &["deep-quota", "deep"];

const fn goal(
    what: &'static str,
    shapes: &'static [&'static str],
    load: (u32, usize, u32),
    measure: Measure,
    bound: Bound,
) -> Goal {
    Goal {
        what,
        shapes,
        load,
        rate: None,
        measure,
        bound,
        acceptable: None,
    }
}

/// The goals that the shapes of a profile measure.
pub(super) fn goals(profile: Profile) -> Vec<Goal> {
    match profile {
        Profile::Default | Profile::Full => of_streams(),
        Profile::Tls => of_tls(),
        Profile::Ws => of_web_socket(),
        Profile::Play => of_play(),
        Profile::Node | Profile::Mesh => Vec::new(), // the module `node` has its own
    }
}

fn of_streams() -> Vec<Goal> {
    let (ours, raw, asio) = (PROSCENIUM, RAW, ASIO);
    vec![
        Goal {
            acceptable: Some(0.95),
            ..goal(
                "s2: throughput, × raw",
                AT_S2,
                S2,
                Ratio(ours, raw),
                AtLeast(1.0),
            )
        },
        goal(
            "s2: throughput, × asio",
            AT_S2,
            S2,
            Ratio(ours, asio),
            AtLeast(1.4),
        ),
        goal(
            "s2: share of runs passed",
            AT_S2,
            S2,
            Passed(ours),
            AtLeast(1.0),
        ),
        goal("s2: peak memory, MB", AT_S2, S2, Memory(ours), AtMost(64.0)),
        Goal {
            rate: Some(1e6),
            ..goal(
                "1 M/s offered: CPU per message, × raw",
                &["cpu-1m"],
                S2,
                Ratio(ours, raw),
                AtMost(1.05),
            )
        },
        goal(
            "10,000 × 64 B × 1: throughput, × raw",
            AT_SMALL,
            SMALL,
            Ratio(ours, raw),
            AtLeast(0.97),
        ),
        goal(
            "10,000 × 64 B × 1: throughput, × asio",
            AT_SMALL,
            SMALL,
            Ratio(ours, asio),
            AtLeast(1.05),
        ),
        goal(
            "100 × 64 B × 1000: throughput, × asio",
            AT_DEEP,
            DEEP,
            Ratio(ours, asio),
            AtLeast(0.9),
        ),
        goal(
            "100 × 64 B × 1000: throughput, × tokio-codec",
            AT_DEEP,
            DEEP,
            Ratio(ours, TOKIO_CODEC),
            AtLeast(4.0),
        ),
        goal(
            "10,000 idle connections: peak memory, MB",
            &["s1"],
            S2,
            Memory(ours),
            AtMost(16.0),
        ),
        goal(
            "s2: StreamSocket, × callback",
            AT_S2,
            S2,
            Ratio(SOCKET, ours),
            AtLeast(0.8),
        ),
        goal(
            "client: throughput, × bare client",
            &["client"],
            S2,
            Ratio(raw, BARE_CLIENT),
            AtLeast(0.95),
        ),
        goal(
            "s2: stages, × callback",
            AT_S2,
            S2,
            Ratio(STAGE, ours),
            AtLeast(0.97),
        ),
        Goal {
            rate: Some(1e5),
            ..goal(
                "0.1 M/s offered: p99 through stages, ms",
                &["open-loop"],
                S2,
                Tail(STAGE),
                AtMost(5.0),
            )
        },
        Goal {
            rate: Some(2e5),
            ..goal(
                "0.2 M/s offered: CPU per message on two shards, × one",
                &["two-shards"],
                S2,
                Ratio(TWO_SHARDS, ours),
                AtMost(1.05),
            )
        },
    ]
}

/// 1,000 connections × 1,024 B × 30 in flight.
const THOUSAND: (u32, usize, u32) = (1_000, 1024, 30);

fn of_tls() -> Vec<Goal> {
    let at: &[&str] = &["tls-quota", "tls"];
    vec![
        goal(
            "TLS: throughput, × asio-tls",
            at,
            THOUSAND,
            Ratio(TLS, ASIO_TLS),
            AtLeast(1.2),
        ),
        goal(
            "TLS: peak memory, × asio-tls",
            at,
            THOUSAND,
            MemoryRatio(TLS, ASIO_TLS),
            AtMost(0.25),
        ),
        goal(
            "TLS: share of runs passed",
            at,
            THOUSAND,
            Passed(TLS),
            AtLeast(1.0),
        ),
    ]
}

/// Over WebSocket; under a quota the server's throughput is its CPU time per message.
fn of_web_socket() -> Vec<Goal> {
    vec![
        goal(
            "ws 64 B × 1: throughput, × uws",
            &["ws-64x1-quota", "ws-64x1"],
            (1_000, 64, 1),
            Ratio(WS, UWS),
            AtLeast(1.0),
        ),
        goal(
            "ws 64 B × 1: throughput, × bun",
            &["ws-64x1-quota", "ws-64x1"],
            (1_000, 64, 1),
            Ratio(WS, BUN),
            AtLeast(1.0),
        ),
        goal(
            "ws 64 B × 30: throughput, × uws",
            &["ws-64x30-quota", "ws-64x30"],
            (1_000, 64, 30),
            Ratio(WS, UWS),
            AtLeast(1.0),
        ),
        goal(
            "ws 64 B × 30: throughput, × bun",
            &["ws-64x30-quota", "ws-64x30"],
            (1_000, 64, 30),
            Ratio(WS, BUN),
            AtLeast(1.3),
        ),
        goal(
            "ws 64 B × 30: throughput, × node-ws",
            &["ws-64x30-quota", "ws-64x30"],
            (1_000, 64, 30),
            Ratio(WS, NODE_WS),
            AtLeast(10.0),
        ),
        goal(
            "ws 1,024 B × 1: throughput, × uws",
            &["ws-1024x1-quota", "ws-1024x1"],
            (1_000, 1024, 1),
            Ratio(WS, UWS),
            AtLeast(1.0),
        ),
        goal(
            "ws 1,024 B × 1: throughput, × bun",
            &["ws-1024x1-quota", "ws-1024x1"],
            (1_000, 1024, 1),
            Ratio(WS, BUN),
            AtLeast(1.0),
        ),
        goal(
            "ws 1,024 B × 30: throughput, × uws",
            &["ws-1024x30-quota", "ws-1024x30"],
            (1_000, 1024, 30),
            Ratio(WS, UWS),
            AtLeast(1.0),
        ),
        goal(
            "ws 1,024 B × 30: throughput, × bun",
            &["ws-1024x30-quota", "ws-1024x30"],
            (1_000, 1024, 30),
            Ratio(WS, BUN),
            AtLeast(1.3),
        ),
        goal(
            "ws 1,024 B × 30: throughput, × node-ws",
            &["ws-1024x30-quota", "ws-1024x30"],
            (1_000, 1024, 30),
            Ratio(WS, NODE_WS),
            AtLeast(10.0),
        ),
        goal(
            "ws 1,024 B × 30: peak memory, MB",
            &["ws-1024x30-quota", "ws-1024x30"],
            THOUSAND,
            Memory(WS),
            AtMost(16.0),
        ),
    ]
}

fn of_play() -> Vec<Goal> {
    let at: &[&str] = &["play-quota", "play"];
    vec![
        goal(
            "play: throughput, × stages",
            at,
            S2,
            Ratio(PLAY, STAGE),
            AtLeast(0.85),
        ),
        goal("play: peak memory, MB", at, S2, Memory(PLAY), AtMost(200.0)),
        goal(
            "play: share of runs passed",
            at,
            S2,
            Passed(PLAY),
            AtLeast(1.0),
        ),
        Goal {
            rate: Some(1e5),
            ..goal(
                "play, 0.1 M/s offered: p99, ms",
                &["play-open-loop"],
                S2,
                Tail(PLAY),
                AtMost(10.0),
            )
        },
        Goal {
            rate: Some(1e6),
            ..goal(
                "broadcast: CPU per delivery of sending to each, × broadcast",
                &["broadcast"],
                (1_000, 256, 30),
                Ratio(EACH, BROADCAST),
                AtLeast(5.0),
            )
        },
    ]
}
