//! What keeps a file from taking all memory, whatever it says of itself.

/// How many times its packed size a file may be unpacked, beside [`UNPACKED_BYTES_FREE`]. Traces come to 10 to 40 times;
/// deflate can do 1,032.
pub(super) const UNPACKED_TIMES_MAX: u64 = 200;

/// What any file may be unpacked.
pub(super) const UNPACKED_BYTES_FREE: u64 = 1 << 20;

/// A longer line is no line of a text file: it would only fill the memory.
pub(super) const LINE_BYTES_MAX: u64 = 1 << 20;
