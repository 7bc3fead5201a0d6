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
    /// dimensions, and for more elements than memory has. Then the tensor is as it was.
    pub fn try_grow(&mut self, rows: usize) -> Result<()> {
        let (shape, bytes) = self.with_rows(rows)?;
        self.block.try_grow(bytes)?;
        self.shape = shape;
        Ok(())
    }

    /// Grows the tensor as [`try_grow`](Self::try_grow) does. The new elements are zeros (all bytes zero).
    ///
    /// # Errors
    /// As there, and as [`Block::try_grow_zeroed`](crate::Block::try_grow_zeroed).
    pub fn try_grow_zeroed(&mut self, rows: usize) -> Result<()> {
        let (shape, bytes) = self.with_rows(rows)?;
        self.block.try_grow_zeroed(bytes)?;
        self.shape = shape;
        Ok(())
    }

    /// Shrinks the tensor to its first `rows` along its first axis, at least 1, as [`Block::shrink`](crate::Block::shrink) does. Whole
    /// pages behind them are free for others.
    ///
    /// # Errors
    /// As [`Block::shrink`](crate::Block::shrink); [`ErrorKind::Shape`] for a tensor without dimensions. Then the tensor is as it
    /// was.
    pub fn shrink(&mut self, rows: usize) -> Result<()> {
        let (shape, bytes) = self.with_rows(rows)?;
        self.block.shrink(bytes)?;
        self.shape = shape;
        Ok(())
    }

    /// Returns the shape with so many rows, and its bytes.
    fn with_rows(&self, rows: usize) -> Result<(Shape, u64)> {
        let mut sizes = self.shape().to_vec();
        let Some(first) = sizes.first_mut() else {
            return Err(Error::new(ErrorKind::Shape, "a tensor without dimensions has no rows"));
        };
        *first = rows;
        let shape = Shape::new(&sizes)?;
        Ok((shape, Self::bytes_of(&shape)?))
    }
}
