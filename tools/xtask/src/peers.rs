//! Building the servers that Proscenium is compared with.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{system, tree};

/// A peer and its program, or why there is none.
pub(crate) struct Peer {
    /// File name of the program.
    pub(crate) name: &'static str,
    /// It does not look at frames.
    pub(crate) byte_echo: bool,
    pub(crate) built: Result<PathBuf, String>,
}

/// The file names of all of them.
pub(crate) const NAMES: [&str; 4] = [
    "peer-raw-epoll",
    "peer-asio",
    "peer-tokio",
    "peer-tokio-codec",
];

/// Builds all of them, installing what that takes where possible.
pub(crate) fn build() -> Vec<Peer> {
    let folder = tree::target().join("peers");
    let tokio = cargo();
    let made = |name, target, packages: &[&str]| make(target, packages).map(|()| folder.join(name));
    let cargoed = |name| {
        tokio
            .clone()
            .map(|()| tree::target().join("release").join(name))
    };
    let peer = |name, byte_echo, built| Peer {
        name,
        byte_echo,
        built,
    };
    vec![
        peer(
            "peer-raw-epoll",
            true,
            made("peer-raw-epoll", "raw-epoll", &["make", "gcc", "libc6-dev"]),
        ),
        peer(
            "peer-asio",
            false,
            made("peer-asio", "asio", &["make", "g++", "libasio-dev"]),
        ),
        peer("peer-tokio", false, cargoed("peer-tokio")),
        peer("peer-tokio-codec", false, cargoed("peer-tokio-codec")),
    ]
}

/// Makes one of the targets in C or C++; if that fails, once more with its packages.
fn make(target: &str, packages: &[&str]) -> Result<(), String> {
    let Err(reason) = try_make(target) else {
        return Ok(());
    };
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
