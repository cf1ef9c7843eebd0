"""The Python package `websockets` as the other side; see web_socket_interop.rs, and ws_peer.cjs,
which does the same.

  client URL [AUTHORITY.pem]   plays on a Play server, ends well if all was as it has to be
  raw URL                      talks to an echo of messages
  server                       serves /ws (packets) and /echo; says `port N`, ends with its input
"""

import asyncio
import os
import ssl
import struct
import sys
import threading

import websockets

LIMIT = 2 << 20


def head(identifier):
    return 1 + len(identifier) + 2 + 8 + 2 + 4


def pattern(length):
    return bytes((n * 31 + n // 251) & 255 for n in range(length))


def packet(identifier, seq, stage, payload, error=None):
    """A packet with its length: from a client, or with an error code from a server."""
    body = bytes([len(identifier)]) + identifier.encode() + struct.pack("<Hq", seq, stage)
    if error is not None:
        body += struct.pack("<Hi", error, 0)
    body += payload
    return struct.pack("<i", len(body)) + body


class Packets:
    """Messages are pieces of a stream of packets."""

    def __init__(self, socket, fixed):
        self.socket, self.fixed, self.rest = socket, fixed, b""

    async def next(self):
        while len(self.rest) < 4 or len(self.rest) < 4 + self.length():
            message = await self.socket.recv()
            assert isinstance(message, bytes)
            self.rest += message
        end = 4 + self.length()
        body, self.rest = self.rest[4:end], self.rest[end:]
        at = 1 + body[0]
        seq, stage = struct.unpack_from("<Hq", body, at)
        if self.fixed == 16:
            error, original_size = struct.unpack_from("<Hi", body, at + 10)
            assert error == 0 and original_size == 0
        return body[1:at].decode(), seq, stage, body[at + self.fixed :]

    def length(self):
        return struct.unpack_from("<i", self.rest)[0]


def connect(url, authority=None):
    options = {"max_size": None}
    if authority:
        context = ssl.create_default_context(cafile=authority)
        options.update(ssl=context, server_hostname="play.test")
    return websockets.connect(url, **options)


async def close(socket, code, reason):
    await socket.close(code, reason)
    assert socket.close_code == code, socket.close_code


async def client(url, authority=None):
    async with connect(url, authority) as socket:
        packets = Packets(socket, 16)
        await socket.send(packet("AuthenticateRequest", 1, 1, b"python"))
        _, seq, stage, payload = await packets.next()
        assert (seq, stage, payload) == (1, 1, b"welcome")
        lengths = [0, 1, 125, 126, 65535, 65536, 1 << 20, LIMIT - head("Echo")]
        for seq, length in enumerate(lengths, 3):
            payload = pattern(length)
            await socket.send(packet("Echo", seq, 1, payload))
            assert await packets.next() == ("Echo", seq, 1, payload), length
        # Several packets in a message, one in several messages, a message in several frames.
        stream = b"".join(packet("Echo", n, 1, bytes([n])) for n in (7, 8, 9))
        await socket.send(stream)
        for at in range(0, len(stream), 5):
            await socket.send(stream[at : at + 5])
        await socket.send([stream[:20], stream[20:40], stream[40:]])
        for _ in range(3):
            for n in (7, 8, 9):
                assert await packets.next() == ("Echo", n, 1, bytes([n]))
        await (await socket.ping(b"alive?"))
        await close(socket, 1000, "done")


async def raw(url):
    async with connect(url) as socket:
        for length in (0, 125, 126, 65535, 65536, 1 << 20):
            await socket.send(pattern(length))
            assert await socket.recv() == pattern(length), length
        await socket.send("舞台")
        assert await socket.recv() == "舞台"
        await close(socket, 4000, "enough")


async def play(socket):
    """Answers as the tests expect: see `Room` in room.rs."""
    packets = Packets(socket, 10)
    while True:
        identifier, seq, stage, payload = await packets.next()
        answer = packet(identifier, seq, stage, payload, 0)
        if identifier == "AuthenticateRequest":
            await socket.send(packet("Answer", seq, stage, b"welcome", 0))
        elif identifier == "Ping":
            await (await socket.ping(payload))
            await socket.send(packet("Pong", 0, 1, payload, 0))
        elif identifier == "Close":
            return await socket.close(4000, "enough")
        elif identifier == "Bits":
            third = len(answer) // 3
            await socket.send([answer[:third], answer[third : 2 * third], answer[2 * third :]])
        elif seq > 0:
            await socket.send(answer)


async def serve(socket):
    old = hasattr(socket, "path")  # before version 14
    path = socket.path if old else socket.request.path
    try:
        if path == "/ws":
            return await play(socket)
        async for message in socket:
            await socket.send(message)
    except websockets.ConnectionClosed:
        pass


async def server():
    listening = await websockets.serve(serve, "127.0.0.1", 0, max_size=None)
    print("port", listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.Future()


def end_with_input():
    sys.stdin.buffer.read()
    os._exit(0)


what, rest = sys.argv[1], sys.argv[2:]
if what == "server":
    threading.Thread(target=end_with_input, daemon=True).start()
asyncio.run({"client": client, "raw": raw, "server": server}[what](*rest))
print("ok")
