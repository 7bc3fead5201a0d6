//! What a backend has asked of wgpu, in counts.

use crate::sync::{AtomicU64, Ordering};

/// Counts of what a [`Gpu`](super::Gpu) has asked of wgpu since it was made. They only grow.
///
/// A step's counts are the difference of two: [`since`](GpuStats::since). What a program asks of wgpu itself, inside
/// [`encode`](super::Gpu::encode) for example, is in none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GpuStats {
    /// Bind groups made.
    pub bind_groups: u64,
    /// Error scopes pushed: three around each call that can raise an error.
    pub error_scopes: u64,
    /// Calls of `wgpu::Queue::submit`.
    pub submissions: u64,
    /// Copies recorded between two buffers: each piece of an upload or a download is one.
    pub copies: u64,
    /// Dispatches of shaders recorded.
    pub dispatches: u64,
}

impl GpuStats {
    /// Returns what was counted after `earlier`, another value of the same backend.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            bind_groups: self.bind_groups.saturating_sub(earlier.bind_groups),
            error_scopes: self.error_scopes.saturating_sub(earlier.error_scopes),
            submissions: self.submissions.saturating_sub(earlier.submissions),
            copies: self.copies.saturating_sub(earlier.copies),
            dispatches: self.dispatches.saturating_sub(earlier.dispatches),
        }
    }
}

/// The counts of a backend, which any thread adds to.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) bind_groups: Counter,
    pub(super) error_scopes: Counter,
    pub(super) submissions: Counter,
    pub(super) copies: Counter,
    pub(super) dispatches: Counter,
}

impl Counters {
    pub(super) fn stats(&self) -> GpuStats {
        GpuStats {
            bind_groups: self.bind_groups.get(),
            error_scopes: self.error_scopes.get(),
            submissions: self.submissions.get(),
            copies: self.copies.get(),
            dispatches: self.dispatches.get(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Counter(AtomicU64);

impl Default for Counter {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
