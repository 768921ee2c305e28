#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The programs of bench/actors, small: each checks its own result, so that they end is the test.

They reach what unit tests do not: thousands of actors, full mailboxes whose senders come back, and
every pair of actors across workers.
"""

import os
import signal
import subprocess
import tempfile
import unittest

import harness

PROGRAM = f"{harness.BIN_DIR}/postern-actors"
RUN = os.path.join(harness.HERE, "..", "..", "bench", "actors", "run")

# program: (size, operations that makes)
PROGRAMS = {
    "pingpong": (500, 500),
    "count": (20000, 20000),
    "senders": (2000, 32000),
    "threadring": (2050, 2050),  # ends inside a lap
    "fjthrput": (500, 30000),
    "fjcreate": (2000, 2000),
    "create": (2000, 2000),
    "idle": (1500, 1500),  # ends inside a wave
    "big": (100, 24000),
    "chameneos": (2000, 2000),
    "concdict": (200, 4000),
    "bndbuffer": (5, 200),
}


class ActorsBench(unittest.TestCase):
    def run_all(self, workers):
        for name, (size, ops) in PROGRAMS.items():
            with self.subTest(program=name):
                argv = [PROGRAM, name, str(workers), str(size), str(max(size // 20, 1))]
                r = subprocess.run(argv, capture_output=True, text=True, timeout=harness.PATIENCE * 2)
                self.assertEqual((r.returncode, r.stderr), (0, ""))
                figures = [int(word) for word in r.stdout.split()]
                self.assertEqual(len(figures), 4)
                self.assertEqual(figures[0], ops)
                self.assertGreater(figures[1], 0)

    def test_one_worker(self):
        self.run_all(1)

    def test_two_workers(self):
        self.run_all(2)

    def test_refuses_what_it_does_not_know(self):
        for argv in (["nothing", "1", "1", "1"], ["count", "0", "1", "1"], ["count", "1", "x", "1"], ["count"]):
            r = subprocess.run([PROGRAM, *argv], capture_output=True, text=True, timeout=harness.PATIENCE)
            self.assertEqual(r.returncode, 2, argv)


class Command(unittest.TestCase):
    """bench/actors/run around them."""

    def test_refuses_before_it_measures(self):
        for argv, why in ((["--json", "/nowhere/readings.json"], "No such file"), (["--spin-us", "-5"], "at least 0"),
                          (["--rounds", "0"], "at least 1")):
            r = subprocess.run([RUN, "--only", "postern", *argv], capture_output=True, text=True,
                               timeout=harness.PATIENCE)
            self.assertEqual((r.returncode, r.stdout), (2, ""), argv)
            self.assertIn(why, r.stderr)
            self.assertNotIn("round 1", r.stderr)

    def test_term(self):
        """Ends what is being measured."""
        with tempfile.TemporaryDirectory() as d:
            harness.end_benchmark(self, [RUN, "--only", "postern", "--program", "big"], "postern-actors", d)


if __name__ == "__main__":
    unittest.main()
