//! The examples as programs, and what README promises.

#[path = "../support/mod.rs"]
mod support;

mod budgets;
mod memory;
#[cfg(all(unix, feature = "gpu"))]
mod on_gpu;
mod options;
mod plan;
mod readme;
mod replay;
mod rust_version;
mod save;
#[cfg(unix)]
mod stop;
mod train_mlp;
mod width;

use std::path::{Path, PathBuf};

/// The executable of an example, which cargo builds beside the folder of this test's own.
fn program(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test is a file");
    let profile = test.parent().and_then(Path::parent).expect("the test is in target/PROFILE/deps");
    let program = profile.join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    let hint = "`cargo test` builds it, `cargo test --test commands` alone does not";
    assert!(program.exists(), "{} is not there: {hint}: run `cargo build --example {example}`", program.display());
    program
}
