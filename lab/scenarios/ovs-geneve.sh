# A firewall in zone 5 between h1 and a host behind a Geneve tunnel: by identifier and two options in, others out; critical ones, and two policies by option
. "$LAB/common.sh"; hosts; underlay; ovs; behind gx geneve external dstport 6081
vs add-port br0 gv0 -- set interface gv0 type=geneve options:{remote_ip=192.168.7.2,local_ip=192.168.7.1,key=flow,csum=true}
until [ -e /sys/class/net/genev_sys_6081 ]; do sleep 0.02; done; plain genev_sys_6081
ofctl add-tlv-map '{class=0x102,type=0x80,len=4}->tun_metadata0,{class=0x102,type=3,len=8}->tun_metadata1'
# far sends everything with these.
way() { on far tc actions replace action tunnel_key set id "$1" src_ip 192.168.7.2 dst_ip 192.168.7.1 geneve_opts "$2" "${@:3}" index 9; }
on far tc qdisc add dev gx clsact; way 77 0102:80:00000001,0102:03:1122334455667788; on far tc filter add dev gx egress matchall action tunnel_key index 9
record p1 p2 u1 genev_sys_6081; flows <<'F'
table=0,priority=100,arp,in_port=p1,actions=set_field:77->tun_id,output:gv0
table=0,priority=100,arp,in_port=gv0,actions=output:p1
table=0,priority=50,ip,in_port=p1,actions=ct(table=1,zone=5)
table=0,priority=60,ip,in_port=gv0,tun_id=77,tun_metadata0=1,tun_metadata1=0x1122334455667788,actions=ct(table=2,zone=5)
table=0,priority=50,ip,in_port=gv0,tun_id=77,tun_metadata0=2,actions=dec_ttl,output:p1
table=1,priority=50,ip,ct_state=+trk+new,actions=ct(commit,zone=5),resubmit(,3)
table=1,priority=50,ip,ct_state=+trk+est,actions=resubmit(,3)
table=2,priority=50,ip,ct_state=+trk+est,actions=output:p1
table=3,priority=50,tcp,actions=set_field:77->tun_id,set_field:0xdeadbeef->tun_metadata0,output:gv0
table=3,priority=40,ip,actions=set_field:78->tun_id,set_field:7->tun_metadata0,set_field:0x1122334455667788->tun_metadata1,output:gv0
F
serve far; knows h1 10.0.0.9 02:00:00:00:00:09
together 'tcp h1 10.0.0.9 10' 'SPORT=41000 udp h1 10.0.0.9 12' 'on h1 ping -q -c 4 -i 0.05 10.0.0.9'
way 77 0102:80:00000002; SPORT=41000 udp h1 10.0.0.9 6
way 77 0102:80:00000001,0102:03:1122334455667788 tos 0x20 ttl 9; SPORT=41000 udp h1 10.0.0.9 6
way 77 0102:80:00000003; SPORT=41000 WAIT=0.05 udp h1 10.0.0.9 3
finish; expect software.decided=70
