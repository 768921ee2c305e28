#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""WebSocket: wire.md section 3, with the `websockets` library and, for what it refuses to send, by
hand.
"""

import json
import os
import struct
import unittest
import urllib.parse
import uuid

import msgpack
import websockets

import harness
from harness import PATIENCE, RawHttp, RawWs, SystemTest, Ws, message_of, unique, wait_until

TEXT, BINARY, CLOSE, PING, PONG = RawWs.TEXT, RawWs.BINARY, RawWs.CLOSE, RawWs.PING, RawWs.PONG


class WsTest(SystemTest):
    """Three users; ann and bob talk to each other."""

    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user("ann")
        cls.bob = cls.broker.user("bob")
        cls.eve = cls.broker.user("eve")

    def ws(self, who=None, **how):
        ws = Ws(self.broker, (who or self.ann)["token"], **how)
        self.addCleanup(ws.close)
        return ws

    def raw(self, who=None, welcome=True, **how):
        raw = RawWs(self.broker, (who or self.ann)["token"], **how)
        self.addCleanup(raw.close)
        if welcome and how.get("subprotocol", "postern.v1.json") == "postern.v1.json":
            raw.json("welcome")
        return raw

    def publish(self, topic, data, who=None):
        reply = self.broker.call("POST", "/api/v1/topics/" + topic, data,
                                 token=(who or self.ann)["token"])
        return self.assertOk(reply, 202)

    def assertClosedWith(self, raw, *codes):
        """The broker answers with a close frame of one of these codes and ends the connection."""
        code, reason = raw.close_frame()
        self.assertIn(code, codes, reason)
        self.assertLessEqual(len(reason), 123, "the reason is at most 123 bytes")
        reason.decode("utf-8")
        raw.send(CLOSE, struct.pack("!H", code))
        self.assertTrue(raw.raw.closed(), "the connection stays open after the close frame")
        return reason


class HandshakeTest(WsTest):
    """The upgrade and who one is."""

    env = {"POSTERN_LIMITS__WS_AUTH": "1s"}

    def test_both_paths(self):
        """`GET /ws` and `GET /api/v1/ws`."""
        for path in ("/ws", "/api/v1/ws"):
            self.ws(path=path).fence()

    def test_subprotocols(self):
        """`postern.v1.json` (text) and `postern.v1.msgpack` (binary); none asked: JSON."""
        for asked, chosen, encoding in ((["postern.v1.json"], "postern.v1.json", "json"),
                                        (["postern.v1.msgpack"], "postern.v1.msgpack", "msgpack"),
                                        (["unknown", "postern.v1.msgpack"], "postern.v1.msgpack",
                                         "msgpack"), (None, None, "json")):
            ws = self.ws(subprotocols=asked, encoding=encoding)
            self.assertEqual(ws.socket.subprotocol, chosen)
            ws.fence()

    def test_first_of_two(self):
        """Both asked: one of them is chosen, and spoken."""
        raw = RawWs(self.broker, self.ann["token"],
                    subprotocol="postern.v1.msgpack, postern.v1.json")
        self.addCleanup(raw.close)
        chosen = raw.headers["Sec-WebSocket-Protocol"]
        self.assertIn(chosen, ("postern.v1.msgpack", "postern.v1.json"))
        opcode, payload = raw.frame()
        self.assertEqual(opcode, BINARY if chosen.endswith("msgpack") else TEXT)
        frame = msgpack.unpackb(payload) if opcode == BINARY else json.loads(payload)
        self.assertEqual(frame["type"], "welcome")

    def test_unknown_subprotocol(self):
        """Only unknown ones asked: refused, or accepted without naming one (RFC 6455 4.2.2); never
        named back.
        """
        try:
            raw = RawWs(self.broker, self.ann["token"], subprotocol="postern.v9.xml")
        except AssertionError as refusal:
            self.assertRegex(str(refusal), "40[06]|426", "the upgrade's answer")
            return
        self.addCleanup(raw.close)
        self.assertIsNone(raw.headers["Sec-WebSocket-Protocol"])

    def test_trace(self):
        """Every response carries `Trace-Id`, 101 too; `traceparent` is honoured."""
        trace = uuid.uuid4().hex
        raw = self.raw(headers=(f"traceparent: 00-{trace}-00f067aa0ba902b7-01",))
        self.assertEqual(raw.headers["Trace-Id"], trace)
        self.assertRegex(self.raw().headers["Trace-Id"], "^[0-9a-f]{32}$")

    def test_a_device_that_cannot_be_one(self):
        """It must not be taken for the device without a name, whose messages it would confirm."""
        for device in ("d" * 65, "%0A", "%ff", "d" * 5000):
            raw = RawHttp(self.broker.http)
            self.addCleanup(raw.close)
            raw.send((f"GET /ws?device={device} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                      "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode())
            self.assertProblem(raw.reply(), 400, "invalid_request")
        self.ws(path="/ws?device=" + "d" * 64).fence()

    def test_auth_by_header_query_and_frame(self):
        """`Authorization: Bearer` at the upgrade, or `?token=`, or a first `auth` frame."""
        for how in ("header", "query", "frame"):
            for encoding in ("json", "msgpack"):
                ws = self.ws(how=how, encoding=encoding)
                self.assertEqual(ws.request("GET", "/users/me")["body"]["data"]["id"],
                                 self.ann["id"], how)

    def test_welcome(self):
        """`welcome` `{session, user, heartbeatMs, resumed}`."""
        welcome = self.ws().welcome
        self.assertTrue(welcome["session"])
        self.assertIn(self.ann["id"], json.dumps(welcome["user"]))
        self.assertGreater(welcome["heartbeatMs"], 0)
        self.assertIs(welcome["resumed"], False)
        self.assertNotEqual(welcome["session"], self.ws().welcome["session"])

    def assertBadToken(self, how):
        """4501 bad token, or 401 before the upgrade."""
        try:
            ws = Ws(self.broker, "nonsense", how=how, welcome=False)
        except websockets.InvalidStatusCode as refusal:
            self.assertEqual(refusal.status_code, 401)
            return
        self.addCleanup(ws.close)
        code, reason = ws.close_code()
        self.assertEqual(code, 4501)
        self.assertIsInstance(json.loads(reason), dict, "the reason is JSON")
        self.assertNotIn("welcome", [frame["type"] for frame in ws.pending])

    def test_bad_token(self):
        """4501 bad token: by header, query and frame."""
        for how in ("header", "query", "frame"):
            self.assertBadToken(how)

    def test_expired_token(self):
        """An expired token is bad from the start; it is told apart so that a client refreshes."""
        token = self.broker.token("ann", ttl="1s")
        wait_until(lambda: self.broker.call("GET", "/api/v1/users/me", token=token).status == 401,
                   "expiry", pause=0.1)
        try:
            ws = Ws(self.broker, token, how="frame", welcome=False)
        except websockets.InvalidStatusCode as refusal:
            self.assertEqual(refusal.status_code, 401)
            return
        self.addCleanup(ws.close)
        code, reason = ws.close_code()
        # 4401 auth timeout is retryable with a new token; 4501 bad token.  wire.md does not place
        # expiry.
        self.assertIn(code, (4401, 4501), reason)

    def test_auth_timeout(self):
        """A first `auth` frame within the time, else 4401."""
        with Ws(self.broker) as ws:
            code, reason = ws.close_code()
            self.assertEqual(code, 4401)
            self.assertIsInstance(json.loads(reason), dict, "the reason is JSON")

    def test_pings_do_not_extend_the_auth_time(self):
        """Control frames and `ping` frames of a stranger are no authentication."""
        raw = RawWs(self.broker)
        self.addCleanup(raw.close)
        for _ in range(3):
            raw.send(PING, b"x")
        raw.send_json(type="ping")
        code, _ = raw.close_frame()
        self.assertIn(code, (4401, 1008), "a frame before auth may also be a violation")

    def test_nothing_before_auth(self):
        """Without auth nothing is done: an `error`, or the end."""
        topic = unique("early")
        before = self.publish(topic, {"n": 1})
        with Ws(self.broker) as ws:
            ws.send(type="publish", topic=topic, data={"n": 2}, id="p")
            ws.send(type="subscribe", topic=topic, id="s")
            ws.send(type="request", id="r", method="GET", path="/users/me")
            code, _ = ws.close_code()
            self.assertIn(code, (4401, 4501, 1008))
            kinds = {frame["type"] for frame in ws.pending}
            self.assertLessEqual(kinds, {"error", "response"})
            for frame in ws.pending:
                self.assertTrue(frame["type"] == "error" or frame["status"] == 401, frame)
        self.assertEqual(self.publish(topic, {"n": 3})["offset"], before["offset"] + 1,
                         "the stranger published")

    def test_second_auth(self):
        """A second `auth` frame (a fresh token of the same user) is welcome or refused; the session
        survives.
        """
        ws = self.ws()
        ws.send(type="auth", token=self.ann["token"])
        ws.fence()

    def test_second_auth_as_another(self):
        """A session does not silently become another user's."""
        ws = self.ws()
        ws.send(type="auth", token=self.bob["token"])
        try:
            ws.fence()
        except AssertionError:
            self.assertTrue(ws.closed)
            return
        kinds = [frame["type"] for frame in ws.pending]
        me = ws.request("GET", "/users/me")["body"]["data"]["id"]
        if "welcome" not in kinds:
            self.assertEqual(me, self.ann["id"])

    def test_handshake_refusals(self):
        """RFC 6455 4.2.1: what is not a handshake is not upgraded."""
        good = {"Host": "x", "Upgrade": "websocket", "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        changes = ({"Upgrade": None}, {"Connection": None}, {"Upgrade": "h2c"},
                   {"Sec-WebSocket-Key": None}, {"Sec-WebSocket-Key": "short"},
                   {"Sec-WebSocket-Version": None}, {"Sec-WebSocket-Version": "8"},
                   {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==x"}, {"Connection": "close"})
        for change in changes:
            headers = {k: v for k, v in {**good, **change}.items() if v is not None}
            with RawHttp(self.broker.http) as raw:
                lines = ["GET /ws HTTP/1.1"] + [f"{k}: {v}" for k, v in headers.items()]
                raw.send(("\r\n".join(lines) + "\r\n\r\n").encode())
                status, answer = raw.head()
                self.assertIn(status, (400, 401, 404, 405, 426), change)
                if change.get("Sec-WebSocket-Version") == "8":
                    self.assertIn("13", answer["Sec-WebSocket-Version"] or "", "RFC 6455 4.4")
        reply = self.broker.call("POST", "/ws", {},
                                 headers={k: v for k, v in good.items() if k != "Host"})
        self.assertIn(reply.status, (400, 401, 404, 405, 426), "POST is not upgraded")

    def test_handshake_header_forms(self):
        """Tokens are case-insensitive and may stand in lists: what browsers send."""
        raw = RawHttp(self.broker.http)
        self.addCleanup(raw.close)
        raw.send(("GET /ws HTTP/1.1\r\nHost: x\r\n"
                  "Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n"
                  "sec-websocket-version: 13\r\nSEC-WEBSOCKET-KEY: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                  "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
                  f"Authorization: Bearer {self.ann['token']}\r\n\r\n").encode())
        status, headers = raw.head()
        self.assertEqual(status, 101)
        self.assertEqual(headers["Sec-WebSocket-Accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")

    def test_frame_in_the_same_packet_as_the_handshake(self):
        """What follows the request head at once is the first frame."""
        raw = RawHttp(self.broker.http)
        self.addCleanup(raw.close)
        frame = RawWs.pack(TEXT, json.dumps({"type": "auth", "token": self.ann["token"]}).encode())
        raw.send(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                 + frame)
        self.assertEqual(raw.head()[0], 101)
        wait_until(lambda: b"welcome" in raw.buffer or not raw._more(), "the welcome")
        self.assertIn(b"welcome", raw.buffer)

    def test_the_token_of_the_query_is_not_logged(self):
        """A secret in a URL must not reach the log."""
        self.ws(how="query")
        self.assertNotIn(self.ann["token"], self.broker.stderr(last=1 << 20))


class FramesTest(WsTest):
    """ping, subscribe, publish, message, ack, request."""

    def test_ping(self):
        """`ping` `timestamp?` -> `pong` `{timestamp, serverTime}`."""
        for encoding in ("json", "msgpack"):
            ws = self.ws(encoding=encoding)
            ws.send(type="ping", timestamp=1234567890123)
            pong = ws.expect("pong")
            self.assertEqual(pong["timestamp"], 1234567890123)
            self.assertIsNotNone(pong["serverTime"])
            ws.send(type="ping")
            self.assertIn("serverTime", ws.expect("pong"))

    def test_event(self):
        """`subscribed` `{topic, epoch, offset, recovered}`, then `event` `{topic, epoch, offset,
        data}`.
        """
        for encoding in ("json", "msgpack"):
            topic = unique("ev")
            ws = self.ws(encoding=encoding)
            position = ws.subscribe(topic, id="s1")
            for member in ("epoch", "offset", "recovered"):
                self.assertIn(member, position, "also when the stream is empty")
            data = {"text": "ü☃𝄞", "n": [1, -1, 2.5, None, True], "deep": {"a": {"b": {}}}}
            done = self.publish(topic, data)
            event = ws.expect("event")
            self.assertEqual(event["topic"], topic)
            self.assertEqual(event["data"], data)
            self.assertEqual((event["epoch"], event["offset"]), (done["epoch"], done["offset"]))
            self.assertEqual((event["epoch"], event["offset"]),
                             (position["epoch"], position["offset"] + 1))

    def test_publish(self):
        """`publish` -> `ack` `{id, epoch, offset, durability}`; the publisher hears it as well if
        subscribed.
        """
        for encoding in ("json", "msgpack"):
            topic = unique("pub")
            ws = self.ws(encoding=encoding)
            ws.subscribe(topic)
            ws.send(type="publish", topic=topic, data={"n": 1}, id="own-1")
            ack = ws.expect("ack", id="own-1")
            self.assertIn(ack["durability"], ("memory", "written", "synced"))
            event = ws.expect("event", topic=topic)
            self.assertEqual((event["epoch"], event["offset"]), (ack["epoch"], ack["offset"]))
            ws.nothing_more("event", topic=topic)

    def test_publish_without_id(self):
        """`id?` is optional; what was published arrives."""
        topic = unique("pub")
        ws = self.ws()
        ws.subscribe(topic)
        ws.send(type="publish", topic=topic, data="bare string")
        self.assertEqual(ws.expect("event", topic=topic)["data"], "bare string")

    def test_any_data(self):
        """data: any value, the same on both encodings."""
        topic = unique("data")
        one, two = self.ws(), self.ws(encoding="msgpack")
        one.subscribe(topic)
        two.subscribe(topic)
        for sender in (one, two):
            for value in (None, True, 0, -1, 2**53, 1.5, "", "x", [], {}, [[]], {"a": None},
                          list(range(100)), "☃" * 1000):
                sender.send(type="publish", topic=topic, data=value, id="v")
                for receiver in (one, two):
                    self.assertEqual(receiver.expect("event", topic=topic)["data"], value)

    def test_order(self):
        """One total order per topic; each subscriber sees it without reordering."""
        topic = unique("order")
        readers = [self.ws(), self.ws(self.bob, encoding="msgpack")]
        for reader in readers:
            reader.subscribe(topic)
        senders = [self.ws(), self.ws(self.bob)]
        for i in range(50):
            for k, sender in enumerate(senders):
                sender.send(type="publish", topic=topic, data=[k, i], id=f"{k}.{i}")
                if i >= 30:  # two windows that overlap, below limits.ws_requests
                    sender.expect("ack", id=f"{k}.{i - 30}")
        seen = [reader.events(topic, 100) for reader in readers]
        self.assertEqual([e["data"] for e in seen[0]], [e["data"] for e in seen[1]])
        first = seen[0][0]["offset"]
        self.assertEqual([e["offset"] for e in seen[0]], list(range(first, first + 100)))
        for k in (0, 1):
            self.assertEqual([e["data"][1] for e in seen[0] if e["data"][0] == k], list(range(50)))

    def test_unsubscribe(self):
        """`unsubscribe` `topics` -> `unsubscribed`; then silence."""
        topic, other = unique("un"), unique("un")
        ws = self.ws()
        ws.subscribe(topic, other)
        ws.send(type="unsubscribe", topics=[topic])
        ws.expect("unsubscribed")
        self.publish(topic, {"n": 1})
        self.publish(other, {"n": 2})
        self.assertEqual(ws.expect("event")["topic"], other)
        ws.nothing_more("event")
        ws.send(type="unsubscribe", topics=[topic, other, "never.subscribed"])
        ws.expect("unsubscribed")
        ws.fence()
        ws.subscribe(topic)
        self.publish(topic, {"n": 3})
        self.assertEqual(ws.expect("event", topic=topic)["data"], {"n": 3})

    def test_subscribe_twice(self):
        """The same topic twice: told twice perhaps, delivered once."""
        topic = unique("twice")
        ws = self.ws()
        ws.subscribe(topic)
        ws.send(type="subscribe", topic=topic, id="again")
        ws.fence()
        self.publish(topic, {"n": 1})
        ws.expect("event", topic=topic)
        ws.nothing_more("event", topic=topic)

    def test_many_topics(self):
        """`topics: [..]`: one `subscribed` per topic."""
        prefix = unique("many")
        topics = [f"{prefix}.{i}" for i in range(100)]
        ws = self.ws()
        ws.subscribe(*topics)
        for topic in topics[::10]:
            self.publish(topic, {"t": topic})
            self.assertEqual(ws.expect("event")["topic"], topic)

    def test_one_bad_topic_among_good_ones(self):
        """A refusal names what is wrong and leaves the connection."""
        good = unique("good")
        ws = self.ws()
        ws.send(type="subscribe", topics=[good, "bad..topic"], id="mixed")
        error = self.assertError(ws.expect("error"))
        self.assertEqual(error.get("id"), "mixed")
        ws.fence()

    def test_wildcards(self):
        """`*` (one segment) and `**` (rest)."""
        p = unique("wild")
        cases = {f"{p}.*": {f"{p}.a", f"{p}.b"}, f"{p}.**": {f"{p}.a", f"{p}.b", f"{p}.a.c",
                                                             f"{p}.a.c.d"},
                 f"{p}.*.c": {f"{p}.a.c"}, f"{p}.a.**": {f"{p}.a.c", f"{p}.a.c.d"},
                 f"*.a.c": {f"{p}.a.c"}, f"{p}.*.*.d": {f"{p}.a.c.d"}, f"{p}.*.**": None}
        topics = [f"{p}.a", f"{p}.b", f"{p}.a.c", f"{p}.a.c.d", f"x{p}.a", f"{p}x.a"]
        readers = {}
        for pattern in cases:
            readers[pattern] = self.ws()
            readers[pattern].subscribe(pattern)
        for topic in topics:
            self.publish(topic, {"t": topic})
        for pattern, expected in cases.items():
            ws = readers[pattern]
            ws.fence()
            end = unique(p + "end")
            ws.subscribe(end)
            self.publish(end, {})
            ws.expect("event", topic=end)
            seen = [f["topic"] for f in ws.pending if f["type"] == "event" and f["topic"] in topics]
            self.assertEqual(len(seen), len(set(seen)), f"{pattern} delivers twice")
            if expected is not None:  # whether `**` may be nothing after `*` is not in wire.md
                self.assertEqual(set(seen), expected, pattern)

    def test_a_topic_is_the_same_everywhere(self):
        """What can be subscribed to can be published on, by frame and by route, also with a '/'."""
        ws = self.ws()
        for name in ("a/b", "a?b#c", "a%2Fb", "a+b&c;d", '"<\\>', "é.ü"):
            topic = unique("odd") + "." + name
            ws.subscribe(topic)
            ws.send(type="publish", topic=topic, data=1, id=1)
            ws.expect("ack", id=1)
            self.publish(urllib.parse.quote(topic, safe=""), {"n": 2})
            self.assertEqual([ws.expect("event", topic=topic)["data"] for _ in range(2)],
                             [1, {"n": 2}])

    def test_wildcard_event_names_its_topic(self):
        """An event by pattern carries the topic it was published on, and that topic's position."""
        p = unique("wild")
        ws = self.ws()
        ws.subscribe(p + ".**")
        for topic in (p + ".a", p + ".b.c", p + ".a"):
            done = self.publish(topic, {})
            event = ws.expect("event")
            self.assertEqual((event["topic"], event["epoch"], event["offset"]),
                             (topic, done["epoch"], done["offset"]))

    def test_topic_and_its_wildcard(self):
        """Two subscriptions that fit: the event comes at least once, and not more often than there
        are two.
        """
        p = unique("both")
        ws = self.ws()
        ws.subscribe(p + ".a", p + ".*")
        self.publish(p + ".a", {"n": 1})
        ws.expect("event", topic=p + ".a")
        self.publish(p + ".b", {"n": 2})
        ws.expect("event", topic=p + ".b")
        self.assertLessEqual(len([f for f in ws.pending if f["type"] == "event"]), 1)

    def test_bad_subscriptions(self):
        """Not a topic: `error` with the id; the connection goes on."""
        ws = self.ws()
        for topic in ("", ".", "a..b", ".a", "a.", "x" * 256, "a.**.b", "a.b*", "a\u0000b", 7, None,
                      [], {}, ["x"]):
            own = unique("e")
            ws.send(type="subscribe", topic=topic, id=own)
            if topic == "a\u0000b":  # not even a frame, so that its id may not be known
                self.assertError(ws.expect("error"), "invalid_request", "validation_failed")
                continue
            self.assertError(ws.expect(id=own, kind="error"), "invalid_request",
                             "validation_failed", "forbidden")
        for topics in ("x", 7, [], [7], [None], {}, [["x"]]):
            own = unique("e")
            ws.send(type="subscribe", topics=topics, id=own)
            self.assertError(ws.expect(id=own, kind="error"), "invalid_request",
                             "validation_failed")
        for kind in ("subscribe", "unsubscribe"):  # one of them would be passed over in silence
            ws.send(type=kind, topic="a.b", topics=["c.d"], id="both")
            self.assertError(ws.expect(id="both", kind="error"), "validation_failed")
        ws.send(type="subscribe", topic="a.b", topics=None)
        ws.expect("subscribed", topic="a.b")
        ws.send(type="subscribe", topic=None, topics=["c.d"])
        ws.expect("subscribed", topic="c.d")
        ws.fence()

    def test_reserved_topics_are_not_published_on(self):
        """Reserved: `conversation.<id>`, `user.<id>`, `system.**`."""
        conversation = self.broker.conversation(self.ann)
        ws = self.ws()
        for topic in ("conversation." + conversation, "user." + self.ann["id"],
                      "user." + self.bob["id"], "system.update.requested", "system.x",
                      "conversation.x"):
            own = unique("e")
            ws.send(type="publish", topic=topic, data={}, id=own)
            frame = ws.expect(id=own)
            self.assertError(frame, "forbidden", "invalid_request", "validation_failed")
        for topic in ("a.*", "**", "", "a..b", "x" * 256):
            own = unique("e")
            ws.send(type="publish", topic=topic, data={}, id=own)
            self.assertError(ws.expect(id=own), "invalid_request", "validation_failed", "forbidden")

    def test_private_topics_are_not_heard(self):
        """A stranger hears neither a conversation nor another user's topic, by name or by pattern.
        """
        conversation = self.broker.conversation(self.ann, self.bob)
        ws = self.ws(self.eve)
        for topic in ("conversation." + conversation, "user." + self.ann["id"], "conversation.*",
                      "conversation.**", "user.*", "user.**"):
            own = unique("e")
            ws.send(type="subscribe", topic=topic, id=own)
            self.assertError(ws.expect(kind="error", id=own), "forbidden", "not_found",
                             "invalid_request", "validation_failed")
        for topic in ("**", "*.*", "*." + conversation, "*.**"):
            ws.send(type="subscribe", topic=topic, id=topic)
        ws.fence()
        reply = self.broker.call("POST", f"/api/v1/conversations/{conversation}/messages",
                                 {"content": "secret"}, token=self.ann["token"])
        self.assertOk(reply, 201)
        ws.fence()
        ws.nothing_more(kind="event")
        self.assertNotIn("secret", json.dumps(ws.pending))

    def test_message(self):
        """`message` -> `ack` `{id, message}`; members hear it on the conversation's topic."""
        for encoding in ("json", "msgpack"):
            conversation = self.broker.conversation(self.ann, self.bob)
            ws, other = self.ws(encoding=encoding), self.ws(self.bob)
            other.subscribe("conversation." + conversation)
            own = str(uuid.uuid4())
            ws.send(type="message", id=own, conversationId=conversation, content="hello ☃",
                    metadata={"a": [1]})
            ack = ws.expect("ack", id=own)
            sent = self.assertMessage(ack["message"], id=own, content="hello ☃", status="sent",
                                      type="text", conversationId=conversation,
                                      senderId=self.ann["id"], metadata={"a": [1]})
            heard = other.expect("event", topic="conversation." + conversation)
            self.assertMessage(message_of(heard), id=own, seq=sent["seq"], content="hello ☃",
                               type="text", senderId=self.ann["id"], timestamp=sent["timestamp"])

    def test_message_twice(self):
        """The same id twice is safe: the first result again, one delivery."""
        conversation = self.broker.conversation(self.ann, self.bob)
        ws, other = self.ws(), self.ws(self.bob)
        other.subscribe("conversation." + conversation)
        own = str(uuid.uuid4())
        for _ in range(3):
            ws.send(type="message", id=own, conversationId=conversation, content="once")
        acks = [ws.expect("ack", id=own)["message"] for _ in range(3)]
        self.assertEqual(len({ack["seq"] for ack in acks}), 1)
        other.expect("event", topic="conversation." + conversation)
        other.nothing_more("event", topic="conversation." + conversation)

    def test_message_errors(self):
        """Not a member, no such conversation, not a Message: `error` with the id."""
        conversation = self.broker.conversation(self.bob)
        mine = self.broker.conversation(self.ann)
        ws = self.ws()
        for members, codes in (({"conversationId": conversation, "content": "x"},
                                ("forbidden", "not_found")),
                               ({"conversationId": str(uuid.uuid4()), "content": "x"},
                                ("forbidden", "not_found", "validation_failed")),
                               ({"conversationId": mine, "content": 7},
                                ("validation_failed", "invalid_request")),
                               ({"conversationId": mine},
                                ("validation_failed", "invalid_request")),
                               ({"conversationId": 7, "content": "x"},
                                ("validation_failed", "invalid_request", "not_found"))):
            own = str(uuid.uuid4())
            ws.send(type="message", id=own, **members)
            self.assertError(ws.expect(id=own), *codes)
        ws.fence()

    def test_many_messages_in_flight(self):
        """A burst: every one acknowledged, seq contiguous, in the order sent."""
        conversation = self.broker.conversation(self.ann)
        ws = self.ws()
        ids = [str(uuid.uuid4()) for _ in range(300)]
        acks = ws.pipeline(({"type": "message", "id": own, "conversationId": conversation,
                             "content": own} for own in ids), kind="ack")
        seqs = [ack["message"]["seq"] for ack in acks]
        self.assertEqual(seqs, list(range(seqs[0], seqs[0] + 300)))

    def test_ack(self):
        """`ack` `conversationId`, `seq` (all up to): no answer; nonsense is an `error`."""
        conversation = self.broker.conversation(self.ann, self.bob)
        reply = self.broker.call("POST", f"/api/v1/conversations/{conversation}/messages",
                                 {"content": "x"}, token=self.ann["token"])
        seq = self.assertOk(reply, 201)["seq"]
        ws = self.ws(self.bob)
        ws.send(type="ack", conversationId=conversation, seq=seq)
        ws.send(type="ack", conversationId=conversation, seq=seq)
        ws.fence()
        self.assertEqual([f for f in ws.pending if f["type"] != "message"], [],
                         "an ack has no answer")
        for bad in ({"conversationId": conversation}, {"seq": 1},
                    {"conversationId": conversation, "seq": "x"},
                    {"conversationId": conversation, "seq": -1}):
            ws.send(type="ack", **bad)
            ws.fence()

    def test_request(self):
        """`request` -> `response` `{id, status, headers, body}`: every REST route."""
        for encoding in ("json", "msgpack"):
            ws = self.ws(encoding=encoding)
            health = ws.request("GET", "/health")
            self.assertEqual(health["status"], 200)
            self.assertIs(health["body"]["success"], True)
            self.assertIn("status", health["body"]["data"])
            self.assertIsInstance(health["headers"], dict)
            me = ws.request("GET", "/users/me")
            self.assertEqual((me["status"], me["body"]["data"]["id"]), (200, self.ann["id"]))
            made = ws.request("POST", "/conversations",
                              {"title": "by frame", "members": [self.bob["id"]]})
            self.assertEqual(made["status"], 201)
            conversation = made["body"]["data"]["id"]
            sent = ws.request("POST", f"/conversations/{conversation}/messages", {"content": "x"})
            self.assertEqual((sent["status"], sent["body"]["data"]["status"]), (201, "sent"))
            listed = ws.request("GET", f"/conversations/{conversation}/messages?after=0&limit=5")
            self.assertEqual([m["id"] for m in listed["body"]["data"]],
                             [sent["body"]["data"]["id"]])
            self.assertLessEqual({"next", "prev"}, set(listed["body"]["page"]))
            read = ws.request("POST", f"/messages/{sent['body']['data']['id']}/read", {})
            self.assertIn(read["status"], (200, 201, 202, 204))
            topic = unique("req")
            done = ws.request("POST", "/topics/" + topic, {"n": 1})
            self.assertEqual(done["status"], 202)
            self.assertIn("offset", done["body"]["data"])
            self.assertEqual(ws.request("GET", "/system/status")["status"], 200)
            self.assertEqual(ws.request("PATCH", "/users/me/preferences",
                                        {"via": "frame"})["status"] // 100, 2)
            self.assertEqual(ws.request("GET", "/users/family")["status"], 200)
            self.assertEqual(ws.request("GET", "/conversations")["status"], 200)

    def test_request_failures(self):
        """A failed request is a `response` with the problem as its body."""
        ws = self.ws()
        for method, path, body, status, code in (("GET", "/nowhere", None, 404, "not_found"),
                                                 ("DELETE", "/health", None, 405,
                                                  "method_not_allowed"),
                                                 ("GET", "/admin/users", None, 403, "forbidden"),
                                                 ("POST", "/system/update", {}, 403, "forbidden"),
                                                 ("POST", "/auth/login", {"username": 7}, 422,
                                                  "validation_failed"),
                                                 ("POST", "/topics/a..b", {}, None, None),
                                                 ("GET", "/conversations/nonsense", None, None,
                                                  None)):
            response = ws.request(method, path, body)
            if status:
                self.assertEqual(response["status"], status, response)
                self.assertEqual(response["body"]["code"], code)
            self.assertGreaterEqual(response["status"], 400)
            self.assertIs(response["body"]["success"], False)
            self.assertEqual(response["body"]["status"], response["status"])
            self.assertTrue(response["body"]["traceId"])
            if status == 405:
                self.assertIn("GET", response["headers"]["allow"])

    def test_request_nonsense(self):
        """A `request` that is none: an `error` or a 4xx `response` with the id."""
        ws = self.ws()
        for members in ({}, {"method": "GET"}, {"path": "/health"},
                        {"method": 7, "path": "/health"}, {"method": "GET", "path": 7},
                        {"method": "", "path": ""}, {"method": "GET", "path": "health"},
                        {"method": "G T", "path": "/health"},
                        {"method": "GET", "path": "/health\r\nX: y"},
                        {"method": "GET", "path": "/" + "x" * 100000},
                        {"method": "GET", "path": "/health", "headers": "text"},
                        {"method": "GET", "path": "/health", "timeoutMs": "soon"},
                        {"method": "GET", "path": "/health", "timeoutMs": -1}):
            own = unique("n")
            ws.send(type="request", id=own, **members)
            frame = ws.expect(id=own)
            if frame["type"] == "response":
                self.assertGreaterEqual(frame["status"], 400, members)
                self.assertLess(frame["status"], 500, members)
            else:
                self.assertError(frame)
        ws.fence()

    def test_requests_in_flight(self):
        """Many at once; `id` correlates; a slow one (login) does not hold the others for ever."""
        ws = self.ws()
        ws.send(type="request", id="slow", method="POST", path="/auth/login",
                body={"username": "ann", "password": harness.PASSWORD})
        ids = [unique("f") for _ in range(50)]
        ws.send_many({"type": "request", "id": own, "method": "GET", "path": "/users/me"}
                     for own in ids)
        for own in reversed(ids):
            self.assertEqual(ws.expect("response", id=own)["status"], 200)
        slow = ws.expect("response", id="slow")
        self.assertEqual(slow["status"], 200)
        self.assertIn("accessToken", slow["body"]["data"])

    def test_too_much_in_flight(self):
        """Beyond limits.ws_requests: refused with an `error` that carries the id and says to try
        again; nothing lost.
        """
        topic = unique("flood")
        ws, reader = self.ws(), self.ws()
        reader.subscribe(topic)
        ids = [unique("f") for _ in range(300)]
        ws.send_many({"type": "publish", "topic": topic, "data": own, "id": own} for own in ids)
        answers = {own: ws.expect(id=own) for own in ids}
        accepted = [own for own in ids if answers[own]["type"] == "ack"]
        for own in ids:
            if own not in accepted:
                self.assertTrue(self.assertError(answers[own], "overloaded",
                                                 "rate_limited")["retryable"])
        self.assertGreaterEqual(len(accepted), 50)
        events = reader.events(topic, len(accepted))
        self.assertEqual([event["data"] for event in events], accepted)
        reader.nothing_more("event", topic=topic)
        ws.pipeline([{"type": "publish", "topic": topic, "data": own, "id": own + "r"}
                     for own in ids], kind="ack")

    def test_request_traceparent(self):
        """The same trace, whatever the protocol: `traceparent` among the headers."""
        trace = uuid.uuid4().hex
        response = self.ws().request("GET", "/nowhere",
                                     headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        self.assertEqual(response["body"]["traceId"], trace)

    def test_ids_are_echoed(self):
        """ids come back as they were: strings of any kind."""
        ws = self.ws()
        topic = unique("ids")
        for own in ("a", "ü☃", "x" * 64, "01ARZ3NDEKTSV4RRFFQ69G5FAV", " ", "\"\\"):
            ws.send(type="publish", topic=topic, data=1, id=own)
            self.assertEqual(ws.expect("ack")["id"], own)
            ws.send(type="request", method="GET", path="/health", id=own)
            self.assertEqual(ws.expect("response")["id"], own)
            ws.send(type="nonsense", id=own)
            self.assertEqual(ws.expect("error").get("id"), own)

    def test_number_ids(self):
        """Whether an id may be a number is not in wire.md: echoed as it was, or an `error`."""
        ws = self.ws()
        ws.send(type="request", method="GET", path="/health", id=7)
        frame = ws.expect()
        self.assertIn(frame["type"], ("response", "error"))
        if frame["type"] == "response":
            self.assertEqual(frame["id"], 7)

    def test_garbage(self):
        """Garbage is answered by an `error` frame, and the connection survives."""
        ws = self.ws()
        for text in ("", "{", "nonsense", "[]", "null", "7", '"text"', "{}", '{"type": 7}',
                     '{"type": null}', '{"type": "nonsense"}', '{"type": "event", "topic": "x"}',
                     '{"type": "welcome"}', '{"type": "subscribe"}', '{"type": "publish"}',
                     '{"type": "publish", "topic": "x"}', '{"type": "unsubscribe"}',
                     '{"type": "message"}', "[" * 50000, '{"a": ' * 5000,
                     '{"type": "ping", "timestamp": 1e999}',
                     '{"type": "publish", "topic": "a\\u0000", "data": 1}'):
            ws.send_raw(text)
            answer = ws.expect()  # an answer by way of an actor may come after a later pong
            if answer["type"] == "response":
                self.assertGreaterEqual(answer["status"], 400, text)
            elif "1e999" not in text:  # a timestamp that is no number may be left out of the pong
                self.assertError(answer)
            ws.fence()
            self.assertEqual(ws.pending, [], f"{text[:40]!r} is answered twice")

    def test_garbage_msgpack(self):
        """The same in msgpack."""
        ws = self.ws(encoding="msgpack")
        for data in (b"\xc1", b"\x81", b"\x90", b"\xc0", b"\x07", b"\x80", b"\xa4text",
                     b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
                     b"\x91" * 50000, b"\x81\xa4type\xa3\xff\xfe\xfd",
                     msgpack.packb({"type": "ping"}) + b"\x00", msgpack.packb({"type": b"ping"}),
                     msgpack.packb({7: "ping"}), msgpack.packb({"type": "nonsense"}),
                     b"\xc7\x01\x05x", msgpack.packb({"type": "publish", "topic": "x\0",
                                                      "data": 1})):
            ws.send_raw(data)
            self.assertError(ws.expect())
            ws.fence()
            self.assertEqual(ws.pending, [], f"{data[:20]!r} is answered twice")


class SubscriptionLimitTest(WsTest):
    """As many subscriptions as `limits.subscriptions`, exact ones and patterns alike."""

    env = {"POSTERN_LIMITS__SUBSCRIPTIONS": "16"}

    def test_limit(self):
        """The one too many is refused and counted; the others stay, and one that goes makes room.
        """
        p = unique("limit")
        ws = self.ws()
        ws.subscribe(*[f"{p}.{i}" for i in range(8)], *[f"{p}.{i}.*" for i in range(8)])
        name = "postern_subscriptions_refused_total"
        before = self.broker.metric(name, "connection")
        for topic in (f"{p}.more", f"{p}.more.**"):
            ws.send(type="subscribe", topic=topic, id="more")
            error = self.assertError(ws.expect("error", id="more"))
            self.assertEqual(error["code"], "overloaded")
            self.assertIn("limits.subscriptions", error["message"])
        self.assertEqual(self.broker.metric(name, "connection"), before + 2)
        ws.send(type="unsubscribe", topic=f"{p}.3.*")
        ws.expect("unsubscribed")
        ws.subscribe(f"{p}.more")
        for topic in (f"{p}.7", f"{p}.7.x", f"{p}.more"):
            self.publish(topic, {"t": topic})
            self.assertEqual(ws.expect("event")["topic"], topic)
        other = self.ws(self.bob)
        other.subscribe(f"{p}.bobs")


class RecoveryTest(WsTest):
    """`since: {epoch, offset}`: complete, or `recovered: false`; never a silent part."""

    @staticmethod
    def other_epoch(epoch):
        if isinstance(epoch, int):
            return epoch + 1
        return epoch[:-1] + ("0" if epoch[-1] != "0" else "1")

    def test_complete(self):
        """What was missed comes after `subscribed`, each once, then live events."""
        for encoding in ("json", "msgpack"):
            topic = unique("rec")
            keeper = self.ws()
            start = keeper.subscribe(topic)
            done = [self.publish(topic, {"n": i}) for i in range(6)]
            ws = self.ws(encoding=encoding)
            since = {"epoch": done[2]["epoch"], "offset": done[2]["offset"]}
            frame = ws.subscribe(topic, since=since)
            self.assertIs(frame["recovered"], True)
            self.assertEqual(frame["epoch"], start["epoch"])
            self.publish(topic, {"n": 6})
            events = ws.events(topic, 4)
            self.assertEqual([e["data"]["n"] for e in events], [3, 4, 5, 6])
            self.assertEqual([e["offset"] for e in events],
                             [done[2]["offset"] + i for i in (1, 2, 3, 4)])
            ws.nothing_more("event", topic=topic)

    def test_nothing_missed(self):
        """At the end of the stream there is nothing to catch up on, and that is complete."""
        topic = unique("rec")
        done = self.publish(topic, {"n": 0})
        ws = self.ws()
        frame = ws.subscribe(topic, since={"epoch": done["epoch"], "offset": done["offset"]})
        self.assertIs(frame["recovered"], True)
        ws.nothing_more("event", topic=topic)

    def test_wrong_epoch(self):
        """Another epoch: `recovered: false`, the true position, and nothing that pretends."""
        topic = unique("rec")
        done = [self.publish(topic, {"n": i}) for i in range(3)]
        ws = self.ws()
        frame = ws.subscribe(topic, since={"epoch": self.other_epoch(done[0]["epoch"]),
                                           "offset": done[0]["offset"]})
        self.assertIs(frame["recovered"], False)
        self.assertEqual((frame["epoch"], frame["offset"]), (done[2]["epoch"], done[2]["offset"]))
        ws.nothing_more("event", topic=topic)
        self.publish(topic, {"n": 3})
        self.assertEqual(ws.expect("event", topic=topic)["data"]["n"], 3)

    def test_offset_of_the_future(self):
        """A position that does not exist yet cannot be recovered from."""
        topic = unique("rec")
        done = self.publish(topic, {"n": 0})
        ws = self.ws()
        frame = ws.subscribe(topic, since={"epoch": done["epoch"], "offset": done["offset"] + 1000})
        self.assertIs(frame["recovered"], False)
        self.assertEqual(frame["offset"], done["offset"])
        self.publish(topic, {"n": 1})
        self.assertEqual(ws.expect("event", topic=topic)["data"]["n"], 1)

    def test_too_long_ago(self):
        """More than is kept: all of it or `recovered: false`, never a part."""
        topic = unique("rec")
        ws = self.ws()
        acks = ws.pipeline(({"type": "publish", "topic": topic, "data": {"n": i, "pad": "x" * 500},
                             "id": str(i)} for i in range(3000)), kind="ack")
        reader = self.ws()
        frame = reader.subscribe(topic, since={"epoch": acks[0]["epoch"],
                                               "offset": acks[0]["offset"]})
        if frame["recovered"]:
            events = reader.events(topic, 2999, patience=PATIENCE)
            self.assertEqual([e["data"]["n"] for e in events], list(range(1, 3000)))
        self.publish(topic, {"n": -1})
        self.assertEqual(reader.expect("event", topic=topic)["data"]["n"], -1,
                         "a part of the past came nevertheless")

    def test_bad_since(self):
        """Not a position: `error` with the id, or `recovered: false`."""
        topic = unique("rec")
        ws = self.ws()
        for since in ("x", 7, {}, {"epoch": "x"}, {"offset": 1}, {"epoch": [], "offset": 1},
                      {"epoch": "x", "offset": "y"}, {"epoch": "x", "offset": -1},
                      {"epoch": "x" * 1000, "offset": 2**60}):
            own = unique("e")
            ws.send(type="subscribe", topic=topic, since=since, id=own)
            ws.fence()
            answers = [f for f in ws.pending if f["type"] in ("error", "subscribed")]
            self.assertEqual(len(answers), 1, (since, ws.pending))
            if answers[0]["type"] == "subscribed":
                self.assertIs(answers[0]["recovered"], False, since)
            ws.pending.clear()

    def say(self, conversation, content):
        reply = self.broker.call("POST", f"/api/v1/conversations/{conversation}/messages",
                                 {"content": content}, token=self.ann["token"])
        return self.assertOk(reply, 201)

    def test_conversation(self):
        """For conversations too: live delivery, history and offline replay use the same cursor."""
        conversation = self.broker.conversation(self.ann, self.bob)
        topic = "conversation." + conversation
        first = self.ws(self.bob)
        position = first.subscribe(topic)
        self.say(conversation, "zero")
        event = first.expect("event", topic=topic)
        self.assertEqual(event["epoch"], position["epoch"])
        first.close()
        said = [self.say(conversation, f"m{i}") for i in range(8)]
        second = self.ws(self.bob, encoding="msgpack")
        frame = second.subscribe(topic, since={"epoch": event["epoch"], "offset": event["offset"]})
        self.assertIs(frame["recovered"], True)
        said.append(self.say(conversation, "live"))
        events = second.events(topic, 9)
        self.assertEqual([message_of(e)["id"] for e in events], [m["id"] for m in said])
        self.assertEqual([message_of(e)["content"] for e in events], [m["content"] for m in said])
        self.assertEqual([e["offset"] for e in events], [event["offset"] + i for i in range(1, 10)])
        second.nothing_more("event", topic=topic)

    def test_conversation_from_its_beginning(self):
        """The position of the empty stream recovers all of it."""
        conversation = self.broker.conversation(self.ann)
        topic = "conversation." + conversation
        start = self.ws().subscribe(topic)
        said = [self.say(conversation, f"m{i}") for i in range(30)]
        ws = self.ws()
        frame = ws.subscribe(topic, since={"epoch": start["epoch"], "offset": start["offset"]})
        self.assertIs(frame["recovered"], True)
        self.assertEqual([message_of(e)["id"] for e in ws.events(topic, 30)],
                         [m["id"] for m in said])

    def test_conversation_under_load(self):
        """Subscribing with a cursor while others write: no overlap, no hole."""
        conversation = self.broker.conversation(self.ann, self.bob)
        topic = "conversation." + conversation
        start = self.ws().subscribe(topic)
        writer = self.ws()
        total = 400

        def write(numbers):
            writer.pipeline(({"type": "message", "id": str(uuid.uuid4()),
                              "conversationId": conversation, "content": str(i)} for i in numbers),
                            kind="ack")

        write(range(total // 2))
        readers = [self.ws(self.bob, encoding=encoding) for encoding in ("json", "msgpack", "json")]
        for reader in readers:
            reader.send(type="subscribe", topic=topic,
                        since={"epoch": start["epoch"], "offset": start["offset"]})
        write(range(total // 2, total))
        for reader in readers:
            self.assertIs(reader.expect("subscribed", topic=topic)["recovered"], True)
            events = reader.events(topic, total)
            self.assertEqual([int(message_of(e)["content"]) for e in events], list(range(total)))
            reader.nothing_more("event", topic=topic)

    def test_conversation_with_wrong_epoch(self):
        """`recovered: false` and the client refetches."""
        conversation = self.broker.conversation(self.ann)
        topic = "conversation." + conversation
        start = self.ws().subscribe(topic)
        self.say(conversation, "x")
        frame = self.ws().subscribe(topic, since={"epoch": self.other_epoch(start["epoch"]),
                                                  "offset": 0})
        self.assertIs(frame["recovered"], False)


class ProtocolTest(WsTest):
    """RFC 6455 by hand."""

    def test_fragments(self):
        """A message in fragments, with control frames between them."""
        raw = self.raw()
        text = json.dumps({"type": "ping", "timestamp": 42, "pad": "ü☃" * 100},
                          ensure_ascii=False).encode()
        cut = text.index("☃".encode()) + 1  # in the middle of a character
        raw.send(TEXT, text[:5], fin=False)
        raw.send(PING, b"one")
        raw.send(0, text[5:cut], fin=False)
        raw.send(0, b"", fin=False)
        raw.send(PING, b"two")
        raw.send(PONG, b"unasked")
        raw.send(0, text[cut:], fin=True)
        self.assertEqual(raw.frame(), (PONG, b"one"))
        self.assertEqual(raw.frame(), (PONG, b"two"))
        self.assertEqual(raw.json("pong")["timestamp"], 42)

    def test_many_fragments_in_single_bytes(self):
        """One byte per fragment is legal."""
        raw = self.raw()
        text = b'{"type": "ping", "timestamp": 43}'
        data = b"".join(raw.pack(TEXT if i == 0 else 0, text[i:i + 1], fin=i == len(text) - 1)
                        for i in range(len(text)))
        for i in range(0, len(data), 3):
            raw.raw.send(data[i:i + 3])
        self.assertEqual(raw.json("pong")["timestamp"], 43)

    def test_ping_pong(self):
        """A ping is answered with its payload, up to 125 bytes."""
        raw = self.raw()
        for payload in (b"", b"x", os.urandom(125)):
            raw.send(PING, payload)
            self.assertEqual(raw.frame(), (PONG, payload))

    def test_unasked_pong(self):
        """RFC 6455 5.5.3: an unasked pong is no fault."""
        raw = self.raw()
        raw.send(PONG, b"hello")
        raw.send(PING, b"after")
        self.assertEqual(raw.frame(), (PONG, b"after"))

    def test_close_handshake(self):
        """A close is answered by a close with the same code, then the end."""
        for code in (1000, 1001, 3000, 4999):
            raw = self.raw()
            raw.send(CLOSE, struct.pack("!H", code) + b"bye")
            answer, _ = raw.close_frame()
            self.assertEqual(answer, code)
            self.assertTrue(raw.raw.closed())
        raw = self.raw()
        raw.send(CLOSE)
        self.assertIn(raw.close_frame()[0], (None, 1000))
        self.assertTrue(raw.raw.closed())

    def test_nothing_after_close(self):
        """Frames after a close are not carried out."""
        topic = unique("late")
        before = self.publish(topic, {})["offset"]
        raw = self.raw()
        late = json.dumps({"type": "publish", "topic": topic, "data": 1}).encode()
        raw.raw.send(raw.pack(CLOSE, struct.pack("!H", 1000)) + raw.pack(TEXT, late))
        raw.close_frame()
        self.assertTrue(raw.raw.closed())
        self.assertEqual(self.publish(topic, {})["offset"], before + 1)

    def test_vanishing_clients(self):
        """Connections that are reset leave nothing behind."""
        before = self.broker.metric("postern_connections")
        for _ in range(10):
            raw = RawWs(self.broker, self.ann["token"])
            raw.send_json(type="subscribe", topic="gone")
            raw.json("subscribed")
            raw.raw.reset()
        wait_until(lambda: self.broker.metric("postern_connections") <= before,
                   "the connections to be forgotten")

    def test_1002(self):
        """1002: faults of framing."""
        good = b'{"type":"ping"}'
        faults = {
            "unmasked": RawWs.pack(TEXT, good, masked=False),
            "unmasked control": RawWs.pack(PING, b"x", masked=False),
            "rsv1": RawWs.pack(TEXT, good, reserved=4),
            "rsv2": RawWs.pack(TEXT, good, reserved=2),
            "rsv3": RawWs.pack(PING, b"", reserved=1),
            "opcode 3": RawWs.pack(3, good),
            "opcode 7": RawWs.pack(7, good),
            "opcode 11": RawWs.pack(11),
            "opcode 15": RawWs.pack(15),
            "fragmented ping": RawWs.pack(PING, b"x", fin=False),
            "fragmented close": RawWs.pack(CLOSE, struct.pack("!H", 1000), fin=False),
            "ping of 126": RawWs.pack(PING, b"x" * 126),
            "close of 126": RawWs.pack(CLOSE, struct.pack("!H", 1000) + b"x" * 124),
            "continuation of nothing": RawWs.pack(0, good),
            "continuation after the end": RawWs.pack(TEXT, good) + RawWs.pack(0, good),
            "text within fragments": RawWs.pack(TEXT, b"{", fin=False) + RawWs.pack(TEXT, b"}"),
            "binary within fragments": RawWs.pack(TEXT, b"{", fin=False) + RawWs.pack(BINARY, b"}"),
            "length with the top bit": struct.pack("!BBQ", 0x81, 0xFF, 1 << 63) + b"mask",
            "close with one byte": RawWs.pack(CLOSE, b"\x03"),
            "close 999": RawWs.pack(CLOSE, struct.pack("!H", 999)),
            "close 1004": RawWs.pack(CLOSE, struct.pack("!H", 1004)),
            "close 1005": RawWs.pack(CLOSE, struct.pack("!H", 1005)),
            "close 1006": RawWs.pack(CLOSE, struct.pack("!H", 1006)),
            "close 1015": RawWs.pack(CLOSE, struct.pack("!H", 1015)),
            "close 2999": RawWs.pack(CLOSE, struct.pack("!H", 2999)),
            "close 5000": RawWs.pack(CLOSE, struct.pack("!H", 5000)),
        }
        for name, data in faults.items():
            with self.subTest(name):
                raw = self.raw()
                raw.raw.send(data)
                # 1009 is as true as 1002 for a length of 2^63.
                self.assertClosedWith(raw, *((1002, 1009) if "top bit" in name else (1002,)))

    def test_lengths_longer_than_needed(self):
        """RFC 6455 5.2: the minimal number of bytes must be used; strict or lenient, but
        consistent.
        """
        for size in (2, 8):
            raw = self.raw()
            raw.send(TEXT, b'{"type":"ping","timestamp":1}', length_bytes=size)
            try:
                self.assertEqual(raw.json("pong")["timestamp"], 1)
            except EOFError as end:
                self.assertIn(r"\x03\xea", str(end), "1002")

    def test_1003(self):
        """The wrong kind of data frame: 1003, or an `error` frame (wire.md gives the kinds, not the
        consequence).
        """
        for subprotocol, opcode in (("postern.v1.json", BINARY), ("postern.v1.msgpack", TEXT)):
            raw = self.raw(subprotocol=subprotocol)
            if subprotocol.endswith("msgpack"):
                raw.frame()
            raw.send(opcode, b'{"type":"ping"}')
            first, payload = raw.frame()
            if first == CLOSE:
                self.assertIn(struct.unpack("!H", payload[:2])[0], (1003, 1002, 1007, 1008),
                              payload)
            else:
                frame = json.loads(payload) if first == TEXT else msgpack.unpackb(payload)
                self.assertIn(frame["type"], ("error", "pong"))

    def test_1007(self):
        """1007: text that is not UTF-8, whole or in fragments, or in the reason of a close."""
        for text in (b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
                     b"\xe2\x28\xa1"):
            raw = self.raw()
            raw.send(TEXT, b'{"type":"ping","x":"' + text + b'"}')
            self.assertClosedWith(raw, 1007)
        raw = self.raw()
        raw.send(TEXT, b'{"type":"ping","x":"\xe2', fin=False)
        raw.send(0, b'(\xa1"}')
        self.assertClosedWith(raw, 1007)
        raw = self.raw()
        raw.send(CLOSE, struct.pack("!H", 1000) + b"\xff")
        self.assertIn(raw.close_frame()[0], (1007, 1002))

    def test_1009(self):
        """1009: too big, said before it was sent; also when fragments add up."""
        raw = self.raw()
        raw.raw.send(struct.pack("!BBQ", 0x81, 0xFF, 1 << 32) + b"mask")
        self.assertClosedWith(raw, 1009)
        raw = self.raw()
        try:
            raw.send(TEXT, b'"' + b" " * 65536, fin=False)
            for _ in range(1024):
                raw.send(0, b" " * 65536, fin=False)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            code, _ = raw.close_frame()
            self.assertEqual(code, 1009)
        except EOFError:
            pass  # the close frame was lost to the reset, since we were still sending

    def test_1008_or_error_for_a_flood_of_faults(self):
        """Garbage without end: each an `error`, or 1008 at some point; never silence, never harm to
        others.
        """
        raw = self.raw()
        other = self.ws()
        for _ in range(2000):
            raw.send(TEXT, b"garbage")
        count = 0
        while count < 2000:
            opcode, payload = raw.frame()
            if opcode == CLOSE:
                self.assertIn(struct.unpack("!H", payload[:2])[0], (1008, 1013), payload)
                break
            count += 1
        other.fence()


class SlowConsumerTest(WsTest):
    """A subscriber that stops reading is cut off while others go on."""

    env = {"POSTERN_LIMITS__OUT_QUEUE": "64KiB"}

    def test_slow_consumer(self):
        """Slow consumers never grow memory without bound and never stall others; counted by reason.
        """
        topic = unique("slow")
        reason = 'reason="slow_consumer"'
        before = self.broker.metric("postern_disconnects_total", reason)
        slow = self.raw(self.bob, receive_buffer=4096)
        slow.send_json(type="subscribe", topic=topic)
        slow.json("subscribed")
        reader, writer = self.ws(), self.ws(encoding="msgpack")
        reader.subscribe(topic)
        payload, sent = "x" * 16000, 0
        while self.broker.metric("postern_disconnects_total", reason) == before:
            self.assertLess(sent, 2500,
                            "40 MB for a reader that does not read, and it is not cut off")
            for _ in range(25):
                writer.send(type="publish", topic=topic, data={"n": sent, "pad": payload},
                            id=str(sent))
                writer.expect("ack", id=str(sent))
                event = reader.expect("event", topic=topic)
                self.assertEqual(event["data"]["n"], sent)
                sent += 1
        self.assertEqual(self.broker.metric("postern_disconnects_total", reason), before + 1)
        writer.send(type="publish", topic=topic, data={"n": -1}, id="last")
        self.assertEqual(reader.expect("event", topic=topic)["data"]["n"], -1, "the other goes on")
        # The slow one reads at last: what it gets is a prefix without holes, then the end.
        seen, code = [], None
        try:
            while True:
                opcode, payload = slow.frame()
                if opcode == CLOSE:
                    code = struct.unpack("!H", payload[:2])[0]
                    break
                frame = json.loads(payload)
                if frame["type"] == "event":
                    seen.append(frame["data"]["n"])
        except EOFError:
            pass
        self.assertEqual(seen, list(range(len(seen))), "a hole, and nothing said")
        self.assertLess(len(seen), sent)
        if code is not None:
            self.assertTrue(code in (1008, 1013) or 4000 <= code < 4500,
                            f"{code} tells the client not to come back")
        self.assertLess(self.broker.metric("postern_outbound_queue_bytes"), 1 << 20)


if __name__ == "__main__":
    unittest.main()
