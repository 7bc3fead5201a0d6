//! PyTorch's memory snapshot: the pickle that `torch.cuda.memory._dump_snapshot` writes.
//!
//! ```text
//! {"segments": [{device, total_size, blocks: [{address, size, requested_size, state}]}],
//!  "device_traces": [[{action, addr, size}]]}      one list for each device, the oldest entry first
//! ```
//!
//! A block is free when its `free_completed` says so: from `free_requested` until then other streams may still use it. The
//! recording is a ring, and may begin late: what was alive before is what the final segments hold and no entry mentions,
//! and what is freed without having been allocated. What PyTorch itself had reserved follows backwards from the sizes of
//! the final segments.

use std::cell::Cell;

use super::addresses::{Entry, Log};
use super::parse::Fault;
use super::pickle::{Container, Pickle, Value};
use super::{RESERVED_PEAK, Trace, TraceBuilder};

/// Devices in a snapshot. No machine has so many.
const DEVICES_MAX: usize = 4096;

/// Keys of an entry, a segment or a block. They have 10 or so, and each is looked for from the end.
const KEYS_MAX: usize = 64;

/// What a device's entries and segments say.
#[derive(Default)]
struct Device {
    log: Log,
    /// Bytes that each entry added to what is reserved, or took off.
    reserved: Vec<i128>,
    reserved_at_end_bytes: i128,
}

pub(super) fn read(bytes: &[u8], stem: &str) -> Result<Vec<Trace>, Fault> {
    let snapshot = Snapshot { pickle: Pickle::read(bytes, "frames")?, seen: Cell::new(0) };
    let devices = snapshot.devices()?;
    let recorded = devices.iter().filter(|device| !device.log.entries.is_empty()).count();
    if recorded == 0 {
        let what = "expected entries in \"device_traces\", and there are none: \
                    torch.cuda.memory._record_memory_history() starts a recording";
        return Err(Fault::whole(what));
    }
    let devices = devices.into_iter().enumerate().filter(|(_, device)| !device.log.entries.is_empty());
    devices
        .map(|(index, device)| {
            let name = if recorded == 1 { stem.to_owned() } else { format!("{stem} device {index}") };
            device.trace(&name, index)
        })
        .collect()
}

impl Device {
    fn trace(self, name: &str, index: usize) -> Result<Trace, Fault> {
        let mut builder = TraceBuilder::new(name);
        builder.header("trace", name);
        builder.header("framework", "torch, from a memory snapshot");
        builder.header("device", &index.to_string());
        builder.header(RESERVED_PEAK, &self.reserved_peak_bytes().to_string());
        self.log.trace(builder).map_err(|(entry, what)| {
            Fault::whole(format!("device_traces[{index}], allocation or free {entry}: {what}"))
        })
    }

    fn reserved_peak_bytes(&self) -> u64 {
        let mut bytes = self.reserved_at_end_bytes;
        let mut peak_bytes = bytes;
        for change in self.reserved.iter().rev() {
            bytes -= change;
            peak_bytes = peak_bytes.max(bytes);
        }
        u64::try_from(peak_bytes).unwrap_or(u64::MAX)
    }
}

struct Snapshot<'a> {
    pickle: Pickle<'a>,
    /// Entries, segments and blocks that were read.
    seen: Cell<usize>,
}

impl Snapshot<'_> {
    fn devices(&self) -> Result<Vec<Device>, Fault> {
        let Value::Dict(root) = self.pickle.root() else {
            let what = "expected a snapshot, a dictionary with \"segments\" and \"device_traces\"";
            return Err(Fault::whole(what));
        };
        let traces = self.list(root, "device_traces")?;
        if traces.len() > DEVICES_MAX {
            return Err(self.fault(root, format!("expected at most {DEVICES_MAX} devices, found {}", traces.len())));
        }
        let mut devices = Vec::new();
        for trace in traces {
            let Value::List(trace) = *trace else {
                return Err(self.fault(root, "expected \"device_traces\" to be a list of lists"));
            };
            let mut device = Device::default();
            for entry in self.pickle.items(trace) {
                self.entry(&mut device, self.dict(*entry, trace)?)?;
            }
            devices.push(device);
        }
        for segment in self.list(root, "segments")? {
            self.segment(&mut devices, self.dict(*segment, root)?)?;
        }
        Ok(devices)
    }

    fn entry(&self, device: &mut Device, entry: Container) -> Result<(), Fault> {
        let action = self.pickle.get(entry, "action").and_then(|action| self.pickle.text(action));
        let Some(action) = action else { return Err(self.fault(entry, "expected a text for \"action\"")) };
        let bytes = |sign| self.number(entry, "size").map(|bytes| sign * i128::from(bytes));
        match action {
            b"alloc" => {
                let (address, bytes) = (self.number(entry, "addr")?, self.number(entry, "size")?);
                device.log.entries.push(Entry::Alloc { address, bytes });
            }
            b"free_completed" => {
                let (address, bytes) = (self.number(entry, "addr")?, self.number(entry, "size")?);
                device.log.entries.push(Entry::Free { address, bytes });
            }
            b"oom" => device.log.entries.push(Entry::Failure { bytes: self.number(entry, "size")? }),
            b"segment_alloc" | b"segment_map" => device.reserved.push(bytes(1)?),
            b"segment_free" | b"segment_unmap" => device.reserved.push(bytes(-1)?),
            // `free_requested`, `snapshot`, and whatever later versions write.
            _ => {}
        }
        Ok(())
    }

    fn segment(&self, devices: &mut [Device], segment: Container) -> Result<(), Fault> {
        // The first versions had one device's segments only.
        let index = match self.pickle.get(segment, "device") {
            Some(_) => self.number(segment, "device")?,
            None => 0,
        };
        // A device whose segments are there and whose trace is not was not recorded.
        let Some(device) = usize::try_from(index).ok().and_then(|index| devices.get_mut(index)) else { return Ok(()) };
        device.reserved_at_end_bytes += i128::from(self.number(segment, "total_size")?);
        let mut address = self.number(segment, "address")?;
        for block in self.list(segment, "blocks")? {
            let block = self.dict(*block, segment)?;
            let size = self.number(block, "size")?;
            let state = self.pickle.get(block, "state").and_then(|state| self.pickle.text(state));
            let Some(state) = state else { return Err(self.fault(block, "expected a text for \"state\"")) };
            // Blocks lie side by side, and not every version writes where.
            if self.pickle.get(block, "address").is_some() {
                address = self.number(block, "address")?;
            }
            if state.starts_with(b"active_") {
                let requested = self.pickle.get(block, "requested_size").map(|_| self.number(block, "requested_size"));
                device.log.alive_at_end.push((address, requested.transpose()?.unwrap_or(size)));
            }
            address = address.wrapping_add(size);
        }
        Ok(())
    }

    fn list(&self, dict: Container, key: &str) -> Result<&[Value], Fault> {
        match self.pickle.get(dict, key) {
            Some(Value::List(list) | Value::Tuple(list)) => Ok(self.pickle.items(list)),
            _ => Err(self.fault(dict, format!("expected a list for {key:?}"))),
        }
    }

    /// A pickle can hold one thing in many places, so that a small one comes to billions of entries. PyTorch's has each
    /// of them once.
    fn dict(&self, value: Value, within: Container) -> Result<Container, Fault> {
        let Value::Dict(dict) = value else { return Err(self.fault(within, "expected a list of dictionaries")) };
        self.seen.set(self.seen.get() + 1);
        if self.seen.get() > self.pickle.containers() {
            return Err(self.fault(within, "expected every entry, segment and block to be a dictionary of its own"));
        }
        if self.pickle.items(dict).len() > 2 * KEYS_MAX {
            return Err(self.fault(dict, format!("expected at most {KEYS_MAX} keys")));
        }
        Ok(dict)
    }

    fn number(&self, dict: Container, key: &str) -> Result<u64, Fault> {
        match self.pickle.get(dict, key) {
            Some(Value::Int(number)) if number >= 0 => Ok(number as u64),
            Some(Value::Large(number)) => Ok(number),
            found => {
                let found = match found {
                    Some(Value::Int(number)) => format!("found {number}"),
                    Some(_) => "found something else".into(),
                    None => "and there is none".into(),
                };
                Err(self.fault(dict, format!("expected a whole number from 0 to 2^64 for {key:?}, {found}")))
            }
        }
    }

    fn fault(&self, container: Container, what: impl Into<String>) -> Fault {
        Fault::byte(self.pickle.byte(container), what)
    }
}
