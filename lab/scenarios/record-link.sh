# A port goes down and comes up, another is deleted and comes back under its name with another index, while the recording runs
. "$LAB/common.sh"; hosts
pair() { filter "$1" prio 1 proto all flower skip_hw action mirred egress redirect dev "$2"; }
for p in p1 p2 p3; do tc qdisc add dev $p clsact; done
pair p1 p2; pair p2 p1
serve h2
record p1 p2 p3
tcp h1 10.0.0.2 5
ip link set p2 down; SPORT=41000 udp h1 10.0.0.2 2; ip link set p2 up; sleep 0.1
tcp h1 10.0.0.2 5
ip link del p2; sleep 0.1; port 2; tc qdisc add dev p2 clsact
tc filter del dev p1 ingress prio 1; pair p1 p2; pair p2 p1
on h1 ip neigh flush dev eth0; tcp h1 10.0.0.2 5; finish; expect merged.installed=6 hardware.handled=75%
