//! Host memory: each slab is one anonymous mapping, zeroed, touched only when used unless asked for, unmapped when dropped.
//!
//! The `unsafe` here rests on one fact: spans of one slab never overlap, and each is borrowed (`&` or `&mut`) for as long as
//! its bytes are. A slab therefore binds itself to the serial number of the first span it meets and refuses all others, so that
//! not even another backend that wraps this one and mixes up its slabs can make two references to the same bytes. The rest of
//! the crate's `unsafe` is a few calls of a GPU's driver, in `gpu/memory`.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use super::{Backend, CopyDst, CopySrc, HostMemory, Limit, Limits, Span, check_slab_bytes, machine};
use crate::error::{Error, ErrorKind, Result};
use crate::units::exact;

/// A cache line, and an AVX-512 register.
const ALIGNMENT_BYTES: u64 = 64;

/// The pages of the system are no larger: on some processors Linux has pages of 64 KiB.
const GRANULE_BYTES: u64 = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) { 4 << 10 } else { 64 << 10 };

/// The systems whose pages come when they are touched, and go when they are told to.
const COMMITS: bool = cfg!(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios"));

/// Memory of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

/// One anonymous mapping.
#[derive(Debug)]
pub struct HostSlab {
    memory: MmapRaw,
    /// The serial number of the pool's slab that this memory is, 0 until the first span comes.
    serial: AtomicU64,
}

/// Reserves addresses, with no memory behind them yet.
fn map(bytes: u64, limits: &Limits) -> Result<MmapMut> {
    check_slab_bytes(bytes, limits)?;
    MmapMut::map_anon(bytes as usize).map_err(|error| {
        let message = format!("the system refused a slab of {}", exact(bytes));
        Error::new(ErrorKind::OutOfMemory, message).with_source(error)
    })
}

/// Touches a byte of each page. No system has smaller pages.
fn touch(bytes: &mut [u8]) {
    bytes.iter_mut().step_by(4096).for_each(|byte| *byte = black_box(0));
}

/// Locks the pages in RAM, which gives them too.
fn lock(memory: &MmapMut) -> Result<()> {
    #[cfg(unix)]
    let locked = memory.lock();
    #[cfg(not(unix))]
    let locked: std::io::Result<()> = Err(std::io::ErrorKind::Unsupported.into());
    locked.map_err(|error| {
        let slab = exact(memory.len() as u64);
        let limit = machine::lock_limit();
        Error::new(ErrorKind::OutOfMemory, format!("the system did not lock a slab of {slab}: {limit}"))
            .with_source(error)
    })
}

impl HostSlab {
    fn new(memory: MmapMut) -> Self {
        // Mappings start at a page of the system, 4 KiB or more.
        debug_assert!((memory.as_ptr() as u64).is_multiple_of(ALIGNMENT_BYTES));
        Self { memory: MmapRaw::from(memory), serial: AtomicU64::new(0) }
    }

    /// Checks that the span is of this slab and inside it; gives its start and length in this address space.
    fn locate(&self, span: &Span) -> Result<(*mut u8, usize)> {
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

    /// Tells the system about a span that begins and ends with a granule, or with the mapping.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios"))]
    fn advise(&self, advice: memmap2::UncheckedAdvice, span: &mut Span) -> Result<()> {
        self.locate(span)?;
        let (start, bytes) = (span.offset(), span.bytes());
        let is_whole = |end: u64| end.is_multiple_of(GRANULE_BYTES) || end == self.memory.len() as u64;
        if !is_whole(start) || !is_whole(start + bytes) {
            let message = format!("{} at byte {start} of a slab are not whole granules", exact(bytes));
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        // SAFETY: the span is exclusively borrowed, so nothing else refers to its bytes. It covers whole pages, or ends with the mapping,
        // so no other bytes are concerned. What is read there next are zeros, or the bytes that were there.
        let advised = unsafe { self.memory.unchecked_advise_range(advice, start as usize, bytes as usize) };
        advised.map_err(|error| {
            let message = format!("the system did not change what is behind {}", exact(bytes));
            Error::new(ErrorKind::Device, message).with_source(error)
        })
    }

    fn slice<'a>(&'a self, span: &'a Span) -> Result<&'a [u8]> {
        let (start, len) = self.locate(span)?;
        // SAFETY: `locate` found the range inside this mapping, which is readable, initialised (anonymous pages are zero
        // until written), not moved and not unmapped while `self` is borrowed. Only a pool makes spans, spans of one
        // serial never overlap, and only this serial reaches this mapping; so the only way to write to these bytes is
        // `&mut Span`, which cannot exist while `span` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(start, len) })
    }

    fn slice_mut<'a>(&'a self, span: &'a mut Span) -> Result<&'a mut [u8]> {
        let (start, len) = self.locate(span)?;
        // SAFETY: as in `slice`, the mapping is writable too, and `span` is borrowed exclusively: no other reference to
        // these bytes exists or can be made while the returned one lives.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }
}

impl Backend for Host {
    type Slab = HostSlab;

    fn name(&self) -> &str {
        "host"
    }

    fn limits(&self) -> Limits {
        let addressable = Limit { bytes: isize::MAX as u64, name: "the address space" };
        Limits { alignment_bytes: ALIGNMENT_BYTES, granule_bytes: 1, slab: addressable, block: addressable }
    }

    fn create_slab(&self, bytes: u64) -> Result<HostSlab> {
        map(bytes, &self.limits()).map(HostSlab::new)
    }

    fn is_touchable(&self) -> bool {
        true
    }

    fn create_touched_slab(&self, bytes: u64, locks: bool) -> Result<HostSlab> {
        let mut memory = map(bytes, &self.limits())?;
        if locks {
            // Gives all pages too. Unmapping unlocks.
            lock(&memory)?;
        } else {
            touch(&mut memory);
        }
        Ok(HostSlab::new(memory))
    }

    fn commit_granule_bytes(&self) -> Option<u64> {
        COMMITS.then_some(GRANULE_BYTES)
    }

    fn reserve_slab(&self, bytes: u64) -> Result<HostSlab> {
        check_slab_bytes(bytes, &self.limits())?;
        let memory = MmapOptions::new().len(bytes as usize).no_reserve_swap().map_anon().map_err(|error| {
            let message = format!("the system refused {} of addresses", exact(bytes));
            Error::new(ErrorKind::OutOfMemory, message).with_source(error)
        })?;
        // A huge page would bring more than the granules that are counted. Where there are none, that is an error.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::NoHugePage);
        Ok(HostSlab::new(memory))
    }

    /// A page comes when it is touched. Without `touches` there is nothing to do, but on Apple's systems, which count pages.
    fn commit(&self, slab: &HostSlab, span: &mut Span, touches: bool) -> Result<()> {
        #[cfg(any(target_os = "macos", target_os = "ios"))]
        slab.advise(memmap2::UncheckedAdvice::FreeReuse, span)?;
        let bytes = slab.slice_mut(span)?;
        if touches {
            touch(bytes);
        }
        Ok(())
    }

    fn decommit(&self, slab: &HostSlab, span: &mut Span) -> Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        return slab.advise(memmap2::UncheckedAdvice::DontNeed, span);
        #[cfg(any(target_os = "macos", target_os = "ios"))]
        return slab.advise(memmap2::UncheckedAdvice::FreeReusable, span);
        #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios")))]
        return slab.locate(span).map(drop);
    }

    fn memory_bytes(&self) -> Result<u64> {
        machine::memory_bytes()
    }

    fn upload(&self, slab: &HostSlab, span: &mut Span, at: u64, bytes: &[u8]) -> Result<()> {
        span.range(at, bytes.len() as u64)?;
        slab.slice_mut(span)?[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, slab: &HostSlab, span: &Span, at: u64, bytes: &mut [u8]) -> Result<()> {
        span.range(at, bytes.len() as u64)?;
        bytes.copy_from_slice(&slab.slice(span)?[at as usize..][..bytes.len()]);
        Ok(())
    }

    fn fill(&self, slab: &HostSlab, span: &mut Span, len: u64, pattern: &[u8]) -> Result<()> {
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
    fn bytes<'a>(&self, slab: &'a HostSlab, span: &'a Span) -> Result<&'a [u8]> {
        slab.slice(span)
    }

    fn bytes_mut<'a>(&self, slab: &'a HostSlab, span: &'a mut Span) -> Result<&'a mut [u8]> {
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
        let mut span = Span::new(7, 64, 1000);
        let bytes = slab.slice_mut(&mut span).unwrap();
        assert_eq!(bytes.as_ptr() as usize % 64, 0);
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(3);
        assert_eq!(slab.slice(&span).unwrap()[999], 3);
        // The first span binds the slab: one of another serial number is refused, and so is one past the end.
        assert_eq!(slab.slice(&Span::new(8, 64, 1000)).unwrap_err().kind(), ErrorKind::Foreign);
        assert_eq!(slab.slice(&Span::new(7, 99_999, 2)).unwrap_err().kind(), ErrorKind::Foreign);
        assert!(other.slice(&Span::new(8, 0, 1)).is_ok());
        assert_eq!(other.slice(&span).unwrap_err().kind(), ErrorKind::Foreign);
    }

    #[test]
    fn a_pattern_is_repeated_and_cut() {
        let slab = Host.create_slab(64).unwrap();
        let mut span = Span::new(1, 0, 64);
        Host.fill(&slab, &mut span, 11, &[1, 2, 3]).unwrap();
        assert_eq!(slab.slice(&span).unwrap()[..12], [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 0]);
        assert_eq!(Host.fill(&slab, &mut span, 65, &[0]).unwrap_err().kind(), ErrorKind::Shape);
        assert_eq!(Host.fill(&slab, &mut span, 4, &[]).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn the_system_refuses_what_no_address_space_holds() {
        assert_eq!(Host.create_slab(u64::MAX).unwrap_err().kind(), ErrorKind::TooLarge);
        let error = Host.create_slab(isize::MAX as u64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    }
}
