#!/usr/bin/env python3
"""frames.py DEVICE [SECONDS]    sends the frames of standard input: a line is a Python expression of one frame or a list of them

Headers are functions that take what is behind them as their last argument, and know its type; what is wrong on purpose is said by
name: eth(vlan(7, ip('10.0.0.1', '10.0.0.2', udp(1000, 2000, b'x'), ttl=1)), dst=2)"""
import socket
import struct
import sys
import time


class Layer(bytes):
    """Bytes that know which ethertype, or which IP protocol, they have."""

    def __new__(cls, data, kind, finish=None):
        layer = super().__new__(cls, data)
        layer.kind, layer.finish = kind, finish
        return layer


def kind(payload, default):
    return getattr(payload, "kind", default)


def total(data):
    data = bytes(data) + b"\0" * (len(data) % 2)
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def checksum(data):
    return 0xFFFF - total(data)


def mac(host):
    return bytes.fromhex(host.replace(":", "")) if isinstance(host, str) else b"\2\0\0\0\0" + bytes([host])


def eth(payload=b"", dst=2, src=1, type=None):
    frame = mac(dst) + mac(src) + struct.pack("!H", kind(payload, 0x88B5) if type is None else type) + payload
    return Layer(frame + bytes(max(0, 60 - len(frame))), 0x6558)


def vlan(id, payload=b"", priority=0, tpid=0x8100, type=None):
    return Layer(struct.pack("!HH", priority << 13 | id, kind(payload, 0x88B5) if type is None else type) + payload, tpid)


def mpls(label, payload=b"", tc=0, ttl=64, bos=None, type=0x8847):
    bos = kind(payload, 0) not in (0x8847, 0x8848) if bos is None else bos
    return Layer(struct.pack("!I", label << 12 | tc << 9 | bos << 8 | ttl) + payload, type)


def arp(op, sip, tip, sha=1, tha=0):
    body = struct.pack("!HHBBH", 1, 0x800, 6, 4, op)
    return Layer(body + mac(sha) + socket.inet_aton(sip) + mac(tha) + socket.inet_aton(tip), 0x806)


def finished(payload, pseudo):
    return payload.finish(pseudo) if getattr(payload, "finish", None) else payload


def ip(src, dst, payload=b"", ttl=64, tos=0, id=1, frag=0, proto=None, options=b""):
    source, destination = socket.inet_aton(src), socket.inet_aton(dst)
    proto = kind(payload, 253) if proto is None else proto
    payload = finished(payload, source + destination + struct.pack("!HH", proto, len(payload)))
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | words, tos, words * 4 + len(payload), id, frag, ttl, proto, 0) + source + destination + options
    return Layer(head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload, 0x800)


def ip6(src, dst, payload=b"", hops=64, tc=0, label=0, next=None):
    source, destination = (socket.inet_pton(socket.AF_INET6, a) for a in (src, dst))
    next = kind(payload, 253) if next is None else next
    payload = finished(payload, source + destination + struct.pack("!II", len(payload), next))
    return Layer(struct.pack("!IHBB", 6 << 28 | tc << 20 | label, len(payload), next, hops) + source + destination + payload, 0x86DD)


def summed(data, proto, at):
    def finish(pseudo):
        return data[:at] + struct.pack("!H", checksum(pseudo + data) or 0xFFFF) + data[at + 2 :]

    return Layer(data, proto, finish)


def udp(sport, dport, payload=b""):
    return summed(struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload, 17, 6)


def tcp(sport, dport, payload=b"", flags=0x10, seq=1, ack=1):
    return summed(struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 1000, 0, 0) + payload, 6, 16)


def icmp(type=8, code=0, payload=b"\0\1\0\1"):
    data = struct.pack("!BBH", type, code, 0) + payload
    return Layer(data[:2] + struct.pack("!H", checksum(data)) + data[4:], 1)


def pppoe(session, payload=b"", type=0x8864, code=0):
    ppp = {0x800: 0x21, 0x86DD: 0x57}.get(kind(payload, 0), 0xC021)
    return Layer(struct.pack("!BBHHH", 0x11, code, session, 2 + len(payload), ppp) + payload, type)


def l2tp(session, payload=b""):
    return Layer(struct.pack("!I", session) + payload, 115)


def main():
    device, gap = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.001
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind((device, 0))
    for line in sys.stdin:
        if line.strip() and not line.startswith("#"):
            frames = eval(line)
            for frame in [frames] if isinstance(frames, bytes) else frames:
                out.send(frame)
                time.sleep(gap)


main()
