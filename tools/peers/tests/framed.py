"""The checks of a framed echo, over TCP or TLS."""
import select
import socket
import ssl
import struct
import threading

from server import (FRAME_MAX, PATIENCE_S, Server, close_with_reset, expect, expect_echo, receive)
from tls import TlsSocket

MEMORY_MAX_KB = 64 * 1024
FLOOD_BYTES = 96 * 1024 * 1024  # far more than socket buffers and any queue may hold together


class Framed(Server):
    """An echo server of frames: `u32 length | body`."""

    def __init__(self, binary, options):
        self.byte_echo = options.byte_echo
        self.order = ">" if options.framing == "be32" else "<"
        self.certificate = options.certificate
        arguments = ["--shards", str(options.shards), "--framing", options.framing, *options.more]
        if self.certificate:
            arguments += self.certificate.arguments
        super().__init__(binary, arguments)

    def connect(self, receive_bytes=None):
        s = self.connect_tcp(receive_bytes)
        return TlsSocket(s, self.certificate.trust) if self.certificate else s

    def header(self, length):
        return struct.pack(self.order + "I", length)

    def frame(self, body):
        return self.header(len(body)) + body


def exchange(s, pieces):
    """Sends the pieces one by one while reading; what returns must be their concatenation."""
    whole = b"".join(pieces)
    failed = []

    def send():
        try:
            for piece in pieces:
                s.sendall(piece)
        except OSError as error:
            failed.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        got = receive(s, len(whole))
    finally:
        sender.join()
    expect(not failed, f"sending failed: {failed}")
    expect_echo(got, whole)


def expect_nothing_more(s):
    """Half close: everything was answered, so the server closes without another byte."""
    s.shutdown(socket.SHUT_WR)
    expect(s.recv(1) == b"", "bytes that were never sent")


def one_byte_at_a_time(server, _):
    data = b"".join(server.frame(bytes(range(n))) for n in (5, 0, 1, 0, 17))
    with server.connect() as s:
        exchange(s, [bytes([b]) for b in data])
        expect_nothing_more(s)


def every_split_of_two_frames(server, _):
    data = server.frame(b"first body") + server.frame(b"the second")
    with server.connect() as s:
        for at in range(1, len(data)):
            s.sendall(data[:at])
            # Waits for what must come, so that the second piece meets a server that has dealt
            # with the first: all bytes of it, or the frame in it that is whole.
            due = at if server.byte_echo else at // 14 * 14
            first = receive(s, due)
            s.sendall(data[at:])
            expect_echo(first + receive(s, len(data) - due), data)
        expect_nothing_more(s)


def empty_bodies(server, _):
    with server.connect() as s:
        exchange(s, [server.frame(b"")])
        exchange(s, [server.frame(b"") * 1000])
        exchange(s, [server.frame(b"") * 3, server.frame(b"x") + server.frame(b"")])
        expect_nothing_more(s)


def largest_body(server, rng):
    with server.connect() as s:
        exchange(s, [server.frame(rng.randbytes(FRAME_MAX))])
        exchange(s, [server.frame(b"small") + server.frame(rng.randbytes(FRAME_MAX)),
                     server.frame(rng.randbytes(FRAME_MAX - 1)) + server.frame(b"")])
        expect_nothing_more(s)


def around_buffer_sizes(server, rng):
    with server.connect() as s:
        for size in (4096, 8192, 65536, 131072, 262144):
            for n in range(size - 9, size + 2):
                exchange(s, [server.frame(rng.randbytes(n)) + server.frame(b"!")])
        expect_nothing_more(s)


def a_thousand_pipelined(server, rng):
    frames = b"".join(server.frame(rng.randbytes(rng.randrange(300))) for _ in range(1000))
    with server.connect() as s:
        exchange(s, [frames])
        expect_nothing_more(s)


def random_pieces(server, rng):
    for _ in range(20):
        data = b"".join(server.frame(rng.randbytes(int(rng.paretovariate(0.5)) % 200_000))
                        for _ in range(50))
        pieces, at = [], 0
        while at < len(data):
            n = rng.choice((1, 2, 3, 5, 100, 1460, 65536, 70_000, 300_000))
            pieces.append(data[at:at + n])
            at += n
        with server.connect() as s:
            exchange(s, pieces)
            expect_nothing_more(s)


def half_close_before_reading(server, rng):
    data = server.frame(rng.randbytes(100_000)) + server.frame(b"last")
    with server.connect() as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        expect_echo(receive(s, len(data)), data)
        expect(s.recv(1) == b"", "bytes that were never sent")


def half_close_while_the_server_writes(server, rng):
    """The end arrives while the socket refuses answers: they still have to come."""
    # More than the socket buffers hold, through a small window: the server is behind with its
    # answers all the time, and so it is when it meets the end.
    data = b"".join(server.frame(rng.randbytes(1000)) for _ in range(16_000))
    with server.connect(receive_bytes=32 * 1024) as s:
        def send():
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send)
        sender.start()
        try:
            expect_echo(receive(s, len(data)), data)
            expect(s.recv(1) == b"", "bytes that were never sent")
        finally:
            sender.join()


def many_connections(server, rng):
    sockets = [server.connect() for _ in range(200)]
    data = [server.frame(rng.randbytes(1000)) * 5 for _ in sockets]
    for s, d in zip(sockets, data):
        s.sendall(d)
    for s, d in zip(sockets, data):
        expect_echo(receive(s, len(d)), d)
        s.close()


def reset_in_a_frame(server, _):
    for _ in range(50):
        s = server.connect()
        s.sendall(server.header(1000) + b"part")
        close_with_reset(s)
    with server.connect() as s:
        exchange(s, [server.frame(b"still here")])


def reader_that_stops(server, rng):
    """A peer that sends without reading is stopped; it then gets everything, in order."""
    block = b"".join(server.frame(rng.randbytes(n)) for n in (10, 1024, 0, 60_000, 3000))
    count = FLOOD_BYTES // len(block)
    with server.connect() as s, server.connect() as other:
        s.setblocking(False)
        sent = 0
        # Goes on once the server has taken nothing for half a second. Were it merely slow, the
        # reading would begin earlier than intended, and nothing would fail by that.
        while sent < count * len(block) and select.select([], [s], [], 0.5)[1]:
            at = sent % len(block)
            sent += s.send(block[at:])
        expect(sent < count * len(block), f"took {sent} bytes from a peer that does not read")
        exchange(other, [server.frame(b"others are served")])
        s.settimeout(PATIENCE_S)
        whole, rest = divmod(sent, len(block))
        tail = [block[rest:]] if rest else []
        # Nothing at least: a TLS socket then sends the rest of a record that it has begun.
        sender = threading.Thread(target=lambda: s.sendall(b"".join(tail)))
        sender.start()
        for _ in range(whole + len(tail)):
            expect_echo(receive(s, len(block)), block)
        sender.join()
        expect_nothing_more(s)
    peak = server.peak_memory_kb()
    expect(peak < MEMORY_MAX_KB, f"peak memory {peak} kB, more than {MEMORY_MAX_KB}")


def frame_over_the_limit(server, _):
    for length in (FRAME_MAX + 1, 0x7FFFFFFF, 0xFFFFFFFF):
        with server.connect() as s:
            s.sendall(server.header(length) + b"xxxx")
            try:
                expect(s.recv(1) == b"", f"a frame of {length} bytes was answered")
            except (ConnectionResetError, ssl.SSLEOFError):
                pass  # closed with the four bytes unread, or without a word: just as good
    with server.connect() as s:
        exchange(s, [server.frame(b"others are served")])


def stalled_handshakes(server, _):
    """Peers that begin TLS and go no further, or speak something else, hold nobody up."""
    silent = [server.connect_tcp() for _ in range(20)]
    for s in silent[::2]:
        s.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a record
    with server.connect_tcp() as wrong:
        wrong.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        try:
            while wrong.recv(4096):
                pass  # an alert may come before the end
        except ConnectionResetError:
            pass
    with server.connect() as s:
        exchange(s, [server.frame(b"others are served")])
    for s in silent:
        s.close()


def tls_1_3_only(server, _):
    trust = server.certificate.context(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    try:
        server.connect_tcp().close()
        TlsSocket(server.connect_tcp(), trust).close()
    except (ssl.SSLError, ConnectionResetError):
        return
    raise AssertionError("TLS 1.2 was accepted")


CASES = [one_byte_at_a_time, every_split_of_two_frames, empty_bodies, largest_body,
         around_buffer_sizes, a_thousand_pipelined, random_pieces, half_close_before_reading,
         half_close_while_the_server_writes, many_connections, reset_in_a_frame, reader_that_stops]


def cases(options):
    some = list(CASES)
    if not options.byte_echo:
        some.append(frame_over_the_limit)
    if options.certificate:
        some += [stalled_handshakes, tls_1_3_only]
    return some


def wrong_command_lines(options):
    """The whole command line beside --listen, and wrong ones with the flag that they name."""
    listen = ["--listen", "127.0.0.1:0"]
    if not options.certificate:
        return [], [([*listen, "--framing", "no"], "--framing")]
    good = options.certificate.arguments
    return good, [([*listen, *good, "--framing", "no"], "--framing"),
                  ([*listen, *good[:2]], "--key"),
                  ([*listen, *good[2:]], "--cert")]
