//! Reads the sources and holds the table of layers: who may name whom, where `unsafe` and `wgpu::` may stand, and that
//! every shader has its twin.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers in order: each may use only those before it.
const LAYERS: [&str; 11] =
    ["units", "sync", "error", "space", "plan", "backend", "pool", "open", "tensor", "trace", "nn"];

/// Stricter than the order: what a layer may name at all.
const ONLY: [(&str, &[&str]); 4] = [("units", &[]), ("sync", &[]), ("error", &["units"]), ("space", &["units"])];

/// And what it must not, although it comes before.
const NEVER: [(&str, &[&str]); 2] = [("plan", &["space", "backend", "pool"]), ("trace", &["open", "tensor"])];

const WGPU: [&str; 4] = ["src/backend/gpu/", "src/open.rs", "src/tensor/gpu.rs", "src/nn/gpu.rs"];
const UNSAFE: [&str; 3] = ["src/backend/host.rs", "src/backend/host/mapping.rs", "src/backend/gpu/memory.rs"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below `folder`, relative to the root.
fn sources(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

/// The code of a file: no comments, and nothing after the tests begin.
fn code(file: &str) -> String {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let code = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    match code.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => code[..tests].to_owned(),
        None => code,
    }
}

fn layer_of(file: &str) -> Option<&str> {
    let name = Path::new(file).strip_prefix("src").ok()?.components().next()?.as_os_str().to_str()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != "lib").then_some(name).map(|name| {
        LAYERS
            .iter()
            .find(|layer| **layer == name)
            .copied()
            .unwrap_or_else(|| panic!("{file} is in no layer of the table: {LAYERS:?}"))
    })
}

/// Modules that a text names: `crate::name` and the names in `use crate::{...}`.
fn names(code: &str) -> Vec<&str> {
    let word = |text: &str| text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    code.split("crate::").skip(1).filter(|rest| !rest.starts_with('$')).map(|rest| &rest[..word(rest)]).collect()
}

#[test]
fn every_layer_uses_only_those_before_it() {
    let mut edges = 0;
    for file in sources("src") {
        let Some(layer) = layer_of(&file) else { continue };
        let place = LAYERS.iter().position(|other| *other == layer).unwrap();
        for name in names(&code(&file)) {
            let target = LAYERS
                .iter()
                .position(|other| *other == name)
                .unwrap_or_else(|| panic!("{file} names crate::{name}: it should name the layer that {name:?} is in"));
            edges += 1;
            assert!(target <= place, "{file} names {name}, which comes after {layer}");
            let only = ONLY.iter().find(|(of, _)| *of == layer);
            assert!(
                target == place || only.is_none_or(|(_, only)| only.contains(&name)),
                "{file} names {name}, and {layer} must not"
            );
            let never = NEVER.iter().find(|(of, _)| *of == layer);
            assert!(never.is_none_or(|(_, never)| !never.contains(&name)), "{file} names {name}, and {layer} must not");
        }
    }
    assert!(edges > 50, "only {edges} uses found: the test reads the wrong thing");
}

#[test]
fn wgpu_and_unsafe_stand_only_where_they_may() {
    let mut seen = (0, 0);
    for file in sources("src") {
        let code = code(&file);
        if code.contains("wgpu::") {
            assert!(WGPU.iter().any(|place| file.starts_with(place)), "{file} names wgpu");
            seen.0 += 1;
        }
        let words = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        if words.clone().any(|word| word == "unsafe") {
            assert!(UNSAFE.contains(&file.as_str()), "{file} is unsafe");
            seen.1 += 1;
        }
    }
    assert!(seen.0 >= 4 && seen.1 == UNSAFE.len(), "{seen:?}");
    // The pool knows no backend by name.
    for file in sources("src/pool") {
        let code = code(&file);
        for name in ["Host", "Gpu", "Tensor"] {
            let named = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == name);
            assert!(!named, "{file} names {name}");
        }
    }
}

#[test]
fn every_shader_has_a_host_twin() {
    // The copy between ranges of one buffer has `copy_from_slice`, the fill that of `Host`, and the tiled product the same
    // twin as the plain one.
    let without = ["copy", "fill", "matmul_tiled"];
    let mut twins = 0;
    for entry in fs::read_dir(root().join("shaders")).unwrap() {
        let path = entry.unwrap().path();
        let operation = path.file_stem().unwrap().to_str().unwrap();
        let shader = fs::read_to_string(&path).unwrap();
        let bindings = shader.matches("@binding(").count();
        assert_eq!(bindings, shader.matches("var<storage, read_write>").count(), "{operation}: all are read_write");
        if without.contains(&operation) {
            continue;
        }
        let twin = fs::read_to_string(root().join(format!("src/nn/{operation}.rs"))).unwrap();
        let signature =
            twin.split(&format!("pub fn {operation}(")).nth(1).unwrap_or_else(|| panic!("no {operation}()"));
        let arguments = signature.split(')').next().unwrap().matches(':').count();
        assert_eq!(arguments, bindings, "{operation}: the twin's arguments are the shader's bindings");
        twins += 1;
    }
    assert!(twins >= 11, "{twins}");
}
