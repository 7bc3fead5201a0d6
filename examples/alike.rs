// planned allocations on the recorded runs
use std::process::ExitCode;
use tensorpool::trace::{Event, Trace, TraceBuilder, replay};
use tensorpool::*;
pub const NAMES: [&str; 10] = ["bert_base_b8_s128","gpt2_small_b2_s256","gpt2_small_b4_s256_amp","lenet_b64","mlp_b1024_adam","mlp_b128","resnet18_b16_96","resnet50_b8_160","vit_small_b16_amp","vit_tiny_b16"];
pub fn repeated(trace: &Trace, times: u64) -> Trace {
    let marks: Vec<usize> = (0..).zip(trace.events()).filter(|(_, event)| matches!(event, Event::Step { .. })).map(|(at, _)| at).collect();
    let &[.., before, start, end] = &marks[..] else { panic!() };
    let events = trace.events();
    let ids = |part: &[Event]| -> Vec<u32> { part.iter().filter_map(|event| if let Event::Alloc { id, .. } = event { Some(*id) } else { None }).collect() };
    let (ids_before, ids_now) = (ids(&events[before..start]), ids(&events[start..end]));
    let mut builder = TraceBuilder::new(trace.name());
    let mut numbers = vec![None; trace.allocations() as usize];
    for event in &events[..start] {
        match *event {
            Event::Alloc { id, bytes, .. } => numbers[id as usize] = Some(builder.alloc(bytes, "").unwrap()),
            Event::Free { id } => builder.free(numbers[id as usize].take().unwrap()).unwrap(),
            Event::Step { number } => builder.step(number),
            _ => {}
        }
    }
    let mut last: Vec<Option<u32>> = ids_before.iter().map(|id| numbers[*id as usize]).collect();
    for time in 0..times {
        let mut now = vec![None; ids_now.len()];
        for event in &events[start..end] {
            match *event {
                Event::Alloc { id, bytes, .. } => now[ids_now.binary_search(&id).unwrap()] = Some(builder.alloc(bytes, "").unwrap()),
                Event::Free { id } => {
                    let found = match (ids_now.binary_search(&id), ids_before.binary_search(&id)) {
                        (Ok(index), _) => now[index].take(),
                        (_, Ok(index)) => last[index].take(),
                        _ => numbers[id as usize].take(),
                    };
                    found.into_iter().for_each(|number| builder.free(number).unwrap());
                }
                Event::Step { .. } => builder.step(1000 + time),
                _ => {}
            }
        }
        last = now;
    }
    builder.finish()
}
fn run(trace: &Trace, budget: u64, slabs: SlabPolicy, auto: bool) -> (u64, u64, u64, f64, Option<PlanReport>) {
    let pool = Pool::with_backend(Virtual::default(), &Config::new(budget).slabs(slabs)).unwrap();
    let planning = auto.then(|| pool.auto_plan().unwrap());
    let done = replay(trace, &pool).unwrap();
    (done.failures, done.reserved_peak_bytes, pool.stats().allocations_planned, done.ns_per_op(), planning.map(|p| p.report()))
}
fn main() -> ExitCode {
    let verbose = std::env::args().nth(1).is_some();
    for times in [0, 4, 12] {
        for (what, slabs, percent) in [("9/8 or 2x single", SlabPolicy::Single, 0), ("single", SlabPolicy::Single, 105), ("growing", SlabPolicy::Growing, 112), ("growing", SlabPolicy::Growing, 125), ("growing", SlabPolicy::Growing, 150), ("growing", SlabPolicy::Growing, 200), ("fixed 1/64", SlabPolicy::Fixed(0), 100_000)] {
            let (mut planned, mut all, mut line, mut product, mut fail, mut fail0) = (0, 0, String::new(), 1.0f64, 0, 0);
            let (mut t0, mut t1) = (0.0, 0.0);
            for name in NAMES {
                let mut trace = Trace::read(format!("{}/traces/{name}.trace.gz", env!("CARGO_MANIFEST_DIR"))).unwrap().remove(0);
                if times > 0 { trace = repeated(&trace, times); }
                let live = trace.live_peak_bytes();
                let budget = match percent { 0 if live > 100 << 20 => live / 8 * 9, 0 => 2 * live, _ => live / 100 * percent };
                let slabs = if let SlabPolicy::Fixed(_) = slabs { SlabPolicy::Fixed((live / 64).max(64 << 10).next_power_of_two()) } else { slabs };
                let online = run(&trace, budget, slabs, false);
                let auto = run(&trace, budget, slabs, true);
                let steps = trace.events().iter().filter(|event| matches!(event, Event::Step { .. })).count();
                planned += auto.2; all += trace.allocations();
                product *= auto.1 as f64 / online.1 as f64;
                fail += auto.0; fail0 += online.0; t0 += online.3; t1 += auto.3;
                line += &format!(" {}/{}({steps})", auto.2, trace.allocations());
                if verbose { println!("      {name}: {} failures online, {} auto, reserved {:.3} {:.3}, {:.0} {:.0} ns\n{}", online.0, auto.0, online.1 as f64 / live as f64, auto.1 as f64 / live as f64, online.3, auto.3, auto.4.unwrap()); }
            }
            println!("times {times} {what} {percent}: planned {planned} of {all}; failures {fail0} -> {fail}; reserved auto/online {:.3}; ns {:.0} {:.0};{line}", product.powf(0.1), t0 / 10.0, t1 / 10.0);
        }
    }
    ExitCode::SUCCESS
}
