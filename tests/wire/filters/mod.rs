//! Random filters: every field and every action that Linux 6.1 takes and says back, with values and masks as it takes them. The
//! laboratory asks the kernel for the same ones.

mod actions;

use flowmerge::flower::{
    ActionKind, Field, Filter, FilterId, Hook, Key, Kind, Match, Port, Range,
    action::TunnelKey,
    ethertype,
    field::{addr_type, ct_state, enc_options, ip_proto},
    filter::PROTOCOL_ALL,
    tunnel::{Erspan, GeneveOption, TunnelOptions, option_field},
};

/// Bits of VXLAN's group policy.
const GBP: u32 = 0x48_ffff;

/// Throws of dice, made of random numbers.
pub struct Throws<'a>(pub &'a mut dyn FnMut() -> u64);

impl Throws<'_> {
    fn bits(&mut self, mask: u128) -> u128 {
        (u128::from((self.0)()) << 64 | u128::from((self.0)())) & mask
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.0)() % n as u64) as usize
    }

    fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn byte(&mut self) -> u8 {
        self.bits(0xff) as u8
    }

    fn half(&mut self) -> u16 {
        self.bits(0xffff) as u16
    }

    fn word(&mut self) -> u32 {
        self.bits(0xffff_ffff) as u32
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    fn maybe<T>(&mut self, percent: usize, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.percent(percent) { Some(make(self)) } else { None }
    }

    /// A mask that has some bit of these: all, the upper ones, or any.
    fn mask(&mut self, ones: u128) -> u128 {
        let mask = match self.below(4) {
            0 | 1 => ones,
            2 => {
                let upper = 1 + self.below(ones.count_ones() as usize);
                ones & !(ones.checked_shr(upper as u32).unwrap_or(0))
            }
            _ => self.bits(ones),
        };
        if mask == 0 { ones } else { mask }
    }
}

/// A filter, and whether it was put together as such filters are: if not, the kernel may refuse what the library sends.
pub fn filter(throws: &mut Throws, id: FilterId, ports: &[Port]) -> (Filter, bool) {
    let mut made = Making { throws, m: Match::default(), ports };
    let protocol = made.layers();
    let regular = !made.throws.percent(10);
    if !regular {
        made.disturb();
    }
    let mut m = made.m;
    if protocol != PROTOCOL_ALL {
        m.set(Field::Protocol, protocol.into(), u128::MAX);
    }
    let egress = matches!(id.hook, Hook::Egress(_));
    let count = throws.below(5);
    let filter = Filter {
        id: FilterId { protocol, ..id },
        kind: Kind::Flower,
        matches: m,
        actions: (0..count).map(|_| actions::random(throws, ports, egress)).collect(),
        skip_sw: false,
        skip_hw: throws.percent(70),
        undecoded: Vec::new(),
    };
    (filter, regular)
}

struct Making<'a, 'b> {
    throws: &'a mut Throws<'b>,
    m: Match,
    ports: &'a [Port],
}

use Field::*;

impl Making<'_, '_> {
    fn exact(&mut self, field: Field, value: u128) {
        self.m.set(field, value, u128::MAX);
    }

    /// Compares some of these, as a whole or under a mask.
    fn some(&mut self, fields: &[Field]) {
        for &field in fields {
            if self.throws.percent(40) {
                let ones = field.ones();
                let mask = if field.row().whole { ones } else { self.throws.mask(ones) };
                let value = self.throws.bits(ones);
                self.m.set(field, value, mask);
            }
        }
    }

    /// All of a match; the filter's protocol.
    fn layers(&mut self) -> u16 {
        if self.throws.percent(20) {
            let port = self.throws.pick(self.ports);
            self.exact(Indev, port.0.into());
        }
        self.some(&[EthDst, EthSrc]);
        let inner = self.throws.pick(&[
            ethertype::IPV4,
            ethertype::IPV4,
            ethertype::IPV4,
            ethertype::IPV6,
            ethertype::IPV6,
            ethertype::ARP,
            ethertype::RARP,
            ethertype::MPLS,
            ethertype::MPLS_MC,
            ethertype::PPPOE,
            0x88cc,
        ]);
        let tags = self.throws.pick(&[0, 0, 0, 1, 1, 2]);
        let protocol = match tags {
            0 => self.untagged(inner),
            _ => self.tagged(tags, inner),
        };
        self.network();
        if self.throws.percent(40) {
            self.tunnel();
        }
        if self.throws.percent(30) {
            self.conntrack();
        }
        self.some(&[IpFlags]);
        if self.throws.percent(25) {
            self.some(&[Hash]);
        }
        protocol
    }

    fn untagged(&mut self, inner: u16) -> u16 {
        if self.throws.percent(20) {
            self.exact(NumOfVlans, 0);
        }
        match self.throws.below(5) {
            // Of any protocol, which the ethertype says or nobody does.
            0 if inner != ethertype::PPPOE => {
                if self.throws.percent(70) {
                    self.exact(EthType, inner.into());
                }
                PROTOCOL_ALL
            }
            _ if inner == ethertype::PPPOE => {
                self.pppoe(false);
                inner
            }
            _ => {
                self.exact(EthType, inner.into());
                inner
            }
        }
    }

    /// Behind a tag something must be asked of it: the kernel says no more than that.
    fn pppoe(&mut self, is_tagged: bool) {
        self.some(&[PppoeSid]);
        let carried = [(0x21, 0x800), (0x57, 0x86dd), (0x281, 0x8847), (0x283, 0x8848), (0xc021, 0x8864)];
        if is_tagged && self.m.mask.get(PppoeSid) == 0 || self.throws.percent(70) {
            let (carried, behind) = self.throws.pick(&carried);
            self.exact(PppProto, carried);
            self.exact(EthType, behind);
        }
    }

    fn tagged(&mut self, tags: usize, inner: u16) -> u16 {
        let protocol = self.throws.pick(&[ethertype::VLAN, ethertype::QINQ]);
        self.exact(VlanTpid, protocol.into());
        self.some(&[VlanId, VlanPrio]);
        let counted = self.throws.percent(25);
        if counted {
            self.exact(NumOfVlans, tags as u128);
        }
        let behind = if tags == 1 { VlanEthType } else { CvlanEthType };
        if tags == 2 {
            let second = self.throws.pick(&[ethertype::VLAN, ethertype::QINQ]);
            self.exact(VlanEthType, second.into());
            self.exact(CvlanTpid, second.into());
            self.some(&[CvlanId, CvlanPrio]);
        }
        if self.throws.percent(75) {
            self.exact(behind, inner.into());
            match inner {
                ethertype::PPPOE => self.pppoe(true),
                _ => self.exact(EthType, inner.into()),
            }
        }
        protocol
    }

    /// What is behind the ethertype.
    fn network(&mut self) {
        let ethertype = self.m.key.get(EthType) as u16;
        match ethertype {
            ethertype::IPV4 | ethertype::IPV6 => {
                self.some(&[IpTos, IpTtl]);
                let (kind, addresses) = match ethertype {
                    ethertype::IPV4 => (addr_type::IPV4, [Ipv4Src, Ipv4Dst]),
                    _ => (addr_type::IPV6, [Ipv6Src, Ipv6Dst]),
                };
                self.addresses(AddrType, kind, addresses);
                if self.throws.percent(75) {
                    self.transport(ethertype == ethertype::IPV4);
                }
            }
            ethertype::ARP | ethertype::RARP => self.some(&[ArpSip, ArpTip, ArpOp, ArpSha, ArpTha]),
            ethertype::MPLS | ethertype::MPLS_MC => {
                let depth = self.throws.pick(&[0, 0, 1, 1, 1, 3, 7]);
                for entry in Field::MPLS.into_iter().take(depth) {
                    if depth == 1 || self.throws.percent(60) {
                        self.exact(entry[0], 1);
                        self.some(&entry[1..]);
                    }
                }
            }
            _ => {}
        }
    }

    fn addresses(&mut self, kind: Field, value: u128, addresses: [Field; 2]) {
        self.some(&addresses);
        if addresses.iter().any(|&field| self.m.mask.get(field) != 0) {
            self.exact(kind, value);
        }
    }

    fn transport(&mut self, is_v4: bool) {
        let icmp = if is_v4 { ip_proto::ICMP } else { ip_proto::ICMPV6 };
        let with_ports = [ip_proto::TCP, ip_proto::TCP, ip_proto::UDP, ip_proto::SCTP];
        let proto = self.throws.pick(&[
            with_ports[0],
            with_ports[1],
            with_ports[2],
            with_ports[3],
            icmp,
            ip_proto::L2TP,
            ip_proto::ESP,
        ]);
        self.exact(IpProto, proto.into());
        if with_ports.contains(&proto) {
            self.some(&[SrcPort, DstPort]);
            for field in [SrcPort, DstPort] {
                if self.m.mask.get(field) == 0 && self.throws.percent(25) {
                    let (a, b) = (self.throws.half(), self.throws.half());
                    let range = Range { min: a.min(b), max: a.max(b) };
                    *self.m.range_mut(field) = (a != b).then_some(range);
                }
            }
        }
        match proto {
            ip_proto::TCP => self.some(&[TcpFlags]),
            ip_proto::L2TP => self.some(&[L2tpv3Sid]),
            _ if proto == icmp => self.some(&[IcmpType, IcmpCode]),
            _ => {}
        }
    }

    fn tunnel(&mut self) {
        self.some(&[EncKeyId, EncSrcPort, EncDstPort, EncTos, EncTtl]);
        match self.throws.below(3) {
            0 => self.addresses(EncAddrType, addr_type::IPV4, [EncIpv4Src, EncIpv4Dst]),
            1 => self.addresses(EncAddrType, addr_type::IPV6, [EncIpv6Src, EncIpv6Dst]),
            _ => {}
        }
        if self.throws.percent(60) {
            self.options();
        }
    }

    /// Options, and a mask as flower makes it.
    fn options(&mut self) {
        let throws = &mut *self.throws;
        let (kind, key, mask) = match throws.below(6) {
            0..=2 => {
                let options = geneve(throws, 64);
                let mask = options.iter().flat_map(|option| {
                    let length = option.data.len();
                    let mask = GeneveOption {
                        class: throws.mask(0xffff) as u16,
                        kind: throws.bits(0xff) as u8,
                        data: if throws.percent(50) { vec![0xff; length] } else { throws.bytes(length) },
                    };
                    mask.bytes()
                });
                let mask = mask.collect();
                (enc_options::GENEVE, TunnelOptions::Geneve(options).bytes(), mask)
            }
            3 => {
                let bytes = |gbp: u128| (gbp as u32).to_be_bytes().to_vec();
                let mask = if throws.percent(40) { 0xffff_ffff } else { throws.mask(GBP.into()) };
                (enc_options::VXLAN, bytes(throws.bits(GBP.into())), bytes(mask))
            }
            4 => {
                let mut one = || match throws.percent(50) {
                    true => TunnelOptions::Erspan(Erspan::Index(throws.word())),
                    false => erspan(throws),
                };
                (enc_options::ERSPAN, one().bytes(), one().bytes())
            }
            _ => (enc_options::GTP, throws.bytes(2), throws.bytes(2)),
        };
        self.m.set(EncOptsType, kind, kind);
        self.m.set(EncOptsLen, key.len() as u128, key.len() as u128);
        for (at, field) in Field::OPTIONS.into_iter().enumerate() {
            self.m.set(field, option_field(&key, at), option_field(&mask, at));
        }
    }

    fn conntrack(&mut self) {
        self.some(&[CtZone, CtMark, CtLabels]);
        use ct_state::*;
        // What flower takes: `trk` with any other, `inv` with no other, `new` neither with `est` nor with `rpl`.
        let values = [
            0,
            TRACKED,
            TRACKED | NEW,
            TRACKED | ESTABLISHED,
            TRACKED | ESTABLISHED | REPLY,
            TRACKED | RELATED | NEW,
            TRACKED | INVALID,
        ];
        if self.throws.percent(70) {
            let value = self.throws.pick(&values);
            let more = self.throws.bits(0x3f);
            self.m.set(CtState, value, value | more);
        }
    }

    /// Something that does not belong together.
    fn disturb(&mut self) {
        for _ in 0..1 + self.throws.below(2) {
            let field = self.throws.pick(Field::ALL);
            match self.throws.below(4) {
                0 => self.m.clear(field),
                1 => {
                    let mask = self.throws.mask(field.ones());
                    let value = self.throws.bits(field.ones());
                    self.m.set(field, value, mask);
                }
                _ => {
                    let value = self.throws.bits(field.ones());
                    self.m.set(field, value, u128::MAX);
                }
            }
        }
        // Of no device there is a name.
        if self.m.mask.get(Indev) != 0 {
            self.m.clear(Indev);
        }
    }
}

/// Options of Geneve of no more bytes than that.
fn geneve(throws: &mut Throws, most: usize) -> Vec<GeneveOption> {
    let mut options = Vec::new();
    let (count, mut left) = (1 + throws.below(4), most);
    while options.len() < count && left >= 8 {
        let long = if throws.percent(30) { 31 } else { 3 };
        let words = 1 + throws.below((left / 4 - 1).min(long));
        left -= 4 + 4 * words;
        options.push(GeneveOption { class: throws.half(), kind: throws.byte(), data: throws.bytes(4 * words) });
    }
    options
}

fn erspan(throws: &mut Throws) -> TunnelOptions {
    TunnelOptions::Erspan(Erspan::Hardware { dir: throws.below(2) as u8, hwid: throws.below(64) as u8 })
}

/// What of a filter is there: fields compared, kinds of actions, and their forms.
pub fn features(filter: &Filter) -> Vec<String> {
    let mut all: Vec<String> = filter.matches.terms().map(|(field, ..)| field.name().to_owned()).collect();
    let masked = filter.matches.terms().filter(|&(field, _, mask)| mask != field.ones());
    all.extend(masked.map(|(field, ..)| format!("{field} under a mask")));
    all.extend(filter.matches.ranges().map(|(field, _)| format!("range of {field}")));
    let Match { key, .. } = filter.matches;
    let several = |key: &Key| key.get(EncOptsType) == enc_options::GENEVE && key.get(EncOptsLen) > 36;
    if several(&key) {
        all.push("several options of geneve".into());
    }
    for kind in [enc_options::GENEVE, enc_options::VXLAN, enc_options::ERSPAN, enc_options::GTP] {
        if key.get(EncOptsType) == kind {
            all.push(format!("options {kind:#x}"));
        }
    }
    for action in &filter.actions {
        let form = match &action.kind {
            ActionKind::Vlan(vlan) => first_word(vlan),
            ActionKind::Mpls(mpls) => first_word(mpls),
            ActionKind::Skbmod(skbmod) => first_word(skbmod),
            ActionKind::TunnelKey(TunnelKey::Set(tunnel)) => first_word(&tunnel.options),
            ActionKind::TunnelKey(TunnelKey::Unset) => "unset".into(),
            ActionKind::Pedit(pedit) if pedit.keys.iter().any(|key| key.dynamic.is_some()) => "dynamic".into(),
            ActionKind::Ct(ct) if ct.nat.is_some() => "with nat".into(),
            ActionKind::Police(police) if police.peak_rate != 0 => "with peak".into(),
            ActionKind::Police(police) if police.packet_rate != 0 => "of packets".into(),
            ActionKind::Gact { random: Some(_) } => "random".into(),
            _ => String::new(),
        };
        all.push(format!("{} {form}", action.name()).trim_end().to_owned());
    }
    all
}

/// What of [`features`] must be seen, whatever else is: the fields that Linux 6.1 knows, and the kinds of actions.
pub fn expected() -> Vec<String> {
    let later = [L2Miss, CfmLevel, CfmOpcode, Spi, EncFlags];
    let fields = Field::ALL.iter().filter(|field| !later.contains(field)).map(|field| field.name());
    let kinds = ["gact", "mirred", "ct", "pedit", "csum", "skbedit", "nat", "police", "sample"];
    let forms = ["vlan push", "mpls push", "skbmod swap", "tunnel_key geneve", "tunnel_key unset", "gact random"];
    fields.chain(kinds).chain(forms).chain(["several options of geneve"]).map(str::to_owned).collect()
}

fn first_word(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase()
}
