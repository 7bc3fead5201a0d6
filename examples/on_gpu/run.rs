//! Runs the parts, one after the other, each in its time.

use std::error::Error;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::args::Args;
use crate::child;
use crate::driver;
use crate::figure::Figure;
use crate::parts::{self, How, PARTS, Part, Scale};
use crate::report::{Entry, Report};
use crate::shared::stop;

/// All parts end in this time, whatever hangs: eight minutes, but for the seconds that killing a part may take.
const ALL: Duration = Duration::from_secs(460);

/// Runs all parts that are asked for, and writes the report after each of them.
///
/// # Errors
/// A name of no part, and a report that cannot be written.
pub fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    args.only.iter().try_for_each(|name| parts::find(name).map(drop))?;
    fs::create_dir_all(&args.out).map_err(|error| format!("{}: {error}", args.out.display()))?;
    let (start, mut report) = (Instant::now(), Report::new(args.small));
    report.write(&args.out)?;
    for part in PARTS.iter().filter(|part| args.only.is_empty() || args.only.iter().any(|name| name == part.name)) {
        let own = Duration::from_secs(part.limit_seconds.min(args.part_seconds.unwrap_or(u64::MAX)));
        let limit = own.min(ALL.saturating_sub(start.elapsed()));
        println!("{}: {}, at most {} s", part.name, part.about, limit.as_secs());
        let part_start = Instant::now();
        let figures = match stop::is_asked() {
            true => Err("stopped by Ctrl-C".to_owned()),
            false => measure(part, args, limit, report.bus()),
        };
        let entry = Entry { name: part.name, about: part.about, seconds: part_start.elapsed().as_secs_f64(), figures };
        println!("{}: {}, {:.1} s", part.name, entry.outcome(), entry.seconds);
        report.push(entry, start.elapsed().as_secs_f64());
        report.write(&args.out)?;
    }
    println!("{} s in all: {}", start.elapsed().as_secs(), args.out.join("on_gpu.md").display());
    Ok(match (stop::is_asked(), report.is_met()) {
        (true, _) => ExitCode::from(stop::EXIT_CODE),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    })
}

/// Runs one part as a process, and returns its figures.
fn measure(part: &Part, args: &Args, limit: Duration, bus: &str) -> Result<Vec<Figure>, String> {
    let (mut command, read) = command(part, args)?;
    let out = args.out.join(format!("{}.out", part.name));
    let log = args.out.join(format!("{}.log", part.name));
    let mut run = || child::output(&mut command, limit, &out, &log);
    let (output, from_driver) = if part.is_watched { driver::watched(bus, run) } else { (run(), Vec::new()) };
    let mut figures = read(&output?)?;
    if figures.is_empty() {
        return Err("it printed no figures".to_owned());
    }
    figures.extend(from_driver);
    Ok(figures)
}

type Read = Box<dyn Fn(&str) -> Result<Vec<Figure>, String>>;

/// Returns the command of a part, and what reads its output.
fn command(part: &Part, args: &Args) -> Result<(Command, Read), String> {
    match part.how {
        How::Program { name, arguments, figures } => {
            let path = args.beside(&format!("{name}{}", std::env::consts::EXE_SUFFIX));
            let mut command = Command::new(path);
            command.args(arguments(args));
            let scale = Scale { small: args.small, gpu_memory: args.gpu_memory.clone() };
            Ok((command, Box::new(move |text| figures(text, &scale).map_err(|error| error.to_string()))))
        }
        How::Own(_) => {
            let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
            command.args(["--part", part.name]).args(args.small.then_some("--small"));
            command.args(args.gpu_memory.iter().map(|budget| format!("--gpu-memory={budget}")));
            Ok((command, Box::new(own_figures)))
        }
    }
}

/// Reads what this program printed with `--part`.
fn own_figures(text: &str) -> Result<Vec<Figure>, String> {
    let array: Vec<Value> = serde_json::from_str(text).map_err(|error| format!("no figures: {error}"))?;
    let read = |json| Figure::from_json(json).ok_or_else(|| format!("no figure: {json}"));
    array.iter().map(read).collect()
}
