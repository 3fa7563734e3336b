#!/usr/bin/env python3
"""A client of nebnet in a few lines: sends three messages and prints the answers.

usage: client.py [HOST:PORT]
"""
import socket
import struct
import sys


def send(sock, message_type, payload):
    # length (of what follows it), type, flags, version, payload
    sock.sendall(struct.pack(">IHBB", 4 + len(payload), message_type, 0, 1) + payload)


def receive_exactly(sock, size):
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError("the service closed the connection")
        data += piece
    return data


def receive(sock):
    while True:
        length, message_type, flags, _version = struct.unpack(">IHBB", receive_exactly(sock, 8))
        body = receive_exactly(sock, length - 4)
        if message_type >= 0xFF00:
            continue  # the protocol's own: not for us
        if flags & 2:
            body = body[8:]  # correlation
        if flags & 1:
            body = body[:-4]  # CRC-32C
        return message_type, body


def main():
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8680").rsplit(":", 1)
    messages = [(1, b"hello"), (2, b""), (3, "h\u00e9llo again".encode())]
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        for message_type, payload in messages:
            send(sock, message_type, payload)
        for _ in messages:
            message_type, payload = receive(sock)
            print(f"type {message_type}: {payload.decode()}")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main()
