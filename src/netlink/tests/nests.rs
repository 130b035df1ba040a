//! What flower says in nests: the MPLS stack, a tunnel's options, CFM; and what later kernels say besides. The bytes are laid out as
//! `cls_flower.c` dumps them.

use super::*;
use crate::flower::{
    field::enc_options,
    tunnel::{Erspan, GeneveOption, TunnelOptions, option_field},
};

const MPLS: u16 = 0x8847;

fn mpls(more: Vec<Attribute>) -> FilterMessage {
    let mut options = vec![attribute(8, &MPLS.to_be_bytes())];
    options.extend(more);
    told(MPLS, options)
}

fn stacked(entries: Vec<Vec<Attribute>>) -> Attribute {
    Attribute::nest(99, entries.into_iter().map(|entry| Attribute::nest(1, entry)).collect())
}

/// The attributes of a filter's options that are sent.
fn sent(filter: &Filter) -> Vec<(u16, Vec<u8>)> {
    let bytes = encode_filter(filter, &names()).unwrap();
    let tca = Attributes::parse("TCA", &bytes[36..]).unwrap();
    let options = tca.nested(2, "TCA_FLOWER").unwrap().unwrap();
    options.iter().map(|(kind, value)| (kind, value.to_vec())).collect()
}

#[test]
fn a_label_stack_is_asked_for_entry_by_entry() {
    let first = mpls(vec![attribute(70, &7u32.to_ne_bytes()), attribute(67, &[64])]);
    let mine = [(Field::Mpls1, 1, 1), (Field::MplsLabel, 7, 0xf_ffff), (Field::MplsTtl, 64, 0xff)];
    assert_eq!(terms(&first)[2..], mine);
    survives(&first.filter);
    assert_eq!(sent(&first.filter).iter().map(|a| a.0).collect::<Vec<_>>(), [8, 70, 67]);
    // A depth alone asks for an entry.
    let third = mpls(vec![stacked(vec![vec![attribute(1, &[3])]])]);
    assert_eq!(terms(&third)[2..], [(Field::Mpls3, 1, 1)]);
    survives(&third.filter);
    let alone = mpls(vec![stacked(vec![vec![attribute(1, &[1])]])]);
    assert_eq!(terms(&alone)[2..], [(Field::Mpls1, 1, 1)]);
    survives(&alone.filter);
    let both = mpls(vec![stacked(vec![
        vec![attribute(1, &[1]), attribute(4, &[5])],
        vec![attribute(1, &[7]), attribute(3, &[1]), attribute(5, &0xabcdeu32.to_ne_bytes())],
    ])]);
    assert_eq!(
        terms(&both)[2..],
        [
            (Field::Mpls1, 1, 1),
            (Field::MplsTc, 5, 7),
            (Field::Mpls7, 1, 1),
            (Field::Mpls7Label, 0xabcde, 0xf_ffff),
            (Field::Mpls7Bos, 1, 1),
        ]
    );
    survives(&both.filter);
    // Of another ethertype flower looks at none of it.
    let ip = told(0x0800, vec![attribute(8, &[8, 0]), attribute(67, &[64])]);
    assert_eq!(terms(&ip).len(), 2);
    let wrong = mpls(vec![stacked(vec![vec![attribute(1, &[8])], vec![attribute(1, &[1]), attribute(9, &[0])]])]);
    assert_eq!(wrong.filter.undecoded, ["TCA_FLOWER_KEY_MPLS_OPTS 1 of depth 8", "TCA_FLOWER_KEY_MPLS_OPT_LSE 9"]);
}

#[test]
fn an_entry_that_is_not_there_cannot_be_asked_for() {
    let no_second = Match::default().exact(Field::EthType, MPLS.into()).exact(Field::Mpls2, 0);
    let refused = encode_filter(&filter(MPLS, no_second, vec![]), &names()).unwrap_err();
    assert_eq!(refused, EncodeError::Field(Field::Mpls2));
    // Nor a part of an entry without the entry.
    let no_presence = Match::default().exact(Field::EthType, MPLS.into()).exact(Field::MplsTtl, 1);
    let refused = encode_filter(&filter(MPLS, no_presence, vec![]), &names()).unwrap_err();
    assert_eq!(refused, EncodeError::Field(Field::Mpls1));
}

fn geneve(list: &[(u16, u8, &[u8])]) -> Attribute {
    let one = |&(class, kind, data): &(u16, u8, &[u8])| {
        [attribute(1, &class.to_be_bytes()), attribute(2, &[kind]), attribute(3, data)]
    };
    Attribute::nest(1, list.iter().flat_map(one).collect())
}

fn options(key: Attribute, mask: Option<Attribute>) -> FilterMessage {
    let mut options = vec![Attribute::nest(84, vec![key])];
    options.extend(mask.map(|mask| Attribute::nest(85, vec![mask])));
    told(PROTOCOL_ALL, options)
}

/// The options of a match: kind, length, and the first bytes of key and mask.
fn compared(message: &FilterMessage) -> (u128, u128, Vec<u8>, Vec<u8>) {
    assert_eq!(message.filter.undecoded, Vec::<String>::new());
    let Match { key, mask, .. } = message.filter.matches;
    for field in [Field::EncOptsType, Field::EncOptsLen] {
        assert_eq!(key.get(field), mask.get(field));
    }
    let length = key.get(Field::EncOptsLen) as usize;
    let bytes = |of: crate::flower::Key| {
        let all: Vec<u8> = Field::OPTIONS.iter().flat_map(|&field| of.get(field).to_be_bytes()).collect();
        assert!(all[length..].iter().all(|&byte| byte == 0));
        all[..length].to_vec()
    };
    (key.get(Field::EncOptsType), length as u128, bytes(key), bytes(mask))
}

#[test]
fn options_of_geneve_stand_in_one_nest_when_told_and_in_one_each_when_asked_for() {
    let message = options(
        geneve(&[(0x0102, 0x80, &[1, 2, 3, 4]), (0x0103, 3, &[9; 8])]),
        Some(geneve(&[(0xffff, 0xff, &[0xff, 0, 0xff, 0]), (0, 0x0f, &[0xff; 8])])),
    );
    let key = vec![1, 2, 0x80, 1, 1, 0, 3, 0, 0, 0, 3, 2, 9, 9, 9, 9, 9, 9, 9, 9];
    let mut mask = vec![0xff, 0xff, 0xff, 1, 0xff, 0, 0xff, 0, 0, 0, 0x0f, 2];
    mask.extend([0xff; 8]);
    assert_eq!(compared(&message), (enc_options::GENEVE, 20, key, mask));
    survives(&message.filter);
    let sent = sent(&message.filter);
    let kinds = sent.iter().map(|a| a.0).collect::<Vec<_>>();
    assert_eq!(kinds, [84, 85]);
    for (_, nest) in &sent {
        let nests = Attributes::parse("", nest).unwrap();
        assert_eq!(nests.iter().map(|a| a.0).collect::<Vec<_>>(), [1, 1]);
    }
}

#[test]
fn a_mask_that_is_not_given_is_flowers_own() {
    let one = |key, kind, length, mask: Vec<u8>| {
        let message = options(key, None);
        let (k, l, _, m) = compared(&message);
        assert_eq!((k, l, m), (kind, length, mask));
        survives(&message.filter);
        message
    };
    one(geneve(&[(1, 2, &[3; 4])]), enc_options::GENEVE, 8, vec![0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff]);
    let gbp = |gbp: u32| Attribute::nest(2, vec![attribute(1, &gbp.to_ne_bytes())]);
    let vxlan = one(gbp(0x8_0010), enc_options::VXLAN, 4, vec![0xff; 4]);
    assert_eq!(vxlan.filter.matches.key.get(Field::EncOpts0) >> 96, 0x8_0010);
    assert_eq!(sent(&vxlan.filter).len(), 1, "no mask: flower would leave bits of it out");
    one(Attribute::nest(4, vec![attribute(1, &[1]), attribute(2, &[9])]), enc_options::GTP, 2, vec![0xff; 2]);
    // Of ERSPAN without a mask one bit is compared.
    let index = Attribute::nest(3, vec![attribute(1, &[1]), attribute(2, &[0, 0, 0, 7])]);
    one(index, enc_options::ERSPAN, 12, vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    // A mask of VXLAN's that is given.
    survives(&options(gbp(0x10), Some(gbp(0x48_fff0))).filter);
    let more = options(gbp(0x10), Some(gbp(0x80_fff0)));
    let refused = encode_filter(&more.filter, &names()).unwrap_err();
    assert_eq!(refused, EncodeError::Field(Field::EncOpts0), "a bit that VXLAN's policy does not have");
}

#[test]
fn erspan_has_a_version_in_key_and_mask() {
    let hardware =
        |dir: u8, hwid: u8| Attribute::nest(3, vec![attribute(1, &[2]), attribute(3, &[dir]), attribute(4, &[hwid])]);
    let index = |index: u32| Attribute::nest(3, vec![attribute(1, &[1]), attribute(2, &index.to_be_bytes())]);
    let (kind, length, key, mask) = compared(&options(hardware(1, 0x25), Some(hardware(1, 0x3f))));
    assert_eq!((kind, length), (enc_options::ERSPAN, 12));
    assert_eq!(key, TunnelOptions::Erspan(Erspan::Hardware { dir: 1, hwid: 0x25 }).bytes());
    assert_eq!(mask, [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 3, 0xf8]);
    for (key, mask) in [
        (hardware(1, 0x25), hardware(1, 0x3f)),
        (hardware(0, 0x25), hardware(0, 0x21)),
        (index(7), index(0xff)),
        (index(7), index(0)),
        // One version under the mask of the other compares one bit of the version, and zeros.
        (index(7), hardware(1, 0x3f)),
        (hardware(1, 1), index(0xff)),
    ] {
        survives(&options(key, Some(mask)).filter);
    }
}

#[test]
fn options_that_a_key_does_not_hold_or_flower_does_not_take_are_named() {
    let long = options(geneve(&[(1, 2, &[3; 64])]), None);
    assert_eq!(long.filter.undecoded, ["TCA_FLOWER_KEY_ENC_OPTS of 68 bytes: 64 are compared here"]);
    assert_eq!(long.filter.matches.key.get(Field::EncOptsLen), 68);
    let fits = options(geneve(&[(1, 2, &[3; 60])]), None);
    survives(&fits.filter);
    for (key, mask) in [
        (geneve(&[(1, 2, &[3; 3])]), None),
        (geneve(&[(1, 2, &[3; 4])]), Some(geneve(&[(1, 2, &[3; 8])]))),
        (geneve(&[(1, 2, &[3; 4])]), Some(Attribute::nest(2, vec![]))),
        (Attribute::nest(3, vec![attribute(1, &[3])]), None),
        (Attribute::nest(9, vec![]), None),
    ] {
        assert_eq!(options(key, mask).filter.undecoded, ["TCA_FLOWER_KEY_ENC_OPTS: not as flower takes them"]);
    }
    // Kind, length and bytes that no attribute says.
    let kind = Match::default().exact(Field::EncOptsType, enc_options::GENEVE);
    let refused = encode_filter(&filter(PROTOCOL_ALL, kind, vec![]), &names()).unwrap_err();
    assert_eq!(refused, EncodeError::Field(Field::EncOptsType));
    let bytes = GeneveOption { class: 1, kind: 2, data: vec![3; 4] }.bytes();
    let part = options(geneve(&[(1, 2, &[3; 4])]), None).filter.matches;
    assert_eq!(part.key.get(Field::EncOpts0), option_field(&bytes, 0));
    let part = part.with(Field::EncOpts0, 1, 1);
    let refused = encode_filter(&filter(PROTOCOL_ALL, part, vec![]), &names()).unwrap_err();
    assert_eq!(refused, EncodeError::Field(Field::EncOptsType), "a byte behind the last option");
}

/// The numbers are those of `enum` in `include/uapi/linux/pkt_cls.h` of Linux 6.12.
#[test]
fn traps_33_what_later_kernels_compare_is_read_and_not_asked_of_this_one() {
    let cfm = Attribute::nest(107, vec![attribute(1, &[5]), attribute(2, &[47])]);
    let esp = |more: Vec<Attribute>| told(0x0800, [vec![attribute(8, &[8, 0]), attribute(9, &[50])], more].concat());
    let spi = [0, 0, 1, 0];
    for (message, expected) in [
        (told(PROTOCOL_ALL, vec![attribute(106, &[1])]), vec![(Field::L2Miss, 1, 1)]),
        (
            told(0x8902, vec![attribute(8, &[0x89, 2]), cfm]),
            vec![(Field::CfmLevel, 5, 7), (Field::CfmOpcode, 47, 0xff)],
        ),
        (esp(vec![attribute(108, &spi), attribute(109, &[0, 0, 0xff, 0xff])]), vec![(Field::Spi, 0x100, 0xffff)]),
        (
            told(PROTOCOL_ALL, vec![attribute(110, &[0, 0, 0, 4]), attribute(111, &[0, 0, 0, 12])]),
            vec![(Field::EncFlags, 4, 12)],
        ),
    ] {
        let terms = terms(&message);
        assert!(terms.ends_with(&expected), "{terms:?}");
        let refused = encode_filter(&message.filter, &names()).unwrap_err();
        assert_eq!(refused, EncodeError::Field(expected[0].0));
    }
    // Without ESP or AH, without CFM, flower does not look.
    let udp = told(0x0800, vec![attribute(8, &[8, 0]), attribute(9, &[17]), attribute(108, &spi)]);
    assert_eq!(terms(&udp).len(), 3);
    let beyond = told(PROTOCOL_ALL, vec![attribute(110, &[0, 0, 0, 0]), attribute(111, &[0, 0, 1, 0])]);
    assert_eq!(beyond.filter.undecoded, ["TCA_FLOWER 110 0x0/0x100"]);
}

#[test]
fn a_session_of_zero_does_not_tell_that_there_is_pppoe() {
    let any = told(PROTOCOL_ALL, vec![attribute(103, &[0, 0])]);
    assert!(!any.filter.is_decoded());
    survives(&told(PROTOCOL_ALL, vec![attribute(103, &[0, 1])]).filter);
    survives(&told(0x8864, vec![attribute(103, &[0, 0])]).filter);
}

#[test]
fn pppoe_behind_a_tag_is_not_said_back_without_its_session_or_what_it_carries() {
    let tagged = Match::default().exact(Field::VlanTpid, 0x8100).exact(Field::VlanEthType, 0x8864);
    let refused = encode_filter(&filter(0x8100, tagged, vec![]), &names()).unwrap_err();
    assert_eq!(refused, EncodeError::Field(Field::VlanEthType));
    survives(&filter(0x8100, tagged.exact(Field::PppoeSid, 0), vec![]));
    survives(&filter(0x8100, tagged.exact(Field::PppProto, 0x57).exact(Field::EthType, 0x86dd), vec![]));
}
