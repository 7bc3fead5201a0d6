//! cubecl's memory manager, which burn's GPU backends allocate from, called as cubecl's own servers call it: compaction
//! when the manager wants it, and one more attempt after cleaning up. Its storage counts and holds nothing; its cap is
//! the budget, since the manager's own `max_memory` is advice and no bound.

use std::collections::HashMap;
use std::sync::Arc;

use cubecl_ir::MemoryDeviceProperties;
use cubecl_server::logging::ServerLogger;
use cubecl_server::memory_management::relocation::{CopyQueue, RelocationReason, StorageCopy};
use cubecl_server::memory_management::{
    Cleanup, ErrorGraph, ManagedMemoryHandle, MemoryConfiguration, MemoryManagement, MemoryManagementOptions,
    PageUpdate,
};
use cubecl_server::server::{IoError, ServerError};
use cubecl_server::storage::{ComputeStorage, StorageHandle, StorageId, StorageUtilization};

use super::{Peer, device};
use crate::contest::{Contestant, UNIT_BYTES};

/// The largest page: what a device with a binding limit of 256 MiB gives.
const PAGE_BYTES_MAX: u64 = 256 << 20;

/// Bookkeeping only.
struct Storage {
    cap_bytes: u64,
    held_bytes: u64,
    sizes: HashMap<StorageId, u64>,
}

impl ComputeStorage for Storage {
    type Resource = ();

    fn alignment(&self) -> usize {
        UNIT_BYTES as usize
    }

    fn get(&mut self, _: &StorageHandle) -> Result<(), IoError> {
        Ok(())
    }

    fn alloc(&mut self, bytes: u64) -> Result<StorageHandle, IoError> {
        if self.held_bytes + bytes > self.cap_bytes {
            return Err(IoError::OutOfMemory { size: bytes, backtrace: Default::default() });
        }
        let id = StorageId::new();
        self.sizes.insert(id, bytes);
        self.held_bytes += bytes;
        Ok(StorageHandle::new(id, StorageUtilization { offset: 0, size: bytes }))
    }

    fn dealloc(&mut self, id: StorageId) {
        self.held_bytes -= self.sizes.remove(&id).unwrap_or(0);
    }

    fn flush(&mut self) {}

    fn bytes_allocated(&self) -> u64 {
        self.held_bytes
    }
}

/// Copies of a compaction, which take no time here.
struct NoCopies;

impl CopyQueue<Storage> for NoCopies {
    fn wait_device(&mut self) -> Result<(), ServerError> {
        Ok(())
    }

    fn copy(&mut self, _: &mut Storage, _: &StorageCopy) -> Result<(), IoError> {
        Ok(())
    }

    fn wait_copies(&mut self) -> Result<(), ServerError> {
        Ok(())
    }
}

struct Cubecl {
    manager: MemoryManagement<Storage>,
    failures: ErrorGraph,
}

impl Cubecl {
    fn open(budget_bytes: u64, configuration: MemoryConfiguration) -> Self {
        let properties = MemoryDeviceProperties::new(PAGE_BYTES_MAX, UNIT_BYTES).with_max_memory(budget_bytes);
        let storage = Storage { cap_bytes: budget_bytes, held_bytes: 0, sizes: HashMap::new() };
        let manager = MemoryManagement::from_configuration(
            storage,
            &properties,
            configuration,
            Arc::new(ServerLogger::default()),
            MemoryManagementOptions::new("race"),
        );
        Self { manager, failures: ErrorGraph::default() }
    }

    fn reserve(&mut self, bytes: u64) -> Result<ManagedMemoryHandle, IoError> {
        let Self { manager, failures } = self;
        let held_bytes = manager.bytes_allocated();
        if let Some(reason) = manager.relocation_need().reason(|| held_bytes) {
            manager.relocate(&mut NoCopies, reason, failures);
        }
        let error = match manager.reserve(bytes, PageUpdate::Allow, failures) {
            Ok(handle) => return Ok(handle),
            Err(error) => error,
        };
        match error {
            IoError::BufferTooBig { .. } => return Err(error),
            IoError::PageSizesExhausted { .. } => {
                if manager.has_outdated() {
                    manager.relocate(&mut NoCopies, RelocationReason::ArenaFull, failures);
                }
            }
            _ => {
                if manager.has_outdated() {
                    manager.relocate(&mut NoCopies, RelocationReason::Explicit, failures);
                }
                manager.cleanup(Cleanup::Explicit, failures);
            }
        }
        manager.reserve(bytes, PageUpdate::Allow, failures)
    }
}

impl Peer for Cubecl {
    type Handle = ManagedMemoryHandle;

    fn alloc(&mut self, bytes: u64) -> Option<ManagedMemoryHandle> {
        self.reserve(bytes).ok()
    }

    fn free(&mut self, handle: ManagedMemoryHandle) {
        drop(handle);
    }

    fn reserved_bytes(&self) -> Option<u64> {
        Some(self.manager.bytes_allocated())
    }
}

pub fn contestants() -> Vec<Box<dyn Contestant>> {
    vec![
        device("cubecl, adaptive", |_, budget_bytes| Some(Cubecl::open(budget_bytes, MemoryConfiguration::Adaptive))),
        device("cubecl, exclusive pages", |_, budget_bytes| {
            Some(Cubecl::open(budget_bytes, MemoryConfiguration::ExclusivePages))
        }),
    ]
}
