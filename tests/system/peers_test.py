#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""bench/peers/run, small, with the servers that need no package: every row, its readings and its verdicts.

Whether a target is met says nothing here; that each is read, divided and printed does.
"""

import json
import os
import re
import subprocess
import tempfile
import unittest

import harness

RUN = os.path.join(harness.HERE, "..", "..", "bench", "peers", "run")


class Peers(unittest.TestCase):
    def run_peers(self, *args, status=0):
        r = subprocess.run([RUN, *args], capture_output=True, text=True, timeout=harness.PATIENCE * 8,
                           env=dict(os.environ, POSTERN_BIN_DIR=os.path.abspath(harness.BIN_DIR)))
        self.assertEqual(r.returncode, status, (args, r.stderr))
        return r

    def test_every_row(self):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "readings.json")
            r = self.run_peers("--quick", "--only", "postern,raw", "--json", path)
            with open(path, encoding="utf-8") as f:
                told = json.load(f)
        rows = {row: {json.dumps(of["key"]): of["readings"] for of in all_of}
                for row, all_of in told["readings"].items()}
        self.assertEqual(set(rows), {"fanout", "crowd", "stalled", "echo", "health", "zmq", "workers", "half"})
        for wire in ("postern-ws-json", "postern-ws-msgpack", "postern-zmq", "raw"):
            for window in (1, 16, 256):
                reading, = rows["fanout"][json.dumps([wire, window])]
                self.assertEqual((reading["lost"], reading["doubled"]), (0, 0))
                self.assertEqual(reading["deliveries"], reading["published"] * 100)
                self.assertEqual(reading["window"], window)
                self.assertGreater(reading["cpu_us_per_op"], 0)
        for row in ("echo", "half"):  # Postern and the bare loop beside it
            self.assertGreaterEqual(len(rows[row]), 2, row)
        one, two = (rows["workers"][f'"{key}"'][0] for key in ("1 worker", "2 workers"))
        for what, figure in (("deliveries per second", "rate"), ("CPU per delivery", "cpu_us_per_op")):
            told_of, = [v for v in told["targets"] if v["what"] == f"2 workers / 1: {what}"]
            self.assertAlmostEqual(told_of["value"], two[figure] / one[figure])
        for key, reading in (("1 worker ", one), ("2 workers", two)):
            limited = "limit: generator" in r.stdout.split(f"\n{key}")[1].splitlines()[1]
            self.assertEqual(limited, reading["server_busiest_cpu"] < 0.9, key)
        ours, = rows["crowd"]['"postern-ws-json"']
        bare, = rows["crowd"]['"raw"']
        last = [v for v in told["targets"] if "time to the last" in v["what"]]
        self.assertEqual(len(last), 1)
        self.assertAlmostEqual(last[0]["value"], ours["last_p50_us"] / bare["last_p50_us"])
        unread = [v for v in told["targets"] if v["value"] is None]
        for v in unread:
            self.assertRegex(r.stdout, re.escape(v["what"]) + " +not read", "its server was left out")
            self.assertRegex(v["what"], "best peer|/health|ZeroMQ")
        for v in told["targets"]:
            if v in unread:
                continue
            self.assertGreater(v["value"], 0, v["what"])
            self.assertEqual(v["met"], v["value"] >= v["bound"] if v["least"] else v["value"] <= v["bound"])
            line, = [line for line in r.stdout.splitlines() if line.startswith(v["what"] + " ")
                     and f"{v['bound']:.2f} {v['unit']}" in line]
            self.assertEqual("MISSED" in line, not v["met"], line)

    def test_refuses_what_it_does_not_know(self):
        self.assertIn("no server 'kafka'", self.run_peers("--only", "kafka", status=2).stderr)
        self.run_peers("--row", "nothing", status=2)
        self.assertIn("No such file", self.run_peers("--json", "/nowhere/readings.json", status=2).stderr)

    def test_term(self):
        """Ends the servers and the reading, and removes their directory."""
        with tempfile.TemporaryDirectory() as d:
            harness.end_benchmark(self, [RUN, "--only", "postern,raw", "--row", "fanout"], "postern-bench", d)


if __name__ == "__main__":
    unittest.main()
