//! Why the program ends early.

use std::io;
use std::process::ExitCode;

/// What is told on standard error; the exit code follows from the kind.
#[derive(Debug)]
pub enum Failure {
    /// Options contradict each other, or a value is wrong.
    Usage(String),
    /// A file is wrong.
    Wrong(String),
    /// A plan is higher than the capacity.
    TooHigh(String),
    /// The reader of standard output has gone, as `head` does: nothing is left to say, and nothing went wrong.
    ClosedPipe,
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                eprintln!("error: {message}");
                ExitCode::from(2)
            }
            Self::Wrong(message) => {
                eprintln!("error: {message}");
                ExitCode::from(1)
            }
            Self::TooHigh(message) => {
                eprintln!("error: {message}");
                ExitCode::from(3)
            }
            Self::ClosedPipe => ExitCode::SUCCESS,
        }
    }

    /// Of writing to standard output.
    pub fn of_output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Wrong(format!("standard output: {error}")),
        }
    }
}

impl From<tensorpool::Error> for Failure {
    fn from(error: tensorpool::Error) -> Self {
        Self::Wrong(error.to_string())
    }
}
