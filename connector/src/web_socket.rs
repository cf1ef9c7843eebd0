//! WebSocket as a client (RFC 6455), on the codec of `proscenium_framing::websocket`.

use std::time::{Duration, Instant};

use proscenium_framing::LengthPrefix;
use proscenium_framing::websocket::handshake::{HandshakeLimits, Opening};
use proscenium_framing::websocket::{
    CONTROL_MAX, CloseCode, Decoded, Decoder, DecoderLimits, FrameHeader, HEADER_MAX, Opcode, Role,
    apply_mask, close_body,
};

use crate::config::Config;
use crate::random::Random;
use crate::{BuildError, ConnectError, ProtocolError};

/// Control frames are counted anew after so long: the limit is of their rate.
const CONTROL_PERIOD: Duration = Duration::from_secs(1);

/// What is asked of the server, checked when the connector is built.
pub(crate) fn opening(config: &Config) -> Result<Opening, BuildError> {
    let host = match (config.host.contains(':'), config.host.starts_with('[')) {
        (true, false) => format!("[{}]:{}", config.host, config.port), // an IPv6 address
        _ => format!("{}:{}", config.host, config.port),
    };
    Opening::new(host, &*config.path)
        .map_err(|_| BuildError::Option("host, path: cannot stand in a request"))
}

/// One connection's WebSocket.
pub(crate) struct WebSocket {
    opening: Opening,
    key: String,
    /// The request, up to `sent` sent.
    request: Vec<u8>,
    sent: usize,
    /// Received and not decoded: a response, or at most a control frame and what was read with
    /// its end.
    raw: Vec<u8>,
    decoder: Decoder,
    /// When control frames were last begun to be counted anew.
    counted_from: Instant,
    codec: LengthPrefix,
    /// What the last ping had in it: the one that is answered (§5.5.3).
    pong: Option<Vec<u8>>,
    pub(crate) ended: bool,
}

impl WebSocket {
    pub(crate) fn new(
        opening: &Opening,
        config: &Config,
        random: &mut Random,
        now: Instant,
    ) -> Self {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&random.next().to_ne_bytes());
        nonce[8..].copy_from_slice(&random.next().to_ne_bytes());
        let key = Opening::key(nonce);
        // Several packets may come in one message; the packets have their own limit.
        let limits = DecoderLimits::default().message_max(usize::MAX);
        Self {
            request: opening.request(&key).into_bytes(),
            opening: opening.clone(),
            key,
            sent: 0,
            raw: Vec::new(),
            decoder: Decoder::new(Role::Client, limits),
            counted_from: now,
            codec: config.codec,
            pong: None,
            ended: false,
        }
    }

    /// What is still to be sent of the request.
    pub(crate) fn request(&self) -> &[u8] {
        &self.request[self.sent..]
    }

    pub(crate) fn request_sent(&mut self, bytes: usize) {
        self.sent += bytes;
    }

    /// Where received bytes go.
    pub(crate) fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.raw
    }

    /// Looks for the response; true once the server has agreed.
    pub(crate) fn established(&mut self) -> Result<bool, ConnectError> {
        let limits = HandshakeLimits::default();
        let response = self.opening.response(&self.raw, &self.key, &limits);
        match response {
            Ok(None) => Ok(false),
            Ok(Some(established)) => {
                self.raw.drain(..established.taken);
                self.request = Vec::new();
                self.sent = 0;
                Ok(true)
            }
            Err(error) => Err(ConnectError::WebSocket(error.to_string())),
        }
    }

    /// Appends what the received frames have of the packets' stream to `into`.
    pub(crate) fn decode(&mut self, into: &mut Vec<u8>, now: Instant) -> Result<(), ProtocolError> {
        if now.saturating_duration_since(self.counted_from) >= CONTROL_PERIOD {
            self.counted_from = now;
            self.decoder.forget_control_frames();
        }
        let mut at = 0;
        while !self.ended {
            let rest = &mut self.raw[at..];
            let decoded = self.decoder.decode(rest);
            at += match decoded.map_err(|error| ProtocolError::WebSocket(error.to_string()))? {
                Decoded::Incomplete { .. } => break,
                Decoded::Data(data) if data.text => {
                    let text = "a text message, expected binary ones".to_owned();
                    return Err(ProtocolError::WebSocket(text));
                }
                Decoded::Data(data) => {
                    into.extend_from_slice(&rest[data.body.clone()]);
                    data.body.end
                }
                Decoded::Ping { body } => {
                    self.pong = Some(rest[body.clone()].to_vec());
                    body.end
                }
                Decoded::Pong { body } => body.end,
                Decoded::Close { reason, .. } => {
                    self.ended = true;
                    reason.end
                }
            };
        }
        self.raw.drain(..at);
        Ok(())
    }

    /// Appends an answer to the last ping, and one message for each of these packets.
    pub(crate) fn encode(&mut self, packets: &[u8], out: &mut Vec<u8>, random: &mut Random) {
        if let Some(body) = self.pong.take() {
            frame(Opcode::Pong, &body, out, random);
        }
        let mut at = 0;
        // All of them are whole and under the limit: we wrote them.
        for body in self.codec.frames(packets).flatten() {
            let end = at + LengthPrefix::HEADER + body.len();
            frame(Opcode::Binary, &packets[at..end], out, random);
            at = end;
        }
    }

    /// Appends the close frame, which has to be the last.
    pub(crate) fn encode_close(&mut self, out: &mut Vec<u8>, random: &mut Random) {
        let mut body = [0; CONTROL_MAX];
        let len = close_body(CloseCode::NORMAL, "", &mut body);
        frame(Opcode::Close, &body[..len], out, random);
    }
}

/// Appends one frame, masked with a key that nobody can guess (§5.3).
fn frame(opcode: Opcode, body: &[u8], out: &mut Vec<u8>, random: &mut Random) {
    let [a, b, c, d, ..] = random.next().to_ne_bytes();
    let key = [a, b, c, d];
    let mut header = [0; HEADER_MAX];
    let len = FrameHeader::new(opcode, body.len())
        .masked(key)
        .encode(&mut header);
    out.reserve(len + body.len());
    out.extend_from_slice(&header[..len]);
    let begin = out.len();
    out.extend_from_slice(body);
    apply_mask(&mut out[begin..], key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Connector;

    /// A server that pings now and then may do so for ever; one that only pings may not.
    #[test]
    fn control_frames_are_limited_by_their_rate() {
        let config = Connector::builder("localhost", 1).config;
        let begin = Instant::now();
        let opening = opening(&config).expect("a plain path");
        let mut web_socket = WebSocket::new(&opening, &config, &mut Random::default(), begin);
        let limit = DecoderLimits::default().control_frames_max;
        let mut take = |pings: usize, now| {
            web_socket.raw().extend([0x89, 0].repeat(pings));
            web_socket.decode(&mut Vec::new(), now)
        };
        for second in 0..3 {
            let pinged = take(limit as usize, begin + CONTROL_PERIOD * second);
            assert!(pinged.is_ok(), "second {second}: {pinged:?}");
        }
        assert!(take(1, begin + CONTROL_PERIOD * 2).is_err());
    }
}
