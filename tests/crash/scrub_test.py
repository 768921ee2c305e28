#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Damage in a large database that no start has the time to look for: the broker finds it while it serves,
says so, and the next start salvages.  The search goes on where it was after a restart."""

import glob
import os
import random
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "system")]

from harness import PATIENCE, Broker, RawHttp, show_stderr  # noqa: E402

API = "/api/v1"
MESSAGES = 500
CONTENT_BYTES = 60000
PAGE = 4096
LOOKED_AT_BY_A_START = 16 << 20


class Scrub(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """A database that every test gets a copy of, as after a crash: larger than what a start reads whole."""
        cls.root = tempfile.mkdtemp(prefix="ptns")
        cls.addClassCleanup(subprocess.run, ["rm", "-rf", cls.root], check=True)
        cls.data = os.path.join(cls.root, "d")
        broker = Broker(data=cls.data)
        try:
            broker.start()
            cls.user = broker.user("ann")
            cls.path = f"{API}/conversations/{broker.conversation(cls.user)}/messages"
            with RawHttp(broker.http) as raw:
                for number in range(MESSAGES):
                    raw.send(cls.post(f"message {number} " + "x" * CONTENT_BYTES, cls.user["token"]))
                    reply = raw.reply()
                    if reply.status != 201:
                        raise AssertionError(f"message {number}: {reply}")
            broker.stop()  # which empties the log
            broker.start()
        finally:
            broker.kill()
            broker.remove()
        cls.bytes = os.path.getsize(os.path.join(cls.data, "postern.db"))
        if cls.bytes <= LOOKED_AT_BY_A_START:
            raise AssertionError(f"the database has only {cls.bytes} bytes")

    @classmethod
    def post(cls, content, token):
        body = f'{{"content": "{content}"}}'.encode()
        return (f"POST {cls.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body

    def broker(self, rate, damage=None):
        """On a copy of the data that damage(bytes) has chosen a page of, to be overwritten with noise."""
        copy = tempfile.mkdtemp(dir=self.root)
        subprocess.run(["cp", "-a", self.data, copy], check=True)
        self.db = os.path.join(copy, "d", "postern.db")
        if damage is not None:
            with open(self.db, "r+b") as f:
                at = damage(f.read()) // PAGE * PAGE
                f.seek(at)
                f.write(random.Random(1).randbytes(PAGE))
        broker = Broker(data=os.path.join(copy, "d"), args=[f"--store.scrub={rate}"])
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        self.start(broker)
        return broker

    def start(self, broker):
        try:
            broker.start()
        except AssertionError:
            show_stderr(self.id(), broker)
            raise

    def store(self, broker, token):
        reply = broker.call("GET", API + "/system/status", token=token)
        self.assertEqual(reply.status, 200, reply)
        return reply.data["services"]["store"]

    def wait_for(self, broker, token, done):
        """Until done(the store's status); returns that."""
        end = time.monotonic() + PATIENCE * 4
        while True:
            store = self.store(broker, token)
            if done(store):
                return store
            self.assertLess(time.monotonic(), end, store)
            time.sleep(0.02)

    def set_aside(self):
        return [name for name in glob.glob(self.db + ".bad-*") if not name.endswith(("-wal", "-shm"))]

    def page(self, broker, token, after, status=200):
        reply = broker.call("GET", f"{self.path}?after={after}&limit=1", token=token)
        self.assertEqual(reply.status, status, reply)
        return reply.data

    def test_a_sound_database_is_read_once(self):
        broker = self.broker("1GiB")
        token = broker.token("ann")
        scrub = self.wait_for(broker, token, lambda store: store["scrub"]["state"] == "sound")["scrub"]
        self.assertGreaterEqual(scrub["readBytes"], self.bytes * 9 // 10)
        self.assertLessEqual(scrub["readBytes"], self.bytes * 12 // 10)
        self.assertGreaterEqual(scrub["databaseBytes"], self.bytes)
        self.assertRegex(scrub["endedAt"], r"^\d{4}-")
        text = broker.call("GET", "/metrics", address=broker.admin).body.decode()
        self.assertIn('postern_store_scrubs_total{result="sound"} 1\n', text)
        self.assertIn('postern_store_scrubs_total{result="damaged"} 0\n', text)
        self.assertIn("postern_store_scrub_rounds 0\n", text)
        broker.stop()
        self.start(broker)
        self.assertEqual(self.store(broker, token)["scrub"],
                         {"state": "sound", "readBytes": 0, "databaseBytes": scrub["databaseBytes"],
                          "endedAt": scrub["endedAt"]}, "the last result, and no new search")

    def test_damage_is_found_while_the_broker_serves(self):
        places = {"a leaf": lambda content: content.find(b"message 250 "),
                  "the middle of a text": lambda content: content.find(b"message 250 ") + 8 * PAGE}
        for name, place in places.items():
            with self.subTest(place=name):
                broker = self.broker("64MiB", place)
                token = broker.token("ann")
                self.assertEqual(self.set_aside(), [], "the start has not noticed")
                store = self.wait_for(broker, token, lambda store: store["status"] == "degraded")
                store = self.wait_for(broker, token, lambda store: store["scrub"]["state"] == "damaged")
                self.assertIn("damaged", store["message"])
                self.assertIn("restart", store["message"])
                self.assertEqual(self.page(broker, token, 100)[0]["seq"], 101)
                reply = broker.call("POST", self.path, {"content": "meanwhile"}, token=token)
                self.assertEqual(reply.status, 201, reply)
                broker.stop()
                self.start(broker)
                self.assertEqual(len(self.set_aside()), 1, "and the next start salvages")
                self.assertEqual(self.page(broker, token, 100)[0]["seq"], 101)
                self.assertEqual(self.page(broker, token, MESSAGES)[0]["content"], "meanwhile")
                self.assertEqual(self.store(broker, token)["scrub"]["state"], "none")
                broker.kill()

    def test_it_goes_on_after_a_restart(self):
        broker = self.broker("8MiB")
        token = broker.token("ann")
        half = self.bytes // 2
        first = self.wait_for(broker, token, lambda store: store["scrub"]["readBytes"] > half)["scrub"]
        self.assertEqual(first["state"], "running")
        broker.stop()
        broker.args = ["--store.scrub=1GiB"]
        self.start(broker)
        second = self.wait_for(broker, token, lambda store: store["scrub"]["state"] == "sound")["scrub"]
        self.assertLess(second["readBytes"], self.bytes * 6 // 10)


if __name__ == "__main__":
    unittest.main()
