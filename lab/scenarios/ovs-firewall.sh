# Open vSwitch: h1 may open connections to h2, nothing comes back but replies (zone 5, mark set at commit)
. "$LAB/common.sh"; hosts; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=50,ip,actions=ct(table=1,zone=5)
table=1,priority=50,ip,ct_state=+trk+new,in_port=p1,actions=ct(commit,zone=5,exec(load:0x1->NXM_NX_CT_MARK[])),output:p2
table=1,priority=50,ip,ct_state=+trk+est,in_port=p1,actions=output:p2
table=1,priority=50,ip,ct_state=+trk+est,in_port=p2,actions=output:p1
table=1,priority=10,ip,ct_state=+trk+inv,actions=drop
table=1,priority=0,actions=drop
F
serve h1 h2
together 'tcp h1 10.0.0.2 20 0.02' 'udp h1 10.0.0.2 20 0.02' 'on h1 ping -q -i 0.05 -c 9 10.0.0.2' 'WAIT=0.5 tcp h2 10.0.0.1 1' 'udp h2 10.0.0.1 4'
tcp h1 10.0.0.2 5; finish; expect merged.installed=6 hardware.handled=55%
