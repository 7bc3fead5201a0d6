//! Tensors that move between buffers, and that grow and shrink in one.

use crate::support::gpu;
use ndarray::Array1;
use tensorpool::{Config, ErrorKind, Gpu, Movable, Pool, SlabPolicy, Tensor};

const KIB: u64 = 1 << 10;

fn filled(pool: &Pool<Gpu>, len: usize, first: u32) -> Tensor<u32, Gpu> {
    pool.from_array(&Array1::from_iter((0..len as u32).map(|at| at.wrapping_mul(2_654_435_761) ^ first))).unwrap()
}

fn check(tensor: &Tensor<u32, Gpu>, first: u32) {
    let elements = tensor.to_array().unwrap();
    assert!((0..).zip(&elements).all(|(at, x): (u32, _)| *x == at.wrapping_mul(2_654_435_761) ^ first), "{tensor:?}");
}

#[test]
fn a_compaction_empties_buffers() {
    let config = Config::new("2 MiB").slabs(SlabPolicy::Fixed(256 << 10));
    let Some(pool) = gpu::pool("a_compaction_empties_buffers", config) else { return };
    let mut tensors: Vec<_> = (0..16).map(|first| filled(&pool, 15 << 10, first)).collect();
    let mut odd = pool.from_array(&Array1::from_iter((0..999u32).map(|at| at as u8))).unwrap();
    let slabs = pool.stats().slabs;
    assert!(slabs >= 4, "{slabs}");
    // One of the four in each buffer stays: all of them, and the odd one, have room in one.
    tensors = tensors.into_iter().step_by(4).collect();
    let loan = tensors[0].lend().unwrap();
    let lent_slab = tensors[0].block().slab();
    let lent =
        tensors.iter_mut().map(|tensor| tensor as &mut dyn Movable<Gpu>).chain([&mut odd as &mut dyn Movable<Gpu>]);
    let done = pool.compact(lent).unwrap();
    assert!(done.blocks_moved >= 3 && done.empty_bytes >= 2 * 256 * KIB, "{done}");
    // What is lent to work that the pool does not see stays where it is, and the others come to it.
    assert!(tensors.iter().all(|tensor| tensor.block().slab() == lent_slab), "{tensors:?}");
    loan.cancel();
    for (first, tensor) in (0..16).step_by(4).zip(&tensors) {
        check(tensor, first);
    }
    assert!((0..999u32).zip(&odd.to_array().unwrap()).all(|(at, x)| *x == at as u8));
    assert!(pool.trim() >= 2 * 256 * KIB);
    // In its new buffer a tensor is bound as any other.
    let pipeline = gpu::doubling(pool.backend().device());
    let mut floats = [pool.zeros::<f32>([1000]).unwrap()];
    floats[0].fill(1.5).unwrap();
    pool.compact(&mut floats).unwrap();
    pool.encode(|encoder| {
        gpu::record(pool.backend().device(), &pipeline, &[floats[0].binding(encoder)?], 16, encoder);
        Ok(())
    })
    .unwrap();
    assert!(floats[0].to_array().unwrap().iter().all(|x| *x == 3.0));
    pool.check();
}

#[test]
fn a_tensor_grows_in_its_buffer() {
    let config = Config::new("2 MiB").slabs(SlabPolicy::Single);
    let Some(pool) = gpu::pool("a_tensor_grows_in_its_buffer", config) else { return };
    // What was there before is no zero.
    let mut dirt = pool.zeros::<u32>([400 << 10]).unwrap();
    dirt.fill(0xa5a5_a5a5).unwrap();
    drop(dirt);
    let mut cache = pool.from_array(&ndarray::Array2::<u32>::from_elem((3, 100), 7)).unwrap();
    let place = (cache.block().slab(), cache.block().offset());
    for rows in 4..300 {
        cache.try_grow_zeroed(rows).unwrap();
    }
    assert_eq!((cache.block().slab(), cache.block().offset()), place);
    let elements = cache.to_array().unwrap().into_raw_vec_and_offset().0;
    assert!(elements[..300].iter().all(|x| *x == 7) && elements[300..].iter().all(|x| *x == 0));
    cache.shrink(2).unwrap();
    assert!(cache.to_array().unwrap().iter().all(|x| *x == 7));
    // Not of whole words.
    let mut bytes = pool.zeros::<u8>([50_001]).unwrap();
    let held_bytes = bytes.block().bytes_held();
    assert_eq!(bytes.try_grow_zeroed(70_000).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!((bytes.shape(), bytes.block().bytes_held()), (&[50_001][..], held_bytes));
    bytes.try_grow(70_000).unwrap();
    // It may be right behind the cache.
    drop(bytes);
    // Inside the closure that records, nothing is zeroed; to grow needs no stream.
    pool.encode(|_| {
        assert_eq!(cache.try_grow_zeroed(50).unwrap_err().kind(), ErrorKind::Recording);
        cache.try_grow(50)?;
        cache.shrink(3)
    })
    .unwrap();
    pool.check();
}
