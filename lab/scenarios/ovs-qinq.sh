# Two tags: h3 is in VLAN 30 of the 802.1ad VLAN 20; both popped before ct and pushed behind it; h1 in 10, to which the outer one is added
. "$LAB/common.sh"; hosts; tagged h1 10; tagged h3 20 802.1ad
ip -n h3 -batch - <<'I'
link add link v name w type vlan id 30
addr del 10.0.0.3/24 dev v
addr add 10.0.0.3/24 dev w
link set w up
I
ovs vlan-limit=2; record p1 p2 p3; flows <<'F'
table=0,priority=60,ip,in_port=p3,dl_vlan=20,actions=pop_vlan,resubmit(,1)
table=0,priority=60,ip,in_port=p2,nw_dst=10.0.0.3,actions=ct(table=3,zone=30)
table=0,priority=60,ip,in_port=p1,dl_vlan=10,actions=ct(table=4,zone=31)
table=1,priority=60,ip,dl_vlan=30,nw_dst=10.0.0.2,actions=pop_vlan,ct(table=2,zone=30)
table=1,priority=60,ip,dl_vlan=30,nw_dst=10.0.0.1,actions=ct(table=5,zone=31)
table=2,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=30),output:p2
table=2,priority=50,ip,ct_state=+trk+est,actions=output:p2
table=3,priority=50,ip,ct_state=+trk+est,actions=push_vlan:0x8100,set_field:4126->vlan_vid,push_vlan:0x88a8,set_field:4116->vlan_vid,output:p3
table=4,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=31),resubmit(,6)
table=4,priority=50,ip,ct_state=+trk+est,actions=resubmit(,6)
table=5,priority=50,ip,dl_vlan=30,ct_state=+trk+est,actions=set_field:4106->vlan_vid,output:p1
table=6,priority=50,ip,dl_vlan=10,actions=set_field:4126->vlan_vid,push_vlan:0x88a8,set_field:4116->vlan_vid,set_field:3->vlan_pcp,output:p3
F
knows h1 10.0.0.3 02:00:00:00:00:03 v; knows h2 10.0.0.3 02:00:00:00:00:03; for a in 1 2; do knows h3 10.0.0.$a 02:00:00:00:00:0$a w; done
serve h2 h3
together 'tcp h3 10.0.0.2 10' 'udp h3 10.0.0.2 10' 'tcp h1 10.0.0.3 10' 'udp h1 10.0.0.3 10'; finish
expect merged.installed=8 hardware.handled=60%
