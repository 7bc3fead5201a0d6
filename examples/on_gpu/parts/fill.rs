//! A budget near the card's memory: filled with blocks of one size, each written and read back, refused beyond, and given back.

use std::time::Instant;

use tensorpool::{Backend, Block, Budget, Config, ErrorKind, Gpu, Pool, Request, Result};

use super::{Scale, open};
use crate::figure::{Figure, Figures};

const MIB: u64 = 1 << 20;
const BLOCK_BYTES_MOST: u64 = 64 * MIB;
/// The budget has room for about so many blocks or more.
const BLOCKS_LEAST: u64 = 256;
/// Of the budget: blocks, without staging and what is too small for one of them in each slab.
const FILLED_LEAST: f64 = 0.95;
/// Words at either end of a block that are read back.
const EDGE_WORDS: usize = 64;
const EDGE_BYTES: u64 = 4 * EDGE_WORDS as u64;

/// Returns the budget: what was asked for, or a share of the memory that leaves the rest of the machine what it needs.
fn budget(scale: &Scale, gpu: &Gpu) -> Result<Budget> {
    let share = match gpu.device().adapter_info().device_type {
        wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => "90%",
        _ => "25%",
    };
    match &scale.gpu_memory {
        Some(budget) => Ok(budget.clone()),
        None if scale.small => Ok(Budget::from(128 * MIB)),
        None => Ok(share.parse::<Budget>()?),
    }
}

pub fn measure(scale: &Scale) -> Figures {
    let gpu = open()?;
    let wgpu_bytes = |gpu: &Gpu| gpu.device().generate_allocator_report().map(|report| report.total_reserved_bytes);
    let before = wgpu_bytes(&gpu);
    let budget = budget(scale, &gpu)?.bytes(&gpu)?;
    // A power of two, so small that the end of each slab that no block fits in is little of the budget.
    let share_bytes = (budget / BLOCKS_LEAST).clamp(4 * EDGE_BYTES, BLOCK_BYTES_MOST.min(gpu.limits().block.bytes));
    let block_bytes = 1 << share_bytes.ilog2();
    let pool = Pool::with_backend(gpu, &Config::new(budget))?;
    let start = Instant::now();
    let mut blocks = Vec::new();
    let error = loop {
        match pool.alloc(Request::bytes(block_bytes)) {
            Ok(mut block) => {
                write(&mut block, blocks.len() as u32)?;
                blocks.push(block);
            }
            Err(error) => break error,
        }
    };
    pool.backend().complete(pool.backend().recorded())?;
    let seconds = start.elapsed().as_secs_f64();
    let mut wrong = 0;
    for (index, block) in blocks.iter().enumerate() {
        wrong += words_wrong(block, index as u32)?;
    }
    let full = pool.stats();
    let adds_up = error.shortage().is_some_and(|shortage| {
        shortage.budget_bytes == budget && shortage.asked_bytes == block_bytes && shortage.live_bytes == full.live_bytes
    });
    let (at_most, count) = (wgpu_bytes(pool.backend()), blocks.len());
    drop(blocks);
    pool.backend().complete(pool.backend().recorded())?;
    pool.trim();
    pool.check();
    let stats = pool.stats();
    let after = wgpu_bytes(pool.backend());
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut figures = vec![
        Figure::new("budget", gib(budget), "GiB"),
        Figure::new("block", block_bytes, "B"),
        Figure::new("blocks", count as u64, ""),
        Figure::new("slabs", full.slabs, ""),
        Figure::new("filled, of the budget", full.live_bytes as f64 / budget as f64, "").at_least(FILLED_LEAST, true),
        Figure::new("reserved at most", full.reserved_peak_bytes, "B").within(budget),
        Figure::new("filled and written at", gib(full.live_bytes) / seconds, "GiB/s"),
        Figure::new("words at the edges of blocks that were wrong", wrong, "").exactly(0),
        Figure::text("the next block", error.to_string().replace('\n', " ")).must(
            "refused as full, with numbers that add up",
            matches!(error.kind(), ErrorKind::Full | ErrorKind::OverBudget | ErrorKind::Fragmented) && adds_up,
            true,
        ),
        Figure::new("reserved after all were freed and trimmed", stats.reserved_bytes, "B")
            .exactly(stats.staging_bytes),
    ];
    let reports = [("before", before), ("full", at_most), ("after", after)];
    for (when, bytes) in reports {
        figures.push(match bytes {
            Some(bytes) => Figure::new(format!("wgpu: reserved, {when}"), bytes, "B"),
            None => Figure::text(format!("wgpu: reserved, {when}"), "wgpu does not tell on this device"),
        });
    }
    Ok(figures)
}

/// Fills a block on the device with a word of its own, and writes its edges from here.
fn write(block: &mut Block<Gpu>, index: u32) -> Result<()> {
    let bytes = block.bytes();
    block.fill(bytes, &index.to_le_bytes())?;
    for (at, word) in [(0, !index), (bytes - EDGE_BYTES, index.rotate_left(16) ^ 0x5555_5555)] {
        block.upload(at, bytemuck::cast_slice(&[word; EDGE_WORDS]))?;
    }
    Ok(())
}

/// Counts the words that are not as [`write`] left them: both edges, and what lies next to them.
fn words_wrong(block: &Block<Gpu>, index: u32) -> Result<u64> {
    let bytes = block.bytes();
    let middle = bytes / 2 / EDGE_BYTES * EDGE_BYTES;
    let last = index.rotate_left(16) ^ 0x5555_5555;
    let places = [
        (0, !index),
        (EDGE_BYTES, index),
        (middle, index),
        (bytes - 2 * EDGE_BYTES, index),
        (bytes - EDGE_BYTES, last),
    ];
    let mut wrong = 0;
    for (at, word) in places {
        let mut seen = [0u32; EDGE_WORDS];
        block.download(at, bytemuck::cast_slice_mut(&mut seen))?;
        wrong += seen.iter().filter(|seen| **seen != word).count() as u64;
    }
    Ok(wrong)
}
