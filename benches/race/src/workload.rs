//! What the allocators are put through: recorded training runs, and a churn of random sizes.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use tensorpool::plan::{self, Lifetime, Options, Plan};
use tensorpool::trace::{self, Trace, TraceBuilder};

use crate::contest::UNIT_BYTES;
use crate::random::Random;

/// Sizes of the churn, in powers of two: 256 bytes to 4 MiB, each octave as likely.
const CHURN_OCTAVES: (f64, f64) = (8.0, 22.0);

/// No device has so much, and some allocators count their units in 32 bits.
const LIVE_PEAK_BYTES_MAX: u64 = 1 << 39;

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
    plan: OnceCell<(Vec<Lifetime>, Plan)>,
}

impl Workload {
    /// Reads a file in any format of [`tensorpool::trace`]: one workload, or one for every device of a snapshot.
    pub fn read(path: &Path) -> Result<Vec<Self>, String> {
        let traces = Trace::read(path).map_err(|error| error.to_string())?;
        let workloads = traces.iter().map(Self::of);
        workloads.collect::<Result<_, _>>().map_err(|what| format!("{}: {what}", path.display()))
    }

    /// Reads several files.
    pub fn read_all(files: &[PathBuf]) -> Result<Vec<Self>, String> {
        let workloads = files.iter().map(|file| Self::read(file)).collect::<Result<Vec<_>, _>>()?;
        Ok(workloads.into_iter().flatten().collect())
    }

    /// Reads the traces of the repository.
    pub fn bundled() -> Result<Vec<Self>, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../traces");
        let entries = folder.read_dir().map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "gz"));
        files.sort();
        Self::read_all(&files)
    }

    /// Allocates `live` blocks and replaces a random one so many times.
    pub fn churn(live: usize, replacements: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut builder = TraceBuilder::new(format!("churn of {live}"));
        let (low, high) = CHURN_OCTAVES;
        let mut ids = Vec::new();
        for step in 0..live + replacements {
            let place = if step < live { step } else { random.below(live) };
            if step >= live {
                builder.free(ids[place]).expect("a live one");
            }
            let bytes = (low + random.fraction() * (high - low)).exp2() as u64;
            let id = builder.alloc(bytes, "").expect("few and small");
            if step < live { ids.push(id) } else { ids[place] = id }
        }
        Self::of(&builder.finish()).expect("few and small")
    }

    /// When each tensor is alive, and where it goes if all of that is known ahead. Planned once.
    pub fn plan(&self) -> &(Vec<Lifetime>, Plan) {
        self.plan.get_or_init(|| {
            let end = self.events.len() as u64;
            let mut lifetimes: Vec<Lifetime> = Vec::new();
            let mut tensors = vec![0; self.slot_count];
            for (now, event) in (0..).zip(&self.events) {
                match *event {
                    Event::Alloc { slot, bytes } => {
                        tensors[slot as usize] = lifetimes.len();
                        lifetimes.push(Lifetime::new(now, end, bytes));
                    }
                    Event::Free { slot } => lifetimes[tensors[slot as usize]].upper = now,
                }
            }
            let plan = plan::solve(&lifetimes, &Options::new().align(UNIT_BYTES)).expect("a workload can be planned");
            (lifetimes, plan)
        })
    }

    /// Without what needs no memory: steps, allocations that failed or of 0 bytes.
    fn of(trace: &Trace) -> Result<Self, String> {
        if trace.live_peak_bytes() > LIVE_PEAK_BYTES_MAX {
            return Err(format!("{} bytes are live at once, over {LIVE_PEAK_BYTES_MAX}", trace.live_peak_bytes()));
        }
        let mut builder = Builder::default();
        for event in trace.events() {
            match *event {
                trace::Event::Alloc { bytes, .. } => builder.alloc(bytes),
                trace::Event::Free { id } => builder.free(id),
                _ => {}
            }
        }
        if builder.events.is_empty() {
            return Err("nothing is allocated".to_owned());
        }
        Ok(builder.finish(trace.name().to_owned()))
    }
}

#[derive(Default)]
struct Builder {
    events: Vec<Event>,
    /// By id: its slot and bytes, if it has any and is live.
    tensors: Vec<Option<(u32, u64)>>,
    idle_slots: Vec<u32>,
    slot_count: u32,
    live_bytes: u64,
    live_peak_bytes: u64,
    peak_at: usize,
}

impl Builder {
    fn alloc(&mut self, bytes: u64) {
        if bytes == 0 {
            return self.tensors.push(None);
        }
        let slot = self.idle_slots.pop().unwrap_or_else(|| {
            self.slot_count += 1;
            self.slot_count - 1
        });
        self.tensors.push(Some((slot, bytes)));
        self.events.push(Event::Alloc { slot, bytes });
        self.live_bytes += bytes;
        if self.live_bytes > self.live_peak_bytes {
            (self.live_peak_bytes, self.peak_at) = (self.live_bytes, self.events.len() - 1);
        }
    }

    fn free(&mut self, id: u32) {
        if let Some((slot, bytes)) = self.tensors[id as usize].take() {
            self.idle_slots.push(slot);
            self.events.push(Event::Free { slot });
            self.live_bytes -= bytes;
        }
    }

    fn finish(self, name: String) -> Workload {
        let Self { events, slot_count, live_peak_bytes, peak_at, .. } = self;
        let plan = OnceCell::new();
        Workload { name, events, slot_count: slot_count as usize, live_peak_bytes, peak_at, plan }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(text: &str) -> Result<Workload, String> {
        Workload::of(&Trace::parse(text.as_bytes(), "x.trace").unwrap()[0])
    }

    #[test]
    fn a_trace_keeps_its_peak_and_slots_are_used_again() {
        let workload = of_text("# trace: small\na 0 100\na 1 50\nf 0\n# step 1\na 2 60\nf 1\n").unwrap();
        assert_eq!((&*workload.name, workload.events.len(), workload.slot_count), ("small", 5, 2));
        assert_eq!((workload.live_peak_bytes, workload.peak_at), (150, 1));
        assert!(matches!(workload.events[3], Event::Alloc { slot: 0, bytes: 60 }));
    }

    #[test]
    fn what_needs_no_memory_is_left_out_and_what_none_has_is_refused() {
        let workload = of_text("a 0 0\na 1 50\n# failure 99\nf 0\nf 1\n").unwrap();
        assert_eq!((workload.events.len(), workload.slot_count, workload.peak_at), (2, 1, 0));
        assert!(of_text("a 0 0\n# step 1\n").err().unwrap().contains("nothing is allocated"));
        let most = LIVE_PEAK_BYTES_MAX;
        assert!(of_text(&format!("a 0 {most}\n")).is_ok());
        let error = of_text(&format!("a 0 {most}\na 1 1\n")).err().unwrap();
        assert!(error.contains(&(most + 1).to_string()), "{error}");
    }

    #[test]
    fn files_of_every_format_are_read_and_errors_name_them() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |name: &str| Workload::read(&root.join(name));
        let names = |name: &str| read(name).unwrap().into_iter().map(|each| each.name).collect::<Vec<_>>();
        assert_eq!(names("traces/lenet_b64.trace.gz"), ["lenet_b64"]);
        assert_eq!(names("planning/minimalloc/A.1048576.csv"), ["A.1048576"]);
        assert_eq!(
            names("tests/data/snapshot4.pickle"),
            ["snapshot4 device 0", "snapshot4 device 1", "snapshot4 device 2"]
        );
        for broken in ["Cargo.toml", "traces", "no such file"] {
            let error = read(broken).err().unwrap();
            assert!(error.contains(broken), "{error}");
        }
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
