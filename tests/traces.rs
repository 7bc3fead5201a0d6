//! Traces in every format: what is read, what is written, and that no file breaks the reader. What the process has in RAM at most is
//! one of the things compared, so it is a process of its own.

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{rounds, say};
use tensorpool::ErrorKind;
use tensorpool::trace::{Event, Trace, TraceBuilder};

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

#[test]
fn the_bundled_traces_are_read_whole_and_written_as_they_were() {
    for path in bundled() {
        let trace = &Trace::read(&path).unwrap()[0];
        let mut text = String::new();
        GzDecoder::new(&*std::fs::read(&path).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(trace.to_text(), text, "{}", path.display());
        let of = |key: &str| trace.header_of(key).unwrap().parse::<u64>().unwrap();
        assert_eq!(trace.allocations() + trace.frees(), of("events"));
        assert_eq!(trace.live_peak_bytes(), of("max_live_bytes"));
        assert_eq!(trace.live_at_end_bytes(), of("live_at_end_bytes"));
        let steps = trace.events().iter().filter(|event| matches!(event, Event::Step { .. })).count();
        assert_eq!(steps as u64, of("steps"));

        let copy = scratch(&format!("{}.trace.gz", trace.name()));
        trace.write(&copy).unwrap();
        assert_eq!(&Trace::read(&copy).unwrap()[0], trace);
    }
}

#[test]
fn a_recording_of_the_example_has_labels() {
    let trace = one(&data("recorded.trace.gz"), "recorded.trace.gz");
    assert_eq!((trace.name(), trace.events().len()), ("mlp 784-512-256-10", 231));
    let labels: Vec<&str> = trace
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Alloc { label, .. } => Some(trace.label(*label)),
            _ => None,
        })
        .collect();
    assert_eq!(labels[0], "aten::empty");
    assert!(
        labels.iter().all(|label| label.starts_with("aten::") || *label == "Optimizer.step#SGD.step"),
        "{labels:?}"
    );
}

#[test]
fn text_with_labels_failures_and_ids_used_again() {
    let trace = one(TEXT.as_bytes(), "x.trace");
    assert_eq!((trace.name(), trace.header_of("made")), ("by hand", Some("for this test")));
    assert_eq!((trace.allocations(), trace.frees(), trace.failures()), (3, 1, 1));
    assert_eq!((trace.live_peak_bytes(), trace.live_at_end_bytes()), (140, 140));
    let Event::Alloc { id: 0, bytes: 100, label } = trace.events()[0] else { panic!("{:?}", trace.events()[0]) };
    assert_eq!(trace.label(label), "weights \\ in \n two");
    let Event::Failure { bytes: 5000, label } = trace.events()[4] else { panic!("{:?}", trace.events()[4]) };
    assert_eq!(trace.label(label), "too much");
    assert!(matches!(trace.events()[5], Event::Alloc { id: 2, bytes: 40, .. }));
    let again = one(trace.to_text().as_bytes(), "x.trace");
    assert_eq!((again.events(), lines(&again)), (trace.events(), lines(&trace)));
    // Windows' line ends, and a mark of UTF-8 in front.
    let windows = format!("\u{feff}{}", TEXT.replace('\n', "\r\n"));
    assert_eq!(one(windows.as_bytes(), "x.trace"), trace);
}

#[test]
fn random_traces_are_read_as_they_were_written() {
    let characters = ['a', ' ', '\\', 'n', 'r', '\n', '\r', '#', ':', 'é', '\u{2028}'];
    for seed in 0..rounds(200) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut text = |longest: usize| -> String {
            let length = rng.random_range(0..=longest);
            (0..length).map(|_| characters[rng.random_range(0..characters.len())]).collect()
        };
        let labels: Vec<String> = (0..5).map(|_| text(8)).collect();
        let mut builder = TraceBuilder::new("random");
        builder.header("trace", "random");
        let mut alive = Vec::new();
        for _ in 0..rng.random_range(0..200) {
            let label = &labels[rng.random_range(0..labels.len())];
            match rng.random_range(0..10) {
                0..5 => alive.push(builder.alloc(rng.random_range(0..1 << 40), label).unwrap()),
                5..8 if !alive.is_empty() => builder.free(alive.swap_remove(rng.random_range(0..alive.len()))).unwrap(),
                8 => builder.step(rng.random()),
                _ => builder.failure(rng.random(), label),
            }
        }
        let trace = builder.finish();
        // A file's header has the counts, so what was read is compared with what that writes.
        let read = one(trace.to_text().as_bytes(), "random.trace");
        assert_eq!(read.events(), trace.events(), "seed {seed}");
        assert_eq!(lines(&read), lines(&trace), "seed {seed}");
        assert_eq!(one(read.to_text().as_bytes(), "random.trace"), read, "seed {seed}");
    }
}

#[test]
fn snapshots_of_every_protocol_say_the_same() {
    let expected = "\
# trace: snapshot device 0
# framework: torch, from a memory snapshot
# device: 0
# reserved_peak_bytes: 10240
a 0 1000
a 1 300
# step 1
f 1
# failure 1099511627776
a 2 500
a 3 4000
";
    for protocol in 0..6 {
        let traces = Trace::parse(&data(&format!("snapshot{protocol}.pickle")), "snapshot.pickle").unwrap();
        assert_eq!(traces.len(), 2, "protocol {protocol}");
        assert_eq!(lines(&traces[0]), expected, "protocol {protocol}");
        // 2048 + 4096 at the end; 2048 + 8192 before the first entry.
        assert_eq!(traces[0].recorded_reserved_peak_bytes(), Some(10240));
        assert_eq!(traces[0].live_peak_bytes(), 5500);
        assert_eq!((traces[1].name(), traces[1].recorded_reserved_peak_bytes()), ("snapshot device 1", Some(2048)));
        assert_eq!((traces[1].allocations(), traces[1].frees(), traces[1].live_peak_bytes()), (1, 1, 64));
    }
}

#[test]
fn logs_of_rmm() {
    let trace = one(RMM.as_bytes(), "folder/rmm_log.dev0.csv");
    let expected = "\
# trace: rmm_log.dev0
# framework: RMM
a 0 96
# step 1
f 0
a 1 1024
# failure 99999999
a 2 2048
f 1
";
    assert_eq!(lines(&trace), expected);
    // As the documentation of other versions has it: other columns, other words.
    let other = "Time,Action,Pointer,Size\n1634567890.1,allocate,0x10,8\n1634567890.2,deallocate,0x10,8\n";
    let trace = one(other.as_bytes(), "log.txt");
    assert_eq!((trace.allocations(), trace.frees()), (1, 1));
    // An address that comes back was freed unseen, and what was freed twice is left out.
    let torn = "Action,Pointer,Size\nallocate,10,8\nallocate,10,9\nfree,10,9\nfree,10,9\n";
    let trace = one(torn.as_bytes(), "log.csv");
    assert_eq!((trace.header_of("freed_unseen"), trace.header_of("frees_left_out")), (Some("1"), Some("1")));
    assert_eq!((trace.allocations(), trace.frees(), trace.live_peak_bytes()), (2, 2, 9));
}

#[test]
fn lifetimes_end_before_others_begin() {
    let trace = one(LIFETIMES.as_bytes(), "A.1024.csv");
    let expected = "# trace: A.1024\n# step 1\na 0 100 weights\na 1 30 x\nf 1\na 2 40 y\nf 2\nf 0\n";
    assert_eq!(lines(&trace), expected);
    let shuffled = "size,id,gap,upper,lower\n7,a,0,4,3\n";
    assert_eq!(one(shuffled.as_bytes(), "x.csv").live_peak_bytes(), 7);
}

#[test]
fn what_is_broken_is_named_with_its_place() {
    let cut_off = TEXT.replace("# made: for this test", "# events: 9");
    let huge = format!("a 0 {max}\na 1 1\n", max = u64::MAX);
    for (bytes, name, expected) in [
        (&b"a 0 100\nb 0\n"[..], "x.trace", "x.trace: line 2: expected \"a <id> <bytes> [<label>]\""),
        (b"a 0 1x\n", "x.trace", "line 1: expected \"a <id> <bytes> [<label>]\", found \"a 0 1x\""),
        (b"a 0 -1\n", "x.trace", "line 1: expected"),
        (b"a 0\n", "x.trace", "line 1: expected"),
        (b"a 0 1\na 0 1\n", "x.trace", "line 2: expected the id of no block that is alive, found 0"),
        (b"a 0 1\nf 0\nf 0\n", "x.trace", "line 3: expected the id of a block that is alive, found 0"),
        (b"f +0\n", "x.trace", "line 1: expected \"f <id>\""),
        (b"# step one\n", "x.trace", "line 1: expected \"# step N\""),
        (b"# failure x\n", "x.trace", "line 1: expected \"# failure <bytes>"),
        (huge.as_bytes(), "x.trace", "line 2: 1 bytes more than the 18,446,744,073,709,551,615 alive are over 2^64"),
        (cut_off.as_bytes(), "x.trace", "the header says events: \"9\", but the file comes to 4"),
        (b"a 0 1\n\xff\xfe", "x.trace", "byte 6: expected text in UTF-8"),
        (b"PK\x03\x04...", "x.pt", "byte 0: expected a trace, found a zip archive"),
        (b"\x1f\x8bnothing", "x.gz", "x.gz: expected gzip to its end"),
        (b"id,from,to\n", "x.csv", "line 1: expected the columns Thread,Time,Action,Pointer,Size,Stream or id,lower"),
        (b"Action,Pointer,Size\nallocate,0x1\n", "x.csv", "line 2: expected allocate, free or allocate failure"),
        (b"Action,Pointer,Size\ngrow,0x1,5\n", "x.csv", "line 2: expected allocate, free or allocate failure"),
        (b"Action,PointerX,Size\n", "x.csv", "line 1: expected the columns"),
        (b"id,lower,upper,size\n0,5,5,1\n", "x.csv", "line 2: expected upper to be after lower, found 5 to 5"),
        (b"id,lower,upper,size\n0,5,6\n", "x.csv", "line 2: expected whole numbers for lower, upper and size"),
        (b"\x80\x04]\x94.", "x.pickle", "expected a snapshot, a dictionary"),
        (b"\x80\x04}\x94.", "x.pickle", "byte 2: expected a list for \"device_traces\""),
        (b"\x80\x04}\x94(\x8c\x0ddevice_traces]\x8c\x08segments]u.", "x.pickle", "_record_memory_history"),
        (b"\x80\x04}(\x8c\x0ddevice_traces](]}aeu.", "x.pickle", "byte 22: expected a text for \"action\""),
    ] {
        let Err(error) = Trace::parse(bytes, name) else { panic!("{name} is read: {bytes:?}") };
        assert_eq!(error.kind(), ErrorKind::File);
        assert!(error.to_string().contains(expected), "{error}\n  should say {expected}");
    }
    let error = Trace::read(scratch("not there.trace")).unwrap_err();
    assert!(error.kind() == ErrorKind::File && error.to_string().contains("not there.trace: "), "{error}");
    assert!(Trace::read(ROOT).unwrap_err().to_string().contains(ROOT));
}

#[test]
fn entries_of_a_snapshot_that_miss_something_are_named() {
    let whole = data("snapshot2.pickle");
    let text = |bytes: &[u8], from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
    };
    for (from, to, expected) in [
        ("action", "acti0n", "expected a text for \"action\""),
        ("total_size", "total_s1ze", "for \"total_size\", and there is none"),
        ("state", "st4te", "expected a text for \"state\""),
        ("blocks", "bl0cks", "expected a list for \"blocks\""),
    ] {
        let error = Trace::parse(&text(&whole, from, to), "s.pickle").unwrap_err().to_string();
        assert!(error.contains(expected) && error.starts_with("s.pickle: byte "), "{error}");
    }
}

#[test]
fn gzip_that_unpacks_to_more_than_any_trace_is_refused() {
    let bomb = gzip(&vec![b'#'; 64 << 20]);
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    let error = Trace::parse(&bomb, "bomb.gz").unwrap_err().to_string();
    assert!(error.contains("unpack to more than"), "{error}");
}

#[test]
fn what_is_over_a_gibibyte_is_refused_unread() {
    let bytes = vec![0; (1 << 30) + 1];
    for name in ["x.trace", "x.pickle"] {
        let error = Trace::parse(&bytes, name).unwrap_err().to_string();
        assert!(error.starts_with(name) && error.contains("over 1,073,741,824 bytes"), "{error}");
    }
}

/// A pickle's text.
fn word(text: &str) -> Vec<u8> {
    [&[0x8c, text.len() as u8], text.as_bytes()].concat()
}

/// A pickle's dictionary.
fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs = pairs.iter().flat_map(|(key, value)| [word(key), value.clone()].concat());
    [b"}(".to_vec(), pairs.collect(), b"u".to_vec()].concat()
}

/// A pickle's list that has one thing many times.
fn list(item: &[u8], times: usize) -> Vec<u8> {
    [b"](", item, b"\x94", &b"2".repeat(times - 1), b"e"].concat()
}

#[test]
fn a_small_snapshot_does_not_come_to_billions_of_blocks() {
    let number = || b"K\x01".to_vec();
    let snapshot = |devices: usize, entries: usize, segments: usize, blocks: usize, more: &[(&str, Vec<u8>)]| {
        let entry = [&[("action", word("alloc")), ("addr", number()), ("size", number())], more].concat();
        let block = dict(&[("state", word("active_allocated")), ("size", number())]);
        let blocks = list(&block, blocks);
        let segment = dict(&[("total_size", number()), ("address", number()), ("blocks", blocks)]);
        let traces = list(&list(&dict(&entry), entries), devices);
        let root = dict(&[("segments", list(&segment, segments)), ("device_traces", traces)]);
        [&b"\x80\x04"[..], &root, b"."].concat()
    };
    let whole = Trace::parse(&snapshot(1, 1, 1, 1, &[]), "x.pickle").unwrap();
    assert_eq!(whole[0].allocations(), 1);
    for bytes in [snapshot(1, 1, 20_000, 20_000, &[]), snapshot(1000, 20_000, 1, 1, &[])] {
        let error = Trace::parse(&bytes, "x.pickle").unwrap_err().to_string();
        assert!(error.contains("a dictionary of its own"), "{error}");
    }
    let many: Vec<_> = (0..65).map(|_| ("key", number())).collect();
    let error = Trace::parse(&snapshot(1, 1, 1, 1, &many), "x.pickle").unwrap_err().to_string();
    assert!(error.contains("at most 64 keys"), "{error}");
    let error = Trace::parse(&snapshot(5000, 1, 1, 1, &[]), "x.pickle").unwrap_err().to_string();
    assert!(error.contains("at most 4096 devices"), "{error}");
}

#[test]
fn a_header_of_many_keys_is_read_as_it_was_written() {
    let header: String = (0..3000).map(|line| format!("# key{}: {line}\n", line % 1000)).collect();
    let trace = one(header.as_bytes(), "x.trace");
    assert_eq!((trace.header().len(), trace.header_of("key7")), (1000, Some("2007")));
    // A file has its name and four counts more once it is written.
    let again = one(trace.to_text().as_bytes(), "x.trace");
    assert_eq!((again.header().len(), again.to_text()), (1005, trace.to_text()));
}

/// The most memory that this process ever had in RAM, where the system tells.
fn resident_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Files that are whole.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = vec![
        ("x.trace", TEXT.into()),
        ("x.csv", RMM.into()),
        ("y.csv", LIFETIMES.into()),
        ("x.trace.gz", gzip(TEXT.as_bytes())),
        ("recorded.trace.gz", data("recorded.trace.gz")),
    ];
    for protocol in 0..6 {
        seeds.push(("x.pickle", data(&format!("snapshot{protocol}.pickle"))));
    }
    seeds
}

/// Breaks a file in one of the ways in which files break, or are broken.
fn mutate(bytes: &mut Vec<u8>, others: &[(&str, Vec<u8>)], rng: &mut ChaCha8Rng) {
    let place = |rng: &mut ChaCha8Rng, len: usize| rng.random_range(0..=len);
    let at = place(rng, bytes.len());
    match rng.random_range(0..8) {
        0 => bytes.truncate(at),
        1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        2 if at < bytes.len() => bytes[at] = rng.random(),
        // What numbers and lengths are made of.
        3 => bytes
            .splice(at..at, [b"\xff\xff\xff\xff\xff\xff\xff\xff", b"99999999"][rng.random_range(0..2)].to_vec())
            .for_each(drop),
        4 => bytes.insert(at, b"().0123456789abcdefghijlopqrstu]}\n, #-"[rng.random_range(0..38)]),
        5 => {
            let end = place(rng, bytes.len() - at) + at;
            bytes.drain(at..end.min(at + 16));
        }
        // A part of it again, or of another file.
        6 => {
            let part = bytes[at..place(rng, bytes.len() - at) + at].to_vec();
            let to = place(rng, bytes.len());
            bytes.splice(to..to, part);
        }
        _ => {
            let other = &others[rng.random_range(0..others.len())].1;
            let from = place(rng, other.len());
            let part = other[from..(from + 64).min(other.len())].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

#[test]
fn no_file_makes_the_reader_panic_or_take_all_memory() {
    let seeds = seeds();
    let before = resident_peak_bytes();
    let (mut read, mut refused) = (0u64, 0u64);
    for (index, (name, whole)) in seeds.iter().enumerate() {
        for round in 0..rounds(1500) {
            let seed = (index as u64) << 32 | round;
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..=4) {
                mutate(&mut bytes, &seeds, &mut rng);
            }
            let outcome = std::panic::catch_unwind(|| Trace::parse(&bytes, name));
            match outcome {
                Ok(Ok(traces)) => {
                    for trace in traces {
                        // What is read is whole: it can be written, and read again.
                        let again = Trace::parse(trace.to_text().as_bytes(), "again.trace");
                        let again = again.unwrap_or_else(|error| panic!("seed {seed} of {name}: {error}"));
                        assert_eq!(again[0].events(), trace.events(), "seed {seed} of {name}");
                    }
                    read += 1;
                }
                Ok(Err(error)) => {
                    let message = error.to_string();
                    assert!(error.kind() == ErrorKind::File && message.starts_with(name), "seed {seed}: {message}");
                    refused += 1;
                }
                Err(_) => panic!("seed {seed} of {name} makes the reader panic"),
            }
        }
    }
    let grown = resident_peak_bytes().zip(before).map(|(after, before)| after.saturating_sub(before) >> 20);
    say(&format!("mutated files: {read} read, {refused} refused, {grown:?} MiB more memory at most"));
    assert!(read > 100 && refused > 1000, "{read} {refused}");
    // Tests beside this one have some of it.
    assert!(grown.is_none_or(|mib| mib < 512), "{grown:?} MiB");
}

#[test]
fn a_builder_refuses_what_would_not_be_whole() {
    let mut builder = TraceBuilder::new("t");
    let id = builder.alloc(u64::MAX, "").unwrap();
    assert!(builder.alloc(1, "").unwrap_err().to_string().contains("over 2^64"));
    builder.free(id).unwrap();
    for id in [id, 1] {
        assert_eq!(builder.free(id).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let trace = builder.finish();
    assert_eq!((trace.events().len(), trace.live_peak_bytes(), trace.live_at_end_bytes()), (2, u64::MAX, 0));
    let mut text = String::new();
    let _ = write!(text, "{}", trace.to_text());
    assert!(text.starts_with("# trace: t\n# events: 2\n"), "{text}");
}
