//! The clock of criterion's measurements: the processor time of the thread that measures. Other processes share the machine.

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The processor time that this thread has used.
pub fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}

/// What a call takes of this thread's processor time.
pub fn timed<T>(call: impl FnOnce() -> T) -> Duration {
    let before = cpu();
    std::hint::black_box(call());
    cpu() - before
}

/// For criterion.
pub struct ThreadCpu;

impl Measurement for ThreadCpu {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        // It is of nanoseconds, too.
        static WALL: WallTime = WallTime;
        WALL.formatter()
    }
}
