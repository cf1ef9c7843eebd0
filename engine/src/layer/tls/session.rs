//! [`TlsSession`] on rustls, through its unbuffered interface.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, CommonState, Error, ProtocolVersion, ServerConfig};

use super::info::{HandshakeKind, TlsInfo, TlsVersion};
use super::server::take_asked;
use super::verify::PinMismatch;
use super::{Event, Read, TlsSession};
use crate::layer::error::TlsError;

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// See the module's page.
pub(super) struct RustlsSession {
    side: Side,
    is_up: bool,
    info: TlsInfo,
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

impl RustlsSession {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self {
            side: Side::Server(Box::new(connection)),
            is_up: false,
            info: TlsInfo::of_client(),
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
            info: TlsInfo::new(asked),
        })
    }

    fn step(&mut self, records: &mut [u8], reply: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
        with!(&mut self.side, connection => {
            let UnbufferedStatus { mut discard, state } = connection.process_tls_records(records);
            let step = state.map(|state| take_step(state, &mut discard, reply));
            (discard, step.and_then(|step| step))
        })
    }

    fn common(&self) -> &CommonState {
        with!(&self.side, connection => connection)
    }

    /// Notes the end of the handshake, and what came of it.
    fn look_up(&mut self) {
        let common = self.common();
        if self.is_up || common.is_handshaking() {
            return;
        }
        let version = match common.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        };
        let kind = match common.handshake_kind() {
            Some(rustls::HandshakeKind::Resumed) => HandshakeKind::Resumed,
            _ => HandshakeKind::Full,
        };
        let alpn = common.alpn_protocol().map(<[u8]>::to_vec);
        let certificates = common.peer_certificates().unwrap_or_default();
        let peer_certificates = certificates.iter().map(|c| c.to_vec()).collect();
        (self.info.version, self.info.kind) = (version, kind);
        (self.info.alpn, self.info.peer_certificates) = (alpn, peer_certificates);
        self.is_up = true;
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
        let mut used = 0;
        let event = loop {
            let (discard, step) = self.step(&mut records[used..], reply);
            let start = used;
            used += discard;
            if !self.is_up
                && let Side::Server(_) = self.side
                && let Some(name) = take_asked()
            {
                self.info.server_name = Some(name);
            }
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Blocked) => break Ok(Event::Nothing),
                Ok(Step::Closed) => break Ok(Event::Closed),
                Ok(Step::Plain(plain)) => {
                    let range = start..start + plain.len();
                    records[range.clone()].copy_from_slice(&plain);
                    break Ok(Event::Plain(range));
                }
                Err(error) => {
                    // The alert that goes with it.
                    while let (_, Ok(Step::Again)) = self.step(&mut [], reply) {}
                    break Err(error_of(&error));
                }
            }
        };
        self.look_up();
        Read { used, event }
    }

    fn write(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        with!(&mut self.side, connection => {
            let state = connection.process_tls_records(&mut []).state;
            match state.map_err(|error| error_of(&error))? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    traffic.encrypt(plain, out).map_err(|error| encrypt_error(&error))
                }
                _ => Ok(0),
            }
        })
    }

    fn close(&mut self, reply: &mut Vec<u8>) {
        let mut out = [0; 256];
        let written = with!(&mut self.side, connection => {
            match connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    traffic.queue_close_notify(&mut out).unwrap_or(0)
                }
                _ => 0,
            }
        });
        reply.extend_from_slice(&out[..written]);
    }

    fn info(&self) -> &TlsInfo {
        &self.info
    }
}

fn encrypt_error(error: &EncryptError) -> TlsError {
    let found = error.to_string();
    TlsError::Other { found }
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
