//! What was missed. After notifications were lost the recorder dumps everything once more; held against what was told so far,
//! that dump becomes the notifications that were lost: what it has and was not told, or was told otherwise, has come, and what
//! was told and is not in it is gone. Whatever happened in between and is over stays unknown.

use flowmerge::{
    conntrack::Tuple,
    flower::{FilterId, Hook, Port},
    netlink::{ConnectionEvent, ConnectionMessage, Envelope, Event, FilterMessage, Link, Message, NETFILTER, Qdisc},
};
use std::collections::BTreeMap;

/// A connection's name in the kernel.
type Name = (u16, Tuple);

/// What there is, as told so far. It may hold too much, as the filters of a block whose last qdisc went; that these are told to
/// be gone once more does no harm.
#[derive(Default)]
pub struct Picture {
    links: BTreeMap<u32, Seen<Link>>,
    /// Those that filters hang on, by device.
    qdiscs: BTreeMap<u32, Seen<Qdisc>>,
    filters: BTreeMap<FilterId, Seen<FilterMessage>>,
    connections: BTreeMap<Name, Seen<ConnectionMessage>>,
    /// A dump has begun and not ended.
    mending: bool,
}

/// Something that is there.
struct Seen<T> {
    what: T,
    /// Told, since the dump under way began.
    lately: bool,
}

fn put<K: Ord, T>(map: &mut BTreeMap<K, Seen<T>>, key: K, what: T) -> Option<T> {
    map.insert(key, Seen { what, lately: true }).map(|old| old.what)
}

/// Takes out what was not told lately, and makes the rest old.
fn sift<K: Ord, T>(map: &mut BTreeMap<K, Seen<T>>) -> Vec<T> {
    let gone = map.extract_if(.., |_, seen| !std::mem::take(&mut seen.lately));
    gone.map(|(_, seen)| seen.what).collect()
}

fn age<K, T>(map: &mut BTreeMap<K, Seen<T>>) {
    map.values_mut().for_each(|seen| seen.lately = false);
}

impl Picture {
    /// Takes over what was told.
    pub fn follow(&mut self, message: &Message) {
        match message {
            Message::Link(link) => drop(put(&mut self.links, link.index, link.clone())),
            Message::LinkGone(link) => {
                self.links.remove(&link.index);
                self.leave(link.index);
            }
            Message::Qdisc(qdisc) if holds_filters(qdisc) => {
                drop(put(&mut self.qdiscs, qdisc.index, qdisc.clone()));
            }
            Message::QdiscGone(qdisc) if holds_filters(qdisc) => self.leave(qdisc.index),
            Message::Filter(told) => match told.event {
                Event::New => drop(put(&mut self.filters, told.filter.id, (**told).clone())),
                Event::Gone => drop(self.filters.remove(&told.filter.id)),
            },
            Message::FiltersGone { hook, chain, prio, .. } => {
                self.filters.retain(|id, _| (id.hook, id.chain, id.prio) != (*hook, *chain, *prio));
            }
            Message::Connection { event, connection } => {
                let name = (connection.zone, connection.original);
                match event {
                    ConnectionEvent::Destroy => drop(self.connections.remove(&name)),
                    _ => drop(put(&mut self.connections, name, (**connection).clone())),
                }
            }
            _ => {}
        }
    }

    fn leave(&mut self, index: u32) {
        let port = Port(index);
        self.qdiscs.remove(&index);
        self.filters.retain(|id, _| ![Hook::Ingress(port), Hook::Egress(port)].contains(&id.hook));
    }

    /// Takes a message of such a dump, of which connections are the end; the notifications that it stands for.
    pub fn mend(&mut self, envelope: Envelope) -> Vec<Envelope> {
        if !std::mem::replace(&mut self.mending, true) {
            age(&mut self.links);
            age(&mut self.qdiscs);
            age(&mut self.filters);
            age(&mut self.connections);
        }
        let told = |message| Envelope { flags: 0, message, ..envelope.clone() };
        match &envelope.message {
            Message::Done if envelope.family == NETFILTER => {
                self.mending = false;
                let filters = sift(&mut self.filters)
                    .into_iter()
                    .map(|filter| Message::Filter(Box::new(FilterMessage { event: Event::Gone, ..filter })));
                let connections = sift(&mut self.connections).into_iter().map(|connection| Message::Connection {
                    event: ConnectionEvent::Destroy,
                    connection: Box::new(connection),
                });
                let qdiscs = sift(&mut self.qdiscs).into_iter().map(Message::QdiscGone);
                let links = sift(&mut self.links).into_iter().map(Message::LinkGone);
                filters.chain(connections).chain(qdiscs).chain(links).map(told).collect()
            }
            Message::Connection { connection, .. } => {
                let name = (connection.zone, connection.original);
                let new = (**connection).clone();
                let events = match put(&mut self.connections, name, new) {
                    None => vec![(ConnectionEvent::New, connection.clone())],
                    Some(old) if old.id != connection.id => {
                        vec![(ConnectionEvent::Destroy, Box::new(old)), (ConnectionEvent::New, connection.clone())]
                    }
                    Some(old) if old.to_connection() == connection.to_connection() => vec![],
                    Some(_) => vec![(ConnectionEvent::Update, connection.clone())],
                };
                events.into_iter().map(|(event, connection)| told(Message::Connection { event, connection })).collect()
            }
            Message::Filter(_) | Message::Link(_) | Message::Qdisc(_) => {
                self.follow(&envelope.message);
                vec![envelope]
            }
            _ => vec![],
        }
    }
}

fn holds_filters(qdisc: &Qdisc) -> bool {
    matches!(qdisc.kind.as_str(), "clsact" | "ingress")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flowmerge::{
        flower::{Filter, Kind, Match},
        netlink::ROUTE,
    };

    fn envelope(family: u16, message: Message) -> Envelope {
        Envelope { family, flags: 2, sequence: 1, port_id: 7, message }
    }

    fn filter(handle: u32, prio: u16) -> Message {
        let id = FilterId { hook: Hook::Ingress(Port(3)), chain: 0, prio, protocol: 0x800, handle };
        Message::Filter(Box::new(FilterMessage {
            event: Event::New,
            filter: Filter {
                id,
                kind: Kind::Flower,
                matches: Match::default(),
                actions: vec![],
                skip_sw: false,
                skip_hw: false,
                undecoded: vec![],
            },
            counters: vec![],
            idle: vec![],
            in_hardware: false,
        }))
    }

    fn connection(event: ConnectionEvent, port: u16, id: u32, mark: u32) -> Message {
        let address = |last| [10, 0, 0, last].into();
        let original = Tuple { src: address(1), dst: address(2), proto: 17, src_port: port, dst_port: 9 };
        let connection = ConnectionMessage {
            zone: 5,
            original,
            reply: original.inverse(),
            id: Some(id),
            status: Some(8),
            tcp: None,
            timeout: Some(30),
            mark: Some(mark),
            labels: None,
            helper: None,
            master: None,
            has_seqadj: false,
            counters: None,
        };
        Message::Connection { event, connection: Box::new(connection) }
    }

    /// What a message says, in short.
    fn in_short(envelope: &Envelope) -> String {
        match &envelope.message {
            Message::Filter(told) => format!("{:?} filter {}", told.event, told.filter.id.handle),
            Message::Connection { event, connection } => {
                format!("{event:?} {} mark {}", connection.original.src_port, connection.mark.unwrap_or(0))
            }
            other => format!("{other:?}"),
        }
    }

    /// What comes of a dump of these, first filters, then connections.
    fn mended(picture: &mut Picture, filters: &[Message], connections: &[Message]) -> Vec<String> {
        let done = |family| envelope(family, Message::Done);
        let filters = filters.iter().map(|m| envelope(ROUTE, m.clone())).chain([done(ROUTE)]);
        let connections = connections.iter().map(|m| envelope(NETFILTER, m.clone())).chain([done(NETFILTER)]);
        let told: Vec<_> = filters.chain(connections).flat_map(|e| picture.mend(e)).collect();
        told.iter().map(in_short).collect()
    }

    #[test]
    fn what_a_dump_has_has_come_and_what_it_lacks_is_gone() {
        let mut picture = Picture::default();
        for handle in [1, 2] {
            picture.follow(&filter(handle, 1));
        }
        use ConnectionEvent::{Destroy, Dump, New};
        for message in [connection(Dump, 1, 1, 0), connection(New, 2, 2, 0), connection(New, 3, 3, 0)] {
            picture.follow(&message);
        }
        picture.follow(&connection(Destroy, 3, 3, 0));
        let dump = [connection(Dump, 2, 2, 6), connection(Dump, 4, 4, 0)];
        let told = mended(&mut picture, &[filter(2, 1), filter(3, 1)], &dump);
        assert_eq!(
            told,
            ["New filter 2", "New filter 3", "Update 2 mark 6", "New 4 mark 0", "Gone filter 1", "Destroy 1 mark 0"]
        );
        // The next one begins anew: the same again changes nothing.
        assert_eq!(mended(&mut picture, &[filter(2, 1), filter(3, 1)], &dump), ["New filter 2", "New filter 3"]);
        // A dump of nothing.
        let told = mended(&mut picture, &[], &[]);
        assert_eq!(told, ["Gone filter 2", "Gone filter 3", "Destroy 2 mark 6", "Destroy 4 mark 0"]);
        assert!(mended(&mut picture, &[], &[]).is_empty());
    }

    #[test]
    fn a_connection_of_another_generation_is_another_one() {
        let mut picture = Picture::default();
        picture.follow(&connection(ConnectionEvent::New, 1, 1, 0));
        let told = mended(&mut picture, &[], &[connection(ConnectionEvent::Dump, 1, 2, 0)]);
        assert_eq!(told, ["Destroy 1 mark 0", "New 1 mark 0"]);
    }

    #[test]
    fn what_is_told_while_the_dump_is_made_stays() {
        let mut picture = Picture::default();
        picture.follow(&filter(1, 1));
        assert!(picture.mend(envelope(ROUTE, Message::Done)).is_empty());
        picture.follow(&filter(2, 1));
        let told = picture.mend(envelope(NETFILTER, Message::Done));
        assert_eq!(told.iter().map(in_short).collect::<Vec<_>>(), ["Gone filter 1"]);
    }
}
