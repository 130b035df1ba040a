# Flows change under the traffic: another output, a rule that drops comes and goes, the zone changes; they idle out after 0.7 s; all deleted and put back
. "$LAB/common.sh"; hosts; ovs max-idle=700; record p1 p2 p3
cat >/run/flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=50,ip,actions=ct(table=1,zone=5)
table=1,priority=50,ip,ct_state=+trk+new,in_port=p1,actions=ct(commit,zone=5,exec(load:0x1->NXM_NX_CT_MARK[])),output:p2
table=1,priority=50,ip,ct_state=+trk+est,in_port=p1,actions=output:p2
table=1,priority=50,ip,ct_state=+trk+est,in_port=p2,actions=output:p1
table=1,priority=0,actions=drop
F
flows </run/flows; serve h2
tcp h1 10.0.0.2 24 0.09 & A=$!; SPORT=41000 udp h1 10.0.0.2 22 0.09 & B=$!
sleep 0.5; ofctl mod-flows 'table=1,ip,ct_state=+trk+est,in_port=p1,actions=output:p3,output:p2'
sleep 0.4; ofctl mod-flows 'table=1,ip,ct_state=+trk+est,in_port=p1,actions=output:p2'
sleep 0.4; flows <<<'table=1,priority=60,udp,ct_state=+trk+est,actions=drop'
sleep 0.4; ofctl del-flows 'table=1,udp'
sleep 0.4; ofctl mod-flows 'table=0,ip,actions=ct(table=1,zone=6)'
sleep 0.4; ofctl mod-flows 'table=0,ip,actions=ct(table=1,zone=5)'
wait $A $B; sleep 2; tcp h1 10.0.0.2 4; ofctl del-flows; sleep 0.6; SPORT=41000 udp h1 10.0.0.2 2; flows </run/flows
together 'tcp h1 10.0.0.2 5 0.1' 'SPORT=41000 udp h1 10.0.0.2 5 0.1'; finish; expect merged.installed=10 hardware.handled=40%
