//! How a program's pool is opened, and what is asked of it.

use std::fmt;
use std::time::Duration;

use tensorpool::{Config, Fallback, Placement, Priority, Request, SlabPolicy};

use super::Choices;

/// Labels of a program, the one without a name included.
pub const LABELS: usize = 8;

/// A pool to open.
pub struct Setup {
    pub budget_bytes: u64,
    pub staging_bytes: u64,
    pub reserve_bytes: u64,
    pub placement: Placement,
    pub policy: SlabPolicy,
    pub zero_on_free: bool,
    pub has_free_lists: bool,
    /// The pool's numbers are asked for and compared after so many events: to ask is to tell what free lists have to tell.
    pub events_a_look: u64,
    /// Blocks held at most; many more only slow the program down.
    pub blocks_most: usize,
    pub labels: [String; LABELS],
}

/// The policies of pools, the more important ones more often.
pub const POLICIES: [SlabPolicy; 7] = [
    SlabPolicy::Expanding,
    SlabPolicy::Expanding,
    SlabPolicy::Expanding,
    SlabPolicy::Growing,
    SlabPolicy::Growing,
    SlabPolicy::Single,
    SlabPolicy::PerBlock,
];

impl Setup {
    pub fn draw(choices: &mut impl Choices, budget_bytes_most: u64) -> Self {
        let policy = choices.pick(&POLICIES);
        let budget_bytes = match choices.below(4) {
            0 => choices.pick(&[0, 1, 63, 64, 65, 100, 5000, 65_536, (1 << 20) + 1]),
            _ => choices.even_in_log(budget_bytes_most),
        };
        let blocks_most = match policy {
            SlabPolicy::PerBlock => 32,
            _ => choices.pick(&[20, 100, 500]),
        };
        Self {
            budget_bytes,
            staging_bytes: 0,
            reserve_bytes: if choices.chance(1, 4) { choices.even_in_log(budget_bytes) } else { 0 },
            placement: choices.pick(&[Placement::Exact, Placement::Exact, Placement::PowerOfTwo]),
            policy,
            zero_on_free: choices.chance(1, 4),
            has_free_lists: choices.chance(7, 8),
            events_a_look: choices.pick(&[1, 1, 1, 16]),
            blocks_most,
            labels: labels(choices),
        }
    }

    pub fn config(&self) -> Config {
        Config::new(self.budget_bytes)
            .staging(self.staging_bytes)
            .high_priority_reserve(self.reserve_bytes)
            .placement(self.placement)
            .slabs(self.policy)
            .zero_on_free(self.zero_on_free)
            .free_lists(self.has_free_lists)
    }

    /// What blocks can have at most, together.
    pub fn open_bytes(&self) -> u64 {
        self.budget_bytes - self.staging_bytes
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget_bytes, staging_bytes, reserve_bytes, placement, policy, zero_on_free, .. } = self;
        write!(f, "budget {budget_bytes}, staging {staging_bytes}, reserve {reserve_bytes}, {placement}, {policy}")?;
        let lists = if self.has_free_lists { "free lists" } else { "no free lists" };
        write!(f, ", {lists}{}", if *zero_on_free { ", zeroing" } else { "" })
    }
}

/// Labels may be any text: each begins with its index, so that no two are the same.
fn labels(choices: &mut impl Choices) -> [String; LABELS] {
    let odd = choices.below(128) * 2 + 1;
    std::array::from_fn(|index| match index as u64 {
        0 => String::new(),
        1 => "1".into(),
        2 => format!("2{}", "ß".repeat(odd as usize * 8)),
        index => {
            let bytes: Vec<u8> = (0..10 * index).map(|place| (((index + place) * odd) >> 2) as u8).collect();
            format!("{index}{}", String::from_utf8_lossy(&bytes))
        }
    })
}

/// What is asked for, as it is kept in the trail.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub bytes: u64,
    pub align_bytes: u64,
    pub label: usize,
    pub zeroed: bool,
    pub priority: Priority,
    pub wait: Option<Duration>,
    pub without: [bool; FALLBACKS.len()],
}

/// Two of them are none.
const ALIGNMENTS: [u64; 12] = [0, 3, 64, 128, 512, 1 << 12, 1 << 13, 1 << 14, 1 << 16, 1 << 18, 1 << 21, 1 << 40];

const FALLBACKS: [Fallback; 4] = [Fallback::Oversized, Fallback::Reclaim, Fallback::Grow, Fallback::ReturnEmpty];
/// The places of two of them.
pub const RECLAIM: usize = 1;
pub const GROW: usize = 2;

impl Ask {
    /// Sizes are of four kinds, by these weights: anything, small ones, whole pages and those at an edge.
    pub fn draw(choices: &mut impl Choices, setup: &Setup, sizes: &[u32; 4]) -> Self {
        let budget_bytes = setup.budget_bytes;
        let page_bytes = 1 << choices.pick(&[10, 10, 10, 11, 12, 16]);
        let bytes = match choices.weighted(sizes) {
            0 => choices.even_in_log(budget_bytes),
            1 => choices.even_in_log(2048),
            2 => page_bytes * choices.even_in_log((budget_bytes / page_bytes).min(64)),
            _ => choices.pick(&[0, 1, page_bytes / 2, page_bytes, budget_bytes / 2, budget_bytes, 1 << 63, u64::MAX]),
        };
        let bytes = match choices.below(8) {
            0 => bytes.saturating_add(1),
            1 => bytes.saturating_sub(1),
            _ => bytes,
        };
        let is_plain = choices.chance(3, 4);
        Self {
            bytes,
            align_bytes: if choices.chance(1, 16) { choices.pick(&ALIGNMENTS) } else { 1 },
            label: if is_plain { 0 } else { choices.below(LABELS as u64) as usize },
            zeroed: choices.chance(1, 16),
            priority: if is_plain { Priority::Normal } else { choices.pick(&PRIORITIES) },
            wait: choices.chance(1, 16).then(|| patience(choices)),
            without: std::array::from_fn(|_| !is_plain && choices.chance(1, 8)),
        }
    }

    pub fn request(&self, setup: &Setup) -> Request<'static> {
        let mut request = Request::bytes(self.bytes).align(self.align_bytes).priority(self.priority);
        if self.label > 0 {
            request = request.label(setup.labels[self.label].clone());
        }
        if self.zeroed {
            request = request.zeroed();
        }
        if let Some(wait) = self.wait {
            request = request.wait(wait);
        }
        let without = FALLBACKS.into_iter().zip(self.without).filter(|(_, without)| *without);
        without.fold(request, |request, (fallback, _)| request.without(fallback))
    }

    pub fn may_do_all(&self) -> bool {
        !self.without.contains(&true)
    }
}

const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

/// Mostly none: a millisecond is as long as thousands of events.
fn patience(choices: &mut impl Choices) -> Duration {
    match choices.below(64) {
        0 => Duration::from_millis(1),
        1 => Duration::from_micros(choices.below(300)),
        _ => Duration::ZERO,
    }
}
