//! Programs of others that the tests talk to: found, or installed. The tests are told which there
//! are, and fail if those do not work; `tests/support/foreign.rs` is their side of it.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::steps::Steps;
use crate::{system, tree};

/// One of them. To add one: an entry here, and in its test `foreign::program` or
/// `foreign::python`, with the same name.
struct Program {
    /// What `PROSCENIUM_FOREIGN` and the tests call it.
    name: &'static str,
    /// Any of these prints a version where it is there and works.
    versions: &'static [&'static [&'static str]],
    /// Its Debian packages.
    debian: &'static [&'static str],
    /// How it comes into a folder of ours, where Debian's packages cannot be installed.
    otherwise: Option<Source>,
}

/// A package for one language.
#[derive(Clone, Copy)]
enum Source {
    Pip(&'static str),
    Npm(&'static str),
}

const ZMQ_VERSION: &str = "import zmq; print(zmq.zmq_version())";

const WEBSOCKETS_VERSION: &str = "import websockets; print(websockets.version.version)";

const ALL: [Program; 7] = [
    Program {
        name: "openssl",
        versions: &[&["openssl", "version"]],
        debian: &["openssl"],
        otherwise: None,
    },
    Program {
        name: "pyzmq",
        versions: &[
            &["python3", "-c", ZMQ_VERSION],
            &["/usr/bin/python3", "-c", ZMQ_VERSION],
        ],
        debian: &["python3-zmq"],
        otherwise: Some(Source::Pip("pyzmq")),
    },
    Program {
        name: "gcc",
        versions: &[&["gcc", "--version"]],
        debian: &["gcc", "libc6-dev"],
        otherwise: None,
    },
    Program {
        name: "curl",
        versions: &[&["curl", "--version"]],
        debian: &["curl"],
        otherwise: None,
    },
    Program {
        name: "websockets",
        versions: &[
            &["python3", "-c", WEBSOCKETS_VERSION],
            &["/usr/bin/python3", "-c", WEBSOCKETS_VERSION],
        ],
        debian: &["python3-websockets"],
        otherwise: Some(Source::Pip("websockets")),
    },
    Program {
        name: "ws",
        versions: &[&["node", "-p", "require('ws/package.json').version"]],
        debian: &["node-ws"],
        otherwise: Some(Source::Npm("ws")),
    },
    Program {
        name: "redis-server",
        versions: &[&["redis-server", "--version"]],
        debian: &["redis-server"],
        otherwise: None,
    },
];

/// What a run has of them.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// Their names, with commas between them.
    names: String,
}

impl Foreign {
    /// A part of the run: each is found or installed, or shown as skipped.
    pub(crate) fn find(steps: &mut Steps) -> Self {
        steps.part("programs of others");
        let mut names = Vec::new();
        for program in &ALL {
            match program.found_or_installed() {
                Ok(version) => {
                    println!("{}: {version}", program.name);
                    names.push(program.name);
                }
                Err(reason) => steps.without(program.name, &reason),
            }
        }
        Self {
            names: names.join(","),
        }
    }

    /// What the tests in `command` are told.
    pub(crate) fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let command = command.env("PROSCENIUM_FOREIGN", &self.names);
        command.envs(environment())
    }
}

impl Program {
    /// The version, or why it is not there.
    fn found_or_installed(&self) -> Result<String, String> {
        if let Some(version) = self.version() {
            return Ok(version);
        }
        let mut reason = match system::install(self.debian) {
            Ok(()) => "does not work as installed".to_owned(),
            Err(reason) => reason,
        };
        if self.version().is_none()
            && let Some(source) = self.otherwise
            && let Err(other) = source.install()
        {
            reason = format!("{reason}; {other}");
        }
        self.version().ok_or(reason)
    }

    /// The first line that it says of its version.
    fn version(&self) -> Option<String> {
        self.versions.iter().find_map(|command| {
            let (program, args) = command.split_first()?;
            let mut command = Command::new(program);
            command.args(args).envs(environment());
            command.stdin(Stdio::null()).stderr(Stdio::null());
            let output = command.output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let line = text.lines().next().unwrap_or_default().trim();
            output.status.success().then(|| line.to_owned())
        })
    }
}

impl Source {
    /// Puts the package into [`folder`].
    fn install(self) -> Result<(), String> {
        let folder = folder();
        let path = folder.to_string_lossy();
        let (program, args, package) = match self {
            Self::Pip(package) => {
                let python = python_folder();
                let target = python.to_string_lossy().into_owned();
                let args = ["-m", "pip", "install", "--quiet", "--upgrade", "--target"];
                let args = args.map(str::to_owned).into_iter().chain([target]);
                ("python3", args.collect::<Vec<_>>(), package)
            }
            Self::Npm(package) => {
                let args = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
                let args = args.map(str::to_owned).into_iter();
                ("npm", args.chain([path.into_owned()]).collect(), package)
            }
        };
        eprintln!("installing {package}");
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.push(package);
        let begun = std::fs::create_dir_all(&folder);
        if begun.is_ok() && system::succeeds(program, &args) {
            Ok(())
        } else {
            Err(format!("{program} could not install {package}"))
        }
    }
}

/// For packages that cannot or need not be installed into the system.
fn folder() -> PathBuf {
    tree::target().join("foreign")
}

fn python_folder() -> PathBuf {
    folder().join("python")
}

/// Where Python and Node find packages: ours, and those of Debian for a Node that is not Debian's.
fn environment() -> [(&'static str, OsString); 2] {
    let paths = |name, folders: &[PathBuf]| {
        let before = env::var_os(name).unwrap_or_default();
        let before = env::split_paths(&before).filter(|path| !path.as_os_str().is_empty());
        let all = folders.iter().cloned().chain(before);
        let joined = env::join_paths(all).unwrap_or_default();
        (name, joined)
    };
    let modules = [folder().join("node_modules"), "/usr/share/nodejs".into()];
    [
        paths("PYTHONPATH", &[python_folder()]),
        paths("NODE_PATH", &modules),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Program = Program {
        name: "absent",
        versions: &[
            &["no-such-program-as-this"],
            &["false"],
            &["sh", "-c", "exit 3"],
        ],
        debian: &[],
        otherwise: None,
    };

    #[test]
    fn what_ends_well_is_there_and_says_its_version() {
        assert_eq!(ABSENT.version(), None);
        let versions: &[&[&str]] = &[&["false"], &["sh", "-c", "echo ' 1.2 '; echo more"]];
        let there = Program { versions, ..ABSENT };
        assert_eq!(there.version().as_deref(), Some("1.2"));
        assert_eq!(there.found_or_installed().as_deref(), Ok("1.2"));
    }

    #[test]
    fn packages_of_ours_are_found_first() {
        let [(python, path), (node, modules)] = environment();
        assert_eq!([python, node], ["PYTHONPATH", "NODE_PATH"]);
        let first = |paths| env::split_paths(paths).next();
        assert_eq!(first(&path), Some(python_folder()));
        assert_eq!(first(&modules), Some(folder().join("node_modules")));
    }

    #[test]
    fn tests_are_told_what_there_is() {
        let names = "openssl,gcc".to_owned();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $PROSCENIUM_FOREIGN"]);
        let output = Foreign { names }.tell(&mut command).output().unwrap();
        assert_eq!(output.stdout, b"openssl,gcc\n");
    }
}
