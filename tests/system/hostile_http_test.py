#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Hostile HTTP: wire.md 2, "strings must be UTF-8 without NUL", and what RFC 9112 says of request
smuggling.

Whatever is sent, the broker answers with a client error or hangs up, never with 2xx or 5xx, never
twice for one request, and goes on serving others.
"""

import json
import select
import socket
import time
import unittest

from harness import PATIENCE, RawHttp, SystemTest, Ws, unique, wait_until

API = "/api/v1"
LAST = "Host: x\r\nConnection: close\r\n"


class HostileTest(SystemTest):
    """One user; the time for headers is short."""

    env = {"POSTERN_LIMITS__HEADERS_TIMEOUT": "1s"}

    @classmethod
    def prepare(cls):
        cls.ann = cls.broker.user("ann")

    def post(self, body, path="/topics/hostile", kind="application/json"):
        return self.broker.call("POST", API + path, body, token=self.ann["token"],
                                headers={"Content-Type": kind})

    def assertHealthy(self):
        self.assertOk(self.broker.call("GET", API + "/health"))

    def replies(self, data, patience=PATIENCE):
        """Sends bytes, then reads every answer until the broker closes the connection."""
        found = []
        with RawHttp(self.broker.http, patience) as raw:
            try:
                raw.send(data)
            except (BrokenPipeError, ConnectionResetError):
                pass
            while True:
                try:
                    found.append(raw.reply())
                except EOFError:
                    return found

    def assertRefused(self, data, statuses=(400,), what=None):
        """One refusal, or none, and the end of the connection: nothing after it may be taken for a
        request.
        """
        label = what or data[:120]
        try:
            found = self.replies(data)
        except socket.timeout:
            self.fail(f"{label!r}: the connection stays open")
        self.assertLessEqual(len(found), 1, f"{label!r}: {found}")
        for reply in found:
            self.assertIn(reply.status, statuses, f"{label!r}: {reply}")
            # Before a request is understood there is no Accept either: the problem is JSON.
            self.assertIn(reply.type, ("application/problem+json", ""), f"{label!r}: {reply}")
        return found


class BodyTest(HostileTest):
    """Bodies that are not what they say."""

    def assertBad(self, body, label=None):
        reply = self.post(body)
        self.assertIn(reply.status, (400, 413, 422), f"{label or body[:60]!r}: {reply}")
        self.assertProblem(reply, reply.status, "invalid_request", "validation_failed",
                           "payload_too_large")

    def test_broken_json(self):
        """`invalid_request` for what is not JSON."""
        for body in (b"{", b"}", b"[1,", b'{"a"}', b'{"a":}', b'{"a" 1}', b"{'a': 1}", b'{"a": 1,}',
                     b"[1,]", b"[,1]", b"tru", b"True", b"nul", b"NaN", b"Infinity", b"-", b"01",
                     b"1.", b".5", b"+1", b"1e", b"0x10", b'"abc', b'"\\x"', b'"\\u12"', b'"\t"',
                     b'{"a": 1} x', b'{"a": 1}{"b": 2}', b"// c\n1", b"\x00", b" ",
                     b"\xff\xfe{\x00}\x00", b'{"a": 1}\x00'):
            self.assertBad(body)
        self.assertHealthy()

    def test_deep_nesting(self):
        """Depth is limited before it is paid for."""
        for body in (b"[" * 100000, b"[" * 100000 + b"]" * 100000,
                     b'{"a":' * 50000 + b"1" + b"}" * 50000, b'[{"a":' * 30000):
            self.assertBad(body)
        self.assertHealthy()

    def test_moderate_nesting_is_fine(self):
        """Ten levels are ordinary."""
        self.assertEqual(self.post(b"[" * 10 + b"]" * 10).status, 202)

    def test_huge_numbers(self):
        """No number crashes the broker: taken as something finite, or refused."""
        for number in (b"1e999999", b"-1e999999", b"1e-999999", b"9" * 400, b"-" + b"9" * 400,
                       b"0." + b"1" * 5000, b"18446744073709551616", b"-9223372036854775809",
                       b"1E400", b"123e45678901234567890"):
            reply = self.post(b'{"n": ' + number + b"}")
            self.assertIn(reply.status, (202, 400, 422), f"{number[:30]}: {reply}")
        self.assertHealthy()

    def test_accepted_numbers_come_out_as_numbers(self):
        """What is accepted is delivered as JSON, not as Infinity or NaN."""
        topic = unique("num")
        with Ws(self.broker, self.ann["token"]) as ws:
            ws.subscribe(topic)
            for number in ("1e999999", "9" * 400, "18446744073709551615", "-9223372036854775808",
                           "1e308", "5e-324", "0.1", "-0.0"):
                reply = self.post(b'{"n": ' + number.encode() + b"}", "/topics/" + topic)
                if reply.status == 202:
                    value = ws.expect("event", topic=topic)["data"]["n"]
                    self.assertIsInstance(value, (int, float))
                    self.assertEqual(float(value), float(number), number)

    def test_invalid_utf8(self):
        """Strings must be UTF-8."""
        for text in (b"\xff", b"\xc3", b"\xc3(", b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80",
                     b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80",
                     b"\xf8\x88\x80\x80\x80", b"\xe2\x82"):
            self.assertBad(b'{"a": "' + text + b'"}')
            self.assertBad(b'{"' + text + b'": 1}')
        self.assertHealthy()

    def test_nul_and_surrogates(self):
        """Without NUL; half a surrogate pair is no character."""
        for text in (b"\\u0000", b"a\\u0000b", b"\x00", b"\\ud800", b"\\udc00", b"\\ud800\\ud800",
                     b"\\udc00\\ud800", b"\\ud83d x"):
            self.assertBad(b'{"a": "' + text + b'"}')
        self.assertBad(b'{"a\\u0000": 1}')

    def test_good_unicode(self):
        """The edges of what is allowed."""
        for text in ("\u0001", "\u007f", "\u0080", "\u07ff", "\uffff", "\U00010000", "\U0010ffff",
                     "\ue000"):
            self.assertEqual(self.post(json.dumps({"a": text}).encode()).status, 202, ascii(text))
            self.assertEqual(self.post(json.dumps({"a": text}, ensure_ascii=False).encode()).status,
                             202, ascii(text))

    def test_duplicate_keys(self):
        """wire.md is silent: refused or one of the two, but an answer."""
        reply = self.broker.call("POST", API + "/auth/login",
                                 b'{"username": "ann", "username": "admin", "password": "x"}',
                                 headers={"Content-Type": "application/json"})
        self.assertIn(reply.status, (400, 401, 422), reply)

    def test_many_members(self):
        """Many small things are one big thing: accepted within the limit or refused, quickly."""
        for body in (b"[" + b"0," * 100000 + b"0]",
                     json.dumps({f"k{i}": i for i in range(20000)}).encode(),
                     b"[" + b'"",' * 100000 + b'""]'):
            self.assertIn(self.post(body).status, (202, 400, 413, 422))
        self.assertHealthy()

    def test_paths(self):
        """Nothing outside the routes is reached by an odd spelling of a path."""
        for path in ("/../../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
                     "//etc/passwd", "/health/../admin/users", "/admin/users", "/%61dmin/users",
                     "/admin//users", "/./admin/users", "/health%00", "/health%", "/health%zz",
                     "/he%61lth%ff", "/health;a=b", "/health#x", "/" + "a/" * 3000):
            with RawHttp(self.broker.http) as raw:
                raw.send(f"GET {API}{path} HTTP/1.1\r\n{LAST}\r\n".encode())
                try:
                    status = raw.reply().status
                except EOFError:
                    status = 0
            self.assertIn(status, (0, 400, 401, 404, 413, 414, 422, 431), path)
        self.assertHealthy()


class SmugglingTest(HostileTest):
    """Framing that two readers could read in two ways: RFC 9112 sections 2.2, 3, 5, 6, 11."""

    def message(self, *lines, method="POST", path="/topics/x", body=b"", version="HTTP/1.1",
                host="Host: x"):
        """A request by its lines, with the token; `host` may be None."""
        head = [f"{method} {API}{path} {version}"] + ([host] if host else [])
        head += [f"Authorization: Bearer {self.ann['token']}", "Content-Type: application/json",
                 *lines]
        return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body

    SMUGGLED = b"GET /api/v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

    def test_length_and_chunked(self):
        """Both Content-Length and Transfer-Encoding: refused."""
        body = b"2\r\n{}\r\n0\r\n\r\n"
        for lines in (("Content-Length: 6", "Transfer-Encoding: chunked"),
                      ("Transfer-Encoding: chunked", "Content-Length: 6"),
                      ("Content-Length: 0", "Transfer-Encoding: chunked"),
                      (f"Content-Length: {len(body)}", "Transfer-Encoding: chunked")):
            self.assertRefused(self.message(*lines, body=body + self.SMUGGLED), (400,))

    def test_two_lengths(self):
        """Content-Length that differs, is a list, or is no number."""
        for lines in (("Content-Length: 2", "Content-Length: 3"), ("Content-Length: 2, 3",),
                      ("Content-Length: +2",), ("Content-Length: -2",), ("Content-Length: 0x2",),
                      ("Content-Length: 2a",), ("Content-Length: 2 2",), ("Content-Length:",),
                      ("Content-Length: ",), ("Content-Length: 2.0",),
                      ("Content-Length: 18446744073709551618",),
                      ("Content-Length: 99999999999999999999999999",), ('Content-Length: "2"',),
                      ("Content-Length: 2;",)):
            self.assertRefused(self.message(*lines, body=b"{}" + self.SMUGGLED), (400, 413))

    def test_equal_lengths(self):
        """The same length twice may be taken as one (RFC 9112 6.3) or refused; never read as two
        requests.
        """
        for lines in (("Content-Length: 2", "Content-Length: 2"), ("Content-Length: 2, 2",)):
            found = self.replies(self.message(*lines, "Connection: close", body=b"{}"))
            self.assertEqual([r.status for r in found if r.status not in (202, 400)], [])
            self.assertEqual(len(found), 1)

    def test_transfer_encodings(self):
        """Only `chunked`, once and last, is a framing."""
        body = b"2\r\n{}\r\n0\r\n\r\n"
        for value in ("identity", "xchunked", "chunked, identity", "chunked, chunked", "gzip",
                      "chunked;q=1", "chun\tked", "\x0bchunked", "chunked\x0b", '"chunked"',
                      "chunkedx", "chunked,", "gzip, chunked", "x, chunked", "", ",chunked",
                      "chunked\x00"):
            data = self.message("Transfer-Encoding: " + value, body=body + self.SMUGGLED)
            self.assertRefused(data, (400, 411, 415, 501), value)
        for lines in (("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
                      ("Transfer-Encoding: identity", "Transfer-Encoding: chunked"),
                      ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
                      ("Transfer_Encoding: chunked", "Content-Length: 99999999999")):
            self.assertRefused(self.message(*lines, body=body + self.SMUGGLED),
                               (400, 411, 413, 415, 501), lines)

    def test_transfer_encoding_case(self):
        """`Chunked` is chunked."""
        found = self.replies(self.message("Transfer-Encoding: Chunked", "Connection: close",
                                          body=b"2\r\n{}\r\n0\r\n\r\n"))
        self.assertEqual([r.status for r in found], [202])

    def test_chunked_in_http_1_0(self):
        """Transfer-Encoding in HTTP/1.0: faulty framing (RFC 9112 6.1)."""
        data = self.message("Transfer-Encoding: chunked", version="HTTP/1.0",
                            body=b"2\r\n{}\r\n0\r\n\r\n" + self.SMUGGLED)
        self.assertRefused(data, (400, 426, 501, 505))

    def test_chunk_junk(self):
        """Chunk sizes are hex digits and nothing else; every line ends with CRLF."""
        for body in (b"x\r\n{}\r\n0\r\n\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n",
                     b"+2\r\n{}\r\n0\r\n\r\n", b" 2\r\n{}\r\n0\r\n\r\n", b"2 \r\n{}\r\n0\r\n\r\n",
                     b"\r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n", b"2\r\n{}0\r\n\r\n",
                     b"2\r\n{}xx0\r\n\r\n", b"2\r\n{}\n0\r\n\r\n", b"2\r\n{}\r0\r\n\r\n",
                     b"2\r{}\r\n0\r\n\r\n", b"ffffffffffffffff\r\n{}\r\n0\r\n\r\n",
                     b"10000000000000002\r\n{}\r\n0\r\n\r\n", b"2;a\nb\r\n{}\r\n0\r\n\r\n",
                     b"2\r\n{}\r\n0\n\n", b"2;\x00\r\n{}\r\n0\r\n\r\n",
                     b"2\r\n{}\r\n0\r\nX: \x00\r\n\r\n", b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n"):
            data = self.message("Transfer-Encoding: chunked", body=body + self.SMUGGLED)
            self.assertRefused(data, (400, 413), body)

    def test_chunk_extension_flood(self):
        """An endless chunk extension or trailer is no way around the limit."""
        for body in (b"2;" + b"a" * 2_000_000, b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 300_000):
            self.assertRefused(self.message("Transfer-Encoding: chunked", body=body),
                               (400, 408, 413, 431), body[:20])

    def test_line_ends(self):
        """Bare LF and bare CR do not end a line."""
        good = self.message("Content-Length: 0", method="GET", path="/users/me")
        for data in (good.replace(b"\r\n", b"\n"), good.replace(b"\r\n", b"\r"),
                     good.replace(b"Host: x\r\n", b"Host: x\n"),
                     good.replace(b"Host: x\r\n", b"Host: x\r"),
                     good.replace(b"Host: x\r\n", b"Host: x\r\r\n"),
                     good.replace(b"\r\n\r\n", b"\r\n\n"), good.replace(b"\r\n\r\n", b"\n\r\n"),
                     good.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n"),
                     good.replace(b"Host: x", b"X: a\rContent-Length: 5\r\nHost: x"),
                     good.replace(b"Host: x", b"X: a\nTransfer-Encoding: chunked\r\nHost: x")):
            self.assertRefused(data, (400, 408))

    def test_folded_headers(self):
        """obs-fold: refused (RFC 9112 5.2)."""
        for lines in (("X: a", " b"), ("X: a", "\tb"), ("Transfer-Encoding:", " chunked"),
                      (" X: a",), ("Content-Length: 0", " 5")):
            self.assertRefused(self.message(*lines, method="GET", path="/users/me"), (400,), lines)
        data = b"GET /api/v1/health HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n"
        self.assertRefused(data, (400,))

    def test_space_before_colon(self):
        """No space between name and colon: refused (RFC 9112 5.1)."""
        for line in ("X : a", "Content-Length : 5", "Transfer-Encoding : chunked", "X\t: a",
                     "Host : x", ": a", " : a", "X", "X y: a"):
            self.assertRefused(self.message(line, method="GET", path="/users/me"), (400,), line)

    def test_control_bytes(self):
        """Names are tokens; values hold no control bytes."""
        for line in ("X: a\x00b", "X: a\x01b", "X: a\x7fb", "X\x00: a", "X\x7f: a", "X(: a",
                     "X[: a", 'X": a', "X\xe9: a", "X: \x1b[31m", "X@: a"):
            self.assertRefused(self.message(line, method="GET", path="/users/me"), (400,), line)

    def test_odd_request_lines(self):
        """A request line is method SP target SP version CRLF."""
        tail = b"\r\nHost: x\r\n\r\n"
        for line in (b"GET", b"GET ", b"GET  /api/v1/health HTTP/1.1",
                     b"GET /api/v1/health  HTTP/1.1", b"GET\t/api/v1/health HTTP/1.1",
                     b"GET /api/v1/health HTTP/1.1 ", b"GET /api/v1/health HTTP/1.1 x",
                     b" GET /api/v1/health HTTP/1.1", b"G\x00T /api/v1/health HTTP/1.1",
                     b"get /api/v1/health HTTP/1.1", b"GET /api/v1/he\x00lth HTTP/1.1",
                     b"GET /api/v1/he\x01lth HTTP/1.1", b"GET /api/v1/health\x7f HTTP/1.1",
                     b"GET api/v1/health HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00",
                     b"PRI * HTTP/2.0", b"SSH-2.0-x", b"*1", b"<xml/>"):
            self.assertRefused(line + tail, (400, 404, 405, 408, 501, 505), line)

    def test_raw_utf8_in_the_target(self):
        """Bytes above 127 are not allowed in a target: refused, or not found."""
        for line in ("GET /api/v1/hé HTTP/1.1".encode(), b"GET /api/v1/\xff HTTP/1.1"):
            found = self.replies(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            self.assertTrue(all(r.status in (400, 401, 404) for r in found), found)

    def test_versions(self):
        """HTTP/1.1 it is."""
        for version in ("HTTP/2.0", "HTTP/3", "HTTP/0.9", "HTTP/1.", "HTTP/11.1", "HTTP/1.11",
                        "http/1.1", "HTTP/A.1", "HTTPS/1.1", "HTTP/1.1\x00", "HTTP /1.1",
                        "HTTP/-1.1", "HTTP/01.1"):
            data = f"GET {API}/health {version}\r\nHost: x\r\n\r\n".encode()
            self.assertRefused(data, (400, 408, 426, 505), version)
        self.assertRefused(f"GET {API}/health\r\n\r\n".encode(), (400, 408, 505), "HTTP/0.9")

    def test_host(self):
        """Exactly one Host in HTTP/1.1 (RFC 9112 3.2)."""
        self.assertRefused(b"GET /api/v1/health HTTP/1.1\r\n\r\n", (400,))
        for lines in (b"Host: x\r\nHost: x", b"Host: x\r\nHost: y", b"Host: x y",
                      b"Host: x\r\nhOST: x", b"Host: x,y", b"Host: x/y", b"Host: a@b"):
            self.assertRefused(b"GET /api/v1/health HTTP/1.1\r\n" + lines + b"\r\n\r\n", (400,),
                               lines)

    def test_absolute_form(self):
        """A server must take absolute-form (RFC 9112 3.2.2); wire.md is silent, so a refusal is
        borne with.
        """
        data = (b"GET http://x/api/v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                b"GET http://x/api/v1/admin/users HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for request, statuses in zip(data, ((200, 400, 404), (400, 401, 404))):
            found = self.replies(request)
            self.assertEqual(len(found), 1)
            self.assertIn(found[0].status, statuses)

    def test_other_targets(self):
        """CONNECT is for proxies, `*` for OPTIONS."""
        for line in (b"CONNECT x:1 HTTP/1.1", b"CONNECT /api/v1/health HTTP/1.1",
                     b"OPTIONS * HTTP/1.1", b"TRACE /api/v1/health HTTP/1.1", b"GET * HTTP/1.1"):
            found = self.replies(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            self.assertLessEqual(len(found), 1)
            for reply in found:
                statuses = (200, 204, 400, 401, 404, 405,
                            501) if line.startswith(b"OPTIONS") else (400, 401, 404, 405, 501)
                self.assertIn(reply.status, statuses, line)
                self.assertNotIn(b"Authorization", reply.body, "TRACE would echo")

    def test_body_of_a_get_is_no_request(self):
        """What a GET's Content-Length covers is body, not a second request."""
        data = self.message(f"Content-Length: {len(self.SMUGGLED)}", method="GET", path="/users/me",
                            body=self.SMUGGLED)
        data += self.message("Connection: close", method="GET", path="/health")
        statuses = [r.status for r in self.replies(data)]
        self.assertIn(statuses, ([200, 200], [400], [400, 200], [413]),
                      "one answer for each request")

    def test_unread_body_is_no_request(self):
        """A request that is refused before its body (401, 404, 415) does not turn the body into a
        request.
        """
        for path, kind in (("/topics/x", "Content-Type: text/plain"), ("/nowhere", "X: y")):
            body = self.SMUGGLED * 3
            head = (f"POST {API}{path} HTTP/1.1\r\nHost: x\r\n{kind}\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n").encode()
            tail = f"GET {API}/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            found = self.replies(head + body + tail)
            self.assertGreaterEqual(len(found), 1)
            self.assertIn(found[0].status, (400, 401, 404, 415),
                          "which is checked first is not in wire.md")
            self.assertLessEqual(len(found), 2)
            if len(found) == 2:
                self.assertEqual(found[1].status, 200, "the second answer is to the body")

    def test_crlf_before_a_request(self):
        """An empty line before the request line may be ignored (RFC 9112 2.2), or refused."""
        found = self.replies(f"\r\nGET {API}/health HTTP/1.1\r\n{LAST}\r\n".encode())
        self.assertEqual(len(found), 1)
        self.assertIn(found[0].status, (200, 400))


class SlownessTest(HostileTest):
    """Clients that are slow, large, or gone."""

    def assertClosedSoon(self, raw, begin):
        self.assertTrue(raw.closed(), "the broker waits for ever")
        self.assertLess(time.monotonic() - begin, PATIENCE)

    def test_silent_head(self):
        """limits.headers_timeout: a request line and then nothing."""
        with RawHttp(self.broker.http) as raw:
            begin = time.monotonic()
            raw.send(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n")
            try:
                self.assertIn(raw.reply().status, (400, 408))
            except EOFError:
                pass
            self.assertClosedSoon(raw, begin)
        self.assertHealthy()

    def test_dripping_head(self):
        """One byte now and then does not renew the time for the headers."""
        with RawHttp(self.broker.http) as raw:
            begin = time.monotonic()
            raw.send(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\nX: ")
            closed = False
            while not closed and time.monotonic() - begin < PATIENCE:
                try:
                    raw.send(b"a")
                    closed = bool(select.select([raw.socket], [], [], 0.1)[0])
                except (BrokenPipeError, ConnectionResetError):
                    closed = True
            self.assertTrue(closed, "dripping keeps the connection for ever")

    def test_never_a_byte(self):
        """A connection without a first byte may stay a while; it must not stop others."""
        held = [RawHttp(self.broker.http) for _ in range(50)]
        try:
            self.assertHealthy()
        finally:
            for raw in held:
                raw.close()

    def test_large_heads(self):
        """Size is limited before it is paid for."""
        start = b"GET / HTTP/1.1\r\nHost: x\r\n"
        for data in (b"GET /" + b"a" * 2_000_000, start + b"X: " + b"a" * 2_000_000,
                     start + b"X: y\r\n" * 300_000, b"G" * 2_000_000,
                     start + b"X" * 2_000_000 + b": y\r\n\r\n",
                     f"GET {API}/health?{'a' * 1_000_000} HTTP/1.1\r\nHost: x\r\n\r\n".encode()):
            self.assertRefused(data, (400, 404, 408, 413, 414, 431), data[:40])
        self.assertHealthy()

    def test_ordinary_large_head(self):
        """Four kilobytes of cookies are ordinary."""
        self.assertOk(self.broker.call("GET", API + "/health", headers={"Cookie": "a" * 4000}))

    def test_reader_that_never_reads(self):
        """A client that pipelines and never reads stalls itself, not another."""
        conversation = self.broker.conversation(self.ann)
        for _ in range(20):
            self.broker.call("POST", f"{API}/conversations/{conversation}/messages",
                             {"content": "x" * 5000}, token=self.ann["token"])
        request = (f"GET {API}/conversations/{conversation}/messages HTTP/1.1\r\nHost: x\r\n"
                   f"Authorization: Bearer {self.ann['token']}\r\n\r\n").encode()
        held = [RawHttp(self.broker.http, receive_buffer=4096) for _ in range(4)]
        try:
            for raw in held:
                raw.socket.setblocking(False)
                data, end = request * 400, time.monotonic() + 1
                while data and time.monotonic() < end:
                    try:
                        data = data[raw.socket.send(data):]
                    except BlockingIOError:
                        if not select.select([], [raw.socket], [], 0.2)[1]:
                            break
                    except (BrokenPipeError, ConnectionResetError):
                        break
            worst = 0.0
            for _ in range(40):
                begin = time.monotonic()
                self.assertOk(self.broker.call("GET", API + "/users/me", token=self.ann["token"]))
                worst = max(worst, time.monotonic() - begin)
            self.assertLess(worst, PATIENCE / 4, "others wait for the one who does not read")
            queued = self.broker.metric("postern_outbound_queue_bytes")
            self.assertLess(queued, 64 << 20, "answers pile up for a client that does not read")
        finally:
            for raw in held:
                raw.close()
        self.assertHealthy()

    def test_clients_that_vanish(self):
        """Gone in the head, in the body, before the answer: nothing is left of them."""
        self.assertHealthy()
        before = self.broker.metric("postern_connections")
        token = self.ann["token"]
        head = f"POST {API}/topics/gone HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        head += "Content-Type: application/json\r\n"
        get = f"GET {API}/users/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        login = b'{"username": "ann", "password": "not it"}'
        post = (f"POST {API}/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(login)}")
        for data in (b"", b"GET /", head.encode(),
                     (head + "Content-Length: 1000\r\n\r\n{").encode(),
                     (head + "Transfer-Encoding: chunked\r\n\r\n5\r\n{").encode(),
                     get.encode() * 50, post.encode() + b"\r\n\r\n" + login):
            for leave in (RawHttp.close, RawHttp.reset):
                for _ in range(5 if b"login" not in data else 1):
                    raw = RawHttp(self.broker.http)
                    raw.send(data)
                    leave(raw)
        self.assertHealthy()
        wait_until(lambda: self.broker.metric("postern_connections") <= before,
                   "the connections to be forgotten")

    def test_half_closed_client(self):
        """A client that ends its side after the request still gets the answer."""
        with RawHttp(self.broker.http) as raw:
            raw.send((f"GET {API}/users/me HTTP/1.1\r\nHost: x\r\n"
                      f"Authorization: Bearer {self.ann['token']}\r\n\r\n").encode())
            raw.socket.shutdown(socket.SHUT_WR)
            # wire.md is silent on half-closed connections; a hang is wrong, an answer or an end is
            # right.
            try:
                self.assertOk(raw.reply())
            except EOFError:
                pass
            self.assertTrue(raw.closed())


if __name__ == "__main__":
    unittest.main()
