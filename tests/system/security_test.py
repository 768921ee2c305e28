#!/usr/bin/python3
"""Attacks that worked once, and borders that must hold: each test is a hostile local client.

docs/threat-model.md says who the attacker is.  What one protocol's own tests cover (malformed heads, frames, bodies)
is not repeated here.
"""

import base64
import glob
import hashlib
import hmac
import json
import os
import socket
import stat
import struct
import threading
import time

import zmq

import harness
from harness import (ADMIN_PASSWORD, PASSWORD, PATIENCE, Broker, EventStream, RawHttp, SystemTest, Ws, Zmq, main,
                     run_program, unique, wait_until, zmq_ask, zmq_settle)

UPGRADE = ("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n")


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def forged(key, header, claims):
    """A token signed with `key` (HMAC-SHA-256), whatever the header says."""
    text = encoded(json.dumps(header).encode()) + b"." + encoded(json.dumps(claims).encode())
    return (text + b"." + encoded(hmac.new(key, text, hashlib.sha256).digest())).decode()


class AdminListener:
    """A broker's admin address in the place of its http address."""

    def __init__(self, broker):
        self.http = broker.admin


class Attack(SystemTest):
    @classmethod
    def prepare(cls):
        cls.alice = cls.broker.user(unique("alice"))
        cls.bob = cls.broker.user(unique("bob"))

    def login(self, user, password=PASSWORD):
        reply = self.broker.call("POST", "/api/v1/auth/login", {"username": user["username"], "password": password})
        return self.assertOk(reply)

    def remove(self, conversation, user):
        self.assertOk(self.broker.call("DELETE", f"/api/v1/conversations/{conversation}/members",
                                       {"userId": user["id"]}, token=self.alice["token"]))

    def say(self, conversation, content, user=None):
        reply = self.broker.call("POST", f"/api/v1/conversations/{conversation}/messages", {"content": content},
                                 token=(user or self.alice)["token"])
        return self.assertOk(reply, 201)


class Removal(Attack):
    def test_a_removed_member_is_told_and_hears_no_more(self):
        conversation = self.broker.conversation(self.alice, self.bob)
        topic = "conversation." + conversation
        with Ws(self.broker, self.bob["token"]) as ws, EventStream(self.broker, topic, self.bob["token"]) as stream:
            ws.subscribe(topic)
            self.assertEqual(stream.event()["event"], "subscribed")
            self.remove(conversation, self.bob)
            self.assertEqual(self.assertError(ws.expect("error"), "forbidden")["details"], {"topic": topic})
            self.assertEqual(stream.event()["event"], "revoked")
            with self.assertRaises(EOFError):
                stream.event()
            self.say(conversation, "bob must not see this")
            ws.nothing_more("event")
            ws.send(type="subscribe", topic=topic)
            self.assertError(ws.expect("error"), "forbidden")
        self.assertTrue(self.broker.alive())

    def test_a_connection_does_not_change_hands(self):
        """Else bob subscribes, becomes somebody else, and neither removal nor logout finds him."""
        conversation = self.broker.conversation(self.alice, self.bob)
        with Ws(self.broker, self.bob["token"]) as ws:
            ws.subscribe("conversation." + conversation)
            ws.send(type="auth", token=self.alice["token"])
            self.assertError(ws.expect("error"), "forbidden")
            self.assertEqual(ws.request("GET", "/api/v1/users/me")["body"]["data"]["id"], self.bob["id"])
            ws.send(type="auth", token=self.bob["token"])
            ws.expect("welcome")
            self.remove(conversation, self.bob)
            self.assertError(ws.expect("error"), "forbidden")
            self.say(conversation, "not for bob")
            ws.nothing_more("event")


class Sessions(Attack):
    def test_logout_ends_whatever_lives_on_every_listener(self):
        tokens = self.login(self.alice)
        access, topic = tokens["accessToken"], "user." + self.alice["id"]
        streams = [EventStream(where, topic, access) for where in (self.broker, AdminListener(self.broker))
                   for _ in range(4)]  # on every worker, probably
        sockets = [Ws(self.broker, access) for _ in range(4)]
        for stream in streams:
            self.assertEqual(stream.event()["event"], "subscribed")
        self.assertEqual(self.broker.call("POST", "/api/v1/auth/logout", token=access).status, 200)
        for stream in streams:
            self.assertEqual(stream.event()["event"], "revoked")
            stream.close()
        for ws in sockets:
            self.assertEqual(ws.close_code()[0], 4501)
        self.assertProblem(self.broker.call("GET", "/api/v1/users/me", token=access), 401)

    def test_a_stream_ends_with_its_token(self):
        token = self.broker.token(self.alice["username"], ttl="2s")
        begin = time.monotonic()
        with EventStream(self.broker, "open.to.all", token, patience=PATIENCE * 2) as stream:
            self.assertEqual(stream.event()["event"], "subscribed")
            self.assertEqual(stream.event()["event"], "expired")
        self.assertLess(time.monotonic() - begin, 20, "and not at the first ping, after 25 s")

    def test_who_logs_out_over_a_websocket_hears_that_it_was_done(self):
        for encoding in ("json", "msgpack"):
            access = self.login(self.alice)["accessToken"]
            with Ws(self.broker, access, encoding=encoding) as ws:
                self.assertEqual(ws.request("POST", "/auth/logout")["status"], 200)
                self.assertEqual(ws.close_code()[0], 4501)

    def test_an_upgrade_that_waits_in_a_pipeline_does_not_outlive_its_session(self):
        access = self.login(self.alice)["accessToken"]
        body = json.dumps({"username": "nobody", "password": "wrong password"})
        slow = f"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" \
               f"Content-Length: {len(body)}\r\n\r\n{body}"
        with RawHttp(self.broker.http) as raw:
            raw.send((slow * 6 + UPGRADE.format(token=access)).encode())  # password hashing takes its time
            self.assertEqual(self.broker.call("POST", "/api/v1/auth/logout", token=access).status, 200)
            for _ in range(6):
                self.assertEqual(raw.reply().status, 401)
            self.assertEqual(raw.reply().status, 401)
            self.assertTrue(raw.closed())

    def change_password(self, user, password):
        path = os.path.join(self.broker.root, "new-password")
        with open(path, "w", encoding="utf-8") as f:
            f.write(password + "\n")
        done = run_program("user", "passwd", user["username"], "--password-file", path, data=self.broker.data)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_new_password_ends_what_was_issued_before(self):
        user, other = self.broker.user(unique("dave")), self.broker.user(unique("erin"))
        session = self.login(user)["accessToken"]
        old = {"of a session": session, "without one": user["token"]}
        sockets = {what: Ws(self.broker, token) for what, token in old.items()}
        stream = EventStream(self.broker, "some.topic", user["token"])
        ticket = sockets["without one"].welcome["session"]
        strangers = Ws(self.broker, other["token"])
        for ws in (*sockets.values(), strangers, stream):
            self.addCleanup(ws.close)
        self.change_password(user, "another passphrase 99")
        new = {"of a session": self.login(user, "another passphrase 99")["accessToken"],
               "without one": self.broker.token(user["username"], "1h")}
        for what in old:
            with self.subTest(what):
                wait_until(lambda: self.broker.call("GET", "/api/v1/users/me", token=old[what]).status == 401,
                           "the token to be over")
                self.assertEqual(sockets[what].close_code()[0], 4501)
                with Zmq() as zmq:
                    frame = zmq_ask(zmq.req(self.broker.zmq), {"method": "GET", "path": "/users/me",
                                                               "token": old[what]})
                self.assertEqual(frame["code"], "unauthenticated", frame)
                self.assertEqual(self.broker.call("GET", "/api/v1/users/me", token=new[what]).status, 200)
        self.assertTrue(stream.raw.closed())
        ws = Ws(self.broker, how=None)
        ws.send(type="resume", session=ticket)
        self.assertEqual(ws.close_code()[0], 4501)
        strangers.send(type="ping")
        strangers.expect("pong")
        self.broker.stop()
        self.broker.start()  # and it is not forgotten
        for what in old:
            self.assertEqual(self.broker.call("GET", "/api/v1/users/me", token=old[what]).status, 401, what)
            self.assertEqual(self.broker.call("GET", "/api/v1/users/me", token=new[what]).status, 200, what)

    def test_a_new_password_ends_the_sessions(self):
        user = self.broker.user(unique("carol"))
        tokens = self.login(user)
        self.change_password(user, "another passphrase 99")
        self.assertProblem(self.broker.call("POST", "/api/v1/auth/refresh", {"refreshToken": tokens["refreshToken"]}),
                           401, "unauthenticated")

    def test_of_two_refreshes_at_once_one_wins_and_the_family_dies(self):
        refresh = self.login(self.alice)["refreshToken"]
        replies, gate = [], threading.Barrier(2)

        def go():
            gate.wait()
            replies.append(self.broker.call("POST", "/api/v1/auth/refresh", {"refreshToken": refresh}))

        threads = [threading.Thread(target=go) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(sorted(r.status for r in replies), [200, 401])
        won = next(r for r in replies if r.status == 200).data
        wait_until(lambda: self.broker.call("GET", "/api/v1/users/me", token=won["accessToken"]).status == 401,
                   "the access token of the family to die")
        self.assertEqual(self.broker.call("POST", "/api/v1/auth/refresh",
                                          {"refreshToken": won["refreshToken"]}).status, 401)


class Tokens(Attack):
    def refused(self, token):
        self.assertProblem(self.broker.call("GET", "/api/v1/users/me", token=token), 401)
        ws = Ws(self.broker, token, how="frame", welcome=False)
        self.assertError(ws.expect("error"), "unauthenticated", "token_expired")
        self.assertEqual(ws.close_code()[0], 4501)

    def test_forged_tokens(self):
        with open(os.path.join(self.broker.data, "keys", "token.key"), encoding="ascii") as f:
            key = bytes.fromhex(f.read().strip())
        now = int(time.time())
        good = {"iss": "postern", "sub": self.bob["id"], "name": "bob", "roles": ["user"], "iat": now,
                "exp": now + 60}
        plain = {"alg": "HS256", "typ": "JWT"}
        self.assertEqual(self.broker.call("GET", "/api/v1/users/me", token=forged(key, plain, good)).status, 200,
                         "the forger knows how: the next ones fail for the reason they name")
        unsigned = (encoded(b'{"alg":"none","typ":"JWT"}') + b"." + encoded(json.dumps(good).encode()) + b".").decode()
        for why, token in {
                "unsigned": unsigned,
                "alg none": forged(key, {"alg": "none", "typ": "JWT"}, good),
                "kid": forged(key, {**plain, "kid": "../../dev/null"}, good),
                "jwk": forged(key, {**plain, "jwk": {}}, good),
                "crit": forged(key, {**plain, "crit": ["exp"]}, good),
                "another key": forged(b"\0" * 32, plain, good),
                "an empty key": forged(b"", plain, good),
                "expired": forged(key, plain, {**good, "iat": now - 90, "exp": now - 60}),
                "no expiry": forged(key, plain, {k: v for k, v in good.items() if k != "exp"}),
                "another issuer": forged(key, plain, {**good, "iss": "other"}),
                "not yet": forged(key, plain, {**good, "nbf": now + 600}),
                "no user": forged(key, plain, {**good, "sub": ""}),
                "a session that is no text": forged(key, plain, {**good, "sid": 5})}.items():
            with self.subTest(why):
                self.refused(token)

    def test_a_token_is_good_for_one_purpose(self):
        tokens = self.login(self.alice)
        self.refused(tokens["refreshToken"])
        self.assertProblem(self.broker.call("POST", "/api/v1/auth/refresh", {"refreshToken": tokens["accessToken"]}),
                           401)


class Strangers(Attack):
    """bob is not a member of alice's conversation, by any protocol."""

    @classmethod
    def prepare(cls):
        super().prepare()
        cls.conversation = cls.broker.conversation(cls.alice)
        reply = cls.broker.call("POST", f"/api/v1/conversations/{cls.conversation}/messages", {"content": "s3cret"},
                                token=cls.alice["token"])
        cls.message = reply.data["id"]

    def attempts(self):
        alices = [self.conversation, self.alice["id"]]
        for c in alices:
            yield "GET", f"/api/v1/conversations/{c}", None, 404
            yield "GET", f"/api/v1/conversations/{c}/messages", None, 404
            yield "POST", f"/api/v1/conversations/{c}/messages", {"content": "x"}, 404
            yield "POST", "/api/v1/conversations/messages", {"conversationId": c, "content": "x"}, 404
            yield "POST", f"/api/v1/conversations/{c}/members", {"members": [self.bob["id"]]}, 404
            yield "DELETE", f"/api/v1/conversations/{c}/members", {"userId": self.alice["id"]}, 404
        yield "POST", f"/api/v1/messages/{self.message}/read", None, 404
        yield "POST", f"/api/v1/topics/conversation.{self.conversation}", {"x": 1}, 403
        yield "POST", f"/api/v1/topics/user.{self.alice['id']}", {"x": 1}, 403
        yield "POST", f"/api/v1/topics/user%2e{self.alice['id']}", {"x": 1}, 403
        yield "POST", "/api/v1/topics/system.update", {"x": 1}, 403
        yield "POST", "/api/v1/topics/system", {"x": 1}, 403
        for path in ("/api/v1/admin/users", "/admin/users"):
            yield "GET", path, None, 403
            yield "POST", path, {"username": unique("evil"), "roles": ["admin"]}, 403
        yield "POST", "/api/v1/system/update", {}, 403
        for path in ("//api/v1/admin/users", "/api/v1/../admin/users", "/api/v1/%61dmin/users", "/api/v1//admin/users",
                     "/api/v1/admin/users/", "/metrics", "/livez", "/api/v1/metrics"):
            yield "GET", path, None, 404

    def test_rest(self):
        for method, path, body, status in self.attempts():
            with self.subTest(f"{method} {path}"):
                reply = self.broker.call(method, path, body, token=self.bob["token"])
                self.assertEqual(reply.status, status, reply)
                self.assertNotIn(b"s3cret", reply.body)

    def test_request_frames(self):
        with Ws(self.broker, self.bob["token"]) as ws:
            for method, path, body, status in self.attempts():
                with self.subTest(f"{method} {path}"):
                    self.assertEqual(ws.request(method, path, body)["status"], status)

    def test_zeromq(self):
        with Zmq() as z:
            req = z.req(self.broker.zmq)
            for method, path, body, status in self.attempts():
                with self.subTest(f"{method} {path}"):
                    frame = {"type": "request", "method": method, "path": path, "token": self.bob["token"]}
                    if body is not None:
                        frame["body"] = body
                    self.assertEqual(zmq_ask(req, frame)["status"], status)

    def test_topics(self):
        private = [f"conversation.{self.conversation}", f"conversation.{self.alice['id']}", f"user.{self.alice['id']}",
                   f"user.{self.alice['id']}.x", "user.*", "user.**", "conversation.*", "conversation.**"]
        with Ws(self.broker, self.bob["token"]) as ws:
            for topic in private:
                with self.subTest(topic):
                    ws.send(type="subscribe", topic=topic)
                    self.assertError(ws.expect("error"), "forbidden")
                    reply = self.broker.call("GET", f"/api/v1/topics/{topic}/events", token=self.bob["token"])
                    self.assertProblem(reply, 403, "forbidden")
            ws.subscribe("**")
            self.say(self.conversation, "not through a wildcard")
            ws.nothing_more("event")

    def test_somebody_elses_message_id(self):
        reply = self.broker.call("POST", "/api/v1/conversations/current/messages",
                                 {"id": self.message, "content": "mine"}, token=self.bob["token"])
        self.assertProblem(reply, 409, "conflict")
        for leak in (b"s3cret", self.alice["id"].encode(), self.conversation.encode()):
            self.assertNotIn(leak, reply.body)

    def test_the_id_behind_an_idempotency_key_cannot_be_computed(self):
        """It was a plain hash of user, conversation and key: whoever knew them took the id first."""
        h = hashlib.blake2b(digest_size=16)
        h.update(self.alice["id"].encode() + b"\0" + self.conversation.encode() + b"\0" + b"order-42")
        raw = bytearray(h.digest())
        raw[6], raw[8] = raw[6] & 0x0F | 0x80, raw[8] & 0x3F | 0x80
        text = raw.hex()
        guess = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
        self.assertEqual(self.broker.call("POST", "/api/v1/conversations/current/messages",
                                          {"id": guess, "content": "taken"}, token=self.bob["token"]).status, 201)
        for _ in range(2):
            reply = self.broker.call("POST", f"/api/v1/conversations/{self.conversation}/messages", {"content": "paid"},
                                     token=self.alice["token"], headers={"Idempotency-Key": "order-42"})
            self.assertOk(reply, 201)


class Exhaustion(Attack):
    def test_large_answers_that_nobody_reads_are_bounded(self):
        conversation = self.broker.conversation(self.alice)
        for _ in range(6):
            self.say(conversation, "\x01" * 65000)  # six bytes each in JSON
        request = (f"GET /api/v1/conversations/{conversation}/messages HTTP/1.1\r\nHost: x\r\n"
                   f"Authorization: Bearer {self.alice['token']}\r\n\r\n").encode()
        path = f"/api/v1/conversations/{conversation}/messages"
        one = len(self.broker.call("GET", path, token=self.alice["token"]).body)
        self.assertGreater(one, 2 << 20)
        done = "postern_request_duration_seconds_count"
        before = self.broker.metric(done, 'protocol="http"')
        with RawHttp(self.broker.http, receive_buffer=4096) as raw:
            raw.send(request * 32)
            wait_until(lambda: self.broker.metric(done, 'protocol="http"') >= before + 32, "all answers to be made")
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            replies = [raw.reply() for _ in range(32)]
        expired = {504} if harness.SLOW else set()
        self.assertLessEqual({r.status for r in replies}, {200, 503} | expired)
        self.assertIn(replies[0].status, {200, 503} if harness.SLOW else {200})
        self.assertLess(sum(len(r.body) for r in replies), 16 * one)
        for reply in replies:
            if reply.status == 503:
                self.assertProblem(reply, 503, "overloaded")

    def test_subscribe_and_unsubscribe_at_once_cost_nothing(self):
        with Ws(self.broker, self.bob["token"]) as ws:
            for _ in range(100):  # limits.ws_requests is 64
                ws.send_many([{"type": "subscribe", "topic": "a.b"}, {"type": "unsubscribe", "topics": ["a.b"]},
                              {"type": "subscribe", "topic": "a.*"}, {"type": "unsubscribe", "topics": ["a.*"]}])
                ws.expect("unsubscribed", topics=["a.*"])
            ws.subscribe("still.works")


class Files(Attack):
    env = {"POSTERN_LOG__LEVEL": "debug"}

    def test_no_secret_reaches_the_log_or_the_screen(self):
        tokens = self.login(self.alice)
        secrets = [PASSWORD, ADMIN_PASSWORD, tokens["accessToken"], tokens["refreshToken"], self.alice["token"],
                   "w0rst-password-of-all", "whisper-to-nobody"]
        b = self.broker
        self.assertEqual(b.call("POST", "/api/v1/auth/login",
                                {"username": self.alice["username"], "password": "w0rst-password-of-all"}).status, 401)
        self.say(b.conversation(self.alice), "whisper-to-nobody")
        with Ws(b, tokens["accessToken"], how="query"):
            pass
        b.call("GET", f"/api/v1/users/me?token={tokens['accessToken']}", token=tokens["accessToken"] + "x")
        b.call("POST", "/api/v1/auth/refresh", {"refreshToken": tokens["refreshToken"]})
        b.call("POST", "/api/v1/auth/refresh", {"refreshToken": tokens["refreshToken"]})
        with Zmq() as z:
            zmq_ask(z.req(b.zmq), {"type": "auth", "token": tokens["accessToken"] + "x"})
        with open(os.path.join(b.data, "keys", "token.key"), encoding="ascii") as f:
            secrets.append(f.read().strip())
        wait_until(lambda: "auth.refresh_token_reused" in b.stderr(10 ** 7), "the log to tell of the reuse")
        told = b.stderr(10 ** 7) + json.dumps(b.listen) + b"".join(b.rest_of_stdout).decode()
        for secret in secrets:
            self.assertNotIn(secret, told)

    def test_others_cannot_read_the_data_directory(self):
        os.chmod(self.broker.data, 0o755)
        try:
            found = [p for p in glob.glob(self.broker.data + "/**", recursive=True) if p.rstrip("/") != self.broker.data]
            self.assertGreater(len(found), 3)
            for path in found:
                self.assertEqual(stat.S_IMODE(os.lstat(path).st_mode) & 0o077, 0, path)
        finally:
            os.chmod(self.broker.data, 0o700)

    def test_a_directory_that_others_may_write_and_a_key_that_others_may_read_are_refused(self):
        for spoil in ("", "keys/token.key"):
            with self.subTest(spoil or "directory"):
                other = Broker()
                try:
                    other.start()
                    other.stop()
                    path = os.path.join(other.data, spoil)
                    os.chmod(path, 0o666 if spoil else 0o777)
                    done = run_program("run", "--print-listen", data=other.data, env=other.env)
                    self.assertEqual(done.returncode, 1, done)
                    self.assertIn("chmod", done.stderr)
                finally:
                    other.remove()

    def test_a_key_behind_a_symbolic_link_is_refused(self):
        other = Broker()
        try:
            other.start()
            other.stop()
            key = os.path.join(other.data, "keys", "token.key")
            os.rename(key, key + ".real")
            os.symlink(key + ".real", key)
            done = run_program("run", "--print-listen", data=other.data, env=other.env)
            self.assertEqual(done.returncode, 1, done)
        finally:
            other.remove()


class LoopbackZmq(Attack):
    """Event addresses on tcp have no file permission to protect them: only public topics come out."""

    env = {"POSTERN_LISTEN__ZMQ_EVENTS": "tcp://127.0.0.1:0"}

    def test_reserved_topics_stay_inside(self):
        conversation = self.broker.conversation(self.alice)
        with Zmq() as z:
            sub = z.sub(self.broker.zmq_events, b"")
            zmq_settle(self.broker, sub, "public.topic", self.alice["token"])
            self.say(conversation, "private")
            self.broker.call("POST", f"/api/v1/topics/user.{self.alice['id']}", {"x": 1}, token=self.alice["token"])
            self.broker.call("POST", "/api/v1/system/update", {}, token=self.broker.token())
            self.broker.call("POST", "/api/v1/topics/public.end", {"x": 1}, token=self.alice["token"])
            sub.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
            seen = set()
            while "public.end" not in seen:
                seen.add(sub.recv_multipart()[0].decode())
            self.assertLessEqual(seen, {"public.topic", "public.end"})

    def test_a_prefix_longer_than_any_topic_ends_the_connection(self):
        """libzmq stores each byte of a prefix in a node of its own; 4 KiB of them were accepted once."""
        host, _, port = self.broker.zmq_events.partition("//")[2].rpartition(":")
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"SUB"
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as s:
            s.sendall(b"\xff" + b"\0" * 8 + b"\x7f\x03\0NULL" + b"\0" * 16 + b"\0" + b"\0" * 31)
            heard = b""
            while len(heard) < 64:
                heard += s.recv(64 - len(heard))
            s.sendall(bytes((4, len(ready))) + ready)
            while b"READY" not in heard:
                heard += s.recv(4096)
            s.sendall(bytes((0, 4)) + b"\x01raw")
            s.settimeout(0.1)
            for _ in range(200):  # the subscription takes a moment: the first events may be missed
                self.broker.call("POST", "/api/v1/topics/raw.topic", {"x": 1}, token=self.alice["token"])
                try:
                    heard += s.recv(4096)
                except TimeoutError:
                    continue
                if b"raw.topic" in heard:
                    break
            self.assertIn(b"raw.topic", heard, "a short prefix works")
            s.settimeout(PATIENCE)
            s.sendall(b"\x02" + struct.pack(">Q", 1001) + b"\x01" + b"x" * 1000)
            heard = b""
            try:
                while chunk := s.recv(4096):
                    heard += chunk
            except ConnectionResetError:
                pass  # cut off without a word: what this is about
            self.assertNotIn(b"\x04PING", heard, "it lasted until the heartbeat")


if __name__ == "__main__":
    main()
