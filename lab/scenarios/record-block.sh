# A shared block on p1 and p3, bound and filled before the recording, changed in it, p3 leaving it; traffic runs from before the first to after the last dump
. "$LAB/common.sh"; hosts
tc qdisc add dev p1 ingress_block 7 clsact; tc qdisc add dev p3 ingress_block 7 clsact; tc qdisc add dev p2 clsact
block() { c=$1; shift; tc filter "$c" block 7 "$@"; }
block add chain 0 prio 1 proto arp flower skip_hw action mirred egress redirect dev p2
block add chain 0 prio 2 proto ip flower skip_hw ct_state -trk action ct zone 5 pipe action goto chain 1
block add chain 1 prio 1 proto ip flower skip_hw ct_state +trk+new action ct commit zone 5 pipe action mirred egress redirect dev p2
block add chain 1 prio 2 proto ip handle 1 flower skip_hw ct_state +trk+est action mirred egress redirect dev p2
filter p2 prio 1 proto arp flower skip_hw dst_mac 02:00:00:00:00:01 action mirred egress redirect dev p1
filter p2 prio 1 proto arp flower skip_hw dst_mac 02:00:00:00:00:03 action mirred egress redirect dev p3
filter p2 prio 2 proto ip flower skip_hw ct_state -trk action ct zone 5 pipe action goto chain 1
filter p2 chain 1 prio 1 proto ip flower skip_hw ct_state +trk+est dst_ip 10.0.0.1 action mirred egress redirect dev p1
filter p2 chain 1 prio 1 proto ip flower skip_hw ct_state +trk+est dst_ip 10.0.0.3 action mirred egress redirect dev p3
serve h2
SPORT=41001 udp h1 10.0.0.2 200 0.02 & A=$!; SPORT=41003 udp h3 10.0.0.2 200 0.02 & B=$!; flowing p1 10; flowing p3 10
record p1 p2 p3
flowing p3 10
block replace chain 1 prio 2 proto ip handle 1 flower skip_hw ct_state +trk+est action pedit ex munge ip tos set 0x10 pipe action csum ip pipe action mirred egress redirect dev p2
flowing p3 10; block add chain 1 prio 3 proto all flower skip_hw ip_flags frag action drop 2>/dev/null || true
flowing p3 10; tc qdisc del dev p3 clsact; tcp h1 10.0.0.2 5
finish; kill $A $B 2>/dev/null || true
expect merged.installed=8 hardware.handled=75%
