# IPv6: [fd00::50]:80 and :53 are h2:8000 (zone 3), h3 is fd00::100 to h2 (zone 7), with ICMPv6
. "$LAB/common.sh"; hosts; hosts6; ovs; record p1 p2 p3; flows <<'F'
table=0,priority=100,icmp6,icmp_type=135,actions=NORMAL
table=0,priority=100,icmp6,icmp_type=136,actions=NORMAL
table=0,priority=90,ipv6,ipv6_dst=ff00::/8,actions=drop
table=0,priority=60,ipv6,in_port=p1,ipv6_dst=fd00::50,actions=ct(table=1,zone=3,nat)
table=0,priority=60,ipv6,in_port=p2,ipv6_dst=fd00::1,actions=ct(table=2,zone=3,nat)
table=0,priority=60,ipv6,in_port=p3,actions=ct(table=3,zone=7,nat)
table=0,priority=60,ipv6,in_port=p2,ipv6_dst=fd00::100,actions=ct(table=4,zone=7,nat)
table=1,priority=60,tcp6,tp_dst=80,ct_state=+trk+new,actions=ct(commit,zone=3,nat(dst=[fd00::2]:8000)),mod_dl_dst:02:00:00:00:00:02,output:p2
table=1,priority=60,udp6,tp_dst=53,ct_state=+trk+new,actions=ct(commit,zone=3,nat(dst=[fd00::2]:8000)),mod_dl_dst:02:00:00:00:00:02,output:p2
table=1,priority=50,ipv6,ct_state=+trk+est,actions=mod_dl_dst:02:00:00:00:00:02,output:p2
table=2,priority=50,ipv6,ct_state=+trk+est+rpl,actions=output:p1
table=3,priority=50,ipv6,ct_state=+trk+new,actions=ct(commit,zone=7,nat(src=fd00::100)),output:p2
table=3,priority=50,ipv6,ct_state=+trk+est,actions=output:p2
table=4,priority=50,ipv6,ct_state=+trk+est,actions=output:p3
F
knows h1 fd00::50 02:00:00:00:00:50; knows h2 fd00::100 02:00:00:00:00:03; serve h2
together 'PORT=80 tcp h1 fd00::50 12' 'PORT=53 udp h1 fd00::50 12' 'tcp h3 fd00::2 12' 'udp h3 fd00::2 12'
together 'PORT=80 tcp h1 fd00::50 6' 'tcp h3 fd00::2 6' 'on h3 ping -q -c 5 -i 0.05 fd00::2'; finish
expect merged.installed=12 hardware.handled=60%
