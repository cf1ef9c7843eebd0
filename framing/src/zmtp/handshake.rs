//! [`Handshake`]: from the first byte to the first message.

use super::{Command, FrameHeader, Greeting, Limits, MechanismName, Properties, ZmtpError};

/// A security mechanism: what is said between the greetings and the first message.
///
/// The seam for mechanisms beyond [`Null`]. The commands of one are exchanged through
/// [`begin`](Self::begin) and [`command`](Self::command) until the latter returns the peer's
/// properties.
pub trait Mechanism {
    /// Its name in the greeting.
    fn name(&self) -> MechanismName;

    /// The role in the greeting, for mechanisms with two.
    fn as_server(&self) -> bool {
        false
    }

    /// Both greetings are there: appends the commands to begin with, if any.
    fn begin(&mut self, own: &Properties, out: &mut Vec<u8>);

    /// A command of the peer: appends the answer, if any. With the peer's properties the handshake
    /// is over.
    ///
    /// # Errors
    /// A [`Refusal`]: the peer is told by ERROR and the connection ends.
    fn command(
        &mut self,
        command: &Command<'_>,
        own: &Properties,
        out: &mut Vec<u8>,
    ) -> Result<Option<Properties>, Refusal>;
}

/// Why a mechanism does not let a peer in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the peer and our log; at most 255 bytes are sent.
    pub reason: String,
}

impl Refusal {
    /// With that reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// The mechanism NULL: one READY each way, no security (RFC 23 §"The NULL Security Mechanism").
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl Mechanism for Null {
    fn name(&self) -> MechanismName {
        MechanismName::NULL
    }

    fn begin(&mut self, own: &Properties, out: &mut Vec<u8>) {
        let properties = own.as_bytes();
        Command::Ready { properties }.encode(out);
    }

    fn command(
        &mut self,
        command: &Command<'_>,
        _own: &Properties,
        _out: &mut Vec<u8>,
    ) -> Result<Option<Properties>, Refusal> {
        match command {
            Command::Ready { properties } => match Properties::decode(properties) {
                Ok(properties) => Ok(Some(properties)),
                Err(error) => Err(Refusal::new(error.to_string())),
            },
            other => Err(Refusal::new(format!("{} before READY", other.name()))),
        }
    }
}

/// What is known of the peer once the handshake is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// The minor version that both speak: 0 or 1. PING is of 3.1.
    pub minor: u8,
    /// What the peer told of itself.
    pub properties: Properties,
}

/// How far a [`Handshake`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes are missing.
    Incomplete,
    /// It is over; what was not consumed are messages, for a [`Decoder`](super::Decoder).
    Done(Established),
}

/// One end of a handshake. It reads no clock: how long it may take is the caller's business.
#[derive(Debug)]
pub struct Handshake<M = Null> {
    mechanism: M,
    own: Properties,
    limits: Limits,
    /// The minor version of both, once the peer's greeting is there.
    minor: Option<u8>,
}

impl<M: Mechanism> Handshake<M> {
    /// Begins: appends our greeting to `out`. `own` are the properties that the peer is told.
    pub fn new(mechanism: M, own: Properties, limits: Limits, out: &mut Vec<u8>) -> Self {
        let greeting = Greeting {
            minor: Greeting::MINOR,
            mechanism: mechanism.name(),
            as_server: mechanism.as_server(),
        };
        out.extend_from_slice(&greeting.encode());
        Self {
            mechanism,
            own,
            limits: limits.clamped(),
            minor: None,
        }
    }

    /// Reads what the peer sent, as far as it goes, appends the answers to `out`, and tells how
    /// many bytes were consumed; the others have to be given again, with more behind them.
    ///
    /// # Errors
    /// A [`ZmtpError`]. What has been appended to `out` is still to be sent before closing: the
    /// ERROR that tells the peer why.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Step), ZmtpError> {
        let mut at = 0;
        let minor = match self.minor {
            Some(minor) => minor,
            None => {
                let Some(greeting) = Greeting::decode(bytes)? else {
                    return Ok((0, Step::Incomplete));
                };
                at = Greeting::LEN;
                self.greeted(&greeting, out)?
            }
        };
        loop {
            let rest = &bytes[at..];
            let Some((header, taken)) = FrameHeader::decode(rest, &self.limits)? else {
                return Ok((at, Step::Incomplete));
            };
            if !header.command {
                return Err(ZmtpError::MessageInHandshake);
            }
            let Some(body) = rest.get(taken..taken + header.len) else {
                return Ok((at, Step::Incomplete));
            };
            at += taken + header.len;
            if let Some(properties) = self.command(&Command::decode(body)?, out)? {
                return Ok((at, Step::Done(Established { minor, properties })));
            }
        }
    }

    /// The peer's greeting is there.
    fn greeted(&mut self, greeting: &Greeting, out: &mut Vec<u8>) -> Result<u8, ZmtpError> {
        if greeting.mechanism != self.mechanism.name() {
            let name = greeting.mechanism.to_string();
            let reason = format!(
                "mechanism {name}, but it has to be {}",
                self.mechanism.name()
            );
            let reason = reason.as_bytes();
            Command::Error { reason }.encode(out);
            return Err(ZmtpError::Mechanism { name });
        }
        let minor = greeting.minor.min(Greeting::MINOR);
        self.minor = Some(minor);
        self.mechanism.begin(&self.own, out);
        Ok(minor)
    }

    fn command(
        &mut self,
        command: &Command<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Properties>, ZmtpError> {
        if let Command::Error { reason } = command {
            let reason = String::from_utf8_lossy(reason).into_owned();
            return Err(ZmtpError::RefusedByPeer { reason });
        }
        let answered = self.mechanism.command(command, &self.own, out);
        answered.map_err(|Refusal { reason }| {
            let told = reason.as_bytes();
            Command::Error { reason: told }.encode(out);
            ZmtpError::Refused { reason }
        })
    }
}
