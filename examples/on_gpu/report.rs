//! The JSON file and the Markdown table.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::child;
use crate::figure::Figure;
use crate::parts;

/// The version of the JSON file's form.
const VERSION: u64 = 1;

/// What one part came to.
pub struct Entry {
    pub name: &'static str,
    pub about: &'static str,
    pub seconds: f64,
    pub figures: Result<Vec<Figure>, String>,
}

impl Entry {
    /// Returns what came of it in a few words.
    pub fn outcome(&self) -> String {
        match &self.figures {
            Err(why) => format!("failed: {why}"),
            Ok(figures) => match figures.iter().filter(|figure| figure.met == Some(false)).count() {
                0 => format!("{} figures", figures.len()),
                unmet => format!("{} figures, {unmet} of them not as they must be", figures.len()),
            },
        }
    }

    fn is_met(&self) -> bool {
        self.figures.as_ref().is_ok_and(|figures| figures.iter().all(|figure| figure.met != Some(false)))
    }

    fn json(&self) -> Value {
        let figures: Vec<Value> = self.figures.iter().flatten().map(Figure::to_json).collect();
        let failed = self.figures.as_ref().err();
        json!({ "part": self.name, "about": self.about, "seconds": self.seconds, "failed": failed, "figures": figures })
    }
}

/// All parts so far.
pub struct Report {
    small: bool,
    date: String,
    seconds: f64,
    entries: Vec<Entry>,
}

impl Report {
    pub fn new(small: bool) -> Self {
        let date = child::short_output(Command::new("date").args(["-u", "+%FT%TZ"]), Duration::from_secs(2));
        let date = date.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned());
        Self { small, date, seconds: 0.0, entries: Vec::new() }
    }

    /// Adds a part, so many seconds after the start.
    pub fn push(&mut self, entry: Entry, seconds: f64) {
        self.entries.push(entry);
        self.seconds = seconds;
    }

    /// Returns whether every part has figures, and each is as it must be.
    pub fn is_met(&self) -> bool {
        self.entries.iter().all(Entry::is_met)
    }

    /// Returns the adapter's place on the bus, or nothing where it is not known.
    pub fn bus(&self) -> &str {
        self.adapter()
            .iter()
            .find(|figure| figure.name == parts::BUS)
            .and_then(|figure| figure.value.as_str())
            .unwrap_or("")
    }

    fn adapter(&self) -> &[Figure] {
        let entry = self.entries.iter().find(|entry| entry.name == parts::ADAPTER);
        entry.and_then(|entry| entry.figures.as_ref().ok()).map_or(&[], Vec::as_slice)
    }

    /// Writes both files. A file is whole, or it is as it was.
    ///
    /// # Errors
    /// What the system says of a file.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let json = format!("{:#}\n", self.json());
        for (name, text) in [("on_gpu.json", json), ("on_gpu.md", self.markdown())] {
            let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
            let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
            written.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let adapter: serde_json::Map<String, Value> =
            self.adapter().iter().map(|figure| (figure.name.clone(), figure.value.clone())).collect();
        json!({
            "version": VERSION, "tensorpool": env!("CARGO_PKG_VERSION"), "date": self.date, "small": self.small,
            "seconds": self.seconds, "adapter": adapter,
            "parts": self.entries.iter().map(Entry::json).collect::<Vec<_>>(),
        })
    }

    fn markdown(&self) -> String {
        let name = self.adapter().iter().map(Figure::shown).next().unwrap_or_else(|| "unknown adapter".to_owned());
        let sizes = if self.small { ", small sizes: figures that depend on time are not judged" } else { "" };
        let mut text = format!("{name}, tensorpool {}, {}{sizes}\n\n", env!("CARGO_PKG_VERSION"), self.date);
        text += "| part | figure | value | must | met |\n|---|---|---:|---|---|\n";
        // Writing to a string does not fail.
        for entry in &self.entries {
            match &entry.figures {
                Ok(figures) => figures.iter().for_each(|figure| {
                    let must = figure.must.as_deref().unwrap_or("");
                    let met = match figure.met {
                        Some(true) => "yes",
                        Some(false) => "no",
                        None if figure.must.is_some() => "not judged",
                        None => "",
                    };
                    let cells = [entry.name, &figure.name, &figure.shown(), must, met].map(cell);
                    let _ = writeln!(text, "| {} |", cells.join(" | "));
                }),
                Err(why) => {
                    let _ = writeln!(text, "| {} | {} | failed: {} | | no |", entry.name, cell(entry.about), cell(why));
                }
            }
        }
        text
    }
}

/// Returns a text that ends no cell and no line.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
