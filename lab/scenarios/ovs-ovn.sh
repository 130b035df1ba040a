# As OVN has it: a zone for each port (11, 12), load balancer, mark bits, labels, four passes each way; an ACL blocks a connection that is there
. "$LAB/common.sh"; hosts; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=50,ip,in_port=p1,actions=load:11->NXM_NX_REG13[0..15],load:12->NXM_NX_REG12[0..15],load:2->NXM_NX_REG15[],resubmit(,1)
table=0,priority=50,ip,in_port=p2,actions=load:12->NXM_NX_REG13[0..15],load:11->NXM_NX_REG12[0..15],load:1->NXM_NX_REG15[],resubmit(,1)
table=1,priority=50,ip,actions=ct(table=2,zone=NXM_NX_REG13[0..15],nat)
table=2,priority=60,tcp,ct_state=+trk+new,reg15=2,nw_dst=10.0.0.50,tp_dst=80,actions=ct(commit,table=4,zone=NXM_NX_REG13[0..15],nat(dst=10.0.0.2:8000),exec(load:0x1->NXM_NX_CT_MARK[1]))
table=2,priority=50,ip,ct_state=+trk+est-new,actions=resubmit(,3)
table=2,priority=40,ip,ct_state=+trk+new,actions=ct(commit,table=4,zone=NXM_NX_REG13[0..15],exec(load:0x0->NXM_NX_CT_MARK[0]))
table=3,priority=60,ip,ct_mark=1/1,actions=drop
table=3,priority=50,ip,ct_mark=2/2,actions=resubmit(,4)
table=3,priority=40,ip,actions=resubmit(,4)
table=4,priority=50,ip,actions=ct(table=5,zone=NXM_NX_REG12[0..15],nat)
table=5,priority=70,ip,ct_state=+trk+est-rpl,ct_mark=1/1,actions=drop
table=5,priority=65,ip,ct_state=+trk+est+rpl,ct_mark=0/1,actions=resubmit(,6)
table=5,priority=60,udp,ct_state=+trk+new,tp_dst=8001,reg15=2,actions=drop
table=5,priority=55,ip,ct_state=+trk+est-rpl,ct_mark=0/1,actions=resubmit(,6)
table=5,priority=50,ip,ct_state=+trk+new,reg15=2,actions=ct(commit,zone=NXM_NX_REG12[0..15],exec(load:0x0->NXM_NX_CT_MARK[0],load:0xabcd->NXM_NX_CT_LABEL[32..63])),resubmit(,6)
table=6,priority=50,ip,reg15=2,actions=mod_dl_dst:02:00:00:00:00:02,output:p2
table=6,priority=50,ip,reg15=1,actions=mod_dl_dst:02:00:00:00:00:01,output:p1
F
knows h1 10.0.0.50 02:00:00:00:00:50; serve h2
together 'PORT=80 tcp h1 10.0.0.50 10' 'SPORT=40000 udp h1 10.0.0.2 10'
together 'PORT=80 tcp h1 10.0.0.50 8' 'tcp h1 10.0.0.2 8' 'PORT=8001 udp h1 10.0.0.2 3'
SPORT=40000 udp h1 10.0.0.2 20 0.05 & A=$!; sleep 0.6
flows <<<'table=5,priority=75,udp,ct_state=+trk+est-rpl,ct_mark=0/1,reg15=2,actions=ct(commit,zone=NXM_NX_REG12[0..15],exec(load:0x1->NXM_NX_CT_MARK[0]))'
wait $A; finish; expect merged.installed=6 hardware.handled=60%
