"""The node of another library: does it answer, count and measure as `proscenium load node` does?"""
import json
import signal
import subprocess

from server import PATIENCE_S, USAGE, Server, expect, run


def command_line(binary):
    """Wrong arguments are named, with the exit code for that."""
    for arguments, named in ((["--nonsense"], "--nonsense"),
                             (["--listen", "127.0.0.1:0", "--size", "24"], "--size"),
                             (["--target", "127.0.0.1:1", "--window", "0"], "--window"),
                             (["--target", "127.0.0.1:1", "--mode", "shout"], "--mode"),
                             ([], "--listen")):
        done = subprocess.run([binary, *arguments], capture_output=True, timeout=PATIENCE_S)
        said = done.stderr.decode()
        expect(done.returncode == USAGE, f"{arguments}: exit code {done.returncode}, not {USAGE}")
        expect(named in said.splitlines()[0] and "usage: " in said,
               f"{arguments}: no usage text that names the flag, but {said!r}")


def load(binary, mode, size, window, bare):
    """The program against itself: everything answered, and everything sent has arrived."""
    # A long queue of long messages would be gigabytes.
    more = ["--mode", mode, "--hwm", str(max(100, 6_400_000 // size)),
            *(["--bare"] if bare else [])]
    server = Server(binary, more)
    try:
        target = "%s:%d" % server.address
        command = [binary, "--target", target, "--size", str(size), "--window", str(window),
                   "--warmup", "0.05", "--measure", "0.1", "--drain", str(PATIENCE_S), *more]
        done = subprocess.run(command, capture_output=True, timeout=2 * PATIENCE_S)
        expect(done.returncode == 0, f"exit code {done.returncode}: {done.stderr!r}")
        record = json.loads(done.stdout)
        expect(record["failures"] == [], record["failures"])
        # On a busy machine nothing may happen inside of the window.
        expect(record["sent"] > 0 and record["throughput"] >= 0, record)
        if mode == "request":
            expect(record["received"] == record["sent"], record)
        server.process.send_signal(signal.SIGTERM)
        out, err = server.process.communicate(timeout=PATIENCE_S)
        expect(server.process.returncode == 0 and out == b"", (server.process.returncode, out))
        # A mark is no message, and all others have been counted before the last one.
        expect(int(err.split()[-2]) == record["sent"], (err, record["sent"]))
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def check(binary):
    """Runs everything. Returns the number of failures."""
    print(binary, flush=True)
    failures = run("command_line", lambda: command_line(binary))
    for mode, size, window in (("send", 64, 1), ("send", 65536, 1), ("request", 64, 1),
                               ("request", 1000, 100), ("request", 65536, 10)):
        for bare in (False, True):
            name = f"{mode}_{size}_{window}{'_bare' if bare else ''}"
            failures += run(name, lambda: load(binary, mode, size, window, bare))
    return failures
