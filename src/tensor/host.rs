//! Views: host memory as ndarray sees it, without a copy.

use std::any::type_name;

use bytemuck::Pod;
use ndarray::{ArrayView, ArrayViewMut, Dimension, IxDyn};

use super::Tensor;
use crate::backend::HostMemory;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Block;

impl<B: HostMemory> Block<B> {
    /// The bytes asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] from a backend that mixes up its slabs.
    pub fn as_bytes(&self) -> Result<&[u8]> {
        match self.place() {
            Some((backend, slab, span)) => backend.bytes(slab, span),
            None => Ok(&[]),
        }
    }

    /// The bytes asked for, to write.
    ///
    /// # Errors
    /// As [`as_bytes`](Block::as_bytes).
    pub fn as_bytes_mut(&mut self) -> Result<&mut [u8]> {
        match self.place_mut() {
            Some((backend, slab, span)) => backend.bytes_mut(slab, span),
            None => Ok(&mut []),
        }
    }
}

impl<T: Pod, B: HostMemory> Tensor<T, B> {
    /// All elements, in row-major order.
    ///
    /// # Errors
    /// [`ErrorKind::Type`] if `T` needs more alignment than the backend's blocks have.
    pub fn as_slice(&self) -> Result<&[T]> {
        match self.block().as_bytes()? {
            // An empty slice of bytes need not be aligned for `T`.
            [] => Ok(&[]),
            bytes => bytemuck::try_cast_slice(bytes).map_err(cast_failed::<T>),
        }
    }

    /// All elements, to write.
    ///
    /// # Errors
    /// As [`as_slice`](Tensor::as_slice).
    pub fn as_slice_mut(&mut self) -> Result<&mut [T]> {
        match self.block.as_bytes_mut()? {
            [] => Ok(&mut []),
            bytes => bytemuck::try_cast_slice_mut(bytes).map_err(cast_failed::<T>),
        }
    }

    /// An ndarray view of the tensor's own memory: `view::<Ix2>()` for a matrix, `view::<IxDyn>()` for any rank.
    ///
    /// ```
    /// use ndarray::linalg::general_mat_mul;
    /// use ndarray::{Ix2, IxDyn, array};
    /// use tensorpool::{Config, Pool};
    ///
    /// let pool = Pool::host(Config::new("1 MiB"))?;
    /// let a = pool.from_array(&array![[1.0f32, 2.0], [3.0, 4.0]])?;
    /// let b = pool.from_array(&array![[0.0f32, 1.0], [1.0, 0.0]])?;
    /// let mut c = pool.zeros::<f32>([2, 2])?;
    /// general_mat_mul(1.0, &a.view::<Ix2>()?, &b.view::<Ix2>()?, 0.0, &mut c.view_mut::<Ix2>()?);
    /// assert_eq!(c.view::<Ix2>()?, array![[2.0, 1.0], [4.0, 3.0]]);
    /// assert_eq!(c.view::<IxDyn>()?.sum(), 10.0);
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] with the shape and the rank asked for; as [`as_slice`](Tensor::as_slice).
    pub fn view<D: Dimension>(&self) -> Result<ArrayView<'_, T, D>> {
        let dimension = self.dimension::<D>()?;
        ArrayView::from_shape(dimension, self.as_slice()?).map_err(view_failed)
    }

    /// As [`view`](Tensor::view), to write.
    ///
    /// # Errors
    /// As there.
    pub fn view_mut<D: Dimension>(&mut self) -> Result<ArrayViewMut<'_, T, D>> {
        let dimension = self.dimension::<D>()?;
        ArrayViewMut::from_shape(dimension, self.as_slice_mut()?).map_err(view_failed)
    }

    fn dimension<D: Dimension>(&self) -> Result<D> {
        D::from_dimension(&IxDyn(self.shape())).ok_or_else(|| {
            let rank = D::NDIM.map_or_else(|| "any".to_owned(), |rank| rank.to_string());
            let message =
                format!("a tensor of shape {:?} (rank {}) viewed with rank {rank}", self.shape(), self.shape().len());
            Error::new(ErrorKind::Shape, message)
        })
    }
}

fn cast_failed<T>(error: bytemuck::PodCastError) -> Error {
    Error::new(ErrorKind::Type, format!("this memory cannot be seen as {}", type_name::<T>()))
        .with_source(error.to_string())
}

fn view_failed(error: ndarray::ShapeError) -> Error {
    Error::new(ErrorKind::Shape, "this tensor cannot be viewed").with_source(error)
}
