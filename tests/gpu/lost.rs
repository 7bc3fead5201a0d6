//! Limits of a GPU, and devices that are lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::gpu::{self, LONG};
use ndarray::array;
use tensorpool::nn::{Optimizer, Settings, StepKind, Trainer};
use tensorpool::{Backend, Config, ErrorKind, Gpu, Pool, Request, Result, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

#[test]
fn limits_and_lost_devices_are_errors_of_their_own() {
    let Some(gpu) = gpu::device("limits_and_lost_devices_are_errors_of_their_own") else { return };
    // A device with small limits, as a caller may have.
    let error = gpu.create_slab(gpu.limits().slab.bytes + 4).unwrap_err();
    assert!(error.is_too_large() && error.to_string().contains("max_buffer_size"), "{error}");
    let staging = gpu.limits().slab.bytes.saturating_mul(9);
    let error = gpu.open_staging(staging).unwrap_err();
    assert!(error.is_too_large() && error.to_string().contains("max_buffer_size"), "{error}");
    let pool = Pool::with_backend(gpu, &Config::new(u64::MAX)).unwrap();
    let error = pool.alloc(Request::bytes(pool.limits().block.bytes + 1)).unwrap_err();
    assert!(error.is_too_large() && error.to_string().contains("max_storage_buffer_binding_size"), "{error}");
    assert!(pool.backend().name().len() > 3, "{}", pool.backend().name());
    let error = pool.alloc(Request::bytes(4).align(4 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Alignment);

    // Out of memory is told from both: the device is asked for more than any machine has. llvmpipe grants everything
    // that it can address, so only a refusal is looked at.
    let mut kept = pool.from_array(&array![1.0f32]).unwrap();
    pool.backend().device().destroy();
    let mut lost = None;
    for _ in 0..3 {
        lost = lost.or(kept.upload(&[2.0]).err());
        lost = lost.or(kept.to_array().err());
    }
    let error = lost.expect("a lost device shows");
    assert!(error.is_device_lost(), "{error}");
    for error in [
        pool.zeros::<f32>([4]).unwrap_err(),
        pool.submit().unwrap_err(),
        pool.encode(|_| Ok(())).unwrap_err(),
        pool.alloc(Request::bytes(100 * MIB)).unwrap_err(),
    ] {
        assert!(error.is_device_lost(), "{error}");
    }
    drop(kept);
    pool.trim();
    pool.check();
    assert_eq!(pool.stats().reserved_bytes, pool.stats().staging_bytes);
}

#[test]
fn a_callers_device_tells_the_pool_through_its_callback_or_a_failing_map() {
    let test = "a_callers_device_tells_the_pool_through_its_callback_or_a_failing_map";
    for tell in [true, false] {
        let Some(owner) = gpu::device(test) else { return };
        let (device, queue) = (owner.device().clone(), owner.queue().clone());
        let pool = Pool::gpu(&device, &queue, Config::new("1 MiB")).unwrap();
        let lost = pool.device_lost();
        device.set_device_lost_callback(move |reason, _| {
            if tell {
                lost.tell(&format!("the owner says {reason:?}"));
            }
        });
        let tensor = pool.from_array(&array![1u32, 2]).unwrap();
        let mut other = pool.zeros::<u32>([2]).unwrap();
        other.to_array().unwrap();
        device.destroy();
        let _ = device.poll(wgpu::PollType::Poll);
        // The ring's chunk was mapped, and is no more.
        let error = other.upload(&[1, 2]).unwrap_err();
        assert!(error.is_device_lost(), "{error}");
        let error = tensor.to_array().unwrap_err();
        assert!(error.is_device_lost(), "{error}");
        assert_eq!(error.to_string().contains("the owner says"), tell, "{error}");
        assert!(pool.uninit::<u8>([100_000]).unwrap_err().is_device_lost());
    }
}

type Call = fn(&Pool<Gpu>, &mut Tensor<u32, Gpu>) -> Result<()>;

/// Every call that asks something of the device.
const CALLS: [(&str, Call); 14] = [
    ("upload", |_, tensor| tensor.upload(&[1; 1000])),
    ("download", |_, tensor| tensor.download(&mut [0; 1000])),
    ("fill", |_, tensor| tensor.fill(7)),
    ("clear", |_, tensor| tensor.fill(0)),
    ("copy", |pool, tensor| pool.uninit([1000])?.copy_from(tensor)),
    ("encode", |pool, _| pool.encode(|_| Ok(()))),
    ("encode with a binding", |pool, tensor| {
        pool.encode(|encoder| {
            let binding = tensor.binding(encoder)?;
            encoder.clear_buffer(binding.buffer, binding.offset, Some(binding.size.unwrap().get()));
            Ok(())
        })
    }),
    ("submit", |pool, _| pool.submit().map(drop)),
    ("alloc in a slab", |pool, _| pool.alloc(Request::bytes(100)).map(drop)),
    ("alloc of a slab", |pool, _| pool.alloc(Request::bytes(MIB)).map(drop)),
    ("zeros", |pool, _| pool.zeros::<u32>([100]).map(drop)),
    ("alloc in line", |pool, _| {
        let _most = pool.alloc(Request::bytes(5 * MIB))?;
        pool.alloc(Request::bytes(5 * MIB).wait(Duration::from_millis(50))).map(drop)
    }),
    ("future in line", |pool, _| {
        let _most = pool.alloc(Request::bytes(5 * MIB))?;
        pollster::block_on(pool.alloc_async(Request::bytes(5 * MIB).wait(Duration::from_millis(50)))).map(drop)
    }),
    ("loan", |pool, tensor| {
        let loan = tensor.lend()?;
        pool.submit_lent([], [loan]).map(drop)
    }),
];

/// A pool on an open device, and one on a caller's device that nobody listens to.
fn told_and_untold(test: &str, config: &Config) -> Option<[Pool<Gpu>; 2]> {
    let (told, owner) = (gpu::device(test)?, gpu::device(test)?);
    let told = Pool::with_backend(told, config).unwrap();
    // Nobody tells the pool: the callback is taken.
    owner.device().set_device_lost_callback(|_, _| {});
    Some([told, Pool::gpu(owner.device(), owner.queue(), config.clone()).unwrap()])
}

/// Each call is the first after the loss, when the pool may not have noticed: then it fails with that error or does
/// nothing. Once it has noticed, all fail.
#[test]
fn every_call_on_a_lost_device_is_an_error_and_none_hangs() {
    for (first, call) in CALLS {
        let config = Config::new("6 MiB").staging(16 * KIB);
        let Some(pools) = told_and_untold("every_call_on_a_lost_device_is_an_error_and_none_hangs", &config) else {
            return;
        };
        for (pool, told) in pools.into_iter().zip([true, false]) {
            let mut tensor = pool.labelled("kept").zeros::<u32>([1000]).unwrap();
            let hold = tensor.block().hold();
            tensor.upload(&[3; 1000]).unwrap();
            pool.backend().device().destroy();
            match call(&pool, &mut tensor) {
                Ok(()) => {}
                Err(error) if error.is_device_lost() => {}
                // Nothing was sent to the device by which the loss could show.
                Err(error) => assert!(error.is_timeout() && !told, "{first}, told {told}: {error}"),
            }
            let error = tensor.to_array().unwrap_err();
            assert!(error.is_device_lost(), "{first}, told {told}: {error}");
            for (name, call) in CALLS {
                let error = call(&pool, &mut tensor).unwrap_err();
                assert!(error.is_device_lost(), "{name} after {first}, told {told}: {error}");
            }
            // What is only bookkeeping goes on.
            assert_eq!(pool.holders()[0].label, "kept");
            pool.check();
            drop((tensor, hold));
            pool.trim();
            pool.check();
            let stats = pool.stats();
            assert_eq!((stats.blocks, stats.retired_bytes), (0, 0), "{first}, told {told}");
            assert_eq!(stats.reserved_bytes, stats.staging_bytes, "{first}, told {told}");
            assert!(pool.close().is_empty());
        }
    }
}

/// In the middle of training, with threads and a future in line and others moving data: all leave with that error.
#[test]
fn a_device_lost_in_a_training_step_lets_everybody_go() {
    let settings =
        Settings { widths: vec![64, 128, 64, 10], batch: 32, optimizer: Optimizer::ADAM, learning_rate: 0.01, seed: 7 };
    let test = "a_device_lost_in_a_training_step_lets_everybody_go";
    let config = Config::new("8 MiB").slabs(SlabPolicy::Single).staging(16 * KIB);
    let Some(pools) = told_and_untold(test, &config) else { return };
    for (pool, told) in pools.into_iter().zip([true, false]) {
        let mut trainer = Trainer::new(&pool, settings.clone(), StepKind::Frugal).unwrap();
        let (images, labels) = (vec![0.5; 64 * 32], vec![3; 32]);
        let held = pool.alloc(Request::bytes(6 * MIB)).unwrap();
        let steps = AtomicU64::new(0);
        let wait = || Request::bytes(6 * MIB).wait(LONG);
        thread::scope(|scope| {
            let moving = scope.spawn(|| {
                let mut tensor = pool.from_array(&array![1u32, 2, 3]).unwrap();
                loop {
                    if let Err(error) = tensor.upload(&[4, 5, 6]).and_then(|()| tensor.to_array()) {
                        return error;
                    }
                }
            });
            let training = scope.spawn(|| {
                loop {
                    match trainer.step(&images, &labels) {
                        Ok(loss) => assert!(loss.is_finite()),
                        // Those in line were passed often enough: the step's own requests are refused.
                        Err(error) if error.is_no_room() => {}
                        Err(error) => return error,
                    }
                    steps.fetch_add(1, Ordering::SeqCst);
                }
            });
            gpu::until(|| steps.load(Ordering::SeqCst) >= 3);
            let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| pool.alloc(wait()).unwrap_err())).collect();
            let future = scope.spawn(|| pollster::block_on(pool.alloc_async(wait())).unwrap_err());
            gpu::until(|| pool.stats().waiting == 4);
            pool.backend().device().destroy();
            for thread in waiting.into_iter().chain([future, moving, training]) {
                let error = thread.join().unwrap();
                assert!(error.is_device_lost(), "told {told}: {error}");
            }
        });
        assert!(trainer.step(&images, &labels).unwrap_err().is_device_lost());
        pool.check();
        drop((trainer, held));
        pool.trim();
        let stats = pool.stats();
        assert_eq!((stats.blocks, stats.waiting, stats.retired_bytes, stats.slabs), (0, 0, 0, 0), "told {told}");
        pool.check();
    }
}
