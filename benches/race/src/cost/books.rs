//! Bytes of the program's memory for each live block: the handle, and the allocator's bookkeeping.

use offset_allocator::Allocator;
use tensorpool::{Block, Pool, SlabPolicy, Virtual};

use super::Effort;
use super::table::{Table, ns};
use crate::heap;
use crate::threads::OFFSET_GUARD;
use crate::threads::shared::{Guard, OffsetGuarded, Shared, open_pool};

const BLOCKS: usize = 100_000;
const ARENA_BYTES: u64 = 128 << 30;
const BLOCK_BYTES: [u64; 2] = [64, 1 << 20];
const POLICIES: [(&str, SlabPolicy); 2] =
    [("pool-virtual", SlabPolicy::Single), ("pool-virtual, expanding", SlabPolicy::Expanding)];

/// Allocates the blocks, and returns by how much `bytes` grew for each.
fn growth<S: Shared>(shared: &S, bytes: u64, measure: impl Fn() -> f64) -> f64 {
    let mut held = Vec::with_capacity(BLOCKS);
    let before = measure();
    held.extend((0..BLOCKS).map(|_| shared.alloc(bytes)));
    let growth = measure() - before;
    held.into_iter().for_each(|handle| shared.free(handle));
    growth / BLOCKS as f64
}

fn heap_bytes() -> f64 {
    heap::held_bytes().map_or(f64::NAN, |bytes| bytes as f64)
}

pub fn run(_: &Effort) -> Result<Vec<Table>, String> {
    let columns = vec![
        ns("handle, B"),
        ns("books, B a block"),
        ns("handle and books"),
        ns("heap, B a block"),
        ns("books before the first block, KiB"),
    ];
    let title = "100,000 live blocks in 128 GiB; books as the allocator counts them, and heap as glibc does";
    let mut table = Table::new("books", title, &["allocator", "block, B"], columns);
    for bytes in BLOCK_BYTES {
        for (name, policy) in POLICIES {
            let open = || -> Pool<Virtual> { open_pool(Virtual::default(), ARENA_BYTES, policy) };
            let (pool, other) = (open(), open());
            let handle_bytes = size_of::<Block<Virtual>>() as f64;
            let first_bytes = pool.stats().metadata_bytes as f64;
            let books_bytes = growth(&pool, bytes, || pool.stats().metadata_bytes as f64);
            let heap_bytes = growth(&other, bytes, heap_bytes);
            let sum_bytes = handle_bytes + books_bytes;
            table.push(
                [name, &bytes.to_string()],
                vec![handle_bytes, books_bytes, sum_bytes, heap_bytes, first_bytes / 1024.0],
            );
        }
        // It has all of its nodes from the start, and they are what its blocks cost.
        let before_bytes = heap_bytes();
        let allocator = Allocator::with_max_allocs((ARENA_BYTES / 64) as u32, BLOCKS as u32 + 2);
        let first_bytes = heap_bytes() - before_bytes;
        let books_bytes = first_bytes / BLOCKS as f64;
        let heap_bytes = books_bytes + growth(&OffsetGuarded::new(allocator), bytes, heap_bytes);
        let handle_bytes = size_of::<Guard>() as f64;
        let figures = vec![handle_bytes, books_bytes, handle_bytes + books_bytes, heap_bytes, first_bytes / 1024.0];
        table.push([OFFSET_GUARD, &bytes.to_string()], figures);
    }
    Ok(vec![table])
}
