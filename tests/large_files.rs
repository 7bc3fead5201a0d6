//! Files are streamed: what a large one takes beside its result. The process's own peak is measured, so it is a process of its own,
//! and one test.
//!
//! `TENSORPOOL_LARGE_MIB=4096 cargo test --release --test large_files` reads files of another size. With the address sanitizer, which
//! takes memory of its own, only small ones are read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use tensorpool::trace::{Event, Trace};

/// What may be needed beside the result for a file of 256 MiB.
const ABOVE_MIB_MAX: u64 = 64;

#[test]
fn files_are_streamed() {
    let is_sanitized = option_env!("RUSTFLAGS").is_some_and(|flags| flags.contains("sanitizer"));
    let asked = std::env::var("TENSORPOOL_LARGE_MIB").ok().and_then(|text| text.parse().ok());
    let mib: u64 = asked.unwrap_or(if is_sanitized { 8 } else { 256 });
    // What one file leaves to the process counts for the next.
    let Some(before) = status_bytes("VmRSS:") else { return };
    for (name, write) in [
        ("large.pickle", python as fn(&mut Counted<BufWriter<File>>, u64) -> std::io::Result<()>),
        ("large_cpp.pickle", cpp),
        ("large.trace", text),
        ("large.json", kineto),
    ] {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut file = Counted { writer: BufWriter::new(File::create(&path).unwrap()), bytes: 0 };
        write(&mut file, mib << 20).unwrap();
        file.writer.flush().unwrap();
        drop(file);
        begin_peak();
        let traces = Trace::read(&path).unwrap();
        let after = status_bytes("VmHWM:").unwrap();
        let events: usize = traces.iter().map(|trace| trace.events().len()).sum();
        let result_bytes = (events * size_of::<Event>()) as u64;
        std::fs::remove_file(&path).unwrap();
        let frees: u64 = traces.iter().map(Trace::frees).sum();
        assert!(events as u64 > mib * 1000 && frees > mib * 500, "{name}: {events} events, {frees} frees");
        let above_mib = after.saturating_sub(before).saturating_sub(result_bytes) >> 20;
        let result_mib = result_bytes >> 20;
        let told = format!("{name} of {mib} MiB: {events} events of {result_mib} MiB, and {above_mib} MiB above that");
        let _ = writeln!(std::io::stderr(), "{told}");
        assert!(is_sanitized || above_mib <= ABOVE_MIB_MAX * mib.div_ceil(256), "{told}");
    }
}

/// Lets the process's peak of memory in RAM count from now on.
fn begin_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Returns what the system says of the process's memory, where it says something.
fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Counts what is written.
struct Counted<W> {
    writer: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

/// Blocks that are alive at one time.
const ALIVE: u64 = 1000;

/// An allocation, or a free of what was allocated [`ALIVE`] allocations before. The address, the bytes.
fn event(number: u64) -> (bool, u64, u64) {
    let block = number / 2;
    let is_free = number % 2 == 1;
    let block = if is_free { block.saturating_sub(ALIVE) } else { block };
    (is_free, 0x7f00_0000_0000 + (block % (2 * ALIVE)) * 0x10_0000, 512 + block % 4096)
}

/// Writes a snapshot as Python's pickler does: entries in batches of 1,000.
fn python(file: &mut Counted<BufWriter<File>>, bytes: u64) -> std::io::Result<()> {
    snapshot(file, bytes, 1000)
}

/// Writes a snapshot as PyTorch's own pickler does: all entries in one batch.
fn cpp(file: &mut Counted<BufWriter<File>>, bytes: u64) -> std::io::Result<()> {
    snapshot(file, bytes, u64::MAX)
}

/// Entries of one batch stand between a mark and APPENDS, and what was written before is recalled. Every second entry has a call
/// stack of its own.
fn snapshot(file: &mut Counted<BufWriter<File>>, bytes: u64, batch: u64) -> std::io::Result<()> {
    let mut memo = 0u32;
    let word = |file: &mut Counted<BufWriter<File>>, memo: &mut u32, text: &str| {
        file.write_all(&[0x8c, text.len() as u8])?;
        file.write_all(text.as_bytes())?;
        file.write_all(&[0x94])?;
        *memo += 1;
        std::io::Result::Ok(*memo - 1)
    };
    let recall = |file: &mut Counted<BufWriter<File>>, key: u32| {
        file.write_all(b"j")?;
        file.write_all(&key.to_le_bytes())
    };
    let long = |file: &mut Counted<BufWriter<File>>, number: u64| {
        file.write_all(&[0x8a, 8])?;
        file.write_all(&number.to_le_bytes())
    };
    // A tuple of all texts and call frames comes first, and is dropped.
    file.write_all(b"\x80\x04(")?;
    let texts = ["action", "alloc", "free_requested", "free_completed", "addr", "size", "stream", "time_us", "frames"];
    let texts = texts.map(|text| word(file, &mut memo, text));
    let mut keys = [0; 9];
    for (key, text) in keys.iter_mut().zip(texts) {
        *key = text?;
    }
    let [action, alloc, requested, completed, addr, size, stream, time, frames] = keys;
    let mut stack = Vec::new();
    for line in 0..40u8 {
        file.write_all(b"}\x94(")?;
        stack.push(memo);
        memo += 1;
        word(file, &mut memo, "name")?;
        word(file, &mut memo, "forward")?;
        word(file, &mut memo, "line")?;
        file.write_all(&[b'K', line, b'u'])?;
    }
    file.write_all(b"1}(")?;
    word(file, &mut memo, "segments")?;
    file.write_all(b"]")?;
    word(file, &mut memo, "device_traces")?;
    file.write_all(b"]]")?;
    let (mut number, mut frames_before) = (0u64, 0);
    // C++ remembers what is in more places than one.
    let is_remembered = batch < u64::MAX;
    while file.bytes < bytes {
        file.write_all(b"(")?;
        let begin = number;
        while number - begin < batch && file.bytes < bytes {
            // Two entries for a free.
            let (is_free, address, bytes) = event(number / 3 * 2 + u64::from(!number.is_multiple_of(3)));
            let what = [alloc, requested, completed][(number % 3) as usize];
            assert_eq!(is_free, !number.is_multiple_of(3));
            if is_remembered {
                file.write_all(b"}\x94(")?;
                memo += 1;
            } else {
                file.write_all(b"}(")?;
            }
            recall(file, action)?;
            recall(file, what)?;
            recall(file, addr)?;
            long(file, address)?;
            recall(file, size)?;
            long(file, bytes)?;
            recall(file, stream)?;
            file.write_all(b"K\x00")?;
            recall(file, time)?;
            long(file, number)?;
            recall(file, frames)?;
            if number.is_multiple_of(2) {
                file.write_all(b"]\x94(")?;
                frames_before = memo;
                memo += 1;
                stack.iter().try_for_each(|frame| recall(file, *frame))?;
                file.write_all(b"e")?;
            } else {
                recall(file, frames_before)?;
            }
            file.write_all(b"u")?;
            number += 1;
        }
        file.write_all(b"e")?;
    }
    file.write_all(b"au.")
}

fn text(file: &mut Counted<BufWriter<File>>, bytes: u64) -> std::io::Result<()> {
    let mut number = 0;
    while file.bytes < bytes {
        let block = number / 2;
        match (number % 2, block >= ALIVE) {
            (0, _) => writeln!(file, "a {block} {} aten::empty", 512 + block % 4096)?,
            (_, true) => writeln!(file, "f {}", block - ALIVE)?,
            _ => {}
        }
        number += 1;
    }
    Ok(())
}

fn kineto(file: &mut Counted<BufWriter<File>>, bytes: u64) -> std::io::Result<()> {
    writeln!(file, "{{\"traceEvents\": [")?;
    let mut number = 0;
    while file.bytes < bytes {
        let (is_free, address, bytes) = event(number);
        let sign = if is_free { "-" } else { "" };
        writeln!(
            file,
            r#"{{"ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]", "pid": 7, "tid": 7, "ts": {number}.250,
  "args": {{"Total Reserved": 0, "Total Allocated": 0, "Bytes": {sign}{bytes}, "Addr": {address}, "Device Id": -1, "Device Type": 0}}}},"#
        )?;
        number += 1;
    }
    writeln!(file, "{{\"name\": \"end\"}}]}}")
}
