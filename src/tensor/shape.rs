//! Shapes: up to eight sizes, kept in place.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// The most dimensions a tensor may have.
pub const RANK_MAX: usize = 8;

/// The sizes of a tensor's dimensions, outermost first; rank 0 is one element.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    sizes: [usize; RANK_MAX],
    rank: usize,
}

impl Shape {
    /// A shape of these sizes.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] for more than eight dimensions, or more elements than a `usize` counts.
    pub fn new(sizes: &[usize]) -> Result<Self> {
        if sizes.len() > RANK_MAX {
            let message = format!("shape {sizes:?} has {} dimensions, the most is {RANK_MAX}", sizes.len());
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let elements = sizes.iter().filter(|size| **size > 0).try_fold(1usize, |n, size| n.checked_mul(*size));
        if elements.is_none_or(|elements| elements > isize::MAX as usize) {
            return Err(Error::new(ErrorKind::Shape, format!("shape {sizes:?} has more elements than memory")));
        }
        let mut shape = Self { sizes: [0; RANK_MAX], rank: sizes.len() };
        shape.sizes[..sizes.len()].copy_from_slice(sizes);
        Ok(shape)
    }

    /// The sizes.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }

    /// How many dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many elements: the product of the sizes.
    pub fn elements(&self) -> usize {
        self.sizes().iter().product()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.sizes())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.sizes())
    }
}

/// What may stand where a shape is asked for: `[2, 3]`, `&[2, 3][..]`, `12`, a [`Shape`].
pub trait IntoShape {
    /// The shape.
    ///
    /// # Errors
    /// As [`Shape::new`].
    fn into_shape(self) -> Result<Shape>;
}

impl IntoShape for Shape {
    fn into_shape(self) -> Result<Shape> {
        Ok(self)
    }
}

impl IntoShape for usize {
    fn into_shape(self) -> Result<Shape> {
        Shape::new(&[self])
    }
}

impl<const RANK: usize> IntoShape for [usize; RANK] {
    fn into_shape(self) -> Result<Shape> {
        Shape::new(&self)
    }
}

impl IntoShape for &[usize] {
    fn into_shape(self) -> Result<Shape> {
        Shape::new(self)
    }
}
