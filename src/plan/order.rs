//! Orders in which buffers are placed one after another: what is hardest to place comes first.

use super::effort::Random;
use super::problem::Problem;
use super::stretches::Span;

/// What an order goes by, largest first. T is the largest load of any section that the buffer covers, W its width in
/// sections, A its area: size times width. The simple orders go by the input alone, in the clock of the lifetimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Twa,
    Wat,
    Taw,
    Width,
    Size,
    SizeRootWidth,
    Area,
    /// Simple: the earliest first.
    Time,
    /// Simple: by the size alone.
    BareSize,
    /// Simple.
    Duration,
    /// Simple: the size times the duration.
    BareArea,
}

impl Key {
    /// The buffers `ids` in this order; equal ones by their place in the problem.
    pub fn sort(self, problem: &Problem, ids: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut keyed: Vec<([u128; 3], u32)> = ids.map(|id| (self.of(problem, id as usize), id)).collect();
        keyed.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        keyed.into_iter().map(|(_, id)| id).collect()
    }

    pub fn sort_all(self, problem: &Problem) -> Vec<u32> {
        self.sort(problem, 0..problem.len() as u32)
    }

    fn of(self, problem: &Problem, index: usize) -> [u128; 3] {
        let (lower, upper) = problem.times[index];
        let (peak, size) = (u128::from(problem.peaks[index]), u128::from(problem.sizes[index]));
        let width = u128::from(problem.width(index));
        let area = width * size;
        match self {
            Self::Twa => [peak, width, area],
            Self::Wat => [width, area, peak],
            Self::Taw => [peak, area, width],
            Self::Width => [width, size, 0],
            Self::Size => [size, width, 0],
            // Floats that are not negative sort as their bits do.
            Self::SizeRootWidth => [u128::from((size as f64 * (width as f64).sqrt()).to_bits()), size, 0],
            Self::Area => [area, size, 0],
            Self::Time => [u128::from(u64::MAX - lower), 0, 0],
            Self::BareSize => [size, 0, 0],
            Self::Duration => [u128::from(upper - lower), 0, 0],
            Self::BareArea => [u128::from(upper - lower) * size, 0, 0],
        }
    }
}

/// All buffers, those first in whose sections the last searches had no room; changed by chance by up to `share`.
pub(super) fn by_blame(problem: &Problem, blames: &[f64], share: f64, random: &mut Random) -> Vec<u32> {
    let mut sums = vec![0.0; blames.len() + 1];
    for (section, blame) in blames.iter().enumerate() {
        sums[section + 1] = sums[section] + blame;
    }
    let mut keyed: Vec<(f64, u64, u32, u32)> = (0..problem.len() as u32)
        .map(|id| {
            let of_span = |span: &Span| sums[span.end as usize] - sums[span.first as usize];
            let blame: f64 = problem.spans_of(id as usize).iter().map(of_span).sum();
            let chance = f64::from(random.below(1 << 20)) / f64::from(1 << 19) - 1.0;
            (blame * (1.0 + share * chance), problem.peaks[id as usize], problem.width(id as usize), id)
        })
        .collect();
    keyed.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((b.1, b.2, a.3).cmp(&(a.1, a.2, b.3))));
    keyed.into_iter().map(|(.., id)| id).collect()
}
