//! What the process's own allocator says: there a peer keeps its books, and the naive one its tensors.

/// Bytes that the program holds of its heap, whoever in it asked for them, C++ included. `None` where glibc is not.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn held_bytes() -> Option<u64> {
    // SAFETY: it reads counters under glibc's own lock.
    let info = unsafe { libc::mallinfo2() };
    Some((info.uordblks + info.hblkhd) as u64)
}

/// Bytes that the program holds of its heap, whoever in it asked for them, C++ included. `None` where glibc is not.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn held_bytes() -> Option<u64> {
    None
}
