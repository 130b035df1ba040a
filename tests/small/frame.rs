//! The bytes of a packet.

use crate::{
    part::{CUT, LABELS, Part},
    universe::{Spec, Tag, host, stacked, tags},
};
use flowmerge::{conntrack::proto, flower::ethertype};
use merge_model::checksum;
use std::net::IpAddr;

/// ESP, AH and L2TP: of each a word is compared.
pub const WORDED: [u32; 3] = [50, 51, 115];

impl Spec {
    /// Its bytes, with right checksums.
    pub fn frame(&self) -> Vec<u8> {
        let part = |part: Part| self.get(part);
        let mut out = vec![2, 0, 0, 0, 0, 2 | part(Part::Mac) as u8, 2, 0, 0, 0, 0, 4 | part(Part::SrcMac) as u8];
        // Of another kind: unicast of B.A.T.M.A.N. before an Ethernet header, or a tag of HSR.
        let other = |ethertype: Option<u16>| match ethertype {
            None => Vec::new(),
            Some(ethertype::BATMAN) => [&[0x43, 0x05, 0x40, 15][..], &[0; 8], &[2; 12]].concat(),
            Some(ethertype) => [ethertype.to_be_bytes(), [0; 2], [0; 2]].concat(),
        };
        for Tag { tpid, id, prio, before, behind } in tags(part(Part::Tags)) {
            out.extend(other(before));
            out.extend([tpid.to_be_bytes(), (prio << 13 | id).to_be_bytes()].concat());
            out.extend(other(behind));
        }
        let ethertype = part(Part::EtherType) as u16;
        let labels = part(Part::Stack) as usize & 7;
        match labels {
            0 => out.extend(ethertype.to_be_bytes()),
            _ => out.extend(stacked(part(Part::Stack)).to_be_bytes()),
        }
        for i in 0..labels {
            let bottom = if i + 1 == labels { 0x100 } else { 0 };
            out.extend((part(LABELS[i.min(LABELS.len() - 1)]) ^ bottom).to_be_bytes());
        }
        if part(Part::Stack) & CUT != 0 {
            // The frame ends here; without labels what comes is a tag that is not whole.
            if labels == 0 {
                let at = out.len() - 2;
                out[at..].copy_from_slice(&[0x88, 0xa8]);
            }
            return out;
        }
        let v6 = match ethertype {
            0x800 => false,
            0x86dd => true,
            0x806 => {
                // What is above a part's last bits turns over the first byte.
                let of = |of: Part, first: u8| [first ^ (part(of) >> 8) as u8, part(of) as u8];
                let ([sha, a], [tha, b]) = (of(Part::Sha, 2), of(Part::Tha, 0));
                let ([sip, c], [tip, d]) = (of(Part::Src, 10), of(Part::Dst, 10));
                out.extend([0, 1, 8, 0, 6, 4, 0, part(Part::ArpOp) as u8, sha, 0, 0, 0, 0, a, sip, 0, 0, c]);
                out.extend([tha, 0, 0, 0, 0, b, tip, 0, 0, d]);
                return out;
            }
            0x8902 => {
                out.extend([(part(Part::Cfm) >> 8 << 5) as u8, part(Part::Cfm) as u8]);
                out.extend([0; 28]);
                return out;
            }
            _ => {
                out.extend([0; 30]);
                return out;
            }
        };
        let (src, dst) = (host(v6, part(Part::Src) as u8), host(v6, part(Part::Dst) as u8));
        let l4 = self.transport(src, dst);
        let (ttl, tos, proto) = (part(Part::Ttl) as u8, part(Part::Tos) as u8, part(Part::Proto) as u8);
        let octets = |a: IpAddr| match a {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let addresses = [octets(src), octets(dst)].concat();
        // The more-fragments bit, or an offset of eight bytes.
        let fragment = part(Part::Fragment);
        if v6 {
            let header = if fragment == 0 { 0 } else { 8 };
            out.extend((0x6000_0000 | u32::from(tos) << 20).to_be_bytes());
            out.extend((l4.len() as u16 + header).to_be_bytes());
            out.extend([if fragment == 0 { proto } else { 44 }, ttl]);
            out.extend(addresses);
            if fragment != 0 {
                out.extend([proto, 0, 0, if fragment == 1 { 1 } else { 8 }, 0, 0, 0, 7]);
            }
        } else {
            let at = out.len();
            out.extend([0x45, tos]);
            out.extend((20 + l4.len() as u16).to_be_bytes());
            let field: u16 = [0x4000, 0x2000, 1][fragment as usize];
            out.extend([0x12, 0x34]);
            out.extend(field.to_be_bytes());
            out.extend([ttl, proto, 0, 0]);
            out.extend(addresses);
            let check = checksum::fold(checksum::sum(&out[at..], 0));
            out[at + 10..at + 12].copy_from_slice(&check.to_be_bytes());
        }
        out.extend(l4);
        out
    }

    fn transport(&self, src: IpAddr, dst: IpAddr) -> Vec<u8> {
        let part = |part: Part| self.get(part);
        let proto = part(Part::Proto) as u8;
        let ports = [part(Part::SrcPort) as u16, part(Part::DstPort) as u16];
        let mut l4 = ports.map(u16::to_be_bytes).concat();
        let at = match proto {
            proto::TCP => {
                l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, part(Part::Flags) as u8, 0, 9, 0, 0, 0, 0]);
                16
            }
            proto::UDP => {
                l4.extend([0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
                6
            }
            number => {
                let at = if number == 51 { 4 } else { 0 };
                let mut l4 = vec![0; 24];
                l4[at..at + 4].copy_from_slice(&part(Part::Spi).to_be_bytes());
                return l4;
            }
        };
        let check = checksum::fold(checksum::sum(&l4, checksum::pseudo(src, dst, proto, l4.len())));
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        if self.is_fragment() {
            // A multiple of eight.
            l4.resize(24, 0);
        }
        l4
    }
}
