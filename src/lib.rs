#![doc = include_str!("../README.md")]
//!
//! # Reading on
//!
//! | what | where |
//! | --- | --- |
//! | open a pool | [`Pool::host`], `Pool::gpu`, `Pool::open_gpu`, [`Config`] |
//! | raw memory | [`Pool::alloc`], [`Request`], [`Block`] |
//! | tensors | [`Pool::zeros`], [`Pool::from_array`], [`Tensor`] |
//! | a block that grows where it is | [`Block::try_grow`], [`Tensor::try_grow`] |
//! | room by moving blocks | [`Pool::compact_for`], [`Pool::compact`] |
//! | where every byte is | [`Pool::stats`], [`Pool::holders`], [`Error::shortage`] |
//! | what a recorded run needs | `trace` (feature): `Trace::read`, `replay`, `min_budget` |
//! | offsets ahead of time | [`plan`] |
//! | another kind of memory | [`Backend`] |
//! | the bookkeeping alone | [`space`] |

#![warn(missing_docs, missing_debug_implementations)]
#![deny(unsafe_code)]

/// Compiles and runs the examples of the guide.
#[cfg(doctest)]
#[doc = include_str!("../docs/GUIDE.md")]
struct Guide;

mod error;
mod open;
mod pool;
mod sync;
mod units;

pub mod backend;
#[cfg(feature = "nn")]
pub mod nn;
pub mod plan;
pub mod space;
mod tensor;
#[cfg(feature = "trace")]
pub mod trace;

pub use backend::{Backend, Host, HostMemory, Limit, Limits, Virtual};
#[cfg(feature = "gpu")]
pub use backend::{Encoder, Gpu, GpuStats};
pub use error::{Error, ErrorKind, Holder, RefusedBy, Remedy, Result, Returned, Shortage};
#[cfg(feature = "half")]
pub use half;
#[cfg(feature = "gpu")]
pub use open::GpuChoice;
pub use open::{AnyBackend, AnySlab};
pub use pool::{
    AllocFuture, Block, Budget, Compaction, Config, Deviation, Hold, Label, Movable, PlanReport, PlannedSteps, Pool,
};
pub use pool::{Fallback, Priority, Request, RequestLabel, SlabPolicy, Stats};
pub use space::Placement;
#[cfg(feature = "gpu")]
pub use tensor::Loan;
pub use tensor::{BlockMut, IntoShape, Labelled, RANK_MAX, Shape, Tensor};
pub use units::{ByteSize, ParseByteSizeError};
