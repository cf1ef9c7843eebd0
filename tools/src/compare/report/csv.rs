//! `results.csv`: a row for each run, the columns of a single run first.

use std::io;

use csv::{ReaderBuilder, StringRecord, WriterBuilder};

use super::super::runs::{Run, Status};
use crate::record::StreamRow;

/// What a run of a comparison has beyond a run.
const MORE: [&str; 8] = [
    "shape",
    "round",
    "quota_percent",
    "server_shards",
    "server_throttled_share",
    "reason",
    "server_command",
    "client_command",
];

/// The file's content.
///
/// # Errors
/// Never with valid rows.
pub(super) fn document(runs: &[Run]) -> io::Result<String> {
    let (header, _) = fields(&StreamRow::default())?;
    let mut writer = WriterBuilder::new().from_writer(Vec::new());
    writer
        .write_record(header.iter().chain(MORE))
        .map_err(io::Error::other)?;
    for run in runs {
        let row = match &run.record {
            Some(record) => fields(&record.row)?.1,
            None => without_result(run, &header),
        };
        let text = |number: Option<String>| number.unwrap_or_default();
        let more = [
            run.shape.clone(),
            run.round.to_string(),
            text(run.quota_percent.map(|percent| percent.to_string())),
            run.server_shards.to_string(),
            text(
                run.server_throttled_share
                    .map(|share| format!("{share:.4}")),
            ),
            run.reason.clone().unwrap_or_default(),
            run.server_command.clone(),
            run.client_command.clone(),
        ];
        let all = row.iter().chain(more.iter().map(String::as_str));
        writer.write_record(all).map_err(io::Error::other)?;
    }
    let bytes = writer.into_inner().map_err(io::Error::other)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// The header and the values of a row.
fn fields(row: &StreamRow) -> io::Result<(StringRecord, StringRecord)> {
    let mut writer = WriterBuilder::new().from_writer(Vec::new());
    writer.serialize(row).map_err(io::Error::other)?;
    let bytes = writer.into_inner().map_err(io::Error::other)?;
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .from_reader(bytes.as_slice());
    let mut records = reader.records();
    let mut next = || {
        let record = records.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        record.map_err(io::Error::other)
    };
    Ok((next()?, next()?))
}

/// A row of a run that has no numbers: what was asked for, the rest empty, rather than zeros that
/// nobody measured.
fn without_result(run: &Run, header: &StringRecord) -> StringRecord {
    let value = |column: &str| match column {
        "scenario_id" => run.scenario.to_owned(),
        "ccu" => run.ccu.to_string(),
        "inflight" => run.inflight.to_string(),
        "size" => run.size.to_string(),
        "stack" => run.stack.clone(),
        "pass_fail" if run.status == Status::Skipped => "SKIPPED".to_owned(),
        "pass_fail" => "FAIL".to_owned(),
        _ => String::new(),
    };
    header.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn the_columns_begin_as_other_harnesses_expect_and_every_run_is_a_row() {
        let text = document(&report().runs).unwrap();
        assert!(
            text.starts_with(
                "scenario_id,transport,ccu,inflight,size,connect_success,connect_fail,\
                 connect_timeout,sent,recv,incomplete_ratio,throughput,p50,p95,p99,\
                 errors_by_errno,pass_fail,"
            ),
            "{text}"
        );
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers().unwrap().clone();
        let column = |name: &str| header.iter().position(|one| one == name).unwrap();
        let rows: Vec<StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 5);
        assert_eq!(&rows[3][column("round")], "1");
        assert_eq!(&rows[3][column("throughput")], "1650000.0");
        let failed = &rows[4];
        assert_eq!(&failed[column("stack")], "asio");
        assert_eq!(&failed[column("pass_fail")], "FAIL");
        assert_eq!(&failed[column("reason")], "2 <connections> lost");
        assert_eq!(&failed[column("throughput")], "");
    }

    #[test]
    fn without_runs_there_is_a_header() {
        assert_eq!(document(&[]).unwrap().lines().count(), 1);
    }
}
