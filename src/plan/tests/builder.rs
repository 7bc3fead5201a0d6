//! Lifetimes from allocations and frees.

use rand::RngExt;

use super::super::LifetimesBuilder;
use super::*;

#[test]
fn events_that_do_not_fit_are_errors_and_change_nothing() {
    let mut builder = LifetimesBuilder::new();
    builder.alloc(7u64, 10).unwrap();
    let error = builder.alloc(7, 11).unwrap_err().to_string();
    assert!(error.contains("buffer 7"), "{error}");
    let error = builder.free(&8).unwrap_err().to_string();
    assert!(error.contains("buffer 8"), "{error}");
    builder.free(&7).unwrap();
    assert!(builder.free(&7).is_err());
    // An id may be used again.
    builder.alloc(7, 12).unwrap();
    let lifetimes = builder.finish();
    assert_eq!(lifetimes.ids(), [7, 7]);
    assert_eq!(lifetimes[..], [Lifetime::new(0, 1, 10), Lifetime::new(2, 3, 12)]);
    assert!(LifetimesBuilder::<u64>::default().finish().is_empty());
}

/// The load of what was built is the most that was live, of everything or since the last step began.
#[test]
fn the_load_is_the_most_that_was_live() {
    for_each_seed(100, |random| {
        let mut builder = LifetimesBuilder::new();
        let mut live: Vec<(u64, u64)> = Vec::new();
        let (mut sum, mut most) = (0u64, 0u64);
        let mut allocations = 0;
        for id in 0..random.random_range(1..120u64) {
            if random.random_range(0..30) == 0 {
                builder.begin_step();
                (most, allocations) = (sum, live.len());
            }
            if live.is_empty() || random.random_range(0..5) < 3 {
                let bytes = random.random_range(1..100);
                builder.alloc(id, bytes).unwrap();
                live.push((id, bytes));
                sum += bytes;
                allocations += 1;
            } else {
                let (id, bytes) = live.swap_remove(random.random_range(0..live.len()));
                builder.free(&id).unwrap();
                sum -= bytes;
            }
            most = most.max(sum);
        }
        let lifetimes = builder.finish();
        assert_eq!(lifetimes.len(), allocations);
        assert!(lifetimes.iter().all(|lifetime| lifetime.lower < lifetime.upper), "{lifetimes:?}");
        let plan = solve(&lifetimes, &Options::new().steps(0));
        assert_eq!(plan.load, most);
    });
}
