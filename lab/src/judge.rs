//! The judgement of a run: the record goes through the model, and once more with merged filters that handle what they match;
//! whatever is not as in the kernel is told. Of a case that has just run, what its walks merge to is then tried in the kernel itself.

use crate::{
    coverage::Coverage,
    examine::{Examiner, Tally},
    front::{self, Front},
    run::Ran,
};
use anyhow::{Context, Result};
use flowmerge::{flower::ActionKind, netlink::Message, trace};
use flowmerge_cli::replay::{
    engine::{Fate, Run},
    hardware,
    known::Known,
    report, software,
    timeline::{Timeline, What},
};
use std::collections::BTreeMap;

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
    /// What the filters hit compare and do.
    pub coverage: Coverage,
    /// Whether some filter tracks connections.
    pub has_ct: bool,
    /// Packets that merged filters handled.
    pub handled: u64,
    /// Packets that merged filters match and conntrack judges otherwise, by why.
    pub known: BTreeMap<Known, u64>,
    /// What the merged filters came to.
    pub tally: Tally,
    /// What the merged filters came to in the kernel, if that was tried.
    pub front: Front,
    /// What differs, for a person to read; empty if nothing does.
    pub differences: String,
}

impl Judgement {
    /// Whether the model did as the kernel, and the merge as it promises.
    pub fn agrees(&self) -> bool {
        self.differences.is_empty()
    }
}

/// A recorded run, and what the model makes of it.
pub fn replay(trace: &[u8]) -> Result<(Timeline, Run)> {
    let timeline = Timeline::new(trace::from_bytes("run", trace)?).context("the record")?;
    let run = software(&timeline);
    Ok((timeline, run))
}

/// Judges what the model made of a recorded run, and what the merge makes of it.
pub fn judge_run(timeline: &Timeline, run: &Run) -> Result<Judgement> {
    let mut differences = differences(timeline, "model", run)?;
    let mut examiner = Examiner::default();
    let merged = hardware(timeline, &mut examiner, run);
    if differences.is_empty() {
        // Where the model differs, so does what goes through it there.
        differences = self::differences(timeline, "merged", &merged)?;
    }
    let mut findings = std::mem::take(&mut examiner.tally.findings);
    findings.extend(examiner.merging.failures.iter().cloned());
    findings.extend(otherwise(&examiner, run, &merged));
    differences.extend(findings.iter().map(|finding| format!("DIFFERENCE (merged): {finding}\n")));
    Ok(Judgement {
        received: run.received.len() as u64,
        decided: run.count(Fate::Decided),
        frames: run.compared.frames,
        counters: run.compared.counters,
        coverage: Coverage::of(timeline, run),
        has_ct: has_ct(timeline),
        handled: merged.count(Fate::Handled),
        known: examiner.merging.known.clone(),
        tally: examiner.tally,
        front: Front::default(),
        differences,
    })
}

/// Judges a case that has just run, and tries its merged filters out in the kernel, where it ran; see [`front::try_out`].
pub fn judge_and_try(ran: &mut Ran, spoil: Option<u64>) -> Result<Judgement> {
    let (timeline, run) = replay(&ran.trace)?;
    let mut judgement = judge_run(&timeline, &run)?;
    try_out(&mut judgement, ran, &timeline, &run, spoil)?;
    Ok(judgement)
}

/// Tries a case's merged filters out in the kernel. Where the model differs, so would what is merged of its walks.
pub fn try_out(
    judgement: &mut Judgement,
    ran: &mut Ran,
    timeline: &Timeline,
    run: &Run,
    spoil: Option<u64>,
) -> Result<()> {
    if judgement.agrees() {
        judgement.front = front::try_out(ran, timeline, run, spoil)?;
        let findings = judgement.front.findings.iter();
        judgement.differences = findings.map(|finding| format!("DIFFERENCE (kernel): {finding}\n")).collect();
    }
    Ok(())
}

fn differences(timeline: &Timeline, name: &str, run: &Run) -> Result<String> {
    let mut text = Vec::new();
    report::differences(&mut text, timeline, name, run)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    // Nobody is there to send what TC missed, and the generator makes nothing that the model may not know.
    for number in &run.excused {
        text += &format!(
            "DIFFERENCE ({name}): the kernel sent packet {number}, and the model only knows a frame like it that it missed\n"
        );
    }
    for received in run.received.iter().filter(|r| r.doubt.is_some()) {
        let doubt = received.doubt.as_deref().unwrap_or_default();
        text += &format!("DIFFERENCE ({name}): packet {} cannot be decided: {doubt}\n", received.number);
    }
    Ok(text)
}

/// The packets that a merged filter handled, and that did not take its way in software.
pub fn otherwise(examiner: &Examiner, software: &Run, merged: &Run) -> Vec<String> {
    let both = software.received.iter().zip(&merged.received);
    let found = both.filter_map(|(software, handled)| {
        let record = examiner.merging.records.get(&handled.merged?)?;
        let is_same = software.fate == Fate::Decided
            && software.hits == record.parents
            && software.met == record.met
            && software.ran == record.ran;
        (!is_same).then(|| {
            let number = handled.number;
            format!(
                "not sound: packet {number} goes another way in software than merged filter {}",
                record.filter.id.handle
            )
        })
    });
    found.collect()
}

/// Whether a filter of the record tracks connections.
fn has_ct(timeline: &Timeline) -> bool {
    let told = timeline.steps.iter().filter_map(|step| match &step.what {
        What::Told(envelope) => Some(envelope),
        _ => None,
    });
    timeline.start.iter().chain(told).any(|envelope| match &envelope.message {
        Message::Filter(told) => {
            told.filter.actions.iter().any(|action| matches!(&action.kind, ActionKind::Ct(ct) if !ct.clear))
        }
        _ => false,
    })
}
