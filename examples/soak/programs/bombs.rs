//! Panics that a program wants: in one of the calls that a pool makes of the program's code.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// A call that a pool makes of the program's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callback {
    Name,
    Limits,
    OpenStaging,
    CreateSlab,
    DropSlab,
    Commit,
    Decommit,
    Upload,
    Download,
    Fill,
    Zero,
    Copy,
    Check,
    Flush,
    Recorded,
    Completed,
    Complete,
    Wake,
    DropWaker,
    Write,
    FlushWriter,
    DropWriter,
    Log,
}

/// Those of an open pool.
pub const CALLBACKS: [Callback; 21] = [
    Callback::Name,
    Callback::CreateSlab,
    Callback::DropSlab,
    Callback::Commit,
    Callback::Decommit,
    Callback::Upload,
    Callback::Download,
    Callback::Fill,
    Callback::Zero,
    Callback::Copy,
    Callback::Check,
    Callback::Flush,
    Callback::Recorded,
    Callback::Completed,
    Callback::Complete,
    Callback::Wake,
    Callback::DropWaker,
    Callback::Write,
    Callback::FlushWriter,
    Callback::DropWriter,
    Callback::Log,
];

/// Panics in calls of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Bomb {
    pub callback: Callback,
    /// So many calls pass before the first that panics.
    pub fuse: u64,
    /// So many calls in a row panic.
    pub times: u64,
    pub payload: Payload,
}

/// What a panic carries. Nothing is printed of it.
#[derive(Clone, Copy, Debug)]
pub enum Payload {
    Plain,
    /// It panics in turn when it is dropped.
    Panics,
}

/// What a panic carries that the program wants.
pub struct Planned;

/// As [`Planned`]; its drop panics.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        // A panic while a thread unwinds ends the process, whatever the pool does.
        if !thread::panicking() {
            Payload::Plain.throw();
        }
    }
}

impl Payload {
    pub fn throw(self) -> ! {
        resume_unwind(match self {
            Self::Plain => Box::new(Planned) as Box<dyn Any + Send>,
            Self::Panics => Box::new(PanicsInDrop),
        })
    }
}

/// Whether a program wanted the panic that carries this.
pub fn is_wanted(payload: &(dyn Any + Send)) -> bool {
    payload.is::<Planned>() || payload.is::<PanicsInDrop>()
}

/// Makes a call. Returns `None` if it panicked because the program wanted it; any other panic goes on.
pub fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(value) => Some(value),
        Err(payload) if is_wanted(&*payload) => {
            mem::forget(payload);
            None
        }
        Err(payload) => resume_unwind(payload),
    }
}
