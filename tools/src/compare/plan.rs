//! What is run: named shapes, each with its contenders, and the order in which these take turns.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::args::{CompareArgs, Profile};
use super::stacks::{self, Contender, PROSCENIUM, RAW, SOCKET, STAGE, Stack, TWO_SHARDS, USUAL};
use crate::load::Scenario;
use crate::units::{bytes, grouped};

/// A combination with more bytes than this in flight is left out of a sweep: the kernel's socket
/// buffers and the peers' memory would decide it.
const SWEEP_BYTES_MAX: u64 = 512 << 20;

/// What a shape is about: the number that its contenders are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Answers per second; more is better.
    Throughput,
    /// Server CPU time per answer in ns; less is better.
    CpuPerMessage,
    /// Median latency in µs; less is better.
    Latency,
    /// 99th percentile of the latency from the intended send time, in µs; less is better.
    TailLatency,
    /// Time to make all connections in seconds; less is better.
    ConnectTime,
}

/// One shape of load, run by every contender in turn.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) id: String,
    pub(crate) scenario: Scenario,
    pub(crate) ccu: u32,
    pub(crate) size: usize,
    pub(crate) inflight: u32,
    /// CPU quota of the server in percent of one CPU.
    pub(crate) quota: Option<u32>,
    /// Offered rate in messages per second; none: as fast as answers come.
    pub(crate) rate: Option<f64>,
    /// Messages are due one by one, so that latency is the server's; else in bursts that fill a
    /// window, so that CPU time is that of a busy server.
    pub(crate) one_by_one: bool,
    pub(crate) runs: usize,
    pub(crate) warmup: Duration,
    pub(crate) measure: Duration,
    pub(crate) contenders: Vec<Contender>,
    /// One point of a sweep, shown together with the others.
    pub(crate) sweep: bool,
}

impl Shape {
    pub(crate) fn metric(&self) -> Metric {
        match self.scenario {
            Scenario::S0 => Metric::Latency,
            Scenario::S1 => Metric::ConnectTime,
            Scenario::S2 if self.one_by_one => Metric::TailLatency,
            Scenario::S2 if self.rate.is_some() => Metric::CpuPerMessage,
            Scenario::S2 => Metric::Throughput,
        }
    }

    /// About how long one run takes, starting and ending the server included.
    pub(crate) fn run_time(&self) -> Duration {
        let connect = Duration::from_secs_f64(0.5 + f64::from(self.ccu) / 20_000.0);
        match self.scenario {
            Scenario::S0 => Duration::from_millis(300),
            Scenario::S1 => connect,
            Scenario::S2 => connect + self.warmup + self.measure,
        }
    }

    /// Who runs in round `round` (from 0), in order. Each round begins with another contender, so
    /// that none always follows the same one.
    pub(crate) fn turn(&self, round: usize) -> impl Iterator<Item = Contender> + '_ {
        let count = self.contenders.len();
        (0..count).map(move |at| self.contenders[(at + round) % count])
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ccu = grouped(self.ccu.into());
        let size = bytes(self.size as u64).replace(".0 ", " ");
        match self.scenario {
            Scenario::S0 => write!(f, "one connection, one echo of {size}")?,
            Scenario::S1 => write!(f, "{ccu} connections, none used")?,
            Scenario::S2 => write!(
                f,
                "{ccu} connections × {size} × {} in flight",
                self.inflight
            )?,
        }
        if let Some(rate) = self.rate {
            let how = if self.one_by_one { " one by one" } else { "" };
            write!(f, ", {} msg/s offered{how}", grouped(rate as u64))?;
        }
        match self.quota {
            Some(percent) => write!(f, ", server limited to {percent} % of a CPU"),
            None if self.scenario == Scenario::S2 => write!(f, ", unthrottled"),
            None => Ok(()),
        }
    }
}

/// A shape before the command line has had its say.
struct Draft {
    id: &'static str,
    scenario: Scenario,
    /// Connections, bytes, messages in flight.
    load: (u32, usize, u32),
    throttled: bool,
    rate: Option<f64>,
    one_by_one: bool,
    /// Besides, or (`only`) instead of, the usual stacks.
    who: Who,
    runs: usize,
    /// Seconds.
    warmup: u64,
    measure: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Usual,
    UsualAnd(&'static [&'static str]),
    /// The usual ones, one of them twice.
    UsualAndTwin,
    UsualTwinAnd(&'static [&'static str]),
    Only(&'static [&'static str]),
}

const S2: (u32, usize, u32) = (10_000, 1024, 30);

/// A shape that is run as fast as answers come.
const fn closed(
    id: &'static str,
    load: (u32, usize, u32),
    throttled: bool,
    (runs, warmup, measure): (usize, u64, u64),
    who: Who,
) -> Draft {
    Draft {
        id,
        scenario: Scenario::S2,
        load,
        throttled,
        rate: None,
        one_by_one: false,
        who,
        runs,
        warmup,
        measure,
    }
}

/// A shape that measures CPU per message at an offered rate.
const fn open(
    id: &'static str,
    rate: f64,
    (runs, warmup, measure): (usize, u64, u64),
    who: Who,
) -> Draft {
    Draft {
        rate: Some(rate),
        ..closed(id, S2, false, (runs, warmup, measure), who)
    }
}

/// A shape that measures latency at an offered rate.
const fn latency(id: &'static str, rate: f64, time: (usize, u64, u64), who: Who) -> Draft {
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

fn drafts(profile: Profile) -> Vec<Draft> {
    use Who::{Only, Usual, UsualAnd, UsualAndTwin, UsualTwinAnd};
    match profile {
        // Under four minutes with five stacks. The peers fault their memory in during the first
        // three seconds.
        Profile::Default => vec![
            short("s0", Scenario::S0, 1),
            short("s1", Scenario::S1, 1),
            closed("s2-quota", S2, true, (3, 3, 3), UsualAndTwin),
            closed("s2", S2, false, (1, 2, 2), Usual),
            open("cpu-1m", 1e6, (1, 2, 2), Usual),
            latency("open-loop", 1e5, (1, 2, 2), UsualAnd(&[STAGE])),
        ],
        Profile::Full => {
            let time = (7, 3, 10);
            let (small, deep) = ((10_000, 64, 1), (100, 64, 1000));
            vec![
                short("s0", Scenario::S0, 7),
                short("s1", Scenario::S1, 7),
                closed("s2-quota", S2, true, time, UsualTwinAnd(&[SOCKET, STAGE])),
                closed("s2", S2, false, time, UsualAndTwin),
                open("cpu-1m", 1e6, time, UsualAndTwin),
                closed("small-quota", small, true, time, UsualAndTwin),
                closed("small", small, false, time, UsualAndTwin),
                closed("deep-quota", deep, true, time, UsualAndTwin),
                closed("deep", deep, false, time, UsualAndTwin),
                latency("open-loop", 1e5, time, UsualAnd(&[STAGE])),
                open("two-shards", 2e5, time, Only(&[PROSCENIUM, TWO_SHARDS])),
            ]
        }
    }
}

/// The shapes that the command line asks for; `quota_works`: the system lets us limit a server.
///
/// # Errors
/// When nothing is left to run: says what there would have been.
pub(crate) fn shapes(args: &CompareArgs, quota_works: bool) -> Result<Vec<Shape>, String> {
    if args.sweep {
        return Ok(sweep(args, quota_works));
    }
    let drafts = drafts(args.profile);
    let names: Vec<&str> = drafts.iter().map(|draft| draft.id).collect();
    for asked in &args.shapes {
        if !names.contains(&asked.as_str()) {
            return Err(format!(
                "--shapes {asked}: profile {} has {}",
                args.profile.name(),
                names.join(", ")
            ));
        }
    }
    let quota = quota_works && args.quota > 0;
    let wanted = |draft: &&Draft| {
        (args.scenarios.is_empty() || args.scenarios.contains(&draft.scenario))
            && (args.shapes.is_empty() || args.shapes.iter().any(|id| id == draft.id))
            && (quota || !draft.throttled)
            && (draft.rate.is_none() || args.rate != Some(0.0))
    };
    let shapes: Vec<Shape> = drafts
        .iter()
        .filter(wanted)
        .map(|draft| draft.shape(args))
        .collect();
    if shapes.is_empty() {
        return Err(format!(
            "nothing to run: no shape of profile {} ({}) is left by --scenarios, --shapes, \
             --quota and --rate on this system",
            args.profile.name(),
            names.join(", ")
        ));
    }
    Ok(shapes)
}

impl Draft {
    fn shape(&self, args: &CompareArgs) -> Shape {
        let (ccu, size, inflight) = self.load;
        let one = self.scenario == Scenario::S0;
        Shape {
            id: self.id.to_owned(),
            scenario: self.scenario,
            ccu: if one { 1 } else { args.ccu.unwrap_or(ccu) },
            size: args.size.unwrap_or(size),
            inflight: if one {
                1
            } else {
                args.inflight.unwrap_or(inflight)
            },
            quota: self.throttled.then_some(args.quota),
            rate: self.rate.map(|rate| args.rate.unwrap_or(rate)),
            one_by_one: self.one_by_one,
            runs: args.runs.map_or(self.runs, usize::from),
            warmup: args.warmup.unwrap_or(Duration::from_secs(self.warmup)),
            measure: args.measure.unwrap_or(Duration::from_secs(self.measure)),
            contenders: contenders(args, self.who),
            sweep: false,
        }
    }
}

fn named(names: &[&str]) -> Vec<&'static Stack> {
    let found = names.iter().map(|name| stacks::by_name(name));
    found.map(|stack| stack.expect("in the table")).collect()
}

/// Who takes part. A list on the command line replaces the usual stacks and those a shape adds,
/// but not those that the shape is about.
fn contenders(args: &CompareArgs, who: Who) -> Vec<Contender> {
    let mut chosen = match who {
        Who::Only(names) => named(names),
        _ if !args.stacks.is_empty() => args.stacks.clone(),
        Who::UsualAnd(more) | Who::UsualTwinAnd(more) => {
            let mut stacks = named(&USUAL);
            stacks.splice(1..1, named(more));
            stacks
        }
        _ => named(&USUAL),
    };
    if args.interface {
        chosen.extend(named(&[SOCKET, TWO_SHARDS]));
    }
    let mut list: Vec<Contender> = Vec::new();
    for stack in chosen {
        let one = Contender { stack, twin: false };
        if !list.contains(&one) {
            list.push(one);
        }
    }
    if matches!(who, Who::UsualAndTwin | Who::UsualTwinAnd(_)) {
        let raw = list.iter().position(|one| one.stack.name == RAW);
        let stack = list[raw.unwrap_or(0)].stack;
        list.push(Contender { stack, twin: true });
    }
    list
}

/// A few points on each axis; one that the command line fixes has that value only.
fn sweep(args: &CompareArgs, quota_works: bool) -> Vec<Shape> {
    let sizes = args
        .size
        .map_or(vec![64, 1024, 16 << 10, 64 << 10], |n| vec![n]);
    let inflights = args.inflight.map_or(vec![1, 30, 1000], |n| vec![n]);
    let ccus = args.ccu.map_or(vec![1, 100, 10_000], |n| vec![n]);
    let mut shapes = Vec::new();
    for &size in &sizes {
        for &inflight in &inflights {
            for &ccu in &ccus {
                let in_flight = (size as u64)
                    .saturating_mul(inflight.into())
                    .saturating_mul(ccu.into());
                if in_flight > SWEEP_BYTES_MAX {
                    continue;
                }
                shapes.push(Shape {
                    id: format!("sweep-{ccu}x{size}x{inflight}"),
                    scenario: Scenario::S2,
                    ccu,
                    size,
                    inflight,
                    quota: (quota_works && args.quota > 0).then_some(args.quota),
                    rate: None,
                    one_by_one: false,
                    runs: args.runs.map_or(1, usize::from),
                    warmup: args.warmup.unwrap_or(Duration::from_secs(1)),
                    measure: args.measure.unwrap_or(Duration::from_secs(1)),
                    contenders: contenders(args, Who::Usual),
                    sweep: true,
                });
            }
        }
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(more: &[&str]) -> CompareArgs {
        match Cli::parse_from(["proscenium", "compare"].iter().chain(more)).command {
            Command::Compare(args) => *args,
            other => panic!("parsed as {other:?}"),
        }
    }

    fn ids(shapes: &[Shape]) -> Vec<&str> {
        shapes.iter().map(|shape| shape.id.as_str()).collect()
    }

    fn names(shape: &Shape) -> Vec<String> {
        shape.contenders.iter().map(ToString::to_string).collect()
    }

    fn time_of(shapes: &[Shape]) -> Duration {
        let times = shapes
            .iter()
            .map(|shape| shape.run_time() * (shape.runs * shape.contenders.len()) as u32);
        times.sum()
    }

    #[test]
    fn the_default_profile_ends_within_four_minutes() {
        let shapes = shapes(&args(&[]), true).unwrap();
        let expected = ["s0", "s1", "s2-quota", "s2", "cpu-1m", "open-loop"];
        assert_eq!(ids(&shapes), expected);
        assert!(time_of(&shapes) < Duration::from_secs(225));
        assert_eq!(
            names(&shapes[2]),
            [
                "proscenium",
                "asio",
                "tokio",
                "tokio-codec",
                "raw",
                "raw (A/A)"
            ]
        );
    }

    #[test]
    fn the_full_profile_is_seven_alternating_runs_of_ten_seconds() {
        let shapes = shapes(&args(&["--profile", "full"]), true).unwrap();
        for shape in &shapes {
            assert_eq!(shape.runs, 7, "{shape}");
            let seconds = [shape.warmup, shape.measure].map(|time| time.as_secs());
            assert!(
                shape.scenario != Scenario::S2 || seconds == [3, 10],
                "{shape}"
            );
        }
        let s2 = shapes.iter().find(|shape| shape.id == "s2-quota").unwrap();
        assert_eq!(
            names(s2)[..3],
            ["proscenium", "proscenium-socket", "proscenium-stage"]
        );
        let two = shapes.last().unwrap();
        assert_eq!((two.rate, two.metric()), (Some(2e5), Metric::CpuPerMessage));
        assert_eq!(names(two), ["proscenium", "proscenium-2shards"]);
    }

    #[test]
    fn each_round_begins_with_another_contender_and_has_all_of_them() {
        let shapes = shapes(&args(&["--stacks", "proscenium,asio,raw"]), true).unwrap();
        let shape = &shapes[2];
        let round = |n| shape.turn(n).map(|one| one.to_string()).collect::<Vec<_>>();
        assert_eq!(round(0), ["proscenium", "asio", "raw", "raw (A/A)"]);
        assert_eq!(round(1), ["asio", "raw", "raw (A/A)", "proscenium"]);
        assert_eq!(round(4), round(0));
    }

    #[test]
    fn options_change_every_shape_and_leave_shapes_out() {
        let options = [
            "--ccu",
            "20",
            "--size",
            "64",
            "--inflight",
            "4",
            "--runs",
            "2",
            "--measure",
            "200ms",
            "--rate",
            "0",
            "--quota",
            "0",
            "--stacks",
            "tokio,tokio",
            "--interface",
        ];
        let shapes = shapes(&args(&options), true).unwrap();
        assert_eq!(ids(&shapes), ["s0", "s1", "s2"]);
        let s2 = &shapes[2];
        assert_eq!((s2.ccu, s2.size, s2.inflight, s2.runs), (20, 64, 4, 2));
        assert_eq!(s2.measure, Duration::from_millis(200));
        assert_eq!(
            names(s2),
            ["tokio", "proscenium-socket", "proscenium-2shards"]
        );
        assert_eq!((shapes[0].ccu, shapes[0].inflight), (1, 1));
    }

    #[test]
    fn without_raw_the_first_stack_has_the_twin() {
        let shapes = shapes(&args(&["--stacks", "proscenium,asio"]), true).unwrap();
        assert_eq!(
            names(&shapes[2]),
            ["proscenium", "asio", "proscenium (A/A)"]
        );
    }

    #[test]
    fn without_a_quota_its_shapes_are_left_out_and_an_empty_plan_is_an_error() {
        let all = shapes(&args(&[]), false).unwrap();
        assert!(all.iter().all(|shape| shape.quota.is_none()));
        let error = shapes(&args(&["--shapes", "s2-quota"]), false).unwrap_err();
        assert!(error.contains("nothing to run"), "{error}");
        let error = shapes(&args(&["--shapes", "s3"]), true).unwrap_err();
        assert!(error.contains("s2-quota"), "{error}");
    }

    #[test]
    fn a_sweep_skips_what_would_not_fit_into_memory() {
        let shapes = shapes(&args(&["--sweep"]), true).unwrap();
        let bytes =
            |shape: &Shape| u64::from(shape.ccu) * shape.size as u64 * u64::from(shape.inflight);
        assert!(shapes.iter().all(|shape| bytes(shape) <= SWEEP_BYTES_MAX));
        assert!(
            shapes
                .iter()
                .any(|shape| bytes(shape) > SWEEP_BYTES_MAX / 2)
        );
        let all = 4 * 3 * 3;
        assert!((all / 2..all).contains(&shapes.len()), "{}", shapes.len());
        assert!(shapes.iter().all(|shape| names(shape).len() == USUAL.len()));
    }

    #[test]
    fn the_open_loop_is_about_latency_and_has_the_stages() {
        for profile in ["default", "full"] {
            let shapes = shapes(&args(&["--profile", profile]), true).unwrap();
            let open = shapes.iter().find(|shape| shape.id == "open-loop").unwrap();
            assert_eq!((open.ccu, open.rate), (10_000, Some(1e5)));
            assert_eq!((open.metric(), open.quota), (Metric::TailLatency, None));
            assert_eq!(names(open)[..2], ["proscenium", "proscenium-stage"]);
        }
        let stacks = ["--shapes", "open-loop", "--stacks", "proscenium-stage,raw"];
        let shapes = shapes(&args(&stacks), true).unwrap();
        assert_eq!(names(&shapes[0]), ["proscenium-stage", "raw"]);
    }

    #[test]
    fn a_shape_says_what_it_is() {
        let shapes = shapes(&args(&[]), true).unwrap();
        let titles: Vec<String> = shapes.iter().map(Shape::to_string).collect();
        assert_eq!(
            titles[2],
            "10,000 connections × 1 KiB × 30 in flight, server limited to 50 % of a CPU"
        );
        assert!(
            titles[4].ends_with(", 1,000,000 msg/s offered, unthrottled"),
            "{titles:?}"
        );
        assert!(
            titles[5].ends_with(", 100,000 msg/s offered one by one, unthrottled"),
            "{titles:?}"
        );
    }
}
