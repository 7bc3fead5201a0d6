//! Kineto's traces.

use tensorpool::trace::{Event, Trace};

use crate::{data, gzip, lines, one};

/// A trace in the form that PyTorch writes: events by thread and not by time, addresses with a sign, an operation that lasts, and a mark that
/// the GPU's line has too. Two steps.
pub const TRACE: &str = r#"{
  "schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "x"}], "with_stack": false,
  "traceEvents": [
  {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#7", "pid": 1, "tid": 1, "ts": 100.5, "dur": 50.25,
   "args": {"External id": 1, "Ev Idx": 0}},
  {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#8", "pid": 1, "tid": 1, "ts": 150.750, "dur": 50},
  {"ph": "X", "cat": "gpu_user_annotation", "name": "ProfilerStep#8", "pid": 0, "tid": 7, "ts": 120, "dur": 50},
  {"ph": "X", "cat": "cpu_op", "name": "aten::empty", "pid": 1, "tid": 1, "ts": 101, "dur": 3,
   "args": {"Input Dims": [[[2, 3]], []], "Bytes": "none", "Addr": null}},
  {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "pid": 1, "tid": 1, "ts": 140.001,
   "args": {"Total Reserved": 2097152, "Total Allocated": 512, "Bytes": -512, "Addr": -140737488355328,
            "Device Id": 0, "Device Type": 1, "Ev Idx": 3}},
  {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "pid": 1, "tid": 2, "ts": 102.5,
   "args": {"Total Reserved": 4194304, "Total Allocated": 1024, "Bytes": 512, "Addr": 18446603336221196288,
            "Device Id": 0, "Device Type": 1}},
  {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "pid": 1, "tid": 2, "ts": 160,
   "args": {"Bytes": 300, "Addr": 4096, "Device Id": 0, "Device Type": 1, "Total Reserved": 4194304}},
  {"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "pid": 1, "tid": 2, "ts": 103,
   "args": {"Bytes": -64, "Addr": 64, "Device Id": -1, "Device Type": 0, "Total Reserved": 0}},
  {"name": "Iteration Start: PyTorch Profiler", "ph": "i", "s": "g", "pid": "Traces", "tid": "Trace x", "ts": 1}
  ],
  "traceName": "x.json"
}
"#;

#[test]
fn allocations_and_frees_are_put_in_order_by_device() {
    let traces = Trace::parse(TRACE.as_bytes(), "run.pt.trace.json").unwrap();
    let cpu = "\
# trace: run.pt.trace cpu
# framework: torch, from a Kineto trace
# device: cpu
# history: begins with 64 B alive in 1 block
a 0 64
# step 1
f 0
";
    let cuda = "\
# trace: run.pt.trace cuda 0
# framework: torch, from a Kineto trace
# device: cuda 0
# reserved_peak_bytes: 4194304
# step 1
a 0 512
f 0
# step 2
a 1 300
";
    assert_eq!(traces.iter().map(lines).collect::<Vec<_>>(), [cpu, cuda]);
    assert_eq!(traces[1].recorded_reserved_peak_bytes(), Some(4 << 20));
    // Packed, without a name that says what it is, and as a list of events alone.
    assert_eq!(Trace::parse(&gzip(TRACE.as_bytes()), "run.pt.trace.json.gz").unwrap(), traces);
    assert_eq!(lines(&Trace::parse(TRACE.as_bytes(), "run").unwrap()[1]), cuda.replace(".pt.trace", ""));
    let list = &TRACE[TRACE.find('[').unwrap()..];
    let list = &list[list.find("[\n").unwrap()..list.rfind(']').unwrap() + 1];
    assert_eq!(Trace::parse(list.as_bytes(), "run.pt.trace.json").unwrap(), traces);
}

/// Recordings of ours: `tests/data/make.py` says of what. 40 lines of Python come to the same numbers.
#[test]
fn real_recordings_are_read_from_version_1_10_on() {
    let name = "kineto_1.12.json.gz";
    let trace = one(&data(name), name);
    assert_eq!((trace.name(), trace.header_of("device"), trace.history()), ("kineto_1.12", Some("cpu"), None));
    assert_eq!((trace.allocations(), trace.frees(), trace.live_peak_bytes()), (116, 116, 14728));
    let steps = trace.events().iter().filter(|event| matches!(event, Event::Step { .. })).count();
    // Four, and what the last leaves to be freed.
    assert_eq!((steps, trace.live_at_end_bytes()), (5, 0));
    let error = Trace::parse(&data("kineto_1.9.json.gz"), "old.json.gz").unwrap_err().to_string();
    assert!(error.contains("PyTorch 1.9 writes them without, PyTorch 1.10 and newer with addresses"), "{error}");
}

#[test]
fn the_optimizers_marks_end_steps_where_the_profiler_has_none() {
    let of = |from: &str, to: &str| {
        let text = TRACE.replace("ProfilerStep#7", from).replace("ProfilerStep#8", to);
        lines(&Trace::parse(text.as_bytes(), "x.json").unwrap()[1])
    };
    // The first ends at 150.75.
    for (from, to) in
        [("Optimizer.step#SGD.step", "Other"), ("Optimizer.zero_grad#SGD.zero_grad", "Optimizer.zero_grad#A")]
    {
        assert!(of(from, to).contains("f 0\n# step 2\na 1 300"), "{}", of(from, to));
    }
    assert!(!of("Other", "Optimizer.steps").contains("# step 2"));
}

#[test]
fn what_is_no_memory_trace_is_refused_with_what_would_be_one() {
    let event = |args: &str| format!(r#"{{"traceEvents": [{{"name": "[memory]", "ts": 1, "args": {{{args}}}}}]}}"#);
    for (text, expected) in [
        (
            event(r#""Bytes": 5"#),
            "expected \"Addr\" in [memory] events: PyTorch 1.9 writes them without, PyTorch 1.10 and newer",
        ),
        (
            event(r#""Addr": 5, "Bytes": 1"#)
                .replace("}}]", r#"}}, {"name": "[memory]", "ts": 2, "args": {"Bytes": 1}}]"#),
            "expected \"Addr\" in every [memory] event, found 1 without",
        ),
        (event(r#""Addr": 5"#), "line 1: expected a Kineto trace in JSON: expected a number for \"Bytes\""),
        (event(r#""Addr": 99999999999999999999, "Bytes": 1"#), "expected \"Addr\""),
        (event(r#""Addr": 1, "Bytes": 1"#).replace("\"ts\": 1", "\"ts\": \"x\""), "expected a number for \"ts\""),
        (r#"{"traceEvents": []}"#.into(), "torch.profiler.profile(profile_memory=True) records them"),
        (r#"{"other": [1, 2]}"#.into(), "expected [memory] events in \"traceEvents\""),
        (
            r#"{"traceEvents": [{"name": "[memory]""#.into(),
            "line 1: expected a Kineto trace in JSON: EOF while parsing",
        ),
        (r#"{"traceEvents": [5]}"#.into(), "an event"),
        (format!("{} x", event(r#""Addr": 1, "Bytes": 1"#)), "trailing characters"),
    ] {
        let error = Trace::parse(text.as_bytes(), "x.json").unwrap_err().to_string();
        assert!(error.starts_with("x.json: ") && error.contains(expected), "{error}\n  should say {expected}");
    }
    let whole = event(r#""Addr": 1, "Bytes": 1"#);
    assert_eq!(one(whole.as_bytes(), "x.json").live_peak_bytes(), 1);
}
