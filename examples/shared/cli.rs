//! The command line of every command.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Id, Parser};

/// Reads the command line.
///
/// # Errors
/// What clap has to say, of which help is no failure.
pub fn parse<A: Parser>() -> Result<A, clap::Error> {
    parse_given().map(|(args, _)| args)
}

/// Reads the command line, and tells which arguments stand there: the others have their defaults.
///
/// # Errors
/// Those of [`parse`].
pub fn parse_given<A: Parser>() -> Result<(A, Vec<Id>), clap::Error> {
    let mut command = A::command();
    let mut matches = command.try_get_matches_from_mut(joined(std::env::args_os()))?;
    let is_given = |id: &&Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    let given = matches.ids().filter(is_given).cloned().collect();
    let args = A::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    Ok((args, given))
}

/// Joins an option and a negative value, `--budget -1` to `--budget=-1`: clap would take the value for another option. Then the
/// message is about the value.
fn joined(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for arg in args {
        match joined.last_mut() {
            Some(option) if is_option(option) && is_negative(&arg) => {
                option.push("=");
                option.push(arg);
            }
            _ => joined.push(arg),
        }
    }
    joined
}

fn is_option(arg: &OsString) -> bool {
    arg.to_str().is_some_and(|arg| arg.len() > 2 && arg.starts_with("--") && !arg.contains('='))
}

fn is_negative(arg: &OsString) -> bool {
    arg.to_str()
        .and_then(|arg| arg.strip_prefix('-'))
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
}

/// Takes a whole number.
pub fn whole(text: &str) -> Result<u64, String> {
    number(text, 0, u64::MAX, "2^64 - 1")
}

/// Takes a whole number of at least 1.
pub fn at_least_one(text: &str) -> Result<u64, String> {
    number(text, 1, u64::MAX, "2^64 - 1")
}

/// Takes a count of things in memory: a whole number of at least 1.
pub fn count(text: &str) -> Result<usize, String> {
    let count = at_least_one(text)?;
    count.try_into().map_err(|_| "it is more than memory has addresses".to_owned())
}

/// Takes a number of threads.
pub fn threads(text: &str) -> Result<usize, String> {
    number(text, 1, 1024, "1024").map(|threads| threads as usize)
}

/// Takes a whole number of a range, whose end `most_text` names.
pub fn number(text: &str, least: u64, most: u64, most_text: &str) -> Result<u64, String> {
    let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("it must be a whole number from {least} to {most_text}"))
}
