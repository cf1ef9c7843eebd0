//! Bar charts as SVG: one bar for each contender, its range as a thin line. Colours come from the
//! page, so that they follow its light and dark scheme.

use std::fmt::Write as _;

use super::super::plan::Metric;
use super::super::summary::Summary;
use super::html::escape;
use super::show;

const WIDTH: f64 = 760.0;
const LABELS: f64 = 170.0;
const VALUES: f64 = 130.0;
const ROW: f64 = 30.0;
const BAR: f64 = 18.0;

/// The chart of a shape; none if nothing was measured.
pub(super) fn bars(summary: &Summary) -> Option<String> {
    let measured = summary
        .lines
        .iter()
        .filter_map(|line| Some((line, line.metric?)));
    let measured: Vec<_> = measured.collect();
    let greatest = measured
        .iter()
        .map(|(_, spread)| spread.max)
        .fold(0.0, f64::max);
    if greatest <= 0.0 {
        return None;
    }
    let scale = (WIDTH - LABELS - VALUES) / greatest;
    let height = ROW * measured.len() as f64 + 6.0;
    let better = match summary.metric {
        Metric::Throughput => "longer is better",
        _ => "shorter is better",
    };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(&format!("{}: {better}", summary.title))
    );
    for (row, (line, spread)) in measured.iter().enumerate() {
        let top = ROW * row as f64 + 6.0;
        let middle = top + BAR / 2.0;
        let class = if line.stack.starts_with("proscenium") {
            "own"
        } else {
            "other"
        };
        let length = (spread.median * scale).max(1.0);
        let from = LABELS + spread.min * scale;
        let to = LABELS + spread.max * scale;
        let value = show(summary.metric, spread.median);
        let beside = LABELS + length.max(spread.max * scale) + 8.0;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{middle:.1}\" class=\"label\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" \
             class=\"{class}\"/>",
            LABELS - 10.0,
            escape(&line.stack)
        );
        if spread.count > 1 {
            let _ = write!(
                svg,
                "<line x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\" \
                 class=\"range\"/>"
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{beside:.1}\" y=\"{middle:.1}\" class=\"value\">{value}</text>"
        );
    }
    let _ = write!(
        svg,
        "</svg>\n<p class=\"hint\">median, the line is the range; {better}</p>"
    );
    Some(svg)
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn the_longest_range_fills_the_width_and_who_failed_has_no_bar() {
        let svg = bars(&report().summaries[0]).unwrap();
        assert_eq!(svg.matches("<rect").count(), 2);
        assert_eq!(svg.matches("class=\"range\"").count(), 2);
        let end = format!("x2=\"{:.1}\"", WIDTH - VALUES);
        assert!(svg.contains(&end), "{end} is missing in {svg}");
        assert!(svg.contains("1.575 M msg/s"), "{svg}");
    }

    #[test]
    fn without_numbers_there_is_no_chart() {
        let mut report = report();
        for line in &mut report.summaries[0].lines {
            line.metric = None;
        }
        assert_eq!(bars(&report.summaries[0]), None);
    }
}
