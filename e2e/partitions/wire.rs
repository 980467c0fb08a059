//! A TCP proxy between a process and an API server, with faults that are switched while it runs.
//!
//! Invariant: a fault counts for connections that are open already, too. Once there is none, new
//! connections work, whatever became of the old ones.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use idlewild::sandbox::{ControlPlane, Pair, free_port};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// Nothing is.
    Nothing,
    /// Connections are accepted, and then nothing passes. What was sent arrives when it is over, as
    /// packets do that are sent again: also what its sender has given up.
    Hole,
    /// The same, but what was open stays dead for ever: a firewall has forgotten it.
    Forgotten,
    /// Requests arrive, answers do not until it is over.
    Deaf,
    /// Answers arrive, requests do not until it is over.
    Mute,
    /// Both ways carry two kilobytes a second.
    Slow,
    /// Connections end in the midst of an answer.
    Cut,
    /// What is open is reset, and so is what is accepted.
    Reset,
    /// What is open is reset, and nobody listens.
    Refused,
    /// Every request is answered with 503: come back tomorrow.
    Busy,
}

/// All of them.
pub(super) const FAULTS: [Fault; 9] = [
    Fault::Hole,
    Fault::Forgotten,
    Fault::Deaf,
    Fault::Mute,
    Fault::Slow,
    Fault::Cut,
    Fault::Reset,
    Fault::Refused,
    Fault::Busy,
];

/// A slow link carries so many bytes at a time, and then rests.
const SIP: usize = 512;
const REST: Duration = Duration::from_millis(250);
/// A link that cuts lets so many bytes of answers pass first: the head of a response, not its body.
const CUT_AFTER: usize = 200;
/// A connection that is new passes at least so many, or it would always end in its handshake.
const HANDSHAKE: usize = 2_600;
/// The whole of what a busy server says.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 86400\r\n\
                      Content-Type: text/plain\r\nContent-Length: 8\r\nConnection: close\r\n\r\n\
                      tomorrow";

impl Fault {
    /// Whether a heartbeat can neither arrive nor be taken for one that did.
    pub(super) fn silences(self) -> bool {
        !matches!(self, Self::Nothing | Self::Deaf | Self::Slow | Self::Cut)
    }

    /// Whether connections that are open do not outlive it.
    fn ends_all(self) -> bool {
        matches!(self, Self::Forgotten | Self::Reset | Self::Refused | Self::Busy)
    }

    fn holds(self, way: Way) -> bool {
        matches!((self, way), (Self::Hole, _) | (Self::Deaf, Way::Back) | (Self::Mute, Way::There))
    }
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// A link between one or more clients and one API server.
pub(super) struct Wire {
    /// `https://127.0.0.1:port`.
    pub(super) address: String,
    fault: watch::Sender<Fault>,
    bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What each connection needs.
#[derive(Clone)]
struct Carrier {
    target: String,
    fault: watch::Receiver<Fault>,
    bytes: Arc<AtomicU64>,
    busy: TlsAcceptor,
}

impl Wire {
    /// Starts one that leads to the API server of `cluster`, without a fault.
    pub(super) fn start(cluster: &ControlPlane) -> Self {
        let pair = cluster.authority().server("busy", &["127.0.0.1"]).unwrap();
        Self::to(cluster.endpoint.address.trim_start_matches("https://"), &pair)
    }

    /// Starts one that leads to `target`; while that is busy, `pair` is shown.
    pub(super) fn to(target: &str, pair: &Pair) -> Self {
        let port = free_port().unwrap();
        let (fault, bytes) = (watch::Sender::new(Fault::Nothing), Arc::new(AtomicU64::new(0)));
        let carrier = Carrier {
            target: target.to_owned(),
            fault: fault.subscribe(),
            bytes: bytes.clone(),
            busy: TlsAcceptor::from(busy_server(pair)),
        };
        let task = tokio::spawn(listen(port, carrier));
        Self { address: format!("https://127.0.0.1:{port}"), fault, bytes, task }
    }

    /// From now on this is wrong with it.
    pub(super) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Bytes that have passed.
    pub(super) fn carried(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn busy_server(pair: &Pair) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap())
}

async fn listen(port: u16, carrier: Carrier) {
    let mut fault = carrier.fault.clone();
    while fault.wait_for(|fault| *fault != Fault::Refused).await.is_ok() {
        // Somebody who looks for a free port may hold this one for a moment.
        let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let accepting = async {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, carrier.clone()));
            }
        };
        tokio::select! {
            _ = fault.wait_for(|fault| *fault == Fault::Refused) => {}
            () = accepting => {}
        }
    }
}

async fn carry(mut near: TcpStream, mut carrier: Carrier) {
    let fault = *carrier.fault.borrow_and_update();
    match fault {
        Fault::Reset | Fault::Refused => return reset(&near),
        Fault::Forgotten => return forget(near).await,
        Fault::Busy => {
            let mut over = carrier.fault.clone();
            tokio::select! {
                _ = answer_busy(near, carrier.busy) => {}
                _ = over.changed() => {}
            }
            return;
        }
        _ => {}
    }
    let Ok(mut far) = TcpStream::connect(&carrier.target).await else { return };
    let mut ends = carrier.fault.clone();
    let ended = tokio::select! {
        _ = pass(&mut near, &mut far, &carrier) => return,
        ended = ends.wait_for(|fault| fault.ends_all()) => ended.map(|fault| *fault).ok(),
    };
    if ended == Some(Fault::Forgotten) {
        // The server knows as little of it as the client.
        forget(near).await;
        return;
    }
    reset(&near);
    reset(&far);
}

/// Makes the close that follows a reset.
fn reset(stream: &TcpStream) {
    // One that is closed already needs none.
    stream.set_zero_linger().ok();
}

/// Takes what the client sends and never answers, until it gives up.
async fn forget(mut near: TcpStream) {
    let mut rubbish = [0; 1024];
    while near.read(&mut rubbish).await.is_ok_and(|read| read > 0) {}
}

async fn answer_busy(near: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
    let mut near = acceptor.accept(near).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await?);
    }
    near.write_all(BUSY).await?;
    near.shutdown().await?;
    // Closed with a body unread, the answer would be lost.
    let mut rubbish = [0; 1024];
    while near.read(&mut rubbish).await? > 0 {}
    Ok(())
}

/// Both ways until both ends are done, or the link breaks.
async fn pass(near: &mut TcpStream, far: &mut TcpStream, carrier: &Carrier) -> io::Result<()> {
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    let there = pump(Way::There, near_read, far_write, carrier);
    let back = pump(Way::Back, far_read, near_write, carrier);
    tokio::try_join!(there, back).map(drop)
}

async fn pump(
    way: Way,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    carrier: &Carrier,
) -> io::Result<()> {
    let mut told = carrier.fault.clone();
    let mut buffer = vec![0; 16_384];
    let (mut passed, mut since) = (0, 0);
    loop {
        let fault = *told.borrow_and_update();
        let most = if fault == Fault::Slow { SIP } else { buffer.len() };
        let read = tokio::select! {
            biased;
            heard = told.changed() => {
                since = 0;
                match heard {
                    Ok(()) => continue,
                    Err(_) => return Ok(()),
                }
            }
            read = from.read(&mut buffer[..most]), if !fault.holds(way) => read?,
        };
        if read == 0 {
            return to.shutdown().await;
        }
        let cuts = fault == Fault::Cut && way == Way::Back;
        let left = CUT_AFTER.saturating_sub(since).max(HANDSHAKE.saturating_sub(passed));
        let now = if cuts { read.min(left) } else { read };
        to.write_all(&buffer[..now]).await?;
        carrier.bytes.fetch_add(u64::try_from(now).unwrap_or(0), Ordering::Relaxed);
        (passed, since) = (passed + now, since + now);
        if now < read {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if fault == Fault::Slow {
            tokio::time::sleep(REST).await;
        }
    }
}
