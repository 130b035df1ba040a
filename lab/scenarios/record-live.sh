# Ctrl-C amid the traffic: the counters of the last dump are compared where it stands among the frames
# Real time: two programs that never rest, for which the clock of time travel would stand still
. "$LAB/common.sh"; hosts
for p in p1 p2; do tc qdisc add dev $p clsact; done
for p in p1 p2; do
  o=p2; [ $p = p1 ] || o=p1
  filter $p prio 1 proto arp flower skip_hw action mirred egress redirect dev $o
  filter $p prio 2 proto ip flower skip_hw ct_state -trk action ct zone 1 pipe action goto chain 1
  filter $p chain 1 prio 1 proto ip flower skip_hw ct_state +trk+new action ct commit zone 1 pipe action mirred egress redirect dev $o
  filter $p chain 1 prio 1 proto ip flower skip_hw ct_state +trk+est action mirred egress redirect dev $o
done
serve h2
tcp h1 10.0.0.2 4000 0 & A=$!; SPORT=41000 udp h1 10.0.0.2 4000 0 & B=$!; flowing p1 100
record p1 p2; flowing p1 500; finish; kill $A $B 2>/dev/null || true
expect merged.installed=4 hardware.handled=80%
