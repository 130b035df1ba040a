#!/usr/bin/env python3
"""traffic.py serve              echo on TCP and UDP port 8000
   traffic.py tcp|udp DST N GAP  N exchanges, GAP seconds apart; prints how many came back. SIZE, PORT, SPORT in the environment,
                                 and TOS and TTL: numbers with commas between, which the exchanges take in turn"""
import os
import socket
import sys
import threading
import time

SIZE, PORT, SPORT = (int(os.environ.get(*v)) for v in (("SIZE", "200"), ("PORT", "8000"), ("SPORT", "0")))
TOS, TTL = ([int(n) for n in os.environ.get(*v).split(",")] for v in (("TOS", "0"), ("TTL", "64")))


def echo(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def dress(s, number):
    v6 = s.family == socket.AF_INET6
    level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
    s.setsockopt(level, socket.IPV6_TCLASS if v6 else socket.IP_TOS, TOS[number % len(TOS)])
    s.setsockopt(level, socket.IPV6_UNICAST_HOPS if v6 else socket.IP_TTL, TTL[number % len(TTL)])


def serve():
    # One socket for both families, unless there is no IPv6.
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def datagrams():
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            if family == socket.AF_INET6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            s.bind(("", PORT))
            while True:
                data, address = s.recvfrom(65536)
                s.sendto(data, address)

    with socket.create_server(("", PORT), family=family, dualstack_ipv6=family == socket.AF_INET6) as s:
        threading.Thread(target=datagrams, daemon=True).start()
        while True:
            threading.Thread(target=echo, args=(s.accept()[0],), daemon=True).start()


def exchange(kind, destination, count, gap):
    back = 0
    with socket.socket(socket.AF_INET6 if ":" in destination else socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.settimeout(3 if kind == "tcp" else 0.2)
        s.bind(("", SPORT))
        try:
            s.connect((destination, PORT))
            for number in range(count):
                dress(s, number)
                try:
                    s.sendall(bytes(SIZE))
                    wanted = SIZE
                    while wanted > 0:
                        wanted -= len(s.recv(65536)) or wanted
                    back += 1
                except TimeoutError:
                    if kind == "tcp":
                        raise
                time.sleep(gap)
        except OSError as error:
            print(f"{kind} {destination}: {error}")
    print(f"{kind} {destination}: {back} of {count} came back")


if sys.argv[1] == "serve":
    serve()
else:
    exchange(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
