//! The tricks with words against loops over their bits.

use rand::RngExt;

use super::super::word;
use super::for_each_seed;

/// Words with long runs and with short ones.
fn words(random: &mut impl RngExt) -> impl Iterator<Item = u64> {
    let (a, b, c): (u64, u64, u64) = (random.random(), random.random(), random.random());
    let range = u64::MAX >> (a % 64) & u64::MAX << (b % 64);
    [0, 1, u64::MAX, 1 << 63, a, a & b, a | b, a & b & c, a | b | c, range, !range, range ^ (1 << (c % 64))].into_iter()
}

fn ones_from(word: u64, bit: u32) -> u32 {
    (bit..64).take_while(|&bit| word >> bit & 1 == 1).count() as u32
}

#[test]
fn runs_of_ones_in_a_word() {
    for_each_seed(200, |random| {
        for word in words(random) {
            let longest = (0..64).map(|bit| ones_from(word, bit)).max().expect("64 bits");
            assert_eq!(word::longest_run(word), longest, "{word:#066b}");
            for length in 1..=64 {
                let starts = word::run_starts(word, length);
                for bit in 0..64 {
                    let is_start = ones_from(word, bit) >= length;
                    assert_eq!(starts >> bit & 1 == 1, is_start, "{length} at {bit} of {word:#066b}");
                }
            }
        }
    });
}

#[test]
fn masks() {
    for step in [1, 2, 4, 8, 16, 32, 64] {
        for bit in 0..64 {
            assert_eq!(word::multiples_of(step) >> bit & 1 == 1, bit % step == 0, "{bit} of {step}");
        }
    }
    for start in 60..200 {
        for end in start + 1..210 {
            let mut pages = Vec::new();
            word::for_each_mask(start, end, |index, mask| {
                pages.extend((0..64).filter(|bit| mask >> bit & 1 == 1).map(|bit| index as u32 * 64 + bit));
            });
            assert_eq!(pages, (start..end).collect::<Vec<_>>());
            if start / 64 == (end - 1) / 64 {
                assert_eq!(word::mask(start, end).count_ones(), end - start);
                assert_eq!(word::mask(start, end).trailing_zeros(), start % 64);
            }
        }
    }
}
