"""What the checks of all peers share: starting and ending a server, and what they say."""
import re
import select
import signal
import socket
import struct
import subprocess
import traceback

PATIENCE_S = 60  # for what must happen; only a server that hangs ever takes this long
FRAME_MAX = 2 * 1024 * 1024
USAGE = 2  # exit code: the command line is wrong


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


class Server:
    """One server process, and connections to it."""

    def __init__(self, binary, arguments):
        command = [binary, "--listen", "127.0.0.1:0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        line = self.process.stdout.readline().decode() if ready else ""
        match = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line)
        if not match or match[1] == "0":
            self.process.kill()
            raise AssertionError(f"first line is {line!r}, not `listening on 127.0.0.1:PORT`")
        self.address = ("127.0.0.1", int(match[1]))

    def connect_tcp(self, receive_bytes=None):
        s = socket.socket()
        s.settimeout(PATIENCE_S)
        if receive_bytes:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        s.connect(self.address)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

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


def close_with_reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


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


def command_line(binary, good, wrong):
    """`good` is a whole command line beside --listen; `wrong` are arguments and what is named."""
    listen = ["--listen", "127.0.0.1:0"]
    for arguments, named in (([*good, "--nonsense"], "--nonsense"),
                             ([*listen, *good, "--wrong=1"], "--wrong"),
                             ([*listen, *good, "--shards", "0"], "--shards"),
                             ([*listen, *good, "--shards"], "--shards"),
                             (["--listen", "nowhere", *good], "--listen"),
                             (good, "--listen"),
                             *wrong):
        done = subprocess.run([binary, *arguments], capture_output=True, timeout=PATIENCE_S)
        said = done.stderr.decode()
        expect(done.returncode == USAGE, f"{arguments}: exit code {done.returncode}, not {USAGE}")
        expect(named in said.splitlines()[0] and "usage: " in said and done.stdout == b"",
               f"{arguments}: no usage text that names the flag, but {said!r}")


def run(name, case):
    """Runs one check and says how it went. Returns the number of failures."""
    try:
        case()
        print(f"  ok    {name}", flush=True)
        return 0
    except Exception as error:  # pylint: disable=broad-except
        print(f"  FAIL  {name}: {error}", flush=True)
        if not isinstance(error, (AssertionError, OSError)):
            traceback.print_exc()
        return 1
