//! One error for the whole crate: opaque, with a kind, the numbers, and predicates.
//!
//! Nothing here names wgpu or the pool. An error of a device travels boxed, as the [`cause`](Error::cause).

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::units::{ByteSize, ParseByteSizeError, exact};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a value to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is larger than the whole budget: it can never be served.
    OverBudget,
    /// Less is left than the request takes: of the budget, or of what is reserved already for a request that may not
    /// [grow](crate::Fallback::Grow). Or what is left is kept for a request that has waited long.
    Full,
    /// Enough bytes are left, but not in one run. Bytes that are kept for requests of high priority are not left to others.
    Fragmented,
    /// The request waited in line, and its time was over before there was room.
    Timeout,
    /// The request is over a limit of the device (the message names the limit).
    TooLarge,
    /// The alignment is not a power of two, or more than the slabs have.
    Alignment,
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

/// What a label's blocks hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The label, or an empty text for the blocks that have none.
    pub label: String,
    /// Bytes held by its blocks.
    pub bytes: u64,
    /// How many blocks.
    pub blocks: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label.as_str() {
            "" => f.write_str("(no label)")?,
            label => write!(f, "{label:?}")?,
        }
        write!(f, " {} in {} block{}", ByteSize(self.bytes), self.blocks, if self.blocks == 1 { "" } else { "s" })
    }
}

/// The numbers of a pool at the moment when it could not serve a request. All in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortage {
    /// What the request asked for.
    pub asked_bytes: u64,
    /// What that takes: more, if the placement rounds to powers of two, a slab to its pages, or the device to whole words.
    pub needed_bytes: u64,
    /// The request's label.
    pub label: Option<String>,
    /// The pool's budget.
    pub budget_bytes: u64,
    /// What the pool had from its backend, staging included.
    pub reserved_bytes: u64,
    /// What blocks' owners had asked for.
    pub live_bytes: u64,
    /// What those blocks held.
    pub used_bytes: u64,
    /// Idle pieces in cut pages.
    pub cached_bytes: u64,
    /// Waiting for the device.
    pub retired_bytes: u64,
    /// Free pages.
    pub free_bytes: u64,
    /// The staging ring.
    pub staging_bytes: u64,
    /// The longest run of free pages in any slab.
    pub largest_free_run_bytes: u64,
    /// Bytes of the budget kept for requests of high priority, if this one was of another: what they do not hold already of the
    /// reserve, or all of it where the request could never be served.
    pub high_priority_reserve_bytes: u64,
    /// The arena of [planned steps](crate::Pool::auto_plan): bytes that other requests do not get while a block is in it. 0 if
    /// there is none.
    pub arena_bytes: u64,
    /// What no block had of it, which counts as cached.
    pub arena_idle_bytes: u64,
    /// Whether the request let the pool reserve more ([`Fallback::Grow`](crate::Fallback::Grow)).
    pub may_grow: bool,
    /// How long the request waited in line.
    pub waited: Duration,
    /// Requests that were waiting in line, this one not counted.
    pub waiting: u64,
    /// Whether one of them had waited so long that whatever was left was kept for it.
    pub is_overdue: bool,
    /// The five labels that held most, largest first.
    pub holders: Vec<Holder>,
}

impl Shortage {
    fn write(&self, kind: ErrorKind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no room for {}", exact(self.asked_bytes))?;
        if let Some(label) = &self.label {
            write!(f, " for {label:?}")?;
        }
        if self.needed_bytes > self.asked_bytes {
            write!(f, ", which takes {}", exact(self.needed_bytes))?;
        }
        let left = self.budget_bytes.saturating_sub(self.reserved_bytes);
        match kind {
            ErrorKind::OverBudget => write!(f, ": more than the budget of {} can ever give", exact(self.budget_bytes))?,
            ErrorKind::Fragmented => write!(
                f,
                ": fragmented, the largest free run is {} and {} of the budget of {} can still be reserved",
                exact(self.largest_free_run_bytes),
                exact(left),
                exact(self.budget_bytes)
            )?,
            ErrorKind::Timeout => {
                write!(f, " after waiting for {:?} in a budget of {}", self.waited, exact(self.budget_bytes))?;
            }
            _ if !self.may_grow && left > 0 => {
                write!(f, ": what is reserved is full, and the request may not grow")?;
            }
            _ => write!(f, ": the budget of {} is full", exact(self.budget_bytes))?,
        }
        if self.high_priority_reserve_bytes > 0 {
            write!(f, ", of which {} are kept for high priority", exact(self.high_priority_reserve_bytes))?;
        }
        if self.arena_bytes > 0 {
            let (idle, whole) = (exact(self.arena_idle_bytes), exact(self.arena_bytes));
            write!(f, ", the arena of planned steps has {whole}, of which {idle} are idle")?;
        }
        if self.waiting > 0 {
            write!(f, ", {} waiting in line", self.waiting)?;
            if self.is_overdue {
                f.write_str(", one of them first of all")?;
            }
        }
        write!(
            f,
            " (live {}, used {}, cached {}, retired {}, free {}, staging {}, largest free run {})",
            ByteSize(self.live_bytes),
            ByteSize(self.used_bytes),
            ByteSize(self.cached_bytes),
            ByteSize(self.retired_bytes),
            ByteSize(self.free_bytes),
            ByteSize(self.staging_bytes),
            ByteSize(self.largest_free_run_bytes),
        )?;
        for (index, holder) in self.holders.iter().enumerate() {
            write!(f, "{}{holder}", if index == 0 { "; held by " } else { ", " })?;
        }
        Ok(())
    }
}

/// Why a call of this crate failed. Prints the numbers; [`kind`](Error::kind) and the predicates tell the cases apart.
pub struct Error(Box<Repr>);

struct Repr {
    kind: ErrorKind,
    message: String,
    shortage: Option<Shortage>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a `message` that says the numbers. For implementors of backends.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Repr { kind, message: message.into(), shortage: None, source: None }))
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn shortage_of(kind: ErrorKind, shortage: Shortage) -> Self {
        Self(Box::new(Repr { kind, message: String::new(), shortage: Some(shortage), source: None }))
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The error of the system or the device that caused this one; its words are at the end of this one's.
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }

    /// The pool's numbers, when it had no room ([`is_no_room`](Error::is_no_room)).
    pub fn shortage(&self) -> Option<&Shortage> {
        self.0.shortage.as_ref()
    }

    /// The pool had no room: more than the budget, full, fragmented, or not in time.
    pub fn is_no_room(&self) -> bool {
        self.0.shortage.is_some()
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

/// Why a call failed that takes a value, with the value, which is as it was.
///
/// `?` drops the value and passes the [`Error`] on, in a function that returns this crate's [`Result`]. It passes on all
/// of it where the function returns a boxed error.
///
/// ```
/// use tensorpool::{Config, ErrorKind, Pool};
///
/// let pool = Pool::host(Config::new("64 KiB"))?;
/// let odd = pool.zeros::<f32>([5])?;
/// let returned = odd.reinterpret::<f64>().unwrap_err(); // 20 bytes are not whole elements of 8
/// assert_eq!(returned.error().kind(), ErrorKind::Shape);
/// let (odd, _) = returned.into_parts();
/// let bits = odd.reinterpret::<u32>()?;
/// # let _ = bits;
/// # Ok::<(), tensorpool::Error>(())
/// ```
pub struct Returned<T>(Box<(T, Error)>);

impl<T> Returned<T> {
    pub(crate) fn new(value: T, error: Error) -> Self {
        Self(Box::new((value, error)))
    }

    /// Tells why the call failed.
    pub fn error(&self) -> &Error {
        &self.0.1
    }

    /// Splits into the value and the error.
    pub fn into_parts(self) -> (T, Error) {
        *self.0
    }
}

impl<T> fmt::Display for Returned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.error(), f)
    }
}

impl<T> fmt::Debug for Returned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Returned").field(self.error()).finish()
    }
}

impl<T> StdError for Returned<T> {
    /// As of the [`error`](Returned::error), whose words are this one's.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error().source()
    }
}

impl<T> From<Returned<T>> for Error {
    fn from(returned: Returned<T>) -> Self {
        returned.into_parts().1
    }
}

impl From<ParseByteSizeError> for Error {
    fn from(error: ParseByteSizeError) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No `Debug`, no `Display`, no `Clone`.
    struct Value(u8);

    fn refuse(value: Value) -> Result<(), Returned<Value>> {
        let source = Error::new(ErrorKind::File, "below").with_source(ParseIt("x".parse::<u8>().unwrap_err()));
        Err(Returned::new(value, Error::new(ErrorKind::Type, "no").with_source(source)))
    }

    /// An error with one below it.
    #[derive(Debug)]
    struct ParseIt(std::num::ParseIntError);

    impl fmt::Display for ParseIt {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("parse it")
        }
    }

    impl StdError for ParseIt {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_returned_value_comes_with_its_error() {
        let returned = refuse(Value(7)).unwrap_err();
        assert_eq!(returned.error().kind(), ErrorKind::Type);
        assert_eq!(returned.to_string(), returned.error().to_string());
        assert_eq!(returned.to_string(), "no: below: parse it");
        assert_eq!(format!("{returned:?}"), "Returned(Error(Type: no: below: parse it))");
        assert!(returned.source().is_some());
        assert_eq!(returned.source().map(ToString::to_string), returned.error().source().map(ToString::to_string));
        let (value, error) = returned.into_parts();
        assert_eq!((value.0, error.kind()), (7, ErrorKind::Type));
        assert_eq!(size_of::<Result<(), Returned<[u64; 100]>>>(), size_of::<usize>());
    }

    #[test]
    fn a_question_mark_takes_a_returned_value() {
        let ours = || -> Result<()> { Ok(refuse(Value(1))?) };
        assert_eq!(ours().unwrap_err().kind(), ErrorKind::Type);
        let boxed = || -> Result<(), Box<dyn StdError + Send + Sync>> { Ok(refuse(Value(1))?) };
        let boxed = boxed().unwrap_err();
        assert_eq!(
            boxed.downcast_ref::<Returned<Value>>().map(|returned| returned.error().kind()),
            Some(ErrorKind::Type)
        );
    }
}
