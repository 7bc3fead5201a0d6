//! The example `train_mlp` as its users meet it: its exit codes, its output, its memory, and what it learns.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::program;
use crate::support::say;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;
use tensorpool::nn::{Allocator, Needs, Optimizer, Settings, StepKind, needs};
use tensorpool::trace::{Event, Trace};
use tensorpool::{ByteSize, Host};

pub(crate) const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/train_mlp/data");

/// The four files, as they are bundled.
const FILES: [&str; 4] =
    ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t-images-idx3-ubyte.gz", "t-labels-idx1-ubyte.gz"];

const WAYS: [(StepKind, Allocator); 4] = [
    (StepKind::Frugal, Allocator::Pool),
    (StepKind::Ordinary, Allocator::Pool),
    (StepKind::Frugal, Allocator::Naive),
    (StepKind::Ordinary, Allocator::Naive),
];

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(program("train_mlp"));
    // A layer of Mesa's that writes to standard error.
    command.args(args).env("NODEVICE_SELECT", "1");
    command
}

/// What one run did.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Runs the example on the host, on the bundled digits unless the arguments say otherwise.
    pub(crate) fn host(args: &str) -> Self {
        Self::with(&["--device", "host"], args)
    }

    pub(crate) fn on_data(folder: &Path, args: &str) -> Self {
        Self::with(&["--device", "host", "--data", folder.to_str().expect("the path is text")], args)
    }

    pub(crate) fn with(first: &[&str], args: &str) -> Self {
        let args: Vec<&str> = first.iter().copied().chain(args.split_whitespace()).collect();
        let output = command(&args).output().expect("the example starts");
        let text = |bytes| String::from_utf8(bytes).expect("the output is text");
        let run = Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(!run.stderr.contains("panicked"), "{args:?}: {}", run.stderr);
        run
    }

    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    /// Every line is an object.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The events of this name.
    #[track_caller]
    pub(crate) fn events_named(&self, name: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["event"] == name).collect()
    }

    #[track_caller]
    pub(crate) fn end(&self) -> Value {
        self.events_named("end").pop().unwrap_or_else(|| panic!("no end: {}{}", self.stdout, self.stderr))
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

#[track_caller]
fn assert_keys(event: &Value, keys: &[&str]) {
    let found: Vec<&String> = event.as_object().expect("an event is an object").keys().collect();
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    assert_eq!(found, keys, "{event}");
}

fn settings(hidden: &[usize], optimizer: Optimizer) -> Settings {
    let widths = [&[784], hidden, &[10]].concat();
    Settings { widths, batch: 128, optimizer, learning_rate: 0.1, seed: 1 }
}

fn computed(hidden: &[usize], optimizer: Optimizer, (step, allocator): (StepKind, Allocator)) -> Needs {
    needs(&Host, &settings(hidden, optimizer), step, allocator).unwrap()
}

#[test]
fn events_are_as_documented() {
    let run = Run::host("--json --steps 63 --hidden 32,16 --log-every 30").succeeds();
    let events = run.events();
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(names, ["start", "step", "step", "epoch", "epoch", "end"]);

    let start = &events[0];
    assert!(run.stdout.starts_with(r#"{"event":"start","device":"host","adapter":"host","#), "{}", run.stdout);
    let keys =
        ["event", "device", "adapter", "allocator", "step", "plan", "budget_bytes", "parameters", "needed_bytes"]
            .as_slice();
    assert_keys(start, keys);
    assert_eq!((&start["allocator"], &start["step"]), (&"pool".into(), &"frugal".into()));
    assert_eq!(start["budget_bytes"], 6 << 20);
    assert_eq!(start["parameters"], 785 * 32 + 33 * 16 + 17 * 10);
    let needs = computed(&[32, 16], Optimizer::MOMENTUM, WAYS[0]);
    assert_eq!(start["needed_bytes"], needs.budget_bytes);

    assert_keys(&events[1], &["event", "step", "loss"]);
    assert_eq!((&events[1]["step"], &events[2]["step"]), (&30.into(), &60.into()));
    for (epoch, number) in [(&events[3], 1), (&events[4], 2)] {
        assert_keys(epoch, &["event", "epoch", "loss", "test_accuracy"]);
        assert_eq!(epoch["epoch"], number);
        assert!(epoch["loss"].as_f64().is_some_and(|loss| loss > 0.0 && loss < 3.0), "{epoch}");
        assert!(epoch["test_accuracy"].as_f64().is_some_and(|share| share > 0.5 && share < 1.0), "{epoch}");
    }

    let end = &events[5];
    let sizes = ["budget_bytes", "reserved_peak_bytes", "live_peak_bytes", "planned_peak_bytes", "naive_peak_bytes"];
    let own = ["event", "steps", "loss", "test_accuracy", "stopped", "seconds", "step_median_ms"];
    let wgpu = ["wgpu_allocated_bytes", "wgpu_reserved_bytes"];
    assert_keys(end, &[own.as_slice(), &sizes, &wgpu].concat());
    assert!(end["step_median_ms"].as_f64().is_some_and(|median| median > 0.0), "{end}");
    assert!(wgpu.iter().all(|key| end[key].is_null()), "the host has no wgpu: {end}");
    assert_eq!((&end["steps"], &end["loss"]), (&63.into(), &events[4]["loss"]));
    assert_eq!((&end["test_accuracy"], &end["stopped"]), (&events[4]["test_accuracy"], &false.into()));
    assert_eq!(end["live_peak_bytes"], needs.live_peak_bytes);
    assert_eq!((&start["plan"], &end["planned_peak_bytes"]), (&"auto".into(), &needs.live_peak_bytes.into()));
    assert_eq!(end["naive_peak_bytes"], computed(&[32, 16], Optimizer::MOMENTUM, WAYS[3]).live_peak_bytes);
    assert_eq!((&end["budget_bytes"], &end["reserved_peak_bytes"]), (&(6 << 20).into(), &(6 << 20).into()));
    assert!(end["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{end}");
    assert_eq!(run.stderr, "");
}

#[test]
fn text_has_the_needs_before_and_the_four_ways_after() {
    let run = Run::host("--steps 2 --hidden 20 --step ordinary").succeeds();
    for part in ["parameters", "optimizer", "activations", "workspace", "staging", "rounding", "smallest budget"] {
        assert!(run.stdout.contains(&format!("\n  {part}")), "{part}: {}", run.stdout);
    }
    // Each size is a number and a unit.
    let sizes = |line: &str| -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.windows(2).filter(|pair| pair[1].ends_with('B')).map(|pair| pair.join(" ")).collect()
    };
    let mut lines = run.stdout.lines();
    let this = lines.by_ref().find(|line| line.starts_with("> ")).expect("one way is marked");
    let measured = lines.next().unwrap();
    assert!(this.contains("ordinary") && this.contains("pool"), "{this}");
    assert!(measured.contains("measured") && sizes(measured) == sizes(this)[..2], "{this}\n{measured}");
    for way in WAYS {
        let needs = computed(&[20], Optimizer::MOMENTUM, way);
        let (step, allocator) = (way.0.to_string(), way.1.to_string());
        let mut lines = run.stdout.lines().skip_while(|line| !line.starts_with("the four ways"));
        let line = lines.find(|line| line.contains(&step) && line.contains(&allocator)).expect("the way has a line");
        let [live, _, budget] = &sizes(line)[..] else { panic!("{line}") };
        assert_eq!((live, budget), (&size(needs.live_peak_bytes), &size(needs.budget_bytes)), "{line}");
    }
    assert!(run.stdout.contains("process: peak resident memory") && !run.stdout.contains("wgpu"), "{}", run.stdout);
    assert_eq!(run.stderr, "");
}

#[test]
fn a_budget_too_small_is_refused_with_what_would_do() {
    let run = Run::host("--json --budget 4MiB");
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    let events = run.events();
    assert_eq!(events.len(), 1, "nothing was begun: {}", run.stdout);
    assert_keys(&events[0], &["event", "kind", "message", "needed_bytes"]);
    let needed = computed(&[512, 256], Optimizer::MOMENTUM, WAYS[0]).budget_bytes;
    assert_eq!((&events[0]["event"], &events[0]["kind"]), (&"error".into(), &"budget".into()));
    assert_eq!(events[0]["needed_bytes"], needed);
    let message = events[0]["message"].as_str().unwrap();
    assert!(message.contains("4,194,304 bytes (4 MiB) is too small"), "{message}");
    for part in [message, &format!("--budget {}KiB", needed / 1024), "--optimizer sgd", "--hidden 256,128"] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    // What is listed fits, and what does not is not listed.
    let listed = |stderr: &str| -> Vec<String> {
        let options = stderr.lines().filter_map(|line| line.strip_prefix("  or ")?.split(", which needs ").next());
        options.map(str::to_owned).collect()
    };
    assert_eq!(listed(&run.stderr).len(), 2, "{}", run.stderr);
    for option in listed(&run.stderr) {
        Run::host(&format!("--budget 4MiB --steps 1 {option}")).succeeds();
    }
    let run = Run::host("--budget 0");
    assert_eq!((run.code, listed(&run.stderr).len()), (Some(3), 0), "{}", run.stderr);

    // The ordinary step does not fit in the default budget, and the frugal one does.
    let run = Run::host("--allocator naive");
    assert_eq!(run.code, Some(3));
    assert!(run.stderr.contains("--step frugal") && run.stderr.contains("--allocator pool"), "{}", run.stderr);
    Run::host("--allocator naive --step frugal --steps 1").succeeds();
}

/// At the smallest budget it trains and tests, with the peaks that were computed; 1 KiB less is refused.
#[test]
fn the_smallest_budget_is_enough_and_the_smallest() {
    for (optimizer, rule) in [("sgd", Optimizer::Sgd), ("momentum", Optimizer::MOMENTUM), ("adam", Optimizer::ADAM)] {
        for (step, allocator) in WAYS {
            let way = format!("--json --optimizer {optimizer} --step {step} --allocator {allocator} --hidden 100,50");
            let needs = computed(&[100, 50], rule, (step, allocator));
            let run = Run::host(&format!("{way} --steps 5 --budget {}", needs.budget_bytes)).succeeds();
            let end = run.end();
            assert_eq!(run.events()[0]["needed_bytes"], needs.budget_bytes, "{way}");
            assert_eq!(end["live_peak_bytes"], needs.live_peak_bytes, "{way}");
            assert!(end["reserved_peak_bytes"].as_u64().unwrap() <= needs.budget_bytes, "{way}: {end}");
            let run = Run::host(&format!("{way} --budget {}KiB", needs.budget_bytes / 1024 - 1));
            assert_eq!(run.code, Some(3), "{way}: {}", run.stderr);
        }
    }
}

#[test]
fn one_seed_gives_one_run() {
    let run = |seed: u64, budget: &str| {
        let args = format!("--json --steps 30 --log-every 1 --hidden 64 --seed {seed} --budget {budget}");
        let run = Run::host(&args).succeeds();
        run.events_named("step").iter().map(|step| step["loss"].as_f64().unwrap().to_bits()).collect::<Vec<_>>()
    };
    let first = run(3, "6MiB");
    assert_eq!(first.len(), 30);
    assert_eq!(run(3, "6MiB"), first);
    assert_eq!(run(3, "9MiB"), first);
    assert_ne!(run(4, "6MiB"), first);
}

/// Planned steps are the same steps: every loss has the same bits, in the smallest budget too.
#[test]
fn planned_steps_train_the_same() {
    for step in ["frugal", "ordinary"] {
        let budget =
            computed(&[64], Optimizer::MOMENTUM, if step == "frugal" { WAYS[0] } else { WAYS[1] }).budget_bytes;
        let run = |plan: &str, budget: u64| {
            let args =
                format!("--json --epochs 2 --log-every 1 --hidden 64 --step {step} --plan {plan} --budget {budget}");
            let run = Run::host(&args).succeeds();
            let losses: Vec<u64> =
                run.events_named("step").iter().map(|step| step["loss"].as_f64().unwrap().to_bits()).collect();
            (losses, run.events_named("epoch"), run.end())
        };
        let (losses, epochs, end) = run("off", budget);
        assert!(losses.len() > 100 && end["planned_peak_bytes"].is_null(), "{end}");
        for budget in [budget, budget + (1 << 20)] {
            let (planned_losses, planned_epochs, planned_end) = run("auto", budget);
            assert_eq!((planned_losses, planned_epochs), (losses.clone(), epochs.clone()), "{step} in {budget}");
            assert_eq!(planned_end["live_peak_bytes"], end["live_peak_bytes"]);
            assert_eq!(planned_end["planned_peak_bytes"], end["live_peak_bytes"]);
        }
    }
    let text = Run::host("--epochs 2 --hidden 64").succeeds().stdout;
    // Not the first two, the one after which the first epoch is tested, the 13 after it, and the last, which no other ends.
    let counts =
        text.lines().skip_while(|line| *line != "planned").skip(1).take(4).map(str::trim_start).collect::<Vec<_>>();
    assert_eq!(
        counts,
        ["124 steps", "107   exactly as planned", "1   profiled", "16   otherwise, or not ended"],
        "{text}"
    );
    let naive = Run::host("--json --steps 1 --hidden 20 --allocator naive").succeeds();
    assert_eq!(naive.events()[0]["plan"], "off");
}

/// A folder of the test's own, which goes with it.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("example-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// With a few images of the bundled digits: 256 to train with, 100 to test with.
    pub(crate) fn small(name: &str) -> Self {
        let folder = Self::new(name);
        for (file, count) in FILES.iter().zip([256, 256, 100, 100]) {
            folder.write(file, &small(file, count));
        }
        folder
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(file), bytes).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn unpacked(file: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(Path::new(DATA).join(file)).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn idx(sizes: &[u32], content: &[u8]) -> Vec<u8> {
    let words = std::iter::once(0x0800 | sizes.len() as u32).chain(sizes.iter().copied());
    words.flat_map(u32::to_be_bytes).chain(content.iter().copied()).collect()
}

/// The first images or labels of a bundled file, unpacked.
fn small(file: &str, count: u32) -> Vec<u8> {
    let bytes = unpacked(file);
    match file.contains("images") {
        true => idx(&[count, 28, 28], &bytes[16..][..count as usize * 784]),
        false => idx(&[count], &bytes[8..][..count as usize]),
    }
}

#[test]
fn files_may_be_unpacked_and_named_as_full_mnist_is() {
    let expected = Run::host("--json --steps 20 --hidden 16 --log-every 1").succeeds();
    let (plain, packed_names) = (Folder::new("plain"), Folder::new("t10k"));
    for file in FILES {
        let full_name = file.replace("t-", "t10k-").replace(".gz", "");
        let bytes = unpacked(file);
        plain.write(&full_name, &bytes);
        packed_names.write(&format!("{full_name}.gz"), &packed(&bytes));
    }
    for folder in [&plain, &packed_names] {
        let run = Run::on_data(&folder.0, "--json --steps 20 --hidden 16 --log-every 1").succeeds();
        assert_eq!(run.events_named("step"), expected.events_named("step"));
        assert_eq!(run.end()["test_accuracy"], expected.end()["test_accuracy"]);
    }
    // Files of which only the names say that they are packed.
    let run = Run::on_data(&Folder::small("small").0, "--json --hidden 16 --epochs 3").succeeds();
    assert_eq!(run.end()["steps"], 6);
}

/// Every failure of a file is an error with its name, and no panic, whatever the header says.
#[test]
fn damaged_files_are_errors_with_their_names() {
    let [train_images, train_labels, test_images, test_labels] = FILES;
    let images = small(test_images, 100);
    let labels = small(test_labels, 100);
    let gz = packed(&images);
    let mut wrong_check = gz.clone();
    *wrong_check.iter_mut().nth_back(5).unwrap() ^= 1;
    let mut wrong_label = labels.clone();
    wrong_label[8 + 17] = 10;
    let cases: &[(&str, &str, &[u8], &str)] = &[
        ("cut in the header", test_images, &images[..10], "header ends"),
        ("empty", test_labels, &[], "header ends"),
        ("cut", test_images, &images[..images.len() - 1], "78400 bytes, but the file has 78399"),
        ("too long", test_labels, &[&labels[..], &[0]].concat(), "100 bytes, but the file has more"),
        ("cut when packed", test_images, &gz[..gz.len() / 2], "78400 bytes, and after"),
        ("checksum", test_images, &wrong_check, "corrupt"),
        ("other kind", test_images, &labels, "0x00000801, not 0x00000803"),
        ("no IDX", train_labels, b"<html>not found</html>", "magic number is 0x3c68746d"),
        ("no images", train_images, &idx(&[0, 28, 28], &[]), "[0, 28, 28]: nothing"),
        ("overflow", train_images, &idx(&[u32::MAX; 3], &[1; 99]), "[4294967295, 4294967295, 4294967295]"),
        ("huge", train_images, &idx(&[1 << 20, 32, 32], &[1; 99]), "1073741824 bytes, but the file has 99"),
        ("other size", test_images, &idx(&[100, 14, 14], &[0; 100 * 196]), "784 pixels, test images of 196"),
        ("fewer labels", test_labels, &small(test_labels, 99), "99 labels for the 100 images of"),
        ("label", test_labels, &wrong_label, "label 17 is 10, not 0 to 9"),
    ];
    for (name, file, bytes, problem) in cases {
        let folder = Folder::small(&format!("damaged-{}", name.replace(' ', "-")));
        folder.write(file, bytes);
        let run = Run::on_data(&folder.0, "--json --hidden 16");
        assert_eq!(run.code, Some(1), "{name}: {}{}", run.stdout, run.stderr);
        let events = run.events();
        let message = events[0]["message"].as_str().unwrap();
        assert!(message.contains(problem), "{name}: {message}");
        // Two files that do not fit together are told by their folder.
        let told = if *name == "other size" { folder.0.file_name().unwrap().to_str().unwrap() } else { file };
        assert!(message.contains(told) && run.stderr.contains(message), "{name}: {message}");
        assert!(events.len() == 1 && events[0]["kind"] == "data" && events[0]["needed_bytes"].is_null(), "{events:?}");
    }
}

#[test]
fn missing_files_are_errors_with_their_names() {
    let run = Run::on_data(Path::new("/no/such/folder"), "");
    assert!(run.code == Some(1) && run.stderr.contains("/no/such/folder: no such folder"), "{}", run.stderr);
    for file in FILES {
        let folder = Folder::small(&format!("missing-{file}"));
        std::fs::remove_file(folder.0.join(file)).unwrap();
        let run = Run::on_data(&folder.0, "");
        assert!(run.code == Some(1) && run.stderr.contains(file), "{file}: {}", run.stderr);
        std::fs::create_dir(folder.0.join(file)).unwrap();
        let run = Run::on_data(&folder.0, "");
        assert!(run.code == Some(1) && run.stderr.contains(file), "{file} is a folder: {}", run.stderr);
    }
}

#[test]
fn other_failures_have_their_codes() {
    for (args, code, kind) in [
        ("--batch 9000", 1, "settings"),
        ("--hidden 4000000000", 1, "settings"),
        ("--budget 4MiB", 3, "budget"),
        ("--lr 1e9", 4, "diverged"),
        ("--lr 1000 --epochs 2 --hidden 64", 4, "diverged"),
        ("--colour red", 2, "usage"),
    ] {
        let run = Run::host(&format!("{args} --json"));
        assert_eq!(run.code, Some(code), "{args}: {}", run.stderr);
        let error = run.events_named("error").pop().unwrap_or_else(|| panic!("{args}: {}", run.stdout));
        assert_eq!(error["kind"], kind, "{args}: {error}");
        assert!(run.stderr.starts_with("error: "), "{args}: {}", run.stderr);
    }
    let help = Run::host("--help").succeeds().stdout;
    let options = ["device", "budget", "hidden", "batch", "optimizer", "lr", "epochs", "steps", "seed", "data", "step"];
    for option in options.into_iter().chain(["trace", "plan"]) {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("--{option} <"))), "{option}: {help}");
    }
    assert!(help.contains("Examples") && help.lines().all(|line| line.len() <= 120), "{help}");
}

/// Steps and labels are in it, and its peak is the run's.
#[test]
fn the_trace_is_the_run() {
    let path = std::env::temp_dir().join(format!("tensorpool-example-{}.trace.gz", std::process::id()));
    let run = Run::host(&format!("--hidden 32 --steps 5 --json --trace {}", path.display())).succeeds();
    let trace = Trace::read(&path).unwrap().remove(0);
    std::fs::remove_file(&path).unwrap();
    let steps = trace.events().iter().filter(|event| matches!(event, Event::Step { .. })).count();
    assert_eq!(steps, 5);
    let is_weights = |event: &Event| matches!(event, Event::Alloc { label, .. } if trace.label(*label) == "weights 1");
    assert_eq!(trace.events().iter().filter(|event| is_weights(event)).count(), 1);
    let end = run.events_named("end").pop().unwrap();
    assert_eq!(end["live_peak_bytes"], trace.live_peak_bytes());
    let run = Run::host("--steps 1 --json --trace /nowhere/at/all.trace");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("/nowhere/at/all.trace"), "{}", run.stderr);
}

/// As under `| head -1`.
#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut command = command(&["--device", "host", "--hidden", "16", "--log-every", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

/// With the defaults at least 94% for each seed, 95% in the mean; for seed 1 unless `TENSORPOOL_LONG=1`.
#[test]
fn ten_epochs_reach_their_accuracy() {
    let long = std::env::var_os("TENSORPOOL_LONG").is_some_and(|value| value != "0");
    let seeds: &[u64] = if long { &[1, 2, 3, 4, 5] } else { &[1] };
    let mut sum = 0.0;
    for seed in seeds {
        let end = Run::host(&format!("--json --seed {seed}")).succeeds().end();
        let (accuracy, seconds) = (end["test_accuracy"].as_f64().unwrap(), end["seconds"].as_f64().unwrap());
        say(&format!("seed {seed}: {:.2}% in {seconds:.1} s", 100.0 * accuracy));
        assert!(accuracy >= 0.94, "seed {seed}: {accuracy}");
        sum += accuracy;
    }
    let mean = sum / seeds.len() as f64;
    assert!(!long || mean >= 0.95, "a mean of {mean}");
}

#[cfg(feature = "gpu")]
mod gpu {
    use super::*;
    use crate::support::gpu;

    fn run(args: &str) -> Run {
        Run::with(&["--device", "gpu"], args).succeeds()
    }

    #[test]
    fn the_loss_follows_the_hosts_over_fifty_steps() {
        if gpu::device("the_loss_follows_the_hosts_over_fifty_steps").is_none() {
            return;
        }
        let losses = |run: Run| -> Vec<f64> {
            run.events_named("step").iter().map(|step| step["loss"].as_f64().unwrap()).collect()
        };
        let args = "--json --steps 50 --log-every 1";
        let on_gpu = losses(run(args));
        let on_host = losses(Run::host(args).succeeds());
        assert_eq!((on_gpu.len(), on_host.len()), (50, 50));
        for (step, (gpu, host)) in on_gpu.iter().zip(&on_host).enumerate() {
            assert!((gpu - host).abs() <= 1e-3, "step {}: {gpu} on the GPU, {host} on the host", step + 1);
        }
    }

    #[test]
    fn the_smallest_budget_is_enough_on_the_gpu_too() {
        let Some(device) = gpu::device("the_smallest_budget_is_enough_on_the_gpu_too") else { return };
        for (step, allocator) in WAYS {
            let needs = needs(&device, &settings(&[64], Optimizer::MOMENTUM), step, allocator).unwrap();
            let way = format!("--hidden 64 --step {step} --allocator {allocator} --steps 3");
            let run = run(&format!("{way} --json --budget {}", needs.budget_bytes));
            let (start, end) = (&run.events()[0], run.end());
            assert_eq!(
                (&start["device"], &start["needed_bytes"]),
                (&"gpu".into(), &needs.budget_bytes.into()),
                "{way}"
            );
            assert_eq!(end["live_peak_bytes"], needs.live_peak_bytes, "{way}");
            assert!(end["reserved_peak_bytes"].as_u64().unwrap() <= needs.budget_bytes, "{way}: {end}");
        }
        let run = run("--hidden 64 --steps 1");
        assert!(run.stdout.contains("wgpu: allocated"), "{}", run.stdout);
    }

    /// Where the only adapter is software, auto trains on the host and says why.
    #[test]
    fn auto_says_what_it_takes() {
        if gpu::device("auto_says_what_it_takes").is_none() {
            return;
        }
        let run = Run::with(&["--device", "auto"], "--json --hidden 16 --steps 1").succeeds();
        let on_host = run.events()[0]["device"] == "host";
        assert_eq!(on_host, run.stderr.contains("no GPU: "), "{}{}", run.stdout, run.stderr);
    }
}
