# Destination NAT: the service 10.0.0.50 is h2:8000; for h1 through zone 3, TCP marked; for h3 through zones 4 and 5
. "$LAB/common.sh"; hosts; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=60,ip,in_port=p1,nw_dst=10.0.0.50,actions=ct(table=1,zone=3,nat)
table=0,priority=60,ip,in_port=p2,nw_dst=10.0.0.1,actions=ct(table=2,zone=3,nat)
table=0,priority=60,ip,in_port=p3,nw_dst=10.0.0.50,actions=ct(table=3,zone=4)
table=0,priority=60,ip,in_port=p2,nw_dst=10.0.0.3,actions=ct(table=5,zone=5,nat)
table=1,priority=60,tcp,tp_dst=80,ct_state=+trk+new,actions=ct(commit,zone=3,nat(dst=10.0.0.2:8000),exec(load:0x50->NXM_NX_CT_MARK[])),resubmit(,7)
table=1,priority=60,udp,tp_dst=53,ct_state=+trk+new,actions=ct(commit,zone=3,nat(dst=10.0.0.2:8000)),resubmit(,7)
table=1,priority=50,tcp,ct_state=+trk+est-rpl,ct_mark=0x50,actions=resubmit(,7)
table=1,priority=50,udp,ct_state=+trk+est-rpl,ct_mark=0,actions=resubmit(,7)
table=2,priority=50,ip,ct_state=+trk+est+rpl,nw_src=10.0.0.50,actions=output:p1
table=3,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=4),ct(table=4,zone=5,nat)
table=3,priority=50,ip,ct_state=+trk+est,actions=ct(table=4,zone=5,nat)
table=4,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=5,nat(dst=10.0.0.2:8000)),resubmit(,7)
table=4,priority=50,ip,ct_state=+trk+est,actions=resubmit(,7)
table=5,priority=50,ip,ct_state=+trk+est+rpl,nw_src=10.0.0.50,actions=ct(table=6,zone=4)
table=6,priority=50,ip,ct_state=+trk+est+rpl,actions=output:p3
table=7,priority=50,ip,actions=mod_dl_dst:02:00:00:00:00:02,output:p2
F
for h in h1 h3; do knows $h 10.0.0.50 02:00:00:00:00:50; done; serve h2
together 'PORT=80 tcp h1 10.0.0.50 12' 'PORT=53 udp h1 10.0.0.50 12' 'PORT=80 tcp h3 10.0.0.50 12' 'PORT=53 udp h3 10.0.0.50 12'
together 'PORT=80 RST=1 tcp h1 10.0.0.50 6' 'PORT=80 tcp h3 10.0.0.50 6' 'PORT=81 WAIT=0.3 tcp h1 10.0.0.50 1'; finish
expect merged.installed=12 hardware.handled=60%
