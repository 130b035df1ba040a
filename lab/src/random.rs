//! Random pipelines and packets, by seed. A failure is made small and kept as a recorded run, which replays without the
//! laboratory and can be run again in it.

use crate::{
    case::{Case, Devices},
    coverage::Coverage,
    front::Front,
    judge::{Judgement, judge_and_try},
    run::{Script, frames, run},
    shrink::shrink,
    traffic,
};
use anyhow::{Context, Result};
use clap::Args;
use flowmerge::flower::{Port, print::printed};
use flowmerge_cli::replay::known::Known;
use std::{collections::BTreeMap, fmt, fs, path::PathBuf, time::Instant};

/// Put random pipelines into the kernel, send random packets, and compare every frame and counter with the model's.
///
/// Exit status: 0 if nothing differs, 1 if something does, 2 if it cannot run.
#[derive(Args)]
pub struct Options {
    /// How many pipelines.
    #[arg(long, default_value_t = 350)]
    pipelines: u64,
    /// How many packets in all.
    #[arg(long, default_value_t = 105_000)]
    packets: u64,
    /// The first pipeline's seed; the next has the next number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after this many pipelines that differ.
    #[arg(long, default_value_t = 5)]
    failures: usize,
    /// How many smaller cases to try for each that differs.
    #[arg(long, default_value_t = 600)]
    trials: usize,
    /// A test of the test: of each pipeline tell the kernel one merged filter otherwise than it is. Fails if too few of these are noticed.
    #[arg(long)]
    spoil: bool,
    /// Where the records of small cases that differ go.
    #[arg(long, default_value = "target/lab")]
    keep: PathBuf,
}

/// Of a hundred spoiled merged filters so many must be noticed at least. Some differ for packets that nobody sends.
const NOTICED: u64 = 85;

/// In a run of so many pipelines every field and every action must be hit.
const ALL: u64 = 350;
/// In a run of so many pipelines, so many merged filters for each must come into the kernel.
const MANY: u64 = 100;
const LEAST: u64 = 3;

/// The sums of all cases.
#[derive(Default)]
struct Sums {
    pipelines: u64,
    filters: u64,
    refused: u64,
    packets: u64,
    received: u64,
    decided: u64,
    frames: u64,
    counters: u64,
    coverage: Coverage,
    merged: Merged,
    front: Front,
}

/// The sums of what merged filters did.
#[derive(Default)]
struct Merged {
    filters: u64,
    handled: u64,
    /// Of pipelines with `ct`: packets that filters decided, and those of them that merged filters handled.
    ct_decided: u64,
    ct_handled: u64,
    known: BTreeMap<Known, u64>,
    trailing: u64,
    recomputed: u64,
    excluded: u64,
}

/// Runs; whether nothing differs.
///
/// # Errors
/// The laboratory's devices cannot be made, the kernel cannot be asked, a record cannot be read.
pub fn compare(options: &Options) -> Result<bool> {
    let devices = Devices::random();
    let started = Instant::now();
    let mut sums = Sums::default();
    let mut failed = Vec::new();
    let (mut spoiled, mut noticed) = (0, 0);
    let each = options.packets.div_ceil(options.pipelines.max(1)).max(1) as usize;
    for seed in options.seed..options.seed + options.pipelines {
        let (case, traffic) = traffic::of_seed(seed, each);
        let script = Script::Made(Box::new(traffic));
        let mut ran = run(&devices, &case, script).with_context(|| format!("seed {seed}"))?;
        let judgement =
            judge_and_try(&mut ran, options.spoil.then_some(seed)).with_context(|| format!("seed {seed}"))?;
        if judgement.front.spoiled {
            spoiled += 1;
            noticed += u64::from(!judgement.agrees());
            continue;
        }
        sums.add(&ran.case, ran.refused, &judgement);
        if judgement.agrees() {
            continue;
        }
        println!(
            "seed {seed} differs ({} filters, {} steps; again: lab/run random --pipelines 1 --packets {each} --seed {seed})",
            ran.case.filters.len(),
            ran.case.steps.len()
        );
        fails(options, &devices, seed, ran.case, &ran.trace)?;
        failed.push(seed);
        if failed.len() >= options.failures {
            break;
        }
    }
    if options.spoil {
        println!("{noticed} of {spoiled} merged filters that were told otherwise than they are were noticed");
        return Ok(failed.is_empty() && noticed * 100 >= spoiled * NOTICED && spoiled > 0);
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} pipelines ({} filters, {} refused by the kernel), {} packets ({} received at filters, {} decided) in {seconds:.1} s: \
         {} frames and {} counters compared; {}; {}; seeds {} to {}; {}",
        sums.pipelines,
        sums.filters,
        sums.refused,
        sums.packets,
        sums.received,
        sums.decided,
        sums.frames,
        sums.counters,
        sums.merged,
        sums.front,
        options.seed,
        options.seed + sums.pipelines.max(1) - 1,
        if failed.is_empty() { "no difference".to_owned() } else { format!("DIFFERENT: seeds {failed:?}") }
    );
    // A long run in which little was merged says little.
    let few = sums.pipelines >= MANY && sums.front.installed < sums.pipelines * LEAST;
    if few {
        println!("too few merged filters in the kernel: {LEAST} for each pipeline are expected");
    }
    let lacking = if sums.pipelines >= ALL { sums.coverage.lacking() } else { Vec::new() };
    if !lacking.is_empty() {
        println!("no filter that was hit compares or does: {}", lacking.join(", "));
    }
    Ok(failed.is_empty() && !few && lacking.is_empty())
}

impl Sums {
    fn add(&mut self, case: &Case, refused: usize, judgement: &Judgement) {
        self.pipelines += 1;
        self.filters += case.filters.len() as u64;
        self.refused += refused as u64;
        self.packets += frames(&case.steps) as u64;
        self.received += judgement.received;
        self.decided += judgement.decided;
        self.frames += judgement.frames;
        self.counters += judgement.counters;
        self.coverage.add(&judgement.coverage);
        self.merged.add(judgement);
        self.front.add(&judgement.front);
    }
}

impl Merged {
    fn add(&mut self, judgement: &Judgement) {
        let Judgement { decided, handled, known, tally, .. } = judgement;
        self.filters += tally.merged;
        self.handled += handled;
        if judgement.has_ct {
            self.ct_decided += decided;
            self.ct_handled += handled;
        }
        for (&known, count) in known {
            *self.known.entry(known).or_default() += count;
        }
        self.trailing += tally.trailing;
        self.recomputed += tally.recomputed;
        self.excluded += tally.beside;
    }
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Merged { filters, handled, ct_decided, ct_handled, .. } = self;
        let share = 100 * ct_handled / (*ct_decided).max(1);
        write!(
            f,
            "{filters} merged filters handled {handled} packets, {share} % of those decided in pipelines with ct; "
        )?;
        write!(f, "{} excluded on a merged way; known differences:", self.excluded)?;
        for known in [Known::Checksum, Known::Length, Known::Window, Known::Trailing] {
            write!(f, " {} {known},", self.known.get(&known).unwrap_or(&0))?;
        }
        write!(f, " {} trailing bytes, {} checksums computed anew", self.trailing, self.recomputed)
    }
}

/// Makes a failing case small, shows it, and keeps its record.
fn fails(options: &Options, devices: &Devices, seed: u64, case: Case, trace: &[u8]) -> Result<()> {
    fs::create_dir_all(&options.keep).with_context(|| options.keep.display().to_string())?;
    let keep = |name: String, trace: &[u8]| {
        let path = options.keep.join(name);
        fs::write(&path, trace).with_context(|| path.display().to_string())?;
        println!("  kept as {}", path.display());
        Ok::<_, anyhow::Error>(())
    };
    keep(format!("seed-{seed}-whole.pcapng"), trace)?;
    let mut last = None;
    let mut differs = |case: &Case| {
        let mut ran = run(devices, case, Script::Told)?;
        let judgement = judge_and_try(&mut ran, None)?;
        let differs = !judgement.agrees();
        if differs {
            last = Some((ran, judgement));
        }
        Ok::<_, anyhow::Error>(differs)
    };
    if !differs(&case)? {
        println!("  it did not differ when it was run again; replay the record to see how it did");
        return Ok(());
    }
    shrink(case, options.trials, &mut differs)?;
    let Some((ran, judgement)) = last else { return Ok(()) };
    for filter in &ran.case.filters {
        println!("  {}", printed(filter, &|port: Port| devices.name_of(port)));
    }
    for (port, block) in &ran.case.shared {
        println!("  {} has block {block}", devices.name_of(*port));
    }
    println!("  {} steps; {}", ran.case.steps.len(), judgement.differences.replace('\n', "\n  "));
    if !judgement.front.trace.is_empty() {
        keep(format!("seed-{seed}-front.pcapng"), &judgement.front.trace)?;
    }
    keep(format!("seed-{seed}.pcapng"), &ran.trace)
}
