//! What ctnetlink says of connections, and when.

use flowmerge::{
    conntrack::Tuple,
    netlink::{ConnectionEvent, ConnectionMessage},
};
use std::collections::{HashMap, VecDeque};

/// A ctnetlink message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What happened.
    pub event: ConnectionEvent,
    /// Whether a command caused it (the message has a port) rather than the kernel itself.
    pub by_hand: bool,
    /// The connection.
    pub connection: ConnectionMessage,
}

/// A report and its place.
#[derive(Clone, Debug)]
pub struct Reported {
    /// Position in the trace's order of time.
    pub at: usize,
    /// Time in nanoseconds.
    pub time: u64,
    /// What was said.
    pub report: Report,
}

/// What tells a connection from others at one time; the kernel's identifier may be used again by the next generation.
pub(super) fn name(c: &ConnectionMessage) -> (u16, Tuple, Tuple) {
    (c.zone, c.original, c.reply)
}

/// The reports that are still to come, and where among them births are.
#[derive(Debug, Default)]
pub(super) struct Reports {
    queue: VecDeque<Reported>,
    /// How many have been taken.
    taken: usize,
    births: HashMap<(u16, Tuple), VecDeque<usize>>,
}

impl FromIterator<Reported> for Reports {
    fn from_iter<I: IntoIterator<Item = Reported>>(reports: I) -> Reports {
        let queue: VecDeque<Reported> = reports.into_iter().collect();
        let mut births: HashMap<_, VecDeque<usize>> = HashMap::new();
        for (number, r) in queue.iter().enumerate().filter(|(_, r)| r.report.event == ConnectionEvent::New) {
            let c = &r.report.connection;
            births.entry((c.zone, c.original)).or_default().push_back(number);
        }
        Reports { queue, taken: 0, births }
    }
}

impl Reports {
    /// Takes the next one, if it is before that position.
    pub(super) fn take_before(&mut self, at: usize) -> Option<Reported> {
        let reported = self.queue.pop_front_if(|r| r.at < at)?;
        let c = &reported.report.connection;
        let name = (c.zone, c.original);
        if let Some(numbers) = self.births.get_mut(&name) {
            numbers.pop_front_if(|number| *number == self.taken);
            if numbers.is_empty() {
                self.births.remove(&name);
            }
        }
        self.taken += 1;
        Some(reported)
    }

    /// All of them, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Reported> {
        self.queue.iter()
    }

    /// The next birth of a connection with this original tuple, and what stands before it.
    pub(super) fn birth(&self, zone: u16, original: Tuple) -> Option<(&Reported, impl Iterator<Item = &Reported>)> {
        let number = self.births.get(&(zone, original))?.front()?;
        let place = number - self.taken;
        Some((self.queue.get(place)?, self.queue.iter().take(place)))
    }
}
