# Port masks, TOS and ICMP types with overlapping priorities, stateless and stateful; a copy in front of ct; fragments through ct; ten connections at once
. "$LAB/common.sh"; hosts; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=70,udp,in_port=p1,tp_dst=9008/0xfff8,actions=output:p3
table=0,priority=65,udp,in_port=p1,tp_dst=9000/0xffe0,actions=drop
table=0,priority=60,icmp,in_port=p1,icmp_type=8,icmp_code=0,actions=output:p2
table=0,priority=60,icmp,in_port=p2,icmp_type=0,actions=output:p1
table=0,priority=55,tcp,tcp_flags=+syn-ack,in_port=p2,actions=drop
table=0,priority=50,ip,nw_tos=64,actions=ct(table=1,zone=5),output:p3
table=0,priority=40,ip,actions=ct(table=1,zone=5)
table=1,priority=60,ip,ct_state=+trk+new,in_port=p1,nw_proto=17,tp_dst=8000/0xfffc,actions=ct(commit,zone=5),output:p2
table=1,priority=60,tcp,ct_state=+trk+new,in_port=p1,tp_dst=8000/0xfffe,actions=ct(commit,zone=5),output:p2
table=1,priority=50,ip,ct_state=+trk+est,in_port=p1,nw_tos=64,actions=mod_nw_tos:0,output:p2
table=1,priority=45,ip,ct_state=+trk+est,in_port=p1,actions=output:p2
table=1,priority=45,ip,ct_state=+trk+est,in_port=p2,actions=output:p1
table=1,priority=0,actions=drop
F
serve h2; PORT=8001 serve h2
together 'PORT=8001 tcp h1 10.0.0.2 4' 'PORT=8002 WAIT=0.4 tcp h1 10.0.0.2 1' 'PORT=8001 udp h1 10.0.0.2 4' 'PORT=8004 udp h1 10.0.0.2 4' 'on h1 ping -q -c 6 -i 0.05 10.0.0.2' 'WAIT=0.3 tcp h2 10.0.0.1 1'
for port in 9007 9008 9015 9016; do PORT=$port WAIT=0.01 udp h1 10.0.0.2 4; done
together 'SPORT=41000 TOS=0,64 udp h1 10.0.0.2 8' 'SIZE=3000 DF=0 udp h1 10.0.0.2 4' 'MANY=5 SIZE=40 tcp h1 10.0.0.2 2' 'NOSUM=1 MANY=5 SIZE=40 udp h1 10.0.0.2 3'
finish; expect merged.installed=20 hardware.handled=35%
