//! The documentation keeps up with the code: what can be listed is compared.

use std::fs;
use std::path::{Path, PathBuf};

use proscenium::{CloseReason, Limits, ShardStats};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All pages for people.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() {
                let of_others = ["target", "node_modules", "build"].contains(&&*name);
                if !of_others && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The anchor that a heading gets: lower case, blanks to hyphens, punctuation gone.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn the_readme_and_the_crate_guide_show_the_example() {
    let example = read("examples/echo.rs");
    let code = &example[example.find("use proscenium").expect("the code begins")..];
    assert!(read("README.md").contains(code), "README.md differs");
    let guide: String = read("src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    assert!(guide.contains(code), "src/lib.rs differs");
    assert_eq!(code.lines().count(), 20, "the README says 20 lines");
}

/// Pieces of code in the README that are not whole, and where they come from.
#[test]
fn what_the_readme_shows_of_longer_code_is_there() {
    let readme = read("README.md");
    let pieces = readme.split("```rust,ignore\n").skip(1);
    let pieces: Vec<&str> = pieces.filter_map(|rest| rest.split("```").next()).collect();
    let sources = ["examples/counter.rs", "docs/guide/play.md"];
    assert_eq!(pieces.len(), sources.len());
    for (piece, source) in pieces.into_iter().zip(sources) {
        let whole = read(source);
        let whole: Vec<&str> = whole.lines().map(str::trim).collect();
        let lines = piece.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && *line != "// …") {
            assert!(whole.contains(&line), "{source} has no line `{line}`");
        }
    }
}

#[test]
fn indexes_name_every_page() {
    for (index, folder) in [
        ("docs/guide/README.md", "docs/guide"),
        ("docs/decisions/README.md", "docs/decisions"),
        ("README.md", "docs/results"),
    ] {
        let index_text = read(index);
        let mut pages = 0;
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name != "README.md" {
                let linked = [format!("]({name})"), format!("]({folder}/{name})")];
                let named = linked.iter().any(|link| index_text.contains(link));
                assert!(named, "{index} does not name {name}");
                pages += 1;
            }
        }
        assert!(pages > 3, "{folder} has {pages} pages");
    }
}

#[test]
fn the_architecture_names_files_that_are_there() {
    let page = read("ARCHITECTURE.md");
    let paths = page.split('`').skip(1).step_by(2);
    let paths = paths.filter(|path| path.contains('/') && !path.contains(' '));
    let mut checked = 0;
    for path in paths {
        assert!(
            root().join(path).exists(),
            "ARCHITECTURE.md: {path} is not there"
        );
        checked += 1;
    }
    assert!(checked > 40, "only {checked} paths were found");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or("");
            if target.contains("://") {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(path)
            };
            let at = page.display();
            assert!(file.exists(), "{at}: {target} leads nowhere");
            if !fragment.is_empty() {
                let headings = anchors(&fs::read_to_string(&file).unwrap());
                assert!(
                    headings.iter().any(|heading| heading == fragment),
                    "{at}: {target}: no such heading among {headings:?}"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} links were found");
}

/// A default as `limits.md` shows it, such as `64 KiB`, in the way that `Debug` shows it.
fn as_debug(shown: &str) -> String {
    let shown = shown.split(" = ").next().unwrap_or(shown).replace(',', "");
    let unit = |name: &str, shift: u32| {
        let number = shown.strip_suffix(name)?.trim().parse::<u64>().ok()?;
        Some((number << shift).to_string())
    };
    unit("KiB", 10)
        .or_else(|| unit("MiB", 20))
        .unwrap_or(shown.replace(' ', ""))
}

#[test]
fn every_limit_has_a_row_with_its_default() {
    let page = read("docs/guide/limits.md");
    let limits = format!("{:#?}", Limits::default());
    let mut rows = 0;
    for field in limits.lines().filter_map(|line| line.strip_prefix("    ")) {
        let (name, default) = field.split_once(": ").expect("name: value");
        let row = format!("\n| `{name}` | ");
        let (_, row) = page
            .split_once(&row)
            .unwrap_or_else(|| panic!("limits.md has no row for {name}"));
        let shown = row.split(" |").next().unwrap();
        // A time of nothing has a unit.
        let default = default.trim_end_matches(',').replace("0ns", "0");
        assert_eq!(as_debug(shown), default, "limits.md: {name}: {shown}");
        rows += 1;
    }
    assert!(rows >= 14, "{limits}");
}

#[test]
fn every_close_reason_is_explained() {
    let page = read("docs/guide/connections.md");
    for name in CloseReason::NAMES {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is missing");
    }
}

#[test]
fn every_statistic_is_listed() {
    let page = read("docs/guide/operations.md");
    for (name, _) in ShardStats::default().fields() {
        let gauge = page.contains(&format!("`{name}`"));
        let counter = page.contains(&format!("`{name}_total`"));
        assert!(gauge || counter, "operations.md does not list {name}");
    }
}

#[cfg(feature = "stages")]
#[test]
fn every_statistic_of_stages_is_listed() {
    let page = read("docs/guide/operations.md");
    for (name, _, _) in proscenium::stages::StageStats::default().fields() {
        let gauge = page.contains(&format!("`stages_{name}`"));
        let counter = page.contains(&format!("`stages_{name}_total`"));
        assert!(gauge || counter, "operations.md does not list {name}");
    }
}

/// The names of the fields of a value, nested ones too.
#[cfg(feature = "nodelink")]
fn names(value: &dyn std::fmt::Debug) -> Vec<String> {
    let text = format!("{value:#?}");
    let names = text.lines().filter_map(|line| line.trim().split_once(": "));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[cfg(feature = "nodelink")]
#[test]
fn every_statistic_of_nodes_is_listed() {
    use proscenium::nodelink::{LinkEnd, NodeStats, PeerCounters};
    let page = read("docs/guide/operations.md");
    let mut all = names(&PeerCounters::default());
    all.extend(names(&NodeStats::default()));
    assert!(all.len() > 15, "{all:?}");
    all.retain(|name| name != "peers");
    all.extend(LinkEnd::ALL.map(|(_, name)| name.to_owned()));
    for name in all {
        assert!(page.contains(&format!("`{name}`")), "operations.md: {name}");
    }
}

#[cfg(feature = "redis")]
#[test]
fn every_statistic_of_a_directory_in_redis_is_listed() {
    let page = read("docs/guide/operations.md");
    let all = names(&proscenium::nodelink::directory::RedisStats::default());
    assert_eq!(all.len(), 7, "{all:?}");
    for name in all {
        assert!(page.contains(&format!("`{name}`")), "operations.md: {name}");
    }
}

#[cfg(feature = "play")]
#[test]
fn every_statistic_of_play_and_api_servers_is_listed() {
    let page = read("docs/guide/operations.md");
    let play = proscenium::play::PlayStats::default();
    let api = proscenium::play::api::ApiStats::default();
    for (name, _) in play.fields().chain(api.fields()) {
        assert!(page.contains(&format!("`{name}`")), "operations.md: {name}");
    }
}
