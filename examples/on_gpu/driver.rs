//! What the driver itself tells about the memory of the card: `nvidia-smi`, where there is one.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::child;
use crate::figure::Figure;

/// A driver that hangs is not waited for.
const LIMIT: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(500);

/// Asks the driver how many MiB of the card with this bus identifier are used; of the first card where the identifier is empty.
pub fn used_mib(bus: &str) -> Option<u64> {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=memory.used", "--format=csv,noheader,nounits"]);
    if !bus.is_empty() {
        command.args(["-i", bus]);
    }
    child::short_output(&mut command, LIMIT)?.lines().next()?.trim().parse().ok()
}

/// Runs `work`, and returns beside its result what the driver told before it, meanwhile at most, and after it.
pub fn watched<R>(bus: &str, work: impl FnOnce() -> R) -> (R, Vec<Figure>) {
    let Some(before) = used_mib(bus) else {
        return (work(), vec![Figure::text("the driver's own figures", "no driver figures: nvidia-smi tells none")]);
    };
    let (peak, is_done) = (AtomicU64::new(before), AtomicBool::new(false));
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                peak.fetch_max(used_mib(bus).unwrap_or(0), Ordering::Relaxed);
                thread::sleep(BETWEEN);
            }
        });
        let result = work();
        is_done.store(true, Ordering::Relaxed);
        result
    });
    let mut figures = vec![
        Figure::new("driver: used before", before, "MiB"),
        Figure::new("driver: used at most", peak.load(Ordering::Relaxed), "MiB"),
    ];
    figures.push(match used_mib(bus) {
        Some(after) => Figure::new("driver: used after", after, "MiB"),
        None => Figure::text("driver: used after", "nvidia-smi tells no longer"),
    });
    (result, figures)
}
