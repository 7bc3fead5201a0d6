//! Random programs on a GPU, from several threads on one pool, each beside the same program on plain vectors.

use std::thread;
use std::time::Duration;

use crate::support::gpu::{self, LONG, random};
use crate::support::rounds;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{Config, Error, Gpu, Loan, Placement, Pool, Priority, Request, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;

/// Steps of each thread's program.
const STEPS: usize = 250;

/// What a thread may hold at one time, so that all have a share.
const TENSORS_MAX: usize = 12;

/// Loans whose work is not submitted yet.
const LOANS_MAX: usize = 3;

/// The shader's work, on the host.
fn scrambled(element: u32) -> u32 {
    element.wrapping_mul(2_654_435_761).wrapping_add(12_345)
}

fn scrambling(device: &wgpu::Device) -> wgpu::ComputePipeline {
    let source = "@group(0) @binding(0) var<storage, read_write> x: array<u32>;
        @compute @workgroup_size(64)
        fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
            for (var at = id.x; at < arrayLength(&x); at += groups.x * 64) { x[at] = x[at] * 2654435761 + 12345; }
        }";
    gpu::pipeline(device, source)
}

/// A tensor and what must be in it.
type Shadowed = (Tensor<u32, Gpu>, Vec<u32>);

/// Foreign work that is recorded: it scrambles the lent memory and copies it to `seen`.
struct Foreign {
    loan: Loan,
    commands: wgpu::CommandBuffer,
    seen: wgpu::Buffer,
    expected: Vec<u32>,
}

/// One thread's program.
struct Program<'a> {
    pool: &'a Pool<Gpu>,
    pipeline: &'a wgpu::ComputePipeline,
    rng: ChaCha8Rng,
    tensors: Vec<Shadowed>,
    loans: Vec<Foreign>,
    weights: [f64; 9],
    name: String,
    /// The books can only be checked while no other thread uses the pool: a block that moves between the lists of two
    /// threads may be counted in one of them before the other.
    is_alone: bool,
}

impl<'a> Program<'a> {
    fn new(pool: &'a Pool<Gpu>, pipeline: &'a wgpu::ComputePipeline, seed: u64, [thread, threads]: [u64; 2]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed * 1000 + thread);
        // Each program does some things often and some hardly ever.
        let weights = std::array::from_fn(|_| if rng.random_bool(0.25) { 0.02 } else { rng.random_range(0.1..3.0) });
        let name = format!("seed {seed} thread {thread}");
        Self { pool, pipeline, rng, tensors: Vec::new(), loans: Vec::new(), weights, name, is_alone: threads == 1 }
    }

    fn run(mut self) {
        for step in 0..STEPS {
            self.step(step);
        }
        while !self.loans.is_empty() {
            self.submit_loan();
        }
        while let Some(index) = self.pick() {
            self.verify(index);
        }
    }

    fn step(&mut self, step: usize) {
        let action = self.action();
        let context = format!("{} step {step} action {action}", self.name);
        let result = match action {
            0 | 1 if self.tensors.len() < TENSORS_MAX => self.alloc(),
            2 => self.rewrite(),
            3 => self.copy(),
            4 => self.record(),
            5 if self.loans.len() < LOANS_MAX => self.lend(),
            6 if !self.loans.is_empty() => {
                self.submit_loan();
                Ok(())
            }
            7 => {
                self.pool.trim();
                self.pool.submit().map(drop)
            }
            _ => {
                if let Some(index) = self.pick() {
                    self.verify(index);
                }
                Ok(())
            }
        };
        if let Err(error) = result {
            assert!(error.is_no_room(), "{context}: {error}");
        }
        if self.is_alone {
            self.pool.check();
        }
    }

    fn action(&mut self) -> usize {
        let mut at = self.rng.random_range(0.0..self.weights.iter().sum::<f64>());
        self.weights
            .iter()
            .position(|weight| {
                at -= weight;
                at < 0.0
            })
            .unwrap_or(0)
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.tensors.is_empty()).then(|| self.rng.random_range(0..self.tensors.len()))
    }

    fn alloc(&mut self) -> Result<(), Error> {
        let len = 2f64.powf(self.rng.random_range(0.0..16.0)) as usize;
        let (mut tensor, mut elements) = if self.rng.random_bool(0.3) {
            (self.pool.zeros::<u32>([len])?, vec![0; len])
        } else if self.rng.random_bool(0.5) {
            // The same memory, after waiting in line for it.
            let priority = [Priority::Low, Priority::Normal, Priority::High][self.rng.random_range(0..3)];
            let patience = Duration::from_millis(self.rng.random_range(0..20));
            let request = Request::bytes(len as u64 * 4).priority(priority).wait(patience);
            drop(match self.rng.random_bool(0.5) {
                true => self.pool.alloc(request)?,
                false => pollster::block_on(self.pool.alloc_async(request))?,
            });
            (self.pool.uninit([len])?, Vec::new())
        } else {
            (self.pool.uninit([len])?, Vec::new())
        };
        if elements.is_empty() {
            elements = random(&mut self.rng, len);
            tensor.upload(&elements)?;
        }
        self.tensors.push((tensor, elements));
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), Error> {
        let Some(index) = self.pick() else { return Ok(()) };
        let (tensor, elements) = &mut self.tensors[index];
        if self.rng.random_bool(0.5) {
            *elements = random(&mut self.rng, elements.len());
            tensor.upload(elements)
        } else {
            let value = if self.rng.random_bool(0.5) { 0 } else { self.rng.random() };
            elements.fill(value);
            tensor.fill(value)
        }
    }

    fn copy(&mut self) -> Result<(), Error> {
        let (Some(from), Some(to)) = (self.pick(), self.pick()) else { return Ok(()) };
        let Ok([(source, elements), (target, copy)]) = self.tensors.get_disjoint_mut([from, to]) else { return Ok(()) };
        let len = self.rng.random_range(0..=elements.len().min(copy.len()));
        let begin = self.rng.random_range(0..=elements.len() - len);
        let at = self.rng.random_range(0..=copy.len() - len);
        copy[at..at + len].copy_from_slice(&elements[begin..begin + len]);
        target.copy_range_from(at, source, begin..begin + len)
    }

    /// Shaders on some tensors in one closure; some of the tensors are gone when it ends.
    fn record(&mut self) -> Result<(), Error> {
        let device = self.pool.backend().device();
        let fails = self.rng.random_bool(0.1);
        let result = self.pool.encode(|encoder| {
            for _ in 0..self.rng.random_range(1..4) {
                if self.tensors.is_empty() {
                    break;
                }
                let index = self.rng.random_range(0..self.tensors.len());
                let (tensor, elements) = &mut self.tensors[index];
                gpu::record(device, self.pipeline, &[tensor.binding(encoder)?], 4, encoder);
                if !fails {
                    elements.iter_mut().for_each(|element| *element = scrambled(*element));
                }
                if self.rng.random_bool(0.3) {
                    self.tensors.swap_remove(index);
                    // Its memory may be somebody else's at once.
                    if let Ok(next) = self.pool.uninit::<u32>([elements_of(&mut self.rng)]) {
                        let binding = next.binding(encoder)?;
                        encoder.clear_buffer(binding.buffer, binding.offset, Some(next.bytes()));
                        if !fails {
                            let zeros = vec![0; next.elements()];
                            self.tensors.push((next, zeros));
                        }
                    }
                }
            }
            if fails { Err(Error::new(tensorpool::ErrorKind::Invalid, "changed its mind")) } else { Ok(()) }
        });
        if fails { Ok(()) } else { result }
    }

    fn lend(&mut self) -> Result<(), Error> {
        let Some(index) = self.pick() else { return Ok(()) };
        let device = self.pool.backend().device();
        let (tensor, elements) = self.tensors.swap_remove(index);
        let loan = tensor.lend()?;
        let seen = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: tensor.bytes(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        let binding = loan.binding();
        encoder.copy_buffer_to_buffer(binding.buffer, binding.offset, &seen, 0, tensor.bytes());
        gpu::record(device, self.pipeline, &[binding], 4, &mut encoder);
        // The tensor is gone before its work is submitted.
        self.loans.push(Foreign { loan, commands: encoder.finish(), seen, expected: elements });
        Ok(())
    }

    /// In any order.
    fn submit_loan(&mut self) {
        let index = self.rng.random_range(0..self.loans.len());
        let Foreign { loan, commands, seen, expected } = self.loans.swap_remove(index);
        self.pool.submit_lent([commands], [loan]).unwrap();
        let (sender, mapped) = std::sync::mpsc::channel();
        seen.map_async(wgpu::MapMode::Read, .., move |result| sender.send(result).unwrap());
        self.pool.backend().device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
        // Another thread's poll may be running the callback.
        mapped.recv_timeout(LONG).unwrap().unwrap();
        let view = seen.get_mapped_range(..).unwrap();
        assert!(bytemuck::cast_slice::<u8, u32>(&view) == expected, "{}: lent memory was touched", self.name);
    }

    /// What a tensor holds, when it goes.
    fn verify(&mut self, index: usize) {
        let (tensor, elements) = self.tensors.swap_remove(index);
        let mut seen = vec![0; elements.len()];
        tensor.download(&mut seen).unwrap();
        let first = seen.iter().zip(&elements).position(|(seen, element)| seen != element);
        assert_eq!(first, None, "{}: {tensor:?} was touched", self.name);
    }
}

fn elements_of(rng: &mut ChaCha8Rng) -> usize {
    2f64.powf(rng.random_range(0.0..14.0)) as usize
}

#[test]
fn random_programs_keep_every_tensors_bytes() {
    let test = "random_programs_keep_every_tensors_bytes";
    for seed in 0..rounds(8) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let policy = [SlabPolicy::Single, SlabPolicy::Growing, SlabPolicy::PerBlock][rng.random_range(0..3)];
        let placement = if rng.random_bool(0.7) { Placement::Exact } else { Placement::PowerOfTwo };
        let budget = rng.random_range(1 << 20..3 << 20);
        let staging = [KIB, 8 * KIB, 64 * KIB][rng.random_range(0..3)];
        let config = Config::new(budget).slabs(policy).placement(placement).staging(staging);
        let Some(pool) = gpu::pool(test, config) else { return };
        let pipeline = scrambling(pool.backend().device());
        // One thread's program is the same each time.
        let threads = 1 + seed % 4;
        thread::scope(|scope| {
            for thread in 0..threads {
                let program = Program::new(&pool, &pipeline, seed, [thread, threads]);
                scope.spawn(move || program.run());
            }
        });
        pool.submit().unwrap();
        gpu::until(|| pool.stats().retired_bytes == 0);
        let stats = pool.stats();
        assert_eq!((stats.blocks, stats.used_bytes, stats.waiting), (0, 0, 0), "seed {seed}: {stats}");
        assert_eq!(stats.staging_bytes, staging, "seed {seed}");
        pool.trim();
        pool.check();
        let whole = Request::bytes((budget - staging) / 4 * 4 / 2).zeroed().wait(LONG);
        assert!(pool.alloc(whole).is_ok(), "seed {seed}");
    }
}
