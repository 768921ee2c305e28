#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, and disks that fail to sync, under a broker that nobody has told.

fault.c is compiled here and preloaded.  Where this may mount a file system, a real one is filled too.
"""

import os
import subprocess
import sys
import tempfile
import unittest
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "system")]

import harness  # noqa: E402
from harness import Broker, Ws, Zmq, wait_until, zmq_ask  # noqa: E402

API = "/api/v1"


class DiskCase(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="ptnf")
        self.addCleanup(subprocess.run, ["rm", "-rf", self.root], check=True)
        self.control, self.lost = (os.path.join(self.root, name) for name in ("control", "lost"))

    def preloaded(self):
        """A broker on a disk that does as tell() says."""
        library = os.path.join(self.root, "fault.so")
        subprocess.run([os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-O1", "-Wall", "-Werror",
                        "-o", library, os.path.join(HERE, "fault.c"), "-ldl", "-pthread"], check=True)
        with open(self.control, "wb") as f:
            f.write(b"-")
        return self.begin(Broker(env={"LD_PRELOAD": library, "FAULT_CONTROL": self.control,
                                      "FAULT_LOST": self.lost, **self.settings}))

    settings = {"POSTERN_TOPICS__DURABLE": "log.**"}

    def begin(self, broker):
        self.broker = broker
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        broker.start()
        self.user = broker.user("ann")
        self.conversation = broker.conversation(self.user)
        self.path = f"{API}/conversations/{self.conversation}/messages"
        self.acked, self.refused = {}, []
        return broker

    def tell(self, mode):
        with open(self.control, "r+b") as f:
            f.write(mode)

    def mounted(self):
        """A broker on a small file system of its own."""
        self.mount = os.path.join(self.root, "small")
        os.mkdir(self.mount)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", self.mount],
                          capture_output=True).returncode:
            self.skipTest("may not mount")
        self.addCleanup(subprocess.run, ["umount", "-l", self.mount], check=True)
        self.begin(Broker(data=os.path.join(self.mount, "d"), env=self.settings))

    def fill(self, keep=0):
        """Until only so many bytes are left."""
        disk = os.statvfs(self.mount)
        room = disk.f_bavail * disk.f_frsize - keep
        with open(os.path.join(self.mount, "ballast"), "ab") as f:
            try:
                while room > 0:
                    room -= os.write(f.fileno(), bytes(min(room, 4096)))
            except OSError:
                pass

    def clear(self):
        os.remove(os.path.join(self.mount, "ballast"))

    def send(self, own=None, content=None):
        """One message by REST; its reply."""
        own = own or str(uuid.uuid4())
        reply = self.broker.call("POST", self.path, {"id": own, "content": content or "c " + own},
                                 token=self.user["token"])
        if reply.status == 201:
            self.acked[own] = reply.data["seq"]
        else:
            self.refused.append(own)
        return reply

    def stored(self):
        messages, after = {}, 0
        while True:
            reply = self.broker.call("GET", f"{self.path}?after={after}&limit=200", token=self.user["token"])
            self.assertEqual(reply.status, 200, reply)
            if not reply.data:
                return messages
            for message in reply.data:
                self.assertEqual(message["seq"], len(messages) + 1, "contiguous")
                messages[message["id"]] = after = message["seq"]

    def check(self, may_be_there=()):
        """Everything acknowledged is there, at its place; what was refused is not."""
        there = self.stored()
        self.assertEqual([own for own, seq in self.acked.items() if there.get(own) != seq], [], "lost or moved")
        self.assertLessEqual(set(there), set(self.acked) | set(may_be_there), "stored although it was refused")


class Full(DiskCase):
    """storage_full to writers, while readers and live topics go on; over when there is room again."""

    def full(self, fill, clear):
        for _ in range(5):
            self.assertEqual(self.send().status, 201)
        live = Ws(self.broker, self.user["token"])
        self.addCleanup(live.close)
        live.subscribe("home.door")
        fill()
        wait_until(lambda: self.send().status != 201, "the disk to be full", pause=0)
        for _ in range(3):
            reply = self.send()
            self.assertEqual((reply.status, reply.json["code"], reply.json["retryable"]),
                             (507, "storage_full", True), reply)
        content = {"conversationId": self.conversation, "content": "x"}
        with Zmq() as zmq:
            frame = zmq_ask(zmq.req(self.broker.zmq), {"type": "message", "token": self.user["token"], **content})
        self.assertEqual((frame["type"], frame["code"]), ("error", "storage_full"), frame)
        live.send(type="message", id=str(uuid.uuid4()), **content)
        self.assertEqual(live.expect("error")["code"], "storage_full")
        live.send(type="publish", topic="log.a", data=1, durability="synced", id=7)
        self.assertEqual(live.expect("error", id=7)["code"], "storage_full")

        def state():
            return self.broker.call("GET", API + "/system/status", token=self.user["token"]).data

        store = state()["services"]["store"]
        self.assertEqual((state()["isHealthy"], store["status"]), (False, "degraded"), store)
        self.assertIn("full", store["message"])
        self.check()  # reading goes on
        for number in range(3):  # and so do live topics
            live.send(type="publish", topic="home.door", data=number, id=number)
            self.assertEqual(live.expect("ack", id=number)["type"], "ack")
            self.assertEqual(live.expect("event", topic="home.door")["data"], number)

        self.assertEqual(state()["services"]["store"]["status"], "degraded", "as long as it is")
        clear()
        wait_until(lambda: state()["isHealthy"], "the state to be good again before anybody writes")
        wait_until(lambda: self.send().status == 201, "writing to go on")
        again = self.refused[-1]
        self.assertEqual(self.send(again).status, 201, "what was refused is sent again")
        self.check()
        self.assertTrue(self.broker.alive(), "without a restart")
        self.broker.kill()
        self.broker.start()
        self.check()

    def test_no_room_for_the_database(self):
        self.preloaded()
        self.full(lambda: self.tell(b"f"), lambda: self.tell(b"-"))

    def test_a_full_file_system(self):
        self.mounted()
        self.full(self.fill, self.clear)


class Start(DiskCase):
    """A broker that starts while its disk is full."""

    def start_served(self):
        self.broker.start()
        self.check()  # readers are served
        self.assertEqual(self.send().status, 201, "there is room for a little")

    def test_after_an_orderly_end(self):
        self.mounted()
        for _ in range(5):
            self.assertEqual(self.send().status, 201)
        self.broker.stop()
        self.fill()
        for end in (self.broker.stop, self.broker.kill, self.broker.stop):
            self.start_served()
            end()
            self.fill()
        self.clear()
        self.broker.start()
        self.check()

    def test_damaged_and_no_room_to_salvage(self):
        self.mounted()
        for _ in range(60):
            self.assertEqual(self.send(content="y" * 60000).status, 201)
        self.broker.stop()
        path = os.path.join(self.broker.data, "postern.db")
        with open(path, "r+b") as f:
            f.write(b"\xff" * 100)
        self.fill(keep=os.path.getsize(path) // 2)
        with self.assertRaises(AssertionError):
            self.broker.start()
        self.assertEqual(self.broker.process.wait(), 1)
        self.assertRegex(self.broker.stderr(), "is damaged .*the disk is full: make")
        self.assertEqual([name for name in os.listdir(self.broker.data) if ".bad" in name or ".part" in name], [])
        self.clear()
        self.broker.start()
        self.check()
        state = self.broker.call("GET", API + "/system/status", token=self.user["token"]).data
        self.assertEqual(state["services"]["store"]["status"], "degraded")


class Sync(DiskCase):
    """A sync that fails once, and then pretends: what it should have written may be gone."""

    def take_away(self):
        """The power cut: ranges of the log that never reached the disk become what was never written."""
        ranges = []
        if os.path.exists(self.lost):
            with open(self.lost, encoding="ascii") as f:
                ranges = [tuple(map(int, line.split())) for line in f]
        path = os.path.join(self.broker.data, "postern.db-wal")
        if ranges and os.path.exists(path):
            with open(path, "r+b") as f:
                for at, size in ranges:
                    f.seek(at)
                    f.write(bytes(size))
        return len(ranges)

    def again(self):
        """Whoever supervises a broker that has ended starts it again."""
        if not self.broker.alive():
            self.broker.process.wait()
            self.broker.start()

    def test_no_acknowledgement_from_a_clean_page(self):
        self.preloaded()
        for _ in range(5):
            self.assertEqual(self.send().status, 201)
        for _ in range(3):
            self.tell(b"s")
            own = str(uuid.uuid4())
            try:
                self.assertNotEqual(self.send(own).status, 201, "acknowledged, and the sync failed")
            except (OSError, EOFError, harness.http.client.HTTPException):
                pass  # ending is an answer too
            with open(self.control, "rb") as f:
                self.assertEqual(f.read(), b"t", "the sync did not fail")

            def retried():
                self.again()
                try:
                    return self.send(own).status == 201
                except (OSError, harness.http.client.HTTPException):
                    return False

            wait_until(retried, "the retry to be accepted")
            self.assertEqual(self.send().status, 201)
            self.broker.kill()
            self.take_away()
            self.broker.start()
            self.check()

    def test_this_test_can_fail(self):
        """What an acknowledgement stood on is taken away: check() has to notice."""
        self.preloaded()
        for _ in range(5):
            self.assertEqual(self.send().status, 201)
        self.broker.kill()
        with open(os.path.join(self.broker.data, "postern.db-wal"), "rb") as f:
            used = len(f.read().rstrip(b"\0"))  # behind it is room for what comes
        frames = (used - 32 + 4119) // 4120
        with open(self.lost, "w", encoding="ascii") as f:
            f.write(f"{32 + (frames - 2) * 4120} {2 * 4120}\n")
        self.assertEqual(self.take_away(), 1)
        self.broker.start()
        with self.assertRaisesRegex(AssertionError, "lost or moved"):
            self.check()


if __name__ == "__main__":
    unittest.main()
