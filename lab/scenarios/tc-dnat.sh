# The service 10.0.0.50:80 is h2:8000 in zone 3; replies go back through the same zone
. "$LAB/common.sh"; hosts; for p in p1 p2; do tc qdisc add dev $p clsact; done
record p1 p2
filter p1 chain 0 prio 9 proto arp flower skip_hw action mirred egress redirect dev p2
filter p2 chain 0 prio 9 proto arp flower skip_hw action mirred egress redirect dev p1
filter p1 chain 0 prio 1 proto ip flower skip_hw ip_proto tcp ip_flags nofrag dst_ip 10.0.0.50 dst_port 80 ct_state -trk action ct zone 3 nat pipe action goto chain 1
filter p1 chain 1 prio 1 proto ip flower skip_hw ip_proto tcp ct_state +trk+new action ct commit zone 3 nat dst addr 10.0.0.2 port 8000 pipe action goto chain 2
filter p1 chain 1 prio 1 proto ip flower skip_hw ip_proto tcp ct_state +trk+est action goto chain 2
filter p1 chain 2 prio 1 proto ip flower skip_hw ip_proto tcp dst_ip 10.0.0.2 dst_port 8000 action pedit ex munge eth dst set 02:00:00:00:00:02 pipe action mirred egress redirect dev p2
filter p2 chain 0 prio 1 proto ip flower skip_hw ip_proto tcp src_ip 10.0.0.2 ct_state -trk action ct zone 3 nat pipe action goto chain 1
filter p2 chain 1 prio 1 proto ip flower skip_hw ip_proto tcp ct_state +trk+est+rpl src_ip 10.0.0.50 action mirred egress redirect dev p1
filter p2 chain 1 prio 2 proto ip flower skip_hw ct_state +trk+inv action drop
on h1 ip neigh add 10.0.0.50 lladdr 02:00:00:00:00:02 dev eth0; on h2 ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0
serve h2
PORT=80 tcp h1 10.0.0.50 15 0.02 & A=$!; PORT=80 tcp h1 10.0.0.50 15 0.02 & B=$!; wait $A $B; finish; expect merged.installed=4 hardware.handled=70%
