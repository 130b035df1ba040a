//! Field by field: a filter that compares no more than the field and what flower wants before it.

use crate::{
    notes::{Notes, table},
    run::{OUT, Ports, filter, key, merge, model, stack, told_in_front, undecidable},
    samples::{self, Sample},
};
use flowmerge::{
    flower::{
        Action, ActionKind, Capabilities, Control, Field, Filter, Key, Match, Range,
        action::Ct,
        field::ct_state::{ESTABLISHED, TRACKED},
    },
    netlink::{self, EncodeError, Message},
};
use merge_model::{Outcome, Verdict};
use std::iter::successors;

/// What is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Asked {
    Field(Field),
    Range(Field),
}

/// A packet that has the field.
fn sample(field: Field) -> Sample {
    use Field::*;
    match field {
        NumOfVlans | VlanTpid | VlanId | VlanPrio | VlanEthType => samples::tagged(),
        CvlanTpid | CvlanId | CvlanPrio | CvlanEthType => samples::two_tags(),
        IpFlags => samples::fragment(),
        Ipv6Src | Ipv6Dst => samples::tcp6(),
        IcmpType | IcmpCode => samples::icmp(),
        ArpSip | ArpTip | ArpOp | ArpSha | ArpTha => samples::arp(),
        PppoeSid | PppProto => samples::pppoe(),
        L2tpv3Sid => samples::l2tp(),
        CfmLevel | CfmOpcode => samples::cfm(),
        Spi => samples::esp(),
        EncIpv6Src | EncIpv6Dst => samples::through_tunnel(true),
        tunnel if tunnel.is_tunnel() => samples::through_tunnel(false),
        label if Field::MPLS.as_flattened().contains(&label) => samples::mpls(7),
        _ => samples::tcp(),
    }
}

/// What flower compares of a field at most: of options the set bits of their kind and length, and of each one's length.
fn ones(field: Field, key: &Key) -> u128 {
    match field {
        Field::EncOptsType | Field::EncOptsLen => key.get(field),
        options if Field::OPTIONS.contains(&options) => field.ones() & !(0xff << 96) | key.get(field) & 0xff << 96,
        _ => field.ones(),
    }
}

/// What is compared together with a field: what flower wants before it looks at it, and what tells it.
fn together(field: Field, key: &Key) -> Vec<Field> {
    use Field::*;
    let before: Vec<Field> = successors(field.row().prerequisite, |f| f.row().prerequisite).collect();
    let more = match field {
        NumOfVlans | VlanTpid | VlanId | VlanPrio | VlanEthType | CvlanTpid | CvlanId | CvlanPrio | CvlanEthType => {
            stack(key)
        }
        // Told by the addresses of that kind.
        AddrType => vec![Ipv4Src],
        EncAddrType => vec![EncIpv4Src],
        PppoeSid => vec![PppProto],
        EncOptsType | EncOptsLen | EncOpts0 | EncOpts1 | EncOpts2 | EncOpts3 => {
            [&[EncOptsType, EncOptsLen], &Field::OPTIONS[..]].concat()
        }
        _ => Vec::new(),
    };
    let all = before.into_iter().rev().chain(more).collect::<std::collections::BTreeSet<_>>();
    all.into_iter().filter(|&f| f != field && f != Protocol).collect()
}

/// The match, with the value of the field changed by `flip`, under this mask.
fn asking(asked: Asked, key: &Key, flip: u128, mask: u128) -> Match {
    let (Asked::Field(field) | Asked::Range(field)) = asked;
    let mut m = Match::default();
    let with = together(field, key);
    let protocol = (!field.is_conntrack()).then_some(Field::Protocol);
    for other in with.into_iter().chain(protocol).filter(|&other| other != field) {
        m.set(other, key.get(other), ones(other, key));
    }
    match asked {
        Asked::Field(_) => m.set(field, key.get(field) ^ flip, mask),
        Asked::Range(_) => {
            let port = key.get(field) as u16;
            *m.range_mut(field) = Some(Range { min: port + flip as u16, max: port + 10 });
        }
    }
    m
}

/// The filter, behind a `ct` where conntrack has to say something.
fn filters(field: Field, matches: Match) -> Vec<Filter> {
    let to = vec![Action::redirect(OUT)];
    if !field.is_conntrack() {
        return vec![filter(0, 1, matches, to)];
    }
    let ct = Action::new(ActionKind::Ct(Ct { zone: 5, ..Ct::default() }), Control::Pipe);
    let ip = Match::default().exact(Field::Protocol, 0x800).exact(Field::EthType, 0x800);
    vec![filter(0, 1, ip, vec![ct, Action::gact(Control::Goto(1))]), filter(1, 1, matches, to)]
}

fn read(bytes: &[u8]) -> Result<Match, String> {
    let envelope = netlink::decode(netlink::ROUTE, bytes, &Ports).map_err(|e| e.to_string())?;
    let Message::Filter(message) = envelope.message else { return Err("not a filter".into()) };
    match message.filter.undecoded.first() {
        Some(what) => Err(format!("{what} is not understood")),
        None => Ok(message.filter.matches),
    }
}

/// As a kernel later than 6.1 tells it: a message without the field, and the field's attributes in it.
fn later(field: Field, value: u128, without: &Filter) -> Option<Vec<u8>> {
    let attribute = |kind: u16, value: &[u8]| {
        let mut bytes = [(4 + value.len() as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let masked = |kind, mask: u32| {
        [attribute(kind, &(value as u32).to_be_bytes()), attribute(kind + 1, &mask.to_be_bytes())].concat()
    };
    let attributes = match field {
        Field::L2Miss => attribute(106, &[value as u8]),
        Field::CfmLevel => attribute(107, &attribute(1, &[value as u8])),
        Field::CfmOpcode => attribute(107, &attribute(2, &[value as u8])),
        Field::Spi => masked(108, u32::MAX),
        Field::EncFlags => masked(110, field.ones() as u32),
        _ => return None,
    };
    let mut bytes = netlink::encode_filter(without, &Ports).ok()?;
    let mut at = 36;
    loop {
        let [l0, l1, k0, k1] = *bytes.get(at..)?.first_chunk()?;
        let length = u16::from_ne_bytes([l0, l1]);
        if u16::from_ne_bytes([k0, k1]) & 0x3fff == 2 {
            let end = at + usize::from(length).next_multiple_of(4);
            bytes[at..at + 2].copy_from_slice(&(length + attributes.len() as u16).to_ne_bytes());
            bytes.splice(end..end, attributes);
            let length = bytes.len() as u32;
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            return Some(bytes);
        }
        at += usize::from(length).next_multiple_of(4);
    }
}

/// Whether a message with it is read, and whether it is told: [`EncodeError`] says why not.
fn on_the_wire(asked: Asked, wanted: &[Filter], without: &[Filter]) -> (Result<(), String>, Result<(), String>) {
    let (Some(wanted), Some(without)) = (wanted.last(), without.last()) else { unreachable!("there is a filter") };
    let told = netlink::encode_filter(wanted, &Ports);
    let again = match (&told, asked) {
        (Ok(bytes), _) => read(bytes),
        (Err(_), Asked::Field(field)) => match later(field, wanted.matches.key.get(field), without) {
            Some(bytes) => read(&bytes),
            None => Err("never, since it is not told".into()),
        },
        (Err(_), Asked::Range(_)) => Err("never, since it is not told".into()),
    };
    let same = |read: Match| if read == wanted.matches { Ok(()) } else { Err(format!("read as: {read}")) };
    (again.and_then(same), told.map(drop).map_err(|e: EncodeError| e.to_string()))
}

/// Whether the model hits a filter that asks for what the packet has, and none that asks for something else.
fn modelled(hit: &Outcome, missed: &Outcome) -> Result<(), String> {
    if let Some(why) = undecidable(hit) {
        return Err(why);
    }
    match (&hit.verdict, &missed.verdict) {
        (Verdict::Decided(_), Verdict::Missed { .. }) => Ok(()),
        (Verdict::Decided(_), _) => Err("a filter that asks for something else is hit, too".into()),
        _ => Err("no packet matches it".into()),
    }
}

/// The same in front of the filters of a port, told to TC.
fn in_front(filters: &[Filter], outcome: &Outcome) -> Result<(), String> {
    let entry = merge(filters, outcome, false, Capabilities::tc())?;
    told_in_front(&entry)
}

fn row(asked: Asked, notes: &mut Notes) -> Vec<String> {
    let (Asked::Field(field) | Asked::Range(field)) = asked;
    let sample = sample(field);
    let known =
        [(Field::CtState, TRACKED | ESTABLISHED), (Field::CtZone, 5), (Field::CtMark, 16), (Field::CtLabels, 32)];
    let key = known.into_iter().fold(key(&sample), |key, (field, value)| key.with(field, value));
    let filter_of = |flip, mask| filters(field, asking(asked, &key, flip, mask));
    let ones = ones(field, &key);
    let lowest = ones & ones.wrapping_neg();
    let (wanted, other) = (filter_of(0, ones), filter_of(lowest, ones));
    let (read, told) = on_the_wire(asked, &wanted, &filter_of(0, 0));
    let (hit, missed) = (model(&wanted, &sample, false), model(&other, &sample, false));
    let merged = merge(&wanted, &hit, false, Capabilities::all());
    // Bits of it, where that makes a difference.
    let length = if Field::OPTIONS.contains(&field) { ones & 0xff << 96 } else { 0 };
    let bits = || netlink::encode_filter(filter_of(0, lowest | length).last().expect("a filter"), &Ports);
    let how = match asked {
        Asked::Range(_) => "a range",
        Asked::Field(_) if field.row().whole => "whole",
        Asked::Field(_) if ones != field.ones() && lowest == ones => "its bits",
        Asked::Field(_) if told.is_err() || bits().is_ok() => "any bits",
        Asked::Field(_) => "some bits",
    };
    let merged = merged.map(|entry| match asked {
        Asked::Field(field) if entry.matches.mask.get(field) == 0 => "known",
        Asked::Range(field) if entry.matches.ranges().all(|r| r.0 != field) => "known",
        _ => "yes",
    });
    let mut cell = |what: Result<&str, String>| {
        let impersonal = |why: String| {
            let why = why.replace(&format!("compare {field} "), "compare this field ");
            why.replace(&format!("field {field} "), "this field ")
        };
        notes.cell(what.map_err(impersonal))
    };
    let with: Vec<String> = together(field, &key).iter().map(|f| format!("`{f}`")).collect();
    vec![
        format!("`{field}`"),
        field.row().bits.to_string(),
        how.to_owned(),
        with.join(", "),
        cell(read.map(|()| "yes")),
        cell(told.map(|()| "yes")),
        cell(modelled(&hit, &missed).map(|()| "yes")),
        cell(merged),
        cell(in_front(&wanted, &hit).map(|()| "yes")),
    ]
}

/// Where a field stands on the page.
fn group(field: Field) -> &'static str {
    use Field::*;
    let ends = [
        (EthType, "Port and Ethernet"),
        (CvlanEthType, "VLAN tags"),
        (Ipv6Dst, "IP"),
        (IcmpCode, "Transport"),
        (ArpTha, "ARP"),
        (Mpls7Ttl, "MPLS"),
        (EncOpts3, "Tunnel"),
        (CtLabels, "Conntrack"),
    ];
    ends.into_iter().find(|(last, _)| field <= *last).map_or("Others", |(_, name)| name)
}

/// Rows that differ in nothing but a number in the name become one.
fn joined(rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let plain = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    let same = |a: &[String], b: &[String]| {
        plain(&a[0]) == plain(&b[0]) && plain(&a[3]) == plain(&b[3]) && a[1..3] == b[1..3] && a[4..] == b[4..]
    };
    let mut out: Vec<(Vec<String>, Option<String>)> = Vec::new();
    for row in rows {
        match out.iter_mut().find(|(first, _)| same(first, &row)) {
            Some((_, last)) => *last = Some(row[0].clone()),
            None => out.push((row, None)),
        }
    }
    let name = |(mut row, last): (Vec<String>, Option<String>)| {
        if let Some(last) = last {
            row[0] = format!("{} to {last}", row[0]);
        }
        row
    };
    out.into_iter().map(name).collect()
}

/// The tables.
pub fn page(notes: &mut Notes) -> String {
    let head = ["field", "bits", "compared", "together with", "read", "told", "modelled", "merged", "in front"];
    let mut groups: Vec<(&str, Vec<Vec<String>>)> = Vec::new();
    for &field in Field::ALL {
        let mut rows = vec![row(Asked::Field(field), notes)];
        if matches!(field, Field::SrcPort | Field::DstPort) {
            rows.push(row(Asked::Range(field), notes));
        }
        match groups.last_mut() {
            Some((name, all)) if *name == group(field) => all.extend(rows),
            _ => groups.push((group(field), rows)),
        }
    }
    let told = |(name, rows)| format!("### {name}\n\n{}\n", table(&head, &joined(rows)));
    groups.into_iter().map(told).collect()
}
