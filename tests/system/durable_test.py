#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Durable topics, levels of durability, and requests that are sent twice.

A topic that a rule of `topics.durable` matches is kept on disk.  The acknowledgement of a publish
names the level that was reached and the position; what was acknowledged as synced is there after
SIGKILL, at the same position of the same epoch.
"""

import json
import threading
import unittest
import uuid

from harness import (PASSWORD, Broker, SystemTest, Ws, Zmq, main, unique, wait_until, zmq_ask)

DURABLE = {"POSTERN_TOPICS__DURABLE": "d.**"}
LEVELS = ("memory", "written", "synced")


class DurableCase(SystemTest):
    env = DURABLE

    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user()

    def setUp(self):
        super().setUp()
        self.zmq = Zmq()
        self.addCleanup(self.zmq.close)

    def ws(self, encoding="json"):
        ws = Ws(self.broker, self.ann["token"], encoding=encoding)
        self.addCleanup(ws.close)
        return ws

    def post(self, topic, data, query="", **headers):
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        return self.broker.call("POST", f"/api/v1/topics/{topic}{query}", json.dumps(data).encode(),
                                token=self.ann["token"],
                                headers={"Content-Type": "application/json", **headers})


class Levels(DurableCase):
    def publishers(self):
        """(name, publish(topic, data, level) -> {epoch, offset, durability}) of every protocol."""
        def frames(ask):
            def publish(topic, data, level):
                frame = {"type": "publish", "id": unique("p"), "topic": topic, "data": data}
                if level:
                    frame["durability"] = level
                ack = ask(frame)
                self.assertEqual((ack["type"], ack["id"]), ("ack", frame["id"]), ack)
                return ack
            return publish

        def by_ws(encoding):
            ws = self.ws(encoding)

            def ask(frame):
                ws.send(**frame)
                return ws.expect(id=frame["id"])
            return ask

        def by_zmq(encoding):
            req = self.zmq.req(self.broker.zmq)
            return lambda frame: zmq_ask(req, {**frame, "token": self.ann["token"]}, encoding)

        def rest(topic, data, level):
            return self.assertOk(self.post(topic, data, f"?durability={level}" if level else ""),
                                 202)

        yield "rest", rest
        for encoding in ("json", "msgpack"):
            yield "ws " + encoding, frames(by_ws(encoding))
            yield "zmq " + encoding, frames(by_zmq(encoding))

    def test_the_acknowledgement_names_level_and_position(self):
        topic, offset, epochs = "d." + unique(), 0, set()
        for name, publish in self.publishers():
            for level in (*LEVELS, None):
                with self.subTest(name, level=level):
                    offset += 1
                    ack = publish(topic, {"n": offset}, level)
                    self.assertEqual(ack["durability"], level or "synced")
                    self.assertEqual(ack["offset"], offset)
                    epochs.add(ack["epoch"])
        self.assertEqual(len(epochs), 1)
        late = self.ws()
        late.subscribe(topic, since={"epoch": epochs.pop(), "offset": 0})
        heard = late.events(topic, offset)
        self.assertEqual([e["offset"] for e in heard], list(range(1, offset + 1)))
        self.assertEqual([e["data"]["n"] for e in heard], list(range(1, offset + 1)))

    def test_a_topic_without_a_rule_reaches_memory(self):
        for name, publish in self.publishers():
            for level in (*LEVELS, None):
                with self.subTest(name, level=level):
                    self.assertEqual(publish("m." + unique(), 1, level)["durability"], "memory")

    def test_no_such_level(self):
        self.assertProblem(self.post("d.x", 1, "?durability=eternal"), 422, "validation_failed")
        ws = self.ws()
        ws.send(type="publish", id="p", topic="d.x", data=1, durability="eternal")
        self.assertError(ws.expect(id="p"), "validation_failed", "invalid_request")

    def test_live_and_stored_events_are_one_stream(self):
        """A subscriber that comes in the middle of a storm hears everything once, in order."""
        topic, count = "d." + unique(), 400
        first = self.assertOk(self.post(topic, {"n": 1}), 202)
        writer, reader = self.ws(), self.ws()
        storm = threading.Thread(target=lambda: writer.pipeline(
            [{"type": "publish", "id": i, "topic": topic, "data": {"n": i},
              "durability": LEVELS[i % 3]} for i in range(2, count + 1)], kind="ack"))
        storm.start()
        said = reader.subscribe(topic, since={"epoch": first["epoch"], "offset": 0})
        self.assertTrue(said["recovered"])
        heard = reader.events(topic, count)
        storm.join()
        self.assertEqual([e["offset"] for e in heard], list(range(1, count + 1)))
        self.assertEqual(sorted(e["data"]["n"] for e in heard), list(range(1, count + 1)))
        reader.nothing_more(topic=topic)

    def test_positions(self):
        topic = "d." + unique()
        epoch = self.assertOk(self.post(topic, 1), 202)["epoch"]
        for offset, data in ((2, None), (3, [1, {"a": "☃"}]), (4, "x" * 100000)):
            self.assertEqual(self.assertOk(self.post(topic, data), 202)["offset"], offset)
        ws = self.ws("msgpack")
        for since, recovered in (({"epoch": epoch, "offset": 4}, True),
                                 ({"epoch": epoch, "offset": 5}, False),
                                 ({"epoch": "0" * 16, "offset": 1}, False), (None, False)):
            with self.subTest(since=since):
                said = ws.subscribe(topic, **({"since": since} if since else {}))
                self.assertEqual((said["epoch"], said["offset"], said["recovered"]),
                                 (epoch, 4, recovered))
                ws.nothing_more(topic=topic)
                ws.send(type="unsubscribe", topic=topic)
                ws.expect("unsubscribed")
        ws.subscribe(topic, since={"epoch": epoch, "offset": 1})
        self.assertEqual([e["data"] for e in ws.events(topic, 3)],
                         [None, [1, {"a": "☃"}], "x" * 100000])

    def test_a_rule_does_not_open_what_is_reserved(self):
        self.assertProblem(self.post("user." + self.ann["id"] + "x", 1), 403, "forbidden")


class Twice(DurableCase):
    """The same request twice: the first result again, or a refusal that says what is wrong."""

    def test_publish(self):
        for topic, level in (("d." + unique(), "written"), ("d." + unique(), "synced"),
                             ("m." + unique(), "memory")):
            with self.subTest(topic):
                ws = self.ws()
                ws.subscribe(topic)
                first = self.assertOk(self.post(topic, {"n": 1}, f"?durability={level}",
                                                Idempotency_Key="k"), 202)
                self.assertEqual(first["subscribers"], 1)
                again = self.assertOk(self.post(topic, {"n": 1}, Idempotency_Key="k"), 202)
                self.assertEqual(again, first, "the first result, whatever is asked now")
                self.assertProblem(self.post(topic, {"n": 2}, Idempotency_Key="k"), 422,
                                   "idempotency_mismatch")
                self.assertEqual(ws.expect("event", topic=topic)["data"], {"n": 1})
                ws.nothing_more(topic=topic)
                other = self.broker.user()
                reply = self.broker.call("POST", f"/api/v1/topics/{topic}", {"n": 1},
                                         token=other["token"], headers={"Idempotency-Key": "k"})
                self.assertEqual(self.assertOk(reply, 202)["offset"], 2, "another user's key")

    def test_publish_frames(self):
        for name in ("ws", "zmq"):
            for topic in ("d." + unique(), "m." + unique()):
                with self.subTest(name, topic=topic):
                    own = str(uuid.uuid4())
                    frame = {"type": "publish", "id": own, "topic": topic, "data": [1]}
                    if name == "ws":
                        ws = self.ws()

                        def ask(f):
                            ws.send(**f)
                            return ws.expect(id=f["id"])
                    else:
                        req = self.zmq.req(self.broker.zmq)

                        def ask(f):
                            return zmq_ask(req, {**f, "token": self.ann["token"]})
                    first = ask(frame)
                    self.assertEqual(ask(frame), first)
                    self.assertError(ask({**frame, "data": [2]}), "idempotency_mismatch")
                    for i in (1, 2):  # an id that is none of a message only correlates
                        self.assertEqual(ask({**frame, "id": "x"})["offset"], 1 + i)

    def test_while_it_runs(self):
        """A burst of the same request: one event; the others hear the same, or that it runs."""
        topic, own = "d." + unique(), str(uuid.uuid4())
        ws = self.ws()
        ws.send_many([{"type": "publish", "id": own, "topic": topic, "data": 1}] * 20)
        answers = [ws.expect(id=own) for _ in range(20)]
        acks = [a for a in answers if a["type"] == "ack"]
        self.assertTrue(acks)
        self.assertEqual({a["offset"] for a in acks}, {1})
        for error in (a for a in answers if a["type"] != "ack"):
            self.assertError(error, "idempotency_in_progress")
            self.assertTrue(error["retryable"])
        self.assertEqual(self.assertOk(self.post(topic, 2), 202)["offset"], 2)

    def make(self, path, body, key, how):
        """(status, data or code) of one keyed POST in this protocol."""
        headers = {"Idempotency-Key": key}
        token = self.broker.token()
        if how == "rest":
            reply = self.broker.call("POST", path, body, token=token, headers=headers)
            status, envelope = reply.status, reply.json
        else:
            frame = {"method": "POST", "path": path, "headers": headers, "body": body}
            if how == "ws":
                ws = Ws(self.broker, token)
                self.addCleanup(ws.close)
                answer = ws.request(**frame)
            else:
                answer = zmq_ask(self.zmq.req(self.broker.zmq),
                                 {"type": "request", "id": 1, "token": token, **frame})
            status, envelope = answer["status"], answer["body"]
        return status, envelope["data"] if status < 300 else envelope["code"]

    def test_every_protocol_and_thing(self):
        conversation = self.assertOk(self.broker.call("POST", "/api/v1/conversations", {},
                                                      token=self.broker.token()), 201)["id"]
        name = unique("twice")
        cases = (
            ("/api/v1/conversations", {"title": "one"}, {"title": "two"}, "id"),
            ("/api/v1/conversations/current/messages", {"content": "a"}, {"content": "b"}, "seq"),
            ("/api/v1/conversations/messages", {"content": "a", "conversationId": conversation},
             {"content": "b", "conversationId": conversation}, "seq"),
            ("/api/v1/topics/d." + unique(), {"n": 1}, {"n": 2}, "offset"),
            ("/api/v1/admin/users", {"username": name, "password": PASSWORD},
             {"username": name + "x", "password": PASSWORD}, "id"))
        for path, body, other, member in cases:
            key = unique("key ")
            results = []
            for how in ("rest", "ws", "zmq"):
                with self.subTest(path, how=how):
                    status, data = self.make(path, body, key, how)
                    self.assertIn(status, (201, 202), data)
                    results.append(data[member])
                    self.assertEqual(self.make(path, other, key, how),
                                     (422, "idempotency_mismatch"))
            self.assertEqual(len(set(results)), 1, f"{path}: {results}")

    def test_a_key_is_1_to_255_bytes(self):
        for path, body in (("/api/v1/conversations", {}), ("/api/v1/topics/d.k", 1),
                           ("/api/v1/conversations/current/messages", {"content": "x"}),
                           ("/api/v1/admin/users", {"username": unique("u"), "password": None})):
            with self.subTest(path):
                reply = self.broker.call("POST", path, json.dumps(body).encode(),
                                         token=self.broker.token(),
                                         headers={"Idempotency-Key": "k" * 256,
                                                  "Content-Type": "application/json"})
                self.assertProblem(reply, 422, "validation_failed")
                self.assertIn("Idempotency-Key", reply.json["details"])


class Crash(unittest.TestCase):
    """SIGKILL: synced events and their epoch stay; written ones stay too, under a new epoch."""

    def broker(self, **env):
        broker = Broker(env={**DURABLE, **env})
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        return broker.start()

    def publish(self, ws, topic, numbers, level):
        """The acknowledgements of one burst, in order."""
        return ws.pipeline([{"type": "publish", "id": str(uuid.UUID(int=n)), "topic": topic,
                             "data": {"n": n}, "durability": level} for n in numbers], kind="ack")

    def test_synced_events_and_their_epoch_survive(self):
        broker = self.broker()
        topic, acked, epoch = "d.synced", [], None
        for turn in range(3):
            with Ws(broker, broker.token()) as ws:
                acked += self.publish(ws, topic, range(turn * 40, turn * 40 + 40), "synced")
                ws.send_many([{"type": "publish", "id": str(uuid.UUID(int=1000 * turn + i + 1000)),
                               "topic": topic, "data": {"n": -1}} for i in range(40)])
                broker.kill()  # in the middle of more
            broker.start()
            epoch = epoch or acked[0]["epoch"]
            with Ws(broker, broker.token()) as ws:
                said = ws.subscribe(topic, since={"epoch": epoch, "offset": 0})
                self.assertTrue(said["recovered"], f"turn {turn}: {said}")
                heard = {e["offset"]: e["data"]["n"] for e in ws.events(topic, said["offset"])}
                self.assertEqual(sorted(heard), list(range(1, said["offset"] + 1)), "no hole")
                for n, ack in enumerate(acked):
                    self.assertEqual(ack["epoch"], epoch)
                    self.assertEqual(heard.get(ack["offset"]), n, f"turn {turn}: event {n}")

    def test_an_id_is_known_after_a_crash(self):
        broker = self.broker()
        with Ws(broker, broker.token()) as ws:
            first = self.publish(ws, "d.ids", range(5), "synced")
        broker.kill()
        broker.start()
        with Ws(broker, broker.token()) as ws:
            for ack, before in zip(self.publish(ws, "d.ids", range(5), "synced"), first):
                self.assertEqual(ack, before)
            ws.send(type="publish", id=first[0]["id"], topic="d.ids", data="other")
            self.assertEqual(ws.expect(id=first[0]["id"])["code"], "idempotency_mismatch")
            self.assertEqual(self.publish(ws, "d.ids", [99], "synced")[0]["offset"], 6)

    def test_an_id_outlives_what_other_topics_and_a_crash_do(self):
        broker = self.broker(POSTERN_TOPICS__IDS="2000")
        with Ws(broker, broker.token()) as ws:
            first = self.publish(ws, "d.ids", range(1), "synced")[0]
            for topic in ("in.memory", "d.other"):
                self.publish_many(ws, topic, 2100)
            self.assertEqual(self.publish(ws, "d.ids", range(1), "synced")[0], first, "others push nothing out")
            evicted = broker.metric("postern_topic_ids_evicted_total")
            self.assertEqual(evicted, 200, "what did go is counted")
            self.publish_many(ws, "d.ids", 1500)
        broker.kill()
        broker.start()
        with Ws(broker, broker.token()) as ws:
            self.assertEqual(self.publish(ws, "d.ids", range(1), "synced")[0], first)

    @staticmethod
    def publish_many(ws, topic, count):
        for at in range(0, count, 100):  # no more at once than a connection may have under way
            ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{topic} {at + n}")) for n in range(100)]
            ws.send_many([{"type": "publish", "id": own, "topic": topic, "data": 1} for own in ids])
            for own in ids:
                ws.expect("ack", id=own)

    def test_written_events_and_the_end_of_the_broker(self):
        for clean in (True, False):
            with self.subTest(clean=clean):
                broker = self.broker()
                with Ws(broker, broker.token()) as ws:
                    acks = self.publish(ws, "d.written", range(10), "written")
                    kept = self.publish(ws, "d.kept", range(10), "synced")
                    self.assertEqual({a["durability"] for a in acks}, {"written"})
                if clean:
                    broker.stop()
                else:
                    broker.kill()
                broker.start()
                with Ws(broker, broker.token()) as ws:
                    said = ws.subscribe("d.written",
                                        since={"epoch": acks[0]["epoch"], "offset": 5})
                    self.assertEqual(said["recovered"], clean)
                    self.assertEqual(said["epoch"] == acks[0]["epoch"], clean)
                    self.assertEqual(said["offset"], 10, "the process died, not the kernel")
                    if clean:
                        self.assertEqual([e["data"]["n"] for e in ws.events("d.written", 5)],
                                         list(range(5, 10)))
                    said = ws.subscribe("d.kept", since={"epoch": kept[0]["epoch"], "offset": 5})
                    self.assertTrue(said["recovered"])
                    self.assertEqual([e["data"]["n"] for e in ws.events("d.kept", 5)],
                                     list(range(5, 10)))


class Retention(SystemTest):
    """Rules let go what is too much or too old; a position before it is not recovered."""

    env = {"POSTERN_TOPICS__DURABLE": "few.** events=5,small.** bytes=1000,young.** age=1s,all.**",
           "POSTERN_CONVERSATIONS__MESSAGES": "5"}

    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user()

    def publish(self, topic, count):
        with Ws(self.broker, self.ann["token"]) as ws:
            return ws.pipeline([{"type": "publish", "id": i, "topic": topic, "data": "x" * 100}
                                for i in range(count)], kind="ack")[-1]

    def from_the_beginning(self, topic, epoch):
        """What a subscriber with the first position is told: (recovered, offset)."""
        with Ws(self.broker, self.ann["token"]) as ws:
            said = ws.subscribe(topic, since={"epoch": epoch, "offset": 0})
            self.assertEqual(said["epoch"], epoch)
            return said["recovered"], said["offset"]

    def test_the_oldest_go(self):
        kept = self.publish("all.x", 30)
        for prefix in ("few", "small", "young"):
            with self.subTest(prefix):
                topic = unique(prefix + ".x")
                last = self.publish(topic, 30)
                wait_until(lambda: not self.from_the_beginning(topic, last["epoch"])[0],
                           "retention")
                self.assertEqual(self.from_the_beginning(topic, last["epoch"]), (False, 30))
                if prefix == "few":
                    with Ws(self.broker, self.ann["token"]) as ws:
                        for offset, fits in ((24, False), (25, True)):
                            said = ws.subscribe(topic, since={"epoch": last["epoch"],
                                                              "offset": offset})
                            self.assertEqual((said["recovered"], said["offset"]), (fits, 30))
                        self.assertEqual([e["offset"] for e in ws.events(topic, 5)],
                                         list(range(26, 31)))
        self.assertEqual(self.from_the_beginning("all.x", kept["epoch"]), (True, 30))
        self.assertGreaterEqual(self.broker.metric("postern_retention_removed_total", "event"), 50)

    def test_conversations_start_later(self):
        conversation = self.broker.conversation(self.ann)
        path = f"/api/v1/conversations/{conversation}/messages"
        for i in range(20):
            self.assertOk(self.broker.call("POST", path, {"content": str(i)},
                                           token=self.ann["token"]), 201)

        def listed():
            reply = self.broker.call("GET", path + "?after=0", token=self.ann["token"])
            return [m["seq"] for m in self.assertOk(reply)]
        wait_until(lambda: listed() == [16, 17, 18, 19, 20], "retention")
        epoch = self.assertOk(self.broker.call("GET", f"/api/v1/conversations/{conversation}",
                                               token=self.ann["token"]))["epoch"]
        with Ws(self.broker, self.ann["token"]) as ws:
            topic = "conversation." + conversation
            gap = ws.expect("gap", topic=topic)  # what waited for the device
            self.assertEqual((gap["from"], gap["to"], gap["reason"]), (1, 15, "expired"))
            for offset, fits in ((3, False), (14, False), (15, True)):
                said = ws.subscribe(topic, since={"epoch": epoch, "offset": offset})
                self.assertEqual((said["recovered"], said["offset"]), (fits, 20))
            self.assertEqual([e["offset"] for e in ws.events(topic, 5)], [16, 17, 18, 19, 20])
            ws.nothing_more("gap")
        self.broker.stop()
        self.broker.start()  # which reads from the database what it does not remember
        self.assertEqual(self.from_the_beginning(topic, epoch), (False, 20))
        self.assertEqual(self.assertOk(self.broker.call("POST", path, {"content": "next"},
                                                        token=self.ann["token"]), 201)["seq"], 21)


if __name__ == "__main__":
    main()
