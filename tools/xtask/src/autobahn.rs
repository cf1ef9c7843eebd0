//! The Autobahn test suite for WebSocket, which `tests/autobahn.rs` runs. It is a program for
//! Python 2.7, whose packages are put into the build folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::Steps;
use crate::{system, tree};

const NAME: &str = "autobahn";
/// The suite, and the last versions for Python 2.7 of what it stands on.
const PACKAGES: [&str; 12] = [
    "autobahntestsuite==25.10.1",
    "autobahn[twisted]==0.10.9",
    "twisted==20.3.0",
    "txaio==2.1.0",
    "zope.interface==5.5.2",
    "klein==19.6.0",
    "jinja2==2.11.3",
    "markupsafe==1.1.1",
    "pyOpenSSL==20.0.1",
    "cryptography==3.3.2",
    "service_identity==18.1.0",
    "unittest2==1.1.0",
];

/// Groups 1 to 10, the engine as server and as client.
pub(crate) fn run(steps: &mut Steps) {
    let Some(python) = python() else {
        let reason = "no Python 2.7, on which the suite runs: name one in AUTOBAHN_PYTHON";
        return steps.skip(NAME, reason);
    };
    let folder = tree::target().join("autobahn");
    if let Err(reason) = install(&python, &folder) {
        return steps.skip(NAME, &reason);
    }
    let mut command = Command::new("cargo");
    command
        .args(["test", "-p", "proscenium", "--features", "ws"])
        .args(["--test", "autobahn", "--", "--ignored", "--test-threads=1"])
        .current_dir(tree::root())
        .env("AUTOBAHN", python)
        .env("PYTHONPATH", folder);
    steps.run(NAME, &mut command);
}

/// An interpreter of version 2.7: told, in `PATH`, or among those that pyenv installed.
fn python() -> Option<PathBuf> {
    let told = env::var_os("AUTOBAHN_PYTHON").map(PathBuf::from);
    let pyenv = env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv/versions"));
    let versions = pyenv.and_then(|folder| fs::read_dir(folder).ok());
    let versions = versions.into_iter().flatten().flatten();
    let pyenv = versions.map(|version| version.path().join("bin/python2.7"));
    let candidates = told.into_iter().chain(["python2.7".into()]).chain(pyenv);
    candidates.into_iter().find(|python| {
        let program = python.to_string_lossy();
        system::succeeds(&program, &["-m", "pip", "--version"])
    })
}

/// Puts the packages into `folder`, once.
fn install(python: &Path, folder: &Path) -> Result<(), String> {
    let done = folder.join("installed");
    if fs::read_to_string(&done).is_ok_and(|packages| packages == PACKAGES.join("\n")) {
        return Ok(());
    }
    eprintln!("installing {}", PACKAGES[0]);
    let _ = fs::remove_dir_all(folder);
    // One after the other: their requirements contradict each other, their code does not.
    let target = folder.to_string_lossy();
    let target = target.as_ref();
    let installs = |packages: &[&str], further: &[&str]| {
        let mut args = vec![
            "-m",
            "pip",
            "install",
            "--quiet",
            "--upgrade",
            "--target",
            target,
        ];
        args.extend(further);
        args.extend(packages);
        system::succeeds(&python.to_string_lossy(), &args)
    };
    let (suite, rest) = PACKAGES.split_at(1);
    if !installs(rest, &[]) || !installs(suite, &["--no-deps"]) {
        return Err(format!("pip install {} failed", PACKAGES.join(" ")));
    }
    // Without it Python 2 takes the folder of the one package below for no package.
    let written = fs::write(folder.join("zope/__init__.py"), "")
        .and_then(|()| fs::write(&done, PACKAGES.join("\n")));
    written.map_err(|error| format!("{}: {error}", folder.display()))
}
