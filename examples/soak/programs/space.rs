//! A program on one space: the same events to it and to its model, every answer and every counter compared.

use tensorpool::space::{Extent, Placement, Space};

use super::space_model::Model;
use super::trail::Trail;
use super::{Choices, Done};

/// Bytes of the model's map, which should stay in the cache.
const UNITS_MAX: u64 = 1 << 18;
/// How often everything is compared: once in so many events for each page that there is.
const EVENTS_PER_PAGE_CHECKED: u64 = 16;

#[derive(Clone, Copy, Debug)]
enum Event {
    Alloc(u64),
    Cached(u64),
    At(usize, u64),
    Release(usize, Extent),
    Gather,
}

struct Program {
    space: Space,
    model: Model,
    held: Vec<Extent>,
    pages: u64,
    trail: Trail<Event>,
}

/// Runs one of so many events, or as many as there are choices for.
pub fn run(choices: &mut impl Choices, events: u64) -> Done {
    let mut program = Program::new(choices);
    while program.trail.events() < events && !choices.is_over() {
        program.phase(choices, events);
    }
    Done::operations(program.end(choices))
}

impl Program {
    /// A space of 16 pages to a few thousand, of 1 unit each to 1024; or of more than 32,768 pages, so that its tree has more
    /// levels and its cut runs several pages.
    fn new(choices: &mut impl Choices) -> Self {
        let unit_bytes = 1 << choices.below(13);
        let placement = choices.pick(&[Placement::Exact, Placement::Exact, Placement::PowerOfTwo]);
        let space = if choices.below(4) == 0 {
            let pages = 32_769 + choices.below(UNITS_MAX - 32_768);
            let bytes = pages * unit_bytes - choices.below(unit_bytes);
            Space::with_page_bytes(bytes, unit_bytes, unit_bytes, placement)
        } else {
            Space::new(Self::few_pages(choices, unit_bytes), unit_bytes, placement)
        };
        let (bytes, page_bytes, cut_bytes) = (space.bytes(), space.page_bytes(), space.cut_bytes());
        let pages = bytes.div_ceil(page_bytes);
        let heading = format!(
            "a space of {bytes} bytes in units of {unit_bytes}, pages of {page_bytes}, cut runs of {cut_bytes}, {placement}"
        );
        let model = Model::new(&space, unit_bytes, placement);
        Self { space, model, held: Vec::new(), pages, trail: Trail::new(heading) }
    }

    /// Whole pages, or a last one that has just a few bytes, or all but one.
    fn few_pages(choices: &mut impl Choices, unit_bytes: u64) -> u64 {
        let units_per_page = 1 << choices.below(11);
        let pages = (16 + choices.even_in_log(4080)).min(UNITS_MAX / units_per_page);
        let wanted_bytes = unit_bytes * units_per_page * pages;
        let page_bytes = Space::page_bytes_for(wanted_bytes, unit_bytes);
        let rest = choices.pick(&[0, 0, 1, page_bytes - 1, page_bytes / 2, page_bytes / 3]);
        let bytes = wanted_bytes.min(page_bytes * 4096);
        // More may be another page size.
        if Space::page_bytes_for(bytes + rest, unit_bytes) == page_bytes { bytes + rest } else { bytes }
    }

    /// Some events with the same weights and sizes.
    fn phase(&mut self, choices: &mut impl Choices, events: u64) {
        let mut weights = choices.swarm::<5>();
        // It takes as long as the space itself takes for it, which grows with the pieces that were released.
        weights[4] = weights[4].min(1 + 256 / self.pages as u32);
        let sizes = choices.below(4);
        let end = events.min(self.trail.events() + 16 + choices.even_in_log(2000));
        while self.trail.events() < end && !choices.is_over() {
            match self.choose(choices, &weights, sizes) {
                Some(event) => self.apply(event),
                None => return,
            }
        }
    }

    fn choose(&self, choices: &mut impl Choices, weights: &[u32; 5], sizes: u64) -> Option<Event> {
        Some(match choices.weighted(weights) {
            0 => Event::Alloc(self.size(choices, sizes)),
            1 => Event::Cached(self.size(choices, 1)),
            2 => Event::At(choices.below(self.pages + 1) as usize, self.size(choices, sizes)),
            // Also where no event weighs anything: then the phase is over.
            _ if self.held.is_empty() => return None,
            3 => {
                let index = choices.below(self.held.len() as u64) as usize;
                Event::Release(index, self.held[index])
            }
            _ => Event::Gather,
        })
    }

    /// Sizes of four kinds: anything, small ones, whole pages, and those at an edge.
    fn size(&self, choices: &mut impl Choices, sizes: u64) -> u64 {
        let (page_bytes, cut_bytes) = (self.space.page_bytes(), self.space.cut_bytes());
        let size = match sizes {
            0 => choices.even_in_log(self.space.bytes()),
            1 => choices.even_in_log(cut_bytes),
            2 => page_bytes * choices.even_in_log(self.pages.min(64)),
            _ => {
                let bytes = self.space.bytes();
                let edge = choices.pick(&[1, cut_bytes / 2, page_bytes, bytes, bytes / 2, 3 * page_bytes, u64::MAX]);
                edge.saturating_add(choices.below(3)).saturating_sub(1)
            }
        };
        size.max(1)
    }

    fn apply(&mut self, event: Event) {
        self.trail.add(event);
        let (space, model) = (&mut self.space, &mut self.model);
        let taken = match event {
            Event::Alloc(bytes) => {
                let extent = space.alloc(bytes);
                model.alloc(bytes, extent);
                extent
            }
            Event::Cached(bytes) => {
                let extent = space.alloc_cached(bytes);
                model.alloc_cached(bytes, extent);
                extent
            }
            Event::At(page, bytes) => {
                let extent = space.alloc_at(page as u64 * space.page_bytes(), bytes);
                model.alloc_at(page, bytes, extent);
                extent
            }
            Event::Release(index, extent) => {
                self.held.swap_remove(index);
                space.release(extent);
                model.release(extent);
                None
            }
            Event::Gather => {
                assert_eq!(space.gather(), model.gather(), "whether any pieces joined");
                None
            }
        };
        self.held.extend(taken);
        self.compare();
    }

    fn compare(&self) {
        self.model.compare(&self.space);
        let events = self.trail.events();
        if events.is_multiple_of(1 + self.pages / 64) {
            self.model.compare_longest(&self.space);
        }
        if events.is_multiple_of(EVENTS_PER_PAGE_CHECKED * self.pages) {
            self.model.compare_all(&self.space);
        }
    }

    /// Everything goes home, from a random one on; how many operations there were.
    fn end(mut self, choices: &mut impl Choices) -> u64 {
        self.model.compare_all(&self.space);
        let from = choices.below(self.held.len() as u64 + 1) as usize;
        self.held.rotate_left(from);
        while let Some(extent) = self.held.last() {
            self.apply(Event::Release(self.held.len() - 1, *extent));
        }
        self.apply(Event::Gather);
        self.model.compare_all(&self.space);
        assert_eq!((self.space.cut_runs(), self.space.largest_free_run_bytes()), (0, self.space.bytes()));
        self.trail.events()
    }
}
