#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One conversation, any protocol: what is sent by one is heard by all.

wire.md 2 and 3, architecture: "one total order per conversation and per topic; each subscriber sees
it without reordering"; "live delivery, history and offline replay use the same cursor".
"""

import statistics
import sys
import threading
import time
import unittest
import uuid

from harness import EventStream, SystemTest, Ws, Zmq, sse_settle, unique, zmq_ask, zmq_event


class Listener:
    """One subscriber: (time, key, epoch, offset) of every event it hears."""

    def __init__(self, name):
        self.name = name
        self.heard = []

    def report(self, sent_at):
        delays = sorted((at - sent_at[key]) * 1e3 for at, key, _, _ in self.heard if key in sent_at)
        if delays:
            median = statistics.median(delays)
            sys.stderr.write(f"  {self.name:12} latency: median {median:.2f} ms, "
                             f"max {delays[-1]:.2f} ms\n")


class CrossTest(SystemTest):
    """Senders: REST, WebSocket, ZeroMQ.  Listeners: WebSocket JSON and msgpack, SSE, SUB."""

    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user("ann")
        cls.bob = cls.broker.user("bob")

    def setUp(self):
        super().setUp()
        self.zmq = Zmq()
        self.addCleanup(self.zmq.close)

    def open(self, topic, who, publish, probe_of):
        """The four listeners, each known to be subscribed."""
        json_ws = Ws(self.broker, who["token"])
        self.addCleanup(json_ws.close)
        json_ws.subscribe(topic)
        pack_ws = Ws(self.broker, who["token"], encoding="msgpack")
        self.addCleanup(pack_ws.close)
        pack_ws.subscribe(topic)
        sub = self.zmq.sub(self.broker.zmq_events, topic)
        self.settle(sub, publish, probe_of)
        sse = EventStream(self.broker, topic, who["token"])
        self.addCleanup(sse.close)
        self.assertEqual(sse.status, 200)
        sse_settle(sse, publish, probe_of)
        return {"ws json": json_ws, "ws msgpack": pack_ws, "sse": sse, "zmq sub": sub}

    def settle(self, sub, publish, probe_of):
        sent, seen = 0, -1
        while seen < 0:
            self.assertLess(sent, 400, "no probe reached the SUB socket")
            publish(sent)
            sent += 1
            if sub.poll(50):
                seen = probe_of(zmq_event(sub)[1]["data"])
        while seen < sent - 1:
            seen = probe_of(zmq_event(sub)[1]["data"])

    def listen(self, sources, topic, total, key_of):
        """Reads `total` keyed events from every source, each in a thread of its own; probes are
        passed over.
        """
        listeners = {name: Listener(name) for name in sources}
        failures = []

        def next_of(name):
            source = sources[name]
            if name.startswith("ws"):
                frame = source.expect("event", topic=topic)
                return frame.at, frame["data"], frame["epoch"], frame["offset"]
            if name == "sse":
                event_id, payload, whole = source.published()
                whole = whole if isinstance(whole, dict) else {}
                return time.monotonic(), payload, whole.get("epoch"), whole.get("offset")
            name, event = zmq_event(source)
            self.assertEqual(name, topic)
            return time.monotonic(), event["data"], event["epoch"], event["offset"]

        def read(name):
            try:
                while len(listeners[name].heard) < total:
                    at, payload, epoch, offset = next_of(name)
                    key = key_of(payload)
                    if key is not None:
                        listeners[name].heard.append((at, key, epoch, offset))
            except Exception as failure:  # told by the main thread
                heard = len(listeners[name].heard)
                failures.append(f"{name}: {failure!r} after {heard} of {total}")

        threads = [threading.Thread(target=read, args=(name,)) for name in sources]
        for thread in threads:
            thread.start()

        def join():
            for thread in threads:
                thread.join()
            self.assertEqual(failures, [])
            return listeners
        return join

    def compare(self, listeners, sent_at, positions):
        """Exactly once, in one order, at the same positions as their senders were told."""
        reference = [key for _, key, _, _ in listeners["ws json"].heard]
        self.assertEqual(sorted(reference), sorted(sent_at), "each exactly once")
        for name, listener in listeners.items():
            self.assertEqual([key for _, key, _, _ in listener.heard], reference,
                             f"the order of {name}")
            for _, key, epoch, offset in listener.heard:
                if offset is not None:  # an SSE event may carry its position in its id only
                    expected = positions["ws json"][key]
                    self.assertEqual((epoch, offset), expected, f"{key} at {name}")
        offsets = [positions["ws json"][key][1] for key in reference]
        self.assertEqual(offsets, list(range(offsets[0], offsets[0] + len(offsets))))
        for key, position in positions["sender"].items():
            self.assertEqual(positions["ws json"][key], position,
                             f"what the sender of {key} was told")
        for listener in listeners.values():
            listener.report(sent_at)

    def run_senders(self, senders, per_sender):
        """Calls each sender's function from a thread of its own."""
        failures = []

        def run(name, send):
            try:
                for i in range(per_sender):
                    send(f"{name}-{i}")
            except Exception as failure:
                failures.append(f"{name}: {failure!r}")

        threads = [threading.Thread(target=run, args=item) for item in senders.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    PER_SENDER = 20

    def test_messages(self):
        """A message by REST, WebSocket and ZeroMQ reaches all four kinds of subscriber."""
        conversation = self.broker.conversation(self.ann, self.bob)
        topic = "conversation." + conversation
        path = f"/api/v1/conversations/{conversation}/messages"

        def say(content, who=self.ann):
            reply = self.broker.call("POST", path, {"content": content}, token=who["token"])
            return self.assertOk(reply, 201)

        def probe_of(payload):
            kind, _, number = payload["content"].partition(" ")
            return int(number) if kind == "probe" else None

        sources = self.open(topic, self.bob, lambda n: say(f"probe {n}"), probe_of)
        sent_at, positions, seqs = {}, {"sender": {}}, {}
        ws = {encoding: Ws(self.broker, self.ann["token"], encoding=encoding)
              for encoding in ("json", "msgpack")}
        for socket in ws.values():
            self.addCleanup(socket.close)
        req = {encoding: self.zmq.req(self.broker.zmq) for encoding in ("json", "msgpack")}

        def by_rest(key):
            sent_at[key] = time.monotonic()
            seqs[key] = say(key)["seq"]

        def by_ws(key, encoding):
            own = str(uuid.uuid4())
            sent_at[key] = time.monotonic()
            ws[encoding].send(type="message", id=own, conversationId=conversation, content=key)
            seqs[key] = ws[encoding].expect("ack", id=own)["message"]["seq"]

        def by_zmq(key, encoding):
            own = str(uuid.uuid4())
            sent_at[key] = time.monotonic()
            ack = zmq_ask(req[encoding], {"type": "message", "id": own,
                                          "conversationId": conversation, "content": key,
                                          "token": self.bob["token"]}, encoding)
            self.assertEqual(ack["type"], "ack", ack)
            seqs[key] = ack["message"]["seq"]

        senders = {"rest": by_rest, "wsj": lambda key: by_ws(key, "json"),
                   "wsm": lambda key: by_ws(key, "msgpack"),
                   "zmqj": lambda key: by_zmq(key, "json"),
                   "zmqm": lambda key: by_zmq(key, "msgpack")}
        total = len(senders) * self.PER_SENDER
        join = self.listen(sources, topic, total, lambda payload: None
                           if probe_of(payload) is not None else payload["content"])
        self.run_senders(senders, self.PER_SENDER)
        listeners = join()
        positions["ws json"] = {key: (epoch, offset)
                                for _, key, epoch, offset in listeners["ws json"].heard}
        self.compare(listeners, sent_at, positions)
        order = [key for _, key, _, _ in listeners["sse"].heard]
        self.assertEqual(order, sorted(seqs, key=seqs.get), "the order is that of seq")
        for name in ("ws json", "ws msgpack"):
            sources[name].nothing_more("event", topic=topic)
            self.assertFalse([f for f in sources[name].pending if f["type"] == "message"],
                             "told twice")

    def test_publications(self):
        """The same for a topic: `publish` by REST, WebSocket and ZeroMQ."""
        topic = unique("cross")

        def publish(data):
            return self.assertOk(self.broker.call("POST", "/api/v1/topics/" + topic, data,
                                                  token=self.ann["token"]), 202)

        sources = self.open(topic, self.bob, lambda n: publish({"probe": n}),
                            lambda payload: payload.get("probe"))
        sent_at, positions = {}, {"sender": {}}
        ws = Ws(self.broker, self.ann["token"], encoding="msgpack")
        self.addCleanup(ws.close)
        req = self.zmq.req(self.broker.zmq)

        def told(key, answer):
            positions["sender"][key] = (answer["epoch"], answer["offset"])

        def by_rest(key):
            sent_at[key] = time.monotonic()
            told(key, publish({"key": key, "value": [1, 2.5, "☃", None]}))

        def by_ws(key):
            sent_at[key] = time.monotonic()
            ws.send(type="publish", topic=topic, data={"key": key, "value": [1, 2.5, "☃", None]},
                    id=key)
            told(key, ws.expect("ack", id=key))

        def by_zmq(key):
            sent_at[key] = time.monotonic()
            told(key, zmq_ask(req, {"type": "publish", "topic": topic, "id": key,
                                    "token": self.bob["token"],
                                    "data": {"key": key, "value": [1, 2.5, "☃", None]}}))

        senders = {"rest": by_rest, "ws": by_ws, "zmq": by_zmq}
        join = self.listen(sources, topic, len(senders) * self.PER_SENDER,
                           lambda payload: payload.get("key"))
        self.run_senders(senders, self.PER_SENDER)
        listeners = join()
        positions["ws json"] = {key: (epoch, offset)
                                for _, key, epoch, offset in listeners["ws json"].heard}
        self.compare(listeners, sent_at, positions)

    def test_one_identity(self):
        """The same identity whatever the protocol: who one is, and what one set."""
        value = unique("v")
        req = self.zmq.req(self.broker.zmq)
        with Ws(self.broker, self.ann["token"]) as ws:
            self.assertEqual(ws.request("PATCH", "/users/me/preferences",
                                        {"cross": value})["status"] // 100, 2)
            by_ws = ws.request("GET", "/users/me")["body"]["data"]
        by_rest = self.assertOk(self.broker.call("GET", "/api/v1/users/me",
                                                 token=self.ann["token"]))
        by_zmq = zmq_ask(req, {"method": "GET", "path": "/users/me", "token": self.ann["token"]},
                         "msgpack")
        self.assertEqual(by_rest, by_ws)
        self.assertEqual(by_rest, by_zmq["body"]["data"])
        self.assertEqual(by_rest["preferences"]["cross"], value)

    def test_one_default(self):
        """A message without `conversationId` goes to the same place, or is refused, by every
        protocol alike.
        """
        told = {}
        req = self.zmq.req(self.broker.zmq)
        reply = self.broker.call("POST", "/api/v1/conversations/messages", {"content": "x"},
                                 token=self.ann["token"])
        told["rest"] = reply.data["conversationId"] if reply.status == 201 else reply.json["code"]
        frame = {"type": "message", "id": str(uuid.uuid4()), "content": "x"}
        with Ws(self.broker, self.ann["token"]) as ws:
            ws.send(**frame)
            answers = {"ws": ws.expect(id=frame["id"])}
        answers["zmq"] = zmq_ask(req, {**frame, "id": str(uuid.uuid4()),
                                       "token": self.ann["token"]})
        for name, answer in answers.items():
            accepted = answer["type"] == "ack"
            told[name] = answer["message"]["conversationId"] if accepted else answer["code"]
        self.assertEqual(len(set(told.values())), 1, told)

    def test_one_error(self):
        """The same error whatever the protocol."""
        req = self.zmq.req(self.broker.zmq)
        with Ws(self.broker, self.ann["token"]) as ws:
            for method, path, body in (("GET", "/nowhere", None), ("GET", "/admin/users", None),
                                       ("POST", "/topics/a..b", {}),
                                       ("POST", "/conversations", {"members": 7})):
                by_rest = self.broker.call(method, "/api/v1" + path, body,
                                           token=self.ann["token"]).json
                frame = {"type": "request", "id": "e", "method": method, "path": path,
                         "token": self.ann["token"]}
                if body is not None:
                    frame["body"] = body
                for problem in (ws.request(method, path, body)["body"],
                                zmq_ask(req, frame)["body"]):
                    for member in ("success", "type", "title", "status", "code", "message",
                                   "details", "retryable"):
                        self.assertEqual(problem[member], by_rest[member],
                                         f"{member} of {method} {path}")


if __name__ == "__main__":
    unittest.main()
