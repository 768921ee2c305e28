# SPDX-License-Identifier: Apache-2.0
"""A conversation in a database as a crash leaves it, made once; every test gets copies of it, damaged as it likes."""

import glob
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "system")]

from harness import Broker, RawHttp, show_stderr  # noqa: E402

API = "/api/v1"
PAGE = 4096


def noise(content, at, chance):
    """The page that the byte at `at` is in becomes noise."""
    at = at // PAGE * PAGE
    content[at:at + PAGE] = chance.randbytes(PAGE)


class CopyCase(unittest.TestCase):
    """How many messages the conversation has, and how long each is, says the class of the tests."""

    messages_sent, content_bytes = 0, 0

    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="ptnr")
        cls.addClassCleanup(subprocess.run, ["rm", "-rf", cls.root], check=True)
        cls.data = os.path.join(cls.root, "d")
        cls.sent = {}
        broker = Broker(data=cls.data)
        try:
            broker.start()
            cls.user = broker.user("ann")
            cls.path = f"{API}/conversations/{broker.conversation(cls.user)}/messages"
            with RawHttp(broker.http) as raw:
                for number in range(cls.messages_sent):
                    content = f"message {number} " + "x" * cls.content_bytes
                    raw.send(cls.post(content))
                    reply = raw.reply()
                    if reply.status != 201:
                        raise AssertionError(f"message {number}: {reply}")
                    cls.sent[reply.data["id"]] = content
            broker.stop()  # which empties the log: all of it is in the main file
            broker.start()
        finally:
            broker.kill()
            broker.remove()

    @classmethod
    def post(cls, content):
        body = f'{{"content": "{content}"}}'.encode()
        return (f"POST {cls.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cls.user['token']}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body

    def broker(self, damage=None, args=()):
        """One that has started on a copy of the data, which damage(bytearray) has been at."""
        copy = tempfile.mkdtemp(dir=self.root)
        subprocess.run(["cp", "-a", self.data, copy], check=True)
        self.db = os.path.join(copy, "d", "postern.db")
        if damage is not None:
            with open(self.db, "r+b") as f:
                content = bytearray(f.read())
                damage(content)
                f.seek(0)
                f.write(content)
                f.truncate(len(content))
        broker = Broker(data=os.path.join(copy, "d"), args=args)
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        self.start(broker)
        return broker

    def start(self, broker):
        try:
            broker.start()
        except AssertionError:
            show_stderr(self.id(), broker)
            raise

    def set_aside(self):
        """The databases, without their logs."""
        return [name for name in glob.glob(self.db + ".bad-*") if not name.endswith(("-wal", "-shm"))]

    def services(self, broker, token):
        reply = broker.call("GET", API + "/system/status", token=token)
        self.assertEqual(reply.status, 200, reply)
        return reply.data["services"]

    def page(self, broker, token, after, limit):
        """Messages, as the broker tells them."""
        reply = broker.call("GET", f"{self.path}?after={after}&limit={limit}", token=token)
        self.assertEqual(reply.status, 200, reply)
        return reply.data

    def write(self, broker, token, content):
        reply = broker.call("POST", self.path, {"content": content}, token=token)
        self.assertEqual(reply.status, 201, reply)
        return reply.data
