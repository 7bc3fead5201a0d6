//! The text format, and logs of RMM.

use std::fmt::Write as _;
use std::io::Read;

use flate2::read::GzDecoder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::ErrorKind;
use tensorpool::trace::{Event, Trace, TraceBuilder};

use crate::support::rounds;
use crate::{RMM, TEXT, bundled, data, lines, one, scratch};

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
    // The last address of all is one too.
    let last = "Action,Pointer,Size\nallocate,ffffffffffffffff,8\nallocate,ffffffffffffffff,9\n";
    let trace = one(last.as_bytes(), "log.csv");
    assert_eq!((trace.header_of("freed_unseen"), trace.live_at_end_bytes()), (Some("1"), 9));
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
