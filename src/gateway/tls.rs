//! Connections from the hub's API server, and from nobody else.
//!
//! Invariant: a connection comes out of here only after its client proved to hold a certificate of
//! the proxy's authority with an admitted name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::name::common_name;
use super::serving::Pair;
use super::trust::Trust;
use crate::cluster::Error;

/// A client that has not shown its certificate by then has none.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once: strangers may keep so many busy, and the API server waits its turn.
const HANDSHAKES: usize = 256;
/// A failed accept, as when files run out, is not tried again at once.
const PAUSE: Duration = Duration::from_millis(200);

/// How connections are secured now.
#[derive(Clone, Debug)]
pub(super) struct Secured {
    /// Whom to believe.
    pub(super) trust: Arc<Trust>,
    pair: Pair,
    config: Arc<ServerConfig>,
}

impl PartialEq for Secured {
    fn eq(&self, other: &Self) -> bool {
        self.trust == other.trust && self.pair == other.pair
    }
}

impl Secured {
    /// Serves with `pair` those whom `trust` admits.
    ///
    /// # Errors
    /// If a certificate or the key cannot be read.
    pub(super) fn new(trust: Trust, pair: &Pair) -> Result<Self, Error> {
        let unfit = |what: &str, error: &dyn std::fmt::Display| Error::Unfit {
            reason: format!("{what} cannot be used: {error}"),
        };
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(trust.authority.as_bytes()) {
            let root = root.map_err(|error| unfit("the proxy's authority", &error))?;
            roots.add(root).map_err(|error| unfit("the proxy's authority", &error))?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| unfit("the proxy's authority", &error))?;
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
        let chain = chain.map_err(|error| unfit("the serving certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
            .map_err(|error| unfit("the serving key", &error))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit("TLS", &error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(|error| unfit("the serving certificate", &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { trust: Arc::new(trust), pair: pair.clone(), config: Arc::new(config) })
    }
}

type Greeted = Option<(TlsStream<TcpStream>, SocketAddr)>;

/// A listener of admitted connections.
pub(super) struct Tls {
    listener: TcpListener,
    secured: watch::Receiver<Option<Secured>>,
    greeting: FuturesUnordered<BoxFuture<'static, Greeted>>,
}

impl Tls {
    /// Listens at `address`.
    ///
    /// # Errors
    /// If that is not possible.
    pub(super) async fn bind(
        address: SocketAddr,
        secured: watch::Receiver<Option<Secured>>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, secured, greeting: FuturesUnordered::new() })
    }
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let room = self.greeting.len() < HANDSHAKES;
            tokio::select! {
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((stream, from)) => {
                        // Before there is a certificate nobody can be greeted.
                        let secured = self.secured.borrow().clone();
                        if let Some(secured) = secured {
                            self.greeting.push(Box::pin(greet(secured, stream, from)));
                        }
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                Some(greeted) = self.greeting.next() => if let Some(admitted) = greeted {
                    return admitted;
                },
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The connection, if its client is admitted.
async fn greet(secured: Secured, stream: TcpStream, from: SocketAddr) -> Greeted {
    let shaken = TlsAcceptor::from(secured.config).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE, shaken).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%from, %error, "refused a connection");
            return None;
        }
        Err(_) => return None,
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first)?;
    let name = common_name(shown);
    if !secured.trust.admits(name.as_deref()) {
        debug!(%from, "refused a client certificate of another name");
        return None;
    }
    Some((stream, from))
}

#[cfg(test)]
pub(super) mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair,
    };
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio_rustls::TlsConnector;

    use super::*;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    /// Believes headers named as usual.
    pub(in crate::gateway) fn secured() -> Secured {
        let (server, proxies) = (authority(), authority());
        let pair = signed(&server, "gateway", ExtendedKeyUsagePurpose::ServerAuth);
        let trust = Trust {
            authority: proxies.pem(),
            user: vec!["x-remote-user".into()],
            groups: vec!["x-remote-group".into()],
            ..Trust::default()
        };
        Secured::new(trust, &pair).unwrap()
    }

    fn authority() -> Issuer {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn signed(issuer: &Issuer, name: &str, usage: ExtendedKeyUsagePurpose) -> Pair {
        let mut params = CertificateParams::new(vec!["gateway.test".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<u8> {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer)).await.ok()?;
        buffer.filled().first().copied()
    }

    async fn write(stream: &mut (impl AsyncWrite + Unpin), byte: u8) -> bool {
        poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, &[byte])).await.is_ok()
            && poll_fn(|cx| Pin::new(&mut *stream).poll_flush(cx)).await.is_ok()
    }

    /// Whether a client gets an answer from what comes out of the listener.
    async fn is_served(address: SocketAddr, server: &Issuer, client: Option<Pair>) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(server.pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![chain], key).unwrap()
            }
        };
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("gateway.test").unwrap();
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let Ok(mut stream) = connected else { return false };
        // With TLS 1.3 a refusal arrives after the client's own handshake.
        write(&mut stream, b'!').await && read(&mut stream).await == Some(b'!')
    }

    #[tokio::test]
    async fn only_the_proxy_gets_in() {
        let (server, proxies, clients) = (authority(), authority(), authority());
        let trust = Trust {
            authority: proxies.pem(),
            names: vec!["front-proxy-client".into()],
            ..Trust::default()
        };
        let (client, other) =
            (ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth);
        let pair = signed(&server, "gateway", other.clone());
        let secured = Secured::new(trust, &pair).unwrap();
        let (sender, receiver) = watch::channel(None);
        let mut tls = Tls::bind("127.0.0.1:0".parse().unwrap(), receiver).await.unwrap();
        let address = tls.local_addr().unwrap();
        let echo = async move {
            loop {
                let (mut stream, _) = tls.accept().await;
                let said = read(&mut stream).await.unwrap_or(b'?');
                write(&mut stream, said).await;
            }
        };
        let proxy = || signed(&proxies, "front-proxy-client", client.clone());
        let clients = async {
            assert!(!is_served(address, &server, Some(proxy())).await, "no certificate yet");
            sender.send_replace(Some(secured));
            assert!(is_served(address, &server, Some(proxy())).await);
            assert!(!is_served(address, &server, None).await, "no client certificate");
            for (why, pair) in [
                ("another authority", signed(&clients, "front-proxy-client", client.clone())),
                ("another name", signed(&proxies, "front-proxy-client2", client.clone())),
                ("a server's certificate", signed(&proxies, "front-proxy-client", other)),
            ] {
                assert!(!is_served(address, &server, Some(pair)).await, "{why}");
            }
            assert!(is_served(address, &server, Some(proxy())).await);
        };
        tokio::select! {
            () = clients => {}
            () = echo => {}
        }
    }
}
