# The rest, in a block shared by p1 and p3: ARP under masks, inner tags and their number, PPPoE, L2TPv3, nat without state, skbmod, policers shared by index, sample, indev, pedit without headers' names
. "$LAB/common.sh"; hosts; for p in p1 p3; do tc qdisc add dev $p ingress_block 9 clsact; done; tc qdisc add dev p2 clsact; neighbours
knows h1 10.0.0.50 02:00:00:00:00:02; knows h3 10.0.0.60 02:00:00:00:00:02
# So fast that every packet conforms, but for one that is too long; and one of which nothing conforms.
tc actions add action police rate 9000tbit burst 100k mtu 300 conform-exceed drop/pipe index 7 skip_hw
tc actions add action police rate 9000tbit burst 100k conform-exceed drop/pipe index 8 skip_hw
record p1 p2 p3
b() { c=$1; p=$2; proto=$3; shift 3; tc filter add block 9 chain "$c" prio "$p" proto "$proto" flower skip_hw "$@"; }
f() { c=$1; p=$2; proto=$3; shift 3; filter p2 chain "$c" prio "$p" proto "$proto" flower skip_hw "$@"; }
to() { echo "action mirred egress redirect dev $1"; }
one=$(to p1) two=$(to p2) three=$(to p3)
b 0 1 arp arp_op request arp_sip 10.0.0.0/30 arp_tip 10.0.0.0/24 arp_sha 02:00:00:00:00:00/ff:ff:ff:ff:ff:fd $two
b 0 1 arp arp_op reply arp_tha 02:00:00:00:00:09/00:00:00:00:00:ff arp_tip 10.0.0.8/29 $two
b 0 1 arp arp_sip 10.0.0.9 action skbmod swap mac pipe $two
b 0 2 802.1ad vlan_id 20 vlan_ethtype 802.1q cvlan_id 30 cvlan_prio 3 cvlan_ethtype ip ip_proto udp dst_port 5 $two
b 0 2 802.1ad num_of_vlans 2 vlan_id 20 vlan_ethtype 802.1q cvlan_id 31 action vlan pop pipe action vlan modify id 32 priority 1 pipe $two
b 0 3 802.1q num_of_vlans 1 vlan_id 33 vlan_prio 4 $two
b 0 11 all num_of_vlans 3 action drop
b 0 4 ppp_ses pppoe_sid 12 ppp_proto ip src_ip 10.0.0.1 dst_ip 10.0.0.0/24 $two
b 0 4 ppp_ses pppoe_sid 12 ppp_proto ipv6 $three
b 0 4 ppp_ses pppoe_sid 13 action drop
b 0 3 802.1q vlan_id 40 vlan_ethtype ppp_ses pppoe_sid 14 action vlan pop pipe $two
# This tc cannot say L2TPv3: by netlink, in the block, to p2. Arguments: priority, protocol, session.
cat >/run/l2tp.py <<'P'
import socket, struct, sys
prio, proto, session = int(sys.argv[1]), int(sys.argv[2], 16), int(sys.argv[3])
pad = lambda data: data + bytes(-len(data) % 4)
attribute = lambda kind, *parts: pad(struct.pack("=HH", 4 + len(b"".join(parts)), kind) + b"".join(parts))
mirred = attribute(2, struct.pack("=IIiiiiI", 0, 0, 4, 0, 0, 1, socket.if_nametoindex("p2")))
action = attribute(3, attribute(1, attribute(1, b"mirred\0"), attribute(2, mirred)))
match = attribute(8, struct.pack("!H", proto)) + attribute(9, bytes([115])) + attribute(105, struct.pack("!I", session)) + attribute(22, struct.pack("=I", 1))
body = struct.pack("=BxxxiIII", 0, -1, 0, 9, prio << 16 | socket.htons(proto)) + attribute(1, b"flower\0") + attribute(2, match, action)
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
link.send(struct.pack("=IHHII", 16 + len(body), 44, 0x605, 1, 0) + body)
sys.exit(-struct.unpack_from("=i", link.recv(4096), 16)[0])
P
"$python" /run/l2tp.py 5 0800 1234; "$python" /run/l2tp.py 12 86dd 4294967295
b 0 5 ip ip_proto 0x73 action drop
# Ports that say which they are.
b 0 6 ip indev p1 dst_ip 10.0.0.7 ip_proto udp dst_port 20 $two
b 0 6 ip indev p3 dst_ip 10.0.0.7 ip_proto udp dst_port 20 $one
# Actions by the UDP port.
u() { n=$1; shift; b 0 7 ip dst_ip 10.0.0.7 ip_proto udp dst_port "$n" "$@"; }
u 21 action skbmod set dmac 02:00:00:00:00:02 set smac 02:aa:00:00:00:01 pipe $two
u 22 action skbmod set etype 0x88b6 pipe $two
u 23 action skbmod ecn pipe $two
u 24 action police index 7 pipe $two
u 25 action police index 8 pipe $two
u 26 action sample rate 1 group 5 trunc 60 pipe $two
u 27 action skbedit mark 5 priority 1:2 pipe $two
u 28 action pedit munge offset 8 u8 set 9 pipe action csum ip4h pipe $two
u 29 action pedit munge ip dst set 10.0.0.2 munge ip tos set 0x10 retain 0x1c pipe action csum ip4h and udp pipe $two
u 30 action nat egress 10.0.0.1/32 10.0.0.77 pipe action nat ingress 10.0.0.0/28 10.0.1.32 pipe $two
u 31 action nat ingress 10.0.0.8/32 10.0.0.2 pipe $two
u 32 action vlan push id 5 pipe action skbmod set dmac 02:00:00:00:00:02 pipe action vlan push id 6 protocol 802.1ad pipe $two
u 33 action pedit ex munge eth dst set 02:00:00:00:00:02 munge udp dport set 8000 pipe action csum udp pipe action police index 7 pipe $two
b 0 8 all src_mac 02:00:00:00:00:01/ff:ff:ff:ff:ff:fe dst_mac 02:00:00:00:10:00/ff:ff:ff:ff:f0:00 $two
# h2 is 10.0.0.50 to h1, without conntrack; h3 reaches it as .60 and through it, translated without state, policed by the same as others.
b 0 9 ip dst_ip 10.0.0.50 action nat ingress 10.0.0.50/32 10.0.0.2 pipe $two
b 0 10 ip dst_ip 10.0.0.60 action nat ingress 10.0.0.60/32 10.0.0.2 pipe action ct zone 5 pipe action goto chain 1
b 1 1 ip ct_state +trk+new action ct commit zone 5 pipe action skbmod set smac 02:aa:00:00:00:02 pipe action police index 8 pipe $two
b 1 2 ip ct_state +trk+est action skbmod set smac 02:aa:00:00:00:02 pipe action police index 8 pipe $two
f 0 1 ip src_ip 10.0.0.2 dst_ip 10.0.0.1 action nat egress 10.0.0.2/32 10.0.0.50 pipe $one
f 0 2 ip src_ip 10.0.0.2 dst_ip 10.0.0.3 action ct zone 5 pipe action goto chain 1
f 1 1 ip ct_state +trk+est action nat egress 10.0.0.2/32 10.0.0.60 pipe action police index 8 pipe $three
serve h2
frames h1 <<'P'
[eth(arp(o, '10.0.0.%d' % s, '10.0.0.%d' % t, s, t)) for o in (1, 2) for s in (1, 2, 5, 9) for t in (2, 9, 10)]
[eth(vlan(20, vlan(i, ip('10.0.0.1', '10.0.0.7', udp(1, 5, b'two tags')), q), tpid=0x88a8)) for i in (30, 31, 32) for q in (3, 4)]
[eth(vlan(20, vlan(31, vlan(1, ip('10.0.0.1', '10.0.0.7', udp(1, 5)))), tpid=0x88a8)), eth(vlan(20, vlan(31, b'none'), tpid=0x88a8))]
[eth(vlan(33, ip('10.0.0.1', '10.0.0.7', udp(1, 5)), q)) for q in (4, 5)] + [eth(vlan(33, vlan(1, b'one more'), 4)), eth(vlan(1, vlan(2, vlan(3, b'three'))))]
[eth(pppoe(s, ip('10.0.0.1', d, udp(1, 5, b'a session')))) for s in (12, 13, 15) for d in ('10.0.0.7', '10.0.1.7')] + [eth(pppoe(12, b'no packet'))]
[eth(pppoe(12, ip6('fd00::1', 'fd00::7', udp(1, 5, b'six')))), eth(vlan(40, pppoe(14, ip('10.0.0.1', '10.0.0.7', udp(1, 5)))))]
[eth(ip('10.0.0.1', '10.0.0.7', l2tp(s, b'\0\0\0\0' + eth(b'inside')))) for s in (1234, 1235)] + [eth(ip6('fd00::1', 'fd00::7', l2tp(s))) for s in (0xFFFFFFFF, 1)]
[eth(ip('10.0.0.1', '10.0.0.7', udp(1000, n, bytes(13 * n - 2 * k)), tos=k, id=n)) for n in range(20, 34) for k in (0, 2, 99)]
[eth(ip('10.0.0.%d' % n, '10.0.0.8', udp(1000, 31, b'others'), id=n)) for n in (1, 5)]
[eth(ip('10.0.0.1', '10.0.0.50', icmp(3, 1, ip('10.0.0.50', '10.0.0.1', udp(5, 6, b'cause')))))]
[eth(ip('10.0.0.1', '10.0.0.7', tcp(1000, 21, b'not UDP')), dst='02:00:00:00:%02x:01' % m) for m in (0x10, 0x1F, 0x20)]
P
frames h3 <<'P'
[eth(ip('10.0.0.3', '10.0.0.7', udp(1000, n, b'from h3')), src=3) for n in (20, 21, 24)]
[eth(b'nothing known', dst='02:00:00:00:1%d:01' % m, src=s) for m in (0, 5) for s in (0, 3)]
P
SIZE=60 tcp h1 10.0.0.50 4 & A=$!; SIZE=60 udp h1 10.0.0.50 4 & B=$!; on h1 ping -q -c 2 -i 0.05 10.0.0.50 & C=$!
SIZE=60 tcp h3 10.0.0.60 8 & D=$!; SIZE=60 SPORT=41000 udp h3 10.0.0.60 8; wait $A $B $C $D; finish
expect software.decided=100
