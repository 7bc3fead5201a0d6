//! The error of a call that takes a value, with the value.

use std::error::Error as StdError;
use std::fmt;

use super::Error;
#[cfg(doc)]
use super::Result;

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

#[cfg(test)]
mod tests {
    use super::super::{ErrorKind, Result};
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
