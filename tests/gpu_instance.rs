//! All devices that a process opens are of one wgpu instance. The one test here is the first to open any.
#![cfg(feature = "gpu")]

mod support;

use std::sync::Barrier;
use std::thread;

use ndarray::array;
use support::gpu;
use tensorpool::{Config, ErrorKind, GpuChoice, Pool};

/// wgpu numbers buffers by instance. Where two instances are at work, these tensors' slabs have one number, and the encoder of
/// one pool clears the tensor of the other without an error.
#[test]
fn devices_that_threads_open_together_are_told_apart() {
    let threads = 4;
    let barrier = Barrier::new(threads);
    let opened: Vec<_> = thread::scope(|scope| {
        let open = || {
            barrier.wait();
            gpu::pool("devices_that_threads_open_together_are_told_apart", Config::new("1 MiB"))
        };
        let opening: Vec<_> = (0..threads).map(|_| scope.spawn(open)).collect();
        opening.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let Some(mut pools) = opened.into_iter().collect::<Option<Vec<_>>>() else { return };
    // An adapter that is not there keeps no instance, and changes none.
    let error = tensorpool::Gpu::open(&GpuChoice::Named("no adapter has this name".to_owned())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoDevice);
    pools.push(Pool::open_gpu(Config::new("1 MiB")).unwrap());

    let tensors: Vec<_> = pools.iter().map(|pool| pool.from_array(&array![1.0f32, 2.0]).unwrap()).collect();
    for (at, pool) in pools.iter().enumerate() {
        for (of, tensor) in tensors.iter().enumerate().filter(|(of, _)| *of != at) {
            let loan = tensor.lend().unwrap();
            let result = pool.encode(|encoder| {
                encoder.clear_buffer(loan.binding().buffer, loan.binding().offset, Some(8));
                Ok(())
            });
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Device, "pool {at}, tensor {of}");
            loan.cancel();
        }
    }
    for tensor in &tensors {
        assert_eq!(tensor.to_array().unwrap(), array![1.0f32, 2.0].into_dyn());
    }
}
