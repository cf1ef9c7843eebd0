//! What lies between the socket and the messages, as the command line names it.

use std::path::PathBuf;

use clap::Args;
use proscenium_engine::{
    Address, Connector, Identity, Listener, TlsClient, TlsServer, WebSocketClient, WebSocketServer,
};

/// What a server's certificate is made out to if none is given.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The layers of a listener.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServerLayers {
    /// Speak TLS 1.3
    #[arg(long)]
    pub(crate) tls: bool,
    /// Certificates in PEM, the server's own one first; default: one for localhost, made anew
    #[arg(long, value_name = "PEM", requires_all = ["key", "tls"])]
    pub(crate) cert: Option<PathBuf>,
    /// Private key in PEM
    #[arg(long, value_name = "PEM", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Speak WebSocket, at any path; with --tls that is wss
    #[arg(long)]
    pub(crate) ws: bool,
}

/// The layers of a client's connections.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ClientLayers {
    /// Speak TLS 1.3; every connection makes a full handshake
    #[arg(long)]
    pub(crate) tls: bool,
    /// Demand a certificate that these authorities (PEM) vouch for; else any is accepted
    #[arg(long, value_name = "PEM", requires = "tls")]
    pub(crate) ca: Option<PathBuf>,
    /// Name that the certificate has to bear; default: the host of --target
    #[arg(long, value_name = "NAME", requires = "tls")]
    pub(crate) server_name: Option<String>,
    /// Speak WebSocket; with --tls that is wss
    #[arg(long)]
    pub(crate) ws: bool,
    /// Path that a WebSocket asks for
    #[arg(long, value_name = "PATH", requires = "ws", default_value = "/ws")]
    pub(crate) ws_path: String,
}

/// A certificate made on the spot, and its key, both in PEM.
pub(crate) struct OwnCertificate {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl OwnCertificate {
    /// Signs a new P-256 key for the names of this machine's loopback.
    ///
    /// # Errors
    /// When the system's source of randomness fails.
    pub(crate) fn make() -> Result<Self, String> {
        let made = rcgen::generate_simple_self_signed(OWN_NAMES.map(str::to_owned))
            .map_err(|error| format!("cannot make a certificate: {error}"))?;
        Ok(Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        })
    }
}

impl ServerLayers {
    /// The listeners with these layers.
    ///
    /// # Errors
    /// For files that cannot be used: names them.
    pub(crate) fn on(&self, listeners: Vec<Listener>) -> Result<Vec<Listener>, String> {
        let tls = self.tls.then(|| self.tls_server()).transpose()?;
        let web_socket = WebSocketServer::new().any_path();
        let layered = listeners.into_iter().map(|mut listener| {
            if let Some(tls) = &tls {
                listener = listener.tls(tls);
            }
            if self.ws {
                listener = listener.web_socket(&web_socket);
            }
            listener
        });
        Ok(layered.collect())
    }

    fn tls_server(&self) -> Result<TlsServer, String> {
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Identity::from_pem_files(cert, key)
                .map_err(|error| format!("--cert, --key: {error}"))?,
            _ => {
                let own = OwnCertificate::make()?;
                Identity::from_pem(own.certificate.as_bytes(), own.key.as_bytes())
                    .map_err(|error| format!("the certificate made here: {error}"))?
            }
        };
        let built = TlsServer::builder(identity).build();
        built.map_err(|error| format!("--tls: {error}"))
    }
}

impl ClientLayers {
    /// The connector to `target` with these layers.
    ///
    /// # Errors
    /// For files and names that cannot be used: names them.
    pub(crate) fn on(&self, mut connector: Connector, target: &str) -> Result<Connector, String> {
        if self.tls {
            connector = connector.tls(&self.tls_client(target)?);
        }
        if self.ws {
            let host = if is_path(target) {
                OWN_NAMES[0]
            } else {
                target
            };
            let web_socket = WebSocketClient::new(host, self.ws_path.as_str())
                .map_err(|error| format!("--ws, --ws-path: {error}"))?;
            connector = connector.web_socket(&web_socket);
        }
        Ok(connector)
    }

    fn tls_client(&self, target: &str) -> Result<TlsClient, String> {
        let name = self
            .server_name
            .clone()
            .unwrap_or_else(|| host_of(target).to_owned());
        // What a handshake costs is to be seen, so no connection has a ticket of one before it.
        let client = TlsClient::builder(name).resumption(false);
        let client = match &self.ca {
            Some(file) => client
                .roots_file(file)
                .map_err(|error| format!("--ca: {error}"))?,
            None => client.dangerous_accept_any_certificate(),
        };
        client.build().map_err(|error| format!("--tls: {error}"))
    }

    /// What a person has to know about the trust in the server, if anything.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        let blind = self.tls && self.ca.is_none();
        blind.then_some("the server's certificate is not verified; --ca PEM demands one")
    }

    /// The name of the transport in results.
    pub(crate) fn transport(&self, target: &Address) -> &'static str {
        match (target, self.tls, self.ws) {
            (_, true, true) => "wss",
            (_, true, false) => "tls",
            (_, false, true) => "ws",
            (Address::Tcp(_), false, false) => "tcp",
            (_, false, false) => "unix",
        }
    }
}

/// True for the address of a Unix socket.
fn is_path(target: &str) -> bool {
    target.starts_with("unix:") || target.starts_with('/')
}

/// The host in an address; behind a Unix socket it is this machine.
fn host_of(target: &str) -> &str {
    match target.rsplit_once(':') {
        Some((host, _)) if !is_path(target) => host.trim_start_matches('[').trim_end_matches(']'),
        _ => OWN_NAMES[0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_have_their_names() {
        let (tcp, unix) = ("127.0.0.1:1", "unix:/s");
        for (target, tls, ws, expected) in [
            (tcp, false, false, "tcp"),
            (unix, false, false, "unix"),
            (tcp, true, false, "tls"),
            (tcp, false, true, "ws"),
            (unix, true, true, "wss"),
        ] {
            let target = Address::parse(target).unwrap();
            let layers = ClientLayers {
                tls,
                ws,
                ..ClientLayers::default()
            };
            assert_eq!(layers.transport(&target), expected);
            assert_eq!(layers.warning().is_some(), tls);
        }
    }

    #[test]
    fn the_host_is_what_stands_before_the_port() {
        for (target, host) in [
            ("example.test:7000", "example.test"),
            ("[::1]:7000", "::1"),
            ("127.0.0.1:7000", "127.0.0.1"),
            ("unix:/run/echo.sock", "localhost"),
            ("/run/echo.sock", "localhost"),
        ] {
            assert_eq!(host_of(target), host);
        }
    }

    #[test]
    fn a_certificate_is_made_that_a_client_can_trust() {
        let own = OwnCertificate::make().unwrap();
        let client = TlsClient::builder("localhost").roots_pem(own.certificate.as_bytes());
        assert!(client.unwrap().build().is_ok());
        assert!(own.key.contains("PRIVATE KEY"));
        let layers = ServerLayers {
            tls: true,
            ..ServerLayers::default()
        };
        assert!(layers.on(vec![Listener::unix("/nowhere")]).is_ok());
    }

    #[test]
    fn files_that_are_missing_are_named() {
        let missing = Some(PathBuf::from("no-such-file.pem"));
        let server = ServerLayers {
            tls: true,
            cert: missing.clone(),
            key: missing.clone(),
            ws: false,
        };
        let error = server.on(Vec::new()).unwrap_err();
        assert!(error.contains("no-such-file.pem"), "{error}");
        let client = ClientLayers {
            tls: true,
            ca: missing,
            ..ClientLayers::default()
        };
        let connector = Connector::parse("127.0.0.1:1").unwrap();
        let error = client.on(connector, "127.0.0.1:1").unwrap_err();
        assert!(error.contains("no-such-file.pem"), "{error}");
    }
}
