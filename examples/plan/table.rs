//! What goes to standard output: a table for people or, with `--json`, one object a line.

use std::io::Write;

use crate::failure::Failure;

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
    pub json: bool,
    pub is_shown: bool,
    pub name_width: usize,
}

impl Table {
    pub fn head(&self) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        let names = ["buffers", "load", "height", "gap", "proved", "seconds"];
        let [buffers, load, height, gap, proved, seconds] = names;
        let (name, width) = ("file", self.name_width);
        self.line(&format!("{name:width$} {buffers:>8} {load:>14} {height:>14} {gap:>8} {proved:>6} {seconds:>8}"))
    }

    pub fn row(&self, row: &Row) -> Result<(), Failure> {
        let Row { file, buffers, load, height, gap, proved, seconds } = row;
        if self.json {
            let file = serde_json::Value::from(file.as_str());
            return self.line(&format!(
                r#"{{"file":{file},"buffers":{buffers},"load":{load},"height":{height},"gap":{gap},"proved":{proved},"seconds":{seconds:.6}}}"#
            ));
        }
        let (width, proved) = (self.name_width, if *proved { "yes" } else { "no" });
        let percent = if *load == 0 { 0.0 } else { 100.0 * *gap as f64 / *load as f64 };
        let gap = format!("{percent:.3}%");
        self.line(&format!("{file:width$} {buffers:>8} {load:>14} {height:>14} {gap:>8} {proved:>6} {seconds:>8.3}"))
    }

    /// As `println!`, but a closed pipe is an error and no panic.
    fn line(&self, line: &str) -> Result<(), Failure> {
        if !self.is_shown {
            return Ok(());
        }
        writeln!(std::io::stdout().lock(), "{line}").map_err(|error| Failure::of_output(&error))
    }
}
