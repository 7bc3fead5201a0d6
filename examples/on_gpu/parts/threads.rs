//! Pairs on many threads of the host, by `race`.

use serde_json::Value;

use super::Scale;
use crate::args::Args;
use crate::figure::{Figure, Figures};

pub fn arguments(args: &Args) -> Vec<String> {
    let rounds = if args.small { "3" } else { "41" };
    ["cost", "--only", "threads", "--json", "--rounds", rounds].map(str::to_owned).to_vec()
}

/// Reads the table that the program printed: a row for each allocator and work, and a column for each number of threads. The
/// pool without memory behind it is left out: it costs what the host's costs.
pub fn figures(output: &str, _: &Scale) -> Figures {
    let table: Value = serde_json::from_str(output)?;
    let rows = table["rows"].as_array().ok_or("race printed no rows")?;
    let mut figures = Vec::new();
    for row in rows {
        let fields = row.as_object().ok_or("a row of race has no fields")?;
        let name = |key: &str| row[key].as_str().ok_or_else(|| format!("a row of race has no {key}"));
        let (allocator, work) = (name("allocator")?, name("work")?);
        if allocator == "pool-virtual" {
            continue;
        }
        let column = |head: &str, ns: &Value| Some((head.split(' ').next()?.parse::<u64>().ok()?, ns.as_f64()?));
        let mut columns: Vec<(u64, f64)> = fields.iter().filter_map(|(head, ns)| column(head, ns)).collect();
        columns.sort_by_key(|(threads, _)| *threads);
        let (_, alone_ns) = *columns.first().ok_or("a row of race has no figures")?;
        for (threads, ns) in columns {
            figures.push(match threads {
                1 => Figure::new(format!("{allocator}, {work}: one thread"), ns, "ns a pair"),
                _ => Figure::new(format!("{allocator}, {work}: gain on {threads} threads"), alone_ns / ns, ""),
            });
        }
    }
    Ok(figures)
}
