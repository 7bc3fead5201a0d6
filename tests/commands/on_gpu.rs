//! `scripts/on_gpu`: that every part has figures, and that a part which fails or hangs costs its own figures only.
//!
//! `threads` needs the race, which only `scripts/test` builds: it runs that part.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::program;
use crate::stop::{Ended, Running};
use crate::support::{gpu, until};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/on_gpu");

/// A folder such as `--build` makes, which goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("on_gpu-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        symlink(program("on_gpu"), path.join("on_gpu")).unwrap();
        Self(path)
    }

    /// Puts a shell script in the place of a program.
    fn fake(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SCRIPT);
        command.arg(&self.0).args(args).arg("--out").arg(self.0.join("out"));
        command
    }

    fn report(&self) -> (Value, String) {
        let read = |name: &str| fs::read_to_string(self.0.join("out").join(name)).unwrap();
        (serde_json::from_str(&read("on_gpu.json")).unwrap(), read("on_gpu.md"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// The entry of a part.
fn part<'a>(json: &'a Value, name: &str) -> &'a Value {
    json["parts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|part| part["part"] == name)
        .unwrap_or_else(|| panic!("{name}: {json}"))
}

#[test]
fn every_part_has_figures() {
    let Some(device) = gpu::device("every_part_has_figures") else { return };
    let folder = Folder::new("figures");
    symlink(program("train_mlp"), folder.0.join("train_mlp")).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/train_mlp/data");
    symlink(data, folder.0.join("data")).unwrap();
    let parts = ["adapter", "training", "kernels", "frees", "fill", "dispatch", "transfers", "budgets"];
    let output = folder.command(&["--small", "--only", &parts.join(",")]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let (json, table) = folder.report();
    assert_eq!((&json["version"], &json["small"]), (&1.into(), &true.into()));
    assert!(json["date"].as_str().is_some_and(|date| date.ends_with('Z')), "{json}");
    let adapter = json["adapter"]["name"].as_str().unwrap();
    assert_eq!(adapter, device.device().adapter_info().name);
    assert!(table.starts_with(adapter), "{table}");
    for name in parts {
        let part = part(&json, name);
        let figures = part["figures"].as_array().unwrap();
        assert!(part["failed"].is_null() && figures.len() >= 8, "{part}");
        let rows = table.lines().filter(|line| line.starts_with(&format!("| {name} |"))).count();
        assert_eq!(rows, figures.len(), "{table}");
        for figure in figures {
            assert!(!figure["value"].is_null() && figure["met"] != false, "{name}: {figure}");
        }
        let has_criterion = figures.iter().any(|figure| figure["must"].is_string());
        assert_eq!(has_criterion, name != "adapter", "{part}");
    }
}

#[test]
fn a_part_that_fails_or_hangs_is_a_row_and_the_next_one_begins() {
    let folder = Folder::new("failures");
    folder.fake("train_mlp", "echo waits for the driver >&2; exec sleep 600");
    folder.fake("race", "echo no luck >&2; exit 3");
    let only = ["--only", "training,threads", "--part-seconds", "1"];
    let output = folder.command(&only).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let (json, table) = folder.report();
    for (name, why) in [("training", "cut off after 1 s: waits for the driver"), ("threads", "exit status: 3: no luck")]
    {
        assert_eq!(part(&json, name)["failed"], why);
        assert!(table.contains(&format!("| failed: {why} |")), "{table}");
    }
    // What prints nothing, and what is not there, has failed too.
    folder.fake("train_mlp", "exit 0");
    fs::remove_file(folder.0.join("race")).unwrap();
    let output = folder.command(&only).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let (json, _) = folder.report();
    assert_eq!(part(&json, "training")["failed"], "train_mlp printed no end");
    let failed = part(&json, "threads")["failed"].as_str().unwrap();
    assert!(failed.contains("race does not start"), "{failed}");
}

/// A figure that is not as it must be is no failure of its part, and yet the exit code tells.
#[test]
fn a_figure_that_is_not_as_it_must_be_is_told() {
    let folder = Folder::new("unmet");
    let end = r#"{"event":"end","steps":620,"test_accuracy":0.1,"step_median_ms":1.5,"budget_bytes":100,"#;
    let sizes = r#""reserved_peak_bytes":101,"live_peak_bytes":90,"wgpu_allocated_bytes":null}"#;
    folder.fake("train_mlp", &format!("echo '{end}{sizes}'"));
    let output = folder.command(&["--only", "training"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("2 of them not as they must be"), "{}", text(&output));
    let (json, table) = folder.report();
    assert!(part(&json, "training")["failed"].is_null());
    assert!(table.contains("| training | test accuracy | 0.100 | at least 0.945 | no |"), "{table}");
    assert!(table.contains("| training | the pool's peak: reserved | 101 B | at most 100 | no |"), "{table}");
}

#[test]
fn ctrl_c_ends_the_part_that_runs_and_keeps_the_report() {
    let folder = Folder::new("stopped");
    let id = folder.0.join("id");
    folder.fake("train_mlp", &format!("echo $$ > '{0}.new' && mv '{0}.new' '{0}'; exec sleep 600", id.display()));
    let mut run = Running::start(&mut folder.command(&["--only", "training,threads"]));
    until(|| id.exists());
    run.signal("INT");
    let Ended { code, stdout, stderr } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(130), ""), "{stdout}");
    let (json, _) = folder.report();
    assert_eq!(part(&json, "training")["failed"], "stopped by Ctrl-C");
    assert_eq!(part(&json, "threads")["failed"], "stopped by Ctrl-C");
    let is_there = Command::new("kill").args(["-0", fs::read_to_string(&id).unwrap().trim()]).output().unwrap();
    assert!(!is_there.status.success(), "the part still runs");
}

#[test]
fn what_the_script_does_not_take_is_refused() {
    let folder = Folder::new("usage");
    for (args, code, part) in [
        (&["--quick"][..], 2, "there is no option --quick"),
        (&["--debug"], 2, "--debug is for --build"),
        (&["--only"], 2, "needs a value"),
        (&["more"], 2, "two folders"),
        (&["--part-seconds", "0"], 2, "it must be a whole number from 1 to 2^64 - 1"),
        (&["--gpu-memory", "5apples"], 2, "the unit is unknown"),
        (&["--gpu-memory", "101%"], 2, "it is more than 100%"),
        (&["--only", "luck"], 1, "no part is called \"luck\": adapter, training, "),
    ] {
        let output = Command::new(SCRIPT).arg(&folder.0).args(args).output().unwrap();
        assert!(output.status.code() == Some(code) && text(&output).contains(part), "{args:?}: {}", text(&output));
    }
    let empty = folder.0.join("empty");
    fs::create_dir(&empty).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for (place, args, part) in [
        (&empty, &[][..], "is not there: --build makes it"),
        // A folder that has nothing of the build, or only some, is never replaced.
        (&empty, &["--build"], "is not from this script"),
        (&folder.0, &["--build"], "is not from this script"),
        (&examples, &["--build"], "is not from this script"),
    ] {
        let output = Command::new(SCRIPT).arg(place).args(args).output().unwrap();
        assert!(output.status.code() == Some(2) && text(&output).contains(part), "{args:?}: {}", text(&output));
    }
    let output = Command::new(SCRIPT).arg("--help").output().unwrap();
    assert!(output.status.success() && text(&output).contains("--build"), "{}", text(&output));
}
