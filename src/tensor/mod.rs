//! Tensors: a block, a shape and an element type.
//!
//! What every backend can do is here; views of host memory are in [`host`], bindings of GPU memory in `gpu`.

mod block_mut;
#[cfg(feature = "gpu")]
mod gpu;
mod host;
mod resize;
mod shape;

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Pod;
use ndarray::{ArrayBase, ArrayD, Data, Dimension, IxDyn};

pub use self::block_mut::BlockMut;
#[cfg(feature = "gpu")]
pub use self::gpu::Loan;
pub use self::shape::{IntoShape, RANK_MAX, Shape};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result, Returned};
use crate::pool::{Block, Lend, Movable, Pool, Request, RequestLabel};

/// A dense array of `T` in a pool's memory, in row-major order. Its bytes go home when it is dropped.
///
/// `T` is any plain type without padding ([`Pod`]): floats, integers, and with the feature `half` 16-bit floats.
pub struct Tensor<T, B: Backend> {
    block: Block<B>,
    shape: Shape,
    elements: PhantomData<T>,
}

impl<B: Backend> Pool<B> {
    /// A tensor of zeros (all bytes zero).
    ///
    /// # Errors
    /// As [`Pool::alloc`]; [`ErrorKind::Shape`] for a shape of more than eight dimensions or 2^63 bytes;
    /// [`ErrorKind::Type`] for elements of zero bytes, such as `()`.
    pub fn zeros<T: Pod>(&self, shape: impl IntoShape) -> Result<Tensor<T, B>> {
        self.labelled("").zeros(shape)
    }

    /// A tensor whose elements are whatever the last owner of the memory left there: initialised, but any value. In a
    /// fresh slab that is zeros.
    ///
    /// # Errors
    /// As [`zeros`](Pool::zeros).
    pub fn uninit<T: Pod>(&self, shape: impl IntoShape) -> Result<Tensor<T, B>> {
        self.labelled("").uninit(shape)
    }

    /// A tensor with the elements of an ndarray array or view, of any layout.
    ///
    /// # Errors
    /// As [`zeros`](Pool::zeros), and the backend's for the upload.
    pub fn from_array<S, D>(&self, array: &ArrayBase<S, D>) -> Result<Tensor<S::Elem, B>>
    where
        S: Data<Elem: Pod>,
        D: Dimension,
    {
        self.labelled("").from_array(array)
    }

    /// The same three with a label, under which statistics and errors count the tensor: a text, or a [`Label`](crate::Label), which
    /// costs least.
    ///
    /// ```
    /// use tensorpool::{Config, Pool};
    ///
    /// let pool = Pool::host(Config::new("1 MiB"))?;
    /// let weights = pool.labelled("weights").zeros::<f32>([784, 128])?;
    /// assert_eq!(pool.holders()[0].label, "weights");
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    pub fn labelled<'a>(&'a self, label: impl Into<RequestLabel<'a>>) -> Labelled<'a, B> {
        Labelled { pool: self, label: label.into() }
    }
}

/// A pool and a label for the tensors made through it; see [`Pool::labelled`].
#[derive(Debug)]
pub struct Labelled<'a, B: Backend> {
    pool: &'a Pool<B>,
    label: RequestLabel<'a>,
}

impl<B: Backend> Labelled<'_, B> {
    /// As [`Pool::zeros`].
    ///
    /// # Errors
    /// As there.
    pub fn zeros<T: Pod>(&self, shape: impl IntoShape) -> Result<Tensor<T, B>> {
        self.alloc(shape.into_shape()?, true)
    }

    /// As [`Pool::uninit`].
    ///
    /// # Errors
    /// As there.
    pub fn uninit<T: Pod>(&self, shape: impl IntoShape) -> Result<Tensor<T, B>> {
        self.alloc(shape.into_shape()?, false)
    }

    /// As [`Pool::from_array`].
    ///
    /// # Errors
    /// As there.
    pub fn from_array<S, D>(&self, array: &ArrayBase<S, D>) -> Result<Tensor<S::Elem, B>>
    where
        S: Data<Elem: Pod>,
        D: Dimension,
    {
        let mut tensor = self.alloc(Shape::new(array.shape())?, false)?;
        let array = array.as_standard_layout();
        tensor.upload(array.as_slice().unwrap_or_default())?;
        Ok(tensor)
    }

    fn alloc<T: Pod>(&self, shape: Shape, zeroed: bool) -> Result<Tensor<T, B>> {
        check_has_bytes::<T>()?;
        let request = Request::bytes(Tensor::<T, B>::bytes_of(&shape)?).label(self.label.clone());
        let block = self.pool.alloc(if zeroed { request.zeroed() } else { request })?;
        Ok(Tensor { block, shape, elements: PhantomData })
    }
}

impl<T: Pod, B: Backend> Tensor<T, B> {
    /// The sizes of its dimensions.
    pub fn shape(&self) -> &[usize] {
        self.shape.sizes()
    }

    /// How many elements it has.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// The bytes of its elements.
    pub fn bytes(&self) -> u64 {
        self.block.bytes()
    }

    /// The block that it lives in.
    pub fn block(&self) -> &Block<B> {
        &self.block
    }

    /// Returns the same block, to write raw bytes.
    pub fn block_mut(&mut self) -> BlockMut<'_, B> {
        BlockMut::from(&mut self.block)
    }

    /// Writes all elements, in row-major order.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] with both numbers if there are more or fewer; the backend's.
    pub fn upload(&mut self, elements: &[T]) -> Result<()> {
        self.check_elements(elements.len())?;
        self.block.upload(0, bytemuck::cast_slice(elements))
    }

    /// Reads all elements, in row-major order.
    ///
    /// # Errors
    /// As [`upload`](Tensor::upload).
    pub fn download(&self, elements: &mut [T]) -> Result<()> {
        self.check_elements(elements.len())?;
        self.block.download(0, bytemuck::cast_slice_mut(elements))
    }

    /// Its elements in memory of their own.
    ///
    /// # Errors
    /// The backend's.
    pub fn to_array(&self) -> Result<ArrayD<T>> {
        let mut elements = vec![T::zeroed(); self.elements()];
        self.download(&mut elements)?;
        ArrayD::from_shape_vec(IxDyn(self.shape()), elements).map_err(|error| {
            Error::new(ErrorKind::Shape, format!("an array of shape {}", self.shape)).with_source(error)
        })
    }

    /// Sets every element to `value`.
    ///
    /// # Errors
    /// The backend's.
    pub fn fill(&mut self, value: T) -> Result<()> {
        self.block.fill(self.block.bytes(), bytemuck::bytes_of(&value))
    }

    /// Copies all elements of a tensor of the same pool and shape.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] with both shapes; [`ErrorKind::Foreign`] for another pool's tensor; the backend's.
    pub fn copy_from(&mut self, from: &Self) -> Result<()> {
        if self.shape != from.shape {
            let message = format!("a copy from shape {} to shape {}", from.shape, self.shape);
            return Err(Error::new(ErrorKind::Shape, message));
        }
        self.block.copy_from(0, &from.block, 0, from.bytes())
    }

    /// Copies a range of another tensor's elements, in row-major order, to this one's elements from `at` on.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if either range reaches past its tensor's end, or on a GPU is not of whole words of 4 bytes;
    /// [`ErrorKind::Foreign`]; the backend's.
    pub fn copy_range_from(&mut self, at: usize, from: &Self, range: Range<usize>) -> Result<()> {
        if range.start > range.end || range.end > from.elements() || at > self.elements() {
            let message =
                format!("a copy of elements {range:?} of shape {} to element {at} of shape {}", from.shape, self.shape);
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let size = size_of::<T>();
        self.block.copy_from((at * size) as u64, &from.block, (range.start * size) as u64, (range.len() * size) as u64)
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] with both shapes if it has another number of elements; the tensor is as it was.
    pub fn reshape(&mut self, shape: impl IntoShape) -> Result<()> {
        let shape = shape.into_shape()?;
        if shape.elements() != self.shape.elements() {
            let message = format!("shape {} cannot become shape {shape}", self.shape);
            return Err(Error::new(ErrorKind::Shape, message));
        }
        self.shape = shape;
        Ok(())
    }

    /// Takes the same bytes as elements of another type. Where the sizes differ, the last dimension changes: 12 bytes in
    /// shape `[2, 6]` of `u16` are `[2, 3]` of `f32`, and `[2, 12]` of `u8`.
    ///
    /// ```
    /// use tensorpool::{Config, Pool};
    ///
    /// let pool = Pool::host(Config::new("1 MiB"))?;
    /// let bytes = pool.zeros::<u8>([2, 12])?;
    /// let floats = bytes.reinterpret::<f32>()?;
    /// assert_eq!(floats.shape(), [2, 3]);
    /// # Ok::<(), tensorpool::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Type`] for a type without bytes; [`ErrorKind::Shape`], with the shape and both sizes, if the bytes of the
    /// last dimension are not whole elements of `U`, or there is no last dimension and the sizes differ. The tensor
    /// comes back in the error, unchanged ([`Returned::into_parts`]).
    pub fn reinterpret<U: Pod>(self) -> Result<Tensor<U, B>, Returned<Self>> {
        match self.shape_as::<U>() {
            Ok(shape) => Ok(Tensor { block: self.block, shape, elements: PhantomData }),
            Err(error) => Err(Returned::new(self, error)),
        }
    }

    /// Returns the shape of the same bytes as elements of `U`.
    fn shape_as<U>(&self) -> Result<Shape> {
        check_has_bytes::<U>()?;
        let (from_bytes, to_bytes) = (size_of::<T>(), size_of::<U>());
        if from_bytes == to_bytes {
            return Ok(self.shape);
        }
        let mut sizes = self.shape().to_vec();
        let whole = sizes.last().and_then(|last| last.checked_mul(from_bytes)).filter(|bytes| bytes % to_bytes == 0);
        let (Some(last), Some(bytes)) = (sizes.last_mut(), whole) else {
            let (from, to) = (type_name::<T>(), type_name::<U>());
            let message = format!(
                "shape {} of {from} ({from_bytes} bytes each) does not end in whole elements of {to} ({to_bytes} bytes each)",
                self.shape
            );
            return Err(Error::new(ErrorKind::Shape, message));
        };
        *last = bytes / to_bytes;
        Shape::new(&sizes)
    }

    /// Returns the bytes of a tensor of this shape.
    fn bytes_of(shape: &Shape) -> Result<u64> {
        let bytes = shape.elements().checked_mul(size_of::<T>()).filter(|bytes| *bytes <= isize::MAX as usize);
        bytes.map(|bytes| bytes as u64).ok_or_else(|| {
            let message = format!("shape {shape} of {} has more bytes than memory", type_name::<T>());
            Error::new(ErrorKind::Shape, message)
        })
    }

    fn check_elements(&self, elements: usize) -> Result<()> {
        if elements == self.elements() {
            return Ok(());
        }
        let message = format!("{elements} elements for a tensor of shape {} with {}", self.shape, self.elements());
        Err(Error::new(ErrorKind::Shape, message))
    }
}

/// Refuses a type of zero bytes: no slice of bytes holds elements of it.
fn check_has_bytes<T>() -> Result<()> {
    if size_of::<T>() > 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Type,
        format!("elements of type {} have no bytes: a tensor needs some", type_name::<T>()),
    ))
}

impl<T, B: Backend> Movable<B> for Tensor<T, B> {
    fn lend(&mut self, _: Lend) -> &mut Block<B> {
        &mut self.block
    }
}

impl<T, B: Backend> fmt::Debug for Tensor<T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("type", &type_name::<T>())
            .field("shape", &self.shape)
            .field("block", &self.block)
            .finish()
    }
}
