//! A TLS 1.3 connection after its handshake: data, alerts, key updates, tickets.
//!
//! | record | what is done |
//! |---|---|
//! | application data | its plaintext is the connection's |
//! | alert | close_notify: the end; `user_canceled`: nothing; any other: the peer refused us |
//! | KeyUpdate | the next key; and ours as well, if it asks for that |
//! | NewSessionTicket, of a server | kept by rustls |
//! | anything else | the connection ends: `unexpected_message` |

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};

use super::record::{
    ALERT, APPLICATION_DATA, HANDSHAKE, KEY_RECORDS, Opened, RecordKey, unexpected,
};
use super::session::error_of;
use super::{Event, Read, missing};
use crate::layer::error::TlsError;

/// Longest ticket that is taken; those of common servers have 2 KiB at most.
const TICKET_MAX: usize = 16 << 10;
/// Records in a row without any application data, before that counts as an attack.
const IDLE_RECORDS_MAX: u8 = 32;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// A KeyUpdate that asks for none back.
const KEY_UPDATE_MESSAGE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// What knows the key schedule, and keeps tickets.
pub(super) enum Schedule {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

impl Schedule {
    fn next_read(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Server(schedule) => schedule.update_rx_secret(),
            Self::Client(schedule) => schedule.update_rx_secret(),
        }
    }

    fn next_write(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Server(schedule) => schedule.update_tx_secret(),
            Self::Client(schedule) => schedule.update_tx_secret(),
        }
    }
}

/// See the module's page.
pub(super) struct Records {
    read: RecordKey,
    write: RecordKey,
    schedule: Schedule,
    /// The beginning of a handshake message whose rest is in the next records.
    fragment: Vec<u8>,
    idle_records: u8,
}

impl Records {
    pub(super) fn new(secrets: ExtractedSecrets, schedule: Schedule) -> Result<Self, TlsError> {
        Ok(Self {
            read: RecordKey::new(secrets.rx)?,
            write: RecordKey::new(secrets.tx)?,
            schedule,
            fragment: Vec::new(),
            idle_records: 0,
        })
    }

    /// As [`TlsSession::read`](super::TlsSession::read).
    pub(super) fn read(&mut self, records: &mut [u8], reply: &mut Vec<u8>) -> Read {
        let mut used = 0;
        let event = loop {
            let rest = &mut records[used..];
            if rest.is_empty() || missing(rest) > 0 {
                break Ok(Event::Nothing);
            }
            let (length, opened) = match self.read.open(rest) {
                Ok(opened) => opened,
                Err(error) => break Err(error),
            };
            let start = used;
            used += length;
            match self.take(&opened, &rest[opened.range.clone()], reply) {
                Ok(Some(Event::Plain(_))) => {
                    let Opened { range, .. } = opened;
                    break Ok(Event::Plain(start + range.start..start + range.end));
                }
                Ok(Some(event)) => break Ok(event),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = &event {
            self.refuse(error, reply);
        }
        Read { used, event }
    }

    /// What a record means; `None`: nothing outside of TLS.
    fn take(
        &mut self,
        opened: &Opened,
        plain: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Option<Event>, TlsError> {
        if opened.content == APPLICATION_DATA && !plain.is_empty() && self.fragment.is_empty() {
            self.idle_records = 0;
            return Ok(Some(Event::Plain(opened.range.clone())));
        }
        self.idle_records += 1;
        if self.idle_records > IDLE_RECORDS_MAX {
            return Err(unexpected("records without any data, one after the other"));
        }
        if !self.fragment.is_empty() && opened.content != HANDSHAKE {
            return Err(unexpected("another record within a handshake message"));
        }
        match opened.content {
            APPLICATION_DATA => Ok(None),
            ALERT => take_alert(plain),
            HANDSHAKE => self.take_handshake(plain, reply).map(|()| None),
            other => {
                let found = format!("a record of type {other} after the handshake");
                Err(TlsError::Misbehaved { found })
            }
        }
    }

    fn take_handshake(&mut self, plain: &[u8], reply: &mut Vec<u8>) -> Result<(), TlsError> {
        if plain.is_empty() {
            return Err(unexpected("an empty handshake record"));
        }
        let mut fragment = std::mem::take(&mut self.fragment);
        let mut bytes = if fragment.is_empty() {
            plain
        } else {
            fragment.extend_from_slice(plain);
            &fragment
        };
        while let &[kind, a, b, c, ref rest @ ..] = bytes {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            // Before anything is kept of it: its rest may never come.
            self.check_message(kind, length)?;
            let Some((message, rest)) = rest.split_at_checked(length) else {
                break;
            };
            self.take_message(kind, message, rest.is_empty(), reply)?;
            bytes = rest;
        }
        self.fragment = bytes.to_vec();
        Ok(())
    }

    /// Whether a message of this type and length may come at all.
    fn check_message(&self, kind: u8, length: usize) -> Result<(), TlsError> {
        match (kind, &self.schedule) {
            (KEY_UPDATE, _) if length == 1 => Ok(()),
            (NEW_SESSION_TICKET, Schedule::Client(_)) if length <= TICKET_MAX => Ok(()),
            _ => {
                let found = format!(
                    "a handshake message of type {kind} and {length} bytes after the handshake"
                );
                Err(TlsError::Misbehaved { found })
            }
        }
    }

    /// `is_last`: nothing follows it in its record.
    fn take_message(
        &mut self,
        kind: u8,
        message: &[u8],
        is_last: bool,
        reply: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        match (kind, &mut self.schedule) {
            (NEW_SESSION_TICKET, Schedule::Client(schedule)) => schedule
                .handle_new_session_ticket(message)
                .map_err(|error| error_of(&error)),
            (KEY_UPDATE, schedule) => {
                // What follows would be under the new key (RFC 8446 §5.1).
                let asked = match message {
                    [asked @ 0..=1] if is_last => *asked == 1,
                    _ => return Err(unexpected("a key update that is none")),
                };
                let next = schedule.next_read().map_err(|error| error_of(&error))?;
                self.read = RecordKey::new(next)?;
                if asked {
                    self.write
                        .seal_behind(HANDSHAKE, &KEY_UPDATE_MESSAGE, reply)?;
                    self.next_write_key()?;
                }
                Ok(())
            }
            _ => Err(unexpected("a handshake message that was not checked")),
        }
    }

    fn next_write_key(&mut self) -> Result<(), TlsError> {
        let next = self
            .schedule
            .next_write()
            .map_err(|error| error_of(&error))?;
        self.write = RecordKey::new(next)?;
        Ok(())
    }

    /// As [`TlsSession::write`](super::TlsSession::write).
    pub(super) fn write(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        let mut at = 0;
        if self.write.sequence() >= KEY_RECORDS {
            at = self.write.seal(HANDSHAKE, &KEY_UPDATE_MESSAGE, out)?;
            self.next_write_key()?;
        }
        Ok(at + self.write.seal(APPLICATION_DATA, plain, &mut out[at..])?)
    }

    /// Our end of the stream.
    pub(super) fn close(&mut self, reply: &mut Vec<u8>) {
        self.alert([1, CLOSE_NOTIFY], reply);
    }

    /// The alert that says what was wrong (RFC 8446 §6.2); none answers an alert.
    fn refuse(&mut self, error: &TlsError, reply: &mut Vec<u8>) {
        let code = match error {
            TlsError::PeerAlert { .. } => return,
            TlsError::BadRecordMac => 20,
            TlsError::OversizedRecord => 22,
            TlsError::BadMessage { .. } => 50,
            TlsError::Misbehaved { .. } => 10,
            _ => 80,
        };
        self.alert([2, code], reply);
    }

    fn alert(&mut self, alert: [u8; 2], reply: &mut Vec<u8>) {
        let before = reply.len();
        if self.write.seal_behind(ALERT, &alert, reply).is_err() {
            reply.truncate(before);
        }
    }
}

fn take_alert(plain: &[u8]) -> Result<Option<Event>, TlsError> {
    match *plain {
        [_, CLOSE_NOTIFY] => Ok(Some(Event::Closed)),
        [_, USER_CANCELED] => Ok(None),
        [_, code] => Err(error_of(&Error::AlertReceived(code.into()))),
        _ => Err(unexpected("an alert that is none")),
    }
}

#[cfg(test)]
mod tests;
