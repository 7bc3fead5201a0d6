//! Nobody sees another's bytes: zeroed memory, and kernels that index outside their bindings.
//!
//! A binding is a range of a slab that neighbours share. WebGPU promises that an index outside a binding reads a zero or
//! something inside it, and writes nothing or something inside it; this holds the promise on the adapter there is.

use crate::support::gpu::{self, LONG, doubling};
use crate::support::rounds;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tensorpool::{Config, ErrorKind, Gpu, Pool, Request, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;

/// What the neighbours hold, in every word.
const SECRET: u32 = 0x5EC2_E7A5;

/// What an out-of-range write would leave.
const DAMAGE: u32 = 0xDEAD_BEEF;

/// Invocations of each dispatch.
const PROBES: u32 = 4096;

#[test]
fn zeroed_memory_is_zero_whoever_had_it_before() {
    for policy in [SlabPolicy::Single, SlabPolicy::Growing, SlabPolicy::PerBlock] {
        let config = Config::new("1 MiB").slabs(policy).staging(4 * KIB);
        let Some(pool) = gpu::pool("zeroed_memory_is_zero_whoever_had_it_before", config) else { return };
        let device = pool.backend().device();
        let pipeline = doubling(device);
        for seed in 0..rounds(4) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut earlier = Vec::new();
            while let Ok(mut tensor) = pool.uninit::<f32>([rng.random_range(1..20_000usize)]) {
                tensor.fill(1.5).unwrap();
                earlier.push(tensor);
            }
            // Written by work that is recorded, and not submitted when the memory goes on.
            pool.encode(|encoder| {
                for tensor in earlier.drain(..) {
                    gpu::dispatch(device, &pipeline, tensor.binding(encoder)?, tensor.elements(), encoder);
                }
                Ok(())
            })
            .unwrap();
            let mut zeros = Vec::new();
            while let Ok(block) = pool.alloc(Request::bytes(rng.random_range(1..60_000)).zeroed()) {
                zeros.push(block);
            }
            assert!(zeros.len() > 5);
            for block in &zeros {
                let mut seen = vec![1u8; block.bytes() as usize];
                block.download(0, &mut seen).unwrap();
                assert!(seen.iter().all(|byte| *byte == 0), "{policy} seed {seed}: {block:?}");
            }
        }
        // And after a foreign encoder.
        let tensor = pool.from_array(&ndarray::Array1::from_elem(60_000, 3.0f32)).unwrap();
        let loan = tensor.lend().unwrap();
        let mut encoder = device.create_command_encoder(&Default::default());
        gpu::dispatch(device, &pipeline, loan.binding(), 60_000, &mut encoder);
        drop(tensor);
        pool.submit_lent([encoder.finish()], [loan]).unwrap();
        let all = pool.stats().budget_bytes - pool.stats().staging_bytes;
        let block = pool.alloc(Request::bytes(all).zeroed().wait(LONG)).unwrap();
        let mut seen = vec![1u8; all as usize];
        block.download(0, &mut seen).unwrap();
        assert!(seen.iter().all(|byte| *byte == 0), "{policy}");
        pool.check();
    }
}

/// Three tensors in a row: the middle one is the kernel's, the others are its neighbours'.
struct Row {
    left: Tensor<u32, Gpu>,
    mine: Tensor<u32, Gpu>,
    right: Tensor<u32, Gpu>,
    out: Tensor<u32, Gpu>,
    params: Tensor<u32, Gpu>,
}

impl Row {
    /// `words` each; `left` and `right` touch the bytes that the middle one holds.
    fn new(pool: &Pool<Gpu>, words: usize) -> Self {
        let secret = || pool.from_array(&ndarray::Array1::from_elem(words, SECRET)).unwrap();
        // What an earlier owner left where the block of `mine` is longer than its tensor is a secret too.
        let mut row: Vec<_> = (0..8).map(|_| secret()).collect();
        row.sort_by_key(|tensor| tensor.block().offset());
        let end = |tensor: &Tensor<u32, Gpu>| tensor.block().offset() + tensor.block().bytes_held();
        let are_next_door = |three: &[Tensor<u32, Gpu>]| {
            end(&three[0]) == three[1].block().offset() && end(&three[1]) == three[2].block().offset()
        };
        let first = row.windows(3).position(are_next_door).expect("three tensors in a row");
        let [left, middle, right] = <[_; 3]>::try_from(row.drain(first..first + 3).collect::<Vec<_>>()).unwrap();
        let held = middle.block().bytes_held();
        let place = middle.block().offset();
        drop(middle);
        let mut whole = pool.alloc(Request::bytes(held)).unwrap();
        assert_eq!(whole.offset(), place);
        whole.fill(held, &SECRET.to_le_bytes()).unwrap();
        drop(whole);
        let mut mine = pool.uninit::<u32>([words]).unwrap();
        assert_eq!(mine.block().offset(), place);
        mine.upload(&Self::own(words)).unwrap();
        let out = pool.uninit([PROBES as usize]).unwrap();
        Self { left, mine, right, out, params: pool.zeros([4]).unwrap() }
    }

    /// What the middle one holds: values that nobody else has.
    fn own(words: usize) -> Vec<u32> {
        (0..words as u32).map(|word| 0x1000_0000 + word).collect()
    }

    /// Runs a probe from index `start` on, `step` apart.
    fn probe(&mut self, pool: &Pool<Gpu>, pipeline: &wgpu::ComputePipeline, start: u32, step: u32) -> Vec<u32> {
        self.probe_over(pool, pipeline, [start, step], 0)
    }

    /// The same through a binding that is so many bytes too long.
    fn probe_over(
        &mut self,
        pool: &Pool<Gpu>,
        pipeline: &wgpu::ComputePipeline,
        [start, step]: [u32; 2],
        over_bytes: u64,
    ) -> Vec<u32> {
        self.params.upload(&[start, step, DAMAGE, 0]).unwrap();
        self.out.fill(0).unwrap();
        pool.encode(|encoder| {
            let mut mine = self.mine.binding(encoder)?;
            mine.size = wgpu::BufferSize::new(self.mine.bytes() + over_bytes);
            let bindings = [self.params.binding(encoder)?, mine, self.out.binding(encoder)?];
            gpu::record(pool.backend().device(), pipeline, &bindings, PROBES / 64, encoder);
            Ok(())
        })
        .unwrap();
        self.out.to_array().unwrap().into_raw_vec_and_offset().0
    }

    #[track_caller]
    fn check_neighbours(&self, what: &str) {
        for neighbour in [&self.left, &self.right] {
            assert!(neighbour.to_array().unwrap().iter().all(|word| *word == SECRET), "{what}: a neighbour is damaged");
        }
    }
}

/// A kernel on `mine` at `index`, a `u32` from the parameters; `element` is what `mine` is an array of.
fn probing(pool: &Pool<Gpu>, element: &str, body: &str) -> wgpu::ComputePipeline {
    let source = format!(
        "@group(0) @binding(0) var<storage, read_write> params: array<u32, 4>;
        @group(0) @binding(1) var<storage, read_write> mine: array<{element}>;
        @group(0) @binding(2) var<storage, read_write> result: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
            let at = id.x;
            let index = params[0] + at * params[1];
            {body}
        }}"
    );
    gpu::pipeline(pool.backend().device(), &source)
}

/// First index and step of each probe, for arrays of `elements` elements of `bytes` bytes.
fn starts(elements: u32, bytes: u32) -> Vec<(u32, u32)> {
    // Where the byte offset is a multiple of 2^32, or just under.
    let wrap = ((1u64 << 32) / u64::from(bytes)) as u32;
    let mut starts = vec![
        // Just past the end, far past it, and so far that all later bytes of the slab are met.
        (elements, 1),
        (elements + PROBES, 1),
        (elements, 977),
        (1 << 20, 1),
        (1 << 28, 1),
        // -1 and down: just before the beginning, if nobody looked.
        (u32::MAX, u32::MAX),
        (0u32.wrapping_sub(PROBES), 1),
        // The signed bounds.
        (i32::MAX as u32 - PROBES / 2, 1),
    ];
    if wrap > 0 {
        starts.extend([(wrap, 1), (wrap - PROBES, 1), (wrap.wrapping_mul(2).wrapping_sub(PROBES), 1)]);
    }
    starts
}

const SIZES: [usize; 6] = [1, 8, 64, 1001, 1024, 5000];

fn pool(test: &str) -> Option<Pool<Gpu>> {
    gpu::pool(test, Config::new("1 MiB").slabs(SlabPolicy::Single).staging(16 * KIB))
}

#[test]
fn reads_past_a_binding_see_nothing_of_the_neighbours() {
    let Some(pool) = pool("reads_past_a_binding_see_nothing_of_the_neighbours") else { return };
    for (element, words, body) in [
        ("u32", 1, "result[at] = mine[index];"),
        ("u32", 1, "result[at] = mine[i32(index)];"),
        ("vec4<u32>", 4, "let v = mine[index]; result[at] = max(max(v.x, v.y), max(v.z, v.w));"),
        ("vec4<u32>", 4, "result[at] = mine[index][at % 4];"),
        ("array<u32, 7>", 7, "result[at] = mine[index][params[2] % 7 + at];"),
        ("atomic<u32>", 1, "result[at] = atomicLoad(&mine[index]);"),
    ] {
        let pipeline = probing(&pool, element, body);
        for size in SIZES.into_iter().filter(|size| *size >= words) {
            let mut row = Row::new(&pool, size);
            let own = Row::own(size);
            for (start, step) in starts((size / words) as u32, 4 * words as u32) {
                let what = format!("{element}, {body} {size} words from {start:#x} by {step}");
                for (at, word) in row.probe(&pool, &pipeline, start, step).into_iter().enumerate() {
                    assert!(word == 0 || own.contains(&word), "{what}: probe {at} saw {word:#x}");
                }
                row.check_neighbours(&what);
            }
        }
    }
    pool.check();
}

#[test]
fn writes_past_a_binding_do_not_damage_the_neighbours() {
    let Some(pool) = pool("writes_past_a_binding_do_not_damage_the_neighbours") else { return };
    for (element, words, body) in [
        ("u32", 1, "mine[index] = params[2]; result[at] = 1u;"),
        ("u32", 1, "mine[i32(index)] = params[2]; result[at] = 1u;"),
        ("vec4<u32>", 4, "mine[index] = vec4(params[2]); result[at] = 1u;"),
        ("vec4<u32>", 4, "mine[index][at % 4] = params[2]; result[at] = 1u;"),
        ("atomic<u32>", 1, "result[at] = atomicAdd(&mine[index], 1u);"),
        ("atomic<u32>", 1, "atomicStore(&mine[index], params[2]); result[at] = 1u;"),
    ] {
        let pipeline = probing(&pool, element, body);
        for size in SIZES.into_iter().filter(|size| *size >= words) {
            let mut row = Row::new(&pool, size);
            for (start, step) in starts((size / words) as u32, 4 * words as u32) {
                let what = format!("{element}, {body} {size} words from {start:#x} by {step}");
                let seen = row.probe(&pool, &pipeline, start, step);
                assert!(!seen.contains(&SECRET), "{what}: saw the neighbour");
                row.check_neighbours(&what);
                // `params` and `result` lie in the same slab.
                assert_eq!(row.params.to_array().unwrap().as_slice().unwrap(), [start, step, DAMAGE, 0], "{what}");
            }
        }
    }
    pool.check();
}

/// What the probes would see and do if bindings were one word, or a neighbour, too long: the tests above can fail.
#[test]
fn the_probes_find_a_binding_that_is_too_long() {
    let Some(pool) = pool("the_probes_find_a_binding_that_is_too_long") else { return };
    let read = probing(&pool, "u32", "result[at] = mine[index];");
    let write = probing(&pool, "u32", "mine[index] = params[2]; result[at] = 1u;");
    let mut row = Row::new(&pool, 1024);
    let seen = row.probe_over(&pool, &read, [1024, 1], 4);
    assert_eq!((seen[0], seen[1] != SECRET), (SECRET, true), "one word of the neighbour, and no more");
    let seen = row.probe_over(&pool, &read, [1024, 1], 4096);
    assert_eq!(seen.iter().filter(|word| **word == SECRET).count(), 1024);
    row.probe_over(&pool, &write, [1024, 1], 8);
    let right = row.right.to_array().unwrap();
    assert!(right[[0]] == DAMAGE && right[[1]] == DAMAGE && right[[2]] == SECRET);
}

#[test]
fn a_kernel_knows_the_exact_length_of_its_binding() {
    let Some(pool) = pool("a_kernel_knows_the_exact_length_of_its_binding") else { return };
    for (element, words) in [("u32", 1), ("vec4<u32>", 4), ("array<u32, 7>", 7)] {
        let pipeline = probing(&pool, element, "result[at] = arrayLength(&mine);");
        for size in SIZES.into_iter().filter(|size| *size >= words) {
            let mut row = Row::new(&pool, size);
            let seen = row.probe(&pool, &pipeline, 0, 1);
            assert!(seen.iter().all(|length| *length as usize == size / words), "{element} {size}: {}", seen[0]);
        }
    }
}

/// A shader that needs more than the tensor has is refused before anything is recorded.
#[test]
fn a_binding_smaller_than_the_shader_needs_is_an_error() {
    let Some(pool) = pool("a_binding_smaller_than_the_shader_needs_is_an_error") else { return };
    let source = "@group(0) @binding(0) var<storage, read_write> x: array<u32, 64>;
        @compute @workgroup_size(1) fn main() { x[63] = 1u; }";
    let device = pool.backend().device();
    let pipeline = gpu::pipeline(device, source);
    for (words, fits) in [(63, false), (64, true), (65, true)] {
        let tensor = pool.zeros::<u32>([words]).unwrap();
        let result = pool.encode(|encoder| {
            gpu::record(device, &pipeline, &[tensor.binding(encoder)?], 1, encoder);
            Ok(())
        });
        match result {
            Ok(()) => assert!(fits),
            Err(error) => assert!(!fits && error.kind() == ErrorKind::Device, "{words}: {error}"),
        }
    }
}

/// A binding is of whole words: what is past the last element belongs to the tensor's own block, and is zero where the
/// tensor was made of zeros or from an array.
#[test]
fn the_word_that_a_tensor_ends_in_holds_nothing_of_an_earlier_owner() {
    let Some(pool) = pool("the_word_that_a_tensor_ends_in_holds_nothing_of_an_earlier_owner") else { return };
    let read = probing(&pool, "u32", "result[at] = mine[index];");
    for elements in [1usize, 2, 3, 5, 1023] {
        for is_zeros in [true, false] {
            let mut earlier = pool.uninit::<u8>([2048]).unwrap();
            let place = earlier.block().offset();
            earlier.fill(0xA5).unwrap();
            drop(earlier);
            let mine = if is_zeros {
                pool.zeros::<u8>([elements])
            } else {
                pool.from_array(&ndarray::Array1::<u8>::zeros(elements))
            };
            let mine = mine.unwrap();
            assert!(elements < 512 || mine.block().offset() == place);
            let mut params = pool.zeros::<u32>([4]).unwrap();
            params.upload(&[0, 1, 0, 0]).unwrap();
            let out = pool.zeros::<u32>([PROBES as usize]).unwrap();
            pool.encode(|encoder| {
                let bindings = [params.binding(encoder)?, mine.binding(encoder)?, out.binding(encoder)?];
                gpu::record(pool.backend().device(), &read, &bindings, PROBES / 64, encoder);
                Ok(())
            })
            .unwrap();
            assert!(out.to_array().unwrap().iter().all(|word| *word == 0), "{elements} {is_zeros}");
        }
    }
}
