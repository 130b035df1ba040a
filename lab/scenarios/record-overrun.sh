# More notifications than the buffer holds: told, and what was missed is found by a new dump; the traffic behind it comes out as in the kernel
. "$LAB/common.sh"; hosts
for p in p1 p2; do tc qdisc add dev $p clsact; done
filter p1 prio 9 proto arp flower skip_hw action mirred egress redirect dev p2
filter p2 prio 9 proto all flower skip_hw action mirred egress redirect dev p1
filter p1 prio 5 proto ip handle 7 flower skip_hw ip_proto udp action drop
filter p1 prio 6 proto ip handle 1 flower skip_hw ip_proto tcp action drop
serve h2
record p1 p2 --netlink-buffer 8192
udp h1 10.0.0.2 2
kill -STOP "$RECORDER"
{
  for i in $(seq 1 200); do
    echo "filter add dev p1 ingress prio 1 proto ip flower skip_hw ip_proto udp dst_port $((9000 + i)) action drop"
  done
  echo "filter del dev p1 ingress prio 6"
  echo "filter replace dev p1 ingress prio 5 proto ip handle 7 flower skip_hw ip_proto udp action mirred egress redirect dev p2"
  echo "filter add dev p1 ingress prio 7 proto ip flower skip_hw ip_proto tcp action mirred egress redirect dev p2"
} | tc -batch -
kill -CONT "$RECORDER"; sleep 0.5
udp h1 10.0.0.2 5; tcp h1 10.0.0.2 5; PORT=9001 udp h1 10.0.0.2 2
finish 1; grep -q ENOBUFS /run/record
expect merged.installed=6 hardware.handled=70%
