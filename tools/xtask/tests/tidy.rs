//! The house rules that no compiler knows. Each rule has a test that it finds what it forbids.

use std::fs;
use std::path::{Path, PathBuf};

const RUST_LINES_MAX: usize = 700;
const RUST_COLUMNS_MAX: usize = 100;
/// Tables and fenced blocks in Markdown may be as wide as they need.
const MARKDOWN_COLUMNS_MAX: usize = 160;

/// Files that may use `unwrap`, and why.
const UNWRAP_ALLOWED: [(&str, &str); 1] = [(
    "engine/src/mailbox/sync.rs",
    "loom's own mutex, whose poisoning is a failed model",
)];

/// A file of ours: its path in the repository, and its text.
struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .ancestors()
        .nth(2)
        .expect("two folders up")
        .to_owned()
}

/// Every text file that is ours.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    walk(&root(), &root(), &mut sources);
    let seen = |path: &str| sources.iter().any(|source| source.path == path);
    assert!(seen("framing/src/lib.rs") && seen("README.md") && seen(".ci/run"));
    sources
}

fn walk(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("the repository is readable") {
        let path = entry.expect("the repository is readable").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            let foreign = ["target", "corpus", "artifacts", "__pycache__"];
            let hidden = name.starts_with('.') && name != ".ci";
            if !hidden && !foreign.contains(&name.as_str()) {
                walk(root, &path, sources);
            }
            continue;
        }
        // What is not text has no lines to judge.
        if let Ok(text) = fs::read_to_string(&path)
            && ![".git", "Cargo.lock"].contains(&name.as_str())
        {
            let path = path.strip_prefix(root).expect("found below it");
            sources.push(Source {
                path: path.to_string_lossy().into_owned(),
                text,
            });
        }
    }
}

impl Source {
    fn is(&self, extension: &str) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|one| one == extension)
    }

    /// True for a file that is only built for tests.
    fn is_test(&self) -> bool {
        let path = Path::new(&self.path);
        let is_tests = |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs";
        path.iter().any(is_tests)
    }

    /// Its lines that satisfy `bad`, as `path:line`.
    fn lines_where(&self, bad: impl Fn(&str) -> bool) -> Vec<String> {
        let numbered = self.text.lines().enumerate();
        numbered
            .filter(|(_, line)| bad(line))
            .map(|(at, line)| format!("{}:{}: {}", self.path, at + 1, line.trim()))
            .collect()
    }
}

#[track_caller]
fn assert_none(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

fn everywhere(check: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    sources().iter().flat_map(check).collect()
}

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let long = source.is("rs") && lines > RUST_LINES_MAX;
    long.then(|| format!("{}: {lines} lines", source.path))
        .into_iter()
        .collect()
}

fn too_wide(source: &Source) -> Vec<String> {
    let columns = |line: &str| line.chars().count();
    if source.is("rs") {
        // A row of a table in the documentation cannot be broken.
        let is_row = |line: &str| line.starts_with("//! |") || line.trim().starts_with("/// |");
        return source.lines_where(|line| columns(line) > RUST_COLUMNS_MAX && !is_row(line));
    }
    if !source.is("md") {
        return Vec::new();
    }
    let mut fenced = false;
    let mut wide = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        let free = fenced || line.starts_with('|') || line.contains("://");
        if !free && columns(line) > MARKDOWN_COLUMNS_MAX {
            wide.push(format!("{}:{}", source.path, at + 1));
        }
    }
    wide
}

/// Notes to oneself belong into issues. Written so that this file does not break its own rule.
fn markers(source: &Source) -> Vec<String> {
    let markers = ["TO", "FIX", "X"].iter().zip(["DO", "ME", "XX"]);
    let markers: Vec<String> = markers.map(|(a, b)| format!("{a}{b}")).collect();
    source.lines_where(|line| {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| markers.iter().any(|marker| marker == word))
    })
}

/// Paths that exist on one machine only.
fn machine_paths(source: &Source) -> Vec<String> {
    let folders = ["home", "root", "work", "Users", "tmp"];
    source.lines_where(|line| {
        folders.iter().any(|folder| {
            let path = format!("/{folder}/");
            line.match_indices(&path).any(|(at, _)| {
                // `src/work/` and `https://x/home/` are not paths from the root.
                let before = line[..at].chars().next_back();
                before.is_none_or(|c| !c.is_alphanumeric() && !"./_-})".contains(c))
            })
        })
    })
}

/// `unwrap` on the way of a message: what comes from outside must not end the process.
fn unwraps(source: &Source) -> Vec<String> {
    let ours = source.path.starts_with("engine/src/") || source.path.starts_with("framing/src/");
    let allowed = UNWRAP_ALLOWED.iter().any(|(path, _)| *path == source.path);
    if !ours || allowed || source.is_test() || !source.is("rs") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut lines = source.text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        let next_is_module = lines.peek().is_some_and(|(_, next)| next.contains("mod "));
        if line.trim() == "#[cfg(test)]" && next_is_module {
            // Tests stand last.
            break;
        }
        let is_comment = line.trim_start().starts_with("//");
        if line.contains(".unwrap()") && !is_comment {
            found.push(format!("{}:{}", source.path, at + 1));
        }
    }
    found
}

/// The crates that must not be named by each crate: imports point one way.
const ARROWS: [(&str, &[&str]); 3] = [
    ("framing", &["engine", "nodelink", "tools", "peers"]),
    ("engine", &["nodelink", "tools", "peers"]),
    ("nodelink", &["stages", "play", "tools", "peers"]),
];

fn wrong_arrows(source: &Source) -> Vec<String> {
    let crates = ARROWS
        .iter()
        .filter(|(folder, _)| source.path.starts_with(&format!("{folder}/")));
    let mut found = Vec::new();
    for (_, above) in crates {
        for name in *above {
            let (package, module) = (format!("proscenium-{name}"), format!("proscenium_{name}"));
            if source.path.ends_with("Cargo.toml") {
                found.extend(source.lines_where(|line| line.contains(&package)));
            } else if source.is("rs") {
                found.extend(source.lines_where(|line| {
                    line.contains(&module) && !line.trim_start().starts_with("//")
                }));
            }
        }
        // The facade is above both of them.
        let facade = |line: &str| {
            let line = line.trim_start();
            line.starts_with("proscenium =") || line.starts_with("use proscenium::")
        };
        found.extend(source.lines_where(facade));
    }
    found
}

fn lacks_forbid(source: &Source) -> Vec<String> {
    let roots = [
        "framing/src/lib.rs",
        "nodelink/src/lib.rs",
        "src/lib.rs",
        "tools/src/main.rs",
        "tools/xtask/src/main.rs",
    ];
    let lacks = roots.contains(&source.path.as_str())
        && !source
            .text
            .lines()
            .any(|line| line == "#![forbid(unsafe_code)]");
    lacks.then(|| source.path.clone()).into_iter().collect()
}

#[test]
fn rust_files_hold_one_concept_each() {
    let rule = format!("a file of more than {RUST_LINES_MAX} lines usually holds two concepts");
    assert_none(&rule, everywhere(too_long));
}

#[test]
fn lines_fit_a_screen() {
    assert_none("lines are too wide", everywhere(too_wide));
}

#[test]
fn nothing_is_left_to_be_done_in_comments() {
    assert_none("markers: make it an issue, or do it", everywhere(markers));
}

#[test]
fn no_path_of_one_machine_is_in_the_repository() {
    assert_none("absolute paths", everywhere(machine_paths));
}

#[test]
fn the_crates_on_the_way_of_a_message_do_not_unwrap() {
    assert_none(
        "unwrap: handle it, or `expect` with the invariant",
        everywhere(unwraps),
    );
    for (path, why) in UNWRAP_ALLOWED {
        assert!(
            root().join(path).is_file(),
            "{path} is gone; it was allowed for: {why}"
        );
    }
}

#[test]
fn imports_point_one_way() {
    assert_none("an import against the arrow", everywhere(wrong_arrows));
}

#[test]
fn unsafe_code_is_forbidden_outside_the_engine() {
    assert_none(
        "#![forbid(unsafe_code)] is missing",
        everywhere(lacks_forbid),
    );
}

mod the_rules_find {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn long_files_and_wide_lines() {
        let lines = |n: usize| source("a.rs", &"x\n".repeat(n));
        assert!(too_long(&lines(RUST_LINES_MAX)).is_empty());
        assert_eq!(too_long(&lines(RUST_LINES_MAX + 1)).len(), 1);
        let wide = "µ".repeat(RUST_COLUMNS_MAX);
        assert!(too_wide(&source("a.rs", &wide)).is_empty());
        assert_eq!(too_wide(&source("a.rs", &format!("{wide}µ"))).len(), 1);
        let wide = "y".repeat(MARKDOWN_COLUMNS_MAX + 1);
        assert_eq!(too_wide(&source("a.md", &wide)), ["a.md:1"]);
        let free = format!("| {wide} |\n```\n{wide}\n```\n");
        assert!(too_wide(&source("a.md", &free)).is_empty());
    }

    #[test]
    fn markers_as_words_only() {
        let marker = ["TO", "DO"].concat();
        assert_eq!(
            markers(&source("a.rs", &format!("// {marker}: later"))).len(),
            1
        );
        assert!(markers(&source("a.rs", &format!("{marker}S"))).is_empty());
    }

    #[test]
    fn machine_paths_from_the_root_only() {
        let path = ["/home", "/me/x"].concat();
        assert_eq!(
            machine_paths(&source("a.md", &format!("`{path}`"))).len(),
            1
        );
        assert!(machine_paths(&source("a.md", &format!("target{path}"))).is_empty());
    }

    #[test]
    fn unwraps_before_the_tests() {
        let tests = "#[cfg(test)]\nmod tests { x.unwrap() }\n";
        let bad = source("engine/src/a.rs", &format!("x.unwrap();\n{tests}"));
        assert_eq!(unwraps(&bad), ["engine/src/a.rs:1"]);
        assert!(
            unwraps(&source(
                "engine/src/a.rs",
                &format!("/// x.unwrap();\n{tests}")
            ))
            .is_empty()
        );
        assert!(unwraps(&source("tools/src/a.rs", "x.unwrap();")).is_empty());
        assert!(unwraps(&source("engine/src/tests/a.rs", "x.unwrap();")).is_empty());
    }

    #[test]
    fn arrows_the_wrong_way() {
        let uses = |path: &str, text: &str| wrong_arrows(&source(path, text)).len();
        assert_eq!(
            uses("framing/src/a.rs", "use proscenium_engine::Engine;"),
            1
        );
        assert_eq!(
            uses("framing/Cargo.toml", "proscenium-engine = { path = \"x\" }"),
            1
        );
        assert_eq!(uses("engine/src/a.rs", "use proscenium::Engine;"), 1);
        assert_eq!(
            uses("engine/src/a.rs", "use proscenium_framing::LengthPrefix;"),
            0
        );
        assert_eq!(uses("tools/src/a.rs", "use proscenium_engine::Engine;"), 0);
    }

    #[test]
    fn a_missing_forbid() {
        assert_eq!(
            lacks_forbid(&source("framing/src/lib.rs", "//! x\n")),
            ["framing/src/lib.rs"]
        );
        let good = source("framing/src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n");
        assert!(lacks_forbid(&good).is_empty());
    }
}
