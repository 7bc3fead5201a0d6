//! Trainings that are stopped from outside, and saves that fail.

use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::process::Command;

use super::*;
use crate::program;
use crate::stop::{Ended, Running};

/// Ctrl-C comes in the middle: the training goes on with the losses it would have had.
fn goes_on_after(signal: &str) {
    let folder = Folder::new(&format!("save-{signal}"));
    let (whole, parts) = (file(&folder, "whole"), file(&folder, "parts"));
    let way = "--device host --hidden 16 --epochs 1000000000 --json --log-every 1";
    let save = format!("{way} --save {}", parts.display());
    let mut run = Running::example("train_mlp", &save.split(' ').collect::<Vec<_>>());
    let start = run.read_until(r#""step":100,"#) + r#""step":100,"#;
    run.signal(signal);
    let Ended { code, stdout, stderr } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(130), ""), "{stdout}");
    let first = Run { code, stdout: start + &stdout, stderr };
    let steps = first.end()["steps"].as_u64().unwrap();
    let name = parts.display().to_string();
    assert_eq!(first.events().last(), Some(&json!({"event": "save", "file": name, "steps": steps})));

    let args = format!("{way} --steps {}", steps + 80);
    let expected = Run::with(&[], &format!("{args} --save {}", whole.display())).succeeds();
    let last = Run::with(&[], &format!("{args} --resume {name} --save {name}")).succeeds();
    assert_eq!(losses(&[&first, &last]), losses(&[&expected]));
    assert_eq!(end(&last), end(&expected));
    assert_eq!(fs::read(parts).unwrap(), fs::read(whole).unwrap());
}

#[test]
fn ctrl_c_loses_nothing() {
    goes_on_after("INT");
}

#[test]
fn termination_loses_nothing() {
    goes_on_after("TERM");
}

#[test]
fn a_reader_that_leaves_loses_nothing() {
    let folder = Folder::new("save-left");
    let path = file(&folder, "left").display().to_string();
    let args = ["--device", "host", "--hidden", "16", "--log-every", "1", "--epochs", "1000000000", "--save", &path];
    let mut run = Running::example("train_mlp", &args);
    run.read_until("\nstep ");
    run.leave();
    let Ended { code, stderr, .. } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let bytes = fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let steps: u64 = header.metadata().as_ref().unwrap()["steps_done"].parse().unwrap();
    let length = format!("--epochs 1000000000 --steps {}", steps + 5);
    let run = |args: &str| Run::host(&format!("--json --log-every 1 {length} {args}")).succeeds();
    let (all, rest) = (losses(&[&run("--hidden 16")]), losses(&[&run(&format!("--resume {path}"))]));
    assert_eq!(rest, all[steps as usize..]);
}

/// The system refuses to make a file longer than 8 blocks, as it would where the disk is full.
#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let folder = Folder::new("save-full");
    let path = saved(&folder, "");
    let before = fs::read(&path).unwrap();
    let name = path.display();
    let command = format!(
        "trap '' XFSZ; ulimit -f 8; exec '{}' --json --resume '{name}' --save '{name}' --steps 5",
        program("train_mlp").display()
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with(&format!("error: {name}: it cannot be saved: File too large")), "{stderr}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(names(&folder.0), ["saved.safetensors"].map(str::to_owned).into());
}

#[test]
fn only_a_file_is_replaced() {
    let folder = Folder::new("save-kinds");
    let path = saved(&folder, "");
    // What anyone may read of a new file, but for the mask.
    fs::write(file(&folder, "other"), "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&file(&folder, "other")));

    let link = file(&folder, "link");
    symlink("saved.safetensors", &link).unwrap();
    let before = fs::read(&path).unwrap();
    Run::host(&format!("--resume {0} --save {0} --steps 5", link.display())).succeeds();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_ne!(fs::read(&path).unwrap(), before);

    let fifo = file(&folder, "fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for option in ["--save", "--resume"] {
        let run = Run::host(&format!("{option} {} --json", fifo.display()));
        assert_eq!((run.code, run.events().len()), (Some(1), 1), "{}", run.stdout);
        assert!(run.stderr.contains("fifo: it is no regular file"), "{}", run.stderr);
    }
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
}
