//! The numbers that `docs/ARCHITECTURE.md` walks through.

use tensorpool::space::Space;
use tensorpool::{Config, Placement, Pool, Request};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

#[test]
fn the_walk_of_one_request_has_the_right_numbers() {
    let pool = Pool::host(Config::new("64 MiB")).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.address_bytes, stats.reserved_bytes, stats.slabs), (128 * MIB, 0, 1));

    let mut space = Space::new(128 * MIB, 64, Placement::Exact);
    assert_eq!((space.page_bytes(), space.bytes() / space.page_bytes()), (4 * KIB, 32_768));
    assert!((5 << 10..6 << 10).contains(&space.metadata_bytes()), "{}", space.metadata_bytes());
    let run = space.alloc(3 * MIB).unwrap();
    assert_eq!((run.offset(), run.bytes() / space.page_bytes(), run.bytes() / (64 * KIB)), (0, 768, 48));
    space.release(run);
    assert_eq!(space.largest_free_run_bytes() / space.page_bytes(), 32_768);

    let block = pool.alloc(Request::bytes(3 * MIB)).unwrap();
    assert_eq!((block.offset(), block.bytes(), block.bytes_held()), (0, 3_145_728, 3_145_728));
    assert_eq!(pool.stats().reserved_bytes, 3 * MIB);
    let small = pool.alloc(Request::bytes(100)).unwrap();
    assert_eq!((small.offset(), small.bytes_held()), (128 * MIB - 4 * KIB, 128));
    assert_eq!(pool.stats().cached_bytes, 128 + 256 + 512 + 1024 + 2048);
    assert_eq!(pool.stats().reserved_bytes, 3 * MIB + 64 * KIB);
    drop(small);
    drop(block);
    // The piece waits in this CPU's free list, and its page with it.
    let stats = pool.stats();
    assert_eq!((stats.cached_bytes, stats.free_bytes), (4 * KIB, 3 * MIB + 60 * KIB));
    assert_eq!((pool.trim(), pool.stats().reserved_bytes), (3 * MIB + 64 * KIB, 0));
}
