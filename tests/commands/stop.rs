//! Ctrl-C and readers that leave: what is kept, what is said, and what stays on the terminal.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use tensorpool::trace::{Event, Trace};

use crate::program;
use crate::replay::file;
use crate::support::LONG;

/// A command that runs. It is killed if the test ends before it does.
pub(crate) struct Running {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

/// How a command ended: its exit code, what it had still to say on standard output, and all of standard error.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        // Without the variable a layer of Mesa's writes to standard error. Standard input stays open.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("NODEVICE_SELECT", "1");
        let mut child = command.spawn().expect("the command starts");
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdout }
    }

    pub(crate) fn example(name: &str, args: &[&str]) -> Self {
        Self::start(Command::new(program(name)).args(args))
    }

    /// Reads up to this text, and returns what came before it.
    #[track_caller]
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let (stdout, mut read) = (self.stdout.as_mut().unwrap(), Vec::new());
        let last = *text.as_bytes().last().unwrap();
        while !read.ends_with(text.as_bytes()) {
            let more = stdout.read_until(last, &mut read).unwrap();
            assert!(more > 0, "it ended before {text:?}: {}", String::from_utf8_lossy(&read));
        }
        read.truncate(read.len() - text.len());
        String::from_utf8(read).expect("the output is text")
    }

    /// Closes its standard output, as `head` does when it has enough.
    pub(crate) fn leave(&mut self) {
        self.stdout = None;
    }

    fn interrupt(&self) {
        self.signal("INT");
    }

    pub(crate) fn signal(&self, signal: &str) {
        send(signal, &self.child.id().to_string());
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> Ended {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        if let Some(pipe) = &mut self.stdout {
            pipe.read_to_string(&mut stdout).unwrap();
        }
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Ended { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal; Ctrl-C is `INT`.
fn send(signal: &str, id: &str) {
    let status = Command::new("kill").args(["-s", signal, id]).status();
    assert!(status.expect("kill starts").success());
}

/// A path that goes with the test.
struct Gone(PathBuf);

impl Gone {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("stop-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("the path is text")
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A training that does not end by itself.
const ENDLESS: [&str; 8] = ["--device", "host", "--hidden", "16", "--epochs", "1000000000", "--log-every", "1"];

fn steps(trace: &Trace) -> usize {
    trace.events().iter().filter(|event| matches!(event, Event::Step { .. })).count()
}

#[test]
fn training_ends_after_its_step_with_a_summary_and_a_whole_trace() {
    let path = Gone::new("trained.trace.gz");
    let mut run = Running::example("train_mlp", &[&ENDLESS[..], &["--json", "--trace", path.text()]].concat());
    run.read_until(r#""step":100,"#);
    run.interrupt();
    let Ended { code, stdout, stderr } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(130), ""), "{stdout}");
    // The first line has begun already.
    let events: Vec<Value> = stdout.lines().skip(1).map(|line| serde_json::from_str(line).expect(line)).collect();
    let (end, others) = events.split_last().expect("there is a summary");
    let last_step =
        others.iter().rfind(|event| event["event"] == "step").map_or(100, |event| event["step"].as_u64().unwrap());
    assert_eq!((&end["event"], &end["stopped"], &end["steps"]), (&"end".into(), &true.into(), &last_step.into()));
    assert!(end["loss"].as_f64().is_some_and(|loss| loss > 0.0), "{end}");
    let trace = &Trace::read(&path.0).unwrap()[0];
    assert_eq!(
        (steps(trace) as u64, Value::from(trace.live_peak_bytes())),
        (last_step, end["live_peak_bytes"].clone())
    );
}

/// `timeout` signals its child, and then the child's group.
#[test]
fn two_signals_of_one_stop_are_one() {
    let path = Gone::new("twice.trace.gz");
    let mut run = Running::example("train_mlp", &[&ENDLESS[..], &["--trace", path.text()]].concat());
    run.read_until("\nstep ");
    run.signal("TERM");
    run.interrupt();
    let Ended { code, stdout, stderr } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(130), ""), "{stdout}");
    assert!(stdout.contains("\nstopped by Ctrl-C"), "{stdout}");
    assert!(steps(&Trace::read(&path.0).unwrap()[0]) > 0);
}

#[test]
fn people_see_the_summary_of_a_training_that_is_stopped() {
    let mut run = Running::example("train_mlp", &ENDLESS);
    run.read_until("\nstep ");
    run.interrupt();
    let Ended { code, stdout, stderr } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(130), ""), "{stdout}");
    for part in ["\nstopped by Ctrl-C", " steps in ", "\nthe four ways", "\nthe pool at the end", "\nprocess: peak"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}

#[test]
fn a_reader_that_leaves_costs_no_trace() {
    let path = Gone::new("left.trace.gz");
    let mut run = Running::example("train_mlp", &[&ENDLESS[..], &["--trace", path.text()]].concat());
    run.read_until("\nstep ");
    run.leave();
    let Ended { code, stderr, .. } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(steps(&Trace::read(&path.0).unwrap()[0]) > 0);
}

/// The trace is a pipe without a reader: it cannot be opened, so that no step is ever finished.
#[test]
fn the_second_ctrl_c_does_not_wait() {
    let path = Gone::new("never-read.trace");
    assert!(Command::new("mkfifo").arg(&path.0).status().expect("mkfifo starts").success());
    let mut run = Running::example("train_mlp", &[&ENDLESS[..], &["--trace", path.text()]].concat());
    run.read_until("\nneeds");
    let start = std::time::Instant::now();
    // Those within half a second count as one.
    while run.child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < LONG, "it does not stop");
        run.interrupt();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let Ended { code, stdout, stderr } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(130), ""));
    assert!(!stdout.contains("\nstep "), "{stdout}");
}

#[test]
fn a_soak_ends_with_its_totals_or_with_its_reader() {
    let mut run = Running::example("soak", &["--threads", "1", "--json", "--what", "space"]);
    run.read_until("\n");
    run.leave();
    let Ended { code, stderr, .. } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));

    let mut run = Running::example("soak", &["--threads", "1", "--what", "space"]);
    run.read_until("\n");
    run.interrupt();
    let Ended { code, stdout, stderr } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains(" operations without a difference, "), "{stdout}");
}

#[test]
fn a_soak_that_writes_text_ends_with_its_reader_too() {
    let mut run = Running::example("soak", &["--threads", "1", "--what", "space"]);
    run.read_until("\n");
    run.leave();
    let Ended { code, stderr, .. } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_replay_ends_between_two_pieces_of_work() {
    // A table's first row is out long before its last.
    let (first, rest) = (file("mlp_b128"), file("bert_base_b8_varlen"));
    let mut args = vec!["--min-budget", &first];
    args.extend(std::iter::repeat_n(&*rest, 60));
    let mut run = Running::example("replay", &args);
    run.read_until("\nmlp_b128");
    run.interrupt();
    let Ended { code, stdout, stderr } = run.end();
    assert_eq!((code, stderr.as_str()), (Some(130), "error: stopped\n"), "{stdout}");
    assert!(stdout.ends_with('\n'), "{stdout}");
}

/// A search that has found no plan of the least height after 10,000,000 steps, and may take days.
const LONG_PLAN: [&str; 5] = ["planning/minimalloc/K.1048576.csv", "--align", "4096", "--steps", "1000000000000"];

/// On a terminal of 60 columns, which `script` plays: the bar fits into its line, and nothing of it is left at the end.
#[cfg(target_os = "linux")]
mod terminal {
    use super::*;

    const COLUMNS: usize = 60;

    fn start(name: &str, args: &[&str]) -> Running {
        let quoted: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
        let command = format!(
            "stty cols {COLUMNS} rows 24; echo id $$.; exec '{}' {} >/dev/null",
            program(name).display(),
            quoted.join(" ")
        );
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
        Running::start(script.env("SHELL", "/bin/sh").env("TERM", "xterm").current_dir(env!("CARGO_MANIFEST_DIR")))
    }

    /// What the terminal shows: each draw of a line, without what moves the cursor.
    fn lines(text: &str) -> Vec<String> {
        let mut lines = vec![String::new()];
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '\x1b' => {
                    chars.by_ref().find(char::is_ascii_alphabetic);
                    lines.push(String::new());
                }
                '\r' | '\n' => lines.push(String::new()),
                _ => lines.last_mut().unwrap().push(char),
            }
        }
        lines
    }

    #[track_caller]
    fn check(what: &str, shown: &str) {
        let is_bar = |char: char| "█░⠁⠂⠄⡀⢀⠠⠐⠈".contains(char);
        assert!(shown.contains(is_bar), "{what}: {shown:?}");
        for line in lines(shown) {
            assert!(!line.contains(is_bar) || line.trim_end().chars().count() <= COLUMNS, "{what}: {line:?}");
        }
        let after = shown.rsplit(is_bar).next().unwrap();
        assert!(after.contains("\x1b[2K"), "{what}: {shown:?}");
    }

    #[test]
    fn nothing_of_a_bar_stays() {
        let bert = file("bert_base_b8_varlen");
        let soak = ["--threads", "1", "--what", "space"];
        let replay: Vec<&str> = ["--min-budget"].into_iter().chain(std::iter::repeat_n(&*bert, 60)).collect();
        for (name, args, drawn, code) in [
            ("train_mlp", &ENDLESS[..6], "loss ", 130),
            ("plan", &LONG_PLAN, "0/1", 130),
            ("replay", &replay, "trying ", 130),
            ("soak", &soak, " operations", 0),
        ] {
            let mut run = start(name, args);
            run.read_until("id ");
            let id = run.read_until(".");
            let mut shown = run.read_until(drawn);
            send("INT", &id);
            let ended = run.end();
            shown += &ended.stdout;
            assert_eq!(ended.code, Some(code), "{name}: {shown:?}");
            check(name, &shown);
        }
    }

    #[test]
    fn an_error_leaves_nothing_of_a_bar() {
        let mut run = start("plan", &[LONG_PLAN[0], "no/such.csv", "--steps", "1000"]);
        let Ended { code, stdout, .. } = run.end();
        assert_eq!(code, Some(1));
        assert!(stdout.contains("error: no/such.csv"), "{stdout:?}");
        check("plan", &stdout);
    }
}
