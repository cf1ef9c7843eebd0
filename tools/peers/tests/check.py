#!/usr/bin/env python3
"""Does a peer echo what the wire format says, and behave as a peer has to?

    check.py [--transport tcp|tls|ws|node] [--byte-echo] [--framing be32|le32] [--shards N]
             [--with=FLAG] BINARY...

Starts each binary on a free port of the loopback and checks: the line it prints when ready, the
echo of frames (or WebSocket messages) split at awkward points, half close, back-pressure with a
bounded memory, the answer to a frame over the limit (not with --byte-echo: such a server does not
look at frames), a reset connection, unknown flags, and the end on SIGTERM. Exit code 0 only if
everything held; a binary that is missing is a failure.
"""
import argparse
import os
import random
import sys

import framed
import node
import websocket
from server import command_line, run
from tls import Certificate


def check(binary, options):
    """Runs everything against one binary. Returns the number of failures."""
    if options.transport == "node":
        return node.check(binary)
    kind, service = ((websocket, websocket.Messages) if options.transport == "ws"
                     else (framed, framed.Framed))
    print(binary, flush=True)
    good, wrong = kind.wrong_command_lines(options)
    failures = run("command_line", lambda: command_line(binary, good, wrong))
    for case in kind.cases(options):
        # A process of its own for each, so that the end is checked after each kind of traffic.
        def alone(case=case):
            server = service(binary, options)
            try:
                case(server, random.Random(case.__name__))
                server.stop()
            finally:
                if server.process.poll() is None:
                    server.process.kill()
                    server.process.wait()
        failures += run(case.__name__, alone)
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binaries", nargs="+", metavar="BINARY")
    parser.add_argument("--transport", choices=("tcp", "tls", "ws", "node"), default="tcp",
                        help="what the server speaks")
    parser.add_argument("--byte-echo", action="store_true",
                        help="the server echoes bytes and does not look at frames")
    parser.add_argument("--framing", choices=("be32", "le32"), default="be32")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--with", dest="more", action="append", default=[], metavar="FLAG",
                        help="a further flag for the server, written --with=--flag")
    options = parser.parse_args()
    options.certificate = Certificate() if options.transport == "tls" else None
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
