# MPLS: stacks of labels pushed, popped, modified, told apart to depth 3, over tags, around whole frames, and in front of ct
. "$LAB/common.sh"; hosts; for p in p1 p2 p3; do tc qdisc add dev $p clsact; done; neighbours; record p1 p2 p3
f() { d=$1; c=$2; p=$3; proto=$4; shift 4; filter "$d" chain "$c" prio "$p" proto "$proto" flower skip_hw "$@"; }
to() { echo "action mirred egress redirect dev $1"; }
one=$(to p1) two=$(to p2) three=$(to p3)
# Pushed: one, two, over and under a tag, with a bottom of stack of its own, in front of the Ethernet header.
u() { n=$1; shift; f p1 0 "$((10 + n))" ip dst_ip 10.0.0.7 ip_proto udp dst_port "$n" "$@"; }
u 1 action mpls push protocol mpls_uc label 100 tc 3 ttl 9 pipe $two
u 2 action mpls push label 100 pipe action mpls push protocol mpls_mc label 1048575 tc 7 ttl 255 pipe $two
u 3 action vlan push id 7 pipe action mpls push label 101 ttl 3 bos 0 pipe action goto chain 1
u 4 action mpls push label 102 pipe action vlan push id 8 priority 3 pipe action goto chain 1
u 5 action mpls mac_push protocol mpls_uc label 103 tc 1 ttl 20 pipe action vlan push_eth dst_mac 02:00:00:00:00:02 src_mac 02:aa:00:00:00:01 pipe $two
u 6 action mpls push label 104 ttl 1 pipe action mpls dec_ttl pipe $two
u 7 action mpls push label 105 pipe action mpls modify label 106 pipe action mpls modify tc 5 ttl 4 pipe action mpls push label 107 pipe action mpls pop protocol mpls_uc pipe $two
u 8 action mpls push label 108 pipe action mpls pop protocol ip pipe action goto chain 2
f p1 1 1 mpls_uc mpls_label 101 mpls_ttl 3 mpls_tc 0 $three
f p1 1 2 802.1q vlan_id 8 vlan_ethtype mpls_uc mpls_label 102 mpls_bos 1 $two
f p1 1 3 all $three
f p1 2 1 ip ip_ttl 64 dst_ip 10.0.0.7 $two
# Stacks, deepest demand first.
f p1 0 30 mpls_uc mpls lse depth 1 label 200 lse depth 2 label 201 tc 3 lse depth 3 label 202 bos 1 ttl 5 action mpls pop protocol mpls_uc pipe action mpls pop protocol mpls_uc pipe action goto chain 3
f p1 0 31 mpls_uc mpls lse depth 2 label 201 lse depth 3 bos 0 $three
f p1 0 32 mpls_uc mpls lse depth 1 label 200 bos 0 lse depth 2 bos 1 ttl 9 action mpls modify label 300 tc 1 pipe action mpls dec_ttl pipe $two
f p1 0 33 mpls_uc mpls_label 200 mpls_bos 1 mpls_tc 2 action mpls dec_ttl pipe action mpls pop protocol ip pipe action goto chain 4
f p1 0 34 mpls_uc mpls_ttl 1 action drop
f p1 0 35 mpls_uc mpls_label 210 action mpls pop protocol ipv6 pipe action goto chain 4
f p1 0 36 mpls_mc mpls_label 211 action mpls modify ttl 77 pipe $three
f p1 0 37 mpls_uc mpls_label 212 action vlan pop_eth pipe action mpls pop protocol teb pipe $two
f p1 0 38 802.1q vlan_id 9 vlan_ethtype mpls_uc mpls lse depth 1 label 220 lse depth 2 label 221 action vlan pop pipe action mpls pop protocol mpls_uc pipe $two
f p1 0 39 802.1q vlan_id 9 vlan_ethtype mpls_uc mpls_label 222 action mpls pop protocol ip pipe $two
f p1 0 40 mpls_uc mpls lse depth 7 label 206 $two
f p1 3 1 mpls_uc mpls_label 202 mpls_bos 1 action mpls pop protocol ip pipe action pedit ex munge ip ttl set 7 pipe action csum ip4h pipe $two
f p1 4 1 ip ip_proto udp dst_ip 10.0.0.7 $two
f p1 4 2 ipv6 dst_ip fd00::/64 $three
# h1 and h2: labelled between p1 and p3, where the label goes, and then ct.
f p1 0 1 ip dst_ip 10.0.0.2 action mpls push label 500 tc 1 pipe action mirred ingress redirect dev p3
f p3 0 1 mpls_uc mpls_label 500 action mpls pop protocol ip pipe action ct zone 5 pipe action goto chain 1
f p3 1 1 ip ct_state +trk+new action ct commit zone 5 pipe $two
f p3 1 2 ip ct_state +trk+est $two
f p2 0 1 ip dst_ip 10.0.0.1 action ct zone 5 pipe action goto chain 1
f p2 1 1 ip ct_state +trk+est $one
serve h2
frames h1 <<'P'
[eth(ip('10.0.0.1', '10.0.0.7', udp(1000, n, bytes(10 * n)), id=n + 100 * k, tos=k)) for n in range(1, 9) for k in range(2)]
[eth(mpls(200, mpls(201, mpls(202, ip('10.0.0.1', '10.0.0.7', udp(1, 2, b'three')), ttl=t), tc=3))) for t in (5, 6)]
[eth(mpls(l, mpls(201, mpls(203, mpls(204, ip('10.0.0.1', '10.0.0.7', udp(1, 2, b'four')))), tc=1))) for l in (200, 1, 1048575)]
[eth(mpls(200, mpls(205, ip('10.0.0.1', '10.0.0.7', udp(1, 2, b'two')), ttl=t), ttl=s, tc=6)) for t in (9, 8) for s in (64, 2, 1, 0)]
[eth(mpls(200, ip('10.0.0.1', '10.0.0.7', udp(1, 2, b'one')), ttl=t, tc=c)) for t in (64, 2, 1, 0) for c in (2, 3)]
[eth(mpls(210, ip6('fd00::1', 'fd00::7', udp(1, 2, b'six')))), eth(mpls(210, ip('10.0.0.1', '10.0.0.7', udp(1, 2, b'not six'))))]
[eth(mpls(211, ip('10.0.0.1', '10.0.0.7', udp(1, 2)), type=0x8848)), eth(mpls(211, b'odd', type=0x8848)), eth(mpls(211))]
[eth(mpls(212, eth(ip('10.0.0.1', '10.0.0.7', udp(1, 2, b'a frame')), dst=7)))]
[eth(vlan(9, mpls(220, mpls(l, ip("10.0.0.1", "10.0.0.7", udp(1, 2, b"under a tag")))), priority=3)) for l in (221, 223)]
[eth(vlan(9, mpls(222, ip('10.0.0.1', '10.0.0.7', udp(1, 2, b'under a tag'))), priority=5))]
eth(mpls(1, mpls(2, mpls(3, mpls(4, mpls(5, mpls(6, mpls(206, ip('10.0.0.1', '10.0.0.7', udp(1, 2, b'seven'))))))))))
[eth(mpls(200, mpls(201, b'', bos=0), bos=b)[:4 + 4 * b]) for b in (0, 1)]
P
SIZE=60 tcp h1 10.0.0.2 8 & A=$!; SIZE=60 SPORT=41000 udp h1 10.0.0.2 10; wait $A; finish
expect software.decided=75
