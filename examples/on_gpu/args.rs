//! The command line.

use std::path::{Path, PathBuf};

use clap::Parser;
use tensorpool::Budget;

use crate::shared::cli;

/// Measures the crate on the GPU of this machine, in at most eight minutes, and writes one JSON file and one Markdown table.
#[derive(Clone, Debug, Parser)]
#[command(name = "on_gpu", after_help = NOTES)]
pub struct Args {
    /// Small sizes and few rounds, for a GPU in software: figures that depend on time are not judged
    #[arg(long)]
    pub small: bool,

    /// Folder for on_gpu.json, on_gpu.md and a log of each part
    #[arg(long, default_value = "on_gpu_out", value_name = "DIR")]
    pub out: PathBuf,

    /// Folder of train_mlp, race and data [default: this program's own]
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,

    /// Memory that is filled: bytes, or percent of what the GPU has [default: 90%; 25% where it has the processor's]
    #[arg(long, value_name = "SIZE", value_parser = str::parse::<Budget>)]
    pub gpu_memory: Option<Budget>,

    /// Only these parts, by name
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub only: Vec<String>,

    /// Cut off every part after so many seconds, where its own limit is longer
    #[arg(long, value_name = "N", value_parser = cli::at_least_one)]
    pub part_seconds: Option<u64>,

    /// Run this part in this process, and print its figures as JSON
    #[arg(long, value_name = "NAME", hide = true)]
    pub part: Option<String>,
}

const NOTES: &str = "\
Each part is a process of its own with its own time limit. A part that fails, or is cut off, is a row of the table
and an entry of the JSON, and the next part begins. Ctrl-C ends the part that runs and writes what is there.

Exit codes: 0 all figures are as they must be, 1 a part failed or a figure is not as it must be, 2 wrong usage,
130 stopped by Ctrl-C or SIGTERM.";

impl Args {
    /// Returns the path of a program or folder that came with this program.
    pub fn beside(&self, name: &str) -> PathBuf {
        let own = || std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
        self.programs.clone().or_else(own).unwrap_or_default().join(name)
    }
}
