//! Wakers of a program, and writers of its records: they allocate, free, and drop futures inside the pool's calls.
//!
//! The pool's own thread runs them, too. So what they do comes to the program by mail, and they say when they are at work.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use tensorpool::{Backend, Block, Pool, Request, Result};

use super::bombs::Callback;
use super::choices::Choices;
use super::disturbed::Ground;
use super::pattern::Content;
use super::pool::{Held, Program};
use super::pool_model::Facts;
use super::pool_record::Entry;
use super::trouble::Trouble;

/// A future on its way, unless a waker has dropped it.
pub type Slot<B> = Arc<Mutex<Option<Pin<Box<dyn Future<Output = Result<Vec<Block<B>>>> + Send>>>>>;

/// Blocks that wakers may free, by number, and what is known of them.
pub type Offered = BTreeMap<u64, (Facts, Option<Content>, Option<Entry>)>;

/// What a waker does when it is called.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    Quiet,
    /// It allocates so many bytes.
    Allocs(u64),
    /// As `Allocs`, and it frees them.
    Borrows(u64),
    /// It frees a block that it was offered.
    Frees,
    /// It drops a future, if that is not being looked at.
    Drops(usize),
}

impl Manner {
    pub fn draw(choices: &mut impl Choices) -> Self {
        match choices.below(8) {
            0 => Self::Allocs(choices.even_in_log(4096)),
            1 => Self::Frees,
            2 => Self::Drops(choices.below(8) as usize),
            _ => Self::Quiet,
        }
    }
}

/// What a program and its wakers share.
pub struct Office<B: Backend> {
    pub trouble: Arc<Trouble>,
    pool: Mutex<Option<Pool<B>>>,
    /// Calls that have begun, and those that have ended.
    begun: AtomicU64,
    ended: AtomicU64,
    /// What was allocated in here.
    got: Mutex<Vec<Block<B>>>,
    /// What may be freed in here, and what was.
    offered: Mutex<Vec<(u64, Block<B>)>>,
    freed: Mutex<Vec<u64>>,
    slots: Mutex<Vec<Slot<B>>>,
}

/// A call that has begun. It ends also if it panics.
struct AtWork<'a>(&'a AtomicU64);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl<B: Backend> Office<B> {
    pub fn open(trouble: &Arc<Trouble>, pool: &Pool<B>) -> Arc<Self> {
        Arc::new(Self {
            trouble: Arc::clone(trouble),
            pool: Mutex::new(Some(pool.clone())),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            got: Mutex::default(),
            offered: Mutex::default(),
            freed: Mutex::default(),
            slots: Mutex::default(),
        })
    }

    pub fn pool(&self) -> Option<Pool<B>> {
        lock(&self.pool).clone()
    }

    fn alloc(&self, bytes: u64) -> Option<Block<B>> {
        self.pool().and_then(|pool| pool.alloc(Request::bytes(bytes)).ok())
    }

    /// A block for wakers to free.
    pub fn offer(&self, number: u64, block: Block<B>) {
        lock(&self.offered).push((number, block));
    }

    /// What they have not freed.
    pub fn take_offered(&self) -> Vec<(u64, Block<B>)> {
        std::mem::take(&mut *lock(&self.offered))
    }

    pub fn set_pool(&self, pool: Option<Pool<B>>) {
        let before = std::mem::replace(&mut *lock(&self.pool), pool);
        drop(before);
    }

    /// How often wakers were called; an error while one is at work.
    pub fn activity(&self) -> Result<u64, String> {
        let ended = self.ended.load(SeqCst);
        if self.begun.load(SeqCst) == ended { Ok(ended) } else { Err("a waker is at work".into()) }
    }

    /// A waker that rings the bell and does what it does.
    pub fn waker(self: &Arc<Self>, manner: Manner, bell: &Arc<AtomicBool>) -> Waker
    where
        B: Ground,
    {
        Waker::from(Arc::new(Tap { office: Arc::clone(self), bell: Arc::clone(bell), manner }))
    }

    pub fn watch(&self, slot: &Slot<B>) {
        lock(&self.slots).push(Arc::clone(slot));
    }

    pub fn unwatch(&self, slot: &Slot<B>) {
        lock(&self.slots).retain(|other| !Arc::ptr_eq(other, slot));
    }

    /// Does what a waker, or a writer, does. Nothing is locked while it calls the pool.
    pub fn act(&self, manner: Manner) {
        self.begun.fetch_add(1, SeqCst);
        let _at_work = AtWork(&self.ended);
        match manner {
            Manner::Quiet => {}
            Manner::Allocs(bytes) => {
                let block = self.alloc(bytes);
                lock(&self.got).extend(block);
            }
            Manner::Borrows(bytes) => drop(self.alloc(bytes)),
            Manner::Frees => {
                let offered = lock(&self.offered).pop();
                if let Some((number, block)) = offered {
                    // Before it is: the program may be handed its place at once.
                    lock(&self.freed).push(number);
                    drop(block);
                }
            }
            Manner::Drops(index) => {
                let slot = {
                    let slots = lock(&self.slots);
                    slots.get(index % slots.len().max(1)).cloned()
                };
                // The program may be looking at it just now.
                let future = slot.and_then(|slot| slot.try_lock().ok().and_then(|mut future| future.take()));
                drop(future);
            }
        }
    }
}

/// What is behind a waker.
struct Tap<B: Ground> {
    office: Arc<Office<B>>,
    bell: Arc<AtomicBool>,
    manner: Manner,
}

impl<B: Ground> Wake for Tap<B> {
    fn wake(self: Arc<Self>) {
        self.bell.store(true, SeqCst);
        self.office.act(self.manner);
        self.office.trouble.pass(Callback::Wake);
    }
}

impl<B: Ground> Drop for Tap<B> {
    fn drop(&mut self) {
        self.office.trouble.pass(Callback::DropWaker);
    }
}

impl<B: Ground> Program<B> {
    /// A block is given to wakers to free.
    pub fn offer(&mut self, index: usize) {
        if !self.held[index].holds.is_empty() {
            return;
        }
        let Held { block, facts, content, entry, .. } = self.held.swap_remove(index);
        self.patterns += 1;
        let number = self.patterns;
        self.offered.insert(number, (facts, content, entry));
        self.office.offer(number, block);
    }

    /// What wakers have not freed is the program's again.
    pub fn take_offered(&mut self) {
        for (number, block) in self.office.take_offered() {
            let (facts, content, entry) = self.offered.remove(&number).expect("a block that was offered");
            self.held.push(Held { block, facts, content, holds: Vec::new(), left: Vec::new(), entry });
        }
    }

    /// Enters what wakers and writers have done.
    pub fn collect(&mut self) {
        self.collect_freed();
        self.collect_got();
    }

    /// Enters what wakers have freed.
    pub fn collect_freed(&mut self) {
        let freed = std::mem::take(&mut *lock(&self.office.freed));
        for number in freed {
            let (facts, _, entry) = self.offered.remove(&number).expect("a block that was offered");
            self.may_have_had(0);
            self.books.remove(&facts, false);
            self.steps.freed(facts.place);
            self.record_free(entry);
        }
    }

    /// Enters what wakers and writers have allocated.
    pub fn collect_got(&mut self) {
        let got = std::mem::take(&mut *lock(&self.office.got));
        for block in got {
            self.may_have_had(0);
            let facts = Facts::of(&block, 0, false, 1);
            self.books.add(&facts, self.limits.alignment_bytes);
            // It may have come before the record began.
            self.keep(block, facts, false, None);
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
