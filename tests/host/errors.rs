//! Errors of a pool without room: every number of them, and what they say that would help.

mod meter;
mod world;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tensorpool::{
    Config, Error, ErrorKind, Fallback, Limit, Limits, Placement, Pool, Priority, RefusedBy, Remedy, Request, Shortage,
    SlabPolicy,
};

use self::world::{Ask, Op, Setup, World};
use crate::support::rounds;
use tensorpool::space::Space;

const KIB: u64 = 1 << 10;

/// How often something was seen.
type Counts = BTreeMap<String, u64>;

fn count(counts: &mut Counts, what: impl ToString) {
    *counts.entry(what.to_string()).or_default() += 1;
}

/// What a request takes at least: the smallest slab that serves it.
fn least(setup: &Setup, world: &World, bytes: u64) -> u64 {
    if world.is_expanding() && setup.placement == Placement::Exact && bytes <= world.address_bytes {
        // An extent of the one slab, perhaps one that ends in its partial last page.
        let slab_bytes = world.address_bytes;
        let space = Space::new(slab_bytes, setup.limits.alignment_bytes, Placement::Exact);
        let (page_bytes, cut_bytes) = (space.page_bytes(), space.cut_bytes());
        let in_last = (0..=slab_bytes / page_bytes).map(|pages| slab_bytes % page_bytes + pages * page_bytes);
        let last_bytes = in_last.filter(|end| *end >= bytes).min().unwrap_or(u64::MAX);
        let piece_bytes = bytes.next_power_of_two().max(setup.limits.alignment_bytes);
        let extent_bytes = if piece_bytes < cut_bytes { piece_bytes } else { bytes.next_multiple_of(page_bytes) };
        return extent_bytes.min(last_bytes);
    }
    if setup.placement == Placement::Exact || setup.policy == SlabPolicy::PerBlock {
        bytes.next_multiple_of(setup.limits.granule_bytes)
    } else {
        bytes.next_power_of_two().max(setup.limits.alignment_bytes)
    }
}

fn check_parts(shortage: &Shortage, error: &Error) {
    let Shortage { used_bytes, cached_bytes, retired_bytes, free_bytes, staging_bytes, .. } = *shortage;
    let reserved_bytes = used_bytes + cached_bytes + retired_bytes + free_bytes + staging_bytes;
    assert_eq!(reserved_bytes, shortage.reserved_bytes, "{error}");
    let budget_and_over = shortage.budget_bytes + shortage.over_bytes;
    assert_eq!(reserved_bytes + shortage.booked_bytes + shortage.left_bytes, budget_and_over, "{error}");
    assert_eq!(shortage.over_bytes, reserved_bytes.saturating_sub(shortage.budget_bytes), "{error}");
    assert!(shortage.live_bytes <= used_bytes, "{error}");
    // The same in the text, which is all that a user of a program sees.
    let text = error.to_string();
    let (_, parts) = text.split_once("; the budget of ").expect(&text);
    let parts = parts.split(';').next().unwrap();
    let number = |text: &str| text.split(' ').next().unwrap().replace(',', "").parse::<u64>().expect(text);
    let (budget, parts) = parts.split_once(" bytes ").expect(&text);
    let (over, parts) = match parts.strip_prefix("and ") {
        Some(parts) => parts.split_once(" above it since it was lowered are ").expect(&text),
        None => ("0", parts.strip_prefix("is ").expect(&text)),
    };
    assert_eq!(number(over), shortage.over_bytes, "{text}");
    assert_eq!(parts.split(" + ").map(number).sum::<u64>(), number(budget) + number(over), "{text}");
    assert_eq!(number(parts.split_once("used (").expect(&text).1), shortage.live_bytes, "{text}");
}

/// Compares an error with the books of the program that got it.
fn check_numbers(setup: &Setup, world: &World, ops: &[Op], asks: &[Ask], error: &Error) {
    let shortage = error.shortage().unwrap();
    check_parts(shortage, error);
    let context = || format!("{setup:?} {asks:?}: {error}");
    if shortage.over_bytes > 0 {
        assert_eq!((shortage.left_bytes, shortage.booked_bytes), (0, 0), "{}", context());
    }
    let all = |fallback| asks.iter().all(|ask| ask.may(fallback));
    assert_eq!(shortage.asked_bytes, asks.iter().map(|ask| ask.bytes).sum::<u64>(), "{}", context());
    assert_eq!((shortage.requests, shortage.may_grow), (asks.len() as u64, all(Fallback::Grow)), "{}", context());
    let label = asks.iter().map(Ask::label).find(|label| !label.is_empty());
    assert_eq!(shortage.label, label, "{}", context());
    let needed_bytes: u64 = asks.iter().map(|ask| least(setup, world, ask.bytes)).sum();
    assert!(shortage.needed_bytes >= needed_bytes, "{}", context());
    if asks.len() == 1 && setup.reserve_bytes == 0 && shortage.over_bytes == 0 {
        assert_eq!(shortage.needed_bytes, needed_bytes, "{}", context());
    }
    // What the program has.
    let blocks = || world.blocks.iter();
    let used_bytes: u64 = blocks().map(|(block, _)| block.bytes_held()).sum();
    let retired_bytes: u64 = world.holds.iter().map(|(_, bytes, _)| bytes).sum();
    let live_bytes: u64 = blocks().map(|(block, _)| block.bytes()).sum();
    assert_eq!((shortage.live_bytes, shortage.used_bytes), (live_bytes, used_bytes), "{}", context());
    // A request that reclaims nothing leaves what waited for holds that are over.
    let reclaims = all(Fallback::Reclaim) && !error.is_over_budget();
    let over_bytes = if reclaims { 0 } else { world.over_bytes };
    assert!((retired_bytes..=retired_bytes + over_bytes).contains(&shortage.retired_bytes), "{}", context());
    assert_eq!(shortage.staging_bytes, setup.staging_bytes, "{}", context());
    assert_eq!(shortage.budget_bytes, world.pool.budget_bytes(), "{}", context());
    assert_eq!(shortage.reserved_bytes, world.meter.reserved() + setup.staging_bytes, "{}", context());
    assert_eq!((shortage.booked_bytes, shortage.waiting, shortage.is_overdue), (0, 0, false), "{}", context());
    // How it is divided: as a twin says. The pool itself is not asked: to ask takes home what is no longer held.
    let mut twin = World::twin(setup, &ops[..ops.len() - 1]);
    let again = twin.run(&ops[ops.len() - 1]).expect("a twin answers as the pool did");
    let mut as_ours = again.shortage().expect("a twin's error has numbers").clone();
    as_ours.waited = shortage.waited;
    assert_eq!(&as_ours, shortage, "{}", context());
    let stats = twin.pool.stats();
    if world.planned.is_none() && error.kind() != ErrorKind::Timeout && over_bytes == 0 {
        let ours = (shortage.cached_bytes, shortage.free_bytes, shortage.largest_free_run_bytes);
        assert_eq!(ours, (stats.cached_bytes, stats.free_bytes, stats.largest_free_run_bytes), "{}", context());
    }
    assert!(shortage.most_idle_bytes <= shortage.free_bytes + shortage.cached_bytes, "{}", context());
    let may_come_bytes = if world.is_expanding() { shortage.left_bytes } else { 0 };
    assert!(shortage.most_idle_bytes + may_come_bytes >= shortage.largest_free_run_bytes, "{}", context());
    assert_eq!(shortage.granule_bytes > 0, world.is_expanding(), "{}", context());
    // Who holds it.
    let mut labels: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (block, ask) in blocks() {
        let (bytes, blocks) = labels.entry(ask.label()).or_default();
        *bytes += block.bytes_held();
        *blocks += 1;
    }
    let mut holders: Vec<_> = labels.into_iter().map(|(label, (bytes, blocks))| (bytes, label, blocks)).collect();
    holders.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let named: Vec<_> =
        shortage.holders.iter().map(|holder| (holder.bytes, holder.label.clone(), holder.blocks)).collect();
    assert_eq!(named, holders[..holders.len().min(5)], "{}", context());
    check_refusal(setup, world, asks, error);
}

/// Whether the pool names what refused the request.
fn check_refusal(setup: &Setup, world: &World, asks: &[Ask], error: &Error) {
    let shortage = error.shortage().unwrap();
    let context = || format!("{setup:?} {asks:?}: {error}");
    let high = |is_high: bool| asks.iter().filter(move |ask| (ask.priority == Priority::High) == is_high);
    let outside_bytes: u64 = high(false).map(|ask| least(setup, world, ask.bytes)).sum();
    if world.planned.is_none() {
        let of_blocks = world.blocks.iter().filter(|(_, ask)| ask.priority == Priority::High);
        let of_holds = world.holds.iter().filter(|(_, _, priority)| *priority == Priority::High);
        let high_bytes: u64 =
            of_blocks.map(|(block, _)| block.bytes_held()).chain(of_holds.map(|(_, bytes, _)| *bytes)).sum();
        // What waits to be zeroed, or to be reclaimed, may be of high priority.
        let over_bytes = shortage.retired_bytes - world.holds.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        let closed_bytes = |high_bytes: u64| match error.kind() {
            _ if high(false).count() == 0 => 0,
            ErrorKind::OverBudget => setup.reserve_bytes,
            _ => setup.reserve_bytes.saturating_sub(high_bytes),
        };
        let closed_bytes = closed_bytes(high_bytes + over_bytes)..=closed_bytes(high_bytes);
        assert!(closed_bytes.contains(&shortage.high_priority_reserve_bytes), "{closed_bytes:?} {}", context());
    }
    let needed_bytes = shortage.needed_bytes;
    let unused_bytes = shortage.unused_bytes();
    let idle_bytes = shortage.cached_bytes + shortage.free_bytes;
    let could_ever = world.pool.budget_bytes() - setup.staging_bytes;
    let is_right = match shortage.refused_by {
        RefusedBy::Budget if error.is_over_budget() => needed_bytes > could_ever,
        RefusedBy::Reserve if error.is_over_budget() => outside_bytes > could_ever - setup.reserve_bytes,
        RefusedBy::Budget => needed_bytes > unused_bytes,
        RefusedBy::Reserve => {
            let left = unused_bytes - shortage.high_priority_reserve_bytes.min(unused_bytes);
            needed_bytes <= unused_bytes && needed_bytes > left
        }
        RefusedBy::Slabs if !shortage.may_grow && needed_bytes > idle_bytes => needed_bytes <= unused_bytes,
        RefusedBy::Slabs if setup.policy == SlabPolicy::PerBlock => needed_bytes <= unused_bytes,
        RefusedBy::Slabs => needed_bytes <= unused_bytes && shortage.most_idle_bytes < needed_bytes,
        RefusedBy::Fragmentation => {
            // Each slab of one block is whole.
            assert_ne!(setup.policy, SlabPolicy::PerBlock, "{}", context());
            // A buddy system has places at multiples of their size alone, and granules may be used in part.
            let has_places = setup.placement == Placement::PowerOfTwo || world.is_expanding();
            let has_run = !has_places && shortage.largest_free_run_bytes >= needed_bytes;
            needed_bytes <= unused_bytes && !has_run
        }
        RefusedBy::Kept => shortage.cached_bytes > 0,
        RefusedBy::Time => error.is_timeout(),
        RefusedBy::Backend => setup.memory_bytes < setup.budget_bytes,
        _ => false,
    };
    assert!(is_right, "{:?} {}", shortage.refused_by, context());
    let is_full = matches!(shortage.refused_by, RefusedBy::Budget | RefusedBy::Reserve)
        || (shortage.refused_by == RefusedBy::Slabs && needed_bytes > idle_bytes && !shortage.may_grow);
    match error.kind() {
        ErrorKind::Full => assert!(is_full, "{}", context()),
        ErrorKind::Fragmented => assert!(!is_full, "{}", context()),
        _ => {}
    }
}

/// A request on the same terms: the least priority, and what all of a batch allow.
fn on_same_terms(asks: &[Ask], bytes: u64) -> Request<'static> {
    let priority = asks.iter().map(|ask| ask.priority).min().unwrap();
    let without = asks.iter().flat_map(|ask| ask.without.iter().copied()).collect();
    Ask { bytes, align_bytes: 1, priority, label: None, without, waits: false }.request()
}

/// Tries in twins whether what is said to fit does fit, and one byte more does not.
fn check_largest(setup: &Setup, ops: &[Op], asks: &[Ask], error: &Error) {
    let shortage = error.shortage().unwrap();
    let context = || format!("{setup:?} {asks:?}: {error}\n{ops:?}");
    let largest_bytes = shortage.largest_bytes;
    if asks.len() == 1 && asks[0].align_bytes.is_power_of_two() {
        // Lists serve a request that may not reclaim in their own sizes alone, and so does a slab of one block.
        let is_of_one_size =
            !asks[0].may(Fallback::Reclaim) || (setup.policy == SlabPolicy::PerBlock && !asks[0].without.is_empty());
        assert!(largest_bytes < asks[0].bytes || is_of_one_size, "{}", context());
    }
    if largest_bytes > 0 {
        let served = World::twin(setup, ops).serve(on_same_terms(asks, largest_bytes));
        // The budget knows nothing of what the backend has.
        let is_refused = served.as_ref().is_err_and(Error::is_out_of_memory)
            && setup.memory_bytes < setup.budget_bytes
            && shortage.refused_by != RefusedBy::Backend;
        assert!(served.is_ok() || is_refused, "{:?}\nafter {}", served.err(), context());
    }
    // Another slab may be served although a larger one was refused, and memory may be reclaimed for a request that fits.
    if setup.memory_bytes >= setup.budget_bytes && !may_reclaim_more(error) {
        let more = World::twin(setup, ops).serve(on_same_terms(asks, largest_bytes + 1));
        assert!(more.is_err(), "{} bytes are served after {}", largest_bytes + 1, context());
    }
}

/// Nothing is reclaimed for a request over the budget, and so it may be told less than there is.
fn may_reclaim_more(error: &Error) -> bool {
    let idle_bytes = error.shortage().map_or(0, |shortage| shortage.cached_bytes + shortage.retired_bytes);
    error.is_over_budget() && idle_bytes > 0
}

/// Applies the certain remedies in twins, and looks whether the possible ones are named where they should be.
fn check_remedies(setup: &Setup, ops: &[Op], ask: &Ask, error: &Error, counts: &mut Counts) {
    let context = || format!("{setup:?} {ask:?}: {error}\n{ops:?}");
    let again = Ask { waits: false, ..ask.clone() };
    let served = |remedy: Remedy| {
        let mut twin = World::twin(setup, ops);
        let mut request = again.clone();
        match remedy {
            Remedy::Align(bytes) => request.align_bytes = bytes,
            Remedy::EndPlannedSteps => twin.planned = None,
            Remedy::Compact => twin.compact_for(&again.request()).unwrap(),
            Remedy::HighPriority => request.priority = Priority::High,
            Remedy::AllFallbacks => request.without.clear(),
            _ => unreachable!(),
        }
        twin.serve(request.request())
    };
    for remedy in error.remedies().iter().filter(|remedy| remedy.is_certain()) {
        let block = served(*remedy);
        let is_refused = block.as_ref().is_err_and(Error::is_out_of_memory) && setup.memory_bytes < setup.budget_bytes;
        assert!(block.is_ok() || is_refused, "{remedy}: {:?}\nafter {}", block.err(), context());
        count(counts, format!("certain: {remedy:?}").split('(').next().unwrap());
    }
    for remedy in error.remedies().iter().filter(|remedy| !remedy.is_certain()) {
        count(counts, format!("possible: {remedy:?}"));
        let shortage = error.shortage().unwrap();
        let is_right = match remedy {
            Remedy::SingleSlab => {
                let fits_in_one = shortage.needed_bytes <= setup.limits.slab.bytes;
                setup.policy != SlabPolicy::Single
                    && shortage.granule_bytes == 0
                    && fits_in_one
                    && shortage.refused_by == RefusedBy::Slabs
            }
            Remedy::PlanSteps => matches!(shortage.refused_by, RefusedBy::Slabs | RefusedBy::Fragmentation),
            _ => false,
        };
        assert!(is_right && shortage.needed_bytes <= shortage.unused_bytes(), "{}", context());
    }
    // None is missing that would serve it.
    let has = |remedy| error.remedies().contains(&remedy);
    if error.shortage().is_none() || setup.memory_bytes < setup.budget_bytes || may_reclaim_more(error) {
        return;
    }
    if setup.reserve_bytes > 0 && ask.priority != Priority::High && !has(Remedy::HighPriority) {
        assert!(served(Remedy::HighPriority).is_err(), "high priority is not named: {}", context());
    }
    if setup.step.is_some() && !has(Remedy::EndPlannedSteps) && ask.may(Fallback::Reclaim) {
        assert!(served(Remedy::EndPlannedSteps).is_err(), "the end of the plan is not named: {}", context());
    }
    if !ask.without.is_empty() && ask.may(Fallback::Reclaim) && !has(Remedy::AllFallbacks) {
        assert!(served(Remedy::AllFallbacks).is_err(), "the fallbacks are not named: {}", context());
    }
    if error.shortage().unwrap().refused_by == RefusedBy::Fragmentation && !has(Remedy::Compact) {
        count(
            counts,
            if served(Remedy::Compact).is_ok() { "compaction: not named, helps" } else { "compaction: in vain" },
        );
    }
}

fn check_error(setup: &Setup, world: &World, ops: &[Op], asks: &[Ask], error: &Error, counts: &mut Counts) {
    count(counts, format!("kind: {:?}", error.kind()));
    if let Some(shortage) = error.shortage() {
        count(counts, format!("refused by: {}", shortage.refused_by));
        if shortage.over_bytes > 0 {
            count(counts, "over the budget");
        }
        check_numbers(setup, world, ops, asks, error);
        check_largest(setup, ops, asks, error);
    }
    if let [ask] = asks {
        check_remedies(setup, ops, ask, error, counts);
    }
}

/// A thousand pools of every kind, with a random program each.
#[test]
fn every_number_of_every_error_is_true() {
    let mut counts = Counts::new();
    for seed in 0..rounds(1000) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let setup = Setup::random(&mut rng);
        let Some(mut world) = World::open(&setup) else { continue };
        count(&mut counts, "pools");
        let (mut ops, mut errors) = (Vec::new(), 0);
        while ops.len() < 60 && errors < 6 {
            let op = Op::random(&mut rng, &setup, &world);
            ops.push(op.clone());
            let (Some(error), Op::Ask(asks)) = (world.run(&op), op) else { continue };
            errors += 1;
            check_error(&setup, &world, &ops, &asks, &error, &mut counts);
        }
        world.pool.check();
    }
    println!("{counts:#?}");
    // It has seen everything that an error can say of a pool that one thread uses.
    let seen = |what: &str| counts.get(what).copied().unwrap_or(0);
    if seen("pools") > 900 {
        assert!(seen("over the budget") >= 100, "{counts:#?}");
        for by in ["budget", "reserve", "slabs", "fragmentation", "kept", "backend"] {
            assert!(seen(&format!("refused by: {by}")) >= 10, "{by}: {counts:#?}");
        }
        for remedy in ["Align", "EndPlannedSteps", "Compact", "HighPriority", "AllFallbacks"] {
            assert!(seen(&format!("certain: {remedy}")) >= 5, "{remedy}: {counts:#?}");
        }
        assert!(seen("possible: SingleSlab") >= 20 && seen("possible: PlanSteps") >= 20, "{counts:#?}");
        assert!(seen("kind: Timeout") >= 100, "{counts:#?}");
    }
}

/// A block without an owner has its part of the reserve until it is reclaimed, though its hold is over.
#[test]
fn a_retired_block_opens_the_reserve_until_it_is_reclaimed() {
    let limit = |name| Limit { bytes: 1 << 40, name };
    let setup = Setup {
        budget_bytes: 256 * KIB,
        staging_bytes: 0,
        reserve_bytes: 64 * KIB,
        policy: SlabPolicy::Fixed(64 * KIB),
        placement: Placement::Exact,
        limits: Limits {
            alignment_bytes: 64,
            alignment_bytes_max: 64,
            granule_bytes: 4,
            slab: limit("slab"),
            block: limit("block"),
        },
        memory_bytes: u64::MAX,
        lists: false,
        zeroes: false,
        step: None,
    };
    let ask = |kib: u64, priority, without: &[Fallback]| Ask {
        bytes: kib * KIB,
        align_bytes: 1,
        priority,
        label: None,
        without: without.to_vec(),
        waits: false,
    };
    for (without, closed_kib) in [(&[Fallback::Reclaim][..], 32), (&[], 64)] {
        let asks = [ask(100, Priority::Normal, &[]), ask(32, Priority::High, &[]), ask(100, Priority::Normal, without)];
        let [below, high, refused] = asks.map(|ask| Op::Ask(vec![ask]));
        let ops = [below, high, Op::Retire(1), Op::EndHold(0), refused];
        let mut world = World::open(&setup).unwrap();
        let errors: Vec<_> = ops.iter().filter_map(|op| world.run(op)).collect();
        let ([error], Op::Ask(asks)) = (&errors[..], &ops[4]) else { panic!("{errors:?}") };
        assert_eq!(error.shortage().unwrap().high_priority_reserve_bytes, closed_kib * KIB, "{error}");
        check_error(&setup, &world, &ops, asks, error, &mut Counts::new());
    }
}

/// Less is left than the request takes, which is not to say that nothing is.
#[test]
fn a_pool_with_little_alive_is_not_called_full() {
    for (policy, largest_kib) in [(SlabPolicy::Growing, 224), (SlabPolicy::Single, 251)] {
        let pool = Pool::host(Config::new("256 KiB").slabs(policy)).unwrap();
        let _held = pool.alloc(Request::bytes(4608).label("small")).unwrap();
        let error = pool.alloc(Request::bytes(252 * KIB)).unwrap_err();
        let text = error.to_string();
        assert!(error.is_full() && !text.contains("is full"), "{text}");
        let shortage = error.shortage().unwrap();
        assert_eq!((shortage.refused_by, shortage.largest_bytes), (RefusedBy::Budget, largest_kib * KIB), "{text}");
        let unused = shortage.unused_bytes();
        assert_eq!(unused, 256 * KIB - shortage.used_bytes, "{text}");
        assert!(text.contains(&format!("({largest_kib} KiB); the budget of 262,144 bytes is ")), "{text}");
        assert!(text.contains("held by \"small\" "), "{text}");
        assert!(pool.alloc(Request::bytes(largest_kib * KIB)).is_ok());
    }
}

/// While a waiter is due nothing is left to others, but for what the reserve holds for high priority.
#[test]
fn an_error_says_when_it_is_the_turn_of_others() {
    for reserve_kib in [0, 8] {
        let config = Config::new("64 KiB").slabs(SlabPolicy::Single).high_priority_reserve(reserve_kib * KIB);
        let pool = Pool::host(config).unwrap();
        let held = pool.alloc(Request::bytes(32 * KIB)).unwrap();
        let mut large = pin!(pool.alloc_async(Request::bytes(40 * KIB).wait(Duration::from_secs(3600))));
        assert!(large.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        for _ in 0..16 {
            drop(pool.alloc(Request::bytes(KIB)).unwrap());
        }
        for (priority, largest_bytes) in [(Priority::Normal, 0), (Priority::High, reserve_kib * KIB)] {
            let ask = |bytes| pool.alloc(Request::bytes(bytes).priority(priority));
            let error = ask(largest_bytes + 1).unwrap_err();
            let shortage = error.shortage().unwrap();
            check_parts(shortage, &error);
            assert_eq!((error.kind(), shortage.refused_by), (ErrorKind::Full, RefusedBy::Queue), "{error}");
            assert_eq!((shortage.waiting, shortage.is_overdue), (1, true), "{error}");
            assert_eq!(shortage.largest_bytes, largest_bytes, "{error}");
            let is_named = error.remedies() == [Remedy::HighPriority];
            assert_eq!(is_named, priority == Priority::Normal && reserve_kib > 0, "{error}");
            assert!(largest_bytes == 0 || ask(largest_bytes).is_ok(), "{error}");
        }
        // A waiter behind it whose time is over is told the same.
        let error = pool.alloc(Request::bytes(KIB).wait(Duration::ZERO)).unwrap_err();
        let shortage = error.shortage().unwrap();
        assert_eq!((error.kind(), shortage.refused_by), (ErrorKind::Timeout, RefusedBy::Queue), "{error}");
        drop(held);
        assert!(large.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        pool.check();
    }
}

/// A waiter that lacked bytes is told so, though others wait on when its time is over.
#[test]
fn a_waiter_that_was_first_does_not_blame_the_queue() {
    let pool = Pool::host(Config::new("64 KiB").slabs(SlabPolicy::Single)).unwrap();
    let _held = pool.alloc(Request::bytes(32 * KIB)).unwrap();
    let mut first = pin!(pool.alloc_async(Request::bytes(40 * KIB).wait(Duration::from_millis(50))));
    let mut second = pin!(pool.alloc_async(Request::bytes(36 * KIB).wait(Duration::from_secs(3600))));
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(cx).is_pending() && second.as_mut().poll(cx).is_pending());
    // Both have let so many others pass that it is their turn.
    for _ in 0..16 {
        let _ = pool.alloc(Request::bytes(KIB));
    }
    let error = pollster::block_on(first).unwrap_err();
    let shortage = error.shortage().unwrap();
    assert_eq!((error.kind(), shortage.refused_by), (ErrorKind::Timeout, RefusedBy::Budget), "{error}");
}

/// An alignment that is right would not serve what a closed pool refuses, nor a batch.
#[test]
fn an_alignment_is_named_only_where_it_serves() {
    let pool = Pool::host(Config::new("64 KiB")).unwrap();
    let request = || Request::bytes(KIB).align(48);
    let error = pool.alloc(request()).unwrap_err();
    assert_eq!(error.remedies(), [Remedy::Align(pool.limits().alignment_bytes)], "{error}");
    assert!(error.to_string().contains("this would serve it now: an alignment of a power of two up to "), "{error}");
    let error = pool.alloc_all(&[request(), Request::bytes(63 * KIB)]).unwrap_err();
    assert_eq!((error.kind(), error.remedies()), (ErrorKind::Alignment, &[][..]), "{error}");
    let other = pool.clone();
    pool.close();
    let error = other.alloc(request()).unwrap_err();
    assert_eq!(error.remedies(), [], "{error}");
}

/// A request over its part of the budget is not told that it is over the budget, where high priority serves it.
#[test]
fn a_request_over_what_the_reserve_leaves_is_told_so() {
    let pool = Pool::host(Config::new("256 KiB").high_priority_reserve(100 * KIB)).unwrap();
    let error = pool.alloc(Request::bytes(200 * KIB)).unwrap_err();
    let shortage = error.shortage().unwrap();
    assert_eq!((error.kind(), shortage.refused_by), (ErrorKind::OverBudget, RefusedBy::Reserve), "{error}");
    assert!(error.to_string().contains("more than the 159,744 bytes (156 KiB) of the budget that are open below high"));
    assert_eq!(error.remedies(), [Remedy::HighPriority], "{error}");
    assert!(pool.alloc(Request::bytes(200 * KIB).priority(Priority::High)).is_ok());
}

/// Nothing of the pool changes for a request that can never be served.
#[test]
fn a_request_over_the_budget_leaves_free_lists_alone() {
    let pool = Pool::host(Config::new("64 KiB")).unwrap();
    let block = pool.alloc(Request::bytes(64)).unwrap();
    drop(block);
    let before = pool.stats();
    let error = pool.alloc(Request::bytes(65 * KIB)).unwrap_err();
    assert!(error.is_over_budget(), "{error}");
    let after = pool.stats();
    assert_eq!((before.cached_bytes, before.free_bytes), (after.cached_bytes, after.free_bytes));
    assert_eq!(after.failures, before.failures + 1);
}
