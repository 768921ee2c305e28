#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Bits that flip in the database of a broker that was killed, as a failing power supply would have it.

It has to start, whatever it finds: a database that is damaged is set aside as `.bad-<time>`, what can be
read is served, /system/status says so, and writing goes on.
"""

import os
import random
import sys
import unittest

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__))]

from copies import API, PAGE, CopyCase, noise  # noqa: E402

SEED = int(os.environ.get("POSTERN_TEST_SEED", "20260101"))
MESSAGES = 400


class Rot(CopyCase):
    messages_sent, content_bytes = MESSAGES, 150

    def status(self, broker, token):
        return {service["status"] for service in self.services(broker, token).values()}

    def messages(self, broker, token):
        found = []
        while True:
            page = self.page(broker, token, found[-1]["seq"] if found else 0, 200)
            if not page:
                return found
            found += page

    def check(self, broker, least, flips):
        """At least so many messages are there, in order, and hardly more of them changed than bits did."""
        token = broker.token("ann")
        found = self.messages(broker, token)
        seqs = [message["seq"] for message in found]
        self.assertEqual(seqs, sorted(set(seqs)))
        self.assertGreaterEqual(len(found), least)
        changed = [m for m in found if self.sent.get(m["id"]) != m["content"]]
        self.assertLessEqual(len(changed), flips)
        self.assertGreater(self.write(broker, token, "after")["seq"], seqs[-1] if seqs else 0)
        return token

    def test_a_sound_database_is_left_alone(self):
        broker = self.broker()
        token = self.check(broker, MESSAGES, 0)
        self.assertEqual(self.set_aside(), [])
        self.assertEqual(self.status(broker, token), {"up"})

    def test_flipped_bits(self):
        """Anywhere but in the first page, where nothing is left without."""
        for turn in range(6):
            chance = random.Random(f"{SEED} {turn}")
            flips = chance.choice((1, 4, 32))

            def damage(content):
                for _ in range(flips):
                    content[chance.randrange(PAGE, len(content))] ^= 1 << chance.randrange(8)

            with self.subTest(turn=turn, flips=flips):
                broker = self.broker(damage)
                try:
                    token = self.check(broker, MESSAGES // 4, flips)
                    if self.set_aside():
                        self.assertIn("degraded", self.status(broker, token))
                finally:
                    broker.kill()

    def test_a_page_of_noise(self):
        """Damage that cannot go unnoticed: a leaf of the messages is overwritten."""
        broker = self.broker(lambda content: noise(content, content.find(b"message 200 "), random.Random(SEED)))
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

        broker = self.broker(damage)
        self.assertEqual(len(self.set_aside()), 1)
        self.assertEqual(broker.call("GET", API + "/health").status, 200)
        self.assertIn("degraded", self.status(broker, broker.token()))


if __name__ == "__main__":
    unittest.main()
