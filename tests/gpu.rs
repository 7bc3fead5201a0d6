//! The GPU backend, its stream and its failures, on whatever adapter there is (llvmpipe does).
#![cfg(feature = "gpu")]

mod support;

use bytemuck::Pod;
use ndarray::{Array2, ArrayD, array};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{gpu, rounds};
use tensorpool::{Backend, Config, Error, ErrorKind, Gpu, Pool, Request, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A shader that doubles every element of its one binding.
fn doubling(device: &wgpu::Device) -> wgpu::ComputePipeline {
    let source = "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            if (id.x < arrayLength(&x)) { x[id.x] = 2.0 * x[id.x]; }
        }";
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    })
}

fn dispatch(
    device: &wgpu::Device,
    encoder: &mut wgpu::CommandEncoder,
    pipeline: &wgpu::ComputePipeline,
    binding: wgpu::BufferBinding<'_>,
    elements: usize,
) {
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) }],
    });
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(elements.div_ceil(64) as u32, 1, 1);
}

fn double(pool: &Pool<Gpu>, pipeline: &wgpu::ComputePipeline, tensor: &Tensor<f32, Gpu>) -> Result<(), Error> {
    pool.encode(|encoder| {
        dispatch(pool.backend().device(), encoder, pipeline, tensor.binding()?, tensor.elements());
        Ok(())
    })
}

fn random<T: Pod>(rng: &mut ChaCha8Rng, len: usize) -> Vec<T> {
    let mut elements = vec![T::zeroed(); len];
    rng.fill(bytemuck::cast_slice_mut::<T, u8>(&mut elements));
    elements
}

#[test]
fn what_is_uploaded_comes_back() {
    let Some(pool) = gpu::pool("what_is_uploaded_comes_back", Config::new("8 MiB")) else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    fn roundtrip<T: Pod + PartialEq + std::fmt::Debug>(pool: &Pool<Gpu>, rng: &mut ChaCha8Rng, len: usize) {
        let elements = random::<T>(rng, len);
        let array = ArrayD::from_shape_vec(vec![len], elements.clone()).unwrap();
        let tensor = pool.from_array(&array).unwrap();
        assert_eq!(tensor.to_array().unwrap().into_raw_vec_and_offset().0, elements, "{len}");
    }
    for len in [0, 1, 2, 3, 4, 5, 63, 64, 65, 1023, 32 * 1024, 32 * 1024 + 1, 131_072, 1_000_003] {
        roundtrip::<u8>(&pool, &mut rng, len);
        roundtrip::<u16>(&pool, &mut rng, len);
        roundtrip::<i32>(&pool, &mut rng, len);
        roundtrip::<u64>(&pool, &mut rng, len / 2);
    }
    let half = array![[half::f16::from_f32(0.5), half::f16::from_f32(-2.0), half::f16::MAX]];
    assert_eq!(pool.from_array(&half).unwrap().to_array().unwrap(), half.into_dyn());
    pool.check();
    assert_eq!(pool.stats().staging_bytes, 256 * KIB, "the ring does not grow");
    let transposed = Array2::from_shape_fn((37, 11), |(r, c)| (r * 100 + c) as f32).reversed_axes();
    assert_eq!(pool.from_array(&transposed).unwrap().to_array().unwrap(), transposed.into_dyn());
}

/// Random uploads, fills, copies and frees, each checked against the same program on plain vectors.
#[test]
fn random_programs_keep_every_tensors_bytes() {
    for seed in 0..rounds(3) {
        let config = Config::new("3 MiB").slabs(SlabPolicy::Single).staging(8 * KIB);
        let Some(pool) = gpu::pool("random_programs_keep_every_tensors_bytes", config) else { return };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors: Vec<(Tensor<u32, Gpu>, Vec<u32>)> = Vec::new();
        for step in 0..300 {
            let context = format!("seed {seed} step {step}");
            let pick = |rng: &mut ChaCha8Rng, n: usize| rng.random_range(0..n);
            match rng.random_range(0..10) {
                0..=3 => {
                    let len = 2f64.powf(rng.random_range(0.0..17.0)) as usize;
                    let made = if rng.random_bool(0.3) { pool.zeros([len]) } else { pool.uninit([len]) };
                    let Ok(mut tensor) = made else { continue };
                    let mut elements = vec![0; len];
                    if rng.random_bool(0.7) {
                        elements = random(&mut rng, len);
                        tensor.upload(&elements).unwrap();
                    } else {
                        elements.fill(7);
                        tensor.fill(7).unwrap();
                    }
                    tensors.push((tensor, elements));
                }
                4..=5 if tensors.len() > 1 => {
                    let (from, to) = (pick(&mut rng, tensors.len()), pick(&mut rng, tensors.len()));
                    if from == to {
                        continue;
                    }
                    let (source, elements) = tensors.swap_remove(from);
                    let to = to % tensors.len();
                    let len = rng.random_range(0..=elements.len().min(tensors[to].1.len()));
                    let (a, b) =
                        (pick(&mut rng, elements.len() - len + 1), pick(&mut rng, tensors[to].1.len() - len + 1));
                    tensors[to].0.copy_range_from(b, &source, a..a + len).unwrap();
                    tensors[to].1[b..b + len].copy_from_slice(&elements[a..a + len]);
                    tensors.push((source, elements));
                }
                6..=7 if !tensors.is_empty() => {
                    let (tensor, elements) = tensors.swap_remove(pick(&mut rng, tensors.len()));
                    let mut seen = vec![0; elements.len()];
                    tensor.download(&mut seen).unwrap();
                    assert!(seen == elements, "{context}");
                }
                8 => drop(pool.submit().unwrap()),
                _ if !tensors.is_empty() => drop(tensors.swap_remove(pick(&mut rng, tensors.len()))),
                _ => {}
            }
            pool.check();
        }
        for (tensor, elements) in tensors {
            assert!(tensor.to_array().unwrap().into_raw_vec_and_offset().0 == elements, "seed {seed}");
        }
    }
}

#[test]
fn copies_work_between_slabs_and_inside_one() {
    for policy in [SlabPolicy::Single, SlabPolicy::PerBlock] {
        let Some(pool) = gpu::pool("copies_work_between_slabs_and_inside_one", Config::new("4 MiB").slabs(policy))
        else {
            return;
        };
        let source = Array2::from_shape_fn((311, 97), |(r, c)| (r * 97 + c) as f32);
        let a = pool.from_array(&source).unwrap();
        let mut b = pool.uninit::<f32>([311, 97]).unwrap();
        assert_eq!(a.block().slab() == b.block().slab(), policy == SlabPolicy::Single);
        b.copy_from(&a).unwrap();
        assert_eq!(b.to_array().unwrap(), source.clone().into_dyn());
        let error = b.copy_from(&pool.zeros::<f32>([97, 311]).unwrap()).unwrap_err();
        assert!(error.to_string().contains("[97, 311]") && error.to_string().contains("[311, 97]"), "{error}");
        assert!(b.copy_range_from(30_160, &a, 0..8).is_err());
        let other = gpu::pool("", Config::new("4 MiB")).unwrap();
        assert_eq!(b.copy_from(&other.zeros([311, 97]).unwrap()).unwrap_err().kind(), ErrorKind::Foreign);
    }
}

#[test]
fn bytes_that_are_no_words_are_refused_inside_a_tensor() {
    let Some(pool) = gpu::pool("bytes_that_are_no_words_are_refused_inside_a_tensor", Config::new("1 MiB")) else {
        return;
    };
    let mut a = pool.from_array(&array![1u8, 2, 3, 4, 5, 6, 7]).unwrap();
    let mut b = pool.zeros::<u8>([7]).unwrap();
    assert_eq!(b.copy_range_from(1, &a, 0..4).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(b.copy_range_from(0, &a, 0..3).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(a.block_mut().upload(2, &[0; 4]).unwrap_err().kind(), ErrorKind::Shape);
    b.copy_range_from(4, &a, 4..7).unwrap();
    assert_eq!(b.to_array().unwrap(), array![0u8, 0, 0, 0, 5, 6, 7].into_dyn());
    b.fill(9).unwrap();
    assert_eq!(b.to_array().unwrap(), array![9u8, 9, 9, 9, 9, 9, 9].into_dyn());
}

#[test]
fn fills_repeat_any_element() {
    let Some(pool) = gpu::pool("fills_repeat_any_element", Config::new("4 MiB").staging(1024)) else { return };
    for len in [1usize, 3, 31, 32, 33, 1000, 100_000] {
        let mut bytes = pool.uninit::<u8>([len]).unwrap();
        bytes.fill(0xAB).unwrap();
        assert!(bytes.to_array().unwrap().iter().all(|x| *x == 0xAB), "{len}");
        let mut triples = pool.uninit::<[u8; 3]>([len]).unwrap();
        triples.fill([1, 2, 3]).unwrap();
        assert!(triples.to_array().unwrap().iter().all(|x| *x == [1, 2, 3]), "{len}");
        let mut floats = pool.uninit::<f32>([len]).unwrap();
        floats.fill(-1.5).unwrap();
        assert!(floats.to_array().unwrap().iter().all(|x| *x == -1.5), "{len}");
        floats.fill(0.0).unwrap();
        assert!(floats.to_array().unwrap().iter().all(|x| *x == 0.0), "{len}");
    }
    // An element larger than a chunk of the ring (1024 / 8 bytes) cannot be staged.
    let mut large = pool.uninit::<[u32; 64]>([2]).unwrap();
    assert_eq!(large.fill([5; 64]).unwrap_err().kind(), ErrorKind::Invalid);
    let none = gpu::pool("", Config::new("1 MiB").staging(0)).unwrap();
    assert_eq!(none.from_array(&array![1u32]).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(none.zeros::<u32>([4]).is_ok());
}

/// The hazard that the stream is for, shown both ways. One tensor is read by recorded work and freed; its memory goes to
/// the next tensor, which is uploaded before anything is submitted.
#[test]
fn a_recycled_block_is_not_overwritten_before_recorded_work_has_read_it() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single);
    let Some(pool) = gpu::pool("a_recycled_block_is_not_overwritten_before_recorded_work_has_read_it", config) else {
        return;
    };
    let (device, queue) = (pool.backend().device(), pool.backend().queue());
    let first = array![1.0f32, 2.0, 3.0, 4.0].into_dyn();
    let second = array![10.0f32, 20.0, 30.0, 40.0].into_dyn();

    let mut copy = pool.zeros::<f32>([4]).unwrap();
    let tensor = pool.from_array(&first).unwrap();
    copy.copy_from(&tensor).unwrap();
    let place = tensor.block().offset();
    drop(tensor);
    let recycled = pool.from_array(&second).unwrap();
    assert_eq!(recycled.block().offset(), place, "the memory is used again at once");
    assert_eq!(
        copy.to_array().unwrap(),
        first,
        "through the stream, the reader sees what was there when it was recorded"
    );
    assert_eq!(recycled.to_array().unwrap(), second);

    // The same order of calls, by hand, with `write_buffer`: the reader sees what came later.
    let slab = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 512,
        usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let result = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 16,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    queue.write_buffer(&slab, 0, bytemuck::cast_slice(first.as_slice().unwrap()));
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&slab, 0, &result, 0, 16);
    queue.write_buffer(&slab, 0, bytemuck::cast_slice(second.as_slice().unwrap()));
    queue.submit([encoder.finish()]);
    result.map_async(wgpu::MapMode::Read, .., |mapped| mapped.unwrap());
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let seen: Vec<f32> = bytemuck::cast_slice(&result.get_mapped_range(..).unwrap()).to_vec();
    assert_eq!(seen, second.into_raw_vec_and_offset().0, "the naive way reads the wrong value");
}

#[test]
fn encode_records_in_order_and_its_errors_lose_nothing_else() {
    let Some(pool) = gpu::pool("encode_records_in_order_and_its_errors_lose_nothing_else", Config::new("1 MiB")) else {
        return;
    };
    let device = pool.backend().device();
    let pipeline = doubling(device);
    let mut tensor = pool.from_array(&array![1.0f32, 2.0, 3.0]).unwrap();
    double(&pool, &pipeline, &tensor).unwrap();

    // The closure's own error, a broken rule of wgpu, and a panic: none of them is recorded.
    let error = pool.encode(|encoder| {
        dispatch(device, encoder, &pipeline, tensor.binding()?, 3);
        Err::<(), _>(Error::new(ErrorKind::Invalid, "changed my mind"))
    });
    assert_eq!(error.unwrap_err().to_string(), "changed my mind");
    let error = pool
        .encode(|encoder| {
            dispatch(device, encoder, &pipeline, tensor.binding()?, 3);
            let binding = tensor.binding()?;
            encoder.copy_buffer_to_buffer(binding.buffer, 0, binding.buffer, 0, 3);
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device, "{error}");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.encode(|encoder| -> Result<(), Error> {
            dispatch(device, encoder, &pipeline, tensor.binding()?, 3);
            panic!("in the closure")
        })
    }));
    assert!(panic.is_err());

    // Calls on the stream from inside the closure.
    pool.encode(|_| {
        assert_eq!(pool.submit().unwrap_err().kind(), ErrorKind::Recording);
        assert_eq!(pool.zeros::<f32>([1]).unwrap_err().kind(), ErrorKind::Recording);
        assert_eq!(tensor.to_array().unwrap_err().kind(), ErrorKind::Recording);
        assert_eq!(tensor.fill(1.0).unwrap_err().kind(), ErrorKind::Recording);
        assert_eq!(pool.encode(|_| Ok(())).unwrap_err().kind(), ErrorKind::Recording);
        // Memory alone is no matter of the stream.
        drop(pool.uninit::<f32>([100])?);
        Ok(())
    })
    .unwrap();
    double(&pool, &pipeline, &tensor).unwrap();
    assert_eq!(tensor.to_array().unwrap(), array![4.0f32, 8.0, 12.0].into_dyn());
    pool.check();
}

#[test]
fn bindings_are_exact_and_never_empty() {
    let Some(pool) = gpu::pool("bindings_are_exact_and_never_empty", Config::new("1 MiB")) else { return };
    for (len, bytes) in [(1usize, 4u64), (5, 20), (1000, 4000)] {
        let tensor = pool.uninit::<f32>([len]).unwrap();
        let binding = tensor.binding().unwrap();
        assert_eq!(binding.size.unwrap().get(), bytes);
        assert_eq!(binding.offset % pool.limits().alignment_bytes, 0);
    }
    let odd = pool.uninit::<u8>([5]).unwrap();
    assert_eq!(odd.binding().unwrap().size.unwrap().get(), 8);
    let empty = pool.uninit::<f32>([3, 0]).unwrap();
    let error = empty.binding().unwrap_err();
    assert!(error.to_string().contains("[3, 0]"), "{error}");
    assert_eq!(empty.to_array().unwrap().len(), 0);
}

#[test]
fn two_tensors_of_one_slab_are_bound_in_one_dispatch() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single);
    let Some(pool) = gpu::pool("two_tensors_of_one_slab_are_bound_in_one_dispatch", config) else { return };
    let device = pool.backend().device();
    let source = "@group(0) @binding(0) var<storage, read_write> a: array<f32>;
        @group(0) @binding(1) var<storage, read_write> b: array<f32>;
        @compute @workgroup_size(1) fn main() { b[0] = a[0] + 1.0; }";
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let a = pool.from_array(&array![41.0f32]).unwrap();
    let b = pool.zeros::<f32>([1]).unwrap();
    assert_eq!(a.block().slab(), b.block().slab());
    pool.encode(|encoder| {
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(a.binding()?) },
                wgpu::BindGroupEntry { binding: 1, resource: wgpu::BindingResource::Buffer(b.binding()?) },
            ],
        });
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        Ok(())
    })
    .unwrap();
    assert_eq!(b.to_array().unwrap(), array![42.0f32].into_dyn());
}

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
    let error = pool.alloc(Request::bytes(4).align(4096)).unwrap_err();
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
    dispatch(device, &mut encoder, &pipeline, loans.0.binding(), 2);
    dispatch(device, &mut encoder, &pipeline, loans.1.binding(), 64);
    drop(tensor);
    assert_eq!(pool.stats().retired_bytes, held, "{:?}", pool.stats());
    pool.check();
    let submission = queue.submit([encoder.finish()]);
    loans.0.submitted(&submission);
    loans.1.submitted(&submission);
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
    loan.submitted(&queue.submit([]));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while pool.stats().retired_bytes > 0 {
        assert!(std::time::Instant::now() < deadline, "{:?}", pool.stats());
    }

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

#[test]
fn threads_share_the_stream() {
    let Some(pool) = gpu::pool("threads_share_the_stream", Config::new("8 MiB").staging(16 * KIB)) else { return };
    std::thread::scope(|scope| {
        for thread in 0..3u32 {
            let pool = pool.clone();
            scope.spawn(move || {
                for round in 0..20u32 {
                    let elements = vec![thread * 1000 + round; 5_000 + thread as usize];
                    let mut tensor = pool.uninit::<u32>([elements.len()]).unwrap();
                    tensor.upload(&elements).unwrap();
                    let mut copy = pool.uninit::<u32>([elements.len()]).unwrap();
                    copy.copy_from(&tensor).unwrap();
                    drop(tensor);
                    let mut seen = vec![0; elements.len()];
                    copy.download(&mut seen).unwrap();
                    assert!(seen == elements, "thread {thread} round {round}");
                }
            });
        }
    });
    pool.check();
    assert_eq!(pool.stats().used_bytes, 0);
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
        dispatch(device, encoder, &pipeline, tensor.binding()?, elements);
        drop(tensor);
        assert_eq!(pool.stats().retired_bytes, 3 * MIB / 4);
        assert!(pool.uninit::<f32>([elements]).unwrap_err().is_full());
        Ok(())
    })
    .unwrap();
    // Afterwards the pool can send the work on its way and wait for it.
    assert!(pool.uninit::<f32>([elements]).is_ok());
}

/// However little room a chunk of the ring has left, a fill records a copy for each chunk's length, not for each word.
#[test]
fn a_fill_stages_as_much_as_a_chunk_holds() {
    let config = Config::new("64 MiB").staging(64 * KIB);
    let Some(pool) = gpu::pool("a_fill_stages_as_much_as_a_chunk_holds", config) else { return };
    let mut tensor = pool.zeros::<f32>([1 << 21]).unwrap();
    let mut most = pool.uninit::<u8>([8 * KIB as usize - 8]).unwrap();
    let mut timed = |leave_eight: bool| {
        pool.submit().unwrap();
        if leave_eight {
            // A chunk has 8 KiB: 8 bytes of it are left.
            most.upload(&vec![1; most.elements()]).unwrap();
        }
        let begin = std::time::Instant::now();
        tensor.fill(2.5).unwrap();
        begin.elapsed()
    };
    let (fresh, begun) = (timed(false).min(timed(false)), timed(true).min(timed(true)));
    // A million copies of 8 bytes took 350 times as long as a thousand of 8 KiB.
    assert!(begun < 30 * fresh, "{begun:?} against {fresh:?}");
    assert!(tensor.to_array().unwrap().iter().all(|x| *x == 2.5));
}

/// wgpu keeps what is recorded in memory that no budget covers, so the stream does not let it grow without end.
#[test]
fn a_program_that_only_records_is_sent_on_its_way() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single);
    let Some(pool) = gpu::pool("a_program_that_only_records_is_sent_on_its_way", config) else { return };
    let a = pool.from_array(&array![1.0f32, 2.0]).unwrap();
    let mut b = pool.zeros::<f32>([2]).unwrap();
    let before = pool.backend().recorded();
    for _ in 0..5_000 {
        b.copy_from(&a).unwrap();
    }
    assert!(pool.backend().recorded() >= before + 4);
    for _ in 0..5_000 {
        b.fill(0.0).unwrap();
    }
    assert!(pool.backend().recorded() >= before + 8);
    // Small enough for the staging ring to take 16,384 of them.
    for _ in 0..5_000 {
        b.upload(&[3.0, 4.0]).unwrap();
    }
    assert!(pool.backend().recorded() >= before + 12);
    b.copy_from(&a).unwrap();
    assert_eq!(b.to_array().unwrap(), a.to_array().unwrap());
}

#[test]
fn submitted_work_is_not_done_before_the_device_says_so() {
    let Some(pool) = gpu::pool("submitted_work_is_not_done_before_the_device_says_so", Config::new("64 MiB")) else {
        return;
    };
    let pipeline = doubling(pool.backend().device());
    let tensor = pool.zeros::<f32>([4_000_000]).unwrap();
    pool.encode(|encoder| {
        for _ in 0..300 {
            dispatch(pool.backend().device(), encoder, &pipeline, tensor.binding()?, tensor.elements());
        }
        Ok(())
    })
    .unwrap();
    pool.submit().unwrap();
    let (recorded, completed) = (pool.backend().recorded(), pool.backend().completed());
    assert!(completed < recorded, "{completed} of {recorded}");
    pool.backend().complete(recorded).unwrap();
    assert!(pool.backend().completed() >= recorded);
}

#[test]
fn commands_that_cannot_be_submitted_fail_alone() {
    let config = Config::new("1 MiB").staging(4 * KIB);
    let Some(pool) = gpu::pool("commands_that_cannot_be_submitted_fail_alone", config) else { return };
    let device = pool.backend().device();
    let pipeline = doubling(device);
    let mut tensor = pool.zeros::<f32>([100]).unwrap();
    // Often enough to go round the staging ring.
    for round in 0..20 {
        let elements: Vec<f32> = (0..100).map(|i| (round * 100 + i) as f32).collect();
        tensor.upload(&elements).unwrap();
        let own = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 64,
            usage: wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        pool.encode(|encoder| {
            encoder.clear_buffer(&own, 0, None);
            Ok(())
        })
        .unwrap();
        own.destroy();
        double(&pool, &pipeline, &tensor).unwrap();
        assert_eq!(pool.submit().unwrap_err().kind(), ErrorKind::Device);
        let doubled: Vec<f32> = elements.iter().map(|x| 2.0 * x).collect();
        let mut seen = vec![0.0; 100];
        tensor.download(&mut seen).unwrap();
        assert_eq!(seen, doubled, "round {round}: what was recorded before and after is done");
    }
}

#[test]
fn a_program_that_only_encodes_is_sent_on_its_way() {
    let Some(pool) = gpu::pool("a_program_that_only_encodes_is_sent_on_its_way", Config::new("1 MiB")) else { return };
    for _ in 0..64 {
        pool.encode(|_| Ok(())).unwrap();
    }
    pool.backend().device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    assert!(pool.backend().completed() >= 1, "nobody called submit");
}

#[test]
fn a_copy_inside_a_slab_may_be_larger_than_one_dispatch_of_its_shader() {
    let test = "a_copy_inside_a_slab_may_be_larger_than_one_dispatch_of_its_shader";
    let Some(pool) = gpu::pool(test, Config::new("140 MiB").slabs(SlabPolicy::Single)) else { return };
    // 65,535 workgroups of 256 words are 64 MiB.
    let elements: Vec<u32> = (0..17_000_000).map(|i: u32| i.wrapping_mul(2_654_435_761)).collect();
    let mut source = pool.uninit::<u32>([elements.len()]).unwrap();
    source.upload(&elements).unwrap();
    let mut target = pool.uninit::<u32>([elements.len()]).unwrap();
    assert_eq!(source.block().slab(), target.block().slab());
    target.copy_from(&source).unwrap();
    let mut seen = vec![0; elements.len()];
    target.download(&mut seen).unwrap();
    assert!(seen == elements);
}
