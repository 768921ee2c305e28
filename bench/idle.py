#!/usr/bin/env python3
"""Memory of an idle WebSocket connection with a session and one subscription, in user space.

    bench/idle.py [PROGRAM] [CONNECTIONS]       default: build/postern 5000

Starts a broker of its own, connects, and divides the growth of the broker's private memory (smaps_rollup) by the
number of connections.  The first 200 connections warm pools and tables up and are not counted.
"""

import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import tempfile

WARM = 200


def frame(text):
    data = text.encode()
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data)]) + b"\0\0\0\0" + data


def message(file):
    n = file.read(2)[1]
    if n == 126:
        n = struct.unpack(">H", file.read(2))[0]
    return file.read(n)


def connect(host, port, token):
    s = socket.create_connection((host, port))
    with s.makefile("rb") as file:
        s.sendall(f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                  f"Authorization: Bearer {token}\r\n\r\n".encode())
        while file.readline() != b"\r\n":
            pass
        assert b"welcome" in message(file)
        s.sendall(frame('{"type":"subscribe","topic":"news"}'))
        assert b"subscribed" in message(file)
    return s


def private_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return int(re.search(r"Private_Dirty:\s+(\d+)", f.read())[1]) * 1024


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else "build/postern"
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    resource.setrlimit(resource.RLIMIT_NOFILE, (n + WARM + 100,) * 2)
    with tempfile.TemporaryDirectory() as data:
        env = dict(os.environ, POSTERN_LISTEN__HTTP="127.0.0.1:0", POSTERN_LISTEN__ADMIN="127.0.0.1:0",
                   POSTERN_LIMITS__CONNECTIONS=str(n + WARM), POSTERN_ADMIN_PASSWORD="only for this measurement")
        broker = subprocess.Popen([program, "run", "--data", data, "--print-listen"], env=env, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            host, port = json.loads(broker.stdout.readline())["http"][0].rsplit(":", 1)
            token = subprocess.run([program, "token", "admin", "--data", data], check=True, text=True,
                                   capture_output=True).stdout.strip()
            sockets = [connect(host, int(port), token) for _ in range(WARM)]
            before = private_bytes(broker.pid)
            sockets += [connect(host, int(port), token) for _ in range(n)]
            print(f"{(private_bytes(broker.pid) - before) / n:.0f} bytes for each of {n} connections")
        finally:
            broker.terminate()
            broker.wait()


if __name__ == "__main__":
    main()
