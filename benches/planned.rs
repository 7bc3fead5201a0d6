//! A training step's allocations, served at planned offsets and online: nanoseconds for an allocation or a free, handle
//! included.
//!
//!     cargo bench --bench planned

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::trace::{Event, Trace};
use tensorpool::{Block, Config, Pool, Request, SlabPolicy, Virtual};

/// What a step does: allocate so many bytes, or free the block of this number.
#[derive(Clone, Copy)]
enum Op {
    Alloc(u64),
    Free(usize),
}

/// What the last step of a recorded run allocates and frees again, and when it is alive.
fn last_step(name: &str) -> (Vec<Op>, Vec<Lifetime>) {
    let path = format!("{}/traces/{name}.trace.gz", env!("CARGO_MANIFEST_DIR"));
    let trace = &Trace::read(&path).expect("it is bundled")[0];
    let events = trace.events();
    let start = events.iter().rposition(|event| matches!(event, Event::Step { .. })).expect("it has steps");
    let mut freed: Vec<u32> = events[start..].iter().filter_map(free).collect();
    freed.sort_unstable();
    let (mut ops, mut ids, mut lifetimes) = (Vec::new(), Vec::new(), Vec::new());
    for event in &events[start..] {
        match *event {
            Event::Alloc { id, bytes, .. } if freed.binary_search(&id).is_ok() => {
                lifetimes.push(Lifetime::new(ops.len() as u64, 0, bytes));
                ids.push(id);
                ops.push(Op::Alloc(bytes));
            }
            Event::Free { id } => {
                if let Ok(number) = ids.binary_search(&id) {
                    lifetimes[number].upper = ops.len() as u64;
                    ops.push(Op::Free(number));
                }
            }
            _ => {}
        }
    }
    (ops, lifetimes)
}

fn free(event: &Event) -> Option<u32> {
    match event {
        Event::Free { id } => Some(*id),
        _ => None,
    }
}

fn run(pool: &Pool<Virtual>, ops: &[Op], blocks: &mut Vec<Option<Block<Virtual>>>) {
    pool.mark_step();
    blocks.clear();
    for op in ops {
        match *op {
            Op::Alloc(bytes) => blocks.push(pool.alloc(Request::bytes(bytes)).ok()),
            Op::Free(number) => blocks[number] = None,
        }
    }
}

fn steps(criterion: &mut Criterion) {
    for name in ["resnet18_b16_96", "bert_base_b8_s128"] {
        let (ops, lifetimes) = last_step(name);
        let mut group = criterion.benchmark_group(format!("a step of {name}"));
        group.throughput(Throughput::Elements(ops.len() as u64));
        let open = || {
            Pool::with_backend(Virtual::default(), &Config::new("8 GiB").slabs(SlabPolicy::Single))
                .expect("a virtual backend has any memory")
        };
        let mut blocks = Vec::new();
        let pool = open();
        group.bench_function("online", |bencher| bencher.iter(|| run(&pool, &ops, &mut blocks)));
        let pool = open();
        let options = Options::new().align(pool.limits().alignment_bytes);
        let plan = plan::solve(&lifetimes, &options).expect("it was recorded");
        let planning = pool.follow_plan(&lifetimes, &plan).expect("there is room");
        group.bench_function("planned", |bencher| bencher.iter(|| run(&pool, &ops, &mut blocks)));
        assert_eq!(planning.report().last_deviation, None);
        drop(planning);
        let planning = pool.auto_plan().expect("it is not planned any more");
        run(&pool, &ops, &mut blocks);
        group.bench_function("planned by itself", |bencher| bencher.iter(|| run(&pool, &ops, &mut blocks)));
        assert_eq!(planning.report().last_deviation, None);
        group.finish();
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
