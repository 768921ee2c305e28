#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The crash rig, short, and its own test: a ledger that was tampered with must be found out."""

import copy
import os
import random
import sys
import time
import unittest

from crash import World
from ledger import Ledger, Row

KILLS = 20
SEED = int(os.environ.get("POSTERN_TEST_SEED", "20260101"))


class Crash(unittest.TestCase):
    def test_twenty_kills(self):
        world = World(KILLS, SEED)
        self.addCleanup(world.broker.remove)
        begin = time.monotonic()
        faults = world.run()
        sys.stderr.write(f"  seed {SEED}: {world.summary()}; {time.monotonic() - begin:.0f} s\n")
        if faults:
            sys.stderr.write(world.broker.stderr())
        self.assertEqual(faults, [])
        self.assertGreater(len(world.ledger.acked), KILLS * 10, "this was no load")
        self.assertGreater(world.ledger.resent, KILLS, "nobody had to send again: the kills missed")


class SelfTest(unittest.TestCase):
    """Each way to tamper with a true record, and the fault that has to come of it."""

    def setUp(self):
        """A record of two senders, a follower and a listener, without a fault."""
        self.ledger, chance = Ledger(), random.Random(1)
        rows = []
        for number in range(10):
            for sender in ("a", "b"):
                own, content = self.ledger.send("s", sender, number, chance)
                rows.append(Row(len(rows) + 1, own, content))
                self.ledger.ack(own, len(rows), content)
        self.ledger.follow("follower", "s", 0)
        for row in rows:
            self.ledger.receive("follower", "s", *row)
        for row in rows[5:9]:
            self.ledger.receive("listener", "s", *row)
        self.rows = rows

    def found(self, tamper):
        ledger, rows = copy.deepcopy(self.ledger), list(self.rows)
        tamper(ledger, rows)
        return {fault.partition(":")[0] for fault in ledger.check({"s": rows})}

    def heard(self, ledger):
        return ledger.received["follower", "s"]

    def test_a_true_record_has_no_fault(self):
        self.assertEqual(self.found(lambda ledger, rows: None), set())

    def test_lost_at_the_end(self):
        def tamper(ledger, rows):
            own = rows.pop().id
            self.heard(ledger).pop()
            self.assertIn(own, ledger.acked)
        self.assertEqual(self.found(tamper), {"lost"})

    def test_lost_in_the_middle(self):
        self.assertIn("hole", self.found(lambda ledger, rows: rows.pop(7)))

    def test_stored_twice(self):
        def tamper(ledger, rows):
            rows.append(Row(21, rows[3].id, rows[3].content))
            self.heard(ledger).append(rows[-1])
        self.assertIn("twice", self.found(tamper))

    def test_received_twice(self):
        self.assertEqual(self.found(lambda ledger, rows: self.heard(ledger).insert(4, rows[3])), {"twice"})

    def test_not_received(self):
        self.assertEqual(self.found(lambda ledger, rows: self.heard(ledger).pop(4)), {"missed"})
        self.assertEqual(self.found(lambda ledger, rows: self.heard(ledger).pop()), {"missed"})
        self.assertEqual(self.found(lambda ledger, rows: ledger.received.pop(("follower", "s"))), {"missed"})

    def test_another_message_at_a_place(self):
        def tamper(ledger, rows):
            ledger.received["listener", "s"][1] = Row(7, rows[0].id, rows[0].content)
        self.assertEqual(self.found(tamper), {"moved"})

    def test_two_members_disagree(self):
        def tamper(ledger, rows):
            heard = self.heard(ledger)
            heard[2], heard[4] = heard[4]._replace(place=3), heard[2]._replace(place=5)
        self.assertEqual(self.found(tamper), {"moved"})

    def test_a_sender_overtakes_itself(self):
        def tamper(ledger, rows):
            rows[2], rows[4] = rows[4]._replace(place=3), rows[2]._replace(place=5)
        self.assertIn("order", self.found(tamper))

    def test_acknowledged_at_another_place(self):
        def tamper(ledger, rows):
            ledger.acked[rows[5].id] = 5
        self.assertEqual(self.found(tamper), {"moved"})

    def test_acknowledged_twice_at_two_places(self):
        self.assertEqual(self.found(lambda ledger, rows: ledger.ack(rows[5].id, 9)), {"moved"})

    def test_content_changed(self):
        def tamper(ledger, rows):
            rows[9] = rows[9]._replace(content="else")
            self.heard(ledger)[9] = rows[9]
        self.assertIn("moved", self.found(tamper))

    def test_nobody_sent_it(self):
        def tamper(ledger, rows):
            rows.append(Row(21, "who", "what"))
            self.heard(ledger).append(rows[-1])
        self.assertEqual(self.found(tamper), {"invented"})

    def test_epoch_changes(self):
        def tamper(ledger, rows):
            ledger.epoch("s", "one", "follower")
            ledger.epoch("s", "two", "follower")
        self.assertEqual(self.found(tamper), {"position"})


if __name__ == "__main__":
    unittest.main()
