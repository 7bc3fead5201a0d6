//! What the host twins refuse: every mistake a caller can make with sizes is an error, and nothing is written then.

use std::mem::{offset_of, size_of};

use bytemuck::{Pod, bytes_of_mut, cast_slice, cast_slice_mut};
use tensorpool::nn::matmul::{self, Layout};
use tensorpool::nn::{
    Kernels, Op, Operand, accuracy, adam, adam_moments, bias, momentum, relu, relu_backward, sgd,
    softmax_cross_entropy, sum_rows,
};
use tensorpool::{AnyBackend, Config, ErrorKind, Host, Pool, Result};

/// Calls a twin with `params` on operands of `sizes` elements, which fit exactly; then with each operand one element
/// short, with each of the fields at `offsets` moved, and with every number at its largest.
fn check<P: Pod>(
    name: &str,
    params: P,
    sizes: &[usize],
    offsets: &[usize],
    twin: impl Fn(&P, &mut [Vec<f32>]) -> Result<()>,
) {
    let fitting = || sizes.iter().map(|len| vec![0.5; *len]).collect::<Vec<_>>();
    let refused = |what: String, params: &P, mut data: Vec<Vec<f32>>| {
        let before = data.clone();
        match twin(params, &mut data) {
            Ok(()) => panic!("{name} took {what}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Shape, "{name}, {what}: {error}"),
        }
        assert_eq!(data, before, "{name} wrote something, {what}");
    };
    twin(&params, &mut fitting()).unwrap_or_else(|error| panic!("{name}: {error}"));
    for short in 0..sizes.len() {
        let mut data = fitting();
        data[short].pop();
        refused(format!("a short operand {short}"), &params, data);
    }
    assert_eq!(offsets.len(), sizes.len(), "{name}: each operand has an offset");
    for at in offsets {
        for offset in [1, 1000, u32::MAX] {
            let mut moved = params;
            cast_slice_mut::<_, u32>(bytes_of_mut(&mut moved))[at / size_of::<u32>()] = offset;
            refused(format!("{offset} as the field at {at}"), &moved, fitting());
        }
    }
    let mut huge = params;
    bytes_of_mut(&mut huge).fill(0xff);
    refused("numbers that are all too large".into(), &huge, fitting());
}

/// The operands by name.
macro_rules! operands {
    ($data:expr, $($name:ident),+ => $call:expr) => {
        match $data {
            [$($name),+] => $call,
            _ => unreachable!("as many as there are sizes"),
        }
    };
}

#[test]
fn elementwise_twins_refuse_what_does_not_fit() {
    {
        use relu::{Params, relu};
        check(
            "relu",
            Params::new(7).unwrap(),
            &[7],
            &[offset_of!(Params, x_offset)],
            |p, data| operands!(data, x => relu(p, x)),
        );
    }
    {
        use sgd::{Params, sgd};
        let offsets = [offset_of!(Params, g_offset), offset_of!(Params, w_offset)];
        check("sgd", Params::new(7, 0.5).unwrap(), &[7, 7], &offsets, |p, data| operands!(data, g, w => sgd(p, g, w)));
    }
    {
        use momentum::{Params, momentum};
        let offsets = [offset_of!(Params, g_offset), offset_of!(Params, m_offset), offset_of!(Params, w_offset)];
        check(
            "momentum",
            Params::new(7, 0.9, 0.5).unwrap(),
            &[7; 3],
            &offsets,
            |p, data| operands!(data, g, m, w => momentum(p, g, m, w)),
        );
    }
    {
        use adam_moments::{Params, adam_moments};
        let offsets = [offset_of!(Params, g_offset), offset_of!(Params, m_offset), offset_of!(Params, v_offset)];
        check(
            "adam_moments",
            Params::new(7, 0, 0.9, 0.999).unwrap(),
            &[7; 3],
            &offsets,
            |p, data| operands!(data, g, m, v => adam_moments(p, g, m, v)),
        );
    }
    {
        use adam::{Params, adam};
        let offsets = [offset_of!(Params, m_offset), offset_of!(Params, v_offset), offset_of!(Params, w_offset)];
        check(
            "adam",
            Params::new(7, 1, 0.1, 0.9, 0.999, 1e-8).unwrap(),
            &[7; 3],
            &offsets,
            |p, data| operands!(data, m, v, w => adam(p, m, v, w)),
        );
    }
}

#[test]
fn twins_of_rows_refuse_what_does_not_fit() {
    {
        use bias::{Params, bias};
        let offsets = [offset_of!(Params, b_offset), offset_of!(Params, x_offset)];
        check("bias", Params::new(3, 5).unwrap(), &[5, 15], &offsets, |p, data| operands!(data, b, x => bias(p, b, x)));
    }
    {
        use relu_backward::{Params, relu_backward};
        let offsets = [offset_of!(Params, upstream_offset), offset_of!(Params, x_offset)];
        check(
            "relu_backward",
            Params::new(3, 5, 0, 5).unwrap(),
            &[15; 2],
            &offsets,
            |p, data| operands!(data, upstream, x => relu_backward(p, upstream, x)),
        );
    }
    {
        use sum_rows::{Params, sum_rows};
        let offsets = [offset_of!(Params, x_offset), offset_of!(Params, out_offset)];
        check(
            "sum_rows",
            Params::new(3, 5).unwrap(),
            &[15, 5],
            &offsets,
            |p, data| operands!(data, x, out => sum_rows(p, x, out)),
        );
    }
    {
        use softmax_cross_entropy::{Params, softmax_cross_entropy};
        let offsets =
            [offset_of!(Params, labels_offset), offset_of!(Params, logits_offset), offset_of!(Params, loss_offset)];
        check(
            "softmax_cross_entropy",
            Params::new(3, 5).unwrap(),
            &[3, 15, 3],
            &offsets,
            |p, data| operands!(data, labels, logits, loss => softmax_cross_entropy(p, cast_slice(labels), logits, loss)),
        );
    }
    {
        use accuracy::{Params, accuracy};
        let offsets =
            [offset_of!(Params, logits_offset), offset_of!(Params, labels_offset), offset_of!(Params, hit_offset)];
        check(
            "accuracy",
            Params::new(3, 5).unwrap(),
            &[15, 3, 3],
            &offsets,
            |p, data| operands!(data, logits, labels, hit => accuracy(p, logits, cast_slice(labels), hit)),
        );
    }
}

#[test]
fn rows_that_overlap_are_refused_and_the_stride_of_one_row_means_nothing() {
    let mut x = [1.0; 6];
    let dense = bias::Params::new(2, 3).unwrap();
    for x_row_stride in [0, 1, 2] {
        let error = bias::bias(&bias::Params { x_row_stride, ..dense }, &[1.0; 3], &mut x).unwrap_err();
        assert_eq!((error.kind(), x), (ErrorKind::Shape, [1.0; 6]), "{error}");
        bias::bias(&bias::Params { rows: 1, x_row_stride, ..dense }, &[1.0; 3], &mut x).unwrap();
        assert_eq!(x, [2.0, 2.0, 2.0, 1.0, 1.0, 1.0]);
        x = [1.0; 6];
    }
}

#[test]
fn products_refuse_what_does_not_fit() {
    use matmul::{Params, matmul};
    let (a, b) = (Layout::row_major(4), Layout::row_major(3));
    let params = Params::new(2, 3, 4, a, b, b).unwrap();
    let offsets = [offset_of!(Params, a_offset), offset_of!(Params, b_offset), offset_of!(Params, c_offset)];
    for params in [params, params.scaled(-0.5, 0.9)] {
        check("matmul", params, &[8, 12, 6], &offsets, |p, data| operands!(data, a, b, c => matmul(p, a, b, c)));
    }
    let mut c = [5.0; 6];
    for (row, col) in [(0, 1), (1, 1), (1, 0), (2, 1)] {
        let shared = Params { c_row_stride: row, c_col_stride: col, ..params };
        let error = matmul(&shared, &[1.0; 8], &[1.0; 12], &mut c).unwrap_err();
        assert_eq!((error.kind(), c), (ErrorKind::Shape, [5.0; 6]), "{error}");
        assert!(error.to_string().ends_with("or overlaps itself"), "{error}");
    }
}

#[test]
fn numbers_over_32_bits_are_refused() {
    const HUGE: usize = usize::MAX;
    let layout = Layout::row_major(2);
    let far = layout.block(HUGE, HUGE);
    let refused = [
        relu::Params::new(HUGE).err(),
        sgd::Params::new(HUGE, 0.1).err(),
        momentum::Params::new(HUGE, 0.9, 0.1).err(),
        adam_moments::Params::new(HUGE, 0, 0.9, 0.999).err(),
        adam_moments::Params::new(1, HUGE, 0.9, 0.999).err(),
        adam::Params::new(HUGE, 1, 0.1, 0.9, 0.999, 1e-8).err(),
        bias::Params::new(HUGE, HUGE).err(),
        bias::Params::new(1 << 16, 1 << 16).err(),
        relu_backward::Params::new(HUGE, 2, 0, 3).err(),
        relu_backward::Params::new(2, 2, HUGE, 3).err(),
        sum_rows::Params::new(HUGE, 3).err(),
        softmax_cross_entropy::Params::new(3, HUGE).err(),
        accuracy::Params::new(HUGE, 0).err(),
        matmul::Params::new(HUGE, 2, 2, layout, layout, layout).err(),
        matmul::Params::new(2, 2, 2, layout, far, layout).err(),
    ];
    for (index, error) in refused.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("{index} was taken"));
        assert_eq!(error.kind(), ErrorKind::Shape);
        assert!(error.to_string().ends_with("elements do not fit in 32 bits"), "{index}: {error}");
    }
    assert_eq!(adam::Params::new(1, 0, 0.1, 0.9, 0.999, 1e-8).unwrap_err().kind(), ErrorKind::Invalid);
    // Nor does asking what to dispatch panic.
    let mut params = matmul::Params::new(2, 2, 2, layout, layout, layout).unwrap();
    (params.m, params.n) = (u32::MAX, u32::MAX);
    assert!(params.workgroups().iter().all(|groups| *groups > 0));
    let params = bias::Params { rows: u32::MAX, cols: u32::MAX, ..bias::Params::new(1, 1).unwrap() };
    assert!(params.workgroups().iter().all(|groups| *groups > 0));
}

fn backend_refuses_wrong_operands<B: Kernels>(pool: &Pool<B>) {
    let block = |len: usize| {
        let mut tensor = pool.zeros::<f32>([len]).unwrap();
        tensor.fill(0.5).unwrap();
        tensor
    };
    let (short, mut long, mut other) = (block(3), block(7), block(7));
    let bytes = pool.zeros::<u8>([27]).unwrap();
    let sgd = Op::Sgd(sgd::Params::new(7, 0.5).unwrap());
    let run = |op: &Op, operands: &mut [Operand<'_, B>]| {
        pool.backend().run(&mut B::Engine::default(), op, None, operands).map_err(|error| error.kind())
    };
    let shape = run(&sgd, &mut [Operand::Read(short.block()), Operand::Write(long.block_mut())]);
    assert_eq!(shape, Err(ErrorKind::Shape), "too short");
    assert_eq!(run(&sgd, &mut []), Err(ErrorKind::Invalid), "none");
    assert_eq!(run(&sgd, &mut [Operand::Write(long.block_mut())]), Err(ErrorKind::Invalid), "too few");
    let three =
        &mut [Operand::Read(short.block()), Operand::Write(long.block_mut()), Operand::Write(other.block_mut())];
    assert_eq!(run(&sgd, three), Err(ErrorKind::Invalid), "too many");
    let lent = run(&sgd, &mut [Operand::Read(other.block()), Operand::Read(long.block())]);
    assert_eq!(lent, Err(ErrorKind::Invalid), "only lent for reading");
    let ragged = run(&sgd, &mut [Operand::Read(bytes.block()), Operand::Write(long.block_mut())]);
    assert_eq!(ragged, Err(ErrorKind::Type), "no whole elements");
    let mut found = [0.0; 7];
    long.download(&mut found).unwrap();
    assert_eq!(found, [0.5; 7], "nothing was written");
    assert_eq!(run(&sgd, &mut [Operand::Read(other.block()), Operand::Write(long.block_mut())]), Ok(()));
    long.download(&mut found).unwrap();
    assert_eq!(found, [0.25; 7]);
    let mut nothing = block(0);
    let relu = Op::Relu(relu::Params::new(0).unwrap());
    assert_eq!(run(&relu, &mut [Operand::Write(nothing.block_mut())]), Ok(()), "nothing to do");
}

#[test]
fn the_host_refuses_wrong_operands() {
    backend_refuses_wrong_operands(&Pool::host(Config::new(1 << 20)).unwrap());
    backend_refuses_wrong_operands(&Pool::with_backend(AnyBackend::from(Host), &Config::new(1 << 20)).unwrap());
}
