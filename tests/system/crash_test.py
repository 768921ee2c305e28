#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Power cuts: architecture section 6, "everything acknowledged as synced is there after restart".

Conversation messages are synced by default.  The broker is killed with SIGKILL while clients of
three protocols write; what was acknowledged before must be there exactly once, with its seq, after
the next start on the same data.
"""

import json
import os
import random
import signal
import stat
import sys
import tempfile
import threading
import time
import unittest
import uuid

import msgpack

from harness import (PASSWORD, PATIENCE, RELEASE, Broker, RawHttp, RawWs, SystemTest, Zmq,
                     run_program, show_stderr, split_address)

SEED = int(os.environ.get("POSTERN_TEST_SEED", "20260101"))
ROUNDS = 8
API = "/api/v1"


class CrashCase(unittest.TestCase):
    """Brokers that die belong to the test, not to the class."""

    def broker(self, **how):
        broker = Broker(**how)
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        self.addCleanup(self.show, broker)
        broker.start()
        return broker

    def show(self, broker):
        """The broker's standard error, when the test has failed."""
        outcome = self._outcome
        if outcome is not None and not outcome.success:
            show_stderr(self.id(), broker)

    def stored(self, broker, token, conversation):
        """Every message of a conversation, walked page by page, in order."""
        messages, after = [], 0
        while True:
            path = f"{API}/conversations/{conversation}/messages?after={after}&limit=100"
            reply = broker.call("GET", path, token=token)
            self.assertEqual(reply.status, 200, reply)
            if not reply.data:
                return messages
            messages += reply.data
            after = messages[-1]["seq"]


class Writer(threading.Thread):
    """Writes until its connection dies; `acked` maps id to (seq, content)."""

    def __init__(self, broker, token, conversation):
        super().__init__(daemon=True)
        self.broker, self.token, self.conversation = broker, token, conversation
        self.acked = {}
        self.sent = set()
        self.failure = None
        self.first = threading.Event()
        self.stopped = threading.Event()

    def run(self):
        try:
            self.write()
        except (EOFError, OSError):
            pass  # the power cut
        except Exception as failure:
            self.failure = repr(failure)
        self.first.set()

    def message(self):
        own = str(uuid.uuid4())
        self.sent.add(own)
        return {"id": own, "content": f"{type(self).__name__} {own}"}

    def take(self, message):
        self.acked[message["id"]] = (message["seq"], message["content"])
        self.first.set()


class RestWriter(Writer):
    def write(self):
        with RawHttp(self.broker.http, PATIENCE) as raw:
            while True:
                burst = b""
                for _ in range(8):
                    body = json.dumps(self.message()).encode()
                    burst += (f"POST {API}/conversations/{self.conversation}/messages HTTP/1.1\r\n"
                              f"Host: x\r\nAuthorization: Bearer {self.token}\r\n"
                              "Content-Type: application/json\r\n"
                              f"Content-Length: {len(body)}\r\n\r\n").encode() + body
                raw.send(burst)
                for _ in range(8):
                    reply = raw.reply()
                    if reply.status != 201:
                        raise AssertionError(f"refused: {reply}")
                    self.take(reply.data)


class WsWriter(Writer):
    def write(self):
        raw = RawWs(self.broker, self.token)
        try:
            raw.json("welcome")
            for _ in range(32):
                self.send(raw)
            while True:
                frame = raw.json()
                if frame["type"] != "ack":
                    if frame["type"] == "drain":
                        return
                    raise AssertionError(f"refused: {frame}")
                self.take(frame["message"])
                self.send(raw)
        finally:
            raw.close()

    def send(self, raw):
        raw.send_json(type="message", conversationId=self.conversation, **self.message())


class ZmqWriter(Writer):
    def write(self):
        with Zmq() as zmq:
            dealer = zmq.dealer(self.broker.zmq)
            for _ in range(32):
                self.send(dealer)
            while not self.stopped.is_set():
                if not dealer.poll(100):
                    continue
                frame = msgpack.unpackb(dealer.recv_multipart()[-1])
                if frame["type"] != "ack":
                    raise AssertionError(f"refused: {frame}")
                self.take(frame["message"])
                self.send(dealer)

    def send(self, dealer):
        frame = {"type": "message", "conversationId": self.conversation, "token": self.token,
                 **self.message()}
        dealer.send_multipart([b"", msgpack.packb(frame)])


class PowerCutTest(CrashCase):
    """SIGKILL at random moments under load."""

    def test_nothing_acknowledged_is_lost(self):
        """Every acknowledged message is there exactly once with its seq, round after round on the
        same data.
        """
        chance = random.Random(SEED)
        sys.stderr.write(f"  seed {SEED}\n")
        broker = self.broker()
        user = broker.user("ann", roles=["user"])
        conversations = [broker.conversation(user, title=str(i)) for i in range(2)]
        acked = {conversation: {} for conversation in conversations}
        sent = {conversation: set() for conversation in conversations}
        for turn in range(ROUNDS):
            writers = [kind(broker, user["token"], conversation) for conversation in conversations
                       for kind in (RestWriter, WsWriter, ZmqWriter)]
            for writer in writers:
                writer.start()
            for writer in writers:
                self.assertTrue(writer.first.wait(PATIENCE), f"round {turn}: no acknowledgement")
            time.sleep(chance.uniform(0.0, 0.25))
            broker.kill()
            for writer in writers:
                writer.stopped.set()
            for writer in writers:
                writer.join(PATIENCE * 2)
                self.assertFalse(writer.is_alive(), f"round {turn}: {type(writer).__name__} hangs")
                self.assertIsNone(writer.failure, f"round {turn}: {type(writer).__name__}")
                for own, told in writer.acked.items():
                    self.assertNotIn(own, acked[writer.conversation])
                    acked[writer.conversation][own] = told
                sent[writer.conversation] |= writer.sent
            broker.start()
            for conversation in conversations:
                self.check(turn, self.stored(broker, user["token"], conversation),
                           acked[conversation], sent[conversation])
        total = sum(len(told) for told in acked.values())
        sys.stderr.write(f"  {total} messages acknowledged over {ROUNDS} power cuts\n")
        self.assertGreater(total, ROUNDS * 10)
        broker.stop()

    def check(self, turn, stored, acked, sent):
        seqs = [message["seq"] for message in stored]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))),
                         f"round {turn}: seq is contiguous")
        found = {}
        for message in stored:
            self.assertNotIn(message["id"], found, f"round {turn}: stored twice")
            found[message["id"]] = (message["seq"], message["content"])
        lost = [own for own in acked if own not in found]
        self.assertEqual(lost, [], f"round {turn}: acknowledged, and lost")
        for own, told in acked.items():
            self.assertEqual(found[own], told, f"round {turn}: {own} has changed")
        self.assertLessEqual(set(found), sent, f"round {turn}: a message nobody sent")

    def test_what_else_survives(self):
        """Accounts, preferences, members, tokens and cursors are there after a power cut."""
        broker = self.broker()
        ann, bob = broker.user("ann", household="h"), broker.user("bob", household="h")
        conversation = broker.conversation(ann, bob, title="Küche")
        reply = broker.call("PATCH", API + "/users/me/preferences", b'{"k": {"v": 1}}',
                            token=ann["token"],
                            headers={"Content-Type": "application/merge-patch+json"})
        self.assertIn(reply.status, (200, 204), reply)
        login = broker.call("POST", API + "/auth/login",
                            {"username": "bob", "password": "a long enough passphrase 42"})
        self.assertEqual(login.status, 200, login)
        sent = broker.call("POST", f"{API}/conversations/{conversation}/messages", {"content": "x"},
                           token=ann["token"])
        self.assertEqual(sent.status, 201, sent)
        broker.kill()
        broker.start()
        me = broker.call("GET", API + "/users/me", token=ann["token"])
        self.assertEqual(me.status, 200, "a token survives a restart")
        self.assertEqual(me.data["preferences"], {"k": {"v": 1}})
        self.assertEqual(broker.call("GET", API + "/users/me",
                                     token=login.data["accessToken"]).status, 200)
        again = broker.call("POST", API + "/auth/refresh",
                            {"refreshToken": login.data["refreshToken"]})
        self.assertEqual(again.status, 200, "a session survives a restart")
        seen = broker.call("GET", f"{API}/conversations/{conversation}", token=bob["token"])
        self.assertEqual((seen.status, seen.data["title"]), (200, "Küche"))
        self.assertEqual([m["id"] for m in self.stored(broker, bob["token"], conversation)],
                         [sent.data["id"]])
        family = broker.call("GET", API + "/users/family", token=ann["token"])
        self.assertIn("bob", [member["username"] for member in family.data])
        broker.stop()

    def test_conversation_cursor_survives(self):
        """`since` of before the power cut recovers what was stored, or says `recovered: false`;
        never a part.
        """
        broker = self.broker()
        ann = broker.user("ann")
        conversation = broker.conversation(ann)
        topic, path = "conversation." + conversation, f"{API}/conversations/{conversation}/messages"
        raw = RawWs(broker, ann["token"])
        raw.send_json(type="subscribe", topic=topic)
        position = raw.json("subscribed")
        ids = [broker.call("POST", path, {"content": str(i)}, token=ann["token"]).data["id"]
               for i in range(5)]
        raw.close()
        broker.kill()
        broker.start()
        ids.append(broker.call("POST", path, {"content": "after"}, token=ann["token"]).data["id"])
        raw = RawWs(broker, ann["token"])
        raw.send_json(type="subscribe", topic=topic,
                      since={"epoch": position["epoch"], "offset": position["offset"]})
        frame = raw.json("subscribed")
        if frame["recovered"]:
            self.assertEqual([raw.json("event")["data"]["id"] for _ in ids], ids)
        last = broker.call("POST", path, {"content": "last"}, token=ann["token"]).data["id"]
        self.assertEqual(raw.json("event")["data"]["id"], last)
        raw.close()
        broker.stop()

    def test_topic_cursor_of_before(self):
        """A topic in memory does not survive: an old position is told `recovered: false`, not
        served from nothing.
        """
        broker = self.broker()
        ann = broker.user("ann")
        old = [broker.call("POST", API + "/topics/mem", {"n": i}, token=ann["token"]).data
               for i in range(3)]
        broker.kill()
        broker.start()
        new = broker.call("POST", API + "/topics/mem", {"n": 3}, token=ann["token"]).data
        raw = RawWs(broker, ann["token"])
        raw.send_json(type="subscribe", topic="mem",
                      since={"epoch": old[0]["epoch"], "offset": old[0]["offset"]})
        frame = raw.json("subscribed")
        if frame["recovered"]:
            self.assertEqual([raw.json("event")["data"]["n"] for _ in range(3)], [1, 2, 3])
        else:
            self.assertNotEqual((new["epoch"], new["offset"]), (old[0]["epoch"], old[0]["offset"]),
                                "one position for two events")
        raw.close()
        broker.stop()


class StartTest(CrashCase):
    """Starting fast is the recovery path."""

    COUNT = 100_000
    LIMIT = 0.100

    def fill(self, broker, token, conversations):
        """Stores COUNT messages over parallel websockets; returns when all are acknowledged."""
        window, failures = 64, []

        def write(conversation, count):
            # A mask of zero leaves the bytes as they are: legal, and a hundred thousand frames are
            # soon made.
            text = json.dumps({"type": "message", "conversationId": conversation,
                               "content": "x" * 80})
            frame = bytes((0x81, 0xFE)) + len(text).to_bytes(2, "big") + bytes(4) + text.encode()
            raw = RawWs(broker, token)
            try:
                raw.json("welcome")
                raw.raw.send(frame * window)
                sent = acked = 0
                sent += window
                while acked < count:
                    opcode, payload = raw.frame()
                    if opcode != RawWs.TEXT:
                        continue
                    if b'"ack"' not in payload[:40]:
                        raise AssertionError(payload)
                    acked += 1
                    if sent < count and sent - acked <= window - 16:
                        more = min(16, count - sent)
                        raw.raw.send(frame * more)
                        sent += more
            except Exception as failure:
                failures.append(repr(failure))
            finally:
                raw.close()

        share = self.COUNT // len(conversations)
        threads = [threading.Thread(target=write, args=(conversation, share))
                   for conversation in conversations]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_start_time(self):
        """With 100,000 stored messages: from exec to the line of --print-listen, after a stop and
        after a power cut.
        """
        if not RELEASE:
            self.COUNT = 5000  # nobody measures a sanitizer build; the way is walked all the same
        broker = self.broker()
        user = broker.user("ann")
        conversations = [broker.conversation(user) for _ in range(4)]
        begin = time.monotonic()
        self.fill(broker, user["token"], conversations)
        filled = time.monotonic() - begin
        for conversation in conversations:
            path = f"{API}/conversations/{conversation}/messages?before=1000000000&limit=1"
            reply = broker.call("GET", path, token=user["token"])
            self.assertEqual(reply.data[0]["seq"], self.COUNT // len(conversations))
        times = {"power cut": [], "stop": []}
        broker.kill()
        for _ in range(3):
            broker.start()
            times["power cut"].append(broker.started_in)
            self.assertEqual(broker.call("GET", API + "/users/me", token=user["token"]).status, 200)
            broker.kill()
        for _ in range(3):
            broker.start()
            times["stop"].append(broker.started_in)
            broker.stop()
        sys.stderr.write(f"  {self.COUNT} messages in {filled:.1f} s\n")
        for what, took in times.items():
            listed = ", ".join(f"{t * 1e3:.0f}" for t in took)
            sys.stderr.write(f"  start after a {what}: {listed} ms\n")
        if RELEASE:
            for what, took in times.items():
                self.assertLess(min(took), self.LIMIT,
                                f"the best of {len(took)} starts after a {what}")

    def test_garbage_in_the_data_directory(self):
        """Strange files beside the data do not keep the broker from starting."""
        broker = self.broker()
        broker.stop()
        for name in ("README", "postern.ipc", "core.1234", ".hidden"):
            path = os.path.join(broker.data, name)
            if not os.path.exists(path):
                with open(path, "w", encoding="utf-8") as f:
                    f.write("what is this")
        broker.start()
        self.assertEqual(broker.call("GET", API + "/health").status, 200)
        broker.stop()


class RecordTest(CrashCase):
    """A crash leaves a record, and the next start tells of it."""

    def test_record(self):
        """Why, where, build and threads; readable by the owner only; told once; no secrets."""
        broker = self.broker()
        ann = broker.user("ann")
        token = broker.token()
        before = os.path.join(broker.data, "crash-previous.txt")
        path = os.path.join(broker.data, "crash.txt")
        for sig in (signal.SIGSEGV, signal.SIGABRT):
            self.assertFalse(os.path.exists(path))
            pid = broker.process.pid
            broker.send_signal(sig)
            status = broker.process.wait(PATIENCE)
            if "POSTERN_TEST_SLOW" not in os.environ:  # a sanitizer takes the signal after us, and exits
                self.assertEqual(status, -sig)
            self.assertNotEqual(status, 0)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            with open(path, encoding="utf-8") as f:
                record = f.read()
            self.assertIn(f"process: {pid}\n", record)
            self.assertIn(f"why: {sig.name}, sent by process {os.getpid()}\n", record)
            self.assertRegex(record, r"(?m)^version: \d+\.\d+\.\d+ \(.+\)$")
            self.assertRegex(record, r"(?m)^build: [0-9a-f]{40}$")
            self.assertRegex(record, r"(?m)^thread: ptn-w0: worker 0, ")
            self.assertRegex(record, r"stack:\n(  .+\+0x[0-9a-f]+\n){3,}")
            self.assertTrue(record.endswith("end of record\n"), record)
            self.assertIn(record.splitlines()[5], broker.stderr(), "also on standard error")
            for secret in (ann["token"], token, PASSWORD):
                self.assertNotIn(secret, record)
            broker.start()
            self.assertFalse(os.path.exists(path))
            with open(before, encoding="utf-8") as f:
                self.assertEqual(f.read(), record)
            told = [line for line in self.log(broker) if line["event"] == "broker.crashed_before"]
            self.assertIn(sig.name, told[-1]["why"])
            self.assertEqual(broker.call("GET", API + "/users/me", token=ann["token"]).status, 200)
        broker.stop()
        broker.start()
        told = [line for line in self.log(broker) if line["event"] == "broker.crashed_before"]
        self.assertEqual(len(told), 2, "each crash is told once")
        broker.stop()

    def log(self, broker):
        """The lines of standard error that are lines of the log."""
        with open(broker.stderr_path, encoding="utf-8") as f:
            return [json.loads(line) for line in f if line.startswith("{")]


class SecondInstanceTest(SystemTest):
    """Two brokers cannot own one directory or one port."""

    def second(self, data, **env):
        settings = {"POSTERN_LISTEN__HTTP": "127.0.0.1:0", "POSTERN_LISTEN__ADMIN": "127.0.0.1:0",
                    "POSTERN_ADMIN_PASSWORD": "correct horse battery staple", **env}
        return run_program("run", "--print-listen", data=data, env=settings)

    def assertRefusal(self, done, *words):
        """wire.md 5: errors go to standard error, one line each, with what to do; exit 1: the work
        failed.
        """
        self.assertEqual(done.returncode, 1, (done.stdout, done.stderr))
        self.assertNotIn('"http"', done.stdout, "it said that it listens")
        self.assertTrue(any(word in done.stderr for word in words),
                        f"none of {words} in {done.stderr!r}")

    def test_same_directory(self):
        """A clear error; the first one goes on."""
        done = self.second(self.broker.data)
        self.assertRefusal(done, self.broker.data, "in use", "running", "lock")
        self.assertOk(self.broker.call("GET", API + "/health"))
        self.assertOk(self.broker.call("GET", API + "/admin/users", token=self.broker.token()))
        with Zmq() as zmq:
            req = zmq.req(self.broker.zmq)
            req.send(b'{"method": "GET", "path": "/health"}')
            self.assertTrue(req.poll(int(PATIENCE * 1000)),
                            "the second one took the socket of the first")

    def test_same_port(self):
        """A clear error that names the address."""
        for name in ("http", "admin"):
            address = self.broker.listen[name][0]
            with tempfile.TemporaryDirectory(prefix="ptn") as other:
                done = self.second(os.path.join(other, "d"),
                                   **{f"POSTERN_LISTEN__{name.upper()}": address})
            self.assertRefusal(done, address, str(split_address(address)[1]))
        self.assertOk(self.broker.call("GET", API + "/health"))

    def test_directory_that_cannot_be(self):
        """A file where the directory should be."""
        with tempfile.NamedTemporaryFile(prefix="ptn") as f:
            done = self.second(f.name)
        self.assertIn(done.returncode, (1, 78), done.stderr)
        self.assertIn(f.name, done.stderr)


if __name__ == "__main__":
    unittest.main()
