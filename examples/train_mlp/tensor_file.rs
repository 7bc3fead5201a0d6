//! Files of tensors as [safetensors](https://huggingface.co/docs/safetensors) has them: a header in JSON, then every tensor's bytes.
//!
//! Tensors go between the file and the pool in pieces, on a GPU through the pool's staging. No tensor is ever whole in the process's
//! own memory, and the pool allocates nothing.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tempfile::NamedTempFile;
use tensorpool::AnyBackend;
use tensorpool::nn::{Settings, Trainer};

use crate::failure::Failure;

/// What is read or written at a time.
const PIECE_BYTES: usize = 256 << 10;

/// The length of the header is in the first bytes, and is a multiple of them.
const LENGTH_BYTES: usize = size_of::<u64>();

/// What other readers of the format take.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// A file whose header is read and adds up: the tensors fill what is behind it.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where the tensors begin.
    data_at: u64,
}

impl TensorFile {
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let unreadable = |error| failure(path, error);
        // A pipe would wait for its writer.
        let found = fs::metadata(path).map_err(unreadable)?;
        if !found.is_file() {
            return Err(failure(path, "it is no regular file"));
        }
        let mut file = File::open(path).map_err(unreadable)?;
        let mut length = [0; LENGTH_BYTES];
        let file_bytes = found.len();
        if file_bytes < length.len() as u64 {
            return Err(failure(path, format_args!("no safetensors file: it has {file_bytes} bytes")));
        }
        file.read_exact(&mut length).map_err(unreadable)?;
        let (length, behind) = (u64::from_le_bytes(length), file_bytes - LENGTH_BYTES as u64);
        if length > behind.min(HEADER_BYTES_MAX) {
            let problem = format_args!("no safetensors file: a header of {length} bytes, with {behind} bytes left");
            return Err(failure(path, problem));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(unreadable)?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|error| failure(path, format_args!("no safetensors file: its header: {error}")))?;
        let (wanted, left) = (header.data_len() as u64, behind - length);
        if wanted != left {
            let problem = format_args!("its header tells of tensors of {wanted} bytes, but {left} follow");
            return Err(failure(path, problem));
        }
        Ok(Self { path: path.to_owned(), file, header, data_at: LENGTH_BYTES as u64 + length })
    }

    /// A text of the header.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// A failure that has the file's name.
    pub fn failure(&self, problem: impl Display) -> Failure {
        failure(&self.path, problem)
    }

    /// Reads all that the training goes on from, of the settings that were [checked](Self::check).
    pub fn load(&mut self, trainer: &mut Trainer<AnyBackend>) -> Result<(), Failure> {
        let mut piece = vec![0; PIECE_BYTES];
        for (name, mut block) in trainer.state_mut() {
            let at = self.header.info(&name).map_or(0, |info| info.data_offsets.0) as u64;
            self.file.seek(SeekFrom::Start(self.data_at + at)).map_err(|error| failure(&self.path, error))?;
            for (at, len) in pieces(block.bytes()) {
                let piece = &mut piece[..len];
                self.file.read_exact(piece).map_err(|error| failure(&self.path, format_args!("{name}: {error}")))?;
                swap_big_endian(piece);
                block.upload(at, piece)?;
            }
        }
        Ok(())
    }

    /// Refuses a file in which a name, a type or a shape differs from what these settings train.
    pub fn check(&self, settings: &Settings) -> Result<(), Failure> {
        let mut others: BTreeSet<String> = self.header.offset_keys().into_iter().collect();
        for (name, wanted) in settings.state() {
            let Some(TensorInfo { dtype, shape, .. }) = self.header.info(&name) else {
                return Err(self.failure(format_args!("it has no tensor {name}")));
            };
            if (*dtype, shape.as_slice()) != (Dtype::F32, wanted.as_slice()) {
                return Err(self.failure(format_args!("{name} is {dtype} {shape:?}, and must be F32 {wanted:?}")));
            }
            others.remove(&name);
        }
        match others.first() {
            Some(name) => Err(self.failure(format_args!("it has a tensor {name}, which this training has not"))),
            None => Ok(()),
        }
    }
}

/// Where to write, again and again: each time to a file beside it, which then takes its name.
pub struct Target {
    /// As the user names it.
    name: PathBuf,
    /// The file that this leads to.
    path: PathBuf,
}

impl Target {
    /// Refuses what cannot be written, before there is anything to write.
    pub fn new(name: &Path) -> Result<Self, Failure> {
        let path = match fs::metadata(name) {
            // The file that a link leads to is replaced, and the link stays.
            Ok(found) if found.is_file() => fs::canonicalize(name).map_err(|error| failure(name, error))?,
            Ok(_) => return Err(failure(name, "it is no regular file")),
            Err(error) if error.kind() == ErrorKind::NotFound => match name.file_name() {
                Some(file) => name.with_file_name(file),
                None => return Err(failure(name, error)),
            },
            Err(error) => return Err(failure(name, error)),
        };
        let target = Self { name: name.to_owned(), path };
        target.beside().map(|_| target)
    }

    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Replaces the file with these texts and all that the trainer goes on from. What was there stays whole until then, and after
    /// a failure.
    pub fn write(&self, texts: HashMap<String, String>, trainer: &Trainer<AnyBackend>) -> Result<(), Failure> {
        let failed = |problem: &dyn Display| failure(&self.name, format_args!("it cannot be saved: {problem}"));
        let header = header(texts, trainer).map_err(|problem| failed(&problem))?;
        let mut file = self.beside()?;
        let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(|error| failed(&error));
        write(&(header.len() as u64).to_le_bytes())?;
        write(&header)?;
        let mut piece = vec![0; PIECE_BYTES];
        for (_, tensor) in trainer.state() {
            for (at, len) in pieces(tensor.bytes()) {
                let piece = &mut piece[..len];
                tensor.block().download(at, piece)?;
                swap_big_endian(piece);
                write(piece)?;
            }
        }
        if let Ok(before) = fs::metadata(&self.path) {
            file.as_file().set_permissions(before.permissions()).map_err(|error| failed(&error))?;
        }
        // Without it a loss of power after the rename could leave a name without its bytes.
        file.as_file().sync_all().map_err(|error| failed(&error))?;
        file.persist(&self.path).map_err(|error| failed(&error.error))?;
        Ok(())
    }

    /// Makes a new file in the same folder. It goes when it is dropped, and stays where a second Ctrl-C ends the process meanwhile.
    fn beside(&self) -> Result<NamedTempFile, Failure> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".train_mlp-").suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Those of any new file: the system takes away what the user's mask says.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        builder.tempfile_in(folder).map_err(|error| failure(&self.name, format_args!("it cannot be saved: {error}")))
    }
}

/// The header's bytes. The same texts and tensors give the same bytes.
fn header(texts: HashMap<String, String>, trainer: &Trainer<AnyBackend>) -> Result<Vec<u8>, String> {
    let mut end = 0;
    let tensors = trainer.state().map(|(name, tensor)| {
        let start = end;
        end += tensor.bytes() as usize;
        (name, TensorInfo { dtype: Dtype::F32, shape: tensor.shape().to_vec(), data_offsets: (start, end) })
    });
    let header = Metadata::new(Some(texts), tensors.collect()).map_err(|error| error.to_string())?;
    let mut header = serde_json::to_value(&header).map_err(|error| error.to_string())?;
    header.sort_all_objects();
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    match header.len() as u64 {
        0..=HEADER_BYTES_MAX => Ok(header),
        bytes => Err(format!("a header of {bytes} bytes is more than readers take")),
    }
}

/// Where each piece of so many bytes begins, and its length.
fn pieces(bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..bytes).step_by(PIECE_BYTES).map(move |at| (at, (bytes - at).min(PIECE_BYTES as u64) as usize))
}

/// The format is little-endian.
fn swap_big_endian(piece: &mut [u8]) {
    if cfg!(target_endian = "big") {
        piece.chunks_exact_mut(size_of::<f32>()).for_each(<[u8]>::reverse);
    }
}

fn failure(path: &Path, problem: impl Display) -> Failure {
    Failure::new("file", format!("{}: {problem}", path.display()))
}
