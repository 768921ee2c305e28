#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Bits that flip in the database of a broker that was killed, as a failing power supply would have it.

It has to start, whatever it finds: a database that is damaged is set aside as `.bad-<time>`, what can be
read is served, /system/status says so, and writing goes on.
"""

import glob
import os
import random
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "system")]

from harness import Broker, RawHttp, show_stderr  # noqa: E402

API = "/api/v1"
SEED = int(os.environ.get("POSTERN_TEST_SEED", "20260101"))
MESSAGES = 400
PAGE = 4096


class Rot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """A database that every test gets a copy of: one conversation, all of it in the main file."""
        cls.root = tempfile.mkdtemp(prefix="ptnr")
        cls.addClassCleanup(subprocess.run, ["rm", "-rf", cls.root], check=True)
        cls.data = os.path.join(cls.root, "d")
        broker = Broker(data=cls.data)
        try:
            broker.start()
            cls.user = broker.user("ann")
            cls.conversation = broker.conversation(cls.user)
            cls.path = f"{API}/conversations/{cls.conversation}/messages"
            cls.sent = {}
            with RawHttp(broker.http) as raw:
                for number in range(MESSAGES):
                    content = f"message {number} " + "x" * 150
                    raw.send(cls.post(content, cls.user["token"]))
                    reply = raw.reply()
                    if reply.status != 201:
                        raise AssertionError(f"message {number}: {reply}")
                    cls.sent[reply.data["id"]] = content
            broker.stop()  # which empties the log
            broker.start()
        finally:
            broker.kill()
            broker.remove()

    @classmethod
    def post(cls, content, token):
        body = f'{{"content": "{content}"}}'.encode()
        return (f"POST {cls.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body

    def started(self, damage):
        """A broker on a copy of the data that damage(bytearray) has been at."""
        copy = tempfile.mkdtemp(dir=self.root)
        subprocess.run(["cp", "-a", self.data, copy], check=True)
        self.db = os.path.join(copy, "d", "postern.db")
        with open(self.db, "r+b") as f:
            content = bytearray(f.read())
            damage(content)
            f.seek(0)
            f.write(content)
            f.truncate(len(content))
        broker = Broker(data=os.path.join(copy, "d"))
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        try:
            broker.start()
        except AssertionError:
            show_stderr(self.id(), broker)
            raise
        return broker

    def set_aside(self):
        """The databases, without their logs."""
        return [name for name in glob.glob(self.db + ".bad-*") if not name.endswith(("-wal", "-shm"))]

    def status(self, broker, token):
        reply = broker.call("GET", API + "/system/status", token=token)
        self.assertEqual(reply.status, 200, reply)
        return [service["status"] for service in reply.data["services"].values()]

    def messages(self, broker, token):
        found, after = [], 0
        while True:
            reply = broker.call("GET", f"{self.path}?after={after}&limit=200", token=token)
            self.assertEqual(reply.status, 200, reply)
            if not reply.data:
                return found
            found += reply.data
            after = found[-1]["seq"]

    def check(self, broker, least, flips):
        """At least so many messages are there, in order, and hardly more of them changed than bits did."""
        token = broker.token("ann")
        found = self.messages(broker, token)
        seqs = [message["seq"] for message in found]
        self.assertEqual(seqs, sorted(set(seqs)))
        self.assertGreaterEqual(len(found), least)
        changed = [m for m in found if self.sent.get(m["id"]) != m["content"]]
        self.assertLessEqual(len(changed), flips)
        reply = broker.call("POST", self.path, {"content": "after"}, token=token)
        self.assertEqual(reply.status, 201, reply)
        self.assertGreater(reply.data["seq"], seqs[-1] if seqs else 0)
        return token

    def test_a_sound_database_is_left_alone(self):
        broker = self.started(lambda content: None)
        token = self.check(broker, MESSAGES, 0)
        self.assertEqual(self.set_aside(), [])
        self.assertEqual(set(self.status(broker, token)), {"up"})

    def test_flipped_bits(self):
        """Anywhere but in the first page, where nothing is left without."""
        for turn in range(6):
            chance = random.Random(f"{SEED} {turn}")
            flips = chance.choice((1, 4, 32))

            def damage(content):
                for _ in range(flips):
                    content[chance.randrange(PAGE, len(content))] ^= 1 << chance.randrange(8)

            with self.subTest(turn=turn, flips=flips):
                broker = self.started(damage)
                try:
                    token = self.check(broker, MESSAGES // 4, flips)
                    if self.set_aside():
                        self.assertIn("degraded", self.status(broker, token))
                finally:
                    broker.kill()

    def test_a_page_of_noise(self):
        """Damage that cannot go unnoticed: a leaf of the messages is overwritten."""
        chance = random.Random(SEED)

        def damage(content):
            at = content.find(b"message 200 ") // PAGE * PAGE
            content[at:at + PAGE] = chance.randbytes(PAGE)

        broker = self.started(damage)
        token = self.check(broker, MESSAGES // 2, 0)
        self.assertEqual(len(self.set_aside()), 1)
        self.assertIn("degraded", self.status(broker, token))
        broker.stop()
        broker.start()
        self.check(broker, MESSAGES // 2, 1)
        self.assertEqual(len(self.set_aside()), 1, "set aside once")

    def test_not_a_database(self):
        """Nothing can be read: the broker starts all the same, empty, and the file is kept."""
        def damage(content):
            content[:] = random.Random(SEED).randbytes(len(content))

        broker = self.started(damage)
        self.assertEqual(len(self.set_aside()), 1)
        self.assertEqual(broker.call("GET", API + "/health").status, 200)
        self.assertIn("degraded", self.status(broker, broker.token()))


if __name__ == "__main__":
    unittest.main()
