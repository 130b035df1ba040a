# Source NAT: h1 reaches h2 as 10.0.0.101 through one zone, h3 as 10.0.0.103 through two (6 filters, 7 translates, ports 20000 to 20015)
. "$LAB/common.sh"; hosts; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=60,ip,in_port=p1,actions=ct(table=1,zone=5,nat)
table=0,priority=60,ip,in_port=p2,nw_dst=10.0.0.101,actions=ct(table=2,zone=5,nat)
table=0,priority=60,ip,in_port=p3,actions=ct(table=10,zone=6)
table=0,priority=60,ip,in_port=p2,nw_dst=10.0.0.103,actions=ct(table=20,zone=7,nat)
table=1,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=5,nat(src=10.0.0.101)),output:p2
table=1,priority=50,ip,ct_state=+trk+est,actions=output:p2
table=2,priority=50,ip,ct_state=+trk+est+rpl,actions=output:p1
table=10,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=6),ct(table=11,zone=7,nat)
table=10,priority=50,ip,ct_state=+trk+est,actions=ct(table=11,zone=7,nat)
table=11,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=7,nat(src=10.0.0.103:20000-20015)),output:p2
table=11,priority=50,ip,ct_state=+trk+est,actions=output:p2
table=20,priority=50,ip,ct_state=+trk+est,actions=ct(table=21,zone=6)
table=21,priority=50,ip,ct_state=+trk+est,actions=output:p3
F
knows h2 10.0.0.101 02:00:00:00:00:01; knows h2 10.0.0.103 02:00:00:00:00:03; serve h2
together 'tcp h1 10.0.0.2 12' 'udp h1 10.0.0.2 12' 'tcp h3 10.0.0.2 12' 'udp h3 10.0.0.2 12' 'on h3 ping -q -i 0.05 -c 5 10.0.0.2'
together 'tcp h1 10.0.0.2 6' 'MANY=3 tcp h3 10.0.0.2 6'; finish; expect merged.installed=16 hardware.handled=60%
