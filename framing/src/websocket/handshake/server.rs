//! The accepting end: RFC 6455 §4.2.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{
    HEADERS_MAX, HandshakeError, HandshakeLimits, Headers, VERSION, accept_key, is_token, taken,
};

/// A request as it came; see [`Request::parse`].
#[derive(Clone, Debug)]
pub struct Request<'a> {
    method: &'a str,
    target: &'a str,
    headers: Headers<'a>,
}

impl<'a> Request<'a> {
    /// Looks at the front of `bytes` for a whole request; says how many bytes it takes. What is
    /// behind it belongs to the first frames. `None`: it is not whole yet.
    ///
    /// # Errors
    /// [`HandshakeError`] if it is no HTTP/1.1 or over the limits.
    pub fn parse(
        bytes: &'a [u8],
        limits: &HandshakeLimits,
    ) -> Result<Option<(Self, usize)>, HandshakeError> {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let most = limits.headers_max.min(HEADERS_MAX);
        let mut parsed = httparse::Request::new(&mut lines[..most]);
        let status = parsed.parse(bytes);
        let Some(taken) = taken(status, bytes, limits)? else {
            return Ok(None);
        };
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(HandshakeError::NotHttp);
        };
        if minor != 1 {
            return Err(HandshakeError::HttpVersion); // §4.2.1: "HTTP/1.1 or higher"
        }
        let headers = Headers::of(parsed.headers);
        let request = Self {
            method,
            target,
            headers,
        };
        Ok(Some((request, taken)))
    }

    /// The path, without the query; percent-encoding is left as it is.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.split_target().0
    }

    /// What follows the `?`.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.split_target().1
    }

    /// §4.2.1, 1: the target is a path or "an absolute HTTP/HTTPS URI" with one.
    fn split_target(&self) -> (&'a str, Option<&'a str>) {
        let target = match self.target.split_once("://") {
            Some((scheme, rest)) if ["http", "https"].contains(&scheme) => {
                rest.find(['/', '?']).map_or("/", |at| &rest[at..])
            }
            _ => self.target,
        };
        match target.split_once('?') {
            Some(("", query)) => ("/", Some(query)),
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        }
    }

    /// The first value of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let value = self.headers.all(name).next()?;
        std::str::from_utf8(value).ok()
    }

    /// The page that a browser says the request comes from.
    #[must_use]
    pub fn origin(&self) -> Option<&'a str> {
        self.header("Origin")
    }

    /// The subprotocols that the client offers, the one it likes best first.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        self.headers.list("Sec-WebSocket-Protocol")
    }

    /// The extensions that the client offers, with their parameters (§9.1). None is accepted.
    pub fn extensions(&self) -> impl Iterator<Item = &'a str> {
        self.headers.list("Sec-WebSocket-Extensions")
    }

    /// What §4.2.1 wants of a request, apart from its path; gives the client's key.
    fn check(&self) -> Result<&'a str, HandshakeError> {
        // RFC 9112 §3.2: one Host, no more and no less.
        if self.headers.one("Host")?.is_none() {
            return Err(HandshakeError::Missing("Host"));
        }
        let upgrades = self.headers.has_token("Upgrade", "websocket");
        if !upgrades || !self.headers.has_token("Connection", "Upgrade") {
            return Err(HandshakeError::NoUpgrade); // items 3 and 4
        }
        if self.headers.all("Transfer-Encoding").next().is_some() {
            return Err(HandshakeError::Body);
        }
        if !matches!(self.headers.one("Content-Length")?, None | Some("0")) {
            return Err(HandshakeError::Body);
        }
        match self.headers.one("Sec-WebSocket-Version")? {
            Some(VERSION) => {} // item 6
            _ => return Err(HandshakeError::Version),
        }
        let Some(key) = self.headers.one("Sec-WebSocket-Key")? else {
            return Err(HandshakeError::Missing("Sec-WebSocket-Key"));
        };
        // Item 5: "when decoded, is 16 bytes in length".
        let mut decoded = [0; 18]; // room for what 24 characters could mean
        match STANDARD.decode_slice(key, &mut decoded) {
            Ok(16) => Ok(key),
            _ => Err(HandshakeError::BadHeader("Sec-WebSocket-Key")),
        }
    }
}

/// Which pages may connect from a browser (RFC 6455 §10.2). Other programs can say what they
/// like: this protects their users from foreign pages, it does not authenticate anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// All.
    #[default]
    Any,
    /// Those whose origin (`https://example.com`) is in the list, and who names none.
    Only(Vec<String>),
}

impl Origins {
    fn allows(&self, origin: Option<&str>) -> bool {
        match (self, origin) {
            (Self::Any, _) | (_, None) => true,
            (Self::Only(list), Some(origin)) => {
                list.iter().any(|one| one.eq_ignore_ascii_case(origin))
            }
        }
    }
}

/// Which requests a server accepts.
///
/// ```
/// use proscenium_framing::websocket::handshake::{HandshakeLimits, Policy, Request};
///
/// // The example of RFC 6455 §1.3.
/// let bytes = b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
///     Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
///     Sec-WebSocket-Version: 13\r\n\r\n";
/// let (request, taken) = Request::parse(bytes, &HandshakeLimits::default())?.expect("all of it");
/// assert_eq!(taken, bytes.len());
///
/// let answer = Policy::at("/chat").answer(&request);
/// assert!(answer.refused.is_none());
/// assert!(answer.bytes.ends_with("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"));
/// assert_eq!(Policy::at("/ws").answer(&request).refused.unwrap().status(), 404);
/// # Ok::<(), proscenium_framing::websocket::handshake::HandshakeError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    path: Option<String>,
    origins: Origins,
    subprotocols: Vec<String>,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response. After one that refuses, the connection is to be closed.
    pub bytes: String,
    /// The subprotocol that was chosen.
    pub subprotocol: Option<String>,
    /// Why there is no WebSocket; `None`: there is one.
    pub refused: Option<HandshakeError>,
}

impl Policy {
    /// Accepts requests for any path, from any page.
    #[must_use]
    pub fn any_path() -> Self {
        Self::default()
    }

    /// Accepts requests for this path only, from any page; with any query.
    #[must_use]
    pub fn at(path: impl Into<String>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::default()
        }
    }

    /// Accepts requests for this path only; for any, if there is none.
    #[must_use]
    pub fn with_path(self, path: Option<String>) -> Self {
        Self { path, ..self }
    }

    /// Which pages may connect.
    #[must_use]
    pub fn origins(self, origins: Origins) -> Self {
        Self { origins, ..self }
    }

    /// Speaks this subprotocol too. Of those that a client offers, the one that it likes best is
    /// chosen; if there is none, the connection has none. A name that is no token (RFC 9110
    /// §5.6.2) is never chosen.
    #[must_use]
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.push(name.into());
        self
    }

    /// The path that is served; `None` for any.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// What to answer to `request`.
    #[must_use]
    pub fn answer(&self, request: &Request<'_>) -> Answer {
        let key = match self.check(request) {
            Ok(key) => key,
            Err(error) => return Answer::refusal(error),
        };
        let speaks = |name: &&str| self.subprotocols.iter().any(|own| own == name);
        let chosen = request
            .subprotocols()
            .find(|name| is_token(name) && speaks(name));
        // §4.2.2, 5. No extension is accepted: there is no line for them.
        let mut bytes = String::from(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        );
        if let Some(name) = chosen {
            let _ = write!(bytes, "Sec-WebSocket-Protocol: {name}\r\n");
        }
        let _ = write!(bytes, "Sec-WebSocket-Accept: {}\r\n\r\n", accept_key(key));
        Answer {
            bytes,
            subprotocol: chosen.map(str::to_owned),
            refused: None,
        }
    }

    fn check<'a>(&self, request: &Request<'a>) -> Result<&'a str, HandshakeError> {
        if request.method != "GET" {
            return Err(HandshakeError::Method); // §4.2.1, 1
        }
        if self
            .path
            .as_deref()
            .is_some_and(|path| path != request.path())
        {
            return Err(HandshakeError::Path);
        }
        let key = request.check()?;
        if !self.origins.allows(request.headers.one("Origin")?) {
            return Err(HandshakeError::Origin);
        }
        Ok(key)
    }
}

impl Answer {
    /// The response that refuses a request because of `error`, in words for whoever looks.
    #[must_use]
    pub fn refusal(error: HandshakeError) -> Self {
        let status = error.status();
        let (phrase, lines) = match status {
            403 => ("Forbidden", ""),
            404 => ("Not Found", ""),
            405 => ("Method Not Allowed", "Allow: GET\r\n"),
            // RFC 9110 §15.5.22 wants Upgrade; RFC 6455 §4.4 the versions that are spoken.
            426 => (
                "Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            ),
            431 => ("Request Header Fields Too Large", ""),
            505 => ("HTTP Version Not Supported", ""),
            _ => ("Bad Request", ""),
        };
        // RFC 9110 §7.8: who sends Upgrade also names it in Connection.
        let connection = if status == 426 {
            "Upgrade, close"
        } else {
            "close"
        };
        let body = format!("{error}\n");
        let bytes = format!(
            "HTTP/1.1 {status} {phrase}\r\nConnection: {connection}\r\n{lines}\
             Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Self {
            bytes,
            subprotocol: None,
            refused: Some(error),
        }
    }
}
