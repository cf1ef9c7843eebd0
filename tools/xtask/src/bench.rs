//! `cargo xtask bench`: builds everything, then compares.

use std::process::{Command, Stdio};

use crate::{peers, tree};

/// Builds, and runs `proscenium compare` with `args`.
///
/// # Errors
/// When our own programs do not build or the comparison did not take place. A peer that does not
/// build is a skipped row.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    eprintln!("building proscenium and its peers; the first time takes some minutes");
    let status = Command::new("cargo")
        .args(["build", "--release", "-p", "proscenium-tools"])
        .current_dir(tree::root())
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err("cargo build --release -p proscenium-tools failed".to_owned());
    }
    for peer in peers::build() {
        if let Err(reason) = peer.built {
            eprintln!("skipped: {}: {reason}", peer.name);
        }
    }
    // Relative, so that the commands in the report are those of any machine.
    let out = tree::relative(&tree::target()).join("bench/{time}");
    let status = Command::new(tree::target().join("release/proscenium"))
        .args(compare(args, &out.to_string_lossy()))
        .current_dir(tree::root())
        .status()
        .map_err(|error| format!("proscenium compare: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("proscenium compare: {status}"))
    }
}

/// The arguments of the comparison: ours, then those that were given.
fn compare(args: &[String], out: &str) -> Vec<String> {
    let mut all = vec!["compare".to_owned()];
    if !args
        .iter()
        .any(|arg| arg == "--out" || arg.starts_with("--out="))
    {
        all.extend(["--out", out].map(str::to_owned));
    }
    for arg in args {
        if arg == "--full" {
            all.extend(["--profile", "full"].map(str::to_owned));
        } else {
            all.push(arg.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::compare;

    fn line(args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        compare(&args, "o").join(" ")
    }

    #[test]
    fn what_was_given_is_passed_on() {
        assert_eq!(line(&[]), "compare --out o");
        assert_eq!(
            line(&["--full", "--runs", "9"]),
            "compare --out o --profile full --runs 9"
        );
        assert_eq!(line(&["--out", "mine"]), "compare --out mine");
        assert_eq!(
            line(&["--out=mine", "--sweep"]),
            "compare --out=mine --sweep"
        );
    }
}
