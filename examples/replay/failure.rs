//! Why the program ends early.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::shared::stop;

#[derive(Debug)]
pub struct Failure {
    kind: &'static str,
    message: String,
}

/// The reader of standard output has gone, as `head` does: nothing is left to say, and nothing went wrong.
const CLOSED_PIPE: &str = "closed pipe";

impl Failure {
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub fn stopped() -> Self {
        Self::new("stopped", "stopped")
    }

    /// On standard error. There is nobody to tell if that fails.
    pub fn tell(&self) {
        if self.kind != CLOSED_PIPE {
            let _ = writeln!(io::stderr(), "error: {}", self.message);
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            "stopped" => stop::EXIT_CODE,
            // Ctrl-C ends every command of a pipe, the reader too.
            CLOSED_PIPE if stop::is_asked() => stop::EXIT_CODE,
            CLOSED_PIPE => 0,
            "no room" => 3,
            _ => 1,
        })
    }
}

impl From<tensorpool::Error> for Failure {
    fn from(error: tensorpool::Error) -> Self {
        Self::new("failed", error.to_string())
    }
}

/// Of writing to standard output: files are told apart in `tensorpool::trace`.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(CLOSED_PIPE, ""),
            _ => Self::new("output", format!("standard output: {error}")),
        }
    }
}
