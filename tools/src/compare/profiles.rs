//! The profiles: which shapes there are, how often and how long each is run.
//!
//! What a run measures varies more from one start of a server to the next than within a run (the
//! kernel's copies depend on where buffers came to lie), so that more runs with short windows say
//! more than few runs with long ones. docs/guide/benchmarks.md has the numbers.

use std::time::Duration;

use super::args::Profile;
use super::stacks::{
    ASIO, ASIO_TLS, BARE_CLIENT, BROADCAST, BUN, EACH, NODE_WS, NODE_WS_CORKED, PLAY, PROSCENIUM,
    RAW, SOCKET, STAGE, TLS, TOKIO, TOKIO_CODEC, TWO_SHARDS, USUAL, UWS, WS,
};
use crate::load::Scenario;

/// A shape before the command line has had its say.
pub(super) struct Draft {
    pub(super) id: &'static str,
    pub(super) scenario: Scenario,
    /// Connections, bytes, messages in flight.
    pub(super) load: (u32, usize, u32),
    pub(super) throttled: bool,
    /// Offered rate in messages per second.
    pub(super) rate: Option<f64>,
    pub(super) one_by_one: bool,
    /// It is about what a connection costs.
    pub(super) connect_cost: bool,
    /// Whose numbers the others' are related to.
    pub(super) against: &'static [&'static str],
    pub(super) who: Who,
    pub(super) runs: usize,
    /// Stacks that no goal speaks of here, and how many runs these have.
    pub(super) beside: (&'static [&'static str], usize),
    pub(super) warmup: Duration,
    pub(super) measure: Duration,
}

impl Draft {
    /// True if this is `other` under a quota.
    pub(super) fn is_throttled(&self, other: &Self) -> bool {
        self.throttled && !other.throttled && self.id.strip_suffix("-quota") == Some(other.id)
    }
}

/// Who takes part in a shape.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Usual,
    UsualAnd(&'static [&'static str]),
    /// The usual ones, one of them twice.
    UsualAndTwin,
    UsualTwinAnd(&'static [&'static str]),
    These(&'static [&'static str]),
    /// These, and the first of them twice.
    TheseAndTwin(&'static [&'static str]),
    /// These, whatever the command line says, and one of them twice.
    OnlyAndTwinOf(&'static [&'static str], &'static str),
}

/// A sweep: each combination of these is one shape, run once.
pub(super) struct Sweep {
    pub(super) sizes: &'static [usize],
    pub(super) inflights: &'static [u32],
    pub(super) ccus: &'static [u32],
    pub(super) stacks: &'static [&'static str],
    pub(super) warmup: Duration,
    pub(super) measure: Duration,
}

/// What `--sweep` runs.
pub(super) static SWEEP: Sweep = Sweep {
    sizes: &[64, 1024, 16 << 10, 64 << 10],
    inflights: &[1, 30, 1000],
    ccus: &[1, 100, 10_000],
    stacks: &USUAL,
    warmup: Duration::from_secs(1),
    measure: Duration::from_secs(1),
};

/// What the published profile has of it: fewer sizes, stacks and seconds.
static SWEEP_OF_FULL: Sweep = Sweep {
    sizes: &[64, 1024, 64 << 10],
    stacks: &[PROSCENIUM, ASIO, RAW],
    warmup: Duration::from_millis(500),
    ..SWEEP
};

/// The sweep of a profile, if it has one.
pub(super) fn sweep_of(profile: Profile) -> Option<&'static Sweep> {
    (profile == Profile::Full).then_some(&SWEEP_OF_FULL)
}

/// What the others are related to unless a shape says something else.
pub(super) const AGAINST: &[&str] = &[RAW, ASIO];

const S2: (u32, usize, u32) = (10_000, 1024, 30);
const SMALL: (u32, usize, u32) = (10_000, 64, 1);
const DEEP: (u32, usize, u32) = (100, 64, 1000);

/// A thousand connections: what layers are compared at.
const THOUSAND: (u32, usize, u32) = (1_000, 1024, 30);
const OVER_TLS: &[&str] = &[TLS, ASIO_TLS];
const OVER_WS: &[&str] = &[WS, UWS, BUN, NODE_WS, NODE_WS_CORKED];
/// One stage of a thousand clients, who hear what one of them says.
const CROWD: (u32, usize, u32) = (1_000, 256, 30);

/// Runs, and seconds of warm-up and measuring.
type Time = (usize, u64, u64);

/// A shape that is run as fast as answers come.
const fn closed(
    id: &'static str,
    load: (u32, usize, u32),
    throttled: bool,
    (runs, warmup, measure): Time,
    who: Who,
) -> Draft {
    Draft {
        id,
        scenario: Scenario::S2,
        load,
        throttled,
        rate: None,
        one_by_one: false,
        connect_cost: false,
        against: AGAINST,
        who,
        runs,
        beside: (&[], runs),
        warmup: Duration::from_secs(warmup),
        measure: Duration::from_secs(measure),
    }
}

/// A shape that measures CPU per message at an offered rate.
const fn open(id: &'static str, rate: f64, time: Time, who: Who) -> Draft {
    Draft {
        rate: Some(rate),
        ..closed(id, S2, false, time, who)
    }
}

/// A shape that measures latency at an offered rate.
const fn latency(id: &'static str, rate: f64, time: Time, who: Who) -> Draft {
    Draft {
        one_by_one: true,
        ..open(id, rate, time, who)
    }
}

/// A shape that is about connecting, not about load.
const fn short(id: &'static str, scenario: Scenario, runs: usize) -> Draft {
    Draft {
        scenario,
        ..closed(id, S2, false, (runs, 0, 0), Who::Usual)
    }
}

/// The same, related to these.
const fn against(draft: Draft, against: &'static [&'static str]) -> Draft {
    Draft { against, ..draft }
}

/// The same with these stacks run three times only.
const fn beside(draft: Draft, names: &'static [&'static str]) -> Draft {
    Draft {
        beside: (names, 3),
        ..draft
    }
}

/// The shapes of a profile, besides its sweep.
pub(super) fn drafts(profile: Profile) -> Vec<Draft> {
    use Who::{OnlyAndTwinOf, TheseAndTwin, Usual, UsualAnd, UsualAndTwin, UsualTwinAnd};
    match profile {
        Profile::Node | Profile::Mesh => Vec::new(), // pairs rather than stacks: the module `node`
        // Under four minutes. The peers fault their memory in during the first three seconds.
        Profile::Default => vec![
            short("s0", Scenario::S0, 1),
            short("s1", Scenario::S1, 1),
            closed("s2-quota", S2, true, (3, 3, 3), UsualAndTwin),
            closed("s2", S2, false, (1, 2, 2), Usual),
            open("cpu-1m", 1e6, (1, 2, 2), Usual),
            latency("open-loop", 1e5, (1, 2, 2), UsualAnd(&[STAGE])),
        ],
        // Under half an hour: seven runs of whoever a goal speaks of, three of the others.
        Profile::Full => {
            let (goal, quick) = ((7, 2, 3), (7, 1, 3));
            vec![
                short("s0", Scenario::S0, 3),
                beside(
                    short("s1", Scenario::S1, 7),
                    &[ASIO, TOKIO, TOKIO_CODEC, RAW],
                ),
                beside(
                    closed("s2-quota", S2, true, goal, UsualTwinAnd(&[SOCKET, STAGE])),
                    &[TOKIO, TOKIO_CODEC],
                ),
                closed("s2", S2, false, (3, 2, 3), UsualAndTwin),
                beside(
                    open("cpu-1m", 1e6, goal, UsualAndTwin),
                    &[ASIO, TOKIO, TOKIO_CODEC],
                ),
                beside(
                    closed("small-quota", SMALL, true, quick, UsualAndTwin),
                    &[TOKIO, TOKIO_CODEC],
                ),
                closed("small", SMALL, false, (3, 1, 2), UsualAndTwin),
                beside(
                    closed("deep-quota", DEEP, true, quick, UsualAndTwin),
                    &[TOKIO],
                ),
                closed("deep", DEEP, false, (3, 1, 2), UsualAndTwin),
                beside(latency("open-loop", 1e5, goal, UsualAnd(&[STAGE])), &USUAL),
                open(
                    "two-shards",
                    2e5,
                    goal,
                    OnlyAndTwinOf(&[PROSCENIUM, TWO_SHARDS], PROSCENIUM),
                ),
                closed(
                    "client",
                    S2,
                    false,
                    goal,
                    OnlyAndTwinOf(&[RAW, BARE_CLIENT], RAW),
                ),
            ]
        }
        Profile::Ws => {
            let (who, quota, open) = (TheseAndTwin(OVER_WS), (7, 3, 3), (3, 2, 2));
            let shapes = [
                closed("ws-64x1-quota", (1_000, 64, 1), true, quota, who),
                closed("ws-64x30-quota", (1_000, 64, 30), true, quota, who),
                closed("ws-1024x1-quota", (1_000, 1024, 1), true, quota, who),
                closed("ws-1024x30-quota", THOUSAND, true, quota, who),
                closed("ws-64x1", (1_000, 64, 1), false, open, who),
                closed("ws-64x30", (1_000, 64, 30), false, open, who),
                closed("ws-1024x1", (1_000, 1024, 1), false, open, who),
                closed("ws-1024x30", THOUSAND, false, open, who),
            ];
            let related = |draft| beside(against(draft, &[UWS, BUN, NODE_WS]), &[NODE_WS_CORKED]);
            shapes.map(related).into()
        }
        Profile::Play => {
            let (who, goal) = (TheseAndTwin(&[PLAY, STAGE]), (7, 2, 3));
            let crowd = TheseAndTwin(&[BROADCAST, EACH]);
            let broadcast = Draft {
                rate: Some(1e6),
                ..closed("broadcast", CROWD, false, (7, 1, 3), crowd)
            };
            vec![
                against(closed("play-quota", S2, true, goal, who), &[STAGE]),
                against(closed("play", S2, false, (3, 2, 3), who), &[STAGE]),
                against(latency("play-open-loop", 1e5, goal, who), &[STAGE]),
                against(broadcast, &[BROADCAST]),
            ]
        }
        Profile::Tls => {
            let who = TheseAndTwin(OVER_TLS);
            let shapes = [
                closed("tls-quota", THOUSAND, true, (7, 2, 3), who),
                closed("tls", THOUSAND, false, (3, 2, 3), who),
                Draft {
                    scenario: Scenario::S1,
                    connect_cost: true,
                    ..closed("handshakes", THOUSAND, false, (7, 0, 0), who)
                },
            ];
            shapes.map(|draft| against(draft, &[ASIO_TLS])).into()
        }
    }
}
