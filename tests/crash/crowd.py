#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ten thousand clients come back at once, each from its own position, while new events are published.

Every stream must be complete: from the position on, each offset once, in order, to the last event.  The
clients are raw sockets in one process, from several addresses of loopback; use ./dev crash --crowd.
"""

import argparse
import json
import os
import resource
import selectors
import socket
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "system")]

import harness  # noqa: E402

TOPIC = "log.crowd"
BEFORE, DURING = 12, 8  # events stored before they come, and published while they do
PER_ADDRESS = 2500
AT_ONCE = 1000  # connections without an answer to their SYN or upgrade; a listener's queue is no longer


class One:
    """A client: connects, upgrades, subscribes from its position, and counts."""

    def __init__(self, crowd, number):
        self.crowd, self.at, self.text, self.head = crowd, number % BEFORE, b"", False
        self.fault = None
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
        self.socket.bind((f"127.0.0.{2 + number // PER_ADDRESS}", 0))
        self.socket.connect_ex(crowd.broker.http)

    def writable(self):
        """Connected: the upgrade."""
        self.socket.send(self.crowd.upgrade)

    def readable(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("closed by the broker")
        self.text += data
        if not self.head:
            head, end, rest = self.text.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise EOFError(head[:200])
            self.head, self.text = True, rest
            self.crowd.waiting -= 1
            frame = {"type": "subscribe", "topic": TOPIC, "since": {"epoch": self.crowd.epoch, "offset": self.at}}
            self.socket.send(harness.RawWs.pack(harness.RawWs.TEXT, json.dumps(frame).encode()))
        self.frames()

    def frames(self):
        text, at = self.text, 0
        while len(text) - at >= 2:
            size, head = text[at + 1] & 127, 2
            if size == 126:
                size, head = int.from_bytes(text[at + 2:at + 4], "big"), 4
            if size == 127 or len(text) - at < head + size:
                break
            if text[at] & 15 == harness.RawWs.TEXT:
                self.frame(json.loads(text[at + head:at + head + size]))
            at += head + size
        self.text = text[at:]

    def frame(self, frame):
        if frame["type"] == "event":
            if frame["offset"] != self.at + 1 or frame["data"] != f"event {self.at + 1}":
                self.fault = f"{frame} where {self.at + 1} belongs"
            self.at = frame["offset"]
        elif frame["type"] == "subscribed":
            if not frame["recovered"]:
                self.fault = f"not recovered: {frame}"
        elif frame["type"] != "welcome":
            self.fault = str(frame)


class Crowd:
    def __init__(self, clients):
        self.clients = clients
        self.broker = harness.Broker(env={"POSTERN_TOPICS__DURABLE": "log.**", "POSTERN_WORKERS": "2"})

    def publish(self, number):
        reply = self.broker.call("POST", f"/api/v1/topics/{TOPIC}?durability=synced", f'"event {number}"'.encode(),
                                 token=self.broker.token(), headers={"Content-Type": "application/json"})
        if reply.status != 202 or reply.data["offset"] != number:
            raise AssertionError(f"event {number}: {reply}")
        self.epoch = reply.data["epoch"]

    def play(self, patience):
        """Returns the faults and the seconds until everybody had everything."""
        self.broker.start()
        for number in range(1, BEFORE + 1):
            self.publish(number)
        self.broker.kill()
        self.broker.start()
        host, port = self.broker.http
        self.upgrade = (f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                        f"Authorization: Bearer {self.broker.token()}\r\n\r\n").encode()
        begin = time.monotonic()
        ones = self.storm(begin + patience)
        took = time.monotonic() - begin
        last = BEFORE + DURING
        faults = [f"client {i}: {one.fault or f'has {one.at} of {last}'}"
                  for i, one in enumerate(ones) if one.fault or one.at != last]
        for one in ones:
            one.socket.close()
        if len(ones) < self.clients:
            faults.append(f"only {len(ones)} clients came")
        return faults, took

    def storm(self, end):
        ones, published, done = [], BEFORE, 0
        self.waiting = 0
        with selectors.EpollSelector() as poll:
            while done < self.clients and time.monotonic() < end:
                while len(ones) < self.clients and self.waiting < AT_ONCE:
                    one = One(self, len(ones))
                    poll.register(one.socket, selectors.EVENT_WRITE, one)
                    ones.append(one)
                    self.waiting += 1
                # New events come all the while they do.
                if published < BEFORE + DURING and len(ones) >= self.clients * (published - BEFORE + 1) / DURING:
                    published += 1
                    self.publish(published)
                for key, events in poll.select(0.1):
                    one = key.data
                    try:
                        if events & selectors.EVENT_WRITE:
                            one.writable()
                            poll.modify(one.socket, selectors.EVENT_READ, one)
                        else:
                            one.readable()
                    except (OSError, EOFError) as error:
                        one.fault = repr(error)
                    if one.fault or one.at == BEFORE + DURING:
                        poll.unregister(one.socket)
                        done += 1
        return ones

    def run(self, patience):
        try:
            return self.play(patience)
        finally:
            self.broker.kill()
            self.broker.remove()


def room_for(clients):
    """As many clients as there are file descriptors for, here and in the broker, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(clients + 500, hard) if hard != resource.RLIM_INFINITY else clients + 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(clients, soft - 500)


def main():
    p = argparse.ArgumentParser(prog="dev crash --crowd", description=__doc__.split("\n")[0])
    p.add_argument("--crowd", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--clients", type=int, default=10000, metavar="N")
    a = p.parse_args()
    clients = room_for(a.clients)
    faults, took = Crowd(clients).run(120)
    print(f"crowd: {clients} clients came back and had everything after {took:.1f} s")
    for fault in faults[:20]:
        print(fault)
    return 1 if faults or clients < a.clients else 0


if __name__ == "__main__":
    sys.exit(main())
