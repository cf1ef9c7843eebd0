//! Replays the fuzzer's corpora through the very code that the fuzz targets run, so that what a
//! fuzzer found once is checked by every ordinary test run.

use std::fs;
use std::panic::RefUnwindSafe;
use std::path::{Path, PathBuf};

#[path = "../fuzz/properties"]
mod properties {
    pub(crate) mod length_prefix;
    #[cfg(feature = "lz4")]
    pub(crate) mod lz4;
    pub(crate) mod packet;
    pub(crate) mod route;
    #[cfg(feature = "websocket")]
    pub(crate) mod websocket;
    pub(crate) mod zmtp;
}
#[path = "../fuzz/seeds"]
mod seeds {
    pub(crate) mod length_prefix;
    #[cfg(feature = "lz4")]
    pub(crate) mod lz4;
    pub(crate) mod packet;
    pub(crate) mod route;
    #[cfg(feature = "websocket")]
    pub(crate) mod websocket;
    pub(crate) mod zmtp;
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn corpus(target: &str) -> PathBuf {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    fuzz.join(target)
}

/// Every corpus file holds, and the seeds, which are checked in twice, as files for the fuzzer and
/// as readable source, agree. With `PROSCENIUM_WRITE_SEEDS` set the files are written first.
fn replay(target: &str, seeds: &Seeds, check: impl Fn(&[u8]) + RefUnwindSafe) {
    let write = std::env::var_os("PROSCENIUM_WRITE_SEEDS").is_some();
    for (name, input) in seeds {
        let path = corpus(target).join(name);
        if write {
            fs::write(&path, input).expect("a writable corpus");
        }
        let file = fs::read(&path).unwrap_or_else(|e| panic!("{target}/{name}: {e}"));
        assert_eq!(file, *input, "{target}/{name} differs from its source");
    }
    let mut replayed = 0;
    for entry in fs::read_dir(corpus(target)).expect("the corpus folder") {
        let path = entry.expect("a corpus entry").path();
        let input = fs::read(&path).expect("a corpus file");
        let outcome = std::panic::catch_unwind(|| check(&input));
        let path = path.display();
        assert!(
            outcome.is_ok(),
            "{path} breaks a property, see the panic above"
        );
        replayed += 1;
    }
    assert!(
        replayed >= seeds.len() && replayed > 0,
        "only {replayed} corpus files"
    );
}

#[test]
fn the_corpus_of_length_prefix_holds() {
    let seeds = seeds::length_prefix::seeds();
    replay("length_prefix", &seeds, properties::length_prefix::check);
}

#[test]
fn the_corpus_of_packet_holds() {
    replay("packet", &seeds::packet::seeds(), properties::packet::check);
}

#[cfg(feature = "lz4")]
#[test]
fn the_corpus_of_lz4_holds() {
    replay("lz4", &seeds::lz4::seeds(), properties::lz4::check);
}

#[test]
fn the_corpus_of_zmtp_holds() {
    replay("zmtp", &seeds::zmtp::seeds(), properties::zmtp::check);
}

#[test]
fn the_corpus_of_route_holds() {
    replay("route", &seeds::route::seeds(), properties::route::check);
}

#[cfg(feature = "websocket")]
#[test]
fn the_corpus_of_websocket_holds() {
    let seeds = seeds::websocket::seeds();
    replay("websocket", &seeds, properties::websocket::check);
}

/// A check that cannot fail is worthless: the seeds have to reach every kind of ending, or the
/// replay proves less than it seems to.
#[test]
fn the_seeds_reach_every_ending() {
    use proscenium_framing::{ByteOrder, LengthPrefix};

    let (mut whole, mut tails, mut refused, mut splits) = (0, 0, 0, 0);
    for (_, input) in seeds::length_prefix::seeds() {
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
        let limit = properties::length_prefix::LIMITS[usize::from(setup >> 1 & 3)];
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

#[test]
fn the_seeds_of_packets_reach_every_ending() {
    use proscenium_framing::packet::{ClientPacket, PacketError, ServerPacket};

    let endings = seeds::packet::seeds().into_iter().flat_map(|(_, input)| {
        [
            ClientPacket::decode(&input).map(drop),
            ServerPacket::decode(&input).map(drop),
        ]
    });
    let mut seen = [0; 5];
    for ending in endings {
        seen[match ending {
            Ok(()) => 0,
            Err(PacketError::TooShort { .. }) => 1,
            Err(PacketError::IdLength { .. }) => 2,
            Err(PacketError::IdNotUtf8 { .. }) => 3,
            Err(_) => 4,
        }] += 1;
    }
    assert!(seen.iter().all(|&times| times > 0), "{seen:?}");
}

#[cfg(feature = "lz4")]
#[test]
fn the_seeds_of_lz4_reach_every_ending() {
    use proscenium_framing::packet::lz4::{UnpickleError, unpickle};

    let mut seen = [0; 6];
    for (_, input) in seeds::lz4::seeds() {
        let Some(([cap, size @ ..], container)) = input.split_first_chunk::<5>() else {
            continue;
        };
        // 0 stands for what is claimed; here 100, which is what the good ones claim.
        let size = match i32::from_le_bytes(*size) {
            0 => 100,
            size => size,
        };
        let cap = properties::lz4::CAPS[usize::from(cap & 3)];
        seen[match unpickle(container, size, cap) {
            Ok(_) => 0,
            Err(UnpickleError::OriginalSize { .. }) => 1,
            Err(UnpickleError::Truncated { .. }) => 2,
            Err(UnpickleError::Version { .. }) => 3,
            Err(UnpickleError::Mismatch { .. }) => 4,
            Err(_) => 5,
        }] += 1;
    }
    assert!(seen.iter().all(|&times| times > 0), "{seen:?}");
}

#[test]
fn the_seeds_of_zmtp_reach_every_ending() {
    use std::collections::BTreeSet;

    use properties::zmtp::{Event, LIMITS, events};
    use proscenium_framing::zmtp::{Handshake, Null, Properties, Step};

    let mut seen = BTreeSet::new();
    for (_, input) in seeds::zmtp::seeds() {
        let Some((&setup, mut stream)) = input.split_first() else {
            continue;
        };
        let limits = LIMITS[usize::from(setup & 3)];
        if stream.first() == Some(&0xFF) {
            let mut out = Vec::new();
            let mut handshake = Handshake::new(Null, Properties::new(), limits, &mut out);
            match handshake.receive(stream, &mut out) {
                Ok((used, Step::Done(peer))) => {
                    seen.insert(["done 3.0", "done 3.1"][usize::from(peer.minor)]);
                    stream = &stream[used..];
                }
                Ok(_) => {
                    seen.insert("wants more");
                    continue;
                }
                Err(error) => {
                    seen.insert(error.name());
                    continue;
                }
            }
        }
        for event in events(stream, stream.len(), limits) {
            seen.insert(match event {
                Event::Message(_) => "message",
                Event::Command(_) => "command",
                Event::Tail(0) => "end",
                Event::Tail(_) => "tail",
                Event::Bad(error) => match error.name() {
                    "command" => "command broken",
                    other => other,
                },
            });
        }
    }
    let wanted = [
        "done 3.0",
        "done 3.1",
        "wants more",
        "message",
        "command",
        "end",
        "tail",
        "signature",
        "version",
        "mechanism_name",
        "mechanism",
        "flags",
        "frame_too_long",
        "command_too_long",
        "message_too_long",
        "too_many_parts",
        "command broken",
        "refused",
        "refused_by_peer",
        "unexpected_command",
        "message_in_handshake",
    ];
    for ending in wanted {
        assert!(seen.contains(ending), "{ending} is not among {seen:?}");
    }
}

#[test]
fn the_seeds_of_route_reach_every_ending() {
    use proscenium_framing::route::{RouteError, RouteHeader};

    let mut seen = [0; 6];
    for (_, input) in seeds::route::seeds() {
        seen[match RouteHeader::decode(&input) {
            Ok(_) => 0,
            Err(RouteError::Truncated) => 1,
            Err(RouteError::Varint) => 2,
            Err(RouteError::WireType { .. }) => 3,
            Err(RouteError::UnknownWireType { .. }) => 4,
            Err(_) => 5,
        }] += 1;
    }
    assert!(seen.iter().all(|&times| times > 0), "{seen:?}");
}

/// Every error there is, messages cut off, and control frames inside others.
#[cfg(feature = "websocket")]
#[test]
fn the_seeds_of_websocket_reach_every_ending() {
    use properties::websocket::{Seen, Story, model};

    let stories = seeds::websocket::seeds()
        .into_iter()
        .filter_map(|(_, input)| {
            let stream = input.get(2 + usize::from(*input.get(1)?)..)?;
            Some(model(input[0], stream))
        });
    let stories: Vec<Story> = stories.collect();
    let variants: std::collections::BTreeSet<String> = stories
        .iter()
        .filter_map(|story| {
            let name = format!("{:?}", story.error?);
            name.split(['(', ' ']).next().map(str::to_owned)
        })
        .collect();
    assert_eq!(variants.len(), 19, "{variants:?}");
    let unfinished = |seen: &Seen| matches!(seen, Seen::Message { whole: false, .. });
    assert!(
        stories
            .iter()
            .any(|story| story.seen.iter().any(unfinished))
    );
    let inside = |seen: &Seen| matches!(seen, Seen::Control { at, .. } if *at > 0);
    assert!(stories.iter().any(|story| story.seen.iter().any(inside)));
}
