//! What the allocators are put through: recorded training runs, and a churn of random sizes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;

use crate::random::Random;

/// Sizes of the churn, in powers of two: 256 bytes to 4 MiB, each octave as likely.
const CHURN_OCTAVES: (f64, f64) = (8.0, 22.0);

/// One event. A slot is a place for a handle; it is used again once its tensor is freed.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Alloc { slot: u32, bytes: u64 },
    Free { slot: u32 },
}

/// Allocations and frees in order.
pub struct Workload {
    pub name: String,
    pub events: Vec<Event>,
    pub slot_count: usize,
    /// The most bytes that were ever asked for and not yet freed.
    pub live_peak_bytes: u64,
    /// The event after which that is so.
    pub peak_at: usize,
}

impl Workload {
    /// Reads a trace: lines `a ID BYTES` and `f ID`, anything after `#` left out; gzipped if the name ends in `.gz`.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
        let zipped = path.extension().is_some_and(|extension| extension == "gz");
        let text: Box<dyn Read> = if zipped { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut builder = Builder::default();
        for (number, line) in BufReader::new(text).lines().enumerate() {
            let line = line.map_err(|error| format!("{shown}, line {}: {error}", number + 1))?;
            let line = line.split('#').next().unwrap_or_default();
            let known = match line.split_whitespace().collect::<Vec<_>>()[..] {
                [] => Some(()),
                ["a", id, bytes] => {
                    id.parse().ok().zip(bytes.parse().ok()).and_then(|(id, bytes)| builder.alloc(id, bytes))
                }
                ["f", id] => id.parse().ok().and_then(|id| builder.free(id)),
                _ => None,
            };
            known.ok_or_else(|| format!("{shown}, line {}: {line:?} is no event that can come here", number + 1))?;
        }
        Ok(builder.finish(name.split('.').next().unwrap_or_default().to_owned()))
    }

    /// Allocates `live` blocks and replaces a random one so many times.
    pub fn churn(live: usize, replacements: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut builder = Builder::default();
        let (low, high) = CHURN_OCTAVES;
        let mut ids: Vec<usize> = (0..live).collect();
        for step in 0..live + replacements {
            let place = if step < live { step } else { random.below(live) };
            if step >= live {
                builder.free(ids[place]).expect("a live one");
                ids[place] = step;
            }
            let bytes = (low + random.fraction() * (high - low)).exp2() as u64;
            builder.alloc(step, bytes).expect("a new one");
        }
        builder.finish(format!("churn of {live}"))
    }
}

#[derive(Default)]
struct Builder {
    events: Vec<Event>,
    /// By id: its slot and bytes, while it is live.
    tensors: Vec<Option<(u32, u64)>>,
    idle_slots: Vec<u32>,
    slot_count: usize,
    live_bytes: u64,
    live_peak_bytes: u64,
    peak_at: usize,
}

impl Builder {
    /// `None` if ids do not count up, or for sizes that no memory has.
    fn alloc(&mut self, id: usize, bytes: u64) -> Option<()> {
        if id != self.tensors.len() || bytes == 0 || bytes > 1 << 46 {
            return None;
        }
        let slot = self.idle_slots.pop().unwrap_or_else(|| {
            self.slot_count += 1;
            u32::try_from(self.slot_count - 1).expect("fewer than 2^32 live at once")
        });
        self.tensors.push(Some((slot, bytes)));
        self.events.push(Event::Alloc { slot, bytes });
        self.live_bytes += bytes;
        if self.live_bytes > self.live_peak_bytes {
            (self.live_peak_bytes, self.peak_at) = (self.live_bytes, self.events.len() - 1);
        }
        Some(())
    }

    /// `None` if it is not live.
    fn free(&mut self, id: usize) -> Option<()> {
        let (slot, bytes) = self.tensors.get_mut(id)?.take()?;
        self.idle_slots.push(slot);
        self.events.push(Event::Free { slot });
        self.live_bytes -= bytes;
        Some(())
    }

    fn finish(self, name: String) -> Workload {
        let Self { events, slot_count, live_peak_bytes, peak_at, .. } = self;
        Workload { name, events, slot_count, live_peak_bytes, peak_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_with_its_peak_and_slots_used_again() {
        let path = std::env::temp_dir().join(format!("race-{}.trace", std::process::id()));
        std::fs::write(&path, "# trace: small\na 0 100\na 1 50\nf 0\n# step 1\na 2 60\nf 1\n").unwrap();
        let workload = Workload::read(&path).unwrap();
        assert_eq!((workload.events.len(), workload.slot_count), (5, 2));
        assert_eq!((workload.live_peak_bytes, workload.peak_at), (150, 1));
        assert!(matches!(workload.events[3], Event::Alloc { slot: 0, bytes: 60 }));
        for broken in ["a 1 5", "a 0 0", "f 0", "a 0 5\nf 0\nf 0", "a 0", "b 0 1", "a 0 99999999999999999999"] {
            std::fs::write(&path, broken).unwrap();
            let error = Workload::read(&path).err().unwrap_or_else(|| panic!("{broken:?} was read"));
            assert!(error.contains("line "), "{error}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_churn_keeps_its_number_of_live_blocks() {
        let workload = Workload::churn(20, 500, 7);
        let mut live = 0u32;
        for (index, event) in workload.events.iter().enumerate() {
            match event {
                Event::Alloc { bytes, .. } => {
                    assert!((256..4 << 20).contains(bytes), "{bytes}");
                    live += 1;
                }
                Event::Free { .. } => live -= 1,
            }
            assert!(index < 20 || (19..=20).contains(&live), "{live} at {index}");
        }
        assert_eq!((workload.events.len(), workload.slot_count), (20 + 2 * 500, 20));
    }
}
