//! What makes a run a pass, and the summary for people.

use std::fmt;

use super::Scenario;
use super::plan::Measured;
use crate::record::StreamRecord;
use crate::units::{bytes, grouped, micros};

/// Why the run is not a pass, one sentence each; empty for a pass.
pub(super) fn failures(scenario: Scenario, measured: &Measured) -> Vec<String> {
    let Measured { tally, connect, .. } = measured;
    let mut failures = Vec::new();
    let mut unless_zero = |count: u64, what: &str| {
        if count > 0 {
            failures.push(format!("{} {what}", grouped(count)));
        }
    };
    unless_zero(u64::from(measured.interrupted), "signal broke the run off");
    unless_zero(connect.failed, "connections could not be made");
    unless_zero(connect.timed_out, "connections were not made in time");
    let attempted = connect.made + connect.failed + connect.timed_out;
    let joined = measured.join.map_or(connect.made, |join| join.joined);
    let kept_out = connect.made.saturating_sub(joined);
    unless_zero(kept_out, "clients were not let in");
    let untried = measured.connections.saturating_sub(attempted);
    unless_zero(untried, "connections were not tried");
    unless_zero(tally.lost_connections, "connections were lost");
    unless_zero(
        measured.waiting,
        "connections still waited for answers after the drain",
    );
    let unanswered = tally.sent.saturating_sub(tally.received);
    unless_zero(unanswered, "messages were never answered");
    unless_zero(
        tally.gating_violations,
        "gating violations: answers that nobody asked for",
    );
    unless_zero(tally.corrupt, "answers differed from what was sent");
    let remedies = [
        (
            "ECONNREFUSED",
            "nobody listens there: is the server running, at this address?",
        ),
        (
            "EADDRNOTAVAIL",
            "no local port is free: use fewer connections or a Unix socket",
        ),
        (
            "EMFILE",
            "no descriptor is free: raise the limit (ulimit -n)",
        ),
        (
            "ENFILE",
            "the system has no descriptor free: raise fs.file-max",
        ),
    ];
    for (name, remedy) in remedies {
        if measured.errors.contains_key(name) {
            failures.push(format!("{name}: {remedy}"));
        }
    }
    if scenario != Scenario::S1 && tally.received == 0 {
        failures.push("no answer came at all".to_owned());
        if tally.lost_connections > 0 {
            let why = "the server closed the connection: does it speak this protocol, and the \
                       same framing and layers?";
            failures.push(why.to_owned());
        }
    }
    if scenario == Scenario::S2 && tally.received > 0 && tally.received_in_window == 0 {
        failures.push("no answer came inside the measuring window".to_owned());
    }
    failures
}

/// The result for people.
pub(super) struct Summary<'a>(pub(super) &'a StreamRecord);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = &self.0.row;
        writeln!(
            f,
            "{} · {} · {} connections × {} × {} in flight · {}",
            row.stack,
            row.scenario_id,
            grouped(row.ccu),
            bytes(row.size),
            row.inflight,
            row.transport
        )?;
        writeln!(
            f,
            "  connected   {} of {} in {:.2} s ({} failed, {} timed out)",
            grouped(row.connect_success),
            grouped(row.ccu),
            row.connect_seconds,
            grouped(row.connect_fail),
            grouped(row.connect_timeout)
        )?;
        if let (Some(joined), Some(seconds)) = (row.join_success, row.join_seconds) {
            let (joined, all) = (grouped(joined), grouped(row.connect_success));
            writeln!(f, "  joined      {joined} of {all} in {seconds:.2} s")?;
        }
        if let Some(us) = row.server_cpu_us_per_connect {
            writeln!(f, "  accepting   {us:.1} µs of server CPU per connection")?;
        }
        if row.sent > 0 {
            self.fmt_exchange(f)?;
        }
        if !row.errors_by_errno.is_empty() {
            writeln!(
                f,
                "  errors      {}",
                row.errors_by_errno.replace(';', ", ")
            )?;
        }
        writeln!(f, "{}", row.pass_fail)?;
        for failure in &self.0.failures {
            writeln!(f, "  - {failure}")?;
        }
        Ok(())
    }
}

impl Summary<'_> {
    fn fmt_exchange(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = &self.0.row;
        writeln!(
            f,
            "  messages    {} sent, {} answered; drained in {:.2} s",
            grouped(row.sent),
            grouped(row.recv),
            row.drain_seconds
        )?;
        write!(f, "  throughput  {} msg/s", grouped(row.throughput as u64))?;
        if let Some(rate) = row.rate {
            let (rate, unsent) = (grouped(rate as u64), grouped(row.rate_unsent));
            write!(f, " of {rate} offered ({unsent} due and not sent)")?;
        }
        writeln!(f, " over {:.2} s", row.measure_seconds)?;
        writeln!(
            f,
            "  latency     p50 {}  p95 {}  p99 {}  p99.9 {}  max {}",
            micros(row.p50),
            micros(row.p95),
            micros(row.p99),
            micros(row.p99_9),
            micros(row.max)
        )?;
        if let (Some(ns), Some(share)) = (row.server_cpu_ns_per_msg, row.server_cpu_share) {
            write!(
                f,
                "  server      {ns:.0} ns CPU per message, {:.0} % of a core",
                share * 100.0
            )?;
            let rss = row.server_rss_peak_bytes.map(bytes);
            writeln!(f, ", peak memory {}", rss.as_deref().unwrap_or("unknown"))?;
        }
        let bound = if row.client_bound {
            ": client-bound, the server could do more"
        } else {
            ""
        };
        let (threads, share) = (row.client_threads, row.client_cpu_share * 100.0);
        let threads = if threads == 1 {
            "1 thread".into()
        } else {
            format!("{threads} threads")
        };
        writeln!(f, "  client      {threads}, {share:.0} % of its CPU{bound}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::ConnectTally;
    use super::super::latency::Latency;
    use super::super::window::Tally;
    use super::*;
    use crate::errno::ErrorCounts;
    use crate::record::StreamRow;
    use std::time::Duration;

    fn passing() -> Measured {
        Measured {
            connections: 10,
            threads: 1,
            tally: Tally {
                sent: 100,
                received: 100,
                received_in_window: 50,
                ..Tally::default()
            },
            connect: ConnectTally {
                made: 10,
                failed: 0,
                timed_out: 0,
            },
            latency: Latency::new().finish(),
            throughput: 50.0,
            waiting: 0,
            overdue: 0,
            errors: ErrorCounts::new(),
            connect_time: Duration::ZERO,
            join: None,
            join_time: Duration::ZERO,
            warmup_time: Duration::ZERO,
            measure_time: Duration::from_secs(1),
            drain_time: Duration::ZERO,
            server: None,
            server_connecting: None,
            server_rss_peak_bytes: None,
            client_cpu_share: 0.5,
            client_thread_share: 0.5,
            interrupted: false,
        }
    }

    #[test]
    fn a_clean_run_passes() {
        for scenario in [Scenario::S0, Scenario::S1, Scenario::S2] {
            assert_eq!(failures(scenario, &passing()), Vec::<String>::new());
        }
    }

    #[test]
    fn each_fault_alone_fails_the_run_and_is_named() {
        type Fault = fn(&mut Measured);
        let faults: [(Fault, &str); 12] = [
            (
                |m| m.errors = [("EADDRNOTAVAIL".into(), 1)].into(),
                "local port",
            ),
            (
                |m| {
                    m.connect = ConnectTally {
                        made: 9,
                        failed: 1,
                        timed_out: 0,
                    }
                },
                "not be made",
            ),
            (
                |m| {
                    m.connect = ConnectTally {
                        made: 9,
                        failed: 0,
                        timed_out: 1,
                    }
                },
                "in time",
            ),
            (|m| m.connect.made = 9, "not tried"),
            (|m| m.tally.lost_connections = 1, "lost"),
            (|m| m.waiting = 1, "after the drain"),
            (|m| m.tally.received = 99, "never answered"),
            (|m| m.tally.gating_violations = 1, "nobody asked"),
            (|m| m.tally.corrupt = 1, "differed"),
            (|m| m.tally.received_in_window = 0, "measuring window"),
            (|m| m.tally = Tally::default(), "no answer came at all"),
            (|m| m.interrupted = true, "signal"),
        ];
        for (fault, name) in faults {
            let mut measured = passing();
            fault(&mut measured);
            let failures = failures(Scenario::S2, &measured);
            assert_eq!(failures.len(), 1, "{name}: {failures:?}");
            assert!(failures[0].contains(name), "{name}: {failures:?}");
        }
    }

    #[test]
    fn connecting_only_needs_no_answers() {
        let mut measured = passing();
        measured.tally = Tally::default();
        assert!(failures(Scenario::S1, &measured).is_empty());
        assert!(!failures(Scenario::S0, &measured).is_empty());
    }

    #[test]
    fn the_summary_names_the_verdict_and_its_reasons() {
        let row = StreamRow {
            pass_fail: "FAIL".into(),
            sent: 5,
            client_bound: true,
            client_threads: 1,
            errors_by_errno: "ECONNRESET:2".into(),
            ..StreamRow::default()
        };
        let failures = vec!["2 connections were lost".to_owned()];
        let record = StreamRecord {
            row,
            failures,
            ..StreamRecord::default()
        };
        let text = Summary(&record).to_string();
        for part in [
            "FAIL\n  - 2 connections were lost\n",
            "ECONNRESET:2",
            "client-bound",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
