//! Planned steps in GPU memory: recorded work of one owner of a place, and then of the next.

use crate::support::gpu::{self, dispatch, doubling};
use ndarray::{Array1, array};
use tensorpool::{Config, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;

/// Nothing is submitted or waited for inside a step, and places are used again in it.
#[test]
fn steps_that_plan_themselves_keep_every_tensors_bytes() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single).staging(16 * KIB);
    let Some(pool) = gpu::pool("steps_that_plan_themselves_keep_every_tensors_bytes", config) else { return };
    let planning = pool.auto_plan().unwrap();
    let mut sum = pool.zeros::<f32>([1000]).unwrap();
    for step in 0..12u16 {
        pool.mark_step();
        let start = f32::from(step);
        let x = pool.from_array(&Array1::from_elem(1000, start)).unwrap();
        let mut y = pool.zeros::<f32>([1000]).unwrap();
        y.copy_from(&x).unwrap();
        drop(x);
        // At the place of `x`, with work on that still to run.
        let z = pool.from_array(&Array1::from_elem(1000, start + 0.5)).unwrap();
        sum.copy_from(&y).unwrap();
        drop(y);
        assert_eq!(z.to_array().unwrap(), Array1::from_elem(1000, start + 0.5).into_dyn(), "step {step}");
        assert_eq!(sum.to_array().unwrap(), Array1::from_elem(1000, start).into_dyn(), "step {step}");
        pool.check();
    }
    pool.mark_step();
    let report = planning.report();
    // The first two are served online.
    assert_eq!((report.steps_exact, report.allocations_unplanned, report.allocations_blocked), (10, 0, 0), "{report}");
    assert_eq!(report.allocations_planned, 30);
}

/// Lent to foreign work, a tensor keeps its place over the step's end until that work is done.
#[test]
fn a_lent_tensor_keeps_its_planned_place() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single).staging(16 * KIB);
    let Some(pool) = gpu::pool("a_lent_tensor_keeps_its_planned_place", config) else { return };
    let device = pool.backend().device();
    let pipeline = doubling(device);
    let planning = pool.auto_plan().unwrap();
    let step = || -> Tensor<f32, _> {
        pool.mark_step();
        pool.from_array(&array![1.0f32, 2.0]).unwrap()
    };
    (0..3).for_each(|_| drop(step()));
    assert_eq!(planning.report().allocations_planned, 1);

    let lent = step();
    let loan = lent.lend().unwrap();
    let mut encoder = device.create_command_encoder(&Default::default());
    dispatch(device, &pipeline, loan.binding(), 2, &mut encoder);
    drop(lent);
    assert_eq!(pool.stats().retired_bytes, pool.limits().alignment_bytes);
    // The next step's tensor is somewhere else.
    let other = step();
    assert_eq!(planning.report().allocations_blocked, 1);
    pool.submit_lent([encoder.finish()], [loan]).unwrap();
    assert_eq!(other.to_array().unwrap(), array![1.0f32, 2.0].into_dyn());
    drop(other);
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let again = step();
    assert_eq!(pool.stats().retired_bytes, 0, "{:?}", pool.stats());
    assert_eq!(planning.report().allocations_blocked, 1);
    assert_eq!(again.to_array().unwrap(), array![1.0f32, 2.0].into_dyn());
    drop((again, planning));
    pool.check();
}
