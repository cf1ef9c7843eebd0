//! The connecting end: RFC 6455 §4.1.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{
    HEADERS_MAX, HandshakeError, HandshakeLimits, Headers, VERSION, accept_key, is_field_value,
    is_token, taken,
};

/// Headers that the handshake writes itself.
const OWN: [&str; 9] = [
    "Host",
    "Upgrade",
    "Connection",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "Content-Length",
    "Transfer-Encoding",
];

/// What a client asks for.
///
/// ```
/// use proscenium_framing::websocket::handshake::{HandshakeLimits, Opening, accept_key};
///
/// let opening = Opening::new("example.com:7000", "/ws")?;
/// let key = Opening::key([7; 16]); // 16 bytes that nobody can guess, new ones each time
/// assert!(opening.request(&key).starts_with("GET /ws HTTP/1.1\r\nHost: example.com:7000\r\n"));
///
/// let answer = format!(
///     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
///      Sec-WebSocket-Accept: {}\r\n\r\nframes",
///     accept_key(&key)
/// );
/// let limits = HandshakeLimits::default();
/// let established = opening.response(answer.as_bytes(), &key, &limits)?.expect("all of it");
/// assert_eq!(&answer[established.taken..], "frames");
/// # Ok::<(), proscenium_framing::websocket::handshake::HandshakeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    host: String,
    target: String,
    subprotocols: Vec<String>,
    headers: Vec<(String, String)>,
}

/// The server agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// Bytes of the response; what is behind it belongs to the first frames.
    pub taken: usize,
    /// The subprotocol that the server chose.
    pub subprotocol: Option<String>,
}

impl Opening {
    /// Asks `host` (`example.com`, `[::1]:7000`) for `target`: a path that begins with `/`, and
    /// perhaps a query.
    ///
    /// # Errors
    /// [`HandshakeError::BadHeader`] for text that cannot stand in a request line or header,
    /// [`HandshakeError::Path`] for a target that is no path.
    pub fn new(host: impl Into<String>, target: impl Into<String>) -> Result<Self, HandshakeError> {
        let (host, target) = (host.into(), target.into());
        let is_plain = |text: &str| is_field_value(text) && !text.contains(' ');
        if host.is_empty() || !is_plain(&host) {
            return Err(HandshakeError::BadHeader("Host"));
        }
        // RFC 6455 §3: "fragment identifiers … MUST NOT be used".
        if !target.starts_with('/') || !is_plain(&target) || target.contains('#') {
            return Err(HandshakeError::Path);
        }
        Ok(Self {
            host,
            target,
            subprotocols: Vec::new(),
            headers: Vec::new(),
        })
    }

    /// What is asked for: the path, and perhaps a query.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Offers this subprotocol too, the one that is liked best first.
    ///
    /// # Errors
    /// [`HandshakeError::BadHeader`] if the name is no token (RFC 9110 §5.6.2).
    pub fn subprotocol(mut self, name: impl Into<String>) -> Result<Self, HandshakeError> {
        let name = name.into();
        if !is_token(&name) {
            return Err(HandshakeError::BadHeader("Sec-WebSocket-Protocol"));
        }
        self.subprotocols.push(name);
        Ok(self)
    }

    /// Sends this header too (`Authorization`, `Origin`).
    ///
    /// # Errors
    /// [`HandshakeError::BadHeader`] for a name that is no token or that the handshake writes
    /// itself, and for a value with line breaks or anything but visible ASCII and blanks.
    pub fn header(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, HandshakeError> {
        let (name, value) = (name.into(), value.into());
        let is_own = OWN.iter().any(|own| own.eq_ignore_ascii_case(&name));
        if is_own || !is_token(&name) || !is_field_value(&value) {
            return Err(HandshakeError::BadHeader("a header of the caller"));
        }
        self.headers.push((name, value));
        Ok(self)
    }

    /// The key of a request: the nonce of §4.1, 7 in base64. The 16 bytes have to be random.
    #[must_use]
    pub fn key(nonce: [u8; 16]) -> String {
        STANDARD.encode(nonce)
    }

    /// The request with this [`key`](Self::key).
    #[must_use]
    pub fn request(&self, key: &str) -> String {
        let Self { host, target, .. } = self;
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Version: {VERSION}\r\n"
        );
        if !self.subprotocols.is_empty() {
            let names = self.subprotocols.join(", ");
            let _ = write!(request, "Sec-WebSocket-Protocol: {names}\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request.push_str("\r\n");
        request
    }

    /// Looks at the front of `bytes` for the whole response to the request with `key`. `None`: it
    /// is not whole yet.
    ///
    /// # Errors
    /// [`HandshakeError`]: there is no WebSocket; the connection is to be closed.
    pub fn response(
        &self,
        bytes: &[u8],
        key: &str,
        limits: &HandshakeLimits,
    ) -> Result<Option<Established>, HandshakeError> {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let most = limits.headers_max.min(HEADERS_MAX);
        let mut parsed = httparse::Response::new(&mut lines[..most]);
        let status = parsed.parse(bytes);
        let Some(taken) = taken(status, bytes, limits)? else {
            return Ok(None);
        };
        match (parsed.version, parsed.code) {
            (Some(1), Some(101)) => {}
            (Some(_), Some(status)) if status != 101 => return Err(HandshakeError::Status(status)),
            _ => return Err(HandshakeError::HttpVersion),
        }
        let headers = Headers::of(parsed.headers);
        let subprotocol = self.check(&headers, key)?;
        Ok(Some(Established { taken, subprotocol }))
    }

    /// §4.1, "the client MUST validate the server's response", items 2 to 6.
    fn check(&self, headers: &Headers<'_>, key: &str) -> Result<Option<String>, HandshakeError> {
        let upgrade = headers.one("Upgrade")?;
        if !upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
            return Err(HandshakeError::BadHeader("Upgrade"));
        }
        if !headers.has_token("Connection", "Upgrade") {
            return Err(HandshakeError::BadHeader("Connection"));
        }
        if headers.one("Sec-WebSocket-Accept")? != Some(&accept_key(key)) {
            return Err(HandshakeError::AcceptKey);
        }
        if headers.list("Sec-WebSocket-Extensions").next().is_some() {
            return Err(HandshakeError::Extension);
        }
        let chosen = headers.one("Sec-WebSocket-Protocol")?;
        if chosen.is_some_and(|name| !self.subprotocols.iter().any(|own| own == name)) {
            return Err(HandshakeError::Subprotocol);
        }
        Ok(chosen.map(str::to_owned))
    }
}
