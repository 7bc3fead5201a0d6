//! The bundled traces.

use tensorpool::trace::Trace;

/// Those whose steps are all alike come first.
pub const NAMES: [&str; 14] = [
    "bert_base_b8_s128",
    "gpt2_small_b2_s256",
    "gpt2_small_b4_s256_amp",
    "lenet_b64",
    "mlp_b1024_adam",
    "mlp_b128",
    "resnet18_b16_96",
    "resnet50_b8_160",
    "vit_small_b16_amp",
    "vit_tiny_b16",
    "bert_base_b8_varlen",
    "lstm_lm_varlen",
    "lstm_tagger_packed",
    "resnet18_b16_multiscale",
];

pub fn bundled(name: &str) -> Trace {
    Trace::read(format!("{}/traces/{name}.trace.gz", env!("CARGO_MANIFEST_DIR"))).unwrap().remove(0)
}

pub fn geometric_mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}
