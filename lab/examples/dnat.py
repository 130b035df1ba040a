#!/usr/bin/env python3
"""Writes dnat.pcapng: frames, each with the port where it comes in. A pattern for packets of your own; nothing but Python."""
import socket
import struct
import sys

SYN, ACK, PSH = 2, 16, 8


def checksum(data):
    total = sum(struct.unpack(f"!{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def tcp(source, destination, flags, sequence, acknowledged, payload=b""):
    """An Ethernet frame; source and destination are (address, port)."""
    ends = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    header = struct.pack("!HHIIBBHHH", source[1], destination[1], sequence, acknowledged, 5 << 4, flags, 65535, 0, 0)
    pseudo = ends + struct.pack("!HH", socket.IPPROTO_TCP, len(header + payload))
    header = header[:16] + struct.pack("!H", checksum(pseudo + header + payload)) + header[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(payload), 1, 0x4000, 64, socket.IPPROTO_TCP, 0) + ends
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return bytes.fromhex("02aa00000001 020000000001 0800") + ip + header + payload


def pcapng(frames):
    """(port, frame) in the order in which they are to come in."""
    ports = list(dict.fromkeys(port for port, _ in frames))

    def block(kind, body):
        length = 12 + len(body)
        return struct.pack("<II", kind, length) + body + struct.pack("<I", length)

    def padded(data):
        return data + bytes(-len(data) % 4)

    out = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    for port in ports:  # Ethernet, any length; option 2 is the interface's name, option 0 ends the list
        name = struct.pack("<HH", 2, len(port)) + padded(port.encode())
        out += block(1, struct.pack("<HHI", 1, 0, 0) + name + bytes(4))
    for number, (port, frame) in enumerate(frames):  # a microsecond apart
        head = struct.pack("<IIIII", ports.index(port), 0, number, len(frame), len(frame))
        out += block(6, head + padded(frame))
    return out


client, service, server = ("10.0.0.1", 40000), ("10.0.0.50", 80), ("10.0.0.2", 8000)
with open(sys.argv[1] if len(sys.argv) > 1 else "dnat.pcapng", "wb") as file:
    file.write(pcapng([
        ("p1", tcp(client, service, SYN, 1000, 0)),
        ("p2", tcp(server, client, SYN | ACK, 5000, 1001)),
        ("p1", tcp(client, service, ACK, 1001, 5001)),
        ("p1", tcp(client, service, PSH | ACK, 1001, 5001, b"GET / HTTP/1.0\r\n\r\n")),
        ("p2", tcp(server, client, PSH | ACK, 5001, 1019, b"HTTP/1.0 200 OK\r\n\r\n")),
        ("p2", tcp(server, client, ACK, 999999999, 1019)),  # far outside the window
        ("p1", tcp(client, server, SYN, 1, 0)),  # no filter takes it
    ]))
