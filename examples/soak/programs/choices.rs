//! Where a program takes its decisions from: a generator of random numbers, or the bytes that a fuzzer made.
//!
//! A program asks for nothing but numbers below a bound, so both drive the very same code.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A source of decisions.
pub trait Choices {
    /// A number below `bound`, which is at least 1.
    fn below(&mut self, bound: u64) -> u64;

    /// Whether nothing is left to decide with: then the program ends.
    fn is_over(&self) -> bool;

    /// True so many times of so many.
    fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// One of these.
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// The index of one of these weights, each as often as it weighs; of the first if none weighs anything.
    fn weighted(&mut self, weights: &[u32]) -> usize {
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut place = self.below(sum.max(1));
        for (index, weight) in weights.iter().enumerate() {
            match place.checked_sub(u64::from(*weight)) {
                Some(rest) => place = rest,
                None => return index,
            }
        }
        0
    }

    /// A number from 0 to `most`, spread evenly over its logarithm, as the sizes of tensors are.
    fn even_in_log(&mut self, most: u64) -> u64 {
        let bits = self.below(u64::from(u64::BITS - most.leading_zeros()) + 1) as u32;
        if bits == 0 {
            return 0;
        }
        let low = 1 << (bits - 1);
        let high = most.min(low | (low - 1));
        low + self.below(high - low + 1)
    }

    /// Weights for so many kinds of events, some of them 0: each program stresses something else.
    fn swarm<const KINDS: usize>(&mut self) -> [u32; KINDS] {
        std::array::from_fn(|_| self.pick(&[0, 1, 1, 2, 4, 8, 16, 30]))
    }
}

/// Numbers from a seed: the same seed and program, the same decisions.
pub struct Random(ChaCha8Rng);

impl Random {
    /// Each program of a seed has a stream of its own.
    pub fn new(seed: u64, program: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(program);
        Self(random)
    }
}

impl Choices for Random {
    fn below(&mut self, bound: u64) -> u64 {
        match u32::try_from(bound) {
            Ok(bound) => (u64::from(self.0.random::<u32>()) * u64::from(bound)) >> 32,
            Err(_) => ((u128::from(self.0.random::<u64>()) * u128::from(bound)) >> 64) as u64,
        }
    }

    fn is_over(&self) -> bool {
        false
    }
}

/// Numbers from bytes, as few of them as the bound needs; 0 when they are used up.
#[allow(dead_code, reason = "the fuzzer's")]
pub struct Bytes<'a>(pub &'a [u8]);

impl Choices for Bytes<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        let wanted = (u64::BITS - (bound - 1).leading_zeros()).div_ceil(8) as usize;
        let (taken, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)) % bound
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}
