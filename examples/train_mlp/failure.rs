//! Why the program ends early.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::shared::stop;

/// A failure as it is told to a person (`message`, `advice`) and to a program (`kind`, `needed_bytes`, the exit code).
#[derive(Debug)]
pub struct Failure {
    pub kind: &'static str,
    pub message: String,
    /// What to change, for people.
    pub advice: String,
    pub needed_bytes: Option<u64>,
}

impl Failure {
    pub fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), advice: String::new(), needed_bytes: None }
    }

    /// Tells whether the reader of standard output has gone, as `head` does: nothing is left to say.
    pub fn is_closed_pipe(&self) -> bool {
        self.kind == CLOSED_PIPE
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            // Ctrl-C ends every command of a pipe, the reader too.
            CLOSED_PIPE if stop::is_asked() => stop::EXIT_CODE,
            CLOSED_PIPE => 0,
            "usage" => 2,
            "budget" => 3,
            "diverged" => 4,
            _ => 1,
        })
    }
}

const CLOSED_PIPE: &str = "closed pipe";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<tensorpool::Error> for Failure {
    fn from(error: tensorpool::Error) -> Self {
        use tensorpool::ErrorKind;
        let kind = match error.kind() {
            ErrorKind::OverBudget | ErrorKind::Full | ErrorKind::Fragmented => "budget",
            ErrorKind::OutOfMemory => "out of memory",
            ErrorKind::TooLarge => "too large",
            ErrorKind::NoDevice => "no device",
            ErrorKind::DeviceLost => "device lost",
            ErrorKind::Device => "device",
            _ => "settings",
        };
        Self::new(kind, error.to_string())
    }
}

/// Of writing to standard output; files are told apart in `data`.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(CLOSED_PIPE, ""),
            _ => Self::new("output", format!("standard output: {error}")),
        }
    }
}
