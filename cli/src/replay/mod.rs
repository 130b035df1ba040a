//! `flowmerge replay TRACE`: a recorded run of a real kernel, replayed twice and compared with what the kernel did.
//!
//! First in software: every received frame through a model of TC (`engine`). Then with merged filters in hardware that take
//! what they match, as they arise from the walks of the rest. Each time the frames sent and the filters' counters are
//! held against the trace, in which the kernel's own are. Packets that hardware would take and that conntrack judges by more
//! than their headers (`known`) are named, and go to software.

mod counters;
mod datapath;
pub mod engine;
pub mod expected;
mod frames;
pub mod known;
mod ledger;
mod mended;
pub mod merging;
pub mod offload;
pub mod report;
pub mod timeline;
pub mod totals;
pub mod tunnels;
mod workers;

pub use frames::hex;

use anyhow::{Context, Result};
use clap::Args;
use engine::{Fate, Run};
use expected::AtLeast;
use flowmerge::{netlink::Message, trace};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use merging::Merging;
use offload::Offload;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};
use timeline::{Timeline, What};
use totals::Totals;

/// Replay a recorded run and compare it with what the kernel did.
///
/// Exit status: 0 if nothing differs, 1 if something does or a total is less than --at-least says, 2 if the trace cannot be read.
///
/// A received frame counts if its port has filters at some time of the run, and if it came from outside: one that a filter
/// redirected to a port's ingress is part of the frame that was redirected. Frames to ports that were not recorded are
/// shown by --frames, and not counted.
///
/// A frame that comes out of a tunnel device made `external` came in an outer packet, and filters may look at that: so the port
/// beneath must be recorded too. What is sent to such a device is compared with the outer packet that it leaves in.
#[derive(Args)]
pub struct Options {
    /// The recorded run, a pcapng file.
    trace: PathBuf,
    /// Print one JSON object instead of the report.
    #[arg(long)]
    json: bool,
    /// Write one JSON line for each received frame of both runs to this file.
    ///
    /// {"run": "software" or "hardware", "frame": packet number in the file, "port": name, "verdict": "decided", "missed" or
    /// "handled", "hits": [{"port": name or "block": index, "chain", "prio", "handle"}], "merged": number or null, "sent":
    /// [{"port": name, "hex": frame}]}. "hits" are those in software, so none of a handled frame; a copy's stand between the
    /// packet's own. "sent" is what leaves through any port, in order, and not what goes to a port's ingress. Packets that a
    /// filter passes to the stack are decided, and what the stack then sends is not theirs.
    #[arg(long, value_name = "FILE")]
    frames: Option<PathBuf>,
    /// What the run must come to at least, besides that nothing differs; may be given several times.
    ///
    /// NAME is that of a number in what --json prints, such as merged.installed=4 or merged.refused.changed=1. A number of packets
    /// or walks may be a share of all: software.decided, software.missed and hardware.handled of software.received
    /// (hardware.handled=60%), walks.established_merged of walks.established.
    #[arg(long, value_name = "NAME=N")]
    at_least: Vec<AtLeast>,
    /// Merge on so many threads of their own, beside the one that replays. The results are the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// Replays; whether nothing differs, and all is there that must be.
///
/// # Errors
/// The trace cannot be read or replayed, or the output not be written.
pub fn run(options: &Options) -> Result<bool> {
    let bar = progress("reading");
    let trace = trace::read(&options.trace, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    let timeline = Timeline::new(trace).with_context(|| options.trace.display().to_string())?;
    let cannot_write = |path: &Path| format!("{}: cannot be written", path.display());
    let lines = match &options.frames {
        Some(path) => Some((path, File::create(path).with_context(|| cannot_write(path))?)),
        None => None,
    };
    let replayed = |name, hardware: &mut dyn Offload, before: Option<&Run>| {
        let bar = progress(name);
        bar.set_length(timeline.steps.len() as u64);
        let run = engine::run(&timeline, hardware, before, &|at| {
            // A terminal is not faster than that.
            if at % 256 == 0 {
                bar.set_position(at as u64);
            }
        });
        bar.finish_and_clear();
        run
    };
    bar.finish_and_clear();
    let mut merging = Merging::default().with_threads(options.threads);
    let software = replayed("software", &mut offload::Nothing, None);
    let hardware = replayed("hardware", &mut merging, Some(&software));

    if let Some((path, file)) = lines {
        let write = || {
            let mut out = BufWriter::new(file);
            frames::write(&mut out, "software", &software, &timeline)?;
            frames::write(&mut out, "hardware", &hardware, &timeline)?;
            out.flush()
        };
        write().with_context(|| cannot_write(path))?;
    }
    let totals = sums(&timeline, &software, &hardware, &merging);
    let mut out = BufWriter::new(io::stdout().lock());
    if options.json {
        serde_json::to_writer(&mut out, &totals)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}: {} packets\n", timeline.name, timeline.packets)?;
        report::filters(&mut out, &timeline, &all_filters(&timeline))?;
        report::merged(&mut out, &timeline, &merging)?;
        report::doubts(&mut out, &timeline, &software)?;
        report::differences(&mut out, &timeline, "software", &software)?;
        report::differences(&mut out, &timeline, "hardware", &hardware)?;
        report::totals(&mut out, &totals)?;
    }
    out.flush()?;
    let mut enough = true;
    for wanted in &options.at_least {
        if let Some(got) = wanted.missing(&totals)? {
            enough = false;
            writeln!(io::stderr(), "flowmerge: {}: expected at least {wanted}, got {got}", options.trace.display())?;
        }
    }
    Ok(enough && totals.software.result.is_identical() && totals.hardware.result.is_identical())
}

/// The first run alone: every frame through the model.
pub fn software(timeline: &Timeline) -> Run {
    engine::run(timeline, &mut offload::Nothing, None, &|_| {})
}

/// The second run: what hardware matches it handles alone, the rest goes through the model. `software` is the first.
pub fn hardware(timeline: &Timeline, hardware: &mut dyn Offload, software: &Run) -> Run {
    engine::run(timeline, hardware, Some(software), &|_| {})
}

fn sums(timeline: &Timeline, software: &Run, hardware: &Run, merging: &Merging) -> Totals {
    Totals {
        trace: timeline.name.clone(),
        filters: totals::Filters { seen: software.seen, undecoded: software.undecoded },
        software: totals::Software {
            received: software.received.len() as u64,
            decided: software.count(Fate::Decided),
            missed: software.count(Fate::Missed),
            result: software.compared,
        },
        walks: merging.walks.clone(),
        merged: merging.merged.clone(),
        hardware: totals::Hardware {
            handled: hardware.count(Fate::Handled),
            software: hardware.received.len() as u64 - hardware.count(Fate::Handled),
            result: hardware.compared,
            known: merging.known.iter().map(|(known, count)| (known.to_string(), *count)).collect(),
        },
    }
}

/// Every filter of the run, as it was last.
fn all_filters(timeline: &Timeline) -> BTreeMap<flowmerge::flower::FilterId, flowmerge::flower::Filter> {
    let told = timeline.steps.iter().filter_map(|step| match &step.what {
        What::Told(envelope) => Some(envelope),
        _ => None,
    });
    let messages = timeline.start.iter().chain(told).map(|envelope| &envelope.message);
    messages
        .filter_map(|message| match message {
            Message::Filter(m) => Some((m.filter.id, m.filter.clone())),
            _ => None,
        })
        .collect()
}

/// A bar on standard error, if that is a terminal.
fn progress(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template("{msg:>9} {wide_bar} {percent:>3}% {eta}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
