//! Requests that a pool refuses, for a tool that counts instructions: what an error costs.

use tensorpool::{Config, Pool, Request, SlabPolicy, Virtual};

const BUDGET_BYTES: u64 = 64 << 20;
const BLOCKS: usize = 100;
const BLOCK_BYTES: u64 = 500 << 10;

const KINDS: [&str; 3] = ["full", "fragmented", "over-budget"];
const SLABS: [(&str, SlabPolicy); 2] = [("single", SlabPolicy::Single), ("growing", SlabPolicy::Growing)];
const LABELS: [usize; 2] = [3, 100];

/// Exactly `count` refusals of a pool with 100 blocks of 500 KiB in 64 MiB; of 50 that are apart, where it is fragmented. The name is
/// `KIND/SLABS/LABELS`.
pub fn run(name: &str, count: u64) -> Result<(), String> {
    let parts: Vec<&str> = name.split('/').collect();
    let find = || {
        let &[kind, slabs, labels] = parts.as_slice() else { return None };
        let (_, policy) = SLABS.into_iter().find(|(known, _)| *known == slabs)?;
        let labels = LABELS.into_iter().find(|known| known.to_string() == labels)?;
        KINDS.contains(&kind).then_some((kind, policy, labels))
    };
    let slabs = SLABS.map(|(name, _)| name).join(",");
    let unknown = || format!("no case {name:?}: refused/{{{}}}/{{{slabs}}}/{{3,100}}", KINDS.join(","));
    let (kind, policy, labels) = find().ok_or_else(unknown)?;
    let fails = |error: tensorpool::Error| error.to_string();
    let pool = Pool::with_backend(Virtual::default(), &Config::new(BUDGET_BYTES).slabs(policy)).map_err(fails)?;
    let mut blocks = Vec::new();
    for index in 0..BLOCKS {
        let label = format!("label {}", index % labels);
        blocks.push(pool.alloc(Request::bytes(BLOCK_BYTES).label(label)).map_err(fails)?);
    }
    let bytes = match kind {
        "full" => BUDGET_BYTES - BLOCK_BYTES,
        "fragmented" => {
            let mut index = 0;
            blocks.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            BUDGET_BYTES / 2
        }
        _ => BUDGET_BYTES + BLOCK_BYTES,
    };
    for _ in 0..count {
        if pool.alloc(Request::bytes(bytes)).is_ok() {
            return Err(format!("{name}: a request of {bytes} bytes was served"));
        }
    }
    Ok(())
}
