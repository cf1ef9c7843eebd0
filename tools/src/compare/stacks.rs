//! The servers that can be compared: a table of what to start and what it needs.

use std::fmt;
use std::path::{Path, PathBuf};

/// A server program, the arguments that make it one row of the comparison, and who asks it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    /// Its name in results and on the command line.
    pub(crate) name: &'static str,
    /// What it is, for readers of a report.
    pub(crate) about: &'static str,
    program: Program,
    /// Arguments besides the address and the number of shards.
    args: &'static [&'static str],
    /// Its number of shards, where that is what distinguishes it.
    shards: Option<u16>,
    /// It is given the certificate of the comparison.
    certificate: bool,
    pub(crate) client: Client,
}

/// Who puts the load on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// `proscenium load stream`, with these arguments.
    Load(&'static [&'static str]),
    /// `proscenium load play`, with these arguments.
    Play(&'static [&'static str]),
    /// `load-raw-epoll`: counts what comes back and looks at none of it.
    Bare,
}

#[derive(Debug, PartialEq, Eq)]
enum Program {
    /// This very program.
    Own,
    /// A program beside it, and what to do if it is missing.
    Peer {
        file: &'static str,
        install: &'static str,
    },
}

const BARE_FILE: &str = "load-raw-epoll";
const MAKE_RAW: &str = "make -C tools/peers raw-epoll; Debian packages: make gcc";
const MAKE_ASIO: &str = "make -C tools/peers asio; Debian packages: make g++ libasio-dev";
const MAKE_ASIO_TLS: &str =
    "make -C tools/peers asio-tls; Debian packages: make g++ libasio-dev libssl-dev";
const MAKE_UWS: &str = "make -C tools/peers ws-uws; Debian packages: make gcc g++";
const MAKE_NODE: &str = "make -C tools/peers ws-node; Debian packages: make nodejs npm";
const CARGO_PEERS: &str = "cargo build --release -p proscenium-peers";

/// The limit that everything is measured against.
pub(crate) const RAW: &str = "raw";
/// The peer that goals name.
pub(crate) const ASIO: &str = "asio";
/// The engine by its handler interface.
pub(crate) const PROSCENIUM: &str = "proscenium";
/// The engine by its pull interface.
pub(crate) const SOCKET: &str = "proscenium-socket";
/// The engine with a stage for each connection.
pub(crate) const STAGE: &str = "proscenium-stage";
/// The engine on two shards.
pub(crate) const TWO_SHARDS: &str = "proscenium-2shards";
/// The engine over TLS.
pub(crate) const TLS: &str = "proscenium-tls";
/// The engine over WebSocket.
pub(crate) const WS: &str = "proscenium-ws";
/// A Play server: authentication, join, actors.
pub(crate) const PLAY: &str = "proscenium-play";
/// A Play server that sends to all in a stage at once, and one that sends to each.
pub(crate) const BROADCAST: &str = "play-broadcast";
pub(crate) const EACH: &str = "play-each";
/// The raw server asked by a bare client: what the client itself is measured against.
pub(crate) const BARE_CLIENT: &str = "bare-client";
/// Tokio, frames parsed by hand.
pub(crate) const TOKIO: &str = "tokio";
/// Tokio by the codec most programs use.
pub(crate) const TOKIO_CODEC: &str = "tokio-codec";
/// Asio over OpenSSL.
pub(crate) const ASIO_TLS: &str = "asio-tls";
/// WebSocket servers: uWebSockets, Bun's, and that of the package `ws` on Node.
pub(crate) const UWS: &str = "uws";
pub(crate) const BUN: &str = "bun";
pub(crate) const NODE_WS: &str = "node-ws";
/// The same with its sockets corked, which the package does not offer.
pub(crate) const NODE_WS_CORKED: &str = "node-ws-corked";

/// This program as an echo server with these arguments.
const fn own(name: &'static str, about: &'static str, args: &'static [&'static str]) -> Stack {
    Stack {
        name,
        about,
        program: Program::Own,
        args,
        shards: None,
        certificate: false,
        client: Client::Load(&[]),
    }
}

/// A peer's program, and how to get it.
const fn peer(
    name: &'static str,
    about: &'static str,
    file: &'static str,
    install: &'static str,
) -> Stack {
    Stack {
        program: Program::Peer { file, install },
        ..own(name, about, &[])
    }
}

/// The same over TLS.
const fn over_tls(stack: Stack) -> Stack {
    Stack {
        certificate: true,
        client: Client::Load(&["--tls"]),
        ..stack
    }
}

/// The same over WebSocket.
const fn over_ws(stack: Stack) -> Stack {
    Stack {
        client: Client::Load(&["--ws"]),
        ..stack
    }
}

/// A Play server, and what its clients do.
const fn play(name: &'static str, about: &'static str, does: &'static [&'static str]) -> Stack {
    Stack {
        client: Client::Play(does),
        ..own(name, about, &["echo", "--mode", "play"])
    }
}

/// Every server that can be compared.
pub(crate) static STACKS: [Stack; 20] = [
    own(
        PROSCENIUM,
        "the engine, a handler called for each message, which forwards it",
        &["echo"],
    ),
    own(
        "proscenium-send",
        "the same, each answer sent on its own and copied",
        &["echo", "--answer", "send"],
    ),
    own(
        STAGE,
        "the engine, a stage for each connection, which forwards each message",
        &["echo", "--mode", "stage"],
    ),
    own(
        SOCKET,
        "the engine, events pulled from a StreamSocket",
        &["echo", "--interface", "socket"],
    ),
    Stack {
        shards: Some(2),
        ..own(TWO_SHARDS, "the engine on two shards", &["echo"])
    },
    over_tls(own(TLS, "the engine over TLS 1.3", &["echo", "--tls"])),
    over_ws(own(WS, "the engine over WebSocket", &["echo", "--ws"])),
    play(
        PLAY,
        "a Play server, a stage for each client, whose requests are answered",
        &[],
    ),
    play(
        BROADCAST,
        "a Play server, one stage, whose clients get what one of them sends, encoded once",
        &["--mode", "broadcast", "--stages", "1"],
    ),
    play(
        EACH,
        "the same, sent to one after the other",
        &["--mode", "each", "--stages", "1"],
    ),
    peer(ASIO, "standalone Asio, C++", "peer-asio", MAKE_ASIO),
    peer(
        TOKIO,
        "tokio, frames parsed by hand",
        "peer-tokio",
        CARGO_PEERS,
    ),
    peer(
        TOKIO_CODEC,
        "tokio with tokio-util's LengthDelimitedCodec",
        "peer-tokio-codec",
        CARGO_PEERS,
    ),
    peer(
        RAW,
        "byte echo on epoll in C, no framing: the practical limit",
        "peer-raw-epoll",
        MAKE_RAW,
    ),
    Stack {
        client: Client::Bare,
        ..peer(
            BARE_CLIENT,
            "raw, asked by a bare client in C (load-raw-epoll) instead of proscenium load: the \
             most that one client thread can ask for",
            "peer-raw-epoll",
            MAKE_RAW,
        )
    },
    over_tls(peer(
        ASIO_TLS,
        "standalone Asio over TLS 1.3 of OpenSSL, C++",
        "peer-asio-tls",
        MAKE_ASIO_TLS,
    )),
    over_ws(peer(UWS, "uWebSockets, C++", "peer-ws-uws", MAKE_UWS)),
    over_ws(peer(
        BUN,
        "Bun's built-in WebSocket server",
        "peer-ws-bun",
        "make -C tools/peers ws-bun; Debian packages: make nodejs npm",
    )),
    over_ws(peer(
        NODE_WS,
        "the package `ws` on Node",
        "peer-ws-node",
        MAKE_NODE,
    )),
    Stack {
        args: &["--cork"],
        ..over_ws(peer(
            NODE_WS_CORKED,
            "the same, its sockets corked while the messages of a read are handled",
            "peer-ws-node",
            MAKE_NODE,
        ))
    },
];

/// Files of the certificate that servers over TLS show.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The servers compared unless others are asked for.
pub(crate) const USUAL: [&str; 5] = [PROSCENIUM, ASIO, TOKIO, TOKIO_CODEC, RAW];

/// The server of this name; the error lists all names.
pub(crate) fn by_name(name: &str) -> Result<&'static Stack, String> {
    STACKS
        .iter()
        .find(|stack| stack.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = STACKS.iter().map(|stack| stack.name).collect();
            format!("no stack `{name}`; there are {}", names.join(", "))
        })
}

impl Stack {
    /// Its program, looked for in `folders` in order; the error says how to get it.
    pub(crate) fn program(&self, own: &Path, folders: &[PathBuf]) -> Result<PathBuf, String> {
        match &self.program {
            Program::Own => Ok(own.to_owned()),
            Program::Peer { file, install } => find(file, install, folders),
        }
    }

    /// The program of its client, as above.
    pub(crate) fn client_program(
        &self,
        own: &Path,
        folders: &[PathBuf],
    ) -> Result<PathBuf, String> {
        match self.client {
            Client::Load(_) | Client::Play(_) => Ok(own.to_owned()),
            Client::Bare => find(BARE_FILE, MAKE_RAW, folders),
        }
    }

    /// Its arguments, to listen on a free port of the loopback.
    pub(crate) fn arguments(
        &self,
        shards: u16,
        pin: &[usize],
        certificate: &CertificateFiles,
    ) -> Vec<String> {
        let shards = self.shards(shards);
        let mut args: Vec<String> = self.args.iter().map(|arg| (*arg).to_owned()).collect();
        if self.certificate {
            for (flag, file) in [
                ("--cert", &certificate.certificate),
                ("--key", &certificate.key),
            ] {
                args.extend([flag.to_owned(), file.display().to_string()]);
            }
        }
        args.extend(["--listen", "127.0.0.1:0", "--shards"].map(str::to_owned));
        args.push(shards.to_string());
        if shards > 1 && pin.len() > 1 {
            // One CPU for each shard; with one for all there is nothing to choose.
            let cpus: Vec<String> = pin.iter().map(usize::to_string).collect();
            args.extend(["--pin".to_owned(), cpus.join(",")]);
        }
        args
    }

    /// Whether it shows the certificate of the comparison.
    pub(crate) fn has_certificate(&self) -> bool {
        self.certificate
    }

    /// Its number of shards where `usual` is asked for.
    pub(crate) fn shards(&self, usual: u16) -> u16 {
        self.shards.unwrap_or(usual)
    }
}

/// A peer's file in one of the folders; the error says how to get it.
pub(super) fn find(file: &str, install: &str, folders: &[PathBuf]) -> Result<PathBuf, String> {
    folders
        .iter()
        .map(|folder| folder.join(file))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{file} not found ({install})"))
}

/// A stack in a comparison, or its twin: the same again, to see how far two runs of the same
/// server differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) stack: &'static Stack,
    pub(crate) twin: bool,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.twin { " (A/A)" } else { "" };
        write!(f, "{}{mark}", self.stack.name)
    }
}

/// Folders in which peers are looked for: those asked for, else where `cargo` and `make` of this
/// project put them, seen from this program.
pub(crate) fn peer_folders(asked: &[PathBuf], own: &Path) -> Vec<PathBuf> {
    if !asked.is_empty() {
        return asked.to_vec();
    }
    let beside = own.parent().unwrap_or(Path::new("."));
    let target = beside.parent().unwrap_or(Path::new("."));
    vec![
        target.join("peers"),
        target.join("release"),
        beside.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_unknown_ones_explained() {
        for stack in &STACKS {
            assert_eq!(by_name(stack.name), Ok(stack));
        }
        for name in USUAL {
            assert!(by_name(name).is_ok(), "{name}");
        }
        let error = by_name("nginx").unwrap_err();
        assert!(error.contains("tokio-codec") && error.contains("nginx"));
    }

    #[test]
    fn arguments_name_a_free_port_the_shards_and_cpus_only_if_there_is_a_choice() {
        let files = CertificateFiles {
            certificate: "c.pem".into(),
            key: "k.pem".into(),
        };
        let line = |name, shards, pin: &[usize]| {
            let stack = by_name(name).unwrap();
            stack.arguments(shards, pin, &files).join(" ")
        };
        assert_eq!(line(RAW, 1, &[0]), "--listen 127.0.0.1:0 --shards 1");
        assert_eq!(
            line(RAW, 2, &[0, 2]),
            "--listen 127.0.0.1:0 --shards 2 --pin 0,2"
        );
        assert_eq!(
            line(TWO_SHARDS, 1, &[0]),
            "echo --listen 127.0.0.1:0 --shards 2"
        );
        assert_eq!(
            line(STAGE, 1, &[]),
            "echo --mode stage --listen 127.0.0.1:0 --shards 1"
        );
        assert!(line(SOCKET, 1, &[]).starts_with("echo --interface socket --listen"));
        assert_eq!(
            line(TLS, 1, &[]),
            "echo --tls --cert c.pem --key k.pem --listen 127.0.0.1:0 --shards 1"
        );
        assert!(line(ASIO_TLS, 1, &[]).starts_with("--cert c.pem --key k.pem --listen"));
    }

    #[test]
    fn a_missing_peer_says_what_to_install() {
        let nowhere = [PathBuf::from("/nonexistent")];
        let error = by_name(ASIO)
            .unwrap()
            .program(Path::new("p"), &nowhere)
            .unwrap_err();
        assert!(
            error.contains("peer-asio") && error.contains("libasio-dev"),
            "{error}"
        );
        let own = by_name(PROSCENIUM)
            .unwrap()
            .program(Path::new("p"), &nowhere);
        assert_eq!(own, Ok(PathBuf::from("p")));
    }

    #[test]
    fn peers_are_looked_for_beside_this_program_unless_told_where() {
        let own = Path::new("t/release/proscenium");
        assert_eq!(
            peer_folders(&[], own)[..2],
            [PathBuf::from("t/peers"), PathBuf::from("t/release")]
        );
        let asked = [PathBuf::from("here")];
        assert_eq!(peer_folders(&asked, own), asked);
    }
}
