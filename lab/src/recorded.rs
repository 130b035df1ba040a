//! A recorded run as a case: what its filters were, and what was sent.

use crate::case::{Case, Devices, Step};
use anyhow::{Context, Result};
use flowmerge::{
    flower::{ActionKind, Filter, Hook, Port},
    netlink::{Event, Message},
    trace::{self, Body, Direction, Trace},
};
use flowmerge_cli::replay::{software, timeline::Timeline};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// A recorded run.
pub struct Recorded {
    trace: Trace,
    /// Numbers of the frames that came in at a port because a filter redirected them there: what sent them will do so again.
    redirected: BTreeSet<u64>,
}

impl Recorded {
    /// Reads it.
    pub fn read(path: &Path) -> Result<Recorded> {
        let trace = trace::read(path, &mut |_, _| {})?;
        let timeline = Timeline::new(trace.clone()).with_context(|| path.display().to_string())?;
        let numbers = software(&timeline).redirected.into_iter().map(|at| timeline.steps[at].number);
        Ok(Recorded { redirected: numbers.collect(), trace })
    }

    /// The ports: those whose frames were recorded.
    pub fn ports(&self) -> Vec<String> {
        self.trace.interfaces.iter().filter(|i| i.link_type == trace::ETHERNET).map(|i| i.name.clone()).collect()
    }

    /// What was sent, and the names of the ports where it came in.
    pub fn frames(&self) -> Vec<(String, Vec<u8>)> {
        let sent = self.trace.records.iter().filter(|record| !self.redirected.contains(&record.number));
        let frames = sent.filter_map(|record| match &record.body {
            Body::Frame { direction: Direction::Inbound, bytes } => {
                Some((self.trace.interfaces[record.interface].name.clone(), bytes.clone()))
            }
            _ => None,
        });
        frames.collect()
    }

    /// The run as a case, on other devices of the same names.
    pub fn case(&self, devices: &Devices) -> Result<Case> {
        let mut case = Case::default();
        let mut indices = Vec::new();
        for record in &self.trace.records {
            if let Body::Message(envelope) = &record.body
                && let Message::Link(link) = &envelope.message
                && let Some(port) = devices.ports().find(|&port| devices.name_of(port) == link.name)
            {
                indices.push((Port(link.index), port));
            }
        }
        let new = |port: Port| {
            let found = indices.iter().find(|(old, _)| *old == port).map(|&(_, new)| new);
            found.with_context(|| format!("{}: no recorded port has the index {}", self.trace.name, port.0))
        };
        // A frame that came in sets the run off; what is told before is how it began.
        let mut started = false;
        let mut there = BTreeSet::new();
        let mut up = BTreeMap::new();
        for record in &self.trace.records {
            let envelope = match &record.body {
                Body::Frame { direction: Direction::Inbound, bytes } => {
                    started = true;
                    let name = &self.trace.interfaces[record.interface].name;
                    let port = devices.ports().find(|&port| devices.name_of(port) == *name);
                    let port = port.with_context(|| format!("no port {name}"))?;
                    if !self.redirected.contains(&record.number) {
                        case.steps.push(Step::Frame(port, bytes.clone()));
                    }
                    continue;
                }
                Body::Frame { .. } => continue,
                Body::Message(envelope) => envelope,
            };
            match &envelope.message {
                Message::Qdisc(qdisc) => {
                    if let (Some(block), Ok(port)) = (qdisc.ingress_block, new(Port(qdisc.index)))
                        && !case.shared.contains(&(port, block))
                    {
                        case.shared.push((port, block));
                    }
                }
                // The last dump tells nothing new.
                Message::Filter(_) if started && envelope.is_dump() => {}
                Message::Filter(told) => {
                    let filter = moved(&told.filter, &new)?;
                    let id = filter.id;
                    match (told.event, there.contains(&id)) {
                        (Event::New, false) if !started => case.filters.push(filter),
                        (Event::New, true) if !started => {
                            case.filters.iter_mut().filter(|f| f.id == id).for_each(|f| *f = filter.clone())
                        }
                        (Event::New, false) => case.steps.push(Step::Add(filter)),
                        (Event::New, true) => case.steps.push(Step::Replace(filter)),
                        (Event::Gone, _) if started => case.steps.push(Step::Remove(id)),
                        (Event::Gone, _) => case.filters.retain(|f| f.id != id),
                    }
                    match told.event {
                        Event::New => there.insert(id),
                        Event::Gone => there.remove(&id),
                    };
                }
                Message::Link(link) => {
                    let was = up.insert(link.index, link.up);
                    if let (true, Some(was), Ok(port)) = (started, was, new(Port(link.index)))
                        && was != link.up
                    {
                        case.steps.push(Step::Link(port, link.up));
                    }
                }
                _ => {}
            }
        }
        Ok(case)
    }
}

/// A filter on other devices.
fn moved(filter: &Filter, new: &dyn Fn(Port) -> Result<Port>) -> Result<Filter> {
    let mut filter = filter.clone();
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
    Ok(filter)
}
