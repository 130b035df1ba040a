//! Cases that are not made up: one's own, from a pipeline file and a packets file, and the recorded runs that once differed.
//!
//! A pipeline is a `tc -batch` file, or a recorded run, of which the filters are taken. Packets are a pcapng whose interfaces
//! are named as the ports, or a recorded run, of which the frames that came in are taken.

use crate::{
    case::{Case, Devices, Step},
    judge::{Judgement, judge_and_try, judge_run, replay, try_out},
    recorded::Recorded,
    run::{Script, frames, run, run_with},
};
use anyhow::{Context, Result, bail};
use clap::Args;
use flowmerge::trace::{self, Direction, TraceFault};
use flowmerge_cli::replay::report;
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
    let pipeline = Pipeline::read(&options.pipeline)?;
    let packets = packets(&options.packets)?;
    let of_packets: BTreeSet<&String> = packets.iter().map(|(name, _)| name).collect();
    for name in of_packets.iter().copied() {
        check_name(name).with_context(|| options.packets.display().to_string())?;
    }
    let mut names = pipeline.ports();
    for name in &names {
        check_name(name).with_context(|| options.pipeline.display().to_string())?;
    }
    names.extend(of_packets.iter().copied().cloned());
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let devices = Devices::named(names);
    let (mut case, batch) = match &pipeline {
        Pipeline::Recorded(recorded) => (recorded.case(&devices)?, None),
        Pipeline::Batch(text) => (Case::default(), Some(text.as_str())),
    };
    // A record of both is run as it was, with the filters that came and went.
    if options.pipeline != options.packets {
        case.steps = packets
            .into_iter()
            .map(|(name, frame)| {
                let port = devices.ports().find(|&port| devices.name_of(port) == name);
                Ok(Step::Frame(port.with_context(|| format!("no port {name}"))?, frame))
            })
            .collect::<Result<_>>()?;
    }
    let mut ran =
        run_with(&devices, &case, Script::Told, batch).with_context(|| options.pipeline.display().to_string())?;
    if ran.refused + ran.lost > 0 {
        println!("the kernel refused {} of the filters and {} of the packets", ran.refused, ran.lost);
    }
    if let Some(path) = &options.output {
        fs::write(path, &ran.trace).with_context(|| path.display().to_string())?;
    }
    let (timeline, run) = replay(&ran.trace)?;
    let mut out = Vec::new();
    report::packets(&mut out, &timeline, &run)?;
    std::io::stdout().write_all(&out)?;
    let mut judgement = judge_run(&timeline, &run)?;
    try_out(&mut judgement, &mut ran, &timeline, &run, None)?;
    print!("{}", judgement.differences);
    let sent = frames(&ran.case.steps);
    if judgement.received < sent as u64 {
        println!(
            "{} of the packets came in at ports that are down or have no filters",
            sent as u64 - judgement.received
        );
    }
    if judgement.tally.merged > 0 {
        println!("{}", judgement.front);
    }
    println!("{}", summary(&judgement, sent));
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
    let paths = recorded_runs(&options.folder)?;
    if paths.is_empty() {
        bail!("{}: no recorded run (*.pcapng)", options.folder.display());
    }
    let (mut good, mut packets, mut frames_compared, mut counters) = (0, 0, 0, 0);
    for path in &paths {
        let recorded = Recorded::read(path)?;
        let devices = Devices::named(recorded.ports());
        let case = recorded.case(&devices)?;
        let mut ran = run(&devices, &case, Script::Told).with_context(|| path.display().to_string())?;
        let judgement = judge_and_try(&mut ran, None).with_context(|| path.display().to_string())?;
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

/// The records of a folder, by name.
fn recorded_runs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "pcapng"));
    paths.sort();
    Ok(paths)
}

/// What a file is, by its first bytes.
enum Kind {
    Pcapng,
    Pcap,
    Other,
}

fn kind_of(path: &Path) -> Result<Kind> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(match bytes.first_chunk() {
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => Kind::Pcapng,
        Some(
            [0xd4, 0xc3, 0xb2, 0xa1] | [0xa1, 0xb2, 0xc3, 0xd4] | [0x4d, 0x3c, 0xb2, 0xa1] | [0xa1, 0xb2, 0x3c, 0x4d],
        ) => Kind::Pcap,
        _ if bytes.is_empty() => bail!("{}: is empty", path.display()),
        _ => Kind::Other,
    })
}

/// Frames, with the names of the ports where they come in.
fn packets(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let wanted = "a pcapng is wanted, whose interfaces are named as the ports (dumpcap writes one; lab/examples/dnat.py shows how to)";
    match kind_of(path)? {
        Kind::Pcapng => {}
        Kind::Pcap => bail!("{}: a pcap does not say at which port a packet comes in; {wanted}", path.display()),
        Kind::Other => bail!("{}: no capture file; {wanted}", path.display()),
    }
    let frames: Vec<_> = match Recorded::read(path) {
        Ok(recorded) => recorded.frames(),
        Err(error) if is_no_record(&error) => {
            let frames = trace::read_frames(path)?.into_iter();
            let came_in =
                frames.filter(|(_, direction, _)| matches!(direction, Direction::Inbound | Direction::Unknown));
            came_in.map(|(name, _, bytes)| (name, bytes)).collect()
        }
        Err(error) => return Err(error),
    };
    if frames.is_empty() {
        bail!("{}: no packet in it that came in on an Ethernet interface", path.display());
    }
    Ok(frames)
}

/// Whether a file has packets alone.
fn is_no_record(error: &anyhow::Error) -> bool {
    let fault = error.downcast_ref::<trace::TraceError>().map(|error| &error.fault);
    matches!(fault, Some(TraceFault::NoNetlinkInterface { .. } | TraceFault::NoMessages { .. }))
}

/// A pipeline's text, or what was recorded of one.
enum Pipeline {
    Batch(String),
    Recorded(Recorded),
}

impl Pipeline {
    fn read(path: &Path) -> Result<Pipeline> {
        Ok(match kind_of(path)? {
            Kind::Pcapng => Pipeline::Recorded(Recorded::read(path)?),
            Kind::Pcap => bail!("{}: a pcap has no filters in it; a `tc -batch` file is wanted", path.display()),
            Kind::Other => {
                let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
                if devices_of(&text).is_empty() {
                    bail!(
                        "{}: no filter on any device; lines as `filter add dev p1 ingress ...` are wanted",
                        path.display()
                    );
                }
                Pipeline::Batch(text)
            }
        })
    }

    fn ports(&self) -> Vec<String> {
        match self {
            Pipeline::Batch(text) => devices_of(text),
            Pipeline::Recorded(recorded) => recorded.ports(),
        }
    }
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

/// What the kernel takes as a device's name, and is none of the laboratory's own.
fn check_name(name: &str) -> Result<()> {
    let is_host = name.strip_prefix("host").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
    match name {
        "" => bail!("an interface has no name: it must be that of the port where its packets come in"),
        "." | ".." | "lo" | "all" | "default" => bail!("{name:?} is no name for a port"),
        _ if is_host => bail!("{name:?} is no name for a port: the other ends of the cables are called so"),
        _ if name.len() > 15 || name.contains(is_bad) => {
            bail!("{name:?} is no name for a port: 1 to 15 bytes without blanks, slashes and colons")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What once differed, without a kernel: its record says what Linux did. `lab/run regressions` asks Linux again.
    #[test]
    fn recorded_cases_replay_identical() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
        let paths = recorded_runs(&folder).unwrap();
        assert!(!paths.is_empty());
        for path in paths {
            let (timeline, run) = replay(&fs::read(&path).unwrap()).unwrap();
            let judgement = judge_run(&timeline, &run).unwrap();
            assert!(judgement.agrees(), "{}\n{}", path.display(), judgement.differences);
            assert!(judgement.received > 0 && judgement.counters > 0, "{}: nothing is compared", path.display());
        }
    }
}
