//! Plans of the bundled instances and of the recorded training steps, and the example `plan` as its users meet it.
//!
//! Limits count steps, never seconds: one seed gives one plan on every machine.

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program;
use flate2::read::MultiGzDecoder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tensorpool::ByteSize;
use tensorpool::plan::{self, Lifetime, Lifetimes, LifetimesBuilder, Options, Plan};
use tensorpool::trace::read_csv;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A file's text, unpacked.
fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = String::new();
    let read = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text),
        false => (&bytes[..]).read_to_string(&mut text),
    };
    read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text
}

fn instance(name: &str) -> Lifetimes<String> {
    let path = Path::new(ROOT).join("planning").join(name);
    read_csv(BufReader::new(text(&path).as_bytes()), name).unwrap()
}

/// The names of the recorded runs.
fn traces() -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(ROOT).join("traces")).unwrap().map(|entry| entry.unwrap().path());
    let mut traces: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "gz")).collect();
    traces.sort();
    assert_eq!(traces.len(), 14);
    traces
}

/// The lifetimes of a recorded run: of its last step, with what was alive before, or of everything.
fn recorded(path: &Path, last_step: bool) -> Lifetimes {
    let mut builder = LifetimesBuilder::new();
    for line in text(path).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |place: usize| words[place].parse::<u64>().unwrap_or_else(|error| panic!("{line}: {error}"));
        match words[..] {
            ["a", ..] => builder.alloc(number(1), number(2)).unwrap(),
            ["f", ..] => builder.free(&number(1)).unwrap(),
            ["#", "step", _] if last_step => builder.begin_step(),
            _ => {}
        }
    }
    builder.finish()
}

#[track_caller]
fn solved(lifetimes: &[Lifetime], options: &Options) -> Plan {
    let plan = plan::solve(lifetimes, options).unwrap();
    plan.check(lifetimes, options).unwrap();
    plan
}

/// MiniMalloc's instances, and the steps in which each must fit: a quarter more than it takes.
const MINIMALLOC: [(&str, u64); 11] = [
    ("A", 35_000),
    ("B", 34_000),
    ("C", 117_000),
    ("D", 25_000),
    ("E", 32_000),
    ("F", 6_600),
    ("G", 27_500),
    ("H", 8_100),
    ("I", 3_700_000),
    ("J", 18_000),
    ("K", 115_000),
];

/// MiniMalloc's instances fit in 1,048,576.
#[test]
fn minimallocs_instances_fit() {
    for (name, steps_max) in MINIMALLOC {
        let lifetimes = instance(&format!("minimalloc/{name}.1048576.csv"));
        let plan = solved(&lifetimes, &Options::new().capacity(1 << 20).steps(steps_max));
        assert!(plan.height <= 1 << 20, "{name}: {plan:?}");
        assert!(plan.proved == (plan.height == plan.load), "{name}: {plan:?}");
        println!("{name} {plan:?}");
    }
}

#[test]
fn the_other_instances_are_packed_to_their_load() {
    let files = ["somas/resnet50", "somas/pangu_2.6B", "iopddl/G_1", "iopddl/S_1"];
    for (file, load) in files.into_iter().zip([1_515_472_556, 5_530_099_775, 3_030_937_746, 1_498_635_932]) {
        let lifetimes = instance(&format!("{file}.csv.gz"));
        let plan = solved(&lifetimes, &Options::new().steps(600_000));
        assert_eq!((plan.load, plan.height, plan.proved), (load, load, true), "{file}");
        println!("{file} {plan:?}");
    }
}

#[test]
fn every_recorded_step_is_packed_to_its_load() {
    for path in traces() {
        let mut lifetimes = recorded(&path, true).to_vec();
        for align in [1, 256] {
            let plan = solved(&lifetimes, &Options::new().align(align).steps(20_000));
            assert_eq!(plan.height, plan.load, "{}: {plan:?}", path.display());
        }
        // And where all that was alive before the step stays alive through it.
        let end = lifetimes.iter().map(|lifetime| lifetime.upper).max().unwrap();
        lifetimes.iter_mut().filter(|lifetime| lifetime.lower == 0).for_each(|lifetime| lifetime.upper = end);
        let plan = solved(&lifetimes, &Options::new().align(256).steps(20_000));
        assert_eq!(plan.height, plan.load, "{}: {plan:?}", path.display());
    }
}

#[test]
fn whole_recordings_are_packed_to_their_load_or_nearly() {
    for path in traces() {
        let lifetimes = recorded(&path, false);
        let plan = solved(&lifetimes, &Options::new().align(256).steps(450_000));
        let gap = plan.gap() as f64 / plan.load as f64;
        let is_known = path.ends_with("vit_small_b16_amp.trace.gz");
        assert!(gap <= if is_known { 0.001 } else { 0.0 }, "{}: {plan:?}", path.display());
    }
}

/// A training step as a program of 100,000 buffers has it: activations that backward frees in the opposite order, and
/// scratch in between.
#[test]
fn a_hundred_thousand_lifetimes_are_packed_to_their_load() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let layers = 25_000u64;
    let end = 8 * layers;
    let mut lifetimes = Vec::new();
    for layer in 0..layers {
        let bytes = [1 << 20, 3 << 20, 4096, random.random_range(1 << 20..2 << 20)][random.random_range(0..4)];
        lifetimes.push(Lifetime::new(4 * layer, end - 4 * layer, bytes));
        for _ in 0..3 {
            let lower = random.random_range(0..end - 10);
            let bytes = [256, 4096, 1 << 20, random.random_range(1..4 << 20)][random.random_range(0..4)];
            lifetimes.push(Lifetime::new(lower, lower + random.random_range(1..9), bytes));
        }
    }
    let plan = solved(&lifetimes, &Options::new().align(256).steps(1_000_000));
    assert_eq!(plan.height, plan.load, "{plan:?}");
    println!("{plan:?}");
}

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(args: &[&str]) -> Run {
    let output = Command::new(program("plan")).args(args).current_dir(ROOT).output().expect("the example starts");
    let text = |bytes| String::from_utf8(bytes).expect("the output is text");
    let run = Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!run.stderr.contains("panicked"), "{args:?}: {}", run.stderr);
    run
}

/// A folder that is there for one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tensorpool-plan-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const RESNET: &str = "planning/somas/resnet50.csv.gz";
const K: &str = "planning/minimalloc/K.1048576.csv";

#[test]
fn the_example_prints_a_table_or_json() {
    let table = run(&[RESNET, K, "--steps", "0"]);
    assert_eq!((table.code, table.stderr.as_str()), (Some(0), ""), "{}", table.stdout);
    let lines: Vec<Vec<&str>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["file", "buffers", "load", "height", "gap", "proved", "seconds"]);
    assert_eq!(lines[1][..4], [RESNET, "1042", "1.41", "GiB"]);
    assert_eq!((lines[2][..4].to_vec(), lines[2][7], lines.len()), (vec![K, "454", "1", "MiB"], "no", 3));

    let json = run(&[RESNET, K, "--json", "--steps", "0"]);
    for (line, row) in json.stdout.lines().zip(&lines[1..]) {
        assert!(line.starts_with(r#"{"file":"#), "{line}");
        let object: Value = serde_json::from_str(line).unwrap();
        let keys: Vec<&String> = object.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["buffers", "file", "gap", "height", "load", "proved", "seconds"]);
        let number = |key: &str| object[key].as_u64().unwrap();
        let [load, height] = ["load", "height"].map(|key| ByteSize(number(key)).to_string());
        assert_eq!(row[1..6].join(" "), format!("{} {load} {height}", number("buffers")));
        assert_eq!(number("gap"), number("height") - number("load"));
        assert_eq!(object["proved"], number("gap") == 0);
    }
    assert_eq!(json.stdout.lines().count(), 2);
}

#[test]
fn the_example_writes_offsets_that_are_a_plan() {
    let folder = Folder::new("offsets");
    let out = run(&[RESNET, "--align", "512", "--out", "-"]);
    assert_eq!((out.code, out.stderr.as_str()), (Some(0), ""));
    let offsets = |text: &str| -> Vec<u64> {
        text.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().parse().unwrap()).collect()
    };
    let lifetimes = instance("somas/resnet50.csv.gz");
    assert_eq!(read_csv(out.stdout.as_bytes(), "out").unwrap(), lifetimes);
    let own = solved(&lifetimes, &Options::new().align(512));
    assert_eq!(offsets(&out.stdout), own.offsets);

    let file = folder.0.join("offsets.csv");
    run(&[RESNET, "--align", "512", "--out", file.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(file).unwrap(), out.stdout);
    let both = run(&[RESNET, K, "--align", "512", "--steps", "0", "--out", folder.0.to_str().unwrap()]);
    assert_eq!(both.code, Some(0), "{}", both.stderr);
    assert_eq!(offsets(&fs::read_to_string(folder.0.join("resnet50.csv")).unwrap()).len(), 1042);
    assert_eq!(offsets(&fs::read_to_string(folder.0.join("K.1048576.csv")).unwrap()).len(), 454);

    // Several files need a folder, and an input is not overwritten.
    let refused = run(&[RESNET, K, "--out", folder.0.join("offsets.csv").to_str().unwrap()]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("need a folder"), "{}", refused.stderr);
    let own = folder.file("own.csv", "id,lower,upper,size\n0,0,1,8\n");
    let refused = run(&[&own, "--out", &own]);
    assert!(refused.code == Some(1) && refused.stderr.contains("not overwritten"), "{}", refused.stderr);
}

#[test]
fn the_example_says_what_is_wrong() {
    let folder = Folder::new("wrong");
    let broken = folder.file("broken.csv", "id,lower,upper,size\n0,0,1,8\n1,x,1,8\n");
    let run_broken = run(&[K, &broken, "--steps", "0"]);
    assert_eq!(run_broken.code, Some(1));
    let expected =
        format!("error: {broken}: line 3: expected a whole number from -2^63 to 2^64 - 1 for lower, found \"x\"\n");
    assert_eq!(run_broken.stderr, expected);
    let mut packed = fs::read(Path::new(ROOT).join(RESNET)).unwrap();
    packed.truncate(packed.len() / 2);
    let cut = folder.file("cut.csv.gz", packed);
    let run_cut = run(&[&cut]);
    assert!(
        run_cut.code == Some(1) && run_cut.stderr.contains("cut.csv.gz: expected gzip to its end"),
        "{}",
        run_cut.stderr
    );
    let missing = run(&["no/such.csv"]);
    assert!(missing.code == Some(1) && missing.stderr.contains("no/such.csv"), "{}", missing.stderr);
    let slab = run(&[K, "--slab", "4KiB"]);
    assert!(slab.code == Some(1) && slab.stderr.contains("fits in no slab"), "{}", slab.stderr);
    // A capacity that is not met.
    let high = run(&[K, RESNET, "--capacity", "1000KiB", "--steps", "1000"]);
    assert_eq!(high.code, Some(3));
    assert!(
        high.stderr.contains("higher than the capacity of 1024000 bytes: planning/minimalloc/K"),
        "{}",
        high.stderr
    );
    assert_eq!(high.stdout.lines().count(), 3, "the table is whole: {}", high.stdout);
    let met = run(&[K, "--capacity", "2MiB", "--steps", "0"]);
    assert_eq!(met.code, Some(0), "{}", met.stderr);
}
