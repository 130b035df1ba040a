//! The judgement of a run: the record goes through the model, and whatever is not as in the kernel is told.

use anyhow::{Context, Result};
use flowmerge::trace;
use flowmerge_cli::replay::{
    engine::{Fate, Run},
    report, software,
    timeline::Timeline,
};

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Frames that went through filters.
    pub received: u64,
    /// Those that a filter decided.
    pub decided: u64,
    /// Frames compared.
    pub frames: u64,
    /// Filters' counters compared.
    pub counters: u64,
    /// What differs, for a person to read; empty if nothing does.
    pub differences: String,
}

impl Judgement {
    /// Whether the model did as the kernel.
    pub fn agrees(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Judges a recorded run.
pub fn judge(trace: &[u8]) -> Result<Judgement> {
    let (timeline, run) = replay(trace)?;
    judge_run(&timeline, &run)
}

/// A recorded run, and what the model makes of it.
pub fn replay(trace: &[u8]) -> Result<(Timeline, Run)> {
    let timeline = Timeline::new(trace::from_bytes("run", trace)?).context("the record")?;
    let run = software(&timeline);
    Ok((timeline, run))
}

/// Judges what the model made of a recorded run.
pub fn judge_run(timeline: &Timeline, run: &Run) -> Result<Judgement> {
    Ok(Judgement {
        received: run.received.len() as u64,
        decided: run.count(Fate::Decided),
        frames: run.compared.frames,
        counters: run.compared.counters,
        differences: differences(timeline, run)?,
    })
}

fn differences(timeline: &Timeline, run: &Run) -> Result<String> {
    let mut text = Vec::new();
    report::differences(&mut text, timeline, "model", run)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    // Nobody is there to send what TC missed, and the generator makes nothing that the model may not know.
    for number in &run.excused {
        text += &format!(
            "DIFFERENCE (model): the kernel sent packet {number}, and the model only knows a frame like it that it missed\n"
        );
    }
    for received in run.received.iter().filter(|r| r.doubt.is_some()) {
        let doubt = received.doubt.as_deref().unwrap_or_default();
        text += &format!("DIFFERENCE (model): packet {} cannot be decided: {doubt}\n", received.number);
    }
    Ok(text)
}
