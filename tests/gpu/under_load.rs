//! Memory that the GPU or a foreign encoder still uses, the staging ring under many threads, and waiting for both.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::gpu::{self, LONG, allocated_bytes, dispatch, doubling, until};
use ndarray::array;
use tensorpool::{Backend, Config, Encoder, ErrorKind, Gpu, Pool, Request, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Everything that a pool of one slab can hand out.
fn whole(pool: &Pool<Gpu>) -> Request<'static> {
    Request::bytes(pool.stats().budget_bytes - pool.stats().staging_bytes)
}

/// A foreign encoder that doubles the lent memory in place after copying it to a buffer of the caller's own.
struct Foreign {
    commands: wgpu::CommandBuffer,
    seen: wgpu::Buffer,
}

impl Foreign {
    fn record(pool: &Pool<Gpu>, binding: wgpu::BufferBinding<'_>) -> Self {
        let device = pool.backend().device();
        let bytes = binding.size.expect("a loan has a size").get();
        let seen = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(binding.buffer, binding.offset, &seen, 0, bytes);
        dispatch(device, &doubling(device), binding, bytes as usize / 4, &mut encoder);
        Self { commands: encoder.finish(), seen }
    }

    fn seen(buffer: &wgpu::Buffer, device: &wgpu::Device) -> Vec<f32> {
        buffer.map_async(wgpu::MapMode::Read, .., |mapped| mapped.unwrap());
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        bytemuck::cast_slice(&buffer.get_mapped_range(..).unwrap()).to_vec()
    }
}

#[test]
fn lent_blocks_are_counted_and_come_back_to_one_who_waits() {
    let config = Config::new("64 KiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let Some(pool) = gpu::pool("lent_blocks_are_counted_and_come_back_to_one_who_waits", config) else { return };
    let tensor = pool.from_array(&array![1.0f32, 2.0, 3.0]).unwrap();
    let held = tensor.block().bytes_held();
    let loan = tensor.lend().unwrap();
    let foreign = Foreign::record(&pool, loan.binding());
    assert_eq!(pool.stats().retired_bytes, 0, "a block that is held is used");
    drop(tensor);
    let stats = pool.stats();
    assert_eq!((stats.retired_bytes, stats.used_bytes, stats.blocks), (held, 0, 0));
    let text = stats.to_string();
    let shown = text.lines().find(|line| line.trim_start().starts_with("retired"));
    assert!(shown.is_some_and(|line| line.ends_with(&format!(" {held} B"))), "{stats}");
    let error = pool.alloc(whole(&pool)).unwrap_err();
    assert!(error.is_full() && error.shortage().unwrap().retired_bytes == held, "{error}");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.alloc(whole(&pool).wait(LONG)).map(drop));
        until(|| pool.stats().waiting == 1);
        // From here on nobody calls the pool but the one who waits.
        pool.submit_lent([foreign.commands], [loan]).unwrap();
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(pool.stats().retired_bytes, 0);
    assert_eq!(Foreign::seen(&foreign.seen, pool.backend().device()), [1.0, 2.0, 3.0]);
    pool.check();
}

/// With holds as without: the last of several ends it, and a cancelled loan counts as ended.
#[test]
fn a_block_with_several_holds_waits_for_the_last() {
    let config = Config::new("64 KiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let Some(pool) = gpu::pool("a_block_with_several_holds_waits_for_the_last", config) else { return };
    let tensor = pool.zeros::<f32>([64]).unwrap();
    let (first, second, third) = (tensor.lend().unwrap(), tensor.block().hold(), tensor.lend().unwrap());
    drop(tensor);
    pool.submit().unwrap();
    first.submitted();
    pool.backend().complete(pool.backend().recorded()).unwrap();
    third.cancel();
    assert!(pool.alloc(whole(&pool).wait(Duration::from_millis(30))).unwrap_err().is_timeout());
    drop(second);
    assert!(pool.alloc(whole(&pool).wait(LONG)).is_ok());
    pool.check();
}

/// A closure cannot overtake another, however long that takes: what is recorded first is first in the queue.
#[test]
fn the_stream_keeps_its_order_whatever_order_closures_could_finish_in() {
    let config = Config::new("64 KiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let test = "the_stream_keeps_its_order_whatever_order_closures_could_finish_in";
    let Some(pool) = gpu::pool(test, config) else { return };
    let shared = pool.zeros::<u32>([64]).unwrap();
    let sources = [7u32, 9].map(|value| pool.from_array(&ndarray::Array1::from_elem(64, value)).unwrap());
    let copy = |encoder: &mut Encoder<'_>, source: &Tensor<u32, Gpu>| {
        // Through a buffer of its own: both tensors are of one slab.
        let (from, to) = (source.binding(encoder)?, shared.binding(encoder)?);
        let between = pool.backend().device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 256,
            usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(from.buffer, from.offset, &between, 0, 256);
        encoder.copy_buffer_to_buffer(&between, 0, to.buffer, to.offset, 256);
        Ok(())
    };
    for _ in 0..20 {
        let (entered, is_entered) = mpsc::channel();
        let (is_over, called) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                pool.encode(|encoder| {
                    entered.send(()).unwrap();
                    // The quick closure is ready to record, and would be done long before this one.
                    until(|| called.load(Ordering::SeqCst));
                    thread::sleep(Duration::from_millis(2));
                    copy(encoder, &sources[0])?;
                    is_over.store(true, Ordering::SeqCst);
                    Ok(())
                })
                .unwrap();
            });
            is_entered.recv().unwrap();
            called.store(true, Ordering::SeqCst);
            pool.encode(|encoder| {
                assert!(is_over.load(Ordering::SeqCst), "two closures at one time");
                copy(encoder, &sources[1])
            })
            .unwrap();
        });
        assert!(shared.to_array().unwrap().iter().all(|element| *element == 9));
    }
}

/// Foreign encoders are submitted in whatever order their owner likes, and long after their tensors are gone.
#[test]
fn lent_memory_is_not_handed_out_before_foreign_work_has_finished() {
    let config = Config::new("64 KiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let test = "lent_memory_is_not_handed_out_before_foreign_work_has_finished";
    let Some(pool) = gpu::pool(test, config) else { return };
    let device = pool.backend().device();
    for round in 0..10 {
        let lent = [1.0f32, 2.0].map(|value| {
            let tensor = pool.from_array(&ndarray::Array1::from_elem(512, value)).unwrap();
            let loan = tensor.lend().unwrap();
            let foreign = Foreign::record(&pool, loan.binding());
            let place = tensor.block().offset()..tensor.block().offset() + tensor.block().bytes_held();
            (foreign, loan, place)
        });
        // Whoever asks now gets other memory, and all of that.
        let mut tensors = Vec::new();
        while let Ok(mut tensor) = pool.uninit::<f32>([256]) {
            let begin = tensor.block().offset();
            for (_, _, place) in &lent {
                let end = begin + tensor.block().bytes_held();
                assert!(end <= place.start || begin >= place.end, "round {round}: lent memory was handed out");
            }
            tensor.fill(100.0 + tensors.len() as f32).unwrap();
            tensors.push(tensor);
        }
        assert!(tensors.len() > 50, "{}", tensors.len());
        pool.submit().unwrap();
        let [first, second] = lent;
        // Recorded first, submitted last.
        let mut buffers = Vec::new();
        for (foreign, loan, _) in [second, first] {
            pool.submit_lent([foreign.commands], [loan]).unwrap();
            buffers.push(foreign.seen);
        }
        assert!(Foreign::seen(&buffers[0], device).iter().all(|x| *x == 2.0), "round {round}");
        assert!(Foreign::seen(&buffers[1], device).iter().all(|x| *x == 1.0), "round {round}");
        for (index, tensor) in tensors.iter().enumerate() {
            let expected = 100.0 + index as f32;
            assert!(tensor.to_array().unwrap().iter().all(|x| *x == expected), "round {round} tensor {index}");
        }
        drop(tensors);
        assert!(pool.alloc(whole(&pool).wait(LONG)).is_ok(), "round {round}: all of it is home");
        pool.check();
    }
}

/// Many transfers in flight from several threads, most of them larger than the ring.
#[test]
fn a_small_ring_serves_many_threads_in_order() {
    let config = Config::new("16 MiB").slabs(SlabPolicy::Single).staging(4 * KIB);
    let Some(pool) = gpu::pool("a_small_ring_serves_many_threads_in_order", config) else { return };
    pool.zeros::<u32>([1]).unwrap().to_array().unwrap();
    let (before, allocated) = (pool.stats(), allocated_bytes(&pool));
    const SLOTS: usize = 100;
    thread::scope(|scope| {
        for thread in 0..4usize {
            let pool = &pool;
            scope.spawn(move || {
                // 4 bytes to 20 KiB each: a chunk of the ring has 512 bytes.
                let elements = [1, 100, 777, 5000][thread];
                let mut tensor = pool.uninit::<u32>([elements]).unwrap();
                let mut slots = pool.zeros::<u32>([SLOTS, elements]).unwrap();
                for slot in 0..SLOTS {
                    // None of these waits for the device, but where the ring is full.
                    tensor.upload(&vec![(thread * 1000 + slot) as u32; elements]).unwrap();
                    slots.copy_range_from(slot * elements, &tensor, 0..elements).unwrap();
                }
                let seen = slots.to_array().unwrap();
                for (slot, row) in seen.outer_iter().enumerate() {
                    let expected = (thread * 1000 + slot) as u32;
                    assert!(row.iter().all(|element| *element == expected), "thread {thread} slot {slot}");
                }
            });
        }
        // And one that moves 512 times the ring up and down.
        scope.spawn(|| {
            let elements: Vec<u32> = (0..MIB as u32 / 2).collect();
            let mut tensor = pool.uninit::<u32>([elements.len()]).unwrap();
            tensor.upload(&elements).unwrap();
            let mut seen = vec![0; elements.len()];
            tensor.download(&mut seen).unwrap();
            assert!(seen == elements);
        });
    });
    let after = pool.stats();
    assert_eq!((before.reserved_bytes, before.staging_bytes), (after.reserved_bytes, after.staging_bytes));
    assert_eq!(after.staging_bytes, 4 * KIB);
    assert_eq!(allocated_bytes(&pool), allocated, "wgpu's own count of the driver's memory");
    pool.check();
}

/// Any thread's poll may collect the callbacks of all, and take its time to run them.
#[test]
fn callbacks_that_another_thread_holds_up_are_no_lost_device() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::PerBlock).staging(4 * KIB);
    let Some(pool) = gpu::pool("callbacks_that_another_thread_holds_up_are_no_lost_device", config) else { return };
    let (device, queue) = (pool.backend().device(), pool.backend().queue());
    let own = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 64,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let (stop, slow) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                own.map_async(wgpu::MapMode::Read, .., |_| thread::sleep(Duration::from_millis(3)));
                queue.on_submitted_work_done(|| thread::sleep(Duration::from_millis(3)));
                let _ = device.poll(wgpu::PollType::wait_indefinitely());
                own.unmap();
                slow.fetch_add(1, Ordering::SeqCst);
            }
        });
        let run = || -> tensorpool::Result<()> {
            for round in (0u32..).take_while(|round| *round < 100 || slow.load(Ordering::SeqCst) < 30) {
                let elements = vec![round; 2000];
                let mut tensor = pool.uninit::<u32>([2000])?;
                tensor.upload(&elements)?;
                let mut seen = vec![0; 2000];
                tensor.download(&mut seen)?;
                assert!(seen == elements, "round {round}");
                // Recorded work that uses all there is; then the next request needs it back, and does not wait in line.
                drop(tensor);
                let all = pool.alloc(whole(&pool).zeroed())?;
                drop(all);
            }
            Ok(())
        };
        let result = run();
        stop.store(true, Ordering::SeqCst);
        result.unwrap();
    });
    pool.check();
}

/// One thread, and all memory held by work that is recorded and not submitted: waiting sends it first.
#[test]
fn waiting_submits_what_holds_the_memory() {
    let config = Config::new(MIB).slabs(SlabPolicy::PerBlock).staging(0);
    let Some(pool) = gpu::pool("waiting_submits_what_holds_the_memory", config) else { return };
    let device = pool.backend().device();
    let pipeline = doubling(device);
    let elements = (MIB / 4) as usize;
    let all = || Request::bytes(MIB).wait(LONG);
    for inside in [true, false] {
        for is_async in [true, false] {
            let tensor = pool.uninit::<f32>([elements]).unwrap();
            let mut outside = None;
            pool.encode(|encoder| {
                dispatch(device, &pipeline, tensor.binding(encoder)?, elements, encoder);
                if !inside {
                    outside = Some(tensor);
                }
                Ok(())
            })
            .unwrap();
            drop(outside);
            assert_eq!(pool.stats().retired_bytes, MIB, "inside {inside}");
            let waited = pool.stats().allocations_waited;
            let block = if is_async { pollster::block_on(pool.alloc_async(all())) } else { pool.alloc(all()) };
            assert_eq!(block.unwrap().bytes(), MIB, "inside {inside} async {is_async}");
            if is_async {
                assert_eq!(pool.stats().allocations_waited, waited + 1, "it was in line");
            }
            pool.check();
        }
    }
    // A loan that was submitted: nobody polls the device but the pool's own thread.
    let tensor = pool.zeros::<f32>([elements]).unwrap();
    let loan = tensor.lend().unwrap();
    drop(tensor);
    pool.submit_lent([], [loan]).unwrap();
    assert!(pollster::block_on(pool.alloc_async(all())).is_ok());
    let batch = [Request::bytes(MIB / 2).wait(LONG), Request::bytes(MIB / 2).wait(LONG)];
    pool.zeros::<f32>([elements]).unwrap().fill(0.0).unwrap();
    assert_eq!(pollster::block_on(pool.alloc_all_async(&batch)).unwrap().len(), 2);
    pool.check();
}

/// The pool's helper must not wait for the stream: the thread that has it may be waiting for the helper.
#[test]
fn a_future_waited_for_while_recording_ends_at_its_deadline() {
    let config = Config::new(MIB).slabs(SlabPolicy::Single).staging(0);
    let Some(pool) = gpu::pool("a_future_waited_for_while_recording_ends_at_its_deadline", config) else { return };
    let held = pool.alloc(Request::bytes(MIB)).unwrap();
    let request = || Request::bytes(MIB).wait(Duration::from_millis(20));
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let result = pool.encode(|_| {
                let late = pollster::block_on(pool.alloc_async(request())).unwrap_err();
                Ok((late, pool.alloc(request()).unwrap_err()))
            });
            sender.send(result).unwrap();
        });
        let (late, blocking) = receiver.recv_timeout(LONG).expect("the deadline passes").unwrap();
        assert!(late.is_timeout() && blocking.is_timeout(), "{late}, {blocking}");
    });
    drop(held);
    pool.check();
}

/// Nor where it has a block to zero that was freed while recording.
#[test]
fn what_is_to_be_zeroed_waits_for_the_stream_and_nobody_with_it() {
    let name = "what_is_to_be_zeroed_waits_for_the_stream_and_nobody_with_it";
    let config = Config::new(MIB).slabs(SlabPolicy::Single).staging(0).zero_on_free(true);
    let Some(pool) = gpu::pool(name, config) else { return };
    let freed = pool.alloc(Request::bytes(MIB)).unwrap();
    let (sender, receiver) = mpsc::channel();
    let other = pool.clone();
    // Not joined if the test fails.
    thread::spawn(move || {
        let result = other.encode(|_| {
            drop(freed);
            let late = other.alloc_async(Request::bytes(MIB).wait(Duration::from_millis(20)));
            Ok(pollster::block_on(late).map(drop))
        });
        sender.send(result).unwrap();
    });
    let late = receiver.recv_timeout(LONG).expect("the deadline passes").unwrap().unwrap_err();
    assert!(late.is_timeout(), "{late}");
    assert_eq!(pollster::block_on(pool.alloc_async(Request::bytes(MIB).wait(LONG))).unwrap().bytes(), MIB);
    pool.check();
}

/// The thread that records may be waiting for the very block; with `zero_on_free` it would wait in vain, and is told so.
#[test]
fn a_drop_does_not_wait_for_the_thread_that_records() {
    let name = "a_drop_does_not_wait_for_the_thread_that_records";
    for zeroes in [false, true] {
        let config = Config::new(MIB).slabs(SlabPolicy::Single).staging(0).zero_on_free(zeroes);
        let Some(pool) = gpu::pool(name, config) else { return };
        let freed = pool.alloc(Request::bytes(MIB)).unwrap();
        let (sender, receiver) = mpsc::channel();
        let waited = pool.encode(|_| {
            // Not joined if the test fails.
            thread::spawn(move || {
                drop(freed);
                sender.send(()).unwrap();
            });
            receiver.recv_timeout(LONG).expect("the drop waits for the stream");
            Ok(pool.alloc(Request::bytes(MIB).wait(LONG)).map(drop))
        });
        let expected = if zeroes { Err(ErrorKind::Recording) } else { Ok(()) };
        assert_eq!(waited.unwrap().map_err(|error| error.kind()), expected);
        assert!(pool.alloc(Request::bytes(MIB)).is_ok());
        pool.check();
    }
}

/// A deadline is kept, and a future may be dropped, while a thread records: nobody in line waits for the stream.
#[test]
fn a_deadline_is_kept_while_a_thread_records() {
    let Some(pool) = gpu::pool(
        "a_deadline_is_kept_while_a_thread_records",
        Config::new(1u64 << 20).slabs(SlabPolicy::PerBlock).staging(0),
    ) else {
        return;
    };
    let _held = pool.alloc(Request::bytes(500 << 10)).unwrap();
    let other = pool.zeros::<u8>([500 << 10]).unwrap();
    let late = || Request::bytes(500 << 10).wait(Duration::from_millis(50));
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let recording = pool.encode(|_| {
            // What leaves with this cannot go before the closure has ended.
            drop(other);
            let same_thread = pollster::block_on(pool.alloc_async(late())).map(drop);
            scope.spawn(|| sender.send(pool.alloc(late()).map(drop)).unwrap());
            let other_thread = receiver.recv_timeout(Duration::from_secs(60));
            assert!(same_thread.unwrap_err().is_timeout());
            assert!(other_thread.expect("it waits for the stream").unwrap_err().is_timeout());
            Ok(())
        });
        recording.unwrap();
    });
    // Now it can.
    assert!(pool.alloc(Request::bytes(500 << 10).wait(Duration::from_secs(60))).is_ok());
    pool.check();
}
