//! The Autobahn test suite, groups 1 to 10, with the engine as server and as client: nothing but
//! "OK" and "INFORMATIONAL" will do. `cargo xtask test --all` installs the suite and runs this;
//! `AUTOBAHN` is its command, a Python program with `-c` and the code that runs `wstest`.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use proscenium::{Connector, Framing, Limits, Overflow, WebSocketClient, WebSocketServer};
use support::{Behaviour, Server, engine, eventually, loopback, patient};

/// The longest messages of the suite have 16 MiB, in up to 65,536 frames.
const MESSAGE_MAX: usize = 20 << 20;
const FRAGMENTS_MAX: u32 = 1 << 20;
const AGENT: &str = "proscenium";
const CASES: &str = r#"["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]"#;
/// How many cases those are; a suite with fewer would prove less than it seems to.
const CASES_MIN: usize = 301;

fn limits() -> Limits {
    patient()
        .frame_max(MESSAGE_MAX)
        .send_high(2 * MESSAGE_MAX)
        .send_queue_max(4 * MESSAGE_MAX)
}

fn echo() -> Behaviour {
    Behaviour::on_message(|cx, from, message| {
        let _ = cx.forward(from, &message);
    })
}

/// An empty folder of this test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn wstest(mode: &str, spec: &str, folder: &Path) -> Command {
    let python = std::env::var("AUTOBAHN").expect("AUTOBAHN names the Python of the suite");
    let file = folder.join("spec.json");
    fs::write(&file, spec).unwrap();
    let mut command = Command::new(python);
    command
        .args(["-c", "from autobahntestsuite import wstest; wstest.run()"])
        .args(["-m", mode, "-u", "0", "-s"])
        .arg(file)
        .current_dir(folder)
        .stdout(Stdio::null());
    command
}

/// The suite's server; it ends with the value.
struct Fuzzer(Child);

impl Drop for Fuzzer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Behaviours by case, out of the suite's report: what follows `"behavior"` and
/// `"behaviorClose"`.
fn verdicts(report: &str) -> BTreeMap<String, [String; 2]> {
    let mut verdicts = BTreeMap::new();
    let value = |text: &str, name: &str| -> String {
        let rest = text.split(&format!("\"{name}\": \"")).nth(1).unwrap_or("?");
        rest.split('"').next().unwrap_or("?").to_owned()
    };
    // Each case is an object without objects in it: `"1.1.1": { … }`.
    for case in report.split('}') {
        let Some((head, body)) = case.rsplit_once('{') else {
            continue;
        };
        let name = head.trim_end().trim_end_matches(':').trim_end();
        let name = name.trim_end_matches('"').rsplit('"').next().unwrap_or("");
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            let both = [value(body, "behavior"), value(body, "behaviorClose")];
            verdicts.insert(name.to_owned(), both);
        }
    }
    verdicts
}

#[track_caller]
fn judge(folder: &Path) {
    let report = fs::read_to_string(folder.join("reports/index.json")).unwrap();
    let verdicts = verdicts(&report);
    let fine = |verdict: &String| ["OK", "INFORMATIONAL"].contains(&verdict.as_str());
    let bad: Vec<_> = verdicts
        .iter()
        .filter(|(_, both)| !both.iter().all(fine))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}; see {}", folder.display());
    assert!(verdicts.len() >= CASES_MIN, "only {} cases", verdicts.len());
}

#[test]
#[ignore = "needs the Autobahn test suite, which runs on Python 2.7 only"]
fn as_server() {
    let options = WebSocketServer::new()
        .any_path()
        .fragments_max(FRAGMENTS_MAX);
    let listener = loopback().framing(Framing::Raw).web_socket(&options);
    let server = Server::with(limits(), listener, echo());
    let folder = folder("autobahn-server");
    let address = server.address();
    let spec = format!(
        r#"{{"outdir": "reports", "cases": {CASES}, "exclude-cases": [],
            "exclude-agent-cases": {{}},
            "servers": [{{"agent": "{AGENT}", "url": "ws://{address}"}}]}}"#
    );
    let status = wstest("fuzzingclient", &spec, &folder).status().unwrap();
    assert!(status.success());
    judge(&folder);
    server.end_clean();
}

/// One connection of our client; returns the text messages that came, once it has ended.
fn visit(address: SocketAddr, target: &str) -> Vec<String> {
    let texts = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&texts);
    let behaviour = Behaviour::on_message(move |cx, from, message| {
        if message.is_text() && message.len() < 100 {
            log.lock()
                .unwrap()
                .push(String::from_utf8(message.to_vec()).unwrap());
        }
        let _ = cx.forward(from, &message);
    });
    let client = Server::start(engine().limits(limits()), behaviour);
    let socket = WebSocketClient::new(address.to_string(), target).unwrap();
    let socket = socket.fragments_max(FRAGMENTS_MAX);
    let connector = Connector::to(address)
        .framing(Framing::Raw)
        .overflow(Overflow::PauseReading)
        .web_socket(&socket);
    client.on(0, move |cx| cx.connect(&connector));
    let id = client.nth(0);
    client.log.until_closed(id);
    client.shutdown();
    let texts = texts.lock().unwrap();
    texts.clone()
}

#[test]
#[ignore = "needs the Autobahn test suite, which runs on Python 2.7 only"]
fn as_client() {
    let folder = folder("autobahn-client");
    // A port that was free a moment ago; the suite cannot choose one itself.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let spec = format!(
        r#"{{"url": "ws://127.0.0.1:{port}", "outdir": "reports", "cases": {CASES},
            "exclude-cases": [], "exclude-agent-cases": {{}}}}"#
    );
    let fuzzer = Fuzzer(wstest("fuzzingserver", &spec, &folder).spawn().unwrap());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the suite listens", || TcpStream::connect(address).ok());
    let count = visit(address, "/getCaseCount");
    let count: usize = count.first().and_then(|text| text.parse().ok()).unwrap();
    for case in 1..=count {
        visit(address, &format!("/runCase?case={case}&agent={AGENT}"));
    }
    visit(address, &format!("/updateReports?agent={AGENT}"));
    drop(fuzzer);
    judge(&folder);
}
