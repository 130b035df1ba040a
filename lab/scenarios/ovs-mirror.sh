# Mirrors: all that p1 gets and sends goes to p3, too, and then no more; UDP goes out twice, the second time with another MAC and TOS
. "$LAB/common.sh"; hosts; ovs
vs -- --id=@a get port p1 -- --id=@c get port p3 -- --id=@m create mirror name=m0 select-src-port=@a select-dst-port=@a output-port=@c \
  -- set bridge br0 mirrors=@m >/dev/null
record p1 p2 p3; flows <<'F'
table=0,priority=100,arp,actions=NORMAL
table=0,priority=50,ip,actions=ct(table=1,zone=5)
table=1,priority=60,udp,ct_state=+trk+est,in_port=p1,actions=output:p2,mod_dl_dst:02:00:00:00:00:03,mod_nw_tos:4,output:p2
table=1,priority=50,ip,ct_state=+trk+new,in_port=p1,actions=ct(commit,zone=5),output:p2
table=1,priority=50,ip,ct_state=+trk+est,in_port=p1,actions=output:p2
table=1,priority=50,ip,ct_state=+trk+est,in_port=p2,actions=output:p1
table=1,priority=0,actions=drop
F
serve h2
together 'tcp h1 10.0.0.2 10' 'udp h1 10.0.0.2 10' 'on h1 ping -q -c 4 -i 0.05 10.0.0.2'; tcp h1 10.0.0.2 6
vs clear bridge br0 mirrors; tcp h1 10.0.0.2 6; finish; expect merged.installed=8 hardware.handled=50%
