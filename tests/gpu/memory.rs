//! GPU memory that comes, goes and is lent, inside the budget.

use std::sync::mpsc;
use std::time::Duration;

use crate::support::gpu::{self, dispatch, doubling};
use ndarray::array;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{AnyBackend, Backend, Config, ErrorKind, Gpu, Host, Pool, Request, Result, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

#[test]
fn a_lent_block_comes_home_when_its_submission_has_finished() {
    let config = Config::new("64 KiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let Some(pool) = gpu::pool("a_lent_block_comes_home_when_its_submission_has_finished", config) else { return };
    let (device, queue) = (pool.backend().device(), pool.backend().queue());
    let pipeline = doubling(device);
    let held = pool.limits().alignment_bytes.max(256);

    let keep = pool.from_array(&array![1.0f32, 2.0]).unwrap();
    let tensor = pool.labelled("lent").zeros::<f32>([64]).unwrap();
    let loans = (keep.lend().unwrap(), tensor.lend().unwrap());
    let mut encoder = device.create_command_encoder(&Default::default());
    dispatch(device, &pipeline, loans.0.binding(), 2, &mut encoder);
    dispatch(device, &pipeline, loans.1.binding(), 64, &mut encoder);
    drop(tensor);
    assert_eq!(pool.stats().retired_bytes, held, "{:?}", pool.stats());
    pool.check();
    pool.submit_lent([encoder.finish()], [loans.0, loans.1]).unwrap();
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    // The upload was in the stream before the loan, and the foreign work saw it.
    assert_eq!(keep.to_array().unwrap(), array![2.0f32, 4.0].into_dyn());
    let whole = pool.stats().budget_bytes - pool.stats().staging_bytes;
    drop(keep);
    drop(pool.alloc(Request::bytes(whole)).expect("everything came home"));

    // One call is enough to see that the device is done, and to give the memory back.
    let tensor = pool.zeros::<f32>([64]).unwrap();
    let loan = tensor.lend().unwrap();
    drop(tensor);
    queue.submit([]);
    loan.submitted();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while pool.stats().retired_bytes > 0 {
        assert!(std::time::Instant::now() < deadline, "{:?}", pool.stats());
    }

    // Commands that are refused, or come while this thread records, are not carried out: the loan ends all the same.
    let tensor = pool.zeros::<f32>([64]).unwrap();
    let loans = [tensor.lend().unwrap(), tensor.lend().unwrap()];
    let lost = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 256,
        usage: wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let [refused, inside] = loans.map(|loan| {
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(loan.binding().buffer, loan.binding().offset, &lost, 0, 256);
        (encoder.finish(), loan)
    });
    drop(tensor);
    lost.destroy();
    assert_eq!(pool.submit_lent([refused.0], [refused.1]).unwrap_err().kind(), ErrorKind::Device);
    assert_eq!(pool.stats().retired_bytes, held, "there is another loan");
    let within = pool.encode(|_| pool.submit_lent([inside.0], [inside.1]).map(drop));
    assert_eq!(within.unwrap_err().kind(), ErrorKind::Recording);
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    assert_eq!(pool.stats().retired_bytes, 0);

    let tensor = pool.zeros::<f32>([64]).unwrap();
    tensor.lend().unwrap().cancel();
    drop(tensor);
    assert_eq!(pool.stats().retired_bytes, 0);
    let tensor = pool.zeros::<f32>([64]).unwrap();
    drop(tensor.lend().unwrap());
    drop(tensor);
    assert_eq!(pool.stats().retired_bytes, held, "nobody can tell when it is free");
    assert!(pool.zeros::<f32>([0]).unwrap().lend().is_err());
}

#[test]
fn slabs_leave_when_the_device_is_done_with_them() {
    let Some(pool) = gpu::pool("slabs_leave_when_the_device_is_done_with_them", Config::new("8 MiB").staging(0)) else {
        return;
    };
    let mut a = pool.zeros::<f32>([200_000]).unwrap();
    let b = pool.zeros::<f32>([200_000]).unwrap();
    a.copy_from(&b).unwrap();
    drop((a, b));
    pool.trim();
    assert!(pool.stats().retired_bytes > 0, "work is recorded that uses the slabs: {:?}", pool.stats());
    pool.check();
    // Needs every byte: the pool sends the work on its way and waits.
    let whole = pool.alloc(Request::bytes(8 * MIB)).unwrap();
    pool.check();
    drop(whole);
    pool.trim();
    assert_eq!(pool.stats().reserved_bytes, 0);
}

/// wgpu's own count of what it has from the driver: the budget, and at most 1 MiB of its own.
#[test]
fn wgpu_reserves_no_more_than_the_budget() {
    for (budget, policy) in
        [(6 * MIB, SlabPolicy::Single), (48 * MIB, SlabPolicy::Growing), (9 * MIB, SlabPolicy::PerBlock)]
    {
        let Some(gpu) = gpu::device("wgpu_reserves_no_more_than_the_budget") else { return };
        let device = gpu.device().clone();
        let allocated = || device.generate_allocator_report().map(|report| report.total_allocated_bytes);
        let Some(before) = allocated() else { return };
        let pool = Pool::with_backend(gpu, &Config::new(budget).slabs(policy)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(budget);
        let mut tensors = Vec::new();
        for step in 0..200 {
            let len = (budget as f64 / 8.0).powf(rng.random_range(0.3..1.0)) as usize;
            match pool.zeros::<f32>([len]) {
                Ok(tensor) => tensors.push(tensor),
                Err(error) => assert!(error.is_no_room(), "{error}"),
            }
            if rng.random_bool(0.5) && !tensors.is_empty() {
                tensors.swap_remove(rng.random_range(0..tensors.len()));
            }
            if step % 10 == 0 {
                pool.trim();
            }
            let grown = allocated().unwrap() - before;
            assert!(grown <= budget + MIB, "{policy}, step {step}: {grown} for a budget of {budget}");
            pool.check();
        }
    }
}

/// A slab dropped inside `encode` is still named by the commands recorded there: its bytes stay reserved.
#[test]
fn a_slab_dropped_while_recording_stays_in_the_budget() {
    let config = Config::new(MIB).slabs(SlabPolicy::PerBlock).staging(0);
    let Some(pool) = gpu::pool("a_slab_dropped_while_recording_stays_in_the_budget", config) else { return };
    let device = pool.backend().device();
    let pipeline = doubling(device);
    let elements = (3 * MIB / 4 / 4) as usize;
    pool.encode(|encoder| {
        let tensor = pool.uninit::<f32>([elements])?;
        dispatch(device, &pipeline, tensor.binding(encoder)?, elements, encoder);
        drop(tensor);
        assert_eq!(pool.stats().retired_bytes, 3 * MIB / 4);
        assert!(pool.uninit::<f32>([elements]).unwrap_err().is_full());
        Ok(())
    })
    .unwrap();
    // Afterwards the pool can send the work on its way and wait for it.
    assert!(pool.uninit::<f32>([elements]).is_ok());
}

/// wgpu runs callbacks in whatever call polls, the pool's own among them: there the pool must be usable, the stream aside.
#[test]
fn callbacks_of_the_device_may_free_and_allocate() {
    type Call = fn(&Pool<Gpu>, &Tensor<u32, Gpu>) -> Result<()>;
    let calls: [(&str, Call); 7] = [
        ("download", |_, kept| kept.to_array().map(drop)),
        ("submit", |pool, _| pool.submit().map(drop)),
        ("complete", |pool, _| pool.backend().complete(pool.backend().recorded())),
        ("statistics", |pool, _| {
            pool.stats();
            Ok(())
        }),
        ("trim", |pool, _| {
            pool.trim();
            Ok(())
        }),
        ("wait", |pool, _| pool.alloc(Request::bytes(60 * KIB).wait(Duration::from_millis(20))).map(drop)),
        ("future", |pool, _| {
            pollster::block_on(pool.alloc_async(Request::bytes(60 * KIB).wait(Duration::from_millis(20)))).map(drop)
        }),
    ];
    let config = Config::new("64 KiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let Some(pool) = gpu::pool("callbacks_of_the_device_may_free_and_allocate", config) else { return };
    let (device, queue) = (pool.backend().device(), pool.backend().queue());
    let kept = pool.from_array(&array![1u32, 2, 3]).unwrap();
    for (name, call) in calls {
        let (sender, told) = mpsc::channel();
        let (pool, tensor) = (pool.clone(), pool.zeros::<u32>([1000]).unwrap());
        let hold = tensor.block().hold();
        // Something to wait for.
        let mut other = pool.uninit::<u32>([500]).unwrap();
        other.fill(7).unwrap();
        pool.submit().unwrap();
        let inside = pool.clone();
        queue.on_submitted_work_done(move || {
            drop((tensor, hold));
            let allocated = inside.alloc(Request::bytes(4000)).map(|block| block.bytes());
            let refused = inside.alloc(Request::bytes(1 << 20)).unwrap_err();
            inside.check();
            sender.send((allocated, refused.is_over_budget(), inside.trim())).unwrap();
        });
        if let Err(error) = call(&pool, &kept) {
            assert!(error.is_timeout(), "{name}: {error}");
        }
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let (allocated, refused, _) = told.recv_timeout(gpu::LONG).unwrap();
        assert!(allocated.unwrap() == 4000 && refused, "{name}");
        drop(other);
        pool.check();
    }
    assert_eq!((pool.stats().blocks, pool.stats().retired_bytes), (1, 0));
}

/// The figure moves with whatever else the machine does.
#[test]
fn a_percentage_is_of_what_the_driver_reports() {
    let Some(gpu) = gpu::device("a_percentage_is_of_what_the_driver_reports") else { return };
    let info = gpu.device().adapter_info();
    if info.backend != wgpu::Backend::Vulkan {
        let error = gpu.memory_bytes().unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("Vulkan devices do"), "{error}");
        return;
    }
    let bytes = gpu.memory_bytes().unwrap();
    assert!((64 * MIB..1 << 44).contains(&bytes), "{bytes}");
    if info.device_type == wgpu::DeviceType::Cpu {
        let machine_bytes = Host.memory_bytes().unwrap();
        assert!(bytes < 2 * machine_bytes, "{bytes} of the processor's {machine_bytes}");
    }
    let pool = Pool::with_backend(AnyBackend::from(gpu), &Config::new("50%")).unwrap();
    assert!((bytes / 4..bytes).contains(&pool.budget_bytes()), "{} of {bytes}", pool.budget_bytes());
    drop(pool.from_array(&array![1.0f32, 2.0]).unwrap());
}

#[test]
fn memory_of_a_device_is_neither_touched_nor_locked() {
    for config in [Config::new("1 MiB").touch(true), Config::new("1 MiB").lock(true)] {
        let Some(gpu) = gpu::device("memory_of_a_device_is_neither_touched_nor_locked") else { return };
        let error = Pool::with_backend(gpu, &config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("cannot be touched or locked: only host memory has pages"), "{error}");
    }
}

/// A multiple above the alignment of bindings is one of the offset in the buffer.
#[test]
fn offsets_are_at_multiples_up_to_2_mib() {
    for slabs in [SlabPolicy::Single, SlabPolicy::Growing] {
        let config = Config::new("16 MiB").slabs(slabs);
        let Some(pool) = gpu::pool("offsets_are_at_multiples_up_to_2_mib", config) else { return };
        let mut blocks = Vec::new();
        for bits in 0..=21 {
            blocks.push(pool.alloc(Request::bytes(1000)).unwrap());
            let mut block = pool.alloc(Request::bytes(5000).align(1 << bits).zeroed()).unwrap();
            assert_eq!(block.offset() % (1 << bits), 0, "{block:?}");
            block.upload(0, &[bits; 5000]).unwrap();
            blocks.push(block);
        }
        for (bits, block) in (0..).zip(blocks.iter().skip(1).step_by(2)) {
            let mut bytes = [0; 5000];
            block.download(0, &mut bytes).unwrap();
            assert_eq!(bytes, [bits; 5000]);
        }
        assert_eq!(pool.alloc(Request::bytes(1).align(1 << 30)).unwrap_err().kind(), ErrorKind::Alignment);
        pool.check();
    }
}
