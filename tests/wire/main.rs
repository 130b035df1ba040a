//! What filters say on the wire: messages of the recorded runs and random ones, sent, read back, and read by another decoder.
//!
//! | file | what |
//! | --- | --- |
//! | `filters/` | random filters of everything that Linux 6.1 takes and says back; the laboratory asks the kernel for them |
//! | `recorded` | the messages of the recorded runs |
//! | `opinion/` | what `netlink-bindings` makes of a message, against what we do |

mod filters;
mod opinion;
mod recorded;

use filters::{Throws, expected, features};
use flowmerge::{
    flower::{Filter, FilterId, Hook, Port},
    netlink::{LinkNames, Message, Names, ROUTE, decode, encode_filter},
};
use std::collections::BTreeMap;

/// The devices of the random filters.
struct Devices;

impl Names for Devices {
    fn index(&self, name: &str) -> Option<u32> {
        name.strip_prefix('p')?.parse().ok()
    }

    fn name(&self, index: u32) -> Option<String> {
        Some(format!("p{index}"))
    }
}

/// Random numbers that are always the same (SplitMix64).
fn numbers(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = state;
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ number >> 31
    }
}

/// Random filters, each with whether it was put together as such filters are.
fn random(count: u32) -> Vec<(Filter, bool)> {
    let mut numbers = numbers(1);
    let ports = [Port(3), Port(4)];
    let filter = |handle| {
        let hook = if handle % 2 == 0 { Hook::Ingress(ports[0]) } else { Hook::Egress(ports[1]) };
        let id = FilterId { hook, chain: handle % 3, prio: 1 + handle as u16, protocol: 0, handle };
        filters::filter(&mut Throws(&mut numbers), id, &ports)
    };
    (1..=count).map(filter).collect()
}

#[track_caller]
fn read(bytes: &[u8], names: &dyn Names) -> Filter {
    match decode(ROUTE, bytes, names).unwrap().message {
        Message::Filter(told) => told.filter,
        other => panic!("{other:?}"),
    }
}

#[test]
fn random_filters_survive_being_sent() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (filter, regular) in random(4000) {
        match encode_filter(&filter, &Devices) {
            Ok(bytes) => assert_eq!(read(&bytes, &Devices), filter),
            Err(error) => {
                assert!(!regular, "{filter}: {error}");
                continue;
            }
        }
        features(&filter).into_iter().for_each(|feature| *seen.entry(feature).or_default() += 1);
    }
    let rare: Vec<_> = expected().into_iter().filter(|feature| seen.get(feature).is_none_or(|&n| n < 5)).collect();
    assert_eq!(rare, Vec::<String>::new(), "too seldom seen");
}

#[test]
fn recorded_filters_survive_being_sent() {
    for run in recorded::runs() {
        let mut filters = 0;
        run.each(|bytes, message, names| {
            let Message::Filter(told) = message else { return };
            filters += 1;
            let filter = &told.filter;
            assert_eq!(filter.undecoded, Vec::<String>::new(), "{} {}", run.name, filter.id);
            let again = encode_filter(filter, names).unwrap_or_else(|error| panic!("{} {filter}: {error}", run.name));
            assert_eq!(read(&again, names), *filter, "{}", run.name);
            assert_eq!(read(bytes, names), *filter);
        });
        assert!(filters > 5, "{}: {filters}", run.name);
    }
}

#[test]
fn another_decoder_says_the_same_of_recorded_filters() {
    let mut count = opinion::Count::default();
    for run in recorded::runs() {
        run.each(|bytes, message, names| {
            if let Message::Filter(told) = message
                && !told.filter.actions.is_empty()
            {
                opinion::agrees(bytes, &told.filter, names, &mut count);
            }
        });
    }
    assert!(count.terms > 500 && count.actions > 200, "{count:?}");
}

#[test]
fn another_decoder_says_the_same_of_random_filters() {
    let mut count = opinion::Count::default();
    for (filter, _) in random(3000) {
        if let Ok(bytes) = encode_filter(&filter, &Devices) {
            opinion::agrees(&bytes, &filter, &Devices, &mut count);
        }
    }
    // Most is compared; what the other cannot say is counted.
    assert!(count.terms > 10_000 && count.actions > 4_000, "{count:?}");
    assert!(count.fields.len() > 80 && count.unsaid * 100 < count.actions + count.terms, "{count:?}");
}

/// A comparison that cannot fail is none: of each filter one thing is changed.
#[test]
fn another_decoder_notices() {
    let (mut noticed, mut changed) = (0, 0);
    for (filter, _) in random(300) {
        let Ok(bytes) = encode_filter(&filter, &Devices) else { continue };
        let mut others = Vec::new();
        for (field, value, mask) in filter.matches.terms().filter(|(field, ..)| opinion::speaks_of(*field)) {
            let mut other = filter.clone();
            let lowest = mask & mask.wrapping_neg();
            other.matches.key.set(field, value ^ lowest);
            others.push(other);
        }
        for at in 0..filter.actions.len() {
            let mut other = filter.clone();
            other.actions.remove(at);
            others.push(other);
        }
        for other in others {
            changed += 1;
            let mut count = opinion::Count::default();
            noticed += usize::from(opinion::compare(&bytes, &other, &Devices, &mut count).is_err());
        }
    }
    // Two equal actions one after the other, of which one is left.
    assert!(changed > 1000 && noticed * 100 > changed * 99, "{noticed} of {changed}");
}

/// Reads a message with no names known.
#[test]
fn a_message_without_names_is_read() {
    let bytes = random(50).into_iter().find_map(|(filter, _)| encode_filter(&filter, &Devices).ok()).unwrap();
    assert!(decode(ROUTE, &bytes, &LinkNames::default()).is_ok());
}
