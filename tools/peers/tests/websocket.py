"""The checks of a WebSocket echo (RFC 6455), with a client of their own."""
import base64
import hashlib
import os
import select
import struct
import threading

from server import (FRAME_MAX, PATIENCE_S, Server, close_with_reset, expect, expect_echo, receive)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MEMORY_GROWTH_MAX_KB = 64 * 1024
FLOOD_BYTES = 256 * 1024 * 1024  # far more than socket buffers, queues and that growth together
ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


def masked(data, key):
    whole = (key * (len(data) // 4 + 1))[:len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(data), "big")


def frame(payload, opcode=BINARY, fin=True, key=b"\x12\x34\x56\x78"):
    """As a client sends it."""
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 1 << 16:
        size = struct.pack(">BH", 0x80 | 126, length)
    else:
        size = struct.pack(">BQ", 0x80 | 127, length)
    return bytes([fin << 7 | opcode]) + size + key + masked(payload, key)


class Messages(Server):
    """An echo server of WebSocket messages."""

    def __init__(self, binary, options):
        super().__init__(binary, ["--shards", str(options.shards), *options.more])

    def connect(self, receive_bytes=None):
        return WebSocket(self.connect_tcp(receive_bytes), self.address)


class WebSocket:
    """A client's end of a connection."""

    def __init__(self, raw, address):
        self.raw = raw
        key = base64.b64encode(os.urandom(16))
        raw.sendall(b"GET /any?thing HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\n"
                    b"Sec-WebSocket-Version: 13\r\n\r\n" % (address[0].encode(), address[1], key))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += receive(raw, 1)
        expect(head.startswith(b"HTTP/1.1 101 "), f"the answer to the handshake is {head!r}")
        accept = base64.b64encode(hashlib.sha1(key + ACCEPT).digest())
        lines = [line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:] if line]
        fields = {name.strip(): value.strip() for name, value in lines}
        expect(fields.get(b"sec-websocket-accept") == accept.lower(), f"wrong key in {head!r}")
        expect(b"sec-websocket-extensions" not in fields, f"an extension nobody asked for: {head!r}")

    def send(self, payload, opcode=BINARY, fin=True):
        self.raw.sendall(frame(payload, opcode, fin))

    def receive_frame(self):
        """One frame: its opcode and its payload."""
        first, second = receive(self.raw, 2)
        expect(first & 0x70 == 0 and second < 128, f"a server's frame begins {first:x} {second:x}")
        length = second
        if second == 126:
            length = struct.unpack(">H", receive(self.raw, 2))[0]
        elif second == 127:
            length = struct.unpack(">Q", receive(self.raw, 8))[0]
        return first & 0x8F, receive(self.raw, length)

    def receive(self):
        """One message in one frame."""
        first, payload = self.receive_frame()
        expect(first & 0x80, "a message in fragments: an echo has no need of them")
        return first & 0x0F, payload

    def expect_echo(self, payload, opcode=BINARY):
        got_opcode, got = self.receive()
        expect(got_opcode == opcode, f"opcode {got_opcode} instead of {opcode}")
        expect_echo(got, payload)

    def exchange(self, payload, opcode=BINARY):
        """Sends while it reads: neither side holds a large message in its socket."""
        sender = threading.Thread(target=self.send, args=(payload, opcode))
        sender.start()
        try:
            self.expect_echo(payload, opcode)
        finally:
            sender.join()

    def expect_close(self, code=None):
        """The other side ends the connection: with a close frame of `code` if that is given."""
        try:
            if code is not None:
                opcode, payload = self.receive()
                expect(opcode == CLOSE and payload[:2] == struct.pack(">H", code),
                       f"not a close with {code}, but opcode {opcode}: {payload[:20]!r}")
            expect(self.raw.recv(1) == b"", "bytes that were never sent")
        except ConnectionResetError:
            pass  # closed with bytes unread: just as good

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.raw.close()


def every_size_around_the_limits_of_lengths(server, rng):
    with server.connect() as ws:
        for size in (0, 1, 2, 124, 125, 126, 127, 1024, 65534, 65535, 65536, 65537, 262_144):
            ws.exchange(rng.randbytes(size))


def largest_message(server, rng):
    with server.connect() as ws:
        ws.exchange(rng.randbytes(FRAME_MAX))
        ws.exchange(b"small")
        ws.exchange(rng.randbytes(FRAME_MAX))


def one_byte_at_a_time(server, _):
    with server.connect() as ws:
        for payload in (b"", b"x", bytes(range(200))):
            for byte in frame(payload):
                ws.raw.sendall(bytes([byte]))
            ws.expect_echo(payload)


def text_stays_text(server, _):
    with server.connect() as ws:
        ws.exchange("größer €".encode(), TEXT)
        ws.exchange(b"\xff\x00 bytes", BINARY)
        ws.exchange(b"", TEXT)


def fragments_with_a_ping_between(server, _):
    with server.connect() as ws:
        ws.send(b"first,", BINARY, fin=False)
        ws.send(b"are you there?", PING)
        ws.send(b"", CONTINUATION, fin=False)
        ws.send(b"last", CONTINUATION)
        opcode, payload = ws.receive()
        expect((opcode, payload) == (PONG, b"are you there?"), f"not a pong: {opcode} {payload!r}")
        ws.expect_echo(b"first,last")


def a_thousand_pipelined(server, rng):
    payloads = [rng.randbytes(rng.randrange(300)) for _ in range(1000)]
    with server.connect() as ws:
        ws.raw.sendall(b"".join(frame(payload, key=rng.randbytes(4)) for payload in payloads))
        for payload in payloads:
            ws.expect_echo(payload)


def random_pieces(server, rng):
    for _ in range(10):
        payloads = [rng.randbytes(int(rng.paretovariate(0.5)) % 100_000) for _ in range(20)]
        data, at, pieces = b"".join(map(frame, payloads)), 0, []
        while at < len(data):
            n = rng.choice((1, 2, 3, 5, 100, 1460, 65536, 70_000))
            pieces.append(data[at:at + n])
            at += n
        with server.connect() as ws:
            sender = threading.Thread(target=lambda some=pieces, raw=ws.raw:
                                      [raw.sendall(piece) for piece in some])
            sender.start()
            try:
                for payload in payloads:
                    ws.expect_echo(payload)
            finally:
                sender.join()


def close_is_answered(server, _):
    with server.connect() as ws:
        ws.send(b"before the end")
        ws.send(struct.pack(">H", 1000) + b"done", CLOSE)
        ws.expect_echo(b"before the end")
        ws.expect_close(1000)


def many_connections(server, rng):
    sockets = [server.connect() for _ in range(200)]
    payloads = [[rng.randbytes(1000) for _ in range(5)] for _ in sockets]
    for ws, some in zip(sockets, payloads):
        ws.raw.sendall(b"".join(map(frame, some)))
    for ws, some in zip(sockets, payloads):
        for payload in some:
            ws.expect_echo(payload)
        ws.raw.close()


def reset_in_a_frame(server, _):
    for _ in range(50):
        ws = server.connect()
        ws.raw.sendall(frame(bytes(1000))[:100])
        close_with_reset(ws.raw)
    with server.connect() as ws:
        ws.exchange(b"still here")


def message_over_the_limit(server, _):
    with server.connect() as ws:
        ws.raw.sendall(frame(bytes(FRAME_MAX + 1))[:100])
        opcode = None
        try:
            while opcode != CLOSE:
                opcode, _ = ws.receive()
                expect(opcode == CLOSE, f"opcode {opcode} for a message over the limit")
        except (AssertionError, ConnectionResetError) as error:
            expect("over the limit" not in str(error), str(error))
    with server.connect() as ws:
        ws.exchange(b"others are served")


def a_request_without_upgrade_is_refused(server, _):
    with server.connect_tcp() as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        try:
            line = s.recv(13)
        except ConnectionResetError:
            line = b""
        expect(line == b"" or line[:10] == b"HTTP/1.1 4", f"answered with {line!r}")
    with server.connect() as ws:
        ws.exchange(b"others are served")


def reader_that_stops(server, rng):
    """A peer that sends without reading is read no more, or is closed; either way the memory is
    bounded. One that is read no more then gets everything, in order."""
    payloads = [rng.randbytes(n) for n in (10, 1024, 0, 60_000, 3000)]
    block = b"".join(map(frame, payloads))
    with server.connect() as ws, server.connect() as other:
        before = server.peak_memory_kb()
        s, sent, closed = ws.raw, 0, False
        s.setblocking(False)
        try:
            # Goes on once the server has taken nothing for a second. Were it merely slow, the
            # reading would begin earlier than intended, and nothing would fail by that.
            while sent < FLOOD_BYTES and select.select([], [s], [], 1)[1]:
                sent += s.send(block[sent % len(block):])
        except (BrokenPipeError, ConnectionResetError):
            closed = True
        expect(sent < FLOOD_BYTES, f"took {sent} bytes from a peer that does not read")
        other.exchange(b"others are served")
        s.settimeout(PATIENCE_S)
        if not closed:
            closed = not everything_comes(ws, block, payloads, sent)
    growth = server.peak_memory_kb() - before
    expect(growth < MEMORY_GROWTH_MAX_KB, f"{growth} kB more memory than before")
    print(f"        the slow reader was {'closed' if closed else 'stopped'}, {growth} kB more")


def everything_comes(ws, block, payloads, sent):
    """Reads what was answered; false if the server had closed the connection."""
    whole, rest = divmod(sent, len(block))

    def send_rest():
        try:
            ws.raw.sendall(block[rest:] if rest else b"")
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed: the reader notices

    sender = threading.Thread(target=send_rest)
    sender.start()
    try:
        for _ in range(whole + bool(rest)):
            for payload in payloads:
                first, body = ws.receive_frame()
                if first & 0x0F == CLOSE:
                    return False
                expect_echo(body, payload)
    except ConnectionResetError:
        return False
    except AssertionError as error:
        if "connection closed with" not in str(error):
            raise
        return False
    finally:
        sender.join(PATIENCE_S)
    return True


CASES = [every_size_around_the_limits_of_lengths, largest_message, one_byte_at_a_time,
         text_stays_text, fragments_with_a_ping_between, a_thousand_pipelined, random_pieces,
         close_is_answered, many_connections, reset_in_a_frame, message_over_the_limit,
         a_request_without_upgrade_is_refused, reader_that_stops]


def cases(_options):
    return list(CASES)


def wrong_command_lines(_options):
    """The whole command line beside --listen, and wrong ones with the flag that they name."""
    return [], []
