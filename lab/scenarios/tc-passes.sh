# Five zones in one walk: ct clear between them, one zone twice, marks set bit by bit, labels on established connections
. "$LAB/common.sh"; hosts; for p in p1 p2; do tc qdisc add dev $p clsact; done; neighbours; record p1 p2
ip -n h1 neigh replace 10.0.0.40 lladdr 02:00:00:00:00:02 dev eth0
at() { c=$1; p=$2; shift 2; filter p1 chain "$c" prio "$p" proto ip flower skip_hw "$@"; }
four=00000000000000000000000000000004 eight=00000000000000000000000000000008
at 0 1 dst_ip 10.0.0.40 action ct zone 11 nat pipe action goto chain 1
at 1 1 ct_state +trk+new action ct commit zone 11 mark 1/1 nat dst addr 10.0.0.2 pipe action ct zone 12 pipe action goto chain 2
at 1 2 ct_state +trk+est ct_mark 1/3 action ct commit zone 11 mark 2/2 pipe action ct zone 12 pipe action goto chain 2
at 1 2 ct_state +trk+est ct_mark 3/3 action ct zone 12 pipe action goto chain 2
at 2 1 ct_state +trk+new action ct commit zone 12 label $four/$four pipe action ct clear pipe action goto chain 3
at 2 2 ct_state +trk+est ct_label $eight/$eight action ct clear pipe action goto chain 3
at 2 3 ct_state +trk+est ct_label $four/$four action ct commit zone 12 label $eight/$eight pipe action ct clear pipe action goto chain 3
at 3 1 ct_state -trk action pedit ex munge ip ttl add 255 pipe action csum ip4h pipe action ct zone 13 pipe action goto chain 4
at 4 1 ct_state +trk+new ct_mark 0 action ct commit zone 13 mark 9 pipe action ct zone 15 pipe action goto chain 5
at 4 2 ct_state +trk+est ct_mark 9 action ct zone 13 pipe action ct zone 14 pipe action ct zone 15 pipe action goto chain 5
at 5 1 ct_zone 15 ct_state +trk+new action ct commit zone 15 pipe action ct zone 14 pipe action ct commit zone 14 pipe action mirred egress redirect dev p2
at 5 2 ct_zone 15 ct_state +trk+est action mirred egress redirect dev p2
filter p2 chain 0 prio 1 proto ip flower skip_hw action ct zone 15 pipe action ct zone 14 pipe action ct zone 13 pipe action ct zone 12 pipe action ct zone 11 nat pipe action goto chain 1
filter p2 chain 1 prio 1 proto ip flower skip_hw ct_state +trk+rpl+est src_ip 10.0.0.40 ct_mark 1/1 action mirred egress redirect dev p1
serve h2
tcp h1 10.0.0.40 8 & A=$!; SPORT=41000 udp h1 10.0.0.40 11; SPORT=41001 TTL=64,60,2 udp h1 10.0.0.40 11; wait $A; finish; expect merged.installed=8 hardware.handled=60%
