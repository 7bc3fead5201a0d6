//! Lines of every command fit a terminal of 60, 80 or 120 columns, and a pipe has all columns of a table.

use std::process::Command;

use crate::program;
use crate::replay::file;

/// What a command prints where the terminal has so many columns, or into a pipe.
fn printed(name: &str, args: &[&str], columns: Option<usize>) -> String {
    let mut command = Command::new(program(name));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("COLUMNS");
    if let Some(columns) = columns {
        command.env("COLUMNS", columns.to_string());
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn lines_fit_the_terminal() {
    let (mlp, multiscale) = (file("mlp_b128"), file("resnet18_b16_multiscale"));
    let plan = ["planning/minimalloc/K.1048576.csv", "planning/somas/resnet50.csv.gz", "--steps", "0"];
    let saved = format!("{}/width-{}.safetensors", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let deep = "64,64,64,64,64,64,64,64";
    printed("train_mlp", &["--device", "host", "--hidden", deep, "--steps", "3", "--save", &saved], None);
    for columns in [60, 80, 120] {
        for (name, args) in [
            ("train_mlp", &["--device", "host", "--steps", "70", "--log-every", "20"][..]),
            ("train_mlp", &["--device", "host", "--step", "ordinary", "--hidden", "64", "--epochs", "2"]),
            ("train_mlp", &["--device", "host", "--resume", &saved, "--steps", "1000"]),
            ("plan", &plan),
            ("replay", &[&mlp, &multiscale]),
            ("replay", &[&mlp, &multiscale, "--auto", "--min-budget"]),
            ("replay", &[&mlp, "tests/data/snapshot4.pickle", "--min-budget", "--slab", "single"]),
            ("soak", &["--what", "space", "--ops", "1", "--threads", "1"]),
        ] {
            let text = printed(name, args, Some(columns));
            for line in text.lines() {
                assert!(line.chars().count() <= columns, "{name} {args:?} in {columns}: {line:?}\n{text}");
            }
        }
    }
    std::fs::remove_file(saved).unwrap();
}

/// What is left out for a narrow terminal is there in a pipe, and what is asked for is never left out.
#[test]
fn a_pipe_has_every_column() {
    let mlp = file("mlp_b128");
    let replay = |columns| printed("replay", &[&mlp, "--min-budget"], columns);
    for name in ["events", "reserved", "free run", "failed", "ns an", "safe", "lowest"] {
        assert!(replay(None).contains(name) && replay(Some(120)).contains(name), "{name}");
    }
    let narrow = replay(Some(60));
    assert!(narrow.contains("safe") && narrow.contains("live") && !narrow.contains("free run"), "{narrow}");
    let path = "planning/minimalloc/K.1048576.csv";
    let plan = |columns| printed("plan", &[path, "--steps", "0"], columns);
    assert!(plan(None).contains(path) && plan(None).contains("seconds"), "{}", plan(None));
    let narrow = plan(Some(60));
    assert!(narrow.contains("…") && narrow.contains("K.1048576.csv") && narrow.contains("gap"), "{narrow}");
}
