//! Cases that are not made up: one's own, from a pipeline file and a packets file, and the recorded runs that once differed.
//!
//! A pipeline is a `tc -batch` file, or a recorded run, of which the filters are taken. Packets are a pcapng whose interfaces
//! are named as the ports, or a recorded run, of which the frames that came in are taken.

use crate::{
    case::{Case, Devices, Step},
    judge::{Judgement, judge},
    run::{Script, frames, run, run_with},
};
use anyhow::{Context, Result, bail};
use clap::Args;
use flowmerge::{
    flower::{ActionKind, Hook, Port},
    netlink::{Event, Message},
    trace::{self, Body, Direction, Trace},
};
use flowmerge_cli::replay::{report, software, timeline::Timeline};
use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

/// Put your own filters into the kernel, send your own packets, and see what kernel and model did with each.
///
/// Exit status: 0 if they agree, 1 if they do not, 2 if it cannot run.
#[derive(Args)]
pub struct Options {
    /// Filters: a `tc -batch` file (`filter add dev p1 ingress ...`), or a recorded run.
    #[arg(long)]
    pipeline: PathBuf,
    /// Packets: a pcapng whose interfaces are named as the ports where they come in, or a recorded run.
    #[arg(long)]
    packets: PathBuf,
    /// Keep the record of the run in this file.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// Run recorded cases that once differed again.
#[derive(Args)]
pub struct Regressions {
    /// The folder with the records.
    folder: PathBuf,
}

/// Runs one's own case; whether kernel and model agree.
///
/// # Errors
/// A file that cannot be read or understood, or the laboratory cannot run.
pub fn compare(options: &Options) -> Result<bool> {
    let batch = match is_pcapng(&options.pipeline)? {
        true => None,
        false => Some(fs::read_to_string(&options.pipeline).with_context(|| options.pipeline.display().to_string())?),
    };
    let packets = packets(&options.packets)?;
    let recorded = match &batch {
        Some(_) => None,
        None => Some(trace::read(&options.pipeline, &mut |_, _| {})?),
    };
    let mut names: Vec<String> = packets.iter().map(|(name, _)| name.clone()).collect();
    names.extend(batch.iter().flat_map(|batch| devices_of(batch)));
    names.extend(recorded.iter().flat_map(ports_of));
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    if names.is_empty() {
        bail!("{}: no packet, and no filter names a device", options.packets.display());
    }
    let devices = Devices::named(names);
    let mut case = match &recorded {
        Some(trace) => of_trace(trace, &devices)?,
        None => Case::default(),
    };
    case.steps = packets
        .into_iter()
        .map(|(name, frame)| {
            let port = devices.ports().find(|&port| devices.name_of(port) == name);
            Ok(Step::Frame(port.with_context(|| format!("no port {name}"))?, frame))
        })
        .collect::<Result<_>>()?;
    let ran = run_with(&devices, &case, Script::Told, batch.as_deref())?;
    if ran.refused > 0 {
        println!("the kernel refused {} of the filters and packets", ran.refused);
    }
    if let Some(path) = &options.output {
        fs::write(path, &ran.trace).with_context(|| path.display().to_string())?;
    }
    let timeline = Timeline::new(trace::from_bytes("run", &ran.trace)?)?;
    let run = software(&timeline);
    let mut out = Vec::new();
    report::packets(&mut out, &timeline, &run)?;
    std::io::stdout().write_all(&out)?;
    let judgement = judge(&ran.trace)?;
    print!("{}", judgement.differences);
    println!("{}", summary(&judgement, frames(&ran.case.steps)));
    Ok(judgement.agrees())
}

fn summary(judgement: &Judgement, packets: usize) -> String {
    let Judgement { received, decided, frames, counters, .. } = judgement;
    let verdict = if judgement.agrees() { "kernel and model agree" } else { "kernel and model DIFFER" };
    format!(
        "{packets} packets ({received} received at filters, {decided} decided): \
         {frames} frames and {counters} counters compared; {verdict}"
    )
}

/// Runs all records of a folder again; whether none differs.
///
/// # Errors
/// As of [`compare`].
pub fn again(options: &Regressions) -> Result<bool> {
    let folder = fs::read_dir(&options.folder).with_context(|| options.folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = folder.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "pcapng"));
    paths.sort();
    if paths.is_empty() {
        bail!("{}: no recorded run (*.pcapng)", options.folder.display());
    }
    let (mut good, mut packets, mut frames_compared, mut counters) = (0, 0, 0, 0);
    for path in &paths {
        let trace = trace::read(path, &mut |_, _| {})?;
        let devices = Devices::named(ports_of(&trace));
        let case = of_trace(&trace, &devices)?;
        let ran = run(&devices, &case, Script::Told).with_context(|| path.display().to_string())?;
        let judgement = judge(&ran.trace).with_context(|| path.display().to_string())?;
        packets += frames(&ran.case.steps);
        frames_compared += judgement.frames;
        counters += judgement.counters;
        match judgement.agrees() {
            true => good += 1,
            false => println!("{} differs\n{}", path.display(), judgement.differences),
        }
    }
    println!(
        "recorded cases: {good} passed, {} failed; {packets} packets: {frames_compared} frames and {counters} counters compared",
        paths.len() - good
    );
    Ok(good == paths.len())
}

fn is_pcapng(path: &Path) -> Result<bool> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]))
}

/// Frames, with the names of the ports where they come in.
fn packets(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    if !is_pcapng(path)? {
        bail!(
            "{}: a pcapng is wanted, whose interfaces are named as the ports (mergecap and editcap write it)",
            path.display()
        );
    }
    let frames = trace::read_frames(path)?;
    let came_in = |direction| matches!(direction, Direction::Inbound | Direction::Unknown);
    Ok(frames
        .into_iter()
        .filter(|(_, direction, _)| came_in(*direction))
        .map(|(name, _, bytes)| (name, bytes))
        .collect())
}

/// The devices that a batch names.
fn devices_of(batch: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in batch.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        names.extend(words.windows(2).filter(|pair| pair[0] == "dev").map(|pair| pair[1].to_owned()));
    }
    names
}

/// The ports of a recorded run: those whose frames were recorded.
fn ports_of(trace: &Trace) -> Vec<String> {
    trace.interfaces.iter().filter(|i| i.link_type == trace::ETHERNET).map(|i| i.name.clone()).collect()
}

/// A recorded run as a case, on other devices of the same names.
fn of_trace(trace: &Trace, devices: &Devices) -> Result<Case> {
    let mut case = Case::default();
    let mut indices = Vec::new();
    for record in &trace.records {
        if let Body::Message(envelope) = &record.body
            && let Message::Link(link) = &envelope.message
            && let Some(port) = devices.ports().find(|&port| devices.name_of(port) == link.name)
        {
            indices.push((Port(link.index), port));
        }
    }
    let new = |port: Port| {
        let found = indices.iter().find(|(old, _)| *old == port).map(|&(_, new)| new);
        found.with_context(|| format!("{}: no recorded port has the index {}", trace.name, port.0))
    };
    let mut started = false;
    for record in &trace.records {
        match &record.body {
            Body::Frame { direction: Direction::Inbound, bytes } => {
                started = true;
                let name = &trace.interfaces[record.interface].name;
                let port = devices.ports().find(|&port| devices.name_of(port) == *name);
                case.steps.push(Step::Frame(port.with_context(|| format!("no port {name}"))?, bytes.clone()));
            }
            Body::Message(envelope) => match &envelope.message {
                Message::Qdisc(qdisc) => {
                    if let (Some(block), Ok(port)) = (qdisc.ingress_block, new(Port(qdisc.index)))
                        && !case.shared.contains(&(port, block))
                    {
                        case.shared.push((port, block));
                    }
                }
                Message::Filter(told) => {
                    let mut filter = told.filter.clone();
                    filter.id.hook = match filter.id.hook {
                        Hook::Ingress(port) => Hook::Ingress(new(port)?),
                        Hook::Egress(port) => Hook::Egress(new(port)?),
                        block => block,
                    };
                    for action in &mut filter.actions {
                        // The kernel chose the index, and will again.
                        action.index = 0;
                        if let ActionKind::Mirred(mirred) = &mut action.kind {
                            mirred.port = new(mirred.port)?;
                        }
                    }
                    let known = case.filters.iter().any(|f| f.id == filter.id);
                    match told.event {
                        Event::New if started && envelope.is_dump() => {}
                        Event::New if !started && !known => case.filters.push(filter),
                        Event::New if started && known => case.steps.push(Step::Replace(filter)),
                        Event::New if started => case.steps.push(Step::Add(filter)),
                        Event::Gone if started => case.steps.push(Step::Remove(filter.id)),
                        _ => {}
                    }
                }
                _ => {}
            },
            Body::Frame { .. } => {}
        }
    }
    Ok(case)
}
