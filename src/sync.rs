//! Locks, atomics and threads, all of them: no other module names `std::sync`, `std::thread` or a crate in their place.
//!
//! Three kinds, one shape. Normally parking_lot's locks and std's atomics and threads. Under the feature `loom` loom's, which
//! tries every interleaving and every order in which memory may be seen: for the lock-free parts, in small cases. Under the
//! feature `shuttle` shuttle's, which tries random interleavings of whole runs, with sequentially consistent atomics. With
//! both, loom's.
//!
//! The shape is parking_lot's: `lock()` gives the guard, `Condvar::wait` takes it by reference, nothing is ever poisoned. Under
//! the checkers a lock that a panicking thread held is taken all the same: the panic fails the test anyway.
//!
//! [`Arc`] and [`OnceLock`] are std's in all three: neither checker has something to say about a counter of owners, and a cell that
//! is set once is one step to them. (Loom's own `Arc` takes neither slices nor trait objects, and it has no `OnceLock`.) So
//! under loom what such a cell holds must have been set before the threads begin that read it.

#[cfg(any(feature = "loom", feature = "shuttle"))]
mod checked;

#[cfg(any(feature = "loom", feature = "shuttle"))]
pub use checked::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult, atomic, thread,
};
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult};
pub use std::sync::{Arc, OnceLock, Weak};
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub use std::{sync::atomic, thread};

/// What many threads write, on lines of the cache of its own, two of which processors fetch at once: so that others need not fetch anew what
/// stands beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub T);

impl<T> std::ops::Deref for Apart<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Runs a test of interleavings: under loom all of them, with up to two preemptions, or as many as `LOOM_MAX_PREEMPTIONS` says; under shuttle thousands, with few preemptions each at
/// random places; else one. Such tests stand in modules named `interleaved`, so that
/// `for f in loom shuttle; do cargo test -p flowmerge --lib --features $f interleaved; done` runs them all and no others (which
/// have no business on a checker's threads). It takes both: loom alone knows weak memory, but takes no notice that a store may come between
/// another thread's loads if its own thread loaded the same word just before.
#[cfg(test)]
pub(crate) fn check(test: impl Fn() + Send + Sync + 'static) {
    #[cfg(feature = "loom")]
    {
        let mut all = loom::model::Builder::new();
        // As many preemptions as most bugs of such code are known to need. Three take minutes; without a bound a test takes hours.
        all.preemption_bound = all.preemption_bound.or(Some(2));
        all.max_branches = 10_000;
        all.check(test);
    }
    #[cfg(all(feature = "shuttle", not(feature = "loom")))]
    shuttle::check_pct(test, 5_000, 3);
    #[cfg(not(any(feature = "loom", feature = "shuttle")))]
    test();
}

#[cfg(test)]
mod interleaved {
    use super::{Arc, Condvar, Mutex, RwLock, atomic::*, check, thread};

    /// The guard is handed to the condvar and comes back, and what was written before the lock was freed is seen after it was taken.
    #[test]
    fn a_value_is_handed_over_with_lock_and_condvar() {
        check(|| {
            let shared = Arc::new((Mutex::new(false), Condvar::new(), AtomicU64::new(0), RwLock::new(1)));
            let other = Arc::clone(&shared);
            let thread = thread::spawn(move || {
                let (ready, changed, value, base) = &*other;
                value.store(*base.read() + 6, Ordering::Relaxed);
                *ready.lock() = true;
                changed.notify_one();
            });
            let (ready, changed, value, base) = &*shared;
            let mut guard = ready.lock();
            while !*guard {
                changed.wait(&mut guard);
            }
            assert_eq!(value.load(Ordering::Relaxed), 7);
            drop(guard);
            thread.join().expect("ends");
            assert!(ready.try_lock().is_some());
            *base.write() = 2;
            assert_eq!(*base.read(), 2);
        });
    }
}
