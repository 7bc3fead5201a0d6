//! A thread that records has the backend's stream: no drop waits for it, and what is freed meanwhile is zeroed later.

use std::sync::{Mutex, MutexGuard, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tensorpool::backend::{CopyDst, CopySrc, HostSlab, Span, SpanMut};
use tensorpool::{Backend, Config, Error, ErrorKind, Host, HostMemory, Limits, Pool, Request, Result, SlabPolicy};

const KIB: u64 = 1 << 10;
const LONG: Duration = Duration::from_secs(60);

/// Host memory behind one stream, which a thread has while it records, as that of a GPU.
#[derive(Default)]
struct Streamed {
    stream: Mutex<()>,
    owner: Mutex<Option<ThreadId>>,
}

struct Recorder<'a> {
    streamed: &'a Streamed,
    _stream: MutexGuard<'a, ()>,
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        *self.streamed.owner.lock().unwrap() = None;
    }
}

impl Streamed {
    fn record(&self) -> Result<Recorder<'_>> {
        if self.is_recording() {
            return Err(Error::new(ErrorKind::Recording, "this thread records"));
        }
        let stream = self.stream.lock().unwrap();
        *self.owner.lock().unwrap() = Some(thread::current().id());
        Ok(Recorder { streamed: self, _stream: stream })
    }
}

impl Backend for Streamed {
    type Slab = HostSlab;

    fn name(&self) -> &str {
        "streamed"
    }

    fn limits(&self) -> Limits {
        Host.limits()
    }

    fn create_slab(&self, bytes: u64) -> Result<HostSlab> {
        Host.create_slab(bytes)
    }

    fn upload(&self, slab: &HostSlab, span: SpanMut<'_>, at: u64, bytes: &[u8]) -> Result<()> {
        let _recorder = self.record()?;
        Host.upload(slab, span, at, bytes)
    }

    fn download(&self, slab: &HostSlab, span: Span<'_>, at: u64, bytes: &mut [u8]) -> Result<()> {
        let _recorder = self.record()?;
        Host.download(slab, span, at, bytes)
    }

    fn fill(&self, slab: &HostSlab, span: SpanMut<'_>, len: u64, pattern: &[u8]) -> Result<()> {
        let _recorder = self.record()?;
        Host.fill(slab, span, len, pattern)
    }

    fn zero_if_free(&self, slab: &HostSlab, span: SpanMut<'_>, len: u64) -> Result<bool> {
        match self.stream.try_lock() {
            Ok(_stream) => Host.fill(slab, span, len, &[0]).map(|()| true),
            Err(_) => Ok(false),
        }
    }

    fn is_recording(&self) -> bool {
        *self.owner.lock().unwrap() == Some(thread::current().id())
    }

    fn copy(&self, from: CopySrc<'_, HostSlab>, to: CopyDst<'_, HostSlab>, len: u64) -> Result<()> {
        let _recorder = self.record()?;
        Host.copy(from, to, len)
    }
}

impl HostMemory for Streamed {
    fn bytes<'a>(&self, slab: &'a HostSlab, span: Span<'a>) -> Result<&'a [u8]> {
        Host.bytes(slab, span)
    }

    fn bytes_mut<'a>(&self, slab: &'a HostSlab, span: SpanMut<'a>) -> Result<&'a mut [u8]> {
        Host.bytes_mut(slab, span)
    }
}

fn streamed(zeroes: bool) -> Pool<Streamed> {
    let config = Config::new(64 * KIB).slabs(SlabPolicy::Single).zero_on_free(zeroes);
    Pool::with_backend(Streamed::default(), &config).unwrap()
}

/// The thread that has the stream may be waiting for the very block.
#[test]
fn a_drop_does_not_wait_for_the_stream() {
    for zeroes in [false, true] {
        let pool = streamed(zeroes);
        let all = pool.alloc(Request::bytes(64 * KIB)).unwrap();
        let recorder = pool.backend().record().unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            drop(all);
            sender.send(()).unwrap();
        });
        receiver.recv_timeout(LONG).expect("the drop waits for the stream");
        let waited = pool.alloc(Request::bytes(KIB).wait(LONG)).map(drop);
        assert_eq!(waited.map_err(|error| error.kind()), if zeroes { Err(ErrorKind::Recording) } else { Ok(()) });
        assert_eq!(pool.stats().retired_bytes, if zeroes { 64 * KIB } else { 0 });
        assert_eq!(pool.stats().failures, u64::from(zeroes));
        drop(recorder);
        assert_eq!(pool.alloc(Request::bytes(64 * KIB).wait(LONG)).unwrap().bytes(), 64 * KIB);
        pool.check();
    }
}

/// A request that does not wait in line, and would fail, waits for the stream instead: what was freed is as good as free.
#[test]
fn what_was_freed_while_another_thread_recorded_is_found() {
    let pool = streamed(true);
    let mut all = pool.alloc(Request::bytes(64 * KIB)).unwrap();
    all.as_bytes_mut().unwrap().fill(0xa5);
    let recorder = pool.backend().record().unwrap();
    let other = pool.clone();
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        drop(all);
        assert_eq!(other.stats().retired_bytes, 64 * KIB);
        sender.send(()).unwrap();
        other.alloc(Request::bytes(64 * KIB))
    });
    receiver.recv_timeout(LONG).unwrap();
    // A request of this thread finds nothing, and does not wait for itself.
    assert!(pool.alloc(Request::bytes(KIB)).unwrap_err().is_full());
    thread::sleep(Duration::from_millis(50));
    drop(recorder);
    let whole = thread.join().unwrap().unwrap();
    assert!(whole.as_bytes().unwrap().iter().all(|byte| *byte == 0));
    drop(whole);
    pool.check();
}

/// A thread that waits in line gets what was freed while another recorded, once that has ended; so does a future.
#[test]
fn a_waiter_gets_what_was_freed_while_another_thread_recorded() {
    let pool = streamed(true);
    for is_future in [false, true] {
        let all = pool.alloc(Request::bytes(64 * KIB)).unwrap();
        let recorder = pool.backend().record().unwrap();
        let other = pool.clone();
        let thread = thread::spawn(move || {
            let request = Request::bytes(64 * KIB).wait(LONG);
            if is_future { pollster::block_on(other.alloc_async(request)) } else { other.alloc(request) }
        });
        while pool.stats().waiting == 0 {
            thread::yield_now();
        }
        drop(all);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(pool.stats().waiting, 1);
        drop(recorder);
        assert_eq!(thread.join().unwrap().unwrap().bytes(), 64 * KIB);
        pool.check();
    }
}
