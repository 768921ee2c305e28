#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The harness itself: a broker that ends badly, as a sanitizer makes it end, must fail the test that ran it.

A sanitizer reports at the exit or in the middle and ends the process with status 66 (CMakeLists.txt).  A program that
does just that takes the broker's place here.
"""
import os
import stat
import tempfile
import unittest

import harness

FAKE = """#!/usr/bin/python3
import signal, sys
wanted = {signal.SIGTERM, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print('{"http": "127.0.0.1:1", "admin": "127.0.0.1:2"}', flush=True)
print('REPORT', file=sys.stderr, flush=True)
signal.sigwait(wanted)
sys.exit(STATUS)
"""


class Harness(unittest.TestCase):
    def setUp(self):
        room = tempfile.TemporaryDirectory(prefix="ptn")
        self.addCleanup(room.cleanup)
        self.program = os.path.join(room.name, "postern")
        self.addCleanup(setattr, harness, "PROGRAM", harness.PROGRAM)
        harness.PROGRAM = self.program

    def broker(self, status):
        with open(self.program, "w", encoding="utf-8") as f:
            f.write(FAKE.replace("STATUS", str(status)))
        os.chmod(self.program, stat.S_IRWXU)
        broker = harness.Broker().start()
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        return broker

    def test_a_clean_end_passes(self):
        self.broker(0).stop()

    def test_a_report_at_the_end_fails_and_is_shown(self):
        with self.assertRaisesRegex(AssertionError, r"ended with 66(.|\n)*REPORT"):
            self.broker(66).stop()

    def test_a_report_in_the_middle_fails(self):
        broker = self.broker(66)
        broker.process.send_signal(harness.signal.SIGUSR1)
        broker.process.wait(harness.PATIENCE)
        self.assertFalse(broker.alive(), "which setUp() of every test asks")
        with self.assertRaisesRegex(AssertionError, "ended with 66"):
            broker.stop()


if __name__ == "__main__":
    harness.main()
