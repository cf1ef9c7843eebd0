//! What is run: named shapes, each with its contenders, and the order in which these take turns.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::args::CompareArgs;
use super::profiles::{self, Draft, Who};
use super::stacks::{self, Contender, RAW, SOCKET, Stack, TWO_SHARDS, USUAL};
use crate::load::Scenario;
use crate::units::{bytes, grouped};

/// A combination with more bytes than this in flight is skipped in a sweep: the kernel's socket
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
    /// Server CPU time for each connection made, handshakes included, in µs; less is better.
    CpuPerConnect,
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
    /// What is compared is what a connection costs the server, not how long it takes.
    pub(crate) connect_cost: bool,
    /// Whose numbers the others' are related to.
    pub(crate) against: &'static [&'static str],
    /// Rounds in which contenders take turns.
    pub(crate) runs: usize,
    /// Stacks that take part in the first rounds only, and in how many: no goal speaks of them.
    pub(crate) beside: (&'static [&'static str], usize),
    pub(crate) warmup: Duration,
    pub(crate) measure: Duration,
    pub(crate) contenders: Vec<Contender>,
    /// Why it is not run.
    pub(crate) skip: Option<String>,
    /// One point of a sweep, shown together with the others.
    pub(crate) sweep: bool,
}

impl Shape {
    pub(crate) fn metric(&self) -> Metric {
        match self.scenario {
            Scenario::S0 => Metric::Latency,
            Scenario::S1 if self.connect_cost => Metric::CpuPerConnect,
            Scenario::S1 => Metric::ConnectTime,
            Scenario::S2 if self.one_by_one => Metric::TailLatency,
            Scenario::S2 if self.rate.is_some() => Metric::CpuPerMessage,
            Scenario::S2 => Metric::Throughput,
        }
    }

    /// About how long one run takes, starting and ending the server included.
    pub(crate) fn run_time(&self) -> Duration {
        let connect = Duration::from_secs_f64(0.6 + f64::from(self.ccu) / 20_000.0);
        match self.scenario {
            Scenario::S0 => Duration::from_millis(300),
            Scenario::S1 => connect,
            Scenario::S2 => connect + self.warmup + self.measure,
        }
    }

    /// How many runs there are of all contenders together.
    pub(crate) fn run_count(&self) -> usize {
        if self.skip.is_some() {
            return 0;
        }
        self.contenders.iter().map(|who| self.runs_of(who)).sum()
    }

    fn runs_of(&self, who: &Contender) -> usize {
        let (names, few) = self.beside;
        if names.contains(&who.stack.name) {
            few.min(self.runs)
        } else {
            self.runs
        }
    }

    /// Who runs in round `round` (from 0), in order. Each round begins with another contender, so
    /// that none always follows the same one.
    pub(crate) fn turn(&self, round: usize) -> Vec<Contender> {
        let takes_part = |who: &&Contender| round < self.runs_of(who);
        let mut turn: Vec<Contender> = self.contenders.iter().filter(takes_part).copied().collect();
        if !turn.is_empty() {
            let first = round % turn.len();
            turn.rotate_left(first);
        }
        turn
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

/// The shapes that the command line asks for, with those that are to be skipped; `quota`: whether
/// the system lets us limit a server, and if not, why.
///
/// # Errors
/// When nothing is left to run: says what there would have been.
pub(crate) fn shapes(args: &CompareArgs, quota: Result<(), &str>) -> Result<Vec<Shape>, String> {
    if args.sweep {
        return Ok(sweep(args, quota.is_ok(), &profiles::SWEEP));
    }
    let drafts = profiles::drafts(args.profile());
    let mut names: Vec<&str> = drafts.iter().map(|draft| draft.id).collect();
    let sweep_points = profiles::sweep_of(args.profile());
    if sweep_points.is_some() {
        names.push("sweep");
    }
    for asked in &args.shapes {
        if !names.contains(&asked.as_str()) {
            return Err(format!(
                "--shapes {asked}: profile {} has {}",
                args.profile().name(),
                names.join(", ")
            ));
        }
    }
    let is_asked = |id: &str| args.shapes.is_empty() || args.shapes.iter().any(|one| one == id);
    let has_scenario = |one| args.scenarios.is_empty() || args.scenarios.contains(&one);
    let wanted = |draft: &&Draft| {
        has_scenario(draft.scenario)
            && is_asked(draft.id)
            && (args.quota > 0 || !draft.throttled)
            && (draft.rate.is_none() || args.rate != Some(0.0))
    };
    let limited = quota.is_ok() && args.quota > 0;
    let mut shapes: Vec<Shape> = drafts
        .iter()
        .filter(wanted)
        .map(|draft| {
            let mut shape = draft.shape(args);
            // Without quota, the goals are judged by the shape that does without it.
            let instead = drafts
                .iter()
                .find(|one| !limited && one.is_throttled(draft));
            if let Some(instead) = instead {
                let instead = instead.shape(args);
                (shape.runs, shape.beside) = (instead.runs, instead.beside);
            }
            if let (true, Err(reason)) = (draft.throttled, quota) {
                shape.skip = Some(format!("no CPU quota: {reason}"));
            }
            shape
        })
        .collect();
    if let Some(points) = sweep_points
        && is_asked("sweep")
        && has_scenario(Scenario::S2)
    {
        shapes.extend(sweep(args, quota.is_ok(), points));
    }
    if shapes.iter().all(|shape| shape.skip.is_some()) {
        let reasons: Vec<String> = shapes
            .iter()
            .filter_map(|shape| Some(format!("; {}: {}", shape.id, shape.skip.as_deref()?)))
            .collect();
        return Err(format!(
            "nothing to run: no shape of profile {} ({}) is left by --scenarios, --shapes, \
             --quota and --rate on this system{}",
            args.profile().name(),
            names.join(", "),
            reasons.concat()
        ));
    }
    Ok(shapes)
}

impl Draft {
    fn shape(&self, args: &CompareArgs) -> Shape {
        let (ccu, size, inflight) = self.load;
        let one = self.scenario == Scenario::S0;
        let runs = args.runs.map(usize::from);
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
            connect_cost: self.connect_cost,
            against: self.against,
            runs: runs.unwrap_or(self.runs),
            beside: (self.beside.0, runs.unwrap_or(self.beside.1)),
            warmup: args.warmup.unwrap_or(self.warmup),
            measure: args.measure.unwrap_or(self.measure),
            contenders: contenders(args, self.who),
            skip: None,
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
        Who::OnlyAndTwinOf(names, _) => named(names),
        _ if !args.stacks.is_empty() => args.stacks.clone(),
        Who::These(names) | Who::TheseAndTwin(names) => named(names),
        Who::UsualAnd(more) | Who::UsualTwinAnd(more) => {
            let mut stacks = named(&USUAL);
            stacks.splice(1..1, named(more));
            stacks
        }
        Who::Usual | Who::UsualAndTwin => named(&USUAL),
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
    let twin_of = match who {
        Who::Usual | Who::UsualAnd(_) | Who::These(_) => return list,
        Who::UsualAndTwin | Who::UsualTwinAnd(_) => RAW,
        Who::OnlyAndTwinOf(_, name) => name,
        Who::TheseAndTwin(names) => names[0],
    };
    let at = list.iter().position(|one| one.stack.name == twin_of);
    let stack = list[at.unwrap_or(0)].stack;
    list.push(Contender { stack, twin: true });
    list
}

/// A few points on each axis; one that the command line fixes has that value only. Those that
/// would not fit into memory are there to be skipped.
fn sweep(args: &CompareArgs, quota_works: bool, points: &profiles::Sweep) -> Vec<Shape> {
    let sizes = args.size.map_or(points.sizes.to_vec(), |n| vec![n]);
    let inflights = args.inflight.map_or(points.inflights.to_vec(), |n| vec![n]);
    let ccus = args.ccu.map_or(points.ccus.to_vec(), |n| vec![n]);
    let mut shapes = Vec::new();
    for &size in &sizes {
        for &inflight in &inflights {
            for &ccu in &ccus {
                let in_flight = (size as u64)
                    .saturating_mul(inflight.into())
                    .saturating_mul(ccu.into());
                let too_many = in_flight > SWEEP_BYTES_MAX;
                shapes.push(Shape {
                    id: format!("sweep-{ccu}x{size}x{inflight}"),
                    scenario: Scenario::S2,
                    ccu,
                    size,
                    inflight,
                    quota: (quota_works && args.quota > 0).then_some(args.quota),
                    rate: None,
                    one_by_one: false,
                    connect_cost: false,
                    against: profiles::AGAINST,
                    runs: args.runs.map_or(1, usize::from),
                    beside: (&[], 0),
                    warmup: args.warmup.unwrap_or(points.warmup),
                    measure: args.measure.unwrap_or(points.measure),
                    contenders: contenders(args, Who::These(points.stacks)),
                    skip: too_many.then(|| {
                        let (much, most) = (bytes(in_flight), bytes(SWEEP_BYTES_MAX));
                        format!("{much} in flight, more than {}", most.replace(".0 ", " "))
                    }),
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
            .map(|shape| shape.run_time() * shape.run_count() as u32);
        times.sum()
    }

    fn found<'a>(shapes: &'a [Shape], id: &str) -> &'a Shape {
        shapes.iter().find(|shape| shape.id == id).unwrap()
    }

    #[test]
    fn the_default_profile_ends_within_four_minutes() {
        let shapes = shapes(&args(&[]), Ok(())).unwrap();
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
    fn the_full_profile_ends_within_half_an_hour() {
        let shapes = shapes(&args(&["--profile", "full"]), Ok(())).unwrap();
        assert!(time_of(&shapes) < Duration::from_secs(28 * 60));
        let s2 = found(&shapes, "s2-quota");
        assert_eq!(
            names(s2)[..3],
            ["proscenium", "proscenium-socket", "proscenium-stage"]
        );
        let of = |stack: &str, round| s2.turn(round).iter().any(|who| who.to_string() == stack);
        assert!((0..7).all(|round| of("asio", round) && of("raw (A/A)", round)));
        assert!(of("tokio", 2) && !of("tokio", 3) && !of("raw", 7));
        assert_eq!(s2.run_count(), 6 * 7 + 2 * 3);
        let two = found(&shapes, "two-shards");
        assert_eq!((two.rate, two.metric()), (Some(2e5), Metric::CpuPerMessage));
        assert_eq!(
            names(two),
            ["proscenium", "proscenium-2shards", "proscenium (A/A)"]
        );
        let client = found(&shapes, "client");
        assert_eq!(names(client), ["raw", "bare-client", "raw (A/A)"]);
        assert_eq!((client.runs, client.quota), (7, None));
        assert!(shapes.last().unwrap().sweep);
    }

    #[test]
    fn the_profile_of_tls_has_its_stacks_and_the_cost_of_a_handshake() {
        let shapes = shapes(&args(&["--profile", "tls"]), Ok(())).unwrap();
        assert_eq!(ids(&shapes), ["tls-quota", "tls", "handshakes"]);
        let stacks = ["proscenium-tls", "asio-tls", "proscenium-tls (A/A)"];
        assert!(shapes.iter().all(|shape| names(shape) == stacks));
        assert_eq!(found(&shapes, "handshakes").metric(), Metric::CpuPerConnect);
        assert!(time_of(&shapes) < Duration::from_secs(5 * 60));
        let chosen = ["--profile", "tls", "--stacks", "proscenium,proscenium-tls"];
        let shapes = super::shapes(&args(&chosen), Ok(())).unwrap();
        let stacks = ["proscenium", "proscenium-tls", "proscenium-tls (A/A)"];
        assert_eq!(names(&shapes[0]), stacks);
    }

    #[test]
    fn the_profiles_of_web_socket_and_play_have_their_stacks_and_end_in_time() {
        let ws = shapes(&args(&["--profile", "ws"]), Ok(())).unwrap();
        assert_eq!(ids(&ws)[..2], ["ws-64x1-quota", "ws-64x30-quota"]);
        let stacks = ["proscenium-ws", "uws", "bun", "node-ws", "node-ws-corked"];
        assert!(ws.iter().all(|shape| names(shape)[..5] == stacks));
        assert!(
            time_of(&ws) < Duration::from_secs(30 * 60),
            "{:?}",
            time_of(&ws)
        );
        let play = shapes(&args(&["--profile", "play"]), Ok(())).unwrap();
        assert_eq!(
            ids(&play),
            ["play-quota", "play", "play-open-loop", "broadcast"]
        );
        assert_eq!(
            names(&play[0])[..2],
            ["proscenium-play", "proscenium-stage"]
        );
        assert_eq!(found(&play, "broadcast").metric(), Metric::CpuPerMessage);
        assert!(
            time_of(&play) < Duration::from_secs(10 * 60),
            "{:?}",
            time_of(&play)
        );
    }

    #[test]
    fn each_round_begins_with_another_contender_and_has_all_of_them() {
        let shapes = shapes(
            &args(&["--stacks", "proscenium,asio,raw", "--runs", "5"]),
            Ok(()),
        )
        .unwrap();
        let shape = &shapes[2];
        let round = |n| {
            let turn = shape.turn(n);
            turn.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(round(0), ["proscenium", "asio", "raw", "raw (A/A)"]);
        assert_eq!(round(1), ["asio", "raw", "raw (A/A)", "proscenium"]);
        assert_eq!(round(4), round(0));
    }

    #[test]
    fn options_change_every_shape_and_leave_shapes_out() {
        let options = "--ccu 20 --size 64 --inflight 4 --runs 2 --measure 200ms --rate 0 \
                       --quota 0 --stacks tokio,tokio --interface";
        let options: Vec<_> = options.split(' ').collect();
        let shapes = shapes(&args(&options), Ok(())).unwrap();
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
        let shapes = shapes(&args(&["--stacks", "proscenium,asio"]), Ok(())).unwrap();
        assert_eq!(
            names(&shapes[2]),
            ["proscenium", "asio", "proscenium (A/A)"]
        );
    }

    #[test]
    fn without_a_quota_its_shapes_are_skipped_and_others_stand_in() {
        let all = shapes(&args(&[]), Err("no such thing")).unwrap();
        assert_eq!(ids(&all)[..4], ["s0", "s1", "s2-quota", "s2"]);
        let skip = found(&all, "s2-quota").skip.as_deref().unwrap();
        assert!(skip.contains("no such thing"), "{skip}");
        assert_eq!(found(&all, "s2-quota").run_count(), 0);
        assert_eq!((found(&all, "s2").runs, found(&all, "cpu-1m").runs), (3, 1));
        assert!(time_of(&all) < Duration::from_secs(225));
        let full = shapes(&args(&["--profile", "full"]), Err("no")).unwrap();
        assert_eq!(found(&full, "deep").runs, 7);
        assert!(time_of(&full) < Duration::from_secs(28 * 60));
        let not_asked = shapes(&args(&["--quota", "0"]), Err("not asked for")).unwrap();
        assert_eq!(ids(&not_asked)[..3], ["s0", "s1", "s2"]);
    }

    #[test]
    fn an_empty_plan_is_an_error_that_says_what_there_is() {
        let error = shapes(&args(&["--shapes", "s2-quota"]), Err("no way")).unwrap_err();
        assert!(
            error.contains("nothing to run") && error.contains("no way"),
            "{error}"
        );
        let error = shapes(&args(&["--shapes", "s3"]), Ok(())).unwrap_err();
        assert!(error.contains("s2-quota"), "{error}");
    }

    #[test]
    fn a_sweep_skips_what_would_not_fit_into_memory_and_says_so() {
        let shapes = shapes(&args(&["--sweep"]), Ok(())).unwrap();
        assert_eq!(shapes.len(), 4 * 3 * 3);
        let bytes =
            |shape: &Shape| u64::from(shape.ccu) * shape.size as u64 * u64::from(shape.inflight);
        for shape in &shapes {
            assert_eq!(
                shape.skip.is_some(),
                bytes(shape) > SWEEP_BYTES_MAX,
                "{shape}"
            );
            assert_eq!(names(shape).len(), USUAL.len());
        }
        let run = shapes.iter().filter(|shape| shape.skip.is_none());
        assert!(run.clone().count() > shapes.len() / 2);
        assert!(run.clone().any(|shape| bytes(shape) > SWEEP_BYTES_MAX / 2));
        let skip = found(&shapes, "sweep-10000x65536x1").skip.as_deref();
        assert_eq!(skip, Some("625.0 MiB in flight, more than 512 MiB"));
    }

    #[test]
    fn the_open_loop_is_about_latency_and_has_the_stages() {
        for profile in ["default", "full"] {
            let shapes = shapes(&args(&["--profile", profile]), Ok(())).unwrap();
            let open = shapes.iter().find(|shape| shape.id == "open-loop").unwrap();
            assert_eq!((open.ccu, open.rate), (10_000, Some(1e5)));
            assert_eq!((open.metric(), open.quota), (Metric::TailLatency, None));
            assert_eq!(names(open)[..2], ["proscenium", "proscenium-stage"]);
        }
        let stacks = ["--shapes", "open-loop", "--stacks", "proscenium-stage,raw"];
        let shapes = shapes(&args(&stacks), Ok(())).unwrap();
        assert_eq!(names(&shapes[0]), ["proscenium-stage", "raw"]);
    }

    #[test]
    fn a_shape_says_what_it_is() {
        let shapes = shapes(&args(&[]), Ok(())).unwrap();
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
