//! Which requests may wait: those that the pool can serve once everything is freed and trimmed, and no others.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::backend::{CopyDst, CopySrc, Span, SpanMut, VirtualSlab};
use tensorpool::space::{Placement, Space};
use tensorpool::{
    Backend, Block, Config, Error, ErrorKind, Fallback, Limit, Limits, Pool, Priority, Request, Result, SlabPolicy,
    Virtual,
};

/// A backend without memory that gives a pool all the staging it asks for.
struct Staged(Virtual);

impl Backend for Staged {
    type Slab = VirtualSlab;

    fn name(&self) -> &str {
        "staged"
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn create_slab(&self, bytes: u64) -> Result<VirtualSlab> {
        self.0.create_slab(bytes)
    }

    fn upload(&self, slab: &VirtualSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        self.0.upload(slab, span, at, bytes)
    }

    fn download(&self, slab: &VirtualSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.0.download(slab, span, at, bytes)
    }

    fn fill(&self, slab: &VirtualSlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
        self.0.fill(slab, span, len, pattern)
    }

    fn copy(&self, from: CopySrc<'_, VirtualSlab>, to: CopyDst<'_, VirtualSlab>, len: u64) -> Result<()> {
        self.0.copy(from, to, len)
    }

    fn open_staging(&self, bytes: u64) -> Result<u64> {
        Ok(bytes)
    }
}

/// A small pool, and what is asked of it.
#[derive(Debug)]
struct Setup {
    limits: Limits,
    budget_bytes: u64,
    staging_bytes: u64,
    reserve_bytes: u64,
    policy: SlabPolicy,
    placement: Placement,
    /// Held while the batch is asked for.
    held: Vec<(u64, Priority)>,
    batch: Vec<(u64, Priority)>,
}

impl Setup {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let alignment_bytes = 1 << rng.random_range(0..9u32);
        let granule_bytes = 1 << rng.random_range(0..=u64::ilog2(alignment_bytes));
        let budget_bytes = match rng.random_range(0..3u32) {
            // So small that all ways to divide it into slabs can be tried.
            0 => granule_bytes * rng.random_range(1..=20) + rng.random_range(0..granule_bytes),
            1 => rng.random_range(1..=40 * alignment_bytes),
            _ => rng.random_range(1..=1 << 16),
        };
        let staging_bytes = if rng.random_bool(0.3) { rng.random_range(0..=budget_bytes / 2) } else { 0 };
        let open_bytes = budget_bytes - staging_bytes;
        let slab_bytes = if rng.random_bool(0.3) { rng.random_range(granule_bytes..=4 << 16) } else { 1 << 30 };
        let slab = Limit { bytes: slab_bytes, name: "slab limit of the test" };
        let mut blocks = |count: usize| {
            let mut one = || {
                let bytes = match rng.random_range(0..5u32) {
                    0 => 1,
                    1 => open_bytes,
                    2 => rng.random_range(0..=open_bytes),
                    _ => rng.random_range(1..=(open_bytes / count as u64).max(1)),
                };
                (bytes, [Priority::Low, Priority::Normal, Priority::High][rng.random_range(0..3usize)])
            };
            (0..count).map(|_| one()).collect::<Vec<_>>()
        };
        let (held, batch) = (blocks(3), blocks(2));
        let more = blocks(20);
        let count = match rng.random_range(0..4u32) {
            0 => 1,
            1 => 20,
            2 => 3,
            _ => 2,
        };
        Self {
            limits: Limits { alignment_bytes, alignment_bytes_max: alignment_bytes, granule_bytes, slab, block: slab },
            budget_bytes,
            staging_bytes,
            reserve_bytes: if rng.random_bool(0.6) { rng.random_range(0..=open_bytes) } else { 0 },
            policy: [
                SlabPolicy::Growing,
                SlabPolicy::Single,
                SlabPolicy::PerBlock,
                SlabPolicy::Fixed(rng.random_range(1..=budget_bytes)),
            ][rng.random_range(0..4usize)],
            placement: if rng.random_bool(0.5) { Placement::Exact } else { Placement::PowerOfTwo },
            held: held[..rng.random_range(0..=3)].to_vec(),
            batch: batch.into_iter().chain(more).take(count).collect(),
        }
    }

    fn open(&self) -> Pool<Staged> {
        let config = Config::new(self.budget_bytes)
            .staging(self.staging_bytes)
            .high_priority_reserve(self.reserve_bytes)
            .slabs(self.policy)
            .placement(self.placement);
        Pool::with_backend(Staged(Virtual::new(self.limits)), &config).unwrap()
    }

    fn hold(&self, pool: &Pool<Staged>) -> Vec<Block<Staged>> {
        self.held
            .iter()
            .filter_map(|(bytes, priority)| pool.alloc(Request::bytes(*bytes).priority(*priority)).ok())
            .collect()
    }

    /// Whether any pool of these settings can serve the batch: every way to divide the budget into slabs is tried, and every
    /// way to place the batch in them. `None` where that is too much.
    fn can_be_served(&self) -> Option<bool> {
        let open_bytes = self.budget_bytes - self.staging_bytes;
        let granules = open_bytes / self.limits.granule_bytes;
        if self.batch.len() > 3 || granules > 24 {
            return None;
        }
        let sizes = (1..=granules).map(|granules| granules * self.limits.granule_bytes);
        let sizes: Vec<u64> = sizes.filter(|bytes| self.is_slab(*bytes)).collect();
        let asked: Vec<_> = self.batch.iter().copied().filter(|(bytes, _)| *bytes > 0).collect();
        Some(self.can_be_placed(&sizes, open_bytes, &mut Vec::new(), &asked, (0, 0)))
    }

    /// A buddy system is given whole pages.
    fn is_slab(&self, bytes: u64) -> bool {
        let page_bytes = Space::page_bytes_for(bytes, self.limits.alignment_bytes);
        bytes <= self.limits.slab.bytes
            && (self.space_placement() == Placement::Exact || bytes.is_multiple_of(page_bytes))
    }

    fn space_placement(&self) -> Placement {
        if self.policy == SlabPolicy::PerBlock { Placement::Exact } else { self.placement }
    }

    fn can_be_placed(
        &self,
        sizes: &[u64],
        left_bytes: u64,
        slabs: &mut Vec<Space>,
        asked: &[(u64, Priority)],
        (taken_bytes, outside_bytes): (u64, u64),
    ) -> bool {
        let open_bytes = self.budget_bytes - self.staging_bytes;
        if taken_bytes > open_bytes || outside_bytes > open_bytes - self.reserve_bytes {
            return false;
        }
        if asked.is_empty() {
            return true;
        }
        // Any of them next, in any slab there is or in a new one.
        (0..asked.len()).any(|next| {
            let mut others = asked.to_vec();
            let (bytes, priority) = others.remove(next);
            let held = |extent_bytes| {
                let outside = if priority == Priority::High { 0 } else { extent_bytes };
                (taken_bytes + extent_bytes, outside_bytes + outside)
            };
            let in_a_slab = (0..slabs.len()).any(|index| {
                let before = slabs[index].clone();
                let is_served = slabs[index]
                    .alloc(bytes)
                    .is_some_and(|extent| self.can_be_placed(sizes, left_bytes, slabs, &others, held(extent.bytes())));
                slabs[index] = before;
                is_served
            });
            in_a_slab
                || sizes.iter().filter(|size| **size <= left_bytes).any(|size| {
                    let mut slab = Space::new(*size, self.limits.alignment_bytes, self.space_placement());
                    let Some(extent) = slab.alloc(bytes) else { return false };
                    slabs.push(slab);
                    let is_served = self.can_be_placed(sizes, left_bytes - size, slabs, &others, held(extent.bytes()));
                    slabs.pop();
                    is_served
                })
        })
    }
}

fn requests(batch: &[(u64, Priority)], wait: Option<Duration>) -> Vec<Request<'static>> {
    let request = |(bytes, priority): &(u64, Priority)| {
        let request = Request::bytes(*bytes).priority(*priority);
        wait.map_or(request.clone(), |wait| request.wait(wait))
    };
    batch.iter().map(request).collect()
}

fn kind<T>(result: &Result<T>) -> Option<ErrorKind> {
    result.as_ref().err().map(Error::kind)
}

/// Of small pools of every kind: what is admitted to wait is served once everything is freed and trimmed, in whatever order it
/// is asked for; what is refused as over the budget cannot be served by any slabs.
#[test]
fn what_waits_can_be_served_and_what_is_refused_cannot() {
    let mut counts = [0; 4];
    for seed in 0..6000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let setup = Setup::draw(&mut rng);
        let pool = setup.open();
        let held = setup.hold(&pool);
        let batch = pool.alloc_all(&requests(&setup.batch, Some(Duration::ZERO)));
        let admitted = match kind(&batch) {
            None => true,
            Some(ErrorKind::Timeout) => true,
            Some(ErrorKind::OverBudget | ErrorKind::TooLarge) => false,
            Some(_) => panic!("seed {seed}: {:?} of {setup:?}", batch.err()),
        };
        let is_over = kind(&batch) == Some(ErrorKind::OverBudget);
        counts[usize::from(batch.is_ok()) + 2 * usize::from(is_over)] += 1;
        drop((batch, held));
        pool.check();
        let mut shuffled = setup.batch.clone();
        for _ in 0..3 {
            pool.trim();
            assert_eq!(pool.stats().reserved_bytes, setup.staging_bytes);
            let batch = pool.alloc_all(&requests(&shuffled, None));
            assert_eq!(batch.is_ok(), admitted, "seed {seed}: {:?} of {setup:?}", batch.err());
            if let (Ok(blocks), [(bytes, _)]) = (&batch, &shuffled[..]) {
                assert_eq!(blocks[0].bytes(), *bytes);
            }
            drop(batch);
            shuffled.shuffle(&mut rng);
        }
        if let [(bytes, priority)] = &setup.batch[..] {
            let request = || Request::bytes(*bytes).priority(*priority);
            pool.trim();
            let alone = pool.alloc(request());
            assert_eq!(alone.is_ok(), admitted, "seed {seed}: {:?} of {setup:?}", alone.err());
            drop(alone);
            if setup.policy != SlabPolicy::Single {
                // It need not give back what it has just reserved.
                pool.trim();
                let alone = pool.alloc(request().without(Fallback::ReturnEmpty));
                assert_eq!(alone.is_ok(), admitted, "seed {seed}: {:?} of {setup:?}", alone.err());
            }
        }
        if let Some(can_be_served) = setup.can_be_served() {
            assert_eq!(can_be_served, admitted, "seed {seed}: {setup:?}");
            counts[3] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 300), "{counts:?}");
}
