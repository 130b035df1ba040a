#!/usr/bin/env python3
"""traffic.py serve              echo on TCP and UDP port 8000, in the background; comes back when it listens
   traffic.py tcp|udp DST N GAP  N exchanges, GAP seconds apart; prints how many came back

In the environment:
   PORT, SPORT, SIZE  ports, and bytes of an exchange
   TOS, TTL           numbers with commas between, which the exchanges take in turn
   MANY               so many connections at once
   WAIT               seconds to wait for an answer
   RST=1              TCP ends with a reset
   DF=0               what is too long goes in fragments; NOSUM=1: UDP over IPv4 without checksum"""
import os
import socket
import struct
import sys
import time


def setting(name, default):
    return [type(default)(v) for v in os.environ.get(name, str(default)).split(",")]


(SIZE,), (PORT,), (SPORT,), (MANY,) = (setting(*v) for v in (("SIZE", 200), ("PORT", 8000), ("SPORT", 0), ("MANY", 1)))
(RST,), (DF,), (NOSUM,) = (setting(*v) for v in (("RST", 0), ("DF", 1), ("NOSUM", 0)))
TOS, TTL = setting("TOS", 0), setting("TTL", 64)
IP_MTU_DISCOVER, IP_PMTUDISC_DONT, SO_NO_CHECK = 10, 0, 11


def echo(connection):
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except ConnectionResetError:
            pass


def dress(s, number):
    v6 = s.family == socket.AF_INET6
    level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
    s.setsockopt(level, socket.IPV6_TCLASS if v6 else socket.IP_TOS, TOS[number % len(TOS)])
    s.setsockopt(level, socket.IPV6_UNICAST_HOPS if v6 else socket.IP_TTL, TTL[number % len(TTL)])


def serve():
    import threading

    # One socket for both families, unless there is no IPv6.
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    udp.bind(("", PORT))
    tcp = socket.create_server(("", PORT), family=family, dualstack_ipv6=family == socket.AF_INET6)
    if os.fork():
        os._exit(0)

    def datagrams():
        while True:
            data, address = udp.recvfrom(65536)
            udp.sendto(data, address)

    threading.Thread(target=datagrams, daemon=True).start()
    while True:
        threading.Thread(target=echo, args=(tcp.accept()[0],), daemon=True).start()


def opened(kind, destination, number):
    s = socket.socket(socket.AF_INET6 if ":" in destination else socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.settimeout(setting("WAIT", 3.0 if kind == "tcp" else 0.2)[0])
    if RST:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if not DF:
        s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    if NOSUM:
        s.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    dress(s, 0)
    s.bind(("", SPORT + number if SPORT else 0))
    s.connect((destination, PORT))
    return s


def exchange(kind, destination, count, gap):
    back, open_ones = 0, []
    try:
        open_ones = [opened(kind, destination, n) for n in range(MANY)]
        for number in range(count):
            for s in open_ones:
                dress(s, number)
                s.sendall(bytes(SIZE))
            for s in open_ones:
                try:
                    wanted = SIZE
                    while wanted > 0:
                        wanted -= len(s.recv(65536)) or wanted
                    back += 1
                except (TimeoutError, ConnectionRefusedError):
                    if kind == "tcp":
                        raise
            time.sleep(gap)
    except OSError as error:
        print(f"{kind} {destination}: {error}")
    for s in open_ones:
        s.close()
    print(f"{kind} {destination}: {back} of {count * MANY} came back")


if sys.argv[1] == "serve":
    serve()
else:
    exchange(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
