//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use tensorpool::{Backend, Budget, ByteSize, Placement, SlabPolicy};

/// Replays traces of allocations: what a run needs at least, what a pool makes of it, and how fast.
#[derive(Clone, Debug, Parser)]
#[command(name = "replay", after_help = EXAMPLES)]
pub struct Args {
    /// Files: the text format, PyTorch's memory snapshot (a pickle), Kineto's trace (JSON), RMM's log or lifetimes (CSV);
    /// gzipped or not
    #[arg(required = true, value_name = "TRACE")]
    pub traces: Vec<PathBuf>,

    /// Memory that the pool may take, or 80% of all that the host or the GPU has [default: as much as it needs]
    #[arg(long, value_name = "SIZE", value_parser = str::parse::<Budget>, conflicts_with = "min_budget")]
    pub budget: Option<Budget>,

    /// Touch all memory as it is reserved; with --backend host
    #[arg(long, requires = "budget")]
    pub touch: bool,

    /// Lock all memory in RAM as it is reserved; with --backend host
    #[arg(long, requires = "budget")]
    pub lock: bool,

    /// Find the budgets that work too: `safe` to size a program by, `lowest` by bisection
    #[arg(long)]
    pub min_budget: bool,

    /// exact or power-of-two: exact is runs of exactly the size, power-of-two a classic buddy
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "NAME")]
    pub placement: PlacementName,

    /// Plan the whole trace ahead and serve it at the planned offsets: what is needed at least
    #[arg(long, conflicts_with = "auto")]
    pub planned: bool,

    /// Serve as `Pool::auto_plan` does: each new shape of a step online, and planned when it returns
    #[arg(long)]
    pub auto: bool,

    /// virtual, host or gpu: virtual carves without memory, so that traces of any size run anywhere
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "NAME")]
    pub backend: BackendName,

    /// Size of a slab, or expanding, growing, single or per-block. With --min-budget it is the search's; without --budget the
    /// pool has twice the peak [default: expanding, on a GPU growing; 1/64 of the peak without a budget]
    #[arg(long, value_name = "SIZE", value_parser = slab)]
    pub slab: Option<SlabPolicy>,

    /// Print one JSON object a trace instead of text
    #[arg(long)]
    pub json: bool,
}

/// What the pool of a replay has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Budget(ByteSize, SlabPolicy),
    TwiceThePeak(SlabPolicy),
    /// All that it needs, in slabs of 1/64 of the peak.
    Unlimited,
}

impl Args {
    /// What the replay has on this backend. The one beside a search is unlimited, and `--slab` is the search's.
    pub fn room(&self, backend: &impl Backend) -> tensorpool::Result<Room> {
        let slabs = self.slabs(backend);
        Ok(match &self.budget {
            Some(budget) => Room::Budget(ByteSize(budget.bytes(backend)?), slabs),
            None if self.slab.is_some() && !self.min_budget => Room::TwiceThePeak(slabs),
            None => Room::Unlimited,
        })
    }

    /// The policy that is searched.
    pub fn search_slabs(&self, backend: &impl Backend) -> Option<SlabPolicy> {
        self.min_budget.then(|| self.slabs(backend))
    }

    /// The policy that a pool on this backend works by.
    fn slabs(&self, backend: &impl Backend) -> SlabPolicy {
        match self.slab.unwrap_or_default() {
            SlabPolicy::Expanding if self.lock || backend.commit_granule_bytes().is_none() => SlabPolicy::Growing,
            slabs => slabs,
        }
    }

    /// How the pool serves.
    pub fn serving(&self) -> &'static str {
        match (self.planned, self.auto) {
            (true, _) => ", the whole planned ahead",
            (_, true) => ", steps planned when they return",
            _ => "",
        }
    }
}

fn slab(text: &str) -> Result<SlabPolicy, String> {
    match text.parse() {
        Ok(SlabPolicy::Fixed(0)) => Err("a slab has 1 byte at least".to_owned()),
        slab => slab.map_err(|error: tensorpool::Error| error.to_string()),
    }
}

const EXAMPLES: &str = "\
Examples, after `cargo run --release --example replay --`:
  traces/*.gz --min-budget             what each of the bundled runs needs, in the default slab, which expands
  traces/*.gz --min-budget --slab single
                                       and in one that does not
  traces/*.gz --min-budget --planned   and with all of it known ahead
  snapshot.pickle                      a run of yours, beside what PyTorch had reserved
  run.trace --budget 4GiB --json       whether it fits, for programs
  run.trace --backend gpu              on real memory

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 allocations failed in the replay,
130 stopped by Ctrl-C or SIGTERM.";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PlacementName {
    #[default]
    Exact,
    PowerOfTwo,
}

impl PlacementName {
    pub fn placement(self) -> Placement {
        match self {
            Self::Exact => Placement::Exact,
            Self::PowerOfTwo => Placement::PowerOfTwo,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::PowerOfTwo => "power-of-two",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    #[default]
    Virtual,
    Host,
    Gpu,
}
