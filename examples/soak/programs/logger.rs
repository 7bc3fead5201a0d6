//! A logger for the crate `log` that reads what it is told, and panics where the program of its thread wants it.

use std::cell::RefCell;
use std::sync::{Arc, Once};

use log::{LevelFilter, Log, Metadata, Record};

use super::bombs::Callback;
use super::trouble::Trouble;

thread_local! {
    /// What goes wrong on this thread.
    static TROUBLE: RefCell<Option<Arc<Trouble>>> = const { RefCell::new(None) };
}

/// From now on the logger panics on this thread as `trouble` says.
pub fn attend(trouble: &Arc<Trouble>) {
    install();
    // A thread that ends has no such place any more, and logs nothing.
    let _ = TROUBLE.try_with(|place| {
        let is_other = !place.borrow().as_ref().is_some_and(|before| Arc::ptr_eq(before, trouble));
        if is_other {
            place.replace(Some(Arc::clone(trouble)));
        }
    });
}

/// From now on it does not.
pub fn forget() {
    TROUBLE.with(|place| drop(place.take()));
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another logger may be there: then that is called.
        if log::set_logger(&Logger).is_ok() {
            log::set_max_level(LevelFilter::Warn);
        }
    });
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        assert!(!record.args().to_string().is_empty());
        let trouble = TROUBLE.try_with(|place| place.borrow().clone()).ok().flatten();
        if let Some(trouble) = trouble {
            trouble.pass(Callback::Log);
        }
    }

    fn flush(&self) {}
}
