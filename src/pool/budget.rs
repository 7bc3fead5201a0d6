//! A budget as a program has it, and what it is in bytes on a backend.

use std::fmt;
use std::str::FromStr;

use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{Amount, ByteSize, ParseByteSizeError, exact};

/// A budget as a program has it: bytes, text such as `"64 MiB"`, or text such as `"80%"`.
///
/// A percentage is of what the memory has when the pool is opened, or the budget is set: [`Backend::memory_bytes`]. On the host that is
/// the lowest of the limits of this process's cgroups and the free memory, on a GPU what the driver reports. A backend that does not
/// know is an error.
///
/// Text that does not parse is reported then. [`FromStr`] reports it at once.
///
/// ```
/// use tensorpool::{Budget, Config, Host, Pool};
///
/// let half: Budget = "50%".parse()?;
/// if let Ok(bytes) = half.bytes(&Host) {
///     println!("half of what this machine has: {bytes} bytes");
/// }
/// let pool = Pool::host(Config::new("64 MiB"))?;
/// assert_eq!(pool.budget_bytes(), 64 << 20);
/// # Ok::<(), tensorpool::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget(Result<Amount, ParseByteSizeError>);

impl Budget {
    /// Returns the bytes: for a percentage, of what this backend has now.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for text that does not parse, and for a percentage where the backend does not know how much memory it
    /// has; the [cause](Error::cause) says why. What else the backend reports, such as [`ErrorKind::DeviceLost`].
    pub fn bytes(&self, backend: &impl Backend) -> Result<u64> {
        match self.0.clone()? {
            Amount::Bytes(bytes) => Ok(bytes),
            Amount::Percent(percent) => match backend.memory_bytes() {
                Ok(bytes) => Ok(percent.of(bytes)),
                Err(error) if error.kind() != ErrorKind::Invalid => Err(error),
                Err(error) => {
                    let message = format!("a budget of {percent} has no size in bytes here");
                    Err(Error::new(ErrorKind::Invalid, message).with_source(error))
                }
            },
        }
    }
}

impl Budget {
    /// Returns whether it is a percentage, which is never more than there is.
    pub(super) fn is_share(&self) -> bool {
        matches!(self.0, Ok(Amount::Percent(_)))
    }
}

impl fmt::Display for Budget {
    /// Prints text that parses to the same budget, such as `1536 KiB` or `80%`. Text that does not parse prints as its error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(amount) => amount.fmt(f),
            Err(error) => error.fmt(f),
        }
    }
}

impl FromStr for Budget {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, ParseByteSizeError> {
        text.parse().map(|amount| Self(Ok(amount)))
    }
}

impl From<u64> for Budget {
    fn from(bytes: u64) -> Self {
        Self(Ok(Amount::Bytes(bytes)))
    }
}

impl From<ByteSize> for Budget {
    fn from(size: ByteSize) -> Self {
        size.0.into()
    }
}

impl From<&str> for Budget {
    fn from(text: &str) -> Self {
        Self(text.parse())
    }
}

impl From<String> for Budget {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

/// Every machine has so much; to ask takes 0.18 ms on the host (2026-11-30), and to open such a pool 6 us.
const UNASKED_BYTES_MAX: u64 = 16 << 20;

/// Compares what a pool may still reserve, beside what it has reserved already, with what the memory has, where that is known. More is
/// an error for a pool that touches its slabs, and else a warning in the log.
pub(super) fn check<B: Backend>(
    budget: &Budget,
    budget_bytes: u64,
    reserved_bytes: u64,
    backend: &B,
    touches: bool,
) -> Result<()> {
    if touches && !backend.is_touchable() {
        let message = format!("pages of {} cannot be touched or locked: only host memory has pages", backend.name());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let more_bytes = budget_bytes.saturating_sub(reserved_bytes);
    if budget.is_share() || (!touches && more_bytes <= UNASKED_BYTES_MAX) {
        return Ok(());
    }
    match backend.memory_bytes() {
        Ok(memory_bytes) if memory_bytes < more_bytes => {
            let (name, budget, memory) = (backend.name(), exact(budget_bytes), exact(memory_bytes));
            let reserved = match reserved_bytes {
                0 => String::new(),
                bytes => format!(", of which {} are reserved,", exact(bytes)),
            };
            let message = format!("a budget of {budget}{reserved} is more than {name} has at the moment, {memory}");
            if touches {
                return Err(Error::new(ErrorKind::OutOfMemory, message));
            }
            log::warn!("{message}");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Refuses a budget that staging does not fit in.
pub(super) fn check_staging(budget_bytes: u64, staging_bytes: u64) -> Result<()> {
    if staging_bytes <= budget_bytes {
        return Ok(());
    }
    let message = format!("staging of {} in a budget of {}", exact(staging_bytes), exact(budget_bytes));
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Refuses a budget that the reserve does not fit in beside staging.
pub(super) fn check_reserve(budget_bytes: u64, staging_bytes: u64, reserve_bytes: u64) -> Result<()> {
    check_staging(budget_bytes, staging_bytes)?;
    if reserve_bytes <= budget_bytes - staging_bytes {
        return Ok(());
    }
    let [reserve, budget, staging] = [reserve_bytes, budget_bytes, staging_bytes].map(exact);
    let message = format!("a reserve of {reserve} in a budget of {budget} with staging of {staging}");
    Err(Error::new(ErrorKind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Virtual;

    #[test]
    fn a_budget_prints_as_it_was_written() {
        for (text, printed) in [("64 MiB", "64 MiB"), ("1.5m", "1536 KiB"), ("80%", "80%"), ("12.50%", "12.5%")] {
            let budget: Budget = text.parse().unwrap();
            assert_eq!((budget.to_string().as_str(), &budget), (printed, &Budget::from(text)));
        }
        assert!("much".parse::<Budget>().is_err());
        assert!(Budget::from("120%").to_string().contains("it is more than 100%"));
    }

    #[test]
    fn only_a_percentage_asks_for_the_memory() {
        let any = Virtual::default();
        assert_eq!(Budget::from("1 KiB").bytes(&any).unwrap(), 1024);
        let error = Budget::from("50%").bytes(&any).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("a budget of 50% has no size in bytes here: virtual"), "{error}");
        assert_eq!(Budget::from("-1%").bytes(&any).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
