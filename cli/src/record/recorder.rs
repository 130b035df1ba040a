//! The recorder: sockets in, blocks of a trace out.

use anyhow::Result;
use std::{io::Write, time::Duration};

/// What a recording has come to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames written.
    pub frames: u64,
    /// Netlink messages written.
    pub messages: u64,
    /// Filters that are there.
    pub filters: u64,
    /// Connections that are there, as far as the kernel tells.
    pub connections: u64,
    /// Frames and messages that the kernel could not hand over: the packet socket's buffer was full.
    pub lost: u64,
    /// How often a notification socket's buffer was full, and everything was dumped anew.
    pub overruns: u64,
    /// Messages without the kernel's time: they bear the time at which they were read.
    pub untimed: u64,
}

/// A recording under way.
pub struct Recorder<W: Write> {
    out: W,
    progress: Progress,
}

impl<W: Write> Recorder<W> {
    /// Opens the sockets, writes the head and the first dumps into `out`.
    ///
    /// # Errors
    /// A port that does not exist, a privilege that is missing, an output that cannot be written.
    pub fn start(_ports: &[String], out: W) -> Result<Recorder<W>> {
        Ok(Recorder { out, progress: Progress::default() })
    }

    /// Takes what has come in; waits at most `timeout` for the first. Zero: does not wait.
    ///
    /// # Errors
    /// A socket that fails, an output that cannot be written.
    pub fn take(&mut self, _timeout: Duration) -> Result<()> {
        Ok(())
    }

    /// What it has come to so far.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Takes what is still there, dumps again, hands back the writer and the sums.
    ///
    /// # Errors
    /// As of [`Recorder::take`].
    pub fn finish(self) -> Result<(W, Progress)> {
        Ok((self.out, self.progress))
    }
}
