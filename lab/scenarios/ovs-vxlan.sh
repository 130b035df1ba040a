# A firewall in zone 5 between h1 and a host behind a VXLAN tunnel (identifier 100); of another identifier nothing passes
. "$LAB/common.sh"; hosts; underlay; ovs; behind vx vxlan id 100 remote 192.168.7.1 local 192.168.7.2 dstport 4789
vs add-port br0 vx0 -- set interface vx0 type=vxlan options:{remote_ip=192.168.7.2,local_ip=192.168.7.1,key=flow,dst_port=4789}
until [ -e /sys/class/net/vxlan_sys_4789 ]; do sleep 0.02; done; plain vxlan_sys_4789
record p1 p2 u1 vxlan_sys_4789; flows <<'F'
table=0,priority=100,arp,in_port=p1,actions=set_field:100->tun_id,output:vx0
table=0,priority=100,arp,in_port=vx0,actions=output:p1
table=0,priority=50,ip,in_port=p1,actions=ct(table=1,zone=5)
table=0,priority=50,ip,in_port=vx0,tun_id=100,actions=ct(table=2,zone=5)
table=1,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=5),set_field:100->tun_id,output:vx0
table=1,priority=50,ip,ct_state=+trk+est,actions=set_field:100->tun_id,output:vx0
table=2,priority=50,ip,ct_state=+trk+est,tun_id=100,actions=output:p1
F
serve far
together 'tcp h1 10.0.0.9 10' 'TOS=0,2,184 udp h1 10.0.0.9 12' 'on h1 ping -q -c 4 -i 0.05 10.0.0.9'
on far ip link del vx; behind vx vxlan id 101 remote 192.168.7.1 local 192.168.7.2 dstport 4789; on far ping -q -c 4 -i 0.05 -W 0.1 10.0.0.1 || true
finish
expect software.decided=60
