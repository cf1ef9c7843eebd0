//! Running a simulated test for many seeds: for all packages whose tests are simulated.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Faults, SimNet};

/// Runs `run` on a network of its own for each seed, with the faults of the seed. A seed that
/// fails is named, with how to replay it and its last events.
///
/// `PROSCENIUM_SEEDS` sets the number of seeds, `PROSCENIUM_SEED` replays one.
pub fn for_seeds(test: &str, seeds: u64, run: impl Fn(&SimNet)) {
    let number = |name: &str| {
        std::env::var(name).ok().map(|text| {
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
        })
    };
    let seeds = match (number("PROSCENIUM_SEED"), number("PROSCENIUM_SEEDS")) {
        (Some(one), _) => one..=one,
        (None, many) => 0..=many.unwrap_or(seeds).saturating_sub(1),
    };
    for seed in seeds {
        run_seed(test, seed, &run);
    }
}

/// Runs one seed, as [`for_seeds`] does: for seeds that failed once.
pub fn run_seed(test: &str, seed: u64, run: impl Fn(&SimNet)) {
    let net = SimNet::from_seed(seed);
    net.keep_last_events(60);
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&net))) else {
        return;
    };
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    let events: Vec<String> = net.last_events().iter().map(|e| e.to_string()).collect();
    panic!(
        "seed {seed} failed: {}\nfaults: {:?}\nlast events:\n{}\n\
         replay: PROSCENIUM_SEED={seed} cargo test -p {} --features sim --test {} {test}",
        text.unwrap_or_default(),
        Faults::from_seed(seed),
        events.join("\n"),
        env!("CARGO_PKG_NAME"),
        env!("CARGO_CRATE_NAME"),
    );
}
