//! Orders in which buffers are placed one after another: what is hardest to place comes first.

use super::problem::Problem;

/// What an order goes by, largest first. T is the largest load of any section that the buffer covers, W its lifetime, A its
/// area: size times lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Twa,
    Wat,
    Taw,
    Width,
    Size,
    SizeRootWidth,
    Area,
}

impl Key {
    pub const ALL: [Self; 7] =
        [Self::Twa, Self::Size, Self::SizeRootWidth, Self::Width, Self::Wat, Self::Taw, Self::Area];

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
        let width = u128::from(upper - lower);
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
        }
    }
}
