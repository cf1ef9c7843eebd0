//! The command line every peer takes.

use std::net::{SocketAddr, ToSocketAddrs};

/// Bytes of the length in front of a body.
pub const HEADER_BYTES: usize = 4;

/// The longest body accepted, in bytes; a longer one closes its connection.
pub const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;

const SHARDS_MAX: usize = 64;

/// The byte order of the length in front of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// `--framing be32`, the default.
    Big,
    /// `--framing le32`.
    Little,
}

impl ByteOrder {
    /// The length that a header announces.
    #[inline]
    pub fn decode(self, header: [u8; HEADER_BYTES]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(header),
            Self::Little => u32::from_le_bytes(header),
        }
    }

    /// The header that announces `length`.
    #[inline]
    pub fn encode(self, length: u32) -> [u8; HEADER_BYTES] {
        match self {
            Self::Big => length.to_be_bytes(),
            Self::Little => length.to_le_bytes(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) shards: usize,
    pub(crate) order: ByteOrder,
    /// CPUs for the shards in turn; empty: wherever the system puts them.
    pub(crate) pin: Vec<usize>,
}

pub(crate) fn usage(name: &str) -> String {
    format!("usage: {name} --listen ADDR [--shards N] [--framing be32|le32] [--pin CPU[,CPU]]")
}

impl Options {
    /// Reads `--flag value` and `--flag=value`. The error names the flag at fault.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut listen, mut shards, mut order, mut pin) = (None, 1, ByteOrder::Big, Vec::new());
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let (flag, inline) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            if !["--listen", "--shards", "--framing", "--pin"].contains(&flag) {
                return Err(format!("unknown flag {flag}"));
            }
            let value = inline.or_else(|| arguments.next()).unwrap_or_default();
            let wrong = || format!("{flag} does not take \"{value}\"");
            match flag {
                "--listen" => listen = Some(resolve(&value).ok_or_else(wrong)?),
                "--shards" => {
                    shards = value.parse().map_err(|_| wrong())?;
                    if !(1..=SHARDS_MAX).contains(&shards) {
                        return Err(wrong());
                    }
                }
                "--framing" => {
                    order = match value.as_str() {
                        "be32" => ByteOrder::Big,
                        "le32" => ByteOrder::Little,
                        _ => return Err(wrong()),
                    }
                }
                _ => {
                    let cpus: Result<_, _> = value.split(',').map(str::parse).collect();
                    pin = cpus.map_err(|_| wrong())?;
                    if pin
                        .iter()
                        .any(|&cpu| cpu >= rustix::thread::CpuSet::MAX_CPU)
                    {
                        return Err(wrong());
                    }
                }
            }
        }
        let listen = listen.ok_or("--listen is missing")?;
        Ok(Self {
            listen,
            shards,
            order,
            pin,
        })
    }
}

fn resolve(text: &str) -> Option<SocketAddr> {
    text.to_socket_addrs().ok()?.next()
}
