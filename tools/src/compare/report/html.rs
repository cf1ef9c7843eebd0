//! `report.html`: one page that needs nothing else.

use std::fmt::Write as _;

use super::super::runs::Run;
use super::super::stacks::STACKS;
use super::tables::{self, Row, Table, Tone};
use super::{Report, chart};
use crate::utc;

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1d2329; --dim: #6b7580; --line: #dde2e7; \
--paper: #ffffff; --panel: #f6f8fa; --own: #0f766e; --other: #94a3b8; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ed; --dim: #93a0ad; --line: #2d353d; \
--paper: #14181c; --panel: #1b2026; --own: #2dd4bf; --other: #64748b; --bad: #f97066; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 84rem; background: var(--paper); \
color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .6rem; }
p, ul { margin: .4rem 0; } .hint, .lead { color: var(--dim); } .hint { font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .5rem; text-align: right; white-space: nowrap; \
border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
td:last-child { white-space: normal; min-width: 10rem; }
tr.own td:first-child { color: var(--own); font-weight: 600; }
tr.bad td:last-child { color: var(--bad); } tr.dim td { color: var(--dim); }
svg { display: block; width: 100%; max-width: 54rem; margin: 1rem 0 .2rem; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); dominant-baseline: central; }
svg .label { text-anchor: end; } svg .own { fill: var(--own); } svg .other { fill: var(--other); }
svg .range { stroke: var(--ink); stroke-width: 1.5; }
details { margin-top: .8rem; } summary { cursor: pointer; color: var(--dim); }
pre, code { font: .82rem/1.5 ui-monospace, monospace; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; \
padding: .8rem 1rem; margin: .6rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; \
font-size: .87rem; } dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }";

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut body = String::new();
    let _ = writeln!(
        body,
        "<h1>Proscenium against other stacks</h1>\n<p class=\"lead\">Echo servers under the same \
         load by the same client: medians of alternating runs, {}, {}.</p>",
        match report.profile.as_str() {
            "sweep" => "a sweep".to_owned(),
            profile => format!("profile {}", escape(profile)),
        },
        utc::readable(report.time_unix)
    );
    about(&mut body, report);
    let mut tables = tables::all(report);
    // In a page one reads from the top: the goals first.
    let goals = tables.iter().position(|table| table.title == tables::GOALS);
    let goals = goals.map(|at| tables.remove(at));
    if let Some(goals) = &goals {
        section(&mut body, goals, None);
    }
    let charts = report
        .summaries
        .iter()
        .filter(|one| !one.shape.sweep)
        .map(chart::bars);
    for (table, chart) in tables.iter().zip(charts.chain(std::iter::repeat(None))) {
        section(&mut body, table, chart.as_deref());
    }
    stacks(&mut body, report);
    commands(&mut body, report);
    runs(&mut body, &report.runs);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Proscenium against other stacks</title>\n<style>\n{STYLE}\n</style>\n</head>\n\
         <body>\n{body}</body>\n</html>\n"
    )
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn about(body: &mut String, report: &Report) {
    body.push_str("<dl>\n");
    for (name, value) in report.about() {
        let _ = match name {
            "Command" => writeln!(
                body,
                "<dt>{name}</dt><dd><code>{}</code></dd>",
                escape(&value)
            ),
            _ => writeln!(body, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&value)),
        };
    }
    body.push_str("</dl>\n");
}

fn list(body: &mut String, lines: impl Iterator<Item = String>) {
    body.push_str("<ul class=\"hint\">\n");
    for line in lines {
        let _ = writeln!(body, "<li>{}</li>", escape(&line));
    }
    body.push_str("</ul>\n");
}

fn section(body: &mut String, table: &Table, chart: Option<&str>) {
    let _ = writeln!(body, "<h2>{}</h2>", escape(&table.title));
    if let Some(chart) = chart {
        let _ = writeln!(body, "{chart}");
    }
    body.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for cell in &table.header {
        let _ = write!(body, "<th>{}</th>", escape(cell));
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    for Row { cells, tone } in &table.rows {
        let class = match tone {
            Tone::Plain => "",
            Tone::Own => " class=\"own\"",
            Tone::Bad => " class=\"bad\"",
            Tone::Dim => " class=\"dim\"",
        };
        let _ = write!(body, "<tr{class}>");
        for cell in cells {
            let _ = write!(body, "<td>{}</td>", escape(cell));
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</tbody></table></div>\n");
    if !table.note.is_empty() {
        let _ = writeln!(body, "<p class=\"hint\">{}</p>", escape(&table.note));
    }
}

/// What the names mean.
fn stacks(body: &mut String, report: &Report) {
    body.push_str("<h2>Stacks</h2>\n");
    let took_part = |name: &str| report.runs.iter().any(|run| run.stack == name);
    let lines = STACKS
        .iter()
        .filter(|stack| took_part(stack.name))
        .map(|stack| format!("{}: {}", stack.name, stack.about));
    let twin = "(A/A): the same server again; what the two differ by is the noise of this machine";
    let has_twin = report.runs.iter().any(|run| run.stack.ends_with("(A/A)"));
    list(body, lines.chain(has_twin.then(|| twin.to_owned())));
}

/// The commands of each contender's first run in each shape.
fn commands(body: &mut String, report: &Report) {
    body.push_str("<h2>Commands</h2>\n");
    body.push_str(
        "<p class=\"hint\">The first run of each stack: the server, then the client. Ports and \
         process ids are those that the server was given.</p>\n",
    );
    for summary in report.summaries.iter().filter(|one| one.skipped.is_none()) {
        let _ = write!(
            body,
            "<details><summary>{}</summary>\n<pre>",
            escape(&summary.id)
        );
        for line in &summary.lines {
            let first = |run: &&Run| {
                run.shape == summary.id && run.stack == line.stack && !run.server_command.is_empty()
            };
            if let Some(run) = report.runs.iter().find(first) {
                let text = format!(
                    "# {}\n{}\n{}\n",
                    line.stack, run.server_command, run.client_command
                );
                body.push_str(&escape(&text));
            }
        }
        body.push_str("</pre></details>\n");
    }
}

/// Every run, for those who want to see more than medians.
fn runs(body: &mut String, runs: &[Run]) {
    body.push_str("<h2>Every run</h2>\n<details><summary>");
    let _ = writeln!(body, "{} runs</summary>", runs.len());
    let row = |run: &Run| {
        let row = run.record.as_ref().map(|record| &record.row);
        let number = |text: Option<String>| text.unwrap_or_default();
        Row {
            cells: vec![
                format!("{} · {}", run.shape, run.stack),
                run.round.to_string(),
                number(row.map(|row| super::rate(row.throughput))),
                number(row.and_then(|row| Some(format!("{:.0}", row.server_cpu_ns_per_msg?)))),
                number(row.and_then(|row| Some(format!("{:.3}", row.server_cpu_share?)))),
                number(row.map(|row| format!("{:.3}", row.client_cpu_share))),
                number(
                    run.server_throttled_share
                        .map(|share| format!("{share:.2}")),
                ),
                run.reason.clone().unwrap_or_else(|| "PASS".to_owned()),
            ],
            tone: if run.passed().is_some() {
                Tone::Plain
            } else {
                Tone::Bad
            },
        }
    };
    let header = [
        "shape · stack",
        "round",
        "msg/s",
        "CPU ns/msg",
        "server CPU",
        "client CPU",
        "throttled",
        "result",
    ];
    let table = Table {
        title: String::new(),
        header: header.map(str::to_owned).into(),
        rows: runs.iter().map(row).collect(),
        note: String::new(),
    };
    section(body, &table, None);
    body.push_str("</details>\n");
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn the_page_has_everything_and_needs_nothing() {
        let page = page(&report());
        for part in [
            "<!doctype html>",
            "Acme &lt;9&gt;",
            "2 &lt;connections&gt; lost",
            "none &amp; nothing",
            "<svg viewBox",
            "taskset -c 0 server",
            "prefers-color-scheme: dark",
            "<h2>Goals</h2>",
            "<dt>Machine</dt>",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        for foreign in ["http:", "https:", "<script", "<link"] {
            assert!(!page.contains(foreign), "{foreign} is in the page");
        }
    }

    #[test]
    fn every_element_is_closed() {
        let page = page(&report());
        for tag in [
            "table", "tr", "td", "th", "details", "pre", "ul", "li", "svg", "div", "h2", "dl",
            "dt", "dd", "p", "code",
        ] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
