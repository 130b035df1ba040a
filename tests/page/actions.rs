//! Action by action: a filter with the action, and a redirect behind it.

use crate::{
    notes::{Notes, escaped, table},
    run::{OUT, Ports, filter, key, merge, model, stack, told_in_front, undecidable},
    samples::{self, Sample},
};
use flowmerge::{
    flower::{
        Action, ActionKind, Capabilities, Control, Match, Port, Tunnel,
        action::{
            CsumFlags, Ct, Mirred, Mpls, MplsEntry, Nat, NatSide, Pedit, PeditDynamic, PeditHeader, PeditKey, Police,
            Random, Skbedit, Skbmod, StatelessNat, TunnelKey, Vlan,
        },
        print::printed,
        tunnel::{Erspan, GeneveOption, TunnelFlags, TunnelOptions},
    },
    hardware::Entry,
    netlink,
};

macro_rules! variants {
    ($($name:literal = $pattern:pat),* $(,)?) => {
        /// Every kind of action and what it may be.
        pub const VARIANTS: &[&str] = &[$($name),*];

        /// Which of them an action is.
        pub fn variant(kind: &ActionKind) -> &'static str {
            match kind { $($pattern => $name),* }
        }
    };
}
variants! {
    "gact" = ActionKind::Gact { random: None },
    "gact random" = ActionKind::Gact { random: Some(_) },
    "mirred mirror" = ActionKind::Mirred(Mirred { mirror: true, .. }),
    "mirred redirect" = ActionKind::Mirred(Mirred { mirror: false, .. }),
    "ct" = ActionKind::Ct(_),
    "pedit" = ActionKind::Pedit(_),
    "csum" = ActionKind::Csum(_),
    "vlan pop" = ActionKind::Vlan(Vlan::Pop),
    "vlan push" = ActionKind::Vlan(Vlan::Push { .. }),
    "vlan modify" = ActionKind::Vlan(Vlan::Modify { .. }),
    "vlan pop_eth" = ActionKind::Vlan(Vlan::PopEthernet),
    "vlan push_eth" = ActionKind::Vlan(Vlan::PushEthernet { .. }),
    "skbedit" = ActionKind::Skbedit(_),
    "skbmod set" = ActionKind::Skbmod(Skbmod::Set { .. }),
    "skbmod swap" = ActionKind::Skbmod(Skbmod::Swap),
    "skbmod ecn" = ActionKind::Skbmod(Skbmod::Ecn),
    "mpls pop" = ActionKind::Mpls(Mpls::Pop { .. }),
    "mpls push" = ActionKind::Mpls(Mpls::Push { .. }),
    "mpls mac_push" = ActionKind::Mpls(Mpls::PushMac { .. }),
    "mpls modify" = ActionKind::Mpls(Mpls::Modify(_)),
    "mpls dec_ttl" = ActionKind::Mpls(Mpls::DecTtl),
    "tunnel_key set" = ActionKind::TunnelKey(TunnelKey::Set(_)),
    "tunnel_key unset" = ActionKind::TunnelKey(TunnelKey::Unset),
    "nat" = ActionKind::Nat(_),
    "police" = ActionKind::Police(_),
    "sample" = ActionKind::Sample(_),
    "other" = ActionKind::Other(_),
}

/// An action, the packet that it is done to, and what is not to be seen of it in tc's words.
struct Case {
    action: Action,
    sample: Sample,
    remark: &'static str,
    /// Its connection is only beginning.
    begun: bool,
}

fn pipe(kind: ActionKind) -> Action {
    Action::new(kind, Control::Pipe)
}

fn case(kind: ActionKind, sample: Sample) -> Case {
    Case { action: pipe(kind), sample, remark: "", begun: false }
}

fn pedit(header: PeditHeader, offset: i32, mask: [u8; 4], value: [u8; 4]) -> PeditKey {
    PeditKey { header, offset, mask, value, add: false, dynamic: None }
}

fn rewrites() -> Vec<Case> {
    use PeditHeader::*;
    let key = |key| ActionKind::Pedit(Pedit { keys: vec![key], mend: false });
    let dynamic = PeditDynamic { at: 0, mask: 0x0f, shift: 0 };
    let ttl = pedit(Ipv4, 8, [0, 0xff, 0xff, 0xff], [255, 0, 0, 0]);
    let add = |key| PeditKey { add: true, ..key };
    vec![
        case(key(pedit(Ethernet, 0, [0; 4], [2, 0, 0, 9])), samples::tcp()),
        Case {
            remark: "the ethertype",
            ..case(key(pedit(Ethernet, 12, [0, 0, 0xff, 0xff], [8, 6, 0, 0])), samples::tcp())
        },
        case(key(pedit(Ipv4, 16, [0; 4], [10, 0, 0, 9])), samples::tcp()),
        case(key(pedit(Ipv4, 16, [0xff, 0xff, 0xff, 0xf0], [0, 0, 0, 9])), samples::tcp()),
        Case {
            remark: "flips a bit that stays",
            ..case(key(pedit(Ipv4, 16, [0xff; 4], [0, 0, 0, 1])), samples::tcp())
        },
        case(key(add(ttl)), samples::tcp()),
        Case {
            remark: "adds to two bytes",
            ..case(key(add(pedit(Ipv4, 16, [0xff, 0xff, 0, 0], [0, 0, 0, 1]))), samples::tcp())
        },
        Case {
            remark: "the protocol",
            ..case(key(pedit(Ipv4, 8, [0xff, 0, 0xff, 0xff], [0, 17, 0, 0])), samples::tcp())
        },
        case(key(pedit(Ipv6, 36, [0; 4], [0, 0, 0, 9])), samples::tcp6()),
        case(key(pedit(Tcp, 0, [0xff, 0xff, 0, 0], [0, 0, 0x1f, 0x90])), samples::tcp()),
        case(key(pedit(Udp, 0, [0xff, 0xff, 0, 0], [0, 0, 0x1f, 0x90])), samples::udp()),
        Case {
            remark: "a header that the packet lacks",
            ..case(key(pedit(Udp, 0, [0xff, 0xff, 0, 0], [0, 0, 0x1f, 0x90])), samples::icmp())
        },
        Case { remark: "legacy", ..case(key(pedit(Network, 16, [0; 4], [10, 0, 0, 9])), samples::tcp()) },
        Case {
            remark: "legacy, behind the header",
            ..case(key(pedit(Network, 20, [0xff, 0xff, 0, 0], [0, 0, 0x1f, 0x90])), samples::tcp())
        },
        case(key(PeditKey { dynamic: Some(dynamic), ..pedit(Network, 16, [0; 4], [10, 0, 0, 9]) }), samples::tcp()),
        Case {
            remark: "not on a word's boundary",
            ..case(key(pedit(Ipv4, 14, [0; 4], [0, 0, 10, 0])), samples::tcp())
        },
        case(ActionKind::Csum(CsumFlags::IPV4 | CsumFlags::TCP), samples::tcp()),
        case(ActionKind::Csum(CsumFlags::ICMP), samples::icmp()),
        case(ActionKind::Csum(CsumFlags::IGMP | CsumFlags::UDPLITE | CsumFlags::SCTP), samples::tcp()),
        case(
            ActionKind::Skbmod(Skbmod::Set { dst: Some([2, 0, 0, 0, 0, 9]), src: None, ethertype: None }),
            samples::tcp(),
        ),
        case(
            ActionKind::Skbmod(Skbmod::Set { dst: None, src: Some([2, 0, 0, 0, 0, 9]), ethertype: None }),
            samples::tcp(),
        ),
        case(ActionKind::Skbmod(Skbmod::Set { dst: None, src: None, ethertype: Some(0x88b5) }), samples::tcp()),
        case(ActionKind::Skbmod(Skbmod::Swap), samples::tcp()),
        case(ActionKind::Skbmod(Skbmod::Ecn), samples::tcp()),
        case(
            ActionKind::Nat(StatelessNat { old: 0x0a00_0002, new: 0x0a00_0009, mask: u32::MAX, egress: false }),
            samples::tcp(),
        ),
        case(
            ActionKind::Nat(StatelessNat { old: 0x0a00_0000, new: 0x0a01_0000, mask: 0xffff_ff00, egress: true }),
            samples::tcp(),
        ),
    ]
}

fn headers() -> Vec<Case> {
    let tag = |kind| case(ActionKind::Vlan(kind), samples::tagged());
    let on = |kind, n| case(ActionKind::Mpls(kind), samples::mpls(n));
    let none = MplsEntry::default();
    let label = MplsEntry { label: Some(100), ttl: Some(64), ..none };
    let bos = MplsEntry { bos: Some(true), tc: Some(1), ..label };
    vec![
        tag(Vlan::Pop),
        Case { remark: "without a tag", ..case(ActionKind::Vlan(Vlan::Pop), samples::tcp()) },
        case(ActionKind::Vlan(Vlan::Push { protocol: 0x8100, id: 9, prio: 3 }), samples::tcp()),
        Case { remark: "a second tag", ..tag(Vlan::Push { protocol: 0x88a8, id: 9, prio: 3 }) },
        tag(Vlan::Modify { protocol: 0x8100, id: 9, prio: None }),
        tag(Vlan::Modify { protocol: 0x8100, id: 9, prio: Some(3) }),
        case(ActionKind::Vlan(Vlan::PopEthernet), samples::tcp()),
        case(ActionKind::Vlan(Vlan::PushEthernet { dst: [2, 0, 0, 0, 0, 9], src: [2, 0, 0, 0, 0, 8] }), samples::tcp()),
        Case { remark: "to another label", ..on(Mpls::Pop { protocol: 0x8847 }, 2) },
        Case { remark: "the last label", ..on(Mpls::Pop { protocol: 0x800 }, 1) },
        case(ActionKind::Mpls(Mpls::Push { protocol: 0x8847, entry: label }), samples::tcp()),
        on(Mpls::Push { protocol: 0x8848, entry: bos }, 1),
        case(ActionKind::Mpls(Mpls::PushMac { protocol: 0x8847, entry: label }), samples::tcp()),
        on(Mpls::Modify(label), 1),
        on(Mpls::Modify(MplsEntry { tc: Some(1), ..none }), 1),
        on(Mpls::DecTtl, 1),
    ]
}

fn tunnels() -> Vec<Case> {
    let tunnel = |id, v6, options| {
        let of = samples::through_tunnel(v6).tunnel.expect("it has one");
        let flags = TunnelFlags::empty();
        let set = Tunnel { id, src_port: 0, dst_port: 4789, tos: 0, flags, options, ..of };
        case(ActionKind::TunnelKey(TunnelKey::Set(Box::new(set))), samples::tcp())
    };
    let option = GeneveOption { class: 0x102, kind: 0x80, data: vec![1, 2, 3, 4] };
    vec![
        tunnel(Some(7), false, TunnelOptions::None),
        tunnel(None, true, TunnelOptions::None),
        tunnel(Some(7), false, TunnelOptions::Geneve(vec![option])),
        tunnel(Some(7), false, TunnelOptions::Vxlan { gbp: 0x10 }),
        tunnel(Some(7), false, TunnelOptions::Erspan(Erspan::Index(3))),
        tunnel(Some(7), false, TunnelOptions::Erspan(Erspan::Hardware { dir: 1, hwid: 3 })),
        tunnel(Some(7), false, TunnelOptions::Gtp { pdu_type: 1, qfi: 2 }),
        case(ActionKind::TunnelKey(TunnelKey::Unset), samples::through_tunnel(false)),
    ]
}

fn tracking() -> Vec<Case> {
    let ct = |ct: Ct| case(ActionKind::Ct(Ct { zone: 5, ..ct }), samples::tcp());
    let none = Ct::default;
    let to = |v: [u8; 4]| std::net::IpAddr::from(v);
    let nat = |side, addresses, ports| Some(Nat { side, addresses, ports });
    vec![
        ct(none()),
        Case { remark: "of a new connection", begun: true, ..ct(none()) },
        ct(Ct { nat: nat(None, None, None), ..none() }),
        ct(Ct { commit: true, ..none() }),
        ct(Ct { commit: true, force: true, ..none() }),
        Case { remark: "as the connection has it", ..ct(Ct { commit: true, mark: Some((16, 0xff)), ..none() }) },
        Case { remark: "another", ..ct(Ct { commit: true, mark: Some((17, 0xff)), ..none() }) },
        Case { remark: "another", ..ct(Ct { commit: true, labels: Some((0x40, 0xff)), ..none() }) },
        ct(Ct {
            commit: true,
            nat: nat(Some(NatSide::Src), Some((to([10, 0, 0, 9]), to([10, 0, 0, 10]))), Some((9000, 9001))),
            ..none()
        }),
        ct(Ct {
            commit: true,
            nat: nat(Some(NatSide::Dst), Some((to([10, 0, 0, 9]), to([10, 0, 0, 9]))), None),
            ..none()
        }),
        ct(Ct { commit: true, helper: Some("ipv4-tcp-ftp".into()), ..none() }),
        case(ActionKind::Ct(Ct { clear: true, ..none() }), samples::tcp()),
    ]
}

fn others() -> Vec<Case> {
    let edit = |skbedit| case(ActionKind::Skbedit(skbedit), samples::tcp());
    let none = Skbedit::default();
    let police = |shared, rate, control, conform| {
        let police = Police { shared, conform, rate, burst: 1 << 20, mtu: 2000, ..Police::default() };
        // Shared ones have an index.
        let action = Action { index: u32::from(shared) * 7, ..Action::new(ActionKind::Police(police), control) };
        let remark = if shared { "made for filters to share" } else { "of this filter" };
        Case { action, sample: samples::tcp(), remark, begun: false }
    };
    let mirred = |ingress, mirror| ActionKind::Mirred(Mirred { port: OUT, ingress, mirror });
    let random = Random { kind: 1, value: 10, control: Control::Shot };
    vec![
        case(mirred(false, true), samples::tcp()),
        case(mirred(true, true), samples::tcp()),
        edit(Skbedit { queue: Some(1), ..none }),
        edit(Skbedit { priority: Some(1), ..none }),
        edit(Skbedit { mark: Some((1, 0xff)), ..none }),
        edit(Skbedit { ptype: Some(0), ..none }),
        edit(Skbedit { inherit_dsfield: true, ..none }),
        police(true, 1 << 30, Control::Shot, Control::Pipe),
        police(true, 1 << 30, Control::Ok, Control::Pipe),
        police(false, 1 << 30, Control::Shot, Control::Pipe),
        case(
            ActionKind::Sample(flowmerge::flower::action::Sample { rate: 10, group: 1, truncate: None }),
            samples::tcp(),
        ),
        case(ActionKind::Gact { random: Some(random) }, samples::tcp()),
        case(ActionKind::Other("bpf".into()), samples::tcp()),
    ]
}

/// How a list of actions may go on or end.
fn controls() -> Vec<Case> {
    let ending = |action| Case { action, ..case(ActionKind::Gact { random: None }, samples::tcp()) };
    let gact = |control| ending(Action::gact(control));
    let mirred = |ingress| ActionKind::Mirred(Mirred { port: OUT, ingress, mirror: false });
    let redirect = |ingress, control| ending(Action::new(mirred(ingress), control));
    use Control::*;
    let all = [Ok, Shot, Pipe, Stolen, Queued, Trap, Continue, Goto(1), Reclassify, Repeat, Jump(1), Other(77)];
    let redirects =
        [(false, Stolen), (true, Stolen), (false, Pipe)].map(|(ingress, control)| redirect(ingress, control));
    redirects.into_iter().chain(all.map(gact)).collect()
}

/// Ports by the names of the page.
fn names(port: Port) -> String {
    format!("p{}", port.0)
}

fn row(case: &Case, notes: &mut Notes) -> Vec<String> {
    let &Case { ref action, ref sample, remark, begun } = case;
    let key = key(sample);
    let ip = stack(&key).into_iter().fold(Match::default(), |m, field| m.exact(field, key.get(field)));
    let mut filters = vec![filter(0, 1, ip, vec![action.clone(), Action::redirect(OUT)])];
    if matches!(action.kind, ActionKind::Gact { random: None } | ActionKind::Mirred(Mirred { mirror: false, .. })) {
        filters[0].actions.truncate(1);
        // What `continue` and `goto` lead to.
        filters.extend([(0, 2), (1, 1)].map(|(chain, prio)| filter(chain, prio, ip, vec![Action::redirect(OUT)])));
    }
    let told = notes.cell(netlink::encode_filter(&filters[0], &Ports).map(|_| "yes").map_err(|e| e.to_string()));
    let outcome = model(&filters, sample, begun);
    let modelled = notes.cell(undecidable(&outcome).map_or(Ok("yes"), Err));
    let merged = merge(&filters, &outcome, begun, Capabilities::all());
    let front = merge(&filters, &outcome, begun, Capabilities::tc()).and_then(|entry| {
        told_in_front(&entry)?;
        Ok(entry)
    });
    let words = |entry: &Entry| format!("`{}`", printed(entry.actions.as_slice(), &names));
    let (into, front) = match (merged, front) {
        (Ok(into), Ok(front)) if into.actions == front.actions => (words(&into), "the same".to_owned()),
        (Ok(into), Ok(front)) => (words(&into), words(&front)),
        (Ok(into), Err(why)) => (words(&into), notes.cell(Err(why))),
        (Err(why), _) => (notes.cell(Err(why)), String::new()),
    };
    let remark = if remark.is_empty() { String::new() } else { format!(" ({remark})") };
    let action = format!("`{:#}`{remark}", printed(action, &names));
    [action, told, modelled, into, front].map(|cell| escaped(&cell)).into()
}

/// The tables.
pub fn page(notes: &mut Notes) -> String {
    let head = ["action", "told", "modelled", "merged into", "in front"];
    let groups = [
        ("Where a packet goes", controls()),
        ("Connections", tracking()),
        ("Rewrites", rewrites()),
        ("Headers", headers()),
        ("Tunnels", tunnels()),
        ("Others", others()),
    ];
    let cases = groups.iter().flat_map(|(_, cases)| cases);
    let there: Vec<_> = cases.map(|case| variant(&case.action.kind)).collect();
    let missing: Vec<_> = VARIANTS.iter().filter(|name| !there.contains(name)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
    let told = |(name, cases): (&str, Vec<Case>)| {
        let rows: Vec<_> = cases.iter().map(|case| row(case, notes)).collect();
        format!("### {name}\n\n{}\n", table(&head, &rows))
    };
    groups.into_iter().map(told).collect()
}
