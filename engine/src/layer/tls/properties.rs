//! What must hold of TLS sessions for any bytes whatever. This code is run by the fuzz target
//! (`engine/fuzz`), by the replay of its corpus and by proptest.
//!
//! An input is read as
//!
//! ```text
//! setup u8 | n u8 | n × read size u8 | rest
//! ```
//!
//! `setup` bit 0 is the side that is looked at (0 server, 1 client), bits 1–2 what it meets:
//!
//! | bits | the peer sends | what must hold |
//! |---|---|---|
//! | 0 | `rest` | never up, no plaintext; the same however the bytes are cut |
//! | 1 | a handshake, then `rest` | no plaintext, no proper end; the same however they are cut |
//! | 2 | a handshake with the edits of `rest` | if both are up, they understand each other |
//! | 3 | a handshake, then records with the edits of `rest` | a beginning of what was sent, and an end only behind all of it |
//!
//! Bytes arrive in reads of `size + 1` bytes, the sizes taken in turn, again and again; with
//! `n` = 0 they arrive at once. An edit is `at u16 | how u8 | value u8`: at the byte `at`, modulo
//! the length, `how` modulo 4 changes it by xor, removes it, inserts one, or ends the stream.

use super::session::RustlsSession;
use super::{Event, Identity, RECORD_OVERHEAD, TlsClient, TlsConfigError, TlsServer, TlsSession};
use crate::layer::error::TlsError;

/// What a session may have answered with in all: a server's flight with its certificate, and some.
const REPLY_MAX: usize = 16 * 1024;

/// A server and a client that trusts it.
#[derive(Debug)]
pub struct Ends {
    server: TlsServer,
    client: TlsClient,
}

impl Ends {
    /// With a certificate that signed itself, for the name `stage.test`, and its key, in PEM.
    ///
    /// # Errors
    /// If they are no such things.
    pub fn new(certificate: &str, key: &str) -> Result<Self, TlsConfigError> {
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes())?;
        // Without tickets every handshake is like the one before.
        let server = TlsServer::builder(identity).resumption(false).build()?;
        let client = TlsClient::builder("stage.test").roots_pem(certificate.as_bytes())?;
        let client = client.build()?;
        Ok(Self { server, client })
    }

    fn session(&self, is_client: bool) -> RustlsSession {
        let session = match is_client {
            true => self.client.rustls_session(),
            false => self.server.rustls_session(),
        };
        session.expect("the options are good")
    }
}

/// What one read after the other brought.
#[derive(Debug, Default, PartialEq)]
struct Told {
    plain: Vec<u8>,
    closed: bool,
    error: Option<TlsError>,
}

impl Told {
    fn is_over(&self) -> bool {
        self.closed || self.error.is_some()
    }
}

/// A session, and what it is given.
struct Reader {
    session: RustlsSession,
    /// Received and not used.
    held: Vec<u8>,
    told: Told,
    replied: usize,
}

impl Reader {
    fn new(session: RustlsSession) -> Self {
        Self {
            session,
            held: Vec::new(),
            told: Told::default(),
            replied: 0,
        }
    }

    /// Gives it bytes in reads of these sizes; what it answers.
    fn give(&mut self, bytes: &[u8], sizes: &[u8]) -> Vec<u8> {
        let mut reply = Vec::new();
        let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
        while !rest.is_empty() && !self.told.is_over() {
            let size = sizes
                .next()
                .map_or(rest.len(), |&size| usize::from(size) + 1);
            let (piece, later) = rest.split_at(size.min(rest.len()));
            self.held.extend_from_slice(piece);
            rest = later;
            self.read(&mut reply);
        }
        self.replied += reply.len();
        assert!(self.replied <= REPLY_MAX, "{} bytes of reply", self.replied);
        reply
    }

    fn read(&mut self, reply: &mut Vec<u8>) {
        loop {
            let before = self.held.len();
            let read = self.session.read(&mut self.held, reply);
            assert!(read.used <= before && self.held.len() == before);
            if let Ok(Event::Plain(range)) = &read.event {
                assert!(
                    range.start <= range.end && range.end <= read.used,
                    "outside"
                );
                assert!(read.used > 0, "from nothing");
                let plain = &self.held[range.clone()];
                assert!(
                    self.session.is_up() || plain.is_empty(),
                    "before the handshake"
                );
                self.told.plain.extend_from_slice(plain);
            }
            self.held.drain(..read.used);
            match read.event {
                Ok(Event::Plain(_)) => {}
                Ok(Event::Nothing) => return,
                Ok(Event::Closed) => self.told.closed = true,
                Err(error) => {
                    self.told.error = Some(error);
                    self.is_dead();
                }
            }
            if self.told.is_over() {
                return;
            }
        }
    }

    /// After an error nothing is taken and nothing comes any more.
    fn is_dead(&mut self) {
        let (mut reply, mut out) = (Vec::new(), [0; 64 + RECORD_OVERHEAD]);
        let read = self.session.read(&mut self.held, &mut reply);
        assert!(read.used == 0 && read.event.is_err(), "read after an error");
        assert_eq!(self.session.write(b"more", &mut out), Ok(0));
        self.session.close(&mut reply);
        assert!(reply.is_empty(), "said after an error");
    }
}

/// Panics if a session breaks a promise on this input.
///
/// # Panics
/// Then.
pub fn check(ends: &Ends, input: &[u8]) {
    let Some((&setup, rest)) = input.split_first() else {
        return;
    };
    let Some((&n, rest)) = rest.split_first() else {
        return;
    };
    let (sizes, rest) = rest.split_at(rest.len().min(n.into()));
    let is_client = setup & 1 == 1;
    match setup >> 1 & 3 {
        0 => strange_beginning(ends, is_client, sizes, rest),
        1 => strange_records(ends, is_client, sizes, rest),
        2 => edited_handshake(ends, is_client, sizes, rest),
        _ => edited_records(ends, is_client, sizes, rest),
    }
}

/// The side that is looked at, and its peer, before anything.
fn begin(ends: &Ends, is_client: bool) -> (Reader, Reader, Vec<u8>, Vec<u8>) {
    let mut looked_at = Reader::new(ends.session(is_client));
    let mut peer = Reader::new(ends.session(!is_client));
    let (mut from_it, mut from_peer) = (Vec::new(), Vec::new());
    let (client, hello) = match is_client {
        true => (&mut looked_at, &mut from_it),
        false => (&mut peer, &mut from_peer),
    };
    let begun = client.session.read(&mut [], hello);
    assert!(begun.event.is_ok() && !hello.is_empty());
    (looked_at, peer, from_it, from_peer)
}

/// Both sides after a handshake whose flights to the one that is looked at went through `edit`.
fn shake_hands(
    ends: &Ends,
    is_client: bool,
    sizes: &[u8],
    edit: impl Fn(Vec<u8>) -> Vec<u8>,
) -> (Reader, Reader) {
    let (mut looked_at, mut peer, mut from_it, mut from_peer) = begin(ends, is_client);
    while !from_it.is_empty() || !from_peer.is_empty() {
        let flight = std::mem::take(&mut from_it);
        from_peer.extend(peer.give(&flight, &[]));
        let flight = std::mem::take(&mut from_peer);
        if !flight.is_empty() {
            from_it = looked_at.give(&edit(flight), sizes);
        }
    }
    (looked_at, peer)
}

fn strange_beginning(ends: &Ends, is_client: bool, sizes: &[u8], rest: &[u8]) {
    let run = |sizes: &[u8]| {
        let (mut looked_at, ..) = begin(ends, is_client);
        looked_at.give(rest, sizes);
        assert!(!looked_at.session.is_up(), "up by a stranger's bytes");
        assert!(looked_at.told.plain.is_empty() && !looked_at.told.closed);
        looked_at.told
    };
    assert_eq!(run(sizes), run(&[]), "cut in another way");
}

fn strange_records(ends: &Ends, is_client: bool, sizes: &[u8], rest: &[u8]) {
    let run = |sizes: &[u8]| {
        let (mut looked_at, _) = shake_hands(ends, is_client, &[], |flight| flight);
        assert!(looked_at.session.is_up());
        looked_at.give(rest, sizes);
        let told = looked_at.told;
        assert!(
            told.plain.is_empty() && !told.closed,
            "{told:?} by a stranger"
        );
        told
    };
    assert_eq!(run(sizes), run(&[]), "cut in another way");
}

fn edited_handshake(ends: &Ends, is_client: bool, sizes: &[u8], rest: &[u8]) {
    let edit = |flight| edited(flight, rest);
    let (mut looked_at, mut peer) = shake_hands(ends, is_client, sizes, edit);
    assert!(looked_at.told.plain.is_empty() && peer.told.plain.is_empty());
    if rest.len() < 4 {
        assert!(looked_at.session.is_up() && peer.session.is_up());
    }
    let is_well = |one: &Reader| one.session.is_up() && !one.told.is_over();
    if is_well(&looked_at) && is_well(&peer) && looked_at.held.is_empty() {
        let mut record = [0; 64 + RECORD_OVERHEAD];
        let len = peer.session.write(b"to it", &mut record).expect("up");
        looked_at.give(&record[..len], sizes);
        assert_eq!(looked_at.told.plain, b"to it");
        let len = looked_at.session.write(b"back", &mut record).expect("up");
        peer.give(&record[..len], &[]);
        assert_eq!(peer.told.plain, b"back");
    }
}

fn edited_records(ends: &Ends, is_client: bool, sizes: &[u8], rest: &[u8]) {
    let (mut looked_at, mut peer) = shake_hands(ends, is_client, &[], |flight| flight);
    let (mut sent, mut stream) = (Vec::new(), Vec::new());
    for length in [1, 300, 16_384] {
        let plain: Vec<u8> = (0..length).map(|n| (n * 31 + length) as u8).collect();
        let mut record = vec![0; length + RECORD_OVERHEAD];
        let len = peer.session.write(&plain, &mut record).expect("up");
        stream.extend_from_slice(&record[..len]);
        sent.extend(plain);
    }
    peer.session.close(&mut stream);
    looked_at.give(&edited(stream.clone(), rest), sizes);
    let told = looked_at.told;
    assert!(sent.starts_with(&told.plain), "not what was sent");
    assert!(!told.closed || told.plain == sent, "an end before the end");
    if edited(stream.clone(), rest) == stream {
        assert!(told.closed && told.plain == sent, "{:?}", told.error);
    }
}

fn edited(mut stream: Vec<u8>, edits: &[u8]) -> Vec<u8> {
    for edit in edits.chunks_exact(4) {
        if stream.is_empty() {
            break;
        }
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % stream.len();
        match edit[2] % 4 {
            0 => stream[at] ^= edit[3],
            1 => drop(stream.remove(at)),
            2 => stream.insert(at, edit[3]),
            _ => stream.truncate(at),
        }
    }
    stream
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;

    fn ends() -> &'static Ends {
        static ENDS: OnceLock<Ends> = OnceLock::new();
        ENDS.get_or_init(|| {
            let made = rcgen::generate_simple_self_signed(vec!["stage.test".to_owned()]);
            let made = made.expect("a certificate");
            let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
            Ends::new(&pem, &key).expect("good ones")
        })
    }

    /// The first files of the corpus, in readable form: server and client for each.
    fn seeds() -> Vec<(String, Vec<u8>)> {
        let alert = [21, 3, 3, 0, 2, 1, 0]; // close_notify, not encrypted
        let change = [20, 3, 3, 0, 1, 1];
        let empty = [23, 3, 3, 0, 0];
        // In pieces, its last byte was once taken for the beginning of another record.
        let heartbeat = [24, 3, 3, 0, 2, 0, 0];
        let long = [22, 3, 3, 0xff, 0xff, 1];
        let longest = [23, 3, 3, 0x41, 0x00];
        let sslv2 = [0x80, 0x2e, 1, 0, 2, 0, 0x15];
        let http = b"GET / HTTP/1.1\r\n\r\n";
        // A handshake message of 16 MiB, of which a little comes in each record.
        let pieces = [22, 3, 3, 0, 6, 1, 0xff, 0xff, 0xff, 3, 3].repeat(3);
        let streams: [(&str, &[u8]); 10] = [
            ("heartbeat", &heartbeat),
            ("nothing", &[]),
            ("alert", &alert),
            ("change_cipher_spec", &change),
            ("empty_record", &empty),
            ("long_record", &long),
            ("longest_record", &longest),
            ("sslv2", &sslv2),
            ("http", http),
            ("pieces_of_16_mib", &pieces),
        ];
        let edits: [(&str, &[u8]); 7] = [
            ("as_it_is", &[]),
            ("version_of_the_record", &[1, 0, 0, 3]),
            ("length_of_the_record", &[4, 0, 0, 1]),
            ("a_bit_further_on", &[100, 0, 0, 1]),
            ("a_byte_less", &[70, 0, 1, 0]),
            ("a_byte_more", &[70, 0, 2, 0xaa]),
            ("cut_off", &[0xff, 0xff, 3, 0]),
        ];
        let mut seeds = Vec::new();
        for side in [0, 1] {
            for (kind, inputs) in [(0, &streams[..]), (1, &streams), (2, &edits), (3, &edits)] {
                for (name, rest) in inputs {
                    let what = ["first", "after", "handshake", "records"][usize::from(kind)];
                    let who = ["server", "client"][usize::from(side)];
                    // In reads of 1, 7 and 256 bytes.
                    let mut input = vec![side | kind << 1, 3, 0, 6, 255];
                    input.extend_from_slice(rest);
                    seeds.push((format!("{who}_{what}_{name}"), input));
                }
            }
        }
        seeds
    }

    /// Every corpus file holds, and the seeds are among them. With `PROSCENIUM_WRITE_SEEDS` set
    /// they are written first.
    #[test]
    fn the_corpus_of_tls_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tls");
        for (name, input) in seeds() {
            let path = corpus.join(&name);
            if std::env::var_os("PROSCENIUM_WRITE_SEEDS").is_some() {
                fs::write(&path, &input).expect("a writable corpus");
            }
            let file = fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(file, input, "{name} differs from its source");
        }
        for entry in fs::read_dir(corpus).expect("the corpus folder") {
            let path = entry.expect("a corpus entry").path();
            let input = fs::read(&path).expect("a corpus file");
            let outcome = std::panic::catch_unwind(|| check(ends(), &input));
            assert!(outcome.is_ok(), "{} breaks a property", path.display());
        }
    }

    /// A check that cannot fail is worthless: the edits are those that it is about.
    #[test]
    fn the_seeds_reach_every_ending() {
        let (mut broken, mut whole, mut closed, mut short) = (0, 0, 0, 0);
        for edits in [&[][..], &[70, 0, 0, 1], &[70, 0, 1, 0], &[0xff, 0xff, 3, 0]] {
            for is_client in [false, true] {
                let edit = |flight| edited(flight, edits);
                let (it, peer) = shake_hands(ends(), is_client, &[], edit);
                whole += usize::from(it.session.is_up() && peer.session.is_up());
                broken += usize::from(it.told.error.is_some() || peer.told.error.is_some());
                short += usize::from(!it.held.is_empty());
            }
        }
        let (mut it, mut peer) = shake_hands(ends(), true, &[], |flight| flight);
        let mut end = Vec::new();
        peer.session.close(&mut end);
        it.give(&end, &[]);
        closed += usize::from(it.told.closed);
        assert!(whole >= 2 && broken >= 2 && short >= 1 && closed == 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_bytes_hold(
            setup in 0_u8..8,
            sizes in prop::collection::vec(any::<u8>(), 0..4),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut input = vec![setup, sizes.len() as u8];
            input.extend(sizes);
            input.extend(rest);
            check(ends(), &input);
        }

        /// Bytes that look like records get further than any.
        #[test]
        fn records_of_any_bytes_hold(
            setup in 0_u8..4,
            records in prop::collection::vec(
                (20_u8..25, prop::collection::vec(any::<u8>(), 0..40)),
                0..4,
            ),
        ) {
            let mut input = vec![setup, 1, 2];
            for (kind, body) in records {
                input.extend([kind, 3, 3, 0, body.len() as u8]);
                input.extend(body);
            }
            check(ends(), &input);
        }

        #[test]
        fn few_edits_hold(
            setup in 4_u8..8,
            at in any::<u16>(),
            how in any::<u8>(),
            value in any::<u8>(),
        ) {
            let at = at.to_le_bytes();
            check(ends(), &[setup, 1, 99, at[0], at[1], how, value]);
        }
    }
}
