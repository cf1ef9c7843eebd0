//! Building the servers that Proscenium is compared with.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{system, tree};

/// A peer and its program, or why there is none.
pub(crate) struct Peer {
    /// File name of the program.
    pub(crate) name: &'static str,
    /// What its check is told about it.
    pub(crate) check: &'static [&'static str],
    pub(crate) built: Result<PathBuf, String>,
}

/// How a peer comes to be.
enum Build {
    /// A target of the Makefile, and the Debian packages that it takes; none: what it lacks is not
    /// installed (`npm` of Debian brings some four hundred packages), the peer is left out.
    Make(&'static [&'static str]),
    /// A program of the crate `proscenium-peers`.
    Cargo,
}

/// All of them: the file name, what the check is told, how it is built. `peer-X` is made as `X`.
const ALL: [(&str, &[&str], Build); 9] = [
    (
        "peer-raw-epoll",
        &["--byte-echo"],
        Build::Make(&["make", "gcc", "libc6-dev"]),
    ),
    (
        "peer-asio",
        &[],
        Build::Make(&["make", "g++", "libasio-dev"]),
    ),
    (
        "peer-asio-tls",
        &["--transport", "tls"],
        Build::Make(&["make", "g++", "libasio-dev", "libssl-dev", "openssl"]),
    ),
    (
        "peer-node-zmq",
        &["--transport", "node"],
        Build::Make(&["make", "gcc", "libc6-dev", "libzmq3-dev"]),
    ),
    ("peer-tokio", &[], Build::Cargo),
    ("peer-tokio-codec", &[], Build::Cargo),
    (
        "peer-ws-uws",
        &["--transport", "ws"],
        Build::Make(&["make", "gcc", "g++", "libc6-dev"]),
    ),
    ("peer-ws-bun", &["--transport", "ws"], Build::Make(&[])),
    ("peer-ws-node", &["--transport", "ws"], Build::Make(&[])),
];

/// The file names of all of them.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().map(|(name, ..)| name)
}

/// Builds all of them, installing what that takes where possible.
pub(crate) fn build() -> Vec<Peer> {
    let target = tree::target();
    let tokio = cargo();
    let built = |name: &'static str, build| match build {
        Build::Cargo => tokio.clone().map(|()| target.join("release").join(name)),
        Build::Make(packages) => {
            let kind = name.strip_prefix("peer-").unwrap_or(name);
            make(kind, packages).map(|()| target.join("peers").join(name))
        }
    };
    let peer = |(name, check, build)| Peer {
        name,
        check,
        built: built(name, build),
    };
    ALL.into_iter().map(peer).collect()
}

/// Makes one of the targets in C or C++; if that fails, once more with its packages.
fn make(target: &str, packages: &[&str]) -> Result<(), String> {
    let Err(reason) = try_make(target) else {
        return Ok(());
    };
    if packages.is_empty() {
        return Err(reason);
    }
    system::install(packages).map_err(|install| format!("{reason}; {install}"))?;
    try_make(target)
}

fn try_make(target: &str) -> Result<(), String> {
    eprintln!("building peer {target}");
    let output = Command::new("make")
        .arg("-C")
        .arg(tree::root().join("tools/peers"))
        .arg(format!("OUT={}", tree::target().join("peers").display()))
        .arg(target)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("make: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    // make's own lines say only that it stopped.
    let said = errors.lines().find(|line| !line.starts_with("make"));
    Err(said.unwrap_or("make failed").trim().to_owned())
}

fn cargo() -> Result<(), String> {
    eprintln!("building the peers on tokio");
    let status = Command::new("cargo")
        .args(["build", "--release", "-p", "proscenium-peers"])
        .current_dir(tree::root())
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("cargo build --release -p proscenium-peers failed".to_owned())
    }
}
