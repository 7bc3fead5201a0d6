//! What the device says about itself.

use tensorpool::Backend;

use super::{Scale, open};
use crate::figure::{Figure, Figures};

/// The figure that tells the adapter's place on the bus.
pub const BUS: &str = "PCI bus";

pub fn measure(_: &Scale) -> Figures {
    let gpu = open()?;
    let info = gpu.device().adapter_info();
    let limits = gpu.limits();
    let mut figures = vec![
        Figure::text("name", info.name),
        Figure::text("backend", format!("{:?}", info.backend)),
        Figure::text("device type", format!("{:?}", info.device_type)),
        Figure::text("driver", format!("{} {}", info.driver, info.driver_info).trim()),
        match gpu.memory_bytes() {
            Ok(bytes) => Figure::new("memory that the driver offers", bytes >> 20, "MiB"),
            Err(error) => Figure::text("memory that the driver offers", error.to_string()),
        },
        Figure::new("largest slab", limits.slab.bytes >> 20, "MiB"),
        Figure::new("largest block", limits.block.bytes >> 20, "MiB"),
        Figure::new("alignment of blocks", limits.alignment_bytes, "B"),
        Figure::new("processors", std::thread::available_parallelism()?.get() as u64, ""),
    ];
    if !info.device_pci_bus_id.is_empty() {
        figures.push(Figure::text(BUS, info.device_pci_bus_id));
    }
    Ok(figures)
}
