//! Traces in every format: what is read, what is written, and that no file breaks the reader. What the process has in RAM at most is
//! one of the things compared, so it is a process of its own.

#[path = "../support/mod.rs"]
mod support;

mod broken;
mod circles;
mod kineto;
mod lifetimes;
mod snapshots;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tensorpool::trace::Trace;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const RMM: &str = "\
Thread,Time,Action,Pointer,Size,Stream
7,15:47:02.841961,free,0x7f0000000400,96,0x1
7,15:47:02.841970,allocate,0x7f0000000000,1024,0x1
8,15:47:02.841975,allocate,(nil),0,0x1
7,15:47:02.841980,allocate failure,(nil),99999999,0x1
7,15:47:02.841990,allocate,0x7f0000000400,2048,0x1
7,15:47:02.841999,free,0x7f0000000000,1024,0x1
";

const LIFETIMES: &str = "\
id,lower,upper,size
weights,0,10,100
x,2,5,30
y,5,7,40
";

const TEXT: &str = "\
# trace: by hand
# made: for this test
a 0 100 weights \\\\ in \\n two
# a comment, and a blank line

# step 1
a 7 30
f 7
# failure 5000 too much
a 7 40
";

/// All the bundled files, in the order of their names.
fn bundled() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("{ROOT}/traces")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "gz")).collect();
    files.sort();
    assert_eq!(files.len(), 14);
    files
}

fn data(name: &str) -> Vec<u8> {
    let path = format!("{ROOT}/tests/data/{name}");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn one(bytes: &[u8], name: &str) -> Trace {
    let mut traces = Trace::parse(bytes, name).unwrap();
    assert_eq!(traces.len(), 1);
    traces.remove(0)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The events as the text format has them: what tests compare.
fn lines(trace: &Trace) -> String {
    let text = trace.to_text();
    let counts = ["# events", "# allocations", "# frees", "# max_live_bytes"];
    text.lines()
        .filter(|line| !counts.iter().any(|count| line.starts_with(count)))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}
