# shellcheck shell=sh
# Sourced by every scenario. lab/run sets LAB (this folder), FLOWMERGE (the binary) and OUT (the trace to write).
# Hosts h1 h2 h3 (namespaces; eth0 is 10.0.0.N, MAC 02:00:00:00:00:0N) hang on the ports p1 p2 p3.

# No segments to be cut, no checksums to be filled in, no tags to be put in by a device: frames are recorded as they are.
plain() { $1 ethtool -K "$2" tx off rx off tso off gso off gro off sg off txvlan off rxvlan off >/dev/null 2>&1 || true; }
port() { # port N : host N and its port
  ip link add "p$1" address "02:aa:00:00:00:0$1" type veth peer name eth0 netns "h$1" address "02:00:00:00:00:0$1"
  sysctl -qw "net.ipv6.conf.p$1.disable_ipv6=1" 2>/dev/null || true
  ip link set "p$1" up
  plain "" "p$1"; plain "ip netns exec h$1" eth0
  ip -n "h$1" addr add "10.0.0.$1/24" dev eth0; ip -n "h$1" link set eth0 up
}
hosts() {
  for i in 1 2 3; do
    ip netns add "h$i"; ip -n "h$i" link set lo up
    ip netns exec "h$i" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 2>/dev/null || true
    port "$i"
  done
}
on() { h=$1; shift; ip netns exec "$h" "$@"; }
filter() { d=$1; shift; tc filter add dev "$d" ingress "$@"; }
# Where h1, h2 and h3 are is known without asking.
neighbours() { for a in 1 2 3; do for b in 1 2 3; do [ $a = $b ] || ip -n "h$a" neigh replace "10.0.0.$b" lladdr "02:00:00:00:00:0$b" dev eth0; done; done; }

# record PORT... [OPTION...] : begins to record; finish : ends it as Ctrl-C would. 1 means that something was lost on the way.
record() {
  "$FLOWMERGE" record "$@" -o "$OUT" 2>/run/record & RECORDER=$!
  until grep -q 'Ctrl-C' /run/record; do kill -0 "$RECORDER" || { cat /run/record; exit 2; }; sleep 0.02; done
}
finish() {
  sleep 0.2; kill -INT "$RECORDER"
  status=0; wait "$RECORDER" || status=$?
  cat /run/record
  [ $status = "${1:-0}" ] || { echo "record ended with $status, expected ${1:-0}"; exit 1; }
  if ip -o link | grep -q flowmerge; then echo "the nlmon device is still there"; exit 1; fi
}

# The system's, if it is there: another in front of it in PATH may be a script that starts dozens of processes, each 30 ms.
python=/usr/bin/python3; [ -x $python ] || python=python3
# Echo on TCP and UDP port 8000 of a host; a number of exchanges with it, some seconds apart. SIZE, PORT and SPORT may be set, and
# TOS and TTL, numbers with commas between that the exchanges take in turn.
serve() { on "$1" $python "$LAB/traffic.py" serve & until on "$1" sh -c 'cat /proc/net/udp /proc/net/udp6' | grep -q ':1F40 '; do sleep 0.02; done; }
tcp() { on "$1" $python "$LAB/traffic.py" tcp "$2" "$3" "${4:-0.01}"; }
udp() { on "$1" $python "$LAB/traffic.py" udp "$2" "$3" "${4:-0.01}"; }

# Waits until N more packets have come in on a port.
flowing() { until [ "$(cat "/sys/class/net/$1/statistics/rx_packets")" -ge "${seen:=$(($(cat "/sys/class/net/$1/statistics/rx_packets") + $2))}" ]; do sleep 0.02; done; unset seen; }

# Open vSwitch with its flows in TC, none in hardware; bridge br0 over p1 p2 p3. `ofctl add-flows -` puts in OpenFlow.
ovs() {
  export OVS_RUNDIR=/run/ovs OVS_LOGDIR=/run/ovs OVS_DBDIR=/run/ovs OVS_SYSCONFDIR=/run/ovs
  mkdir -p /run/ovs
  ovsdb-tool create /run/ovs/conf.db /usr/share/openvswitch/vswitch.ovsschema
  ovsdb-server /run/ovs/conf.db --remote=punix:/run/ovs/db.sock --pidfile=/run/ovs/db.pid --log-file=/run/ovs/db.log --detach \
    --no-chdir >/dev/null 2>&1
  vs --no-wait init
  vs --no-wait set Open_vSwitch . other_config:hw-offload=true other_config:tc-policy=skip_hw other_config:max-idle=30000 \
    other_config:n-handler-threads=1 other_config:n-revalidator-threads=1
  # Open vSwitch 3.1 counts no core at all when started in the first ten seconds, and then handles no packet.
  while [ "$(cut -d. -f1 /proc/uptime)" -lt 10 ]; do sleep 0.2; done
  ovs-vswitchd unix:/run/ovs/db.sock --pidfile=/run/ovs/vswitchd.pid --log-file=/run/ovs/vswitchd.log -vconsole:off -vsyslog:off \
    --detach --no-chdir >/dev/null 2>&1
  until vs --timeout=1 show >/dev/null 2>&1; do sleep 0.1; done
  vs add-br br0 -- add-port br0 p1 -- add-port br0 p2 -- add-port br0 p3 -- set-fail-mode br0 secure
  until ofctl dump-flows >/dev/null 2>&1; do sleep 0.1; done
}
vs() { ovs-vsctl --db=unix:/run/ovs/db.sock "$@"; }
ofctl() { command=$1; shift; ovs-ofctl -O OpenFlow13 "$command" unix:/run/ovs/br0.mgmt "$@"; }
