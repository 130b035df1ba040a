# IPv6: destination NAT in zone 1, source NAT in zone 2, two hosts behind one address, an address rewritten in front of ct
. "$LAB/common.sh"; hosts; for p in p1 p2 p3; do tc qdisc add dev $p clsact; done
for a in 1 2 3; do
  on h$a sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_dad=0; ip -n h$a addr add fd00::$a/64 dev eth0 nodad
done
for a in 1 3; do ip -n h$a route add fd00:9::/64 dev eth0; ip -n h$a neigh replace fd00:9::50 lladdr 02:00:00:00:00:50 dev eth0; done
ip -n h2 route add fd00:8::/64 dev eth0; ip -n h2 neigh replace fd00:8::77 lladdr 02:00:00:00:00:77 dev eth0
record p1 p2 p3
at() { d=$1; c=$2; p=$3; shift 3; filter "$d" chain "$c" prio "$p" proto ipv6 flower skip_hw "$@"; }
at p1 0 2 dst_ip fd00:9::/64 action pedit ex munge ip6 dst set fd00:9::60 pipe action csum tcp and udp pipe action ct zone 1 nat pipe action goto chain 1
at p3 0 2 dst_ip fd00:9::/64 action ct zone 1 nat pipe action goto chain 1
for side in p1 p3; do
  at $side 1 1 ct_state +trk+new dst_ip fd00:9::60 action ct commit zone 1 nat dst addr fd00::2 pipe action ct zone 2 nat pipe action goto chain 2
  at $side 1 1 ct_state +trk+new dst_ip fd00:9::50 action ct commit zone 1 mark 7 nat dst addr fd00::2 port 8000 pipe action ct zone 2 nat pipe action goto chain 2
  at $side 1 2 ct_state +trk+est action ct zone 2 nat pipe action goto chain 2
  at $side 2 1 ct_state +trk+new action ct commit zone 2 nat src addr fd00:8::77 pipe action goto chain 3
  at $side 2 1 ct_state +trk+est action goto chain 3
  at $side 3 1 action pedit ex munge eth dst set 02:00:00:00:00:02 pipe action mirred egress redirect dev p2
done
at p2 0 1 dst_ip fd00:8::77 action ct zone 2 nat pipe action ct zone 1 nat pipe action goto chain 1
at p2 1 1 ct_state +trk+est+rpl ct_mark 7 dst_ip fd00::3 action pedit ex munge eth src set 02:00:00:00:00:50 munge eth dst set 02:00:00:00:00:03 pipe action mirred egress redirect dev p3
at p2 1 2 ct_state +trk+est+rpl dst_ip fd00::1 action pedit ex munge eth src set 02:00:00:00:00:50 munge eth dst set 02:00:00:00:00:01 munge ip6 src set fd00:9::50 pipe action csum tcp and udp pipe action mirred egress redirect dev p1
at p2 1 3 action drop
serve h2; export SPORT=40000 SIZE=60
tcp h1 fd00:9::50 8 & A=$!; PORT=53 tcp h3 fd00:9::50 8 & B=$!; udp h1 fd00:9::50 8 & C=$!; PORT=53 TOS=3,1 udp h3 fd00:9::50 8; wait $A $B $C; finish
expect merged.installed=8 hardware.handled=60%
