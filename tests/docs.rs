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

/// All pages for people, from the root and below `docs/`.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "examples/arena/README.md",
        "examples/match/README.md",
    ] {
        pages.push(root().join(name));
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

#[test]
fn every_limit_has_a_row_with_its_default() {
    let page = read("docs/guide/limits.md");
    let limits = format!("{:#?}", Limits::default());
    let mut rows = 0;
    for field in limits.lines().filter_map(|line| line.strip_prefix("    ")) {
        let (name, _) = field.split_once(": ").expect("name: value");
        assert!(
            page.contains(&format!("\n| `{name}` | ")),
            "limits.md has no row for {name}"
        );
        rows += 1;
    }
    assert!(rows >= 14, "{limits}");
    let default = Limits::default();
    for (name, shown) in [
        ("connections_max", default.connections_max == 100_000),
        ("accept_burst", default.accept_burst == 100),
        ("frame_max", default.frame_max == 2 << 20),
        ("receive_chunk", default.receive_chunk == 64 << 10),
        ("receive_chunks_max", default.receive_chunks_max == 64),
        (
            "reassembly_bytes_max",
            default.reassembly_bytes_max == 256 << 20,
        ),
        ("send_high", default.send_high == 1 << 20),
        ("send_low", default.send_low == 256 << 10),
        ("send_queue_max", default.send_queue_max == 8 << 20),
        ("send_bytes_max", default.send_bytes_max == 512 << 20),
        ("mailbox_max", default.mailbox_max == 16_384),
        ("linger", default.linger.as_secs() == 2),
    ] {
        assert!(shown, "limits.md shows another default of {name}");
    }
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
