//! What the two tokio peers share: command line, listeners, one current-thread runtime per
//! shard, start and stop. How frames are read and written is each binary's own.
//!
//! Current-thread runtimes, because a work-stealing one pays for synchronisation that an echo
//! never needs: the shards have nothing in common but the port.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's output is its purpose"
)] // a command-line program

mod options;

pub use options::{ByteOrder, FRAME_BYTES_MAX, HEADER_BYTES};

use futures_util::future::select;
use options::Options;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Connections waiting for accept.
const BACKLOG: u32 = 4096;

/// The pause after a failed accept: out of descriptors, and not before some are free again.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What one shard has done so far. Only the shard's own thread adds to it, so that an addition is
/// a load and a store and no locked instruction.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    frames: AtomicU64,
    oversized: AtomicU64,
}

impl Counters {
    /// Counts `n` frames that were dispatched. To be called on the shard's thread.
    pub fn add_frames(&self, n: u64) {
        add(&self.frames, n);
    }

    /// Counts one connection closed over a frame above [`FRAME_BYTES_MAX`]. To be called on the
    /// shard's thread.
    pub fn add_oversized(&self) {
        add(&self.oversized, 1);
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

/// Runs the server `name` as the command line says: a task running `session` for each
/// connection, until SIGTERM or SIGINT.
pub fn serve<S, F>(name: &'static str, session: S) -> ExitCode
where
    S: Fn(TcpStream, ByteOrder, Arc<Counters>) -> F + Copy + Send + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{name}: {wrong}\n{}", options::usage(name));
            return ExitCode::from(2);
        }
    };
    match run(name, &options, session) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run<S, F>(name: &str, options: &Options, session: S) -> io::Result<()>
where
    S: Fn(TcpStream, ByteOrder, Arc<Counters>) -> F + Copy + Send + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let control = runtime()?;
    // Before anything says that we are ready: from here on SIGTERM ends us in order.
    let (mut terminate, mut interrupt) = {
        let _inside = control.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    let (stop, stopped) = watch::channel(());
    let mut shards = Vec::new();
    let mut address = options.listen;
    for index in 0..options.shards {
        let runtime = runtime()?;
        let listener = {
            let _inside = runtime.enter();
            listen(address, options.shards > 1)?
        };
        address = listener.local_addr()?; // port 0 is only chosen once
        let counters = Arc::new(Counters::default());
        let (order, mut stopped, mine) = (options.order, stopped.clone(), Arc::clone(&counters));
        let cpu = options.pin.get(index % options.pin.len().max(1)).copied();
        let body = move || -> io::Result<()> {
            if let Some(cpu) = cpu {
                pin_to(cpu)?;
            }
            let accepting = accept(listener, order, mine, session);
            runtime.block_on(select(pin!(stopped.changed()), pin!(accepting)));
            Ok(()) // dropping the runtime drops the sessions, and that closes them
        };
        shards.push((thread::Builder::new().spawn(body)?, counters));
    }
    println!("listening on {address}");
    io::stdout().flush()?;
    control.block_on(select(pin!(terminate.recv()), pin!(interrupt.recv())));
    drop(stop);
    summarise(name, shards)
}

fn summarise(
    name: &str,
    shards: Vec<(thread::JoinHandle<io::Result<()>>, Arc<Counters>)>,
) -> io::Result<()> {
    let (mut accepted, mut frames, mut oversized) = (0, 0, 0);
    for (thread, counters) in shards {
        thread
            .join()
            .map_err(|_| io::Error::other("a shard panicked"))??;
        accepted += counters.accepted.load(Ordering::Relaxed);
        frames += counters.frames.load(Ordering::Relaxed);
        oversized += counters.oversized.load(Ordering::Relaxed);
    }
    eprintln!("{name}: accepted={accepted} frames={frames} oversized={oversized}");
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// A listener of its own for each shard, the accepts spread by the kernel. One shard alone leaves
/// SO_REUSEPORT out: a second server on the port must fail, not take half of the connections.
fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if shared {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| io::Error::other(format!("--pin {cpu}: {error}")))
}

async fn accept<S, F>(listener: TcpListener, order: ByteOrder, counters: Arc<Counters>, session: S)
where
    S: Fn(TcpStream, ByteOrder, Arc<Counters>) -> F,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        add(&counters.accepted, 1);
        // A peer that is already gone shows itself at the first read.
        let _ = stream.set_nodelay(true);
        tokio::spawn(session(stream, order, Arc::clone(&counters)));
    }
}
