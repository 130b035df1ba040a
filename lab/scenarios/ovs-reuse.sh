# Connections that expire and whose tuple comes back: UDP through two zones, from both sides; TCP after a reset, after a close, after its time
. "$LAB/common.sh"; hosts; ovs; timeouts 1 nf_conntrack_tcp_timeout_{close,time_wait,last_ack}; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=50,ip,in_port=p1,actions=ct(table=1,zone=6)
table=0,priority=50,ip,in_port=p2,actions=ct(table=1,zone=7)
table=1,priority=50,ip,ct_state=+trk+new,in_port=p1,actions=ct(commit,zone=6,exec(load:0x61->NXM_NX_CT_MARK[])),ct(table=2,zone=7)
table=1,priority=50,ip,ct_state=+trk+est,in_port=p1,actions=ct(table=2,zone=7)
table=1,priority=50,ip,ct_state=+trk+new,in_port=p2,actions=ct(commit,zone=7,exec(load:0x72->NXM_NX_CT_MARK[])),ct(table=2,zone=6)
table=1,priority=50,ip,ct_state=+trk+est,in_port=p2,actions=ct(table=2,zone=6)
table=2,priority=50,ip,ct_state=+trk+new,in_port=p1,actions=ct(commit,zone=7,exec(load:0x71->NXM_NX_CT_MARK[])),output:p2
table=2,priority=50,ip,ct_state=+trk+est,in_port=p1,actions=output:p2
table=2,priority=50,ip,ct_state=+trk+new,in_port=p2,actions=ct(commit,zone=6,exec(load:0x62->NXM_NX_CT_MARK[])),output:p1
table=2,priority=50,ip,ct_state=+trk+est,in_port=p2,actions=output:p1
F
on h1 sysctl -qw net.ipv4.tcp_tw_reuse=1; serve h1 h2; export SIZE=60
for pause in 1.2 2.5 1.1; do together 'SPORT=41000 udp h1 10.0.0.2 5' 'SPORT=42000 udp h2 10.0.0.1 5'; sleep $pause; done
SPORT=41000 udp h1 10.0.0.2 3 1.1; SPORT=41000 udp h1 10.0.0.2 5 0.3
for reset in 1 1 '' ''; do RST=${reset:-0} SPORT=43000 tcp h1 10.0.0.2 5; [ "$reset" ] || sleep 1.3; done
finish; expect merged.installed=18 hardware.handled=50%
