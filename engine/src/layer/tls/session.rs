//! [`TlsSession`] on rustls, through its unbuffered interface.
//!
//! | phase | who moves bytes | next |
//! |---|---|---|
//! | `Handshake` | rustls, one record of the peer after the other | both sides are done |
//! | `Records`: TLS 1.3 | `records.rs`; rustls keeps the key schedule | – |
//! | `Tls12` | rustls, with an allocation for each record | – |
//! | `Failed` | nobody | – |

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, CommonState, Error, ProtocolVersion, ServerConfig};

use super::info::{HandshakeKind, TlsInfo, TlsVersion};
use super::record::unexpected;
use super::records::{Records, Schedule};
use super::server::take_asked;
use super::verify::PinMismatch;
use super::{Event, HEADER, Read, TlsSession, missing};
use crate::layer::error::TlsError;

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

enum Phase {
    Handshake(Side),
    Records(Box<Records>),
    Tls12(Side),
    Failed,
}

/// See the module's page.
pub(super) struct RustlsSession {
    phase: Phase,
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

    /// Takes whole records from the front, one after the other, until the handshake is over or
    /// there is something to tell. `known` bytes of them rustls has seen before.
    fn read(&mut self, records: &mut [u8], reply: &mut Vec<u8>, known: &mut usize) -> Read {
        // Of `records`, `used` bytes are done with, and `offered` are known to rustls: a handshake
        // message may be in several records, which it wants to see again, together.
        let (mut used, mut offered) = (0, *known);
        let was_up = !self.common().is_handshaking();
        let event = loop {
            let (discard, step) = self.step(&mut records[used..offered], reply);
            let start = used;
            used += discard;
            let common = self.common();
            let is_over = !was_up && !common.is_handshaking() && !common.wants_write();
            match step {
                // What comes behind the handshake is for the next phase.
                Ok(Step::Again | Step::Blocked) if is_over => break Ok(Event::Nothing),
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

    /// Bytes moved by our own record layer from now on.
    fn into_records(self) -> Result<Records, TlsError> {
        let (secrets, schedule) = match self {
            Self::Server(server) => server
                .dangerous_into_kernel_connection()
                .map(|(secrets, schedule)| (secrets, Schedule::Server(schedule))),
            Self::Client(client) => client
                .dangerous_into_kernel_connection()
                .map(|(secrets, schedule)| (secrets, Schedule::Client(schedule))),
        }
        .map_err(|error| error_of(&error))?;
        Records::new(secrets, schedule)
    }

    fn write(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        with!(self, connection => {
            let state = connection.process_tls_records(&mut []).state;
            match state.map_err(|error| error_of(&error))? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    traffic.encrypt(plain, out).map_err(|error| TlsError::Other {
                        found: error.to_string(),
                    })
                }
                _ => Ok(0),
            }
        })
    }

    fn close(&mut self, reply: &mut Vec<u8>) {
        let mut out = [0; 256];
        let written = with!(self, connection => {
            match connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    traffic.queue_close_notify(&mut out).unwrap_or(0)
                }
                _ => 0,
            }
        });
        reply.extend_from_slice(&out[..written]);
    }
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
            phase: Phase::Handshake(Side::Server(Box::new(connection))),
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
            phase: Phase::Handshake(Side::Client(Box::new(connection))),
            info: TlsInfo::new(asked),
            known: 0,
        })
    }

    /// The handshake may be over: notes what came of it, and goes to the next phase.
    fn finish_handshake(&mut self) -> Result<(), TlsError> {
        let Phase::Handshake(side) = std::mem::replace(&mut self.phase, Phase::Failed) else {
            unreachable!("only called in that phase");
        };
        if side.common().is_handshaking() {
            self.phase = Phase::Handshake(side);
            return Ok(());
        }
        self.info.complete(side.common());
        self.phase = match self.info.version {
            TlsVersion::Tls13 => Phase::Records(Box::new(side.into_records()?)),
            TlsVersion::Tls12 => Phase::Tls12(side),
        };
        Ok(())
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
        matches!(self.phase, Phase::Records(_) | Phase::Tls12(_))
    }

    fn read(&mut self, records: &mut [u8], reply: &mut Vec<u8>) -> Read {
        let side = match &mut self.phase {
            Phase::Records(session) => return session.read(records, reply),
            Phase::Tls12(side) => {
                let read = side.read(records, reply, &mut self.known);
                if read.event.is_err() {
                    self.phase = Phase::Failed;
                }
                return read;
            }
            Phase::Failed => {
                let event = Err(unexpected("more after an error"));
                return Read { used: 0, event };
            }
            Phase::Handshake(side) => side,
        };
        let mut read = side.read(records, reply, &mut self.known);
        if let Side::Server(_) = side
            && let Some(name) = take_asked()
        {
            self.info.server_name = Some(name);
        }
        match &read.event {
            Ok(_) => {
                if let Err(error) = self.finish_handshake() {
                    read.event = Err(error);
                }
            }
            Err(_) => self.phase = Phase::Failed,
        }
        read
    }

    fn write(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        match &mut self.phase {
            Phase::Records(session) => session.write(plain, out),
            Phase::Tls12(side) => side.write(plain, out),
            Phase::Handshake(_) | Phase::Failed => Ok(0),
        }
    }

    fn close(&mut self, reply: &mut Vec<u8>) {
        match &mut self.phase {
            Phase::Records(session) => session.close(reply),
            Phase::Tls12(side) => side.close(reply),
            Phase::Handshake(_) | Phase::Failed => {}
        }
    }

    fn info(&self) -> &TlsInfo {
        &self.info
    }
}

#[cfg(test)]
impl RustlsSession {
    /// Its record layer, once it has one.
    pub(super) fn records(&mut self) -> &mut Records {
        match &mut self.phase {
            Phase::Records(records) => records,
            _ => panic!("TLS 1.3 after its handshake"),
        }
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
