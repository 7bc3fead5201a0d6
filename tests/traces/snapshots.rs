//! PyTorch's memory snapshots.

use tensorpool::trace::Trace;

use crate::{data, lines};

#[test]
fn snapshots_of_every_protocol_say_the_same() {
    let expected = "\
# trace: snapshot device 0
# framework: torch, from a memory snapshot
# device: 0
# reserved_peak_bytes: 10240
# history: begins with 1.27 KiB alive in 2 blocks
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
        assert_eq!(traces.len(), 3, "protocol {protocol}");
        assert_eq!(lines(&traces[0]), expected, "protocol {protocol}");
        // 2048 + 4096 at the end; 2048 + 8192 before the first entry.
        assert_eq!(traces[0].recorded_reserved_peak_bytes(), Some(10240));
        assert_eq!(traces[0].live_peak_bytes(), 5500);
        assert_eq!((traces[1].name(), traces[1].recorded_reserved_peak_bytes()), ("snapshot device 1", Some(2048)));
        assert_eq!((traces[1].allocations(), traces[1].frees(), traces[1].live_peak_bytes()), (1, 1, 64));
        assert_eq!(traces[1].history(), None);
        // Nothing was recorded of it, and what it has alive is known all the same.
        assert_eq!(traces[2].name(), "snapshot device 2");
        assert_eq!((traces[2].live_at_end_bytes(), traces[2].recorded_reserved_peak_bytes()), (2000, Some(2048)));
        assert!(traces[2].history().unwrap().starts_with("is missing"));
    }
}

/// The bytes with the first of a text replaced by another of its length.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[test]
fn entries_of_a_snapshot_that_miss_something_are_named() {
    let whole = data("snapshot2.pickle");
    for (from, to, expected) in [
        ("action", "acti0n", "expected a text for \"action\""),
        ("total_size", "total_s1ze", "for \"total_size\", and there is none"),
        ("state", "st4te", "expected a text for \"state\""),
        ("blocks", "bl0cks", "expected a list for \"blocks\""),
    ] {
        let error = Trace::parse(&replaced(&whole, from, to), "s.pickle").unwrap_err().to_string();
        assert!(error.contains(expected) && error.starts_with("s.pickle: byte "), "{error}");
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
        assert!(error.contains("to be one of its own"), "{error}");
    }
    // Keys that are not looked at, and one that is there many times.
    for key in ["key", "size"] {
        let many: Vec<_> = (0..65).map(|_| (key, number())).collect();
        assert_eq!(Trace::parse(&snapshot(1, 1, 1, 1, &many), "x.pickle").unwrap()[0].allocations(), 1);
    }
    let error = Trace::parse(&snapshot(5000, 1, 1, 1, &[]), "x.pickle").unwrap_err().to_string();
    assert!(error.contains("at most 4096 devices"), "{error}");
}

/// Reads a snapshot of tests/data.
fn snapshot(name: &str) -> Vec<Trace> {
    let name = format!("{name}.pickle");
    Trace::parse(&data(&name), &name).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn addresses_have_a_sign_where_cpp_wrote_them() {
    let traces = snapshot("negaddr");
    let expected = "\
# trace: negaddr
# framework: torch, from a memory snapshot
# device: 0
# reserved_peak_bytes: 2097152
# step 1
a 0 2097152
";
    assert_eq!((traces.len(), lines(&traces[0])), (1, expected.into()));
}

#[test]
fn a_device_may_have_no_number() {
    let traces = snapshot("devneg");
    let names: Vec<_> = traces.iter().map(|trace| (trace.name(), trace.live_peak_bytes(), trace.history())).collect();
    let missing = Some("is missing: these blocks were alive when the snapshot was taken");
    assert_eq!(names, [("devneg device -1", 5, missing), ("devneg device 0", 5, None)]);
    assert_eq!(traces[0].recorded_reserved_peak_bytes(), Some(512));
    // Nothing is known of the other's segments.
    assert_eq!(traces[1].recorded_reserved_peak_bytes(), None);
}

#[test]
fn tuples_stand_for_lists() {
    let traces = snapshot("tuple");
    assert_eq!((traces.len(), traces[0].allocations(), traces[0].live_at_end_bytes()), (1, 1, 5));
    assert_eq!((traces[0].recorded_reserved_peak_bytes(), traces[0].history()), (Some(512), None));
}

#[test]
fn steps_end_with_the_optimizers_and_pinned_memory_is_a_trace() {
    let traces = snapshot("modern");
    let expected = "\
# trace: modern device 0
# framework: torch, from a memory snapshot
# device: 0
# reserved_peak_bytes: 8192
# history: begins with 3.91 KiB alive in 1 block
a 0 4000
# step 1
a 1 1000
f 1
a 2 200
f 2
# step 2
a 3 1000
f 3
a 4 200
f 4
# step 3
a 5 1000
f 5
a 6 200
f 6
";
    assert_eq!((traces.len(), lines(&traces[0])), (2, expected.into()));
    assert_eq!(
        (traces[1].name(), traces[1].header_of("device")),
        ("modern pinned host memory", Some("pinned host memory"))
    );
    assert_eq!((traces[1].live_peak_bytes(), traces[1].recorded_reserved_peak_bytes()), (600, Some(1024)));
}

/// Without marks of the optimizer's step, steps begin where gradients are zeroed.
#[test]
fn steps_begin_with_zeroed_gradients_where_nothing_else_says() {
    let other = replaced(&data("modern.pickle"), "Optimizer.step#SGD", "Optimizer.stop#SGD");
    let trace = &Trace::parse(&other, "modern.pickle").unwrap()[0];
    assert_eq!(lines(trace), lines(&snapshot("modern")[0]));
    // Without either there is one step.
    let none = replaced(&other, "Optimizer.zero_grad#SGD", "Optimizer.zerO_grad#SGD");
    let trace = &Trace::parse(&none, "modern.pickle").unwrap()[0];
    assert!(lines(trace).contains("# step 1") && !lines(trace).contains("# step 2"), "{}", lines(trace));
}

#[test]
fn without_history_a_snapshot_shows_what_is_alive() {
    for name in ["no_history", "segments"] {
        let traces = snapshot(name);
        let expected = format!(
            "\
# trace: {name}
# framework: torch, from a memory snapshot
# device: 0
# reserved_peak_bytes: 8192
# history: is missing: these blocks were alive when the snapshot was taken
a 0 4000
# step 1
"
        );
        assert_eq!((traces.len(), lines(&traces[0])), (1, expected), "{name}");
    }
}

/// A snapshot may leave out `device_traces`, or the segments.
#[test]
fn segments_alone_are_a_snapshot() {
    let segments = replaced(&data("no_history.pickle"), "device_traces", "device_trades");
    let trace = &Trace::parse(&segments, "no_history.pickle").unwrap()[0];
    assert_eq!(lines(trace), lines(&snapshot("no_history")[0]));
    // Entries without segments are read too: what PyTorch had reserved is not known then.
    let entries = replaced(&data("tuple.pickle"), "segments", "segmentz");
    let trace = &Trace::parse(&entries, "tuple.pickle").unwrap()[0];
    assert_eq!((trace.live_at_end_bytes(), trace.recorded_reserved_peak_bytes()), (5, None));
}

/// Marks of one device end no step of another.
#[test]
fn steps_are_those_of_their_device() {
    let number = |number: u8| vec![b'K', number];
    let entry = |time| {
        let pairs = [("action", word("alloc")), ("addr", number(time)), ("size", number(1)), ("time_us", number(time))];
        dict(&pairs)
    };
    let trace = || [b"](".to_vec(), entry(1), entry(9), b"e".to_vec()].concat();
    let mark = |device, time| {
        let pairs = [("name", word("Optimizer.step#A")), ("stage", word("END")), ("device", number(device))];
        dict(&[&pairs[..], &[("time_us", number(time))]].concat())
    };
    let marks = [b"](".to_vec(), mark(1, 5), mark(0, 20), mark(7, 5), b"e".to_vec()].concat();
    let traces = [b"](".to_vec(), trace(), trace(), b"e".to_vec()].concat();
    let root = dict(&[("device_traces", traces), ("external_annotations", marks)]);
    let traces = Trace::parse(&[&b"\x80\x04"[..], &root, b"."].concat(), "x.pickle").unwrap();
    assert_eq!(traces.len(), 2);
    assert_eq!(lines(&traces[0]).matches("# step").count(), 1);
    assert!(lines(&traces[1]).ends_with("# step 1\na 0 1\n# step 2\na 1 1\n"), "{}", lines(&traces[1]));
}

/// The entries end with a block freed, and the segments have it: it was allocated again, unseen.
#[test]
fn what_the_segments_hold_is_alive_at_the_end() {
    let number = |number: u8| vec![b'K', number];
    let entry = |action| dict(&[("action", word(action)), ("addr", number(16)), ("size", number(5))]);
    let entries = [b"](".to_vec(), entry("alloc"), entry("free_completed"), b"e".to_vec()].concat();
    let block = dict(&[("state", word("active_allocated")), ("size", number(7))]);
    let segment = [("total_size", number(8)), ("address", number(16)), ("blocks", list(&block, 1))];
    let root = dict(&[("device_traces", list(&entries, 1)), ("segments", list(&dict(&segment), 1))]);
    let trace = &Trace::parse(&[&b"\x80\x04"[..], &root, b"."].concat(), "x.pickle").unwrap()[0];
    let expected = "\
# trace: x
# framework: torch, from a memory snapshot
# device: 0
# allocated_unseen: 1
# reserved_peak_bytes: 8
# history: is cut off: the allocations of 1 block are missing
# step 1
a 0 5
f 0
a 1 7
";
    assert_eq!(lines(trace), expected);
}

#[test]
fn a_history_that_is_cut_off_is_told_and_made_good_where_it_shows() {
    let expected = "\
# trace: cut_off
# framework: torch, from a memory snapshot
# device: 0
# freed_unseen: 2
# history: begins with 192 B alive in 2 blocks; is cut off: the frees of 2 blocks are missing
a 0 64
a 1 128
# step 1
a 2 2048
a 3 4096
f 1
f 2
a 4 512
f 0
f 3
";
    let traces = snapshot("cut_off");
    assert_eq!((traces.len(), lines(&traces[0])), (1, expected.into()));
    // PyTorch cannot have had less than was alive: so what it had is not known.
    assert_eq!(traces[0].recorded_reserved_peak_bytes(), None);
}
