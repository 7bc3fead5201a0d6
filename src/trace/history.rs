//! What a recording from elsewhere lacks, in words.

use super::addresses::Lacks;
use super::{HISTORY, TraceBuilder};
use crate::units::{ByteSize, thousands};

/// Says in the header what the history lacks, if anything.
pub(super) fn tell(builder: &mut TraceBuilder, lacks: &Lacks) {
    let blocks = |count: u64| format!("{} block{}", thousands(count), if count == 1 { "" } else { "s" });
    let mut parts = Vec::new();
    if lacks.blocks_before > 0 {
        parts.push(format!("begins with {} alive in {}", ByteSize(lacks.bytes_before), blocks(lacks.blocks_before)));
    }
    if lacks.freed_unseen > 0 {
        parts.push(format!("is cut off: the frees of {} are missing", blocks(lacks.freed_unseen)));
    }
    let allocations_missing = lacks.frees_left_out + lacks.allocated_unseen;
    if allocations_missing > 0 {
        parts.push(format!("is cut off: the allocations of {} are missing", blocks(allocations_missing)));
    }
    if !parts.is_empty() {
        builder.header(HISTORY, &parts.join("; "));
    }
}

/// Says in the header that there is no history at all.
pub(super) fn tell_none(builder: &mut TraceBuilder) {
    builder.header(HISTORY, "is missing: these blocks were alive when the snapshot was taken");
}
