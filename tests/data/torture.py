"""Treats an echo service badly, and checks that every frame comes back as it was sent.

usage: torture.py HOST:PORT
"""
import socket
import struct
import sys
import threading

APPLICATION_MAX = 0xFEFF
PING, PONG = 0xFF03, 0xFF04


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def frame(message_type, payload, correlation=None, checksum=False):
    flags = (1 if checksum else 0) | (0 if correlation is None else 2)
    body = struct.pack(">HBB", message_type, flags, 1)
    if correlation is not None:
        body += struct.pack(">Q", correlation)
    body += payload
    if checksum:
        body += struct.pack(">I", crc32c(body))
    return struct.pack(">I", len(body)) + body


class Connection:
    def __init__(self, address):
        self.sock = socket.create_connection(address, timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def expect(self, data):
        while len(self.buffer) < len(data):
            piece = self.sock.recv(1 << 20)
            assert piece, f"closed with {len(data) - len(self.buffer)} bytes missing"
            self.buffer += piece
        assert self.buffer[: len(data)] == data, f"got {self.buffer[:80]!r}, sent {data[:80]!r}"
        self.buffer = self.buffer[len(data) :]

    def expect_end(self):
        assert self.buffer == b"", self.buffer[:80]
        assert self.sock.recv(1) == b"", "more than was sent"
        self.sock.close()


def vectors():
    assert crc32c(b"123456789") == 0xE3069283
    plain = frame(7, b"hi")
    assert plain == bytes.fromhex("00000006000700016869")
    summed = frame(7, b"hi", checksum=True)
    assert summed == bytes.fromhex("0000000a00070101686983a4e418")
    both = frame(7, b"hi", 0x0102030405060708, True)
    assert both == bytes.fromhex("000000120007030101020304050607086869" "90dae3be")
    return [plain, summed, both, frame(0, b""), frame(APPLICATION_MAX, bytes(range(256)) * 40)]


def whole(address):
    connection = Connection(address)
    for data in vectors():
        connection.sock.sendall(data)
        connection.expect(data)
    connection.sock.shutdown(socket.SHUT_WR)
    connection.expect_end()


def cut_at_every_byte(address):
    connection = Connection(address)
    for data in vectors()[:4]:
        for cut in range(len(data) + 1):
            connection.sock.sendall(data[:cut])
            connection.sock.sendall(data[cut:])
            connection.expect(data)
        for byte in data:
            connection.sock.sendall(bytes([byte]))
        connection.expect(data)
    connection.sock.shutdown(socket.SHUT_WR)
    connection.expect_end()


def many_in_one_write(address):
    connection = Connection(address)
    data = b"".join(vectors()) * 50
    connection.sock.sendall(data)
    connection.expect(data)
    # The protocol's own do not disturb the order of the others.
    connection.sock.sendall(frame(1, b"a") + frame(PING, b"p") + frame(1, b"b"))
    received = sorted(read_frames(connection, 3))
    assert received == sorted([frame(1, b"a"), frame(PONG, b"p"), frame(1, b"b")]), received
    connection.sock.shutdown(socket.SHUT_WR)
    connection.expect_end()


def read_frames(connection, count):
    frames = []
    while len(frames) < count:
        while len(connection.buffer) < 4 or len(connection.buffer) < 4 + length(connection):
            piece = connection.sock.recv(1 << 16)
            assert piece, "closed"
            connection.buffer += piece
        size = 4 + length(connection)
        frames.append(connection.buffer[:size])
        connection.buffer = connection.buffer[size:]
    return frames


def length(connection):
    return struct.unpack(">I", connection.buffer[:4])[0]


def pipeline(address):
    connection = Connection(address)
    data = b"".join(frame(7, struct.pack(">I", number)) for number in range(100_000))
    # Whoever writes without reading is not read either, once all buffers on the way are full.
    writer = threading.Thread(target=write_and_end, args=(connection.sock, data))
    writer.start()
    connection.expect(data)
    connection.expect_end()
    writer.join()


def write_and_end(sock, data):
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    host, port = sys.argv[1].rsplit(":", 1)
    for test in (whole, cut_at_every_byte, many_in_one_write, pipeline):
        test((host, int(port)))
        print(test.__name__)
