//! What is trained: the sizes of a multi-layer perceptron, its optimizer, and the bytes they come to.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// Bytes of an element.
const ELEMENT_BYTES: u64 = size_of::<f32>() as u64;

/// How parameters follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Optimizer {
    /// w -= lr g.
    Sgd,
    /// m = mu m + g, w -= lr m.
    Momentum {
        /// How much of the last step is kept.
        mu: f32,
    },
    /// Kingma and Ba, arXiv 1412.6980.
    Adam {
        /// Share of the mean that is kept.
        beta1: f64,
        /// Share of the mean square that is kept.
        beta2: f64,
        /// Keeps the divisor from zero.
        eps: f64,
    },
}

impl Optimizer {
    /// Momentum with mu = 0.9.
    pub const MOMENTUM: Self = Self::Momentum { mu: 0.9 };
    /// Adam with its authors' values.
    pub const ADAM: Self = Self::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };

    /// Tensors of state beside each parameter: k in the formulas.
    pub fn copies(&self) -> u64 {
        match self {
            Self::Sgd => 0,
            Self::Momentum { .. } => 1,
            Self::Adam { .. } => 2,
        }
    }
}

impl fmt::Display for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sgd => "sgd",
            Self::Momentum { .. } => "momentum",
            Self::Adam { .. } => "adam",
        })
    }
}

/// A perceptron and how it is trained. ReLU between layers, softmax cross-entropy at the end, fp32.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Sizes of the layers: inputs, hidden ones, classes. At least two, none zero.
    pub widths: Vec<usize>,
    /// Rows of a batch, at least one.
    pub batch: usize,
    /// How parameters follow their gradients.
    pub optimizer: Optimizer,
    /// The learning rate.
    pub learning_rate: f32,
    /// The seed of the initial weights.
    pub seed: u64,
}

impl Settings {
    /// # Errors
    /// [`ErrorKind::Shape`] or [`ErrorKind::Invalid`], with the number that is wrong.
    pub(super) fn check(&self) -> Result<()> {
        let Self { widths, batch, learning_rate, .. } = self;
        let error = |kind, message: String| Err(Error::new(kind, message));
        if widths.len() < 2 || widths.contains(&0) {
            return error(ErrorKind::Shape, format!("widths {widths:?}: at least two sizes, none zero"));
        }
        if *batch == 0 {
            return error(ErrorKind::Shape, "a batch of 0 rows".into());
        }
        if !learning_rate.is_finite() {
            return error(ErrorKind::Invalid, format!("a learning rate of {learning_rate}"));
        }
        // Kernels count elements in 32 bits.
        let largest = widths.windows(2).map(|pair| pair[0].checked_mul(pair[1]));
        let largest = largest.chain(widths.iter().map(|width| width.checked_mul(*batch)));
        match largest.max_by_key(|elements| elements.unwrap_or(usize::MAX)).flatten() {
            Some(elements) if u32::try_from(elements).is_ok() => Ok(()),
            _ => error(ErrorKind::Shape, format!("widths {widths:?}, batch {batch}: a matrix has over 2^32 elements")),
        }
    }

    /// Layers with parameters: L.
    pub fn layers(&self) -> usize {
        self.widths.len() - 1
    }

    /// Bytes of all weights and biases: P = e sum (d_{l-1} d_l + d_l).
    pub fn parameter_bytes(&self) -> u64 {
        self.widths.windows(2).map(|pair| ELEMENT_BYTES * (pair[0] as u64 + 1) * pair[1] as u64).sum()
    }

    /// Bytes of the optimizer's state: k P.
    pub fn optimizer_bytes(&self) -> u64 {
        self.optimizer.copies() * self.parameter_bytes()
    }

    /// Bytes of the input and of each layer's output: a_l = e B d_l.
    pub fn activation_bytes(&self) -> impl Iterator<Item = u64> + '_ {
        self.widths.iter().map(|width| ELEMENT_BYTES * self.batch as u64 * *width as u64)
    }

    /// F3b without its block: (1 + k) P + sum a_l, what a step needs that stores every activation, updates each
    /// parameter as its gradient appears, and walks backward in blocks of rows.
    pub fn floor_bytes(&self) -> u64 {
        self.parameter_bytes() + self.optimizer_bytes() + self.activation_bytes().sum::<u64>()
    }
}

/// Scratch that a block of the backward may take beside memory that the step has given back already.
const BLOCK_BYTES: u64 = 32 << 10;

/// Blocks are multiples of the products' tile, so that none of it is wasted.
const BLOCK_ROWS: u64 = 16;

impl Settings {
    /// How many rows of W_l the backward of layer `l` (from 1) takes at a time where each row needs `floats_per_row`
    /// floats of scratch: as many as fit in the activations of later layers, which are free by then, and one block.
    ///
    /// Depends on nothing but the shape: never on the budget.
    pub(super) fn block_rows(&self, l: usize, floats_per_row: usize) -> usize {
        let free_bytes: u64 = self.activation_bytes().skip(l + 1).sum();
        let rows = (free_bytes + BLOCK_BYTES) / (ELEMENT_BYTES * floats_per_row as u64);
        let rows = if rows >= BLOCK_ROWS { rows / BLOCK_ROWS * BLOCK_ROWS } else { rows.max(1) };
        rows.min(self.widths[l - 1] as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_are_those_of_the_formulas() {
        let settings = |widths: &[usize], batch, optimizer| Settings {
            widths: widths.to_vec(),
            batch,
            optimizer,
            learning_rate: 0.1,
            seed: 1,
        };
        let default = settings(&[784, 512, 256, 10], 128, Optimizer::MOMENTUM);
        assert_eq!(default.floor_bytes(), 5_086_288);
        let mut widths = vec![512; 10];
        (widths[0], widths[9]) = (784, 10);
        assert_eq!(settings(&widths, 256, Optimizer::Sgd).floor_bytes(), 13_989_928);
        assert_eq!(settings(&[3, 2], 5, Optimizer::ADAM).floor_bytes(), 4 * (3 * (3 * 2 + 2) + 5 * (3 + 2)));
        for bad in [&[][..], &[3], &[3, 0], &[usize::MAX, 2], &[1 << 20, 1 << 20]] {
            assert_eq!(settings(bad, 5, Optimizer::Sgd).check().unwrap_err().kind(), ErrorKind::Shape);
        }
    }

    #[test]
    fn blocks_stay_within_what_is_free_and_one_block() {
        let settings = |batch| Settings {
            widths: vec![784, 512, 512, 256, 10],
            batch,
            optimizer: Optimizer::Sgd,
            learning_rate: 0.1,
            seed: 1,
        };
        // The last layer has one block; the one before it the logits too; the next another activation.
        let rows = |batch| [4, 3, 2].map(|l| settings(batch).block_rows(l, batch));
        assert_eq!(rows(128), [64, 64, 320]);
        assert_eq!(rows(256), [32, 32, 288]);
        assert_eq!(rows(1000), [8, 16, 272]);
        assert_eq!(rows(100_000), [1, 10, 256]);
        assert_eq!(rows(1), [256, 512, 512], "never more than there are");
    }
}
