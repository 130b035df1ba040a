# Connections changed under the traffic: marks set through ctnetlink, one deleted, one expired, tuples used again, a mark set back
. "$LAB/common.sh"; hosts; for p in p1 p2; do tc qdisc add dev $p clsact; done; neighbours
timeouts 1
record p1 p2 p3
at() { d=$1; c=$2; p=$3; shift 3; filter "$d" chain "$c" prio "$p" proto ip flower skip_hw "$@"; }
at p1 0 5 action ct zone 5 pipe action goto chain 1
at p1 1 1 ct_state +trk+est ct_mark 9 action mirred egress mirror dev p3 pipe action mirred egress redirect dev p2
at p1 1 2 ct_state +trk+est ct_mark 8/8 action drop
at p1 1 3 ct_state +trk+est action mirred egress redirect dev p2
at p1 1 6 ct_state +trk+new action ct commit zone 5 mark 1 pipe action mirred egress redirect dev p2
at p2 0 5 action ct zone 5 pipe action goto chain 1
at p2 1 1 ct_state +trk+est+rpl ct_mark 1/1 action mirred egress redirect dev p1
at p2 1 2 ct_state +trk+est ct_mark 4 action pedit ex munge ip tos set 0x10 pipe action csum ip4h pipe action mirred egress redirect dev p1
serve h2
SIZE=60 SPORT=41000 udp h1 10.0.0.2 32 0.06 & A=$!; SIZE=60 SPORT=40000 tcp h1 10.0.0.2 20 0.09 & B=$!
# As `conntrack -U --mark` does, but with the mark alone: the status of what is in the kernel's flow table cannot be set.
cat >/run/mark.py <<'P'
import socket, struct, sys
proto, sport, mark = {"tcp": 6, "udp": 17}[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])
attribute = lambda kind, *parts: struct.pack("=HH", 4 + len(b"".join(parts)), kind) + b"".join(parts) + bytes(-len(b"".join(parts)) % 4)
ip = attribute(0x8001, attribute(1, socket.inet_aton("10.0.0.1")), attribute(2, socket.inet_aton("10.0.0.2")))
ports = attribute(0x8002, attribute(1, bytes([proto])), attribute(2, struct.pack("!H", sport)), attribute(3, struct.pack("!H", 8000)))
body = bytes([2, 0, 0, 0]) + attribute(0x8001, ip, ports) + attribute(18, struct.pack("!H", 5)) + attribute(8, struct.pack("!I", mark))
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
link.send(struct.pack("=IHHII", 16 + len(body), 0x100, 5, 1, 0) + body)
sys.exit(-struct.unpack_from("=i", link.recv(4096), 16)[0])
P
mark() { for _ in 1 2 3 4 5 6 7 8; do "$python" /run/mark.py "$1" "$2" "$3" && break; sleep 0.1; done; sleep 0.2; }
sleep 0.3; mark udp 41000 9; mark tcp 40000 4; mark tcp 40000 3; mark udp 41000 12; mark udp 41000 1
# The kernel's flow table may hold it: then it cannot be deleted.
conntrack -D -p udp --orig-port-src 41000 -w 5 >/dev/null 2>&1 || true
wait $A $B; SPORT=41000 SIZE=60 udp h1 10.0.0.2 4; sleep 2.2; SPORT=41000 SIZE=60 udp h1 10.0.0.2 4; SPORT=40001 SIZE=60 tcp h1 10.0.0.2 3; finish
expect merged.installed=9 hardware.handled=65%
