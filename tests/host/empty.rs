//! What has no elements, or no bytes, works like the rest or says why it does not.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use ndarray::{Array1, Array2, Ix1, Ix2, IxDyn};
use tensorpool::plan::{self, Options};
use tensorpool::trace::{self, Trace, TraceBuilder};
use tensorpool::{Block, Config, ErrorKind, Host, Pool, Request, Tensor};

fn pool() -> Pool<Host> {
    Pool::host(Config::new("64 KiB")).unwrap()
}

fn nothing() -> Request<'static> {
    Request::bytes(0)
}

#[test]
fn blocks_of_zero_bytes_work() {
    let pool = pool();
    let other = pool.alloc(Request::bytes(64)).unwrap();
    let mut empty = pool.alloc(nothing().label("empty").zeroed()).unwrap();
    assert_eq!((empty.bytes(), empty.bytes_held(), empty.slab(), empty.label().text()), (0, 0, None, "empty"));
    empty.upload(0, &[]).unwrap();
    empty.download(0, &mut []).unwrap();
    empty.fill(0, &[7]).unwrap();
    empty.copy_from(0, &other, 64, 0).unwrap();
    assert_eq!(empty.as_bytes().unwrap(), [0; 0]);
    assert_eq!(empty.as_bytes_mut().unwrap(), [0; 0]);
    assert_eq!(empty.upload(0, &[1]).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(empty.upload(1, &[]).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(empty.fill(1, &[7]).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(empty.copy_from(0, &other, 0, 1).unwrap_err().kind(), ErrorKind::Shape);
    let hold = empty.hold();
    drop(empty);
    drop(hold);
    assert_eq!((pool.stats().blocks, pool.stats().retired_bytes), (1, 0));
    pool.check();
}

#[test]
fn a_pattern_of_no_bytes_is_refused() {
    let mut block = pool().alloc(Request::bytes(64)).unwrap();
    assert_eq!(block.fill(64, &[]).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn batches_of_nothing_work() {
    let pool = pool();
    assert!(pool.alloc_all(&[]).unwrap().is_empty());
    assert!(pollster::block_on(pool.alloc_all_async(&[])).unwrap().is_empty());
    assert_eq!(pollster::block_on(pool.alloc_async(nothing())).unwrap().bytes(), 0);
    let bytes: Vec<u64> =
        pool.alloc_all(&[nothing(), Request::bytes(5), nothing()]).unwrap().iter().map(Block::bytes).collect();
    assert_eq!(bytes, [0, 5, 0]);
    assert_eq!(pool.stats().reserved_bytes, pool.stats().cached_bytes + pool.stats().free_bytes);
}

#[test]
fn tensors_without_elements_are_viewed() {
    let pool = pool();
    for shape in [vec![0], vec![0, 3], vec![3, 0], vec![2, 0, 4]] {
        let mut tensor = pool.zeros::<f64>(&shape[..]).unwrap();
        assert_eq!((tensor.elements(), tensor.bytes(), tensor.shape()), (0, 0, &shape[..]));
        assert_eq!(tensor.as_slice().unwrap(), [0.0; 0]);
        assert_eq!(tensor.as_slice_mut().unwrap(), [0.0; 0]);
        assert_eq!(tensor.view::<IxDyn>().unwrap().shape(), shape);
        assert_eq!(tensor.view_mut::<IxDyn>().unwrap().shape(), shape);
        assert_eq!(tensor.to_array().unwrap().shape(), shape);
        tensor.upload(&[]).unwrap();
        tensor.download(&mut []).unwrap();
        tensor.fill(1.0).unwrap();
        let like = pool.uninit::<f64>(&shape[..]).unwrap();
        tensor.copy_from(&like).unwrap();
        tensor.copy_range_from(0, &like, 0..0).unwrap();
        tensor.reshape([5, 0]).unwrap();
        assert_eq!(tensor.view::<Ix2>().unwrap().dim(), (5, 0));
        assert_eq!(tensor.upload(&[1.0]).unwrap_err().kind(), ErrorKind::Shape);
    }
    let from = pool.from_array(&Array2::<u64>::zeros((0, 7))).unwrap();
    assert_eq!(from.view::<Ix2>().unwrap().dim(), (0, 7));
    assert_eq!(pool.from_array(&Array1::<u8>::zeros(0)).unwrap().view::<Ix1>().unwrap().len(), 0);
}

#[test]
fn elements_without_bytes_are_refused() {
    let pool = pool();
    let errors = [
        pool.zeros::<()>([1, 1]).unwrap_err(),
        pool.uninit::<[f32; 0]>([4]).unwrap_err(),
        pool.from_array(&Array1::from(vec![(), ()])).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Type);
        assert!(error.to_string().contains("have no bytes"), "{error}");
    }
}

#[test]
fn nothing_is_compacted() {
    let pool = pool();
    let (mut blocks, mut empty) = (Vec::<Block<Host>>::new(), [pool.alloc(nothing()).unwrap()]);
    let mut tensor: Tensor<f32, Host> = pool.zeros([0]).unwrap();
    assert_eq!(pool.compact(&mut blocks).unwrap().blocks_moved, 0);
    assert_eq!(pool.compact(&mut empty).unwrap().blocks_moved, 0);
    assert_eq!(pool.compact([&mut tensor]).unwrap().blocks_moved, 0);
}

#[test]
fn steps_of_nothing_are_planned_or_refused() {
    let pool = pool();
    let plan = plan::solve(&[], &Options::new().align(64)).unwrap();
    assert_eq!(plan.height, 0);
    let refused = pool.follow_plan(&[], &plan).unwrap_err();
    assert_eq!((refused.kind(), refused.to_string().contains("without a single block")), (ErrorKind::Invalid, true));
    let steps = pool.auto_plan().unwrap();
    for _ in 0..5 {
        pool.mark_step();
        drop(pool.alloc(nothing()).unwrap());
    }
    assert_eq!(steps.report().allocations_planned, 0);
}

#[test]
fn traces_of_nothing_are_replayed() {
    let trace = TraceBuilder::new("nothing").finish();
    let text = Trace::parse(trace.to_text().as_bytes(), "nothing").unwrap();
    assert_eq!((text.len(), text[0].events().len(), text[0].live_peak_bytes()), (1, 0, 0));
    let done = trace::replay(&trace, &pool()).unwrap();
    assert_eq!((done.events, done.failures, done.reserved_peak_bytes), (0, 0, 0));
    let open = |budget_bytes| Pool::host(Config::new(budget_bytes));
    let found = trace::min_budget(&trace, open, |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!((found.lowest_bytes, found.safe_bytes, found.lowest_ratio()), (0, Some(0), None));
    assert!(trace.lifetimes().is_empty());

    let (pool, written) = (pool(), Arc::new(Mutex::new(Vec::new())));
    let recording = pool.record_to(Shared(Arc::clone(&written))).unwrap();
    drop(pool.alloc(nothing()).unwrap());
    recording.finish().unwrap();
    let recorded = Trace::parse(&written.lock().unwrap(), "recorded").unwrap();
    assert_eq!(recorded[0].live_peak_bytes(), 0);
}

/// A writer whose bytes can be seen afterwards.
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
