//! What is measured, and by which program.

mod adapter;
mod budgets;
mod dispatch;
mod fill;
mod frees;
mod kernels;
mod threads;
mod training;
mod transfers;

pub use self::adapter::BUS;

use tensorpool::{Budget, Gpu, GpuChoice, Result};

use crate::args::Args;
use crate::figure::Figures;

/// The first part, whose figures name the adapter.
pub const ADAPTER: &str = "adapter";

/// How much is measured.
pub struct Scale {
    pub small: bool,
    pub gpu_memory: Option<Budget>,
}

impl Scale {
    /// Returns one of two sizes.
    pub fn of<T>(&self, full: T, small: T) -> T {
        if self.small { small } else { full }
    }
}

/// One part of the report.
pub struct Part {
    pub name: &'static str,
    /// What the part shows, for people.
    pub about: &'static str,
    pub limit_seconds: u64,
    /// Whether the driver is asked for its own figures meanwhile, which takes processor time.
    pub is_watched: bool,
    pub how: How,
}

/// What measures a part.
pub enum How {
    /// This program.
    Own(fn(&Scale) -> Figures),
    /// Another one that lies beside it, with its arguments, and what makes figures of its output.
    Program { name: &'static str, arguments: fn(&Args) -> Vec<String>, figures: fn(&str, &Scale) -> Figures },
}

/// All parts, in their order. The sum of their limits is under eight minutes.
pub const PARTS: [Part; 9] = [
    own(ADAPTER, "the device and its limits", 15, adapter::measure),
    Part {
        name: "training",
        about: "ten epochs on the bundled digits inside 6 MiB",
        limit_seconds: 120,
        is_watched: true,
        how: How::Program { name: "train_mlp", arguments: training::arguments, figures: training::figures },
    },
    own("kernels", "each kernel beside its twin on the host", 60, kernels::measure),
    own("frees", "threads allocate, dispatch and free while the device works", 50, frees::measure),
    Part {
        is_watched: true,
        ..own("fill", "a budget near the card's memory, filled with one size", 60, fill::measure)
    },
    own("dispatch", "pooled tensors beside one wgpu buffer a tensor", 40, dispatch::measure),
    own("transfers", "uploads and downloads beside one large buffer", 40, transfers::measure),
    own("budgets", "the smallest budgets, computed and then trained in", 30, budgets::measure),
    Part {
        name: "threads",
        about: "pairs of allocation and free on 1 to 16 threads of the host",
        limit_seconds: 40,
        is_watched: false,
        how: How::Program { name: "race", arguments: threads::arguments, figures: threads::figures },
    },
];

const fn own(name: &'static str, about: &'static str, limit_seconds: u64, measure: fn(&Scale) -> Figures) -> Part {
    Part { name, about, limit_seconds, is_watched: false, how: How::Own(measure) }
}

/// Finds a part by its name.
pub fn find(name: &str) -> std::result::Result<&'static Part, String> {
    let names = || PARTS.each_ref().map(|part| part.name).join(", ");
    PARTS.iter().find(|part| part.name == name).ok_or_else(|| format!("no part is called {name:?}: {}", names()))
}

fn open() -> Result<Gpu> {
    Gpu::open(&GpuChoice::Any)
}
