#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Kills a broker again and again under load, then compares every acknowledgement with what everybody
received: nothing lost, nothing twice, one order for all.  See docs/durability.md; use ./dev crash.
"""

import argparse
import asyncio
import collections
import logging
import os
import random
import signal
import subprocess
import sys
import time

import zmq.asyncio

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "system")]

import clients  # noqa: E402
import harness  # noqa: E402
from ledger import Ledger, Row  # noqa: E402

CONVERSATIONS, TOPICS = 3, 2
# How long the clients may need, after the last kill, to send and hear what is outstanding.
SETTLE_S = harness.PATIENCE * 3


class Mortal(harness.Broker):
    """A broker that is also killed before it listens."""

    def stillborn(self, after_s):
        command = [harness.PROGRAM, "run", "--print-listen", "--data", self.data, *self.args]
        with open(self.stderr_path, "ab") as errors:
            process = subprocess.Popen(command, env=harness.clean_environment(self.env), cwd=self.root,
                                       preexec_fn=harness.die_with_parent, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=errors)
        time.sleep(after_s)
        process.kill()
        process.wait()


class World:
    """One run: a broker with many lives, its clients, and the ledger."""

    def __init__(self, kills, seed):
        self.kills, self.seed = kills, seed
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self.broker = Mortal(env={"POSTERN_TOPICS__DURABLE": "log.**", "POSTERN_AUTH__ACCESS_TTL": "2h",
                                  "POSTERN_WORKERS": "2", "POSTERN_LOG__LEVEL": "warn",
                                  # Whoever comes back through hundreds of lives is still owed everything.
                                  "POSTERN_QUEUE__MESSAGES": "0", "POSTERN_QUEUE__BYTES": "1GiB",
                                  "POSTERN_QUEUE__DELIVERIES": "1000"})
        self.life = 0
        self.finishing = self.finished = False
        self.how = collections.Counter()
        self.zmq = zmq.asyncio.Context()
        self.tasks = []

    # -- the broker's lives

    async def blocking(self, function, *args):
        return await asyncio.get_running_loop().run_in_executor(None, function, *args)

    async def start(self):
        await self.blocking(self.broker.start)
        self.life += 1
        self.up.set()

    async def die(self):
        self.up.clear()
        await self.blocking(self.broker.kill)
        self.life += 1

    async def kill_once(self):
        """Between two kills a life under load: mostly short, sometimes long enough for a checkpoint."""
        draw = self.chance.random()
        await asyncio.sleep(self.chance.uniform(0.0, 0.08) if draw < 0.9 else self.chance.uniform(0.1, 0.5))
        draw = self.chance.random()
        if draw < 0.15:
            self.how["while draining"] += 1
            self.broker.send_signal(signal.SIGTERM)
            await asyncio.sleep(self.chance.uniform(0.0, 0.02))
            await self.die()
        else:
            self.how["under load"] += 1
            await self.die()
        if draw > 0.85:
            self.how["while starting"] += 1
            await self.blocking(self.broker.stillborn, self.chance.uniform(0.0, 0.02))
        await self.start()

    # -- the cast

    def add(self, kind, name, user, **how):
        client = kind(self, name, user, **how)
        self.tasks.append(asyncio.create_task(client.run(), name=name))
        return client

    def user(self, name):
        reply = self.broker.call("POST", clients.API + "/admin/users", {"username": name, "password": None},
                                 token=self.broker.token())
        if reply.status != 201:
            raise AssertionError(f"creating user {name}: {reply}")
        return {**reply.data, "token": self.broker.token(name)}

    def prepare(self):
        self.users = [self.user(f"user{i}") for i in range(5)]
        self.conversations = ["conversation." + self.broker.conversation(*self.users)
                              for _ in range(CONVERSATIONS)]
        self.topics = [f"log.{i}" for i in range(TOPICS)]

    async def members(self):
        a, b, c, d, silent = self.users  # the last one sends nothing: nobody is fed with what they sent
        streams = self.conversations + self.topics
        self.followers = [
            self.add(clients.WsMember, "ws-json", a, streams=streams),
            self.add(clients.WsMember, "ws-msgpack", b, streams=streams, encoding="msgpack"),
            self.add(clients.WsMember, "ws-restless", c, streams=streams, leave_after=60),
            self.add(clients.WsMember, "ws-sleepy", d, streams=streams, sleeps=0.8),
            self.add(clients.FeedMember, "feed", silent, streams=self.conversations),
            self.add(clients.FeedMember, "feed-restless", silent, streams=self.conversations, leave_after=60),
            self.add(clients.HistoryMember, "history", b, streams=self.conversations),
            *(self.add(clients.SseMember, f"sse-{stream}", c, streams=[stream])
              for stream in (streams[0], streams[-1]))]
        self.add(clients.ZmqListener, "sub", a, streams=streams)

        # Positions begin at 0, before the first message: from then on everybody is owed everything.
        await self.until(lambda: all(stream in m.at for m in self.followers for stream in m.streams),
                         "the members' subscriptions")

    def writers(self):
        kinds = [(clients.WsWriter, {"encoding": "json"}), (clients.RestWriter, {}), (clients.ZmqWriter, {}),
                 (clients.WsWriter, {"encoding": "msgpack"})]
        number = 0
        for stream in self.conversations + self.topics:
            for turn in range(3):
                kind, how = kinds[(number + turn) % len(kinds)]
                self.add(kind, f"{kind.__name__}-{number}", self.users[number % 4], stream=stream, **how)
                number += 1

    # -- the end

    async def until(self, condition, what):
        end = time.monotonic() + SETTLE_S
        while not condition():
            for task in self.tasks:
                if task.done() and task.exception():
                    raise task.exception()
            if time.monotonic() > end:
                for task in self.tasks:
                    if not task.done():
                        task.print_stack()
                raise AssertionError(f"waited {SETTLE_S:g} s in vain for {what}")
            await asyncio.sleep(0.02)

    async def everything(self):
        """What the broker has: conversations by GET, topics by a subscriber that begins at 0."""
        final = {stream: [] for stream in self.conversations + self.topics}
        for stream in self.conversations:
            rows = final[stream]
            while True:
                path = (f"{clients.API}/conversations/{stream.partition('.')[2]}/messages"
                        f"?after={rows[-1].place if rows else 0}&limit=200")
                reply = await self.blocking(self.broker.call, "GET", path, None, self.users[3]["token"])
                if reply.status != 200:
                    raise AssertionError(f"{path}: {reply}")
                if not reply.data:
                    break
                rows += [Row(m["seq"], m["id"], m["content"]) for m in reply.data]
        own = World.__new__(World)  # a ledger of its own: this reader is no member
        own.__dict__.update(self.__dict__, ledger=Ledger(), tasks=[])
        own.ledger.epochs = dict(self.ledger.epochs)
        reader = own.add(clients.WsMember, "reader", self.users[3], streams=self.topics)
        reader.at = {stream: 0 for stream in self.topics}
        newest = {stream: max((place for i, place in self.ledger.acked.items()
                               if self.ledger.sent[i][0] == stream), default=0) for stream in self.topics}
        await own.until(lambda: all(reader.at[s] >= newest[s] for s in self.topics), "the topics' history")
        own.tasks[0].cancel()
        for stream in self.topics:
            final[stream] = own.ledger.received.get(("reader", stream), [])
        self.ledger.faults += own.ledger.faults
        return final

    async def settle(self):
        """Lets everybody finish; then whoever follows has everything there is."""
        self.finishing = True
        await self.until(lambda: all(t.done() for t in self.tasks if "Writer" in t.get_name()),
                         "acknowledgements of everything that was sent")
        await self.die()
        await self.start()
        final = await self.everything()
        try:
            await self.until(lambda: all(m.at[s] >= len(final[s]) for m in self.followers for s in m.streams),
                             "members to have everything")
        except AssertionError:
            pass  # check() says who lacks what
        self.finished = True
        await self.die()
        await asyncio.wait(self.tasks, timeout=5)
        for task in self.tasks:
            task.cancel()
        return final

    async def play(self):
        self.up = asyncio.Event()
        await self.start()
        await self.blocking(self.prepare)
        await self.members()
        self.writers()
        for _ in range(self.kills):
            await self.kill_once()
        return self.ledger.check(await self.settle())

    def run(self):
        """Returns the faults."""
        # Connections that break are what this is about; the library reports each.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        try:
            return asyncio.run(self.play())
        finally:
            self.broker.kill()
            self.zmq.destroy(linger=0)

    def summary(self):
        kinds = ", ".join(f"{n} {what}" for what, n in sorted(self.how.items()))
        received = sum(len(rows) for rows in self.ledger.received.values())
        return (f"{sum(self.how.values())} kills ({kinds}); {len(self.ledger.acked)} of "
                f"{len(self.ledger.sent)} messages acknowledged, {self.ledger.resent} sent again, "
                f"{self.ledger.refusals} refused, {received} receipts by "
                f"{len({member for member, _ in self.ledger.received})} members")


def main():
    p = argparse.ArgumentParser(prog="dev crash", description=__doc__.split("See")[0])
    p.add_argument("--kills", type=int, default=200, metavar="N", help="how often (default 200)")
    p.add_argument("--seed", type=int, default=None, metavar="S", help="of the moments (default: a new one)")
    a = p.parse_args()
    seed = a.seed if a.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"crash: --kills {a.kills} --seed {seed}", flush=True)
    world = World(a.kills, seed)
    begin = time.monotonic()
    try:
        faults = world.run()
        print(f"{world.summary()}; {time.monotonic() - begin:.0f} s")
        for fault in faults:
            print(fault)
        if faults:
            sys.stderr.write(world.broker.stderr())
            return 1
        print("nothing lost, nothing twice, one order for all")
        return 0
    finally:
        world.broker.remove()


if __name__ == "__main__":
    sys.exit(main())
