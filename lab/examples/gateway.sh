# h1 reaches h2 as 10.0.0.100; nothing else passes
. "$LAB/common.sh"; hosts; ovs; record p1 p2
flows <"$HERE/gateway.flows"
knows h2 10.0.0.100 02:00:00:00:00:01; serve h2
together 'tcp h1 10.0.0.2 10' 'udp h1 10.0.0.2 10'; finish
expect merged.installed=4 hardware.handled=50%
