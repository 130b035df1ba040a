//! One case in the kernel: filters in, frames in, everything recorded.

use crate::{
    case::{Case, Devices, Step},
    ground::{Asked, Ground},
    mend::mend,
    traffic::{Traffic, follow},
};
use anyhow::Result;
use flowmerge::flower::Port;
use flowmerge_cli::record::Recorder;
use std::time::Duration;

/// What was done, and the record of it.
pub struct Ran {
    /// The case as it was run: without what the kernel refused, with all steps that were made up on the way.
    pub case: Case,
    /// Filters and changes that the kernel refused.
    pub refused: usize,
    /// Frames that did not go in: the port is down, or they are longer than it carries.
    pub lost: usize,
    /// The recorded run, a pcapng.
    pub trace: Vec<u8>,
    /// Where it ran, as it was left.
    pub ground: Ground,
}

/// Where steps come from.
pub enum Script {
    /// The case has them.
    Told,
    /// They are made up as the run goes.
    Made(Box<Traffic>),
}

/// Runs a case on new ground.
pub fn run(devices: &Devices, case: &Case, script: Script) -> Result<Ran> {
    run_with(devices, case, script, None)
}

/// The same, with what `tc -batch` makes of a text besides the case's filters.
pub fn run_with(devices: &Devices, case: &Case, script: Script, batch: Option<&str>) -> Result<Ran> {
    let mut ground = Ground::lay(devices.clone())?;
    let mut recorder = Recorder::start(ground.devices.names(), Vec::new())?;
    let mut built = case.clone();
    let mut refused = match batch {
        Some(batch) => ground.batch(batch).map(|()| 0)?,
        None => ground.build(&mut built)?,
    };
    let mut ran = Case { steps: Vec::new(), ..built.clone() };
    let mut lost = 0;
    let may_be_cut = built.may_be_cut();
    match script {
        Script::Told => {
            for steps in case.steps.chunks(16) {
                for step in steps {
                    match ground.happen(step)? {
                        Asked::Done => ran.steps.push(step.clone()),
                        Asked::Refused if matches!(step, Step::Frame(..)) => lost += 1,
                        Asked::Refused => refused += 1,
                    }
                }
                ground.settle()?;
                recorder.take(Duration::ZERO)?;
            }
        }
        Script::Made(mut traffic) => {
            let mut arrived: Vec<(Port, Vec<u8>)> = Vec::new();
            while let Some(round) = traffic.next(&built, &arrived) {
                for step in round {
                    match ground.happen(&step)? {
                        Asked::Done => {
                            follow(&mut built, &step);
                            ran.steps.push(step);
                        }
                        Asked::Refused if matches!(step, Step::Frame(..)) => {
                            lost += 1;
                            traffic.lost();
                        }
                        Asked::Refused => refused += 1,
                    }
                }
                ground.settle()?;
                arrived.clear();
                recorder.take_and_show(Duration::ZERO, &mut |port, frame| arrived.push((port, frame.to_vec())))?;
            }
        }
    }
    let (mut trace, _) = recorder.finish()?;
    let sent = ran.steps.iter().filter_map(|step| match step {
        Step::Frame(port, frame) => Some((*port, frame.clone())),
        _ => None,
    });
    if may_be_cut {
        mend(&mut trace, sent, &|port| devices.name_of(port));
    }
    Ok(Ran { case: ran, refused, lost, trace, ground })
}

/// How many frames a script has sent.
pub fn frames(steps: &[Step]) -> usize {
    steps.iter().filter(|step| matches!(step, Step::Frame(..))).count()
}
