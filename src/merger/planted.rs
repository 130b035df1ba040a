//! Faults that the tests of the tests plant, to see that the checker finds them (`tests/interleave`).
//!
//! Only under the feature `shuttle`: otherwise nothing is planted, and the questions cost nothing.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Who wants a merged filter gone does not wait for the thread that is about it.
    NotWaited,
    /// A merged filter is seen to be gone before its parents have its last counts.
    FreedFirst,
    /// Whose install is in flight is not told that it must go.
    NotRecalled,
}

#[cfg(feature = "shuttle")]
std::thread_local! {
    // The checker's threads all run on the system's thread that called it: so tests beside this one are not hurt.
    static PLANTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Plants a fault in what this thread checks, or takes it out again.
#[cfg(feature = "shuttle")]
pub fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}

/// Whether it is planted.
#[inline]
pub(super) fn is(fault: Fault) -> bool {
    #[cfg(feature = "shuttle")]
    return PLANTED.get() == Some(fault);
    #[cfg(not(feature = "shuttle"))]
    {
        let _ = fault;
        false
    }
}
