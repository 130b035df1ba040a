//! Rewrites of headers that stay where they are: `pedit`, `csum`, and what else comes down to them.

use super::{PARTLY_ADDED, Source, State, Value, Want};
use crate::{
    flower::{
        Field, FilterId,
        action::{CsumFlags, Pedit, PeditHeader, PeditKey, Skbmod, StatelessNat},
        ethertype,
        field::{Header, ip_flags, ip_proto},
    },
    merge::{
        program::{self, To},
        refusal::Refusal,
        shadow::Shadow,
    },
};

impl State<'_> {
    /// Runs a `csum` action.
    pub fn checksum(&mut self, filter: FilterId, flags: CsumFlags) -> Result<(), Refusal> {
        self.must_read_ip(filter, "csum")?;
        // It drops what is no whole IP header. Behind a label nobody has seen one; of a packet as it arrived the dissector has, unless
        // that is cut off.
        let kind = self.held(Field::AddrType);
        let unseen = kind.kept != 0 && matches!(kind.source, Source::Hidden(_));
        if unseen && matches!(self.network(filter)?, ethertype::IPV4 | ethertype::IPV6) {
            self.decide(filter, Field::AddrType)?;
        }
        self.program.checksum(flags);
        self.stale -= flags;
        Ok(())
    }

    /// Runs a `pedit` action.
    pub fn pedit(&mut self, filter: FilterId, pedit: &Pedit) -> Result<(), Refusal> {
        for key in &pedit.keys {
            self.rewrite(filter, key, pedit.mend)?;
        }
        Ok(())
    }

    fn rewrite(&mut self, filter: FilterId, key: &PeditKey, mend: bool) -> Result<(), Refusal> {
        let refuse = |why| Err(Refusal::unfit(filter, "pedit", why));
        if key.dynamic.is_some() {
            let why = "it takes an offset from the packet";
            return Err(Refusal::action(filter, "pedit", why));
        }
        let header = match key.header {
            PeditHeader::Ethernet => {
                self.must_have_ethernet(filter, "pedit")?;
                Header::Ethernet
            }
            PeditHeader::Network | PeditHeader::Ipv4 | PeditHeader::Ipv6 => match self.network(filter)? {
                ethertype::IPV4 => Header::Ipv4,
                ethertype::IPV6 => Header::Ipv6,
                ethertype::ARP | ethertype::RARP if self.decide(filter, Field::ArpOp)? != 0 => Header::Arp,
                network if ethertype::is_mpls(network) => {
                    self.must_have_label(filter, "pedit")?;
                    Header::Mpls
                }
                _ => return refuse("it writes to a network header that flower does not look into"),
            },
            PeditHeader::Tcp | PeditHeader::Udp => {
                self.must_read_ip(filter, "pedit")?;
                let (number, header) = match key.header {
                    PeditHeader::Tcp => (6, Header::Tcp),
                    _ => (17, Header::Udp),
                };
                if !matches!(self.network(filter)?, ethertype::IPV4 | ethertype::IPV6) {
                    return refuse("it writes to a transport header of a packet that is not IP");
                }
                if self.decide(filter, Field::IpProto)? != number {
                    return refuse("it writes to a transport header that the packet does not have");
                }
                // Fragments have no transport header, or one that flower does not see.
                self.exclude(filter, Field::IpFlags, ip_flags::FRAG, 0)?;
                header
            }
        };
        // Of a header that is cut off flower sees nothing, written or not. Where tags hide it it is the one that arrived.
        if matches!(header, Header::Ipv4 | Header::Ipv6)
            && self.decide_of(self.held(Field::AddrType), filter, Field::AddrType)? == 0
        {
            return refuse("the IP header is cut off");
        }
        let written: Vec<usize> = (0..4).filter(|&i| key.mask[i] != 0xff || key.value[i] != 0).collect();
        let length = match header {
            Header::Ethernet => 14,
            Header::Ipv4 | Header::Tcp => 20,
            Header::Ipv6 => 40,
            Header::Arp => 28,
            Header::Mpls => 4,
            _ => 8,
        };
        // A word that the packet may not reach is not nothing, whatever it would write: the kernel leaves the rest undone.
        if key.offset % 4 != 0 || !(0..length).contains(&key.offset) {
            return refuse("it writes outside of the fixed part of a header");
        }
        let ethertype = header == Header::Ethernet && key.offset >= 12;
        if ethertype {
            self.must_read_ip(filter, "pedit")?;
            // TC goes by the ethertype that it knows; but a pop would find the one in the bytes.
            if ethertype::is_vlan(self.network(filter)?) {
                return refuse("it rewrites the ethertype of a tag");
            }
        }
        if written.iter().any(|&i| key.offset + i as i32 >= length) {
            return refuse("it writes outside of the fixed part of a header");
        }
        let shapes = |byte: i32| match header {
            Header::Ipv4 => matches!(byte, 0 | 2 | 3 | 6 | 7 | 9),
            Header::Ipv6 => matches!(byte, 4..=6),
            // Of operations the dissector knows two.
            Header::Arp => byte < 7 || byte == 7 && !(key.mask[3] == 0 && matches!(key.value[3], 1 | 2) && !key.add),
            // The bottom of the stack.
            Header::Mpls => byte == 2 && (key.mask[2] & 1 == 0 || key.value[2] & 1 != 0 || key.add),
            _ => false,
        };
        let version =
            header == Header::Ipv6 && key.offset == 0 && (key.mask[0] & 0xf0 != 0xf0 || key.value[0] & 0xf0 != 0);
        if version || written.iter().any(|&i| shapes(key.offset + i as i32)) {
            return refuse(
                "it rewrites what decides how the packet is read (version, lengths, fragments, protocol, bottom of stack)",
            );
        }
        for &field in Field::ALL {
            for &place in field.row().places.iter().filter(|p| p.header == header) {
                let before = self.held(field);
                let after = match key.add {
                    false => program::write(before, key, field, place),
                    true => added(before, key, field, place.bit, &written),
                };
                self.set(field, after);
            }
        }
        let header = program::pedit_header(header).expect("only headers that pedit names");
        let key = PeditKey { header, ..*key };
        if !mend {
            self.stale |= program::left_stale(&key);
        }
        self.program.rewrite(key, mend);
        Ok(())
    }

    /// Runs a `nat` action (`net/sched/act_nat.c`). Packets that it looks at and leaves alone are kept out of those that it changes,
    /// and the other way round.
    pub fn nat(&mut self, filter: FilterId, nat: StatelessNat) -> Result<(), Refusal> {
        let refuse = |why| Err(Refusal::unfit(filter, "nat", why));
        self.must_read_ip(filter, "nat")?;
        if self.network(filter)? != ethertype::IPV4 {
            return refuse("it takes for IPv4 what is not");
        }
        if self.decide(filter, Field::AddrType)? == 0 {
            return refuse("it drops a packet whose IP header is cut off");
        }
        if (nat.old ^ nat.new) & nat.mask == 0 {
            return Ok(());
        }
        let field = if nat.egress { Field::Ipv4Src } else { Field::Ipv4Dst };
        let (mask, old) = (u128::from(nat.mask), u128::from(nat.old & nat.mask));
        let value = self.view(field);
        if matches!(value.source, Source::Param(_)) && value.kept & mask != 0 {
            return refuse("ct translated the address before it");
        }
        let proto = self.decide(filter, Field::IpProto)? as u8;
        // Of a fragment it mends the transport's checksum in the first one only.
        self.exclude(filter, Field::IpFlags, ip_flags::FRAG, 0)?;
        let covered = match proto {
            ip_proto::TCP => CsumFlags::TCP,
            ip_proto::UDP => CsumFlags::UDP,
            ip_proto::UDPLITE => return refuse("it leaves the checksum of UDP-Lite stale"),
            ip_proto::ICMP if matches!(self.decide(filter, Field::IcmpType)?, 3 | 4 | 5 | 11 | 12) => {
                return refuse("it may rewrite the packet that an ICMP error quotes");
            }
            _ => CsumFlags::empty(),
        };
        let new = u128::from(nat.new) & mask;
        // An address that differs from the old one as the new one does is the new one already: as if it had been written. Where that is
        // one bit, nobody asks for it.
        let differs = old ^ new;
        if differs == 0 {
            return Ok(());
        }
        let asked = if differs.count_ones() == 1 { mask & !differs } else { mask };
        if (self.now(value) ^ old) & asked != 0 {
            self.shadows.extend(Shadow::value(self, filter, field, old & asked, asked));
            return Ok(());
        }
        self.require(filter, field, asked, Want::Known(old))?;
        self.program.translate(field, To::Known { mask, value: new, covered });
        self.set(field, self.view(field).written(!mask, new));
        Ok(())
    }

    /// Runs a `skbmod` action (`net/sched/act_skbmod.c`).
    pub fn skbmod(&mut self, filter: FilterId, skbmod: Skbmod) -> Result<(), Refusal> {
        let int = |bytes: &[u8]| bytes.iter().fold(0, |all, &byte| all << 8 | u128::from(byte));
        let (dst, src) = match skbmod {
            Skbmod::Ecn => return self.congestion(filter),
            Skbmod::Set { dst, src, .. } => (dst.map(|a| int(&a)), src.map(|a| int(&a))),
            // What they become is no constant unless they are told.
            Skbmod::Swap => {
                self.must_have_ethernet(filter, "skbmod")?;
                let [dst, src] = [Field::EthSrc, Field::EthDst];
                (Some(self.decide(filter, dst)?), Some(self.decide(filter, src)?))
            }
        };
        for (field, value) in [(Field::EthDst, dst), (Field::EthSrc, src)] {
            let Some(value) = value else { continue };
            self.write_field(filter, field, Header::Ethernet, value, field.ones())?;
        }
        if let Skbmod::Set { ethertype: Some(ethertype), .. } = skbmod {
            let [a, b] = ethertype.to_be_bytes();
            let (mask, value) = ([0, 0, 0xff, 0xff], [a, b, 0, 0]);
            let header = PeditHeader::Ethernet;
            self.rewrite(filter, &PeditKey { header, offset: 12, mask, value, add: false, dynamic: None }, false)?;
        }
        Ok(())
    }

    /// "Congestion experienced" for what is capable of ECN, the IPv4 checksum mended (RFC 3168; `INET_ECN_set_ce`).
    fn congestion(&mut self, filter: FilterId) -> Result<(), Refusal> {
        const ECN: u128 = 3;
        self.must_read_ip(filter, "skbmod")?;
        let header = match self.network(filter)? {
            ethertype::IPV4 => Header::Ipv4,
            ethertype::IPV6 => Header::Ipv6,
            tag if ethertype::is_vlan(tag) => {
                let why = "the kernel looks behind a second tag in the wrong place";
                return Err(Refusal::unfit(filter, "skbmod", why));
            }
            _ => return Ok(()),
        };
        if self.decide(filter, Field::AddrType)? == 0 {
            let why = "it drops a packet whose IP header is cut off";
            return Err(Refusal::unfit(filter, "skbmod", why));
        }
        let value = self.view(Field::IpTos);
        let now = self.now(value) & ECN;
        // What has a bit set is kept apart from what has none as from a filter in front: the bit that does so may be asked for anyway.
        match now {
            0 => self.require(filter, Field::IpTos, ECN, Want::Known(0))?,
            _ => self.shadows.extend(Shadow::value(self, filter, Field::IpTos, 0, ECN)),
        }
        match (now, header) {
            (0, _) => {}
            (_, Header::Ipv4) => {
                let to = To::Known { mask: ECN, value: ECN, covered: CsumFlags::empty() };
                self.program.translate(Field::IpTos, to);
                self.set(Field::IpTos, value.written(!ECN, ECN));
            }
            _ => self.write_field(filter, Field::IpTos, header, ECN, ECN)?,
        }
        Ok(())
    }

    /// Writes bits of a field, no checksum mended.
    fn write_field(
        &mut self,
        filter: FilterId,
        field: Field,
        header: Header,
        value: u128,
        bits: u128,
    ) -> Result<(), Refusal> {
        let place = field.row().places.iter().copied().find(|place| place.header == header);
        let Some((place, header)) = place.zip(program::pedit_header(header)) else { return Ok(()) };
        let words = program::words(field, place, header, value, bits);
        words.iter().try_for_each(|key| self.rewrite(filter, key, false))
    }
}

/// A field after an addition to the raw little-endian word: told exactly where it is one whole byte that nothing carries into.
fn added(before: Value, key: &PeditKey, field: Field, bit: u16, written: &[usize]) -> Value {
    let byte = |i: usize| (key.offset + i as i32) * 8;
    let (from, to) = (bit as i32, bit as i32 + field.row().bits as i32);
    let touched: Vec<usize> =
        written.iter().copied().filter(|&i| key.mask[i] != 0xff && byte(i) < to && byte(i) + 8 > from).collect();
    match touched[..] {
        [] => before,
        [i] if key.mask[i] == 0 && (byte(i), byte(i) + 8) == (from, to) && key.value[..i].iter().all(|&v| v == 0) => {
            before.plus(key.value[i])
        }
        _ => Value::hidden(PARTLY_ADDED, field),
    }
}
