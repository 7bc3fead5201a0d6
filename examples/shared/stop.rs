//! Ctrl-C, and SIGTERM: the first asks a command to end between two pieces of its work, a later one ends it at once.

use std::io::{self, IsTerminal, Write};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The exit code of a command that Ctrl-C stopped: 128 and the signal's number, as shells have it.
pub const EXIT_CODE: u8 = 130;

static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// One request may come as several signals: `timeout` signals its child, and then the child's group.
const TOGETHER: Duration = Duration::from_millis(500);

/// Lets the first Ctrl-C from now on only ask, and another one after half a second end the process.
///
/// # Errors
/// A message, where the system refuses: then Ctrl-C ends the process as it did.
pub fn listen() -> Result<(), String> {
    let mut first: Option<Instant> = None;
    handle(move || match first {
        None => {
            first = Some(Instant::now());
            IS_ASKED.store(true, Ordering::Relaxed);
        }
        Some(at) if at.elapsed() < TOGETHER => {}
        Some(_) => end_at_once(),
    })
}

/// Lets the first Ctrl-C from now on end the process, for a command that has nothing to save.
///
/// # Errors
/// The message of [`listen`].
pub fn end_when_asked() -> Result<(), String> {
    handle(|| end_at_once())
}

/// Tells whether one has come.
pub fn is_asked() -> bool {
    IS_ASKED.load(Ordering::Relaxed)
}

/// Runs the handler in a thread of its own, once for each signal that does not come on the heels of another. SIGHUP stays as it is:
/// `nohup` has it ignored.
#[cfg(unix)]
fn handle(mut handler: impl FnMut() + Send + 'static) -> Result<(), String> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(uncaught)?;
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || signals.forever().for_each(|_| handler())).map_err(uncaught)?;
    Ok(())
}

#[cfg(not(unix))]
fn handle(handler: impl FnMut() + Send + 'static) -> Result<(), String> {
    ctrlc::set_handler(handler).map_err(uncaught)
}

fn uncaught(error: impl std::fmt::Display) -> String {
    format!("Ctrl-C cannot be caught: {error}")
}

/// Takes the line of a bar off the terminal without the bar's lock, which a thread may hold that waits for a slow reader.
fn end_at_once() -> ! {
    let stderr = io::stderr();
    if stderr.is_terminal() {
        // Locked until the process ends: no thread draws the bar again.
        let mut stderr = stderr.lock();
        let _ = write!(stderr, "\r\x1b[2K");
        process::exit(EXIT_CODE.into());
    }
    process::exit(EXIT_CODE.into())
}
