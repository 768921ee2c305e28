#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Clients that were offline: POST /sync, GET /sync, conditions on PATCH."""

import json
import pathlib
import unittest
import urllib.parse
import uuid

from harness import Broker, RawHttp, SystemTest, Ws, Zmq, wait_until, zmq_ask

API = "/api/v1"
EARLY, LATE, LATER = (f"2026-01-01T00:00:0{second}.000Z" for second in (1, 2, 3))
FUTURE = "2999-01-01T00:00:00.000Z"


def message(conversation, content, **members):
    return {"id": str(uuid.uuid4()), "kind": "message", "conversationId": conversation,
            "content": content, "timestamp": EARLY, **members}


def preferences(value, timestamp, **members):
    return {"id": str(uuid.uuid4()), "kind": "preferences", "preferences": value,
            "timestamp": timestamp, **members}


def title(conversation, value, timestamp, **members):
    return {"id": str(uuid.uuid4()), "kind": "conversation", "conversationId": conversation,
            "title": value, "timestamp": timestamp, **members}


class Client:
    """One user, by REST, with what it knows of the broker's state: a device."""

    def __init__(self, broker, user):
        self.broker, self.user = broker, user
        self.token = None
        self.conversations, self.messages, self.reads, self.preferences = {}, {}, {}, None
        self.pages = 0

    def call(self, method, path, body=None, **how):
        return self.broker.call(method, API + path, body, token=self.user["token"], **how)

    def push(self, *items):
        reply = self.call("POST", "/sync", {"items": list(items)})
        assert reply.status == 200, reply
        results = reply.data["results"]
        assert [r["id"] for r in results] == [i.get("id") for i in items], results
        return results

    def pull(self, limit=200):
        """All pages of one round.  True: the broker made us start over."""
        reset = False
        while True:
            query = {"limit": limit, **({"since": self.token} if self.token else {})}
            reply = self.call("GET", "/sync?" + urllib.parse.urlencode(query))
            assert reply.status == 200, reply
            data = reply.data
            self.pages += 1
            if data["reset"]:
                reset = True
                self.conversations, self.messages, self.reads = {}, {}, {}
            for conversation in data["conversations"]:
                self.conversations[conversation["id"]] = conversation
            for one in data["messages"]:
                self.messages[one["conversationId"], one["seq"]] = one
            for mark in data["reads"]:
                self.reads[mark["conversationId"], mark["userId"]] = mark["seq"]
            for gone in data["removed"]:
                self.conversations.pop(gone, None)
                self.messages = {k: m for k, m in self.messages.items() if k[0] != gone}
            self.preferences = data["preferences"] or self.preferences
            self.token = data["next"]
            if not data["more"]:
                return reset

    def seen(self):
        return sorted(one["content"] for one in self.messages.values())


def outcomes(results):
    return [r["outcome"] for r in results]


class SyncTest(SystemTest):
    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user("ann")
        cls.bob = cls.broker.user("bob")

    def setUp(self):
        super().setUp()
        self.conversation = self.broker.conversation(self.ann, self.bob, title="First")

    def device(self, user):
        return Client(self.broker, user)

    def test_two_devices_that_were_offline(self):
        """The later edit wins by the client's clock; the loser hears who won; twice is once."""
        user = self.broker.user()
        own = self.broker.conversation(user)
        one, two = self.device(user), self.device(user)
        one.pull(), two.pull()
        here = [message(own, "from one"), preferences({"theme": "dark"}, LATER),
                title(own, "One", LATE)]
        there = [message(own, "from two"), preferences({"theme": "light"}, LATE),
                 title(own, "Two", LATER)]
        first = one.push(*here)
        self.assertEqual(outcomes(first), ["applied"] * 3)
        second = two.push(*there)
        self.assertEqual(outcomes(second), ["applied", "superseded", "applied"])
        self.assertEqual(second[1]["data"], {"theme": "dark"})
        self.assertEqual(second[0]["data"]["seq"], first[0]["data"]["seq"] + 1)
        for device, items, expected in ((one, here, ["duplicate"] * 3),
                                        (two, there, ["duplicate", "superseded", "duplicate"])):
            again = device.push(*items)
            self.assertEqual(outcomes(again), expected)
        one.pull(), two.pull()
        for device in (one, two):
            self.assertEqual(device.preferences["value"], {"theme": "dark"})
            self.assertEqual(device.conversations[own]["title"], "Two")
            self.assertEqual(device.seen(), ["from one", "from two"])

    def test_conflicts_are_heard(self):
        """`policy: reject` and `baseVersion`: conflict, with the record as it stands."""
        device = self.device(self.bob)
        done = device.push(title(self.conversation, "Now", LATER))[0]
        late = device.push(title(self.conversation, "Old", EARLY, policy="reject"))[0]
        self.assertEqual((late["outcome"], late["code"]), ("conflict", "conflict"))
        self.assertEqual(late["data"]["title"], "Now")
        stale = device.push(title(self.conversation, "Old", LATER,
                                  baseVersion=done["version"] - 1))[0]
        self.assertEqual((stale["outcome"], stale["version"]), ("conflict", done["version"]))
        good = device.push(title(self.conversation, "Old", EARLY, baseVersion=done["version"]))[0]
        self.assertEqual(good["outcome"], "applied")

    def test_a_clock_that_runs_ahead_wins_once(self):
        """A time in the future counts as now, and the same edit sent again does not win again."""
        user = self.broker.user()
        device = self.device(user)
        edit = preferences({"theme": "ahead"}, FUTURE)
        self.assertEqual(outcomes(device.push(edit)), ["applied"])
        self.assertOk(device.call("PATCH", "/users/me/preferences", {"theme": "later"}))
        again = device.push(edit)[0]
        self.assertEqual((again["outcome"], again["data"]["theme"]), ("duplicate", "later"))
        other = device.push({**edit, "preferences": {"theme": "other"}})[0]
        self.assertEqual((other["outcome"], other["code"]), ("rejected", "idempotency_mismatch"))

    def test_one_bad_item_spoils_no_other(self):
        """Each item has its own outcome; details name the fields."""
        device = self.device(self.ann)
        items = [message(self.conversation, "good"), message(self.conversation, ""),
                 message("01ARZ3NDEKTSV4RRFFQ69G5FAV", "nowhere"), {"id": "x"}, "text",
                 {"id": "y", "kind": "read", "messageId": str(uuid.uuid4()),
                  "conversationId": self.conversation},
                 message(self.conversation, "good too", type="system")]
        reply = device.call("POST", "/sync", {"items": items})
        results = self.assertOk(reply)["results"]
        self.assertEqual(outcomes(results), ["applied"] + ["rejected"] * 6)
        self.assertEqual([r["code"] for r in results[1:]],
                         ["validation_failed", "not_found", "validation_failed",
                          "validation_failed", "not_found", "validation_failed"])
        self.assertEqual([list(results[i]["details"]) for i in (1, 3, 6)],
                         [["content"], ["kind"], ["type"]])

    def test_lists_are_bounded(self):
        """sync.items_max: refused as a whole, with the field."""
        reply = self.device(self.ann).call("POST", "/sync", {"items": [{}] * 101})
        self.assertIn("items", self.assertProblem(reply, 422, "validation_failed")["details"])
        for body in ({}, {"items": 1}, []):
            reply = self.device(self.ann).call("POST", "/sync", body)
            self.assertProblem(reply, 422, "validation_failed")

    def test_every_protocol(self):
        """The routes are ordinary: WebSocket and ZeroMQ reach them with `request`."""
        item = message(self.conversation, "by request")
        with Ws(self.broker, self.ann["token"]) as ws:
            reply = ws.request("POST", API + "/sync", {"items": [item]})
            self.assertEqual(reply["body"]["data"]["results"][0]["outcome"], "applied")
        with Zmq() as zmq:
            req = zmq.req(self.broker.zmq)
            for encoding in ("json", "msgpack"):
                reply = zmq_ask(req, {"type": "request", "method": "POST", "path": API + "/sync",
                                      "body": {"items": [item]}, "token": self.ann["token"]},
                                encoding)
                self.assertEqual(reply["body"]["data"]["results"][0]["outcome"], "duplicate")
            reply = zmq_ask(req, {"type": "request", "method": "GET", "path": API + "/sync?limit=5",
                                  "token": self.ann["token"]})
            self.assertLessEqual({"conversations", "messages", "next"}, set(reply["body"]["data"]))

    def test_others_hear_what_was_synchronised(self):
        """Messages and titles of a list reach members as if they had been sent one by one."""
        with Ws(self.broker, self.bob["token"]) as ws:
            ws.subscribe("conversation." + self.conversation, "user." + self.bob["id"])
            self.device(self.ann).push(message(self.conversation, "one"),
                                       message(self.conversation, "two"),
                                       title(self.conversation, "New", LATER))
            events = ws.events("conversation." + self.conversation, 2)
            self.assertEqual([e["data"]["content"] for e in events], ["one", "two"])
            told = ws.events("user." + self.bob["id"], 1)
            self.assertEqual(told[0]["data"], {"type": "conversation.updated",
                                               "conversationId": self.conversation})

    def test_reads_and_removals(self):
        """Read marks come with a token; a conversation that was left is `removed`."""
        ann, bob = self.device(self.ann), self.device(self.bob)
        sent = ann.push(message(self.conversation, "read me"))[0]["data"]
        bob.pull()
        ann.pull()
        live = self.assertOk(ann.call("POST", f"/conversations/{self.conversation}/messages",
                                      {"content": "live"}), 201)
        with Ws(self.broker, self.bob["token"]) as ws:
            ws.expect("message", content="live")
            ws.send(type="ack", conversationId=self.conversation, seq=live["seq"])

            def marks():
                query = urllib.parse.urlencode({"since": ann.token})
                return self.assertOk(ann.call("GET", "/sync?" + query))["deliveries"]
            mark, = wait_until(marks, "the delivery")
        self.assertEqual((mark["conversationId"], mark["userId"], mark["seq"]),
                         (self.conversation, self.bob["id"], live["seq"]))
        self.assertIn("deliveredAt", mark)
        mark = {"id": "r1", "kind": "read", "conversationId": self.conversation,
                "messageId": sent["id"], "timestamp": LATE}
        self.assertEqual(outcomes(bob.push(mark, mark)), ["applied", "duplicate"])
        ann.pull()
        self.assertEqual(ann.reads[self.conversation, self.bob["id"]], sent["seq"])
        self.assertOk(ann.call("DELETE", f"/conversations/{self.conversation}/members",
                               {"userId": self.bob["id"]}))
        bob.pull()
        self.assertNotIn(self.conversation, bob.conversations)
        self.assertOk(ann.call("POST", f"/conversations/{self.conversation}/members",
                               {"userId": self.bob["id"]}))
        bob.pull()
        self.assertEqual(bob.seen().count("read me"), 1)

    def test_small_pages(self):
        """Pages of one bring the same as one large page."""
        user = self.broker.user()
        for i in range(5):
            own = self.broker.conversation(user, self.ann, title=f"c{i}")
            Client(self.broker, user).push(*(message(own, f"{i}.{k}") for k in range(i)))
        small, large = self.device(user), self.device(user)
        small.pull(limit=1), large.pull(limit=500)
        self.assertEqual((len(large.conversations), len(large.messages), large.pages), (5, 10, 1))
        self.assertEqual(small.conversations, large.conversations)
        self.assertEqual(small.messages, large.messages)
        self.assertGreater(small.pages, 10)
        before = small.pages
        small.pull()
        self.assertEqual(small.pages, before + 1, "nothing has changed: one page")

    def test_conditions(self):
        """ETag, If-None-Match and If-Match on the records that can be edited."""
        device = self.device(self.ann)
        for path, patch in ((f"/conversations/{self.conversation}", {"title": "Conditional"}),
                            ("/users/me", {"color": "red"})):
            target = path if path != "/users/me" else "/users/me/preferences"
            tag = device.call("GET", path).headers["ETag"]
            self.assertEqual(device.call("GET", path, headers={"If-None-Match": tag}).status, 304)
            done = device.call("PATCH", target, patch, headers={"If-Match": tag})
            self.assertOk(done)
            self.assertNotEqual(done.headers["ETag"], tag)
            lost = device.call("PATCH", target, patch, headers={"If-Match": tag})
            details = self.assertProblem(lost, 409, "conflict")["details"]
            self.assertEqual(details["current"]["id"], done.data["id"])
            self.assertEqual(device.call("GET", path, headers={"If-None-Match": tag}).status, 200)
        with Ws(self.broker, self.ann["token"]) as ws:
            reply = ws.request("PATCH", f"{API}/conversations/{self.conversation}", {"title": "x"},
                               headers={"if-match": tag})
            self.assertEqual((reply["status"], reply["body"]["code"]), (409, "conflict"))

    def test_metrics(self):
        """postern_sync_items_total counts items by outcome."""
        before = self.broker.metric("postern_sync_items_total", 'outcome="applied"')
        self.device(self.ann).push(message(self.conversation, "counted"))
        after = self.broker.metric("postern_sync_items_total", 'outcome="applied"')
        self.assertEqual(after - before, 1)


class LivesTest(unittest.TestCase):
    """Over kills and restores: a broker of its own."""

    def setUp(self):
        self.broker = Broker()
        self.addCleanup(self.broker.remove)
        self.addCleanup(self.broker.kill)
        self.broker.start()

    def test_kill_and_repeat(self):
        """A list that was cut off by SIGKILL is sent again: everything is there once, in order."""
        user = self.broker.user()
        own = self.broker.conversation(user)
        device = Client(self.broker, user)
        device.pull()
        for life in range(3):
            items = [message(own, f"{life}.{i:02}") for i in range(40)]
            items.append(title(own, f"life {life}", f"2026-02-0{life + 1}T00:00:00.000Z"))
            self.cut_off(user, items, answered=life == 1)
            results = device.push(*items)
            self.assertLessEqual(set(outcomes(results)), {"applied", "duplicate"})
            self.assertEqual(outcomes(device.push(*items)), ["duplicate"] * len(items))
            self.assertFalse(device.pull(), "the same database: the token goes on")
            contents = [m["content"] for k, m in sorted(device.messages.items()) if k[0] == own]
            expected = [f"{j}.{i:02}" for j in range(life + 1) for i in range(40)]
            self.assertEqual(contents, expected)
            self.assertEqual(device.conversations[own]["title"], f"life {life}")

    def cut_off(self, user, items, answered):
        """Sends the list, and kills the broker, with or without waiting for the answer."""
        connection = RawHttp(self.broker.http)
        body = json.dumps({"items": items}).encode()
        connection.send(f"POST {API}/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                        f"{user['token']}\r\nContent-Type: application/json\r\nContent-Length: "
                        f"{len(body)}\r\n\r\n".encode() + body)
        if answered:
            connection.head()
        self.broker.kill()
        connection.close()
        self.broker.start()

    def test_a_restored_database_starts_over(self):
        """A token that has seen more than the backup holds: `reset`, and everything again."""
        user = self.broker.user()
        own = self.broker.conversation(user)
        device, patient = Client(self.broker, user), Client(self.broker, user)
        device.push(message(own, "before"))
        patient.pull()
        self.broker.stop()
        backup = {path: path.read_bytes() for path in pathlib.Path(self.broker.data).glob("*.db*")}
        self.broker.start()
        device.push(message(own, "lost"))
        device.pull()
        self.broker.stop()
        for path in pathlib.Path(self.broker.data).glob("*.db*"):
            path.unlink()
        for path, content in backup.items():
            path.write_bytes(content)
        self.broker.start()
        device.push(message(own, "other"), message(own, "more"), message(own, "and more"))
        self.assertTrue(device.pull(), "more has happened since, but on another way")
        self.assertEqual(device.seen(), ["and more", "before", "more", "other"])
        self.assertFalse(patient.pull(), "a token from before the backup goes on")
        self.assertEqual(patient.seen(), device.seen())


if __name__ == "__main__":
    unittest.main()
