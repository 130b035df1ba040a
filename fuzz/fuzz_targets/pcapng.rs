//! Any bytes as a recorded run: what is wrong with it is said, nothing panics, and reading takes no more time and memory than the
//! file has bytes. What was read can be written, and reads the same again.

#![no_main]

mod blocks;
mod mutator;

use flowmerge::{
    flower::Field,
    packet,
    trace::{self, Body},
};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|bytes: &[u8]| {
    let trace = match trace::from_bytes("fuzzed", bytes) {
        Ok(trace) => trace,
        Err(error) => return drop(format!("{error} {error:?}")),
    };
    // A message has sixteen bytes at least.
    assert!(trace.records.len() <= bytes.len() / 12, "{} records of {} bytes", trace.records.len(), bytes.len());
    for record in &trace.records {
        assert!(record.interface < trace.interfaces.len());
        if let Body::Frame { bytes, .. } = &record.body {
            // No device is known to the frame.
            assert_eq!(packet::arrived(bytes).get(Field::Indev), 0);
        }
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutator::mutate(data, size, max_size, seed, 0, blocks::file)
});
