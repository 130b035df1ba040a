//! How what came out may differ: the known differences between software and a table that does what TC does, told by the
//! packet's own bytes; and what the kernel's dump of a filter leaves out.

use super::trial::{Frames, Sent};
use crate::case::does;
use flowmerge::flower::{Field, Filter, Match};
use flowmerge_cli::replay::known::{Known, has_no_checksum, has_wrong_length, known, trailing, without_checksums};

/// Whether TC in front and software judge a packet by the same.
pub fn is_plain(frame: &[u8]) -> bool {
    trailing(frame) == 0
        && !has_wrong_length(frame)
        && !matches!(known(frame), Some(Known::Checksum | Known::Length))
        && !has_no_checksum(frame)
}

/// Why software may send something else for a packet than the merged filter that matches it.
pub fn why(frame: &[u8], software: &Frames, merged: &Frames) -> Option<&'static str> {
    if has_wrong_length(frame) {
        return Some("wrong length");
    }
    if known(frame) == Some(Known::Checksum) {
        return Some("wrong checksum");
    }
    let tail = &frame[frame.len() - trailing(frame)..];
    let none = has_no_checksum(frame);
    let same =
        |a: &[u8], b: &[u8]| a == b || is_other_zero(a, b) || none && without_checksums(a) == without_checksums(b);
    let whole = |(a, b): (&Sent, &Sent)| a.0 == b.0 && same(&a.1, &b.1);
    let cut: Frames = merged
        .iter()
        .zip(software)
        .map(|((port, frame), (_, short))| match frame.strip_suffix(tail) {
            Some(cut) if cut.len() == short.len() => (*port, cut.to_vec()),
            _ => (*port, frame.clone()),
        })
        .collect();
    match merged.len() == software.len() && software.iter().zip(&cut).all(whole) {
        true if cut != *merged => Some("trailing bytes"),
        true if none => Some("no checksum"),
        true => Some("the other zero of a checksum"),
        false => None,
    }
}

/// Whether two frames differ in nothing but a checksum that is 0 in one's complement, which can be written in two ways.
fn is_other_zero(a: &[u8], b: &[u8]) -> bool {
    let differ: Vec<usize> = (0..a.len().min(b.len())).filter(|&i| a[i] != b[i]).collect();
    let zeros = |frame: &[u8], byte| differ.iter().all(|&i| frame[i] == byte);
    without_checksums(a) == without_checksums(b) && (zeros(a, 0) && zeros(b, 0xff) || zeros(a, 0xff) && zeros(b, 0))
}

/// Whether the kernel's dump of a filter says what it was told, as far as Linux 6.1 says it back: not a tag's own type in a filter of
/// `protocol all`, without which the rest about tags cannot be read.
pub fn says(dump: &Filter, told: &Filter) -> bool {
    use Field::*;
    const TAGS: [Field; 8] = [VlanTpid, VlanId, VlanPrio, VlanEthType, CvlanTpid, CvlanId, CvlanPrio, CvlanEthType];
    let asks = |field: Field| told.matches.mask.get(field) != 0;
    let unsaid: &[Field] = if asks(VlanTpid) { &TAGS } else { &[] };
    let said = |m: &Match| {
        let mut m = *m;
        unsaid.iter().for_each(|&field| m.clear(field));
        m
    };
    said(&dump.matches) == said(&told.matches)
        && does(&dump.actions) == does(&told.actions)
        && (dump.skip_sw, dump.skip_hw) == (told.skip_sw, told.skip_hw)
        && (dump.undecoded.is_empty() || asks(VlanTpid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::spec::{Fault, Spec};
    use flowmerge::flower::{FilterId, Hook, Port, filter::PROTOCOL_ALL};

    fn udp() -> Spec {
        Spec::new(Port(1)).with(Field::EthType, 0x800).with(Field::IpProto, 17).with(Field::DstPort, 53)
    }

    fn out(frame: &[u8]) -> Frames {
        vec![(Port(2), frame.to_vec())]
    }

    #[test]
    fn each_known_difference_has_its_packets_and_no_others() {
        let right = udp().frame();
        let other = out(&udp().with(Field::DstPort, 54).frame());
        assert!(is_plain(&right));
        assert_eq!(why(&right, &out(&right), &other), None);
        assert_eq!(why(&right, &out(&right), &Frames::new()), None);

        let padded = Spec { padding: 6, ..udp() }.frame();
        assert!(!is_plain(&padded));
        assert_eq!(why(&padded, &out(&right), &out(&padded)), Some("trailing bytes"));
        assert_eq!(why(&padded, &other, &out(&padded)), None);

        let none = Spec { fault: Some(Fault::NoChecksum), ..udp() }.frame();
        assert!(!is_plain(&none));
        assert_eq!(why(&none, &out(&none), &out(&right)), Some("no checksum"));
        assert_eq!(why(&none, &other, &out(&right)), None);

        for (fault, reason) in [(Fault::Checksum, "wrong checksum"), (Fault::Length(4), "wrong length")] {
            let wrong = Spec { fault: Some(fault), ..udp() }.frame();
            assert!(!is_plain(&wrong));
            assert_eq!(why(&wrong, &Frames::new(), &out(&wrong)), Some(reason));
        }
        // Only of a checksum that is 0 are there two.
        let [mut a, mut b] = [right.clone(), right.clone()];
        (a[40], a[41], b[40], b[41]) = (0, 0, 0xff, 0xff);
        assert_eq!(why(&right, &out(&a), &out(&b)), Some("the other zero of a checksum"));
        assert_eq!(why(&right, &out(&right), &out(&a)), None);
    }

    #[test]
    fn a_dump_says_all_but_what_the_kernel_leaves_out() {
        let id = FilterId { hook: Hook::Ingress(Port(1)), chain: 0, prio: 1, protocol: PROTOCOL_ALL, handle: 1 };
        let of = |m: Match| Filter::flower(id, m, Vec::new());
        let ip = Match::default().exact(Field::EthType, 0x800);
        let tagged = ip.exact(Field::VlanTpid, 0x8100).exact(Field::VlanId, 5);
        assert!(says(&of(ip), &of(ip)));
        assert!(!says(&of(Match::default()), &of(ip)) && !says(&of(ip.exact(Field::IpProto, 6)), &of(ip)));
        assert!(says(&of(ip), &of(tagged)) && !says(&of(tagged), &of(ip)));
        assert!(!says(&of(ip), &of(ip.exact(Field::AddrType, 2))));
    }
}
