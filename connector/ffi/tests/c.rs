//! A C program, compiled with every warning an error, talks through the library, as shared and as
//! static one, to a server written by hand and to a real Play server. With `PROSCENIUM_VALGRIND`
//! set it runs below valgrind.

#[path = "../../../tests/support/foreign.rs"]
mod foreign;
#[path = "../../tests/support/layers.rs"]
mod layers;
#[path = "../../tests/support/room.rs"]
mod room;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use layers::{Identity, TRANSPORTS, layered};
use support::{Peer, Server, accept, packet, push};

/// What a static library of Rust needs of the system on Linux.
const SYSTEM_LIBRARIES: [&str; 4] = ["-lpthread", "-ldl", "-lm", "-lgcc_s"];

/// Builds the libraries as a user would, and says where they are.
fn build_library() -> PathBuf {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = temporary.parent().expect("a folder of cargo's");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "-p", "proscenium-connector-ffi"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", target)
        // Of a run that measures or sanitizes: a C program cannot be linked with it.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER");
    assert!(
        cargo.status().expect("cargo").success(),
        "the library does not build"
    );
    target.join("debug")
}

fn compile(folder: &Path, name: &str, link: &[String]) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = folder.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args([
        "-std=gnu11",
        "-g",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
    ])
    .arg("-I")
    .arg(package.join("include"))
    .arg(package.join("tests/client.c"))
    .args(link)
    .arg("-o")
    .arg(&program);
    let output = gcc.output().expect("gcc");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    program
}

/// The answers that the program expects, until `connections` have ended.
fn serve(listener: &TcpListener, connections: usize, layers: impl Fn(Peer) -> Peer) {
    for _ in 0..connections {
        let mut peer = layers(accept(listener));
        peer.accept_credentials();
        while let Some(received) = peer.read() {
            let (seq, stage) = (received.seq, received.stage);
            match &*received.id {
                "Echo" => peer.send(&packet("Echo", seq, stage, 0, 0, &received.payload)),
                "Refuse" => peer.answer(&received, 1234, b"no"),
                "PushMe" => peer.send(&push("News", b"pushed")),
                "Never" => {}
                "@Heart@Beat@" => peer.send(&packet("@Heart@Beat@", 0, 0, 0, 0, b"")),
                other => panic!("{other}"),
            }
        }
    }
}

fn run(program: &Path, arguments: &[String]) {
    let mut command = match std::env::var_os("PROSCENIUM_VALGRIND") {
        None => Command::new(program),
        Some(_) => {
            let mut valgrind = Command::new("valgrind");
            valgrind
                .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
                .arg("--errors-for-leak-kinds=definite,indirect,possible")
                .arg(program);
            valgrind
        }
    };
    let output = command.args(arguments).output().expect("the program runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && told == "ok\n",
        "{}\n{told}{wrong}",
        output.status
    );
}

#[test]
fn a_c_program_plays_over_every_transport() {
    if !foreign::program("gcc", &["gcc", "--version"]) {
        return;
    }
    let folder = build_library();
    let mut link = vec![
        folder
            .join("libproscenium_connector_ffi.a")
            .display()
            .to_string(),
    ];
    link.extend(SYSTEM_LIBRARIES.map(str::to_owned));
    let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let with_static = compile(&output, "client_static", &link);
    let there = folder.display();
    let link = [
        format!("-L{there}"),
        format!("-Wl,-rpath,{there}"),
        "-lproscenium_connector_ffi".to_owned(),
    ];
    let with_shared = compile(&output, "client_shared", &link);

    let identity = Arc::new(Identity::new());
    let play = room::start(&identity);
    let pem = output.join("authority.pem");
    fs::write(&pem, &identity.authority_pem).expect("a writable folder");
    for program in [with_static, with_shared] {
        for (number, transport) in TRANSPORTS.into_iter().enumerate() {
            let identity = identity.clone();
            let server = Server::start(move |listener| {
                serve(&listener, 3, |peer| layered(peer, transport, &identity));
            });
            let port = server.address.port().to_string();
            let arguments = [port, number.to_string(), pem.display().to_string()];
            run(&program, &arguments);
            server.join();
            let port = room::address(&play, number).port().to_string();
            let arguments = [port, number.to_string(), pem.display().to_string()];
            run(&program, &arguments);
        }
    }
    play.shutdown(support::PATIENCE);
}
