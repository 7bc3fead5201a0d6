//! Holds the README's figures and the error it shows to what the crate does.

use tensorpool::nn::{Allocator, Optimizer, Settings, StepKind, Trainer, needs};
use tensorpool::{Config, Host, Pool, SlabPolicy};

const README: &str = include_str!("../../README.md");

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

#[test]
fn the_table_has_the_smallest_budgets() {
    for (row, kind, allocator) in [
        ("frugal step, pool", StepKind::Frugal, Allocator::Pool),
        ("frugal step, one buffer a tensor", StepKind::Frugal, Allocator::Naive),
        ("ordinary step, pool", StepKind::Ordinary, Allocator::Pool),
        ("ordinary step, one buffer a tensor", StepKind::Ordinary, Allocator::Naive),
    ] {
        let line = README.lines().find(|line| line.replace('*', "").starts_with(&format!("| {row} |"))).unwrap();
        for settings in [default_settings(), deep_settings()] {
            let budget = needs(&Host, &settings, kind, allocator).unwrap().budget_bytes;
            assert!(line.contains(&with_commas(budget)), "{row}: {} is not in {line}", with_commas(budget));
        }
    }
}

#[test]
fn the_error_of_a_budget_one_page_too_small_is_the_one_shown() {
    let settings = default_settings();
    let budget = needs(&Host, &settings, StepKind::Frugal, Allocator::Pool).unwrap().budget_bytes - 1024;
    assert!(README.contains(&with_commas(budget)), "{}", with_commas(budget));
    let pool = Pool::host(Config::new(budget).free_lists(false).slabs(SlabPolicy::Single)).unwrap();
    let mut trainer = Trainer::new(&pool, settings, StepKind::Frugal).unwrap();
    let error = trainer.step(&vec![0.0; 128 * 784], &[0; 128]).unwrap_err().to_string();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    assert!(words(README).contains(&words(&error)), "the README does not show this error:\n{error}");
}
