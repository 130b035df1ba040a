# shellcheck shell=bash
# The words of a scenario (README.md has them as a table). lab/run sets LAB (this folder), HERE (the scenario's), FLOWMERGE (the
# binary) and OUT (the trace to write). A process costs 20 to 40 ms here, so what can be one is one.

# Where it failed: the line of the scenario (or of a file of its own), not of this one.
set -E
trap 'failed $?' ERR
failed() {
  local status=$1 i=1 file line
  while [ "${BASH_SOURCE[i]:-}" = "${BASH_SOURCE[0]}" ]; do i=$((i + 1)); done
  file=${BASH_SOURCE[i]:-$0} line=${BASH_LINENO[i - 1]}
  printf '%s, line %s: ended with status %s: %s\n' "$file" "$line" "$status" "$(sed -n "${line}p" "$file")" >&2
}

# ---- hosts and ports ----

# hosts : h1 h2 h3 (namespaces; eth0 is 10.0.0.N, MAC 02:00:00:00:00:0N) hang on the ports p1 p2 p3.
hosts() { printf 'netns add h%s\n' 1 2 3 | ip -batch -; port 1 2 3; }
# port N... : the cable of host N, its port and its address
port() {
  local n
  for n; do
    printf 'link add p%s address 02:aa:00:00:00:0%s type veth peer name eth0 netns h%s address 02:00:00:00:00:0%s\nlink set p%s up\n' "$n" "$n" "$n" "$n" "$n"
  done | ip -batch -
  for n; do
    plain "p$n"; plain eth0 on "h$n"
    printf 'addr add 10.0.0.%s/24 dev eth0\nlink set lo up\nlink set eth0 up\n' "$n" | ip -n "h$n" -batch -
  done
}
# No segments to be cut, no checksums to be filled in, no tags to be put in by a device: frames are recorded as they are.
plain() { "${@:2}" ethtool -K "$1" tx off rx off tso off gso off gro off sg off txvlan off rxvlan off >/dev/null 2>&1 || true; }
# hosts6 : they have fd00::N, too
hosts6() {
  local n
  for n in 1 2 3; do
    on "h$n" sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_dad=0
    ip -n "h$n" addr add "fd00::$n/64" dev eth0 nodad
  done
}
# underlay : far (a namespace) at the other end of the cable u1, 192.168.7.1 here and .2 there, fd07::1 and fd07::2; long enough
# for a tunnel's headers. Nobody has to ask for the other's MAC.
underlay() {
  printf 'netns add far\nlink add u1 address 02:bb:00:00:00:01 mtu 1600 type veth peer name u0 netns far address 02:bb:00:00:00:02 mtu 1600\n' | ip -batch -
  plain u1; plain u0 on far
  sysctl -qw net.ipv6.conf.u1.{disable_ipv6,accept_dad,router_solicitations}=0
  on far sysctl -qw net.ipv6.conf.u0.{disable_ipv6,accept_dad,router_solicitations}=0
  ends 1 2 u1 | ip -batch -; ends 2 1 u0 | ip -n far -batch -
}
ends() {
  printf 'addr add 192.168.7.%s/24 dev %s\naddr add fd07::%s/64 dev %s nodad\nlink set %s up\nlink set lo up\n' "$1" "$3" "$1" "$3" "$3"
  printf 'neigh replace %s lladdr 02:bb:00:00:00:0%s dev %s\n' "192.168.7.$2" "$2" "$3" "fd07::$2" "$2" "$3"
}
# tunnel NAME TYPE... : a tunnel's end here; behind NAME, the same on far, with 10.0.0.9, MAC 02:00:00:00:00:09
tunnel() {
  printf 'link add %s type %s\n' "$1" "${*:2}" | ip -batch -; sysctl -qw "net.ipv6.conf.$1.disable_ipv6=1"; plain "$1"; ip link set "$1" mtu 1450 up
}
behind() {
  printf 'link add %s address 02:00:00:00:00:09 type %s\nlink set %s mtu 1450 up\naddr add 10.0.0.9/24 dev %s\nneigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev %s\n' \
    "$1" "${*:2}" "$1" "$1" "$1" | ip -n far -batch -
  plain "$1" on far; knows h1 10.0.0.9 02:00:00:00:00:09
}
# tagged HOST ID [PROTOCOL] : the host's address is on a device v in that VLAN
tagged() {
  printf 'link add link eth0 name v type vlan proto %s id %s egress-qos-map 0:5\naddr del 10.0.0.%s/24 dev eth0\naddr add 10.0.0.%s/24 dev v\nlink set v up\n' \
    "${3:-802.1q}" "$2" "${1#h}" "${1#h}" | ip -n "$1" -batch -
}
# knows HOST ADDRESS MAC [DEVICE] : without asking; neighbours : all of each other
knows() { ip -n "$1" neigh replace "$2" lladdr "$3" dev "${4:-eth0}"; }
neighbours() {
  local a b
  for a in 1 2 3; do
    for b in 1 2 3; do [ $a = $b ] || echo "neigh replace 10.0.0.$b lladdr 02:00:00:00:00:0$b dev eth0"; done | ip -n "h$a" -batch -
  done
}
# on HOST COMMAND... ; not `ip netns exec`, which mounts a /sys first
on() { nsenter --net="/run/netns/$1" -- "${@:2}"; }
# timeouts N [NAME]... : in seconds, of UDP, of the kernel's flow table, and of more in net.netfilter
timeouts() {
  local name all=()
  for name in nf_conntrack_udp_timeout nf_conntrack_udp_timeout_stream nf_flowtable_udp_timeout nf_flowtable_tcp_timeout "${@:2}"; do
    all+=("net.netfilter.$name=$1")
  done
  sysctl -qw "${all[@]}"
}

# ---- TC and Open vSwitch ----

# filter PORT ... : at its ingress
filter() { tc filter add dev "$1" ingress "${@:2}"; }
# ovs [KEY=VALUE]... : Open vSwitch with its flows in TC, none in hardware; bridge br0 over p1 p2 p3; keys of its other_config
ovs() {
  export OVS_RUNDIR=/run/ovs OVS_LOGDIR=/run/ovs OVS_DBDIR=/run/ovs OVS_SYSCONFDIR=/run/ovs
  mkdir -p /run/ovs
  ovsdb-tool create /run/ovs/conf.db /usr/share/openvswitch/vswitch.ovsschema
  ovsdb-server /run/ovs/conf.db --remote=punix:/run/ovs/db.sock --pidfile=/run/ovs/db.pid --log-file=/run/ovs/db.log --detach \
    --no-chdir >/dev/null 2>&1
  local up
  vs --no-wait init -- set Open_vSwitch . other_config:{hw-offload=true,tc-policy=skip_hw,max-idle=30000} \
    other_config:n-{handler,revalidator}-threads=1 "${@/#/other_config:}"
  # Open vSwitch 3.1 counts no core at all when started in the first ten seconds, and then handles no packet.
  read -r up _ </proc/uptime
  [ "${up%.*}" -ge 10 ] || sleep $((10 - ${up%.*}))
  ovs-vswitchd unix:/run/ovs/db.sock --pidfile=/run/ovs/vswitchd.pid --log-file=/run/ovs/vswitchd.log -vconsole:off -vsyslog:off \
    --detach --no-chdir >/dev/null 2>&1
  vs add-br br0 -- add-port br0 p1 -- add-port br0 p2 -- add-port br0 p3 -- set-fail-mode br0 secure
}
vs() { ovs-vsctl --db=unix:/run/ovs/db.sock "$@"; }
# ofctl COMMAND ... : OpenFlow to br0; flows : what comes in
ofctl() { ovs-ofctl -O OpenFlow13 "$1" unix:/run/ovs/br0.mgmt "${@:2}"; }
flows() { ofctl add-flows -; }

# ---- the recording ----

# record PORT... [OPTION...] : begins to record; finish : ends it as Ctrl-C would. 1 means that something was lost on the way.
record() {
  : >/run/record
  "$FLOWMERGE" record "$@" -o "$OUT" 2>/run/record & RECORDER=$!
  until grep -q 'Ctrl-C' /run/record; do kill -0 "$RECORDER" 2>/dev/null || { cat /run/record; return 2; }; sleep 0.02; done
}
finish() {
  sleep 0.2; kill -INT "$RECORDER"
  local status=0
  wait "$RECORDER" || status=$?
  cat /run/record
  [ $status = "${1:-0}" ] || { echo "record ended with $status, expected ${1:-0}"; return 1; }
  if ip -o link | grep -q flowmerge; then echo "the nlmon device is still there"; return 1; fi
}
# expect NAME=N... : what the replay must come to at least (`flowmerge replay --help`, --at-least)
expect() { printf '%s\n' "$@" >>"$OUT.expect"; }

# ---- traffic ----

# The system's, if it is there: another in front of it in PATH may be a script that starts dozens of processes.
python=/usr/bin/python3; [ -x $python ] || python=python3
traffic() { on "$1" "$python" -IS "$LAB/traffic.py" "${@:2}"; }
# serve HOST... : echo on TCP and UDP port 8000
serve() { local h; for h; do traffic "$h" serve; done; }
# tcp HOST ADDRESS N [SECONDS] : N exchanges with it, some seconds apart; udp : the same. traffic.py tells what may be set
tcp() { traffic "$1" tcp "$2" "$3" "${4:-0.01}"; }
udp() { traffic "$1" udp "$2" "$3" "${4:-0.01}"; }
# frames HOST [DEVICE] : sends those of standard input; frames.py tells how they are written
frames() { on "$1" "$python" -IS "$LAB/frames.py" "${2:-eth0}"; }
# together 'COMMAND'... : at once
together() {
  local command running=()
  for command; do eval "$command" & running+=($!); done
  for command in "${running[@]}"; do wait "$command"; done
}
# flowing PORT N : waits until N more packets have come in
flowing() {
  local wanted
  wanted=$(($(<"/sys/class/net/$1/statistics/rx_packets") + $2))
  until [ "$(<"/sys/class/net/$1/statistics/rx_packets")" -ge $wanted ]; do sleep 0.02; done
}
