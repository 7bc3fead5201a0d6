//! The stream: the one order of the work on a GPU, and what may not disturb it.

use crate::support::gpu::{self, dispatch, double, doubling};
use ndarray::array;
use tensorpool::{Backend, Config, Error, ErrorKind, Gpu, Movable, SlabPolicy};

const KIB: u64 = 1 << 10;

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

/// Work that is recorded before a tensor moves finds it where it was, work that is recorded later where it is.
#[test]
fn tensors_move_in_the_order_of_the_stream() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single).staging(64 * KIB);
    let Some(pool) = gpu::pool("tensors_move_in_the_order_of_the_stream", config) else { return };
    let device = pool.backend().device();
    let pipeline = doubling(device);
    let elements = |len: usize, first: f32| (0..len).map(|element| first + element as f32).collect::<Vec<f32>>();
    let hole = pool.zeros::<f32>([8 << 10]).unwrap();
    // Slides, over itself; goes whole; is lent and stays.
    let mut large = pool.uninit::<f32>([(64 << 10) - 3]).unwrap();
    let mut odd = pool.uninit::<u8>([5001]).unwrap();
    let mut lent = pool.zeros::<f32>([1024]).unwrap();
    let mut last = pool.uninit::<f32>([4 << 10]).unwrap();
    let bytes: Vec<u8> = (0..5001).map(|at| at as u8).collect();
    large.upload(&elements(large.elements(), 0.0)).unwrap();
    odd.upload(&bytes).unwrap();
    last.upload(&elements(4 << 10, 7.0)).unwrap();
    double(&pool, &pipeline, &large).unwrap();
    let loan = lent.lend().unwrap();
    drop(hole);
    let places = [large.block().offset(), odd.block().offset(), lent.block().offset(), last.block().offset()];

    let within = pool.encode(|_| pool.compact([&mut large]).map(drop));
    assert_eq!(within.unwrap_err().kind(), ErrorKind::Recording);
    let tensors: [&mut dyn Movable<Gpu>; 4] = [&mut large, &mut odd, &mut lent, &mut last];
    let done = pool.compact(tensors).unwrap();
    double(&pool, &pipeline, &large).unwrap();
    double(&pool, &pipeline, &last).unwrap();

    assert_eq!(done.blocks_moved, 3, "{done}");
    assert_eq!((large.block().offset(), lent.block().offset()), (0, places[2]));
    assert!(odd.block().offset() < places[1] && last.block().offset() < places[2], "{odd:?} {last:?}");
    // The places that were left go to others at once.
    let other = ndarray::Array1::from_elem(1024, -1.0f32);
    let others: Vec<_> = std::iter::from_fn(|| pool.from_array(&other).ok()).collect();
    assert!(others.len() > 100);
    let mut seen = vec![0.0; large.elements()];
    large.download(&mut seen).unwrap();
    assert!(seen.iter().zip(elements(seen.len(), 0.0)).all(|(seen, element)| *seen == 4.0 * element));
    let mut seen = vec![0.0; last.elements()];
    last.download(&mut seen).unwrap();
    assert!(seen.iter().zip(elements(seen.len(), 7.0)).all(|(seen, element)| *seen == 2.0 * element));
    let mut seen = vec![0; 5001];
    odd.download(&mut seen).unwrap();
    assert!(seen == bytes);
    loan.cancel();
    pool.check();
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
        dispatch(device, &pipeline, tensor.binding(encoder)?, 3, encoder);
        Err::<(), _>(Error::new(ErrorKind::Invalid, "changed my mind"))
    });
    assert_eq!(error.unwrap_err().to_string(), "changed my mind");
    let error = pool
        .encode(|encoder| {
            dispatch(device, &pipeline, tensor.binding(encoder)?, 3, encoder);
            let binding = tensor.binding(encoder)?;
            encoder.copy_buffer_to_buffer(binding.buffer, 0, binding.buffer, 0, 3);
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device, "{error}");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.encode(|encoder| -> Result<(), Error> {
            dispatch(device, &pipeline, tensor.binding(encoder)?, 3, encoder);
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

/// The commands of another encoder get their place in the stream: after what was recorded before, before what comes later.
#[test]
fn appended_commands_keep_their_place() {
    let Some(pool) = gpu::pool("appended_commands_keep_their_place", Config::new("1 MiB")) else { return };
    let device = pool.backend().device();
    let pipeline = doubling(device);
    let tensor = pool.from_array(&array![1.0f32, 2.0]).unwrap();
    let add_one = gpu::pipeline(
        device,
        "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            if (id.x < arrayLength(&x)) { x[id.x] = 1.0 + x[id.x]; }
        }",
    );
    let own = |fails: bool| {
        pool.encode(|encoder| {
            dispatch(device, &pipeline, tensor.binding(encoder)?, 2, encoder);
            let mut own = device.create_command_encoder(&Default::default());
            dispatch(device, &add_one, tensor.binding(encoder)?, 2, &mut own);
            encoder.append(own.finish());
            dispatch(device, &pipeline, tensor.binding(encoder)?, 2, encoder);
            if fails { Err(Error::new(ErrorKind::Invalid, "changed my mind")) } else { Ok(()) }
        })
    };
    own(false).unwrap();
    own(true).unwrap_err();
    assert_eq!(tensor.to_array().unwrap(), array![6.0f32, 10.0].into_dyn());
    pool.check();
}

/// A pass can leave the closure, and takes its commands nowhere.
#[test]
fn what_a_closure_keeps_is_never_recorded() {
    let Some(pool) = gpu::pool("what_a_closure_keeps_is_never_recorded", Config::new("1 MiB")) else { return };
    let device = pool.backend().device();
    let pipeline = doubling(device);
    let tensor = pool.from_array(&array![1.0f32, 2.0]).unwrap();
    for fails in [false, true] {
        let mut kept = None;
        let error = pool.encode(|encoder| {
            dispatch(device, &pipeline, tensor.binding(encoder)?, 2, encoder);
            kept = Some(encoder.begin_compute_pass(&Default::default()).forget_lifetime());
            if fails { Err(Error::new(ErrorKind::Invalid, "changed my mind")) } else { Ok(()) }
        });
        let expected = if fails { ErrorKind::Invalid } else { ErrorKind::Device };
        assert_eq!(error.unwrap_err().kind(), expected);
        // wgpu reports that the pass ends after its encoder.
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        drop(kept);
        assert_eq!(pollster::block_on(scope.pop()).is_some(), !fails);
    }
    double(&pool, &pipeline, &tensor).unwrap();
    assert_eq!(tensor.to_array().unwrap(), array![2.0f32, 4.0].into_dyn());
    pool.check();
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

/// However large it is and however little staging there is: not as many copies as fill it, which would be sent on the way
/// every 1,024.
#[test]
fn a_fill_is_two_operations() {
    let config = Config::new("18 MiB").slabs(SlabPolicy::Single).staging(KIB);
    let Some(pool) = gpu::pool("a_fill_is_two_operations", config) else { return };
    let mut large = pool.uninit::<u32>([4 << 20]).unwrap();
    let before = pool.backend().recorded();
    large.fill(7).unwrap();
    assert_eq!(pool.backend().recorded(), before + 1);
    assert!(large.to_array().unwrap().iter().all(|element| *element == 7));
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
fn submitted_work_is_not_done_before_the_device_says_so() {
    let Some(pool) = gpu::pool("submitted_work_is_not_done_before_the_device_says_so", Config::new("64 MiB")) else {
        return;
    };
    let pipeline = doubling(pool.backend().device());
    let tensor = pool.zeros::<f32>([4_000_000]).unwrap();
    pool.encode(|encoder| {
        for _ in 0..300 {
            dispatch(pool.backend().device(), &pipeline, tensor.binding(encoder)?, tensor.elements(), encoder);
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
