//! The numbers that `docs/ARCHITECTURE.md` walks through.

use tensorpool::space::Space;
use tensorpool::{Config, Placement, Pool, Request};

#[test]
fn the_walk_of_one_request_has_the_right_numbers() {
    let pool = Pool::host(Config::new("64 MiB")).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 0);
    let block = pool.alloc(Request::bytes(3 << 20)).unwrap();
    assert_eq!(pool.stats().reserved_bytes, 8 << 20);
    assert_eq!((block.offset(), block.bytes(), block.bytes_held()), (0, 3_145_728, 3_145_728));

    let mut space = Space::new(8 << 20, 64, Placement::Exact);
    assert_eq!((space.page_bytes(), space.bytes() / space.page_bytes()), (1024, 8192));
    assert!((1 << 10..2 << 10).contains(&space.metadata_bytes()), "{}", space.metadata_bytes());
    let run = space.alloc(3 << 20).unwrap();
    assert_eq!(run.bytes() / space.page_bytes(), 3072);
    space.release(run);
    assert_eq!(space.largest_free_run_bytes() / space.page_bytes(), 8192);

    let small = pool.alloc(Request::bytes(100)).unwrap();
    assert_eq!((small.offset(), small.bytes_held()), ((8 << 20) - 1024, 128));
    assert_eq!(pool.stats().cached_bytes, 128 + 256 + 512);
    drop(small);
    drop(block);
    // The piece waits in this CPU's free list, and its page with it.
    let stats = pool.stats();
    assert_eq!((stats.cached_bytes, stats.largest_free_run_bytes), (1024, (8 << 20) - 1024));
    assert_eq!(pool.trim(), 8 << 20);
}
