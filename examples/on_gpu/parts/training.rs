//! Training on the GPU, by `train_mlp`.

use serde_json::Value;

use super::Scale;
use crate::args::Args;
use crate::figure::{Figure, Figures};

/// Test accuracy after ten epochs with the default settings is 95.7% on the host.
const ACCURACY_LEAST: f64 = 0.945;
/// A guess is right once in ten times.
const ACCURACY_LEAST_SMALL: f64 = 0.5;

pub fn arguments(args: &Args) -> Vec<String> {
    let data = args.beside("data").to_string_lossy().into_owned();
    let steps: &[&str] = if args.small { &["--steps", "40"] } else { &["--epochs", "10"] };
    ["--device", "gpu", "--json", "--data", &data].iter().chain(steps).map(|text| (*text).to_owned()).collect()
}

/// Reads the events that the program printed, one a line.
pub fn figures(output: &str, scale: &Scale) -> Figures {
    let events: Vec<Value> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let end = events.iter().find(|event| event["event"] == "end").ok_or("train_mlp printed no end")?;
    let number = |key: &str| end[key].as_u64().ok_or_else(|| format!("train_mlp printed no {key}"));
    let accuracy = end["test_accuracy"].as_f64().ok_or("train_mlp printed no accuracy")?;
    let median = end["step_median_ms"].as_f64().ok_or("train_mlp printed no time of a step")?;
    let mut figures = vec![
        Figure::new("test accuracy", accuracy, "").at_least(scale.of(ACCURACY_LEAST, ACCURACY_LEAST_SMALL), true),
        Figure::new("steps", number("steps")?, ""),
        Figure::new("median step", median, "ms"),
        Figure::new("the pool's peak: live", number("live_peak_bytes")?, "B"),
        Figure::new("the pool's peak: reserved", number("reserved_peak_bytes")?, "B").within(number("budget_bytes")?),
    ];
    for (name, key) in [("wgpu: allocated", "wgpu_allocated_bytes"), ("wgpu: reserved", "wgpu_reserved_bytes")] {
        figures.push(match end[key].as_u64() {
            Some(bytes) => Figure::new(name, bytes, "B"),
            None => Figure::text(name, "wgpu does not tell on this device"),
        });
    }
    Ok(figures)
}
