//! Files that no training goes on from.

use std::fs;

use serde_json::{Value, json};

use super::{file, names, saved};
use crate::train_mlp::{Folder, Run};

/// A file's header as JSON, and its tensors' bytes.
struct Parts {
    header: Value,
    tensors: Vec<u8>,
}

impl Parts {
    fn of(bytes: &[u8]) -> Self {
        let (length, rest) = bytes.split_at(8);
        let (header, tensors) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        Self { header: serde_json::from_slice(header).unwrap(), tensors: tensors.to_vec() }
    }

    fn joined(&self) -> Vec<u8> {
        let header = self.header.to_string().into_bytes();
        [&(header.len() as u64).to_le_bytes()[..], &header, &self.tensors].concat()
    }
}

/// Every broken file is an error with its name and what is wrong, and nothing is changed.
#[test]
fn broken_files_are_errors() {
    let folder = Folder::new("save-broken");
    let whole = fs::read(saved(&folder, "")).unwrap();
    let header_bytes = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let edited = |edit: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::of(&whole);
        edit(&mut parts);
        parts.joined()
    };
    let text = |key: &str, text: &str| edited(&|parts| parts.header["__metadata__"][key] = text.into());
    let without = |key: &str| {
        edited(&|parts| {
            parts.header["__metadata__"].as_object_mut().unwrap().remove(key).unwrap();
        })
    };
    let bias = "layers.1.bias";
    let last = "optimizer.layers.1.weight.momentum_buffer";
    let mut cases = vec![
        ("empty", vec![], "no safetensors file: it has 0 bytes"),
        ("7 bytes", whole[..7].to_vec(), "no safetensors file: it has 7 bytes"),
        ("no header", whole[..8].to_vec(), "no safetensors file: a header of"),
        ("half a header", whole[..8 + header_bytes / 2].to_vec(), "no safetensors file: a header of"),
        ("no tensors", whole[..8 + header_bytes].to_vec(), "bytes, but 0 follow"),
        ("a byte less", whole[..whole.len() - 1].to_vec(), "but"),
        ("a byte more", [&whole[..], &[0]].concat(), "but"),
        ("other bytes", b"PK\x03\x04 this is an archive of another program".to_vec(), "no safetensors file"),
        ("no JSON", [&3u64.to_le_bytes()[..], b"{{{"].concat(), "its header: "),
        ("no UTF-8", [&2u64.to_le_bytes()[..], b"\xff\xfe"].concat(), "its header: "),
        ("huge header", [&u64::MAX.to_le_bytes()[..], &[b'{'; 99]].concat(), "a header of 18446744073709551615 bytes"),
        ("deep", [&4000u64.to_le_bytes()[..], &[b'['; 4000]].concat(), "its header: "),
        ("another's", [&2u64.to_le_bytes()[..], b"{}"].concat(), "was not saved by train_mlp"),
        ("version", text("train_mlp", "2"), "another version, \"2\""),
        ("vast layers", text("hidden", "65000,65000"), "layers.0.weight is F32"),
        ("NaN steps", text("steps_done", "NaN"), "\"steps_done\" \"NaN\": it must be a whole number"),
        ("0 steps", text("steps_done", "0"), "\"steps_done\" \"0\": it must be a whole number from 1"),
        ("most steps", text("steps_done", "18446744073709551615"), "steps with 62 an epoch are not 0 epochs"),
        ("epochs", text("epochs_tested", "1"), "3 steps with 62 an epoch are not 1 epochs"),
        ("most epochs", text("epochs_tested", "18446744073709551615"), "are not 18446744073709551615 epochs"),
        ("NaN loss", text("loss_sum", "NaN"), "\"loss_sum\" \"NaN\": it must be a number"),
        ("hidden", text("hidden", "12,,3"), "\"hidden\" \"12,,3\": it must be a whole number"),
        ("rate", text("lr", "-1"), "\"lr\" \"-1\": it must be a number above 0"),
        ("optimizer", text("optimizer", "lion"), "\"optimizer\" \"lion\""),
        ("other hidden", text("hidden", "13"), "layers.0.weight is F32 [784, 12], and must be F32 [784, 13]"),
        ("fewer state", text("optimizer", "adam"), "it has no tensor optimizer.layers.0.weight.exp_avg"),
        ("more state", text("optimizer", "sgd"), "it has a tensor optimizer.layers.0.bias.momentum_buffer, which"),
        ("more layers", text("hidden", "12,10"), "it has no tensor layers.2.weight"),
        (
            "type",
            edited(&|parts| parts.header[bias]["dtype"] = "I32".into()),
            "layers.1.bias is I32 [10], and must be F32 [10]",
        ),
        (
            "shape",
            edited(&|parts| parts.header[bias]["shape"] = json!([2, 5])),
            "layers.1.bias is F32 [2, 5], and must be F32 [10]",
        ),
        ("size", edited(&|parts| parts.header[bias]["shape"] = json!([11])), "its header: "),
        ("overflow", edited(&|parts| parts.header[bias]["shape"] = json!([u64::MAX, u64::MAX])), "its header: "),
        (
            "renamed",
            edited(&|parts| {
                let tensor = parts.header.as_object_mut().unwrap().remove(last).unwrap();
                parts.header["layers.1.wait"] = tensor;
            }),
            "it has no tensor optimizer.layers.1.weight.momentum_buffer",
        ),
        (
            "one more",
            edited(&|parts| {
                let at = parts.tensors.len();
                parts.header["zz"] = json!({"dtype": "U8", "shape": [4], "data_offsets": [at, at + 4]});
                parts.tensors.extend([0; 4]);
            }),
            "it has a tensor zz, which this training has not",
        ),
        ("offsets", edited(&|parts| parts.header[bias]["data_offsets"] = json!([1, 41])), "its header: "),
    ];
    for key in ["hidden", "batch", "optimizer", "lr", "seed", "step", "epochs", "device", "budget", "data", "loss_sum"]
    {
        cases.push((key, without(key), "its header has no \""));
    }
    let path = file(&folder, "broken.safetensors");
    for (name, bytes, problem) in cases {
        fs::write(&path, &bytes).unwrap();
        let run = Run::with(&[], &format!("--json --resume {0} --save {0}", path.display()));
        assert_eq!(run.code, Some(1), "{name}: {}{}", run.stdout, run.stderr);
        let events = run.events();
        let error = events.last().unwrap();
        let message = error["message"].as_str().unwrap();
        assert_eq!(error["kind"], "file", "{name}: {message}");
        assert!(message.contains("broken.safetensors: ") && message.contains(problem), "{name}: {message}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{name}");
    }
    assert_eq!(names(&folder.0), ["broken.safetensors", "saved.safetensors"].map(str::to_owned).into());
}

/// Parameters that are no numbers are read as they are: the next loss tells.
#[test]
fn a_saved_divergence_diverges() {
    let folder = Folder::new("save-nan");
    let path = saved(&folder, "");
    let mut parts = Parts::of(&fs::read(&path).unwrap());
    parts.tensors.fill(0xff);
    fs::write(&path, parts.joined()).unwrap();
    let run = Run::host(&format!("--json --steps 9 --resume {0} --save {0}", path.display()));
    assert_eq!((run.code, &run.events_named("error")[0]["kind"]), (Some(4), &"diverged".into()), "{}", run.stderr);
    assert_eq!(fs::read(&path).unwrap(), parts.joined(), "the file of the last save stays");
}
