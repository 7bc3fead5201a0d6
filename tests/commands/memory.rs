//! Budgets in percent, and memory that is touched or locked, on the command lines.

use std::process::{Command, Output};

use serde_json::Value;
use tensorpool::ByteSize;

use crate::program;
use crate::replay::file;

const MIB: u64 = 1 << 20;

const SMALL: [&str; 6] = ["--device", "host", "--hidden", "16", "--steps", "1"];

fn run(name: &str, args: &[&str]) -> Output {
    Command::new(program(name)).args(args).env("NODEVICE_SELECT", "1").output().unwrap()
}

fn train(args: &[&str]) -> Output {
    run("train_mlp", &[&SMALL[..], args].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, part: &str) {
    let stderr = text(&output.stderr);
    assert!(output.status.code() == Some(code) && stderr.contains(part), "{:?}: {stderr}", output.status);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_budget_in_percent_is_of_this_machine() {
    let budget_bytes = |budget: &str| {
        let output = train(&["--json", "--budget", budget]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let event: Value = serde_json::from_str(text(&output.stdout).lines().next().unwrap()).unwrap();
        event["budget_bytes"].as_u64().unwrap()
    };
    let (more, less) = (budget_bytes("20%"), budget_bytes("10%"));
    // What is free changes from run to run, with whatever else the machine does.
    assert!(less > 4 * MIB && less < more && more < 8 * less, "{less} and {more}");
    let none = train(&["--budget", "0%"]);
    assert_eq!(none.status.code(), Some(3), "{}", text(&none.stderr));

    let output = run("replay", &[&file("mlp_b128"), "--backend", "host", "--budget", "50%"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!text(&output.stdout).contains("50%"), "the head has the bytes: {}", text(&output.stdout));
}

#[cfg(target_os = "linux")]
#[test]
fn touched_memory_is_resident() {
    // Of all memory that the process ever had.
    let peak_bytes = |args: &[&str]| {
        let stdout = text(&train(args).stdout);
        let line = stdout.lines().find_map(|line| line.strip_prefix("process: peak resident memory ")).unwrap();
        line.parse::<ByteSize>().unwrap().0
    };
    let (plain, touched) = (peak_bytes(&["--budget", "256MiB"]), peak_bytes(&["--budget", "256MiB", "--touch"]));
    assert!(plain < 256 * MIB && touched >= 256 * MIB, "{plain} and {touched}");
    fails(&train(&["--budget", "1000TiB", "--touch"]), 1, " is more than host has at the moment, ");
}

/// Under a limit of 64 KiB. A user with the right to lock more gives that up first.
#[cfg(target_os = "linux")]
#[test]
fn a_lock_over_the_limit_names_it() {
    /// The bit of `CAP_IPC_LOCK`.
    const IPC_LOCK: u64 = 1 << 14;
    let may_lock_all = |command: &str| {
        let command = format!("{command} grep CapEff: /proc/self/status");
        let status = text(&Command::new("sh").args(["-c", &command]).output().unwrap().stdout);
        u64::from_str_radix(status.trim_start_matches("CapEff:").trim(), 16)
            .map_or(true, |rights| rights & IPC_LOCK > 0)
    };
    let setpriv = "setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock ";
    let drops = if may_lock_all("") { setpriv } else { "" };
    if may_lock_all(drops) {
        println!("LEFT OUT: this user may lock all memory, and cannot give that up");
        return;
    }
    let limited = |name: &str, args: &[&str]| {
        let command = format!("ulimit -l 64 && exec {drops}\"$@\"");
        Command::new("sh").args(["-c", &command, "sh"]).arg(program(name)).args(args).output().unwrap()
    };
    let limit = "the limit of this process's locked memory (RLIMIT_MEMLOCK) is 65,536 bytes (64 KiB)";
    fails(&limited("train_mlp", &[&SMALL[..], &["--lock"]].concat()), 1, limit);
    let trace = file("mlp_b128");
    let replay = ["--backend", "host", "--budget", "64MiB", &trace];
    let output = limited("replay", &[&replay[..], &["--lock"]].concat());
    assert!(output.status.code() == Some(3) && text(&output.stderr).contains(limit), "{}", text(&output.stderr));
    // Without the option nothing is locked.
    assert_eq!(limited("replay", &replay).status.code(), Some(0));
}

#[cfg(feature = "gpu")]
#[test]
fn memory_of_a_gpu_is_neither_touched_nor_locked_nor_in_huge_pages() {
    for option in ["--touch", "--lock", "--huge-pages"] {
        let output = run("train_mlp", &["--device", "gpu", "--hidden", "16", "--steps", "1", option]);
        let stderr = text(&output.stderr);
        let is_left_out = std::env::var_os("TENSORPOOL_REQUIRE_GPU").is_none() && stderr.contains("no GPU adapter");
        let says_so = stderr.contains("cannot be touched or locked") || stderr.contains("has no huge pages");
        assert!(is_left_out || says_so, "{stderr}");
        assert_eq!(output.status.code(), Some(1));
    }
}

/// With a limit on its addresses a process gets none beyond the budget: slabs grow, and the replay says so.
#[cfg(target_os = "linux")]
#[test]
fn without_addresses_a_replay_has_growing_slabs() {
    let replay = |limit_kib: &str, args: &str| {
        let (program, trace) = (program("replay"), file("mlp_b128"));
        let line = format!("ulimit -v {limit_kib} && exec '{}' '{trace}' --backend host {args}", program.display());
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    // Twice the budget is more than there may be.
    let (little, ample) = ("8388608", "unlimited");
    let slabs = |limit: &str| {
        let row: Value = serde_json::from_str(&replay(limit, "--budget 7GiB --json")).unwrap();
        row["slabs"].clone()
    };
    assert_eq!((slabs(little), slabs(ample)), ("growing".into(), "expanding".into()));
    let note = "the system refused the addresses of an expanding slab: the replay had growing slabs";
    assert!(replay(little, "--budget 7GiB").contains(note));
    assert!(!replay(ample, "--budget 7GiB").contains(note));
}
