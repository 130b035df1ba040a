# How a recording ends: by signals, killed, on a full disk, into a pipe that closes, with frames lost; two at once; each time the nlmon device is gone or taken over
. "$LAB/common.sh"; hosts
for p in p1 p2; do tc qdisc add dev $p clsact; done
filter p1 prio 1 proto all flower skip_hw action mirred egress redirect dev p2
filter p2 prio 1 proto all flower skip_hw action mirred egress redirect dev p1
serve h2; trace=$OUT
fails() { echo "FAILED: $*"; exit 1; }
monitors() { ip -o link show type nlmon | wc -l; }
# ends STATUS : what the recorder says, and its exit status
ends() { s=0; wait $RECORDER || s=$?; cat /run/record; [ $s = "$1" ] || fails "ended with $s, expected $1"; [ "$(monitors)" = "${2:-0}" ] || fails "$(monitors) nlmon devices"; }

for signal in INT TERM HUP; do
  echo "-- SIG$signal"
  OUT=/run/signal.pcapng; record p1 p2; tcp h1 10.0.0.2 1; kill -$signal $RECORDER; ends 0
  "$FLOWMERGE" replay $OUT >/dev/null || fails "replay after SIG$signal"
done
echo "-- under nohup SIGHUP does not end it"
OUT=/run/nohup.pcapng; : >/run/record
nohup "$FLOWMERGE" record p1 -o $OUT 2>/run/record & RECORDER=$!; until grep -q 'Ctrl-C' /run/record; do sleep 0.02; done
kill -HUP $RECORDER; sleep 0.4; kill -0 $RECORDER || fails "SIGHUP ended it"; kill -TERM $RECORDER; ends 0
echo "-- killed: what was recorded is there, and the next one takes the device away"
OUT=/run/killed.pcapng; record p1 p2; tcp h1 10.0.0.2 1; sleep 0.5; kill -KILL $RECORDER; ends 137 1
[ "$(stat -c %s $OUT)" -gt 4000 ] || fails "$(stat -c %s $OUT) bytes"
ip link add flowmerge1 type dummy
OUT=/run/one.pcapng; record p1; ONE=$RECORDER; [ "$(monitors)" = 1 ] || fails "$(monitors) nlmon devices where 1 was left and taken over"
OUT=/run/two.pcapng; record p1; [ "$(monitors)" = 2 ] || fails "$(monitors) nlmon devices of 2 recordings"
kill -INT $RECORDER; ends 0 1; kill -INT $ONE; wait $ONE; ip link del flowmerge1
[ "$(monitors)" = 0 ] || fails "a device of two recordings is left"
echo "-- a full disk"
OUT=/dev/full; record p1; ends 2; grep -q '/dev/full: cannot write the trace: No space left' /run/record || fails "full"
echo "-- into a pipe, which closes; a trace in a pipe is whole if it does not"
rm -f /run/status; { "$FLOWMERGE" record p1 -o - 2>/run/record || echo $? >/run/status; } | head -c 100 >/dev/null & PIPE=$!
# That nobody reads any more is found as something is written.
until [ -s /run/status ]; do tc qdisc add dev p3 clsact; tc qdisc del dev p3 clsact; sleep 0.02; done; wait $PIPE
cat /run/record; [ "$(cat /run/status)" = 2 ] || fails "status $(cat /run/status)"; grep -q 'stdout: .*Broken pipe' /run/record || fails "pipe"
{ timeout -s INT 3 "$FLOWMERGE" record p1 p2 -o - 2>/run/record || true; } | cat >/run/pipe.pcapng & sleep 0.6; tcp h1 10.0.0.2 1; wait $!
cat /run/record; grep -q " 0 frames" /run/record && fails "no frames in the pipe"; "$FLOWMERGE" replay /run/pipe.pcapng >/dev/null || fails "replay of the pipe's"
[ "$(monitors)" = 0 ] || fails "a device of a pipe is left"
echo "-- nobody reads what it says"
{ "$FLOWMERGE" record p1 p2 --netlink-buffer 4096 -o /run/deaf.pcapng 2>&1 && echo 0 >/run/status || echo $? >/run/status; } | head -n 1 & sleep 0.6
for i in 1 2 3 4; do for a in add del; do tc qdisc $a dev p3 clsact; ip link set p3 down; ip link set p3 up; done; done
kill -INT "$(pidof flowmerge)"; wait $!; [ "$(cat /run/status)" -lt 2 ] || fails "status $(cat /run/status)"
"$FLOWMERGE" replay /run/deaf.pcapng >/dev/null || fails "replay without a reader"
echo "-- frames are lost, also the last ones before the end"
OUT=/run/lost.pcapng; record p1 p2 --packet-buffer 4096; kill -STOP $RECORDER
on h1 ping -q -f -c 200 -W 0.1 10.0.0.2 >/dev/null; kill -INT $RECORDER; kill -CONT $RECORDER
ends 1; grep -q 'frames or messages were lost' /run/record || fails "loss was not told"
echo "-- and as it should be"
OUT=$trace; record p1 p2; tcp h1 10.0.0.2 3; finish; expect merged.installed=2 hardware.handled=50%
