//! What goes to standard output: a table for people or, with `--json`, one object a line.

use std::io::Write;

use tensorpool::ByteSize;

use crate::args::Args;
use crate::failure::Failure;
use crate::shared::print::{self, Column};

/// One file's plan, in bytes.
pub struct Row {
    pub file: String,
    pub buffers: usize,
    pub load: u64,
    pub height: u64,
    pub gap: u64,
    pub proved: bool,
    pub seconds: f64,
}

pub struct Table {
    json: bool,
    is_shown: bool,
    table: print::Table,
}

impl Table {
    /// A table for these files, which is not shown where offsets go to standard output.
    pub fn new(args: &Args, is_shown: bool) -> Self {
        let column = |name, width, rank| Column { names: ["", name], width, rank };
        let columns = vec![
            column("buffers", 8, 2),
            column("load", 11, 1),
            column("height", 11, 0),
            column("gap", 8, 0),
            column("proved", 6, 3),
            column("seconds", 8, 4),
        ];
        let names = args.files.iter().map(|file| file.display().to_string().chars().count());
        let longest = names.max().unwrap_or(0).max("file".len());
        Self { json: args.json, is_shown, table: print::Table::new("file", longest, columns, print::columns()) }
    }

    pub fn head(&self) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.line(&self.table.head()) }
    }

    pub fn row(&self, row: &Row) -> Result<(), Failure> {
        let Row { file, buffers, load, height, gap, proved, seconds } = row;
        if self.json {
            let file = serde_json::Value::from(file.as_str());
            return self.line(&format!(
                r#"{{"file":{file},"buffers":{buffers},"load":{load},"height":{height},"gap":{gap},"proved":{proved},"seconds":{seconds:.6}}}"#
            ));
        }
        let percent = if *load == 0 { 0.0 } else { 100.0 * *gap as f64 / *load as f64 };
        let cells = [
            buffers.to_string(),
            ByteSize(*load).to_string(),
            ByteSize(*height).to_string(),
            format!("{percent:.3}%"),
            if *proved { "yes" } else { "no" }.to_owned(),
            format!("{seconds:.3}"),
        ];
        self.line(&self.table.row(file, &cells))
    }

    /// As `println!`, but a closed pipe is an error and no panic.
    fn line(&self, line: &str) -> Result<(), Failure> {
        if !self.is_shown {
            return Ok(());
        }
        writeln!(std::io::stdout().lock(), "{line}").map_err(|error| Failure::of_output(&error))
    }
}
