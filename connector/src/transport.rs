//! What carries the packets: a socket, and what is on top of it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::config::Config;
use crate::io_thread::Turn;
use crate::random::Random;
use crate::{ConnectError, DisconnectReason};

pub(crate) struct Transport {
    socket: TcpStream,
    connected: bool,
    /// Readiness as the system last told it; it tells each only once.
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Session>,
}

/// How far connecting is.
pub(crate) enum Handshake {
    UnderWay,
    /// Done; with it came these bytes of the server's.
    Done(Vec<u8>),
}

/// What reading gave.
pub(crate) enum Read {
    /// So many bytes came in, of which some may have been no payload.
    Bytes(usize),
    /// Nothing is there.
    Blocked,
    /// The server has ended.
    End,
}

impl Transport {
    pub(crate) fn connect(
        address: SocketAddr,
        config: &Config,
        turn: &Turn<'_>,
    ) -> Result<Self, ConnectError> {
        let failed = |error| ConnectError::Io(Arc::new(error));
        let mut socket = TcpStream::connect(address).map_err(failed)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(turn.slot * 2);
        let registered = turn.registry.register(&mut socket, token, interest);
        registered.map_err(failed)?;
        Ok(Self {
            socket,
            connected: false,
            readable: false,
            writable: false,
            #[cfg(feature = "tls")]
            tls: match (config.transport.is_encrypted(), &config.tls) {
                (true, Some(client)) => Some(client.session()?),
                _ => None,
            },
        })
    }

    /// Has events come with another token.
    pub(crate) fn rename(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.reregister(&mut self.socket, Token(token), interest)
    }

    /// Goes on with connecting, as far as that is possible without waiting.
    pub(crate) fn handshake(&mut self, turn: &mut Turn<'_>) -> Result<Handshake, ConnectError> {
        if !self.connected && !self.finish_connecting()? {
            return Ok(Handshake::UnderWay);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls
            && !tls.handshake(&mut self.socket)?
        {
            return Ok(Handshake::UnderWay);
        }
        let _ = turn;
        Ok(Handshake::Done(Vec::new()))
    }

    fn finish_connecting(&mut self) -> Result<bool, ConnectError> {
        let failed = |error| ConnectError::Io(Arc::new(error));
        if !self.writable {
            return Ok(false);
        }
        if let Some(error) = self.socket.take_error().map_err(failed)? {
            return Err(failed(error));
        }
        match self.socket.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.writable = false;
                return Ok(false);
            }
            Err(error) => return Err(failed(error)),
        }
        // Packets are small and wanted at once.
        self.socket.set_nodelay(true).map_err(failed)?;
        self.connected = true;
        Ok(true)
    }

    /// Appends what is to be sent for these packets, each with its length, to `out`.
    pub(crate) fn encode(&mut self, packets: Vec<u8>, out: &mut Vec<u8>, random: &mut Random) {
        let _ = random;
        match out.is_empty() {
            true => *out = packets,
            false => out.extend_from_slice(&packets),
        }
    }

    /// Reads once, and appends what that has of the packets' stream to `into`.
    pub(crate) fn read(
        &mut self,
        turn: &mut Turn<'_>,
        into: &mut Vec<u8>,
    ) -> Result<Read, DisconnectReason> {
        if !self.readable {
            return Ok(Read::Blocked);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            let read = tls.read(&mut self.socket, into)?;
            self.readable = !matches!(read, Read::Blocked);
            return Ok(read);
        }
        loop {
            match self.socket.read(turn.scratch) {
                Ok(0) => return Ok(Read::End),
                Ok(n) => {
                    into.extend_from_slice(&turn.scratch[..n]);
                    return Ok(Read::Bytes(n));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(Read::Blocked);
                }
                Err(error) => return Err(DisconnectReason::Io(error)),
            }
        }
    }

    /// Takes bytes to send, as many as there is room for; 0 for none.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            return tls.write(&mut self.socket, bytes);
        }
        loop {
            match self.socket.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => return Ok(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends what the layers hold back; true if nothing is left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            return tls.flush(&mut self.socket);
        }
        Ok(true)
    }

    /// Has the layers say good-bye.
    pub(crate) fn begin_close(&mut self) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            tls.begin_close();
        }
    }

    /// Nothing more will be sent.
    pub(crate) fn shut_down(&mut self) {
        // It fails where the connection is gone, which reading finds too.
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}
