# Tags around ct: h3's 30 popped before it and pushed, with a priority, behind it; h1's 10 made 30 before it and 10 again behind it
. "$LAB/common.sh"; hosts; tagged h1 10; tagged h3 30; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,in_port=p3,dl_vlan=30,actions=strip_vlan,output:p2,mod_vlan_vid:10,output:p1
table=0,priority=100,arp,in_port=p2,actions=mod_vlan_vid:30,output:p3
table=0,priority=100,arp,in_port=p1,dl_vlan=10,actions=mod_vlan_vid:30,output:p3
table=0,priority=60,ip,in_port=p3,dl_vlan=30,nw_dst=10.0.0.2,actions=strip_vlan,ct(table=1,zone=30)
table=0,priority=60,ip,in_port=p2,nw_dst=10.0.0.3,actions=ct(table=2,zone=30)
table=0,priority=60,ip,in_port=p1,dl_vlan=10,nw_dst=10.0.0.3,actions=mod_vlan_vid:30,ct(table=3,zone=31)
table=0,priority=60,ip,in_port=p3,dl_vlan=30,nw_dst=10.0.0.1,actions=ct(table=4,zone=31)
table=1,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=30),output:p2
table=1,priority=50,ip,ct_state=+trk+est,actions=output:p2
table=2,priority=50,ip,ct_state=+trk+est,actions=push_vlan:0x8100,set_field:4126->vlan_vid,set_field:2->vlan_pcp,output:p3
table=3,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=31),output:p3
table=3,priority=50,ip,ct_state=+trk+est,actions=output:p3
table=4,priority=50,ip,dl_vlan=30,ct_state=+trk+est,actions=mod_vlan_vid:10,mod_vlan_pcp:1,output:p1
F
serve h2 h3
together 'tcp h3 10.0.0.2 10' 'udp h3 10.0.0.2 10' 'tcp h1 10.0.0.3 10' 'udp h1 10.0.0.3 10'
together 'tcp h3 10.0.0.2 6' 'tcp h1 10.0.0.3 6'; finish; expect merged.installed=10 hardware.handled=55%
