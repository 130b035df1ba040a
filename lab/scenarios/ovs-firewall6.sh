# A firewall over IPv6 and IPv4 at once, with mark and label; neighbours are found through NORMAL, nothing but replies comes back
. "$LAB/common.sh"; hosts; hosts6; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=100,icmp6,icmp_type=135,actions=NORMAL
table=0,priority=100,icmp6,icmp_type=136,actions=NORMAL
table=0,priority=90,ipv6,ipv6_dst=ff00::/8,actions=drop
table=0,priority=50,ipv6,actions=ct(table=1,zone=9)
table=0,priority=50,ip,actions=ct(table=1,zone=9)
table=1,priority=50,ipv6,ct_state=+trk+new,in_port=p1,actions=ct(commit,zone=9,exec(load:0x6->NXM_NX_CT_MARK[],load:0x66->NXM_NX_CT_LABEL[0..31])),output:p2
table=1,priority=50,ip,ct_state=+trk+new,in_port=p1,actions=ct(commit,zone=9,exec(load:0x4->NXM_NX_CT_MARK[])),output:p2
table=1,priority=50,ipv6,ct_state=+trk+est,ct_mark=6,ct_label=0x66,in_port=p1,actions=output:p2
table=1,priority=50,ipv6,ct_state=+trk+est,ct_mark=6,ct_label=0x66/0xff,in_port=p2,actions=output:p1
table=1,priority=50,ip,ct_state=+trk+est-new,ct_mark=4,actions=NORMAL
table=1,priority=0,actions=drop
F
serve h1 h2
together 'tcp h1 fd00::2 12' 'udp h1 fd00::2 12' 'tcp h1 10.0.0.2 8' 'WAIT=0.5 tcp h2 fd00::1 1' 'udp h2 fd00::1 3'
together 'tcp h1 fd00::2 8' 'TOS=0,32 TTL=64,9 udp h1 fd00::2 8' 'udp h1 10.0.0.2 8' 'on h1 ping -q -c 8 -i 0.05 fd00::2'; finish
expect merged.installed=10 hardware.handled=50%
