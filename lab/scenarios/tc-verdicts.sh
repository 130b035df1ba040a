# Odd verdicts behind ct: reclassify, continue over priorities, jump over rewrites, pipe-out, pass, trap, goto a chain that is not there
. "$LAB/common.sh"; hosts; for p in p1 p2; do tc qdisc add dev $p clsact; done; neighbours; record p1 p2 p3
at() { p=$1; shift; filter p1 chain 0 prio "$p" proto ip flower skip_hw "$@"; }
to2=(action mirred egress redirect dev p2) copy=(action mirred egress mirror dev p3)
at 1 ct_state -trk action ct zone 2 pipe action reclassify
at 2 ct_state +trk+new action ct commit zone 2 pipe "${to2[@]}"
at 3 ct_state +trk+est ip_tos 0x4/0xfc action pedit ex munge ip ttl set 44 pipe action csum ip4h continue
at 4 ct_state +trk+est ip_ttl 44 action gact jump 2 action pedit ex munge ip tos set 0xff pipe "${to2[@]}"
at 5 ct_state +trk+est ip_tos 0x8/0xfc "${copy[@]}" pipe action trap
at 6 ct_state +trk+est ip_tos 0xc/0xfc "${copy[@]}" pipe action goto chain 99
at 7 ct_state +trk+est ip_tos 0x10/0xfc action mirred egress mirror dev p2 pipe action pass
at 8 ct_state +trk+est ip_tos 0x14/0xfc action mirred egress mirror dev p2
at 9 ct_state +trk+est ip_tos 0x18/0xfc action mirred egress redirect dev p2 pipe "${copy[@]}" pipe action drop
at 10 ct_state +trk+est ip_tos 0x1c/0xfc ip_ttl 64 "${copy[@]}" pipe action pedit ex munge ip ttl set 7 pipe action csum ip4h reclassify
at 11 ct_state +trk+est ip_tos 0x20/0xfc action ct clear pipe action goto chain 3
at 12 ct_state +trk+est "${to2[@]}"
filter p1 chain 3 prio 1 proto ip flower skip_hw ct_state -trk action ct zone 2 pipe action gact jump 3 action drop "${to2[@]}"
filter p2 chain 0 prio 1 proto ip flower skip_hw action ct zone 2 pipe action continue
filter p2 chain 0 prio 2 proto ip flower skip_hw ct_state +trk+est+rpl action mirred egress redirect dev p1
serve h2
SPORT=41000 SIZE=60 TOS=0,4,20,24,28,32,36,8,4,12,16,24,28,32 udp h1 10.0.0.2 42 0.002; SPORT=41001 SIZE=60 TOS=0,4,20,24,28,32 udp h1 10.0.0.2 12 0.002; TOS=0,4,20,24,28,32 tcp h1 10.0.0.2 14; finish
expect merged.installed=20 hardware.handled=60%
