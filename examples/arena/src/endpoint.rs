//! Where the server listens and clients connect to, as one text: `ws://127.0.0.1:7001`.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use proscenium::play::PlayListener;
use proscenium::{Identity, Listener, TlsServer, WebSocketServer};
use proscenium_connector::{Builder, Connector, Transport};

/// A transport and an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) scheme: Scheme,
    host: String,
    port: u16,
}

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Endpoint {
    /// A listener of a Play server; `certificate` are the files of the chain and the key.
    ///
    /// # Errors
    /// Addresses that do not resolve, certificates that are missing or cannot be used.
    pub(crate) fn listener(
        &self,
        certificate: Option<&(PathBuf, PathBuf)>,
    ) -> Result<PlayListener, Box<dyn Error>> {
        let mut listener = Listener::tcp((self.host.as_str(), self.port))?;
        if matches!(self.scheme, Scheme::Tls | Scheme::Wss) {
            let (chain, key) = certificate.ok_or("tls:// and wss:// need --cert and --key")?;
            let identity = Identity::from_pem_files(chain, key)?;
            listener = listener.tls(&TlsServer::builder(identity).build()?);
        }
        if matches!(self.scheme, Scheme::Ws | Scheme::Wss) {
            listener = listener.web_socket(&WebSocketServer::new()); // the path is /ws
        }
        Ok(PlayListener::new(listener))
    }

    /// The options of a connector.
    pub(crate) fn connector(&self) -> Builder {
        Connector::builder(&self.host, self.port).transport(match self.scheme {
            Scheme::Tcp => Transport::Tcp,
            Scheme::Tls => Transport::Tls,
            Scheme::Ws => Transport::Ws,
            Scheme::Wss => Transport::Wss,
        })
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, address) = text.split_once("://").unwrap_or(("tcp", text));
        let scheme = match scheme {
            "tcp" => Scheme::Tcp,
            "tls" => Scheme::Tls,
            "ws" => Scheme::Ws,
            "wss" => Scheme::Wss,
            _ => return Err("expected tcp://, tls://, ws:// or wss://"),
        };
        let (host, port) = address.rsplit_once(':').ok_or("expected HOST:PORT")?;
        let host = host.trim_start_matches('[').trim_end_matches(']'); // [::1]:7000
        let port = port.parse().map_err(|_| "expected a port, 0 to 65535")?;
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_scheme_and_an_address() {
        let parse = |text: &str| text.parse::<Endpoint>();
        let shown = |text: &str| parse(text).map(|endpoint| endpoint.to_string());
        assert_eq!(shown("wss://host:1"), Ok("wss://host:1".to_owned()));
        assert_eq!(shown("host:7000"), Ok("tcp://host:7000".to_owned()));
        assert_eq!(parse("tcp://[::1]:5").map(|one| one.host), Ok("::1".into()));
        for wrong in ["http://host:1", "tcp://host", "tcp://host:port", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
