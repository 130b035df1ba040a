//! What the runs must reach, and what they cannot, with the reason.

use flowmerge::flower::Field;

/// Fields that filters compare, and whether under masks, too.
const FIELDS: [(Field, bool); 57] = [
    (Field::Indev, false),
    (Field::Protocol, false),
    (Field::EthDst, true),
    (Field::EthSrc, true),
    (Field::EthType, false),
    (Field::NumOfVlans, false),
    (Field::VlanTpid, false),
    (Field::VlanId, true),
    (Field::VlanPrio, true),
    (Field::VlanEthType, false),
    (Field::CvlanTpid, false),
    (Field::CvlanId, true),
    (Field::CvlanPrio, true),
    (Field::CvlanEthType, false),
    (Field::AddrType, false),
    (Field::IpProto, false),
    (Field::IpTos, true),
    (Field::IpTtl, true),
    (Field::Ipv4Src, true),
    (Field::Ipv4Dst, true),
    (Field::Ipv6Src, true),
    (Field::Ipv6Dst, true),
    (Field::SrcPort, true),
    (Field::DstPort, true),
    (Field::TcpFlags, true),
    (Field::IcmpType, true),
    (Field::IcmpCode, true),
    (Field::CtMark, true),
    (Field::CtLabels, true),
    (Field::CtZone, true),
    (Field::ArpSip, true),
    (Field::ArpTip, true),
    (Field::ArpOp, true),
    (Field::ArpSha, true),
    (Field::ArpTha, true),
    (Field::Mpls1, false),
    (Field::MplsLabel, false),
    (Field::MplsTc, false),
    (Field::MplsBos, false),
    (Field::MplsTtl, false),
    (Field::Mpls2, false),
    (Field::Mpls2Label, false),
    (Field::Mpls2Bos, false),
    (Field::Mpls2Ttl, false),
    (Field::EncKeyId, false),
    (Field::EncAddrType, false),
    (Field::EncIpv4Src, true),
    (Field::EncIpv4Dst, true),
    (Field::EncIpv6Src, true),
    (Field::EncIpv6Dst, true),
    (Field::EncSrcPort, true),
    (Field::EncDstPort, true),
    (Field::EncTos, true),
    (Field::EncTtl, true),
    (Field::EncOptsType, true),
    (Field::EncOptsLen, true),
    (Field::EncOpts0, true),
];

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| n.to_string()).collect()
}

/// What filters compare.
pub fn compared() -> Vec<String> {
    let mut out: Vec<String> = FIELDS.iter().map(|(f, _)| f.name().to_string()).collect();
    out.extend(FIELDS.iter().filter(|f| f.1).map(|(f, _)| format!("{f} masked")));
    // Flower compares no option whole.
    out.retain(|name| !["enc_opts_type", "enc_opts_len", "enc_opts0"].contains(&name.as_str()));
    out.extend(owned(&["src_port range", "dst_port range"]));
    for sign in ['+', '-'] {
        out.extend(["new", "est", "rel", "trk", "inv", "rpl"].map(|bit| format!("ct_state {sign}{bit}")));
        out.extend(["frag", "firstfrag"].map(|bit| format!("ip_flags {sign}{bit}")));
    }
    out
}

/// What no filter of a merged way compares: the packet's connection is established, or it has none and was not tracked.
pub fn never_merged(name: &str) -> bool {
    ["ct_state +new", "ct_state +rel", "ct_state +inv"].contains(&name)
}

/// Fields that are written to. TC has no action that writes the others.
pub fn rewritten() -> Vec<String> {
    let fields = "dst_mac src_mac vlan_tpid vlan_id vlan_prio ip_tos ip_ttl src_ip dst_ip src_ip6 dst_ip6 src_port dst_port \
                  tcp_flags";
    let by_nat = ["src_ip", "dst_ip", "src_ip6", "dst_ip6", "src_port", "dst_port", "all four"];
    fields.split_whitespace().map(str::to_string).chain(by_nat.map(|f| format!("{f} by nat"))).collect()
}

/// Actions and controls. Not `repeat`, of which nobody can say where it ends, nor a control or kind that is not known: they are
/// refused. Nor a `pedit` at an offset read from the packet, a label in front of the Ethernet header, or a sample.
pub fn done() -> Vec<String> {
    let mut out = owned(&[
        "ct",
        "ct clear",
        "ct commit",
        "ct force",
        "ct mark",
        "ct label",
        "ct nat",
        "ct nat range",
        "vlan pop",
        "vlan push 0x8100",
        "vlan push 0x88a8",
        "vlan modify 0x8100",
        "vlan modify 0x88a8",
        "vlan modify 0x8100 prio",
        "vlan modify 0x88a8 prio",
        "pedit of several keys",
        "pedit network add",
        "pedit network set",
    ]);
    let each = |prefix: &'static str, names: &'static str| names.split(' ').map(move |n| format!("{prefix} {n}"));
    out.extend(each("csum", "ipv4 icmp igmp tcp udp udplite sctp"));
    out.extend(each("gact", "goto jump ok pipe continue reclassify shot stolen queued trap"));
    out.extend(each("mirred egress mirror", "pipe stolen"));
    out.extend(each("mirred egress redirect", "stolen shot queued trap ok pipe goto"));
    out.extend(each("mirred ingress mirror", "pipe"));
    out.extend(each("mirred ingress redirect", "stolen shot queued trap ok pipe goto"));
    out.extend(each("skbmod", "dmac smac etype swap ecn"));
    out.extend(each("mpls", "push pop modify dec_ttl"));
    out.extend(each("vlan", "pop_eth push_eth"));
    out.extend(owned(&["tunnel_key set", "tunnel_key set with options", "tunnel_key unset", "police"]));
    out.extend(each("nat", "ingress egress"));
    out.extend(each("skbedit", "queue priority mark ptype inherit_dsfield"));
    for header in ["ethernet set", "ethernet masked", "ethernet flip"] {
        out.push(format!("pedit {header}"));
    }
    for header in ["ipv4", "ipv6", "tcp", "udp"] {
        out.extend(["set", "masked", "flip", "add"].map(|how| format!("pedit {header} {how}")));
    }
    out
}

/// Reasons of refusals. Not `no-hits`: a packet that hits nothing is not handed in. Nor `shadow-hidden`, which is too seldom and has
/// a test of its own. Nor `impossible` and `changed`: a true record makes neither but by chance, if it waits while things change,
/// and both have tests in `src/merge/tests`. Nor `behind` and `at-egress`, of `skip_sw` filters, which the model does not know.
pub fn refused() -> Vec<String> {
    owned(&[
        "unknown-filter",
        "unknown-connection",
        "no-terminal",
        "too-long",
        "broken",
        "undecoded",
        "action",
        "unfit",
        "hardware",
        "hidden",
        "stale",
        "shadow-undecoded",
        "unordered",
        "no-connection",
        "not-qualified",
        "changes-connection",
        "excluded",
        "egress-filters",
        "forks",
        "too-many",
    ])
}
