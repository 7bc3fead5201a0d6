//! Lifetimes in, offsets out.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tensorpool::plan::{self, Lifetimes, Plan};

use crate::failure::Failure;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Reads a file, unpacked if its first bytes say that it is packed, whatever its name.
pub fn read(path: &Path) -> Result<Lifetimes<String>, Failure> {
    let name = path.display().to_string();
    let unreadable = |error| Failure::Wrong(format!("{name}: {error}"));
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let is_packed = reader.fill_buf().map_err(unreadable)?.starts_with(&GZIP_MAGIC);
    let text: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    Ok(plan::read_csv(BufReader::new(text), &name)?)
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
                plan::write_csv(&mut text, lifetimes, plan)?;
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
        plan::write_csv(BufWriter::new(file), lifetimes, plan).map_err(|error| failed(&error))
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
