//! Files that are broken, or made to break their reader.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::ErrorKind;
use tensorpool::trace::Trace;

use crate::support::{rounds, say};
use crate::{LIFETIMES, RMM, ROOT, TEXT, data, gzip, kineto, scratch};

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
        (b"", "x.trace", "x.trace: the file is empty"),
        (b"", "x.pickle", "x.pickle: the file is empty"),
        (&gzip(b""), "x.csv.gz", "x.csv.gz: the file is empty"),
        (b"id,from,to\n", "x.csv", "line 1: expected the columns Thread,Time,Action,Pointer,Size,Stream or id,lower"),
        (b"Action,Pointer,Size\nallocate,0x1\n", "x.csv", "line 2: expected 3 fields, as in the header, found 2"),
        (b"Action,Pointer,Size\ngrow,0x1,5\n", "x.csv", "line 2: expected allocate, free or allocate failure"),
        (b"Action,PointerX,Size\n", "x.csv", "line 1: expected the columns"),
        (b"id,lower,upper,size\n0,5,4,1\n", "x.csv", "line 2: expected an upper of at least lower, 5, found 4"),
        (b"id,lower,upper,size\n0,5,6\n", "x.csv", "line 2: expected 4 fields, as in the header, found 3"),
        (b"\x80\x04K\x01.", "x.pickle", "expected a snapshot, a dictionary"),
        (b"\x80\x04]\x94.", "x.pickle", "_record_memory_history"),
        (b"\x80\x04}\x94.", "x.pickle", "expected entries in \"device_traces\" or blocks in \"segments\""),
        (b"\x80\x04}\x8c\x0ddevice_tracesNs.", "x.pickle", "byte 2: expected a list for \"device_traces\""),
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
fn gzip_that_unpacks_to_more_than_any_trace_is_refused() {
    let bomb = gzip(&b"#\n".repeat(32 << 20));
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    let error = Trace::parse(&bomb, "bomb.gz").unwrap_err().to_string();
    assert!(error.contains("unpack to more than"), "{error}");
}

/// The most memory that this process ever had in RAM, where the system tells.
fn resident_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Marks of steps are kept once, however many devices there are.
#[test]
fn many_devices_and_many_marks_do_not_multiply() {
    let word = |text: &str| [&[0x8c, text.len() as u8], text.as_bytes()].concat();
    let mut bytes = b"\x80\x04}(".to_vec();
    bytes.extend(word("segments"));
    bytes.extend(b"](");
    for device in 0..2000u16 {
        bytes.extend([&b"}("[..], &word("device"), b"M", &device.to_le_bytes()].concat());
        bytes.extend([word("total_size"), b"K\x01".into(), word("address"), b"K\x01".into()].concat());
        // One block, in use.
        bytes.extend([word("blocks"), b"]}(".into(), word("state"), word("active_allocated")].concat());
        bytes.extend([word("size"), b"K\x01uau".into()].concat());
    }
    bytes.extend(b"e");
    bytes.extend(word("external_annotations"));
    bytes.extend([b"](}(".into(), word("name"), word("Optimizer.step"), word("stage"), word("END")].concat());
    bytes.extend([word("time_us"), b"K\x01u".into(), b"2".repeat(30_000), b"eu.".into()].concat());
    let before = resident_peak_bytes();
    assert_eq!(Trace::parse(&bytes, "x.pickle").unwrap().len(), 2000);
    let grown = resident_peak_bytes().zip(before).map(|(after, before)| after.saturating_sub(before) >> 20);
    // Tests beside this one have some of it.
    assert!(grown.is_none_or(|mib| mib < 512), "{grown:?} MiB");
}

#[test]
fn lists_in_lists_without_end_are_refused() {
    for key in ["segments", "device_traces", "host_segments", "host_traces", "external_annotations"] {
        let lists = [b"]".repeat(1 << 20), b"a".repeat((1 << 20) - 1)].concat();
        let bytes = [b"\x80\x04}\x8c", &[key.len() as u8][..], key.as_bytes(), &lists, b"s."].concat();
        let error = Trace::parse(&bytes, "x.pickle").unwrap_err().to_string();
        assert!(error.starts_with("x.pickle: "), "{error}");
    }
}

/// Files that are whole.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = vec![
        ("x.trace", TEXT.into()),
        ("x.csv", RMM.into()),
        ("y.csv", LIFETIMES.into()),
        ("x.json", kineto::TRACE.into()),
        ("modern.pickle", data("modern.pickle")),
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
