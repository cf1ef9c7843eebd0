//! Replays the fuzzer's corpus through the very code that the fuzz target runs, so that what a
//! fuzzer found once is checked by every ordinary test run.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/properties/length_prefix.rs"]
mod properties;
#[path = "../fuzz/seeds/length_prefix.rs"]
mod seeds;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/length_prefix")
}

#[test]
fn every_corpus_file_holds() {
    let mut replayed = 0;
    for entry in fs::read_dir(corpus()).expect("the corpus folder") {
        let path = entry.expect("a corpus entry").path();
        let input = fs::read(&path).expect("a corpus file");
        let outcome = std::panic::catch_unwind(|| properties::check(&input));
        assert!(
            outcome.is_ok(),
            "{} breaks a property, see the panic above",
            path.display()
        );
        replayed += 1;
    }
    assert!(
        replayed >= seeds::seeds().len(),
        "only {replayed} corpus files"
    );
    assert!(replayed > 0, "the corpus is empty");
}

/// The seeds are checked in twice, as files for the fuzzer and as readable source. With
/// `PROSCENIUM_WRITE_SEEDS` set the files are written first.
#[test]
fn seeds_and_their_files_agree() {
    let write = std::env::var_os("PROSCENIUM_WRITE_SEEDS").is_some();
    for (name, input) in seeds::seeds() {
        let path = corpus().join(name);
        if write {
            fs::write(&path, &input).expect("a writable corpus");
        }
        let file = fs::read(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(file, input, "{name} differs from its source");
    }
}

/// A check that cannot fail is worthless: the seeds have to reach every kind of ending, or the
/// replay proves less than it seems to.
#[test]
fn the_seeds_reach_every_ending() {
    use proscenium_framing::{ByteOrder, LengthPrefix};

    let (mut whole, mut tails, mut refused, mut splits) = (0, 0, 0, 0);
    for (_, input) in seeds::seeds() {
        let [setup, n, rest @ ..] = &input[..] else {
            continue;
        };
        let Some(stream) = rest.get(usize::from(*n)..) else {
            continue;
        };
        let order = if setup & 1 == 0 {
            ByteOrder::Big
        } else {
            ByteOrder::Little
        };
        let limit = properties::LIMITS[usize::from(setup >> 1 & 3)];
        let mut frames = LengthPrefix::new(order, limit).frames(stream);
        let error = frames.by_ref().any(|frame| frame.is_err());
        splits += usize::from(*n > 0);
        match (error, frames.rest().is_empty()) {
            (true, _) => refused += 1,
            (false, true) => whole += 1,
            (false, false) => tails += 1,
        }
    }
    assert!(whole >= 5 && tails >= 3 && refused >= 5 && splits >= 5);
}
