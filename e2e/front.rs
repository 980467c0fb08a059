//! What stands between a member and its hub in tests: a TLS front with whatever certificate it is told
//! to show, and a proxy that knows CONNECT only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use idlewild::sandbox::{ControlPlane, Pair};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A certificate authority of a test's own.
pub(crate) struct Issuer(CertifiedIssuer<'static, KeyPair>);

impl Issuer {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's certificate for `name`, valid in the years of `years`.
    pub(crate) fn server(&self, name: &str, years: (i32, i32)) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A TLS server that passes what it decrypts on to a hub.
pub(crate) struct Front {
    /// `https://127.0.0.1:port`.
    pub(crate) address: String,
    shown: watch::Sender<Arc<ServerConfig>>,
    heard: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Front {
    /// Starts one before `hub` that shows `pair`.
    pub(crate) async fn start(hub: &ControlPlane, pair: &Pair) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let (shown, heard) = (watch::Sender::new(server(pair)), Arc::new(AtomicU64::new(0)));
        let upstream = hub.endpoint.address.trim_start_matches("https://").to_owned();
        let connector = TlsConnector::from(client(&hub.endpoint.authority));
        let (seen, count) = (shown.subscribe(), heard.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let carried =
                    carry(stream, seen.clone(), connector.clone(), upstream.clone(), count.clone());
                tokio::spawn(carried);
            }
        });
        Self { address, shown, heard, task }
    }

    /// Shows `pair` from now on and cuts every connection.
    pub(crate) fn show(&self, pair: &Pair) {
        self.shown.send_replace(server(pair));
    }

    /// Connections on which a client said anything after the handshake.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    stream: TcpStream,
    mut shown: watch::Receiver<Arc<ServerConfig>>,
    connector: TlsConnector,
    upstream: String,
    heard: Arc<AtomicU64>,
) {
    let config = shown.borrow_and_update().clone();
    let passed = async {
        let mut near = TlsAcceptor::from(config).accept(stream).await?;
        let mut first = [0; 1];
        near.read_exact(&mut first).await?;
        heard.fetch_add(1, Ordering::Relaxed);
        let far = TcpStream::connect(&upstream).await?;
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let mut far = connector.connect(name, far).await?;
        far.write_all(&first).await?;
        copy_bidirectional(&mut near, &mut far).await
    };
    tokio::select! {
        _ = passed => {}
        _ = shown.changed() => {}
    }
}

fn server(pair: &Pair) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap())
}

fn client(authority: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// An HTTP proxy that tunnels and remembers where to.
pub(crate) struct Tunnels {
    /// `http://127.0.0.1:port`.
    pub(crate) address: String,
    targets: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Tunnels {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let targets = Arc::new(Mutex::new(Vec::new()));
        let seen = targets.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(tunnel(stream, seen.clone()));
            }
        });
        Self { address, targets, task }
    }

    /// Where tunnels led to, in order.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tunnel(mut near: TcpStream, targets: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8_192 {
        head.push(near.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
        return near.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n").await;
    };
    targets.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
    let mut far = TcpStream::connect(target).await?;
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}
