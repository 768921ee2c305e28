#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""More work than the broker can take: it says so, stays within its memory, and comes back."""

import collections
import http.client
import json
import threading
import unittest

import harness
from harness import PATIENCE, RawHttp, RawWs, SystemTest, Ws, Zmq, exchange, wait_until, zmq_ask

API = "/api/v1"
MIB = 1 << 20
SANITIZED = harness.SLOW  # its allocator keeps what is freed: what it shows is not the broker's


def peak_bytes(broker):
    """The most that was ever resident."""
    with open(f"/proc/{broker.process.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM:"))


def pressed(broker):
    return broker.metric("postern_memory_pressure") == 1


class LargeAnswersTest(SystemTest):
    """Clients that ask for much more at once than the budget holds."""

    env = {"POSTERN_LIMITS__MEMORY": "128MiB"}
    CONNECTIONS, PIPELINE = 20, 8 if SANITIZED else 32

    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user("ann")
        cls.conversation = cls.broker.conversation(cls.ann)
        connection = http.client.HTTPConnection(*cls.broker.http, timeout=PATIENCE)
        for _ in range(200):
            reply = exchange(connection, "POST", API + "/conversations/messages",
                             {"content": "x" * 7000, "conversationId": cls.conversation},
                             token=cls.ann["token"])
            assert reply.status in (200, 201), reply
        connection.close()

    def history(self):
        # The longest deadline: what a slow machine lets expire was not refused for memory.
        return (f"GET {API}/conversations/{self.conversation}/messages?limit=200 HTTP/1.1\r\n"
                f"Host: localhost\r\nRequest-Timeout: {5 if SANITIZED else 60}\r\n"
                f"Authorization: Bearer {self.ann['token']}\r\n\r\n").encode()

    def test_every_request_is_answered_within_the_budget(self):
        """Far more than the budget is asked for at once; each request gets 200, 503 or 504."""
        statuses = [collections.Counter() for _ in range(self.CONNECTIONS)]

        def client(counter):
            raw = RawHttp(self.broker.http, PATIENCE * 3)
            raw.send(self.history() * self.PIPELINE)
            for _ in range(self.PIPELINE):
                reply = raw.reply()
                counter[reply.status] += 1
                if reply.status == 503:
                    counter["retry"] += reply.headers.get("Retry-After") == "1"
            raw.close()

        threads = [threading.Thread(target=client, args=(c,)) for c in statuses]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        total = sum(statuses, collections.Counter())
        self.assertEqual(total[200] + total[503] + total[504], self.CONNECTIONS * self.PIPELINE, total)
        self.assertGreater(total[200], 0, total)
        self.assertGreater(total[503] + (total[504] if SANITIZED else 0), 0, total)
        self.assertEqual(total["retry"], total[503], total)
        if not SANITIZED:
            self.assertLess(peak_bytes(self.broker), 1.6 * 128 * MIB)
            # Which limit is met first is a matter of the disk's pace; PressureTest is about memory.
            shed = [self.broker.metric("postern_shed_total", f'reason="{r}"') for r in ("memory", "delay")]
            self.assertGreater(sum(shed), 0, total)
        self.assertEqual(self.broker.metric("postern_memory_limit_bytes"), 128 * MIB)
        wait_until(lambda: not pressed(self.broker), "the pressure to end")
        wait_until(lambda: self.broker.call("GET", API + "/conversations", token=self.ann["token"]).status == 200,
                   "calm")


class UnreadAnswersTest(SystemTest):
    """A ZeroMQ peer that asks and does not read: what waits for it in libzmq is in the budget."""

    # A slow machine may take its time: memory is what runs out here, neither a deadline nor patience with a queue.
    env = {"POSTERN_LIMITS__MEMORY": "32MiB", "POSTERN_LIMITS__REQUEST_TIMEOUT": "60s",
           "POSTERN_LIMITS__QUEUE_DELAY": "0"}

    def test_what_nobody_reads_counts(self):
        ann = self.broker.user("ann")
        conversation = self.broker.conversation(ann)
        connection = http.client.HTTPConnection(*self.broker.http, timeout=PATIENCE)
        self.addCleanup(connection.close)
        for _ in range(16):
            self.assertOk(exchange(connection, "POST", API + "/conversations/messages",
                                   {"content": "x" * 65000, "conversationId": conversation},
                                   token=ann["token"]), 201)
        z = Zmq()
        self.addCleanup(z.close)
        dealer = z.dealer(self.broker.zmq, rcvhwm=1)
        page = {"method": "GET", "path": f"{API}/conversations/{conversation}/messages",
                "token": ann["token"]}
        for i in range(64):  # of 1 MiB each
            dealer.send_multipart([b"", json.dumps({**page, "id": i}).encode()])
        wait_until(lambda: pressed(self.broker), "the budget to be spent")
        self.assertProblem(exchange(connection, "GET", API + "/conversations", token=ann["token"]),
                           503, "overloaded")
        dealer.close()
        wait_until(lambda: not pressed(self.broker), "the pressure to end")
        self.assertOk(self.broker.call("GET", API + "/conversations", token=ann["token"]))


class PressureTest(SystemTest):
    """Bodies that do not end fill the budget.  What each protocol is told, and that it passes."""

    # Those bodies stay for as long as a slow machine needs, and a queue is no reason to refuse what comes behind them.
    env = {"POSTERN_LIMITS__MEMORY": "32MiB", "POSTERN_LIMITS__BODY_TIMEOUT": "10m", "POSTERN_LIMITS__QUEUE_DELAY": "0"}

    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user("ann")

    def fill(self):
        """Uploads up to one byte short of their end until the budget is spent."""
        head = (f"POST {API}/topics/t.x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MIB}\r\n"
                f"Authorization: Bearer {self.ann['token']}\r\n\r\n").encode()
        uploads = []
        for _ in range(64):
            if pressed(self.broker):
                return uploads
            raw = RawHttp(self.broker.http)
            self.addCleanup(raw.close)
            raw.send(head + b"x" * (MIB - 1))
            uploads.append(raw)
        wait_until(lambda: pressed(self.broker), "the budget to be spent")
        return uploads

    def test_each_protocol_hears_it_and_it_passes(self):
        rest = http.client.HTTPConnection(*self.broker.http, timeout=PATIENCE)
        self.addCleanup(rest.close)
        exchange(rest, "GET", API + "/health")
        waiting = RawHttp(self.broker.http)
        self.addCleanup(waiting.close)
        late = RawHttp(self.broker.http)
        self.addCleanup(late.close)
        z = Zmq()
        self.addCleanup(z.close)
        with Ws(self.broker, self.ann["token"]) as ws:
            uploads = self.fill()

            reply = exchange(rest, "GET", API + "/conversations", token=self.ann["token"])
            self.assertProblem(reply, 503, "overloaded")
            self.assertEqual(reply.headers.get("Retry-After"), "1")
            self.assertOk(exchange(rest, "GET", API + "/health"))
            for probe in ("/livez", "/readyz", "/metrics"):
                reply = self.broker.call("GET", probe, address=self.broker.admin)
                self.assertEqual(reply.status, 200, probe)

            reply = self.broker.call("GET", API + "/conversations", token=self.ann["token"])
            self.assertProblem(reply, 503, "overloaded")
            self.assertEqual(reply.headers.get("Connection"), "close", "refused at the door")

            ws.send(type="request", id="1", method="GET", path=API + "/conversations")
            self.assertEqual(ws.expect("response", id="1")["status"], 503)

            answer = zmq_ask(z.req(self.broker.zmq),
                             {"type": "request", "id": "2", "method": "GET",
                              "path": API + "/conversations", "token": self.ann["token"]})
            # Its token may not be looked at any more: then the refusal is an `error` frame.
            code = answer["code"] if answer["type"] == "error" else answer["body"]["code"]
            self.assertEqual(code, "overloaded", answer)

            waiting.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                         b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                         b"Sec-WebSocket-Version: 13\r\n\r\n")
            self.assertEqual(waiting.head()[0], 101)
            frame = waiting._exactly(2)
            self.assertEqual(frame[0], 0x80 | RawWs.CLOSE)
            self.assertEqual(waiting._exactly(2), (1013).to_bytes(2, "big"))

            late.send(f"POST {API}/topics/t.x HTTP/1.1\r\nHost: localhost\r\n"
                      f"Content-Length: {MIB}\r\n\r\n".encode() + b"x" * (MIB // 2))
            self.assertEqual(late.reply().status, 503, "a body that grows is given up")

            for raw in uploads:
                raw.close()
            wait_until(lambda: not pressed(self.broker), "the pressure to end")
            ws.send(type="request", id="3", method="GET", path=API + "/conversations")
            self.assertEqual(ws.expect("response", id="3")["status"], 200)
        self.assertOk(exchange(rest, "GET", API + "/conversations", token=self.ann["token"]))
        self.assertEqual(self.broker.metric("postern_memory_pressure_total"), 1)


if __name__ == "__main__":
    harness.main()
