//! Any bytes as netlink messages: the first byte is the family, the rest a datagram.
//!
//! Nothing panics, not even where what was read is printed, run in the model and offered to the merger. A filter that was read
//! whole can be told, and what is told reads the same, or it is refused by name.

#![no_main]

mod mutator;

use flowmerge::{
    conntrack::{Connection, NotQualified},
    flower::{
        Action, ActionKind, Cookie,
        Field::{self, *},
        Filter, FilterId, Hook, Match, Port,
        filter::PROTOCOL_ALL,
        print,
    },
    hardware::Memory,
    merger::Merger,
    netlink::{self, ConnectionMessage, EncodeError, FilterMessage, LinkNames, Message, Names},
    table::Inserted,
    walk::{Hit, Walk},
};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use merge_model::{
    Model, PortState,
    conntrack::{Conntrack, EntryId, Shown, Tracked},
};

fuzz_target!(|bytes: &[u8]| {
    let Some((&family, datagram)) = bytes.split_first() else { return };
    let family = u16::from(family);
    let mut names = LinkNames::default();
    read(family, datagram, &mut names);
    netlink::messages(datagram).for_each(|message| read(family, message, &mut names));
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutator::mutate(data, size, max_size, seed, 1, mutator::datagram)
});

/// Devices are called `p1`, `p2`, ...
struct Ports;

impl Names for Ports {
    fn index(&self, name: &str) -> Option<u32> {
        let index = name.strip_prefix('p')?.parse().ok()?;
        (self.name(index)? == name).then_some(index)
    }

    fn name(&self, index: u32) -> Option<String> {
        Some(format!("p{index}"))
    }
}

fn read(family: u16, message: &[u8], names: &mut LinkNames) {
    match netlink::decode(family, message, &Ports) {
        Err(error) => drop(error.to_string()),
        Ok(envelope) => {
            names.learn(&envelope.message);
            let _ = (envelope.is_dump(), envelope.is_request(), format!("{envelope:?}"));
            match envelope.message {
                Message::Filter(message) => filter(&message),
                Message::Connection { connection, .. } => drop(self::connection(&connection)),
                Message::Actions { actions, .. } => actions.iter().for_each(|message| printed(&message.action)),
                _ => {}
            }
        }
    }
}

fn connection(message: &ConnectionMessage) -> Result<(), NotQualified> {
    let mut connection = message.to_connection();
    message.update(&mut connection);
    connection.qualifies()
}

fn printed(action: &Action) {
    let _ = format!("{action} {action:#}");
}

fn filter(message: &FilterMessage) {
    let filter = &message.filter;
    let _ = format!("{filter} {filter:#} {} {:#}", filter.matches, filter.matches);
    assert!(message.counters.len() == filter.actions.len() && message.idle.len() == filter.actions.len());
    let by_name = |action: &Action| format!("{}", print::printed(action, &|port: Port| format!("p{}", port.0)));
    filter.actions.iter().for_each(|action| drop(by_name(action)));
    told(filter);
    execute(filter.clone());
    // And so that its actions run.
    let id = FilterId { protocol: PROTOCOL_ALL, ..filter.id };
    execute(Filter { id, matches: Match::default(), ..filter.clone() });
}

/// What was read whole is told, and reads the same again, or it is refused.
fn told(filter: &Filter) {
    // In front of others more is told than Linux says back.
    let all: [(fn(&Filter, &dyn Names) -> _, _); 3] =
        [(netlink::encode_filter, true), (netlink::encode_replacement, true), (netlink::encode_front, false)];
    for (encode, comes_back) in all {
        match encode(filter, &Ports) {
            Ok(bytes) => {
                assert!(filter.is_decoded(), "told though not understood: {filter:#?}");
                if comes_back {
                    let envelope = netlink::decode(netlink::ROUTE, &bytes, &Ports).expect("what we said ourselves");
                    let Message::Filter(again) = envelope.message else { panic!("no filter") };
                    assert_eq!(again.filter, *filter);
                }
            }
            Err(EncodeError::Undecoded(_) | EncodeError::Classifier(_)) => assert!(!filter.is_decoded()),
            // A dump does not name addresses of which no bit is compared.
            Err(EncodeError::Field(Field::AddrType | Field::EncAddrType)) => {}
            // Of later kernels.
            Err(EncodeError::Field(L2Miss | CfmLevel | CfmOpcode | Spi | EncFlags)) => {}
            Err(error) => panic!("read whole, and not told: {error} {filter:#?}"),
        }
    }
}

/// Nothing is tracked.
struct NoConntrack;

impl Conntrack for NoConntrack {
    fn track(&mut self, _: u16, _: &Shown) -> Tracked {
        Tracked::Invalid
    }
    fn connection(&self, _: EntryId) -> &Connection {
        unreachable!("nothing is tracked")
    }
    fn is_confirmed(&self, _: EntryId) -> bool {
        false
    }
    fn translate(&mut self, _: EntryId, _: &flowmerge::flower::action::Nat) {}
    fn commit(&mut self, _: EntryId, _: Option<(u32, u32)>, _: Option<(u128, u128)>) -> Option<EntryId> {
        None
    }
    fn kill(&mut self, _: EntryId) {}
}

/// Packets of several kinds.
const FRAMES: [&[u8]; 4] = [
    // TCP.
    b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0\x45\0\0\x28\0\0\0\0\x40\x06\x66\xcb\x0a\0\0\x01\x0a\0\0\x02\
      \x03\xe8\0\x50\0\0\0\x01\0\0\0\x01\x50\x10\x10\0\0\0\0\0",
    // UDP behind two tags.
    b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x88\xa8\0\x05\x81\0\0\x06\x08\0\x45\0\0\x1c\0\0\0\0\x40\x11\x66\xcc\x0a\0\0\x01\x0a\0\0\x02\
      \x03\xe8\0\x50\0\x08\0\0",
    // ICMPv6.
    b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x86\xdd\x60\0\0\0\0\x08\x3a\x40\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\
      \xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x80\0\0\0\0\x01\0\x01",
    // Two MPLS entries, and a short tail.
    b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x88\x47\0\x01\x00\x40\0\x02\x01\x40\x45\0\0",
];

/// The model runs it on packets, the merger gets what became of them, and the table must do the same.
fn execute(filter: Filter) {
    let port = match filter.id.hook {
        Hook::Ingress(port) => port,
        Hook::Egress(_) | Hook::Block(_) => Port(1),
    };
    let mut model = Model::new();
    let merger = Merger::new(Memory::default());
    let targets = filter.actions.iter().filter_map(|action| match action.kind {
        ActionKind::Mirred(mirred) => Some(mirred.port),
        _ => None,
    });
    for port in targets.chain([port]) {
        model.set_port(port, PortState { up: true, mtu: 1500 });
    }
    if let Hook::Block(block) = filter.id.hook {
        model.filters.bind(Hook::Ingress(port), block);
        merger.bind(Hook::Ingress(port), block).expect("memory removes");
    }
    let in_software = !filter.skip_sw;
    model.filters.replace(filter.clone());
    // A `skip_sw` filter may be refused.
    let _ = merger.replace(Cookie(1), filter.clone(), Inserted::Observed);
    for (frame, now) in FRAMES.into_iter().zip(1..) {
        let outcome = model.receive(port, frame, now, &mut NoConntrack);
        let own = outcome.hits.iter().filter(|hit| hit.branch == 0);
        let hits = own.map(|hit| Hit { filter: Cookie(1), found: vec![None; hit.found.len()] }).collect();
        let mut handled = merger.hardware().receive(port, frame, now);
        if handled.is_none() {
            let _ = merger.walk(Walk { port, key: outcome.key, hits });
            for (_, merged) in merger.drain(0).walks {
                match merged {
                    Err(refusal) => drop(refusal.to_string()),
                    Ok(_) => handled = merger.hardware().receive(port, frame, now),
                }
            }
        }
        if let Some(handled) = handled.filter(|_| in_software) {
            let sent: Vec<_> = handled.sent.iter().map(|s| (s.port, s.ingress, &s.frame)).collect();
            // The model also tells what is seen coming in at a port whose filters take it up.
            let leaves = outcome.sent.iter().filter(|s| !(s.ingress && model.filters.is_filtered(s.port)));
            let meant: Vec<_> = leaves.map(|s| (s.port, s.ingress, &s.frame)).collect();
            let entry = merger.hardware().entry(handled.id).expect("it handled the frame");
            let merged: Vec<String> = entry.actions.iter().map(ToString::to_string).collect();
            assert_eq!(sent, meant, "{filter:#}\n{:?}\n{} -> {}", outcome.verdict, entry.matches, merged.join(", "));
        }
    }
}
