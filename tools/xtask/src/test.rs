//! `cargo xtask test`: the tests of the project; with `--all` also the long and heavy ones.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::foreign::Foreign;
use crate::steps::Steps;
use crate::{autobahn, peers, system, tree};

/// Seeds of each simulation in a long run, unless told otherwise; a short one has a thousand in
/// all.
const SEEDS_ALL: u32 = 10_000;
/// About how long a short and a long run take on two CPUs, builds included.
const TIME: &str = "10 to 15 minutes";
const TIME_ALL: &str = "an hour";
/// How many parts a short run has, and how many a long one has besides, without the fuzzers.
const PARTS: usize = 13;
const PARTS_ALL: usize = 9;
/// What is fuzzed: a crate, and a target below its `fuzz/fuzz_targets/`.
const FUZZ_TARGETS: [(&str, &str); 7] = [
    ("framing", "length_prefix"),
    ("framing", "packet"),
    ("framing", "lz4"),
    ("framing", "websocket"),
    ("framing", "zmtp"),
    ("framing", "route"),
    ("engine", "tls"),
];
/// How long the fuzzer looks for new inputs of each target, in seconds.
const FUZZ_SECONDS: &str = "60";
/// The oldest compiler we promise, as in the workspace's manifest.
const OLDEST: &str = "1.88";

/// Runs the tests, prints the count.
///
/// # Errors
/// When a test failed, or for unknown arguments.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Options { all, seeds } = Options::parse(args)?;
    let (parts, time) = match all {
        true => (PARTS + PARTS_ALL + FUZZ_TARGETS.len(), TIME_ALL),
        false => (PARTS, TIME),
    };
    println!("{parts} parts, about {time} on two CPUs with everything to build");
    let mut steps = Steps::new(parts);
    let foreign = Foreign::find(&mut steps);
    workspace(&mut steps, all, &foreign);
    stages(&mut steps, all);
    loom(&mut steps);
    check_peers(&mut steps);
    if all {
        many_seeds(&mut steps, seeds);
        soak(&mut steps);
        benches(&mut steps);
        oldest_compiler(&mut steps);
        address_sanitizer(&mut steps, &foreign);
        autobahn::run(&mut steps);
        valgrind(&mut steps);
        fuzz(&mut steps);
        coverage(&mut steps, &foreign);
    }
    steps.finish()
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    all: bool,
    seeds: u32,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self {
            all: false,
            seeds: SEEDS_ALL,
        };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            match arg {
                "--all" => options.all = true,
                "--seeds" => {
                    let number = args.next().and_then(|text| text.parse().ok());
                    options.seeds = number.ok_or("--seeds: expected a number")?;
                }
                other => return Err(format!("expected --all [--seeds N], not `{other}`")),
            }
        }
        if options.seeds != SEEDS_ALL && !options.all {
            return Err("--seeds goes with --all".to_owned());
        }
        Ok(options)
    }
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(tree::root());
    command
}

/// cargo of another toolchain, with a build folder of its own.
fn cargo_of(toolchain: &str, folder: &str, args: &[&str]) -> Command {
    let mut command = cargo(args);
    command
        .env("RUSTUP_TOOLCHAIN", toolchain)
        .env("CARGO_TARGET_DIR", tree::target().join(folder));
    command
}

/// Unit, behaviour, simulation and documentation tests, the fuzzer's corpus among them.
fn workspace(steps: &mut Steps, all: bool, foreign: &Foreign) {
    let mut command = cargo(&["test", "--workspace", "--all-features", "--no-fail-fast"]);
    foreign.tell(&mut command);
    if all {
        command.env("PROSCENIUM_ALL", "1");
    }
    steps.run("workspace", &mut command);
}

/// The stages as embedders build them: without the simulation, which the workspace's run has on.
fn stages(steps: &mut Steps, all: bool) {
    let mut command = cargo(&["test", "-p", "proscenium-stages", "--no-fail-fast"]);
    if all {
        command.env("PROSCENIUM_ALL", "1");
    }
    steps.run("stages", &mut command);
}

/// The mailbox under every interleaving; loom needs the crate compiled for it.
fn loom(steps: &mut Steps) {
    let args = [
        "test",
        "-p",
        "proscenium-engine",
        "--release",
        "--test",
        "loom_mailbox",
    ];
    let flags = format!("{} --cfg loom", env::var("RUSTFLAGS").unwrap_or_default());
    let mut command = cargo(&args);
    command
        .env("RUSTFLAGS", flags.trim())
        .env("CARGO_TARGET_DIR", tree::target().join("loom"));
    steps.run("loom", &mut command);
}

/// The peers echo as they should: what is compared is the same service.
fn check_peers(steps: &mut Steps) {
    if !system::has("python3")
        && let Err(reason) = system::install(&["python3"])
    {
        for name in peers::names() {
            steps.skip(name, &format!("python3: {reason}"));
        }
        return;
    }
    for peer in peers::build() {
        match peer.built {
            Err(reason) => steps.skip(peer.name, &reason),
            Ok(program) => {
                let mut command = Command::new("python3");
                command.arg(tree::root().join("tools/peers/tests/check.py"));
                steps.run(peer.name, command.args(peer.check).arg(program));
            }
        }
    }
}

/// Many more seeds of the simulated tests, optimised.
fn many_seeds(steps: &mut Steps, seeds: u32) {
    let args = [
        "test",
        "--profile",
        "soak",
        "-p",
        "proscenium",
        "-p",
        "proscenium-stages",
        "-p",
        "proscenium-play",
        "--features",
        "proscenium/sim,proscenium/tls,proscenium/ws,proscenium-stages/sim,proscenium-play/sim",
        "--no-fail-fast",
        "--test",
        "sim_*",
    ];
    let mut command = cargo(&args);
    command.env("PROSCENIUM_SEEDS", seeds.to_string());
    steps.run("seeds", &mut command);
    // A mesh of nodes takes ten times as long as a server with its clients.
    let args = [
        "test",
        "--profile",
        "soak",
        "-p",
        "proscenium-nodelink",
        "--features",
        "sim",
    ];
    let mut command = cargo(&args);
    command.args(["--no-fail-fast", "--test", "sim_*"]);
    command.env("PROSCENIUM_SEEDS", (seeds / 10).max(1).to_string());
    steps.run("seeds of nodes", &mut command);
}

/// A hundred nodes that are killed and restarted, and a million requests under way.
fn soak(steps: &mut Steps) {
    let args = ["test", "--profile", "soak", "-p", "proscenium-nodelink"];
    let mut command = cargo(&args);
    // One after the other: each takes what the machine has.
    command.args([
        "--test",
        "soak",
        "--",
        "--ignored",
        "--nocapture",
        "--test-threads",
        "1",
    ]);
    steps.run("soak of nodes", &mut command);
}

/// Every benchmark runs, once and without measuring.
fn benches(steps: &mut Steps) {
    let mut command = cargo(&["bench", "--profile", "soak", "--all-features"]);
    steps.run("benches", command.args(["--bench", "*", "--", "--test"]));
}

fn oldest_compiler(steps: &mut Steps) {
    let name = "oldest compiler";
    match system::toolchain(OLDEST) {
        None => steps.skip(
            name,
            &format!("no toolchain {OLDEST}: rustup toolchain install {OLDEST}"),
        ),
        Some(toolchain) => {
            let args = ["check", "--workspace", "--all-features"];
            steps.run(name, &mut cargo_of(&toolchain, "oldest", &args));
        }
    }
}

/// The crates with unsafe code under AddressSanitizer, which only a nightly compiler offers.
fn address_sanitizer(steps: &mut Steps, foreign: &Foreign) {
    let name = "address sanitizer";
    let host = system::output("rustc", &["-vV"])
        .as_deref()
        .and_then(host_of);
    let (Some(toolchain), Some(host)) = (system::toolchain("nightly"), host) else {
        return steps.skip(
            name,
            "no nightly toolchain: rustup toolchain install nightly",
        );
    };
    // Naming the target keeps the flags away from build scripts and procedural macros.
    let mut args = vec![
        "test",
        "--target",
        &host,
        "--all-features",
        "--no-fail-fast",
        "--lib",
        "--tests",
    ];
    args.extend(["-p", "proscenium-engine", "-p", "proscenium-stages"]);
    args.extend(["-p", "proscenium"]);
    // These look at the memory of the process, which the sanitizer keeps from being reused.
    args.extend(["--", "--skip", "leave_nothing_behind"]);
    // A payload whose drop panics is leaked on purpose.
    args.extend(["--skip", "panics_are_results_and_cost_no_thread"]);
    let mut command = cargo_of(&toolchain, "sanitizer", &args);
    // Fewer seeds: it is several times slower.
    command
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("PROSCENIUM_SEEDS", "200");
    steps.run(name, foreign.tell(&mut command));
}

/// The `host:` line of `rustc -vV`.
fn host_of(version: &str) -> Option<String> {
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned)
}

/// A cargo subcommand: installed, or installed now into the build folder.
fn subcommand(package: &str) -> Result<PathBuf, String> {
    if system::has(package) {
        return Ok(PathBuf::from(package));
    }
    let root = tree::target().join("tools");
    let program = root.join("bin").join(package);
    if !program.is_file() {
        let folder = root.to_string_lossy();
        let args = ["install", "--locked", "--quiet", "--root", &folder, package];
        if !system::succeeds("cargo", &args) {
            return Err(format!("cargo install {package} failed"));
        }
    }
    Ok(program)
}

/// The C program of the connector's C interface, with every access and allocation looked at.
fn valgrind(steps: &mut Steps) {
    if !system::has("valgrind")
        && let Err(reason) = system::install(&["valgrind", "libc6-dbg"])
    {
        return steps.skip("valgrind", &reason);
    }
    let mut command = cargo(&["test", "-p", "proscenium-connector-ffi", "--test", "c"]);
    command.env("PROSCENIUM_VALGRIND", "1");
    steps.run("valgrind", &mut command);
}

fn fuzz(steps: &mut Steps) {
    let Some(toolchain) = system::toolchain("nightly") else {
        return steps.skip(
            "fuzz",
            "no nightly toolchain: rustup toolchain install nightly",
        );
    };
    let program = match subcommand("cargo-fuzz") {
        Ok(program) => program,
        Err(reason) => return steps.skip("fuzz", &reason),
    };
    for (package, target) in FUZZ_TARGETS {
        let step = format!("fuzz {target}");
        let found = tree::target().join("fuzz-found").join(target);
        if let Err(error) = std::fs::create_dir_all(&found) {
            return steps.skip(&step, &format!("{}: {error}", found.display()));
        }
        let mut command = Command::new(&program);
        command
            .args(["fuzz", "run", target])
            .arg(found)
            .arg(format!("fuzz/corpus/{target}"))
            .arg("--")
            .arg(format!("-max_total_time={FUZZ_SECONDS}"))
            .current_dir(tree::root().join(package))
            .env("RUSTUP_TOOLCHAIN", &toolchain)
            .env("CARGO_TARGET_DIR", tree::target().join("fuzz"));
        steps.run(&step, &mut command);
    }
}

fn coverage(steps: &mut Steps, foreign: &Foreign) {
    let components = system::output("rustup", &["component", "list", "--installed"]);
    if !components.is_some_and(|list| list.lines().any(|line| line.starts_with("llvm-tools"))) {
        let reason = "no llvm-tools: rustup component add llvm-tools";
        return steps.skip("coverage", reason);
    }
    let program = match subcommand("cargo-llvm-cov") {
        Ok(program) => program,
        Err(reason) => return steps.skip("coverage", &reason),
    };
    let mut command = Command::new(program);
    command
        .args([
            "llvm-cov",
            "--workspace",
            "--all-features",
            "--summary-only",
        ])
        .current_dir(tree::root())
        .env("CARGO_TARGET_DIR", tree::target().join("coverage"));
    steps.run("coverage", foreign.tell(&mut command));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_arguments_are_refused_before_anything_runs() {
        let error = run(&["--everything".to_owned()]).unwrap_err();
        assert!(error.contains("--all"), "{error}");
        let parse = |text: &str| {
            let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            Options::parse(&args)
        };
        let (all, seeds) = (true, 7);
        assert_eq!(parse("--all --seeds 7"), Ok(Options { all, seeds }));
        assert_eq!(parse("").map(|options| options.all), Ok(false));
        for wrong in ["--seeds 7", "--all --seeds", "--all --seeds x"] {
            assert!(parse(wrong).unwrap_err().contains("--seeds"), "{wrong}");
        }
    }

    #[test]
    fn the_host_is_read() {
        let text = "rustc 1.88.0\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n";
        assert_eq!(host_of(text).as_deref(), Some("x86_64-unknown-linux-gnu"));
        assert_eq!(host_of("rustc"), None);
    }
}
