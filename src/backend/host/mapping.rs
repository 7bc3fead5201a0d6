//! Ranges of addresses with memory of this process: each is mapped by itself, at a multiple, and unmapped when dropped.

use std::io::{Error, ErrorKind, Result};

#[cfg(not(unix))]
pub(super) use others::Mapping;
#[cfg(unix)]
pub(super) use unix::Mapping;

/// The largest multiple that a mapping starts at.
pub(super) const ALIGNMENT_BYTES_MAX: u64 = if cfg!(unix) { 1 << 40 } else { 4096 };

fn too_large() -> Error {
    Error::new(ErrorKind::OutOfMemory, "no address space has so many bytes")
}

/// Calls of the system. memmap2 keeps every byte that it maps, and so those that are skipped; where huge pages are the rule, the first byte
/// of a small slab would bring them.
#[cfg(unix)]
mod unix {
    use std::ptr;

    use super::{Error, Result, too_large};

    #[derive(Debug)]
    pub(in super::super) struct Mapping {
        address: *mut u8,
        bytes: usize,
        /// In whole pages.
        mapped_bytes: usize,
    }

    // SAFETY: the mapping is this value's own. The pointer is used by unsafe code alone, which says why it may.
    unsafe impl Send for Mapping {}
    // SAFETY: the same.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        /// Maps zeroed bytes at a multiple of `align_bytes`, a power of two. A page gets memory when it is touched. Where the system counts
        /// what it promises, `is_range` asks it not to.
        pub(in super::super) fn new(bytes: usize, align_bytes: usize, is_range: bool) -> Result<Self> {
            // SAFETY: it reads a constant of the system.
            let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
            let align_bytes = align_bytes.max(page_bytes);
            let mapped_bytes = bytes.checked_next_multiple_of(page_bytes).ok_or_else(too_large)?;
            let all_bytes = mapped_bytes.checked_add(align_bytes - page_bytes).ok_or_else(too_large)?;
            if isize::try_from(all_bytes).is_err() {
                return Err(too_large());
            }
            let flags = libc::MAP_PRIVATE | libc::MAP_ANON | if is_range { libc::MAP_NORESERVE } else { 0 };
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new anonymous mapping at an address that the system chooses touches no other.
            let start = unsafe { libc::mmap(ptr::null_mut(), all_bytes, access, flags, -1, 0) };
            if start == libc::MAP_FAILED {
                return Err(Error::last_os_error());
            }
            let start = start.cast::<u8>();
            let skipped_bytes = start.addr().next_multiple_of(align_bytes) - start.addr();
            let address = start.wrapping_add(skipped_bytes);
            let (own_bytes, behind) = (all_bytes - skipped_bytes, address.wrapping_add(mapped_bytes));
            // What could not be unmapped is this mapping's still; what was may be another's.
            if let Err(error) = unmap(start, skipped_bytes) {
                let _ = unmap(start, all_bytes);
                return Err(error);
            }
            if let Err(error) = unmap(behind, own_bytes - mapped_bytes) {
                let _ = unmap(address, own_bytes);
                return Err(error);
            }
            Ok(Self { address, bytes, mapped_bytes })
        }

        pub(in super::super) fn as_mut_ptr(&self) -> *mut u8 {
            self.address
        }

        pub(in super::super) fn len(&self) -> usize {
            self.bytes
        }

        /// Touches a byte of each page. No system has smaller pages than 4 KiB.
        pub(in super::super) fn touch(&mut self) {
            for at in (0..self.bytes).step_by(4096) {
                // SAFETY: the byte is in this mapping, which is borrowed exclusively.
                unsafe { self.address.add(at).write_volatile(0) };
            }
        }

        /// Locks the pages in RAM, which gives them too. Unmapping unlocks.
        pub(in super::super) fn lock(&self) -> Result<()> {
            // SAFETY: the range is this mapping, and what is in it stays the same.
            done(unsafe { libc::mlock(self.address.cast(), self.bytes) })
        }

        /// Says whether huge pages are wanted. Where the kernel has none, that is an error, and the pages are small.
        pub(in super::super) fn advise_huge_pages(&self, are_wanted: bool) {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            {
                let advice = if are_wanted { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
                // SAFETY: the range is this mapping, and what is in it stays the same.
                let _ = done(unsafe { libc::madvise(self.address.cast(), self.bytes, advice) });
            }
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            let _ = are_wanted;
        }

        /// Says that pages are to be used again, on a system that counts them.
        ///
        /// # Safety
        /// Nothing refers to these bytes, which are in this mapping, and begin and end with a page or with it.
        #[cfg(any(target_os = "macos", target_os = "ios"))]
        pub(in super::super) unsafe fn commit(&self, start: usize, bytes: usize) -> Result<()> {
            // SAFETY: as the caller vouches.
            done(unsafe { libc::madvise(self.address.add(start).cast(), bytes, libc::MADV_FREE_REUSE) })
        }

        /// Gives the memory of pages back. What is read there next are zeros, or the bytes that were there.
        ///
        /// # Safety
        /// Nothing refers to these bytes, which are in this mapping, and begin and end with a page or with it.
        pub(in super::super) unsafe fn decommit(&self, start: usize, bytes: usize) -> Result<()> {
            #[cfg(any(target_os = "macos", target_os = "ios"))]
            let advice = libc::MADV_FREE_REUSABLE;
            #[cfg(not(any(target_os = "macos", target_os = "ios")))]
            let advice = libc::MADV_DONTNEED;
            // SAFETY: as the caller vouches.
            done(unsafe { libc::madvise(self.address.add(start).cast(), bytes, advice) })
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // Nothing refers to it any more. If the system refuses, it stays mapped.
            let _ = unmap(self.address, self.mapped_bytes);
        }
    }

    /// Unmaps whole pages that this module has mapped, and no other mapping has.
    fn unmap(address: *mut u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: only this module calls it, with pages that it has mapped, and that nothing refers to.
        done(unsafe { libc::munmap(address.cast(), bytes) })
    }

    fn done(code: libc::c_int) -> Result<()> {
        if code == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }
}

/// memmap2, which skips nothing.
#[cfg(not(unix))]
mod others {
    use memmap2::{MmapOptions, MmapRaw};

    use super::{Error, ErrorKind, Result, too_large};

    #[derive(Debug)]
    pub(in super::super) struct Mapping(MmapRaw);

    impl Mapping {
        pub(in super::super) fn new(bytes: usize, _: usize, _: bool) -> Result<Self> {
            if isize::try_from(bytes).is_err() {
                return Err(too_large());
            }
            MmapOptions::new().len(bytes).map_anon().map(|memory| Self(MmapRaw::from(memory)))
        }

        pub(in super::super) fn as_mut_ptr(&self) -> *mut u8 {
            self.0.as_mut_ptr()
        }

        pub(in super::super) fn len(&self) -> usize {
            self.0.len()
        }

        pub(in super::super) fn touch(&mut self) {
            for at in (0..self.len()).step_by(4096) {
                // SAFETY: the byte is in this mapping, which is borrowed exclusively.
                unsafe { self.as_mut_ptr().add(at).write_volatile(0) };
            }
        }

        pub(in super::super) fn lock(&self) -> Result<()> {
            Err(Error::from(ErrorKind::Unsupported))
        }

        pub(in super::super) fn advise_huge_pages(&self, _: bool) {}

        /// # Safety
        /// It does nothing.
        pub(in super::super) unsafe fn decommit(&self, _: usize, _: usize) -> Result<()> {
            Ok(())
        }
    }
}
