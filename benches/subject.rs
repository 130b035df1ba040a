//! What is measured, behind the few calls that the benchmarks make: the one file that knows the runtime's API.
//!
//! The datapath's side is a [`Datapath`] for each thread that hands packets in; the worker's is [`Subject::work`]. The hardware takes
//! everything at once and keeps nothing, so that what is measured is the library: see [`Board`].

use crate::world::{PORT, Packet};
use flowmerge::{
    conntrack::{Connection, ConnectionHandle, ConnectionId, Direction},
    datapath::Became,
    flower::{Capabilities, Cookie, Filter, Key},
    hardware::{Hardware, HardwareError, MergedId, Offer, Reading},
    merger::{ConnectionEvent, Limits, Merger, Settings},
    table::Inserted,
    walk::{Found, Record},
};
use smallvec::SmallVec;
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

/// Walks that a datapath's queue has room for: more than are ever handed over before a worker's turn.
pub const QUEUE: usize = 4096;

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

/// What `ct` found, by the runtime's handle.
type FoundBy = Option<(ConnectionHandle, Direction)>;

/// A packet as a driver has it: with the runtime's handles of its connections, which it keeps beside them.
#[derive(Clone, Debug)]
pub struct Ready {
    key: Key,
    hits: SmallVec<[(Cookie, FoundBy); 5]>,
}

/// A thread's end of the datapath.
pub struct Datapath(flowmerge::datapath::Datapath);

impl Subject {
    /// A runtime that knows these filters, and whose limits none of the benchmarks meets.
    pub fn new(filters: Vec<(Cookie, Filter)>) -> Subject {
        let board = Arc::new(Board::default());
        let limits = Limits { merged: usize::MAX, ..Limits::default() };
        let room = flowmerge::datapath::Limits { queue: QUEUE, ..Default::default() };
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

    /// A packet whose connections are known.
    pub fn ready(&self, packet: Packet) -> Ready {
        let found = |f: Found| (self.merger.handle(f.connection).expect("it was told"), f.direction);
        Ready { key: packet.key, hits: packet.hits.iter().map(|&(filter, f)| (filter, f.map(found))).collect() }
    }

    /// A thread of the datapath.
    pub fn datapath(&self) -> Datapath {
        Datapath(self.merger.datapath())
    }

    /// A worker's turn: merges what was handed over.
    ///
    /// # Panics
    /// If one of the walks is refused: then nothing was measured.
    pub fn work(&self) {
        let _ = self.merger.drain(self.board.passed.load(Ordering::Relaxed));
        assert_eq!(self.merger.refused().into_iter().next(), None);
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

impl Datapath {
    /// Records a packet's hits, and gives the walk up.
    #[inline]
    pub fn abandon(&mut self, ready: &Ready) {
        let mut record = self.0.record(PORT, &ready.key);
        tell(&mut record, ready);
        black_box(&record);
    }

    /// Records a packet's whole walk and ends it.
    ///
    /// # Panics
    /// If there was no room for it: then nothing was measured.
    #[inline]
    pub fn finish(&mut self, ready: &Ready) {
        let mut record = self.0.record(PORT, &ready.key);
        tell(&mut record, ready);
        assert!(self.0.finish(&record) != Became::Full, "the queue is long");
    }
}

/// Tells a record of all that happens to the packet. The record stays where it is, as on a driver's stack.
#[inline]
fn tell(record: &mut Record<'_>, ready: &Ready) {
    for &(filter, found) in &ready.hits {
        record.hit(filter);
        if let Some((connection, direction)) = found {
            record.found(Some(connection), direction);
        }
    }
}
