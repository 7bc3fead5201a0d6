//! Waiting in line: blocking, or as a future.
//!
//! Who waits has a [`Seat`]. Whoever brings memory back serves the line under the pool's lock, puts the blocks into the
//! seats, and wakes just those. What nobody brings back by a call of the pool (work that the device finishes, holds that
//! end, deadlines) is found by [`Shared::advance`]: a blocking waiter calls it between short sleeps, and for futures one
//! [`Driver`] thread does.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::line::Ticket;
use super::state::Home;
use super::{Block, Pool, Priority, Request, Shared};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, PoisonError, lock};

/// How long a waiter sleeps at most before it looks at the device again.
const POLL_PERIOD: Duration = Duration::from_millis(1);

/// And when nothing in the pool depends on the device.
const IDLE_PERIOD: Duration = Duration::from_millis(5);

/// What one who waits sits on: what is asked for, and then what came of it.
pub(super) struct Seat<S> {
    requests: Vec<Request>,
    since: Instant,
    patience: Duration,
    result: Mutex<SeatResult<S>>,
    told: Condvar,
}

struct SeatResult<S> {
    homes: Option<Result<Vec<Home<S>>>>,
    /// Whether `homes` was there once, or will not be any more.
    is_over: bool,
    waker: Option<Waker>,
}

impl<S> Seat<S> {
    fn new(requests: &[Request], patience: Duration, waker: Option<Waker>) -> Self {
        Self {
            requests: requests.to_vec(),
            since: Instant::now(),
            patience,
            result: Mutex::new(SeatResult { homes: None, is_over: false, waker }),
            told: Condvar::new(),
        }
    }

    pub(super) fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The least of a batch: it must not take its parts past others.
    pub(super) fn priority(&self) -> Priority {
        self.requests.iter().map(|request| request.priority).min().unwrap_or_default()
    }

    /// `None` if it is further away than the clock goes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.checked_add(self.patience)
    }

    /// Says what came of it, with the pool's lock held; [`wake`](Seat::wake) follows without.
    pub(super) fn settle(&self, homes: Result<Vec<Home<S>>>) {
        let mut result = lock(&self.result);
        debug_assert!(!result.is_over, "nobody is served twice");
        (result.homes, result.is_over) = (Some(homes), true);
    }

    /// Whether something came of it, or he has left.
    pub(super) fn is_settled(&self) -> bool {
        lock(&self.result).is_over
    }

    pub(super) fn wake(&self) {
        let waker = lock(&self.result).waker.take();
        self.told.notify_all();
        // Whoever frees memory, and the others in line, have nothing to do with a waker that panics.
        if let Some(waker) = waker
            && catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err()
        {
            log::error!(
                "the waker of a request that waited for memory has panicked: its future may not be polled again"
            );
        }
    }

    /// He has left the line without anything.
    fn leave(&self) {
        lock(&self.result).is_over = true;
    }

    fn take(&self) -> Option<Result<Vec<Home<S>>>> {
        lock(&self.result).homes.take()
    }

    /// Takes what came of it, or leaves a waker for when something does.
    fn poll(&self, waker: &Waker) -> Option<Result<Vec<Home<S>>>> {
        // To clone a waker and to drop one is a user's code, which may call the pool: the seat is not locked then.
        let mut waker = Some(waker.clone());
        let mut result = lock(&self.result);
        if result.homes.is_none() {
            std::mem::swap(&mut result.waker, &mut waker);
        }
        let homes = result.homes.take();
        drop(result);
        drop(waker);
        homes
    }

    fn sleep(&self, longest: Duration) {
        let result = lock(&self.result);
        if result.homes.is_none() {
            drop(self.told.wait_timeout(result, longest).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// A place in line. Dropping it leaves no trace, whatever had come of it.
struct Place<B: Backend> {
    shared: Arc<Shared<B>>,
    seat: Arc<Seat<B::Slab>>,
    ticket: Ticket,
    is_driven: bool,
}

impl<B: Backend> Place<B> {
    /// Goes to the end of the line. With a waker, the pool's thread sees to what no call of the pool brings back.
    fn join(shared: &Arc<Shared<B>>, requests: &[Request], patience: Duration, waker: Option<Waker>) -> Result<Self> {
        let is_driven = waker.is_some();
        let seat = Arc::new(Seat::new(requests, patience, waker));
        let ticket = {
            let mut state = shared.state();
            state.check_open()?;
            state.join(Arc::clone(&seat))
        };
        let place = Self { shared: Arc::clone(shared), seat, ticket, is_driven: false };
        // From here on nothing is put into the free lists; what was there before serves the line.
        shared.empty_shards();
        if is_driven { place.drive() } else { Ok(place) }
    }

    fn drive(mut self) -> Result<Self> {
        Driver::join(&self.shared)?;
        self.is_driven = true;
        Ok(self)
    }
}

impl<B: Backend> Drop for Place<B> {
    fn drop(&mut self) {
        let seats = {
            let mut state = self.shared.state();
            if state.leave(self.ticket).is_some() {
                self.seat.leave();
            }
            if let Some(Ok(homes)) = self.seat.take() {
                state.take_back(homes, &self.seat.requests);
            }
            state.serve()
        };
        wake(seats);
        if self.is_driven {
            Driver::leave(&self.shared);
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
        let end = place.seat.deadline();
        loop {
            self.advance();
            if let Some(result) = place.seat.take() {
                return result;
            }
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            place.seat.sleep(left.min(self.period()));
        }
    }

    fn period(&self) -> Duration {
        if self.state().waits_for_device() { POLL_PERIOD } else { IDLE_PERIOD }
    }

    /// Brings the line on: sends recorded work, takes home what the device is done with, serves who can be served,
    /// reserves slabs for those who may have them, and lets go whose time is over, or everybody if the device is lost.
    fn advance(&self) {
        // Other errors are for those who recorded: here they only mean that nothing was sent.
        let lost = match self.backend.flush().and_then(|()| self.backend.check()) {
            Err(error) if error.kind() == ErrorKind::DeviceLost => Some(error.to_string()),
            _ => None,
        };
        if let Some(message) = lost {
            self.dismiss(ErrorKind::DeviceLost, &message);
            return;
        }
        self.settle_completed();
        self.give_idle_arena();
        let waiting = {
            let mut state = self.state();
            let seats = state.serve();
            let waiting = state.candidates();
            drop(state);
            wake(seats);
            waiting
        };
        for seat in waiting {
            self.reserve_for(&seat);
        }
        let late = {
            let mut state = self.state();
            let late = state.expire(Instant::now());
            for seat in &late {
                state.timed_out(&seat.requests);
                let error = self.shortage(&state, &seat.requests, ErrorKind::Timeout, seat.since.elapsed());
                seat.settle(Err(error));
            }
            late
        };
        wake(late);
    }

    /// Everybody leaves the line, with an error.
    pub(super) fn dismiss(&self, kind: ErrorKind, message: &str) {
        let seats = {
            let mut state = self.state();
            let seats = state.clear_line();
            seats.iter().for_each(|seat| seat.settle(Err(Error::new(kind, message))));
            seats
        };
        wake(seats);
    }
}

/// The thread that brings the line on for futures: there while one of them waits.
pub(super) struct Driver {
    futures: usize,
    thread: Option<(JoinHandle<()>, Arc<AtomicBool>)>,
}

impl Driver {
    pub(super) fn new() -> Self {
        Self { futures: 0, thread: None }
    }

    fn join<B: Backend>(shared: &Arc<Shared<B>>) -> Result<()> {
        let mut driver = lock(&shared.driver);
        if driver.thread.is_none() {
            let stop = Arc::new(AtomicBool::new(false));
            let (pool, stopped) = (Arc::clone(shared), Arc::clone(&stop));
            let run = move || {
                while !stopped.load(Ordering::Acquire) {
                    // A thread that ended here would leave the futures in line for ever, past their deadlines.
                    if catch_unwind(AssertUnwindSafe(|| pool.advance())).is_err() {
                        let message = format!("{} panicked while requests waited in line", pool.backend.name());
                        pool.dismiss(ErrorKind::Device, &message);
                    }
                    thread::park_timeout(pool.period());
                }
            };
            let thread = thread::Builder::new().name("tensorpool waiters".into()).spawn(run).map_err(|error| {
                Error::new(ErrorKind::OutOfMemory, "no thread to wait with could be started").with_source(error)
            })?;
            driver.thread = Some((thread, stop));
        }
        driver.futures += 1;
        Ok(())
    }

    fn leave<B: Backend>(shared: &Shared<B>) {
        let ended = {
            let mut driver = lock(&shared.driver);
            driver.futures -= 1;
            if driver.futures == 0 { driver.thread.take() } else { None }
        };
        let Some((thread, stop)) = ended else { return };
        stop.store(true, Ordering::Release);
        thread.thread().unpark();
        // A waker may run its future on the very thread that wakes it; then the thread ends by itself.
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
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
    requests: Vec<Request>,
    place: Option<Place<B>>,
}

impl<B: Backend> AllocFuture<B> {
    fn new(shared: &Arc<Shared<B>>, requests: &[Request]) -> Self {
        Self { shared: Arc::clone(shared), requests: requests.to_vec(), place: None }
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
                        match Place::join(&this.shared, &this.requests, patience, Some(context.waker().clone())) {
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
        Poll::Ready(homes.and_then(|homes| this.shared.blocks(homes, &this.requests)))
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
    /// Works under any executor. While futures wait, one thread of the pool sees to the device and to deadlines; it ends
    /// when the last of them leaves the line. Dropping the future leaves the line, and leaves no trace. A request that does
    /// not [wait](Request::wait) does not wait for the device either, as `alloc` does for slabs on their way back.
    ///
    /// # Errors
    /// As [`alloc`](Pool::alloc), when the future is polled; [`ErrorKind::Device`] if the backend panics in that thread, for
    /// everybody in line.
    pub fn alloc_async(&self, request: Request) -> impl Future<Output = Result<Block<B>>> + Send + use<B> {
        Single(AllocFuture::new(self.shared(), &[request]))
    }

    /// All blocks of the batch, in the order of the requests, or none: so two who need two blocks each cannot block each
    /// other for ever. The batch waits as long as the request that waits least, and goes by the least priority in it.
    ///
    /// # Errors
    /// As [`alloc`](Pool::alloc), for the first request that there is no room for; then nothing is held of the batch.
    pub fn alloc_all(&self, requests: &[Request]) -> Result<Vec<Block<B>>> {
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
    pub fn alloc_all_async(&self, requests: &[Request]) -> AllocFuture<B> {
        AllocFuture::new(self.shared(), requests)
    }
}
