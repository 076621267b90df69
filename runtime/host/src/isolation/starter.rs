//! How a process of a plugin begins.
//!
//! The kernel ends such a process with the *thread* that started it (PR_SET_PDEATHSIG in prctl(2), which the process asks
//! for in `jail.rs`), so that a plugin that computes for ever does not outlive a host that was killed. So one thread, which
//! lives as long as the host, starts them all.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::isolation::Program;

type Started = io::Result<(Child, UnixStream)>;

/// A process that is to be started, and who waits for it.
struct Order {
    program: Program,
    started: Sender<Started>,
}

/// Starts a program with no environment, and with one end of a socket pair as its standard input. Gives the other.
///
/// # Errors
/// It can't be started.
pub fn start(program: &Program) -> Started {
    /// The thread's ear; none before the first order.
    static STARTER: Mutex<Option<Sender<Order>>> = Mutex::new(None);
    let (sender, started) = channel();
    let order = Order { program: program.clone(), started: sender };
    let mut starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    let orders = match starter.take() {
        Some(orders) => orders,
        None => {
            let (orders, taken) = channel();
            thread::Builder::new().name("starter of plugins".to_owned()).spawn(move || serve(&taken))?;
            orders
        }
    };
    let gone = || io::Error::other("the thread that starts processes is gone");
    orders.send(order).map_err(|_| gone())?;
    *starter = Some(orders);
    drop(starter);
    started.recv().unwrap_or_else(|_| Err(gone()))
}

fn serve(orders: &Receiver<Order>) {
    while let Ok(Order { program, started }) = orders.recv() {
        // Who does not wait any more drops the stream, which ends the process.
        let _ = started.send(begin(&program));
    }
}

fn begin(program: &Program) -> Started {
    let (own, other) = UnixStream::pair()?;
    let child = Command::new(&program.path)
        .args(&program.arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(other)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok((child, own))
}
