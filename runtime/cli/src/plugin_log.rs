//! Lines that plugins log, on their way to standard error.
//!
//! A thread of their own has them judged and shows them. A plugin logs in the middle of a call, and the policy that is to
//! judge the line may be the very one that is in it, in a process that makes one call at a time.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use membrane_host::{LogLevel, LogLine};

use crate::judged;

/// What the thread is told.
enum Told {
    Line(LogLine),
    /// To answer when the lines before are shown.
    Flush(Sender<()>),
}

/// The thread's ear; none before the first line.
static THREAD: Mutex<Option<Sender<Told>>> = Mutex::new(None);

/// Shows a line soon; the host has taken control characters out of it. What policies log while they judge such lines is
/// not shown: there would be no end to it.
pub fn show(line: &LogLine) {
    if line.level < LogLevel::Info || judged::is_judging() {
        return;
    }
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if thread.is_none() {
        let (lines, told) = channel();
        let started = thread::Builder::new().name("plugin log".to_owned()).spawn(move || serve(&told));
        *thread = started.is_ok().then_some(lines);
    }
    if let Some(lines) = &*thread {
        // The thread goes on until the program ends.
        let _ = lines.send(Told::Line(line.clone()));
    }
}

/// Waits until all lines so far are shown.
pub fn flush() {
    let (sender, shown) = channel();
    let thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = thread.as_ref().is_some_and(|lines| lines.send(Told::Flush(sender)).is_ok());
    drop(thread);
    if asked {
        // An error means that the thread is gone, and there is nothing to wait for.
        let _ = shown.recv();
    }
}

fn serve(told: &Receiver<Told>) {
    while let Ok(told) = told.recv() {
        match told {
            Told::Line(LogLine { plugin, text, judged: true, .. }) => eprintln!("[{plugin}: {text}]"),
            Told::Line(LogLine { plugin, text, .. }) => {
                eprintln!("[{plugin}: {}]", judged::line(&plugin, &text));
            }
            Told::Flush(shown) => drop(shown.send(())),
        }
    }
}
