//! Holds the figures of the README and of `docs`, and the error shown there, to what the crate does.

use std::ops::ControlFlow;

use tensorpool::nn::{Allocator, Optimizer, Settings, StepKind, Trainer, needs};
use tensorpool::plan::{self, Options};
use tensorpool::trace::{MinBudget, Trace, min_budget};
use tensorpool::{Config, Host, Placement, Pool, SlabPolicy, Virtual};

use crate::replay::{NAMES, bundled, model};

const README: &str = include_str!("../../README.md");
const GUIDE: &str = include_str!("../../docs/GUIDE.md");
const FIGURES: &str = include_str!("../../docs/FIGURES.md");

fn default_settings() -> Settings {
    let optimizer = Optimizer::MOMENTUM;
    Settings { widths: vec![784, 512, 256, 10], batch: 128, optimizer, learning_rate: 0.12, seed: 1 }
}

fn deep_settings() -> Settings {
    let mut widths = vec![512; 10];
    (widths[0], widths[9]) = (784, 10);
    Settings { widths, batch: 256, optimizer: Optimizer::Sgd, learning_rate: 0.1, seed: 1 }
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// A text with single spaces between its words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_table_has_the_smallest_budgets() {
    for (row, kind, allocator) in [
        ("frugal step, pool", StepKind::Frugal, Allocator::Pool),
        ("frugal step, one buffer a tensor", StepKind::Frugal, Allocator::Naive),
        ("ordinary step, pool", StepKind::Ordinary, Allocator::Pool),
        ("ordinary step, one buffer a tensor", StepKind::Ordinary, Allocator::Naive),
    ] {
        let line = FIGURES.lines().find(|line| line.replace('*', "").starts_with(&format!("| {row} |"))).unwrap();
        for settings in [default_settings(), deep_settings()] {
            let budget = needs(&Host, &settings, kind, allocator).unwrap().budget_bytes;
            assert!(line.contains(&with_commas(budget)), "{row}: {} is not in {line}", with_commas(budget));
        }
        if kind == StepKind::Frugal {
            let budget = needs(&Host, &default_settings(), kind, allocator).unwrap().budget_bytes;
            assert!(README.contains(&with_commas(budget)), "{row}: {}", with_commas(budget));
        }
    }
}

#[test]
fn the_error_of_a_budget_one_page_too_small_is_the_one_shown() {
    let settings = default_settings();
    let budget = needs(&Host, &settings, StepKind::Frugal, Allocator::Pool).unwrap().budget_bytes - 1024;
    assert!(GUIDE.contains(&with_commas(budget)), "{}", with_commas(budget));
    let pool = Pool::host(Config::new(budget).free_lists(false).slabs(SlabPolicy::Single)).unwrap();
    let mut trainer = Trainer::new(&pool, settings, StepKind::Frugal).unwrap();
    let error = trainer.step(&vec![0.0; 128 * 784], &[0; 128]).unwrap_err().to_string();
    assert!(words(GUIDE).contains(&words(&error)), "the guide does not show this error:\n{error}");
}

/// In a pool's rows, a larger budget never fails: the grid of `replay --min-budget` from the smallest up to twice it.
#[test]
fn every_larger_budget_trains_too() {
    for settings in [default_settings(), deep_settings()] {
        for kind in [StepKind::Frugal, StepKind::Ordinary] {
            let smallest = needs(&Host, &settings, kind, Allocator::Pool).unwrap().budget_bytes;
            for per_mille in (1000..1500).step_by(5).chain((1500..=2000).step_by(50)) {
                let budget = (smallest * per_mille).div_ceil(1000);
                let config = Config::new(budget).free_lists(false).slabs(SlabPolicy::Single);
                let pool = Pool::with_backend(Virtual::default(), &config).unwrap();
                let mut trainer = Trainer::new(&pool, settings.clone(), kind).unwrap();
                let (images, labels) = (vec![0.0; settings.batch * 784], vec![0; settings.batch]);
                for _ in 0..2 {
                    trainer.step(&images, &labels).unwrap_or_else(|error| panic!("{kind:?} in {budget}: {error}"));
                }
            }
        }
    }
}

/// The row of a table that begins with this cell: the other cells.
fn cells(row: &str) -> Vec<&'static str> {
    let line = FIGURES.lines().find(|line| line.starts_with(&format!("| {row} |"))).expect(row);
    line.split('|').map(str::trim).skip(2).collect()
}

fn geometric_mean(found: &[MinBudget], pick: fn(&MinBudget) -> Option<f64>) -> Option<f64> {
    let ratios: Option<Vec<f64>> = found.iter().map(pick).collect();
    ratios.map(|ratios| (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp())
}

/// Finds the budgets of a bundled trace.
type Find<'a> = &'a (dyn Fn(&str) -> MinBudget + Sync);

#[test]
fn the_table_of_recorded_runs_has_what_they_need() {
    let online = |name: &str, placement, slabs| {
        let open = |budget| model(budget, placement, slabs);
        min_budget(&bundled(name), open, |_| ControlFlow::Continue(())).unwrap().unwrap()
    };
    let planned = |name: &str| {
        let trace: Trace = bundled(name).without_steps();
        let lifetimes = trace.lifetimes();
        let plan = plan::solve(&lifetimes, &Options::new().align(64)).unwrap();
        let open = |budget| model(budget, Placement::Exact, SlabPolicy::Single)?.follow_plan(&lifetimes, &plan);
        min_budget(&trace, open, |_| ControlFlow::Continue(())).unwrap().unwrap()
    };
    let rows: [(&str, &str, Find<'_>); 5] = [
        ("one slab that expands, the default", "need 1.01 times", &|name| {
            online(name, Placement::Exact, SlabPolicy::Expanding)
        }),
        ("slabs as needed, the default of a GPU", "need 1.14 in slabs as needed", &|name| {
            online(name, Placement::Exact, SlabPolicy::Growing)
        }),
        ("one slab", "and 1.08 in one slab", &|name| online(name, Placement::Exact, SlabPolicy::Single)),
        ("one slab, the whole run planned ahead", "Planned ahead they need 1.00.", &planned),
        ("one slab, as a classic buddy", "needs 1.64 at least", &|name| {
            online(name, Placement::PowerOfTwo, SlabPolicy::Single)
        }),
    ];
    std::thread::scope(|scope| {
        for (row, claim, find) in rows {
            scope.spawn(move || {
                let found: Vec<MinBudget> = NAMES.iter().map(|name| find(name)).collect();
                let safe_ratio = geometric_mean(&found, MinBudget::safe_ratio);
                let safe = match safe_ratio {
                    Some(ratio) => format!("{ratio:.3}"),
                    None => format!("none in {}", found.iter().filter(|found| found.safe_bytes.is_none()).count()),
                };
                let lowest_ratio = geometric_mean(&found, MinBudget::lowest_ratio).unwrap();
                assert_eq!(cells(row)[..2], [safe, format!("{lowest_ratio:.3}")], "{row}");
                let rounded = format!("{:.2}", safe_ratio.unwrap_or(lowest_ratio));
                assert!(claim.contains(&rounded) && words(README).contains(claim), "{row}: {rounded}, but {claim}");
            });
        }
    });
}
