//! Uploads and downloads of pooled tensors, beside one large buffer with staging of its own; in turn in one process.

use std::time::Instant;

use tensorpool::{Backend, Config, Pool, SlabPolicy};

use super::{Scale, open};
use crate::figure::{Figure, Figures, median};
use crate::large::Large;

const RATE_LEAST: f64 = 0.8;

pub fn measure(scale: &Scale) -> Figures {
    let (bytes, turns) = scale.of((256 << 20, 9), (16 << 20, 1));
    // The staging grows with the budget, up to 16 MiB.
    let config = Config::new(4 * bytes as u64).slabs(SlabPolicy::Growing);
    let pool = Pool::with_backend(open()?, &config)?;
    // A block is a binding: some devices have none above 128 MiB.
    let mut tensors = [pool.uninit::<u8>([bytes / 2])?, pool.uninit::<u8>([bytes / 2])?];
    let large_gpu = open()?;
    let (device, queue) = (large_gpu.device(), large_gpu.queue());
    let large = Large::new(device, bytes as u64);
    let data: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
    let mut seen = vec![0; bytes];
    let mut seconds = [const { Vec::new() }; 4];
    // The first turn touches the memory.
    for turn in 0..=turns {
        let mut took = |which: usize, start: Instant| {
            if turn > 0 {
                seconds[which].push(start.elapsed().as_secs_f64());
            }
        };
        let start = Instant::now();
        large.upload(device, queue, &data)?;
        took(0, start);
        seen.fill(0);
        let start = Instant::now();
        large.download(device, queue, &mut seen)?;
        took(1, start);
        check(&seen, &data, "one large buffer")?;
        let start = Instant::now();
        for (tensor, data) in tensors.iter_mut().zip(data.chunks(bytes / 2)) {
            tensor.upload(data)?;
        }
        pool.backend().complete(pool.backend().recorded())?;
        took(2, start);
        seen.fill(0);
        let start = Instant::now();
        for (tensor, seen) in tensors.iter().zip(seen.chunks_mut(bytes / 2)) {
            tensor.download(seen)?;
        }
        took(3, start);
        check(&seen, &data, "pooled tensors")?;
    }
    let rate = |seconds: Vec<f64>| bytes as f64 / f64::from(1 << 30) / median(seconds);
    let [large_up, large_down, up, down] = seconds.map(rate);
    Ok(vec![
        Figure::new("bytes each way", bytes as u64, "B"),
        Figure::new("staging", pool.stats().staging_bytes, "B"),
        Figure::new("upload, one large buffer", large_up, "GiB/s"),
        Figure::new("upload, pooled tensors", up, "GiB/s"),
        Figure::new("upload, pooled by one large buffer's rate", up / large_up, "").at_least(RATE_LEAST, !scale.small),
        Figure::new("download, one large buffer", large_down, "GiB/s"),
        Figure::new("download, pooled tensors", down, "GiB/s"),
        Figure::new("download, pooled by one large buffer's rate", down / large_down, "")
            .at_least(RATE_LEAST, !scale.small),
    ])
}

fn check(seen: &[u8], data: &[u8], what: &str) -> Result<(), String> {
    match seen.iter().zip(data).position(|(seen, data)| seen != data) {
        Some(at) => Err(format!("{what}: byte {at} came back as {}, and {} was sent", seen[at], data[at])),
        None => Ok(()),
    }
}
