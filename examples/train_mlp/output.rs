//! What goes to standard output: text for people or, with `--json`, one object a line. Only errors and the progress bar
//! go to standard error.

use std::fmt;
use std::io::{self, Write};

use serde_json::Value;

use crate::failure::Failure;
use crate::shared::print;

#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// A line for people.
    pub fn text(self, line: impl fmt::Display) -> io::Result<()> {
        if self.json { Ok(()) } else { write(format_args!("{line}\n")) }
    }

    /// A line for people, broken between words where their terminal is narrower.
    pub fn line(self, line: &str) -> io::Result<()> {
        self.text(print::wrapped(line, 0, print::columns()))
    }

    /// A line for programs, its fields in this order.
    pub fn event(self, name: &str, fields: &[(&str, Value)]) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let event = ("event", Value::from(name));
        let fields = std::iter::once(&event).chain(fields);
        let fields: Vec<String> = fields.map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
        write(format_args!("{{{}}}\n", fields.join(",")))
    }

    /// Worth knowing, but no part of the output.
    pub fn note(self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// To people on standard error, to programs on standard output too. There is nobody to tell if that fails.
    pub fn failure(self, failure: &Failure) {
        if failure.is_closed_pipe() {
            return;
        }
        let _ = writeln!(io::stderr(), "error: {}{}", failure.message, failure.advice);
        self.failure_event(failure);
    }

    /// To programs only.
    pub fn failure_event(self, failure: &Failure) {
        let Failure { kind, message, needed_bytes, .. } = failure;
        let fields =
            [("kind", (*kind).into()), ("message", message.as_str().into()), ("needed_bytes", (*needed_bytes).into())];
        let _ = self.event("error", &fields);
    }
}

/// As `print!`, but a closed pipe is an error and no panic.
fn write(text: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_fmt(text)?;
    stdout.flush()
}
