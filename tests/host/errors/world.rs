//! A pool and all that a program has of it, made of a list of operations: the same list makes a twin.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tensorpool::plan::{self, Lifetime, Options};
use tensorpool::{
    Block, Config, Error, Fallback, Hold, Limit, Limits, Movable, Placement, PlannedSteps, Pool, Priority, Request,
    Result, SlabPolicy,
};

use super::meter::Meter;

const KIB: u64 = 1 << 10;

/// How a pool is opened.
#[derive(Clone, Debug)]
pub struct Setup {
    pub budget_bytes: u64,
    pub staging_bytes: u64,
    pub reserve_bytes: u64,
    pub policy: SlabPolicy,
    pub placement: Placement,
    pub limits: Limits,
    /// Less than the budget where the backend refuses slabs.
    pub memory_bytes: u64,
    pub lists: bool,
    pub zeroes: bool,
    /// The sizes of a step, and whether the program brings the plan.
    pub step: Option<(Vec<u64>, bool)>,
}

impl Setup {
    pub fn random(rng: &mut ChaCha8Rng) -> Self {
        let budget_bytes = [5 * KIB, 64 * KIB, 256 * KIB, 256 * KIB + 60, 1 << 20, 4 << 20][rng.random_range(0..6)];
        let part = |rng: &mut ChaCha8Rng, chance, most| {
            if rng.random_bool(chance) { rng.random_range(0..=budget_bytes / most) } else { 0 }
        };
        let alignment_bytes = [16, 64, 256][rng.random_range(0..3)];
        let granule_bytes = [1, 4, 16][rng.random_range(0..3)];
        let limit = |rng: &mut ChaCha8Rng, name| {
            let bytes = if rng.random_bool(0.2) { budget_bytes / rng.random_range(1..5) + 1 } else { 1 << 40 };
            Limit { bytes, name }
        };
        let limits = Limits {
            alignment_bytes,
            alignment_bytes_max: alignment_bytes,
            granule_bytes,
            slab: limit(rng, "slab limit of the test"),
            block: limit(rng, "block limit of the test"),
        };
        let (staging_bytes, reserve_bytes) = (part(rng, 0.3, 8), part(rng, 0.3, 3));
        let policy = match rng.random_range(0..11) {
            8.. => SlabPolicy::Expanding,
            0..3 => SlabPolicy::Growing,
            3..6 => SlabPolicy::Single,
            6 => SlabPolicy::Fixed(budget_bytes / rng.random_range(1..9)),
            _ => SlabPolicy::PerBlock,
        };
        let sizes = (0..rng.random_range(2..5)).map(|_| rng.random_range(1..=budget_bytes / 6)).collect();
        let step = if rng.random_bool(0.3) { Some((sizes, rng.random_bool(0.6))) } else { None };
        Self {
            budget_bytes,
            staging_bytes,
            reserve_bytes,
            policy,
            placement: if rng.random_bool(0.7) { Placement::Exact } else { Placement::PowerOfTwo },
            limits,
            memory_bytes: if rng.random_bool(0.1) { budget_bytes / 2 } else { u64::MAX },
            lists: rng.random_bool(0.5),
            zeroes: rng.random_bool(0.1),
            step,
        }
    }
}

/// What a program asks for in one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub bytes: u64,
    pub align_bytes: u64,
    pub priority: Priority,
    pub label: Option<u8>,
    pub without: Vec<Fallback>,
    /// It waits in line, for no time.
    pub waits: bool,
}

impl Ask {
    pub fn random(rng: &mut ChaCha8Rng, setup: &Setup) -> Self {
        let most = setup.budget_bytes as f64;
        // Half of them large.
        let share = if rng.random_bool(0.5) { rng.random_range(0.0..1.05) } else { rng.random_range(0.6..1.01) };
        let bytes = match rng.random_range(0..4) {
            0 => (most * share) as u64,
            _ => most.powf(share) as u64,
        };
        let all = [Fallback::Oversized, Fallback::Reclaim, Fallback::Grow, Fallback::ReturnEmpty];
        let without = all.into_iter().filter(|_| rng.random_bool(0.08)).collect();
        let alignments = [1, setup.limits.alignment_bytes, 2 * setup.limits.alignment_bytes, 3];
        Self {
            bytes: bytes.max(1),
            align_bytes: alignments[if rng.random_bool(0.9) { 0 } else { rng.random_range(0..4) }],
            priority: [Priority::Low, Priority::Normal, Priority::Normal, Priority::High][rng.random_range(0..4)],
            label: rng.random_bool(0.8).then(|| rng.random_range(0..8)),
            without,
            waits: rng.random_bool(0.15),
        }
    }

    pub fn label(&self) -> String {
        self.label.map_or_else(String::new, |label| format!("label {label}"))
    }

    pub fn may(&self, fallback: Fallback) -> bool {
        !self.without.contains(&fallback)
    }

    pub fn request(&self) -> Request<'static> {
        let request = Request::bytes(self.bytes).align(self.align_bytes).priority(self.priority).label(self.label());
        let request = self.without.iter().fold(request, |request, fallback| request.without(*fallback));
        if self.waits { request.wait(std::time::Duration::ZERO) } else { request }
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    Ask(Vec<Ask>),
    Free(usize),
    /// A block is held and dropped.
    Retire(usize),
    EndHold(usize),
    Step,
    Trim,
    SetBudget(u64),
}

impl Op {
    pub fn random(rng: &mut ChaCha8Rng, setup: &Setup, world: &World) -> Self {
        let (blocks, holds) = (world.blocks.len(), world.holds.len());
        match rng.random_range(0..40) {
            0 if rng.random_bool(0.5) => Self::SetBudget(rng.random_range(0..=setup.budget_bytes * 5 / 4)),
            0 => Self::Trim,
            1 if setup.step.is_some() => Self::Step,
            2 if blocks > 0 => Self::Retire(rng.random_range(0..blocks)),
            3 if holds > 0 => Self::EndHold(rng.random_range(0..holds)),
            4..6 => Self::Ask((0..rng.random_range(2..4)).map(|_| Ask::random(rng, setup)).collect()),
            6..10 if setup.step.is_some() => {
                let sizes = &setup.step.as_ref().unwrap().0;
                let mut ask = Ask::random(rng, setup);
                (ask.bytes, ask.align_bytes, ask.waits) = (sizes[rng.random_range(0..sizes.len())], 1, false);
                Self::Ask(vec![ask])
            }
            10..20 if blocks > 0 => Self::Free(rng.random_range(0..blocks)),
            _ => Self::Ask(vec![Ask::random(rng, setup)]),
        }
    }
}

pub struct World {
    pub pool: Pool<Meter>,
    pub meter: Meter,
    pub blocks: Vec<(Block<Meter>, Ask)>,
    pub holds: Vec<(Hold, u64, Priority)>,
    /// Of all holds that ended.
    pub over_bytes: u64,
    pub planned: Option<PlannedSteps<Meter>>,
    /// Of an expanding slab.
    pub address_bytes: u64,
    reserve_bytes: u64,
}

impl World {
    pub fn open(setup: &Setup) -> Option<Self> {
        let meter = Meter::new(setup.limits, setup.staging_bytes, setup.memory_bytes);
        let config = Config::new(setup.budget_bytes)
            .staging(setup.staging_bytes)
            .placement(setup.placement)
            .slabs(setup.policy)
            .high_priority_reserve(setup.reserve_bytes)
            .free_lists(setup.lists)
            .zero_on_free(setup.zeroes);
        // A pool of one slab is not opened where the backend has not the memory.
        let pool = Pool::with_backend(meter.clone(), &config).ok()?;
        let (address_bytes, reserve_bytes) = (pool.stats().address_bytes, setup.reserve_bytes);
        let (blocks, holds) = (Vec::new(), Vec::new());
        let mut world = Self { pool, meter, blocks, holds, over_bytes: 0, planned: None, address_bytes, reserve_bytes };
        world.planned = match &setup.step {
            None => None,
            Some((_, false)) => Some(world.pool.auto_plan().ok()?),
            Some((sizes, true)) => {
                let count = sizes.len() as u64;
                let lifetime = |(at, bytes): (usize, &u64)| Lifetime::new(at as u64, count + at as u64, *bytes);
                let step: Vec<Lifetime> = sizes.iter().enumerate().map(lifetime).collect();
                let options = Options::new().align(setup.limits.alignment_bytes);
                let plan = plan::solve(&step, &options).unwrap();
                world.pool.follow_plan(&step, &plan).ok()
            }
        };
        if let (Some((sizes, false)), true) = (&setup.step, world.planned.is_some()) {
            // Steps that are alike, so that the next one is planned.
            for _ in 0..4 {
                let blocks: Vec<_> = sizes.iter().map(|bytes| world.pool.alloc(Request::bytes(*bytes))).collect();
                drop(blocks);
                world.pool.mark_step();
            }
        }
        Some(world)
    }

    /// The same pool again.
    pub fn twin(setup: &Setup, ops: &[Op]) -> Self {
        let mut world = Self::open(setup).unwrap();
        ops.iter().for_each(|op| drop(world.run(op)));
        world
    }

    pub fn run(&mut self, op: &Op) -> Option<Error> {
        match op {
            Op::Ask(asks) => {
                let requests: Vec<Request> = asks.iter().map(Ask::request).collect();
                let blocks = match &requests[..] {
                    [request] => self.pool.alloc(request.clone()).map(|block| vec![block]),
                    requests => self.pool.alloc_all(requests),
                };
                match blocks {
                    Ok(blocks) => self.blocks.extend(blocks.into_iter().zip(asks.iter().cloned())),
                    Err(error) => return Some(error),
                }
            }
            Op::Free(index) => drop(self.blocks.swap_remove(*index)),
            Op::Retire(index) => {
                let (block, ask) = self.blocks.swap_remove(*index);
                self.holds.push((block.hold(), block.bytes_held(), ask.priority));
            }
            Op::EndHold(index) => self.over_bytes += self.holds.swap_remove(*index).1,
            Op::Step => {
                self.pool.mark_step();
            }
            Op::Trim => drop(self.pool.trim()),
            Op::SetBudget(bytes) => {
                let before_bytes = self.pool.budget_bytes();
                let set = self.pool.set_budget(*bytes);
                let after_bytes = self.pool.budget_bytes();
                let taken_bytes = self.pool.stats().staging_bytes + self.reserve_bytes;
                let is_expanding = self.address_bytes > 0;
                match set {
                    // An expanding slab has whole granules of it.
                    Ok(_) => assert!(after_bytes == *bytes || is_expanding && after_bytes < *bytes, "{after_bytes}"),
                    Err(error) => {
                        let text = error.to_string();
                        let (staging, reserve) = (text.starts_with("staging of "), text.starts_with("a reserve of "));
                        let is_over = text.contains(" for an expanding slab, which has ") && is_expanding;
                        assert!(staging || reserve || is_over, "{text}");
                        assert!(*bytes < taken_bytes || is_expanding, "{text}");
                        assert_eq!(after_bytes, before_bytes, "{text}");
                    }
                }
            }
        }
        None
    }

    /// Serves one request, past the plan if there is one.
    pub fn is_expanding(&self) -> bool {
        self.pool.slab_policy() == SlabPolicy::Expanding
    }

    pub fn serve(&mut self, request: Request) -> Result<Block<Meter>> {
        if self.planned.is_some() {
            pollster::block_on(self.pool.alloc_async(request))
        } else {
            self.pool.alloc(request)
        }
    }

    pub fn compact_for(&mut self, request: &Request) -> Result<()> {
        let blocks = self.blocks.iter_mut().map(|(block, _)| block as &mut dyn Movable<Meter>);
        self.pool.compact_for(request, blocks).map(drop)
    }
}
