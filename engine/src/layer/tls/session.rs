//! [`TlsSession`] on rustls, through its unbuffered interface: records and plaintext are in the
//! caller's buffers. rustls itself takes a vector for each record; see
//! `docs/decisions/0019-records.md`.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, CommonState, Error, ProtocolVersion, ServerConfig};

use super::info::{HandshakeKind, TlsInfo, TlsVersion};
use super::server::take_asked;
use super::verify::PinMismatch;
use super::{Event, HEADER, RECORD_OVERHEAD, Read, TlsSession, missing};
use crate::layer::error::TlsError;

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// See the module's page.
pub(super) struct RustlsSession {
    side: Side,
    is_up: bool,
    has_failed: bool,
    info: TlsInfo,
    /// Bytes that `read` left and rustls has seen: records of an incomplete handshake message.
    known: usize,
}

/// What one look of rustls at the records came to.
enum Step {
    Again,
    Blocked,
    Plain(Vec<u8>),
    Closed,
}

/// Both sides have the same interface, but no type in common that has it.
macro_rules! with {
    ($side:expr, $connection:ident => $then:expr) => {
        match $side {
            Side::Server($connection) => $then,
            Side::Client($connection) => $then,
        }
    };
}

impl Side {
    fn step(&mut self, records: &mut [u8], reply: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
        with!(self, connection => {
            let UnbufferedStatus { mut discard, state } = connection.process_tls_records(records);
            let step = state.and_then(|state| take_step(state, &mut discard, reply));
            (discard, step)
        })
    }

    fn common(&self) -> &CommonState {
        with!(self, connection => connection)
    }

    /// Takes whole records from the front, one after the other, until there is something to tell.
    /// `known` bytes of them rustls has seen before.
    fn read(&mut self, records: &mut [u8], reply: &mut Vec<u8>, known: &mut usize) -> Read {
        // Of `records`, `used` bytes are done with, and `offered` are known to rustls: a handshake
        // message may be in several records, which it wants to see again, together.
        let (mut used, mut offered) = (0, *known);
        let event = loop {
            let (discard, step) = self.step(&mut records[used..offered], reply);
            let start = used;
            used += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Closed) => break Ok(Event::Closed),
                Ok(Step::Plain(plain)) => {
                    let range = start..start + plain.len();
                    records[range.clone()].copy_from_slice(&plain);
                    break Ok(Event::Plain(range));
                }
                Ok(Step::Blocked) => match record_length(&records[offered..]) {
                    Some(length) => offered += length,
                    None => break Ok(Event::Nothing),
                },
                Err(error) => {
                    // The alert that goes with it. It is handed out before anything is looked at,
                    // and nothing may be looked at again.
                    while self.common().wants_write()
                        && let (_, Ok(Step::Again)) = self.step(&mut records[used..offered], reply)
                    {
                    }
                    break Err(error_of(&error));
                }
            }
        };
        *known = offered - used;
        if event.is_ok() && *known > 0 && !self.common().is_handshaking() {
            // rustls would want to see it with each further call.
            let event = Err(unexpected(
                "a handshake message in pieces after the handshake",
            ));
            return Read { used, event };
        }
        Read { used, event }
    }

    /// Writes to the front of `out` what has to go first (a key update), then `last`.
    fn write(&mut self, last: Last<'_>, out: &mut [u8]) -> Result<usize, TlsError> {
        let mut at = 0;
        loop {
            let is_written = with!(self, connection => {
                let state = connection.process_tls_records(&mut []).state;
                match state.map_err(|error| error_of(&error))? {
                    ConnectionState::EncodeTlsData(mut message) => {
                        at += message.encode(&mut out[at..]).map_err(own_fault)?;
                        false
                    }
                    ConnectionState::TransmitTlsData(transmit) => {
                        transmit.done();
                        false
                    }
                    ConnectionState::WriteTraffic(mut traffic) => {
                        at += match last {
                            Last::Plain(plain) => traffic.encrypt(plain, &mut out[at..]),
                            Last::End => traffic.queue_close_notify(&mut out[at..]),
                        }
                        .map_err(own_fault)?;
                        true
                    }
                    // Told once, and only after all that was to be read.
                    ConnectionState::PeerClosed => false,
                    _ => return Err(own_fault("the session is in no state to write")),
                }
            });
            if is_written {
                return Ok(at);
            }
        }
    }
}

/// What is written last: some data, or the end.
#[derive(Clone, Copy)]
enum Last<'a> {
    Plain(&'a [u8]),
    End,
}

fn own_fault(error: impl std::fmt::Display) -> TlsError {
    TlsError::Other {
        found: error.to_string(),
    }
}

fn unexpected(what: &str) -> TlsError {
    let found = what.to_owned();
    TlsError::Misbehaved { found }
}

/// Length of the whole record at the front of `bytes`. What cannot be one is as long as there is,
/// so that rustls sees it.
fn record_length(bytes: &[u8]) -> Option<usize> {
    if bytes.is_empty() || missing(bytes) > 0 {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    Some((HEADER + length).min(bytes.len()))
}

impl RustlsSession {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self {
            side: Side::Server(Box::new(connection)),
            is_up: false,
            has_failed: false,
            info: TlsInfo::new(None),
            known: 0,
        })
    }

    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let asked = match &name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        };
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self {
            side: Side::Client(Box::new(connection)),
            is_up: false,
            has_failed: false,
            info: TlsInfo::new(asked),
            known: 0,
        })
    }
}

impl TlsInfo {
    fn complete(&mut self, common: &CommonState) {
        self.version = match common.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        };
        self.kind = match common.handshake_kind() {
            Some(rustls::HandshakeKind::Resumed) => HandshakeKind::Resumed,
            _ => HandshakeKind::Full,
        };
        self.alpn = common.alpn_protocol().map(<[u8]>::to_vec);
        let certificates = common.peer_certificates().unwrap_or_default();
        self.peer_certificates = certificates.iter().map(|c| c.to_vec()).collect();
    }
}

fn take_step<Data>(
    state: ConnectionState<'_, '_, Data>,
    discard: &mut usize,
    reply: &mut Vec<u8>,
) -> Result<Step, Error> {
    Ok(match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            let mut plain = Vec::new();
            while let Some(record) = traffic.next_record() {
                let record = record?;
                *discard += record.discard;
                plain.extend_from_slice(record.payload);
            }
            Step::Plain(plain)
        }
        ConnectionState::EncodeTlsData(mut message) => {
            if let Err(EncodeError::InsufficientSize(size)) = message.encode(&mut []) {
                let at = reply.len();
                reply.resize(at + size.required_size, 0);
                let written = message.encode(&mut reply[at..]).unwrap_or(0);
                reply.truncate(at + written);
            }
            Step::Again
        }
        ConnectionState::TransmitTlsData(transmit) => {
            transmit.done();
            Step::Again
        }
        ConnectionState::PeerClosed => Step::Closed,
        _ => Step::Blocked,
    })
}

impl TlsSession for RustlsSession {
    fn is_up(&self) -> bool {
        self.is_up
    }

    fn read(&mut self, records: &mut [u8], reply: &mut Vec<u8>) -> Read {
        if self.has_failed {
            let event = Err(unexpected("more after an error"));
            return Read { used: 0, event };
        }
        let read = self.side.read(records, reply, &mut self.known);
        self.has_failed = read.event.is_err();
        if !self.is_up {
            if let Side::Server(_) = self.side
                && let Some(name) = take_asked()
            {
                self.info.server_name = Some(name);
            }
            let common = self.side.common();
            if !common.is_handshaking() {
                self.info.complete(common);
                self.is_up = true;
            }
        }
        read
    }

    fn write(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        if !self.is_up || self.has_failed {
            return Ok(0);
        }
        self.side.write(Last::Plain(plain), out)
    }

    fn close(&mut self, reply: &mut Vec<u8>) {
        if self.is_up && !self.has_failed {
            // An alert, and perhaps a key update before it.
            let mut out = [0; 2 * RECORD_OVERHEAD];
            let written = self.side.write(Last::End, &mut out).unwrap_or(0);
            reply.extend_from_slice(&out[..written]);
        }
    }

    fn info(&self) -> &TlsInfo {
        &self.info
    }
}

/// An error of rustls in our words.
pub(super) fn error_of(error: &Error) -> TlsError {
    let found = error.to_string();
    match error {
        Error::AlertReceived(alert) => TlsError::PeerAlert {
            code: (*alert).into(),
            name: format!("{alert:?}"),
        },
        Error::PeerSentOversizedRecord => TlsError::OversizedRecord,
        Error::InvalidMessage(rustls::InvalidMessage::MessageTooLarge) => TlsError::OversizedRecord,
        Error::InvalidMessage(_) => TlsError::BadMessage { found },
        Error::DecryptError => TlsError::BadRecordMac,
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => TlsError::Misbehaved { found },
        Error::PeerIncompatible(_) => TlsError::Incompatible { found },
        Error::NoApplicationProtocol => TlsError::NoApplicationProtocol,
        Error::NoCertificatesPresented => TlsError::NoCertificate,
        Error::InvalidCertificate(CertificateError::Other(other))
            if other.0.is::<PinMismatch>() =>
        {
            TlsError::PinMismatch
        }
        Error::InvalidCertificate(_) => TlsError::BadCertificate { found },
        _ => TlsError::Other { found },
    }
}

#[cfg(test)]
mod tests;
