//! Lifetimes in, offsets out.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use tensorpool::plan::{Lifetimes, Plan};
use tensorpool::trace::{read_csv, write_csv};

use crate::failure::Failure;

/// Reads a file, gzipped or not.
pub fn read(path: &Path) -> Result<Lifetimes<String>, Failure> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| Failure::Wrong(format!("{name}: {error}")))?;
    Ok(read_csv(BufReader::new(file), &name)?)
}

/// Where offsets go.
pub enum Out {
    Standard,
    File(PathBuf),
    Folder(PathBuf),
}

impl Out {
    /// A folder is one that is there, or whose name ends in a slash.
    pub fn new(path: &Path, files: usize) -> Result<Self, Failure> {
        let is_folder = path.is_dir() || path.as_os_str().to_string_lossy().ends_with(std::path::MAIN_SEPARATOR);
        if path == Path::new("-") {
            return Ok(Self::Standard);
        }
        if is_folder {
            std::fs::create_dir_all(path).map_err(|error| Failure::Wrong(format!("{}: {error}", path.display())))?;
            return Ok(Self::Folder(path.to_owned()));
        }
        if files > 1 {
            let message =
                format!("--out {}: {files} files need a folder, which is there or ends in a slash", path.display());
            return Err(Failure::Wrong(message));
        }
        Ok(Self::File(path.to_owned()))
    }

    pub fn write(&self, input: &Path, lifetimes: &Lifetimes<String>, plan: &Plan) -> Result<(), Failure> {
        let path = match self {
            Self::Standard => {
                let mut text = Vec::new();
                write_csv(&mut text, lifetimes, plan)?;
                return std::io::stdout().lock().write_all(&text).map_err(|error| Failure::of_output(&error));
            }
            Self::File(path) => path.clone(),
            Self::Folder(folder) => {
                let name = input.file_name().map_or("plan".into(), |name| name.to_string_lossy().into_owned());
                folder.join(name.strip_suffix(".gz").unwrap_or(&name))
            }
        };
        let failed = |error: &dyn std::fmt::Display| Failure::Wrong(format!("{}: {error}", path.display()));
        if same_file(&path, input) {
            return Err(failed(&"this is the input, which is not overwritten"));
        }
        let file = File::create(&path).map_err(|error| failed(&error))?;
        write_csv(BufWriter::new(file), lifetimes, plan).map_err(|error| failed(&error))
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
