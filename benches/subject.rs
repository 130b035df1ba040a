//! What is measured, behind the few calls that the benchmarks make: the one file that knows the runtime's API.
//!
//! The datapath's side is a [`Datapath`] for each thread that hands packets in; the worker's is [`Subject::work`]. The hardware takes
//! everything at once and keeps nothing, so that what is measured is the library: see [`Board`].

use crate::world::{PORT, Packet};
use flowmerge::{
    conntrack::{Connection, ConnectionHandle, ConnectionId},
    flower::{Capabilities, Cookie, Filter},
    hardware::{Hardware, HardwareError, MergedId, Offer, Reading},
    merger::{ConnectionEvent, Limits, Merger, Settings},
    table::Inserted,
    walk::Record,
};
use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// Packets that each entry counts from one [`Board::pass`] to the next.
pub const PACKETS: u64 = 3;

/// Hardware that keeps nothing: each entry has counted as many packets as have passed.
#[derive(Debug)]
pub struct Board {
    passed: AtomicU64,
    /// Whether to note when an entry came; a clock in every install would be measured, too.
    watched: AtomicBool,
    came: AtomicU64,
    since: Instant,
}

impl Default for Board {
    fn default() -> Board {
        let zero = || AtomicU64::new(0);
        Board { passed: zero(), watched: AtomicBool::new(false), came: zero(), since: Instant::now() }
    }
}

impl Board {
    /// Packets come: [`PACKETS`] for each entry.
    pub fn pass(&self) {
        self.passed.fetch_add(PACKETS, Ordering::Relaxed);
    }

    /// From now on it notes when an entry comes.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    /// Nanoseconds on its clock.
    pub fn now(&self) -> u64 {
        self.since.elapsed().as_nanos() as u64
    }

    /// When the last entry came, on its clock; 0 if none did.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Acquire)
    }

    fn take(&self, offer: &Offer<'_>) {
        black_box(offer);
        if self.watched.load(Ordering::Relaxed) {
            self.came.store(self.now(), Ordering::Release);
        }
    }

    fn reading(&self) -> Reading {
        let packets = self.passed.load(Ordering::Relaxed);
        Reading { packets, bytes: packets * 100, last_used: packets, ..Reading::default() }
    }
}

/// The board as the runtime holds it.
struct Slot(Arc<Board>);

impl Hardware for Slot {
    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    fn install(&self, offer: &Offer<'_>) -> Result<(), HardwareError> {
        self.0.take(offer);
        Ok(())
    }

    fn remove(&self, id: MergedId) -> Result<Reading, HardwareError> {
        black_box(id);
        Ok(self.0.reading())
    }

    fn read(&self, ids: &[MergedId], each: &mut dyn FnMut(MergedId, Result<Reading, HardwareError>)) {
        let reading = self.0.reading();
        ids.iter().for_each(|&id| each(id, Ok(reading)));
    }
}

/// The runtime with a [`Board`].
pub struct Subject {
    merger: Merger<Slot>,
    /// Its hardware.
    pub board: Arc<Board>,
}

/// A thread's end of the datapath.
pub struct Datapath<'a> {
    subject: &'a Subject,
    datapath: flowmerge::datapath::Datapath,
    /// What a driver keeps beside its connections.
    handles: Vec<Option<ConnectionHandle>>,
}

impl Subject {
    /// A runtime that knows these filters, and whose limits none of the benchmarks meets.
    pub fn new(filters: Vec<(Cookie, Filter)>) -> Subject {
        let board = Arc::new(Board::default());
        let limits = Limits { merged: usize::MAX, ..Limits::default() };
        let room = flowmerge::datapath::Limits { queue: 1 << 16, ..Default::default() };
        let settings = Settings { datapath: room, ..Settings::with_limits(limits) };
        let merger = Merger::with(Slot(board.clone()), settings);
        let subject = Subject { merger, board };
        filters.into_iter().for_each(|(cookie, filter)| subject.filter(cookie, filter));
        subject
    }

    /// TC has a filter.
    pub fn filter(&self, cookie: Cookie, filter: Filter) {
        self.merger.replace(cookie, filter, Inserted::Observed).expect("nothing stands in its way");
    }

    /// TC has it no more, and nothing is made of it.
    pub fn destroy(&self, cookie: Cookie) {
        self.merger.destroy(cookie).expect("the board removes what it is told to");
    }

    /// Conntrack has a connection.
    pub fn connect(&self, id: ConnectionId, connection: Connection) {
        self.merger.connection(ConnectionEvent::Is(id, connection)).expect("it is new");
    }

    /// Conntrack has it no more.
    pub fn disconnect(&self, id: ConnectionId) {
        self.merger.connection(ConnectionEvent::Gone(id)).expect("the board removes what it is told to");
    }

    /// A thread of the datapath.
    pub fn datapath(&self) -> Datapath<'_> {
        Datapath { subject: self, datapath: self.merger.datapath(), handles: Vec::new() }
    }

    /// A worker's turn: merges what was handed over.
    pub fn work(&self) {
        let _ = self.merger.drain(0);
    }

    /// Whether no walk was refused: else nothing was measured.
    pub fn all_merged(&self) -> bool {
        self.merger.refused().is_empty()
    }

    /// Reads all counters, and hands them up.
    pub fn read_all(&self) {
        self.merger.read_all();
    }

    /// The packets that a filter's first action was handed, if there is such a filter.
    pub fn packets(&self, cookie: Cookie) -> Option<u64> {
        self.merger.counted(cookie).first().map(|counters| counters.packets)
    }

    /// How many merged filters there are.
    pub fn merged(&self) -> usize {
        self.merger.merged_count()
    }
}

impl Datapath<'_> {
    /// Records a packet's hits, and gives the walk up.
    pub fn abandon(&mut self, packet: &Packet) {
        black_box(self.record(packet));
    }

    /// Records a packet's whole walk and ends it.
    pub fn finish(&mut self, packet: &Packet) {
        let record = self.record(packet);
        black_box(self.datapath.finish(&record));
    }

    #[inline]
    fn handle(&mut self, id: ConnectionId) -> Option<ConnectionHandle> {
        match self.handles.get(id.0 as usize) {
            Some(&Some(handle)) => Some(handle),
            _ => self.first_handle(id),
        }
    }

    #[cold]
    fn first_handle(&mut self, id: ConnectionId) -> Option<ConnectionHandle> {
        let at = id.0 as usize;
        if self.handles.len() <= at {
            self.handles.resize(at + 1, None);
        }
        self.handles[at] = self.subject.merger.handle(id);
        self.handles[at]
    }

    fn record<'p>(&mut self, packet: &'p Packet) -> Record<'p> {
        let mut record = self.datapath.record(PORT, &packet.key);
        for &(filter, found) in &packet.hits {
            record.hit(filter);
            if let Some(found) = found {
                record.found(self.handle(found.connection), found.direction);
            }
        }
        record
    }
}
