//! Host memory: each slab is in an anonymous mapping of its own, zeroed, touched only when used unless asked for, unmapped when dropped.
//!
//! The `unsafe` here rests on one fact: no span of a slab meets a `SpanMut` of it, and each borrows its block for as long as
//! its bytes are. A slab therefore binds itself to the serial number of the first span it meets and refuses all others, so that
//! not even another backend that wraps this one and mixes up its slabs can make two references to the same bytes. The rest of
//! the crate's `unsafe` is in `mapping`, whose calls of the system need it, and a few calls of a GPU's driver, in `gpu/memory`.

mod mapping;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use self::mapping::Mapping;
use super::{
    ALIGNMENT_BYTES_MAX, Backend, CopyDst, CopySrc, HostMemory, Limit, Limits, PageOptions, Span, SpanMut,
    check_slab_bytes, machine,
};
use crate::error::{Error, ErrorKind, Result};
use crate::units::exact;

/// A cache line, and an AVX-512 register.
const ALIGNMENT_BYTES: u64 = 64;

/// Every slab starts at a multiple of this.
const SLAB_ALIGNMENT_BYTES: u64 = if cfg!(unix) { ALIGNMENT_BYTES_MAX } else { mapping::ALIGNMENT_BYTES_MAX };

/// The pages of the system are no larger: on some processors Linux has pages of 64 KiB.
const GRANULE_BYTES: u64 = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) { 4 << 10 } else { 64 << 10 };

/// The systems whose pages come when they are touched, and go when they are told to.
const COMMITS: bool = cfg!(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios"));

/// Memory of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

/// One mapping.
#[derive(Debug)]
pub struct HostSlab {
    memory: Mapping,
    /// The serial number of the pool's slab that this memory is, 0 until the first span comes.
    serial: AtomicU64,
}

/// Maps a slab that starts at a multiple of so many bytes, with no memory behind it yet.
fn map(bytes: u64, align_bytes: u64, is_range: bool, limits: &Limits) -> Result<Mapping> {
    check_slab_bytes(bytes, limits)?;
    // On 32 bits no multiple is above the address space.
    let align_bytes = usize::try_from(align_bytes).unwrap_or(1 << (usize::BITS - 1));
    Mapping::new(bytes as usize, align_bytes, is_range).map_err(|error| {
        let message = format!("the system refused a slab of {}", exact(bytes));
        Error::new(ErrorKind::OutOfMemory, message).with_source(error)
    })
}

/// Locks the pages of a slab in RAM, which gives them too.
fn lock(memory: &Mapping) -> Result<()> {
    memory.lock().map_err(|error| {
        let slab = exact(memory.len() as u64);
        let limit = machine::lock_limit();
        Error::new(ErrorKind::OutOfMemory, format!("the system did not lock a slab of {slab}: {limit}"))
            .with_source(error)
    })
}

impl HostSlab {
    fn new(memory: Mapping) -> Self {
        Self { memory, serial: AtomicU64::new(0) }
    }

    /// Checks that the span is of this slab and inside it; gives its start and length in this address space.
    fn locate(&self, span: Span<'_>) -> Result<(*mut u8, usize)> {
        let serial = match self.serial.compare_exchange(0, span.slab_serial(), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => span.slab_serial(),
            Err(bound) => bound,
        };
        if serial != span.slab_serial() || span.range(0, span.bytes())?.end > self.memory.len() as u64 {
            return Err(Error::new(
                ErrorKind::Foreign,
                format!(
                    "bytes {}..{} of slab {} are not in slab {serial} of {}",
                    span.offset(),
                    span.offset() + span.bytes(),
                    span.slab_serial(),
                    exact(self.memory.len() as u64)
                ),
            ));
        }
        Ok((self.memory.as_mut_ptr().wrapping_add(span.offset() as usize), span.bytes() as usize))
    }

    /// Checks that a span begins and ends with a granule, or with the slab; gives its start and length.
    fn granules(&self, span: Span<'_>) -> Result<(usize, usize)> {
        self.locate(span)?;
        let (start, bytes) = (span.offset(), span.bytes());
        let is_whole = |end: u64| end.is_multiple_of(GRANULE_BYTES) || end == self.memory.len() as u64;
        if !is_whole(start) || !is_whole(start + bytes) {
            let message = format!("{} at byte {start} of a slab are not whole granules", exact(bytes));
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok((start as usize, bytes as usize))
    }

    fn slice<'a>(&'a self, span: Span<'a>) -> Result<&'a [u8]> {
        let (start, len) = self.locate(span)?;
        // SAFETY: `locate` found the range inside this mapping, which is readable, initialised (anonymous pages are zero
        // until written), not moved and not unmapped while `self` is borrowed. Only a pool makes spans, spans of one
        // serial never overlap where one is a `SpanMut`, and only this serial reaches this mapping; so nothing can write to
        // these bytes during `'a`.
        Ok(unsafe { std::slice::from_raw_parts(start, len) })
    }

    fn slice_mut<'a>(&'a self, span: SpanMut<'a>) -> Result<&'a mut [u8]> {
        let (start, len) = self.locate(span.as_span())?;
        // SAFETY: as in `slice`, the mapping is writable too, and `span`, which has no copies, is given up for the reference: no
        // other to these bytes exists or can be made while this one lives.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }
}

fn advised(done: std::io::Result<()>, bytes: usize) -> Result<()> {
    done.map_err(|error| {
        let message = format!("the system did not change what is behind {}", exact(bytes as u64));
        Error::new(ErrorKind::Device, message).with_source(error)
    })
}

impl Backend for Host {
    type Slab = HostSlab;

    fn name(&self) -> &str {
        "host"
    }

    fn limits(&self) -> Limits {
        let addressable = Limit { bytes: isize::MAX as u64, name: "the address space" };
        Limits {
            alignment_bytes: ALIGNMENT_BYTES,
            alignment_bytes_max: SLAB_ALIGNMENT_BYTES,
            granule_bytes: 1,
            slab: addressable,
            block: addressable,
        }
    }

    fn create_slab(&self, bytes: u64) -> Result<HostSlab> {
        map(bytes, SLAB_ALIGNMENT_BYTES, false, &self.limits()).map(HostSlab::new)
    }

    fn is_touchable(&self) -> bool {
        true
    }

    fn huge_page_bytes(&self) -> Result<u64> {
        machine::huge_page_bytes()
    }

    fn create_slab_with(&self, bytes: u64, pages: PageOptions) -> Result<HostSlab> {
        let mut memory = map(bytes, SLAB_ALIGNMENT_BYTES, false, &self.limits())?;
        if pages.huge {
            self.huge_page_bytes()?;
            memory.advise_huge_pages(true);
        }
        if pages.lock {
            lock(&memory)?;
        } else if pages.touch {
            memory.touch();
        }
        Ok(HostSlab::new(memory))
    }

    fn commit_granule_bytes(&self) -> Option<u64> {
        COMMITS.then_some(GRANULE_BYTES)
    }

    /// The slab starts at a multiple of its size as a power of two, up to 1 TiB, where the system has such addresses. So the start of the
    /// slab that an address is in follows from the address.
    fn reserve_slab(&self, bytes: u64, pages: PageOptions) -> Result<HostSlab> {
        let size_bytes = bytes.checked_next_power_of_two().unwrap_or(u64::MAX);
        let align_bytes = size_bytes.clamp(SLAB_ALIGNMENT_BYTES, mapping::ALIGNMENT_BYTES_MAX);
        let memory = map(bytes, align_bytes, true, &self.limits())
            .or_else(|_| map(bytes, SLAB_ALIGNMENT_BYTES, true, &self.limits()))?;
        // A huge page would bring more than granules that are smaller.
        memory.advise_huge_pages(pages.huge);
        Ok(HostSlab::new(memory))
    }

    /// A page comes when it is touched. Without `touches` there is nothing to do, but on Apple's systems, which count pages.
    fn commit(&self, slab: &HostSlab, span: SpanMut<'_>, touches: bool) -> Result<()> {
        #[cfg(any(target_os = "macos", target_os = "ios"))]
        {
            let (start, bytes) = slab.granules(span.as_span())?;
            // SAFETY: the span is exclusively borrowed, so nothing else refers to its bytes, and they are whole pages or end with the slab.
            advised(unsafe { slab.memory.commit(start, bytes) }, bytes)?;
        }
        let bytes = slab.slice_mut(span)?;
        if touches {
            // No system has smaller pages.
            bytes.iter_mut().step_by(4096).for_each(|byte| *byte = black_box(0));
        }
        Ok(())
    }

    fn decommit(&self, slab: &HostSlab, span: SpanMut<'_>) -> Result<()> {
        let (start, bytes) = slab.granules(span.as_span())?;
        // SAFETY: the span is exclusively borrowed, so nothing else refers to its bytes. They are whole pages, or end with the slab, whose
        // last page has no other bytes that are used.
        advised(unsafe { slab.memory.decommit(start, bytes) }, bytes)
    }

    fn memory_bytes(&self) -> Result<u64> {
        machine::memory_bytes()
    }

    fn upload(&self, slab: &HostSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        span.range(at, bytes.len() as u64)?;
        slab.slice_mut(span)?[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, slab: &HostSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        span.range(at, bytes.len() as u64)?;
        bytes.copy_from_slice(&slab.slice(span)?[at as usize..][..bytes.len()]);
        Ok(())
    }

    fn fill(&self, slab: &HostSlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
        span.range(0, len)?;
        let bytes = &mut slab.slice_mut(span)?[..len as usize];
        match pattern {
            [] => return Err(Error::new(ErrorKind::Invalid, "an empty pattern cannot be repeated")),
            [byte] => bytes.fill(*byte),
            _ => {
                // Doubling keeps the copies long, whatever the pattern's length.
                let first = pattern.len().min(bytes.len());
                bytes[..first].copy_from_slice(&pattern[..first]);
                let mut done = first;
                while done < bytes.len() {
                    let next = done.min(bytes.len() - done);
                    bytes.copy_within(..next, done);
                    done += next;
                }
            }
        }
        Ok(())
    }

    fn copy(&self, from: CopySrc<'_, HostSlab>, to: CopyDst<'_, HostSlab>, len: u64) -> Result<()> {
        from.span.range(from.at, len)?;
        to.span.range(to.at, len)?;
        let source = &from.slab.slice(from.span)?[from.at as usize..][..len as usize];
        to.slab.slice_mut(to.span)?[to.at as usize..][..len as usize].copy_from_slice(source);
        Ok(())
    }
}

impl HostMemory for Host {
    fn bytes<'a>(&self, slab: &'a HostSlab, span: Span<'a>) -> Result<&'a [u8]> {
        slab.slice(span)
    }

    fn bytes_mut<'a>(&self, slab: &'a HostSlab, span: SpanMut<'a>) -> Result<&'a mut [u8]> {
        slab.slice_mut(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_is_zeroed_aligned_and_bound_to_its_spans() {
        let slab = Host.create_slab(100_000).unwrap();
        let other = Host.create_slab(100_000).unwrap();
        let mut span = SpanMut::new(7, 64, 1000);
        let bytes = slab.slice_mut(span.reborrow()).unwrap();
        assert_eq!((bytes.as_ptr() as u64 - 64) % SLAB_ALIGNMENT_BYTES, 0);
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(3);
        assert_eq!(slab.slice(span.as_span()).unwrap()[999], 3);
        // The first span binds the slab: one of another serial number is refused, and so is one past the end.
        assert_eq!(slab.slice(Span::new(8, 64, 1000)).unwrap_err().kind(), ErrorKind::Foreign);
        assert_eq!(slab.slice(Span::new(7, 99_999, 2)).unwrap_err().kind(), ErrorKind::Foreign);
        assert!(other.slice(Span::new(8, 0, 1)).is_ok());
        assert_eq!(other.slice(span.as_span()).unwrap_err().kind(), ErrorKind::Foreign);
    }

    #[test]
    fn the_start_of_an_expanding_slab_follows_from_an_address_in_it() {
        for bytes in [1, 100_000, 3 << 20, 5 << 30] {
            let slab = Host.reserve_slab(bytes, PageOptions::default()).unwrap();
            if !cfg!(unix) {
                return;
            }
            let last = SpanMut::new(1, bytes - 1, 1);
            let address = slab.slice_mut(last).unwrap().as_ptr() as u64;
            let start = address & !(bytes.next_power_of_two() - 1);
            assert_eq!(address - start, bytes - 1);
        }
    }

    #[test]
    fn a_pattern_is_repeated_and_cut() {
        let slab = Host.create_slab(64).unwrap();
        let mut span = SpanMut::new(1, 0, 64);
        Host.fill(&slab, span.reborrow(), 11, &[1, 2, 3]).unwrap();
        assert_eq!(slab.slice(span.as_span()).unwrap()[..12], [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 0]);
        assert_eq!(Host.fill(&slab, span.reborrow(), 65, &[0]).unwrap_err().kind(), ErrorKind::Shape);
        assert_eq!(Host.fill(&slab, span.reborrow(), 4, &[]).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn the_system_refuses_what_no_address_space_holds() {
        assert_eq!(Host.create_slab(u64::MAX).unwrap_err().kind(), ErrorKind::TooLarge);
        let error = Host.create_slab(isize::MAX as u64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    }
}
