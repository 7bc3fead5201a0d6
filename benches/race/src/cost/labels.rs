//! What a label costs, by the number of different ones.

use std::sync::Mutex;
use std::time::Duration;

use tensorpool::{Block, Label, Pool, Request, SlabPolicy, Virtual};

use super::Effort;
use super::table::{Axis, Table, ns, ratio};
use crate::random::Random;
use crate::sample::{in_turn, median, median_ratio};
use crate::threads::shared::open_pool;
use crate::threads::{ARENA_BYTES, crew};

const BYTES: u64 = 64;
const DISTINCT: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
const WARM_PAIRS: u64 = 1_000;

/// A pool in which each label has one live block, as the tensors of a program have.
struct Labelled {
    texts: Vec<&'static str>,
    labels: Vec<Label>,
    /// Dropped before the pool.
    _live: Vec<Block<Virtual>>,
    pool: Pool<Virtual>,
    random: Mutex<Random>,
}

impl Labelled {
    fn new(distinct: usize) -> Self {
        let pool = open_pool(Virtual::default(), ARENA_BYTES, SlabPolicy::Single);
        // They are leaked once: a program has them in its text.
        let texts: Vec<&'static str> =
            (0..distinct).map(|number| &*Box::leak(format!("layer {number} weights").into_boxed_str())).collect();
        let block = |text: &&'static str| pool.alloc(Request::bytes(BYTES).label(*text)).expect("room for all");
        let live = texts.iter().map(block).collect();
        let labels = texts.iter().map(|text| pool.label(text)).collect();
        Self { texts, labels, _live: live, pool, random: Mutex::new(Random::new(0x9e37_79b9_7f4a_7c15)) }
    }

    /// Returns nanoseconds for `each` of a random label, by its number.
    fn each_ns(&self, time: Duration, each: impl Fn(usize) + Sync) -> f64 {
        crew::unit_ns(1, WARM_PAIRS, time, |_, units| {
            let mut random = self.random.lock().expect("no worker panicked");
            for _ in 0..units {
                each(random.below(self.texts.len()));
            }
        })
    }

    /// Returns nanoseconds a pair with these requests.
    fn pair_ns<'l>(&'l self, time: Duration, request: impl Fn(usize) -> Request<'l> + Sync) -> f64 {
        self.each_ns(time, |number| drop(self.pool.alloc(request(number)).expect("room for all")))
    }
}

/// How the request of a block gets its label.
type Kind = (&'static str, fn(&Labelled, Duration) -> f64);
const KINDS: [Kind; 6] = [
    ("no label", |labelled, time| labelled.pair_ns(time, |_| Request::bytes(BYTES))),
    ("interned", |labelled, time| labelled.pair_ns(time, |of| Request::bytes(BYTES).label(&labelled.labels[of]))),
    ("&'static str", |labelled, time| labelled.pair_ns(time, |of| Request::bytes(BYTES).label(labelled.texts[of]))),
    (MADE, |labelled, time| labelled.pair_ns(time, |of| Request::bytes(BYTES).label(labelled.texts[of].to_owned()))),
    // What memory takes to find a label that a program has, at random.
    ("(reading a Label)", |labelled, time| {
        labelled.each_ns(time, |of| _ = std::hint::black_box(labelled.labels[of].text().as_ptr()))
    }),
    (MAKING, |labelled, time| labelled.each_ns(time, |of| drop(std::hint::black_box(labelled.texts[of].to_owned())))),
];
const MADE: &str = "String, less its making";
const MAKING: &str = "(making a String)";

pub fn run(effort: &Effort) -> Result<Vec<Table>, String> {
    let pools = DISTINCT.map(Labelled::new);
    let mut samples = in_turn(effort.turns.rounds, KINDS.len() * pools.len(), |index| {
        KINDS[index / pools.len()].1(&pools[index % pools.len()], effort.turns.time)
    });
    let place = |name| KINDS.iter().position(|(known, _)| *known == name).expect("it is one of them") * pools.len();
    for distinct in 0..pools.len() {
        let making = samples[place(MAKING) + distinct].clone();
        let made = &mut samples[place(MADE) + distinct];
        made.iter_mut().zip(making).for_each(|(made, making)| *made = (*made - making).max(0.0));
    }
    let rows: Vec<&[Vec<f64>]> = samples.chunks(pools.len()).collect();
    let title = "ns a pair of 64 B, by the number of labels, each of which has one live block";
    let mut times = Table::new("labels", title, &["label"], DISTINCT.map(|count| ns(count.to_string())).into());
    times.axis = Some(Axis { what: "labels", values: DISTINCT.map(|count| count as u64).into() });
    let columns = DISTINCT.map(|count| ratio(count.to_string())).into();
    let mut ratios = Table::new("labels-ratio", "the same by a pair without a label", &["label"], columns);
    for ((name, _), samples) in KINDS.iter().zip(&rows) {
        times.push([name], samples.iter().map(|samples| median(samples)).collect());
        let unlabelled = rows[0].iter();
        ratios.push([name], samples.iter().zip(unlabelled).map(|(own, none)| median_ratio(own, none)).collect());
    }
    Ok(vec![times, ratios])
}
