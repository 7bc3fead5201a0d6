//! Another process, with a limit to its time.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::shared::stop;

/// Time between two looks at a child.
const LOOK: Duration = Duration::from_millis(20);

/// Time that a killed child has to end. One that the driver keeps is left behind.
const LAST: Duration = Duration::from_secs(2);

/// Runs a command until it ends, and returns what it printed.
///
/// # Errors
/// A message where it does not start, fails, is cut off after `limit`, or Ctrl-C came. It ends with the last line that the command
/// wrote to standard error.
pub fn output(command: &mut Command, limit: Duration, out: &Path, log: &Path) -> Result<String, String> {
    let file = |path: &Path| File::create(path).map_err(|error| format!("{}: {error}", path.display()));
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(file(out)?).stderr(file(log)?);
    let mut child = command.spawn().map_err(|error| format!("{name} does not start: {error}"))?;
    let status = match wait(&mut child, limit, stop::is_asked) {
        Ok(Some(status)) => status,
        Ok(None) => {
            kill(&mut child);
            return Err(match stop::is_asked() {
                true => "stopped by Ctrl-C".to_owned(),
                false => said(&format!("cut off after {} s", limit.as_secs()), log),
            });
        }
        Err(error) => {
            kill(&mut child);
            return Err(format!("{name}: {error}"));
        }
    };
    if !status.success() {
        return Err(said(&status.to_string(), log));
    }
    fs::read_to_string(out).map_err(|error| format!("{}: {error}", out.display()))
}

/// Returns what a short command prints, or `None` where it fails or does not end in time.
pub fn short_output(command: &mut Command, limit: Duration) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    // What fits in a pipe is all that is asked for.
    match wait(&mut child, limit, || false) {
        Ok(Some(status)) if status.success() => io::read_to_string(child.stdout.take()?).ok(),
        Ok(Some(_)) => None,
        Ok(None) | Err(_) => {
            kill(&mut child);
            None
        }
    }
}

/// Waits for the end of a child. `None` after `limit`, or where `is_over` says so.
fn wait(child: &mut Child, limit: Duration, is_over: impl Fn() -> bool) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit || is_over() {
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = wait(child, LAST, || false);
}

/// Adds the last line of a log.
fn said(what: &str, log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{what}: {}", line.trim()),
        None => what.to_owned(),
    }
}
