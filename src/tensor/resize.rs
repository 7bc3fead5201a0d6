//! Tensors that grow and shrink along their first axis, under one address.

use bytemuck::Pod;

use super::{Shape, Tensor};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};

impl<T: Pod, B: Backend> Tensor<T, B> {
    /// Grows the tensor to `rows` along its first axis where it is, without a copy, as [`Block::try_grow`](crate::Block::try_grow)
    /// does: `[64, 128]` with 96 rows is `[96, 128]`. The new elements are whatever was there, as those of
    /// [`uninit`](crate::Pool::uninit).
    ///
    /// ```
    /// use tensorpool::{Config, Pool};
    ///
    /// let pool = Pool::host(Config::new("1 MiB"))?;
    /// let mut keys = pool.labelled("keys").zeros::<f32>([64, 128])?;
    /// keys.try_grow_zeroed(96)?;
    /// assert_eq!(keys.shape(), [96, 128]);
    /// keys.shrink(32)?;
    /// assert_eq!(keys.shape(), [32, 128]);
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Block::try_grow`](crate::Block::try_grow): mostly [`ErrorKind::NotInPlace`]. [`ErrorKind::Shape`] for a tensor without
    /// dimensions, and for more elements than memory has. [`ErrorKind::Invalid`] for fewer rows than it has. Then the tensor is as it
    /// was.
    pub fn try_grow(&mut self, rows: usize) -> Result<()> {
        let (shape, bytes) = self.with_rows(rows, "grow", |from| rows > from)?;
        self.block.try_grow(bytes)?;
        self.shape = shape;
        Ok(())
    }

    /// Grows the tensor as [`try_grow`](Self::try_grow) does. The new elements are zeros (all bytes zero).
    ///
    /// # Errors
    /// As there, and as [`Block::try_grow_zeroed`](crate::Block::try_grow_zeroed).
    pub fn try_grow_zeroed(&mut self, rows: usize) -> Result<()> {
        let (shape, bytes) = self.with_rows(rows, "grow", |from| rows > from)?;
        self.block.try_grow_zeroed(bytes)?;
        self.shape = shape;
        Ok(())
    }

    /// Shrinks the tensor to its first `rows` along its first axis, at least 1, as [`Block::shrink`](crate::Block::shrink) does. Whole
    /// pages behind them are free for others.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for more rows than it has, and for none; [`ErrorKind::Shape`] for a tensor without dimensions. Then the
    /// tensor is as it was.
    pub fn shrink(&mut self, rows: usize) -> Result<()> {
        let (shape, bytes) = self.with_rows(rows, "shrink", |from| (1..from).contains(&rows))?;
        self.block.shrink(bytes)?;
        self.shape = shape;
        Ok(())
    }

    /// Returns the shape with so many rows, and its bytes. The rows are compared, not the bytes: rows may have none.
    fn with_rows(&self, rows: usize, verb: &str, suits: impl Fn(usize) -> bool) -> Result<(Shape, u64)> {
        let mut sizes = self.shape().to_vec();
        let Some(first) = sizes.first_mut() else {
            return Err(Error::new(ErrorKind::Shape, "a tensor without dimensions has no rows"));
        };
        let from = std::mem::replace(first, rows);
        if rows != from && !suits(from) {
            let message = format!("a tensor of {from} rows cannot {verb} to {rows}: {:?}", self.block.label());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let shape = Shape::new(&sizes)?;
        Ok((shape, Self::bytes_of(&shape)?))
    }
}
