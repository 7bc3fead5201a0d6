//! No dependency asks for a newer Rust than `rust-version` in `Cargo.toml` says. What the crate itself needs,
//! `scripts/check-rust-version` holds.

use std::process::Command;

use serde_json::Value;

#[test]
fn no_dependency_needs_a_newer_compiler() {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let metadata: Value = serde_json::from_slice(&cargo.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let version = |package: &Value| -> Vec<u32> {
        let text = package["rust_version"].as_str().unwrap_or("0");
        text.split('.').take(2).map(|part| part.parse().expect("a number")).collect()
    };
    let ours = packages.iter().find(|package| package["name"] == "tensorpool").expect("this crate");
    let newer: Vec<String> = packages
        .iter()
        .filter(|package| version(package) > version(ours))
        .map(|package| format!("{} {} needs {}", package["name"], package["version"], package["rust_version"]))
        .collect();
    assert!(newer.is_empty(), "rust-version is {}: {newer:?}", ours["rust_version"]);
}
