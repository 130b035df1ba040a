# Both: destination NAT in zone 1, then source NAT to random ports in zone 2; port 54 is h1 itself, back out of the port it came from
. "$LAB/common.sh"; hosts; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=60,ip,nw_dst=10.0.0.50,actions=ct(table=1,zone=1,nat)
table=0,priority=60,ip,nw_dst=10.0.0.60,actions=ct(table=3,zone=2,nat)
table=1,priority=60,udp,tp_dst=54,ct_state=+trk+new,actions=ct(commit,zone=1,nat(dst=10.0.0.1:8000)),ct(table=2,zone=2,nat)
table=1,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=1,nat(dst=10.0.0.2:8000)),ct(table=2,zone=2,nat)
table=1,priority=50,ip,ct_state=+trk+est,actions=ct(table=2,zone=2,nat)
table=2,priority=60,ip,ct_state=+trk+new,actions=ct(commit,zone=2,nat(src=10.0.0.60:20000-20007,random)),resubmit(,5)
table=2,priority=50,ip,ct_state=+trk+est,actions=resubmit(,5)
table=3,priority=50,ip,ct_state=+trk+est+rpl,actions=ct(table=4,zone=1,nat)
table=4,priority=50,ip,ct_state=+trk+est+rpl,actions=resubmit(,5)
table=5,priority=50,ip,nw_dst=10.0.0.1,actions=mod_dl_src:02:00:00:00:00:50,mod_dl_dst:02:00:00:00:00:01,resubmit(,6)
table=5,priority=50,ip,nw_dst=10.0.0.2,actions=mod_dl_src:02:00:00:00:00:50,mod_dl_dst:02:00:00:00:00:02,output:p2
table=6,priority=50,ip,in_port=p1,actions=IN_PORT
table=6,priority=40,ip,actions=output:p1
F
for h in h1 h2; do for a in 50 60; do knows $h 10.0.0.$a 02:00:00:00:00:50; done; done; serve h1 h2
for n in 12 8; do together "PORT=80 tcp h1 10.0.0.50 $n" "PORT=53 udp h1 10.0.0.50 $n" "PORT=54 udp h1 10.0.0.50 $n"; done; finish
expect merged.installed=12 hardware.handled=65%
