//! The edges of what a caller may do with a GPU pool: two pools, panics, odd budgets, sizes and labels.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::support::gpu::{self, LONG, dispatch, double, doubling, until};
use ndarray::{Array1, array};
use tensorpool::nn::{Kernels, Op, Operand, ParamsAt, relu};
use tensorpool::{AnyBackend, Backend, Config, Error, ErrorKind, Gpu, Host, Pool, Request, Result, SlabPolicy};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Two pools on one device that a caller owns.
fn two_pools(test: &str, config: &Config) -> Option<[Pool<Gpu>; 2]> {
    let owner = gpu::device(test)?;
    let pool = || Pool::gpu(owner.device(), owner.queue(), config.clone()).unwrap();
    Some([pool(), pool()])
}

#[test]
fn two_pools_on_one_device_have_budgets_streams_and_losses_of_their_own() {
    let config = Config::new("64 KiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let test = "two_pools_on_one_device_have_budgets_streams_and_losses_of_their_own";
    let Some([a, b]) = two_pools(test, &config) else { return };
    let held = a.alloc(Request::bytes(60 * KIB)).unwrap();
    assert!(a.alloc(Request::bytes(1)).unwrap_err().is_full());
    let mut tensor = b.from_array(&array![1.0f32, 2.0]).unwrap();
    let pipeline = doubling(b.backend().device());
    // While one records, the other may do everything.
    a.encode(|_| {
        double(&b, &pipeline, &tensor)?;
        tensor.fill(3.0)?;
        double(&b, &pipeline, &tensor)?;
        assert_eq!(tensor.to_array()?, array![6.0f32, 6.0].into_dyn());
        assert_eq!(a.submit().unwrap_err().kind(), ErrorKind::Recording);
        b.encode(|_| Ok(()))
    })
    .unwrap();
    drop(held);
    a.device_lost().tell("says the test");
    assert!(a.zeros::<f32>([1]).unwrap_err().to_string().contains("says the test"));
    assert!(a.submit().unwrap_err().is_device_lost());
    double(&b, &pipeline, &tensor).unwrap();
    assert_eq!(tensor.to_array().unwrap(), array![12.0f32, 12.0].into_dyn());
    a.check();
    b.check();
}

fn run_relu<B: Kernels>(pool: &Pool<B>, params: &Pool<B>, operand: &Pool<B>) -> Result<Vec<f32>> {
    let op = Op::Relu(relu::Params::new(4)?);
    let mut at = params.zeros::<u8>([op.params().len()])?;
    at.upload(op.params())?;
    let mut x = operand.from_array(&array![-1.0f32, 2.0, -3.0, 4.0])?;
    let params = Some(ParamsAt { block: at.block(), at: 0 });
    pool.backend().run(&mut B::Engine::default(), &op, params, &mut [Operand::Write(x.block_mut())])?;
    Ok(x.to_array()?.into_raw_vec_and_offset().0)
}

#[test]
fn what_belongs_to_another_pool_is_refused() {
    let test = "what_belongs_to_another_pool_is_refused";
    let config = Config::new("256 KiB").staging(4 * KIB);
    let Some([a, b]) = two_pools(test, &config) else { return };
    let far = gpu::pool(test, config.clone()).unwrap();
    for other in [&b, &far] {
        let mut mine = a.zeros::<f32>([4]).unwrap();
        let theirs = other.from_array(&array![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(mine.copy_from(&theirs).unwrap_err().kind(), ErrorKind::Foreign);
        assert_eq!(mine.copy_range_from(0, &theirs, 0..0).unwrap_err().kind(), ErrorKind::Foreign);
        let empty = other.zeros::<f32>([0]).unwrap();
        assert_eq!(a.zeros([0]).unwrap().copy_from(&empty).unwrap_err().kind(), ErrorKind::Foreign);
        assert_eq!(run_relu(&a, other, &a).unwrap_err().kind(), ErrorKind::Foreign);
        assert_eq!(run_relu(&a, &a, other).unwrap_err().kind(), ErrorKind::Foreign);
        assert_eq!(run_relu(&a, &a, &a).unwrap(), [0.0, 2.0, 0.0, 4.0]);
    }
    // A binding is of the stream that records, and nothing else is lost.
    let pipeline = doubling(a.backend().device());
    let mine = a.from_array(&array![1.0f32, 2.0]).unwrap();
    double(&a, &pipeline, &mine).unwrap();
    let theirs = far.from_array(&array![1.0f32, 2.0]).unwrap();
    assert_eq!(double(&a, &pipeline, &theirs).unwrap_err().kind(), ErrorKind::Foreign);
    assert_eq!(theirs.to_array().unwrap(), array![1.0f32, 2.0].into_dyn());
    assert_eq!(mine.to_array().unwrap(), array![2.0f32, 4.0].into_dyn());
    // A loan is wgpu's to refuse: all devices that are opened here are of one instance.
    let loan = theirs.lend().unwrap();
    let error = a.encode(|encoder| {
        let binding = loan.binding();
        encoder.clear_buffer(binding.buffer, binding.offset, Some(8));
        Ok(())
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Device);
    loan.cancel();
    assert_eq!(theirs.to_array().unwrap(), array![1.0f32, 2.0].into_dyn());
    assert_eq!(mine.to_array().unwrap(), array![2.0f32, 4.0].into_dyn());
    // Of another pool on the same device it is lent, as to any foreign encoder.
    let theirs = b.from_array(&array![1.0f32, 2.0]).unwrap();
    assert_eq!(double(&a, &pipeline, &theirs).unwrap_err().kind(), ErrorKind::Foreign);
    let loan = theirs.lend().unwrap();
    a.encode(|encoder| {
        dispatch(a.backend().device(), &pipeline, loan.binding(), 2, encoder);
        Ok(())
    })
    .unwrap();
    a.submit().unwrap();
    loan.submitted();
    assert_eq!(theirs.to_array().unwrap(), array![2.0f32, 4.0].into_dyn());

    // The same through backends that are chosen at run time.
    let any = |backend: AnyBackend| Pool::with_backend(backend, &config).unwrap();
    let open = || any(AnyBackend::from(gpu::device(test).unwrap()));
    let (first, second, host) = (open(), open(), any(AnyBackend::from(Host)));
    assert_eq!(run_relu(&first, &first, &first).unwrap(), [0.0, 2.0, 0.0, 4.0]);
    for (params, operand) in [(&first, &second), (&second, &first), (&first, &host), (&host, &first)] {
        assert_eq!(run_relu(&first, params, operand).unwrap_err().kind(), ErrorKind::Foreign);
    }
    assert_eq!(run_relu(&host, &host, &first).unwrap_err().kind(), ErrorKind::Foreign);
}

/// A backend counts nothing: what it took after its pool was opened, no budget would know of.
#[test]
fn staging_is_opened_once() {
    let test = "staging_is_opened_once";
    for staging_bytes in [0, 16 * KIB] {
        let config = Config::new("256 KiB").staging(staging_bytes);
        let Some(pool) = gpu::pool(test, config.clone()) else { return };
        let mut block = pool.alloc(Request::bytes(4 * KIB)).unwrap();
        let uploaded = block.upload(0, &[7; 4 << 10]);
        assert_eq!(uploaded.is_ok(), staging_bytes > 0);
        let error = pool.backend().open_staging(MIB).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("1,048,576"), "{error}");
        // What was recorded through the ring that there is, is there.
        let mut seen = [0; 4 << 10];
        assert!(staging_bytes == 0 || (block.download(0, &mut seen).is_ok() && seen == [7; 4 << 10]));
        assert_eq!(pool.stats().staging_bytes, staging_bytes);
        let any = Pool::with_backend(AnyBackend::from(gpu::device(test).unwrap()), &config).unwrap();
        assert_eq!(any.backend().open_staging(MIB).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let gpu = gpu::device(test).unwrap();
    assert_eq!(gpu.open_staging(16 * KIB).unwrap(), 16 * KIB);
    assert_eq!(Pool::with_backend(gpu, &Config::new("256 KiB")).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_panic_while_recording_gives_everything_back() {
    for policy in [SlabPolicy::Single, SlabPolicy::PerBlock] {
        // Enough for every round: memory that recorded work may use does not come back while recording.
        let config = Config::new("2 MiB").slabs(policy).staging(4 * KIB);
        let Some(pool) = gpu::pool("a_panic_while_recording_gives_everything_back", config) else { return };
        let device = pool.backend().device();
        let pipeline = doubling(device);
        let kept = pool.from_array(&array![1.0f32, 2.0]).unwrap();
        for round in 0..100 {
            let moved = pool.zeros::<f32>([1000]).unwrap();
            let panic = catch_unwind(AssertUnwindSafe(|| {
                pool.encode(|encoder| -> Result<()> {
                    let inner = pool.uninit::<f32>([2000])?;
                    dispatch(device, &pipeline, inner.binding(encoder)?, 2000, encoder);
                    dispatch(device, &pipeline, moved.binding(encoder)?, 1000, encoder);
                    dispatch(device, &pipeline, kept.binding(encoder)?, 2, encoder);
                    let _moved = moved;
                    let _hold = kept.block().hold();
                    panic!("in the closure");
                })
            }));
            assert!(panic.is_err());
            assert_eq!(pool.stats().blocks, 1, "{policy} round {round}");
            pool.check();
        }
        // An error leaves as little.
        let changed = pool.encode(|encoder| {
            let inner = pool.uninit::<f32>([2000])?;
            dispatch(device, &pipeline, inner.binding(encoder)?, 2000, encoder);
            dispatch(device, &pipeline, kept.binding(encoder)?, 2, encoder);
            Err::<(), _>(Error::new(ErrorKind::Invalid, "changed my mind"))
        });
        assert!(changed.is_err());
        double(&pool, &pipeline, &kept).unwrap();
        assert_eq!(kept.to_array().unwrap(), array![2.0f32, 4.0].into_dyn(), "what panicked was not recorded");
        drop(kept);
        assert!(pool.alloc(Request::bytes(2 * MIB - 4 * KIB).zeroed().wait(LONG)).is_ok());
        pool.check();
    }
}

/// wgpu panics when scopes are closed out of order, so a closure that leaves one open cannot come to good. The pool does.
#[test]
fn an_error_scope_left_open_while_recording_is_a_panic_of_that_thread_alone() {
    let test = "an_error_scope_left_open_while_recording_is_a_panic_of_that_thread_alone";
    let Some(pool) = gpu::pool(test, Config::new("256 KiB").staging(4 * KIB)) else { return };
    let tensor = pool.from_array(&array![1.0f32, 2.0]).unwrap();
    thread::scope(|scope| {
        let open = scope.spawn(|| {
            pool.encode(|_| {
                std::mem::forget(pool.backend().device().push_error_scope(wgpu::ErrorFilter::Validation));
                Ok(())
            })
        });
        assert!(open.join().is_err());
    });
    double(&pool, &doubling(pool.backend().device()), &tensor).unwrap();
    assert_eq!(tensor.to_array().unwrap(), array![2.0f32, 4.0].into_dyn());
    pool.check();
}

#[test]
fn a_thread_that_panics_while_it_waits_leaves_no_trace() {
    let config = Config::new("64 KiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let Some(pool) = gpu::pool("a_thread_that_panics_while_it_waits_leaves_no_trace", config) else { return };
    let held = pool.alloc(Request::bytes(60 * KIB)).unwrap();
    thread::scope(|scope| {
        let patient = scope.spawn(|| pool.alloc(Request::bytes(60 * KIB).zeroed().wait(LONG)).map(drop));
        let panics = scope.spawn(|| {
            catch_unwind(AssertUnwindSafe(|| {
                pollster::block_on(async {
                    let mut first = std::pin::pin!(pool.alloc_async(Request::bytes(30 * KIB).wait(LONG)));
                    std::future::poll_fn(|context| {
                        assert!(first.as_mut().poll(context).is_pending());
                        assert!(pool.stats().waiting > 2, "panics when it sees the others in line");
                        std::task::Poll::<()>::Pending
                    })
                    .await;
                });
            }))
            .unwrap_err();
        });
        panics.join().unwrap();
        until(|| pool.stats().waiting == 1);
        drop(held);
        patient.join().unwrap().unwrap();
    });
    let stats = pool.stats();
    assert_eq!((stats.waiting, stats.blocks, stats.used_bytes), (0, 0, 0));
    pool.check();
}

#[test]
fn budgets_at_the_edges() {
    for policy in [SlabPolicy::Growing, SlabPolicy::Single, SlabPolicy::PerBlock] {
        for (budget, largest) in [(0, 0), (1, 0), (3, 0), (4, 4), (7, 4), (255, 252), (1023, 1020)] {
            let Some(pool) = gpu::pool("budgets_at_the_edges", Config::new(budget).slabs(policy)) else { return };
            assert_eq!(pool.stats().staging_bytes, 0, "a ring would take more than a sixteenth");
            assert_eq!(pool.zeros::<f32>([0]).unwrap().to_array().unwrap().len(), 0);
            assert!(pool.alloc(Request::bytes(largest + 1).wait(LONG)).unwrap_err().is_over_budget(), "{budget}");
            assert!(pool.alloc(Request::bytes(u64::MAX).wait(LONG)).unwrap_err().is_too_large(), "{budget}");
            if largest > 0 {
                let block = pool.alloc(Request::bytes(largest).zeroed()).unwrap();
                assert!(pool.alloc(Request::bytes(1)).unwrap_err().is_no_room());
                let error = block.download(0, &mut [0; 4]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "there is no ring to read through: {error}");
            }
            pool.submit().unwrap();
            pool.check();
            pool.trim();
            assert!(pool.stats().reserved_bytes <= budget);
        }
    }
    let config = Config::new(u64::MAX).slabs(SlabPolicy::PerBlock);
    let pool = gpu::pool("budgets_at_the_edges", config).unwrap();
    let tensor = pool.from_array(&array![1u32, 2, 3]).unwrap();
    assert_eq!(tensor.to_array().unwrap(), array![1u32, 2, 3].into_dyn());
    let limit = pool.limits().block.bytes;
    for bytes in [limit + 1, u64::MAX - 1, u64::MAX] {
        let error = pool.alloc(Request::bytes(bytes).wait(LONG)).unwrap_err();
        assert!(error.is_too_large() && error.to_string().contains("max_storage_buffer_binding_size"), "{error}");
    }
    assert_eq!(pool.zeros::<u64>([1 << 31, 1 << 31]).unwrap_err().kind(), ErrorKind::Shape);
    pool.check();
}

/// Sizes around every power of two and the page, side by side in one slab, each with bytes of its own.
#[test]
fn requests_at_the_edges_do_not_touch_their_neighbours() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single);
    let Some(pool) = gpu::pool("requests_at_the_edges_do_not_touch_their_neighbours", config) else { return };
    let sizes: Vec<usize> = (0..15).map(|power| 1usize << power).flat_map(|size| [size - 1, size, size + 1]).collect();
    let pattern = |index: usize, len: usize| Array1::from_shape_fn(len, |at| (index * 31 + at * 7) as u8 | 1);
    let mut tensors: Vec<_> =
        sizes.iter().enumerate().map(|(index, size)| pool.from_array(&pattern(index, *size)).unwrap()).collect();
    for (index, size) in sizes.iter().enumerate() {
        assert_eq!(tensors[index].to_array().unwrap(), pattern(index, *size).into_dyn(), "{size}");
    }
    // Fills and zeros are rounded up to words: not into a neighbour.
    for index in (0..sizes.len()).step_by(2) {
        tensors[index].fill(0).unwrap();
    }
    for (index, size) in sizes.iter().enumerate() {
        let expected = if index % 2 == 0 { Array1::zeros(*size) } else { pattern(index, *size) };
        assert_eq!(tensors[index].to_array().unwrap(), expected.into_dyn(), "{size}");
    }
    pool.check();
}

#[test]
fn labels_may_be_any_text() {
    let config = Config::new("64 KiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let Some(pool) = gpu::pool("labels_may_be_any_text", config) else { return };
    let long = "long ".repeat(MIB as usize / 5);
    let labels =
        ["Gewichte ⚖️ 重み", "a\0b", "two\nlines\r\t\"quoted\" \\", "\u{202e}right to left\u{feff}", " ", &long];
    let mut tensors: Vec<_> = labels.iter().map(|label| pool.labelled(*label).zeros::<f32>([300]).unwrap()).collect();
    let holders = pool.holders();
    assert_eq!(holders.len(), labels.len());
    for (label, tensor) in labels.iter().zip(&mut tensors) {
        assert!(holders.iter().any(|holder| holder.label == *label), "{label:?}");
        assert_eq!(tensor.block().label(), *label);
        tensor.upload(&[1.0; 300]).unwrap();
        let loan = tensor.lend().unwrap();
        assert!(format!("{loan:?} {tensor:?}").contains(&format!("{label:?}")));
        loan.cancel();
        let error = pool.alloc(Request::bytes(60 * KIB).label(label.to_string())).unwrap_err();
        assert!(error.is_full() && error.to_string().contains(&format!("{label:?}")), "{:.200}", error.to_string());
        assert!(!error.to_string().contains(['\n', '\0']), "one line, whatever the label");
    }
    assert!(pool.stats().to_string().len() < 1000);
    drop(tensors);
    assert!(pool.holders().is_empty());
    pool.check();
}
