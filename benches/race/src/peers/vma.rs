//! AMD's Vulkan Memory Allocator through `vk-mem`: its virtual block, which is its TLSF over offsets alone. The default
//! strategy, and the one that asks for the least memory.

use vk_mem::{
    VirtualAllocation, VirtualAllocationCreateFlags, VirtualAllocationCreateInfo, VirtualBlock, VirtualBlockCreateInfo,
};

use super::{Peer, arena};
use crate::contest::{Contestant, UNIT_BYTES};

struct Vma {
    block: VirtualBlock,
    flags: VirtualAllocationCreateFlags,
}

impl Vma {
    fn open(budget_bytes: u64, flags: VirtualAllocationCreateFlags) -> Option<Self> {
        let info = VirtualBlockCreateInfo { size: budget_bytes, ..Default::default() };
        VirtualBlock::new(info).ok().map(|block| Self { block, flags })
    }
}

impl Drop for Vma {
    fn drop(&mut self) {
        // SAFETY: no allocation is used after this.
        unsafe { self.block.clear() }
    }
}

impl Peer for Vma {
    type Handle = VirtualAllocation;

    fn alloc(&mut self, bytes: u64) -> Option<VirtualAllocation> {
        let info = VirtualAllocationCreateInfo { size: bytes, alignment: UNIT_BYTES, user_data: 0, flags: self.flags };
        // SAFETY: the size is not 0 and the alignment a power of two.
        unsafe { self.block.allocate(info) }.ok().map(|(allocation, _offset)| allocation)
    }

    fn free(&mut self, mut handle: VirtualAllocation) {
        // SAFETY: it is of this block, and freed once, as the handle is given up.
        unsafe { self.block.free(&mut handle) }
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    type Flags = VirtualAllocationCreateFlags;
    vec![
        arena("VMA virtual block", |_, budget_bytes| Vma::open(budget_bytes, Flags::empty())),
        arena("VMA virtual block, least memory", |_, budget_bytes| {
            Vma::open(budget_bytes, Flags::VMA_VIRTUAL_ALLOCATION_CREATE_STRATEGY_MIN_MEMORY_BIT)
        }),
    ]
}
