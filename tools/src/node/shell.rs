//! A shell's way into the mesh: a node that joins for a moment.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use proscenium_engine::Address;
use proscenium_nodelink::directory::{Directory, ServerInfo};
use proscenium_nodelink::{
    Endpoint, LinkEnd, Nid, Node, NodeContext, NodeHandle, NodeHandler, NodeMessage, NodeOptions,
    PeerId, Reply, RequestOptions, RouteHeader,
};

use super::config::Source;
use super::{PING, PingArgs, Reach, SendArgs};
use crate::units::micros;

/// How long this node's own end may take, beyond what it still has to write.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// How often to look whether a link is up that no news told of.
const LOOK: Duration = Duration::from_millis(5);

/// A node that is to be talked to: its name, if it is known, and where it is.
pub(super) struct Target {
    nid: Option<Nid>,
    address: Address,
}

/// The nodes that a command is about, in the order of their names on the command line.
///
/// # Errors
/// When there is no place to look them up, or they are not there.
pub(super) fn targets(reach: &Reach, nids: &[String]) -> Result<Vec<Target>, String> {
    let named = |nid: &String| Nid::new(nid).map_err(|error| format!("`{nid}`: {error}"));
    let nids: Vec<Nid> = nids.iter().map(named).collect::<Result<_, _>>()?;
    if let Some(at) = &reach.at {
        let address = Address::parse(at).map_err(|error| format!("--at {error}"))?;
        let ([] | [_]) = nids.as_slice() else {
            return Err("--at is the address of one node; name one, or use --directory".to_owned());
        };
        let nid = nids.into_iter().next();
        return Ok(vec![Target { nid, address }]);
    }
    let Some(directory) = &reach.directory else {
        return Err("where is it? --at ADDR, or --directory with a file or redis://…".to_owned());
    };
    let source = Source::new(directory, reach.mesh.as_deref(), Path::new(""))?;
    let servers = servers(&source, reach.timeout).map_err(|error| match &source {
        Source::File(_) => format!("--directory {directory}: {error}"),
        // Its URL may hold a password; the error names the address.
        Source::Redis(_) => format!("--directory: {error}"),
    })?;
    if nids.is_empty() {
        let all = servers.into_iter().map(|server| Target {
            nid: Some(server.nid),
            address: server.address,
        });
        return Ok(all.collect());
    }
    let found = nids.into_iter().map(|nid| {
        let server = servers.iter().find(|server| server.nid == nid);
        let Some(server) = server else {
            let known: Vec<&str> = servers.iter().map(|server| server.nid.as_str()).collect();
            let known = known.join(", ");
            return Err(format!("{nid} is not in the directory, which has: {known}"));
        };
        Ok(Target {
            nid: Some(nid),
            address: server.address.clone(),
        })
    });
    found.collect()
}

/// Who is in a directory now.
fn servers(source: &Source, timeout: Duration) -> Result<Vec<ServerInfo>, String> {
    let redis = match source {
        Source::File(file) => return file.read().map_err(|error| error.to_string()),
        Source::Redis(redis) => redis,
    };
    let (tell, told) = mpsc::channel();
    let watch = redis.watch(std::sync::Arc::new(move |servers: &[ServerInfo]| {
        // Who asked may have heard enough.
        let _ = tell.send(servers.to_vec());
    }));
    let _watch = watch.map_err(|error| error.to_string())?;
    told.recv_timeout(timeout)
        .map_err(|_| format!("Redis said nothing within {timeout:?}"))
}

/// Tells who can be reached.
struct News {
    up: Sender<String>,
}

impl NodeHandler<()> for News {
    fn on_message(&mut self, _: &mut NodeContext<'_, '_, ()>, _: NodeMessage<'_>) {}

    fn on_peer_up(&mut self, _: &mut NodeContext<'_, '_, ()>, _: PeerId, nid: &Nid) {
        // The command may be over.
        let _ = self.up.send(nid.as_str().to_owned());
    }
}

/// A node that has joined.
pub(super) struct Shell {
    node: Node,
    handle: NodeHandle,
    up: Receiver<String>,
    timeout: Duration,
    begin: Instant,
}

/// A reply, and how long it took.
pub(super) struct Asked {
    pub(super) reply: Reply,
    pub(super) time: Duration,
}

impl Shell {
    /// Joins, and begins to connect.
    ///
    /// # Errors
    /// When its name is none, or the system does not let it.
    pub(super) fn start(reach: &Reach, targets: &[Target]) -> Result<Self, String> {
        let own = match &reach.own {
            Some(own) => own.clone(),
            // Nobody else has it: a process of this machine, at this time.
            None => {
                let time = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |time| time.as_nanos());
                format!("shell-{}-{:x}", std::process::id(), time)
            }
        };
        let own = Nid::new(&own).map_err(|error| format!("--as: {error}"))?;
        let options = NodeOptions::new(own)
            .handshake_deadline(reach.timeout)
            .request_deadline(reach.timeout);
        let (tell, up) = mpsc::channel();
        let mut builder = Node::builder(options);
        for target in targets {
            let address = target.address.clone();
            builder = builder.connect(match &target.nid {
                Some(nid) => Endpoint::of(nid.clone(), address),
                None => Endpoint::new(address),
            });
        }
        let node = builder
            .start(News { up: tell })
            .map_err(|error| format!("cannot join: {error}"))?;
        Ok(Self {
            handle: node.handle(),
            node,
            up,
            timeout: reach.timeout,
            begin: Instant::now(),
        })
    }

    /// Waits until a node can be reached; its name.
    ///
    /// # Errors
    /// When it cannot within the timeout: says what happened instead.
    pub(super) fn wait_for(&self, target: &Target) -> Result<String, String> {
        let until = self.begin + self.timeout;
        loop {
            match &target.nid {
                Some(nid) if self.handle.is_routable(nid.as_str()) => {
                    return Ok(nid.as_str().to_owned());
                }
                _ => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            let news = self.up.recv_timeout(left.min(LOOK));
            if let (Ok(nid), None) = (news, &target.nid) {
                return Ok(nid);
            }
            if left.is_zero() {
                return Err(self.why_not(target));
            }
        }
    }

    fn why_not(&self, target: &Target) -> String {
        let who = target.nid.as_ref().map_or("a node", |nid| nid.as_str());
        let stats = self.handle.stats(self.timeout).unwrap_or_default();
        let happened: Vec<String> = LinkEnd::ALL
            .into_iter()
            .filter(|(end, _)| stats.ended(*end) > 0)
            .map(|(end, name)| format!("{name} {}", stats.ended(end)))
            .collect();
        let happened = if happened.is_empty() {
            String::new()
        } else {
            format!(" ({})", happened.join(", "))
        };
        let likely = [
            (LinkEnd::ConnectFailed, ": nobody listens there"),
            (LinkEnd::Refused, ": a node of another name is there"),
            (
                LinkEnd::Closed,
                ": what listens there is no node, or lets nobody in from here",
            ),
            (
                LinkEnd::HandshakeTimeout,
                ": what listens there does not speak as nodes do",
            ),
        ];
        let likely = likely.into_iter().find(|(end, _)| stats.ended(*end) > 0);
        format!(
            "{who} could not be reached at {} within {:?}{happened}{}",
            target.address,
            self.timeout,
            likely.map_or("", |(_, why)| why)
        )
    }

    /// Sends a request and waits for the reply.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn request(
        &self,
        nid: &str,
        msg_id: &str,
        payload: Vec<u8>,
    ) -> Result<Asked, String> {
        let header = RouteHeader {
            msg_id,
            ..RouteHeader::default()
        };
        self.ask(nid, &header, payload)
    }

    fn ask(&self, nid: &str, header: &RouteHeader<'_>, payload: Vec<u8>) -> Result<Asked, String> {
        let options = RequestOptions::within(self.timeout);
        let sent = Instant::now();
        let reply = self.handle.request(nid, header, payload, options).wait();
        let time = sent.elapsed();
        let reply = reply.map_err(|error| format!("{nid}: {error}"))?;
        Ok(Asked { reply, time })
    }

    /// Leaves, when everything is written.
    pub(super) fn end(self) {
        let _ = self.node.shutdown(CLOSE_DEADLINE);
    }
}

fn shown(time: Duration) -> String {
    micros(time.as_secs_f64() * 1e6)
}

/// Asks for a sign of life again and again. False if one was missing.
///
/// # Errors
/// When the node cannot be looked up.
pub(super) fn ping(args: &PingArgs) -> Result<bool, String> {
    let targets = targets(&args.reach, std::slice::from_ref(&args.nid))?;
    let shell = Shell::start(&args.reach, &targets)?;
    let [target] = targets.as_slice() else {
        return Err("there is more than one of that name".to_owned());
    };
    if let Err(reason) = shell.wait_for(target) {
        shell.end();
        eprintln!("{reason}");
        return Ok(false);
    }
    let nid = args.nid.as_str();
    let say = |line: String| {
        if !args.json {
            // Who does not read it any more does not want it.
            let _ = writeln!(io::stdout(), "{line}");
        }
    };
    say(format!("PING {nid} at {}", target.address));
    let mut times = Vec::new();
    for number in 1..=args.count {
        let next = Instant::now() + args.interval;
        match shell.request(nid, PING, Vec::new()) {
            Ok(Asked { reply, time }) => {
                let note = match reply.error_code {
                    0 => String::new(),
                    code => format!(" (error code {code}: it knows no `{PING}`, but it lives)"),
                };
                say(format!(
                    "reply from {nid}: number {number}, {}{note}",
                    shown(time)
                ));
                times.push(time);
            }
            Err(reason) => say(format!("no reply, number {number}: {reason}")),
        }
        if number < args.count {
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    shell.end();
    let lost = args.count as usize - times.len();
    if args.json {
        let times = times.iter().map(|time| time.as_secs_f64() * 1e6);
        let document = serde_json::json!({
            "nid": nid,
            "address": target.address.to_string(),
            "sent": args.count,
            "lost": lost,
            "times_us": times.collect::<Vec<_>>(),
        });
        writeln!(io::stdout(), "{document:#}").map_err(|error| format!("cannot write: {error}"))?;
        return Ok(lost == 0);
    }
    times.sort_unstable();
    say(format!(
        "{} sent, {} answered, {lost} lost",
        args.count,
        times.len()
    ));
    if let (Some(least), Some(most)) = (times.first(), times.last()) {
        let median = times[times.len() / 2];
        let [least, median, most] = [*least, median, *most].map(shown);
        say(format!("least {least}, median {median}, most {most}"));
    }
    Ok(lost == 0)
}

fn payload(args: &SendArgs) -> Result<Vec<u8>, String> {
    match (&args.payload, &args.payload_file) {
        (Some(text), _) => Ok(text.clone().into_bytes()),
        (None, None) => Ok(Vec::new()),
        (None, Some(path)) if path == Path::new("-") => {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| format!("--payload-file -: {error}"))?;
            Ok(bytes)
        }
        (None, Some(path)) => {
            fs::read(path).map_err(|error| format!("--payload-file {}: {error}", path.display()))
        }
    }
}

fn header(args: &SendArgs) -> RouteHeader<'_> {
    RouteHeader {
        msg_id: &args.msg_id,
        stage_id: args.stage,
        account_id: args.account,
        service_id: args.service.into(),
        ..RouteHeader::default()
    }
}

/// Joins for one message; the shell, if the node can be reached.
fn reach(args: &SendArgs) -> Result<Option<Shell>, String> {
    let targets = targets(&args.reach, std::slice::from_ref(&args.nid))?;
    let shell = Shell::start(&args.reach, &targets)?;
    for target in &targets {
        if let Err(reason) = shell.wait_for(target) {
            shell.end();
            eprintln!("{reason}");
            return Ok(None);
        }
    }
    Ok(Some(shell))
}

/// Sends a message. False if it could not be sent.
///
/// # Errors
/// When the payload cannot be read or the node not looked up.
pub(super) fn send(args: &SendArgs) -> Result<bool, String> {
    let payload = payload(args)?;
    let Some(shell) = reach(args)? else {
        return Ok(false);
    };
    let sent = shell.handle.send(&args.nid, &header(args), payload);
    // Ends when it has been written.
    shell.end();
    if let Err(error) = sent {
        eprintln!("{}: {error}", args.nid);
        return Ok(false);
    }
    Ok(true)
}

/// Sends a request and prints the reply's payload. False without a reply, or with an error code.
///
/// # Errors
/// When the payload cannot be read, the node not looked up, or the reply not written.
pub(super) fn request(args: &SendArgs) -> Result<bool, String> {
    let payload = payload(args)?;
    let Some(shell) = reach(args)? else {
        return Ok(false);
    };
    let asked = shell.ask(&args.nid, &header(args), payload);
    shell.end();
    let Asked { reply, time } = match asked {
        Ok(asked) => asked,
        Err(reason) => {
            eprintln!("{reason}");
            return Ok(false);
        }
    };
    eprintln!(
        "reply `{}`, error code {}, {} bytes, {}",
        reply.msg_id.escape_debug(),
        reply.error_code,
        reply.payload.len(),
        shown(time)
    );
    let mut out = io::stdout().lock();
    // The next prompt of a shell is to stand on a line of its own.
    let end = if out.is_terminal() { "\n" } else { "" };
    out.write_all(&reply.payload)
        .and_then(|()| out.write_all(end.as_bytes()))
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot write the reply: {error}"))?;
    Ok(reply.error_code == 0)
}
