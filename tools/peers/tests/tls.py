"""A TLS client socket for the checks, and a certificate for the server.

Python's own `ssl.SSLSocket` cannot end one direction and go on with the other, nor be used by two
threads at once; this one can, on the same OpenSSL.
"""
import os
import ssl
import subprocess
import tempfile
import threading

RECORD = 16 * 1024  # bytes of plaintext that one record takes at most


class Certificate:
    """A self-signed certificate with a P-256 key, in files of a folder that goes with it."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        cert, key = (os.path.join(self.folder.name, name) for name in ("cert.pem", "key.pem"))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                        "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                        "-keyout", key, "-out", cert], check=True, capture_output=True)
        self.arguments = ["--cert", cert, "--key", key]
        self.trust = self.context(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)

    def context(self, lowest, highest):
        context = ssl.create_default_context(cafile=self.arguments[1])
        context.minimum_version, context.maximum_version = lowest, highest
        return context


class TlsSocket:
    """What the checks use of a socket, over TLS."""

    def __init__(self, raw, context):
        self.raw = raw
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.state = threading.Lock()  # of the four above; held for no system call
        self.order = threading.Lock()  # records are sent in the order in which they are made
        self.unsent = b""  # rest of a record that a non-blocking send could not get rid of
        self.read = bytearray()  # decrypted and not yet taken
        self.ended = False  # the peer has said that nothing more comes
        self._handshake()

    def _handshake(self):
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.raw.sendall(self.outgoing.read())
                self._feed()
        self.raw.sendall(self.outgoing.read())

    def _feed(self):
        data = self.raw.recv(1 << 16)
        with self.state:
            if data:
                self.incoming.write(data)
            else:
                self.incoming.write_eof()

    def _encrypt(self, data):
        with self.state:
            if data:
                self.tls.write(data)
            return self.outgoing.read()

    def sendall(self, data):
        view = memoryview(data)
        with self.order:
            self.raw.sendall(self.unsent)
            self.unsent = b""
            for at in range(0, len(view), RECORD):
                self.raw.sendall(self._encrypt(view[at:at + RECORD]))

    def send(self, data):
        """For a non-blocking socket; 0 while the rest of a record is not sent."""
        with self.order:
            if not self.unsent:
                data = data[:RECORD]
                self.unsent = self._encrypt(data)
                taken = len(data)
            else:
                taken = 0
            try:
                self.unsent = self.unsent[self.raw.send(self.unsent):]
            except BlockingIOError:
                pass
            return taken

    def recv(self, length):
        while not self.read and not self.ended:
            if not self._decrypt():
                self._feed()
        part = bytes(self.read[:length])
        del self.read[:length]
        return part

    def _decrypt(self):
        """Everything that has arrived; false if that is nothing."""
        with self.state:
            before = len(self.read)
            try:
                while True:
                    part = self.tls.read(RECORD)
                    if not part:
                        raise ssl.SSLZeroReturnError()
                    self.read += part
            except ssl.SSLWantReadError:
                return len(self.read) > before
            except ssl.SSLZeroReturnError:
                self.ended = True
                return True

    def shutdown(self, _how):
        """Ends the sending direction: everything decrypted so far was taken out before."""
        with self.order:
            with self.state:
                try:
                    self.tls.unwrap()
                except ssl.SSLWantReadError:
                    pass
                last = self.outgoing.read()
            self.raw.sendall(self.unsent + last)
            self.unsent = b""

    def setsockopt(self, *option):
        self.raw.setsockopt(*option)

    def settimeout(self, seconds):
        self.raw.settimeout(seconds)

    def setblocking(self, blocking):
        self.raw.setblocking(blocking)

    def fileno(self):
        return self.raw.fileno()

    def close(self):
        self.raw.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
