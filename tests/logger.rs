//! A logger that panics: no drop panics for that, and no memory is lost or handed out.
//! The logger is that of the whole process.

#[cfg(feature = "gpu")]
mod support;

use std::cell::Cell;
use std::sync::Once;

use tensorpool::{Config, Pool, Request};

thread_local! { static LOGGED: Cell<u64> = const { Cell::new(0) } }

/// Counts what its thread logs for warnings and errors, and panics.
struct Panicking;

impl log::Log for Panicking {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("tensorpool") && metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LOGGED.set(LOGGED.get() + 1);
            panic!("the logger panics, as the test wants");
        }
    }

    fn flush(&self) {}
}

fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| log::set_logger(&Panicking).unwrap());
    log::set_max_level(log::LevelFilter::Warn);
}

#[test]
fn the_last_handle_goes_although_the_logger_panics() {
    start();
    let pool = Pool::host(Config::new(1 << 16)).unwrap();
    let block = pool.alloc(Request::bytes(100).label("held")).unwrap();
    drop(pool);
    assert_eq!(LOGGED.get(), 1);
    assert_eq!(block.pool().stats().blocks, 1);
}

#[cfg(feature = "gpu")]
#[test]
fn a_loan_that_is_dropped_keeps_its_memory_although_the_logger_panics() {
    start();
    let name = "a_loan_that_is_dropped_keeps_its_memory_although_the_logger_panics";
    let Some(pool) = support::gpu::pool(name, Config::new(1 << 16)) else { return };
    let tensor = pool.zeros::<f32>([64]).unwrap();
    drop(tensor.lend().unwrap());
    assert_eq!(LOGGED.get(), 1);
    drop(tensor);
    assert_eq!(pool.stats().retired_bytes, 256);
}
