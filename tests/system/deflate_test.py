#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""permessage-deflate (RFC 7692): with the `websockets` library, and by hand what it would not send."""

import json
import random
import struct
import unittest
import zlib

import msgpack

from harness import RawWs, SystemTest, Ws, unique, wait_until

TEXT, BINARY, CLOSE, PING, PONG = RawWs.TEXT, RawWs.BINARY, RawWs.CLOSE, RawWs.PING, RawWs.PONG
OFFER = "permessage-deflate; client_max_window_bits"
RSV1 = 4


def pack(data, final=False):
    z = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = z.compress(data)
    if final:
        return packed + z.flush(zlib.Z_FINISH) + b"\0"
    return (packed + z.flush(zlib.Z_SYNC_FLUSH))[:-4]


class DeflateTest(SystemTest):
    """A broker that compresses what has 100 bytes or more: a pong (69) never, an answer always."""

    env = {"POSTERN_WS__DEFLATE": "100", "POSTERN_WORKERS": "1"}

    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user("ann")

    def ws(self, **how):
        ws = Ws(self.broker, self.ann["token"], compression="deflate", **how)
        self.addCleanup(ws.close)
        return ws

    def raw(self, extensions=OFFER, **how):
        raw = RawWs(self.broker, self.ann["token"], extensions=extensions, **how)
        self.addCleanup(raw.close)
        return raw

    def publish(self, topic, data):
        reply = self.broker.call("POST", "/api/v1/topics/" + topic, data, token=self.ann["token"])
        return self.assertOk(reply, 202)

    def assertClosedWith(self, raw, code):
        got, reason = raw.close_frame()
        self.assertEqual(got, code, reason)
        raw.send(CLOSE, struct.pack("!H", got))
        self.assertTrue(raw.raw.closed())
        json.loads(reason)

    # -- negotiation

    def test_answers(self):
        """What is offered, and what is answered: RFC 7692 section 7.1."""
        both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        for offer, answer in (
                ("permessage-deflate", both), (OFFER, both),
                ("permessage-deflate; server_max_window_bits=12",
                 both + "; server_max_window_bits=12"),
                ("permessage-deflate; server_max_window_bits=9", None),
                ("permessage-deflate; server_max_window_bits=9, permessage-deflate", both),
                ("permessage-deflate; unheard_of, x-other", None), ("x-other", None)):
            raw = self.raw(offer)
            self.assertEqual(raw.extensions, answer, offer)
            raw.json("welcome")

    def test_two_headers(self):
        """Offers may come in two header lines."""
        raw = self.raw("x-other", headers=["Sec-WebSocket-Extensions: permessage-deflate"])
        self.assertIn("permessage-deflate", raw.extensions)

    def test_malformed(self):
        """RFC 6455 section 9.1: a malformed list fails the handshake."""
        with self.assertRaisesRegex(AssertionError, "400"):
            self.raw("permessage-deflate;;")

    # -- both ways

    def test_library(self):
        """Events and answers of all sizes, both subprotocols, beside clients that do not compress."""
        for encoding in ("json", "msgpack"):
            topic = unique("deflate")
            readers = [self.ws(encoding=encoding), self.ws(encoding=encoding),
                       Ws(self.broker, self.ann["token"], encoding=encoding)]
            self.addCleanup(readers[2].close)
            for reader in readers:
                reader.subscribe(topic)
            self.assertIn("permessage-deflate",
                          readers[0].socket.response_headers["Sec-WebSocket-Extensions"])
            for n, data in enumerate(("", "x", "abc" * 30, "ü☃𝄞" * 2000, [1.5] * 5000)):
                readers[n % 2].send(type="publish", topic=topic, data=data, id=str(n))
                readers[n % 2].expect("ack", id=str(n))
                for reader in readers:
                    self.assertEqual(reader.expect("event", topic=topic)["data"], data)

    def test_answers_are_compressed(self):
        """A long answer to one client is compressed too, a short one is not."""
        raw = self.raw()
        raw.json("welcome")
        raw.send_json(type="ping", timestamp=1)
        raw.json("pong")
        self.assertFalse(raw.packed)
        raw.send_json(type="request", id="r", method="GET", path="/users/me")
        self.assertEqual(raw.json("response")["status"], 200)
        self.assertTrue(raw.packed)

    def test_once_per_broadcast(self):
        """One event is compressed once per wire form, however many get it."""
        topic = unique("once")
        readers = [self.ws(encoding=e) for e in ("json", "msgpack") * 4]
        for reader in readers:
            reader.subscribe(topic)
        data = {"text": "postern " * 100}
        before = self.broker.metric("postern_ws_deflate_bytes_total", "plain")
        self.publish(topic, data)
        for reader in readers:
            reader.expect("event", topic=topic)
        bytes_in = self.broker.metric("postern_ws_deflate_bytes_total", "plain") - before
        self.assertTrue(1600 < bytes_in < 2200, bytes_in)

    def test_incompressible(self):
        """What would not get shorter goes out as it is."""
        topic = unique("noise")
        raw = self.raw(subprotocol="postern.v1.msgpack")
        raw.frame()
        raw.send(BINARY, msgpack.packb({"type": "subscribe", "topic": topic}))
        raw.frame()
        noise = random.Random(7692).randbytes(4000)
        ws = Ws(self.broker, self.ann["token"], encoding="msgpack")
        self.addCleanup(ws.close)
        ws.send(type="publish", topic=topic, data=noise, id="n")
        ws.expect("ack")
        opcode, payload = raw.frame()
        self.assertEqual((opcode, msgpack.unpackb(payload)["data"]), (BINARY, noise))
        self.assertFalse(raw.packed)

    def test_fragments(self):
        """RSV1 stands on the first frame only; a ping may come between (RFC 7692 section 6.1)."""
        for final in (False, True):
            raw = self.raw()
            raw.json("welcome")
            packed = pack(json.dumps({"type": "ping", "timestamp": 7, "pad": "p" * 300}).encode(),
                          final)
            raw.send(TEXT, packed[:5], fin=False, reserved=RSV1)
            raw.send(PING, b"in between")
            raw.send(0, b"", fin=False)
            raw.send(0, packed[5:9], fin=False)
            raw.send(0, packed[9:])
            self.assertEqual(raw.frame(), (PONG, b"in between"))
            self.assertEqual(raw.json("pong")["timestamp"], 7)

    def test_empty_message(self):
        """An empty compressed message is one: here no JSON, and the connection survives it."""
        raw = self.raw()
        raw.json("welcome")
        raw.send(TEXT, b"\0", reserved=RSV1)
        raw.json("error")
        raw.send(TEXT, pack(b'{"type":"ping"}'), reserved=RSV1)
        raw.json("pong")

    def test_connections_share_one_stream(self):
        """A damaged or half message of one connection is nothing to the others."""
        good, half, bad = self.raw(), self.raw(), self.raw()
        for raw in (good, half, bad):
            raw.json("welcome")
        frame = pack(b'{"type":"ping","timestamp":5}')
        half.send(TEXT, frame[:6], fin=False, reserved=RSV1)
        bad.send(TEXT, b"\xf2\x00\x11\x00\x00", reserved=RSV1)
        self.assertClosedWith(bad, 1007)
        good.send(TEXT, frame, reserved=RSV1)
        self.assertEqual(good.json("pong")["timestamp"], 5)
        half.send(0, frame[6:])
        self.assertEqual(half.json("pong")["timestamp"], 5)

    # -- what must not be

    def test_bomb(self):
        """1009, found out while inflating; the failure is counted."""
        before = self.broker.metric("postern_ws_inflate_failures_total")
        inflated = self.broker.metric("postern_ws_inflate_bytes_total", "plain")
        raw = self.raw()
        raw.json("welcome")
        raw.send(TEXT, pack(b"a" * (200 << 20)), reserved=RSV1)
        self.assertClosedWith(raw, 1009)
        wait_until(lambda: self.broker.metric("postern_ws_inflate_failures_total") == before + 1,
                   "the failure in the metric")
        inflated = self.broker.metric("postern_ws_inflate_bytes_total", "plain") - inflated
        self.assertLessEqual(inflated, (1 << 20) + 1, "no more than the limit was inflated")

    def test_invalid(self):
        """1007 for data that is no DEFLATE, is cut off, or is no UTF-8."""
        for payload in (b"", b"\xff\xff\xff", pack(b'{"type":"ping","timestamp":5}')[:-4],
                        pack(b'"\xff"')):
            raw = self.raw()
            raw.json("welcome")
            raw.send(TEXT, payload, reserved=RSV1)
            self.assertClosedWith(raw, 1007)

    def test_reserved_bits(self):
        """1002: RSV1 on a continuation or a control frame, the other bits, or nothing agreed on."""
        ping = pack(b'{"type":"ping"}')
        for frames in (((TEXT, b"{", {"fin": False}), (0, b"}", {"reserved": RSV1})),
                       ((PING, b"", {"reserved": RSV1}),), ((TEXT, ping, {"reserved": 2}),),
                       ((TEXT, ping, {"reserved": RSV1 | 1}),)):
            raw = self.raw()
            raw.json("welcome")
            for opcode, payload, how in frames:
                raw.send(opcode, payload, **how)
            self.assertClosedWith(raw, 1002)
        raw = self.raw(None)
        raw.json("welcome")
        raw.send(TEXT, ping, reserved=RSV1)
        self.assertClosedWith(raw, 1002)


class OffTest(SystemTest):
    """The default: no offer is taken."""

    def test_off(self):
        ann = self.broker.user("ann")
        with RawWs(self.broker, ann["token"], extensions=OFFER) as raw:
            self.assertIsNone(raw.extensions)
            raw.json("welcome")
            raw.send(TEXT, pack(b'{"type":"ping"}'), reserved=RSV1)
            self.assertEqual(raw.close_frame()[0], 1002)


if __name__ == "__main__":
    unittest.main()
