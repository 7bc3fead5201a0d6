//! Tables of options: their values, and what comes of each. The tests of the examples and of the race have one each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// 2^64 - 1, and a number that is in no integer.
pub const MAX: &str = "18446744073709551615";
pub const HUGE: &str = "99999999999999999999";

/// No value at all: the option stands last.
pub const MISSING: &str = "(missing)";

/// Arguments without an option, in the place of one.
pub const BARE: &str = "";

/// An exit code, and a part of what is printed.
pub type Expected = (i32, &'static str);

/// The values of an option, and what comes of them.
pub type Values = &'static [(&'static str, Expected)];

/// An option and its values.
pub type Row = (&'static str, Values);

pub const DONE: Expected = (0, "");
pub const REQUIRED: Expected = (2, "a value is required");
pub const FLAG: Expected = (2, "unexpected value");

/// A command, what it gets besides the option so that it is over soon, and its rows.
pub struct Subject {
    pub name: &'static str,
    pub command: fn() -> Command,
    pub others: &'static [&'static [&'static str]],
    pub bare: &'static [&'static str],
    pub rows: &'static [Row],
}

impl Subject {
    /// The command line that gives the option this value.
    fn args(&self, option: &str, value: &str) -> Vec<String> {
        let others = self.others.iter().filter(|other| other[0] != option).copied().flatten();
        let bare = self.bare.iter().filter(|_| option != BARE);
        let mut args: Vec<String> = others.chain(bare).map(|arg| (*arg).to_owned()).collect();
        args.extend((option != BARE).then(|| option.to_owned()));
        match value {
            MISSING => {}
            "" => args.push(String::new()),
            _ => args.extend(value.split(' ').map(str::to_owned)),
        }
        args
    }

    /// What is not as the table has it.
    fn differences(&self, folder: &Path) -> Vec<String> {
        let mut differences = Vec::new();
        for (option, values) in self.rows {
            for (value, (code, part)) in *values {
                let args = self.args(option, value);
                let output = (self.command)().args(&args).current_dir(folder).output().unwrap();
                let text =
                    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
                let found = output.status.code();
                // Options are refused before `plan` prints the head of its table.
                let is_clean = !text.contains("panicked") && (*code != 2 || !text.contains("height"));
                if found != Some(*code) || !text.contains(part) || !is_clean {
                    differences.push(format!("{} {args:?}: {found:?}, not {code} with {part:?}:\n{text}", self.name));
                }
            }
        }
        differences
    }

    /// The options that `--help` has, but for itself.
    fn options(&self) -> BTreeSet<String> {
        let output = (self.command)().arg("--help").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let options = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
        options.map(|line| format!("--{}", line.split(' ').next().unwrap())).collect()
    }
}

/// Panics where a command does not answer as its table says. Each runs in a folder of its own, with these files.
pub fn check(subjects: &[Subject], files: &[(&str, &str)]) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("options-{}", std::process::id()));
    let mut differences = Vec::new();
    for subject in subjects {
        let own = folder.join(subject.name);
        fs::create_dir_all(&own).unwrap();
        files.iter().for_each(|(name, text)| fs::write(own.join(name), text).unwrap());
        differences.extend(subject.differences(&own));
    }
    fs::remove_dir_all(&folder).unwrap();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Panics where a command has an option that its table lacks.
pub fn check_complete(subjects: &[Subject]) {
    for subject in subjects {
        let covered: BTreeSet<String> = subject.rows.iter().map(|(option, _)| (*option).to_owned()).collect();
        // Examples in the help begin with options too.
        let missing: Vec<String> = subject.options().difference(&covered).cloned().collect();
        assert!(missing.is_empty(), "{}: {missing:?}", subject.name);
    }
}
