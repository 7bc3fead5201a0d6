//! PyTorch's memory snapshot: the pickle that `torch.cuda.memory._dump_snapshot` writes.
//!
//! ```text
//! {"segments": [{device, total_size, blocks: [{address, size, requested_size, state}]}],
//!  "device_traces": [[{action, addr, size, time_us}]],   one list for each device, the oldest entry first
//!  "external_annotations": [{name, stage, device, time_us}],
//!  "host_segments": ..., "host_traces": ...}             pinned memory, from PyTorch 2.14 on
//! ```
//!
//! A list of segments alone, as `torch.cuda.memory_snapshot()` returns it, is a snapshot without history; so is one without
//! `device_traces`.
//!
//! A block is free when its `free_completed` says so: from `free_requested` until then other streams may still use it. The
//! recording is a ring, and may begin late: what was alive before is what the final segments hold and no entry mentions,
//! and what is freed without having been allocated. What PyTorch itself had reserved follows backwards from the sizes of
//! the final segments.
//!
//! Files, lowest first: `words` (the texts that matter), `pickle` (values and rows), `bytes` (the file as a stream), `arena`
//! (lists and dictionaries), `machine` (the instructions), `device` (what becomes of a device's rows).

mod arena;
mod bytes;
mod device;
mod machine;
mod pickle;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::io::BufRead;

use self::device::{Device, Memory};
use self::pickle::{Container, Contents, Items, Pickle, Value};
use self::words::Word;
use super::Trace;
use super::fault::Fault;

/// Devices in a snapshot. No machine has so many.
const DEVICES_MAX: usize = 4096;

pub(super) fn read(reader: &mut dyn BufRead, stem: &str) -> Result<Vec<Trace>, Fault> {
    let mut snapshot = Snapshot { pickle: Pickle::read(reader)?, devices: BTreeMap::new() };
    snapshot.read()?;
    let devices: Vec<_> = snapshot.devices.into_iter().filter(|(_, device)| device.has_something()).collect();
    if devices.is_empty() {
        let what = "expected entries in \"device_traces\" or blocks in \"segments\", and there are none: \
                    torch.cuda.memory._record_memory_history() starts a recording";
        return Err(Fault::whole(what));
    }
    let is_one = devices.len() == 1;
    let name = |memory: Memory| if is_one { stem.to_owned() } else { format!("{stem} {memory}") };
    devices.into_iter().map(|(memory, device)| device.trace(&name(memory), memory)).collect()
}

struct Snapshot {
    pickle: Pickle,
    devices: BTreeMap<Memory, Device>,
}

impl Snapshot {
    fn read(&mut self) -> Result<(), Fault> {
        let root = match self.pickle.root {
            Value::Dict(root) => root,
            Value::List(segments) => return self.segments(segments, None),
            _ => {
                let what = "expected a snapshot, a dictionary with \"segments\" and \"device_traces\"";
                return Err(Fault::whole(what));
            }
        };
        if let Some(traces) = self.list_if_any(root, Word::DeviceTraces)? {
            self.traces(root, traces)?;
        }
        if let Some(segments) = self.list_if_any(root, Word::Segments)? {
            self.segments(segments, None)?;
        }
        if let Some(traces) = self.list_if_any(root, Word::HostTraces)? {
            self.host_traces(traces)?;
        }
        if let Some(segments) = self.list_if_any(root, Word::HostSegments)? {
            self.host_segments(segments)?;
        }
        self.annotations(root)
    }

    fn device(&mut self, memory: Memory) -> &mut Device {
        self.devices.entry(memory).or_default()
    }

    /// A list of one list of entries for each device.
    fn traces(&mut self, root: Container, traces: Container) -> Result<(), Fault> {
        let Items::Values(traces) = self.take(traces)? else {
            return Err(self.contents(root).fault("expected \"device_traces\" to be a list of lists"));
        };
        if traces.len() > DEVICES_MAX {
            let what = format!("expected at most {DEVICES_MAX} devices, found {}", traces.len());
            return Err(self.contents(root).fault(what));
        }
        for (index, trace) in (0..).zip(traces) {
            match trace {
                Value::List(trace) => self.entries(trace, Memory::Device(index))?,
                Value::Empty => {}
                _ => return Err(self.contents(root).fault("expected \"device_traces\" to be a list of lists")),
            }
        }
        Ok(())
    }

    /// Entries, or lists of them.
    fn host_traces(&mut self, traces: Container) -> Result<(), Fault> {
        let Items::Values(values) = &self.contents(traces).items else {
            return self.entries(traces, Memory::Pinned);
        };
        let lists = values.clone();
        for list in lists {
            match list {
                Value::List(list) => self.entries(list, Memory::Pinned)?,
                Value::Empty => {}
                _ => return self.entries(traces, Memory::Pinned),
            }
        }
        Ok(())
    }

    fn entries(&mut self, list: Container, memory: Memory) -> Result<(), Fault> {
        match self.take(list)? {
            Items::Entries(entries) => {
                let device = self.device(memory);
                match device.entries.is_empty() {
                    true => device.entries = entries,
                    false => device.entries.extend(entries),
                }
                Ok(())
            }
            Items::Values(values) => match values.first() {
                Some(Value::Dict(entry)) => Err(self.contents(*entry).fault("expected a text for \"action\"")),
                Some(_) => Err(self.contents(list).fault("expected a list of dictionaries")),
                // Entries of no use leave nothing.
                None => Ok(()),
            },
            _ => Err(self.contents(list).fault("expected a list of entries")),
        }
    }

    /// Segments, or lists of them, as the entries of the same memory.
    fn host_segments(&mut self, segments: Container) -> Result<(), Fault> {
        let lists = match &self.contents(segments).items {
            Items::Values(values) if !matches!(values.first(), Some(Value::Dict(_))) => values.clone(),
            _ => return self.segments(segments, Some(Memory::Pinned)),
        };
        for list in lists {
            match list {
                Value::List(list) => self.segments(list, Some(Memory::Pinned))?,
                Value::Empty => {}
                _ => return Err(self.contents(segments).fault("expected a list of dictionaries")),
            }
        }
        Ok(())
    }

    /// Segments of the memory that is given, or else of the device that each of them names.
    fn segments(&mut self, list: Container, memory: Option<Memory>) -> Result<(), Fault> {
        let Items::Values(segments) = self.take(list)? else {
            return Err(self.contents(list).fault("expected a list of segments"));
        };
        for segment in segments {
            let Value::Dict(segment) = segment else {
                return Err(self.contents(list).fault("expected a list of dictionaries"));
            };
            self.segment(segment, memory)?;
        }
        Ok(())
    }

    fn segment(&mut self, segment: Container, memory: Option<Memory>) -> Result<(), Fault> {
        let contents = self.contents(segment);
        let named = match contents.get(Word::Device) {
            Some(Value::Int(index)) => index,
            // The first versions had one device's segments only.
            None => 0,
            Some(_) => return Err(contents.fault("expected a whole number for \"device\"")),
        };
        let total_bytes = contents.size(Word::TotalSize)?;
        let mut address = contents.address(Word::Address)?;
        let blocks = self.list(segment, Word::Blocks)?;
        let blocks = match blocks.map(|blocks| self.take(blocks)).transpose()? {
            Some(Items::Blocks(blocks)) => blocks,
            None => Vec::new(),
            Some(Items::Values(values)) => match values.first() {
                Some(Value::Dict(block)) => {
                    return Err(self.contents(*block).fault("expected a text for \"state\""));
                }
                Some(_) => return Err(self.contents(segment).fault("expected a list of dictionaries")),
                None => Vec::new(),
            },
            Some(_) => return Err(self.contents(segment).fault("expected a list of blocks")),
        };
        let device = self.device(memory.unwrap_or(Memory::Device(named)));
        device.has_segments = true;
        device.reserved_at_end_bytes += i128::from(total_bytes);
        for block in blocks {
            // Blocks lie side by side, and not every version writes where.
            address = block.address.unwrap_or(address);
            if let Some(used_bytes) = block.used_bytes {
                device.alive_at_end.push((address, used_bytes));
            }
            address = address.wrapping_add(block.bytes);
        }
        Ok(())
    }

    /// What the program says of its steps.
    fn annotations(&mut self, root: Container) -> Result<(), Fault> {
        let Some(Value::List(annotations)) = self.contents(root).get(Word::ExternalAnnotations) else { return Ok(()) };
        let Items::Annotations(annotations) = self.take(annotations)? else { return Ok(()) };
        for annotation in &annotations {
            if let Some(device) = self.devices.get_mut(&Memory::Device(annotation.device)) {
                device.annotations.push(*annotation);
            }
        }
        // Any device's steps are those of the memory that all copy from.
        if let Some(pinned) = self.devices.get_mut(&Memory::Pinned) {
            pinned.annotations = annotations;
        }
        Ok(())
    }

    fn contents(&self, container: Container) -> &Contents {
        self.pickle.contents(container)
    }

    /// Returns what [`list`](Self::list) does, and `None` where the key is missing.
    fn list_if_any(&self, dict: Container, key: Word) -> Result<Option<Container>, Fault> {
        if self.contents(dict).get(key).is_none() { Ok(None) } else { self.list(dict, key) }
    }

    /// Returns the list that is a key's value, `None` for the empty tuple.
    fn list(&self, dict: Container, key: Word) -> Result<Option<Container>, Fault> {
        match self.contents(dict).get(key) {
            Some(Value::List(list)) => Ok(Some(list)),
            Some(Value::Empty) => Ok(None),
            _ => Err(self.contents(dict).fault(format!("expected a list for {:?}", key.text()))),
        }
    }

    /// Takes the items of a list out of it, once. A pickle can hold one list in many places, so that a small one comes to billions of
    /// entries. PyTorch's has each of them once.
    fn take(&mut self, list: Container) -> Result<Items, Fault> {
        let contents = &mut self.pickle.containers[list.0 as usize];
        if contents.is_taken {
            return Err(contents.fault("expected every list of entries, segments and blocks to be one of its own"));
        }
        let items = std::mem::replace(&mut contents.items, Items::Values(Vec::new()));
        contents.is_taken = items.bytes() > 0;
        Ok(items)
    }
}
