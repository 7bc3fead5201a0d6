// does online placement repeat itself?
#[path = "alike.rs"]
#[allow(dead_code)]
mod alike;
use std::collections::BTreeMap;
use tensorpool::trace::{Event, Trace};
use tensorpool::*;
fn main() {
    for (what, slabs, percent) in [("9/8 or 2x single", SlabPolicy::Single, 0), ("single", SlabPolicy::Single, 105), ("growing", SlabPolicy::Growing, 125), ("growing", SlabPolicy::Growing, 200), ("fixed", SlabPolicy::Fixed(0), 100_000)] {
        println!("{what} {percent}");
        for name in alike::NAMES {
            let trace = alike::repeated(&Trace::read(format!("{}/traces/{name}.trace.gz", env!("CARGO_MANIFEST_DIR"))).unwrap().remove(0), 6);
            let live = trace.live_peak_bytes();
            let budget = match percent { 0 if live > 100 << 20 => live / 8 * 9, 0 => 2 * live, _ => live / 100 * percent };
            let slabs = if let SlabPolicy::Fixed(_) = slabs { SlabPolicy::Fixed((live / 64).max(64 << 10).next_power_of_two()) } else { slabs };
            let pool = Pool::with_backend(Virtual::default(), &Config::new(budget).slabs(slabs)).unwrap();
            let mut blocks: Vec<Option<Block<Virtual>>> = Vec::new();
            let mut steps: Vec<Vec<(u64, u64, u64)>> = vec![vec![]];
            let mut outer: Vec<BTreeMap<(u64, u64), u64>> = vec![];
            for event in trace.events() {
                match *event {
                    Event::Alloc { bytes, .. } => { let b = pool.alloc(Request::bytes(bytes)).ok(); if let Some(b) = &b { steps.last_mut().unwrap().push((b.slab().unwrap(), b.offset(), b.bytes_held())); } blocks.push(b); }
                    Event::Free { id } => blocks[id as usize] = None,
                    Event::Step { .. } => { steps.push(vec![]); outer.push(blocks.iter().flatten().map(|b| ((b.slab().unwrap(), b.offset()), b.bytes_held())).collect()); }
                    _ => {}
                }
            }
            let same: Vec<String> = (2..steps.len()).map(|n| { let (a, b) = (&steps[n - 1], &steps[n]); if a.len() != b.len() { return "-".into() } let s = a.iter().zip(b).filter(|(x, y)| x == y).count(); let big = a.iter().zip(b).filter(|(x, y)| x != y && x.2 > budget / 10000).count(); format!("{:.2}/{big}", s as f64 / a.len() as f64) }).collect();
            let souter: Vec<bool> = outer.windows(2).map(|w| w[0] == w[1]).collect();
            // union of the last step and what is outside
            let mut ranges: Vec<(u64, u64, u64)> = steps.last().unwrap().iter().map(|(s, o, b)| (*s, *o, o + b)).chain(outer.last().unwrap().iter().map(|((s, o), b)| (*s, *o, o + b))).collect();
            ranges.sort();
            let (mut sum, mut at) = (0, (0, 0));
            for (s, a, b) in ranges { let from = if at.0 == s { a.max(at.1) } else { a }; if b > from { sum += b - from; at = (s, b); } }
            println!("  {name}: same places as the step before {same:?}; outer same {souter:?}; union by live {:.3}", sum as f64 / live as f64);
        }
    }
}
