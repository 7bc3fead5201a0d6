//! What the system has in memory for an expanding slab is no more than what the pool counts.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{Block, Config, Host, Pool, Request};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What the system tells of the mapping that an address is in, such as `Rss:`, in bytes.
pub fn bytes_of_mapping(address: usize, field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_inside = false;
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-')
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            is_inside = (start..end).contains(&address);
        } else if is_inside && first == field {
            let kib = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
            return kib * KIB;
        }
    }
    panic!("no mapping has the address {address:#x}");
}

fn resident_bytes(address: usize) -> u64 {
    bytes_of_mapping(address, "Rss:")
}

fn address_of(block: &Block<Host>) -> usize {
    block.as_bytes().unwrap().as_ptr().addr()
}

fn written(pool: &Pool<Host>, bytes: u64) -> Block<Host> {
    let mut block = pool.alloc(Request::bytes(bytes)).unwrap();
    block.fill(bytes, &[7]).unwrap();
    block
}

/// Huge pages would bring 2 MiB for a byte. What was decommitted is gone.
#[test]
fn no_more_is_resident_than_is_reserved() {
    let pool = Pool::host(Config::new(64 * MIB).free_lists(false)).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(20_261_130);
    let (mut blocks, mut live_bytes) = (Vec::new(), 0);
    for round in 0..600 {
        let bytes = 2f64.powf(rng.random_range(6.0..22.0)) as u64;
        while live_bytes + bytes > 60 * MIB {
            let gone: Block<Host> = blocks.swap_remove(rng.random_range(0..blocks.len()));
            live_bytes -= gone.bytes();
        }
        blocks.push(written(&pool, bytes));
        live_bytes += bytes;
        if round % 50 == 49 {
            pool.trim();
            let (resident_bytes, stats) = (resident_bytes(address_of(&blocks[0])), pool.stats());
            assert!(resident_bytes <= stats.reserved_bytes, "round {round}: {resident_bytes} resident, {stats}");
            // All blocks were written.
            assert!(resident_bytes >= stats.live_bytes, "round {round}: {resident_bytes} resident, {stats}");
        }
    }
    let last = blocks.pop().unwrap();
    drop(blocks);
    pool.trim();
    let (resident_bytes, stats) = (resident_bytes(address_of(&last)), pool.stats());
    assert!(resident_bytes <= stats.reserved_bytes, "{resident_bytes} resident, {stats}");
    // One granule at each of its ends.
    assert!(stats.reserved_bytes <= last.bytes_held() + 2 * 64 * KIB, "{stats}");
}

/// Pages are there before a block is written, where the pool touches them; otherwise they come with the bytes.
#[test]
fn touched_pages_are_resident_when_a_block_is_handed_out() {
    for (touches, resident) in [(false, 0), (true, 8 * MIB)] {
        let pool = Pool::host(Config::new(16 * MIB).touch(touches)).unwrap();
        let block = pool.alloc(Request::bytes(8 * MIB)).unwrap();
        assert_eq!(resident_bytes(address_of(&block)), resident);
    }
}
