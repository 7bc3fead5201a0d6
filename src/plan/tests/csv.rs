//! Lifetimes as text: what is read, what is refused and how, and random damage.

use std::io::{BufReader, Read};

use rand::RngExt;

use super::super::{Lifetimes, read_csv, write_csv};
use super::*;

fn read(text: &str) -> Result<Lifetimes<String>, String> {
    read_csv(text.as_bytes(), "x.csv").map_err(|error| error.to_string())
}

#[test]
fn columns_may_come_in_any_order() {
    let lifetimes = read("\u{feff}size, upper,id,lower\r\n\r\n10,5, a b ,2\r\n0,7,b,7").unwrap();
    assert_eq!(lifetimes.ids(), ["a b", "b"]);
    assert_eq!(lifetimes[..], [Lifetime::new(2, 5, 10), Lifetime::new(7, 7, 0)]);
    assert!(read("id,lower,upper,size\n").unwrap().is_empty());
    // What a plan was written to can be read again.
    let plan = solve(&lifetimes, &Options::new());
    let mut text = Vec::new();
    write_csv(&mut text, &lifetimes, &plan).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text, "id,lower,upper,size,offset\na b,2,5,10,0\nb,7,7,0,0\n");
    assert_eq!(read(&text).unwrap(), lifetimes);
    assert!(write_csv(Vec::new(), &Lifetimes::<u64>::new(), &plan).is_err());
}

#[test]
fn errors_name_file_line_and_what_was_expected() {
    for (text, parts) in [
        ("", ["line 1", "a header id,lower,upper,size", "end of the file"]),
        ("id,lower,upper\n1,2,3", ["line 1", "expected a header", "no size"]),
        ("id,lower,upper,size,color\n", ["line 1", "expected a header", "\"color\""]),
        ("id,id,lower,upper,size\n", ["line 1", "expected a header", "id twice"]),
        ("1,2,3,4\n", ["line 1", "expected a header", "\"1\""]),
        ("id,lower,upper,size\n1,2,3\n", ["line 2", "expected 4 fields", "found 3"]),
        ("id,lower,upper,size\n\n1,2,3,4,5\n", ["line 3", "expected 4 fields", "found 5"]),
        ("id,lower,upper,size\n1,x,3,4\n", ["line 2", "for lower", "\"x\""]),
        ("id,lower,upper,size\n1,2,-3,4\n", ["line 2", "for upper", "\"-3\""]),
        ("id,lower,upper,size\n1,2,3,18446744073709551616\n", ["line 2", "for size", "2^64 - 1"]),
        ("id,lower,upper,size\n1,4,3,4\n", ["line 2", "at least lower, 4", "found 3"]),
        ("id,lower,upper,size\n1,2,3,4\n1,2,3,4\n", ["line 3", "an id of its own", "line 2"]),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with("x.csv, "), "{error}");
        parts.iter().for_each(|part| assert!(error.contains(part), "{text:?}: {error}: no {part:?}"));
    }
    let long = format!("id,lower,upper,size\n{},0,1,1\n", "9".repeat(1 << 17));
    assert!(read(&long).unwrap_err().contains("line 2: expected a line of at most 65536 bytes"));
    let error = read_csv(&b"id,lower,upper,size\n1,2,\xff,4\n"[..], "x.csv").unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("UTF-8") && error.contains("first 4"), "{error}");
}

/// Fails after some bytes, as a damaged archive does.
struct Failing(&'static [u8]);

impl Read for Failing {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() { Err(std::io::Error::other("the disk is gone")) } else { self.0.read(to) }
    }
}

#[test]
fn a_reader_that_fails_is_an_error() {
    let error = read_csv(BufReader::new(Failing(b"id,lower,upper,size\n1,2,3,4\n")), "x.csv").unwrap_err().to_string();
    assert!(error.contains("line 3") && error.ends_with("the disk is gone"), "{error}");
}

/// Random damage gives lifetimes or an error, and never a panic.
#[test]
fn damaged_text_is_read_or_refused() {
    let whole = "id,lower,upper,size\na,0,10,5\nb,2,12,18446744073709551615\nc,3,3,0\n";
    let (mut read_well, mut refused) = (0u32, 0u32);
    let random = &mut ChaCha8Rng::seed_from_u64(11);
    for _ in 0..20_000 {
        let mut bytes = whole.as_bytes().to_vec();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] = random.random(),
                1 => bytes.truncate(at + 1),
                2 => bytes.insert(at, b"0,\n-x\xff"[random.random_range(0..6)]),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        match read_csv(&bytes[..], "x.csv") {
            Ok(lifetimes) => {
                read_well += 1;
                // Too large a sum is an error of its own.
                let _ = super::super::solve(&lifetimes, &Options::new());
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with("x.csv, line "), "{error}");
            }
        }
    }
    assert!(read_well > 1000 && refused > 1000, "{read_well} read, {refused} refused");
}
