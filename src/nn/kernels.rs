//! Operations as plain data, and the backends that carry them out.
//!
//! A step says *what* to do with which blocks ([`Op`] and [`Operand`]s); only [`Kernels`] knows how: on the host by
//! calling the twin, on a GPU by recording the shader. The two name the same bindings in the same order.

use super::{
    accuracy, adam, adam_moments, bias, matmul, momentum, relu, relu_backward, sgd, softmax_cross_entropy, sum_rows,
};
use crate::backend::{Backend, Virtual};
use crate::error::Result;
use crate::pool::Block;
use crate::tensor::BlockMut;

/// One operation: its name and its parameters.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the module of its name")]
pub enum Op {
    Accuracy(accuracy::Params),
    Adam(adam::Params),
    AdamMoments(adam_moments::Params),
    Bias(bias::Params),
    Matmul(matmul::Params),
    Momentum(momentum::Params),
    Relu(relu::Params),
    ReluBackward(relu_backward::Params),
    Sgd(sgd::Params),
    SoftmaxCrossEntropy(softmax_cross_entropy::Params),
    SumRows(sum_rows::Params),
}

/// The same expression for the parameters of each kind of operation.
macro_rules! each {
    ($op:expr, $params:ident => $call:expr) => {
        match $op {
            Op::Accuracy($params) => $call,
            Op::Adam($params) => $call,
            Op::AdamMoments($params) => $call,
            Op::Bias($params) => $call,
            Op::Matmul($params) => $call,
            Op::Momentum($params) => $call,
            Op::Relu($params) => $call,
            Op::ReluBackward($params) => $call,
            Op::Sgd($params) => $call,
            Op::SoftmaxCrossEntropy($params) => $call,
            Op::SumRows($params) => $call,
        }
    };
}

impl Op {
    /// The name of the shader, and of its host twin.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accuracy(_) => "accuracy",
            Self::Adam(_) => "adam",
            Self::AdamMoments(_) => "adam_moments",
            Self::Bias(_) => "bias",
            Self::Matmul(_) => "matmul",
            Self::Momentum(_) => "momentum",
            Self::Relu(_) => "relu",
            Self::ReluBackward(_) => "relu_backward",
            Self::Sgd(_) => "sgd",
            Self::SoftmaxCrossEntropy(_) => "softmax_cross_entropy",
            Self::SumRows(_) => "sum_rows",
        }
    }

    /// Binding 0 of the shader: the parameters, a multiple of 16 bytes and at most 64.
    pub fn params(&self) -> &[u8] {
        each!(self, params => bytemuck::bytes_of(params))
    }

    /// Workgroups to dispatch.
    pub fn workgroups(&self) -> [u32; 3] {
        each!(self, params => params.workgroups())
    }
}

/// A block that an operation reads, or writes.
#[derive(Debug)]
pub enum Operand<'a, B: Backend> {
    /// Read.
    Read(&'a Block<B>),
    /// Read and written.
    Write(BlockMut<'a, B>),
}

impl<B: Backend> Operand<'_, B> {
    /// The block.
    pub fn block(&self) -> &Block<B> {
        match self {
            Self::Read(block) => block,
            Self::Write(block) => block,
        }
    }
}

/// Where an operation's parameters are on the device.
#[derive(Debug)]
pub struct ParamsAt<'a, B: Backend> {
    /// The block of parameters.
    pub block: &'a Block<B>,
    /// Bytes into it, a multiple of the alignment.
    pub at: u64,
}

/// A backend that carries out the operations.
pub trait Kernels: Backend + Sized {
    /// What it keeps between operations: compiled shaders, for example.
    type Engine: Default + Send;

    /// Whether anything is computed: not on [`Virtual`], which only counts.
    const COMPUTES: bool = true;

    /// Whether an operation's parameters must be in the pool's memory, as a shader's must.
    fn params_in_memory(&self) -> bool {
        false
    }

    /// Carries out `op` on the operands: bindings 1 and up of the shader, in order. `params` is there if
    /// [`params_in_memory`](Kernels::params_in_memory) says so.
    ///
    /// # Errors
    /// What the device reports; operands that are not what `op` takes, or too small for its parameters. On a GPU,
    /// [`ErrorKind::Foreign`](crate::ErrorKind::Foreign) for a block of another pool than this backend's.
    fn run(
        &self,
        engine: &mut Self::Engine,
        op: &Op,
        params: Option<ParamsAt<'_, Self>>,
        operands: &mut [Operand<'_, Self>],
    ) -> Result<()>;

    /// Runs many operations: a backend can make ready for them once.
    fn session<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }
}

impl Kernels for Virtual {
    type Engine = ();

    const COMPUTES: bool = false;

    fn run(&self, _: &mut (), _: &Op, _: Option<ParamsAt<'_, Self>>, _: &mut [Operand<'_, Self>]) -> Result<()> {
        Ok(())
    }
}
