//! What the backend asks of wgpu, in counts: a training step that repeats, and transfers.

use crate::support::gpu::{self, allocated_bytes};
use tensorpool::nn::{Optimizer, Settings, StepKind, Trainer};
use tensorpool::{Backend, Config, ErrorKind, Gpu, GpuStats, Pool, Request, SlabPolicy};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Returns the counts of each of the last `counted` steps of `steps`, whose losses stay on the device.
fn counts(pool: &Pool<Gpu>, settings: &Settings, kind: StepKind, steps: usize, counted: usize) -> Vec<GpuStats> {
    let mut trainer = Trainer::new(pool, settings.clone(), kind).unwrap();
    let images = vec![0.5; settings.batch * settings.widths[0]];
    let labels = vec![3; settings.batch];
    let _planning = pool.auto_plan().unwrap();
    let mut counts = Vec::new();
    for _ in 0..steps {
        let before = pool.backend().stats();
        pool.mark_step();
        trainer.record_step(&images, &labels).unwrap();
        counts.push(pool.backend().stats().since(&before));
    }
    let loss = trainer.step(&images, &labels).unwrap();
    assert!(loss.is_finite(), "{loss}");
    counts.split_off(steps - counted)
}

fn check(counts: &[GpuStats], what: &str) {
    for GpuStats { bind_groups, error_scopes, submissions, dispatches, .. } in counts {
        assert!(*dispatches > 20, "{what}: the step is recorded: {counts:?}");
        assert!(*bind_groups <= 1 && *error_scopes <= 3 && *submissions <= 2, "{what}: {counts:?}");
    }
}

/// With every optimizer: Adam's parameters differ from step to step, and its frugal step has more sets of them than places.
#[test]
fn a_step_that_repeats_makes_no_bind_group_and_one_submission() {
    for optimizer in [Optimizer::Sgd, Optimizer::MOMENTUM, Optimizer::ADAM] {
        for kind in [StepKind::Frugal, StepKind::Ordinary] {
            let config = Config::new("8 MiB").slabs(SlabPolicy::Single);
            let Some(pool) = gpu::pool("a_step_that_repeats_makes_no_bind_group_and_one_submission", config) else {
                return;
            };
            let widths = vec![64, 600, 500, 10];
            let settings = Settings { widths, batch: 32, optimizer, learning_rate: 0.01, seed: 7 };
            let counts = counts(&pool, &settings, kind, 48, 40);
            check(&counts, &format!("{optimizer:?}, {kind}"));
            if matches!((optimizer, kind), (Optimizer::Adam { .. }, StepKind::Frugal)) {
                assert!(counts[0].dispatches > 64, "more than there are places for parameters: {counts:?}");
            }
            let sent: u64 = counts.iter().map(|counts| counts.submissions).sum();
            assert!(sent > 0, "what is recorded is sent without being asked: {counts:?}");
        }
    }
}

/// 64 MiB have a ring that a batch of 401,408 bytes fits in; a ring that it goes round three times takes a submission each time.
#[test]
fn a_ring_as_large_as_a_batch_takes_one_submission_a_step() {
    let widths = vec![784, 512, 256, 10];
    let settings = Settings { widths, batch: 128, optimizer: Optimizer::MOMENTUM, learning_rate: 0.01, seed: 7 };
    let config = || Config::new("64 MiB").slabs(SlabPolicy::Single);
    let test = "a_ring_as_large_as_a_batch_takes_one_submission_a_step";
    let Some(roomy) = gpu::pool(test, config()) else { return };
    let small = gpu::pool(test, config().staging(256 * KIB)).unwrap();
    check(&counts(&roomy, &settings, StepKind::Frugal, 8, 4), "a ring of 1 MiB");
    for counts in counts(&small, &settings, StepKind::Frugal, 8, 4) {
        assert!((3..=4).contains(&counts.submissions) && counts.bind_groups == 0, "{counts:?}");
        assert_eq!(counts.error_scopes, 3 * counts.submissions, "{counts:?}");
    }
}

/// A bind group keeps the buffer of its slab alive: one that outlived the slab would be memory over the budget.
#[test]
fn bind_groups_that_are_kept_keep_no_slab() {
    let config = Config::new("64 MiB").slabs(SlabPolicy::PerBlock).staging(64 * KIB);
    let Some(pool) = gpu::pool("bind_groups_that_are_kept_keep_no_slab", config) else { return };
    // Compiles both shaders.
    let mut first = pool.zeros::<u32>([10_000]).unwrap();
    first.fill(7).unwrap();
    let done = || pool.backend().complete(pool.backend().recorded()).unwrap();
    done();
    let Some(before) = allocated_bytes(&pool) else { return };
    let groups = pool.backend().stats().bind_groups;
    for round in 0..6u32 {
        let mut large = pool.zeros::<u32>([(32 * MIB / 4) as usize]).unwrap();
        large.fill(round + 1).unwrap();
        // The same ranges again: the bind group is there.
        large.fill(round + 2).unwrap();
        assert_eq!(pool.backend().stats().bind_groups, groups + u64::from(round) + 1);
        assert!(allocated_bytes(&pool).unwrap() >= before + 32 * MIB);
        drop(large);
        done();
        pool.trim();
        pool.check();
        assert!(allocated_bytes(&pool).unwrap() < before + MIB, "round {round}: the slab's memory is still there");
    }
    first.fill(9).unwrap();
    assert_eq!(pool.backend().stats().bind_groups, groups + 6, "the bind group of a slab that stays is kept");
    assert!(first.to_array().unwrap().iter().all(|element| *element == 9));
}

/// wgpu refuses a bind group of a destroyed buffer, and gives an invalid one back: a second use of that would be no error of its own.
#[test]
fn a_bind_group_that_was_refused_is_not_kept() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::PerBlock);
    let Some(pool) = gpu::pool("a_bind_group_that_was_refused_is_not_kept", config) else { return };
    let mut destroyed = pool.zeros::<u32>([10_000]).unwrap();
    let mut other = pool.zeros::<u32>([10_000]).unwrap();
    pool.encode(|encoder| {
        destroyed.binding(encoder)?.buffer.destroy();
        Ok(())
    })
    .unwrap();
    // A pattern that is uploaded first, and then repeated.
    for _ in 0..3 {
        let before = pool.backend().stats().bind_groups;
        let error = destroyed.fill(7).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device, "{error}");
        assert_eq!(pool.backend().stats().bind_groups, before + 1);
        // The upload of the pattern goes to the same buffer, and is refused when it is sent.
        assert_eq!(pool.submit().unwrap_err().kind(), ErrorKind::Device);
    }
    other.fill(8).unwrap();
    assert!(other.to_array().unwrap().iter().all(|element| *element == 8));
}

/// More bind groups than are kept: each is right, and the table is emptied and filled anew.
#[test]
fn more_ranges_than_are_kept_are_bound_rightly() {
    let config = Config::new("8 MiB").slabs(SlabPolicy::Single);
    let Some(pool) = gpu::pool("more_ranges_than_are_kept_are_bound_rightly", config) else { return };
    const ROWS: usize = 1500;
    let elements: Vec<u32> = (0..ROWS as u32 * 64).map(|at| at.wrapping_mul(2_654_435_761)).collect();
    let mut from = pool.uninit::<u32>([ROWS * 64]).unwrap();
    from.upload(&elements).unwrap();
    let mut to = pool.zeros::<u32>([ROWS * 64]).unwrap();
    for round in 0..2 {
        let before = pool.backend().stats();
        for row in 0..ROWS {
            to.copy_range_from((ROWS - 1 - row) * 64, &from, row * 64..(row + 1) * 64).unwrap();
        }
        let counts = pool.backend().stats().since(&before);
        assert_eq!((counts.dispatches, counts.bind_groups), (1500, 1500), "round {round}");
        let seen = to.to_array().unwrap().into_raw_vec_and_offset().0;
        assert!(seen.chunks(64).rev().flatten().eq(&elements), "round {round}");
        to.fill(0).unwrap();
    }
}

/// A download leaves its chunk mapped; the submission that follows unmaps it.
#[test]
fn a_download_is_one_submission_in_three_scopes() {
    let Some(pool) = gpu::pool("a_download_is_one_submission_in_three_scopes", Config::new("1 MiB")) else { return };
    let mut tensor = pool.uninit::<u32>([4]).unwrap();
    for round in 0..20 {
        let before = pool.backend().stats();
        tensor.upload(&[round; 4]).unwrap();
        let mut seen = [0; 4];
        tensor.download(&mut seen).unwrap();
        assert_eq!(seen, [round; 4]);
        let GpuStats { error_scopes, submissions, copies, .. } = pool.backend().stats().since(&before);
        assert_eq!((error_scopes, submissions, copies), (3, 1, 2), "round {round}");
    }
}

/// The staging of a pool grows with its budget, and is inside it.
#[test]
fn large_budgets_move_bytes_in_large_pieces() {
    let test = "large_budgets_move_bytes_in_large_pieces";
    for (budget, staging, pieces) in [
        (MIB, 64 * KIB, 32 * 32),
        (4 * MIB, 256 * KIB, 8 * 32),
        (16 * MIB, 256 * KIB, 8 * 32),
        (64 * MIB, MIB, 2 * 32),
        (512 * MIB, 8 * MIB, 8),
        (4 << 30, 16 * MIB, 4),
        (1 << 40, 16 * MIB, 4),
    ] {
        let Some(pool) = gpu::pool(test, Config::new(budget).slabs(SlabPolicy::PerBlock)) else { return };
        assert_eq!(pool.stats().staging_bytes, staging, "{budget}");
        assert_eq!(pool.stats().reserved_bytes, staging, "{budget}");
        if budget < 16 * MIB {
            continue;
        }
        let bytes: Vec<u8> = (0..8 * MIB).map(|at| (at % 251) as u8).collect();
        let mut block = pool.alloc(Request::bytes(8 * MIB)).unwrap();
        let before = pool.backend().stats();
        block.upload(0, &bytes).unwrap();
        let between = pool.backend().stats();
        let mut seen = vec![0; bytes.len()];
        block.download(0, &mut seen).unwrap();
        assert!(seen == bytes);
        let counts = [between.since(&before).copies, pool.backend().stats().since(&between).copies];
        // As many bytes each way, for uploads in four chunks.
        assert_eq!(counts, [pieces, pieces / 4], "{budget}");
        assert!(pool.stats().reserved_bytes <= budget);
        pool.check();
    }
}
