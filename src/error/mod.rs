//! One error for the whole crate: opaque, with a kind, the numbers, and predicates.
//!
//! Nothing here names wgpu or the pool. An error of a device travels boxed, as the [`cause`](Error::cause).
//!
//! ```text
//!   mod (kind, message, cause) ──► shortage (a pool's numbers, and their text) ──► remedy (what would help)
//!   returned (an error with the value that the call took)
//! ```

mod remedy;
mod returned;
mod shortage;

use std::error::Error as StdError;
use std::fmt;

pub use self::remedy::Remedy;
pub use self::returned::Returned;
pub use self::shortage::{Holder, RefusedBy, Shortage};
use crate::units::ParseByteSizeError;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a value to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is larger than the whole budget, or than what of it is open to its priority: it can never be served, unless the budget
    /// is [raised](crate::Pool::set_budget).
    OverBudget,
    /// Less is left than the request takes: of the budget, or of what is reserved already for a request that may not
    /// [grow](crate::Fallback::Grow). Or what is left is kept for a request that has waited long.
    Full,
    /// Enough bytes are left, but not in one run, not in one slab, or kept idle for others ([`Shortage::refused_by`]). Bytes that
    /// are kept for requests of high priority are not left to others.
    Fragmented,
    /// The request waited in line, and its time was over before there was room.
    Timeout,
    /// The request is over a limit of the device (the message names the limit).
    TooLarge,
    /// The alignment is not a power of two, or more than the slabs have.
    Alignment,
    /// A block cannot grow where it is. The message says what is in the way; another block, and a copy, may do.
    NotInPlace,
    /// The system or the device refused memory although the budget had room.
    OutOfMemory,
    /// The device is lost. Everything on it is gone; host memory is not affected.
    DeviceLost,
    /// The device, or the program recorded for it, broke a rule of its interface.
    Device,
    /// There is no device of the kind asked for.
    NoDevice,
    /// Shapes, ranks or ranges that do not fit.
    Shape,
    /// Element types or labels that do not fit.
    Type,
    /// A value that no call accepts: a size that does not parse, a setting out of range. Or a call from inside another that
    /// cannot serve it.
    Invalid,
    /// A call on the stream from inside the closure that is recording it, or one that would wait for that closure to end.
    Recording,
    /// The pool is closed.
    Closed,
    /// Tensors of different pools in one operation.
    Foreign,
    /// A file that cannot be read or written, or whose content breaks its format (the message says where).
    File,
    /// The pool's own counters contradict each other, which is a defect of this crate. The pool reserves nothing more, so
    /// that the budget holds; blocks stay valid.
    Defect,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OverBudget => "more than the budget",
            Self::Full => "full",
            Self::Fragmented => "fragmented",
            Self::Timeout => "timeout",
            Self::TooLarge => "too large for the device",
            Self::Alignment => "alignment",
            Self::NotInPlace => "not in place",
            Self::OutOfMemory => "out of memory",
            Self::DeviceLost => "device lost",
            Self::Device => "device error",
            Self::NoDevice => "no device",
            Self::Shape => "shape",
            Self::Type => "type",
            Self::Invalid => "invalid",
            Self::Recording => "recording",
            Self::Closed => "closed",
            Self::Foreign => "another pool",
            Self::File => "file",
            Self::Defect => "defect",
        })
    }
}

/// Why a call of this crate failed. Prints the numbers; [`kind`](Error::kind) and the predicates tell the cases apart.
///
/// ```
/// use tensorpool::{Config, Pool, RefusedBy, Request};
///
/// let pool = Pool::host(Config::new("256 KiB"))?;
/// let weights = pool.alloc(Request::bytes(4608).label("weights"))?;
/// let error = pool.alloc(Request::bytes(252 << 10)).unwrap_err();
/// let shortage = error.shortage().unwrap();
/// assert_eq!(shortage.refused_by, RefusedBy::Budget);
/// assert_eq!((shortage.unused_bytes(), shortage.largest_bytes), (257_024, 257_024));
/// let smaller = pool.alloc(Request::bytes(shortage.largest_bytes))?;
/// # Ok::<(), tensorpool::Error>(())
/// ```
pub struct Error(Box<Repr>);

struct Repr {
    kind: ErrorKind,
    message: String,
    shortage: Option<Shortage>,
    remedies: Vec<Remedy>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a `message` that says the numbers. For implementors of backends.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Repr { kind, message: message.into(), shortage: None, remedies: Vec::new(), source: None }))
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn shortage_of(kind: ErrorKind, shortage: Shortage, remedies: Vec<Remedy>) -> Self {
        Self(Box::new(Repr { kind, message: String::new(), shortage: Some(shortage), remedies, source: None }))
    }

    /// The same error with what would help against it.
    pub(crate) fn with_remedies(mut self, remedies: Vec<Remedy>) -> Self {
        self.0.remedies = remedies;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The error of the system or the device that caused this one; its words are at the end of this one's.
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }

    /// Returns the pool's numbers, when it had no room ([`is_no_room`](Error::is_no_room)) or its backend no memory
    /// ([`is_out_of_memory`](Error::is_out_of_memory)).
    pub fn shortage(&self) -> Option<&Shortage> {
        self.0.shortage.as_ref()
    }

    /// Returns what would serve the request now, and what may help the next time the program runs: see
    /// [`Remedy::is_certain`]. Empty where the pool knows of nothing.
    pub fn remedies(&self) -> &[Remedy] {
        &self.0.remedies
    }

    /// The pool had no room: more than the budget, full, fragmented, or not in time.
    pub fn is_no_room(&self) -> bool {
        self.0.shortage.is_some() && self.0.kind != ErrorKind::OutOfMemory
    }

    /// The request is more than the budget can ever give.
    pub fn is_over_budget(&self) -> bool {
        self.0.kind == ErrorKind::OverBudget
    }

    /// Less is left than the request takes, or it is kept for a request that has waited long.
    pub fn is_full(&self) -> bool {
        self.0.kind == ErrorKind::Full
    }

    /// Enough is left, but not in one run.
    pub fn is_fragmented(&self) -> bool {
        self.0.kind == ErrorKind::Fragmented
    }

    /// The request waited in line until its time was over.
    pub fn is_timeout(&self) -> bool {
        self.0.kind == ErrorKind::Timeout
    }

    /// The block cannot grow where it is.
    pub fn is_not_in_place(&self) -> bool {
        self.0.kind == ErrorKind::NotInPlace
    }

    /// Over a limit of the device.
    pub fn is_too_large(&self) -> bool {
        self.0.kind == ErrorKind::TooLarge
    }

    /// The system or the device had no memory although the budget had room.
    pub fn is_out_of_memory(&self) -> bool {
        self.0.kind == ErrorKind::OutOfMemory
    }

    /// The device is lost.
    pub fn is_device_lost(&self) -> bool {
        self.0.kind == ErrorKind::DeviceLost
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.shortage {
            Some(shortage) => shortage.write(self.0.kind, f)?,
            None => f.write_str(&self.0.message)?,
        }
        remedy::write(&self.0.remedies, f)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.0.kind)
    }
}

impl StdError for Error {
    /// What is below the [`cause`](Error::cause), whose own words are part of this error's.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause().and_then(StdError::source)
    }
}

impl From<ParseByteSizeError> for Error {
    fn from(error: ParseByteSizeError) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}
