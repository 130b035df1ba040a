# A router: TTL, MACs, TOS and ports rewritten, TTL 1 dropped; to h3 through ct, ct_clear, and ct in another zone
. "$LAB/common.sh"; hosts; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=90,ip,nw_ttl=1,actions=drop
table=0,priority=60,ip,in_port=p1,nw_dst=10.0.0.3,actions=ct(table=1,zone=21)
table=0,priority=60,ip,in_port=p3,nw_dst=10.0.0.1,actions=ct(table=4,zone=22)
table=0,priority=55,udp,in_port=p1,nw_dst=10.0.0.2,tp_dst=53,actions=mod_tp_dst:8000,dec_ttl,mod_nw_tos:184,mod_dl_src:02:aa:00:00:00:02,output:p2
table=0,priority=55,udp,in_port=p2,tp_src=8000,actions=mod_tp_src:53,dec_ttl,output:p1
table=0,priority=50,ip,in_port=p1,actions=dec_ttl,mod_dl_src:02:aa:00:00:00:02,mod_dl_dst:02:00:00:00:00:02,mod_nw_tos:32,output:p2
table=0,priority=50,ip,in_port=p2,actions=dec_ttl,mod_dl_src:02:aa:00:00:00:01,mod_dl_dst:02:00:00:00:00:01,output:p1
table=1,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=21),ct_clear,resubmit(,2)
table=1,priority=50,ip,ct_state=+trk+est,actions=ct_clear,resubmit(,2)
table=2,priority=50,ip,actions=dec_ttl,mod_dl_src:02:aa:00:00:00:03,ct(table=3,zone=22)
table=3,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=22),output:p3
table=3,priority=50,ip,ct_state=+trk+est,actions=output:p3
table=4,priority=50,ip,ct_state=+trk+est+rpl,actions=dec_ttl,ct_clear,ct(table=5,zone=21)
table=5,priority=50,ip,ct_state=+trk+est+rpl,actions=output:p1
F
serve h2 h3
together 'tcp h1 10.0.0.2 8' 'tcp h1 10.0.0.3 10' 'TTL=64,9,1 udp h1 10.0.0.3 12' 'PORT=53 TOS=0,1,2 udp h1 10.0.0.2 9' 'on h1 ping -q -c 5 -i 0.05 10.0.0.3'
tcp h1 10.0.0.3 6; finish; expect merged.installed=10 hardware.handled=55%
