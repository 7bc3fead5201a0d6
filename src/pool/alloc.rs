//! What happens on `pool.alloc(...)`, in order:
//!
//! 0. while steps are planned: the place that the plan has for it ([`super::planned`]);
//! 1. this CPU's free list: of the class for a small one, else of runs of about the size, while memory is ample
//!    ([`super::shards`]);
//! 2. an idle piece of the class, else a place in a slab, fullest slab first, lowest address first;
//! 3. in an expanding slab: its own place, with memory that is committed for it, as long as the budget has some left
//!    ([`super::expand`]);
//! 4. the [fallbacks](Fallback) that the request allows, in order:
//!    - `Oversized`: a larger block from this CPU's lists that does not waste too much;
//!    - `Reclaim`: what is idle goes home (all CPUs' lists, retired blocks whose work is done, idle pieces merge), and
//!      2 again;
//!    - `Grow`: a new slab, if the budget allows one, or memory in an expanding one; there, else, any place that has memory;
//!    - `ReturnEmpty`: empty slabs, or spare memory, go back to the device, and `Grow` again;
//!    - `Reclaim` once more, if memory was not zeroed because another thread has the stream: this waits for the stream;
//! 5. wait in line, if the request says so ([`super::wait`]), or fail, with the numbers.
//!
//! No lock is held while the device is waited for, and none but `growth` while a slab is created: a thread that records
//! work for the device may allocate, and the device's callbacks may free.

use std::time::Duration;

use super::block::{Descriptor, IdleBlock};
use super::grow::Grown;
use super::labels::{LabelId, LabelKey};
use super::shards::Tally;
use super::state::{Home, Short};
use super::{Block, Fallback, Request, Shared};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;
use crate::units::exact;

/// Why there are no blocks now, and how long the requests would wait for them.
pub(super) type NotNow = (Error, Option<Duration>);

/// What an attempt came to: homes, or an error for want of room.
type Attempt<S> = Result<Vec<Home<S>>, Error>;

impl<B: Backend> Shared<B> {
    #[inline]
    pub(super) fn alloc(self: &Arc<Self>, request: &Request) -> Result<Block<B>> {
        if self.shards.signs.looks() { self.alloc_in_step(request) } else { self.alloc_in_pool(request) }
    }

    /// Allocates while nothing is planned. What a list has for a request without a text goes out at once.
    #[inline(always)]
    pub(super) fn alloc_in_pool(self: &Arc<Self>, request: &Request) -> Result<Block<B>> {
        // What a list has is within every limit: such a request needs no more checks than these.
        if !request.zeroed
            && let Some(label) = self.labels.number(&request.label)
            && self.is_plain(request)
        {
            if let Some(descriptor) = self.take_listed(request.bytes, label)? {
                return Ok(Block::of(descriptor, request.bytes, label));
            }
            return self.alloc_unlisted(request);
        }
        self.alloc_with_care(request)
    }

    #[inline(always)]
    fn is_plain(&self, request: &Request) -> bool {
        request.align_bytes.is_power_of_two() && request.align_bytes <= self.limits.alignment_bytes
    }

    /// Takes a piece or a run from this thread's lists, for a block with this label.
    #[inline(always)]
    fn take_listed(&self, bytes: u64, label: LabelId) -> Result<Option<IdleBlock<B>>> {
        if self.run_sizes.are_for(bytes) {
            if !self.shards.lists_runs() {
                return Ok(None);
            }
            self.backend.check()?;
            return Ok(self.shards.take_run(bytes, self.run_sizes, label));
        }
        let Some(class) = self.classes.of(bytes) else { return Ok(None) };
        self.backend.check()?;
        Ok(self.shards.take(class, self.classes.bytes(class), bytes, label))
    }

    /// Takes a piece or a run from this thread's lists, if the shard knows the label.
    fn take_labelled(&self, bytes: u64, key: &LabelKey<'_>) -> Result<Option<(IdleBlock<B>, LabelId)>> {
        let class = self.classes.of(bytes).filter(|_| !self.run_sizes.are_for(bytes));
        self.backend.check()?;
        let class = class.map(|class| (class, self.classes.bytes(class)));
        Ok(self.shards.take_labelled(class, bytes, self.run_sizes, key))
    }

    /// Allocates a block whose label is a text, or that is zeroed.
    #[inline(never)]
    fn alloc_with_care(self: &Arc<Self>, request: &Request) -> Result<Block<B>> {
        if self.is_plain(request) {
            let listed = match self.labels.key(&request.label) {
                None => self.take_listed(request.bytes, LabelId::NONE)?.map(|descriptor| (descriptor, LabelId::NONE)),
                Some(key) => self.take_labelled(request.bytes, &key)?,
            };
            if let Some((descriptor, label)) = listed {
                return Block::of(descriptor, request.bytes, label).filled(request);
            }
            // The shard may not know the text. A piece is looked for again anyway.
            if self.run_sizes.are_for(request.bytes)
                && let Some(descriptor) = self.take_listed(request.bytes, LabelId::NONE)?
            {
                return Block::new(descriptor, request);
            }
        }
        self.alloc_unlisted(request)
    }

    /// Allocates a block for which this thread's lists are empty.
    #[inline(never)]
    fn alloc_unlisted(self: &Arc<Self>, request: &Request) -> Result<Block<B>> {
        if self.is_plain(request)
            && let Some(class) = self.classes.of(request.bytes)
        {
            self.backend.check()?;
            let fill = |tally| self.fill(request, tally);
            if let Some(place) = self.shards.take_or_fill(class, request.bytes, self.run_sizes, fill) {
                return Block::new(place, request);
            }
        }
        self.alloc_from_slabs(request)
    }

    /// A place for the request and idle pieces of the same class, for a list that is empty. Only what is idle in this class
    /// already: whatever is larger may be wanted whole.
    fn fill(self: &Arc<Self>, request: &Request, tally: Tally) -> Option<(IdleBlock<B>, Vec<IdleBlock<B>>)> {
        let mut state = self.state();
        state.fold(tally);
        let home = state.take(request)?;
        let others = state.take_idle(request.bytes, &home);
        drop(state);
        let place = |home| Descriptor::new(Arc::clone(self), home);
        Some((place(home), others.into_iter().map(place).collect()))
    }

    fn alloc_from_slabs(self: &Arc<Self>, request: &Request) -> Result<Block<B>> {
        self.make_room_in_record();
        // Before the tally is taken: a panic of the backend would lose it.
        let checked = self.check_request(request, true);
        let tally = self.shards.tally();
        if self.shards.signs.has_arena() {
            self.fold_planned();
        }
        let (at_once, is_scarce) = {
            let mut state = self.state();
            state.fold(tally);
            checked?;
            state.check_open()?;
            if request.bytes == 0 {
                drop(state);
                return Ok(Block::empty(self, request));
            }
            (state.take(request), state.look_at_room())
        };
        if is_scarce {
            self.give_back_runs();
        }
        let home = match at_once {
            Some(home) => home,
            None => self.take_again(request).map_or_else(|| self.obtain(request), Ok)?,
        };
        Block::new(Descriptor::new(Arc::clone(self), home), request)
    }

    /// A place in the slabs that a pool which had given back everything has just reserved; from a list where the request
    /// would have been looked for there.
    #[cold]
    fn take_again(self: &Arc<Self>, request: &Request) -> Option<Home<B::Slab>> {
        if !self.reserve_again() {
            return None;
        }
        let class = self.classes.of(request.bytes).filter(|_| !request.is_aligned(self.limits.alignment_bytes));
        let fill = |tally| self.fill(request, tally);
        let listed = class.and_then(|class| self.shards.take_or_fill(class, request.bytes, self.run_sizes, fill));
        listed.and_then(|descriptor| descriptor.into_parts().0).or_else(|| self.state().take(request))
    }

    #[cold]
    fn obtain(self: &Arc<Self>, request: &Request) -> Result<Home<B::Slab>> {
        let requests = std::slice::from_ref(request);
        self.check_budget(requests)?;
        let mut homes = match self.try_checked(requests, false) {
            Ok(homes) => homes,
            Err((_, Some(patience))) => self.wait(requests, patience)?,
            Err((error, None)) => return Err(error),
        };
        Ok(homes.pop().expect("a home for the request"))
    }
}

impl<B: Backend> Shared<B> {
    /// The blocks of a batch: `homes` are those of the requests that are not of zero bytes.
    pub(super) fn blocks(self: &Arc<Self>, homes: Vec<Home<B::Slab>>, requests: &[Request]) -> Result<Vec<Block<B>>> {
        let mut homes = homes.into_iter();
        // First all are owned by blocks, so that an error loses none.
        let mut blocks: Vec<Block<B>> = requests
            .iter()
            .map(|request| match request.bytes {
                0 => Block::empty(self, request),
                _ => {
                    let home = homes.next().expect("a home for each request");
                    Block::unfilled(Descriptor::new(Arc::clone(self), home), request)
                }
            })
            .collect();
        blocks.iter_mut().zip(requests).try_for_each(|(block, request)| block.prepare(request))?;
        Ok(blocks)
    }
}

impl<B: Backend> Shared<B> {
    /// Tries all of it but the free list and waiting. Who would wait in line does not wait for the device either: that
    /// has no deadline.
    pub(super) fn try_obtain(&self, requests: &[Request], is_async: bool) -> Result<Vec<Home<B::Slab>>, NotNow> {
        self.check_batch(requests).map_err(|error| (error, None))?;
        self.try_checked(requests, is_async)
    }

    /// As [`try_obtain`](Self::try_obtain), for requests within the limits and the budget.
    fn try_checked(&self, requests: &[Request], is_async: bool) -> Result<Vec<Home<B::Slab>>, NotNow> {
        // They take nothing, so they pass nobody, and nobody is before them.
        if requests.iter().all(|request| request.bytes == 0) {
            return Ok(Vec::new());
        }
        let patience = requests.iter().map(|request| request.wait).min().flatten();
        match self.attempt(requests, !is_async && patience.is_none()) {
            Ok(Ok(homes)) => Ok(homes),
            Err(error) => {
                if error.kind() == ErrorKind::Defect {
                    self.log_defect();
                }
                Err((error, None))
            }
            Ok(Err(error)) if patience.is_some() && !is_async && self.zero_on_free && self.backend.is_recording() => {
                self.state().failed(requests);
                Err((waits_for_itself(error), None))
            }
            Ok(Err(error)) => {
                if patience.is_none() {
                    self.state().failed(requests);
                    self.planning_failed();
                }
                Err((error, patience))
            }
        }
    }

    pub(super) fn inside_create_slab(&self, request: &Request) -> Error {
        let message = format!(
            "a block of {} needs memory, and this thread is inside create_slab or commit of {} for the same pool",
            exact(request.bytes),
            self.backend.name()
        );
        Error::new(ErrorKind::Invalid, message)
    }

    /// Tries what is idle, then the fallbacks. The outer error is for good.
    pub(super) fn attempt(&self, requests: &[Request], may_block: bool) -> Result<Attempt<B::Slab>> {
        let may = |fallback| requests.iter().all(|request| request.may(fallback));
        let tally = self.shards.tally();
        if self.shards.signs.has_arena() {
            self.fold_planned();
        }
        {
            let mut state = self.state();
            state.fold(tally);
            if let Ok(homes) = state.take_all(requests) {
                return Ok(Ok(homes));
            }
        }
        // Where memory is ample, all runs come home for more than a little memory alone.
        if self.is_expanding()
            && self.shards.lists_runs()
            && may(Fallback::Grow)
            && self.state().may_expand_beside_lists(requests)
            && let Some(homes) = self.expand_first(requests)?
        {
            return Ok(Ok(homes));
        }
        // The runs of this thread alone may do.
        if self.shards.lists_runs() {
            self.shards.halve_runs(|places, tally| self.take_home(places, tally));
            if let Ok(homes) = self.state().take_all(requests) {
                return Ok(Ok(homes));
            }
        }
        if self.bring_runs_home() {
            let mut state = self.state();
            let taken = state.take_all(requests);
            state.runs_were_home(taken.is_ok());
            if let Ok(homes) = taken {
                return Ok(Ok(homes));
            }
        }
        if self.reserve_again()
            && let Ok(homes) = self.state().take_all(requests)
        {
            return Ok(Ok(homes));
        }
        // Where memory comes in granules, it costs less than what else may help. An arena may have to go for it.
        if self.is_expanding()
            && may(Fallback::Grow)
            && !self.shards.signs.has_arena()
            && let Some(homes) = self.expand_first(requests)?
        {
            return Ok(Ok(homes));
        }
        if let [request] = requests
            && let Some(home) = self.take_larger(request)
        {
            return Ok(Ok(vec![home]));
        }
        let (mut gave_back, mut has_grown, mut has_zeroed, mut has_dissolved) = (false, false, false, false);
        let counted = requests.iter().filter(|request| !request.for_the_pool).count() as u64;
        loop {
            if may(Fallback::Reclaim) {
                self.gather();
                // Where the only slab was leaving, it may be gone now.
                if !gave_back {
                    self.reserve_again();
                }
            }
            // `None` inside `Backend::create_slab` of this pool: whatever else has room may serve the request.
            let growth = self.lock_growth();
            // Whether there was an arena is read with the lock held: what another thread brings home after that is not missed.
            let (mut taken, mut had_arena) = {
                let mut state = self.state();
                let mut taken = state.take_all(requests);
                // An arena that was learned is not given up where any place has memory.
                if matches!(taken, Err(Short::Of(_))) && self.is_expanding() && self.shards.signs.has_arena() {
                    taken = state.take_all_elsewhere(requests);
                }
                if let Ok(homes) = &taken
                    && may(Fallback::Reclaim)
                    && !gave_back
                {
                    state.totals().allocations_after_reclaim += counted.min(homes.len() as u64);
                }
                (taken, self.shards.signs.has_arena())
            };
            // A plan that was learned takes nothing that the program needs: neither room, nor a slab beyond the peak.
            if matches!(taken, Err(Short::Of(_)))
                && counted > 0
                && !has_dissolved
                && had_arena
                && !(may(Fallback::Grow) && self.may_grow_beside_arena(requests))
            {
                drop(growth);
                has_dissolved = true;
                self.dissolve_arena();
                continue;
            }
            let mut refusal = None;
            // Each needs one slab of its own at most.
            let mut slabs_left = requests.len();
            while let Err(Short::Of(_)) = taken
                && may(Fallback::Grow)
                && slabs_left > 0
                && growth.is_some()
            {
                match self.grow(requests, &mut slabs_left, gave_back) {
                    // With the lock held since: the new slab is this request's first.
                    Grown::Slab(mut state) => {
                        has_grown = true;
                        had_arena |= self.shards.signs.has_arena();
                        taken = state.take_all(requests);
                    }
                    Grown::Homes(homes) => {
                        self.state().grant(&homes, requests);
                        has_grown = true;
                        taken = Ok(homes);
                    }
                    Grown::NoBudget => break,
                    Grown::Refused(error) if error.kind() == ErrorKind::OutOfMemory => {
                        refusal = Some(error);
                        break;
                    }
                    Grown::Refused(error) => return Err(error),
                }
            }
            let may_grow = growth.is_some();
            drop(growth);
            let short = match taken {
                Ok(homes) => {
                    let mut state = self.state();
                    let blocks = counted.min(homes.len() as u64);
                    if gave_back {
                        state.totals().allocations_after_return += blocks;
                    } else if has_grown {
                        state.totals().allocations_grown += blocks;
                    }
                    drop(state);
                    if has_grown {
                        // What is left of the slab is for those in line.
                        self.serve();
                    }
                    return Ok(Ok(homes));
                }
                Err(short) => short,
            };
            // Waiters that are before them are served by whatever a new slab could give.
            let Short::Of(lack) = &short else { return Ok(Err(self.no_room(requests, &short))) };
            let lacking = &requests[lack.index];
            // A worse place costs less than memory that goes and comes again.
            if self.is_expanding()
                && let Ok(homes) = self.state().take_all_elsewhere(requests)
            {
                return Ok(Ok(homes));
            }
            if !may_grow && may(Fallback::Grow) {
                return Err(self.inside_create_slab(lacking));
            }
            if !gave_back
                && may(Fallback::Grow)
                && may(Fallback::ReturnEmpty)
                && self.give_back_empty(requests, lacking, refusal.is_some(), may_block)?
            {
                gave_back = true;
                continue;
            }
            if !has_zeroed && may_block && may(Fallback::Reclaim) && self.zero_all() {
                has_zeroed = true;
                continue;
            }
            // Each round needs another arena that has come and gone meanwhile. It may leave slabs that are empty now.
            if counted > 0 && had_arena && self.dissolve_arena() {
                (gave_back, has_grown) = (false, false);
                continue;
            }
            return Ok(Err(match refusal {
                Some(error) => self.refused(requests, error),
                None => self.no_room(requests, &short),
            }));
        }
    }

    /// Takes places where memory can be committed within the budget, before anything is reclaimed.
    #[cold]
    fn expand_first(&self, requests: &[Request]) -> Result<Option<Vec<Home<B::Slab>>>> {
        let Some(growth) = self.lock_growth() else { return Ok(None) };
        if !self.state().may_be_served(requests) {
            return Ok(None);
        }
        match self.expand(requests, false) {
            Grown::Homes(homes) => {
                drop(growth);
                let counted = requests.iter().filter(|request| !request.for_the_pool).count();
                let mut state = self.state();
                state.grant(&homes, requests);
                state.totals().allocations_grown += counted.min(homes.len()) as u64;
                drop(state);
                // The rest of a granule is for those in line.
                self.serve();
                Ok(Some(homes))
            }
            Grown::Refused(error) if error.kind() != ErrorKind::OutOfMemory => Err(error),
            _ => Ok(None),
        }
    }

    /// Whether one slab will do for the requests, within what was reserved at some time before.
    #[cold]
    fn may_grow_beside_arena(&self, requests: &[Request]) -> bool {
        matches!(requests, [request] if self.state().may_grow_within_peak(request))
    }

    /// Tries [`Fallback::Oversized`].
    fn take_larger(&self, request: &Request) -> Option<Home<B::Slab>> {
        let may = request.may(Fallback::Oversized) && !request.is_aligned(self.limits.alignment_bytes);
        let class = self.classes.of(request.bytes).filter(|_| may)?;
        let most_bytes = request.bytes.saturating_add(request.waste_bytes());
        let place = self.shards.take_larger(class, request.bytes, most_bytes)?;
        self.state().totals().allocations_oversized += 1;
        place.into_parts().0
    }

    /// `Fallback::Reclaim`, and what else is idle: all goes home, and who is in line is served.
    pub(super) fn gather(&self) {
        self.settle_completed();
        self.empty_shards();
        self.state().gather();
    }

    /// All that lies in free lists goes home, and an arena that nobody has a block of.
    pub(super) fn empty_shards(&self) {
        self.give_idle_arena();
        self.empty_lists();
    }

    /// All that lies in free lists goes home.
    pub(super) fn empty_lists(&self) {
        for shard in 0..self.shards.count() {
            self.shards.drain(shard, |places, tally| self.take_home(places, tally));
        }
        self.serve();
    }

    /// Takes all free runs home that lie in lists, and keeps runs out of these until memory is ample again. Returns whether there
    /// may have been any.
    #[cold]
    pub(super) fn give_back_runs(&self) -> bool {
        let has_runs = self.bring_runs_home();
        if has_runs {
            self.state().runs_were_home(false);
        }
        has_runs
    }

    /// Takes all free runs home that lie in lists. If there may have been any, no other comes until the caller has called
    /// [`runs_were_home`](super::state::State::runs_were_home). A thread that comes meanwhile takes part, so that it too finds the rest
    /// in the slabs.
    #[cold]
    fn bring_runs_home(&self) -> bool {
        let has_runs = self.shards.has_runs();
        if has_runs {
            let turn = self.state().list_no_runs();
            for shard in 0..self.shards.count() {
                self.shards.drain_runs(shard, |places, tally| self.take_home(places, tally));
            }
            self.state().runs_are_home(turn);
        }
        has_runs
    }

    /// What was in a list goes back to its space. The line is not served: while somebody is in it there are no lists, and
    /// who joins it serves it once all of them are empty.
    #[cold]
    pub(super) fn take_home(&self, places: Vec<IdleBlock<B>>, tally: Tally) {
        let mut state = self.state();
        state.fold(tally);
        state.put_back(places.into_iter().filter_map(|place| place.into_parts().0));
    }

    /// Enters what the shards have not told yet.
    pub(super) fn fold_shards(&self) {
        for shard in 0..self.shards.count() {
            let tally = self.shards.tally_of(shard);
            self.state().fold(tally);
        }
        self.fold_planned();
    }

    pub(super) fn fold_planned(&self) {
        let tally = self.shards.tally_planned();
        self.state().fold(tally);
    }

    /// Memory came back: serves the line.
    pub(super) fn serve(&self) {
        let served = self.state().serve();
        self.tell(served);
    }
}

/// The error of a thread that would wait for memory, and keeps all that is freed meanwhile from being zeroed.
fn waits_for_itself(shortage: Error) -> Error {
    let message = "this thread records, and what is freed is zeroed after that: a request cannot wait for it here";
    Error::new(ErrorKind::Recording, message).with_source(shortage)
}
