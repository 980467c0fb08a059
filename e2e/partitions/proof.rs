//! That the proxy does what each fault says, also to connections that were open before.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use idlewild::sandbox::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::wire::{Fault, Wire};

/// Long enough for anything on this machine.
const PLENTY: Duration = Duration::from_secs(20);
/// In this time what passes would have passed.
const MOMENT: Duration = Duration::from_millis(300);
/// What the server answers to each byte: longer than what a cut lets pass.
const ANSWER: usize = 5_000;

/// A server that answers every byte with [`ANSWER`] of them.
async fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let byte = stream.read_u8().await?;
        stream.write_all(&[byte; ANSWER]).await?;
    }
}

/// A wire to such a server, and who signed for it.
async fn wire() -> (Wire, Authority) {
    let authority = Authority::new("proof").unwrap();
    let pair = authority.server("busy", &["127.0.0.1"]).unwrap();
    let wire = Wire::to(&server().await, &pair);
    timeout(PLENTY, listened_to(&wire)).await.unwrap();
    (wire, authority)
}

async fn connect(wire: &Wire) -> std::io::Result<TcpStream> {
    TcpStream::connect(wire.address.trim_start_matches("https://")).await
}

/// A connection as soon as somebody listens.
async fn listened_to(wire: &Wire) -> TcpStream {
    loop {
        match connect(wire).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// How much of an answer to `byte` comes within `limit`.
async fn answered(stream: &mut TcpStream, byte: u8, limit: Duration) -> usize {
    stream.write_u8(byte).await.ok();
    read(stream, limit).await
}

async fn read(stream: &mut TcpStream, limit: Duration) -> usize {
    let mut answer = vec![0; ANSWER];
    let mut came = 0;
    let all = async {
        while came < ANSWER {
            match stream.read(&mut answer[came..]).await {
                Ok(read) if read > 0 => came += read,
                _ => return,
            }
        }
    };
    timeout(limit, all).await.ok();
    came
}

#[tokio::test]
async fn what_a_fault_holds_back_arrives_when_it_is_over() {
    let (wire, _) = wire().await;
    for fault in [Fault::Hole, Fault::Deaf, Fault::Mute] {
        let mut open = connect(&wire).await.unwrap();
        assert_eq!(answered(&mut open, 1, PLENTY).await, ANSWER);
        wire.set(fault);
        let mut new = connect(&wire).await.unwrap();
        assert_eq!(answered(&mut open, 2, MOMENT).await, 0, "{fault:?}");
        assert_eq!(answered(&mut new, 3, MOMENT).await, 0, "{fault:?}");
        wire.set(Fault::Nothing);
        assert_eq!(read(&mut open, PLENTY).await, ANSWER, "{fault:?}");
        assert_eq!(read(&mut new, PLENTY).await, ANSWER, "{fault:?}");
    }
    wire.set(Fault::Slow);
    let mut slow = connect(&wire).await.unwrap();
    assert!(answered(&mut slow, 4, MOMENT).await < ANSWER);
    timeout(PLENTY, slow.read_u8()).await.unwrap().expect("it is slow, not dead");
}

#[tokio::test]
async fn what_a_fault_ends_stays_ended_and_new_connections_work_after_it() {
    let (wire, _) = wire().await;
    for fault in [Fault::Forgotten, Fault::Cut, Fault::Reset, Fault::Refused, Fault::Busy] {
        let mut open = connect(&wire).await.unwrap();
        assert_eq!(answered(&mut open, 1, PLENTY).await, ANSWER);
        wire.set(fault);
        let limit = if fault == Fault::Forgotten { MOMENT } else { PLENTY };
        let came = answered(&mut open, 2, limit).await;
        assert_eq!(came > 0, fault == Fault::Cut, "{fault:?}: {came}");
        assert!(came < ANSWER, "{fault:?}: {came}");
        wire.set(Fault::Nothing);
        assert_eq!(answered(&mut open, 3, MOMENT).await, 0, "{fault:?}: it stays dead");
        let mut new = timeout(PLENTY, listened_to(&wire)).await.unwrap();
        assert_eq!(answered(&mut new, 4, PLENTY).await, ANSWER, "{fault:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_and_a_reset_one_differ_from_one_that_ends() {
    let (wire, _) = wire().await;
    let mut open = connect(&wire).await.unwrap();
    assert_eq!(answered(&mut open, 1, PLENTY).await, ANSWER);
    wire.set(Fault::Reset);
    let end = timeout(PLENTY, open.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    wire.set(Fault::Refused);
    let refusal = ErrorKind::ConnectionRefused;
    let refused = async {
        while connect(&wire).await.err().map(|error| error.kind()) != Some(refusal) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PLENTY, refused).await.unwrap();
}

#[tokio::test]
async fn a_busy_server_says_come_back_tomorrow() {
    let (wire, authority) = wire().await;
    wire.set(Fault::Busy);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tcp = connect(&wire).await.unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PLENTY, tls.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 86400"),
        "{answer}"
    );
}
