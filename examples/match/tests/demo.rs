//! The demonstration, with real processes.

use std::process::Command;

#[test]
fn the_demonstration_goes_well() {
    let run = Command::new(env!("CARGO_BIN_EXE_match-example"))
        .output()
        .expect("it starts");
    let (out, errors) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(run.status.success(), "{out}\n{errors}");
    let mut lines = out.lines();
    for expected in [
        "match 1 is on play-1",
        "match 2 is on play-2",
        "ann is in match 1",
        "bob is in match 1",
        "cid is in match 2",
        "eve has no ticket",
        "ann has 2 points in match 1",
        "ann is in match 2",
        "ann has 3 points in match 2",
        r#"/matches/1: {"match":1,"players":{"bob":0},"server":"play-1"}"#,
        r#"/matches/2: {"match":2,"players":{"ann":3,"cid":0},"server":"play-2"}"#,
        "done",
    ] {
        let found = lines.any(|line| line.starts_with(expected));
        assert!(found, "no `{expected}` in its place:\n{out}");
    }
}
