# SPDX-License-Identifier: Apache-2.0
"""Clients that live through the deaths of their broker: writers that send again, members that go on.

Everything is one asyncio loop.  A client is a coroutine `live` that works on one connection until it
ends; `run` calls it again in every life of the broker.  What a client has to remember between lives
(messages without an acknowledgement, positions) is in the object, as it would be on a real client's disk.
"""

import asyncio
import itertools
import json
import random

import msgpack
import websockets
import zmq
import zmq.asyncio

API = "/api/v1"
GONE = (OSError, EOFError, websockets.WebSocketException, asyncio.TimeoutError, zmq.Again)


class Refused(Exception):
    """The broker said no and `retryable`: come back."""


class Client:
    def __init__(self, world, name, user, **how):
        self.world, self.name, self.user = world, name, user
        self.ledger = world.ledger
        self.chance = random.Random(f"{world.seed} {name}")
        self.__dict__.update(how)

    async def run(self):
        while not self.finished():
            await self.world.up.wait()
            try:
                await self.live()
            except GONE:
                pass
            except Refused:
                pass
            # A broker that is dying refuses connections; nobody learns more by asking without a pause.
            await asyncio.sleep(0.005)

    # -- connections

    def headers(self):
        return [("Authorization", "Bearer " + self.user["token"])]

    def connect_ws(self, encoding, query=""):
        host, port = self.world.broker.http
        return websockets.connect(f"ws://{host}:{port}/ws{query}", extra_headers=self.headers(),
                                  subprotocols=["postern.v1." + encoding], compression=None,
                                  ping_interval=None, max_size=None, max_queue=None, open_timeout=20,
                                  close_timeout=0.2)


class Http:
    """A raw keep-alive connection, for pipelining and event streams."""

    async def open(self, client):
        self.host, self.port = client.world.broker.http
        self.token = client.user["token"]
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=1 << 24)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    async def __aenter__(self):
        return self

    def send(self, method, path, body=None, **headers):
        body = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {self.token}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines += ["Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}", "", ""]
        self.writer.write("\r\n".join(lines).encode() + body)

    async def head(self):
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        lines = text.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def reply(self):
        status, headers = await self.head()
        return status, json.loads(await self.reader.readexactly(int(headers["content-length"])))

    async def ask(self, method, path, body=None):
        self.send(method, path, body)
        return await self.reply()

    async def blocks(self):
        """The blocks of an event stream, which ends with its connection."""
        while True:
            yield (await self.reader.readuntil(b"\n\n")).decode()


# ---- writers -------------------------------------------------------------------------------------


class Writer(Client):
    """Sends to one stream; what has no acknowledgement is sent again, in order, before anything new."""

    window = 16

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.pending = {}  # id: content, in the order of sending
        self.numbers = itertools.count()

    def finished(self):
        return self.world.finishing and not self.pending

    @property
    def is_topic(self):
        return not self.stream.startswith("conversation.")

    @property
    def conversation(self):
        return self.stream.partition(".")[2]

    def due(self, in_flight):
        """What to send now: at the beginning of a life everything pending, then new messages."""
        if in_flight == 0 and self.pending:
            self.ledger.resent += len(self.pending)
            return list(self.pending.items())
        fresh = []
        while not self.world.finishing and len(self.pending) < self.window:
            own, content = self.ledger.send(self.stream, self.name, next(self.numbers), self.chance)
            self.pending[own] = content
            fresh.append((own, content))
        return fresh

    def frame(self, own, content):
        if self.is_topic:
            return {"type": "publish", "topic": self.stream, "durability": "synced", "id": own,
                    "data": {"id": own, "content": content}}
        return {"type": "message", "id": own, "conversationId": self.conversation, "content": content}

    def answered(self, own, frame):
        """An `ack` or `error` frame, or the same out of a REST answer."""
        if frame["type"] == "error":
            self.ledger.refuse(own, frame["code"], frame["retryable"], self.pending)
            if not frame["retryable"]:
                del self.pending[own]
            raise Refused(frame["code"])
        if self.is_topic:
            self.ledger.epoch(self.stream, frame["epoch"], self.name)
            if frame["durability"] != "synced":
                self.ledger.fault("refused", f"{own} was asked to be synced and is {frame['durability']}")
            self.ledger.ack(own, frame["offset"])
        else:
            message = frame["message"]
            self.ledger.ack(own, message["seq"], message["content"])
        del self.pending[own]


class WsWriter(Writer):
    encoding = "json"

    async def live(self):
        pack, unpack = (json.dumps, json.loads) if self.encoding == "json" else (msgpack.packb, msgpack.unpackb)
        async with self.connect_ws(self.encoding) as ws:
            in_flight = 0
            while True:
                for own, content in self.due(in_flight):
                    await ws.send(pack(self.frame(own, content)))
                    in_flight += 1
                if in_flight == 0:
                    return
                frame = unpack(await ws.recv())
                if frame["type"] == "drain":
                    return
                if frame["type"] in ("ack", "error") and frame.get("id") in self.pending:
                    in_flight -= 1
                    self.answered(frame["id"], frame)


class RestWriter(Writer):
    window = 8

    async def live(self):
        async with await Http().open(self) as http:
            while True:
                batch = self.due(0)
                if not batch:
                    return
                for own, content in batch:
                    if self.is_topic:
                        http.send("POST", f"{API}/topics/{self.stream}?durability=synced",
                                  {"id": own, "content": content}, Idempotency_Key=own)
                    else:
                        http.send("POST", f"{API}/conversations/{self.conversation}/messages",
                                  {"id": own, "content": content})
                for own, _ in batch:
                    status, body = await http.reply()
                    if status >= 400:
                        self.answered(own, {**body, "type": "error"})
                    elif self.is_topic:
                        self.answered(own, {**body["data"], "type": "ack"})
                    else:
                        self.answered(own, {"message": body["data"], "type": "ack"})


class ZmqWriter(Writer):
    async def live(self):
        life = self.world.life
        dealer = self.world.zmq.socket(zmq.DEALER)
        # libzmq hides the death of a peer, and would give the next one the second half of what was for
        # the first: a sender that cares for order lives on one connection.
        dealer.linger, dealer.reconnect_ivl = 0, -1
        dealer.connect(self.world.broker.zmq)
        try:
            in_flight = 0
            while True:
                for own, content in self.due(in_flight):
                    frame = {**self.frame(own, content), "token": self.user["token"]}
                    await dealer.send_multipart([b"", msgpack.packb(frame)], zmq.DONTWAIT)
                    in_flight += 1
                if in_flight == 0:
                    return
                while not await dealer.poll(20):
                    if self.world.life != life:
                        return  # what had arrived was read
                frame = msgpack.unpackb((await dealer.recv_multipart(zmq.DONTWAIT))[-1])
                if frame.get("id") in self.pending:
                    in_flight -= 1
                    self.answered(frame["id"], frame)
        finally:
            dealer.close(linger=0)


# ---- members -------------------------------------------------------------------------------------


class Member(Client):
    """Follows streams, each from a position it keeps.  `leave_after`: goes away after about that many
    events, and comes back; `sleeps`: the share of lives that it misses.
    """

    leave_after = None
    sleeps = 0.0

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.at = {}  # stream: place of the last event

    def finished(self):
        return self.world.finished

    async def live(self):
        life = self.world.life
        if self.at and self.chance.random() < self.sleeps and not self.world.finishing:
            while self.world.life == life and not self.world.finishing:
                await asyncio.sleep(0.02)
            return
        left = self.chance.randrange(1, 2 * self.leave_after) if self.leave_after else None
        async for _ in self.events():
            if left is not None:
                left -= 1
                if left == 0 and not self.world.finishing:
                    return

    def take(self, stream, place, data):
        self.at[stream] = place
        self.ledger.receive(self.name, stream, place, data["id"], data["content"])

    def subscribed(self, stream, frame):
        self.ledger.epoch(stream, frame["epoch"], self.name)
        if stream not in self.at:
            self.at[stream] = frame["offset"]
            self.ledger.follow(self.name, stream, frame["offset"])
        elif not frame["recovered"]:
            self.ledger.fault("position", f"{self.name}: {stream} from {self.at[stream]} on was not "
                              f"recovered: {frame}")


class WsMember(Member):
    encoding = "json"

    async def events(self):
        pack, unpack = (json.dumps, json.loads) if self.encoding == "json" else (msgpack.packb, msgpack.unpackb)
        async with self.connect_ws(self.encoding) as ws:
            for stream in self.streams:
                frame = {"type": "subscribe", "topic": stream}
                if stream in self.at:
                    frame["since"] = {"epoch": self.ledger.epochs[stream], "offset": self.at[stream]}
                await ws.send(pack(frame))
            while True:
                frame = unpack(await ws.recv())
                if frame["type"] == "event":
                    self.ledger.epoch(frame["topic"], frame["epoch"], self.name)
                    self.take(frame["topic"], frame["offset"], frame["data"])
                    yield
                elif frame["type"] == "subscribed":
                    self.subscribed(frame["topic"], frame)
                elif frame["type"] == "drain":
                    return
                elif frame["type"] == "gap" and frame["reason"] not in ("overflow", "max_deliveries"):
                    # Those two are of the device's queue, for which this member does not care.
                    self.ledger.fault("missed", f"{self.name}: {frame}")
                elif frame["type"] == "error":
                    if not frame["retryable"]:
                        self.ledger.fault("refused", f"{self.name}: {frame}")
                    return


class FeedMember(Member):
    """Takes what comes by itself, as `message`, and acknowledges now and then; what it has not
    acknowledged comes again, and is passed over.
    """

    async def events(self):
        for stream in self.streams:
            if stream not in self.at:
                self.at[stream] = 0
                self.ledger.follow(self.name, stream, 0)
        async with self.connect_ws("json", "?device=" + self.name) as ws:
            while True:
                frame = json.loads(await ws.recv())
                if frame["type"] == "drain":
                    return
                if frame["type"] == "gap":
                    self.ledger.fault("missed", f"{self.name}: {frame}")
                if frame["type"] != "message":
                    continue
                stream = "conversation." + frame["conversationId"]
                if frame["seq"] > self.at[stream]:
                    self.take(stream, frame["seq"], frame)
                    yield
                if self.chance.random() < 0.1:
                    await ws.send(json.dumps({"type": "ack", "conversationId": frame["conversationId"],
                                              "seq": self.at[stream]}))


class SseMember(Member):
    async def events(self):
        stream, = self.streams
        async with await Http().open(self) as http:
            headers = {"Accept": "text/event-stream"}
            if stream in self.at:
                headers["Last_Event_ID"] = f"{self.ledger.epochs[stream]}:{self.at[stream]}"
            http.send("GET", f"{API}/topics/{stream}/events", **headers)
            status, _ = await http.head()
            if status != 200:
                raise Refused(status)
            async for block in http.blocks():
                fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
                if "data" not in fields:
                    continue
                value = json.loads(fields["data"])
                if fields.get("event") == "subscribed":
                    self.subscribed(stream, value)
                elif "id" in fields:
                    epoch, _, place = fields["id"].rpartition(":")
                    self.ledger.epoch(stream, epoch, self.name)
                    self.take(stream, int(place), value["data"])
                    yield
                elif fields.get("event") == "gap":
                    self.ledger.fault("missed", f"{self.name}: {value}")


class HistoryMember(Member):
    """Hears nothing, reads pages: what a member sees that uses only GET."""

    async def events(self):
        async with await Http().open(self) as http:
            while not self.world.finished:
                for stream in self.streams:
                    if stream not in self.at:
                        self.at[stream] = 0
                        self.ledger.follow(self.name, stream, 0)
                    status, body = await http.ask("GET", f"{API}/conversations/{stream.partition('.')[2]}"
                                                  f"/messages?after={self.at[stream]}&limit=100")
                    if status != 200:
                        raise Refused(status)
                    for message in body["data"]:
                        self.take(stream, message["seq"], message)
                        yield
                await asyncio.sleep(0.01)


class ZmqListener(Client):
    """A SUB socket: live events only, so it is owed nothing, but what it hears must be true."""

    def finished(self):
        return self.world.finished

    async def live(self):
        life = self.world.life
        sub = self.world.zmq.socket(zmq.SUB)
        sub.linger, sub.rcvhwm = 0, 0
        for stream in self.streams:
            sub.subscribe(stream)
        sub.connect(self.world.broker.zmq_events)
        try:
            while self.world.life == life and not self.world.finished:
                if not await sub.poll(20):
                    continue
                stream, body = await sub.recv_multipart()
                event = msgpack.unpackb(body)
                self.ledger.receive(self.name, stream.decode(), event["offset"], event["data"]["id"],
                                    event["data"]["content"])
        finally:
            sub.close(linger=0)
