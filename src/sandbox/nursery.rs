//! The one thread that starts child processes.
//!
//! Why a thread: `PR_SET_PDEATHSIG` fires when the parent *thread* ends, not the process. A child
//! started from a test's thread or a runtime's worker would be killed when that thread is done. This
//! thread ends with the process only, and then the kernel kills every child, also after SIGKILL.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

type Order = (Command, Sender<io::Result<Child>>);

static ORDERS: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();

/// Starts `command` from the long-lived thread.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let orders = ORDERS.get_or_init(|| {
        let (sender, receiver) = channel();
        let started =
            std::thread::Builder::new().name("sandbox-nursery".into()).spawn(|| serve(receiver));
        // Without the thread the receiver is gone and every order below says so.
        drop(started);
        Mutex::new(sender)
    });
    let (reply, answer) = channel();
    orders
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply))
        .map_err(|_| io::Error::other("the thread that starts processes could not be started"))?;
    answer.recv().map_err(|_| io::Error::other("the thread that starts processes is gone"))?
}

fn serve(orders: Receiver<Order>) {
    for (mut command, reply) in orders {
        // Whoever asked may have given up; then the child is reaped by nobody but dies with us.
        drop(reply.send(command.spawn()));
    }
}
