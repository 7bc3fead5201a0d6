//! What the speed of this crate is held to: every figure of it beside `offset-allocator` behind a mutex, in one run and in turn.

mod books;
mod growth;
mod labels;
mod pairs;
mod plot;
mod recorded;
mod table;
mod tails;

use std::path::Path;

use self::table::Table;
use crate::threads::case::Work;
use crate::{report, threads};

type Measure = fn(&Effort) -> Result<Vec<Table>, String>;

/// What is measured, by name, in the order in which it is shown.
const PARTS: [(&str, Measure); 14] = [
    ("pairs", pairs::run),
    ("slab-bytes", pairs::run_slab_bytes),
    ("gains", pairs::run_gains),
    ("hand-over", pairs::run_hand_over),
    ("mallocs", pairs::run_mallocs),
    ("labels", labels::run),
    ("live", growth::run_live),
    ("slabs", growth::run_slabs),
    ("threads", growth::run_threads),
    ("batch", growth::run_batch),
    ("waiters", growth::run_waiters),
    ("tails", tails::run),
    ("books", books::run),
    ("traces", recorded::run),
];

/// How long is measured.
pub struct Effort {
    pub turns: threads::Effort,
    /// Rounds of what takes long to set up.
    pub few_rounds: usize,
    /// Pairs whose slowest is looked for, in each round of them.
    pub tail_pairs: usize,
    pub traces: report::Effort,
}

impl Effort {
    pub fn new(quick: bool, rounds: Option<usize>) -> Self {
        let turns = threads::Effort::new(quick, rounds);
        let few_rounds = rounds.unwrap_or(if quick { 5 } else { 25 });
        let tail_pairs = if quick { 200_000 } else { 1_000_000 };
        Self { turns, few_rounds, tail_pairs, traces: report::Effort::new(quick) }
    }
}

/// The works that are done on one thread.
pub fn works() -> Vec<Work> {
    pairs::works()
}

/// Measures the parts that have one of the texts in their name, or all parts, and prints each of them as soon as it is there.
pub fn run(effort: &Effort, only: &[String], as_json: bool, plot: Option<&Path>) -> Result<(), String> {
    if let Some(text) = only.iter().find(|text| !PARTS.iter().any(|(name, _)| name.contains(text.as_str()))) {
        return Err(format!("no part has {text:?} in its name: {}", PARTS.map(|(name, _)| name).join(", ")));
    }
    let is_wanted = |name: &str| only.is_empty() || only.iter().any(|text| name.contains(text.as_str()));
    let parts = PARTS.into_iter().filter(|(name, _)| is_wanted(name));
    if let Some(path) = plot {
        crate::check_writable(path)?;
    }
    let mut all = Vec::new();
    for (_, measure) in parts {
        for table in measure(effort)? {
            if as_json {
                println!("{}", table.json())
            } else {
                println!("{}", table.markdown())
            }
            all.push(table);
        }
    }
    match plot {
        Some(path) => plot::write(path, &all),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// No figure is asserted: each must be there.
    #[test]
    fn every_part_has_a_positive_figure_in_every_cell() {
        let effort = Effort {
            turns: threads::Effort { rounds: 1, time: Duration::from_micros(50) },
            few_rounds: 1,
            tail_pairs: 1_000,
            traces: report::Effort { events: 0, repeats_least: 1, repeats_most: 1 },
        };
        let mut ids = Vec::new();
        for (name, measure) in PARTS {
            let tables = measure(&effort).unwrap();
            assert!(!tables.is_empty(), "{name}");
            for table in tables {
                assert!(table.rows.len() >= 3, "{}", table.markdown());
                for row in &table.rows {
                    let holes = row.figures.iter().filter(|figure| !(figure.is_finite() && **figure >= 0.0)).count();
                    assert_eq!(holes, 0, "{}: {:?} {:?}", table.id, row.names, row.figures);
                }
                ids.push(table.id);
            }
        }
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "{ids:?}");
    }

    #[test]
    fn a_part_that_is_not_there_is_refused_with_all_names() {
        let error = run(&Effort::new(true, Some(1)), &["books".to_owned(), "nothing like it".to_owned()], false, None)
            .err()
            .unwrap();
        assert!(PARTS.iter().all(|(name, _)| error.contains(name)), "{error}");
    }
}
