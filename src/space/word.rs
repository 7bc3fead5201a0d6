//! Runs of ones inside one 64-bit word of the page map: bit `i` is page `i` of the word, 1 is free.
//!
//! Both searches rest on one trick: `x & (x >> k)` leaves bit `i` standing where bits `i` and `i + k` stood. Repeated with
//! growing `k` it thins a word down to the starts of runs of a given length, in a handful of steps without a branch.

/// Pages in a word.
pub(super) const WORD_PAGES: u32 = 64;

/// The length of the longest run of ones, 0 to 64.
pub(super) fn longest_run(word: u64) -> u32 {
    // runs[k]: the bits at which a run of at least 2^k ones starts.
    let mut runs = [word; 6];
    for k in 1..6 {
        runs[k] = runs[k - 1] & (runs[k - 1] >> (1 << (k - 1)));
    }
    // Greedily, largest power first: can the best run so far be followed by 2^k more?
    let mut starts = u64::MAX;
    let mut length = 0;
    for k in (0..6).rev() {
        let longer = starts & (runs[k] >> length);
        if longer != 0 {
            starts = longer;
            length += 1 << k;
        }
    }
    length + u32::from(word == u64::MAX)
}

/// The bits at which a run of at least `length` ones starts that ends inside this word. `length` is 1 to 64.
pub(super) fn run_starts(word: u64, length: u32) -> u64 {
    debug_assert!((1..=WORD_PAGES).contains(&length), "a run of {length} in a word");
    let mut starts = word;
    let mut have = 1;
    while have < length {
        let step = have.min(length - have);
        starts &= starts >> step;
        have += step;
    }
    starts
}

/// Ones at the multiples of `step`, a power of two up to a whole word.
#[inline]
pub(super) fn multiples_of(step: u32) -> u64 {
    MULTIPLES[step.trailing_zeros() as usize]
}

/// All ones divided by 1, 3, 15, ...: a one at every bit, every second, every fourth, ...
const MULTIPLES: [u64; 7] = {
    let mut multiples = [u64::MAX; 7];
    let mut log = 1;
    while log < 7 {
        multiples[log] = u64::MAX / (u64::MAX >> (WORD_PAGES - (1 << log)));
        log += 1;
    }
    multiples
};

/// Ones at the pages `start..end`, which lie in one word, counted from any word's first page.
#[inline]
pub(super) fn mask(start: u32, end: u32) -> u64 {
    debug_assert!(start < end && start / WORD_PAGES == (end - 1) / WORD_PAGES, "pages {start}..{end}");
    (u64::MAX >> (WORD_PAGES - (end - start))) << (start % WORD_PAGES)
}

/// Calls `visit` with each word that the pages `start..end` lie in, lowest first, and ones at those pages in it.
#[inline]
pub(super) fn for_each_mask(start: u32, end: u32, mut visit: impl FnMut(usize, u64)) {
    debug_assert!(start < end, "pages {start}..{end}");
    let (first, last) = ((start / WORD_PAGES) as usize, ((end - 1) / WORD_PAGES) as usize);
    let from_start = u64::MAX << (start % WORD_PAGES);
    let to_end = u64::MAX >> (WORD_PAGES - 1 - (end - 1) % WORD_PAGES);
    if first == last {
        return visit(first, from_start & to_end);
    }
    visit(first, from_start);
    for between in first + 1..last {
        visit(between, u64::MAX);
    }
    visit(last, to_end);
}
