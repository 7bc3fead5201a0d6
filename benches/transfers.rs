//! What the GPU backend asks of wgpu in a repeated training step, and how fast it moves bytes, beside one large buffer.
//!
//!     cargo bench --bench transfers
//!
//! `cargo bench --bench transfers -- --steps COUNT` does nothing but so many steps of a small network, for a count of instructions.
//!
//! All transfers take turns in one process, and the medians are compared. On a processor's Vulkan driver both sides are copies in
//! memory: the ratios say what the pool costs, and nothing about a GPU's bus.

#[path = "../examples/on_gpu/large.rs"]
mod large;

use std::time::Instant;

use tensorpool::nn::{Allocator, Optimizer, Settings, StepKind, Trainer, needs};
use tensorpool::{Backend, Config, Gpu, GpuChoice, GpuStats, Pool, SlabPolicy};

use large::Large;

const MIB: usize = 1 << 20;
/// Steps before the one that is counted, so that every shader is compiled and every plan is made.
const STEPS_BEFORE: usize = 80;

fn main() {
    let tests_only = std::env::args().any(|argument| argument == "--test");
    if let Some(steps) = std::env::args().skip_while(|argument| argument != "--steps").nth(1) {
        return train(steps.parse().expect("a number of steps"));
    }
    let gpu = match Gpu::open(&GpuChoice::Any) {
        Ok(gpu) => gpu,
        Err(error) => return println!("LEFT OUT: {error}"),
    };
    println!("{}", gpu.name());
    drop(gpu);
    count_steps(if tests_only { 4 } else { STEPS_BEFORE });
    let (bytes, turns) = if tests_only { (4 * MIB, 1) } else { (256 * MIB, 9) };
    race(bytes, turns);
}

/// Prints the counts of one step of 784-512-256-10 at batch 128, in the smallest budget and in one of 64 MiB.
fn count_steps(steps_before: usize) {
    println!("\n| optimizer | step | budget | loss | bind groups | error scopes | submissions | copies | dispatches |");
    println!("|---|---|---:|---|---:|---:|---:|---:|---:|");
    for (name, optimizer) in [("sgd", Optimizer::Sgd), ("momentum", Optimizer::MOMENTUM), ("adam", Optimizer::ADAM)] {
        for kind in [StepKind::Frugal, StepKind::Ordinary] {
            let widths = vec![784, 512, 256, 10];
            let settings = Settings { widths, batch: 128, optimizer, learning_rate: 0.01, seed: 1 };
            let gpu = Gpu::open(&GpuChoice::Any).expect("it opened before");
            let least = needs(&gpu, &settings, kind, Allocator::Pool).expect("it fits in any memory").budget_bytes;
            for budget in [least, 64 << 20] {
                let config = Config::new(budget).free_lists(false).slabs(SlabPolicy::Single);
                let gpu = Gpu::open(&GpuChoice::Any).expect("it opened before");
                let pool = Pool::with_backend(gpu, &config).expect("the device has it");
                for (loss, stats) in ["left", "read"].into_iter().zip(step_counts(&pool, &settings, kind, steps_before))
                {
                    let GpuStats { bind_groups, error_scopes, submissions, copies, dispatches, .. } = stats;
                    let budget = budget as f64 / MIB as f64;
                    print!("| {name} | {kind} | {budget:.2} MiB | {loss} | {bind_groups} | {error_scopes} ");
                    println!("| {submissions} | {copies} | {dispatches} |");
                }
            }
        }
    }
}

/// Trains a network so small that what is asked of wgpu is most of the work.
fn train(steps: usize) {
    let widths = vec![16, 32, 16, 4];
    let settings = Settings { widths, batch: 8, optimizer: Optimizer::MOMENTUM, learning_rate: 0.01, seed: 1 };
    let config = Config::new("1 MiB").free_lists(false).slabs(SlabPolicy::Single);
    let pool = Pool::with_backend(Gpu::open(&GpuChoice::Any).expect("a device"), &config).expect("the device has it");
    step_counts(&pool, &settings, StepKind::Frugal, steps);
}

/// Returns the counts of a planned step whose loss is left on the device, and of one whose loss is read.
fn step_counts(pool: &Pool<Gpu>, settings: &Settings, kind: StepKind, steps_before: usize) -> [GpuStats; 2] {
    let mut trainer = Trainer::new(pool, settings.clone(), kind).expect("it fits");
    let images = vec![0.5; settings.batch * settings.widths[0]];
    let labels = vec![3; settings.batch];
    let _planning = pool.auto_plan().expect("nothing else is planned");
    for _ in 0..steps_before {
        pool.mark_step();
        trainer.record_step(&images, &labels).expect("it fits");
    }
    [false, true].map(|reads| {
        let before = pool.backend().stats();
        pool.mark_step();
        if reads {
            trainer.step(&images, &labels).expect("it fits");
        } else {
            trainer.record_step(&images, &labels).expect("it fits");
        }
        pool.backend().stats().since(&before)
    })
}

/// Races uploads and downloads of `bytes` bytes: one large buffer, and pools with staging of several sizes.
fn race(bytes: usize, turns: usize) {
    let staging = [None, Some(256 << 10), Some(1 << 20), Some(4 << 20), Some(16 << 20), Some(64 << 20)];
    let pools = staging.map(|staging| {
        let config = Config::new(2 * bytes as u64).slabs(SlabPolicy::Growing);
        let config = staging.map_or(config.clone(), |bytes| config.staging(bytes));
        Pool::with_backend(Gpu::open(&GpuChoice::Any).expect("it opened before"), &config).expect("the device has it")
    });
    // A block is a binding: llvmpipe has none above 128 MiB.
    let mut tensors = pools.each_ref().map(|pool| [(); 2].map(|()| pool.uninit::<u8>([bytes / 2]).expect("it fits")));
    let large_gpu = Gpu::open(&GpuChoice::Any).expect("it opened before");
    let (device, queue) = (large_gpu.device(), large_gpu.queue());
    let large = Large::new(device, bytes as u64);
    let data: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
    let mut seen = vec![0; bytes];
    let mut times = vec![[const { Vec::new() }; 2]; pools.len() + 1];
    let mut copies = vec![[0; 2]; pools.len()];
    // The first turn touches the memory.
    for turn in 0..=turns {
        let mut took = |racer: usize, way: usize, start: Instant| {
            if turn > 0 {
                times[racer][way].push(start.elapsed());
            }
        };
        let start = Instant::now();
        large.upload(device, queue, &data).expect("the device goes on");
        took(0, 0, start);
        seen.fill(0);
        let start = Instant::now();
        large.download(device, queue, &mut seen).expect("the device goes on");
        took(0, 1, start);
        assert!(seen == data);
        for (index, (pool, tensors)) in pools.iter().zip(&mut tensors).enumerate() {
            let before = pool.backend().stats().copies;
            let start = Instant::now();
            for (tensor, data) in tensors.iter_mut().zip(data.chunks(bytes / 2)) {
                tensor.upload(data).expect("it fits");
            }
            pool.backend().complete(pool.backend().recorded()).expect("the device goes on");
            took(index + 1, 0, start);
            let between = pool.backend().stats().copies;
            seen.fill(0);
            let start = Instant::now();
            for (tensor, seen) in tensors.iter().zip(seen.chunks_mut(bytes / 2)) {
                tensor.download(seen).expect("it fits");
            }
            took(index + 1, 1, start);
            assert!(seen == data);
            copies[index] = [between - before, pool.backend().stats().copies - between];
        }
    }
    println!("\n{} MiB, medians of {turns}:\n", bytes / MIB);
    println!(
        "| staging | copies up | upload, GiB/s | of one large buffer's | copies down | download, GiB/s | of one large buffer's |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let rates: Vec<_> = times
        .iter_mut()
        .map(|ways| {
            ways.each_mut().map(|times| {
                times.sort();
                bytes as f64 / (1 << 30) as f64 / times[times.len() / 2].as_secs_f64()
            })
        })
        .collect();
    println!("| one large buffer | | {:.2} | | | {:.2} | |", rates[0][0], rates[0][1]);
    for (index, pool) in pools.iter().enumerate() {
        let [up, down] = rates[index + 1];
        let [copies_up, copies_down] = copies[index];
        let default = if staging[index].is_none() { ", default" } else { "" };
        print!(
            "| {} KiB{default} | {copies_up} | {up:.2} | {:.2} ",
            pool.stats().staging_bytes >> 10,
            up / rates[0][0]
        );
        println!("| {copies_down} | {down:.2} | {:.2} |", down / rates[0][1]);
    }
}
