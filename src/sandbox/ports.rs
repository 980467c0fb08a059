//! Free ports on 127.0.0.1.
//!
//! A port is bound, released and handed out, which another program can win: who starts a server
//! tries again with another port if it ends at once. Ports lie below the range that the kernel gives
//! to outgoing connections (32768 and up), so a server that is restarted finds its port free.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use super::error::Error;

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Where this process goes on looking, so that it never hands out a port twice in a row.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that was free a moment ago.
///
/// # Errors
/// If none of the whole range is free.
pub fn free() -> Result<u16, Error> {
    // Processes that run side by side start looking far from each other.
    let start = u16::try_from(std::process::id().wrapping_mul(331) % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + step) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::system("find a free port")(std::io::ErrorKind::AddrInUse.into()))
}
