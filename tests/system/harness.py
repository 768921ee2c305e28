#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Starts a broker of its own for a test class and speaks to it with clients that are not ours.

The program under test is $POSTERN_BIN_DIR/postern (default: ../../build beside this file).  Every
broker has a temporary data directory, listens on ports the system chose and on ipc inside that
directory, and is stopped by its pid.  Nothing here knows the product's code; `wire.md` in the
docstrings is the contract between broker and clients.

No helper sleeps and hopes: a subscription is waited for by its `subscribed` frame, a SUB socket by
probe messages.
"""

import asyncio
import base64
import ctypes
import hashlib
import http.client
import itertools
import json
import os
import queue
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zlib

import msgpack
import websockets
import zmq

HERE = os.path.dirname(os.path.abspath(__file__))
BIN_DIR = os.environ.get("POSTERN_BIN_DIR") or os.path.join(HERE, "..", "..", "build")
PROGRAM = os.path.join(BIN_DIR, "postern")
RELEASE = os.path.basename(os.path.normpath(os.path.abspath(BIN_DIR))) == "build"

# The longest any single step may take: sanitizer builds are slow, and so is a machine with more to do than it has
# processors, but a hang must still end.
SLOW = bool(os.environ.get("POSTERN_TEST_SLOW"))
BUSY = min(max(os.getloadavg()[0] / os.cpu_count(), 1.0), 4.0)
PATIENCE = (60.0 if SLOW else 20.0) * BUSY
# How long "nothing more arrives" is observed, after a fence has shown that everything earlier is
# through.
QUIET = 0.2

ADMIN = "admin"
ADMIN_PASSWORD = "correct horse battery staple"
PASSWORD = "a long enough passphrase 42"

LIBC = ctypes.CDLL(None)

_unique = itertools.count(1)


def unique(prefix="t"):
    """A name no other test of this process uses."""
    return f"{prefix}{next(_unique)}"


def wait_until(condition, what, patience=PATIENCE, pause=0.02):
    """Polls until condition() is true and returns its value; fails by saying what did not come."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience:g} s in vain for {what}")
        time.sleep(pause)


# ---- the program ---------------------------------------------------------------------------------


def clean_environment(extra=None):
    """The environment without any POSTERN_ setting of the person who runs the tests."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("POSTERN_")}
    env.update(extra or {})
    return env


def run_program(*args, env=None, data=None, input=None, timeout=PATIENCE):
    """One subcommand to its end; returns CompletedProcess with text output."""
    command = [PROGRAM, *args]
    if data is not None:
        command += ["--data", data]
    try:
        return subprocess.run(command, env=clean_environment(env), stdin=None if input
                              else subprocess.DEVNULL, input=input, capture_output=True, text=True,
                              timeout=timeout)
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"`{' '.join(command)}` goes on after {timeout:g} s; so far it said "
                             f"{late.stdout!r} and {late.stderr!r}") from None


def die_with_parent():
    """Between fork and exec: whoever ends this test run by force ends its brokers with it."""
    LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def has_ended(pid):
    """Also of processes of others, which somebody may still have to wait for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def end_benchmark(test, argv, child, directory):
    """A command of bench/ gets SIGTERM once a process `child` of its own runs, which ends with it, and so do all others;
    nothing is left in the directory for temporary files.
    """
    def children():
        found = {}
        with open(f"/proc/{p.pid}/task/{p.pid}/children", encoding="utf-8") as f:
            pids = f.read().split()
        for pid in pids:
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
                    found[int(pid)] = f.read().strip()
            except OSError:
                pass  # it has just ended
        return found

    p = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent,
                         env=dict(os.environ, POSTERN_BIN_DIR=os.path.abspath(BIN_DIR), TMPDIR=directory))
    try:
        wait_until(lambda: p.poll() is not None or child in children().values(), f"{child} of {argv[0]}")
        test.assertIsNone(p.poll(), "it ended by itself")
        found = children()
        p.terminate()
        test.assertEqual(p.wait(PATIENCE * 2), 128 + signal.SIGTERM)
        wait_until(lambda: all(has_ended(pid) for pid in found), f"the end of {found}")
        test.assertEqual(os.listdir(directory), [])
    finally:
        p.kill()
        p.wait()


def as_list(value):
    return value if isinstance(value, list) else [value]


class Broker:
    """One `postern run` and the directory it owns."""

    def __init__(self, env=None, args=(), data=None, config=None):
        self.root = tempfile.mkdtemp(prefix="ptn")
        self.data = data or os.path.join(self.root, "d")
        self.env = {
            "POSTERN_LISTEN__HTTP": "127.0.0.1:0",
            "POSTERN_LISTEN__ADMIN": "127.0.0.1:0",
            "POSTERN_ADMIN_PASSWORD": ADMIN_PASSWORD,
        }
        self.env.update(env or {})
        self.env = {k: v for k, v in self.env.items() if v is not None}
        self.args = list(args)
        if config is not None:
            path = os.path.join(self.root, "postern.yaml")
            with open(path, "w", encoding="utf-8") as f:
                f.write(config.replace("{data}", self.data))
            self.args += ["--config", path]
        self.stderr_path = os.path.join(self.root, "stderr")
        self.process = None
        self.listen = None
        self.started_in = None
        self.killed = self.signalled = False
        self.tokens = {}

    # -- life

    def start(self, patience=PATIENCE * 2):
        """Runs the program until its first line: wire.md 5, `--print-listen`."""
        if not os.access(PROGRAM, os.X_OK):
            raise AssertionError(f"no program at {PROGRAM}; build it or set POSTERN_BIN_DIR")
        command = [PROGRAM, "run", "--print-listen", "--data", self.data, *self.args]
        with open(self.stderr_path, "ab") as errors:
            begin = time.monotonic()
            self.process = subprocess.Popen(command, env=clean_environment(self.env),
                                            preexec_fn=die_with_parent, cwd=self.root,
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=errors)
        self.killed = self.signalled = False
        line = self._first_line(begin + patience)
        self.started_in = time.monotonic() - begin
        try:
            self.listen = {k: as_list(v) for k, v in json.loads(line).items()}
        except (ValueError, AttributeError):
            self.kill()
            raise AssertionError(f"the first line of --print-listen is no JSON object: {line!r}\n"
                                 f"{self.stderr()}")
        self.rest_of_stdout = []
        threading.Thread(target=self._drain, args=(self.process.stdout,), daemon=True).start()
        return self

    def _first_line(self, end):
        line, fd = b"", self.process.stdout.fileno()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(fd, 1) if ready else b""
            if not chunk:
                self.kill()
                self.process.stdout.close()
                raise AssertionError("the broker did not print its addresses; exit status "
                                     f"{self.process.returncode}\n{self.stderr()}")
            line += chunk
        return line

    def _drain(self, pipe):
        with pipe:
            for line in pipe:
                self.rest_of_stdout.append(line)

    def send_signal(self, sig):
        """Sends a signal; stop() then waits and sends no second one that ends the broker."""
        self.signalled = self.signalled or sig in (signal.SIGTERM, signal.SIGINT)
        if self.process.poll() is None:
            self.process.send_signal(sig)

    def stop(self, sig=signal.SIGTERM, status=0, patience=PATIENCE * 2):
        """Ends the broker in peace and checks its exit status."""
        if self.process is None or self.process.returncode is not None and self.killed:
            return
        process = self.process
        if not self.signalled:  # a second one would end the drain
            self.send_signal(sig)
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the broker did not end within {patience:g} s of {sig!r}\n"
                                 f"{self.stderr()}")
        if code != status:
            raise AssertionError(f"the broker ended with {code}, not {status}\n{self.stderr()}")

    def kill(self):
        """SIGKILL, as a power cut would."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            self.killed = True

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def remove(self):
        shutil.rmtree(self.root, ignore_errors=True)

    def stderr(self, last=8000):
        try:
            with open(self.stderr_path, "rb") as f:
                text = f.read()
        except OSError:
            return ""
        return text[-last:].decode("utf-8", "replace")

    # -- addresses

    @property
    def http(self):
        return split_address(self.listen["http"][0])

    @property
    def admin(self):
        return split_address(self.listen["admin"][0])

    @property
    def zmq(self):
        return self.listen["zmq"][0]

    @property
    def zmq_events(self):
        return self.listen["zmq_events"][0]

    # -- accounts

    def token(self, name=ADMIN, ttl=None):
        """`postern token NAME --data DIR`: works while the broker runs.  Cached unless a ttl is
        asked for.
        """
        if ttl is None and name in self.tokens:
            return self.tokens[name]
        done = run_program("token", name, *(["--ttl", ttl] if ttl else []), data=self.data)
        if done.returncode != 0:
            raise AssertionError(f"postern token {name}: exit {done.returncode}: {done.stderr}")
        token = done.stdout.strip()
        if ttl is None:
            self.tokens[name] = token
        return token

    def user(self, name=None, password=PASSWORD, **members):
        """Creates an account as admin and returns it with `username` and `token`."""
        name = name or unique("user")
        reply = self.call("POST", "/api/v1/admin/users",
                          {"username": name, "password": password, **members}, token=self.token())
        if reply.status not in (200, 201):
            raise AssertionError(f"creating user {name}: {reply.status} {reply.body!r}")
        return {**reply.data, "username": name, "token": self.token(name)}

    def conversation(self, owner, *members, title=None):
        """A new conversation's id; owner and members as returned by user()."""
        body = {"members": [m["id"] for m in members]}
        if title is not None:
            body["title"] = title
        reply = self.call("POST", "/api/v1/conversations", body, token=owner["token"])
        if reply.status not in (200, 201):
            raise AssertionError(f"creating a conversation: {reply.status} {reply.body!r}")
        return reply.data["id"]

    # -- REST

    def call(self, method, path, body=None, token=None, headers=None, address=None,
             patience=PATIENCE):
        """One request on a connection of its own.  A dict or list is sent as JSON, bytes as they
        are.
        """
        connection = http.client.HTTPConnection(*(address or self.http), timeout=patience)
        try:
            return exchange(connection, method, path, body, token, headers)
        finally:
            connection.close()

    def metrics(self):
        """The text of /metrics as {name{labels}: float}."""
        reply = self.call("GET", "/metrics", address=self.admin)
        if reply.status != 200:
            raise AssertionError(f"/metrics answers {reply.status}")
        values = {}
        for line in reply.body.decode("utf-8").splitlines():
            if line and not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                values[series] = float(value)
        return values

    def metric(self, name, *labels):
        """The sum over the series of `name` whose label text holds all of `labels`."""
        total = 0.0
        for series, value in self.metrics().items():
            if series.partition("{")[0] == name and all(label in series for label in labels):
                total += value
        return total


def split_address(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Reply:
    """A REST answer: status, headers (case-insensitive), raw body, and the envelope's parts."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def type(self):
        return (self.headers.get("Content-Type") or "").split(";")[0].strip().lower()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def data(self):
        return self.json["data"]

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


def exchange(connection, method, path, body=None, token=None, headers=None):
    """One request and its answer on an open http.client connection."""
    all_headers = {"Accept": "application/json"}
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
        all_headers["Content-Type"] = "application/json"
    if token:
        all_headers["Authorization"] = "Bearer " + token
    all_headers.update(headers or {})
    connection.request(method, path, body, {k: v for k, v in all_headers.items() if v is not None})
    response = connection.getresponse()
    return Reply(response.status, response.headers, response.read())


# ---- raw HTTP ------------------------------------------------------------------------------------


class RawHttp:
    """A TCP connection to which bytes are written as they are, and a strict reader of answers."""

    def __init__(self, address, patience=PATIENCE, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(patience)
        self.socket.connect(address)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Closes with RST, as a client that vanishes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def _more(self):
        try:
            chunk = self.socket.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            chunk = b""
        self.buffer += chunk
        return bool(chunk)

    def _until(self, mark):
        while mark not in self.buffer:
            if not self._more():
                raise EOFError(f"closed by the broker after {self.buffer!r}")
        head, _, self.buffer = self.buffer.partition(mark)
        return head

    def _exactly(self, count):
        while len(self.buffer) < count:
            if not self._more():
                raise EOFError(f"closed by the broker after {len(self.buffer)} of {count} bytes")
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def head(self):
        """Status and headers of the next answer; EOFError when the broker closed instead."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ", 2)
        if not version.startswith("HTTP/1."):
            raise AssertionError(f"not an HTTP/1 status line: {lines[0]!r}")
        headers = http.client.HTTPMessage()
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise AssertionError(f"not a header: {line!r}")
            headers[name] = value.strip()
        return int(status), headers

    def reply(self, method="GET"):
        """The next final answer with its body."""
        status, headers = self.head()
        while 100 <= status < 200 and status != 101:
            status, headers = self.head()
        if method == "HEAD" or status in (101, 204, 304):
            return Reply(status, headers, b"")
        if (headers.get("Transfer-Encoding") or "").lower() == "chunked":
            return Reply(status, headers, b"".join(self.chunks()))
        return Reply(status, headers, self._exactly(int(headers.get("Content-Length") or 0)))

    def chunks(self):
        while True:
            size = int(self._until(b"\r\n").split(b";")[0], 16)
            if size == 0:
                self._until(b"\r\n")
                return
            yield self._exactly(size)
            self._exactly(2)

    def closed(self):
        """True when the broker closes the connection, whatever it still sends before."""
        try:
            while self._more():
                pass
        except socket.timeout:
            return False
        return True


class EventStream:
    """GET /topics/{topic}/events: wire.md 2.  Reads one server-sent event at a time."""

    def __init__(self, broker, topic, token, last_event_id=None, patience=PATIENCE):
        headers = [f"GET /api/v1/topics/{topic}/events HTTP/1.1", f"Host: {broker.http[0]}",
                   "Accept: text/event-stream", f"Authorization: Bearer {token}"]
        if last_event_id is not None:
            headers.append(f"Last-Event-ID: {last_event_id}")
        self.raw = RawHttp(broker.http, patience)
        self.raw.send(("\r\n".join(headers) + "\r\n\r\n").encode())
        self.status, self.headers = self.raw.head()
        chunked = (self.headers.get("Transfer-Encoding") or "").lower() == "chunked"
        self.source = self.raw.chunks() if chunked else self._plain()
        self.text = b""
        self.last_id = ""

    def _plain(self):
        while self.raw.buffer or self.raw._more():
            data, self.raw.buffer = self.raw.buffer, b""
            yield data

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.raw.close()

    def block(self):
        """The next block of lines up to a blank one, comments included."""
        while b"\n\n" not in self.text:
            chunk = next(self.source, None)
            if chunk is None:
                raise EOFError("the event stream ended")
            self.text += chunk.replace(b"\r\n", b"\n")
        block, _, self.text = self.text.partition(b"\n\n")
        return block.decode("utf-8")

    def ready(self, patience):
        """True when an event with an id is here, or comes in this time; a comment alone does not
        count.
        """
        end = time.monotonic() + patience
        while not any(b"data:" in block for block in self.text.split(b"\n\n")[:-1]):
            readable = self.raw.buffer or select.select([self.raw.socket], [], [],
                                                        max(0.0, end - time.monotonic()))[0]
            if not readable:
                return False
            chunk = next(self.source, None)
            if chunk is None:
                raise EOFError("the event stream ended")
            self.text += chunk.replace(b"\r\n", b"\n")
        return True

    def event(self):
        """The next event as {id, event, data}; comments and blocks without data are passed over."""
        while True:
            fields = {"event": "message", "data": []}
            for line in self.block().split("\n"):
                name, _, value = line.partition(":")
                value = value[1:] if value.startswith(" ") else value
                if name == "data":
                    fields["data"].append(value)
                elif name in ("id", "event", "retry"):
                    fields[name] = value
            if fields["data"]:
                fields["data"] = "\n".join(fields["data"])
                self.last_id = fields.setdefault("id", self.last_id)
                return fields

    def published(self):
        """The next event that carries what was published, as (id, payload, whole JSON)."""
        while True:
            event = self.event()
            value = json.loads(event["data"])
            if event["event"] in ("message", "event"):
                return event["id"], payload_of(value), value


def sse_settle(stream, publish, number_of):
    """Calls publish(0), publish(1).. until a probe comes out of the stream; then reads up to the
    last of them.
    """
    sent, seen, end = 0, -1, time.monotonic() + PATIENCE
    while seen < 0:
        if time.monotonic() > end:
            raise AssertionError("no probe reached the event stream")
        publish(sent)
        sent += 1
        if stream.ready(0.05):
            seen = number_of(stream.published()[1])
    while seen < sent - 1:
        seen = number_of(stream.published()[1])


def payload_of(value):
    """What was published, out of an SSE data line.

    wire.md does not say whether the line is the payload or the whole `event` frame; both are
    accepted.
    """
    if isinstance(value, dict) and {"topic", "offset", "data"} <= set(value):
        return value["data"]
    return value


# ---- WebSocket -----------------------------------------------------------------------------------


class _Loop:
    """One asyncio loop in a thread, so that tests can be written top to bottom."""

    loop = None

    @classmethod
    def run(cls, coroutine, patience=PATIENCE * 2):
        if cls.loop is None:
            cls.loop = asyncio.new_event_loop()
            threading.Thread(target=cls.loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, cls.loop).result(patience)


class Ws:
    """A client of the `websockets` library, made synchronous.

    Frames are kept in order until a test asks for them: expect() takes the first that fits and
    leaves the others.
    """

    CLOSED = object()

    def __init__(self, broker, token=None, how="header", encoding="json", path="/ws",
                 subprotocols="", welcome=True, address=None, compression=None):
        """how: `header`, `query`, `frame` or None.  subprotocols: "" asks for the one of
        `encoding`.  compression: "deflate" offers it.
        """
        self.compression = compression
        self.encoding = encoding
        self.frames = queue.Queue()
        self.pending = []
        self.closed = False
        headers = []
        if token and how == "header":
            headers.append(("Authorization", "Bearer " + token))
        if token and how == "query":
            path += "?token=" + token
        if subprotocols == "":
            subprotocols = ["postern.v1." + encoding]
        host, port = address or broker.http
        self.socket = _Loop.run(self._connect(f"ws://{host}:{port}{path}", headers, subprotocols))
        self.welcome = None
        if token and how == "frame":
            self.send(type="auth", token=token)
        if token and welcome:
            self.welcome = self.expect("welcome")

    async def _connect(self, uri, headers, subprotocols):
        socket = await websockets.connect(uri, extra_headers=headers, subprotocols=subprotocols,
                                          compression=self.compression,
                                          open_timeout=PATIENCE,
                                          ping_interval=None, max_size=None, max_queue=None,
                                          close_timeout=2)
        asyncio.get_running_loop().create_task(self._read(socket))
        return socket

    async def _read(self, socket):
        try:
            async for data in socket:
                self.frames.put((time.monotonic(), data))
        except websockets.ConnectionClosed:
            pass
        finally:
            self.frames.put((time.monotonic(), self.CLOSED))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- sending

    def encode(self, frame):
        return msgpack.packb(frame) if self.encoding == "msgpack" else json.dumps(frame)

    def send(self, **frame):
        self.send_raw(self.encode(frame))

    def send_raw(self, data):
        """str goes out as a text frame, bytes as a binary one, a list as fragments."""
        _Loop.run(self.socket.send(data))

    def send_many(self, frames):
        async def all_of():
            for frame in frames:
                await self.socket.send(self.encode(frame))
        _Loop.run(all_of(), PATIENCE * 6)

    # -- receiving

    def decode(self, data):
        if isinstance(data, bytes):
            return msgpack.unpackb(data)
        return json.loads(data)

    def _next(self, patience):
        """The next frame from the network; None when none came in time, CLOSED at the end."""
        if self.closed:
            return self.CLOSED
        try:
            at, data = self.frames.get(timeout=max(0.0, patience))
        except queue.Empty:
            return None
        if data is self.CLOSED:
            self.closed = True
            return self.CLOSED
        wrong = isinstance(data, str) if self.encoding == "msgpack" else isinstance(data, bytes)
        if wrong:
            raise AssertionError(f"a frame of the wrong kind for {self.encoding}: {data!r}")
        frame = self.decode(data)
        if isinstance(frame, dict):
            frame = Frame(frame)
            frame.at = at
        return frame

    def expect(self, kind=None, patience=PATIENCE, **members):
        """The first frame of this type whose members have these values; earlier others stay
        pending.
        """
        def fits(frame):
            return (kind is None or frame.get("type") == kind) and all(frame.get(k) == v
                                                                       for k, v in members.items())

        for i, frame in enumerate(self.pending):
            if fits(frame):
                return self.pending.pop(i)
        end = time.monotonic() + patience
        while True:
            frame = self._next(end - time.monotonic())
            if frame is None or frame is self.CLOSED:
                state = f"closed {self.close_code()}" if frame is self.CLOSED else "still open"
                raise AssertionError(f"no frame {kind} {members}; the socket is {state}; "
                                     f"pending: {self.pending[:5]}")
            if fits(frame):
                return frame
            self.pending.append(frame)

    def events(self, topic, count, patience=PATIENCE):
        """The next `count` events of a topic, in the order of their arrival."""
        return [self.expect("event", topic=topic, patience=patience) for _ in range(count)]

    def nothing_more(self, kind="event", quiet=QUIET, **members):
        """Asserts that no such frame is there: a ping fences what was sent before it, then a short
        silence.
        """
        self.fence()
        try:
            frame = self.expect(kind, patience=quiet, **members)
        except AssertionError:
            return
        raise AssertionError(f"an unexpected frame: {frame}")

    def fence(self):
        """Everything the broker sent to this connection before now has arrived when this returns.
        """
        stamp = next(_unique)
        self.send(type="ping", timestamp=stamp)
        return self.expect("pong", timestamp=stamp)

    def subscribe(self, *topics, **members):
        """Subscribes and waits; returns the `subscribed` frame, or a list of them for many topics.
        """
        if len(topics) == 1:
            self.send(type="subscribe", topic=topics[0], **members)
            return self.expect("subscribed", topic=topics[0])
        self.send(type="subscribe", topics=list(topics), **members)
        return [self.expect("subscribed", topic=topic) for topic in topics]

    def request(self, method, path, body=None, headers=None, **members):
        """A `request` frame and its `response`."""
        frame = {"type": "request", "id": unique("q"), "method": method, "path": path, **members}
        if body is not None:
            frame["body"] = body
        if headers is not None:
            frame["headers"] = headers
        self.send(**frame)
        return self.expect("response", id=frame["id"])

    def pipeline(self, frames, window=50, kind=None):
        """Sends frames with ids, never more than `window` unanswered (limits.ws_requests is 64 by
        default).

        Returns the answers in the order of the frames; each must be of this kind when one is given.
        """
        frames, answers, sent = list(frames), [], 0
        while len(answers) < len(frames):
            batch = frames[sent:len(answers) + window]
            if batch:
                self.send_many(batch)
                sent += len(batch)
            for frame in frames[len(answers):sent]:
                answer = self.expect(id=frame["id"])
                if kind and answer.get("type") != kind:
                    raise AssertionError(f"{frame} is answered by {answer}")
                answers.append(answer)
        return answers

    # -- the end

    def close_code(self, patience=PATIENCE):
        """Waits for the end of the connection; (code, reason), code None when no close frame came.
        """
        end = time.monotonic() + patience
        while not self.closed:
            frame = self._next(end - time.monotonic())
            if frame is None:
                raise AssertionError(f"the broker did not close the connection in {patience:g} s")
            if frame is not self.CLOSED:
                self.pending.append(frame)
        wait_until(lambda: self.socket.closed, "the closing handshake")
        return self.socket.close_code, self.socket.close_reason

    def close(self):
        try:
            _Loop.run(self.socket.close())
        except Exception:  # the connection may be gone already; that is what the caller wants
            pass


class Frame(dict):
    """A frame and the time it came."""

    at = 0.0


def message_of(frame):
    """The Message in a `message`, `ack` or `event` frame.

    wire.md has a Message with a `type` of its own (text, image) inside frames that have a `type`
    too, and does not say where it goes; nested under `message` or `data`, or flat beside the
    frame's own members, are accepted.
    """
    for member in ("message", "data"):
        if isinstance(frame.get(member), dict):
            return frame[member]
    return frame


class RawWs:
    """A WebSocket connection by hand, for what a library refuses to send."""

    TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

    def __init__(self, broker, token=None, subprotocol="postern.v1.json", receive_buffer=None,
                 patience=PATIENCE, path="/ws", headers=(), extensions=None):
        """extensions: what is offered; a compressed frame is inflated and `packed` says so."""
        self.raw = RawHttp(broker.http, patience, receive_buffer)
        self.packed = False
        key = base64.b64encode(random.randbytes(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {broker.http[0]}:{broker.http[1]}",
                 "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}",
                 "Sec-WebSocket-Version: 13"]
        if subprotocol:
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if extensions:
            lines.append(f"Sec-WebSocket-Extensions: {extensions}")
        lines += headers
        self.raw.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        status, self.headers = self.raw.head()
        if status != 101:
            self.raw.close()
            raise AssertionError(f"the upgrade was answered with {status}")
        accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        if self.headers.get("Sec-WebSocket-Accept") != base64.b64encode(accept).decode():
            raise AssertionError("Sec-WebSocket-Accept is wrong")
        self.extensions = self.headers.get("Sec-WebSocket-Extensions")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.raw.close()

    @staticmethod
    def pack(opcode, payload=b"", fin=True, masked=True, reserved=0, length_bytes=None):
        """The bytes of one frame; length_bytes forces a longer encoding of the length than needed.
        """
        first = (0x80 if fin else 0) | reserved << 4 | opcode
        mask_bit = 0x80 if masked else 0
        size = len(payload)
        if length_bytes is None:
            length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
        if length_bytes == 0:
            head = struct.pack("!BB", first, mask_bit | size)
        elif length_bytes == 2:
            head = struct.pack("!BBH", first, mask_bit | 126, size)
        else:
            head = struct.pack("!BBQ", first, mask_bit | 127, size)
        if not masked:
            return head + payload
        key = random.randbytes(4)
        pad = (key * (size // 4 + 1))[:size]
        body = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
        return head + key + body

    def send(self, opcode, payload=b"", **how):
        self.raw.send(self.pack(opcode, payload, **how))

    def send_json(self, **frame):
        self.send(self.TEXT, json.dumps(frame).encode())

    def frame(self):
        """(opcode, payload) of the next frame from the broker, which must be unfragmented and
        unmasked.
        """
        first, second = self.raw._exactly(2)
        if first & (0x30 if self.extensions else 0x70):
            raise AssertionError("the broker set a reserved bit")
        if second & 0x80:
            raise AssertionError("the broker masked a frame")
        size = second & 0x7F
        if size == 126:
            size = struct.unpack("!H", self.raw._exactly(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self.raw._exactly(8))[0]
        payload = self.raw._exactly(size)
        self.packed = bool(first & 0x40)
        if self.packed:
            payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        return first & 0x0F, payload

    def json(self, kind=None):
        """The next text frame (of this type), control frames and others passed over."""
        while True:
            opcode, payload = self.frame()
            if opcode == self.CLOSE:
                raise EOFError(f"closed: {payload!r}")
            if opcode == self.TEXT:
                frame = json.loads(payload)
                if kind is None or frame.get("type") == kind:
                    return frame

    def close_frame(self):
        """(code, reason) of the close frame that must come; what comes before it is passed over."""
        while True:
            opcode, payload = self.frame()
            if opcode == self.CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else None
                return code, payload[2:]


# ---- ZeroMQ --------------------------------------------------------------------------------------


class Zmq:
    """Sockets of one context; everything is closed without lingering."""

    def __init__(self):
        self.context = zmq.Context()
        self.sockets = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for s in self.sockets:
            s.close(linger=0)
        self.context.term()

    def socket(self, kind, endpoint, **options):
        s = self.context.socket(kind)
        s.linger = 0
        for name, value in options.items():
            setattr(s, name, value)
        s.connect(endpoint)
        self.sockets.append(s)
        return s

    def req(self, endpoint):
        return self.socket(zmq.REQ, endpoint)

    def dealer(self, endpoint, **options):
        return self.socket(zmq.DEALER, endpoint, **options)

    def sub(self, endpoint, *prefixes):
        s = self.socket(zmq.SUB, endpoint, rcvhwm=0)
        for prefix in prefixes or ("",):
            s.subscribe(prefix)
        return s


def zmq_receive(s, patience=PATIENCE):
    """The parts of the next message; fails when none comes."""
    if not s.poll(int(patience * 1000)):
        raise AssertionError(f"no ZeroMQ message in {patience:g} s")
    return s.recv_multipart()


def zmq_decode(body):
    """JSON or msgpack, told apart by the first byte: wire.md 3."""
    return json.loads(body) if body[:1] == b"{" else msgpack.unpackb(body)


def zmq_ask(req, frame, encoding="json"):
    """A frame over REQ and its answer, which must be in the encoding of the request."""
    req.send(msgpack.packb(frame) if encoding == "msgpack" else json.dumps(frame).encode())
    parts = zmq_receive(req)
    if len(parts) != 1:
        raise AssertionError(f"a reply of {len(parts)} parts: {parts!r}")
    is_json = parts[0][:1] == b"{"
    if is_json != (encoding == "json"):
        raise AssertionError(f"the reply is not in {encoding}: {parts[0]!r}")
    return zmq_decode(parts[0])


def zmq_event(sub, patience=PATIENCE):
    """The next event of a SUB socket: frames `[topic][msgpack event]`, wire.md 3."""
    parts = zmq_receive(sub, patience)
    if len(parts) != 2:
        raise AssertionError(f"an event of {len(parts)} parts: {parts!r}")
    return parts[0].decode("utf-8"), msgpack.unpackb(parts[1])


def zmq_settle(broker, sub, topic, token):
    """Publishes probes on `topic` until one comes out of `sub`; then reads up to the last of them.
    """
    sent, end = 0, time.monotonic() + PATIENCE
    seen = -1
    while seen < 0:
        if time.monotonic() > end:
            raise AssertionError(f"no probe on {topic} reached the SUB socket")
        reply = broker.call("POST", f"/api/v1/topics/{topic}", {"probe": sent}, token=token)
        if reply.status != 202:
            raise AssertionError(f"publishing a probe: {reply}")
        sent += 1
        if sub.poll(50):
            seen = zmq_event(sub)[1]["data"]["probe"]
    while seen < sent - 1:
        seen = zmq_event(sub)[1]["data"]["probe"]


# ---- unittest ------------------------------------------------------------------------------------


def show_stderr(name, broker):
    """Prints what the broker of a failed test said."""
    sys.stderr.write(f"---- {name}: standard error of the broker, last part\n"
                     f"{broker.stderr()}----\n")


class SystemTest(unittest.TestCase):
    """One broker per class.  Its standard error is printed after a failed test."""

    env = {}
    args = ()
    config = None
    broker = None
    longMessage = True
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        cls.broker = Broker(env=cls.env, args=cls.args, config=cls.config)
        try:
            cls.broker.start()
            cls.prepare()
        except BaseException:
            sys.stderr.write(cls.broker.stderr())
            cls.broker.kill()
            cls.broker.remove()
            raise

    @classmethod
    def prepare(cls):
        """Accounts and the like that the class's tests share."""

    @classmethod
    def tearDownClass(cls):
        try:
            cls.broker.stop()
        finally:
            cls.broker.remove()

    def run(self, result=None):
        result = result or self.defaultTestResult()
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before and self.broker is not None:
            show_stderr(self.id(), self.broker)
        return result

    def setUp(self):
        if self.broker is not None and self.broker.process is not None:
            self.assertTrue(self.broker.alive(), "the broker died in an earlier test")

    def assertOk(self, reply, status=200):
        """wire.md 2: `{"success": true, "data": ..., "message": null}`."""
        self.assertEqual(reply.status, status, reply)
        self.assertEqual(reply.type, "application/json", reply)
        envelope = reply.json
        self.assertIs(envelope["success"], True, reply)
        self.assertIn("data", envelope, reply)
        self.assertIn("message", envelope, reply)
        self.assertIsNone(envelope["message"], reply)
        self.assertIn("Trace-Id", reply.headers, "every response carries Trace-Id")
        return envelope["data"]

    def assertProblem(self, reply, status, *codes):
        """wire.md 2: `application/problem+json` that is at the same time the envelope's error arm.
        """
        self.assertEqual(reply.status, status, reply)
        self.assertEqual(reply.type, "application/problem+json", reply)
        problem = reply.json
        self.assertIs(problem["success"], False, reply)
        if codes:
            self.assertIn(problem["code"], codes, reply)
        self.assertEqual(problem["type"], "urn:postern:error:" + problem["code"], reply)
        self.assertEqual(problem["status"], status, reply)
        for member in ("title", "message", "traceId"):
            self.assertIsInstance(problem[member], str, f"{member} of {problem}")
            self.assertTrue(problem[member], f"{member} of {problem} is empty")
        self.assertIsInstance(problem["details"], (dict, type(None)), reply)
        self.assertIsInstance(problem["retryable"], bool, reply)
        self.assertEqual(problem["retryable"], status in (429, 502, 503), reply)
        self.assertEqual(problem["traceId"], reply.headers["Trace-Id"], reply)
        if status == 401:
            self.assertIn("Bearer", reply.headers["WWW-Authenticate"] or "", reply)
        if status in (429, 503):
            self.assertIn("Retry-After", reply.headers, reply)
        return problem

    def assertError(self, frame, *codes):
        """wire.md 3: `error` `{id?, code, message, retryable, details}`."""
        self.assertEqual(frame.get("type"), "error", frame)
        if codes:
            self.assertIn(frame["code"], codes, frame)
        self.assertIsInstance(frame["code"], str, frame)
        self.assertIsInstance(frame["message"], str, frame)
        self.assertIsInstance(frame["retryable"], bool, frame)
        self.assertIn("details", frame)
        return frame

    def assertMessage(self, message, **members):
        """wire.md 2: the members of a Message."""
        for name in ("id", "conversationId", "seq", "content", "type", "senderId", "timestamp",
                     "status"):
            self.assertIn(name, message)
        self.assertIn(message["type"], ("text", "image", "audio", "file", "system"))
        self.assertIn(message["status"], ("sending", "sent", "delivered", "read", "failed"))
        self.assertRegex(message["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
                         "RFC 3339, UTC, ms")
        for name, value in members.items():
            self.assertEqual(message[name], value, message)
        return message


def main():
    unittest.main(verbosity=2 if "-v" in sys.argv else 1)
