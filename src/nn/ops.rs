//! The operations as a step calls them: on tensors, with their shapes checked.

use std::collections::HashMap;
use std::ops::Range;

use super::kernels::{Kernels, Op, Operand, ParamsAt};
use super::matmul::Layout;
use super::{
    accuracy, adam, adam_moments, bias, matmul, momentum, relu, relu_backward, sgd, softmax_cross_entropy, sum_rows,
};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Pool;
use crate::tensor::Tensor;

/// Sets of parameters that stay on the device. Most steps need fewer, and repeat them; when all places are taken they are
/// used anew, which the stream's order makes safe.
const PARAMS_PLACES: usize = 64;

/// The most bytes of one set.
const PARAMS_BYTES: u64 = 64;

/// A matrix, or a block of one, as an operand of a product.
#[derive(Debug)]
pub(super) struct Matrix<'a, B: Kernels> {
    tensor: &'a Tensor<f32, B>,
    at: Placed,
}

/// The same, to be written.
#[derive(Debug)]
pub(super) struct MatrixMut<'a, B: Kernels> {
    tensor: &'a mut Tensor<f32, B>,
    at: Placed,
}

/// Where a matrix lies in its tensor, and its size.
#[derive(Clone, Copy, Debug)]
struct Placed {
    rows: usize,
    cols: usize,
    layout: Layout,
}

impl Placed {
    fn of<B: Kernels>(tensor: &Tensor<f32, B>) -> Result<Self> {
        match *tensor.shape() {
            [rows, cols] => Ok(Self { rows, cols, layout: Layout::row_major(cols) }),
            ref shape => Err(Error::new(ErrorKind::Shape, format!("a tensor of shape {shape:?} is no matrix"))),
        }
    }
}

impl<'a, B: Kernels> Matrix<'a, B> {
    pub(super) fn of(tensor: &'a Tensor<f32, B>) -> Result<Self> {
        Ok(Self { tensor, at: Placed::of(tensor)? })
    }

    pub(super) fn transposed(mut self) -> Self {
        let Placed { rows, cols, layout } = self.at;
        self.at = Placed { rows: cols, cols: rows, layout: layout.transposed() };
        self
    }

    pub(super) fn rows(mut self, rows: Range<usize>) -> Self {
        let layout = self.at.layout.block(rows.start, 0);
        self.at = Placed { rows: rows.len(), layout, ..self.at };
        self
    }

    pub(super) fn cols(mut self, cols: Range<usize>) -> Self {
        let layout = self.at.layout.block(0, cols.start);
        self.at = Placed { cols: cols.len(), layout, ..self.at };
        self
    }
}

impl<'a, B: Kernels> MatrixMut<'a, B> {
    pub(super) fn of(tensor: &'a mut Tensor<f32, B>) -> Result<Self> {
        let at = Placed::of(tensor)?;
        Ok(Self { tensor, at })
    }

    pub(super) fn rows(mut self, rows: Range<usize>) -> Self {
        let layout = self.at.layout.block(rows.start, 0);
        self.at = Placed { rows: rows.len(), layout, ..self.at };
        self
    }
}

/// A pool, and what its backend needs to run operations on its tensors.
pub(super) struct Ops<B: Kernels> {
    pub(super) pool: Pool<B>,
    engine: B::Engine,
    params: Option<Params<B>>,
}

/// The parameters in memory.
struct Params<B: Kernels> {
    tensor: Tensor<u8, B>,
    place_bytes: u64,
    /// Which place has a set.
    places: HashMap<Vec<u8>, usize>,
    /// What was put last at each place.
    sets: Vec<Vec<u8>>,
    /// Operations of this step so far.
    asked: usize,
}

impl<B: Kernels> Ops<B> {
    /// `params_in_memory` is the backend's own word, except in a model of another backend.
    pub(super) fn new(pool: &Pool<B>, params_in_memory: bool) -> Result<Self> {
        let place_bytes = pool.limits().alignment_bytes.max(PARAMS_BYTES);
        let params = if params_in_memory {
            let tensor = pool.labelled("kernel parameters").uninit([PARAMS_PLACES * place_bytes as usize])?;
            Some(Params { tensor, place_bytes, places: HashMap::new(), sets: Vec::new(), asked: 0 })
        } else {
            None
        };
        Ok(Self { pool: pool.clone(), engine: B::Engine::default(), params })
    }

    /// After a failure nobody knows what has reached the device: parameters are put there anew.
    pub(super) fn forget_params(&mut self) {
        if let Some(params) = &mut self.params {
            params.places.clear();
            params.sets.clear();
        }
    }

    /// Begins a step, whose operations get the places that they had in the last one.
    pub(super) fn begin_step(&mut self) {
        if let Some(params) = &mut self.params {
            params.asked = 0;
        }
    }

    fn run(&mut self, op: &Op, operands: &mut [Operand<'_, B>]) -> Result<()> {
        let params = match &mut self.params {
            Some(params) => Some(ParamsAt { at: params.place(op.params())?, block: params.tensor.block() }),
            None => None,
        };
        self.pool.backend().run(&mut self.engine, op, params, operands)
    }

    /// C = alpha A B + beta C.
    pub(super) fn matmul(
        &mut self,
        alpha: f32,
        a: Matrix<'_, B>,
        b: Matrix<'_, B>,
        beta: f32,
        c: MatrixMut<'_, B>,
    ) -> Result<()> {
        let (m, n, k) = (a.at.rows, b.at.cols, a.at.cols);
        if (k, m, n) != (b.at.rows, c.at.rows, c.at.cols) {
            let message =
                format!("a product of {m} x {k} and {} x {n} does not give {} x {}", b.at.rows, c.at.rows, c.at.cols);
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let params = matmul::Params::new(m, n, k, a.at.layout, b.at.layout, c.at.layout)?.scaled(alpha, beta);
        let operands = &mut [
            Operand::Read(a.tensor.block()),
            Operand::Read(b.tensor.block()),
            Operand::Write(c.tensor.block_mut()),
        ];
        self.run(&Op::Matmul(params), operands)
    }

    /// Adds `b` to every row of `x`.
    pub(super) fn bias(&mut self, b: &Tensor<f32, B>, x: &mut Tensor<f32, B>) -> Result<()> {
        let Placed { rows, cols, .. } = Placed::of(x)?;
        same("bias", b.elements(), cols)?;
        let op = Op::Bias(bias::Params::new(rows, cols)?);
        self.run(&op, &mut [Operand::Read(b.block()), Operand::Write(x.block_mut())])
    }

    /// x = max(x, 0).
    pub(super) fn relu(&mut self, x: &mut Tensor<f32, B>) -> Result<()> {
        let op = Op::Relu(relu::Params::new(x.elements())?);
        self.run(&op, &mut [Operand::Write(x.block_mut())])
    }

    /// Columns `cols` of x become `upstream` where x is positive, else 0.
    pub(super) fn relu_backward(
        &mut self,
        upstream: &Tensor<f32, B>,
        x: &mut Tensor<f32, B>,
        cols: Range<usize>,
    ) -> Result<()> {
        let (from, to) = (Placed::of(upstream)?, Placed::of(x)?);
        same("relu_backward", from.rows, to.rows)?;
        same("relu_backward", from.cols, cols.len())?;
        let op = Op::ReluBackward(relu_backward::Params::new(to.rows, cols.len(), cols.start, to.cols)?);
        self.run(&op, &mut [Operand::Read(upstream.block()), Operand::Write(x.block_mut())])
    }

    /// Logits become `scale` times the gradient of the sum of losses; `loss` gets each row's.
    pub(super) fn softmax_cross_entropy(
        &mut self,
        scale: f32,
        labels: &Tensor<u32, B>,
        logits: &mut Tensor<f32, B>,
        loss: &mut Tensor<f32, B>,
    ) -> Result<()> {
        let Placed { rows, cols, .. } = Placed::of(logits)?;
        same("softmax_cross_entropy", labels.elements(), rows)?;
        same("softmax_cross_entropy", loss.elements(), rows)?;
        let params = softmax_cross_entropy::Params { scale, ..softmax_cross_entropy::Params::new(rows, cols)? };
        let op = Op::SoftmaxCrossEntropy(params);
        self.run(
            &op,
            &mut [Operand::Read(labels.block()), Operand::Write(logits.block_mut()), Operand::Write(loss.block_mut())],
        )
    }

    /// 1 in `hit` for each row whose largest logit is at its label.
    pub(super) fn accuracy(
        &mut self,
        logits: &Tensor<f32, B>,
        labels: &Tensor<u32, B>,
        hit: &mut Tensor<f32, B>,
    ) -> Result<()> {
        let Placed { rows, cols, .. } = Placed::of(logits)?;
        same("accuracy", labels.elements(), rows)?;
        same("accuracy", hit.elements(), rows)?;
        let op = Op::Accuracy(accuracy::Params::new(rows, cols)?);
        self.run(
            &op,
            &mut [Operand::Read(logits.block()), Operand::Read(labels.block()), Operand::Write(hit.block_mut())],
        )
    }

    /// out = alpha (sum over x's rows) + beta out. A vector counts as one column.
    pub(super) fn sum_rows(
        &mut self,
        alpha: f32,
        x: &Tensor<f32, B>,
        beta: f32,
        out: &mut Tensor<f32, B>,
    ) -> Result<()> {
        let (rows, cols) = match *x.shape() {
            [rows] => (rows, 1),
            _ => Placed::of(x).map(|at| (at.rows, at.cols))?,
        };
        same("sum_rows", out.elements(), cols)?;
        let mut params = sum_rows::Params::new(rows, cols)?;
        (params.alpha, params.beta) = (alpha, beta);
        self.run(&Op::SumRows(params), &mut [Operand::Read(x.block()), Operand::Write(out.block_mut())])
    }

    /// w -= lr g.
    pub(super) fn sgd(&mut self, lr: f32, g: &Tensor<f32, B>, w: &mut Tensor<f32, B>) -> Result<()> {
        same("sgd", g.elements(), w.elements())?;
        let op = Op::Sgd(sgd::Params::new(w.elements(), lr)?);
        self.run(&op, &mut [Operand::Read(g.block()), Operand::Write(w.block_mut())])
    }

    /// m = mu m + g; w -= lr m.
    pub(super) fn momentum(
        &mut self,
        (mu, lr): (f32, f32),
        g: &Tensor<f32, B>,
        m: &mut Tensor<f32, B>,
        w: &mut Tensor<f32, B>,
    ) -> Result<()> {
        same("momentum", g.elements(), w.elements())?;
        same("momentum", m.elements(), w.elements())?;
        let op = Op::Momentum(momentum::Params::new(w.elements(), mu, lr)?);
        self.run(&op, &mut [Operand::Read(g.block()), Operand::Write(m.block_mut()), Operand::Write(w.block_mut())])
    }

    /// The first `len` elements of g go into the moments from element `at` on.
    pub(super) fn adam_moments(
        &mut self,
        betas: (f64, f64),
        g: &Tensor<f32, B>,
        len: usize,
        at: usize,
        m: &mut Tensor<f32, B>,
        v: &mut Tensor<f32, B>,
    ) -> Result<()> {
        same("adam_moments", m.elements(), v.elements())?;
        if len > g.elements() || at + len > m.elements() {
            let message = format!("adam_moments: {len} of {} elements at {at} of {}", g.elements(), m.elements());
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let op = Op::AdamMoments(adam_moments::Params::new(len, at, betas.0, betas.1)?);
        self.run(&op, &mut [Operand::Read(g.block()), Operand::Write(m.block_mut()), Operand::Write(v.block_mut())])
    }

    /// w from its moments, after `step` updates of them.
    pub(super) fn adam(
        &mut self,
        step: u64,
        lr: f64,
        (beta1, beta2, eps): (f64, f64, f64),
        m: &Tensor<f32, B>,
        v: &Tensor<f32, B>,
        w: &mut Tensor<f32, B>,
    ) -> Result<()> {
        same("adam", m.elements(), w.elements())?;
        same("adam", v.elements(), w.elements())?;
        let op = Op::Adam(adam::Params::new(w.elements(), step, lr, beta1, beta2, eps)?);
        self.run(&op, &mut [Operand::Read(m.block()), Operand::Read(v.block()), Operand::Write(w.block_mut())])
    }
}

impl<B: Kernels> Params<B> {
    /// Returns where a set of parameters is on the device, after putting it there if it is not.
    ///
    /// When all places are taken, an operation takes the place of its number in the step. So a step that repeats soon finds and
    /// puts each set where it did before, and binds what it bound before.
    fn place(&mut self, set: &[u8]) -> Result<u64> {
        let asked = self.asked;
        self.asked = asked.wrapping_add(1);
        let index = match self.places.get(set) {
            Some(index) => *index,
            None => self.put(set, asked % PARAMS_PLACES)?,
        };
        Ok(index as u64 * self.place_bytes)
    }

    fn put(&mut self, set: &[u8], index: usize) -> Result<usize> {
        let index = if self.sets.len() < PARAMS_PLACES { self.sets.len() } else { index };
        if index == self.sets.len() {
            self.sets.push(Vec::new());
        }
        // Before the upload: what is there if that fails is not known.
        self.places.remove(&self.sets[index]);
        self.tensor.block_mut().upload(index as u64 * self.place_bytes, set)?;
        self.places.insert(set.to_vec(), index);
        self.sets[index] = set.to_vec();
        Ok(index)
    }
}

/// Refuses an operation whose sizes differ, with both.
fn same(what: &str, found: usize, wanted: usize) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, format!("{what}: a size of {found} where {wanted} is needed")))
}
