//! Every option of the race with zero, negative, huge, empty and missing values: what its exit code is, and what it says. The table
//! of the examples is in `tests/commands/options.rs`.

#[path = "../../../tests/commands/options/table.rs"]
mod table;

use std::process::Command;

use table::{BARE, DONE, Expected, FLAG, HUGE, MAX, MISSING, REQUIRED, Row, Subject};

const ROUNDS: Expected = (2, "it must be a whole number from 1 to 10,000");
const LIVE: Expected = (2, "it must be a whole number from 1 to 1,000,000");
const REPLACEMENTS: Expected = (2, "it must be a whole number from 0 to 10,000,000");
const PAIRS: Expected = (2, "it must be a whole number from 0 to 10^12");
const NO_ALLOCATOR: Expected = (1, "in its name: ");
const NO_PART: Expected = (1, "no part has ");
const NO_CASE: Expected = (1, "no case ");

fn race(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_race"));
    command.arg(name);
    command
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

const ROUNDS_ROW: Row = (
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
);

const SUBJECTS: [Subject; 5] = [
    Subject {
        name: "threads",
        command: || race("threads"),
        others: &[QUICK],
        bare: &[],
        rows: &[QUICK_ROW, JSON_ROW, ROUNDS_ROW],
    },
    Subject {
        name: "cost",
        command: || race("cost"),
        others: &[QUICK, &["--only", "labels"], &["--rounds", "1"]],
        bare: &[],
        rows: &[
            QUICK_ROW,
            JSON_ROW,
            ROUNDS_ROW,
            PLOT_ROW,
            (
                "--only",
                &[
                    ("0", NO_PART),
                    ("-1", NO_PART),
                    (HUGE, NO_PART),
                    ("books", DONE),
                    // Which has no lines.
                    ("books --plot 0.svg", (1, "0.svg: no part that was measured has lines to draw")),
                    (MISSING, REQUIRED),
                ],
            ),
        ],
    },
    Subject {
        name: "traces",
        command: || race("traces"),
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
        command: || race("churn"),
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
        command: || race("instructions"),
        others: &[],
        bare: &[],
        rows: &[(
            BARE,
            &[
                ("pool-virtual/64/at-once-1 0", DONE),
                ("pool-virtual/64/at-once-1 1", DONE),
                ("pool-expanding/65536-1048576/replace-16 1", DONE),
                ("offset-guard/1000/hand-over 300", DONE),
                ("pool-virtual/64/at-once-1 -1", PAIRS),
                ("pool-virtual/64/at-once-1 18446744073709551615", PAIRS),
                ("pool-virtual/64/at-once-1 99999999999999999999", PAIRS),
                ("pool-virtual/64/at-once-1", (2, "required arguments were not provided")),
                ("pool-virtual/0/at-once-1 1", NO_CASE),
                ("refused/full/single/3 1", DONE),
                ("refused/full/single 1", NO_CASE),
                ("0 1", (1, "is not ALLOCATOR/BYTES/PATTERN")),
                ("-1 1", (2, "unexpected argument '-1'")),
                ("", (2, "required arguments were not provided")),
            ],
        )],
    },
];

#[test]
fn every_option_takes_or_refuses_every_kind_of_value() {
    table::check(&SUBJECTS, &[("own.trace", "a 0 4096\nf 0\n"), ("empty.trace", "")]);
}

#[test]
fn no_option_is_left_out() {
    table::check_complete(&SUBJECTS);
}
