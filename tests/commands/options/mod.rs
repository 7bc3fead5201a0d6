//! Every option of every command with zero, negative, huge, empty and missing values: what its exit code is, and what it says.
//!
//! The race's are in `benches/race/tests/options.rs`: nothing builds the race unless asked.

mod table;

use std::process::Command;

use self::table::{BARE, DONE, Expected, FLAG, HUGE, MAX, MISSING, REQUIRED, Row, Subject, Values};
use crate::program;

const HUGE_PERCENT: &str = "99999999999999999999%";

const NEGATIVE: Expected = (2, "it is negative");
const NO_NUMBER: Expected = (2, "there is no number");
const TOO_LARGE: Expected = (2, "it is more than 2^64 bytes");
const OVER_100: Expected = (2, "it is more than 100%");
const NO_PERCENT: Expected = (2, "a percentage has no meaning here");
const FROM_0: Expected = (2, "it must be a whole number from 0 to 2^64 - 1");
const FROM_1: Expected = (2, "it must be a whole number from 1 to 2^64 - 1");
const THREADS: Expected = (2, "it must be a whole number from 1 to 1024");
const NO_NAME: Expected = (2, "[possible values: ");

const NAME: Values = &[("0", NO_NAME), ("-1", NO_NAME), (HUGE, NO_NAME), ("", REQUIRED), (MISSING, REQUIRED)];
const COUNT: Values =
    &[("0", FROM_1), ("-1", FROM_1), (HUGE, FROM_1), ("", FROM_1), (MISSING, REQUIRED), ("1", DONE), (MAX, DONE)];
const NUMBER: Values =
    &[("0", DONE), ("-1", FROM_0), (HUGE, FROM_0), ("", FROM_0), (MISSING, REQUIRED), ("many", FROM_0), (MAX, DONE)];
const THREAD_COUNT: Values =
    &[("0", THREADS), ("-1", THREADS), ("1025", THREADS), (HUGE, THREADS), ("", THREADS), (MISSING, REQUIRED)];
const SWITCH: Values = &[("-1", FLAG)];

const TRAIN_MLP: &[Row] = &[
    ("--device", NAME),
    (
        "--budget",
        &[
            ("0", (3, "a budget of 0 bytes is too small")),
            ("-1", NEGATIVE),
            ("-1MiB", NEGATIVE),
            (HUGE, TOO_LARGE),
            ("", NO_NUMBER),
            ("6apples", (2, "the unit is unknown")),
            ("%", NO_NUMBER),
            ("-1%", NEGATIVE),
            ("100.1%", OVER_100),
            (HUGE_PERCENT, OVER_100),
            (MISSING, REQUIRED),
        ],
    ),
    ("--touch", SWITCH),
    ("--lock", SWITCH),
    ("--huge-pages", SWITCH),
    (
        "--hidden",
        &[
            ("0", FROM_1),
            ("-1", FROM_1),
            ("5,,5", FROM_1),
            (MAX, (1, "a matrix has over 2^32 elements")),
            (HUGE, FROM_1),
            ("", FROM_1),
            (MISSING, REQUIRED),
        ],
    ),
    (
        "--batch",
        &[
            ("0", FROM_1),
            ("-1", FROM_1),
            (MAX, (1, "there are only 8000 training images")),
            (HUGE, FROM_1),
            ("", FROM_1),
            (MISSING, REQUIRED),
        ],
    ),
    ("--optimizer", NAME),
    (
        "--lr",
        &[
            ("0", (2, "it must be a number above 0")),
            ("-0.1", (2, "it must be a number above 0")),
            ("1e39", (2, "it must be a number above 0")),
            ("NaN", (2, "it must be a number above 0")),
            ("", (2, "it must be a number above 0")),
            (MISSING, REQUIRED),
        ],
    ),
    ("--epochs", COUNT),
    ("--steps", COUNT),
    ("--seed", NUMBER),
    (
        "--data",
        &[("0", (1, "0: no such folder")), ("-1", (1, "-1: no such folder")), ("", REQUIRED), (MISSING, REQUIRED)],
    ),
    ("--step", NAME),
    ("--allocator", NAME),
    ("--plan", NAME),
    ("--log-every", COUNT),
    (
        "--trace",
        &[("0", DONE), ("-1", DONE), ("no/such/folder", (1, "cannot be created")), ("", REQUIRED), (MISSING, REQUIRED)],
    ),
    (
        "--save",
        &[
            ("0", DONE),
            ("-1", DONE),
            (".", (1, "no regular file")),
            ("no/such/folder", (1, "cannot be saved")),
            ("", REQUIRED),
            (MISSING, REQUIRED),
        ],
    ),
    (
        "--resume",
        &[
            ("none", (1, "none: No such file")),
            ("-2", (1, "-2: No such file")),
            (".", (1, "no regular file")),
            ("", REQUIRED),
            (MISSING, REQUIRED),
        ],
    ),
    ("--json", SWITCH),
];

const PLAN: &[Row] = &[
    (
        BARE,
        &[
            ("0", (1, "0: No such file")),
            ("-1", (2, "unexpected argument '-1'")),
            ("", REQUIRED),
            (MISSING, (2, "required arguments were not provided")),
        ],
    ),
    (
        "--out",
        &[
            ("0", DONE),
            ("-1", DONE),
            ("-", (0, "id,lower,upper,size,offset")),
            ("no/such", (1, "no/such")),
            ("", REQUIRED),
            (MISSING, REQUIRED),
        ],
    ),
    (
        "--align",
        &[
            ("0", (2, "error: a plan's alignment of 0 bytes is not a power of two")),
            ("3", (2, "error: a plan's alignment of 3 bytes is not a power of two")),
            ("-1", NEGATIVE),
            ("9223372036854775808", (1, "exceed 2^62")),
            ("50%", NO_PERCENT),
            (MAX, (2, "is not a power of two")),
            (HUGE, TOO_LARGE),
            ("", NO_NUMBER),
            (MISSING, REQUIRED),
        ],
    ),
    (
        "--capacity",
        &[
            ("0", (3, "higher than the capacity of 0 bytes")),
            ("50%", NO_PERCENT),
            ("-1", NEGATIVE),
            (MAX, DONE),
            (HUGE, TOO_LARGE),
            ("", NO_NUMBER),
            (MISSING, REQUIRED),
        ],
    ),
    (
        "--slab",
        &[
            ("0", (2, "error: a slab of 0 bytes is no multiple of the alignment")),
            ("50%", NO_PERCENT),
            ("1", (1, "fits in no slab")),
            ("-1", NEGATIVE),
            (MAX, DONE),
            (HUGE, TOO_LARGE),
            ("", NO_NUMBER),
            (MISSING, REQUIRED),
        ],
    ),
    ("--steps", NUMBER),
    (
        "--seconds",
        &[
            ("0", DONE),
            ("-1", (2, "it must be a number of seconds, 0 or more")),
            ("1e18", DONE),
            ("1e300", (2, "it must be a number of seconds, 0 or more")),
            ("NaN", (2, "it must be a number of seconds, 0 or more")),
            ("", (2, "it must be a number of seconds, 0 or more")),
            (MISSING, REQUIRED),
        ],
    ),
    ("--threads", THREAD_COUNT),
    ("--seed", NUMBER),
    ("--json", SWITCH),
];

const REPLAY: &[Row] = &[
    (
        BARE,
        &[
            ("0", (1, "0: No such file")),
            ("-1", (2, "unexpected argument '-1'")),
            ("", REQUIRED),
            (MISSING, (2, "required arguments were not provided")),
        ],
    ),
    (
        "--budget",
        &[
            ("0", (3, "1 allocation of 4 KiB failed")),
            ("50%", (1, "a budget of 50% has no size in bytes here: virtual does not tell how much memory it has")),
            ("-1%", NEGATIVE),
            ("101%", OVER_100),
            ("-1", NEGATIVE),
            (MAX, DONE),
            (HUGE, TOO_LARGE),
            ("", NO_NUMBER),
            ("1MiB --min-budget", (2, "cannot be used with '--min-budget'")),
            (MISSING, REQUIRED),
        ],
    ),
    (
        "--touch",
        &[
            ("-1", FLAG),
            (MISSING, (2, "required arguments were not provided")),
            ("--budget 1MiB", (1, "pages of virtual cannot be touched or locked")),
            ("--budget 1MiB --backend host", DONE),
        ],
    ),
    (
        "--lock",
        &[
            ("-1", FLAG),
            (MISSING, (2, "required arguments were not provided")),
            ("--budget 1MiB", (1, "pages of virtual cannot be touched or locked")),
        ],
    ),
    ("--min-budget", SWITCH),
    ("--placement", NAME),
    ("--planned", &[("-1", FLAG), ("--auto", (2, "cannot be used with '--auto'"))]),
    ("--auto", SWITCH),
    ("--backend", NAME),
    (
        "--slab",
        &[
            ("0", (2, "a slab has 1 byte at least")),
            ("50%", (2, "is no slab policy")),
            ("-1", (2, "is no slab policy")),
            (MAX, DONE),
            (HUGE, (2, "is no slab policy")),
            ("", (2, "is no slab policy")),
            (MISSING, REQUIRED),
        ],
    ),
    ("--json", SWITCH),
];

const SOAK: &[Row] = &[
    ("--what", NAME),
    ("--seed", NUMBER),
    ("--program", NUMBER),
    ("--threads", THREAD_COUNT),
    ("--ops", COUNT),
    ("--seconds", COUNT),
    ("--json", SWITCH),
];

const SUBJECTS: [Subject; 4] = [
    Subject {
        name: "train_mlp",
        command: || Command::new(program("train_mlp")),
        others: &[&["--device", "host"], &["--hidden", "16"], &["--steps", "1"]],
        bare: &[],
        rows: TRAIN_MLP,
    },
    Subject { name: "plan", command: || Command::new(program("plan")), others: &[], bare: &["own.csv"], rows: PLAN },
    Subject {
        name: "replay",
        command: || Command::new(program("replay")),
        others: &[],
        bare: &["own.trace"],
        rows: REPLAY,
    },
    Subject {
        name: "soak",
        command: || Command::new(program("soak")),
        others: &[&["--what", "space"], &["--seed", "1"], &["--ops", "1"], &["--seconds", "1"], &["--threads", "1"]],
        bare: &[],
        rows: SOAK,
    },
];

#[test]
fn every_option_takes_or_refuses_every_kind_of_value() {
    let plan = "id,lower,upper,size\n0,0,2,4096\n1,1,3,4096\n";
    table::check(&SUBJECTS, &[("own.csv", plan), ("own.trace", "a 0 4096\nf 0\n")]);
}

#[test]
fn no_option_is_left_out() {
    table::check_complete(&SUBJECTS);
}
