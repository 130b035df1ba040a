# Hand-written TC over every kind of tunnel, in and out: Geneve options under masks, VXLAN policies, ERSPAN of both types, GRE keys, IPv4 and IPv6 beneath
. "$LAB/common.sh"; hosts; underlay; for p in p1 p2; do tc qdisc add dev $p clsact; done
tunnel t1 geneve external dstport 6081; tunnel t2 vxlan external gbp dstport 4789 nolearning udp6zerocsumrx; tunnel t3 erspan external; tunnel t4 gretap external
for t in t1 t2 t3 t4; do tc qdisc add dev $t clsact; done
# The same on far; 10.0.0.9 is behind t1, and frames by hand leave any of them, wrapped by what their inner UDP port says.
behind t1 geneve external dstport 6081
on far bash -e <<'F'
printf 'link add %s address 02:00:00:00:00:09 type %s\n' t2 'vxlan external gbp dstport 4789 nolearning' t3 'erspan external' t4 'gretap external' | ip -batch -
for t in t2 t3 t4; do ip link set $t mtu 1450 up; ethtool -K $t tx off rx off tso off gso off gro off sg off >/dev/null 2>&1 || true; done
v4='tunnel_key set src_ip 192.168.7.2 dst_ip 192.168.7.1' v6='tunnel_key set src_ip fd07::2 dst_ip fd07::1'
wrap() { echo "filter add dev $1 egress prio $2 proto ip flower ip_proto udp dst_port $2 action $3"; }
{ for t in t1 t2 t3 t4 u0; do echo "qdisc add dev $t clsact"; done
wrap t1 1 "$v4 id 1 geneve_opts 0102:80:00000001"
wrap t1 2 "$v4 id 1 geneve_opts 0102:80:000000ff,0103:02:1122334455667788"
wrap t1 3 "$v4 id 2 geneve_opts 0102:80:00000005,ffff:00:aabbccdd,0103:02:0102030405060708090a0b0c"
wrap t1 4 "$v4 id 2 tos 0x28 ttl 7"
wrap t1 5 "$v6 id 3 geneve_opts 0102:01:deadbeef tos 0x2c ttl 9"
wrap t1 6 "$v4 id 4 nocsum"
wrap t1 7 "$v4 id 1 geneve_opts 0102:80:00000101"
wrap t1 8 "$v4 id 5 ttl 77"
wrap t1 9 "$v4 id 5 ttl 78"
wrap t2 1 "$v4 id 1 vxlan_opts 0x101"
wrap t2 2 "$v4 id 1 vxlan_opts 0x8ff01"
wrap t2 3 "$v4 id 2"
wrap t2 4 "$v6 id 16777215 vxlan_opts 0x101 nocsum ttl 3"
wrap t3 1 "$v4 id 100 erspan_opts 1:5:0:0"
wrap t3 2 "$v4 id 100 erspan_opts 2:0:1:37"
wrap t3 3 "$v4 id 1023 erspan_opts 2:0:0:37"
wrap t3 4 "$v4 id 100 erspan_opts 1:1048575:0:0"
wrap t4 1 "$v4 id 4294967295 nocsum tos 0x14"
wrap t4 2 "$v4 nocsum ttl 12"
echo "filter add dev t1 egress prio 99 matchall action $v4 id 9 geneve_opts 0102:81:00000009"
# A router that marks congestion, by the time to live: CE and ECT(1).
echo "filter add dev u0 egress prio 1 proto ip flower ip_ttl 77 action pedit ex munge ip tos set 3 retain 3 pipe action csum ip4h"
echo "filter add dev u0 egress prio 1 proto ip flower ip_ttl 78 action pedit ex munge ip tos set 1 retain 3 pipe action csum ip4h"
} | tc -batch -
F
record p1 p2 t1 t2 t3 t4 u1
f() { d=$1; p=$2; shift 2; filter "$d" prio "$p" proto ip flower skip_hw "$@"; }
to() { echo "action mirred egress redirect dev $1"; }
one=$(to p1) two=$(to p2)
f t1 1 geneve_opts 0102:80:00000000/ffff:ff:ffffff00 $one
f t1 2 geneve_opts 0102:80:000000ff/ffff:ff:0000000f,0103:02:1122330000000000/ff00:ff:ffffff0000000000 action tunnel_key unset pipe $two
f t1 3 enc_key_id 2 geneve_opts 0102:80:00000005,ffff:00:aabbccdd,0103:02:0102030405060708090a0b0c action pedit ex munge ip ttl add 255 pipe action csum ip4h pipe $one
f t1 4 enc_tos 0x28/0xfc enc_ttl 7 $two
f t1 5 enc_src_ip fd07::2 enc_dst_ip fd07::/64 enc_key_id 3 enc_tos 0x2c enc_ttl 9/0xf action tunnel_key unset pipe $one
f t1 6 enc_key_id 4 enc_dst_port 6081 action drop
f t1 8 enc_key_id 5 ip_tos 3/3 $one
f t1 8 enc_key_id 5 ip_tos 1/3 $two
f t1 9 enc_key_id 9 enc_src_ip 192.168.7.0/24 action ct zone 5 pipe action goto chain 1
filter t1 chain 1 prio 1 proto ip flower skip_hw enc_key_id 9 geneve_opts 0102:81:00000009 ct_state +trk+est action tunnel_key unset pipe $one
f t2 1 vxlan_opts 0x101 enc_dst_ip 192.168.7.1 enc_dst_port 4789 $one
f t2 2 vxlan_opts 0x1/0xff enc_key_id 1 action tunnel_key unset pipe $two
f t2 3 enc_key_id 2 action tunnel_key set src_ip 192.168.7.1 dst_ip 192.168.7.2 id 20 geneve_opts 0102:80:00000014 pipe $(to t1)
f t2 4 enc_key_id 16777215 enc_ttl 3 $one
f t3 1 enc_key_id 100 erspan_opts 1:5:0:0 $one
f t3 2 erspan_opts 2:0:1:32/2:0:1:48 action tunnel_key unset pipe $two
f t3 3 enc_key_id 1023 $one
f t4 1 enc_key_id 4294967295 enc_tos 0x14 $one
f t4 2 enc_src_ip 192.168.7.2 enc_ttl 12 $two
v4='tunnel_key set src_ip 192.168.7.1 dst_ip 192.168.7.2' v6='tunnel_key set src_ip fd07::1 dst_ip fd07::2'
u() { n=$1; shift; f p1 "$n" ip_proto udp dst_port "$n" action "$@"; }
u 1 $v4 id 1 geneve_opts 0102:80:00000005,ffff:00:aabbccdd,0103:02:0102030405060708090a0b0c tos 0x28 ttl 7 pipe $(to t1)
u 2 $v6 id 2 geneve_opts 0102:01:deadbeef nocsum pipe $(to t1)
u 3 $v4 id 7 vxlan_opts 0x101 dst_port 4789 pipe $(to t2)
u 4 $v4 id 8 nocsum tos 3 pipe $(to t2)
u 5 $v4 id 8 vxlan_opts 0x48ff01 pipe $(to t2)
u 6 $v4 id 100 erspan_opts 1:74565:0:0 pipe $(to t3)
u 7 $v4 id 1023 erspan_opts 2:0:1:37 tos 0x14 ttl 9 pipe $(to t3)
u 8 $v4 id 5 nocsum pipe $(to t4)
u 9 $v4 nocsum tos 1 ttl 33 pipe $(to t4)
u 10 $v4 id 1 pipe action mirred egress mirror dev t1 pipe action $v4 id 2 pipe action mirred egress mirror dev t2 pipe action tunnel_key unset pipe $two
u 11 $v6 id 9 vxlan_opts 0x1 tos 0x28 ttl 5 pipe $(to t2)
u 12 $v4 id 66 pipe $(to t2)
u 13 $v4 id 67 pipe $(to t2)
u 14 $v4 id 68 pipe $two
q() { d=$1; n=$2; shift 2; filter "$d" prio 80 proto 802.1q flower skip_hw vlan_ethtype ip "$@"; }
q p1 1 vlan_id 5 ip_proto udp dst_port 1 action $v4 id 1 geneve_opts 0102:81:00000009 tos 0x10 pipe $(to t1)
q p1 3 vlan_id 5 ip_proto udp dst_port 3 action vlan push id 7 protocol 802.1ad pipe action $v4 id 7 pipe $(to t2)
q p1 8 vlan_id 5 ip_proto udp dst_port 8 action vlan modify id 8 pipe action $v4 id 5 nocsum pipe $(to t4)
q t1 0 vlan_id 6 enc_key_id 9 action vlan pop pipe $one
f p1 90 dst_ip 10.0.0.9 action ct zone 5 pipe action goto chain 1
filter p1 chain 1 prio 1 proto ip flower skip_hw ct_state +trk+new action ct commit zone 5 pipe action $v4 id 9 pipe $(to t1)
filter p1 chain 1 prio 2 proto ip flower skip_hw ct_state +trk+est action $v4 id 9 geneve_opts 0102:81:00000009 pipe $(to t1)
tc filter add dev t2 egress prio 1 proto ip flower skip_hw enc_key_id 66 enc_dst_ip 192.168.7.2 action drop
serve far; knows h1 10.0.0.9 02:00:00:00:00:09
for t in 1 2 3 4; do frames far t$t <<'P'
[eth(ip('10.0.0.9', '10.0.0.%d' % (1 + n % 2), udp(1000, n, bytes(n)), tos=t, id=n), dst=1 + n % 2, src=9) for n in range(1, 10) for t in (0, 1, 2)]
[eth(vlan(6, ip('10.0.0.9', '10.0.0.1', udp(1000, 70, b'in a tag'), tos=2)), dst=1, src=9)]
P
done
frames h1 <<'P'
[eth(ip('10.0.0.1', '10.0.0.7', udp(1000, n, bytes(n)), tos=t, id=n), dst=7) for n in range(1, 15) for t in (0, 1, 3, 0xb8)]
[eth(vlan(5, ip('10.0.0.1', '10.0.0.7', udp(1000, n), tos=2))) for n in (1, 3, 8)]
P
together 'tcp h1 10.0.0.9 8' 'SPORT=41000 TOS=0,2 udp h1 10.0.0.9 8'; finish; expect software.decided=100
