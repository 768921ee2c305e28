#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Slow consumers: every policy loses what it says, says what it lost, and stalls nobody else.

A subscriber stops reading until its subscription is behind, while others go on; then it reads.
What it gets, events and gaps, must name every offset once and in order.  That a subscriber with
the policy `disconnect` is cut off is shown by ws_test.py.
"""

import itertools
import time

from harness import RawWs, SystemTest, Ws, main, unique, wait_until

PAD = "x" * 16000
BATCH = 25
BATCHES_MAX = 100  # 40 MB: no kernel buffers that much


class SlowTest(SystemTest):
    env = {"POSTERN_LIMITS__OUT_QUEUE": "64KiB", "POSTERN_TOPICS__DURABLE": "d.**"}

    @classmethod
    def prepare(cls):
        cls.ann, cls.bob = cls.broker.user(), cls.broker.user()

    def setUp(self):
        super().setUp()
        self.writer = Ws(self.broker, self.ann["token"], encoding="msgpack")
        self.addCleanup(self.writer.close)
        self.sent = 0

    def publish(self, topic, count, **members):
        """Publishes, or sends as messages when the topic is a conversation."""
        frames = []
        for _ in range(count):
            self.sent += 1
            if topic.startswith("conversation."):
                frames.append({"type": "message", "id": self.sent, "content": PAD,
                               "conversationId": topic.partition(".")[2]})
            else:
                frames.append({"type": "publish", "id": self.sent, "topic": topic,
                               "data": {"n": self.sent, "pad": PAD}, **members})
        self.writer.pipeline(frames, window=8, kind="ack")  # a message's ack has all of it: 128 KiB

    def behind(self):
        return self.broker.metric("postern_slow_subscriptions")

    def until_behind(self, *topics):
        """Publishes until a subscription is behind the live events."""
        for _ in range(BATCHES_MAX):
            if self.behind() > self.others:
                return
            for topic in topics:
                self.publish(topic, BATCH)
        self.fail("a reader that does not read, and it is not behind")

    def slow(self, topic, who=None, **members):
        """A connection with a small window, subscribed."""
        ws = RawWs(self.broker, (who or self.bob)["token"], receive_buffer=4096)
        self.addCleanup(ws.close)
        ws.json("welcome")
        self.others = self.behind()  # feeds that wait for acknowledgements
        ws.send_json(type="subscribe", topic=topic, **members)
        self.assertEqual(ws.json("subscribed")["offset"], 0)
        return ws

    def read(self, ws, topic, enough):
        """Frames from now on until enough(frame); they account for every offset, in order."""
        frames, at = [], 0
        while not frames or not enough(frames[-1]):
            frame = ws.json()
            frames.append(frame)
            if frame.get("topic") != topic:
                continue
            if frame["type"] == "gap":
                self.assertEqual(frame["from"], at + 1, frame)
                self.assertGreaterEqual(frame["to"], frame["from"])
                at = frame["to"]
            elif frame["type"] == "event":
                at += 1
                self.assertEqual(frame["offset"], at, "lost in silence, or twice")
        self.at = at
        return frames

    def health_asked(self):
        """How often, this look included: /metrics is health's as well."""
        return self.broker.metric("postern_actor_messages_total", "health")

    def lose(self, topic, policy):
        """The gap and the events after it, of a subscriber that falls behind and then reads."""
        ws = self.slow(topic, policy=policy)
        fast = Ws(self.broker, self.ann["token"])
        self.addCleanup(fast.close)
        fast.subscribe(topic)
        dropped = self.broker.metric("postern_messages_dropped_total", "slow_consumer")
        self.until_behind(topic)
        asked, looks = self.health_asked(), itertools.count(1)
        ws.send_json(type="ping", timestamp=1)
        ws.send_json(type="request", id="r", method="GET", path="/health")
        wait_until(lambda: self.health_asked() - asked > next(looks), "the request's answer")
        self.publish(topic, 60)
        frames = self.read(ws, topic, lambda f: f["type"] == "gap")
        gap = frames[-1]
        kinds = [f["type"] for f in frames]
        self.assertIn("pong", kinds, "control frames do not wait behind what is held back")
        self.assertIn("response", kinds)
        behind = self.broker.metric("postern_messages_dropped_total", "slow_consumer") - dropped
        self.assertEqual(behind, gap["to"] - gap["from"] + 1, "each is counted")
        for n, event in enumerate(fast.events(topic, self.sent), 1):
            self.assertEqual(event["offset"], n, "another subscriber has all of it")
        last = self.sent
        held = []
        while self.at < last:
            event = ws.json("event")
            self.at += 1
            self.assertEqual(event["offset"], self.at)
            held.append(event["offset"])
        wait_until(lambda: self.behind() <= self.others, "being live")
        self.publish(topic, 1)
        self.assertEqual(ws.json("event")["offset"], last + 1, "live again")
        return gap, held

    def test_drop_newest(self):
        gap, held = self.lose(unique("m"), "drop_newest")
        self.assertEqual(gap["reason"], "slow_consumer")
        self.assertEqual(held, [])

    def test_drop_oldest(self):
        gap, held = self.lose(unique("m"), "drop_oldest")
        self.assertEqual(gap["reason"], "slow_consumer")
        self.assertIn(len(held), range(10, 17), "256 KiB are kept")

    def conflated(self):
        return self.broker.metric("postern_messages_conflated_total")

    def test_latest(self):
        """While the connection has not taken one event, newer ones replace each other."""
        topic = unique("m")
        ws = self.slow(topic, policy="latest")
        before = self.conflated()
        for _ in range(BATCHES_MAX):
            if self.conflated() > before:
                break
            self.publish(topic, BATCH)
        ws.send_json(type="ping", timestamp=1)
        self.publish(topic, 60)
        frames = [ws.json()]
        while frames[-1].get("offset") != self.sent:
            frames.append(ws.json())
        self.assertIn("pong", [f["type"] for f in frames])
        self.assertNotIn("gap", [f["type"] for f in frames], "an event stands for those before it")
        offsets = [f["offset"] for f in frames if f["type"] == "event"]
        self.assertEqual(offsets, sorted(set(offsets)))
        self.assertEqual(len(offsets) + self.conflated() - before, self.sent, "each is counted")
        self.assertLess(len(offsets), self.sent - 50)
        self.publish(topic, 1)
        self.assertEqual(ws.json("event")["offset"], self.sent, "live again")
        self.assertLess(self.broker.metric("postern_outbound_queue_bytes"), 1 << 20)

    def test_rate(self):
        """A source of any speed reaches a screen at its own; the last value always comes."""
        topic = unique("m")
        for encoding, pattern in (("json", topic), ("msgpack", topic + ".**")):
            ws = Ws(self.broker, self.bob["token"], encoding=encoding)
            self.addCleanup(ws.close)
            ws.subscribe(pattern, policy="latest", maxRate=20)
            subject = topic if pattern == topic else topic + ".x"
            began = time.monotonic()
            events = []
            for n in range(1, 11):
                self.writer.pipeline([{"type": "publish", "id": i, "topic": subject, "data": n}
                                      for i in range(100)], kind="ack")
            while not events or events[-1]["offset"] != 1000:
                events.append(ws.expect("event", topic=subject))
            at_most = 2 + 20 * (time.monotonic() - began)
            self.assertLessEqual(len(events), at_most)
            self.assertEqual(events[-1]["data"], 10)

    def test_bad_rate(self):
        ws = Ws(self.broker, self.bob["token"])
        self.addCleanup(ws.close)
        for members in ({"policy": "latest", "maxRate": 0}, {"policy": "latest", "maxRate": -1},
                        {"policy": "latest", "maxRate": 1001}, {"policy": "latest", "maxRate": "9"},
                        {"policy": "drop_oldest", "maxRate": 9}, {"maxRate": 9}):
            with self.subTest(members):
                ws.send(type="subscribe", id="s", topic="m.x", **members)
                self.assertError(ws.expect("error", id="s"), "invalid_request",
                                 "validation_failed")
        ws.subscribe("m.x", policy="latest", maxRate=0.5)

    def test_policies_hold_for_stored_topics_too(self):
        gap, held = self.lose("d." + unique(), "drop_newest")
        self.assertEqual((gap["reason"], held), ("slow_consumer", []))

    def complete(self, topic, **members):
        ws = self.slow(topic, **members)
        self.until_behind(topic)
        ws.send_json(type="ping", timestamp=1)
        self.publish(topic, 60)
        frames = self.read(ws, topic, lambda f: f.get("offset") == self.sent)
        self.assertNotIn("gap", [f["type"] for f in frames])
        self.assertIn("pong", [f["type"] for f in frames])
        wait_until(lambda: self.behind() <= self.others, "being live")
        self.publish(topic, 1)
        self.assertEqual(ws.json("event")["offset"], self.sent, "live again")
        self.assertLess(self.broker.metric("postern_outbound_queue_bytes"), 1 << 20)

    def test_a_durable_topic_waits_in_the_store(self):
        self.complete("d." + unique())

    def test_a_conversation_waits_in_the_store(self):
        """A member that stalls loses nothing, whatever was said meanwhile."""
        # Nobody else: feeds of members are behind until they have acknowledged.
        carl, dora = self.broker.user(), self.broker.user()
        self.writer.close()
        self.writer = Ws(self.broker, dora["token"], encoding="msgpack")
        self.addCleanup(self.writer.close)
        self.complete("conversation." + self.broker.conversation(dora, carl), who=carl)

    def test_one_that_is_behind_does_not_hold_up_its_neighbour(self):
        """Two subscriptions of one connection: each has its own place."""
        slow, quiet = "d." + unique(), "d." + unique()
        ws = self.slow(slow)
        ws.send_json(type="subscribe", topic=quiet)
        ws.json("subscribed")
        self.until_behind(slow)
        self.writer.pipeline([{"type": "publish", "id": "q", "topic": quiet, "data": 1}],
                             kind="ack")
        self.publish(slow, 40)
        frames = self.read(ws, slow, lambda f: f.get("offset") == self.sent)
        if not any(f.get("topic") == quiet for f in frames):
            frames.append(ws.json("event"))
        self.assertEqual([f["data"] for f in frames if f.get("topic") == quiet], [1])

    def test_no_such_policy(self):
        ws = Ws(self.broker, self.bob["token"])
        self.addCleanup(ws.close)
        for topic, policy in (("m.x", "patience"), ("m.x", 7), ("m.x", "stored")):
            with self.subTest(policy):
                ws.send(type="subscribe", id="s", topic=topic, policy=policy)
                self.assertError(ws.expect("error", id="s"), "invalid_request",
                                 "validation_failed")


class SlowLinkTest(SystemTest):
    """A reader that keeps reading, slower than the broker could write."""

    env = {"POSTERN_LIMITS__WS_PING": "300ms", "POSTERN_LIMITS__WS_PONG": "1s", "POSTERN_TOPICS__DURABLE": "d.**"}

    def test_a_backlog_hides_no_ping(self):
        """It is not taken for dead, and an answer comes before what the kernel could hold (4 MiB)."""
        token, topic, count, room = self.broker.user()["token"], "d." + unique("m"), 256, 1 << 20
        with Ws(self.broker, token, encoding="msgpack") as writer:
            writer.pipeline([{"type": "publish", "id": n, "topic": topic, "data": PAD} for n in range(count - 1)], kind="ack")
        last = self.broker.call("POST", "/api/v1/topics/" + topic, [PAD], token=token)
        epoch = self.assertOk(last, 202)["epoch"]
        slow = RawWs(self.broker, token, receive_buffer=16384)
        self.addCleanup(slow.close)
        slow.json("welcome")
        slow.send_json(type="subscribe", topic=topic, since={"epoch": epoch, "offset": 0})
        events, ponged, pings = 0, None, 0
        while events < count:
            opcode, payload = slow.frame()
            self.assertNotEqual(opcode, RawWs.CLOSE, payload)
            if opcode == RawWs.PING:
                pings += 1
                slow.send(RawWs.PONG, payload)
            elif b'"type":"event"' in payload[:40]:
                events += 1
                time.sleep(0.016)  # 1 MB/s
                if events == 20:
                    slow.send_json(type="ping", timestamp=1)
            elif b'"type":"pong"' in payload:
                ponged = events
        self.assertIsNotNone(ponged)
        self.assertLess((ponged - 20) * len(PAD), room, "the pong waited behind the backlog")
        self.assertGreater(pings, 0)


if __name__ == "__main__":
    main()
