#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""postern bench: every scenario over every target, small; what it prints must be true.

The generator checks each delivery itself, so that a run ends well is half of the test.  The other half is
the sums: what was published times who heard it, shares of a core, percentiles in order.
"""

import contextlib
import gzip
import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import selectors
import socket
import subprocess
import tempfile
import threading
import types
import unittest
import unittest.mock
import xml.etree.ElementTree

import harness

PROGRAM = f"{harness.BIN_DIR}/postern"
QUICK = ("--rounds", "1", "--warmup", "0.02")
MESSAGES = ("postern-ws-json", "postern-ws-msgpack", "postern-zmq", "postern-rest")
PERCENTILES = ("p50_us", "p90_us", "p99_us", "p999_us", "max_us")


class Careless(threading.Thread):
    """A WebSocket server for target `raw`: a text frame is echoed, a binary one is a publish.  It loses every
    seventh publish to the last subscriber, and sends every eleventh twice to the first.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(self.listener.getsockname()[1])
        self.lost = self.doubled = 0

    def run(self):
        loop = selectors.DefaultSelector()
        loop.register(self.listener, selectors.EVENT_READ)
        buffers, subscribers, n = {}, [], 0
        while True:
            for key, _ in loop.select():
                s = key.fileobj
                if s is self.listener:
                    c = s.accept()[0]
                    buffers[c] = bytearray()
                    loop.register(c, selectors.EVENT_READ)
                    continue
                got = s.recv(65536)
                if not got:  # the measurement is over
                    for c in buffers:
                        c.close()
                    return
                b = buffers[s]
                b += got
                if b.startswith(b"GET "):
                    if b.endswith(b"\r\n\r\n"):
                        b.clear()
                        s.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                  b"Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
                    continue
                while (frame := self.take(b)) is not None:
                    opcode, payload = frame
                    if opcode == 1:
                        subscribers.append(s)
                        s.sendall(self.frame(payload))
                    elif opcode == 2:
                        n += 1
                        for i, c in enumerate(subscribers):
                            lose, double = n % 7 == 0 and i == len(subscribers) - 1, n % 11 == 0 and i == 0
                            self.lost += lose
                            self.doubled += double
                            c.sendall(self.frame(payload) * (1 - lose + double))

    @staticmethod
    def take(b):
        """The first masked frame of fewer than 65,536 bytes, with a key of zeros."""
        if len(b) < 4:
            return None
        n, head = (b[1] & 127, 6) if b[1] & 127 < 126 else (b[2] << 8 | b[3], 8)
        if len(b) < head + n:
            return None
        frame = b[0] & 15, bytes(b[head:head + n])
        del b[:head + n]
        return frame

    @staticmethod
    def frame(payload):
        n = len(payload)
        return b"\x81" + (bytes([n]) if n < 126 else b"\x7e" + n.to_bytes(2, "big")) + payload


class Bench(unittest.TestCase):
    def run_bench(self, *args, status=0):
        r = subprocess.run([PROGRAM, "bench", *args], capture_output=True, text=True,
                           env=harness.clean_environment(), timeout=harness.PATIENCE * 4)
        self.assertEqual(r.returncode, status, (args, r.stderr))
        return r

    def reading(self, *args, seconds="0.1"):
        """One reading as a dict; what holds for all of them is checked."""
        r = self.run_bench(*args, *QUICK, "--seconds", seconds, "--json")
        self.assertEqual(r.stderr, "")
        self.assertEqual(r.stdout.count("\n"), 1)
        v = json.loads(r.stdout)
        self.assertEqual(v["scenario"], args[0])
        self.assertEqual(v["rounds"], 1)
        self.assertGreater(v["client_cpu"], 0)
        self.assertGreater(v["server_rss_bytes"], 1 << 20)
        self.assertTrue(0 <= v["server_busiest_cpu"] <= v["server_cpu"])
        self.assertGreaterEqual(min(v["server_wait"], v["client_wait"], v["stolen_cpu"]), 0)
        for name, (low, high) in v["range"].items():
            self.assertEqual((low, high), (v[name], v[name]), name)
        return v

    def check_latency(self, v):
        values = [v[p] for p in PERCENTILES]
        self.assertGreater(values[0], 0)
        self.assertEqual(values, sorted(values))

    def check_flow(self, v, hearers):
        """hearers: subscribers of one message."""
        self.assertGreater(v["published"], 0)
        self.assertEqual(v["deliveries"], v["published"] * hearers)
        self.assertEqual((v["lost"], v["doubled"]), (0, 0))
        self.assertGreater(v["cpu_us_per_op"], 0)
        self.assertLessEqual(v["last_p50_us"], v["last_max_us"])
        self.assertGreaterEqual(v["last_p99_us"] * 1.01, v["p50_us"])
        self.check_latency(v)

    def test_fanout_over_every_wire(self):
        for target in MESSAGES:
            with self.subTest(target=target):
                v = self.reading("fanout", "--target", target, "--subscribers", "7", "--window", "3")
                self.assertEqual((v["target"], v["window"]), (target, 3))
                self.check_flow(v, 7)
                self.assertEqual(v["published"] % 3, 0)

    def test_compressed_deliveries_are_inflated_and_checked(self):
        plain, small = (self.reading("fanout", "--target", target, "--subscribers", "5", "--window", "4",
                                     "--bytes", "1000", "--prose")
                        for target in ("postern-ws-json", "postern-ws-deflate"))
        self.check_flow(small, 5)
        self.assertGreater(plain["wire_bytes_per_op"], 1050)
        self.assertLess(small["wire_bytes_per_op"], 700)

    def test_counted_deliveries_are_all_there(self):
        """65 subscribers of whom the first and the last look at what they get."""
        for target in ("postern-ws-json", "postern-ws-msgpack", "postern-ws-deflate"):
            with self.subTest(target=target):
                self.check_flow(self.reading("fanout", "--target", target, "--subscribers", "65", "--window", "9",
                                             "--discard"), 65)

    def test_two_workers_deliver_everything(self):
        """Also at the worker that does not publish, where a burst arrives in parts."""
        for window in ("1", "16", "256"):
            with self.subTest(window=window):
                self.check_flow(self.reading("fanout", "--workers", "2", "--subscribers", "65", "--window", window), 65)

    def test_pubsub_over_every_wire(self):
        for target in MESSAGES:
            with self.subTest(target=target):
                v = self.reading("pubsub", "--target", target, "--subscribers", "6", "--publishers", "3",
                                 "--topics", "2", "--window", "4")
                self.check_flow(v, 3)

    def test_open_loop_sends_what_was_asked_for(self):
        for target in MESSAGES:
            with self.subTest(target=target):
                v = self.reading("fanout", "--target", target, "--subscribers", "5", "--rate", "300")
                self.assertEqual(v["published"], 30)
                self.assertGreater(v["lag_p99_us"], 0)
                self.check_flow(v, 5)

    def test_stalled_subscribers_are_cut_and_the_others_miss_nothing(self):
        v = self.reading("fanout", "--subscribers", "2", "--stalled", "2", "--bytes", "50000",
                         "--window", "8", seconds="8" if harness.SLOW else "1.5")  # what the kernel takes comes first
        self.check_flow(v, 2)
        self.assertEqual(v["stalled_cut"], 2)

    def test_what_a_server_loses_or_doubles_is_counted(self):
        server = Careless()
        self.addCleanup(server.listener.close)
        server.start()
        r = self.run_bench("fanout", "--target", "raw", "--address", server.address, "--subscribers", "3",
                           "--rate", "200", "--rounds", "1", "--warmup", "0", "--seconds", "0.1", "--json")
        v = json.loads(r.stdout)
        self.assertEqual(v["published"], 20)
        self.assertEqual((v["lost"], v["doubled"]), (2, 1))
        self.assertEqual((server.lost, server.doubled), (2, 1))
        self.assertEqual(v["deliveries"], 20 * 3 - 2 + 1)

    def test_a_reading_of_a_server_that_loses_is_none(self):
        """bench/peers/run: such a server must not win a row."""
        path = os.path.join(os.path.dirname(harness.__file__), "..", "..", "bench", "peers", "run")
        loader = importlib.machinery.SourceFileLoader("peers", path)
        peers = importlib.util.module_from_spec(importlib.util.spec_from_loader("peers", loader))
        with unittest.mock.patch.dict(os.environ, {"POSTERN_BIN_DIR": harness.BIN_DIR}):
            loader.exec_module(peers)
        server = Careless()
        self.addCleanup(server.listener.close)
        server.start()
        where = types.SimpleNamespace(where={"raw": ["--address", server.address]}, awake={}, generator={})
        a = types.SimpleNamespace(seconds=0.1, warmup=0)
        heard = io.StringIO()
        with contextlib.redirect_stderr(heard):
            self.assertIsNone(peers.reading(a, where, "fanout", "raw", "raw", "--subscribers", 3, "--rate", 200))
        self.assertIn("lost", heard.getvalue())

    def test_overload_finds_its_rate(self):
        v = self.reading("fanout", "--subscribers", "3", "--overload", "1.5")
        self.assertGreater(v["rate_wanted"], 10)
        self.assertEqual(v["deliveries"] + v["lost"], v["published"] * 3)

    def test_answers(self):
        for scenario, targets in (("request", MESSAGES), ("http", ("postern-rest",)), ("durable", MESSAGES)):
            for target in targets:
                with self.subTest(scenario=scenario, target=target):
                    v = self.reading(scenario, "--target", target, "--connections", "3", "--window", "2")
                    self.assertGreater(v["answers"], 0)
                    self.assertEqual(v["connections"], 3)
                    self.assertGreater(v["cpu_us_per_op"], 0)
                    self.check_latency(v)

    def test_connections_over_every_wire(self):
        for target in MESSAGES:
            with self.subTest(target=target):
                v = self.reading("connections", "--target", target, "--connections", "100")
                self.assertEqual(v["connections_opened"], 100)
                self.assertIn("kernel_bytes_per_connection", v)
                self.assertLess(v["user_bytes_per_connection"], 200000)
                self.assertLess(v["idle_cpu"], 0.9)
                self.check_latency(v)

    def chat(self):
        """A directory with one short day."""
        d = tempfile.TemporaryDirectory()
        self.addCleanup(d.cleanup)
        with gzip.open(os.path.join(d.name, "day.gz"), "wt") as f:
            for i in range(60):
                f.write(f"[07:{i // 20:02}] <{'ann' if i % 3 else 'bob'}> message {i}\n")
        return d.name

    def test_real_chat_at_a_speed(self):
        v = json.loads(self.run_bench("mixed", "--speed", "299.5", "--subscribers", "2", "--json", self.chat()).stdout)
        self.assertEqual((v["scenario"], v["target"], v["rounds"], v["speed"]), ("mixed", "postern", 1, 299.5))
        self.assertEqual((v["messages"], v["deliveries"], v["lost"], v["doubled"]), (60, 180, 0, 0))
        self.assertEqual(v["sent_rest"] + v["sent_ws"] + v["sent_zmq"], 60)
        self.assertGreater(v["seconds"], 0.55, "three minutes at 300 times their speed")
        self.assertGreater(v["lag_p99_us"], 0)
        self.check_latency(v)

    def test_real_chat_in_rounds(self):
        d = self.chat()
        plot = os.path.join(d, "plot.svg")
        r = self.run_bench("mixed", "--rounds", "3", "--subscribers", "1", "--json", "--svg", plot, d)
        v = json.loads(r.stdout)
        self.assertEqual((v["rounds"], v["deliveries"], v["range"]["deliveries"]), (3, 120, [120, 120]))
        self.assertEqual(v["confidence"], 0.75)
        self.assertNotIn("lag_p99_us", v, "a closed loop is never late")
        for name in ("rate", "cpu_us_per_op", "p50_us", "p999_us", "client_cpu"):
            low, high = v["range"][name]
            self.assertLess(0, low)
            self.assertTrue(low <= v[name] <= high, name)
        self.assertLess(*v["range"]["rate"], "three times the same")
        self.assertIn(" 360 values, ", pathlib.Path(plot).read_text(encoding="utf-8"))
        xml.etree.ElementTree.parse(plot)
        r = self.run_bench("mixed", "--subscribers", "1", "--rounds", "2", d)
        self.assertIn("mixed, postern, days 1, people 2, messages 60, subscribers 2, window 32; medians of 2\n", r.stdout)
        self.assertRegex(r.stdout, r"p999_us +[0-9.]+ +\([0-9.]+ to [0-9.]+\)")
        self.assertIn("proven", r.stdout)

    def test_real_chat_refuses(self):
        for args in (["--speed", "0"], ["--speed", "fast"], ["--speed", "nan"], ["--rounds", "0"], ["--rounds", "2.5"]):
            with self.subTest(args=args):
                self.assertRegex(self.run_bench("mixed", *args, status=2).stderr, r"\Abench: [^\n]+ is not a number")
        self.assertRegex(self.run_bench("mixed", "--svg", "/nowhere/x.svg", status=1).stderr, r"\Abench: [^\n]+\n\Z")

    def test_actors(self):
        r = self.run_bench("actors", "count", "1", "2000", "100")
        self.assertEqual(r.stdout.split()[0], "2000")
        v = json.loads(self.run_bench("actors", "--rounds", "3", "--json", "count", "2", "2000", "100").stdout)
        self.assertEqual((v["scenario"], v["target"], v["workers"], v["rounds"]), ("actors", "count", 2, 3))
        self.assertEqual(v["range"]["operations"], [2000, 2000])
        self.assertAlmostEqual(v["ns_per_op"] * v["operations"] / 1e9, v["seconds"], places=3)
        self.assertIn("./dev bench actors", self.run_bench("actors", "--svg", "x", "count", status=2).stderr)

    def test_an_interrupted_run_takes_its_broker_along(self):
        with tempfile.TemporaryDirectory() as d:
            with subprocess.Popen([PROGRAM, "bench", "request", "--seconds", "60"], stderr=subprocess.DEVNULL,
                                  env={**harness.clean_environment(), "TMPDIR": d}) as p:
                harness.wait_until(lambda: any(f.name == "postern.ipc" for f in pathlib.Path(d).rglob("*")),
                                   "the broker")
                p.terminate()
                self.assertEqual(p.wait(harness.PATIENCE), 1)
            self.assertEqual(os.listdir(d), [])

    def test_open_loop_of_requests(self):
        v = self.reading("http", "--connections", "4", "--rate", "200")
        self.assertEqual(v["answers"], 20)
        self.check_latency(v)

    def test_a_server_that_runs_already(self):
        broker = harness.Broker()
        self.addCleanup(broker.remove)
        broker.start()
        self.addCleanup(broker.stop)
        address = "{}:{}".format(*broker.http)
        pid = str(broker.process.pid)
        v = self.reading("request", "--address", address, "--token", broker.token(), "--server-pid", pid)
        self.assertGreater(v["answers"], 0)
        v = self.reading("http", "--target", "http", "--address", address, "--path", "/health",
                         "--connections", "2", "--server-pid", pid)
        self.assertGreater(v["answers"], 0)

    def test_table_and_plot(self):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "plot.svg")
            r = self.run_bench("request", *QUICK, "--seconds", "0.1", "--rounds", "2", "--svg", path)
            self.assertIn("request, postern-ws-json, connections 1, window 1, bytes 128; medians of 2", r.stdout)
            self.assertRegex(r.stdout, r"cpu_us_per_op +[0-9.]+ +\([0-9.]+ to [0-9.]+\)")
            root = xml.etree.ElementTree.parse(path).getroot()
            line = root.find("{http://www.w3.org/2000/svg}polyline")
            points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
            self.assertEqual(len(points), 101)
            self.assertEqual(points, sorted(points, key=lambda p: (p[0], -p[1])), "never falls")

    def test_refusals_are_one_line(self):
        for args in ([], ["fly"], ["http", "--stalled", "3"], ["fanout", "--target", "http", "--address", "x"],
                     ["request", "--window", "none"], ["fanout", "--discard", "--rate", "9"],
                     ["pubsub", "--discard"]):
            with self.subTest(args=args):
                r = self.run_bench(*args, status=2)
                self.assertRegex(r.stderr, r"\Abench: [^\n]+\n\Z")
                self.assertEqual(r.stdout, "")

    def test_help_names_what_there_is(self):
        r = self.run_bench("--help")
        for word in ("fanout", "pubsub", "request", "http", "durable", "connections", "mixed", "actors", "--overload", *MESSAGES):
            self.assertIn(word, r.stdout)

    def test_a_server_that_is_not_there(self):
        r = self.run_bench("http", "--target", "http", "--address", "127.0.0.1:1", status=1)
        self.assertRegex(r.stderr, r"\Abench: [^\n]+\n\Z")


class DurableBenchTest(unittest.TestCase):
    def test_term(self):
        """Ends the broker and the reading, and removes their directory."""
        run = os.path.join(harness.HERE, "..", "..", "bench", "durable", "run")
        with tempfile.TemporaryDirectory() as d:
            harness.end_benchmark(self, [run, "--only", "ws-json"], "postern-durable", d)


if __name__ == "__main__":
    harness.main()
