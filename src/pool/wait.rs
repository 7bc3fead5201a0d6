//! Waiting in line: blocking, or as a future.
//!
//! Each waiter has a [`Seat`]. A thread that brings memory back serves the line under the pool's lock, puts the blocks into
//! the seats, and wakes just those. What no call of the pool brings (work that the device finishes, holds that end, slabs,
//! deadlines) is found by the [watch](super::watch).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::line::{Entrant, Ticket};
use super::state::Home;
use super::tables::{ARC_BYTES, vec_bytes};
use super::{Block, Fallback, Pool, Priority, Request, Shared};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::sync::{Arc, Condvar, Mutex, PoisonError, caught, lock};

/// How long a blocking waiter leaves it to the pool's own thread, which a waker may hold up, to look after it.
const TRUST_PERIOD: Duration = Duration::from_secs(1);

/// What a waiter sits on: what is asked for, and then what came of it.
pub(super) struct Seat<S> {
    requests: Vec<Request<'static>>,
    /// What a slab has to have to serve each of them.
    slab_bytes: Vec<u64>,
    since: Instant,
    patience: Duration,
    result: Mutex<SeatResult<S>>,
    told: Condvar,
}

struct SeatResult<S> {
    homes: Option<Result<Vec<Home<S>>>>,
    /// `homes` was there once, or will not be any more.
    is_over: bool,
    waker: Option<Waker>,
    /// What the backend last said instead of creating a slab.
    refusal: Option<Error>,
}

/// What decides whether a waiter can be served, and whether a slab may help it: the same for all with the same parts.
pub(super) type Parts = Arc<[Part]>;

/// One request of them: its bytes, alignment and priority, and whether the pool may grow for it and return empty slabs.
pub(super) type Part = (u64, u64, Priority, bool, bool);

impl<S> Seat<S> {
    pub(super) fn new(requests: &[Request], slab_bytes: Vec<u64>, patience: Duration, waker: Option<Waker>) -> Self {
        Self {
            requests: requests.iter().cloned().map(Request::into_static).collect(),
            slab_bytes,
            since: Instant::now(),
            patience,
            result: Mutex::new(SeatResult { homes: None, is_over: false, waker, refusal: None }),
            told: Condvar::new(),
        }
    }

    pub(super) fn requests(&self) -> &[Request<'static>] {
        &self.requests
    }

    /// The least of a batch: it must not take its parts past others.
    pub(super) fn priority(&self) -> Priority {
        self.requests.iter().map(|request| request.priority).min().unwrap_or_default()
    }

    /// How it joins the line.
    pub(super) fn entrant(&self) -> Entrant<Parts> {
        let priority = self.priority();
        let part = |request: &Request| {
            let (may_grow, may_return) = (request.may(Fallback::Grow), request.may(Fallback::ReturnEmpty));
            (request.bytes, request.align_bytes, request.priority, may_grow, may_return)
        };
        // What other priorities need is bounded by other bytes.
        let of_priority = self.requests.iter().filter(|request| request.priority == priority);
        let room_bytes = of_priority.map(|request| request.bytes).max().unwrap_or(0);
        let growing = self.requests.iter().zip(&self.slab_bytes);
        let growing = growing.filter(|(request, _)| request.bytes > 0 && request.may(Fallback::Grow));
        let slab_bytes = growing.map(|(_, bytes)| *bytes).min().unwrap_or(u64::MAX);
        Entrant {
            priority,
            deadline: self.deadline(),
            kind: self.requests.iter().map(part).collect(),
            needs: [room_bytes, slab_bytes],
            memory_bytes: self.memory_bytes(),
        }
    }

    /// What it has in memory, with the requests' labels, the reference counts of the line and the kind it joins as.
    fn memory_bytes(&self) -> u64 {
        let labels = self.requests.iter().map(|request| request.label.memory_bytes());
        let parts_bytes = ARC_BYTES + self.requests.len() * size_of::<Part>() + labels.sum::<usize>();
        vec_bytes(&self.requests) + vec_bytes(&self.slab_bytes) + (ARC_BYTES + size_of::<Self>() + parts_bytes) as u64
    }

    /// `None` if it is further away than the clock goes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.checked_add(self.patience)
    }

    pub(super) fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// Says what came of it; [`wake`](Seat::wake) follows. Homes are put here with the pool's lock held, so that a waiter that
    /// leaves finds them. An error may come later, when it has left.
    pub(super) fn settle(&self, homes: Result<Vec<Home<S>>>) {
        let mut result = lock(&self.result);
        debug_assert!(!result.is_over || homes.is_err(), "no waiter is served twice");
        if !result.is_over {
            (result.homes, result.is_over) = (Some(homes), true);
        }
    }

    /// The backend has refused a slab for it. It waits on, and is told if nothing better comes.
    pub(super) fn refuse(&self, error: Error) {
        // What an error carries is the backend's. Its drop may call the pool, which may serve this seat.
        let before = lock(&self.result).refusal.replace(error);
        caught(|| drop(before));
    }

    /// Returns whether the backend has refused a slab for it.
    pub(super) fn is_denied(&self) -> bool {
        lock(&self.result).refusal.is_some()
    }

    /// An error with what the backend said as its cause, if it did.
    pub(super) fn caused(&self, error: Error) -> Error {
        match lock(&self.result).refusal.take() {
            Some(refusal) => error.with_source(refusal),
            None => error,
        }
    }

    /// Tells the waiter, which may run the caller's code.
    pub(super) fn wake(&self) {
        let waker = lock(&self.result).waker.take();
        self.told.notify_all();
        if let Some(waker) = waker
            && caught(|| waker.wake()).is_none()
        {
            caught(|| {
                log::error!(
                    "the waker of a request that waited for memory has panicked: its future may not be polled again"
                );
            });
        }
    }

    /// The waiter has gone. Returns what it was served, and what else was in the seat.
    fn leave(&self) -> (Option<Vec<Home<S>>>, Left) {
        let mut result = lock(&self.result);
        result.is_over = true;
        let (homes, error) = match result.homes.take() {
            Some(Ok(homes)) => (Some(homes), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        (homes, Left { errors: [error, result.refusal.take()], waker: result.waker.take() })
    }

    pub(super) fn take(&self) -> Option<Result<Vec<Home<S>>>> {
        lock(&self.result).homes.take()
    }

    /// Takes what came of it, or leaves a waker for when something does.
    fn poll(&self, waker: &Waker) -> Option<Result<Vec<Home<S>>>> {
        // To clone a waker and to drop one is the caller's code, which may call the pool: the seat is not locked then.
        let mut waker = Some(waker.clone());
        let mut result = lock(&self.result);
        if result.homes.is_none() {
            std::mem::swap(&mut result.waker, &mut waker);
        }
        let homes = result.homes.take();
        drop(result);
        // A panic here would lose the homes.
        caught(|| drop(waker));
        homes
    }

    /// Sleeps until the waiter is told, or for so long.
    fn sleep(&self, longest: Duration) {
        let result = lock(&self.result);
        if result.homes.is_none() {
            drop(self.told.wait_timeout(result, longest).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// What a waiter leaves in its seat. To drop it is not this crate's code: that is done without the pool's lock.
struct Left {
    errors: [Option<Error>; 2],
    waker: Option<Waker>,
}

impl Left {
    fn drop_all(self) {
        let Self { errors, waker } = self;
        caught(|| drop(waker));
        // Each by itself: a second panic while the first unwinds would end the process.
        errors.into_iter().for_each(|error| {
            caught(|| drop(error));
        });
    }
}

/// A place in line. Dropping it leaves no trace, whatever had come of it.
struct Place<B: Backend> {
    shared: Arc<Shared<B>>,
    seat: Arc<Seat<B::Slab>>,
    ticket: Ticket,
}

impl<B: Backend> Place<B> {
    /// Goes to the end of the line.
    fn join(shared: &Arc<Shared<B>>, requests: &[Request], patience: Duration, waker: Option<Waker>) -> Result<Self> {
        let slab_bytes = requests.iter().map(|request| shared.sizes.least_for(request).unwrap_or(u64::MAX));
        let seat = Arc::new(Seat::new(requests, slab_bytes.collect(), patience, waker));
        let ticket = {
            let mut state = shared.state();
            state.check_open()?;
            // The budget may have been lowered since the requests were checked.
            if state.is_over_budget(requests) { None } else { Some(state.join(Arc::clone(&seat))) }
        };
        let Some(ticket) = ticket else {
            shared.state().failed(requests);
            return Err(shared.over_budget(requests));
        };
        let place = Self { shared: Arc::clone(shared), seat, ticket };
        // From here on nothing is put into the free lists; what was there before serves the line.
        shared.empty_shards();
        Ok(place)
    }
}

impl<B: Backend> Drop for Place<B> {
    fn drop(&mut self) {
        let (served, left, gives_back) = {
            let mut state = self.shared.state();
            state.leave(self.ticket);
            let (homes, left) = self.seat.leave();
            let gives_back = homes.is_some() && state.gives_back_at_once();
            if let Some(homes) = homes {
                state.take_back(homes, &self.seat.requests);
            }
            if gives_back {
                self.shared.detach_empty(&mut state);
            }
            (state.serve(), left, gives_back)
        };
        left.drop_all();
        self.shared.tell(served);
        if gives_back {
            caught(|| self.shared.settle_completed());
        }
    }
}

pub(super) fn wake<S>(seats: Vec<Arc<Seat<S>>>) {
    seats.into_iter().for_each(|seat| seat.wake());
}

impl<B: Backend> Shared<B> {
    /// Waits in line until the requests are served, all of them, or their time is over.
    pub(super) fn wait(self: &Arc<Self>, requests: &[Request], patience: Duration) -> Result<Vec<Home<B::Slab>>> {
        let place = Place::join(self, requests, patience, None)?;
        self.look();
        let end = place.seat.deadline();
        if let Some(result) = place.seat.take() {
            return result;
        }
        self.watch()?;
        loop {
            let left = end.map_or(TRUST_PERIOD, |end| end.saturating_duration_since(Instant::now()));
            place.seat.sleep(left.min(TRUST_PERIOD));
            if let Some(result) = place.seat.take() {
                return result;
            }
            if end.is_some_and(|end| end <= Instant::now()) {
                // Either here or in the thread that was faster.
                self.expire();
                place.seat.sleep(TRUST_PERIOD);
            } else if self.watch.is_looking() {
                self.look();
            }
        }
    }
}

/// A request on its way: resolves to its blocks, one for each request. From [`Pool::alloc_async`] and
/// [`Pool::alloc_all_async`].
///
/// Needs no runtime. Dropping it gives up the place in line, and leaves no trace.
#[must_use = "futures do nothing unless polled"]
pub struct AllocFuture<B: Backend> {
    shared: Arc<Shared<B>>,
    requests: Vec<Request<'static>>,
    place: Option<Place<B>>,
}

impl<B: Backend> AllocFuture<B> {
    fn new(shared: &Arc<Shared<B>>, requests: &[Request]) -> Self {
        Self {
            shared: Arc::clone(shared),
            requests: requests.iter().cloned().map(Request::into_static).collect(),
            place: None,
        }
    }
}

impl<B: Backend> fmt::Debug for AllocFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_in_line = self.place.is_some();
        f.debug_struct("AllocFuture").field("requests", &self.requests).field("is_in_line", &is_in_line).finish()
    }
}

impl<B: Backend> Future for AllocFuture<B> {
    type Output = Result<Vec<Block<B>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.place.is_none() {
            this.shared.make_room_in_record();
        }
        let homes = match &this.place {
            None => match this.shared.try_obtain(&this.requests, true) {
                Ok(homes) => Ok(homes),
                Err((error, patience)) => match patience {
                    None => Err(error),
                    Some(patience) => {
                        let waker = context.waker().clone();
                        let place = Place::join(&this.shared, &this.requests, patience, Some(waker));
                        match place.and_then(|place| this.shared.watch().map(|()| place)) {
                            Ok(place) => this.place = Some(place),
                            Err(error) => return Poll::Ready(Err(error)),
                        }
                        return Poll::Pending;
                    }
                },
            },
            Some(place) => match place.seat.poll(context.waker()) {
                Some(result) => result,
                None => return Poll::Pending,
            },
        };
        this.place = None;
        let blocks = homes.and_then(|homes| this.shared.blocks(homes, &this.requests));
        blocks.iter().for_each(|blocks| this.shared.write_down_beside(blocks));
        Poll::Ready(blocks)
    }
}

/// One block from an [`AllocFuture`] of one request.
struct Single<B: Backend>(AllocFuture<B>);

impl<B: Backend> Future for Single<B> {
    type Output = Result<Block<B>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|blocks| Ok(blocks?.remove(0)))
    }
}

impl<B: Backend> Pool<B> {
    /// As [`alloc`](Pool::alloc), without blocking the thread while the request waits in line.
    ///
    /// Works under any executor. While anything waits, one thread of the pool looks at the device and at deadlines; it ends soon
    /// after the last waiter has left the line. A request that does not [wait](Request::wait) does not wait for the device
    /// either, as `alloc` does for slabs on their way back. The first poll may block all the same, beyond a deadline: while another
    /// thread is inside [`create_slab`](Backend::create_slab) or [`commit`](Backend::commit), and while a recording is full.
    ///
    /// Dropping the future leaves the line, and leaves no trace. The drop waits for no other thread: not for one that wakes the
    /// future just then. A future that is polled and then forgotten ([`std::mem::forget`]) stays in line until its deadline.
    /// With `Duration::MAX` it stays for ever, and all that came later are refused once 16 were served before it: give a
    /// deadline to a request whose future may be forgotten. What it was served stays its own, as a block that is forgotten.
    ///
    /// # Errors
    /// As [`alloc`](Pool::alloc), when the future is polled; [`ErrorKind::Device`](crate::ErrorKind::Device) if the backend
    /// panics in that thread, for all in line.
    pub fn alloc_async(&self, request: Request<'_>) -> impl Future<Output = Result<Block<B>>> + Send + use<B> {
        Single(AllocFuture::new(self.shared(), &[request]))
    }

    /// All blocks of the batch, in the order of the requests, or none: so two who need two blocks each cannot block each
    /// other for ever. The batch waits as long as the request that waits least, and goes by the least priority in it.
    ///
    /// # Errors
    /// As [`alloc`](Pool::alloc), for the first request that there is no room for; then nothing is held of the batch.
    pub fn alloc_all(&self, requests: &[Request<'_>]) -> Result<Vec<Block<B>>> {
        let shared = self.shared();
        shared.make_room_in_record();
        let alloc_all = |requests: &[Request]| {
            let homes = match shared.try_obtain(requests, false) {
                Ok(homes) => homes,
                Err((_, Some(patience))) => shared.wait(requests, patience)?,
                Err((error, None)) => return Err(error),
            };
            shared.blocks(homes, requests)
        };
        if shared.shards.signs.looks() { shared.alloc_all_in_step(requests, alloc_all) } else { alloc_all(requests) }
    }

    /// As [`alloc_all`](Pool::alloc_all), without blocking the thread; see [`alloc_async`](Pool::alloc_async).
    pub fn alloc_all_async(&self, requests: &[Request<'_>]) -> AllocFuture<B> {
        AllocFuture::new(self.shared(), requests)
    }
}

#[cfg(test)]
mod tests;
