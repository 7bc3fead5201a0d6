//! Tables of lifetimes: what is read, alike for plans and for traces, what is refused and how, and what is written.

use std::io::{BufReader, Read};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::ErrorKind;
use tensorpool::plan::{Lifetime, Lifetimes, Options, solve};
use tensorpool::trace::{Trace, read_csv, write_csv};

use crate::{LIFETIMES, data, gzip, lines, one};

fn read(text: &str) -> Result<Lifetimes<String>, String> {
    read_csv(text.as_bytes(), "x.csv").map_err(|error| error.to_string())
}

/// The lifetimes of a table, which a trace of it must agree with.
#[track_caller]
fn both(text: &str) -> Lifetimes<String> {
    let lifetimes = read(text).unwrap();
    let trace = one(text.as_bytes(), "x.csv");
    let load = solve(&lifetimes, &Options::new()).unwrap().load;
    assert_eq!(trace.live_peak_bytes(), load, "{text}");
    let alive = lifetimes.iter().filter(|lifetime| lifetime.lower < lifetime.upper).count();
    assert_eq!((trace.allocations(), trace.frees()), (alive as u64, alive as u64));
    lifetimes
}

#[test]
fn lifetimes_end_before_others_begin() {
    let trace = one(LIFETIMES.as_bytes(), "A.1024.csv");
    let expected = "# trace: A.1024\n# step 1\na 0 100 weights\na 1 30 x\nf 1\na 2 40 y\nf 2\nf 0\n";
    assert_eq!(lines(&trace), expected);
    assert_eq!(one(&gzip(LIFETIMES.as_bytes()), "A.1024.csv.gz"), trace);
    assert_eq!(read_csv(&*gzip(LIFETIMES.as_bytes()), "x").unwrap(), read(LIFETIMES).unwrap());
}

#[test]
fn columns_may_come_in_any_order_and_by_any_of_their_names() {
    let lifetimes = both("\u{feff}size, upper,id,lower\r\n\r\n10,5, a b ,2\r\n  \r\n1,7,b,7");
    assert_eq!(lifetimes.ids(), [" a b ", "b"]);
    assert_eq!(lifetimes[..], [Lifetime::new(2, 5, 10), Lifetime::new(7, 7, 1)]);
    assert!(read("id,lower,upper,size\n").unwrap().is_empty());
    // The last time at which a buffer is live is one before the first at which it is not.
    for header in ["id,lower,end,size", "buffer,begin,end,size", "buffer_id,start,end,size"] {
        let lifetimes = both(&format!("{header}\na,0,4,10\nb,5,5,10\n"));
        assert_eq!(lifetimes[..], [Lifetime::new(0, 5, 10), Lifetime::new(5, 6, 10)], "{header}");
    }
    assert_eq!(both("\nid\tlower\tupper\tsize\nConv<3, 3>\t0\t5\t100\n").ids(), ["Conv<3, 3>"]);
}

#[test]
fn fields_in_quotes_have_commas_lines_and_quotes() {
    let lifetimes = both(
        "id,lower,upper,size\n\"a,b\",0,1,1\n\"c\nd\",\"0\",1,1\n\"say \"\"e\"\"\",0,1,1\nsame,0,1,1\nsame,1,2,1\n",
    );
    assert_eq!(lifetimes.ids(), ["a,b", "c\nd", "say \"e\"", "same", "same"]);
}

#[test]
fn times_below_0_move_the_clock() {
    let lifetimes = both("id,lower,upper,size\na,-1,2,5\nb,0,2,7\nc,-1,-1,9\n");
    assert_eq!(lifetimes[..], [Lifetime::new(0, 3, 5), Lifetime::new(1, 3, 7), Lifetime::new(0, 0, 9)]);
    let far = read("id,lower,upper,size\na,-9223372036854775808,9223372036854775807,5\n").unwrap();
    assert_eq!(far[..], [Lifetime::new(0, u64::MAX, 5)]);
}

/// The files that were read in two ways: `a` is the gap's, `c` the alignment's.
#[test]
fn minimallocs_columns_are_read() {
    let read = |name: &str| both(std::str::from_utf8(&data(name)).unwrap());
    let aligned = read("alignment.csv");
    assert_eq!((aligned.ids(), aligned.aligns()), (&["a".into(), "b".into(), "c".into()][..], &[1, 64, 4096][..]));
    // `c` at 0, `b` at 64, `a` behind it.
    let plan = aligned.solve(&Options::new()).unwrap();
    assert_eq!((&plan.offsets[..], plan.height, plan.load), (&[114, 64, 0][..], 214, 151));
    // A buffer stays live in its gaps, so both are at once.
    let gaps = read("gaps.csv");
    assert_eq!((gaps[0], gaps.aligns()), (Lifetime::new(0, 9, 100), &[1, 1][..]));
    assert_eq!(solve(&gaps, &Options::new()).unwrap().height, 200);
    assert_eq!(read("zerolen.csv")[..], [Lifetime::new(3, 3, 100), Lifetime::new(2, 9, 50)]);
    let whole =
        both("id,lower,upper,size,alignment,hint,gaps,offset\na,-9,9,8,2,-1,-9--7 3-6@0:4 7-7,0\nb,0,9,8,1,3,,8\n");
    assert_eq!((whole.len(), whole.aligns()), (2, &[2, 1][..]));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (text, parts) in [
        ("", ["line 1", "a header id,lower,upper,size", "end of the file"]),
        ("id,lower,upper\n1,2,3", ["line 1", "expected a header", "no size"]),
        ("id,lower,upper,size,color\n", ["line 1", "expected a header", "\"color\""]),
        ("id,id,lower,upper,size\n", ["line 1", "expected a header", "id twice"]),
        ("id,lower,upper,end,size\n", ["line 1", "expected a header", "both upper and end"]),
        ("1,2,3,4\n", ["line 1", "expected a header", "\"1\""]),
        ("id,lower,upper,size\n1,2,3\n", ["line 2", "expected 4 fields", "found 3"]),
        ("id,lower,upper,size\n\n1,2,3,4,5\n", ["line 3", "expected 4 fields", "found 5"]),
        ("id,lower,upper,size\r\n\r\n\"a\r\nb\",2,3,4\r\n\r\n1,2\r\n", ["line 6", "expected 4 fields", "found 2"]),
        ("id,lower,upper,size\n1,x,3,4\n", ["line 2", "for lower", "\"x\""]),
        ("id,lower,upper,size\n1,2,+3,4\n", ["line 2", "for upper", "\"+3\""]),
        ("id,lower,upper,size\n1,2,3,-4\n", ["line 2", "for size", "\"-4\""]),
        ("id,lower,upper,size\n1,2,3,18446744073709551616\n", ["line 2", "for size", "2^64 - 1"]),
        ("id,lower,upper,size\n1,4,3,4\n", ["line 2", "at least lower, 4", "found 3"]),
        ("id,start,end,size\n1,4,2,4\n", ["line 2", "at least lower, 4", "found 2"]),
        ("id,lower,upper,size\na,-1,0,4\nb,0,18446744073709551615,4\n", ["line 3", "less than 2^64 apart", "-1"]),
        ("id,lower,upper,size,alignment\n1,2,3,4,48\n", ["line 2", "a power of two for alignment", "\"48\""]),
        ("id,lower,upper,size,gaps\n1,2,9,4,3-5 8-10\n", ["line 2", "gaps such as 3-6 within 2-9", "\"8-10\""]),
        ("id,lower,upper,size,gaps\n1,2,9,4,3\n", ["line 2", "gaps such as 3-6", "\"3\""]),
        ("id,lower,upper,size,gaps\n1,2,9,4,3-4@7\n", ["line 2", "gaps such as 3-6", "\"3-4@7\""]),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with("x.csv: "), "{error}");
        parts.iter().for_each(|part| assert!(error.contains(part), "{text:?}: {error}: no {part:?}"));
        // A trace is read by the same reader, where the header says that these are lifetimes.
        if text.starts_with("id,lower,upper,size") && !text.is_empty() {
            assert_eq!(Trace::parse(text.as_bytes(), "x.csv").unwrap_err().to_string(), error);
        }
    }
    let long = format!("id,lower,upper,size\n{},0,1,1\n", "9".repeat(2 << 20));
    // A quote without an end makes one row of all that follows.
    let open = format!("id,lower,upper,size\na,0,1,1\n\n\"b{}", "b,0,1,1\n".repeat(1 << 18));
    for (text, line) in [(long, 2), (open, 4)] {
        let expected =
            format!("x.csv: line {line}: expected a row of at most 1,048,576 bytes (1 MiB), found a longer one");
        assert_eq!(read(&text).unwrap_err(), expected);
    }
    // Empty lines are no part of a row.
    assert_eq!(both(&format!("id,lower,upper,size\n{}b,0,1,1\n", "\r\n".repeat(1 << 20))).ids(), ["b"]);
    let error = read_csv(&b"id,lower,upper,size\n1,2,\xff,4\n"[..], "x.csv").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::File);
    assert!(error.to_string().starts_with("x.csv: line 2: expected text in UTF-8"), "{error}");
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
    assert!(error.starts_with("x.csv: ") && error.ends_with("the disk is gone"), "{error}");
}

/// What is written is read again, whatever the ids are.
#[test]
fn what_is_written_is_read() {
    let characters = ['a', ' ', ',', '"', '\n', '\r', '\t', '#', 'é', '\u{feff}', '-'];
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for round in 0..500 {
        let mut lifetimes = Lifetimes::new();
        let is_aligned: bool = random.random();
        for _ in 0..random.random_range(0..6) {
            let id: String =
                (0..random.random_range(0..5)).map(|_| characters[random.random_range(0..characters.len())]).collect();
            let lower = random.random_range(0..100);
            let lifetime = Lifetime::new(lower, lower + random.random_range(0..9), random.random_range(0..1 << 40));
            lifetimes.push_aligned(id, lifetime, if is_aligned { 1 << random.random_range(0..3) } else { 1 });
        }
        let plan = lifetimes.solve(&Options::new()).unwrap();
        let mut file = Vec::new();
        write_csv(&mut file, &lifetimes, &plan).unwrap();
        assert_eq!(read_csv(&*file, "x.csv").unwrap(), lifetimes, "{round}: {}", String::from_utf8_lossy(&file));
    }
    let mut lifetimes = Lifetimes::new();
    for id in ["Conv2d<3, 3>", "a\nb", " a", "relu", "relu"] {
        lifetimes.push(id, Lifetime::new(0, 5, 100));
    }
    let plan = solve(&lifetimes, &Options::new()).unwrap();
    let mut file = Vec::new();
    write_csv(&mut file, &lifetimes, &plan).unwrap();
    let rows = "\"Conv2d<3, 3>\",0,5,100,0\n\"a\nb\",0,5,100,100\n a,0,5,100,200\nrelu,0,5,100,300\nrelu,0,5,100,400\n";
    assert_eq!(String::from_utf8(file).unwrap(), format!("id,lower,upper,size,offset\n{rows}"));
    // Alignments are written where there is one.
    let aligned = read("id,lower,upper,size,alignment\na,0,5,3,1\nb,0,5,3,8\n").unwrap();
    let plan = aligned.solve(&Options::new()).unwrap();
    let mut file = Vec::new();
    write_csv(&mut file, &aligned, &plan).unwrap();
    assert_eq!(&file, b"id,lower,upper,size,alignment,offset\na,0,5,3,1,3\nb,0,5,3,8,0\n");
    assert_eq!(read_csv(&*file, "x.csv").unwrap(), aligned);
    let error = write_csv(Vec::new(), &Lifetimes::<u64>::new(), &plan).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// Random damage gives lifetimes or an error, and never a panic.
#[test]
fn damaged_text_is_read_or_refused() {
    let whole = "id,lower,upper,size,alignment,gaps\na,0,10,5,1,3-4\n\"b\",-2,12,18446744073709551615,8,\nc,3,3,0,2,\n";
    let (mut read_well, mut refused) = (0u32, 0u32);
    let random = &mut ChaCha8Rng::seed_from_u64(11);
    for _ in 0..20_000 {
        let mut bytes = whole.as_bytes().to_vec();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] = random.random(),
                1 => bytes.truncate(at + 1),
                2 => bytes.insert(at, b"0,\n-x\xff\"\t@"[random.random_range(0..9)]),
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
                let _ = solve(&lifetimes, &Options::new());
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with("x.csv: "), "{error}");
            }
        }
    }
    assert!(read_well > 1000 && refused > 1000, "{read_well} read, {refused} refused");
}
