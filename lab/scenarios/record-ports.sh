# Ports that are renamed, swapped, moved to another namespace and back, deleted and made anew, the recorder being told of it late
. "$LAB/common.sh"; hosts; ip netns add away
pair() { filter "$1" prio 1 proto all flower skip_hw action mirred egress redirect dev "$2"; }
name() { ip link set "$1" down; ip link set "$1" name "$2"; ip link set "$2" up; sleep 0.1; }
for p in p1 p2 p3; do tc qdisc add dev $p clsact; done
ip link add p0 type veth peer name p00; tc qdisc add dev p0 clsact; pair p0 p1
pair p1 p2; pair p2 p1; pair p3 p1
serve h2
record p1 p2 p3
tcp h1 10.0.0.2 3
echo "-- renamed: it is still the port"
name p2 q2; tcp h1 10.0.0.2 3
echo "-- two ports swap their names"
name p3 p2; name q2 p3; tcp h1 10.0.0.2 3
name p2 q2; name p3 p2; name q2 p3; tcp h1 10.0.0.2 3
echo "-- away and back"
ip link set p3 netns away; sleep 0.1; ip -n away link set p3 netns 1; ip link set p3 up; tc qdisc add dev p3 clsact; pair p3 p1; sleep 0.1
on h3 ping -c 1 -W 0.1 10.0.0.1 >/dev/null 2>&1 || true
echo "-- gone and back with traffic on both sides, all of it before the recorder hears of it"
kill -STOP $RECORDER
tcp h1 10.0.0.2 3
ip link del p2; port 2; tc qdisc add dev p2 clsact
tc filter del dev p1 ingress prio 1; pair p1 p2; pair p2 p1
on h1 ip neigh flush dev eth0; tcp h1 10.0.0.2 3
kill -CONT $RECORDER; sleep 0.3
echo "-- gone, and another device, with filters of its own, takes the name"
ip link del p3; sleep 0.1; name p0 p3; ip link set p00 up
on h2 ping -c 1 -W 0.1 10.0.0.1 >/dev/null 2>&1 || true
ping -c 1 -W 0.1 -I p00 10.0.0.9 >/dev/null 2>&1 || true
ip link del p3; sleep 0.1
finish
grep -q "p3 is gone" /run/record
expect merged.installed=8 hardware.handled=70%
