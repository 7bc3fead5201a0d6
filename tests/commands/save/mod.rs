//! `train_mlp --save` and `--resume`: a training that goes on is the training that was never stopped.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tensorpool::Host;
use tensorpool::nn::{Allocator, Optimizer, Settings, StepKind, needs};

use crate::train_mlp::{Folder, Run};

mod broken;
#[cfg(unix)]
mod interrupted;

const OPTIMIZERS: [(&str, Optimizer); 3] =
    [("sgd", Optimizer::Sgd), ("momentum", Optimizer::MOMENTUM), ("adam", Optimizer::ADAM)];

/// The loss of each step as its bits, by the step's number.
fn losses(runs: &[&Run]) -> Vec<(u64, u64)> {
    let events = runs.iter().flat_map(|run| run.events_named("step"));
    events.map(|step| (step["step"].as_u64().unwrap(), step["loss"].as_f64().unwrap().to_bits())).collect()
}

/// What the end of a run says but for its times and for its plans, which begin anew.
#[track_caller]
fn end(run: &Run) -> Value {
    let mut end = run.end();
    let fields = end.as_object_mut().unwrap();
    for key in ["seconds", "step_median_ms", "planned_peak_bytes"] {
        assert!(fields.remove(key).is_some(), "{key}");
    }
    end
}

/// A file of a folder.
fn file(folder: &Folder, name: &str) -> PathBuf {
    folder.0.join(name)
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Trains in one go, and in parts that end in the middle of an epoch, at its end, in the next one, and at the end of all. Every part
/// has the smallest budget.
fn parts_are_the_whole(name: &str, device: &str, way: &str, epochs: u64, stops: &[u64]) {
    let folder = Folder::new(name);
    let (whole, parts) = (file(&folder, "whole"), file(&folder, "parts"));
    let run = |args: &str| Run::with(&["--device", device], &format!("--json --log-every 1 {args}")).succeeds();
    let expected = run(&format!("{way} --epochs {epochs} --save {}", whole.display()));
    let mut runs = Vec::new();
    for steps in stops {
        let save = format!("--save {}", parts.display());
        let from = if runs.is_empty() { way.to_owned() } else { format!("--resume {}", parts.display()) };
        runs.push(run(&format!("{from} {save} --steps {steps}")));
    }
    runs.push(run(&format!("--resume {0} --save {0} --epochs {epochs}", parts.display())));
    let parts_of: Vec<&Run> = runs.iter().collect();
    assert_eq!(losses(&parts_of), losses(&[&expected]), "{way}");
    assert_eq!(fs::read(&parts).unwrap(), fs::read(&whole).unwrap(), "{way}");
    let last = runs.last().unwrap();
    assert_eq!(end(last), end(&expected), "{way}");
    assert_eq!(last.events_named("epoch").last(), expected.events_named("epoch").last(), "{way}");
    assert_eq!(last.events_named("resume"), [json!({"event": "resume", "steps": stops.last().unwrap()})]);
    assert_eq!(names(&folder.0), ["parts", "whole"].map(str::to_owned).into(), "{way}: no other file stays");
    for run in &runs {
        assert_eq!(run.stderr, "");
        for peak in ["live_peak_bytes", "reserved_peak_bytes", "budget_bytes"] {
            assert_eq!(run.end()[peak], expected.end()[peak], "{way}: {peak}");
        }
    }
}

#[test]
fn parts_are_the_whole_for_every_optimizer_step_and_allocator() {
    for (optimizer, rule) in OPTIMIZERS {
        for (step, allocator) in [
            (StepKind::Frugal, Allocator::Pool),
            (StepKind::Ordinary, Allocator::Pool),
            (StepKind::Ordinary, Allocator::Naive),
        ] {
            let settings =
                Settings { widths: vec![784, 24, 10], batch: 200, optimizer: rule, learning_rate: 0.1, seed: 1 };
            let budget = needs(&Host, &settings, step, allocator).unwrap().budget_bytes;
            let way =
                format!("--hidden 24 --batch 200 --optimizer {optimizer} --seed 5 --budget {budget} --step {step}");
            let way = format!("{way} --allocator {allocator}");
            // The allocator is no part of the training: it goes on with the pool.
            if allocator == Allocator::Naive {
                continue_with_the_pool(&way);
            } else {
                parts_are_the_whole(&format!("save-{optimizer}-{step}"), "host", &way, 3, &[13, 40, 67]);
            }
        }
    }
}

/// A training with one buffer a tensor, which goes on in the pool, without a plan, and somewhere else.
fn continue_with_the_pool(way: &str) {
    let folder = Folder::new("save-naive");
    let run = |args: &str| Run::host(&format!("--json --log-every 1 {args}")).succeeds();
    let (first, last) = (file(&folder, "first"), file(&folder, "last"));
    let naive = run(&format!("{way} --steps 13 --save {}", first.display()));
    let pool =
        run(&format!("--resume {} --steps 20 --plan off --budget 9MiB --save {}", first.display(), last.display()));
    assert_eq!((&pool.events()[0]["allocator"], &pool.events()[0]["step"]), (&"pool".into(), &"ordinary".into()));
    assert_eq!(losses(&[&naive, &pool]), losses(&[&run(&format!("{way} --steps 20"))]));
    assert_eq!(names(&folder.0), ["first", "last"].map(str::to_owned).into());
}

/// What is not given is the saved training's: also the epochs, where only steps are given, which are then the most there are.
#[test]
fn given_steps_leave_the_epochs_as_they_were() {
    let folder = Folder::new("save-length");
    let path = file(&folder, "length.safetensors");
    let end = |args: &str| Run::host(&format!("--json {args} {}", path.display())).succeeds().end()["steps"].clone();
    assert_eq!(end("--hidden 12 --epochs 11 --steps 3 --save"), 3);
    assert_eq!(end("--steps 650 --resume"), 650);
    assert_eq!(end("--epochs 1 --resume"), 62);
}

/// A file that the user has kept from others stays so.
#[cfg(unix)]
#[test]
fn a_save_keeps_the_files_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("save-mode");
    let path = saved(&folder, "");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    saved(&folder, "");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A training of few steps, saved.
fn saved(folder: &Folder, args: &str) -> PathBuf {
    let path = file(folder, "saved.safetensors");
    Run::host(&format!("--hidden 12 --steps 3 --save {} {args}", path.display())).succeeds();
    path
}

#[test]
fn the_file_is_one_of_tensors() {
    let folder = Folder::new("save-format");
    let bytes = fs::read(saved(&folder, "--optimizer adam")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut found: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
    found.sort_unstable();
    let mut expected = Vec::new();
    for (layer, [inputs, outputs]) in [[784, 12], [12, 10]].into_iter().enumerate() {
        for (kind, shape) in [("weight", vec![inputs, outputs]), ("bias", vec![outputs])] {
            let parameter = format!("layers.{layer}.{kind}");
            let state = ["exp_avg", "exp_avg_sq"].map(|what| format!("optimizer.{parameter}.{what}"));
            for name in [parameter].into_iter().chain(state) {
                let tensor = tensors.tensor(&name).unwrap();
                assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, shape.as_slice()), "{name}");
                let values = tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
                let largest = values.fold(0.0, |largest: f32, value| largest.max(value.abs()));
                assert!(largest > 0.0 && largest < 1.0, "{name}: {largest}");
                expected.push(name);
            }
        }
    }
    expected.sort_unstable();
    assert_eq!(found, expected);
    let texts = header.metadata().as_ref().unwrap();
    for (key, text) in [("hidden", "12"), ("optimizer", "adam"), ("lr", "0.001"), ("steps_done", "3"), ("seed", "1")] {
        assert_eq!(texts[key], text, "{key}");
    }
}

/// What is given and differs is refused, each by name; what is not given is the file's.
#[test]
fn options_are_the_files() {
    let folder = Folder::new("save-options");
    let args = "--batch 64 --optimizer sgd --lr 0.25 --seed 9 --step ordinary --epochs 20 --budget 7MiB";
    let path = saved(&folder, args).display().to_string();
    let given = "--hidden 12,13 --batch 128 --optimizer momentum --lr 0.2 --seed 1 --step frugal";
    let run = Run::host(&format!("--resume {path} --json {given}"));
    let error = &run.events()[0];
    assert_eq!((run.code, &error["kind"]), (Some(1), &"settings".into()), "{error}");
    let differences = "--hidden 12 (not 12,13), --batch 64 (not 128), --optimizer sgd (not momentum), --lr 0.25 (not 0.2), \
                       --seed 9 (not 1), --step ordinary (not frugal)";
    assert_eq!(error["message"], format!("{path}: it goes on only as it began: {differences}"));

    // The same values are no difference, however they are written.
    let same = Run::host(&format!("--resume {path} --lr 2.5e-1 --batch 64 --seed 9 --json --steps 5")).succeeds();
    assert_eq!((&same.events()[0]["budget_bytes"], &same.events()[0]["step"]), (&(7 << 20).into(), &"ordinary".into()));
    assert_eq!(same.end()["steps"], 5);
    let text = Run::host(&format!("--resume {path} --epochs 1")).succeeds().stdout;
    for part in
        ["model: 784-12-10", "batch 64, sgd at 0.25", "goes on after 3 steps", " after 125 steps, 122 of them now"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }

    // Where the budget is too small, only what may change is listed.
    let run = Run::host(&format!("--resume {path} --budget 10KiB --allocator naive"));
    assert!(run.code == Some(3) && run.stderr.contains("it works with --budget"), "{}", run.stderr);
    assert!(!run.stderr.contains("--batch") && !run.stderr.contains("--hidden"), "{}", run.stderr);

    let small = Folder::small("save-other-images");
    let run = Run::on_data(&small.0, &format!("--resume {path} --json"));
    let message = run.events()[0]["message"].as_str().unwrap().to_owned();
    assert!(run.code == Some(1) && message.contains("--data") && message.contains("8000 + 2000 images"), "{message}");
    let run = Run::host(&format!("--resume {path} --json --steps 2"));
    let message = run.events()[0]["message"].as_str().unwrap().to_owned();
    assert!(run.code == Some(1) && message.contains("has done 3 steps"), "{message}");
}

/// A file that has all steps is tested again, and no step is done.
#[test]
fn nothing_is_left_of_a_training_that_is_complete() {
    let folder = Folder::new("save-complete");
    let path = saved(&folder, "");
    let before = fs::read(&path).unwrap();
    let first = Run::host("--hidden 12 --steps 3 --json").succeeds();
    let again = Run::host(&format!("--resume {0} --save {0} --json --log-every 1", path.display())).succeeds();
    assert_eq!(losses(&[&again]), []);
    for field in ["steps", "loss", "test_accuracy", "stopped"] {
        assert_eq!(again.end()[field], first.end()[field], "{field}");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    let text = Run::host(&format!("--resume {}", path.display())).succeeds().stdout;
    assert!(text.contains(" after 3 steps, 0 of them now,") && !text.contains("a step: median"), "{text}");
}

#[cfg(feature = "gpu")]
mod gpu {
    use super::*;
    use crate::support::gpu;

    #[test]
    fn parts_are_the_whole_on_the_gpu_too() {
        let Some(device) = gpu::device("parts_are_the_whole_on_the_gpu_too") else { return };
        let frugal = OPTIMIZERS.map(|optimizer| (optimizer, StepKind::Frugal));
        for ((optimizer, rule), step) in frugal.into_iter().chain([(OPTIMIZERS[2], StepKind::Ordinary)]) {
            let settings =
                Settings { widths: vec![784, 24, 10], batch: 400, optimizer: rule, learning_rate: 0.1, seed: 1 };
            let budget = needs(&device, &settings, step, Allocator::Pool).unwrap().budget_bytes;
            let way = format!("--hidden 24 --batch 400 --optimizer {optimizer} --budget {budget} --step {step}");
            parts_are_the_whole(&format!("save-gpu-{optimizer}-{step}"), "gpu", &way, 2, &[7, 25]);
        }
    }

    /// A training may move to another device: it says that its losses differ.
    #[test]
    fn a_training_moves_to_another_device() {
        if gpu::device("a_training_moves_to_another_device").is_none() {
            return;
        }
        let folder = Folder::new("save-moved");
        let path = saved(&folder, "").display().to_string();
        let args = format!("--resume {path} --json --log-every 1 --steps 6");
        let stays = Run::with(&[], &args).succeeds();
        assert_eq!((&stays.events()[0]["device"], stays.stderr.as_str()), (&"host".into(), ""));
        let moves = Run::with(&["--device", "gpu"], &args).succeeds();
        assert_eq!(moves.events()[0]["device"], "gpu");
        assert!(moves.stderr.starts_with("saved on host, goes on on "), "{}", moves.stderr);
        for (moved, stayed) in moves.events_named("step").iter().zip(stays.events_named("step")) {
            let [moved, stayed] = [moved, &stayed].map(|step| step["loss"].as_f64().unwrap());
            assert!((moved - stayed).abs() < 1e-3, "{moved} {stayed}");
        }
    }
}
