#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Damage in a large database that no start has the time to look for: the broker finds it while it serves,
says so, and the next start salvages.  The search goes on where it was after a restart."""

import os
import random
import sys
import time
import unittest

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__))]

from copies import PAGE, CopyCase, noise  # noqa: E402
from harness import PATIENCE  # noqa: E402

MESSAGES = 500
LOOKED_AT_BY_A_START = 16 << 20


class Scrub(CopyCase):
    messages_sent, content_bytes = MESSAGES, 60000

    @classmethod
    def setUpClass(cls):
        """Larger than what a start reads whole."""
        super().setUpClass()
        cls.bytes = os.path.getsize(os.path.join(cls.data, "postern.db"))
        if cls.bytes <= LOOKED_AT_BY_A_START:
            raise AssertionError(f"the database has only {cls.bytes} bytes")

    def scrubbed(self, rate, damage=None):
        return self.broker(damage, [f"--store.scrub={rate}"])

    def store(self, broker, token):
        return self.services(broker, token)["store"]

    def wait_for(self, broker, token, done):
        """Until done(the store's status); returns that."""
        end = time.monotonic() + PATIENCE * 4
        while True:
            store = self.store(broker, token)
            if done(store):
                return store
            self.assertLess(time.monotonic(), end, store)
            time.sleep(0.02)

    def test_a_sound_database_is_read_once(self):
        broker = self.scrubbed("1GiB")
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
        for name, pages in {"a leaf": 0, "the middle of a text": 8}.items():
            def damage(content):
                noise(content, content.find(b"message 250 ") + pages * PAGE, random.Random(1))

            with self.subTest(place=name):
                broker = self.scrubbed("64MiB", damage)
                token = broker.token("ann")
                self.assertEqual(self.set_aside(), [], "the start has not noticed")
                store = self.wait_for(broker, token, lambda store: store["status"] == "degraded")
                store = self.wait_for(broker, token, lambda store: store["scrub"]["state"] == "damaged")
                self.assertIn("damaged", store["message"])
                self.assertIn("restart", store["message"])
                self.assertEqual(self.page(broker, token, 100, 1)[0]["seq"], 101)
                self.write(broker, token, "meanwhile")
                broker.stop()
                self.start(broker)
                self.assertEqual(len(self.set_aside()), 1, "and the next start salvages")
                self.assertEqual(self.page(broker, token, 100, 1)[0]["seq"], 101)
                self.assertEqual(self.page(broker, token, MESSAGES, 1)[0]["content"], "meanwhile")
                self.assertEqual(self.store(broker, token)["scrub"]["state"], "none")
                broker.kill()

    def test_it_goes_on_after_a_restart(self):
        broker = self.scrubbed("8MiB")
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
