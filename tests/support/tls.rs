//! Certificates made on the spot, and plain blocking TLS clients on rustls.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary uses a part of it"
)]

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proscenium::{Identity, TlsClient, TlsClientBuilder, TlsServer, TlsServerBuilder};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::support::connect;

/// The name that certificates of these tests bear, unless another one is said.
pub const NAME: &str = "stage.test";

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Pems {
    pub certificate: String,
    pub key: String,
}

impl Pems {
    pub fn identity(&self) -> Identity {
        Identity::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }

    pub fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .unwrap()
            .to_vec()
    }
}

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Two authorities of one name would be mistaken for each other.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("authority {number}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name`, for a server or a client.
    pub fn issue(&self, name: &str) -> Pems {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pems {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A server with a certificate for [`NAME`].
    pub fn server(&self) -> TlsServerBuilder {
        TlsServer::builder(self.issue(NAME).identity())
    }

    /// A client that trusts this authority and expects [`NAME`].
    pub fn client(&self) -> TlsClientBuilder {
        let builder = TlsClient::builder(NAME);
        builder.roots_pem(self.pem().as_bytes()).unwrap()
    }

    /// The same for [`Foreign`].
    pub fn foreign(&self) -> ClientConfig {
        self.foreign_with(None, rustls::DEFAULT_VERSIONS)
    }

    pub fn foreign_with(
        &self,
        identity: Option<&Pems>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(pems) => {
                let chain = vec![CertificateDer::from(pems.der())];
                let key = PrivateKeyDer::from_pem_slice(pems.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }
}

/// A blocking client that has nothing of ours in it.
pub type Foreign = StreamOwned<ClientConnection, TcpStream>;

/// Connects; the handshake is made by the first read or write.
#[track_caller]
pub fn foreign(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Foreign {
    foreign_on(connect(address), config, name)
}

#[track_caller]
pub fn foreign_on(stream: TcpStream, config: &Arc<ClientConfig>, name: &str) -> Foreign {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    StreamOwned::new(connection, stream)
}
