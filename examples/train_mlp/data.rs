//! Images and labels in IDX files, as MNIST and Fashion-MNIST come: gzipped or not.
//!
//! A file may be damaged: nothing its header says is believed before the bytes are there.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::failure::Failure;

/// Labels are 0 to 9.
pub const CLASSES: usize = 10;

/// Bytes that one file may come to, unpacked. The largest of MNIST's kin has a half of this.
const FILE_BYTES_MAX: u64 = 1 << 30;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

pub struct Data {
    pub train: Images,
    pub test: Images,
    /// Mean and standard deviation of all training pixels: the network sees pixels less the one, over the other.
    scale: Scale,
}

/// Images with their labels; the pixels stay bytes until a batch is made of them.
pub struct Images {
    pixels: Vec<u8>,
    labels: Vec<u8>,
    pixels_per_image: usize,
}

struct Scale {
    mean: f32,
    deviation: f32,
}

impl Data {
    /// Reads the four files of a folder.
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let train = Images::read(folder, &["train"])?;
        let test = Images::read(folder, &["t10k", "t"])?;
        if train.pixels_per_image != test.pixels_per_image {
            let (train, test) = (train.pixels_per_image, test.pixels_per_image);
            let message = format!("{}: training images of {train} pixels, test images of {test}", folder.display());
            return Err(Failure::new("data", message));
        }
        let scale = Scale::of(&train.pixels);
        Ok(Self { train, test, scale })
    }

    pub fn pixels_per_image(&self) -> usize {
        self.train.pixels_per_image
    }

    /// Fills a batch with the images that `indices` name.
    pub fn gather(&self, from: &Images, indices: &[u32], images: &mut Vec<f32>, labels: &mut Vec<u32>) {
        images.clear();
        labels.clear();
        for index in indices {
            let index = *index as usize;
            let start = index * from.pixels_per_image;
            let pixels = &from.pixels[start..start + from.pixels_per_image];
            images.extend(pixels.iter().map(|pixel| self.scale.apply(*pixel)));
            labels.push(u32::from(from.labels[index]));
        }
    }
}

impl Scale {
    fn of(pixels: &[u8]) -> Self {
        let mut counts = [0u64; 256];
        for pixel in pixels {
            counts[usize::from(*pixel)] += 1;
        }
        let mean_of = |value: &dyn Fn(f64) -> f64| {
            let sum: f64 = counts.iter().enumerate().map(|(pixel, count)| value(pixel as f64) * *count as f64).sum();
            sum / pixels.len() as f64
        };
        let mean = mean_of(&|pixel| pixel);
        let variance = mean_of(&|pixel| (pixel - mean).powi(2));
        // All pixels alike tell nothing, but do no harm.
        let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        Self { mean: mean as f32, deviation: deviation as f32 }
    }

    fn apply(&self, pixel: u8) -> f32 {
        (f32::from(pixel) - self.mean) / self.deviation
    }
}

impl Images {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Reads `NAME-images-idx3-ubyte` and `NAME-labels-idx1-ubyte` for the first of the names that is there.
    fn read(folder: &Path, names: &[&str]) -> Result<Self, Failure> {
        let images = Idx::read::<3>(&find(folder, names, "images-idx3-ubyte")?)?;
        let labels = Idx::read::<1>(&find(folder, names, "labels-idx1-ubyte")?)?;
        if images.sizes[0] != labels.sizes[0] {
            let problem =
                format!("{} labels for the {} images of {}", labels.sizes[0], images.sizes[0], images.path.display());
            return Err(damaged(&labels.path, &problem));
        }
        if let Some(at) = labels.bytes.iter().position(|label| usize::from(*label) >= CLASSES) {
            let problem = format!("label {at} is {}, not 0 to {}", labels.bytes[at], CLASSES - 1);
            return Err(damaged(&labels.path, &problem));
        }
        Ok(Self { pixels_per_image: images.sizes[1] * images.sizes[2], pixels: images.bytes, labels: labels.bytes })
    }
}

/// One file's content.
struct Idx {
    path: PathBuf,
    sizes: Vec<usize>,
    bytes: Vec<u8>,
}

impl Idx {
    /// Reads a file of bytes with so many dimensions.
    fn read<const DIMENSIONS: usize>(path: &Path) -> Result<Self, Failure> {
        let mut reader = open(path)?;
        let mut word = |what: &str| {
            let mut word = [0; 4];
            let problem = |error| damaged(path, &format!("the header ends before its {what}: {error}"));
            reader.read_exact(&mut word).map(|()| u32::from_be_bytes(word)).map_err(problem)
        };
        // Two zeros, 8 for bytes, the number of dimensions.
        let magic = 0x0800 | DIMENSIONS as u32;
        let found = word("magic number")?;
        if found != magic {
            return Err(damaged(path, &format!("the magic number is {found:#010x}, not {magic:#010x}")));
        }
        let mut sizes = Vec::new();
        for _ in 0..DIMENSIONS {
            sizes.push(word("sizes")? as usize);
        }
        let product = sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size as u64));
        let bytes = match product {
            Some(0) => return Err(damaged(path, &format!("the header says {sizes:?}: nothing"))),
            Some(bytes) if bytes <= FILE_BYTES_MAX => bytes,
            _ => return Err(damaged(path, &format!("the header says {sizes:?}: over {FILE_BYTES_MAX} bytes"))),
        };
        let bytes = content(path, reader, &sizes, bytes)?;
        Ok(Self { path: path.to_owned(), sizes, bytes })
    }
}

/// The bytes behind the header: just as many as it says. The memory grows with what is really there.
fn content(path: &Path, reader: impl Read, sizes: &[usize], expected: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let says = format!("the header says {sizes:?}, which is {expected} bytes");
    if let Err(error) = reader.take(expected + 1).read_to_end(&mut bytes) {
        return Err(damaged(path, &format!("{says}, and after {} of them: {error}", bytes.len())));
    }
    match bytes.len() as u64 {
        found if found < expected => Err(damaged(path, &format!("{says}, but the file has {found}"))),
        found if found > expected => Err(damaged(path, &format!("{says}, but the file has more"))),
        _ => {
            bytes.shrink_to_fit();
            Ok(bytes)
        }
    }
}

/// The file's content, unpacked if its first bytes say that it is packed, whatever its name.
fn open(path: &Path) -> Result<Box<dyn Read>, Failure> {
    let unreadable = |error| Failure::new("data", format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(unreadable)?;
    let packed = start == GZIP_MAGIC;
    let whole = std::io::Cursor::new(start).chain(BufReader::new(file));
    Ok(if packed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

fn find(folder: &Path, names: &[&str], rest: &str) -> Result<PathBuf, Failure> {
    let candidates: Vec<String> =
        names.iter().flat_map(|name| ["", ".gz"].map(|end| format!("{name}-{rest}{end}"))).collect();
    let found = candidates.iter().map(|name| folder.join(name)).find(|path| path.exists());
    found.ok_or_else(|| {
        let what = if folder.is_dir() { "none of these files is there" } else { "no such folder; wanted one of" };
        Failure::new("data", format!("{}: {what}: {}", folder.display(), candidates.join(", ")))
    })
}

fn damaged(path: &Path, problem: &str) -> Failure {
    Failure::new("data", format!("{}: {problem}", path.display()))
}
