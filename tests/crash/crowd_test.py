#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The crowd, smaller, and what it must not let pass."""

import sys
import unittest

from crowd import TOPIC, Crowd, One, room_for


class CrowdTest(unittest.TestCase):
    def test_many_come_back_at_once(self):
        clients = room_for(1500)
        faults, took = Crowd(clients).run(100)
        sys.stderr.write(f"  {clients} clients had everything after {took:.1f} s\n")
        self.assertEqual(faults, [])

    def test_what_is_a_fault(self):
        def event(offset, said=None):
            return {"type": "event", "topic": TOPIC, "offset": offset, "data": f"event {said or offset}"}

        for frames in ([event(2)], [event(1), event(1)], [event(1), event(3)], [event(1, said=2)],
                       [{"type": "subscribed", "recovered": False}], [{"type": "gap"}]):
            one = One.__new__(One)
            one.at, one.fault = 0, None
            for frame in frames:
                one.frame(frame)
            self.assertIsNotNone(one.fault, frames)


if __name__ == "__main__":
    unittest.main()
