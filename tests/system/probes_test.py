#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Probes, metrics and signals: wire.md section 4."""

import collections
import contextlib
import ctypes
import http.client
import json
import os
import re
import signal
import time
import unittest
import uuid

from harness import (LIBC, PASSWORD, PATIENCE, SLOW, RawHttp, RawWs, SystemTest, Broker, EventStream, Ws, Zmq,
                     exchange, unique, wait_until, zmq_ask, zmq_decode, zmq_receive)

API = "/api/v1"

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"^({NAME})(?:\{{((?:{LABEL})(?:,{LABEL})*)?,?\}})? (\S+)$")
KINDS = ("counter", "gauge", "histogram", "summary", "untyped")

Sample = collections.namedtuple("Sample", "name labels value")


PTRACE_ATTACH, PTRACE_DETACH, WALL = 16, 17, 0x40000000


@contextlib.contextmanager
def stopped(pid, name):
    """One thread of a process stands still, as if it waited for something that does not come."""
    tasks = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="utf-8") as f:
            tasks[f.read().strip()] = int(tid)
    tid, nothing = tasks[name], ctypes.c_void_p()
    if LIBC.ptrace(PTRACE_ATTACH, tid, nothing, nothing) != 0:
        raise unittest.SkipTest("threads cannot be stopped here: no ptrace")
    os.waitpid(tid, WALL)
    try:
        yield
    finally:
        LIBC.ptrace(PTRACE_DETACH, tid, nothing, nothing)


class Family:
    """One metric as the exposition describes it."""

    def __init__(self, name):
        self.name, self.help, self.kind, self.samples = name, None, None, []


def parse(text):
    """The families of a Prometheus text exposition, by name; AssertionError for what promtool would
    refuse.
    """
    if not text.endswith("\n"):
        raise AssertionError("the last line has no end")
    families, current, seen = {}, None, set()
    for line in text.split("\n")[:-1]:
        comment = re.match(rf"^# (HELP|TYPE) ({NAME}) (.*)$", line)
        if comment:
            what, name, rest = comment.groups()
            if current is None or current.name != name:
                if name in families:
                    raise AssertionError(f"{name} stands in two places")
                current = families[name] = Family(name)
            if current.samples:
                raise AssertionError(f"{what} of {name} comes after its samples")
            member = "help" if what == "HELP" else "kind"
            if getattr(current, member) is not None:
                raise AssertionError(f"a second {what} of {name}")
            if what == "TYPE" and rest not in KINDS:
                raise AssertionError(f"no type: {line!r}")
            setattr(current, member, rest)
            continue
        if not line or line.startswith("#"):
            continue
        sample = SAMPLE.match(line)
        if not sample:
            raise AssertionError(f"not a sample: {line!r}")
        name, labels, value = sample.groups()
        pairs = re.findall(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"', labels or "")
        if len(pairs) != len({key for key, _ in pairs}):
            raise AssertionError(f"a label twice: {line!r}")
        key = (name, tuple(sorted(pairs)))
        if key in seen:
            raise AssertionError(f"the same series twice: {line!r}")
        seen.add(key)
        if current is None or not belongs(name, current):
            raise AssertionError(f"{name} does not stand under its TYPE")
        current.samples.append(Sample(name, dict(pairs), float(value)))
    return families


def belongs(name, family):
    if family.kind == "histogram":
        return name in (family.name + "_bucket", family.name + "_sum", family.name + "_count")
    if family.kind == "summary":
        return name in (family.name, family.name + "_sum", family.name + "_count")
    return name == family.name


class ProbesTest(SystemTest):
    """The admin listener of a running broker."""

    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user("ann")
        # Something of everything has happened, so that every series with a label exists.
        cls.broker.conversation(cls.ann)
        cls.broker.call("POST", API + "/topics/seen", {"n": 1}, token=cls.ann["token"])
        cls.broker.call("POST", API + "/conversations/current/messages", {"content": "x"},
                        token=cls.ann["token"])
        cls.broker.call("GET", API + "/nowhere", token=cls.ann["token"])
        cls.broker.call("GET", API + "/users/me")
        with Ws(cls.broker, cls.ann["token"]) as ws, Zmq() as zmq:
            ws.subscribe("seen")
            zmq_ask(zmq.req(cls.broker.zmq), {"type": "publish", "id": "p", "topic": "seen",
                                              "data": 1, "token": cls.ann["token"]})
            ws.expect("event")
            ws.request("GET", "/health")

    def probe(self, path):
        return self.broker.call("GET", path, address=self.broker.admin)

    def families(self):
        reply = self.probe("/metrics")
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.type, "text/plain", "Prometheus text")
        return parse(reply.body.decode("utf-8"))

    def test_probes(self):
        """`/livez`, `/readyz`, `/startupz`: 200 while all is well, without a token."""
        for path in ("/livez", "/readyz", "/startupz"):
            self.assertEqual(self.probe(path).status, 200, path)
            head = self.broker.call("HEAD", path, address=self.broker.admin)
            self.assertEqual((head.status, head.body), (200, b""), path)

    def test_probes_are_not_for_the_street(self):
        """Metrics and probes are on the admin listener; the public one does not give metrics away.
        """
        self.assertIn(self.broker.call("GET", "/metrics").status, (401, 403, 404))

    def test_wrong_method(self):
        """Probes are for GET."""
        for path in ("/livez", "/metrics"):
            reply = self.broker.call("POST", path, {}, address=self.broker.admin)
            self.assertIn(reply.status, (401, 404, 405), path)

    def test_exposition(self):
        """Prometheus text: HELP and TYPE for each, no series twice, prefix `postern_`, counters end
        with `_total`.
        """
        families = self.families()
        self.assertGreater(len(families), 10)
        for name, family in families.items():
            self.assertTrue(name.startswith("postern_"), name)
            self.assertTrue(family.help, f"{name} has no HELP")
            self.assertIsNotNone(family.kind, f"{name} has no TYPE")
            self.assertEqual(name.endswith("_total"), family.kind == "counter",
                             f"{name} is a {family.kind}")
            self.assertNotRegex(name, r"_((milli|micro|nano)seconds|ms|us|ns|kb|mb)(_|$)",
                                "base units")
            for sample in family.samples:
                self.assertEqual(sample.value, sample.value, f"{name} is NaN")
                if family.kind in ("counter", "histogram"):
                    self.assertGreaterEqual(sample.value, 0, name)

    def test_histograms(self):
        """Buckets are cumulative, end with +Inf, and agree with the count."""
        histograms = [family for family in self.families().values() if family.kind == "histogram"]
        self.assertTrue(histograms)
        for family in histograms:
            groups = collections.defaultdict(lambda: {"buckets": [], "sum": None, "count": None})
            for sample in family.samples:
                labels = {k: v for k, v in sample.labels.items() if k != "le"}
                group = groups[tuple(sorted(labels.items()))]
                if sample.name.endswith("_bucket"):
                    group["buckets"].append((float(sample.labels["le"]), sample.value))
                else:
                    group[sample.name.rsplit("_", 1)[1]] = sample.value
            for labels, group in groups.items():
                bounds = [bound for bound, _ in group["buckets"]]
                counts = [count for _, count in group["buckets"]]
                self.assertEqual(bounds, sorted(set(bounds)), (family.name, labels))
                self.assertEqual(bounds[-1], float("inf"), (family.name, labels))
                self.assertEqual(counts, sorted(counts), (family.name, labels))
                self.assertEqual(counts[-1], group["count"], (family.name, labels))
                self.assertIsNotNone(group["sum"], (family.name, labels))

    NAMES = {
        "postern_connections": ("gauge", {"protocol"}),
        "postern_subscriptions": ("gauge", set()),
        "postern_messages_received_total": ("counter", {"protocol"}),
        "postern_messages_delivered_total": ("counter", {"protocol"}),
        "postern_messages_dropped_total": ("counter", {"reason"}),
        "postern_request_duration_seconds": ("histogram", {"protocol", "outcome"}),
        "postern_fanout_duration_seconds": ("histogram", set()),
        "postern_outbound_queue_bytes": ("gauge", set()),
        "postern_mailbox_depth": ("gauge", {"actor"}),
        "postern_mailbox_wait_seconds": ("histogram", {"actor"}),
        "postern_actor_restarts_total": ("counter", {"actor"}),
        "postern_fsync_duration_seconds": ("histogram", set()),
        "postern_memory_bytes": ("gauge", {"pool"}),
        "postern_build_info": ("gauge", {"version", "revision"}),
    }

    def test_names(self):
        """At least the names of wire.md, with their labels."""
        families = self.families()
        for name, (kind, labels) in self.NAMES.items():
            with self.subTest(name):
                self.assertIn(name, families)
                if families[name].kind != kind:
                    # A distribution of queue sizes would be as good as their sum; the others are
                    # given by their names.
                    self.assertEqual((name, families[name].kind),
                                     ("postern_outbound_queue_bytes", "histogram"))
                for sample in families[name].samples:
                    self.assertLessEqual(labels, set(sample.labels), sample)

    def test_series_that_exist(self):
        """What has happened in this broker has its series."""
        families = self.families()
        for name in self.NAMES:
            if name not in ("postern_messages_dropped_total", "postern_actor_restarts_total"):
                with self.subTest(name):
                    self.assertTrue(families[name].samples, "no series")
        for name in ("postern_messages_received_total", "postern_request_duration_seconds"):
            protocols = {sample.labels["protocol"] for sample in families[name].samples}
            self.assertGreaterEqual(len(protocols), 3, f"{name}: {protocols}")
        info = families["postern_build_info"].samples
        self.assertEqual(len(info), 1)
        self.assertEqual(info[0].value, 1)
        self.assertTrue(info[0].labels["version"])

    def test_no_ids_as_labels(self):
        """No ids or topics as labels."""
        topic = "label." + uuid.uuid4().hex
        conversation = self.broker.conversation(self.ann)
        with Ws(self.broker, self.ann["token"]) as ws:
            ws.subscribe(topic)
            self.broker.call("POST", API + "/topics/" + topic, {}, token=self.ann["token"])
            self.broker.call("GET", f"{API}/conversations/{conversation}", token=self.ann["token"])
            self.broker.call("GET", f"{API}/never/{topic}", token=self.ann["token"])
            ws.expect("event")
            text = self.probe("/metrics").body.decode()
        for name in (topic, conversation, self.ann["id"], "127.0.0.1"):
            self.assertNotIn(name, text)

    def wait_for(self, value, name, *labels):
        wait_until(lambda: self.broker.metric(name, *labels) == value, f"{value} {name} {labels}")

    def test_connections_are_counted(self):
        """`postern_connections{protocol}`: up with each, and down again."""
        of_ws = ("postern_connections", 'protocol="w')  # the label's value is not in wire.md
        self.wait_for(0, *of_ws)
        sockets = [Ws(self.broker, self.ann["token"]) for _ in range(5)]
        self.wait_for(5, *of_ws)
        for ws in sockets:
            ws.close()
        self.wait_for(0, *of_ws)

    def test_subscriptions_are_counted(self):
        """`postern_subscriptions`: those of all workers."""
        loner = self.broker.user("loner")  # without conversations, whose feeds would count, too
        self.wait_for(0, "postern_subscriptions")
        sockets = [Ws(self.broker, loner["token"]) for _ in range(5)]
        for ws in sockets:
            ws.subscribe(*[unique("count") for _ in range(7)])
        self.wait_for(35, "postern_subscriptions")
        for ws in sockets:
            ws.close()
        self.wait_for(0, "postern_subscriptions")

    def test_deliveries_are_counted(self):
        """`postern_messages_received_total`, `postern_messages_delivered_total`, the fan-out, the
        requests.
        """
        topic = unique("count")
        names = ("postern_messages_received_total", "postern_messages_delivered_total",
                 "postern_fanout_duration_seconds_count", "postern_request_duration_seconds_count")
        with Ws(self.broker, self.ann["token"]) as one, Ws(self.broker, self.ann["token"]) as two:
            one.subscribe(topic)
            two.subscribe(topic)
            before = {name: self.broker.metric(name) for name in names}
            for i in range(10):
                self.broker.call("POST", API + "/topics/" + topic, {"n": i},
                                 token=self.ann["token"])
            one.events(topic, 10)
            two.events(topic, 10)
            for name, least in zip(names, (10, 20, 1, 10)):
                wait_until(lambda: self.broker.metric(name) >= before[name] + least,
                           f"{name} to grow by {least}")

    def test_fsyncs_are_counted(self):
        """`postern_fsync_duration_seconds`: conversation messages are synced."""
        before = self.broker.metric("postern_fsync_duration_seconds_count")
        reply = self.broker.call("POST", API + "/conversations/current/messages", {"content": "x"},
                                 token=self.ann["token"])
        self.assertOk(reply, 201)
        wait_until(lambda: self.broker.metric("postern_fsync_duration_seconds_count") > before,
                   "an fsync")

    def test_counters_never_fall(self):
        """Two scrapes: what counts only grows."""
        first = self.families()
        second = self.families()
        for name, family in first.items():
            if family.kind == "counter":
                later = {tuple(sorted(s.labels.items())): s.value for s in second[name].samples}
                for sample in family.samples:
                    self.assertGreaterEqual(later[tuple(sorted(sample.labels.items()))],
                                            sample.value, name)

    def test_many_scrapes(self):
        """Scrapers keep their connection; scraping harms nobody."""
        connection = http.client.HTTPConnection(*self.broker.admin, timeout=PATIENCE)
        self.addCleanup(connection.close)
        for _ in range(30):
            self.assertEqual(exchange(connection, "GET", "/metrics").status, 200)


class StuckTest(SystemTest):
    """A worker that does not come back: the others say so."""

    env = {"POSTERN_WORKERS": "2", "POSTERN_WATCHDOG": "1s"}

    def answer(self, method, path, **how):
        """The reply; None when the worker that has the connection does not answer."""
        try:
            return self.broker.call(method, path, patience=0.5, **how)
        except (OSError, http.client.HTTPException):
            return None

    def probe(self, path):
        """The status that a worker that answers gives."""
        found = wait_until(lambda: self.answer("GET", path, address=self.broker.admin), path)
        return found.status

    def test_a_worker_that_does_not_come_back(self):
        """`/livez` and `/readyz` are 503, `postern_workers_stuck` is 1; afterwards all is well, and
        the log has said it once.
        """
        ann = self.broker.user("ann")
        self.assertEqual(self.probe("/livez"), 200)
        with stopped(self.broker.process.pid, "ptn-w1"):
            def stuck():  # half of these are for the worker that does not come
                self.answer("GET", f"{API}/conversations/{uuid.uuid4()}", token=ann["token"])
                return self.probe("/livez") == 503
            wait_until(stuck, "/livez to tell")
            self.assertEqual(self.probe("/readyz"), 503)
            self.assertEqual(self.probe("/startupz"), 200)
            page = wait_until(lambda: self.answer("GET", "/metrics", address=self.broker.admin),
                              "/metrics")
            self.assertIn("\npostern_workers_stuck 1\n", page.body.decode("utf-8"))
        wait_until(lambda: self.probe("/livez") == 200, "/livez to be well again")
        self.assertEqual(self.broker.metric("postern_workers_stuck"), 0)
        self.assertEqual(self.broker.stderr().count("worker.blocked"), 1)


class SignalsTest(unittest.TestCase):
    """TERM or INT drain and exit; HUP reloads; USR1 dumps state to the log.  One broker each."""

    def setUp(self):
        self.broker = Broker()
        self.addCleanup(self.broker.remove)
        self.addCleanup(self.broker.kill)
        self.broker.start()
        self.ann = self.broker.user("ann")

    def send(self, sig):
        self.broker.send_signal(sig)

    def readyz(self):
        """The status of /readyz; None when there is nobody to ask."""
        try:
            return self.broker.call("GET", "/readyz", address=self.broker.admin).status
        except (OSError, http.client.HTTPException):
            return None

    def test_term_says_goodbye(self):
        """ws gets `drain` `{reconnectAfterMs, ticket}` and close 1012 or 1001; readyz is 503 or
        gone; exit 0.
        """
        sockets = [Ws(self.broker, self.ann["token"], encoding=encoding)
                   for encoding in ("json", "msgpack")]
        for ws in sockets:
            self.addCleanup(ws.close)
            ws.subscribe("some.topic")
        stream = EventStream(self.broker, "some.topic", self.ann["token"])
        self.addCleanup(stream.close)
        idle = RawHttp(self.broker.http)
        self.addCleanup(idle.close)
        self.send(signal.SIGTERM)
        for ws in sockets:
            drain = ws.expect("drain")
            self.assertIn("reconnectAfterMs", drain)
            self.assertNotEqual(self.readyz(), 200, "ready while draining")
            ws.ticket = drain["ticket"]
        for ws in sockets:
            code, reason = ws.close_code()
            self.assertIn(code, (1012, 1001), reason)
        self.assertTrue(stream.raw.closed())
        self.assertTrue(idle.closed())
        self.broker.stop()
        self.broker.start()
        for ws in sockets:
            with Ws(self.broker, how=None) as again:
                again.send(type="resume", session=ws.ticket)
                welcome = again.expect("welcome")
                self.assertEqual((welcome["resumed"], welcome["user"]["id"]),
                                 (True, self.ann["id"]))

    def test_int_is_term(self):
        """INT drains as well."""
        with Ws(self.broker, self.ann["token"]) as ws:
            self.send(signal.SIGINT)
            ws.expect("drain")
            self.assertIn(ws.close_code()[0], (1012, 1001))
        self.broker.stop(signal.SIGINT)

    def wake_ups(self):
        """Of all threads of the broker so far."""
        tasks = f"/proc/{self.broker.process.pid}/task"
        total = 0
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/status", encoding="ascii") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("voluntary_ctxt_switches:"))
        return total

    @unittest.skipIf(SLOW, "sanitizers have threads of their own")
    def test_an_idle_broker_sleeps(self):
        """Nothing in it ticks: there comes a second without a single wake-up."""
        def a_quiet_second():
            before = self.wake_ups()
            time.sleep(1)
            return self.wake_ups() == before
        wait_until(a_quiet_second, "a second without a wake-up")

    def test_nobody_there(self):
        """An idle broker ends at once."""
        begin = time.monotonic()
        self.broker.stop()
        self.assertLess(time.monotonic() - begin, PATIENCE / 4)

    def test_a_client_that_does_not_let_go(self):
        """A websocket that never answers the close does not hold the broker beyond `drain`."""
        self.broker.stop()
        self.broker.env["POSTERN_DRAIN"] = "1s"
        self.broker.start()
        raw = RawWs(self.broker, self.ann["token"])
        self.addCleanup(raw.close)
        raw.json("welcome")
        half = RawHttp(self.broker.http)
        self.addCleanup(half.close)
        half.send(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n")
        self.broker.stop()

    SLOW = {"type": "request", "id": "slow", "method": "POST", "path": "/auth/login",
            "body": {"username": "ann", "password": PASSWORD}}

    def test_http_request_in_flight(self):
        """A request in flight is answered before the end: a login takes a hundred milliseconds."""
        body = json.dumps(self.SLOW["body"]).encode()
        raw = RawHttp(self.broker.http)
        self.addCleanup(raw.close)
        # In one packet: whoever has answered the first has taken the second.
        raw.send(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
                 b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\n"
                 b"Content-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.assertEqual(raw.reply().status, 200)
        self.send(signal.SIGTERM)
        reply = raw.reply()
        self.assertEqual(reply.status, 200, reply)
        self.assertIn("accessToken", reply.data)
        self.assertTrue(raw.closed())
        self.broker.stop()

    def test_frame_in_flight(self):
        """The same for a `request` frame that was taken before the signal."""
        with Ws(self.broker, self.ann["token"]) as ws:
            ws.send(**self.SLOW)
            ws.fence()  # frames are taken in order: the request has been
            self.send(signal.SIGTERM)
            self.assertEqual(ws.expect("response", id="slow")["status"], 200)
        self.broker.stop()

    def test_zmq_request_in_flight(self):
        """The same over ZeroMQ."""
        with Zmq() as zmq:
            dealer = zmq.dealer(self.broker.zmq)
            for frame in (self.SLOW, {"method": "GET", "path": "/health", "id": "fence"}):
                dealer.send_multipart([b"", json.dumps(frame).encode()])
            answer = zmq_decode(zmq_receive(dealer)[-1])
            self.send(signal.SIGTERM)
            if answer["id"] == "fence":  # else the login was faster
                answer = zmq_decode(zmq_receive(dealer)[-1])
            self.assertEqual((answer["id"], answer["status"]), ("slow", 200), answer)
        self.broker.stop()

    def test_acknowledged_while_draining(self):
        """What is acknowledged during the drain is stored."""
        conversation = self.broker.conversation(self.ann)
        ws = Ws(self.broker, self.ann["token"])
        self.addCleanup(ws.close)
        ids = [str(uuid.uuid4()) for _ in range(50)]
        ws.send_many({"type": "message", "id": own, "conversationId": conversation, "content": "x"}
                     for own in ids)
        self.send(signal.SIGTERM)
        ws.close_code()
        acked = {frame["id"] for frame in ws.pending if frame["type"] == "ack"}
        self.broker.stop()
        self.broker.start()
        reply = self.broker.call("GET", f"{API}/conversations/{conversation}/messages?limit=100",
                                 token=self.ann["token"])
        self.assertEqual(reply.status, 200, reply)
        self.assertLessEqual(acked, {message["id"] for message in reply.data})
        self.broker.stop()

    def test_no_new_connections_while_draining(self):
        """After the drain has begun a newcomer is refused, or told 503."""
        raw = RawWs(self.broker, self.ann["token"])
        self.addCleanup(raw.close)
        raw.json("welcome")
        self.send(signal.SIGTERM)
        raw.json("drain")
        try:
            reply = self.broker.call("GET", API + "/users/me", token=self.ann["token"])
            self.assertEqual(reply.status, 503, reply)
            self.assertEqual(reply.json["code"], "draining")
        except (OSError, http.client.HTTPException):
            pass
        raw.close()
        self.broker.stop()

    def test_second_term(self):
        """A second one exits at once."""
        raw = RawWs(self.broker, self.ann["token"])
        self.addCleanup(raw.close)
        raw.json("welcome")
        self.send(signal.SIGTERM)
        raw.json("drain")
        begin = time.monotonic()
        self.send(signal.SIGTERM)
        self.broker.process.wait(PATIENCE)
        self.assertLess(time.monotonic() - begin, PATIENCE / 4)
        # Its exit status is not in wire.md.
        self.assertIn(self.broker.process.returncode, (0, 1, -signal.SIGTERM, 128 + signal.SIGTERM))

    def test_hup_and_usr1(self):
        """HUP reloads without dropping a session, USR1 dumps state to the log; neither ends the
        broker.
        """
        conversation = self.broker.conversation(self.ann)
        with Ws(self.broker, self.ann["token"]) as ws:
            ws.subscribe("conversation." + conversation, "hup.topic")
            for sig in (signal.SIGHUP, signal.SIGUSR1) * 3:
                logged = len(self.broker.stderr(last=1 << 20))
                self.send(sig)
                if sig == signal.SIGUSR1:
                    wait_until(lambda: len(self.broker.stderr(last=1 << 20)) > logged,
                               "a dump in the log")
                ws.fence()
                reply = self.broker.call("POST", f"{API}/conversations/{conversation}/messages",
                                         {"content": "x"}, token=self.ann["token"])
                self.assertEqual(reply.status, 201, reply)
                ws.expect("event", topic="conversation." + conversation)
            self.assertEqual(self.readyz(), 200)
        self.assertTrue(self.broker.alive())
        self.assertNotIn(self.ann["token"], self.broker.stderr(last=1 << 20),
                         "secrets are never logged")
        self.broker.stop()

    def test_hup_says_what_waits_for_a_restart(self):
        broker = Broker(config="log:\n  level: info\n")
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        broker.start()
        path = broker.args[broker.args.index("--config") + 1]
        for text, waiting in (("log:\n  level: debug\n", "nothing"),
                              ("limits:\n  depth: 12\ntopics:\n  durable: [\"a.**\", \"b.**\"]\n",
                               "limits.depth topics.durable"),
                              ("log:\n  level: info\n", "nothing")):
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            before = broker.stderr(last=1 << 20).count("config.reloaded")
            broker.send_signal(signal.SIGHUP)
            wait_until(lambda: broker.stderr(last=1 << 20).count("config.reloaded") > before, "the log")
            line = [x for x in broker.stderr(last=1 << 20).splitlines() if "config.reloaded" in x][-1]
            self.assertEqual(json.loads(line)["at_next_start"], waiting)
        broker.stop()

    def test_hup_with_a_broken_config(self):
        """A configuration that became wrong is reported and the old one stays."""
        broker = Broker(config="log:\n  level: info\n")
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        broker.start()
        path = broker.args[broker.args.index("--config") + 1]
        with open(path, "w", encoding="utf-8") as f:
            f.write("listne:\n  http: nowhere\n")
        broker.send_signal(signal.SIGHUP)
        for _ in range(10):
            self.assertEqual(broker.call("GET", API + "/health").status, 200)
        self.assertTrue(broker.alive())
        broker.stop()

    def test_pipe_of_nobody(self):
        """SIGPIPE from a client that is gone is no reason to end."""
        for _ in range(20):
            raw = RawHttp(self.broker.http)
            raw.send(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            raw.reset()
        self.assertEqual(self.broker.call("GET", API + "/health").status, 200)
        self.broker.stop()


if __name__ == "__main__":
    unittest.main()
