#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A WebSocket client that sends without reading is held back, not cut: with a client library that
does what libraries do, it stops reading while nobody asks for its messages.
"""

import asyncio
import json
import socket
import unittest

import websockets

from harness import PATIENCE, SystemTest, unique, wait_until

MANY = 20000
LARGE = 60000  # of a message; a page has five


class Pipeliner:
    """Sends all its frames from a task of its own, and reads when it is told to."""

    def __init__(self, broker, token, frames):
        self.frames = frames
        host, port = broker.http
        self.uri = f"ws://{host}:{port}/ws"
        self.headers = [("Authorization", "Bearer " + token)]

    async def __aenter__(self):
        host, port = self.uri.split("/")[2].rsplit(":", 1)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sock.connect((host, int(port)))
        self.socket = await websockets.connect(
            self.uri, sock=sock, extra_headers=self.headers, compression=None,
            subprotocols=["postern.v1.json"], ping_interval=None, max_queue=8, max_size=None,
            open_timeout=PATIENCE, close_timeout=2)
        welcome = json.loads(await self.socket.recv())
        assert welcome["type"] == "welcome", welcome
        self.sending = asyncio.create_task(self._send())
        return self

    async def _send(self):
        for frame in self.frames:
            await self.socket.send(json.dumps(frame))

    async def answers(self, count):
        return [json.loads(await asyncio.wait_for(self.socket.recv(), PATIENCE))
                for _ in range(count)]

    async def __aexit__(self, *_):
        self.sending.cancel()
        await asyncio.gather(self.sending, return_exceptions=True)
        await self.socket.close()


class WsFlowTest(SystemTest):
    """What the broker does with a client that does not take its answers."""

    def held(self):
        return self.broker.metric("postern_ws_held_back_total")

    def closed(self, reason):
        return self.broker.metric("postern_disconnects_total", f'reason="{reason}"')

    async def until(self, condition, what):
        await asyncio.to_thread(wait_until, condition, what, PATIENCE * 3)


class HeldBackTest(WsFlowTest):
    """With the limits as they come."""

    def test_thousands_of_requests_before_the_first_answer_is_read(self):
        """A client that pipelines is slowed down; each request is answered, none twice."""
        topic = unique("flow")
        frames = [{"type": "request", "method": "GET", "path": "/api/v1/health", "id": i}
                  if i % 10 == 0 else {"type": "publish", "topic": topic, "data": i, "id": i}
                  for i in range(MANY)]
        slow, held = self.closed("slow_consumer"), self.held()

        async def run():
            async with Pipeliner(self.broker, self.broker.token(), frames) as p:
                await self.until(lambda: self.held() > held, "the client to be held back")
                self.assertFalse(p.sending.done() and p.sending.exception(), "it was cut")
                answers = await p.answers(MANY)
                await p.sending
                self.assertTrue(p.socket.open)
                return answers

        answers = asyncio.run(run())
        acks = [a["id"] for a in answers if a["type"] == "ack"]
        self.assertEqual(acks, [i for i in range(MANY) if i % 10], "in order, none lost")
        responses = [a for a in answers if a["type"] == "response"]
        self.assertEqual(sorted(a["id"] for a in responses), list(range(0, MANY, 10)))
        self.assertEqual({a["status"] for a in responses}, {200})
        self.assertEqual(self.closed("slow_consumer"), slow)

    def test_pages_in_flight(self):
        """Answers to what was asked in time come, however large they are together."""
        token = self.broker.user()["token"]
        path = "/api/v1/conversations/current/messages"
        for _ in range(5):
            self.assertOk(self.broker.call("POST", path, {"content": "x" * LARGE}, token=token),
                          201)
        frames = [{"type": "request", "method": "GET", "path": path, "id": i} for i in range(64)]
        slow, held = self.closed("slow_consumer"), self.held()

        async def run():
            async with Pipeliner(self.broker, token, frames) as p:
                await self.until(lambda: self.held() > held, "the client to be held back")
                return await p.answers(len(frames))

        answers = asyncio.run(run())
        self.assertEqual(sorted(a["id"] for a in answers), list(range(len(frames))))
        for answer in answers:
            self.assertEqual([len(m["content"]) for m in answer["body"]["data"]], [LARGE] * 5)
        self.assertEqual(self.closed("slow_consumer"), slow)


class StallTest(WsFlowTest):
    """Who never reads."""

    env = {"POSTERN_LIMITS__OUT_QUEUE": "64KiB", "POSTERN_LIMITS__STALL": "2s",
           "POSTERN_LIMITS__WS_PING": "500ms", "POSTERN_LIMITS__WS_PONG": "500ms"}

    def test_the_stall_limit_ends_it(self):
        """Nobody reads its pongs, so it is not dead for lack of them; its output says it."""
        topic = unique("flow")
        frames = [{"type": "publish", "topic": topic, "data": "x" * 100, "id": i}
                  for i in range(10 * MANY)]
        held, no_pong = self.held(), self.closed("no_pong")
        slow = self.closed("slow_consumer")

        async def run():
            async with Pipeliner(self.broker, self.broker.token(), frames) as p:
                await self.until(lambda: self.closed("slow_consumer") > slow, "the stall limit")
                self.assertFalse(p.sending.done() and not p.sending.exception(),
                                 "all was taken, which is no pushing back")

        asyncio.run(run())
        self.assertEqual(self.closed("slow_consumer"), slow + 1)
        self.assertEqual(self.closed("no_pong"), no_pong)
        self.assertGreater(self.held(), held)


if __name__ == "__main__":
    unittest.main()
