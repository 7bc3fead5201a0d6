//! Replays: what they count, and the example `replay` as its users meet it.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};

use crate::program;
use serde_json::Value;
use tensorpool::trace::{Progress, Trace, TraceBuilder, replay, replay_while};
use tensorpool::{Config, Placement, Pool, SlabPolicy, Virtual};

const MIB: u64 = 1 << 20;

const TRACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/traces");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

pub(crate) const NAMES: [&str; 14] = [
    "bert_base_b8_s128",
    "bert_base_b8_varlen",
    "gpt2_small_b2_s256",
    "gpt2_small_b4_s256_amp",
    "lenet_b64",
    "lstm_lm_varlen",
    "lstm_tagger_packed",
    "mlp_b1024_adam",
    "mlp_b128",
    "resnet18_b16_96",
    "resnet18_b16_multiscale",
    "resnet50_b8_160",
    "vit_small_b16_amp",
    "vit_tiny_b16",
];

pub(crate) fn file(name: &str) -> String {
    format!("{TRACES}/{name}.trace.gz")
}

pub(crate) fn bundled(name: &str) -> Trace {
    Trace::read(file(name)).unwrap().remove(0)
}

pub(crate) fn model(budget: u64, placement: Placement, slabs: SlabPolicy) -> tensorpool::Result<Pool<Virtual>> {
    Pool::with_backend(Virtual::default(), &Config::new(budget).placement(placement).slabs(slabs))
}

/// 4 MiB that stay, 1 MiB that goes, 1 MiB again, and 3 MiB.
pub(crate) fn tiny() -> Trace {
    let mut builder = TraceBuilder::new("tiny");
    builder.alloc(4 * MIB, "weights").unwrap();
    let first = builder.alloc(MIB, "x").unwrap();
    builder.step(1);
    builder.free(first).unwrap();
    builder.failure(1 << 50, "never");
    builder.alloc(MIB, "x").unwrap();
    builder.alloc(3 * MIB, "y").unwrap();
    builder.finish()
}

#[test]
fn a_replay_counts_what_the_pool_does() {
    let pool = model(16 * MIB, Placement::Exact, SlabPolicy::Single).unwrap();
    let found = replay(&tiny(), &pool).unwrap();
    assert_eq!((found.events, found.failures, found.live_peak_bytes), (5, 0, 8 * MIB));
    assert_eq!((found.reserved_peak_bytes, found.largest_free_run_bytes), (16 * MIB, 8 * MIB));
    assert_eq!((found.ratio(), found.largest_failure_bytes, found.first_failure.as_ref()), (Some(2.0), 0, None));
    assert!(found.ns_per_op() > 0.0);
    // What it held has come home.
    assert_eq!((pool.stats().live_bytes, pool.stats().allocations), (0, 4));

    let small = model(7 * MIB, Placement::Exact, SlabPolicy::Single).unwrap();
    let found = replay(&tiny(), &small).unwrap();
    assert_eq!((found.failures, found.largest_free_run_bytes), (1, 2 * MIB));
    assert_eq!((found.ratio(), found.largest_failure_bytes), (None, 3 * MIB));
    let why = found.first_failure.unwrap();
    assert!(why.starts_with("no room for 3,145,728 bytes"), "{why}");

    let closed = model(MIB, Placement::Exact, SlabPolicy::Growing).unwrap();
    let other = closed.clone();
    closed.close();
    assert!(replay(&tiny(), &other).is_err());
}

#[test]
fn a_replay_stops_when_it_is_told_to() {
    let trace = bundled("lstm_lm_varlen");
    let pool = model(1 << 40, Placement::Exact, SlabPolicy::Fixed(MIB)).unwrap();
    let mut told = Vec::new();
    let whole = replay_while(&trace, &pool, |progress| {
        told.push(progress);
        ControlFlow::Continue(())
    });
    assert!(whole.unwrap().is_some());
    assert_eq!(told.last(), Some(&Progress::Events(trace.events().len())));
    let pool = model(1 << 40, Placement::Exact, SlabPolicy::Fixed(MIB)).unwrap();
    assert_eq!(replay_while(&trace, &pool, |_| ControlFlow::Break(())).unwrap(), None);
}

#[test]
fn slabs_of_one_size_or_of_the_request() {
    let policy: SlabPolicy = "2MiB".parse().unwrap();
    assert_eq!((policy, policy.to_string()), (SlabPolicy::Fixed(2 * MIB), "2 MiB".into()));
    assert!("big".parse::<SlabPolicy>().unwrap_err().to_string().contains("or a size"));
    // 4 MiB for the weights; a slab of 2 MiB for each x in turn; 3 MiB for y.
    let pool = model(1 << 40, Placement::Exact, policy).unwrap();
    assert_eq!(replay(&tiny(), &pool).unwrap().reserved_peak_bytes, 9 * MIB);
    // The budget holds: what is left of it is the last slab.
    let pool = model(8 * MIB, Placement::Exact, policy).unwrap();
    assert_eq!(replay(&tiny(), &pool).unwrap().failures, 1);
    assert_eq!(pool.stats().reserved_peak_bytes, 6 * MIB);
}

pub(crate) fn run(args: &[&str]) -> Output {
    let output = Command::new(program("replay")).args(args).output().expect("the example starts");
    assert!(!text(&output.stderr).contains("panicked"), "{args:?}: {}", text(&output.stderr));
    output
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is text")
}

#[track_caller]
pub(crate) fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

const KEYS: [&str; 19] = [
    "trace",
    "events",
    "live_peak_bytes",
    "reserved_peak_bytes",
    "ratio",
    "min_budget_bytes",
    "min_ratio",
    "safe_bytes",
    "safe_ratio",
    "search_slabs",
    "failures",
    "largest_failure_bytes",
    "ns_per_op",
    "placement",
    "slabs",
    "planned",
    "recorded_failures",
    "recorded_largest_failure_bytes",
    "recorded_reserved_peak_bytes",
];

#[test]
fn objects_are_as_documented() {
    let (mlp, lenet) = (file("mlp_b128"), file("lenet_b64"));
    let stdout = succeeds(&[&mlp, &lenet, "--json", "--min-budget"]);
    let objects: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(objects.len(), 2);
    for (line, object) in stdout.lines().zip(&objects) {
        let places: Vec<_> = KEYS.iter().map(|key| line.find(&format!("\"{key}\":")).expect(key)).collect();
        assert!(places.is_sorted() && object.as_object().unwrap().len() == KEYS.len(), "{line}");
        let of = |key: &str| object[key].as_f64().expect(key);
        for (ratio, bytes) in
            [("ratio", "reserved_peak_bytes"), ("min_ratio", "min_budget_bytes"), ("safe_ratio", "safe_bytes")]
        {
            // A ratio is read from JSON with an error in its last digit.
            assert!((of(ratio) * of("live_peak_bytes") / of(bytes) - 1.0).abs() < 1e-12, "{ratio}: {line}");
        }
        assert!(of("ns_per_op") > 0.0 && of("min_ratio") >= 1.0 && of("safe_ratio") >= of("min_ratio"), "{line}");
        assert_eq!((&object["placement"], &object["planned"]), (&"exact".into(), &false.into()));
        // Slabs of the replay beside the search are 1/64 of the peak, rounded up, or 64 KiB.
        let slab_bytes = ((of("live_peak_bytes") as u64 / 64).max(64 << 10)).next_power_of_two();
        assert_eq!((&object["search_slabs"], &object["slabs"]), (&"expanding".into(), &slab_bytes.to_string().into()));
        assert_eq!((&object["failures"], &object["recorded_failures"]), (&0.into(), &0.into()));
        assert_eq!(object["recorded_reserved_peak_bytes"], Value::Null);
    }
    assert_eq!((&objects[0]["trace"], &objects[1]["trace"]), (&"mlp_b128".into(), &"lenet_b64".into()));
    assert_eq!((&objects[0]["events"], &objects[0]["live_peak_bytes"]), (&264.into(), &8_980_656.into()));

    let stdout = succeeds(&[&mlp, "--json", "--placement", "power-of-two", "--slab", "1MiB"]);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    for key in ["min_budget_bytes", "min_ratio", "safe_bytes", "safe_ratio", "search_slabs"] {
        assert_eq!(object[key], Value::Null, "{key}");
    }
    assert_eq!(object["slabs"], "1048576");
    assert_eq!((&object["placement"], &object["failures"]), (&"power-of-two".into(), &0.into()));
    assert_eq!(object["reserved_peak_bytes"].as_u64().unwrap() % MIB, 0);
}

#[test]
fn the_table_has_a_row_a_trace_and_the_means() {
    let snapshot = format!("{DATA}/snapshot4.pickle");
    let stdout = succeeds(&[&file("mlp_b128"), &snapshot, "--min-budget"]);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], "backend virtual, placement exact, budget as much as needed, slabs of 1/64 of the peak");
    assert!(
        lines[1].starts_with("searched in an expanding slab: every budget tried from safe to twice the peak"),
        "{stdout}"
    );
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let rows = lines[5..].iter().filter_map(|line| first(line)).collect::<Vec<_>>();
    assert_eq!(rows[..5], ["mlp_b128", "snapshot4", "the", "1", "the"]);
    assert_eq!(rows[5..], ["snapshot4", "the", "snapshot4", "the", "the", "geometric"]);
    assert!(stdout.contains("the recorded program had 10 KiB reserved, 1.862 of that peak"), "{stdout}");
    assert!(stdout.contains("  the history begins with 1.27 KiB alive in 2 blocks\n"), "{stdout}");
    assert!(
        stdout.contains("  the history is missing: these blocks were alive when the snapshot was taken\n"),
        "{stdout}"
    );
    // Columns stand under each other.
    let widths: Vec<usize> = [4, 5, 6].map(|line: usize| lines[line].len()).into();
    assert!(widths.iter().all(|width| *width == widths[0] && *width <= 120), "{stdout}");
    // One trace has no mean.
    assert!(!succeeds(&[&file("mlp_b128")]).contains("geometric"));
}

#[test]
fn runs_and_steps_are_planned_on_request() {
    let object = |args: &[&str]| -> Value { serde_json::from_str(&succeeds(args)).unwrap() };
    let resnet = file("resnet18_b16_96");
    let planned = object(&[&resnet, "--planned", "--min-budget", "--json"]);
    let online = object(&[&resnet, "--min-budget", "--json"]);
    let of = |object: &Value, key: &str| object[key].as_f64().expect(key);
    assert_eq!((&planned["planned"], &planned["failures"]), (&true.into(), &0.into()));
    assert_eq!(planned["live_peak_bytes"], online["live_peak_bytes"]);
    assert!(of(&planned, "min_ratio") < 1.001 && of(&planned, "ratio") < 1.001, "{planned}");
    assert!(of(&planned, "min_ratio") < of(&online, "min_ratio"), "{planned} {online}");

    let auto = object(&[&resnet, "--auto", "--json"]);
    assert_eq!((&auto["planned"], &auto["failures"]), (&true.into(), &0.into()));
    // Two steps are written down, the third is planned but for its beginning, which belongs to the second.
    let text = succeeds(&[&resnet, "--auto", "--min-budget"]);
    assert!(text.contains("steps planned when they return"), "{text}");
    assert!(
        text.contains("3 steps: 0 exactly as planned, 2 profiled, 0 without room, 1 otherwise (1 plan, "),
        "{text}"
    );
    assert!(text.contains(", 714 allocations at planned places"), "{text}");
    // A snapshot has steps where the program said when the optimizer's end; without steps nothing is planned.
    let modern = succeeds(&[&format!("{DATA}/modern.pickle"), "--auto", "--json"]);
    let planned: Vec<Value> =
        modern.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["planned"].clone()).collect();
    assert_eq!(planned, [Value::from(true), Value::from(false)], "{modern}");
    let text = succeeds(&[&resnet, "--planned"]);
    assert!(text.contains("the whole planned ahead") && !text.contains("exactly"), "{text}");
}

#[test]
fn every_backend_gives_the_same_numbers() {
    let of = |backend: &str| -> Value {
        let stdout = succeeds(&[&file("mlp_b128"), "--json", "--budget", "16MiB", "--backend", backend]);
        let mut object: Value = serde_json::from_str(&stdout).unwrap();
        object["ns_per_op"] = Value::Null;
        object
    };
    assert_eq!(of("virtual"), of("host"));
}

#[test]
fn requests_that_fail_are_told_with_the_reason_and_are_an_exit_code() {
    let fails = |args: &[&str]| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", text(&output.stderr));
        (text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
    };
    let (mlp, lenet) = (file("mlp_b128"), file("lenet_b64"));
    let (stdout, stderr) = fails(&[&mlp, "--budget", "8MiB"]);
    assert!(stdout.contains("budget 8 MiB, an expanding slab"), "{stdout}");
    assert!(
        stderr.starts_with("error: mlp_b128: ") && stderr.contains(" allocations failed, the largest of "),
        "{stderr}"
    );
    assert!(stderr.contains("; the first: no room for "), "{stderr}");
    // What was reserved says nothing of a peak that was not reached.
    let row = stdout.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!((row[0], row[6]), ("mlp_b128", "-"), "{stdout}");
    assert_eq!(run(&[&mlp, "--budget", "16MiB"]).status.code(), Some(0));

    let (stdout, stderr) = fails(&[&mlp, &lenet, "--budget", "4MiB", "--json"]);
    for line in stdout.lines() {
        let object: Value = serde_json::from_str(line).unwrap();
        assert!(object["failures"].as_u64() > Some(0) && object["largest_failure_bytes"].as_u64() > Some(0), "{line}");
        assert_eq!(object["ratio"], Value::Null, "{line}");
    }
    assert!(stderr.contains("mlp_b128: ") && stderr.contains("\nlenet_b64: "), "{stderr}");

    // Memory that no machine has, without a budget.
    let huge = Path::new(env!("CARGO_TARGET_TMPDIR")).join("huge.trace");
    std::fs::write(&huge, "a 0 4096\na 1 1125899906842624\n").unwrap();
    let (stdout, stderr) = fails(&[huge.to_str().unwrap(), "--backend", "host", "--json"]);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&object["failures"], &object["largest_failure_bytes"]), (&1.into(), &(1u64 << 50).into()));
    assert!(stderr.contains("huge: 1 allocation of 1024 TiB failed") && stderr.contains("; the first: "), "{stderr}");
}

#[test]
fn an_empty_trace_has_no_ratio() {
    let empty = Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty.trace");
    std::fs::write(&empty, "# reserved_peak_bytes: 4096\n# step 1\n").unwrap();
    let (empty, mlp) = (empty.to_str().unwrap(), file("mlp_b128"));
    let object: Value = serde_json::from_str(&succeeds(&[empty, "--min-budget", "--json"])).unwrap();
    for key in ["ratio", "min_ratio", "safe_ratio"] {
        assert_eq!(object[key], Value::Null, "{key}");
    }
    assert_eq!((&object["min_budget_bytes"], &object["safe_bytes"]), (&0.into(), &0.into()));
    // Means leave it out.
    let stdout = succeeds(&[empty, &mlp, "--min-budget"]);
    let cells = |name: &str| -> Vec<String> {
        let line = stdout.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().filter(|cell| cell.parse::<f64>().is_ok()).map(str::to_owned).collect()
    };
    let (row, means) = (cells("mlp_b128"), cells("geometric mean"));
    assert_eq!(means[0], row[3], "{stdout}");
    assert_eq!((&means[2], &means[3]), (&row[8], &row[10]), "{stdout}");
    assert!(!stdout.contains("NaN") && !stdout.contains("inf"), "{stdout}");
    assert!(!succeeds(&[empty, empty]).contains("NaN"));
}

#[test]
fn broken_files_are_told_before_any_is_replayed() {
    let mlp = file("mlp_b128");
    let broken = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken.trace");
    std::fs::write(&broken, "a 0 100\na 1 many\n").unwrap();
    let broken = broken.to_str().unwrap();
    let output = run(&[&mlp, broken]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let message = format!("error: {broken}: line 2: expected \"a <id> <bytes> [<label>]\", found \"a 1 many\"\n");
    assert_eq!(text(&output.stderr), message);
    assert!(succeeds(&["--help"]).contains("Exit codes"));
}
