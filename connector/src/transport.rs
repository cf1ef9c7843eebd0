//! What carries the packets: a socket, and what is on top of it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::config::Config;
use crate::io_thread::Turn;
use crate::random::Random;
#[cfg(feature = "ws")]
use crate::web_socket::WebSocket;
use crate::{ConnectError, DisconnectReason};

pub(crate) struct Transport {
    socket: TcpStream,
    connected: bool,
    /// Readiness as the system last told it; it tells each only once.
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Session>,
    #[cfg(feature = "ws")]
    web_socket: Option<Box<WebSocket>>,
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
        turn: &mut Turn<'_>,
    ) -> Result<Self, ConnectError> {
        let _ = config; // only the layers have options
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
            #[cfg(feature = "ws")]
            web_socket: match &config.opening {
                Some(opening) => {
                    let web_socket = WebSocket::new(opening, config, turn.random, turn.now);
                    Some(Box::new(web_socket))
                }
                None => None,
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
        #[cfg(feature = "ws")]
        if let Some(mut web_socket) = self.web_socket.take() {
            let established = self.upgrade(&mut web_socket, turn);
            let mut early = Vec::new();
            if let Ok(true) = established {
                let decoded = web_socket.decode(&mut early, turn.now);
                decoded.map_err(|error| ConnectError::WebSocket(error.to_string()))?;
            }
            self.web_socket = Some(web_socket);
            return Ok(match established? {
                true => Handshake::Done(early),
                false => Handshake::UnderWay,
            });
        }
        let _ = turn;
        Ok(Handshake::Done(Vec::new()))
    }

    /// Goes on with the handshake of the WebSocket; true once it is done.
    #[cfg(feature = "ws")]
    fn upgrade(
        &mut self,
        web_socket: &mut WebSocket,
        turn: &mut Turn<'_>,
    ) -> Result<bool, ConnectError> {
        let failed = |error| ConnectError::Io(Arc::new(error));
        while !web_socket.request().is_empty() {
            match self.write(web_socket.request()).map_err(failed)? {
                0 => return Ok(false),
                n => web_socket.request_sent(n),
            }
        }
        self.flush().map_err(failed)?;
        loop {
            if web_socket.established()? {
                return Ok(true);
            }
            let read = self.read_stream(turn, web_socket.raw());
            match read.map_err(|reason| ConnectError::WebSocket(reason.to_string()))? {
                Read::Bytes(_) => {}
                Read::Blocked => return Ok(false),
                Read::End => {
                    let closed = "the server closed the connection".to_owned();
                    return Err(ConnectError::WebSocket(closed));
                }
            }
        }
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

    /// Moves these packets, each with its length, to the end of `out`, as they are to be sent.
    pub(crate) fn encode(&mut self, packets: &mut Vec<u8>, out: &mut Vec<u8>, random: &mut Random) {
        #[cfg(feature = "ws")]
        if let Some(web_socket) = &mut self.web_socket {
            web_socket.encode(packets, out, random);
            return packets.clear();
        }
        let _ = random;
        match out.is_empty() {
            true => std::mem::swap(out, packets),
            false => out.append(packets),
        }
    }

    /// Appends what is to be said last.
    pub(crate) fn encode_close(&mut self, out: &mut Vec<u8>, random: &mut Random) {
        #[cfg(feature = "ws")]
        if let Some(web_socket) = &mut self.web_socket {
            return web_socket.encode_close(out, random);
        }
        let _ = (out, random);
    }

    /// Reads once, and appends what that has of the packets' stream to `into`.
    pub(crate) fn read(
        &mut self,
        turn: &mut Turn<'_>,
        into: &mut Vec<u8>,
    ) -> Result<Read, DisconnectReason> {
        #[cfg(feature = "ws")]
        if let Some(mut web_socket) = self.web_socket.take() {
            let mut read = Ok(Read::End);
            if !web_socket.ended {
                read = self.read_stream(turn, web_socket.raw());
                if let Ok(Read::Bytes(_)) = read
                    && let Err(error) = web_socket.decode(into, turn.now)
                {
                    read = Err(error.into());
                }
            }
            self.web_socket = Some(web_socket);
            return read;
        }
        self.read_stream(turn, into)
    }

    /// Reads once from what is below packets and WebSocket.
    fn read_stream(
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
