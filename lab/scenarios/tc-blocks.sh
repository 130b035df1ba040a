# One block of filters at p1 and p2, at p3 from amid the traffic on and not to the end; a filter of it deleted and another put in
. "$LAB/common.sh"; hosts; for p in p1 p2; do tc qdisc add dev $p ingress_block 9 clsact; done; neighbours; record p1 p2 p3
b() { c=$1; p=$2; h=$3; shift 3; tc filter add block 9 chain "$c" prio "$p" proto ip handle "$h" flower skip_hw "$@"; }
b 0 1 1 dst_ip 10.0.0.0/24 action ct zone 5 pipe action goto chain 1
b 1 1 1 ct_state +trk+new action ct commit zone 5 mark 1 pipe action goto chain 2
b 1 2 1 ct_state +trk+est ct_mark 1 ip_tos 0/0x20 action goto chain 2
b 1 2 2 ct_state +trk+est ct_mark 1 action pedit ex munge ip tos set 0 pipe action csum ip4h pipe action goto chain 2
b 2 3 4 dst_ip 10.0.0.1 action mirred egress redirect dev p1
b 2 3 2 dst_ip 10.0.0.2 action mirred egress redirect dev p2
b 2 3 1 dst_ip 10.0.0.2/31 ip_proto udp action mirred egress mirror dev p1 pipe action mirred egress redirect dev p3
b 2 3 3 dst_ip 10.0.0.3 action mirred egress redirect dev p3
serve h2; serve h3
SIZE=60 TOS=0,32 tcp h1 10.0.0.2 12 0.09 & A=$!; SIZE=60 SPORT=41000 TOS=0,32,4 udp h1 10.0.0.2 12 0.09 & B=$!
sleep 0.2; tc qdisc add dev p3 ingress_block 9 clsact; SIZE=60 SPORT=41001 udp h1 10.0.0.3 8; SIZE=60 TOS=32,0 tcp h3 10.0.0.2 6
tc filter del block 9 chain 1 prio 2 proto ip handle 2 flower; sleep 0.2; b 1 2 2 ct_state +trk+est ct_mark 1 ip_ttl 64 action goto chain 2
SIZE=60 tcp h3 10.0.0.2 6; tc qdisc del dev p3 clsact; wait $A $B; finish; expect merged.installed=10 hardware.handled=60%
