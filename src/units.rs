//! Byte sizes: rounding, parsing and printing.
//!
//! Everything in the crate counts bytes in a `u64`. This file is the one place that turns them into text and back.

use std::fmt;
use std::str::FromStr;

/// A number of bytes that prints as a person would write it and parses from such text.
///
/// ```
/// use tensorpool::ByteSize;
///
/// assert_eq!("64 MiB".parse::<ByteSize>()?.0, 64 << 20);
/// assert_eq!("1.5GiB".parse::<ByteSize>()?.0, 3 << 29);
/// assert_eq!("512".parse::<ByteSize>()?.0, 512);
/// assert_eq!(ByteSize(5_086_288).to_string(), "4.85 MiB");
/// assert_eq!(ByteSize(64 << 20).to_string(), "64 MiB");
/// # Ok::<(), tensorpool::ParseByteSizeError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Units in the order in which printing tries them, with the bytes of each.
const BINARY_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for ByteSize {
    /// Whole multiples of a unit print without decimals, everything else with two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, unit_bytes) in BINARY_UNITS {
            if self.0 >= unit_bytes {
                let text = if self.0.is_multiple_of(unit_bytes) {
                    format!("{} {name}", self.0 / unit_bytes)
                } else {
                    format!("{:.2} {name}", self.0 as f64 / unit_bytes as f64)
                };
                return f.pad(&text);
            }
        }
        f.pad(&format!("{} B", self.0))
    }
}

/// Text that is no byte size, or no budget; says which text, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseByteSizeError {
    text: String,
    why: &'static str,
    may_be_percent: bool,
}

impl ParseByteSizeError {
    fn new(text: &str, why: &'static str) -> Self {
        Self { text: text.to_owned(), why, may_be_percent: false }
    }
}

impl fmt::Display for ParseByteSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, why, may_be_percent } = self;
        match may_be_percent {
            false => write!(f, "{text:?} is not a size in bytes: {why} (write it like 512, 64 KiB, 6MiB or 1.5 GiB)"),
            true => write!(f, "{text:?} is no budget: {why} (write it like 512, 64 KiB, 6MiB, 1.5 GiB or 80%)"),
        }
    }
}

impl std::error::Error for ParseByteSizeError {}

/// Splits text into a number and a unit in lower case.
fn split(text: &str) -> Result<(String, String), &'static str> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("it is negative");
    }
    let number_len = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    Ok((number.replace('_', ""), unit.trim().to_ascii_lowercase()))
}

/// Returns a decimal number times `unit`, rounded down. `too_large` is the error of one that is 2^64 or more.
fn times(number: &str, unit: u64, too_large: &'static str) -> Result<u64, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err("there is no number");
    }
    if fraction.contains('.') {
        return Err("there are two decimal points");
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_large)? };
    let mut product = u128::from(whole) * u128::from(unit);
    // Digits past the 18th are below 1 for every unit here, and 10^18 * 2^40 fits in 128 bits.
    let digits = &fraction[..fraction.len().min(18)];
    if !digits.is_empty() {
        let value: u128 = digits.parse().map_err(|_| too_large)?;
        product += value * u128::from(unit) / 10u128.pow(digits.len() as u32);
    }
    u64::try_from(product).map_err(|_| too_large)
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    /// A number (underscores and a fraction are allowed) and a unit: none or `B` for bytes, `KiB MiB GiB TiB` or their
    /// first letters for powers of 1024, `kB MB GB TB` for powers of 1000. Case and spaces do not matter.
    fn from_str(text: &str) -> Result<Self, ParseByteSizeError> {
        let (number, unit) = split(text).map_err(|why| ParseByteSizeError::new(text, why))?;
        let unit_bytes: u64 = match unit.as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "%" => return Err(ParseByteSizeError::new(text, "a percentage has no meaning here")),
            _ => return Err(ParseByteSizeError::new(text, "the unit is unknown")),
        };
        let bytes = times(&number, unit_bytes, "it is more than 2^64 bytes");
        bytes.map(ByteSize).map_err(|why| ParseByteSizeError::new(text, why))
    }
}

/// A share of at most 100%, in parts of 10^-8 percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Percent(u64);

impl Percent {
    const PARTS: u64 = 100_000_000;

    /// Returns the share of so many bytes, rounded down.
    pub(crate) fn of(self, bytes: u64) -> u64 {
        // At most `bytes`.
        (u128::from(bytes) * u128::from(self.0) / u128::from(100 * Self::PARTS)) as u64
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:08}", self.0 / Self::PARTS, self.0 % Self::PARTS);
        f.pad(&format!("{}%", text.trim_end_matches('0').trim_end_matches('.')))
    }
}

/// A number of bytes, or a share of all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Bytes(u64),
    Percent(Percent),
}

impl fmt::Display for Amount {
    /// Text that parses to the very same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => {
                let whole = |(_, unit_bytes): &&(&str, u64)| *bytes > 0 && bytes.is_multiple_of(*unit_bytes);
                let (name, unit_bytes) = BINARY_UNITS.iter().find(whole).unwrap_or(&("B", 1));
                f.pad(&format!("{} {name}", bytes / unit_bytes))
            }
            Self::Percent(percent) => percent.fmt(f),
        }
    }
}

impl FromStr for Amount {
    type Err = ParseByteSizeError;

    /// As [`ByteSize`], and a number with `%`.
    fn from_str(text: &str) -> Result<Self, ParseByteSizeError> {
        const TOO_LARGE: &str = "it is more than 100%";
        let amount = match split(text) {
            Ok((number, unit)) if unit == "%" => match times(&number, Percent::PARTS, TOO_LARGE) {
                Ok(parts) if parts > 100 * Percent::PARTS => Err(ParseByteSizeError::new(text, TOO_LARGE)),
                parts => {
                    parts.map(|parts| Self::Percent(Percent(parts))).map_err(|why| ParseByteSizeError::new(text, why))
                }
            },
            _ => text.parse().map(|ByteSize(bytes)| Self::Bytes(bytes)),
        };
        amount.map_err(|error| ParseByteSizeError { may_be_percent: true, ..error })
    }
}

/// A size as errors print it: every digit, and the rounded size where that helps.
///
/// Gives `5,086,288 bytes (4.85 MiB)` or `512 bytes`.
pub(crate) fn exact(bytes: u64) -> String {
    let mut text = thousands(bytes);
    text.push_str(if bytes == 1 { " byte" } else { " bytes" });
    if bytes >= 1024 {
        text.push_str(&format!(" ({})", ByteSize(bytes)));
    }
    text
}

/// A count with a comma between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `bytes` rounded up to a multiple of `unit_bytes`, or `None` where that is more than 2^64.
pub(crate) fn round_up(bytes: u64, unit_bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(unit_bytes)
}

/// `bytes` rounded down to a multiple of `unit_bytes`.
pub(crate) fn round_down(bytes: u64, unit_bytes: u64) -> u64 {
    bytes - bytes % unit_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("6MiB", 6 << 20),
            (" 6 mib ", 6 << 20),
            ("6m", 6 << 20),
            ("512 KB", 512_000),
            ("5_086_288", 5_086_288),
            ("0.5 KiB", 512),
            (".5k", 512),
            ("2.0000000000000000000001 KiB", 2048),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text:?}");
        }
        for text in ["", "MiB", ".", "-1", "1.2.3", "6 apples", "18446744073709551616", "99999999 TiB", "1e9", "٣"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
            assert_eq!(error.contains("it is negative"), text.starts_with('-'), "{error}");
        }
        let error = "80%".parse::<ByteSize>().unwrap_err().to_string();
        assert!(error.contains("\"80%\" is not a size in bytes: a percentage has no meaning here"), "{error}");
    }

    #[test]
    fn a_share_is_exact() {
        for (text, bytes, printed) in [
            ("80%", 800, "80%"),
            (" 12.5 % ", 125, "12.5%"),
            ("0%", 0, "0%"),
            ("100%", 1000, "100%"),
            (".1%", 1, "0.1%"),
            ("99.99999999%", 999, "99.99999999%"),
        ] {
            let Amount::Percent(percent) = text.parse().unwrap() else { panic!("{text:?}") };
            assert_eq!((percent.of(1000), percent.to_string().as_str()), (bytes, printed), "{text:?}");
        }
        let Amount::Percent(all) = "100%".parse().unwrap() else { panic!() };
        assert_eq!(all.of(u64::MAX), u64::MAX);
        assert_eq!("64 KiB".parse(), Ok(Amount::Bytes(64 << 10)));
        for (text, printed) in
            [("0", "0 B"), ("1.5m", "1536 KiB"), ("3TiB", "3 TiB"), ("1_000_001", "1000001 B"), ("7.5%", "7.5%")]
        {
            let amount: Amount = text.parse().unwrap();
            assert_eq!((amount.to_string().as_str(), amount.to_string().parse()), (printed, Ok(amount)), "{text:?}");
        }
        for (text, why) in [
            ("%", "there is no number"),
            ("-5%", "it is negative"),
            ("100.01%", "it is more than 100%"),
            ("99999999999999999999%", "it is more than 100%"),
            ("1.2.3%", "two decimal points"),
            ("5%%", "the unit is unknown"),
            ("6 apples", "the unit is unknown"),
        ] {
            let error = text.parse::<Amount>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is no budget: ")) && error.contains(why), "{error}");
            assert!(error.ends_with("(write it like 512, 64 KiB, 6MiB, 1.5 GiB or 80%)"), "{error}");
        }
    }

    #[test]
    fn prints_what_people_read() {
        assert_eq!(ByteSize(0).to_string(), "0 B");
        assert_eq!(ByteSize(1023).to_string(), "1023 B");
        assert_eq!(ByteSize(1025).to_string(), "1.00 KiB");
        assert_eq!(ByteSize(6 << 20).to_string(), "6 MiB");
        assert_eq!(ByteSize(u64::MAX).to_string(), "16777216.00 TiB");
        assert_eq!(format!("{:>8}", ByteSize(5)), "     5 B");
        assert_eq!(exact(1), "1 byte");
        assert_eq!(exact(5_086_288), "5,086,288 bytes (4.85 MiB)");
        assert_eq!(round_up(5, 4), Some(8));
        assert_eq!(round_up(u64::MAX, 4), None);
        assert_eq!(round_down(7, 4), 4);
    }
}
