//! What a space must do, in plain words that are still fast: a bit for each free page, a byte for each unit.
//!
//! It foretells the answer to every request: the run it must be, or the class that the piece must come from. Which of
//! several idle pieces of a class is taken is the space's own affair.

use tensorpool::space::{Extent, Placement, Space};

/// Added to the byte of a piece that nobody holds.
const IDLE: u8 = 0x80;
/// More classes than a cut run can have.
const CLASSES_MAX: usize = 48;

pub struct Model {
    bytes: u64,
    page_bytes: u64,
    cut_bytes: u64,
    unit_bytes: u64,
    placement: Placement,
    pages: usize,
    /// A bit for each free page.
    free: Vec<u64>,
    /// The most pages of a run that was chosen since all pages were free.
    largest: usize,
    /// For each unit of the slab: 0, or the class + 1 of the piece that begins there, and whether it is idle.
    pieces: Vec<u8>,
    /// Used pieces of each cut run, by its place; 0 if it is not cut.
    used_pieces: Vec<u32>,
    cut_runs: u32,
    /// How many idle pieces there are of each class.
    idle: [u32; CLASSES_MAX],
    classes: usize,
    used_bytes: u64,
    cached_bytes: u64,
    free_bytes: u64,
}

impl Model {
    pub fn new(space: &Space, unit_bytes: u64, placement: Placement) -> Self {
        let (bytes, page_bytes) = (space.bytes(), space.page_bytes());
        let pages = bytes.div_ceil(page_bytes) as usize;
        let (cut_bytes, units) = (space.cut_bytes(), (space.cut_bytes() / unit_bytes) as usize);
        let places = (bytes / cut_bytes) as usize;
        let mut free = vec![u64::MAX; pages.div_ceil(64)];
        if !pages.is_multiple_of(64) {
            free[pages / 64] = (1 << (pages % 64)) - 1;
        }
        Self {
            bytes,
            page_bytes,
            cut_bytes,
            unit_bytes,
            placement,
            pages,
            free,
            largest: 0,
            pieces: vec![0; places * units],
            used_pieces: vec![0; places + 1],
            cut_runs: 0,
            idle: [0; CLASSES_MAX],
            classes: units.ilog2() as usize,
            used_bytes: 0,
            cached_bytes: 0,
            free_bytes: bytes,
        }
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// `bytes` were asked for; was this the right answer?
    pub fn alloc(&mut self, bytes: u64, answer: Option<Extent>) {
        let Some(class) = self.class_of(bytes) else {
            let run = self.run_for(bytes);
            return self.take_run(run, answer);
        };
        if let Some(from) = (class..self.classes).find(|from| self.idle[*from] > 0) {
            return self.take_piece(class, from, answer);
        }
        if let Some(start) = self.run_to_cut() {
            let Some(extent) = answer else { panic!("no piece of {bytes} bytes, and there is a run to cut") };
            return self.cut(class, start, extent);
        }
        let largest = self.largest;
        let run = self.run_for(bytes);
        self.largest = largest;
        self.take_run(run, answer);
    }

    /// As [`alloc`](Self::alloc), for an idle piece of just the class.
    pub fn alloc_cached(&mut self, bytes: u64, answer: Option<Extent>) {
        match self.class_of(bytes).filter(|class| self.idle[*class] > 0) {
            Some(class) => self.take_piece(class, class, answer),
            None => assert_eq!(answer, None, "a cached piece for {bytes} bytes, and there is none"),
        }
    }

    /// As [`alloc`](Self::alloc), for the pages from this one.
    pub fn alloc_at(&mut self, page: usize, bytes: u64, answer: Option<Extent>) {
        let offset = page as u64 * self.page_bytes;
        let is_inside = offset < self.bytes && bytes <= self.bytes - offset;
        let run = is_inside.then(|| (page, bytes.div_ceil(self.page_bytes) as usize));
        self.take_run(run.filter(|run| self.is_free(*run)), answer);
    }

    pub fn release(&mut self, extent: Extent) {
        let (offset, bytes) = (extent.offset(), extent.bytes());
        let page = (offset / self.page_bytes) as usize;
        let place = (offset / self.cut_bytes) as usize;
        self.used_bytes -= bytes;
        if self.used_pieces[place] == 0 {
            let run = (page, bytes.div_ceil(self.page_bytes) as usize);
            self.release_run(run, bytes);
            return;
        }
        let piece = &mut self.pieces[(offset / self.unit_bytes) as usize];
        let class = usize::from(*piece - 1);
        assert_eq!(self.unit_bytes << class, bytes, "a used piece at {offset}");
        *piece |= IDLE;
        self.idle[class] += 1;
        self.cached_bytes += bytes;
        self.used_pieces[place] -= 1;
        if self.used_pieces[place] == 0 {
            self.go_home(place);
        }
    }

    /// Idle buddies join; whether there were any.
    pub fn gather(&mut self) -> bool {
        let units = 1 << self.classes;
        let mut joined = false;
        for place in 0..self.used_pieces.len() {
            if self.used_pieces[place] > 0 {
                joined |= join_buddies(&mut self.pieces[place * units..][..units], &mut self.idle);
            }
        }
        joined
    }

    /// The counters after every event.
    #[inline]
    pub fn compare(&self, space: &Space) {
        let ours = (self.used_bytes, self.cached_bytes, self.free_bytes, self.cut_runs);
        let its = (space.used_bytes(), space.cached_bytes(), space.free_bytes(), space.cut_runs());
        assert_eq!(ours, its, "used, cached and free bytes, and cut runs");
        assert_eq!(self.used_bytes == 0, space.is_empty());
    }

    /// The longest free run, at a cost that grows with the pages.
    pub fn compare_longest(&self, space: &Space) {
        let longest = self.runs().map(|run| self.run_bytes(run)).max().unwrap_or(0);
        assert_eq!(longest, space.largest_free_run_bytes(), "the longest free run");
    }

    /// All that a space says of itself, and all that it can check.
    pub fn compare_all(&self, space: &Space) {
        self.compare(space);
        self.compare_longest(space);
        assert_eq!(self.used_bytes + self.cached_bytes + self.free_bytes, self.bytes);
        let ours = self.runs().map(|run| (self.offset(run.0), self.run_bytes(run)));
        let its = space.free_runs().map(|run| (run.start, run.end - run.start));
        assert!(ours.eq(its), "free runs");
        space.check();
    }

    fn class_of(&self, bytes: u64) -> Option<usize> {
        if bytes > self.cut_bytes / 2 {
            return None;
        }
        let piece_bytes = bytes.next_power_of_two().max(self.unit_bytes);
        (piece_bytes <= self.cut_bytes / 2).then(|| (piece_bytes / self.unit_bytes).ilog2() as usize)
    }

    /// The run that a large request must get.
    fn run_for(&mut self, bytes: u64) -> Option<(usize, usize)> {
        if bytes > self.bytes {
            return None;
        }
        let count = bytes.div_ceil(self.page_bytes) as usize;
        if self.placement == Placement::Exact {
            let largest = self.largest.max(count);
            let run = self.choose(count, bytes, largest)?;
            self.largest = largest;
            return Some(run);
        }
        let count = count.next_power_of_two();
        let run = (self.runs().find_map(|run| aligned_in(run, count))?, count);
        // It may end in the partial page; then no lower run had as many pages.
        Some(run).filter(|run| self.run_bytes(*run) >= bytes)
    }

    /// An exact run. Small ones go to the high end of a high run, others to the low end of a low one. Of two runs that are
    /// near, one that keeps room for as many of the largest is better; of two as good, a run that is not small prefers the
    /// shorter; and where neither is good it goes to the high end as well.
    fn choose(&self, count: usize, bytes: u64, largest: usize) -> Option<(usize, usize)> {
        let is_small = count <= largest / 20;
        // What may be taken of a run that ends in the partial page may be less than all of it.
        let usable = |(page, length): (usize, usize)| {
            let is_short = self.run_bytes((page + length - count, count)) < bytes;
            (page, length - usize::from(is_short))
        };
        let mut fitting = self.runs().filter(|run| run.1 >= count).map(usable).filter(|run| run.1 >= count);
        let (near, next) = if is_small {
            fitting.fold((None, None), |(last, _), run| (Some(run), last))
        } else {
            (fitting.next(), fitting.next())
        };
        let near = near?;
        let spares = |(_, length): (usize, usize)| count == largest || (length - count) / largest == length / largest;
        let (page, length) = match next {
            Some(next) if spares(next) && !spares(near) => next,
            Some(next) if spares(next) == spares(near) && !is_small && next.1 < near.1 => next,
            _ => near,
        };
        let is_high = is_small || !spares((page, length));
        Some((if is_high { page + length - count } else { page }, count))
    }

    fn take_run(&mut self, run: Option<(usize, usize)>, answer: Option<Extent>) {
        let expected = run.map(|run| (self.offset(run.0), self.run_bytes(run)));
        assert_eq!(expected, answer.map(|extent| (extent.offset(), extent.bytes())), "the run: offset and bytes");
        if let Some(run) = run {
            assert!(self.is_free(run), "pages {run:?} are somebody's");
            self.set_free(run, false);
            self.used_bytes += self.run_bytes(run);
            self.free_bytes -= self.run_bytes(run);
        }
    }

    /// A piece of `class` must be there, out of an idle one of class `from`.
    fn take_piece(&mut self, class: usize, from: usize, answer: Option<Extent>) {
        let bytes = self.unit_bytes << class;
        let Some(extent) = answer else { panic!("no piece of {bytes} bytes, and there are idle ones") };
        let unit = (extent.offset() / self.unit_bytes) as usize;
        assert_eq!((unit as u64 * self.unit_bytes, bytes), (extent.offset(), extent.bytes()), "offset and bytes");
        assert_eq!(self.pieces[unit], idle_piece(from), "the piece at {} is idle, of class {from}", extent.offset());
        self.idle[from] -= 1;
        self.cached_bytes -= self.unit_bytes << from;
        self.hold_piece(unit, class, from);
    }

    /// The run that must be cut, if one can be: the lowest of a classic buddy, else the last of a high free run.
    fn run_to_cut(&self) -> Option<usize> {
        let count = (self.cut_bytes / self.page_bytes) as usize;
        let whole_pages = (self.bytes / self.page_bytes) as usize;
        if self.placement == Placement::PowerOfTwo {
            let start = self.runs().find_map(|run| aligned_in(run, count))?;
            return (start + count <= whole_pages).then_some(start);
        }
        let mut runs: Vec<_> = self.runs().filter(|run| run.1 >= count).collect();
        runs.reverse();
        // An aligned run is looked for in four, and in the first that is so long that it has one.
        let long = runs.iter().find(|run| run.1 >= 2 * count);
        runs.iter().take(4).chain(long).find_map(|&(page, length)| {
            let start = ((page + length).min(whole_pages) / count).checked_sub(1)? * count;
            (start >= page).then_some(start)
        })
    }

    fn cut(&mut self, class: usize, start: usize, extent: Extent) {
        let bytes = self.unit_bytes << class;
        assert_eq!((self.offset(start), bytes), (extent.offset(), extent.bytes()), "the first piece of a cut run");
        self.set_free((start, (self.cut_bytes / self.page_bytes) as usize), false);
        self.free_bytes -= self.cut_bytes;
        self.cut_runs += 1;
        self.hold_piece((extent.offset() / self.unit_bytes) as usize, class, self.classes);
    }

    /// A piece is halved until it is of `class`; the upper halves are idle.
    fn hold_piece(&mut self, unit: usize, class: usize, from: usize) {
        self.pieces[unit] = class as u8 + 1;
        self.used_pieces[unit >> self.classes] += 1;
        self.used_bytes += self.unit_bytes << class;
        for half in class..from {
            self.pieces[unit + (1 << half)] = idle_piece(half);
            self.idle[half] += 1;
            self.cached_bytes += self.unit_bytes << half;
        }
    }

    /// The last used piece of a cut run was released.
    fn go_home(&mut self, place: usize) {
        let (mut unit, end) = (place << self.classes, (place + 1) << self.classes);
        while unit < end {
            let class = usize::from((self.pieces[unit] & !IDLE) - 1);
            self.idle[class] -= 1;
            self.pieces[unit] = 0;
            unit += 1 << class;
        }
        self.cached_bytes -= self.cut_bytes;
        self.cut_runs -= 1;
        let count = (self.cut_bytes / self.page_bytes) as usize;
        self.release_run((place * count, count), self.cut_bytes);
    }

    /// A space that is empty again chooses as a new one does.
    fn release_run(&mut self, run: (usize, usize), bytes: u64) {
        self.set_free(run, true);
        self.free_bytes += bytes;
        if self.free_bytes == self.bytes {
            self.largest = 0;
        }
    }

    fn offset(&self, page: usize) -> u64 {
        page as u64 * self.page_bytes
    }

    /// The bytes of pages of the slab, whose last one may be partial.
    fn run_bytes(&self, (page, count): (usize, usize)) -> u64 {
        self.offset(page + count).min(self.bytes) - self.offset(page)
    }

    fn is_free(&self, run: (usize, usize)) -> bool {
        run.0 + run.1 <= self.pages && masks(run).all(|(word, mask)| self.free[word] & mask == mask)
    }

    fn set_free(&mut self, run: (usize, usize), free: bool) {
        for (word, mask) in masks(run) {
            assert_eq!(self.free[word] & mask, if free { 0 } else { mask }, "pages {run:?} are all as they were");
            self.free[word] ^= mask;
        }
    }

    fn next_free(&self, from: usize) -> Option<usize> {
        next_set(&self.free, from, |word| word)
    }

    /// The free runs, lowest first, as their first page and how many.
    fn runs(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.next_free(from)?;
            from = next_set(&self.free, start, |word| !word).unwrap_or(self.pages).min(self.pages);
            Some((start, from - start))
        })
    }
}

/// The byte of an idle piece.
fn idle_piece(class: usize) -> u8 {
    (class as u8 + 1) | IDLE
}

/// The first bit from `from` that is set in `of` the words.
fn next_set(words: &[u64], from: usize, of: impl Fn(u64) -> u64) -> Option<usize> {
    let mut index = from / 64;
    let mut word = of(*words.get(index)?) & (u64::MAX << (from % 64));
    while word == 0 {
        index += 1;
        word = of(*words.get(index)?);
    }
    Some(index * 64 + word.trailing_zeros() as usize)
}

/// The words that pages are in, each with its bits of them.
fn masks((page, count): (usize, usize)) -> impl Iterator<Item = (usize, u64)> {
    let end = page + count;
    (page / 64..end.div_ceil(64)).map(move |word| {
        let (low, high) = (page.max(word * 64) % 64, end.min(word * 64 + 64) - word * 64);
        (word, u64::MAX << low & u64::MAX >> (64 - high))
    })
}

/// The first multiple of `count` at which as many pages are in the run.
fn aligned_in((page, length): (usize, usize), count: usize) -> Option<usize> {
    let start = page.next_multiple_of(count);
    (start + count <= page + length).then_some(start)
}

/// Joins the idle buddies of one cut run, and theirs.
fn join_buddies(pieces: &mut [u8], idle: &mut [u32]) -> bool {
    let mut joined = false;
    // A larger class may find what a smaller one has joined.
    for class in 0..pieces.len().ilog2() as usize {
        let (size, mark) = (1 << class, idle_piece(class));
        for unit in (0..pieces.len()).step_by(2 * size) {
            if pieces[unit] == mark && pieces[unit + size] == mark {
                (pieces[unit], pieces[unit + size]) = (mark + 1, 0);
                idle[class] -= 2;
                idle[class + 1] += 1;
                joined = true;
            }
        }
    }
    joined
}
