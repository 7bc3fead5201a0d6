//! Bytes to the GPU and back, copies, fills and bindings, on whatever adapter there is (llvmpipe does).

use crate::support::gpu::{self, random};
use bytemuck::Pod;
use ndarray::{Array2, ArrayD, array};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tensorpool::{Config, Error, ErrorKind, Gpu, Pool, Request, SlabPolicy};

const KIB: u64 = 1 << 10;

#[test]
fn what_is_uploaded_comes_back() {
    let Some(pool) = gpu::pool("what_is_uploaded_comes_back", Config::new("8 MiB")) else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    fn roundtrip<T: Pod + PartialEq + std::fmt::Debug>(pool: &Pool<Gpu>, rng: &mut ChaCha8Rng, len: usize) {
        let elements = random::<T>(rng, len);
        let array = ArrayD::from_shape_vec(vec![len], elements.clone()).unwrap();
        let tensor = pool.from_array(&array).unwrap();
        assert_eq!(tensor.to_array().unwrap().into_raw_vec_and_offset().0, elements, "{len}");
    }
    for len in [0, 1, 2, 3, 4, 5, 63, 64, 65, 1023, 32 * 1024, 32 * 1024 + 1, 131_072, 1_000_003] {
        roundtrip::<u8>(&pool, &mut rng, len);
        roundtrip::<u16>(&pool, &mut rng, len);
        roundtrip::<i32>(&pool, &mut rng, len);
        roundtrip::<u64>(&pool, &mut rng, len / 2);
    }
    let half = array![[half::f16::from_f32(0.5), half::f16::from_f32(-2.0), half::f16::MAX]];
    assert_eq!(pool.from_array(&half).unwrap().to_array().unwrap(), half.into_dyn());
    pool.check();
    assert_eq!(pool.stats().staging_bytes, 256 * KIB, "the ring does not grow");
    let transposed = Array2::from_shape_fn((37, 11), |(r, c)| (r * 100 + c) as f32).reversed_axes();
    assert_eq!(pool.from_array(&transposed).unwrap().to_array().unwrap(), transposed.into_dyn());
}

#[test]
fn copies_work_between_slabs_and_inside_one() {
    for policy in [SlabPolicy::Single, SlabPolicy::PerBlock] {
        let Some(pool) = gpu::pool("copies_work_between_slabs_and_inside_one", Config::new("4 MiB").slabs(policy))
        else {
            return;
        };
        let source = Array2::from_shape_fn((311, 97), |(r, c)| (r * 97 + c) as f32);
        let a = pool.from_array(&source).unwrap();
        let mut b = pool.uninit::<f32>([311, 97]).unwrap();
        assert_eq!(a.block().slab() == b.block().slab(), policy == SlabPolicy::Single);
        b.copy_from(&a).unwrap();
        assert_eq!(b.to_array().unwrap(), source.clone().into_dyn());
        let error = b.copy_from(&pool.zeros::<f32>([97, 311]).unwrap()).unwrap_err();
        assert!(error.to_string().contains("[97, 311]") && error.to_string().contains("[311, 97]"), "{error}");
        assert!(b.copy_range_from(30_160, &a, 0..8).is_err());
        let other = gpu::pool("", Config::new("4 MiB")).unwrap();
        assert_eq!(b.copy_from(&other.zeros([311, 97]).unwrap()).unwrap_err().kind(), ErrorKind::Foreign);
    }
}

#[test]
fn bytes_that_are_no_words_are_refused_inside_a_tensor() {
    let Some(pool) = gpu::pool("bytes_that_are_no_words_are_refused_inside_a_tensor", Config::new("1 MiB")) else {
        return;
    };
    let mut a = pool.from_array(&array![1u8, 2, 3, 4, 5, 6, 7]).unwrap();
    let mut b = pool.zeros::<u8>([7]).unwrap();
    assert_eq!(b.copy_range_from(1, &a, 0..4).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(b.copy_range_from(0, &a, 0..3).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(a.block_mut().upload(2, &[0; 4]).unwrap_err().kind(), ErrorKind::Shape);
    b.copy_range_from(4, &a, 4..7).unwrap();
    assert_eq!(b.to_array().unwrap(), array![0u8, 0, 0, 0, 5, 6, 7].into_dyn());
    b.fill(9).unwrap();
    assert_eq!(b.to_array().unwrap(), array![9u8, 9, 9, 9, 9, 9, 9].into_dyn());
}

#[test]
fn fills_repeat_any_element() {
    let Some(pool) = gpu::pool("fills_repeat_any_element", Config::new("4 MiB").staging(1024)) else { return };
    for len in [1usize, 3, 31, 32, 33, 1000, 100_000] {
        let mut bytes = pool.uninit::<u8>([len]).unwrap();
        bytes.fill(0xAB).unwrap();
        assert!(bytes.to_array().unwrap().iter().all(|x| *x == 0xAB), "{len}");
        let mut triples = pool.uninit::<[u8; 3]>([len]).unwrap();
        triples.fill([1, 2, 3]).unwrap();
        assert!(triples.to_array().unwrap().iter().all(|x| *x == [1, 2, 3]), "{len}");
        let mut floats = pool.uninit::<f32>([len]).unwrap();
        floats.fill(-1.5).unwrap();
        assert!(floats.to_array().unwrap().iter().all(|x| *x == -1.5), "{len}");
        floats.fill(0.0).unwrap();
        assert!(floats.to_array().unwrap().iter().all(|x| *x == 0.0), "{len}");
    }
    let none = gpu::pool("", Config::new("1 MiB").staging(0)).unwrap();
    assert_eq!(none.from_array(&array![1u32]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(none.zeros::<u32>([4]).unwrap().fill(1).unwrap_err().kind(), ErrorKind::Invalid);
}

/// A device whose bindings start at multiples of 256 bytes: then a range may start 0 to 63 words into its binding.
fn coarse(test: &str, config: &Config) -> Option<(wgpu::Instance, Pool<Gpu>)> {
    gpu::device(test)?;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).unwrap();
    assert_eq!(device.limits().min_storage_buffer_offset_alignment, 256);
    let pool = Pool::gpu(&device, &queue, config.clone()).unwrap();
    Some((instance, pool))
}

#[test]
fn a_copy_inside_a_slab_is_exact_from_and_to_every_word() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single);
    let test = "a_copy_inside_a_slab_is_exact_from_and_to_every_word";
    let Some((instance, pool)) = coarse(test, &config) else { return };
    let pipelines = || instance.generate_report().unwrap().hub.compute_pipelines.num_allocated;
    const WORDS: usize = 64 * 257 + 200;
    let elements: Vec<u32> = (0..WORDS as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let mut source = pool.uninit::<u32>([WORDS]).unwrap();
    source.upload(&elements).unwrap();
    let mut target = pool.uninit::<u32>([WORDS]).unwrap();
    // Fewer than a row of workgroups, a few more than some rows, and more than all 64.
    for words in [1, 63, 64, 65, 255, 256, 257, 64 * 256, 64 * 256 + 1] {
        let step = if words < 256 { 1 } else { 7 };
        for from in (0..64).step_by(step) {
            let mut expected = vec![7; WORDS];
            target.fill(7).unwrap();
            // Apart, so that a word too many on either side shows.
            let mut to = from % 3;
            while to + words <= WORDS && to < 64 * (words + 1) {
                expected[to..to + words].copy_from_slice(&elements[from..from + words]);
                target.copy_range_from(to, &source, from..from + words).unwrap();
                to += words + 1;
            }
            let mut seen = vec![0; WORDS];
            target.download(&mut seen).unwrap();
            assert!(seen == expected, "{words} words from word {from}");
        }
    }
    assert_eq!(pipelines(), 2, "one for copies and one for fills");
    pool.check();
}

#[test]
fn a_fill_is_exact_for_every_length_and_pattern() {
    let config = Config::new("32 MiB").slabs(SlabPolicy::Single);
    let Some((_, pool)) = coarse("a_fill_is_exact_for_every_length_and_pattern", &config) else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let [before, mut filled, after] = [(); 3].map(|()| pool.uninit::<u8>([70_000]).unwrap());
    let lengths = (1..20).chain([255, 256, 257, 767, 768, 769, 1023, 1024, 1025, 9_999, 65_536, 69_999, 70_000]);
    for pattern_bytes in [1, 2, 3, 4, 5, 8, 12, 16, 100, 255, 256, 257, 300, 5_000, 70_001] {
        let mut pattern = random::<u8>(&mut rng, pattern_bytes);
        // Not zeros alone, which are cleared.
        pattern[0] |= 1;
        for len in lengths.clone().filter(|len| len % 4 == 0 || *len == 70_000) {
            filled.fill(9).unwrap();
            filled.block_mut().fill(len as u64, &pattern).unwrap();
            let expected = pattern.iter().copied().cycle().take(len).chain(std::iter::repeat_n(9, 70_000 - len));
            assert!(filled.to_array().unwrap().into_iter().eq(expected), "{len} bytes of {pattern_bytes}");
        }
    }
    // The last word is cut, as a tensor of bytes ends in it.
    for len in lengths {
        let mut odd = pool.uninit::<u8>([len]).unwrap();
        odd.fill(0xAB).unwrap();
        assert!(odd.to_array().unwrap().iter().all(|byte| *byte == 0xAB), "{len}");
        let mut triples = pool.uninit::<[u8; 3]>([len / 3]).unwrap();
        triples.fill([1, 2, 3]).unwrap();
        assert!(triples.to_array().unwrap().iter().all(|triple| *triple == [1, 2, 3]), "{len}");
    }
    drop((before, after));
    // More than one round of the shader, and patterns that leave some of its invocations out. The longest is one of 4 MiB.
    let mut large = pool.uninit::<u32>([3_000_001]).unwrap();
    for words in [1, 3, 1000, 10_001, 1 << 20] {
        let pattern = random::<u32>(&mut rng, words);
        large.block_mut().fill(12_000_004, bytemuck::cast_slice(&pattern)).unwrap();
        let expected = pattern.iter().copied().cycle().take(3_000_001);
        let seen = large.to_array().unwrap();
        assert!(seen.into_iter().eq(expected), "{words} words");
    }
    // A longer one is refused where it would be repeated.
    for (pattern_bytes, is_ok) in
        [(4 << 20, true), ((4 << 20) + 256, false), ((16 << 10) - 1, true), ((16 << 10) + 1, false)]
    {
        let pattern = random::<u8>(&mut rng, pattern_bytes);
        let result = large.block_mut().fill(12_000_004, &pattern);
        assert_eq!(result.as_ref().err().map(Error::kind), (!is_ok).then_some(ErrorKind::Invalid), "{pattern_bytes}");
        let [mut seen, mut whole] = [(); 2].map(|()| vec![0; pattern_bytes]);
        large.block().download(0, &mut seen[..pattern_bytes / 4 * 4]).unwrap();
        assert_eq!(seen[..1000] == pattern[..1000], is_ok, "{pattern_bytes}: refused, and nothing is written");
        let mut exact = pool.alloc(Request::bytes(pattern_bytes as u64)).unwrap();
        exact.fill(pattern_bytes as u64, &pattern).unwrap();
        exact.download(0, &mut whole).unwrap();
        assert!(whole == pattern, "{pattern_bytes}");
    }
    pool.check();
}

#[test]
fn a_copy_inside_a_slab_may_be_larger_than_one_dispatch_of_its_shader() {
    let test = "a_copy_inside_a_slab_may_be_larger_than_one_dispatch_of_its_shader";
    let Some(pool) = gpu::pool(test, Config::new("140 MiB").slabs(SlabPolicy::Single)) else { return };
    // 65,535 workgroups of 256 words are 64 MiB.
    let elements: Vec<u32> = (0..17_000_000).map(|i: u32| i.wrapping_mul(2_654_435_761)).collect();
    let mut source = pool.uninit::<u32>([elements.len()]).unwrap();
    source.upload(&elements).unwrap();
    let mut target = pool.uninit::<u32>([elements.len()]).unwrap();
    assert_eq!(source.block().slab(), target.block().slab());
    target.copy_from(&source).unwrap();
    let mut seen = vec![0; elements.len()];
    target.download(&mut seen).unwrap();
    assert!(seen == elements);
}

#[test]
fn bindings_are_exact_and_never_empty() {
    let Some(pool) = gpu::pool("bindings_are_exact_and_never_empty", Config::new("1 MiB")) else { return };
    pool.encode(|encoder| {
        for (len, bytes) in [(1usize, 4u64), (5, 20), (1000, 4000)] {
            let tensor = pool.uninit::<f32>([len])?;
            let binding = tensor.binding(encoder)?;
            assert_eq!(binding.size.unwrap().get(), bytes);
            assert_eq!(binding.offset % pool.limits().alignment_bytes, 0);
        }
        let odd = pool.uninit::<u8>([5])?;
        assert_eq!(odd.binding(encoder)?.size.unwrap().get(), 8);
        let empty = pool.uninit::<f32>([3, 0])?;
        let error = empty.binding(encoder).unwrap_err();
        assert!(error.kind() == ErrorKind::Shape && error.to_string().contains("[3, 0]"), "{error}");
        Ok(())
    })
    .unwrap();
}

/// What has no elements works like the rest, or says why not.
#[test]
fn tensors_without_elements_are_filled_copied_and_moved_like_others() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single);
    let test = "tensors_without_elements_are_filled_copied_and_moved_like_others";
    let Some(pool) = gpu::pool(test, config) else { return };
    let [mut a, mut b] = [(); 2].map(|()| pool.zeros::<f32>([3, 0]).unwrap());
    a.upload(&[]).unwrap();
    a.fill(1.5).unwrap();
    a.fill(0.0).unwrap();
    b.copy_from(&a).unwrap();
    b.copy_range_from(0, &a, 0..0).unwrap();
    a.download(&mut []).unwrap();
    assert_eq!(a.to_array().unwrap().shape(), [3, 0]);
    assert_eq!(pool.from_array(&Array2::<f32>::zeros((0, 4))).unwrap().to_array().unwrap().shape(), [0, 4]);
    let error = a.lend().unwrap_err();
    assert!(error.kind() == ErrorKind::Shape && error.to_string().contains("[3, 0]"), "{error}");
    assert_eq!(pool.compact([&mut a]).unwrap().blocks_moved, 0);
    assert_eq!(a.block_mut().upload(0, &[1]).unwrap_err().kind(), ErrorKind::Shape);
    // Ranges without elements of a tensor that has some, to its very end.
    let mut c = pool.from_array(&array![1u32, 2]).unwrap();
    let d = pool.from_array(&array![3u32, 4]).unwrap();
    for at in 0..=2 {
        c.copy_range_from(at, &d, at..at).unwrap();
        c.block_mut().upload(4 * at as u64, &[]).unwrap();
        c.block().download(4 * at as u64, &mut []).unwrap();
    }
    c.block_mut().fill(0, &[1]).unwrap();
    assert_eq!(c.to_array().unwrap(), array![1u32, 2].into_dyn());
    pool.submit_lent([], []).unwrap();
    pool.check();
}

#[test]
fn two_tensors_of_one_slab_are_bound_in_one_dispatch() {
    let config = Config::new("1 MiB").slabs(SlabPolicy::Single);
    let Some(pool) = gpu::pool("two_tensors_of_one_slab_are_bound_in_one_dispatch", config) else { return };
    let device = pool.backend().device();
    let source = "@group(0) @binding(0) var<storage, read_write> a: array<f32>;
        @group(0) @binding(1) var<storage, read_write> b: array<f32>;
        @compute @workgroup_size(1) fn main() { b[0] = a[0] + 1.0; }";
    let pipeline = gpu::pipeline(device, source);
    let a = pool.from_array(&array![41.0f32]).unwrap();
    let b = pool.zeros::<f32>([1]).unwrap();
    assert_eq!(a.block().slab(), b.block().slab());
    pool.encode(|encoder| {
        gpu::record(device, &pipeline, &[a.binding(encoder)?, b.binding(encoder)?], 1, encoder);
        Ok(())
    })
    .unwrap();
    assert_eq!(b.to_array().unwrap(), array![42.0f32].into_dyn());
}
