//! The operations on host memory: each calls its twin.

use bytemuck::AnyBitPattern;

use super::kernels::{Kernels, Op, Operand, ParamsAt};
use super::{
    accuracy::accuracy, adam::adam, adam_moments::adam_moments, bias::bias, matmul::matmul, momentum::momentum,
    relu::relu, relu_backward::relu_backward, sgd::sgd, softmax_cross_entropy::softmax_cross_entropy,
    sum_rows::sum_rows,
};
use crate::backend::{Backend, HostMemory};
use crate::error::{Error, ErrorKind, Result};

/// An operand's bytes.
enum Bytes<'a> {
    Read(&'a [u8]),
    Write(&'a mut [u8]),
}

impl Bytes<'_> {
    fn read<T: AnyBitPattern>(&self) -> Result<&[T]> {
        let bytes: &[u8] = match self {
            Self::Read(bytes) => bytes,
            Self::Write(bytes) => bytes,
        };
        if bytes.is_empty() {
            return Ok(&[]);
        }
        bytemuck::try_cast_slice(bytes).map_err(not_these)
    }

    fn write(&mut self) -> Result<&mut [f32]> {
        match self {
            Self::Read(_) => Err(Error::new(ErrorKind::Invalid, "an operand to be written is only lent for reading")),
            Self::Write([]) => Ok(&mut []),
            Self::Write(bytes) => bytemuck::try_cast_slice_mut(bytes).map_err(not_these),
        }
    }
}

fn not_these(error: bytemuck::PodCastError) -> Error {
    Error::new(ErrorKind::Type, format!("an operand of another element type: {error}"))
}

/// Calls the twin on the operands, in the order of the shader's bindings.
fn call(op: &Op, operands: &mut [Bytes<'_>]) -> Result<()> {
    match (op, operands) {
        (Op::Accuracy(p), [logits, labels, hit]) => accuracy(p, logits.read()?, labels.read()?, hit.write()?),
        (Op::Adam(p), [m, v, w]) => adam(p, m.read()?, v.read()?, w.write()?),
        (Op::AdamMoments(p), [g, m, v]) => adam_moments(p, g.read()?, m.write()?, v.write()?),
        (Op::Bias(p), [b, x]) => bias(p, b.read()?, x.write()?),
        (Op::Matmul(p), [a, b, c]) => matmul(p, a.read()?, b.read()?, c.write()?),
        (Op::Momentum(p), [g, m, w]) => momentum(p, g.read()?, m.write()?, w.write()?),
        (Op::Relu(p), [x]) => relu(p, x.write()?),
        (Op::ReluBackward(p), [upstream, x]) => relu_backward(p, upstream.read()?, x.write()?),
        (Op::Sgd(p), [g, w]) => sgd(p, g.read()?, w.write()?),
        (Op::SoftmaxCrossEntropy(p), [labels, logits, loss]) => {
            softmax_cross_entropy(p, labels.read()?, logits.write()?, loss.write()?)
        }
        (Op::SumRows(p), [x, out]) => sum_rows(p, x.read()?, out.write()?),
        (op, operands) => {
            let message = format!("{} does not take {} operands", op.name(), operands.len());
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

/// Carries out `op` on blocks whose slabs are what `slab` finds in them.
pub(super) fn run_on<M: HostMemory, B: Backend>(
    memory: &M,
    op: &Op,
    operands: &mut [Operand<'_, B>],
    slab: impl Fn(&B::Slab) -> Result<&M::Slab>,
) -> Result<()> {
    let bytes = operands.iter_mut().map(|operand| match operand {
        Operand::Read(block) => match block.place() {
            Some((_, found, span)) => memory.bytes(slab(found)?, span).map(Bytes::Read),
            None => Ok(Bytes::Read(&[])),
        },
        Operand::Write(block) => match block.place_mut() {
            Some((_, found, span)) => memory.bytes_mut(slab(found)?, span).map(Bytes::Write),
            None => Ok(Bytes::Write(&mut [])),
        },
    });
    call(op, &mut bytes.collect::<Result<Vec<_>>>()?)
}

/// Inside rayon's pool, so that its threads are woken once and not for every operation.
pub(super) fn session<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

impl<B: HostMemory> Kernels for B {
    type Engine = ();

    fn run(
        &self,
        _: &mut (),
        op: &Op,
        _: Option<ParamsAt<'_, Self>>,
        operands: &mut [Operand<'_, Self>],
    ) -> Result<()> {
        run_on(self, op, operands, |slab| Ok(slab))
    }

    fn session<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        session(work)
    }
}
