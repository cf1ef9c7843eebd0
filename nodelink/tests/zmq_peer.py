"""A ZeroMQ peer for tests/interop.rs: a ROUTER that answers requests as a server of the mesh would.

zmq_peer.py IDENTITY [bind=PORT] [connect=PORT]... [split] [plain] [heartbeat=MS] [dealer]

Writes `port N` once it listens. Reads lines from its standard input:
  send TARGET PAYLOAD           a message without an answer
  request TARGET SEQ LENGTH     a request with a payload of that length
  parts TARGET N                a message of N parts
Writes a line for whatever arrives: `message`, `request`, `reply`, each with sender, number, message
id, error code and length of the payload.
"""

import sys
import time

import zmq

RECV_FLAGS = zmq.NOBLOCK


def put_varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def decode(data):
    fields, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            length, at = varint(data, at)
            value = data[at:at + length]
            at += length
        else:
            raise ValueError("wire type")
        fields[key >> 3] = value
    return fields


def encode(fields):
    out = b""
    for field, value in sorted(fields.items()):
        if isinstance(value, bytes):
            out += put_varint(field << 3 | 2) + put_varint(len(value)) + value
        elif value:
            out += put_varint(field << 3) + put_varint(value)
    return out


SEQ, MSG_ID, ERROR, FROM, IS_REPLY, SIZE = 1, 3, 4, 5, 9, 10


def say(*words):
    print(*words, flush=True)


def open_socket(context, kind, identity, words):
    socket = context.socket(kind)
    socket.setsockopt(zmq.ROUTING_ID, identity)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 100000)
    socket.setsockopt(zmq.RCVHWM, 100000)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if "plain" in words:
        socket.setsockopt(zmq.PLAIN_USERNAME, b"user")
        socket.setsockopt(zmq.PLAIN_PASSWORD, b"secret")
    for word in words:
        if word.startswith("heartbeat="):
            socket.setsockopt(zmq.HEARTBEAT_IVL, int(word[10:]))
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20 * int(word[10:]))
            socket.setsockopt(zmq.HEARTBEAT_TTL, 100 * int(word[10:]))
    return socket


def main():
    identity, words = sys.argv[1].encode(), sys.argv[2:]
    context = zmq.Context()
    kind = zmq.DEALER if "dealer" in words else zmq.ROUTER
    receiving = open_socket(context, kind, identity, words)
    sending = open_socket(context, kind, identity, words) if "split" in words else receiving
    for word in words:
        if word.startswith("bind="):
            receiving.bind("tcp://127.0.0.1:" + (word[5:] if word[5:] != "0" else "*"))
            say("port", receiving.getsockopt(zmq.LAST_ENDPOINT).decode().rsplit(":", 1)[1])
        if word.startswith("connect="):
            sending.connect("tcp://127.0.0.1:" + word[8:])

    def send(target, parts, patience=0):
        until = time.monotonic() + patience
        while True:
            try:
                return sending.send_multipart(parts if kind == zmq.DEALER else [target] + parts)
            except zmq.ZMQError as error:
                # The other end may be ready before this one is.
                if time.monotonic() > until:
                    return say("unroutable", error)
                time.sleep(0.01)

    def received(parts):
        if kind == zmq.DEALER:
            parts = [b"-"] + parts
        if len(parts) != 3:
            say("parts", len(parts))
            return
        sender, head, payload = parts
        fields = decode(head)
        assert fields.get(SIZE, 0) == len(payload), "payload_size"
        seq, error = fields.get(SEQ, 0), fields.get(ERROR, 0)
        word = "reply" if fields.get(IS_REPLY) else "request" if seq else "message"
        msg_id = fields.get(MSG_ID, b"").decode()
        # After a handover libzmq gives what it still has of the old connection a random name.
        say(word, sender.decode(errors="replace"), seq, msg_id, error, len(payload))
        if word == "request" and msg_id != "Keep":
            error = 1234 if msg_id == "Fail" else 0
            answer = {SEQ: seq, MSG_ID: msg_id.encode(), ERROR: error, FROM: identity,
                      IS_REPLY: 1, SIZE: len(payload)}
            send(sender, [encode(answer), payload])

    def asked(line):
        word, target, *rest = line.split()
        target = target.encode()
        if word == "send":
            payload = rest[0].encode()
            head = {MSG_ID: b"Send", FROM: identity, SIZE: len(payload)}
            send(target, [encode(head), payload], 60)
        elif word == "request":
            payload = b"x" * int(rest[1])
            head = {SEQ: int(rest[0]), MSG_ID: b"Echo", FROM: identity, SIZE: len(payload)}
            send(target, [encode(head), payload], 60)
        elif word == "parts":
            send(target, [b"part"] * int(rest[0]), 60)

    poller = zmq.Poller()
    poller.register(receiving, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if receiving in ready:
            while True:
                try:
                    received(receiving.recv_multipart(RECV_FLAGS))
                except zmq.Again:
                    break
        if sys.stdin.fileno() in ready:
            line = sys.stdin.readline()
            if not line:
                return
            asked(line)


main()
