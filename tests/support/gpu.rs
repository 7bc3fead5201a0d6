//! A GPU for tests, and what to say when there is none.

use tensorpool::{Config, Gpu, GpuChoice, Pool};

use super::say;

/// A pool on a device of its own, or `None` after saying loudly that `test` was left out.
///
/// # Panics
/// If `TENSORPOOL_REQUIRE_GPU` is set and there is no adapter: `scripts/test` sets it.
pub fn pool(test: &str, config: Config) -> Option<Pool<Gpu>> {
    device(test).map(|gpu| Pool::with_backend(gpu, &config).expect("the pool opens"))
}

/// A fresh device.
///
/// # Panics
/// As [`pool`].
pub fn device(test: &str) -> Option<Gpu> {
    match Gpu::open(&GpuChoice::Any) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            let required = std::env::var_os("TENSORPOOL_REQUIRE_GPU").is_some_and(|value| value != "0");
            assert!(!required, "TENSORPOOL_REQUIRE_GPU is set, and {test} cannot run: {error}");
            say(&format!("LEFT OUT: {test}: {error} (on Debian: apt-get install mesa-vulkan-drivers)"));
            None
        }
    }
}
