//! Instructions per message, counted by valgrind's callgrind: unlike times, these do not depend on
//! what else the machine does.
//!
//! For each workload this program runs itself again under callgrind, which counts only inside of
//! [`measured_region`]; what an empty round costs is subtracted. The counts are printed and written
//! to `target/instructions.json`, the profiles stay in `target/callgrind/`. Without valgrind it
//! says so and succeeds; with `--test` every workload runs once, uncounted.

#![allow(clippy::print_stdout, reason = "the table is the purpose")]

mod echo;
mod forward;
mod frames;
mod node;
mod play;
mod tells;

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::{env, fs, io};

use proscenium::framing::{Decoded, LengthPrefix};
use proscenium::mailbox::{Consumer, Mailbox, Wake};
use proscenium::play::PlayShard;
use proscenium::timer::TimerWheel;
use proscenium::{Framing, Handler};

use crate::echo::{Echo, ReplayEcho, SimEcho};
use crate::forward::{Forward, stages};
use crate::frames::frames;
use crate::node::{AskedNode, asking};
use crate::play::{Crowd, direct, entry, packets, play, requests};
use crate::tells::Tells;

/// Rounds of each workload that are counted, after as many that are not.
const ROUNDS: u64 = 20;
/// The workload that is subtracted from the others.
const EMPTY: &str = "empty";

/// One round of a workload; only `measured` is counted.
trait Round {
    fn before(&mut self) {}
    fn measured(&mut self);
    fn after(&mut self) {}
}

struct Workload {
    name: &'static str,
    /// In each round.
    messages: u64,
    make: fn() -> Box<dyn Round>,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "decode-64",
        messages: CHUNK / (4 + 64),
        make: || Box::new(Decode(frames(64, (CHUNK / (4 + 64)) as usize))),
    },
    Workload {
        name: "echo-replayed-64",
        messages: REPLAYED / (4 + 64),
        make: || Box::new(Replayed(ReplayEcho::new(Echo, Framing::Be32, 64, 10), 68)),
    },
    Workload {
        name: "echo-replayed-1024",
        messages: REPLAYED / (4 + 1024),
        make: || {
            Box::new(Replayed(
                ReplayEcho::new(Echo, Framing::Be32, 1024, 10),
                1028,
            ))
        },
    },
    Workload {
        name: "forward-replayed-1024",
        messages: REPLAYED / (4 + 1024),
        make: || {
            Box::new(Replayed(
                ReplayEcho::new(Forward, Framing::Be32, 1024, 10),
                1028,
            ))
        },
    },
    Workload {
        name: "stage-replayed-64",
        messages: REPLAYED / (4 + 64),
        make: || {
            Box::new(Replayed(
                ReplayEcho::new(stages(), Framing::Be32, 64, 10),
                68,
            ))
        },
    },
    Workload {
        name: "stage-replayed-1024",
        messages: REPLAYED / (4 + 1024),
        make: || {
            Box::new(Replayed(
                ReplayEcho::new(stages(), Framing::Be32, 1024, 10),
                1028,
            ))
        },
    },
    Workload {
        name: "play-replayed-64",
        messages: REPLAYED / (4 + 64),
        make: || Box::new(Played::new(64)),
    },
    Workload {
        name: "play-replayed-1024",
        messages: REPLAYED / (4 + 1024),
        make: || Box::new(Played::new(1024)),
    },
    Workload {
        name: "forward-many-1024",
        messages: MANY * 30,
        make: || Box::new(Replayed(many(Forward), 0)),
    },
    Workload {
        name: "stage-many-1024",
        messages: MANY * 30,
        make: || Box::new(Replayed(many(stages()), 0)),
    },
    Workload {
        name: "play-many-1024",
        messages: MANY * 30,
        make: || Box::new(ManyRooms::new()),
    },
    Workload {
        name: "broadcast-replayed-256",
        messages: Crowd::PLAYERS,
        make: || Box::new(Crowd::new("Broadcast", 1)),
    },
    Workload {
        name: "broadcast-replayed-256-10",
        messages: 10 * Crowd::PLAYERS,
        make: || Box::new(Crowd::new("Broadcast", 10)),
    },
    Workload {
        name: "each-replayed-256",
        messages: Crowd::PLAYERS,
        make: || Box::new(Crowd::new("Each", 1)),
    },
    Workload {
        name: "each-replayed-256-10",
        messages: 10 * Crowd::PLAYERS,
        make: || Box::new(Crowd::new("Each", 10)),
    },
    Workload {
        name: "tell-fan-in",
        messages: Tells::ROUND,
        make: || Box::new(Tells::to(1)),
    },
    Workload {
        name: "tell-in-turn",
        messages: Tells::ROUND,
        make: || Box::new(Tells::to(Tells::ROUND)),
    },
    Workload {
        name: "tell-ping-pong",
        messages: Tells::ROUND,
        make: || Box::new(Tells::rally()),
    },
    Workload {
        name: "node-replayed-64",
        messages: ONE_REPLAYED / 64,
        make: || Box::new(Asked::new(64)),
    },
    Workload {
        name: "node-replayed-1024",
        messages: ONE_REPLAYED / 1024,
        make: || Box::new(Asked::new(1024)),
    },
    Workload {
        name: "echo-simulated-64",
        messages: SimEcho::frames_per_turn(64) as u64,
        make: || Box::new(Simulated(SimEcho::new(Framing::Be32, 64))),
    },
    Workload {
        name: "echo-simulated-1024",
        messages: SimEcho::frames_per_turn(1024) as u64,
        make: || Box::new(Simulated(SimEcho::new(Framing::Be32, 1024))),
    },
    Workload {
        name: "unframed-replayed-64",
        messages: REPLAYED / (4 + 64),
        make: || Box::new(Replayed(ReplayEcho::new(Echo, Framing::Raw, 64, 10), 68)),
    },
    Workload {
        name: "unframed-simulated-64",
        messages: SimEcho::frames_per_turn(64) as u64,
        make: || Box::new(Simulated(SimEcho::new(Framing::Raw, 64))),
    },
    Workload {
        name: "mailbox-push-pop",
        messages: ITEMS,
        make: || Box::new(Post::new()),
    },
    Workload {
        name: "timer-insert-cancel",
        messages: ITEMS,
        make: || Box::new(Timers(TimerWheel::new(0))),
    },
];

const CHUNK: u64 = 64 * 1024;
const REPLAYED: u64 = <ReplayEcho>::bytes_per_turn(10) as u64;
/// Bytes of a turn with one connection.
const ONE_REPLAYED: u64 = <ReplayEcho>::bytes_per_turn(1) as u64;
const ITEMS: u64 = 1000;

/// Connections that are too many for the caches, each with thirty messages in a read.
const MANY: u64 = 10_000;

fn many<H: Handler>(handler: H) -> ReplayEcho<H> {
    let frames = frames(1024, 30);
    ReplayEcho::reading(handler, Framing::Be32, &frames, MANY as usize, frames.len())
}

/// A stage for each of many connections.
struct ManyRooms(ReplayEcho<PlayShard>);

impl ManyRooms {
    fn new() -> Self {
        let requests = requests(1024, 30);
        let (many, read) = (MANY as usize, requests.len());
        let mut replay = ReplayEcho::reading(play(), Framing::Le32, &requests, many, read);
        let entry = entry(read);
        let mut entering = 0..many;
        replay.change(move |bytes, connection| {
            if entering.next().is_some() {
                bytes.copy_from_slice(&entry);
            }
            direct(bytes, connection as i64);
        });
        replay.turn();
        Self(replay)
    }
}

impl Round for ManyRooms {
    fn measured(&mut self) {
        self.0.turn();
    }

    fn after(&mut self) {
        self.0.check_at_least(MANY * 30 * 1028);
    }
}

struct Empty;

impl Round for Empty {
    fn measured(&mut self) {}
}

struct Decode(Vec<u8>);

impl Round for Decode {
    fn measured(&mut self) {
        let (codec, bytes) = (black_box(LengthPrefix::be32()), &self.0[..]);
        let mut at = 0;
        while let Decoded::Frame { body, consumed } = codec.decode(&bytes[at..]) {
            black_box(body);
            at += consumed;
        }
        assert_eq!(at, bytes.len());
    }
}

struct Replayed<H: Handler>(ReplayEcho<H>, usize);

impl<H: Handler> Round for Replayed<H> {
    fn measured(&mut self) {
        self.0.turn();
    }

    fn after(&mut self) {
        self.0.check(1, self.1);
    }
}

/// Requests that actors answer. The answers are longer: they have an error code and a size more.
struct Played(ReplayEcho<PlayShard>);

impl Played {
    fn new(size: usize) -> Self {
        let mut replay = ReplayEcho::of(play(), Framing::Le32, &packets(size, 1000), 10);
        for _ in 0..10 {
            replay.turn(); // in which they authenticate
        }
        Self(replay)
    }
}

impl Round for Played {
    fn measured(&mut self) {
        self.0.turn();
    }

    fn after(&mut self) {
        // Less what of the last frame of each connection comes with the next turn.
        self.0.check_at_least(REPLAYED - 10 * 2048);
    }
}

/// Requests that a node answers, all by one link. A handshake cannot be repeated, so the recording
/// is long enough for all rounds.
struct Asked(ReplayEcho<AskedNode>);

impl Asked {
    fn new(size: usize) -> Self {
        let turns = 2 * ROUNDS + 4;
        let bytes = asking(size, (turns * ONE_REPLAYED) as usize);
        let mut replay = ReplayEcho::of(AskedNode::new(), Framing::Raw, &bytes, 1);
        replay.turn(); // in which the link comes up
        Self(replay)
    }
}

impl Round for Asked {
    fn measured(&mut self) {
        self.0.turn();
    }

    fn after(&mut self) {
        // An answer is a little longer or shorter than its request.
        self.0.check_at_least(ONE_REPLAYED * 9 / 10);
    }
}

impl Round for Crowd {
    fn measured(&mut self) {
        self.turn();
    }

    fn after(&mut self) {
        self.check();
    }
}

impl Round for Tells {
    fn measured(&mut self) {
        self.round();
    }
}

struct Simulated(SimEcho);

impl Round for Simulated {
    fn before(&mut self) {
        self.0.offer();
    }

    fn measured(&mut self) {
        self.0.turn();
    }

    fn after(&mut self) {
        self.0.collect();
    }
}

struct Post {
    mailbox: Arc<Mailbox<u64>>,
    consumer: Consumer<u64>,
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

impl Post {
    fn new() -> Self {
        let (mailbox, consumer) = Mailbox::new(1024, Box::new(NoWake));
        Self { mailbox, consumer }
    }
}

impl Round for Post {
    fn measured(&mut self) {
        for item in 0..ITEMS {
            self.mailbox.try_push(item).expect("there is room");
            assert_eq!(self.consumer.pop(), Some(item));
        }
    }
}

struct Timers(TimerWheel<u64>);

impl Round for Timers {
    fn measured(&mut self) {
        for number in 0..ITEMS {
            let deadline = 1 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 60_000_000_000;
            let key = self.0.insert(deadline, number);
            assert_eq!(self.0.cancel(key), Some(number));
        }
    }
}

/// Callgrind counts in here only; it knows the function by this name.
#[inline(never)]
fn measured_region(round: &mut dyn Round) {
    round.measured();
}

fn run(round: &mut dyn Round, rounds: u64, measure: fn(&mut dyn Round)) {
    for _ in 0..rounds {
        round.before();
        measure(round);
        round.after();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, name, rounds @ ..] = &arguments[..]
        && flag == "--workload"
    {
        let rounds = rounds.first().and_then(|rounds| rounds.parse().ok());
        return run_one(name, rounds.unwrap_or(ROUNDS));
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let chosen: Vec<&Workload> = {
        let names: Vec<_> = arguments
            .iter()
            .filter(|one| !one.starts_with('-'))
            .collect();
        let wanted = |workload: &&Workload| {
            names.is_empty() || names.iter().any(|name| workload.name.contains(*name))
        };
        WORKLOADS.iter().filter(wanted).collect()
    };
    if has("--test") || !has("--bench") {
        for workload in chosen {
            run(&mut *(workload.make)(), 1, measured_region);
            println!("{}: ok", workload.name);
        }
        return ExitCode::SUCCESS;
    }
    match count(&chosen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The run under callgrind; by itself, with more rounds, something to be timed.
fn run_one(name: &str, rounds: u64) -> ExitCode {
    let mut round: Box<dyn Round> = match WORKLOADS.iter().find(|one| one.name == name) {
        Some(workload) => (workload.make)(),
        None if name == EMPTY => Box::new(Empty),
        None => return ExitCode::FAILURE,
    };
    run(&mut *round, ROUNDS, |round| round.measured());
    run(&mut *round, rounds, measured_region);
    ExitCode::SUCCESS
}

fn count(workloads: &[&Workload]) -> io::Result<()> {
    let mut valgrind = Command::new("valgrind");
    let found = valgrind.arg("--version").stdout(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        println!("skipped: valgrind not found (Debian package valgrind)");
        return Ok(());
    }
    let target = target_folder()?;
    let profiles = target.join("callgrind");
    fs::create_dir_all(&profiles)?;
    let empty = instructions(EMPTY, &profiles)?;
    println!(
        "{:<24}{:>14}{:>14}",
        "workload", "instructions", "per message"
    );
    let mut json = String::from("[");
    for workload in workloads {
        let name = workload.name;
        let counted = instructions(name, &profiles)?.saturating_sub(empty);
        let messages = ROUNDS * workload.messages;
        let each = counted as f64 / messages as f64;
        println!("{name:<24}{counted:>14}{each:>14.1}");
        let comma = if json.len() > 1 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(
            json,
            "{comma}\n  {{\"workload\": \"{name}\", \"messages\": {messages}, \
             \"instructions\": {counted}, \"per_message\": {each:.2}}}"
        );
    }
    json.push_str("\n]\n");
    fs::write(target.join("instructions.json"), json)
}

/// The folder of build products, which holds cargo's scratch folder of this bench.
fn target_folder() -> io::Result<PathBuf> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = scratch.parent();
    target
        .map(Path::to_path_buf)
        .ok_or_else(|| io::Error::other("no target folder"))
}

/// Runs a workload under callgrind; says how many instructions its measured region took.
fn instructions(name: &str, profiles: &Path) -> io::Result<u64> {
    let profile = profiles.join(format!("{name}.out"));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg("--toggle-collect=*measured_region*")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env::current_exe()?)
        .args(["--workload", name])
        // `rep movsb` is counted once per byte: long copies must use vector instructions.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.x86_rep_movsb_threshold=1073741824",
        )
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{name} under valgrind: {said}")));
    }
    let text = fs::read_to_string(&profile)?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.ok_or_else(|| {
        let message = format!("{}: expected a line `totals: N`", profile.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}
