# NORMAL switching: p1 and p2 are access ports of VLAN 10, p3 a trunk of 10 and 20; flooding pushes tags in mid-list; a MAC that nobody has
. "$LAB/common.sh"; hosts; tagged h3 10; ovs
vs set port p1 tag=10 -- set port p2 tag=10 -- set port p3 trunks=10,20
record p1 p2 p3; flows <<<'table=0,priority=0,actions=NORMAL'
knows h1 10.0.0.77 02:00:00:00:00:77; knows h3 10.0.0.77 02:00:00:00:00:77 v; serve h2 h3
together 'tcp h1 10.0.0.2 8' 'tcp h1 10.0.0.3 12' 'udp h2 10.0.0.3 12' 'on h3 ping -q -c 6 -i 0.05 10.0.0.1'
for h in h1 h3; do WAIT=0.01 udp $h 10.0.0.77 10; done; finish; expect merged.installed=8 hardware.handled=60%
