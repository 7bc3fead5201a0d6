//! Recorded training runs: online, planned, and in many slabs, beside `offset-allocator`.

use super::Effort;
use super::table::{Table, ns, ratio};
use crate::contest::Contestant;
use crate::peers::{self, OFFSET, OFFSET_GUARDED, ONE_SLAB};
use crate::report::times;
use crate::sample::{geometric_mean, median, median_ratio};
use crate::workload::Workload;

/// What the others are measured by.
const BASES: [(&str, &str); 3] = [(OFFSET, "offset-allocator"), (OFFSET_GUARDED, "in a mutex"), (ONE_SLAB, "one slab")];

pub fn run(effort: &Effort) -> Result<Vec<Table>, String> {
    let mut contestants = peers::all();
    let is_wanted = |contestant: &dyn Contestant| {
        let name = contestant.name();
        (name.starts_with("tensorpool") && !name.ends_with("alone")) || BASES.iter().any(|(base, _)| *base == name)
    };
    contestants.retain(|contestant| is_wanted(contestant.as_ref()));
    let place = |name: &str| contestants.iter().position(|contestant| contestant.name() == name);
    let bases = BASES.map(|(name, _)| place(name).expect("every base is a contestant"));
    let workloads = Workload::bundled()?;
    let samples: Vec<Vec<Vec<f64>>> =
        workloads.iter().map(|workload| times(&contestants, workload, &effort.traces)).collect();
    let mut columns = vec![ns("ns an event")];
    for (_, base) in BASES {
        columns.extend([ratio(format!("/ {base}")), ratio("worst")]);
    }
    let title = format!("geometric means over {} recorded runs; the worst of them beside", workloads.len());
    let mut table = Table::new("traces", title, &["allocator"], columns);
    for (index, contestant) in contestants.iter().enumerate() {
        let mut figures = vec![geometric_mean(&samples.iter().map(|of| median(&of[index])).collect::<Vec<_>>())];
        for base in bases {
            let ratios: Vec<f64> = samples.iter().map(|of| median_ratio(&of[index], &of[base])).collect();
            figures.extend([geometric_mean(&ratios), ratios.into_iter().fold(0.0, f64::max)]);
        }
        table.push([contestant.name()], figures);
    }
    Ok(vec![table])
}
