#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The offline queue: what a device has missed comes when it connects, in order, until it is
acknowledged; and the life of a message, sent, delivered, read.
"""

import contextlib
import datetime
import json
import unittest

import zmq

from harness import PASSWORD, Broker, Ws, unique, wait_until


def say(broker, sender, conversation, *texts):
    """Posts messages and returns them."""
    said = []
    for text in texts:
        reply = broker.call("POST", f"/api/v1/conversations/{conversation}/messages",
                            {"content": text}, token=sender["token"])
        assert reply.status == 201, reply
        said.append(reply.data)
    return said


def connect(broker, user, device=None, encoding="json"):
    path = "/ws" if device is None else f"/ws?device={device}"
    return Ws(broker, user["token"], path=path, encoding=encoding)


def after(timestamp, seconds):
    at = datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
    at += datetime.timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def contents(ws, count):
    return [ws.expect("message")["content"] for _ in range(count)]


class QueueCase(unittest.TestCase):
    ENV = {}

    @classmethod
    def setUpClass(cls):
        cls.broker = Broker(env=cls.ENV).start()
        cls.addClassCleanup(cls.broker.remove)
        cls.addClassCleanup(cls.broker.stop)

    def setUp(self):
        self.alice, self.bob = self.broker.user(), self.broker.user()
        self.conversation = self.broker.conversation(self.alice, self.bob)

    def say(self, *texts, sender=None):
        return say(self.broker, sender or self.alice, self.conversation, *texts)

    def acked(self, ws, seq):
        """Acknowledges, and waits until the sender's history shows it."""
        ws.send(type="ack", conversationId=self.conversation, seq=seq)
        self.wait_status(seq, "delivered")

    def status_of(self, seq):
        reply = self.broker.call("GET", f"/api/v1/conversations/{self.conversation}/messages"
                                 f"?after={seq - 1}&limit=1", token=self.alice["token"])
        return reply.data[0]["status"]

    def wait_status(self, seq, status):
        wait_until(lambda: self.status_of(seq) == status, f"message {seq} being {status}")


class FeedTest(QueueCase):
    def test_backlog_then_live_in_order(self):
        for encoding in ("json", "msgpack"):
            self.setUp()
            device = unique("d")
            with connect(self.broker, self.bob, device, encoding) as bob:
                bob.fence()
            self.say(*[f"missed {i}" for i in range(30)])
            with connect(self.broker, self.bob, device, encoding) as bob:
                first = bob.expect("message")
                self.assertEqual(first["content"], "missed 0")
                self.assertEqual(first["conversationId"], self.conversation)
                self.assertEqual(first["messageType"], "text")
                self.assertEqual(first["senderId"], self.alice["id"])
                self.assertEqual(first["status"], "sent")
                self.assertEqual(contents(bob, 29), [f"missed {i}" for i in range(1, 30)])
                self.say("live")
                self.assertEqual(contents(bob, 1), ["live"])
                bob.nothing_more("message")
                bob.nothing_more("event")

    def test_what_is_acknowledged_does_not_come_again(self):
        said = self.say("one", "two", "three")
        with connect(self.broker, self.bob) as bob:
            self.assertEqual(contents(bob, 3), ["one", "two", "three"])
            self.acked(bob, said[1]["seq"])
        with connect(self.broker, self.bob) as bob:
            self.assertEqual(contents(bob, 1), ["three"])
            bob.nothing_more("message")
            self.acked(bob, said[2]["seq"])
        with connect(self.broker, self.bob) as bob:
            bob.nothing_more("message")

    def test_cursors_survive_a_restart(self):
        said = self.say("one", "two")
        with connect(self.broker, self.bob) as bob:
            contents(bob, 2)
            self.acked(bob, said[0]["seq"])
        self.broker.stop()
        self.broker.start()
        with connect(self.broker, self.bob) as bob:
            self.assertEqual(contents(bob, 1), ["two"])
            bob.nothing_more("message")

    def test_acknowledgements_on_their_way_survive_a_stop(self):
        """An acknowledgement is gathered with others for a moment; a stop in between loses none, and warns of none."""
        broker = Broker()
        self.addCleanup(broker.remove)
        self.addCleanup(broker.kill)
        broker.start()
        alice, bob = broker.user(), broker.user()
        conversation = broker.conversation(alice, bob)
        with connect(broker, bob, "d") as ws:
            ws.fence()
            said = say(broker, alice, conversation, "one", "two")
            self.assertEqual(contents(ws, 2), ["one", "two"])
            ws.send(type="ack", conversationId=conversation, seq=said[1]["seq"])
            ws.fence()
            broker.stop()
        self.assertNotIn("queue.acks_lost", broker.stderr())
        broker.start()
        with connect(broker, bob, "d") as ws:
            ws.nothing_more("message")

    def test_each_device_has_its_own_cursor(self):
        said = self.say("one", "two", "three")
        with connect(self.broker, self.bob, "phone") as phone:
            contents(phone, 3)
            self.acked(phone, said[1]["seq"])
        with connect(self.broker, self.bob, "tablet") as tablet:  # begins where the phone is
            self.assertEqual(contents(tablet, 1), ["three"])
            self.acked(tablet, said[2]["seq"])
        with connect(self.broker, self.bob, "phone") as phone:
            self.assertEqual(contents(phone, 1), ["three"])
        with connect(self.broker, self.bob, "tablet") as tablet:
            tablet.nothing_more("message")

    def test_a_device_in_the_query_counts_for_a_first_auth_frame(self):
        def phone(device=None):
            ws = Ws(self.broker, path="/ws?device=phone")
            ws.send(type="auth", token=self.bob["token"], **({"device": device} if device else {}))
            ws.welcome = ws.expect("welcome")
            return ws

        with phone() as ws:
            ws.fence()
        said = self.say("one")
        with connect(self.broker, self.bob) as nameless:
            self.assertEqual(contents(nameless, 1), ["one"])
            self.acked(nameless, said[0]["seq"])
        with phone("watch") as watch:  # a frame that names one means that
            watch.nothing_more("message")
        with phone() as ws:
            self.assertEqual(contents(ws, 1), ["one"], "acknowledged by another device only")
            ticket = ws.welcome["session"]
        with Ws(self.broker, path="/ws?device=phone") as ws:
            ws.send(type="resume", session=ticket)
            self.assertEqual(contents(ws, 1), ["one"])

    def test_own_messages_are_passed_over(self):
        self.say("hello")
        mine = self.say("mine", "mine too", sender=self.bob)
        last = self.say("again")
        with connect(self.broker, self.bob) as bob:
            self.assertEqual(contents(bob, 2), ["hello", "again"])
            self.acked(bob, last[0]["seq"])
            self.say("mine once more", sender=self.bob)
            bob.nothing_more("message")
        self.assertEqual(len(mine), 2)

    def test_window(self):
        said = self.say(*[str(i) for i in range(300)])
        with connect(self.broker, self.bob) as bob:
            self.assertEqual(contents(bob, 256), [str(i) for i in range(256)])
            bob.nothing_more("message")
            bob.send(type="ack", conversationId=self.conversation, seq=said[199]["seq"])
            self.assertEqual(contents(bob, 44), [str(i) for i in range(256, 300)])
            bob.nothing_more("message")

    def test_an_acknowledgement_of_what_does_not_exist(self):
        self.say("one")
        with connect(self.broker, self.bob) as bob:
            contents(bob, 1)
            bob.send(type="ack", conversationId=self.conversation, seq=10**15)
            bob.send(type="ack", conversationId="01ARZ3NDEKTSV4RRFFQ69G5FAV", seq=1)
            self.wait_status(1, "delivered")
            self.say("two")
            self.assertEqual(contents(bob, 1), ["two"])

    def test_joining_and_leaving_while_connected(self):
        carol = self.broker.user()
        self.say("before")
        with connect(self.broker, carol) as ws:
            ws.fence()
            members = f"/api/v1/conversations/{self.conversation}/members"
            self.assertEqual(self.broker.call("POST", members, {"userId": carol["id"]},
                                              token=self.alice["token"]).status, 200)
            self.say("after")
            self.assertEqual(contents(ws, 1), ["after"])  # what was before is history
            second = self.broker.conversation(self.alice, carol)
            say(self.broker, self.alice, second, "new")
            self.assertEqual(contents(ws, 1), ["new"])
            self.assertEqual(self.broker.call("DELETE", members, {"userId": carol["id"]},
                                              token=self.alice["token"]).status, 200)
            self.say("not for carol")
            ws.nothing_more("message")
            ws.nothing_more("error")


class TakeOverTest(QueueCase):
    def test_backlog_as_messages_then_events(self):
        topic = "conversation." + self.conversation
        self.say("one", "two")
        with Ws(self.broker, how=None) as bob:
            bob.send(type="auth", token=self.bob["token"])
            bob.send(type="subscribe", topic=topic)
            subscribed = bob.expect("subscribed")
            self.assertEqual(subscribed["offset"], 2)
            self.assertEqual(contents(bob, 2), ["one", "two"])
            self.say("three")
            event = bob.expect("event", topic=topic)
            self.assertEqual((event["offset"], event["data"]["content"]), (3, "three"))
            bob.nothing_more("message")
            bob.send(type="ack", conversationId=self.conversation, seq=3)
            self.wait_status(3, "delivered")
            bob.send(type="unsubscribe", topics=[topic])
            bob.expect("unsubscribed")
            self.say("four")
            self.assertEqual(contents(bob, 1), ["four"])

    def test_nobody_waits_for_acknowledgements_of_events(self):
        topic = "conversation." + self.conversation
        self.say(*[str(i) for i in range(300)])
        with Ws(self.broker, self.bob["token"]) as bob:
            bob.subscribe(topic)
            self.assertEqual(contents(bob, 300), [str(i) for i in range(300)])
            self.say("live")
            self.assertEqual(bob.events(topic, 1)[0]["data"]["content"], "live")

    def test_with_since_there_are_only_events(self):
        topic = "conversation." + self.conversation
        with Ws(self.broker, self.bob["token"]) as bob:
            epoch = bob.subscribe(topic)["epoch"]
        self.say("one", "two")
        with Ws(self.broker, how=None) as bob:
            bob.send(type="auth", token=self.bob["token"])
            bob.subscribe(topic, since={"epoch": epoch, "offset": 1})
            self.assertEqual(bob.events(topic, 1)[0]["data"]["content"], "two")
            # The feed may have been quicker than the subscription.
            bob.pending = [frame for frame in bob.pending if frame["type"] != "message"]
            self.say("three")
            self.assertEqual(bob.events(topic, 1)[0]["data"]["content"], "three")
            bob.nothing_more("message")


class LimitTest(QueueCase):
    ENV = {"POSTERN_QUEUE__MESSAGES": "20", "POSTERN_QUEUE__REDELIVER": "1s",
           "POSTERN_QUEUE__DELIVERIES": "2", "POSTERN_QUEUE__DEVICES": "3"}

    def letters(self):
        reply = self.broker.call("GET", "/api/v1/admin/dead-letters?limit=200",
                                 token=self.broker.token())
        self.assertEqual(reply.status, 200, reply)
        return [x for x in reply.data if x["conversationId"] == self.conversation]

    def test_overflow_drops_the_oldest_and_replay_brings_them_back(self):
        with connect(self.broker, self.bob) as bob:
            bob.fence()
        self.say(*[str(i) for i in range(30)])
        with connect(self.broker, self.bob) as bob:
            gap = bob.expect("gap")
            self.assertEqual((gap["topic"], gap["from"], gap["to"], gap["reason"]),
                             ("conversation." + self.conversation, 1, 10, "overflow"))
            self.assertEqual(contents(bob, 20), [str(i) for i in range(10, 30)])
            self.acked(bob, 30)
            letter, = self.letters()
            self.assertEqual((letter["userId"], letter["device"], letter["from"], letter["to"],
                              letter["reason"]), (self.bob["id"], "", 1, 10, "overflow"))
            admin = self.broker.token()
            path = "/api/v1/admin/dead-letters/" + letter["id"]
            self.assertEqual(self.broker.call("POST", path + "/replay",
                                              token=self.bob["token"]).status, 403)
            reply = self.broker.call("POST", path + "/replay", token=admin)
            self.assertEqual((reply.status, reply.data["id"]), (200, letter["id"]))
            self.assertNotIn("page", reply.json)
            self.assertEqual(contents(bob, 30), [str(i) for i in range(30)])
            self.assertEqual(self.broker.call("POST", path + "/replay", token=admin).status, 404)
            self.assertEqual(self.letters(), [])

    def test_limits_hold_while_everybody_is_away(self):
        with connect(self.broker, self.bob) as bob:
            bob.fence()
        self.say(*[str(i) for i in range(30)])
        letter = wait_until(lambda: [x for x in self.letters() if x["to"] == 10],
                            "the queue at its limit")[0]
        self.assertEqual((letter["userId"], letter["from"], letter["reason"]),
                         (self.bob["id"], 1, "overflow"))
        self.say(*[str(i) for i in range(30, 50)])
        wait_until(lambda: [(x["from"], x["to"]) for x in self.letters()] == [(1, 30)],
                   "one letter that grows")
        wait_until(lambda: self.broker.metric("postern_offline_queue_messages") >= 20,
                   "what waits for those who are away")
        self.assertGreaterEqual(self.broker.metric("postern_offline_queue_devices"), 1)
        with connect(self.broker, self.bob) as bob:
            gap = bob.expect("gap")
            self.assertEqual((gap["from"], gap["to"], gap["reason"]), (1, 30, "overflow"))
            self.assertEqual(contents(bob, 20), [str(i) for i in range(30, 50)])

    def test_limits_hold_for_a_device_that_does_not_acknowledge(self):
        with connect(self.broker, self.bob) as bob:
            self.say(*[str(i) for i in range(30)])
            self.assertEqual(contents(bob, 30), [str(i) for i in range(30)])
            gap = bob.expect("gap")
            self.assertEqual((gap["from"], gap["to"] >= 10), (1, True))

    def test_a_user_has_a_bounded_number_of_devices(self):
        forgotten = "postern_offline_queue_devices_forgotten_total"
        before = self.broker.metric(forgotten)
        for device in ("a", "b", "c", "d"):
            with connect(self.broker, self.bob, device) as ws:
                ws.fence()
        wait_until(lambda: self.broker.metric(forgotten) == before + 1, "the first one to go")

    def test_an_acknowledgement_counts_for_all_sockets_of_the_device(self):
        with contextlib.ExitStack() as stack:
            phones = [stack.enter_context(connect(self.broker, self.bob, "phone"))
                      for _ in range(4)]  # on every worker, probably
            watch = stack.enter_context(connect(self.broker, self.bob, "watch"))
            self.say("once")
            for ws in (*phones, watch):
                self.assertEqual(contents(ws, 1), ["once"])
            self.acked(phones[0], 1)
            self.assertEqual(contents(watch, 1), ["once"], "again, for want of its own")
            self.assertEqual(watch.expect("gap")["reason"], "max_deliveries")
            for ws in phones:
                ws.nothing_more("message")
                ws.nothing_more("gap")
        letter = wait_until(self.letters, "the watch's dead letter")
        self.assertEqual([x["device"] for x in letter], ["watch"])
        self.assertEqual(self.broker.call("DELETE", "/api/v1/admin/dead-letters/" + letter[0]["id"],
                                          token=self.broker.token()).status, 200)

    def test_what_is_never_acknowledged_becomes_a_dead_letter(self):
        self.say("poison")
        with connect(self.broker, self.bob) as bob:
            self.assertEqual(contents(bob, 2), ["poison", "poison"])
            gap = bob.expect("gap")
            self.assertEqual((gap["from"], gap["to"], gap["reason"]), (1, 1, "max_deliveries"))
            self.say("next")
            self.assertEqual(contents(bob, 1), ["next"])
        letter = wait_until(self.letters, "the dead letter")[0]
        self.assertEqual(letter["reason"], "max_deliveries")
        self.assertEqual(self.status_of(1), "sent")
        path = "/api/v1/admin/dead-letters/" + letter["id"]
        admin = self.broker.token()
        self.assertEqual(self.broker.call("DELETE", path, token=admin).json,
                         {"success": True, "data": None, "message": None})
        self.assertEqual(self.broker.call("DELETE", path, token=admin).status, 404)
        self.assertEqual(self.letters(), [])
        self.assertGreaterEqual(self.broker.metric("postern_offline_queue_redeliveries_total"), 1)
        self.assertGreaterEqual(self.broker.metric("postern_offline_queue_dead_letters_total"), 1)


class ExpiryTest(QueueCase):
    ENV = {"POSTERN_QUEUE__TTL": "1s"}

    def test_what_is_too_old_is_passed(self):
        with connect(self.broker, self.bob) as bob:
            bob.fence()
        first = self.say("old")[0]
        wait_until(lambda: self.say("young")[0]["timestamp"] >= after(first["timestamp"], 2),
                   "two seconds to pass")
        with connect(self.broker, self.bob) as bob:
            young = bob.expect("message")["seq"]
            gaps = [g for g in bob.pending if g["type"] == "gap" and g["from"] < young]
            passed = 0  # what was young when the gap was told may be old a moment later: another gap
            for gap in gaps:
                self.assertEqual((gap["from"], gap["reason"]), (passed + 1, "expired"))
                passed = gap["to"]
            self.assertEqual(young, passed + 1)
            self.assertGreaterEqual(passed, 1)


class LifeTest(QueueCase):
    def test_delivered_then_read(self):
        said = self.say("one", "two")
        with Ws(self.broker, self.alice["token"]) as alice, \
                Ws(self.broker, self.bob["token"]) as bob:
            alice.subscribe("user." + self.alice["id"])
            contents(bob, 2)
            self.assertEqual(self.status_of(1), "sent")
            bob.send(type="ack", conversationId=self.conversation, seq=2)
            data = alice.expect("event")["data"]
            self.assertEqual((data["type"], data["conversationId"], data["seq"], data["userId"]),
                             ("message.delivered", self.conversation, 2, self.bob["id"]))
            self.assertRegex(data["at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertEqual([self.status_of(1), self.status_of(2)], ["delivered", "delivered"])
            reply = self.broker.call("POST", f"/api/v1/messages/{said[0]['id']}/read",
                                     token=self.bob["token"])
            self.assertEqual((reply.status, reply.data["status"]), (200, "read"))
            data = alice.expect("event")["data"]
            self.assertEqual((data["type"], data["conversationId"], data["seq"], data["messageId"],
                              data["userId"]), ("message.read", self.conversation, 1,
                                                said[0]["id"], self.bob["id"]))
            self.assertEqual([self.status_of(1), self.status_of(2)], ["read", "delivered"])

    def test_read_by_a_request_frame(self):
        said = self.say("one")
        with Ws(self.broker, self.bob["token"]) as bob:
            answer = bob.request("POST", f"/api/v1/messages/{said[0]['id']}/read")
        self.assertEqual(answer["status"], 200)
        self.assertEqual(answer["body"]["data"]["status"], "read")
        self.assertEqual(self.status_of(1), "read")

    def test_read_over_zeromq(self):
        said = self.say("one")
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.linger = 0
            socket.rcvtimeo = 20000
            socket.connect(self.broker.zmq)
            socket.send(json.dumps({"method": "POST", "path": f"/messages/{said[0]['id']}/read",
                                    "token": self.bob["token"]}).encode())
            answer = json.loads(socket.recv())
        self.assertEqual(answer["status"], 200, answer)
        self.assertEqual(answer["body"]["data"]["status"], "read")
        self.assertEqual(self.status_of(1), "read")


class ZeroMqTest(QueueCase):
    """What a device has got over one protocol it need not get over another."""

    def setUp(self):
        super().setUp()
        context = zmq.Context()
        self.addCleanup(context.destroy, linger=0)
        self.socket = context.socket(zmq.REQ)
        self.socket.rcvtimeo = 20000
        self.socket.connect(self.broker.zmq)

    def ask(self, **frame):
        self.socket.send(json.dumps({"token": self.bob["token"], **frame}).encode())
        return json.loads(self.socket.recv())

    def ack(self, seq, **members):
        return self.ask(type="ack", conversationId=self.conversation, seq=seq, **members)

    def test_an_acknowledgement_moves_the_cursor(self):
        self.say("one", "two", "three")
        with connect(self.broker, self.bob, "phone") as bob:
            contents(bob, 3)
        self.assertEqual(self.ack(2, device="phone", id="a"), {"type": "ok", "id": "a"})
        self.wait_status(2, "delivered")
        self.assertEqual(self.status_of(3), "sent")
        with connect(self.broker, self.bob, "phone") as bob:
            self.assertEqual(contents(bob, 1), ["three"])
            bob.nothing_more("message")
        self.assertEqual(self.ack(1, device="phone")["type"], "ok")  # late: it only moves on
        with connect(self.broker, self.bob, "phone") as bob:
            self.assertEqual(contents(bob, 1), ["three"])

    def test_a_feed_that_is_open_hears_of_it(self):
        self.say(*[str(i) for i in range(300)])
        with connect(self.broker, self.bob, "phone") as bob:
            self.assertEqual(contents(bob, 256), [str(i) for i in range(256)])
            bob.nothing_more("message")
            self.assertEqual(self.ack(200, device="tablet")["type"], "ok")  # another device
            bob.nothing_more("message")
            self.assertEqual(self.ack(200, device="phone")["type"], "ok")
            self.assertEqual(contents(bob, 44), [str(i) for i in range(256, 300)])

    def test_what_does_not_exist_is_not_acknowledged(self):
        self.say("one")
        self.assertEqual(self.ack(10**15)["type"], "ok")
        self.wait_status(1, "delivered")
        self.say("two")
        with connect(self.broker, self.bob) as bob:
            self.assertEqual(contents(bob, 1), ["two"])
        other = self.broker.conversation(self.alice)
        say(self.broker, self.alice, other, "not for bob")
        self.assertEqual(self.ask(type="ack", conversationId=other, seq=1)["type"], "ok")
        reply = self.broker.call("GET", f"/api/v1/conversations/{other}/messages",
                                 token=self.alice["token"])
        self.assertEqual(reply.data[0]["status"], "sent")
        for bad in ({"seq": -1}, {"seq": 1, "device": 7}, {"seq": 1, "device": "x" * 65}):
            answer = self.ask(type="ack", conversationId=self.conversation, **bad)
            self.assertEqual(answer["code"], "validation_failed")


class ResumeTest(QueueCase):
    def test_one_round_trip_restores_everything(self):
        topic, conversation = unique("topic"), "conversation." + self.conversation
        with Ws(self.broker, self.bob["token"]) as bob:
            session = bob.welcome["session"]
            positions = {t: {"epoch": f["epoch"], "offset": f["offset"]}
                         for t, f in ((t, bob.subscribe(t)) for t in (topic, conversation))}
        self.assertEqual(self.broker.call("POST", "/api/v1/topics/" + topic, ["missed"],
                                          token=self.alice["token"]).status, 202)
        self.say("missed")
        with Ws(self.broker, how=None) as bob:
            bob.send(type="resume", session=session, positions=positions, id="r")
            welcome = bob.expect("welcome", id="r")
            self.assertTrue(welcome["resumed"])
            self.assertEqual(welcome["user"]["id"], self.bob["id"])
            for t in (topic, conversation):
                self.assertTrue(bob.expect("subscribed", id="r", topic=t)["recovered"])
            self.assertEqual(bob.events(topic, 1)[0]["data"], ["missed"])
            self.assertEqual(bob.events(conversation, 1)[0]["data"]["content"], "missed")
            self.assertEqual(bob.request("GET", "/users/me")["body"]["data"]["id"],
                             self.bob["id"])
        self.broker.stop()
        self.broker.start()
        with Ws(self.broker, how=None) as bob:
            bob.send(type="resume", session=welcome["session"])
            self.assertTrue(bob.expect("welcome")["resumed"])

    def test_refusals(self):
        with Ws(self.broker, self.bob["token"]) as bob:
            session = bob.welcome["session"]
            many = {f"t{i}": {"epoch": "e", "offset": 1} for i in range(101)}
            for members in ({}, {"session": 7}, {"session": session, "positions": [1]},
                            {"session": session, "positions": {"t": 1}},
                            {"session": session, "positions": many}):
                bob.send(type="resume", id=unique("r"), **members)
                self.assertEqual(bob.expect("error")["code"], "validation_failed")
            bob.send(type="resume", session=session)
            self.assertFalse(bob.expect("welcome")["resumed"])  # it has an identity already
        with Ws(self.broker, self.alice["token"]) as alice:
            alice.send(type="resume", session=session)
            self.assertEqual(alice.expect("error")["code"], "forbidden")
        for bad in ("x", self.bob["token"], session[:-2]):  # an access token is no ticket
            ws = Ws(self.broker, how=None)
            ws.send(type="resume", session=bad)
            self.assertEqual(ws.expect("error")["code"], "unauthenticated")
            self.assertEqual(ws.close_code()[0], 4501)
        self.assertEqual(self.broker.call("GET", "/api/v1/users/me", token=session).status, 401)

    def test_the_end_of_the_session_ends_the_ticket(self):
        login = self.broker.call("POST", "/api/v1/auth/login",
                                 {"username": self.bob["username"], "password": PASSWORD}).data
        with Ws(self.broker, login["accessToken"]) as bob:
            session = bob.welcome["session"]
        self.assertEqual(self.broker.call("POST", "/api/v1/auth/logout",
                                          token=login["accessToken"]).status, 200)
        ws = Ws(self.broker, how=None)
        ws.send(type="resume", session=session)
        self.assertEqual(ws.expect("error")["code"], "unauthenticated")
        self.assertEqual(ws.close_code()[0], 4501)


if __name__ == "__main__":
    unittest.main()
