#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The database as a file: backup under load, restore, inspection, and starts on a damaged one."""

import glob
import os
import threading
import unittest

from harness import Broker, run_program, show_stderr, wait_until

API = "/api/v1"


class FileCase(unittest.TestCase):
    def broker(self, **how):
        broker = Broker(**how)
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        return broker.start()

    def send(self, broker, conversation, content):
        reply = broker.call("POST", f"{API}/conversations/{conversation}/messages",
                            {"content": content}, token=broker.token())
        self.assertEqual(reply.status, 201, reply)
        return reply.data["seq"]

    def stored(self, broker, conversation):
        messages, after = [], 0
        while True:
            path = f"{API}/conversations/{conversation}/messages?after={after}&limit=200"
            reply = broker.call("GET", path, token=broker.token())
            self.assertEqual(reply.status, 200, reply)
            if not reply.data:
                return messages
            messages += [m["content"] for m in reply.data]
            after = reply.data[-1]["seq"]

    def conversation(self, broker):
        reply = broker.call("POST", f"{API}/conversations", {"members": []}, token=broker.token())
        self.assertEqual(reply.status, 201, reply)
        return reply.data["id"]

    def store_status(self, broker):
        reply = broker.call("GET", f"{API}/system/status", token=broker.token())
        self.assertEqual(reply.status, 200, reply)
        return reply.data["services"]["store"]


class BackupTest(FileCase):
    def test_a_backup_under_load_holds_what_was_acknowledged_and_is_restored(self):
        broker = self.broker()
        conversation = self.conversation(broker)
        broker.token()
        acknowledged, stop = [], threading.Event()

        def write():
            while not stop.is_set():
                content = f"message {len(acknowledged) + 1} " + "x" * 500
                self.send(broker, conversation, content)
                acknowledged.append(content)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            wait_until(lambda: len(acknowledged) >= 50, "some messages")
            before = len(acknowledged)
            copy = os.path.join(broker.root, "copy.db")
            done = run_program("backup", copy, data=broker.data)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            during = len(acknowledged)
            wait_until(lambda: len(acknowledged) > during, "a message after the backup")
        finally:
            stop.set()
            writer.join()
        self.assertEqual(os.stat(copy).st_mode & 0o777, 0o600)
        self.assertFalse(glob.glob(copy + ".*"), "nothing is left beside the copy")
        again = run_program("backup", copy, data=broker.data)
        self.assertEqual(again.returncode, 1)
        self.assertIn("choose another name", again.stderr)

        refused = run_program("restore", copy, data=broker.data)
        self.assertEqual(refused.returncode, 1, "the broker runs")
        self.assertIn("another broker", refused.stderr)
        broker.stop()
        done = run_program("restore", copy, data=broker.data)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(len(glob.glob(os.path.join(broker.data, "postern.db.old-*"))), 1)
        self.assertEqual(run_program("check", data=broker.data).stdout, "ok\n")
        broker.start()
        kept = self.stored(broker, conversation)
        self.assertGreaterEqual(len(kept), before)
        self.assertLessEqual(len(kept), during + 1)
        self.assertEqual(kept, acknowledged[:len(kept)])
        self.assertEqual(self.send(broker, conversation, "on it goes"), len(kept) + 1)
        self.assertEqual(self.store_status(broker)["status"], "up")
        broker.stop()


class DamageTest(FileCase):
    def database(self, broker):
        return os.path.join(broker.data, "postern.db")

    def overwrite(self, path, at, data):
        with open(path, "r+b") as f:
            f.seek(at)
            f.write(data)

    def expect_salvaged(self, broker):
        bad = [name for name in glob.glob(self.database(broker) + ".bad-*")
               if not name.endswith("-wal")]
        self.assertEqual(len(bad), 1)
        self.assertIn("store.salvaged", broker.stderr())
        status = self.store_status(broker)
        self.assertEqual((status["status"], status["isHealthy"]), ("degraded", False))
        self.assertIn("rebuilt", status["message"])
        self.assertEqual(broker.metric("postern_store_salvages_total"), 1)
        return bad[0]

    def test_a_broken_first_page_costs_nothing_and_is_told(self):
        broker = self.broker()
        conversation = self.conversation(broker)
        for i in range(100):
            self.send(broker, conversation, f"message {i} " + "x" * 300)
        broker.stop()
        self.overwrite(self.database(broker), 0, b"\xff" * 100)
        broker.start()
        bad = self.expect_salvaged(broker)
        self.assertEqual(len(self.stored(broker, conversation)), 100)
        self.assertEqual(self.send(broker, conversation, "on it goes"), 101)
        os.unlink(bad)
        self.assertEqual(self.store_status(broker)["status"], "up", "somebody has seen it")
        broker.stop()

    def test_a_file_that_is_no_database_is_set_aside(self):
        broker = self.broker()
        broker.stop()
        with open(self.database(broker), "wb") as f:
            f.write(os.urandom(100000))
        broker.tokens.clear()
        broker.start()
        self.expect_salvaged(broker)
        broker.stop()

    def test_damage_that_is_met_at_work_is_salvaged_by_the_next_start(self):
        broker = self.broker()
        conversation = self.conversation(broker)
        for i in range(200):
            self.send(broker, conversation, f"message {i} " + "x" * 300)
        broker.stop()
        size = os.path.getsize(self.database(broker)) // 4096
        with open(self.database(broker), "rb") as f:
            pages = [f.read(4096) for _ in range(size)]
        leaf, n = [(i, n) for i, page in enumerate(pages) for n in range(60, 140)
                   if page[0] == 10 and f"message {n} ".encode() in page][0]
        self.overwrite(self.database(broker), leaf * 4096, b"\x77" * 4096)
        broker.start()
        path = f"{API}/conversations/{conversation}/messages?after={n}&limit=20"
        reply = broker.call("GET", path, token=broker.token())
        self.assertEqual(reply.status, 500, reply)
        self.assertEqual(self.store_status(broker)["status"], "degraded")
        self.assertEqual(self.send(broker, conversation, "still here"), 201, "the rest goes on")
        broker.stop()
        broker.start()
        self.expect_salvaged(broker)
        kept = self.stored(broker, conversation)
        self.assertGreater(len(kept), 170)
        self.assertIn("still here", kept)
        self.assertEqual(self.send(broker, conversation, "on it goes"), 202)
        broker.stop()


if __name__ == "__main__":
    unittest.main()
