# Tags that the kernel takes off on arrival and puts on by an action are in the trace: h1 in VLAN 10, h2 without, h3 in VLAN 20 in 802.1ad
. "$LAB/common.sh"; hosts
on h1 ip link add link eth0 name v type vlan id 10; on h1 ip link set v up
on h1 ip addr del 10.0.0.1/24 dev eth0; on h1 ip addr add 10.0.0.1/24 dev v
on h3 ip link add link eth0 name s type vlan proto 802.1ad id 20; on h3 ip link set s up
on h3 ip addr del 10.0.0.3/24 dev eth0; on h3 ip addr add 10.0.0.3/24 dev s
for p in p1 p2 p3; do tc qdisc add dev $p clsact; done
record p1 p2 p3
filter p1 prio 1 proto 802.1q flower skip_hw vlan_id 10 vlan_ethtype arp action vlan pop pipe action mirred egress redirect dev p2
filter p1 prio 2 proto 802.1q flower skip_hw vlan_id 10 vlan_ethtype ip dst_ip 10.0.0.2 action vlan pop pipe action mirred egress redirect dev p2
filter p1 prio 3 proto 802.1q flower skip_hw vlan_id 10 vlan_ethtype ip dst_ip 10.0.0.3 action vlan pop pipe action vlan push protocol 802.1ad id 20 priority 3 pipe action mirred egress redirect dev p3
filter p2 prio 1 proto all flower skip_hw action vlan push id 10 pipe action mirred egress redirect dev p1
filter p3 prio 1 proto 802.1ad flower skip_hw vlan_id 20 action vlan pop pipe action vlan push id 10 pipe action mirred egress redirect dev p1
on h1 ip neigh add 10.0.0.3 lladdr 02:00:00:00:00:03 dev v; on h3 ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev s
serve h2; serve h3
tcp h1 10.0.0.2 10 & A=$!; tcp h1 10.0.0.3 10 & B=$!; wait $A $B; udp h1 10.0.0.3 5; finish; expect merged.installed=5 hardware.handled=75%
