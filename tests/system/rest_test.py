#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""REST: wire.md section 2, spoken with http.client and raw sockets."""

import http.client
import json
import re
import unittest
import uuid

import msgpack

import harness
from harness import PASSWORD, PATIENCE, EventStream, RawHttp, SystemTest, exchange, unique

API = "/api/v1"
TRACEPARENT = "00-{}-00f067aa0ba902b7-01"


def ulid(number):
    """A valid ULID: 26 characters of Crockford's base 32."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    text = ""
    for _ in range(26):
        text = alphabet[number % 32] + text
        number //= 32
    return text


class RestTest(SystemTest):
    """The base of the classes below: four users, two of them in one household."""

    @classmethod
    def prepare(cls):
        household = unique("house")
        cls.ann = cls.broker.user("ann", household=household)
        cls.bob = cls.broker.user("bob", household=household)
        cls.eve = cls.broker.user("eve")

    def get(self, path, who=None, **how):
        return self.broker.call("GET", API + path, token=who and who["token"], **how)

    def post(self, path, body=None, who=None, **how):
        return self.broker.call("POST", API + path, body, token=who and who["token"], **how)

    def raw(self):
        raw = RawHttp(self.broker.http)
        self.addCleanup(raw.close)
        return raw

    def head_of(self, method, path, *lines, who=None):
        """The bytes of a request head."""
        all_lines = [f"{method} {API}{path} HTTP/1.1", "Host: localhost", *lines]
        if who:
            all_lines.append("Authorization: Bearer " + who["token"])
        return ("\r\n".join(all_lines) + "\r\n\r\n").encode()


class EnvelopeTest(RestTest):
    """The envelope, the problem and what every response carries."""

    def test_health_without_token(self):
        """GET /health: `{status}`; no detail to strangers."""
        data = self.assertOk(self.get("/health"))
        self.assertEqual(list(data), ["status"], "no detail to strangers")

    def test_health_with_token(self):
        """GET /health with a token: at least the status."""
        self.assertIn("status", self.assertOk(self.get("/health", self.ann)))

    def test_health_with_a_bad_token(self):
        """The route asks for no permission; wire.md is silent on a bad token there: 200 or 401."""
        reply = self.broker.call("GET", API + "/health", token="nonsense")
        self.assertIn(reply.status, (200, 401), reply)
        if reply.status == 200:
            self.assertEqual(list(reply.data), ["status"], "no detail to strangers")

    def test_problem_has_every_member(self):
        """Failure: problem+json with success, type, title, status, code, message, details,
        retryable, traceId.
        """
        reply = self.get("/nowhere", self.ann)
        problem = self.assertProblem(reply, 404, "not_found")
        expected = {"success", "type", "title", "status", "code", "message", "details", "retryable",
                    "traceId"}
        self.assertLessEqual(expected, set(problem))

    def test_unauthenticated(self):
        """`unauthenticated`: 401 with `WWW-Authenticate`."""
        for token in (None, "nonsense", "a.b.c", self.ann["token"][:-3] + "AAA", "x" * 5000):
            reply = self.broker.call("GET", API + "/users/me", token=token)
            self.assertProblem(reply, 401, "unauthenticated")

    def test_other_schemes_are_not_tokens(self):
        """Only Bearer is described; other schemes are 401."""
        for value in ("Basic YWRtaW46YWRtaW4=", self.ann["token"], "Bearer", "Bearer  ", ""):
            reply = self.get("/users/me", headers={"Authorization": value})
            self.assertProblem(reply, 401, "unauthenticated")

    def test_scheme_is_case_insensitive(self):
        """RFC 9110 11.1: the scheme's case does not count."""
        value = "bearer " + self.ann["token"]
        self.assertOk(self.get("/users/me", headers={"Authorization": value}))

    def test_algorithm_none_is_refused(self):
        """A token without a signature is no token."""
        parts = self.ann["token"].split(".")
        if len(parts) != 3:
            self.skipTest("the access token is not a JWT")
        unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + parts[1]
        for token in (unsigned + ".", unsigned + "." + parts[2], parts[0] + "." + parts[1] + "."):
            self.assertProblem(self.broker.call("GET", API + "/users/me", token=token), 401,
                               "unauthenticated")

    def test_expired_token(self):
        """`token_expired`: 401 with `WWW-Authenticate`.  `postern token NAME --ttl 1s`."""
        token = self.broker.token("ann", ttl="1s")

        def expired():
            reply = self.broker.call("GET", API + "/users/me", token=token)
            return reply if reply.status != 200 else None

        reply = harness.wait_until(expired, "the token's end", pause=0.1)
        self.assertProblem(reply, 401, "token_expired")

    def test_not_found(self):
        """`not_found`: 404; also outside the base path."""
        for path in ("/", "/api", API, API + "/", API + "/users", API + "/usersx/me",
                     "/api/v2/health", API + "/users/me/nothing"):
            reply = self.broker.call("GET", path, token=self.ann["token"])
            if path.rstrip("/") == "":
                # wire.md says nothing of the root: a page of its own would be fine.
                self.assertIn(reply.status, (200, 301, 302, 307, 308, 404), reply)
            else:
                self.assertProblem(reply, 404, "not_found")

    def test_method_not_allowed(self):
        """`method_not_allowed`: 405; RFC 9110 wants the Allow header."""
        for method, path, allowed in (("DELETE", "/health", "GET"), ("POST", "/users/me", "GET"),
                                      ("GET", "/auth/login", "POST"),
                                      ("PUT", "/conversations", "POST")):
            reply = self.broker.call(method, API + path, token=self.ann["token"])
            self.assertProblem(reply, 405, "method_not_allowed")
            self.assertIn(allowed, re.split(r"\s*,\s*", reply.headers["Allow"] or ""),
                          (method, path))

    def test_options(self):
        """OPTIONS says which methods a path has, to anybody; an unknown path stays unknown."""
        for path, allowed in (("/health", {"GET", "HEAD"}), ("/users/me", {"GET", "HEAD"}),
                              ("/conversations", {"GET", "HEAD", "POST"})):
            reply = self.broker.call("OPTIONS", API + path)
            self.assertEqual((reply.status, reply.body), (204, b""), reply)
            self.assertEqual(set(re.split(r"\s*,\s*", reply.headers["Allow"])),
                             allowed | {"OPTIONS"}, path)
        self.assertProblem(self.broker.call("OPTIONS", API + "/nowhere"), 404, "not_found")

    def test_payload_too_large(self):
        """`payload_too_large`: 413, said before the body was sent."""
        raw = self.raw()
        raw.send(self.head_of("POST", "/topics/big", "Content-Type: application/json",
                              "Content-Length: 10000000000", who=self.ann))
        self.assertProblem(raw.reply(), 413, "payload_too_large")

    def test_payload_too_large_chunked(self):
        """The same when the size shows only on the way."""
        raw = self.raw()
        raw.send(self.head_of("POST", "/topics/big", "Content-Type: application/json",
                              "Transfer-Encoding: chunked", who=self.ann))
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        try:
            for _ in range(1024):
                raw.send(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            reply = raw.reply()
        except EOFError:
            return  # the broker hung up while we were still sending: a reset may swallow the answer
        self.assertProblem(reply, 413, "payload_too_large")

    def test_unsupported_media_type(self):
        """`unsupported_media_type`: 415."""
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/xml",
                     "nonsense"):
            reply = self.post("/auth/login", b'{"username": "ann", "password": "x"}',
                              headers={"Content-Type": kind})
            self.assertProblem(reply, 415, "unsupported_media_type")

    def test_content_type_parameters_and_case(self):
        """Media types are case-insensitive and may have parameters."""
        for kind in ("application/json; charset=utf-8", "Application/JSON",
                     "application/json;charset=UTF-8"):
            reply = self.post("/topics/kinds", b'{"a": 1}', self.ann,
                              headers={"Content-Type": kind})
            self.assertOk(reply, 202)

    def test_validation_names_each_field(self):
        """`validation_failed` (details name each field): 422."""
        reply = self.post("/auth/login", {"username": 7})
        problem = self.assertProblem(reply, 422, "validation_failed")
        named = json.dumps(problem["details"])
        self.assertIn("username", named)
        self.assertIn("password", named)

    def test_body_must_be_an_object(self):
        """Bodies are checked against the route's schema."""
        for body in ([], b"null", b"1", b'"text"', b"true"):
            reply = self.post("/auth/login", body, headers={"Content-Type": "application/json"})
            self.assertProblem(reply, reply.status, "invalid_request", "validation_failed")
            self.assertIn(reply.status, (400, 422), reply)

    def test_missing_body(self):
        """A route that needs a body refuses its absence."""
        for headers in ({}, {"Content-Type": "application/json"}):
            reply = self.post("/auth/login", None, headers=headers)
            self.assertIn(reply.status, (400, 415, 422), reply)
            self.assertProblem(reply, reply.status)

    def test_trace_id_without_traceparent(self):
        """Every response carries `Trace-Id`: 16 bytes in hex, each its own."""
        seen = set()
        for _ in range(4):
            trace = self.get("/health").headers["Trace-Id"]
            self.assertRegex(trace, r"^[0-9a-f]{32}$")
            self.assertNotEqual(trace, "0" * 32)
            seen.add(trace)
        self.assertEqual(len(seen), 4)

    def test_traceparent_is_honoured(self):
        """`traceparent` is honoured, on success and on failure."""
        trace = uuid.uuid4().hex
        for path, status in (("/health", 200), ("/nowhere", 404)):
            reply = self.get(path, self.ann, headers={"traceparent": TRACEPARENT.format(trace)})
            self.assertEqual(reply.status, status)
            self.assertEqual(reply.headers["Trace-Id"], trace)

    def test_bad_traceparent_is_replaced(self):
        """W3C trace context: an invalid header is ignored and a new trace begins."""
        one, span = "1" * 32, "00f067aa0ba902b7"
        for value in ("", "nonsense", f"00-{'0' * 32}-{span}-01", f"ff-{one}-{span}-01",
                      f"00-{one[1:]}-{span}-01", f"00-{'G' * 32}-{span}-01",
                      f"00-{one}-{'0' * 16}-01"):
            reply = self.get("/health", headers={"traceparent": value})
            self.assertEqual(reply.status, 200, value)
            self.assertRegex(reply.headers["Trace-Id"], r"^[0-9a-f]{32}$")
            self.assertNotIn(reply.headers["Trace-Id"], ("0" * 32, "1" * 32), value)

    def test_request_timeout_bad_value(self):
        """`Request-Timeout: <seconds>` sets the deadline; what is no number of seconds is refused.
        """
        for value in ("soon", "-1", "nan", "1 2", "0x10", "1e400", ""):
            reply = self.get("/health", headers={"Request-Timeout": value})
            self.assertIn(reply.status, (400, 422), (value, reply))
            self.assertProblem(reply, reply.status, "invalid_request", "validation_failed")

    def test_request_timeout_good_value(self):
        """A sensible deadline changes nothing."""
        for value in ("5", "30", "99999999999"):  # past the limit the limit holds
            self.assertOk(self.get("/users/me", self.ann, headers={"Request-Timeout": value}))

    def test_conditional_get(self):
        """`ETag`/`If-None-Match` on GET: 304 as long as nothing has changed, in either encoding."""
        conversation = self.assertOk(self.post("/conversations", {}, self.ann), 201)["id"]
        messages = f"/conversations/{conversation}/messages"
        for path in ("/users/me", "/users/family", "/conversations", messages,
                     f"/conversations/{conversation}"):
            reply = self.get(path, self.ann)
            self.assertOk(reply)
            tag = reply.headers["ETag"]
            self.assertRegex(tag, r'^(W/)?"[^"]+"$', path)
            self.assertIn("no-cache", reply.headers["Cache-Control"])
            self.assertIn("Accept", reply.headers["Vary"])
            for headers in ({"If-None-Match": tag}, {"If-None-Match": f'"another", {tag}'},
                            {"If-None-Match": tag, "Accept": "application/msgpack"}):
                again = self.get(path, self.ann, headers=headers)
                self.assertEqual((again.status, again.body, again.headers["ETag"]),
                                 (304, b"", tag), path)
            other = self.get(path, self.ann, headers={"If-None-Match": '"another"'})
            self.assertEqual(other.status, 200, other)
        self.assertIsNone(self.get("/system/status", self.ann).headers["ETag"], "never the same")
        self.assertOk(self.post(messages, {"content": "new"}, self.ann), 201)
        stale = self.get(messages, self.ann, headers={"If-None-Match": tag})
        self.assertEqual(stale.status, 200, stale)

    def test_private_answers_are_not_cached_in_public(self):
        """`Cache-Control` on GET: what belongs to one user is never public."""
        value = self.get("/users/me", self.ann).headers["Cache-Control"] or ""
        self.assertNotIn("public", value)


class ConnectionTest(RestTest):
    """HTTP/1.1 itself: HEAD, keep-alive, pipelining, chunked, 100-continue."""

    def test_head(self):
        """HEAD is GET without the body, and the connection goes on."""
        connection = http.client.HTTPConnection(*self.broker.http, timeout=PATIENCE)
        self.addCleanup(connection.close)
        for path in ("/health", "/users/me"):
            full = exchange(connection, "GET", API + path, token=self.ann["token"])
            head = exchange(connection, "HEAD", API + path, token=self.ann["token"])
            self.assertEqual(head.status, full.status)
            self.assertEqual(head.body, b"")
            self.assertEqual(head.headers["Content-Type"], full.headers["Content-Type"])
            self.assertIn("Trace-Id", head.headers)
        raw = self.raw()
        raw.send(self.head_of("HEAD", "/health") + self.head_of("GET", "/health"))
        self.assertEqual(raw.reply("HEAD").status, 200)
        self.assertOk(raw.reply())

    def test_keep_alive(self):
        """Many requests on one connection, errors among them."""
        raw = self.raw()
        for _ in range(5):
            raw.send(self.head_of("GET", "/health"))
            self.assertOk(raw.reply())
            raw.send(self.head_of("GET", "/nowhere"))
            self.assertIn(raw.reply().status, (401, 404))
            raw.send(self.head_of("GET", "/users/me"))
            self.assertProblem(raw.reply(), 401, "unauthenticated")

    def test_connection_close(self):
        """`Connection: close` is answered and obeyed."""
        raw = self.raw()
        raw.send(self.head_of("GET", "/health", "Connection: close"))
        reply = raw.reply()
        self.assertOk(reply)
        self.assertEqual((reply.headers["Connection"] or "").lower(), "close")
        self.assertTrue(raw.closed())

    def test_http_1_0(self):
        """HTTP/1.0 is answered without chunks and closed."""
        raw = self.raw()
        raw.send(f"GET {API}/health HTTP/1.0\r\n\r\n".encode())
        reply = raw.reply()
        # wire.md is silent on HTTP/1.0: an honest refusal is as good as an answer.
        self.assertIn(reply.status, (200, 400, 426, 505), reply)
        self.assertIsNone(reply.headers["Transfer-Encoding"])
        self.assertTrue(raw.closed())

    def test_pipelining_keeps_the_order(self):
        """Answers come in the order of the requests, slow and fast ones mixed."""
        raw = self.raw()
        kinds = [("GET", "/health", self.ann), ("GET", "/users/me", self.ann),
                 ("GET", "/users/me", None), ("GET", "/conversations", self.ann),
                 ("GET", "/nowhere", self.ann)]
        traces, burst = [], b""
        for i in range(50):
            method, path, who = kinds[i % len(kinds)]
            traces.append(uuid.uuid4().hex)
            burst += self.head_of(method, path, "traceparent: " + TRACEPARENT.format(traces[-1]),
                                  who=who)
        raw.send(burst)
        for i, trace in enumerate(traces):
            reply = raw.reply()
            self.assertEqual(reply.status, (200, 200, 401, 200, 404)[i % len(kinds)], i)
            self.assertEqual(reply.headers["Trace-Id"], trace,
                             f"answer {i} belongs to another request")

    def test_pipelined_login_does_not_overtake(self):
        """A login takes a hundred milliseconds; what was asked after it waits for it."""
        raw = self.raw()
        body = json.dumps({"username": "ann", "password": PASSWORD}).encode()
        raw.send(self.head_of("POST", "/auth/login", "Content-Type: application/json",
                              f"Content-Length: {len(body)}") + body
                 + self.head_of("GET", "/health"))
        self.assertIn("accessToken", self.assertOk(raw.reply()))
        self.assertIn("status", self.assertOk(raw.reply()))

    def test_pipelined_posts_are_carried_out_in_order(self):
        """One total order per topic; a connection's own order is kept."""
        raw = self.raw()
        topic = unique("pipe")
        for i in range(30):
            body = json.dumps({"n": i}).encode()
            raw.send(self.head_of("POST", "/topics/" + topic, "Content-Type: application/json",
                                  f"Content-Length: {len(body)}", who=self.ann) + body)
        offsets = [self.assertOk(raw.reply(), 202)["offset"] for _ in range(30)]
        self.assertEqual(offsets, list(range(offsets[0], offsets[0] + 30)))

    def test_request_in_single_bytes(self):
        """TCP is a stream: a request may come byte by byte."""
        raw = self.raw()
        body = b'{"n": 1}'
        request = self.head_of("POST", "/topics/bytes", "Content-Type: application/json",
                               f"Content-Length: {len(body)}", who=self.ann) + body
        raw.socket.setsockopt(6, 1, 1)  # TCP_NODELAY
        for i in range(len(request)):
            raw.send(request[i:i + 1])
        self.assertOk(raw.reply(), 202)

    def test_chunked_body(self):
        """Chunks of any size, with extensions and trailers, are one body."""
        raw = self.raw()
        head = self.head_of("POST", "/topics/chunks", "Content-Type: application/json",
                            "Transfer-Encoding: chunked", who=self.ann)
        for body in (b'8\r\n{"n": 1}\r\n0\r\n\r\n', b'1\r\n{\r\n1\r\n"\r\n6\r\nn": 1}\r\n0\r\n\r\n',
                     b'8;name=value\r\n{"n": 1}\r\n0\r\n\r\n',
                     b'0008\r\n{"n": 1}\r\n0\r\nTrailer-X: y\r\n\r\n'):
            raw.send(head + body)
            self.assertOk(raw.reply(), 202)

    def test_expect_continue(self):
        """`Expect: 100-continue`: the body is asked for, then taken."""
        raw = self.raw()
        body = b'{"n": 1}'
        raw.send(self.head_of("POST", "/topics/expect", "Content-Type: application/json",
                              f"Content-Length: {len(body)}", "Expect: 100-continue", who=self.ann))
        status, _ = raw.head()
        self.assertEqual(status, 100)
        raw.send(body)
        self.assertOk(raw.reply(), 202)

    def test_expect_continue_for_too_much(self):
        """A body that is too large is refused before it is asked for."""
        raw = self.raw()
        raw.send(self.head_of("POST", "/topics/expect", "Content-Type: application/json",
                              "Content-Length: 10000000000", "Expect: 100-continue", who=self.ann))
        status, _ = raw.head()
        self.assertEqual(status, 413)

    def test_query_escapes(self):
        """Percent-encoding in path and query is undone."""
        topic = unique("esc")
        reply = self.broker.call("POST", f"{API}/topics/%{ord(topic[0]):02x}{topic[1:]}", {"n": 1},
                                 token=self.ann["token"])
        first = self.assertOk(reply, 202)
        second = self.assertOk(self.post("/topics/" + topic, {"n": 2}, self.ann), 202)
        self.assertEqual((second["epoch"], second["offset"]), (first["epoch"], first["offset"] + 1))


class MsgpackTest(RestTest):
    """`application/msgpack` in and out by `Content-Type` and `Accept`."""

    def test_out(self):
        """Accept: application/msgpack."""
        reply = self.get("/users/me", self.ann, headers={"Accept": "application/msgpack"})
        self.assertEqual((reply.status, reply.type), (200, "application/msgpack"))
        envelope = msgpack.unpackb(reply.body)
        self.assertIs(envelope["success"], True)
        self.assertEqual(envelope["data"]["id"], self.ann["id"])

    def test_out_by_quality(self):
        """RFC 9110 12.5.1: the better quality wins."""
        for accept, kind in (("application/msgpack;q=0.1, application/json", "application/json"),
                             ("application/json;q=0.1, application/msgpack;q=0.9",
                              "application/msgpack"), ("*/*", "application/json"),
                             ("application/*", "application/json")):
            reply = self.get("/users/me", self.ann, headers={"Accept": accept})
            self.assertEqual((reply.status, reply.type), (200, kind), accept)

    def test_in_and_json_out(self):
        """Content-Type and Accept are independent."""
        reply = self.post("/topics/packed", msgpack.packb({"n": 1}), self.ann,
                          headers={"Content-Type": "application/msgpack"})
        self.assertIn("offset", self.assertOk(reply, 202))

    def test_in_and_out(self):
        """A whole exchange without JSON: a message and the list it is in."""
        conversation = self.broker.conversation(self.ann)
        headers = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
        content = "grüße ☃ 𝄞"
        reply = self.post(f"/conversations/{conversation}/messages",
                          msgpack.packb({"content": content}), self.ann, headers=headers)
        self.assertEqual((reply.status, reply.type), (201, "application/msgpack"), reply)
        sent = msgpack.unpackb(reply.body)["data"]
        self.assertMessage(sent, content=content, conversationId=conversation, status="sent")
        listed = self.assertOk(self.get(f"/conversations/{conversation}/messages", self.ann))
        self.assertEqual([m["content"] for m in listed], [content])
        self.assertEqual(listed[0]["id"], sent["id"])

    def test_problem(self):
        """A failure is a msgpack problem too, with the same members."""
        reply = self.get("/nowhere", self.ann, headers={"Accept": "application/msgpack"})
        self.assertEqual(reply.status, 404)
        # The media type of a msgpack problem is not in wire.md.
        self.assertIn(reply.type, ("application/msgpack", "application/problem+msgpack"))
        problem = msgpack.unpackb(reply.body)
        self.assertEqual((problem["success"], problem["code"], problem["status"]),
                         (False, "not_found", 404))
        self.assertEqual(problem["traceId"], reply.headers["Trace-Id"])

    def test_broken(self):
        """What is not one msgpack value is `invalid_request`."""
        whole = msgpack.packb({"username": "ann", "password": "x"})
        for body in (whole[:-1], whole + b"\x00", b"\xc1", b"\xdd\xff\xff\xff\xff",
                     b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 100000,
                     b"\xc7\xff\x01", b"\x81\xa1\xff\x01"):
            reply = self.post("/auth/login", body, headers={"Content-Type": "application/msgpack"})
            self.assertIn(reply.status, (400, 413, 422), body[:20])
            self.assertProblem(reply, reply.status)


class AuthTest(RestTest):
    """Login, refresh, logout."""

    def login(self, name="ann", password=PASSWORD, **more):
        return self.post("/auth/login", {"username": name, "password": password, **more})

    def refresh(self, token):
        return self.post("/auth/refresh", {"refreshToken": token})

    def test_login(self):
        """`{accessToken, refreshToken, tokenType: "Bearer", expiresIn, user}`."""
        data = self.assertOk(self.login())
        self.assertEqual(data["tokenType"], "Bearer")
        self.assertGreater(data["expiresIn"], 0)
        self.assertNotEqual(data["accessToken"], data["refreshToken"])
        self.assertEqual(data["user"]["id"], self.ann["id"])
        self.assertNotIn("password", json.dumps(data["user"]))
        me = self.assertOk(self.broker.call("GET", API + "/users/me", token=data["accessToken"]))
        self.assertEqual(me["id"], self.ann["id"])

    def test_tokens_are_not_stored_by_caches(self):
        """A response with tokens must not be cached (RFC 6749 5.1)."""
        reply = self.login()
        self.assertOk(reply)
        self.assertIn("no-store", reply.headers["Cache-Control"] or "")

    def test_wrong_password_and_unknown_user_look_alike(self):
        """401, and no word on which of the two was wrong."""
        wrong = self.login(password="not this one")
        unknown = self.login(name="nobody")
        for reply in (wrong, unknown):
            self.assertProblem(reply, 401, "unauthenticated")
        self.assertEqual(wrong.json["message"], unknown.json["message"])

    def test_refresh_rotates(self):
        """A new pair; the old refresh token dies; its reuse revokes the family."""
        first = self.assertOk(self.login())
        second = self.assertOk(self.refresh(first["refreshToken"]))
        self.assertNotEqual(second["refreshToken"], first["refreshToken"])
        me = self.assertOk(self.broker.call("GET", API + "/users/me", token=second["accessToken"]))
        self.assertEqual(me["id"], self.ann["id"])
        third = self.assertOk(self.refresh(second["refreshToken"]))
        self.assertProblem(self.refresh(first["refreshToken"]), 401)
        self.assertProblem(self.refresh(third["refreshToken"]), 401)

    def test_an_access_token_is_no_refresh_token(self):
        """The two are not exchangeable."""
        pair = self.assertOk(self.login())
        reply = self.refresh(pair["accessToken"])
        self.assertIn(reply.status, (401, 422), reply)
        reply = self.broker.call("GET", API + "/users/me", token=pair["refreshToken"])
        self.assertProblem(reply, 401, "unauthenticated")

    def test_refresh_with_nonsense(self):
        """401 or a validation error, never a pair."""
        for token in ("", "nonsense", "x" * 10000):
            reply = self.refresh(token)
            self.assertIn(reply.status, (400, 401, 422), reply)
            self.assertProblem(reply, reply.status)

    def test_logout_revokes_the_session(self):
        """POST /auth/logout: revokes the session, this one only."""
        gone = self.assertOk(self.login())
        kept = self.assertOk(self.login())
        reply = self.broker.call("POST", API + "/auth/logout", token=gone["accessToken"])
        self.assertIn(reply.status, (200, 204), reply)

        def refused():
            reply = self.broker.call("GET", API + "/users/me", token=gone["accessToken"])
            return reply if reply.status != 200 else None

        self.assertProblem(harness.wait_until(refused, "the revocation to arrive"), 401,
                           "unauthenticated")
        self.assertProblem(self.refresh(gone["refreshToken"]), 401)
        self.assertOk(self.broker.call("GET", API + "/users/me", token=kept["accessToken"]))
        self.assertOk(self.refresh(kept["refreshToken"]))

    def test_logout_needs_a_token(self):
        """Permission `any`: somebody, not nobody."""
        self.assertProblem(self.post("/auth/logout"), 401, "unauthenticated")


class UsersTest(RestTest):
    """Users, preferences, household."""

    def test_me(self):
        """GET /users/me."""
        me = self.assertOk(self.get("/users/me", self.ann))
        self.assertEqual(me["id"], self.ann["id"])
        self.assertEqual(me["username"], "ann")
        self.assertNotIn("argon2", json.dumps(me))

    def preferences(self, who):
        me = self.assertOk(self.get("/users/me", who))
        return me["preferences"]

    def patch(self, body, kind="application/merge-patch+json"):
        return self.broker.call("PATCH", API + "/users/me/preferences", json.dumps(body).encode(),
                                token=self.bob["token"], headers={"Content-Type": kind})

    def test_preferences_merge_patch(self):
        """PATCH /users/me/preferences (merge patch, RFC 7396)."""
        steps = (({"a": 1, "b": {"c": "x", "d": [1, 2]}}, {"a": 1, "b": {"c": "x", "d": [1, 2]}}),
                 ({"b": {"c": None, "e": True}}, {"a": 1, "b": {"d": [1, 2], "e": True}}),
                 ({"b": {"d": [3]}}, {"a": 1, "b": {"d": [3], "e": True}}),
                 ({"a": {"deep": {"er": None, "f": 1}}},
                  {"a": {"deep": {"f": 1}}, "b": {"d": [3], "e": True}}),
                 ({}, {"a": {"deep": {"f": 1}}, "b": {"d": [3], "e": True}}),
                 ({"a": None, "b": None, "none": None}, {}))
        for patch, expected in steps:
            reply = self.patch(patch)
            self.assertIn(reply.status, (200, 204), reply)
            self.assertEqual(self.preferences(self.bob), expected, patch)

    def test_preferences_patch_as_plain_json(self):
        """JSON by default: the plain type is taken too."""
        self.assertIn(self.patch({"plain": 1}, "application/json").status, (200, 204))
        self.assertEqual(self.preferences(self.bob)["plain"], 1)
        self.patch({"plain": None}, "application/json")

    def test_preferences_must_be_an_object(self):
        """A patch that is no object would replace the document: refused."""
        for body in ([1], "text", 1, None):
            reply = self.patch(body)
            self.assertIn(reply.status, (400, 422), reply)
            self.assertProblem(reply, reply.status)

    def test_family(self):
        """GET /users/family: members of the caller's household."""
        for who in (self.ann, self.bob):
            family = self.assertOk(self.get("/users/family", who))
            names = {member["username"] for member in family}
            self.assertLessEqual(names, {"ann", "bob"})
            self.assertIn({"ann": "bob", "bob": "ann"}[who["username"]], names)
            self.assertNotIn("argon2", json.dumps(family))

    def test_family_of_nobody(self):
        """No household: nobody but oneself, and not all the others without one."""
        family = self.assertOk(self.get("/users/family", self.eve))
        self.assertLessEqual({member["username"] for member in family}, {"eve"})

    def test_family_is_a_list_with_a_page(self):
        """Lists add `page: {next, prev}`."""
        page = self.get("/users/family", self.ann).json["page"]
        self.assertLessEqual({"next", "prev"}, set(page))


class AdminTest(RestTest):
    """`/admin/users`, `/system/update`: role admin, on either listener."""

    def test_create_and_list(self):
        """What was created is listed; passwords never are."""
        name = unique("made")
        reply = self.broker.call("POST", API + "/admin/users",
                                 {"username": name, "password": PASSWORD},
                                 token=self.broker.token())
        created = self.assertOk(reply, 201)
        self.assertTrue(created["id"])
        found = None
        cursor, turns = None, 0
        while found is None and turns < 50:
            path = API + "/admin/users" + (f"?cursor={cursor}" if cursor else "")
            reply = self.broker.call("GET", path, token=self.broker.token())
            users = self.assertOk(reply)
            self.assertLessEqual({"next", "prev"}, set(reply.json["page"]))
            found = next((u for u in users if u["username"] == name), None)
            self.assertNotIn("argon2", reply.body.decode())
            cursor, turns = reply.json["page"]["next"], turns + 1
            if cursor is None:
                break
        self.assertIsNotNone(found, "the new user is not in the list")
        self.assertEqual(found["id"], created["id"])

    def test_created_with_role(self):
        """roles: the new admin is one."""
        boss = self.broker.user(roles=["admin"])
        self.assertOk(self.broker.call("GET", API + "/admin/users", token=boss["token"]))

    def test_on_the_admin_listener(self):
        """`/admin/...` (admin listener, or role admin): there with the token of an admin."""
        reply = self.broker.call("GET", API + "/admin/users", token=self.broker.token(),
                                 address=self.broker.admin)
        self.assertOk(reply)

    def test_duplicate(self):
        """`conflict`: 409."""
        reply = self.broker.call("POST", API + "/admin/users",
                                 {"username": "ann", "password": PASSWORD},
                                 token=self.broker.token())
        self.assertProblem(reply, 409, "conflict")

    def test_validation(self):
        """`validation_failed` (details name each field)."""
        for body, field in (({"password": PASSWORD}, "username"),
                            ({"username": unique()}, "password"),
                            ({"username": "", "password": PASSWORD}, "username"),
                            ({"username": ["x"], "password": PASSWORD}, "username"),
                            ({"username": unique(), "password": PASSWORD, "roles": "admin"},
                             "roles")):
            reply = self.broker.call("POST", API + "/admin/users", body, token=self.broker.token())
            problem = self.assertProblem(reply, 422, "validation_failed")
            self.assertIn(field, json.dumps(problem["details"]))

    def test_not_for_users(self):
        """`forbidden`: 403; 401 for strangers; nothing is created."""
        name = unique("never")
        for address in (self.broker.http, self.broker.admin):
            for method, body in (("GET", None), ("POST", {"username": name, "password": PASSWORD})):
                reply = self.broker.call(method, API + "/admin/users", body,
                                         token=self.ann["token"], address=address)
                self.assertProblem(reply, 403, "forbidden")
                reply = self.broker.call(method, API + "/admin/users", body, address=address)
                self.assertProblem(reply, 401, "unauthenticated")
        self.assertNotIn(name, self.broker.call("GET", API + "/admin/users",
                                                token=self.broker.token()).body.decode())

    def test_system_status(self):
        """GET /system/status: any; SystemStatus `{isHealthy, version, timestamp, services: {name:
        {...}}}`.
        """
        self.assertProblem(self.get("/system/status"), 401, "unauthenticated")
        status = self.assertOk(self.get("/system/status", self.ann))
        self.assertIs(status["isHealthy"], True)
        self.assertTrue(status["version"])
        self.assertRegex(status["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertIsInstance(status["services"], dict)
        for name, service in status["services"].items():
            self.assertLessEqual({"isHealthy", "status", "latencyMs", "message", "since"},
                                 set(service), name)
            self.assertIn(service["status"], ("up", "degraded", "down"))

    def test_system_update(self):
        """POST /system/update: admin; announces `system.update.requested`; 202."""
        self.assertProblem(self.post("/system/update"), 401, "unauthenticated")
        self.assertProblem(self.post("/system/update", {}, self.ann), 403, "forbidden")
        with harness.Ws(self.broker, self.broker.token()) as ws:
            ws.subscribe("system.update.requested")
            reply = self.broker.call("POST", API + "/system/update", {}, token=self.broker.token())
            self.assertEqual(reply.status, 202, reply)
            ws.expect("event", topic="system.update.requested")


class ConversationsTest(RestTest):
    """Conversations and their members."""

    def change(self, method, conversation, who, user):
        """POST or DELETE /conversations/{id}/members.

        wire.md does not give the body: `members` as in the creation of a conversation, else
        `userId`.
        """
        path = f"{API}/conversations/{conversation}/members"
        for body in ({"members": [user["id"]]}, {"userId": user["id"]}, {"userIds": [user["id"]]}):
            reply = self.broker.call(method, path, body, token=who["token"])
            if reply.status not in (400, 422):
                break
        return reply

    def members(self, conversation, who):
        """The ids of the members; as plain ids or as objects."""
        data = self.assertOk(self.get(f"/conversations/{conversation}", who))
        return {m if isinstance(m, str) else m.get("id") or m.get("userId")
                for m in data["members"]}

    def test_create(self):
        """POST /conversations `{title?, members: [userId]}`: the creator is a member."""
        reply = self.post("/conversations", {"title": "Küche", "members": [self.bob["id"]]},
                          self.ann)
        data = self.assertOk(reply, 201)
        self.assertEqual(data["title"], "Küche")
        for who in (self.ann, self.bob):
            seen = self.assertOk(self.get(f"/conversations/{data['id']}", who))
            self.assertEqual((seen["id"], seen["title"]), (data["id"], "Küche"))
        self.assertEqual(self.members(data["id"], self.ann), {self.ann["id"], self.bob["id"]})

    def test_create_validation(self):
        """`validation_failed` (details name each field): 422."""
        for body, field in (({"members": "ann"}, "members"), ({"members": [7]}, "members"),
                            ({"title": 7, "members": []}, "title")):
            reply = self.post("/conversations", body, self.ann)
            problem = self.assertProblem(reply, 422, "validation_failed")
            self.assertIn(field, json.dumps(problem["details"]))

    def test_create_with_unknown_member(self):
        """Nobody of that id: refused."""
        reply = self.post("/conversations", {"members": ["01ARZ3NDEKTSV4RRFFQ69G5FAV"]}, self.ann)
        self.assertIn(reply.status, (400, 404, 422), reply)
        self.assertProblem(reply, reply.status)

    def test_strangers_see_nothing(self):
        """Permission `member`: others get 403 or 404, on every route."""
        conversation = self.broker.conversation(self.ann, self.bob)
        base = f"/conversations/{conversation}"
        sent = self.assertOk(self.post(base + "/messages", {"content": "secret"}, self.ann), 201)
        replies = [self.get(base, self.eve), self.get(base + "/messages", self.eve),
                   self.post(base + "/messages", {"content": "x"}, self.eve),
                   self.post("/conversations/messages",
                             {"conversationId": conversation, "content": "x"}, self.eve),
                   self.post(f"/messages/{sent['id']}/read", {}, self.eve),
                   self.change("POST", conversation, self.eve, self.eve),
                   self.change("DELETE", conversation, self.eve, self.bob),
                   self.get(f"/topics/conversation.{conversation}/events", self.eve)]
        for i, reply in enumerate(replies):
            self.assertIn(reply.status, (403, 404), f"request {i}: {reply}")
            self.assertProblem(reply, reply.status, "forbidden", "not_found")
            self.assertNotIn(b"secret", reply.body)
        self.assertEqual(self.members(conversation, self.ann), {self.ann["id"], self.bob["id"]})
        listed = self.assertOk(self.get("/conversations", self.eve))
        self.assertNotIn(conversation, [c["id"] for c in listed])

    def test_strangers_without_token(self):
        """401 before anything is said about the conversation."""
        conversation = self.broker.conversation(self.ann)
        for reply in (self.get(f"/conversations/{conversation}"), self.get("/conversations"),
                      self.post(f"/conversations/{conversation}/messages", {"content": "x"})):
            self.assertProblem(reply, 401, "unauthenticated")

    def test_members_come_and_go(self):
        """POST, DELETE /conversations/{id}/members."""
        conversation = self.broker.conversation(self.ann)
        path = f"/conversations/{conversation}"
        self.assertIn(self.get(path, self.bob).status, (403, 404))
        self.assertIn(self.change("POST", conversation, self.ann, self.bob).status, (200, 201, 204))
        self.assertEqual(self.members(conversation, self.bob), {self.ann["id"], self.bob["id"]})
        self.assertOk(self.post(path + "/messages", {"content": "hello"}, self.bob), 201)
        self.assertIn(self.change("POST", conversation, self.ann, self.bob).status,
                      (200, 201, 204, 409))
        self.assertEqual(self.members(conversation, self.ann), {self.ann["id"], self.bob["id"]})
        self.assertIn(self.change("DELETE", conversation, self.ann, self.bob).status, (200, 204))
        self.assertEqual(self.members(conversation, self.ann), {self.ann["id"]})
        self.assertIn(self.get(path, self.bob).status, (403, 404))
        self.assertIn(self.post(path + "/messages", {"content": "again"}, self.bob).status,
                      (403, 404))

    def test_members_are_named_in_one_way(self):
        """`members`, `userId` or the query; of two nobody could say which was meant."""
        conversation = self.broker.conversation(self.ann, self.bob)
        path = f"/conversations/{conversation}/members"
        ann, bob = self.ann["id"], self.bob["id"]
        for query, body, field in (("", {"userId": ann, "members": [bob]}, "members"),
                                   ("?userId=" + ann, {"userId": bob}, "userId"),
                                   ("?userId=" + ann, {"members": [bob]}, "members"),
                                   ("?userId=", {}, "userId"), ("?userId=" + "x" * 500, {}, "userId"),
                                   ("", {"userId": 7}, "userId"), ("", {"userId": ""}, "userId"),
                                   ("", {"members": []}, "members"), ("", {}, "members")):
            for method in ("POST", "DELETE"):
                reply = self.broker.call(method, API + path + query, body, token=self.ann["token"])
                problem = self.assertProblem(reply, 422, "validation_failed")
                self.assertEqual(list(problem["details"]), [field], (method, query, body))
        self.assertEqual(self.members(conversation, self.ann), {ann, bob})
        self.assertOk(self.broker.call("DELETE", API + path, {"members": None, "userId": bob},
                                       token=self.ann["token"]))

    def test_removed_member_hears_no_more(self):
        """Membership is a permission that ends: also for the subscription that is open."""
        conversation = self.broker.conversation(self.ann, self.bob)
        topic = "conversation." + conversation
        with harness.Ws(self.broker, self.bob["token"]) as ws:
            ws.subscribe(topic)
            self.assertOk(self.post(f"/conversations/{conversation}/messages", {"content": "one"},
                                    self.ann), 201)
            event = ws.expect("event", topic=topic)
            self.assertEqual(harness.message_of(event)["content"], "one")
            self.assertIn(self.change("DELETE", conversation, self.ann, self.bob).status,
                          (200, 204))
            self.assertOk(self.post(f"/conversations/{conversation}/messages", {"content": "two"},
                                    self.ann), 201)
            try:
                ws.nothing_more("event", topic=topic)
            except AssertionError as failure:
                if "no frame pong" not in str(failure):
                    raise  # else the connection was closed, which is an answer as well

    def test_unknown_conversation(self):
        """`not_found`: 404 (or 403, for it is not ours)."""
        for name in ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "nonsense", "%00", "x" * 300):
            reply = self.get(f"/conversations/{name}", self.ann)
            self.assertIn(reply.status, (400, 403, 404, 422), reply)
            self.assertProblem(reply, reply.status)

    def test_current(self):
        """`{id}` may be `current`: the caller's default conversation, one per user."""
        mine = self.assertOk(self.get("/conversations/current", self.ann))
        self.assertEqual(self.assertOk(self.get("/conversations/current", self.ann))["id"],
                         mine["id"])
        theirs = self.assertOk(self.get("/conversations/current", self.bob))
        self.assertNotEqual(mine["id"], theirs["id"])
        sent = self.assertOk(self.post("/conversations/current/messages", {"content": "to myself"},
                                       self.ann), 201)
        self.assertEqual(sent["conversationId"], mine["id"])
        listed = self.assertOk(self.get(f"/conversations/{mine['id']}/messages", self.ann))
        self.assertEqual(listed[-1]["id"], sent["id"])
        self.assertIn(self.get(f"/conversations/{mine['id']}", self.bob).status, (403, 404))

    def test_list_and_paging(self):
        """GET /conversations: mine; `page: {next, prev}`; the cursor is opaque and leads on."""
        who = self.broker.user()
        made = {self.broker.conversation(who, title=f"c{i}") for i in range(7)}
        reply = self.get("/conversations", who)
        listed = [c["id"] for c in self.assertOk(reply)]
        self.assertLessEqual({"next", "prev"}, set(reply.json["page"]))
        if reply.json["page"]["next"] is None:
            self.assertLessEqual(made, set(listed))
            self.assertLessEqual(len(set(listed) - made), 1,
                                 "the default conversation may be there, no other")
        self.assertEqual(len(listed), len(set(listed)))
        # The name of the cursor's parameter is not in wire.md: `cursor`, or `after` as for
        # messages.
        for name in ("cursor", "after"):
            seen, cursor = [], None
            for _ in range(12):
                query = "?limit=3" + (f"&{name}={cursor}" if cursor is not None else "")
                reply = self.get("/conversations" + query, who)
                if reply.status != 200:
                    break
                seen += [c["id"] for c in reply.data]
                cursor = reply.json["page"]["next"]
                if cursor is None:
                    break
            if cursor is None and len(seen) == len(set(seen)):
                break
        self.assertEqual(len(seen), len(set(seen)), "a page repeats what was listed before")
        self.assertLessEqual(made, set(seen))


    def test_a_query_that_cannot_be_read(self):
        """A parameter that is malformed, or longer than any good one, is not one that is absent."""
        for path in ("/conversations?limit=%zz", "/conversations?limit=" + "1" * 2000,
                     "/sync?since=%zz", "/sync?since=" + "x" * 4000):
            self.assertProblem(self.get(path, self.ann), 422, "validation_failed")
        self.assertProblem(self.get("/topics/x/events?lastEventId=" + "x" * 4000, self.ann), 400,
                           "invalid_request")


class MessagesTest(RestTest):
    """Messages."""

    def setUp(self):
        super().setUp()
        self.conversation = self.broker.conversation(self.ann, self.bob)
        self.path = f"/conversations/{self.conversation}/messages"

    def send(self, content="x", who=None, **members):
        return self.assertOk(self.post(self.path, {"content": content, **members}, who or self.ann),
                             201)

    def listed(self, query="", who=None):
        reply = self.get(self.path + query, who or self.ann)
        messages = self.assertOk(reply)
        self.assertLessEqual({"next", "prev"}, set(reply.json["page"]))
        return messages

    def test_send(self):
        """Message -> 201 with `status: "sent"`, `seq`."""
        sent = self.send("hello ☃", metadata={"k": [1, 2.5, None, True, {"x": "y"}]})
        self.assertMessage(sent, content="hello ☃", type="text", status="sent",
                           senderId=self.ann["id"], conversationId=self.conversation,
                           metadata={"k": [1, 2.5, None, True, {"x": "y"}]})
        listed = self.listed(who=self.bob)
        self.assertEqual(len(listed), 1)
        self.assertMessage(listed[0], id=sent["id"], seq=sent["seq"], content="hello ☃",
                           senderId=self.ann["id"], metadata=sent["metadata"],
                           timestamp=sent["timestamp"])

    def test_both_routes(self):
        """POST /conversations/messages and POST /conversations/{id}/messages are one stream."""
        first = self.send("one")
        reply = self.post("/conversations/messages",
                          {"conversationId": self.conversation, "content": "two"}, self.bob)
        second = self.assertOk(reply, 201)
        self.assertMessage(second, seq=first["seq"] + 1, conversationId=self.conversation,
                           senderId=self.bob["id"])

    def test_types(self):
        """type: text|image|audio|file|system."""
        for kind in ("text", "image", "audio", "file"):
            self.assertEqual(self.send(type=kind)["type"], kind)
        reply = self.post(self.path, {"content": "x", "type": "system"}, self.ann)
        self.assertIn(reply.status, (201, 403, 422), "a user's `system` message may be refused")

    def test_a_conversation_that_is_no_id(self):
        """A `conversationId` that cannot be one is named, like any bad field, and means no default."""
        for value in (5, "", [], {}, False):
            reply = self.post("/conversations/messages", {"content": "x", "conversationId": value},
                              self.ann)
            self.assertProblem(reply, 422, "validation_failed")
            self.assertIn("conversationId", reply.json["details"], value)
        self.assertOk(self.post("/conversations/messages",
                                {"content": "x", "conversationId": None}, self.ann), 201)

    def test_the_client_cannot_choose(self):
        """senderId, seq and status are the broker's: ignored or refused, never believed.

        wire.md does not say whose clock `timestamp` is: only the form of a client's own is left to
        the broker.
        """
        body = {"content": "x", "senderId": self.bob["id"], "seq": 4711, "status": "read"}
        reply = self.post(self.path, body, self.ann)
        if reply.status == 422:
            return
        sent = self.assertOk(reply, 201)
        self.assertEqual((sent["senderId"], sent["status"]), (self.ann["id"], "sent"))
        self.assertNotEqual(sent["seq"], 4711)
        reply = self.post(self.path, {"content": "x", "timestamp": "yesterday"}, self.ann)
        self.assertIn(reply.status, (201, 422), reply)
        self.assertNotIn(b"yesterday", b"" if reply.status == 422 else reply.body)

    def test_own_id_twice(self):
        """A client may bring its own `id` (ULID or UUID); sending it twice is safe."""
        for own in (ulid(uuid.uuid4().int >> 4), str(uuid.uuid4())):
            body = {"id": own, "content": "once"}
            first = self.assertOk(self.post(self.path, body, self.ann), 201)
            self.assertEqual(first["id"], own)
            reply = self.post(self.path, body, self.ann)
            self.assertIn(reply.status, (200, 201), reply)
            for member in ("id", "seq", "content", "timestamp", "senderId"):
                self.assertEqual(reply.data[member], first[member], member)
        self.assertEqual(len(self.listed()), 2)

    def test_own_id_twice_at_once(self):
        """The same on one pipelined burst: one message, one seq."""
        body = json.dumps({"id": str(uuid.uuid4()), "content": "once"}).encode()
        raw = self.raw()
        raw.send((self.head_of("POST", self.path, "Content-Type: application/json",
                               f"Content-Length: {len(body)}", who=self.ann) + body) * 10)
        replies = [raw.reply() for _ in range(10)]
        self.assertEqual({reply.status for reply in replies} - {200, 201}, set())
        self.assertEqual(len({reply.data["seq"] for reply in replies}), 1)
        self.assertEqual(len(self.listed()), 1)

    def test_own_id_of_another(self):
        """An id that is taken does not let one read or replace the message of a conversation of
        others.
        """
        other = self.broker.conversation(self.eve)
        own = str(uuid.uuid4())
        self.send("private", id=own)
        reply = self.post(f"/conversations/{other}/messages", {"id": own, "content": "mine"},
                          self.eve)
        self.assertNotIn(b"private", reply.body)
        self.assertEqual([m["content"] for m in self.listed()], ["private"])

    def test_bad_ids(self):
        """An id is a ULID or a UUID."""
        for own in ("", "x", "x" * 300, 7, "../../etc/passwd", "a b"):
            problem = self.assertProblem(self.post(self.path, {"id": own, "content": "x"},
                                                   self.ann), 422, "validation_failed")
            self.assertIn("id", json.dumps(problem["details"]))

    def test_seq_is_contiguous(self):
        """Ordered by `seq`, one total order per conversation without holes."""
        raw = self.raw()
        for i in range(60):
            body = json.dumps({"content": f"m{i}"}).encode()
            raw.send(self.head_of("POST", self.path, "Content-Type: application/json",
                                  f"Content-Length: {len(body)}", who=(self.ann, self.bob)[i % 2])
                     + body)
        sent = [self.assertOk(raw.reply(), 201) for _ in range(60)]
        self.assertEqual([m["content"] for m in sorted(sent, key=lambda m: m["seq"])],
                         [f"m{i}" for i in range(60)])
        first = min(m["seq"] for m in sent)
        self.assertEqual({m["seq"] for m in sent}, set(range(first, first + 60)))

    def test_after_before_limit(self):
        """GET .../messages?after=&before=&limit=."""
        seqs = [self.send(f"m{i}")["seq"] for i in range(12)]
        first = seqs[0]

        def got(query):
            return [m["seq"] for m in self.listed(query)]

        self.assertEqual(got(""), seqs)
        self.assertEqual(got(f"?after={first + 2}"), seqs[3:])
        self.assertEqual(got(f"?after={first + 2}&limit=4"), seqs[3:7])
        self.assertEqual(got(f"?before={first + 5}"), seqs[:5])
        self.assertEqual(got(f"?before={first + 9}&limit=3"), seqs[6:9],
                         "the last ones before, ordered by seq")
        self.assertEqual(got(f"?after={first + 2}&before={first + 6}"), seqs[3:6])
        self.assertEqual(got(f"?after={seqs[-1]}"), [])
        self.assertEqual(got(f"?before={first}"), [])
        self.assertEqual(len(got("?limit=1")), 1)
        # Without a cursor it may be the first or the last messages that are given; more lie ahead
        # or behind, and `page` says so.
        page = self.get(self.path + "?limit=5", self.ann).json["page"]
        self.assertTrue(page["next"] or page["prev"])
        page = self.get(self.path + f"?after={first - 1}&limit=5", self.ann).json["page"]
        self.assertIsNotNone(page["next"])
        page = self.get(self.path + "?limit=50", self.ann).json["page"]
        self.assertEqual((page["next"], page["prev"]), (None, None))
        self.assertEqual(got("?after=4000000000"), [])

    def test_walk_by_after(self):
        """Every message once, in order, when a client walks with its last seq."""
        seqs = [self.send(f"m{i}")["seq"] for i in range(11)]
        seen, after = [], seqs[0] - 1
        while True:
            page = [m["seq"] for m in self.listed(f"?after={after}&limit=4")]
            if not page:
                break
            seen += page
            after = page[-1]
        self.assertEqual(seen, seqs)

    def test_bad_queries(self):
        """What is no number is refused; a limit beyond the maximum is refused or capped."""
        for query in ("?after=x", "?before=-1", "?limit=0", "?limit=-3", "?limit=x", "?after=1e3",
                      "?after=99999999999999999999999"):
            reply = self.get(self.path + query, self.ann)
            self.assertIn(reply.status, (400, 422), (query, reply))
            self.assertProblem(reply, reply.status, "invalid_request", "validation_failed")
        reply = self.get(self.path + "?limit=1000000", self.ann)
        self.assertIn(reply.status, (200, 400, 422), reply)

    def test_validation(self):
        """`validation_failed` (details name each field)."""
        for body, field in (({}, "content"), ({"content": "x", "type": "video"}, "type"),
                            ({"content": "x", "type": 1}, "type"), ({"content": None}, "content"),
                            ({"content": "x", "metadata": "text"}, "metadata")):
            problem = self.assertProblem(self.post(self.path, body, self.ann), 422,
                                         "validation_failed")
            self.assertIn(field, json.dumps(problem["details"]), body)
        self.assertEqual(self.listed(), [])

    def test_nul_is_refused(self):
        """Strings must be UTF-8 without NUL."""
        for body in ({"content": "a\0b"}, {"content": "x", "metadata": {"k": "\0"}},
                     {"content": "x", "metadata": {"\0": 1}}):
            reply = self.post(self.path, body, self.ann)
            self.assertIn(reply.status, (400, 422), reply)
            self.assertProblem(reply, reply.status, "invalid_request", "validation_failed")
        self.assertEqual(self.listed(), [])

    def test_read(self):
        """POST /messages/{id}/read: by a member; a status between `sent` and `read` is what is seen
        then.
        """
        sent = self.send("read me")
        reply = self.post(f"/messages/{sent['id']}/read", {}, self.bob)
        self.assertIn(reply.status, (200, 201, 202, 204), reply)
        reply = self.broker.call("POST", f"{API}/messages/{sent['id']}/read",
                                 token=self.bob["token"])
        self.assertIn(reply.status, (200, 201, 202, 204), "without a body, and twice")
        self.assertEqual(self.listed()[0]["status"], "read")

    def test_read_unknown(self):
        """`not_found`: 404."""
        for name in (str(uuid.uuid4()), ulid(uuid.uuid4().int >> 4)):
            self.assertProblem(self.post(f"/messages/{name}/read", {}, self.bob), 404, "not_found")
        reply = self.post("/messages/nonsense/read", {}, self.bob)
        self.assertIn(reply.status, (400, 404, 422), reply)


class TopicsTest(RestTest):
    """Publishing, and events by SSE."""

    def publish(self, topic, data, who=None):
        return self.assertOk(self.post("/topics/" + topic, data, who or self.ann), 202)

    def stream(self, topic, who=None, **how):
        stream = EventStream(self.broker, topic, (who or self.ann)["token"], **how)
        self.addCleanup(stream.close)
        self.assertEqual(stream.status, 200)
        self.assertEqual(stream.headers["Content-Type"].split(";")[0], "text/event-stream")
        return stream

    def test_publish(self):
        """202 `{epoch, offset, subscribers}`; offsets count by one within an epoch."""
        topic = unique("pub")
        first = self.publish(topic, {"n": 1})
        second = self.publish(topic, {"n": 2})
        self.assertEqual(second["epoch"], first["epoch"])
        self.assertEqual(second["offset"], first["offset"] + 1)
        self.assertEqual(first["subscribers"], 0)

    def test_publish_counts_subscribers(self):
        """`subscribers`: those who are there."""
        topic = unique("pub")
        with harness.Ws(self.broker, self.ann["token"]) as ws:
            ws.subscribe(topic)
            # Numbers of other workers may be a moment old; wire.md promises no instant.
            harness.wait_until(lambda: self.publish(topic, {"n": 1})["subscribers"] == 1,
                               "one subscriber")

    def test_publish_anything(self):
        """The body is the payload: any JSON value."""
        topic = unique("any")
        with harness.Ws(self.broker, self.ann["token"]) as ws:
            ws.subscribe(topic)
            for value in ({}, {"a": [1, -2, 2.5, None, True, "ü☃𝄞", {"b": {}}]}, [1, 2],
                          {"big": 2**53 - 1}, {"n": -9007199254740991}, {"s": "x" * 5000},
                          {"q": "\"\\\b\f\n\r\t\u001f\u007f/"}):
                reply = self.post("/topics/" + topic, json.dumps(value).encode(), self.ann,
                                  headers={"Content-Type": "application/json"})
                self.assertOk(reply, 202)
                self.assertEqual(ws.expect("event", topic=topic)["data"], value)

    def test_topic_names(self):
        """Dot-separated segments, 1 to 255 bytes."""
        for topic in ("a", "a.b", "a-b_c.1", "x" * 255, ".".join(["s"] * 100), "home%2Fdoor"):
            self.assertIn("offset", self.publish(topic, {"n": 1}))
        for topic in (".", ".a", "a.", "a..b", "x" * 256, "a.*", "**", "a.**", "a%00b", "a%ffb",
                      "a%20b%0a"):
            reply = self.post("/topics/" + topic, {"n": 1}, self.ann)
            self.assertIn(reply.status, (400, 404, 422), (topic, reply))
            self.assertProblem(reply, reply.status)

    def test_reserved_topics(self):
        """Reserved: `conversation.<id>`, `user.<id>`, `system.**`."""
        conversation = self.broker.conversation(self.ann)
        for topic in ("conversation." + conversation, "user." + self.ann["id"],
                      "system.update.requested", "system.x.y.z", "user.someone"):
            reply = self.post("/topics/" + topic, {"n": 1}, self.ann)
            self.assertIn(reply.status, (400, 403, 422), (topic, reply))
            self.assertProblem(reply, reply.status)

    def test_needs_a_token(self):
        """Permission: publish on topic, subscribe on topic."""
        self.assertProblem(self.post("/topics/x", {}), 401, "unauthenticated")
        self.assertProblem(self.get("/topics/x/events"), 401, "unauthenticated")

    def settle(self, stream, topic):
        """Publishes until the stream shows it; returns the id of the last event so far."""
        return harness.sse_settle(stream, lambda n: self.publish(topic, {"probe": n}),
                                  lambda payload: payload.get("probe"))

    def test_stream(self):
        """GET /topics/{topic}/events: SSE, in order, each once."""
        topic = unique("sse")
        stream = self.stream(topic)
        self.settle(stream, topic)
        for i in range(20):
            self.publish(topic, {"n": i, "text": "line\nline\r\nline ☃"})
        got = [stream.published() for _ in range(20)]
        self.assertEqual([payload["n"] for _, payload, _ in got], list(range(20)))
        self.assertEqual(got[0][1]["text"], "line\nline\r\nline ☃")
        ids = [event_id for event_id, _, _ in got]
        self.assertEqual(len(set(ids)), 20, "every event has an id of its own")

    def test_stream_is_not_stored(self):
        """An event stream must not come from a cache."""
        stream = self.stream(unique("sse"))
        self.assertRegex(stream.headers["Cache-Control"] or "", r"no-(cache|store)")

    def test_resume(self):
        """`Last-Event-ID` resumes: all that came after it, once, in order."""
        topic = unique("sse")
        first = self.stream(topic)
        self.settle(first, topic)
        for i in range(3):
            self.publish(topic, {"n": i})
        ids = [first.published()[0] for _ in range(3)]
        first.close()
        for i in range(3, 6):
            self.publish(topic, {"n": i})
        second = self.stream(topic, last_event_id=ids[1])
        got = [second.published() for _ in range(4)]
        self.assertEqual([payload["n"] for _, payload, _ in got], [2, 3, 4, 5])
        self.assertEqual(got[0][0], ids[2], "an event keeps its id")
        self.publish(topic, {"n": 6})
        self.assertEqual(second.published()[1]["n"], 6, "and then goes on live")

    def test_resume_with_nonsense(self):
        """An id that is not ours: refused, or a stream from now on that does not pretend to be
        complete.
        """
        topic = unique("sse")
        for value in ("nonsense", "0", "-1", "999999:999999", "x" * 2000):
            stream = EventStream(self.broker, topic, self.ann["token"], last_event_id=value)
            self.addCleanup(stream.close)
            self.assertIn(stream.status, (200, 400, 422), value)

    def test_resume_in_a_conversation(self):
        """Live delivery and history use the same cursor; a conversation keeps its history."""
        conversation = self.broker.conversation(self.ann, self.bob)
        topic = "conversation." + conversation

        def say(content):
            return self.assertOk(self.post(f"/conversations/{conversation}/messages",
                                           {"content": content}, self.ann), 201)

        first = self.stream(topic, self.bob)
        harness.sse_settle(first, lambda n: say(f"probe {n}"),
                           lambda payload: int(payload["content"].split()[1]))
        say("one")
        last, payload, _ = first.published()
        self.assertEqual(payload["content"], "one")
        first.close()
        say("two")
        say("three")
        second = self.stream(topic, self.bob, last_event_id=last)
        self.assertEqual([second.published()[1]["content"] for _ in range(2)], ["two", "three"])

    def test_stream_of_a_wildcard(self):
        """Subscriptions may use `*` and `**`; wire.md does not say it for SSE: events come, or a
        refusal.
        """
        prefix = unique("wild")
        stream = EventStream(self.broker, prefix + ".*", self.ann["token"])
        self.addCleanup(stream.close)
        if stream.status != 200:
            self.assertIn(stream.status, (400, 403, 404, 422))
            return
        harness.sse_settle(stream, lambda n: self.publish(prefix + ".x", {"probe": n}),
                           lambda payload: payload.get("probe"))

    def test_streams_leave_no_trace(self):
        """A stream that the client leaves is forgotten: `postern_subscriptions` goes back."""
        def wait_for(count):
            harness.wait_until(lambda: self.broker.metric("postern_subscriptions") == count,
                               f"{count} subscriptions")

        wait_for(0)
        topic = unique("sse")
        streams = [self.stream(topic) for _ in range(5)]
        wait_for(5)
        for stream in streams:
            stream.close()
        wait_for(0)


if __name__ == "__main__":
    unittest.main()
