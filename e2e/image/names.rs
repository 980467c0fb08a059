//! A name server of a few lines, for resolvers that are linked in statically.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// Resolvers ask at port 53 only, so the server has an address of its own.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 53, 53, 53);

/// Answers with 127.0.0.1 for what it knows and denies the rest, until the process ends.
#[derive(Clone, Debug)]
pub(super) struct Names {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Names {
    /// Serves `known` names.
    ///
    /// # Panics
    /// If the port is taken or not allowed.
    pub(super) fn serve(known: &[&str]) -> Self {
        let socket = UdpSocket::bind((ADDRESS, 53)).expect("the port of DNS, for root");
        let known: Vec<_> = known.iter().map(ToString::to_string).collect();
        let names = Self { asked: Arc::default() };
        let asked = names.asked.clone();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let (name, answer) = answer(&buffer[..length], &known);
                asked.lock().unwrap().push(name);
                // Whoever does not hear an answer asks again.
                drop(socket.send_to(&answer, from));
            }
        });
        names
    }

    /// Whether somebody asked for `name`.
    pub(super) fn asked(&self, name: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == name)
    }

    /// How many questions there were.
    pub(super) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// The name of a question with one entry, and the answer (RFC 1035, section 4).
fn answer(question: &[u8], known: &[String]) -> (String, Vec<u8>) {
    const HEADER: usize = 12;
    let (mut at, mut labels) = (HEADER, Vec::new());
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
        at = end;
    }
    let name = labels.join(".");
    let exists = known.contains(&name);
    let address = exists && question[at + 1..at + 3] == [0, 1];
    let mut answer = question[..2].to_vec();
    // An answer, with recursion; the code of a name that does not exist is 3.
    answer.extend([0x81, if exists { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    answer.extend(&question[HEADER..at + 5]);
    if address {
        // The name of the question, type A, class IN, a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    (name, answer)
}
