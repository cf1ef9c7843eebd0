#!/usr/bin/env python3
"""Does a peer echo what the wire format says, and behave as a peer has to?

    check.py [--byte-echo] [--framing be32|le32] [--shards N] BINARY...

Starts each binary on a free port of the loopback and checks: the line it prints when ready, the
echo of frames split at awkward points, half close, back-pressure with a bounded memory, the answer
to a frame over the limit (not with --byte-echo: such a server does not look at frames), a reset
connection, unknown flags, and the end on SIGTERM. Exit code 0 only if everything held; a binary
that is missing is a failure.
"""
import argparse
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback

PATIENCE_S = 60  # for what must happen; only a server that hangs ever takes this long
FRAME_MAX = 2 * 1024 * 1024
MEMORY_MAX_KB = 64 * 1024
FLOOD_BYTES = 96 * 1024 * 1024  # far more than socket buffers and any queue may hold together


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


class Server:
    """One server process, and connections to it."""

    def __init__(self, binary, options):
        self.byte_echo = options.byte_echo
        self.order = ">" if options.framing == "be32" else "<"
        command = [binary, "--listen", "127.0.0.1:0", "--shards", str(options.shards),
                   "--framing", options.framing]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        line = self.process.stdout.readline().decode() if ready else ""
        match = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line)
        if not match or match[1] == "0":
            self.process.kill()
            raise AssertionError(f"first line is {line!r}, not `listening on 127.0.0.1:PORT`")
        self.address = ("127.0.0.1", int(match[1]))

    def connect(self, receive_bytes=None):
        s = socket.socket()
        s.settimeout(PATIENCE_S)
        if receive_bytes:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        s.connect(self.address)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def header(self, length):
        return struct.pack(self.order + "I", length)

    def frame(self, body):
        return self.header(len(body)) + body

    def peak_memory_kb(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1])

    def stop(self):
        """SIGTERM: exit code 0, nothing more on stdout, one line on stderr."""
        self.process.send_signal(signal.SIGTERM)
        try:
            out, err = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise AssertionError("still running long after SIGTERM") from None
        expect(self.process.returncode == 0,
               f"exit code {self.process.returncode} after SIGTERM, stderr {err!r}")
        expect(out == b"", f"more than one line on stdout: {out!r}")
        expect(err.count(b"\n") == 1 and err.endswith(b"\n") and err.strip(),
               f"not exactly one summary line on stderr: {err!r}")


def receive(s, length):
    parts, left = [], length
    while left:
        part = s.recv(min(left, 1 << 20))
        expect(part, f"connection closed with {left} of {length} bytes missing")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def expect_echo(got, sent):
    if got == sent:
        return
    at = next((i for i, (a, b) in enumerate(zip(got, sent)) if a != b), min(len(got), len(sent)))
    raise AssertionError(f"echo differs from what was sent at byte {at} of {len(sent)}")


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
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
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
        sender = threading.Thread(target=lambda: [s.sendall(t) for t in tail])
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
            except ConnectionResetError:
                pass  # closed with the four bytes unread: just as good
    with server.connect() as s:
        exchange(s, [server.frame(b"others are served")])


def command_line(binary):
    for arguments, named in ((["--nonsense"], "--nonsense"),
                             (["--listen", "127.0.0.1:0", "--wrong=1"], "--wrong"),
                             (["--listen", "127.0.0.1:0", "--framing", "no"], "--framing"),
                             (["--listen", "127.0.0.1:0", "--shards", "0"], "--shards"),
                             (["--listen", "127.0.0.1:0", "--shards"], "--shards"),
                             (["--listen", "nowhere"], "--listen"),
                             ([], "--listen")):
        done = subprocess.run([binary, *arguments], capture_output=True, timeout=PATIENCE_S)
        said = done.stderr.decode()
        expect(done.returncode == 2, f"{arguments}: exit code {done.returncode}, not 2")
        expect(named in said.splitlines()[0] and "usage: " in said and done.stdout == b"",
               f"{arguments}: no usage text that names the flag, but {said!r}")


def check(binary, options):
    """Runs everything against one binary. Returns the number of failures."""
    cases = [one_byte_at_a_time, every_split_of_two_frames, empty_bodies, largest_body,
             around_buffer_sizes, a_thousand_pipelined, random_pieces, half_close_before_reading,
             half_close_while_the_server_writes, many_connections, reset_in_a_frame,
             reader_that_stops, frame_over_the_limit]
    if options.byte_echo:
        cases.remove(frame_over_the_limit)
    failures = 0

    def run(name, case):
        nonlocal failures
        try:
            case()
            print(f"  ok    {name}", flush=True)
        except Exception as error:  # pylint: disable=broad-except
            failures += 1
            print(f"  FAIL  {name}: {error}", flush=True)
            if not isinstance(error, (AssertionError, OSError)):
                traceback.print_exc()

    print(binary, flush=True)
    run("command_line", lambda: command_line(binary))
    for case in cases:
        # A process of its own for each, so that the end is checked after each kind of traffic.
        def alone(case=case):
            server = Server(binary, options)
            try:
                case(server, random.Random(case.__name__))
                server.stop()
            finally:
                if server.process.poll() is None:
                    server.process.kill()
                    server.process.wait()
        run(case.__name__, alone)
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binaries", nargs="+", metavar="BINARY")
    parser.add_argument("--byte-echo", action="store_true",
                        help="the server echoes bytes and does not look at frames")
    parser.add_argument("--framing", choices=("be32", "le32"), default="be32")
    parser.add_argument("--shards", type=int, default=1)
    options = parser.parse_args()
    failures = 0
    for binary in options.binaries:
        if not os.access(binary, os.X_OK):
            print(f"{binary}\n  FAIL  is not there, or is not executable")
            failures += 1
            continue
        failures += check(binary, options)
    print("all checks hold" if not failures else f"{failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
