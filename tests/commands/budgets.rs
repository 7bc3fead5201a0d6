//! The budgets that a trace needs: the search, and what `replay --min-budget` says of it.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;
use tensorpool::trace::{MinBudget, Progress, Trace, TraceBuilder, min_budget, replay};
use tensorpool::{Backend, Config, Host, Placement, Pool, SlabPolicy, Virtual};

use crate::replay::{bundled, file, model, run, succeeds, text, tiny};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn search(trace: &Trace, placement: Placement, slabs: SlabPolicy) -> MinBudget {
    let open = |budget| model(budget, placement, slabs);
    min_budget(trace, open, |_| ControlFlow::Continue(())).unwrap().unwrap()
}

/// The grid, from its description: thousandths of the peak, from the lowest on.
fn grid(live_peak_bytes: u64) -> Vec<u64> {
    let fine = (0..=100).map(|step| 1000 + 5 * step);
    let coarse = (1..=10).map(|step| 1500 + 50 * step);
    fine.chain(coarse).map(|per_mille| (live_peak_bytes * per_mille).div_ceil(1000).next_multiple_of(KIB)).collect()
}

#[test]
fn the_lowest_budget_works_and_so_does_the_grid_from_the_safe_one_on() {
    for name in ["mlp_b128", "lenet_b64", "resnet18_b16_96"] {
        let trace = bundled(name);
        for placement in [Placement::Exact, Placement::PowerOfTwo] {
            for slabs in [SlabPolicy::Single, SlabPolicy::Growing, SlabPolicy::Fixed(MIB)] {
                let what = format!("{name} {placement:?} {slabs}");
                let found = search(&trace, placement, slabs);
                assert_eq!(found, search(&trace, placement, slabs), "{what}");
                let lowest_ratio = found.lowest_ratio().unwrap();
                assert!((1.0..3.0).contains(&lowest_ratio), "{what}: {found:?}");
                let works = |budget| replay(&trace, &model(budget, placement, slabs).unwrap()).unwrap().failures == 0;
                assert!(works(found.lowest_bytes) && !works(found.lowest_bytes - KIB), "{what}: {found:?}");
                let grid = grid(trace.live_peak_bytes());
                // The budget 1 KiB below the lowest fails, in one of these cases above a grid budget from which all work.
                let safe =
                    grid.iter().rev().take_while(|budget| **budget >= found.lowest_bytes && works(**budget)).last();
                assert_eq!(found.safe_bytes.as_ref(), safe, "{what}");
            }
        }
    }
    // Where one block is 60% of the peak, a lucky budget works far below others that fail.
    let found = search(&bundled("lenet_b64"), Placement::Exact, SlabPolicy::Single);
    assert!(found.safe_ratio().unwrap() > found.lowest_ratio().unwrap() + 0.3, "{found:?}");
}

/// Searches for a trace of one block of 1000 KiB, where budgets of these many KiB do not work.
fn search_without(fails: impl Fn(u64) -> bool) -> (u64, Option<u64>) {
    let mut builder = TraceBuilder::new("one block");
    builder.alloc(1000 * KIB, "").unwrap();
    let open = |budget: u64| {
        let budget = if fails(budget / KIB) { KIB } else { budget };
        model(budget, Placement::Exact, SlabPolicy::Single)
    };
    let found = min_budget(&builder.finish(), open, |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!((found.lowest_bytes % KIB, found.safe_bytes.unwrap_or(0) % KIB), (0, 0));
    (found.lowest_bytes / KIB, found.safe_bytes.map(|bytes| bytes / KIB))
}

#[test]
fn a_budget_that_fails_is_below_the_safe_one() {
    assert_eq!(search_without(|_| false), (1000, Some(1000)));
    for (fails, safe) in [(1000, 1005), (1005, 1010), (1300, 1305), (1495, 1500), (1500, 1550), (1950, 2000)] {
        let (lowest, found) = search_without(|kib| kib == fails);
        assert_eq!((lowest, found), (if fails == 1000 { 1001 } else { 1000 }, Some(safe)), "{fails} KiB fail");
    }
    // The highest of several counts, and twice the peak is the last.
    assert_eq!(search_without(|kib| [1010, 1250, 1600].contains(&kib)), (1000, Some(1650)));
    assert_eq!(search_without(|kib| kib == 2000), (1000, None));
    assert_eq!(search_without(|kib| kib < 3000), (3000, None));
    // Between two budgets of the grid: bisection sees it fail, and nothing below is called safe.
    assert_eq!(search_without(|kib| kib == 1000 || kib == 1062), (1063, Some(1065)));
}

#[test]
fn the_search_stops_when_it_is_told_to() {
    let trace = bundled("mlp_b128");
    let open = |budget| model(budget, Placement::Exact, SlabPolicy::Single);
    let whole = min_budget(&trace, open, |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert!(whole.tries > 100 && whole.tries < 140, "{whole:?}");
    for last in [1, 2, whole.tries / 2, whole.tries] {
        let mut tries = 0;
        let stopped = min_budget(&trace, open, |progress| {
            tries += u64::from(matches!(progress, Progress::Try { .. }));
            if tries == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((stopped.unwrap(), tries), (None, last));
    }
}

#[test]
fn what_needs_nothing_and_what_needs_too_much() {
    let found = search(&TraceBuilder::new("nothing").finish(), Placement::Exact, SlabPolicy::Single);
    assert_eq!((found.lowest_bytes, found.safe_bytes), (0, Some(0)));
    assert_eq!((found.lowest_ratio(), found.safe_ratio()), (None, None));
    let limited = |budget| {
        let mut limits = Backend::limits(&Host);
        limits.block.bytes = MIB;
        Pool::with_backend(Virtual::new(limits), &Config::new(budget))
    };
    let error = min_budget(&tiny(), limited, |_| ControlFlow::Continue(())).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("none of the budgets tried, up to") && message.contains("tiny"), "{message}");
    // With the reason.
    assert!(message.contains("4,194,304 bytes") && error.cause().is_some(), "{message}");
    // The largest numbers that there are.
    let mut builder = TraceBuilder::new("all bytes");
    builder.alloc(u64::MAX, "").unwrap();
    let open = |budget| model(budget, Placement::Exact, SlabPolicy::Growing);
    let error = min_budget(&builder.finish(), open, |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("none of the budgets tried, up to"), "{error}");
}

#[test]
fn requests_that_failed_in_the_recording_are_counted_and_left_out() {
    let mut builder = TraceBuilder::new("failed");
    builder.alloc(MIB, "").unwrap();
    builder.failure(7 * MIB, "");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failed.trace");
    std::fs::write(&path, builder.finish().to_text()).unwrap();
    let path = path.to_str().unwrap();

    let found = search(&Trace::read(path).unwrap()[0], Placement::Exact, SlabPolicy::Growing);
    assert_eq!((found.lowest_bytes, found.failures, found.largest_failure_bytes), (MIB, 1, 7 * MIB));
    let stdout = succeeds(&[path, "--min-budget"]);
    let line =
        "1 allocation of 7 MiB failed in the recording: safe and lowest are budgets of the requests that succeeded";
    assert!(stdout.contains(line), "{stdout}");
    let object: Value = serde_json::from_str(&succeeds(&[path, "--json"])).unwrap();
    assert_eq!(object["recorded_failures"], 1);
    assert_eq!(object["recorded_largest_failure_bytes"], 7 * MIB);

    builder = TraceBuilder::new("failed");
    [MIB, 9 * MIB, 2 * MIB].iter().for_each(|bytes| builder.failure(*bytes, ""));
    std::fs::write(path, builder.finish().to_text()).unwrap();
    let stdout = succeeds(&[path]);
    assert!(stdout.contains("3 allocations failed in the recording, the largest of 9 MiB"), "{stdout}");
}

#[test]
fn slabs_are_those_that_are_named_or_the_pools_own() {
    let mlp = file("mlp_b128");
    let trace = bundled("mlp_b128");
    let object = |args: &[&str]| -> Value {
        let args: Vec<&str> = [&mlp, "--json"].into_iter().chain(args.iter().copied()).collect();
        serde_json::from_str(&succeeds(&args)).unwrap()
    };
    let default = object(&["--min-budget"]);
    for (option, slabs) in [
        (None, SlabPolicy::default()),
        (Some("expanding"), SlabPolicy::Expanding),
        (Some("growing"), SlabPolicy::Growing),
        (Some("single"), SlabPolicy::Single),
        (Some("per-block"), SlabPolicy::PerBlock),
        (Some("1048576"), SlabPolicy::Fixed(MIB)),
    ] {
        let named: Vec<&str> = option.into_iter().flat_map(|option| ["--slab", option]).collect();
        let found = object(&[&named[..], &["--min-budget"]].concat());
        let expected = search(&trace, Placement::Exact, slabs);
        assert_eq!(found["min_budget_bytes"], expected.lowest_bytes, "{option:?}");
        assert_eq!(found["safe_bytes"].as_u64(), expected.safe_bytes, "{option:?}");
        assert_eq!(found["search_slabs"], option.unwrap_or("expanding"));
        // The replay beside the search has slabs of 1/64 of the peak whatever is searched.
        assert_eq!((&found["ratio"], &found["slabs"]), (&default["ratio"], &default["slabs"]), "{option:?}");

        // Without a search and a budget, the pool has twice the peak.
        let Some(option) = option else { continue };
        let replayed = object(&named);
        let twice = replay(&trace, &model(2 * trace.live_peak_bytes(), Placement::Exact, slabs).unwrap()).unwrap();
        assert_eq!(replayed["reserved_peak_bytes"], twice.reserved_peak_bytes, "{option}");
        assert_eq!((&replayed["slabs"], &replayed["failures"]), (&option.into(), &0.into()));
        assert!(succeeds(&[&mlp, "--slab", option]).contains("budget twice the peak, "), "{option}");
    }
    assert_eq!(object(&["--budget", "16MiB"])["slabs"], "expanding");
    assert_eq!(object(&["--budget", "16MiB", "--slab", "single"])["reserved_peak_bytes"], 16 * MIB);
}

#[test]
fn a_budget_that_is_printed_works_when_it_is_given() {
    let mut tried = HashSet::new();
    for name in ["mlp_b128", "lenet_b64", "lstm_lm_varlen", "resnet18_b16_multiscale"] {
        let path = file(name);
        for options in [&[][..], &["--slab", "single"], &["--placement", "power-of-two"], &["--auto"]] {
            let with = |more: &[&str]| run(&[&[&*path], options, more].concat());
            let stdout = with(&["--min-budget"]).stdout;
            let stdout = text(&stdout);
            let row: Vec<&str> =
                stdout.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect();
            let &[.., safe, safe_ratio, lowest, lowest_ratio] = &row[..] else { panic!("{stdout}") };
            assert!(lowest_ratio.parse::<f64>().is_ok(), "{stdout}");
            assert_eq!(safe_ratio == "-", stdout.contains("no budget up to twice the peak is safe"), "{stdout}");
            for kib in [safe, lowest].into_iter().filter(|kib| *kib != "-") {
                let output = with(&["--budget", &format!("{kib}KiB")]);
                assert_eq!(output.status.code(), Some(0), "{name} {options:?}: {kib}: {}", text(&output.stderr));
                tried.insert((name, kib.to_owned()));
            }
        }
    }
    assert!(tried.len() > 16, "{tried:?}");
}
