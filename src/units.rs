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

/// Text that is no byte size; says which text, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseByteSizeError {
    text: String,
    why: &'static str,
}

impl fmt::Display for ParseByteSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a size in bytes: {} (write it like 512, 64 KiB, 6MiB or 1.5 GiB)", self.text, self.why)
    }
}

impl std::error::Error for ParseByteSizeError {}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    /// A number (underscores and a fraction are allowed) and a unit: none or `B` for bytes, `KiB MiB GiB TiB` or their
    /// first letters for powers of 1024, `kB MB GB TB` for powers of 1000. Case and spaces do not matter.
    fn from_str(text: &str) -> Result<Self, ParseByteSizeError> {
        let error = |why| ParseByteSizeError { text: text.to_owned(), why };
        let trimmed = text.trim();
        if trimmed.starts_with('-') {
            return Err(error("it is negative"));
        }
        let number_len = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(number_len);
        let unit_bytes: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(error("the unit is unknown")),
        };
        let number = number.replace('_', "");
        let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(error("there is no number"));
        }
        if fraction.contains('.') {
            return Err(error("there are two decimal points"));
        }
        let too_large = || error("it is more than 2^64 bytes");
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_large())? };
        let mut bytes = u128::from(whole) * u128::from(unit_bytes);
        // Digits past the 18th are below a byte for every unit here, and 10^18 * 2^40 fits in 128 bits.
        let digits = &fraction[..fraction.len().min(18)];
        if !digits.is_empty() {
            let value: u128 = digits.parse().map_err(|_| too_large())?;
            bytes += value * u128::from(unit_bytes) / 10u128.pow(digits.len() as u32);
        }
        u64::try_from(bytes).map(ByteSize).map_err(|_| too_large())
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
