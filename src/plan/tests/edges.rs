//! What callers get wrong, what has no room, numbers at their limits; and that `check` sees every kind of fault.

use rand::RngExt;

use super::super::solve as try_solve;
use super::*;
use crate::error::ErrorKind;

#[test]
fn nothing_is_a_plan() {
    let plan = solve(&[], &Options::new());
    assert_eq!((plan.height, plan.load, plan.proved), (0, 0, true));
    assert!(plan.offsets.is_empty());
    assert_eq!(plan.to_string(), "0 buffers in 0 bytes, load 0 bytes, proved optimal");
}

#[test]
fn what_takes_no_room_is_at_0() {
    let lifetimes = [Lifetime::new(0, 9, 0), Lifetime::new(5, 5, 100), Lifetime::new(4, 6, 7), Lifetime::new(5, 6, 0)];
    let plan = solve(&lifetimes, &Options::new().align(4).slabs([8]));
    assert_eq!(plan.offsets, [0; 4]);
    assert_eq!((plan.height, plan.load), (8, 8));
    let plan = solve(&lifetimes[..2], &Options::new());
    assert_eq!((plan.height, plan.load, plan.proved), (0, 0, true));
}

#[test]
fn equal_times_do_not_overlap() {
    let lifetimes = [Lifetime::new(0, 5, 10), Lifetime::new(5, 6, 10), Lifetime::new(6, u64::MAX, 10)];
    assert_eq!(solve(&lifetimes, &Options::new()).height, 10);
    let all = [Lifetime::new(0, u64::MAX, 3), Lifetime::new(u64::MAX - 1, u64::MAX, 4), Lifetime::new(0, 1, 4)];
    assert_eq!(solve(&all, &Options::new()).height, 7);
}

#[test]
fn wrong_input_is_an_error_with_its_numbers() {
    let fails = |lifetimes: &[Lifetime], options: Options, kind: ErrorKind, parts: &[&str]| {
        let error = try_solve(lifetimes, &options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        parts.iter().for_each(|part| assert!(error.to_string().contains(part), "{error}: no {part}"));
    };
    let one = [Lifetime::new(0, 2, 100)];
    fails(&[Lifetime::new(7, 3, 1)], Options::new(), ErrorKind::Invalid, &["lifetime 0", "7", "3"]);
    fails(&[one[0], Lifetime::new(0, 1, u64::MAX)], Options::new(), ErrorKind::TooLarge, &["lifetime 1", "2^62"]);
    fails(&[Lifetime::new(0, 1, u64::MAX)], Options::new().align(4096), ErrorKind::TooLarge, &["2^62"]);
    let half = Lifetime::new(0, 1, (1 << 61) + 1);
    fails(&[half, half], Options::new(), ErrorKind::TooLarge, &["lifetime 1"]);
    fails(&one, Options::new().align(0), ErrorKind::Alignment, &["power of two"]);
    fails(&one, Options::new().align(48), ErrorKind::Alignment, &["48"]);
    fails(&one, Options::new().align(64).slabs([128, 100]), ErrorKind::Invalid, &["100 bytes", "64 bytes"]);
    fails(&one, Options::new().slabs([0]), ErrorKind::Invalid, &["0 bytes"]);
    fails(&one, Options::new().slabs([64]), ErrorKind::TooLarge, &["100 bytes", "64 bytes"]);
    fails(&one, Options::new().threads(5000), ErrorKind::Invalid, &["5000"]);
    let far = [Lifetime::new(0, 1, 1 << 60), Lifetime::new(0, 1, 1 << 60), Lifetime::new(0, 1, 1 << 60)];
    fails(&far, Options::new().slabs([(1 << 60) + 1]), ErrorKind::TooLarge, &["3 buffers", "2^62"]);
}

#[test]
fn the_largest_numbers_fit() {
    let lifetimes = [Lifetime::new(0, 2, 1 << 61), Lifetime::new(1, 3, (1 << 61) - 1), Lifetime::new(2, 4, 1)];
    let plan = solve(&lifetimes, &Options::new());
    assert_eq!((plan.height, plan.proved), ((1 << 62) - 1, true));
    let plan = solve(&[Lifetime::new(0, 1, 1)], &Options::new().align(1 << 61).slabs([1 << 62]));
    assert_eq!(plan.height, 1 << 61);
}

/// A plan for three buffers, and every way to spoil it.
#[test]
fn a_check_sees_every_fault() {
    let lifetimes = [Lifetime::new(0, 4, 60), Lifetime::new(2, 6, 30), Lifetime::new(4, 8, 64), Lifetime::new(3, 3, 9)];
    let options = Options::new().align(32).slabs([64]);
    let plan = solve(&lifetimes, &options);
    assert_eq!((plan.load, plan.height), (96, 96));
    let fails = |spoil: &dyn Fn(&mut Plan), part: &str| {
        let mut spoiled = plan.clone();
        spoil(&mut spoiled);
        let error = spoiled.check(&lifetimes, &options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}: no {part:?}");
    };
    assert_eq!(plan.offsets[..3], [0, 64, 0]);
    fails(&|plan| plan.offsets[1] = 0, "overlap");
    fails(&|plan| plan.offsets[1] = 32, "overlap");
    fails(&|plan| plan.offsets[1] = 65, "aligned");
    fails(&|plan| plan.offsets[2] = 32, "straddles");
    fails(&|plan| plan.offsets[2] = 128, "height");
    fails(&|plan| plan.offsets[2] = u64::MAX - 63, "height");
    fails(&|plan| plan.height = 97, "height");
    fails(&|plan| plan.load = 90, "load");
    fails(&|plan| plan.proved = false, "least");
    fails(&|plan| plan.offsets.truncate(3), "3 offsets for 4");
    assert!(plan.check(&lifetimes[..3], &options).is_err());
    assert!(plan.check(&lifetimes, &options).is_ok());
    // The same under other options.
    assert!(plan.check(&lifetimes, &Options::new().align(64)).is_err());
    assert!(plan.check(&lifetimes, &Options::new().align(32)).is_ok());
    assert!(plan.check(&lifetimes, &Options::new().align(32).slabs([32])).is_err());
    let backwards = [Lifetime::new(4, 0, 60), lifetimes[1], lifetimes[2], lifetimes[3]];
    assert!(plan.check(&backwards, &options).is_err());
}

/// The check against every pair, on plans that are spoiled at random.
#[test]
fn a_check_agrees_with_looking_at_every_pair() {
    let mut broken = 0;
    for_each_seed(300, |random| {
        let lifetimes = random_lifetimes(random, 8, 12, 5);
        let mut plan = solve(&lifetimes, &Options::new());
        let at = random.random_range(0..8);
        plan.offsets[at] = random.random_range(0..12);
        plan.height = height(&lifetimes, &plan.offsets);
        plan.proved = true;
        let mut apart = true;
        for (i, a) in lifetimes.iter().enumerate() {
            for (j, b) in lifetimes.iter().enumerate().take(i) {
                let (at, other) = (plan.offsets[i], plan.offsets[j]);
                apart &= at + a.bytes <= other || other + b.bytes <= at || !overlap_in_time(a, b);
            }
        }
        assert_eq!(plan.check(&lifetimes, &Options::new()).is_ok(), apart, "{lifetimes:?} {:?}", plan.offsets);
    });
    let random = &mut ChaCha8Rng::seed_from_u64(2);
    for _ in 0..100 {
        let lifetimes = random_lifetimes(random, 8, 12, 5);
        let mut plan = solve(&lifetimes, &Options::new());
        plan.offsets[0] = 3;
        plan.height = height(&lifetimes, &plan.offsets);
        broken += u32::from(plan.check(&lifetimes, &Options::new()).is_err());
    }
    assert!(broken > 20 && broken < 100, "{broken} of 100");
}
