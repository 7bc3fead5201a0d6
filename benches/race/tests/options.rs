//! Every option of the race with zero, negative, huge, empty and missing values: what its exit code is, and what it says. The table
//! of the examples is in `tests/commands/options.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// 2^64 - 1, and a number that is in no integer.
const MAX: &str = "18446744073709551615";
const HUGE: &str = "99999999999999999999";

/// No value at all: the option stands last.
const MISSING: &str = "(missing)";

/// Arguments without an option.
const BARE: &str = "";

/// An exit code, and a part of what is printed.
type Expected = (i32, &'static str);

/// An option and what comes of its values.
type Row = (&'static str, &'static [(&'static str, Expected)]);

const DONE: Expected = (0, "");
const REQUIRED: Expected = (2, "a value is required");
const FLAG: Expected = (2, "unexpected value");
const ROUNDS: Expected = (2, "it must be a whole number from 1 to 10,000");
const LIVE: Expected = (2, "it must be a whole number from 1 to 1,000,000");
const REPLACEMENTS: Expected = (2, "it must be a whole number from 0 to 10,000,000");
const PAIRS: Expected = (2, "it must be a whole number from 0 to 10^12");
const NO_ALLOCATOR: Expected = (1, "in its name: ");
const NO_CASE: Expected = (1, "no case ");

/// A command, what it gets besides the option so that it is over soon, and its rows.
struct Subject {
    name: &'static str,
    others: &'static [&'static [&'static str]],
    bare: &'static [&'static str],
    rows: &'static [Row],
}

const QUICK: &[&str] = &["--quick"];
const ONLY: &[&str] = &["--only", "range-alloc"];

const QUICK_ROW: Row = ("--quick", &[("-1", FLAG)]);
const JSON_ROW: Row = ("--json", &[("-1", FLAG)]);
const EACH_ROW: Row = ("--each", &[("-1", FLAG)]);
const ONLY_ROW: Row = (
    "--only",
    &[
        ("0", NO_ALLOCATOR),
        ("-1", NO_ALLOCATOR),
        (HUGE, NO_ALLOCATOR),
        ("range-alloc", DONE),
        // Which every name contains.
        ("", DONE),
        (MISSING, REQUIRED),
    ],
);
const PLOT_ROW: Row = (
    "--plot",
    &[
        ("0.svg", DONE),
        ("-1", DONE),
        ("no/such/folder.svg", (1, "no/such/folder.svg: ")),
        ("", REQUIRED),
        (MISSING, REQUIRED),
    ],
);

const SUBJECTS: [Subject; 4] = [
    Subject {
        name: "threads",
        others: &[QUICK],
        bare: &[],
        rows: &[
            QUICK_ROW,
            JSON_ROW,
            (
                "--rounds",
                &[
                    ("0", ROUNDS),
                    ("-1", ROUNDS),
                    ("10001", ROUNDS),
                    (MAX, ROUNDS),
                    (HUGE, ROUNDS),
                    ("", ROUNDS),
                    (MISSING, REQUIRED),
                ],
            ),
        ],
    },
    Subject {
        name: "traces",
        others: &[QUICK, ONLY],
        bare: &["own.trace"],
        rows: &[
            QUICK_ROW,
            JSON_ROW,
            EACH_ROW,
            ONLY_ROW,
            PLOT_ROW,
            (
                BARE,
                &[
                    ("0", (1, "0: No such file")),
                    ("-1", (2, "unexpected argument '-1'")),
                    ("", REQUIRED),
                    ("empty.trace", (1, "empty.trace: ")),
                    ("own.trace", DONE),
                ],
            ),
        ],
    },
    Subject {
        name: "churn",
        others: &[QUICK, ONLY, &["--live", "10"], &["--replacements", "10"]],
        bare: &[],
        rows: &[
            QUICK_ROW,
            JSON_ROW,
            EACH_ROW,
            ONLY_ROW,
            PLOT_ROW,
            (
                "--live",
                &[
                    ("0", LIVE),
                    ("-1", LIVE),
                    ("1000001", LIVE),
                    (MAX, LIVE),
                    (HUGE, LIVE),
                    ("", LIVE),
                    (MISSING, REQUIRED),
                    ("1", DONE),
                ],
            ),
            (
                "--replacements",
                &[
                    ("0", DONE),
                    ("-1", REPLACEMENTS),
                    (MAX, REPLACEMENTS),
                    (HUGE, REPLACEMENTS),
                    ("", REPLACEMENTS),
                    (MISSING, REQUIRED),
                ],
            ),
        ],
    },
    Subject {
        name: "instructions",
        others: &[],
        bare: &[],
        rows: &[(
            BARE,
            &[
                ("pool-virtual/64/at-once-1 0", DONE),
                ("pool-virtual/64/at-once-1 1", DONE),
                ("pool-virtual/64/at-once-1 -1", PAIRS),
                ("pool-virtual/64/at-once-1 18446744073709551615", PAIRS),
                ("pool-virtual/64/at-once-1 99999999999999999999", PAIRS),
                ("pool-virtual/64/at-once-1", (2, "required arguments were not provided")),
                ("pool-virtual/0/at-once-1 1", NO_CASE),
                ("0 1", (1, "is not ALLOCATOR/BYTES/PATTERN")),
                ("-1 1", (2, "unexpected argument '-1'")),
                ("", (2, "required arguments were not provided")),
            ],
        )],
    },
];

impl Subject {
    /// The command line that gives the option this value.
    fn args(&self, option: &str, value: &str) -> Vec<String> {
        let others = self.others.iter().filter(|other| other[0] != option).copied().flatten();
        let bare = self.bare.iter().filter(|_| option != BARE);
        let mut args: Vec<String> =
            [&self.name].into_iter().chain(others).chain(bare).map(|arg| (*arg).to_owned()).collect();
        args.extend((option != BARE).then(|| option.to_owned()));
        match value {
            MISSING => {}
            "" => args.push(String::new()),
            _ => args.extend(value.split(' ').map(str::to_owned)),
        }
        args
    }

    /// The options that `--help` has, but for itself.
    fn options(&self) -> BTreeSet<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_race")).args([self.name, "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let options = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
        options.map(|line| format!("--{}", line.split(' ').next().unwrap())).collect()
    }
}

#[test]
fn every_option_takes_or_refuses_every_kind_of_value() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("race-options-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("own.trace"), "a 0 4096\nf 0\n").unwrap();
    fs::write(folder.join("empty.trace"), "").unwrap();
    let mut differences = Vec::new();
    for subject in &SUBJECTS {
        for (option, values) in subject.rows {
            for (value, (code, part)) in *values {
                let args = subject.args(option, value);
                let output =
                    Command::new(env!("CARGO_BIN_EXE_race")).args(&args).current_dir(&folder).output().unwrap();
                let text =
                    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
                let found = output.status.code();
                if found != Some(*code) || !text.contains(part) || text.contains("panicked") {
                    differences.push(format!("race {args:?}: {found:?}, not {code} with {part:?}:\n{text}"));
                }
            }
        }
    }
    fs::remove_dir_all(&folder).unwrap();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn no_option_is_left_out() {
    for subject in &SUBJECTS {
        let covered: BTreeSet<String> = subject.rows.iter().map(|(option, _)| (*option).to_owned()).collect();
        let options = subject.options();
        let missing: Vec<&String> = options.difference(&covered).collect();
        assert!(missing.is_empty(), "{}: {missing:?}", subject.name);
    }
}
