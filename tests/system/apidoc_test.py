#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The API documents that the broker serves, held against what it does: openapi.json and
asyncapi.json have the form they claim, every operation answers as it says, and every frame is one
of those it names.  actors/documents_test.c compares the routes and the errors.

Documents are open (clients are to ignore members they do not know); here they are closed first, so
that a member that nobody wrote down fails.
"""

import copy
import json
import os
import re
import signal
import unittest
import uuid
import zlib

import msgpack
from jsonschema import Draft202012Validator, FormatChecker, RefResolver

from harness import (ADMIN, PASSWORD, Broker, EventStream, SystemTest, Ws, Zmq, unique, wait_until,
                     zmq_ask, zmq_event, zmq_settle)

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs")
NAMES = ("openapi.json", "asyncapi.json")
BASE = "http://postern/"
METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
WITH_STATUS = {"Allow": (405,), "Retry-After": (429, 503)}  # headers of some answers only
COMPRESSED_MAX = 16 << 10


# ---- documents -----------------------------------------------------------------------------------


def read(name):
    with open(os.path.join(DOCS, name), "rb") as f:
        return f.read()


def walk(value, at="#"):
    """Every object below, with its JSON pointer."""
    if isinstance(value, dict):
        yield at, value
        for key, member in value.items():
            yield from walk(member, f"{at}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for i, member in enumerate(value):
            yield from walk(member, f"{at}/{i}")


def is_schema(node):
    return isinstance(node.get("properties"), dict) and "type" in node


class Documents:
    """Both documents, and validation against their schemas."""

    def __init__(self, texts):
        self.open = {name: json.loads(text) for name, text in texts.items()}
        closed = copy.deepcopy(self.open)
        for document in closed.values():
            for _, node in walk(document):
                if is_schema(node):
                    node.setdefault("additionalProperties", False)
        self.resolvers = {
            strict: RefResolver(BASE, {}, store={BASE + n: d for n, d in documents.items()})
            for strict, documents in ((False, self.open), (True, closed))}

    def resolve(self, name, node):
        """What a node is, or refers to."""
        while "$ref" in node:
            file, _, pointer = node["$ref"].partition("#")
            name, node = file or name, self.open[file or name]
            for key in pointer.split("/")[1:]:
                node = node[key.replace("~1", "/").replace("~0", "~")]
        return node

    def complaint(self, pointer, value, strict=True):
        """What is wrong with a value; None: nothing.  The schema is that at file#/pointer."""
        validator = Draft202012Validator({"$ref": BASE + pointer}, resolver=self.resolvers[strict],
                                         format_checker=FormatChecker())
        for error in validator.iter_errors(value):
            while error.context:  # of oneOf, the alternative that came nearest
                error = max(error.context, key=lambda e: len(e.absolute_path))
            return f"{error.json_path}: {error.message}, as {pointer} has it"
        return None

    def operations(self):
        """{operationId: (path, method, path item, operation)}"""
        return {operation["operationId"]: (path, method, item, operation)
                for path, item in self.open["openapi.json"]["paths"].items()
                for method, operation in item.items() if method in METHODS}


def pointer_of(name, *keys):
    return name + "#/" + "/".join(k.replace("~", "~0").replace("/", "~1") for k in keys)


SOURCES = Documents({name: read(name) for name in NAMES})


class FormTest(unittest.TestCase):
    """Without a broker: what the specifications ask of a document."""

    def test_references_lead_somewhere_and_components_are_used(self):
        used = set()
        for name, document in SOURCES.open.items():
            for at, node in walk(document):
                if "$ref" in node:
                    self.assertEqual(list(node), ["$ref"], f"{name}{at}: nothing stands beside it")
                    SOURCES.resolve(name, node)
                    file, _, pointer = node["$ref"].partition("#")
                    used.add((file or name) + "#" + pointer)
        for name, document in SOURCES.open.items():
            for kind, members in document["components"].items():
                for key in members if kind != "securitySchemes" else ():
                    pointer = f"{name}#/components/{kind}/{key}"
                    self.assertTrue(pointer in used, f"nobody refers to {pointer}")

    def test_schemas_are_schemas(self):
        for name, document in SOURCES.open.items():
            for at, node in walk(document):
                for key in ("schema", "payload"):
                    if isinstance(node.get(key), dict) and "/properties" not in at:
                        Draft202012Validator.check_schema(node[key])
                if is_schema(node):
                    self.assertLessEqual(set(node.get("required", ())), set(node["properties"]),
                                         name + at)
            for schema in document["components"]["schemas"].values():
                Draft202012Validator.check_schema(schema)

    def test_openapi(self):
        document = SOURCES.open["openapi.json"]
        self.assertTrue(document["openapi"].startswith("3.1."))
        operations = SOURCES.operations()
        self.assertEqual(len(operations), sum(len(METHODS & set(item))
                                              for item in document["paths"].values()))
        tags = {tag["name"] for tag in document["tags"]}
        for path, method, item, operation in operations.values():
            where = f"{method} {path}"
            parameters = [SOURCES.resolve("openapi.json", p) for p in
                          item.get("parameters", []) + operation.get("parameters", [])]
            names = [(p["in"], p["name"]) for p in parameters]
            self.assertEqual(len(names), len(set(names)), where)
            self.assertEqual({n for place, n in names if place == "path"},
                             set(re.findall(r"{(\w+)}", path)), where)
            self.assertLessEqual(set(operation["tags"]), tags, where)
            self.assertIn("default", operation["responses"], where)
            for status in set(operation["responses"]) - {"default"}:
                self.assertRegex(status, r"^[2345]\d\d$", where)

    def test_asyncapi(self):
        document = SOURCES.open["asyncapi.json"]
        self.assertTrue(document["asyncapi"].startswith("3.0."))
        carried = {name: set() for name in document["channels"]}
        for key, operation in document["operations"].items():
            self.assertIn(operation["action"], ("send", "receive"), key)
            for part in (operation, operation.get("reply")):
                for message in part["messages"] if part else ():
                    channel = part["channel"]["$ref"].rpartition("/")[2]
                    prefix, _, name = message["$ref"].rpartition("/")
                    self.assertEqual(prefix, f"#/channels/{channel}/messages", key)
                    carried[channel].add(name)
        for name, channel in document["channels"].items():
            self.assertEqual(set(channel["messages"]), carried[name],
                             f"{name}: every message has an operation")

    def test_compressed_size(self):
        for name in NAMES:
            self.assertLess(len(zlib.compress(read(name), 9)), COMPRESSED_MAX, name)


# ---- REST ----------------------------------------------------------------------------------------


class RestTest(SystemTest):
    """Each operation once as it should be asked and once as it should not."""

    env = {"POSTERN_QUEUE__MESSAGES": "2"}

    @classmethod
    def prepare(cls):
        broker = cls.broker
        cls.documents = Documents({n: broker.call("GET", "/api/v1/" + n).body for n in NAMES})
        cls.operations = cls.documents.operations()
        cls.ann, cls.bob = broker.user(household="home"), broker.user(household="home")
        cls.admin = {"token": broker.token(ADMIN)}
        cls.asked = {"good": set(), "bad": set()}

    def schema_of(self, key, status, media):
        """Pointer to the schema of an answer, and its headers."""
        path, method, _, operation = self.operations[key]
        code = str(status) if str(status) in operation["responses"] else "default"
        self.assertTrue(code != "default" or status >= 400, f"{key} does not say {status}")
        response = operation["responses"][code]
        body = self.documents.resolve("openapi.json", response)
        headers = {h: self.documents.resolve("openapi.json", v)
                   for h, v in body["headers"].items()}
        if "content" not in body:
            return None, headers
        self.assertIn(media, body["content"], f"{key} {status}")
        pointer = "openapi.json" + response["$ref"]
        media = media.replace("/", "~1")
        return f"{pointer}/content/{media}/schema", headers

    def check_answer(self, key, reply):
        schema, headers = self.schema_of(key, reply.status, reply.type)
        for name, header in headers.items():
            if reply.status in WITH_STATUS.get(name, (reply.status,)):
                self.assertIn(name, reply.headers, key)
                Draft202012Validator(header["schema"]).validate(reply.headers[name])
        if schema is None:
            self.assertEqual(reply.body, b"", key)
            return None
        value = reply.body.decode() if reply.type.startswith("text/") else \
            msgpack.unpackb(reply.body) if reply.type.endswith("msgpack") else reply.json
        self.assertIsNone(self.documents.complaint(schema, value), f"{key} {reply.status}: {value}")
        return value

    def check_request(self, key, given, body):
        """A good request is one that the document lets through."""
        _, _, item, operation = self.operations[key]
        named = {}
        for parameter in item.get("parameters", []) + operation.get("parameters", []):
            found = self.documents.resolve("openapi.json", parameter)
            named[found["name"]] = parameter["$ref"]
        for name, value in given.items():
            self.assertIn(name, named, key)
            schema = "openapi.json" + named[name] + "/schema"
            self.assertIsNone(self.documents.complaint(schema, value), key)
        if body is None:
            wanted = operation.get("requestBody", {})
            self.assertFalse(self.documents.resolve("openapi.json", wanted).get("required"), key)
        else:
            schema = ("openapi.json" + operation["requestBody"]["$ref"]
                      + "/content/application~1json/schema")
            self.assertIsNone(self.documents.complaint(schema, body), key)

    def ask(self, key, expect, who=None, body=None, method=None, headers=None, **given):
        """Asks an operation by its id; what `given` is goes where the document wants it."""
        path, documented, item, operation = self.operations[key]
        good = expect < 400
        if good:
            self.check_request(key, {**given, **(headers or {})}, body)
        self.asked["good" if good else "bad"].add(key)
        query = {k: v for k, v in given.items() if "{" + k + "}" not in path}
        for name, value in given.items():
            path = path.replace("{" + name + "}", str(value))
        if query:
            path += "?" + "&".join(f"{k}={v}" for k, v in query.items())
        servers = item.get("servers") or self.documents.open["openapi.json"]["servers"]
        admin = "servers" in item
        base = "" if admin else servers[0]["url"]
        reply = self.broker.call((method or documented).upper(), base + path,
                                 body, who and who["token"], headers,
                                 address=self.broker.admin if admin else None)
        self.assertEqual(reply.status, expect, f"{key}: {reply}")
        value = self.check_answer(key, reply)
        if good and documented == "get" and reply.type == "application/json" and key not in (
                "getOpenapi", "getAsyncapi"):
            packed = self.broker.call("GET", base + path, None, who and who["token"],
                                      {"Accept": "application/msgpack"},
                                      address=self.broker.admin if admin else None)
            self.assertEqual(packed.type, "application/msgpack", key)
            self.check_answer(key, packed)
        return value["data"] if good and isinstance(value, dict) and "data" in value else reply

    def test_every_operation(self):
        """One test, for the sake of the count at its end."""
        for part in (self.authentication, self.users, self.conversations, self.messages,
                     self.synchronisation, self.topics, self.about_the_broker,
                     self.administration):
            with self.subTest(part.__name__):
                part()
        for kind, asked in self.asked.items():
            self.assertEqual(set(self.operations) - asked, set(), f"without a {kind} request")

    def authentication(self):
        account = self.broker.user()
        login = {"username": account["username"], "password": PASSWORD}
        tokens = self.ask("login", 200, body=login)
        self.ask("login", 401, body={**login, "password": "wrong"})
        self.ask("login", 422, body={"username": 1})
        fresh = self.ask("refresh", 200, body={"refreshToken": tokens["refreshToken"]})
        self.ask("refresh", 401, body={"refreshToken": "x"})
        self.ask("logout", 200, who={"token": fresh["accessToken"]})
        self.ask("logout", 200, who=self.ann)
        self.ask("logout", 401)

    def users(self):
        self.ask("getMe", 200, who=self.ann, headers={"Request-Timeout": "5.5"})
        self.ask("getMe", 400, who=self.ann, headers={"Request-Timeout": "x"})
        tag = self.ask("patchPreferences", 200, who=self.ann, body={"theme": {"dark": True}})
        self.assertEqual(tag["preferences"], {"theme": {"dark": True}})
        reply = self.broker.call("GET", "/api/v1/users/me", token=self.ann["token"])
        self.ask("getMe", 304, who=self.ann, headers={"If-None-Match": reply.headers["ETag"]})
        self.ask("patchPreferences", 409, who=self.ann, body={}, headers={"If-Match": '"0"'})
        self.ask("patchPreferences", 422, who=self.ann, body=[1])
        self.assertEqual(len(self.ask("listFamily", 200, who=self.ann)), 2)
        self.ask("listFamily", 401, who={"token": "x"})

    def conversations(self):
        bob, ann = {"members": [self.bob["id"]]}, self.ann
        made = self.ask("createConversation", 201, who=ann, body={"title": "t", **bob},
                        headers={"Idempotency-Key": unique("k")})
        self.ask("createConversation", 422, who=ann, body={"title": "t" * 201})
        self.ask("listConversations", 200, who=ann, limit=1)
        self.ask("listConversations", 422, who=ann, limit=0)
        self.ask("getConversation", 200, who=ann, id=made["id"])
        self.ask("getConversation", 200, who=ann, id="current")
        self.ask("getConversation", 404, who=self.admin, id=made["id"])
        self.ask("patchConversation", 200, who=ann, id=made["id"], body={"title": None})
        self.ask("patchConversation", 409, who=ann, id=made["id"], body={"title": "u"},
                 headers={"If-Match": '"0"'})
        self.ask("removeMembers", 403, who=self.bob, id=made["id"], body={"userId": ann["id"]})
        self.ask("removeMembers", 200, who=ann, id=made["id"], body={"userId": self.bob["id"]})
        self.ask("addMembers", 200, who=ann, id=made["id"], body=bob)
        self.ask("addMembers", 422, who=ann, id=made["id"], body={"members": ["nobody"]})
        self.ask("removeMembers", 200, who=ann, id=made["id"], userId=self.bob["id"])

    def messages(self):
        ann, talk = self.ann, self.broker.conversation(self.ann, self.bob)
        own = self.ask("sendMessage", 201, who=ann,
                       body={"content": "note", "conversationId": None})
        self.assertEqual(own["conversationId"], ann["id"])
        self.ask("sendMessage", 422, who=ann, body={"content": ""})
        said = self.ask("sendMessageTo", 201, who=ann, id=talk, body={
            "id": str(uuid.uuid4()), "content": "hello", "type": "file", "metadata": {"size": 1},
            "timestamp": "2020-01-31T12:00:00.000Z"})
        self.ask("sendMessageTo", 404, who=self.admin, id=talk, body={"content": "x"})
        self.ask("listMessages", 200, who=ann, id=talk, after=0, limit=10)
        self.ask("listMessages", 200, who=ann, id=talk, before=2)
        self.ask("listMessages", 422, who=ann, id=talk, after="x")
        self.ask("readMessage", 200, who=self.bob, id=said["id"])
        self.ask("readMessage", 404, who=self.admin, id=said["id"])

    def synchronisation(self):
        ann, talk = self.ann, self.broker.conversation(self.ann, self.bob)
        old = {"timestamp": "2020-01-31T12:00:00Z"}
        said = str(uuid.uuid4())
        items = [{"id": said, "kind": "message", "content": "late", "conversationId": talk},
                 {"id": unique("i"), "kind": "read", "messageId": said, "conversationId": talk},
                 {"id": unique("i"), "kind": "preferences", "preferences": {"a": 1}},
                 {"id": unique("i"), "kind": "preferences", "preferences": {"a": 2}, **old},
                 {"id": unique("i"), "kind": "preferences", "preferences": {"a": 3},
                  "policy": "reject", **old},
                 {"id": unique("i"), "kind": "conversation", "title": "new",
                  "conversationId": talk},
                 {"id": unique("i"), "kind": "conversation", "title": "x",
                  "conversationId": talk, "baseVersion": 1000000}]
        outcomes = [r["outcome"] for r in
                    self.ask("push", 200, who=ann, body={"items": items})["results"]]
        self.assertEqual(outcomes, ["applied", "applied", "applied", "superseded", "conflict",
                                    "applied", "conflict"])
        outcomes = [r["outcome"] for r in
                    self.ask("push", 200, who=ann, body={"items": items[:3]})["results"]]
        self.assertEqual(outcomes, ["duplicate"] * 3)
        reply = self.broker.call("POST", "/api/v1/sync", {"items": [{"kind": "x"}, 1]},
                                 token=ann["token"])
        self.check_answer("push", reply)
        self.assertEqual([r["outcome"] for r in reply.data["results"]], ["rejected"] * 2)
        self.ask("push", 422, who=ann, body={"items": 1})
        with Ws(self.broker, self.bob["token"]) as ws:
            ws.expect("message", id=said)
            ws.send(type="ack", conversationId=talk, seq=1)
            wait_until(lambda: self.ask("pull", 200, who=ann)["deliveries"], "a delivery mark")
        self.ask("readMessage", 200, who=self.bob, id=said)
        page = self.ask("pull", 200, who=ann)
        for part in ("conversations", "messages", "reads", "preferences"):
            self.assertTrue(page[part], part)
        self.ask("pull", 200, who=ann, since=page["next"], limit=1)
        self.ask("pull", 422, who=ann, since="x")

    def topics(self):
        ann, topic = self.ann, unique("topic")
        self.ask("publish", 202, who=ann, topic=topic, body={"a": 1}, durability="memory")
        self.ask("publish", 403, who=ann, topic="system.x", body=[1])
        self.asked["good"].add("subscribe")
        with EventStream(self.broker, topic, ann["token"]) as stream:
            self.assertEqual(stream.status, 200)
            self.assertEqual(stream.headers["Content-Type"], "text/event-stream")
            subscribed = self.streamed(stream, "Subscribed")
            self.ask("publish", 202, who=ann, topic=topic, body=["two"])
            event = self.streamed(stream, "Event")
            self.assertEqual((event["offset"], event["data"]), (subscribed["offset"] + 1, ["two"]))
        self.ask("subscribe", 401, topic=topic)
        self.ask("subscribe", 400, who=ann, topic=topic, headers={"Last-Event-ID": "x"})

    def streamed(self, stream, schema):
        """The data of the next block of a stream."""
        value = json.loads(stream.event()["data"])
        pointer = pointer_of("openapi.json", "components", "schemas", schema)
        self.assertIsNone(self.documents.complaint(pointer, value))
        return value

    def about_the_broker(self):
        self.ask("getHealth", 200)
        self.ask("getStatus", 200, who=self.ann)
        self.ask("requestUpdate", 202, who=self.admin, body={"to": "next"})
        self.ask("requestUpdate", 403, who=self.ann, body={"to": "next"})
        self.ask("getStatus", 401)
        self.ask("getHealth", 405, method="delete")
        for key in ("getOpenapi", "getAsyncapi"):
            reply = self.ask(key, 200)
            self.ask(key, 304, headers={"If-None-Match": reply.headers["ETag"]})
            self.ask(key, 405, method="post")
        for key in ("getLivez", "getReadyz", "getStartupz", "getMetrics"):
            self.ask(key, 200)
            self.ask(key, 405, method="post")

    def administration(self):
        admin, account = self.admin, {"username": unique("user"), "password": None}
        self.ask("listUsers", 200, who=admin, limit=1, after="a")
        self.ask("listUsers", 403, who=self.ann)
        self.ask("createUser", 201, who=admin, body={**account, "roles": ["user", "service"]})
        self.ask("createUser", 409, who=admin, body=account)
        self.ask("createUser", 422, who=admin, body={"username": "a b"})
        letters = self.dead_letters()
        self.ask("listDeadLetters", 422, who=admin, limit=0)
        self.ask("replayDeadLetter", 200, who=admin, id=letters[0]["id"])
        self.ask("replayDeadLetter", 404, who=admin, id=10 ** 9)
        self.ask("purgeDeadLetter", 200, who=admin, id=letters[1]["id"])
        self.ask("purgeDeadLetter", 404, who=admin, id=letters[1]["id"])
        self.ask("purgeDeadLetters", 200, who=admin)
        self.ask("purgeDeadLetters", 401)

    def dead_letters(self):
        """Two devices that fall behind their limit while they are away."""
        talk = self.broker.conversation(self.ann, self.bob)
        for device in ("one", "two"):
            Ws(self.broker, self.bob["token"], path="/ws?device=" + device).close()
        for _ in range(4):
            self.ask("sendMessageTo", 201, who=self.ann, id=talk, body={"content": "missed"})
        for device in ("one", "two"):
            with Ws(self.broker, self.bob["token"], path="/ws?device=" + device) as ws:
                ws.expect("gap")
        return wait_until(lambda: (lambda found: found if len(found) > 1 else None)(
            self.ask("listDeadLetters", 200, who=self.admin)), "two dead letters")

    def test_documents_are_served_as_they_were_written(self):
        for name in NAMES:
            for path, address in (("/api/v1/", None), ("/", None), ("/", self.broker.admin)):
                reply = self.broker.call("GET", path + name, address=address)
                self.assertEqual(reply.status, 200, reply)
                self.assertEqual(reply.body, read(name))
                self.assertEqual(reply.type, "application/json")
            head = self.broker.call("HEAD", "/api/v1/" + name)
            self.assertEqual((head.headers["ETag"], head.headers["Content-Length"]),
                             (reply.headers["ETag"], str(len(read(name)))))
            with Ws(self.broker, self.ann["token"]) as ws:
                response = ws.request("GET", "/api/v1/" + name)
            self.assertEqual(response["body"], read(name).decode())
            self.assertEqual(response["headers"]["etag"], reply.headers["ETag"])


# ---- frames --------------------------------------------------------------------------------------


class Channel:
    """Judges the frames of a channel by what the document says they may be."""

    def __init__(self, documents, name):
        self.documents, self.name, self.seen = documents, name, set()
        document = documents.open["asyncapi.json"]
        self.sides = {"in": set(), "out": set()}
        for operation in document["operations"].values():
            parts = [("in" if operation["action"] == "receive" else "out", operation)]
            if "reply" in operation:
                parts.append(("out", operation["reply"]))
            for side, part in parts:
                if part["channel"]["$ref"] == "#/channels/" + name:
                    self.sides[side] |= {m["$ref"].rpartition("/")[2] for m in part["messages"]}
        self.types = {key: message["payload"]["properties"]["type"]["const"] for key, message in
                      document["components"]["messages"].items()}

    def complaint(self, side, frame):
        """What is wrong with a frame; None: it is exactly one of the messages of its type."""
        kind = frame.get("type", "request")
        fitting, wrong = [], []
        for key in sorted(self.sides[side]):
            if self.types[key] == kind:
                pointer = pointer_of("asyncapi.json", "components", "messages", key, "payload")
                found = self.documents.complaint(pointer, frame)
                (wrong if found else fitting).append(found or key)
        self.seen |= {(side, key) for key in fitting}
        return None if len(fitting) == 1 else f"{self.name}, {side}: {frame}: {fitting} {wrong}"

    def missing(self):
        return {(side, key) for side, keys in self.sides.items() for key in keys} - self.seen


class Recorded(Ws):
    """Keeps every frame in both directions."""

    def __init__(self, *args, **kwargs):
        self.sent, self.received = [], []
        super().__init__(*args, **kwargs)

    def encode(self, frame):
        self.sent.append(frame)
        return super().encode(frame)

    def decode(self, data):
        frame = super().decode(data)
        self.received.append(frame)
        return frame


class FrameTest(unittest.TestCase):
    """A short session with every frame there is, in both directions."""

    @classmethod
    def setUpClass(cls):
        cls.broker = Broker(env={"POSTERN_QUEUE__MESSAGES": "2"}).start()
        cls.addClassCleanup(cls.broker.remove)
        cls.addClassCleanup(cls.broker.stop)
        cls.documents = Documents({n: cls.broker.call("GET", "/api/v1/" + n).body for n in NAMES})

    def setUp(self):
        self.ann, self.bob = self.broker.user(), self.broker.user()
        self.talk = self.broker.conversation(self.ann, self.bob)

    def assertFits(self, schema, value):
        pointer = pointer_of("asyncapi.json", "components", "schemas", schema)
        self.assertIsNone(self.documents.complaint(pointer, value))

    def judge(self, channel, ws):
        for side, frames in (("in", ws.sent), ("out", ws.received)):
            for frame in frames:
                if not frame.get("wrong"):
                    self.assertIsNone(channel.complaint(side, frame))

    def session(self, ws):
        """What a client does on a good day."""
        topic, conversation = unique("t"), "conversation." + self.talk
        ws.send(type="auth", token=self.ann["token"], device="d", id=1)
        welcome = ws.expect("welcome")
        at = ws.subscribe(topic, policy="latest", id="s")
        ws.subscribe(unique("t") + ".*", conversation, "user." + self.ann["id"])
        ws.send(type="publish", topic=topic, data={"n": 1}, id=2, durability=None)
        ws.expect("ack", id=2)
        ws.expect("event", topic=topic)
        ws.send(type="message", content="flat", conversationId=self.talk, id=str(uuid.uuid4()))
        stored = ws.expect("ack")["message"]
        self.assertFits("ConversationEvent", ws.expect("event", topic=conversation)["data"])
        ws.send(type="message", message={"content": "whole", "type": "file"}, id=3)
        ws.expect("ack", id=3)
        ws.request("GET", "/api/v1/users/me", timeoutMs=1000, headers={"Prefer": "x"})
        ws.request("GET", "/nowhere")
        ws.fence()
        ws.send(type="unsubscribe", topic=topic, id=4)
        ws.expect("unsubscribed", id=4)
        return welcome, {topic: {"epoch": at["epoch"], "offset": at["offset"]}}, stored

    def test_websocket(self):
        channel = Channel(self.documents, "websocket")
        for encoding in ("json", "msgpack"):
            with Recorded(self.broker, encoding=encoding) as ws:
                welcome, positions, stored = self.session(ws)
                self.judge(channel, ws)
            with Recorded(self.broker, encoding=encoding) as ws:
                ws.send(type="resume", session=welcome["session"], positions=positions, device="d")
                ws.expect("subscribed")
                self.judge(channel, ws)
            self.others_hear_of_it(channel, encoding, stored)
        self.what_is_refused(channel)
        self.goodbye(channel)
        self.assertEqual(channel.missing(), set())

    def others_hear_of_it(self, channel, encoding, stored):
        """The other member: what waited, with a gap; and the sender, of the acknowledgement."""
        for _ in range(4):
            self.broker.call("POST", f"/api/v1/conversations/{self.talk}/messages",
                             {"content": "missed"}, token=self.ann["token"])
        with Ws(self.broker, self.ann["token"]) as ann, \
                Recorded(self.broker, self.bob["token"], encoding=encoding) as ws:
            ann.subscribe("user." + self.ann["id"])
            ws.expect("gap")
            last = ws.expect("message")["seq"]
            ws.send(type="ack", conversationId=self.talk, seq=last)
            self.assertFits("UserEvent", ann.expect("event")["data"])
            self.broker.call("PATCH", "/api/v1/users/me/preferences", {encoding: last},
                             token=self.ann["token"])
            ann.expect("event")
            self.judge(channel, ws)

    def what_is_refused(self, channel):
        """Every frame without what it needs; the document does not let it through either."""
        wrong = [{"type": "subscribe"}, {"type": "subscribe", "topic": "t", "since": {"epoch": ""}},
                 {"type": "subscribe", "topic": "t", "policy": "never"}, {"type": "unsubscribe"},
                 {"type": "publish", "topic": "t"}, {"type": "publish", "topic": "", "data": 1},
                 {"type": "message"}, {"type": "message", "content": "x", "messageType": 1},
                 {"type": "ack", "seq": 1}, {"type": "ack", "conversationId": "x", "seq": -1},
                 {"type": "request", "method": "GET"}, {"type": "request", "path": "/health"},
                 {"type": "ping", "id": []}, {"type": "auth"}, {"type": "resume"}, {"type": "x"},
                 {"type": "auth", "token": "t", "device": "d" * 65}]
        with Recorded(self.broker, self.ann["token"]) as ws:
            for frame in wrong:
                ws.send(**frame)
                ws.expect("error")
                self.assertIsNotNone(channel.complaint("in", frame), frame)
            ws.sent.clear()
            self.judge(channel, ws)

    def goodbye(self, channel):
        with Recorded(self.broker, self.ann["token"]) as ws:
            self.broker.send_signal(signal.SIGTERM)
            ws.expect("drain")
            self.judge(channel, ws)


class ZeroMqTest(SystemTest):
    """The same on the two sockets of ZeroMQ."""

    @classmethod
    def prepare(cls):
        cls.documents = Documents({n: cls.broker.call("GET", "/api/v1/" + n).body for n in NAMES})
        cls.ann = cls.broker.user()

    def test_requests(self):
        channel, token = Channel(self.documents, "requests"), self.ann["token"]
        right = [{"type": "ping", "timestamp": [1]}, {"method": "GET", "path": "/health", "id": 1},
                 {"type": "request", "method": "GET", "path": "/users/me", "token": token},
                 {"type": "request", "method": "GET", "path": "/users/me"},
                 {"type": "publish", "topic": "t", "data": 1, "token": token, "id": "p"},
                 {"type": "message", "content": "x", "token": token, "id": str(uuid.uuid4())},
                 {"type": "ack", "conversationId": "current", "seq": 1, "device": "d",
                  "token": token}]
        with Zmq() as sockets:
            req = sockets.req(self.broker.zmq)
            for encoding in ("json", "msgpack"):
                for frame in right:
                    self.assertIsNone(channel.complaint("in", frame))
                    answer = zmq_ask(req, frame, encoding)
                    self.assertIsNone(channel.complaint("out", answer))
                    self.assertNotEqual(answer["type"], "error", answer)
                for frame in ({"type": "publish", "data": 1, "token": token}, {"type": "x"},
                              {"type": "subscribe", "topic": "t", "token": token},
                              {"type": "resume", "session": "x", "token": token}):
                    self.assertIsNotNone(channel.complaint("in", frame), frame)
                    answer = zmq_ask(req, frame, encoding)
                    self.assertIsNone(channel.complaint("out", answer))
                    self.assertEqual(answer["type"], "error", answer)
        self.assertEqual(channel.missing(), set())

    def test_the_broker_knows_the_same_frames(self):
        """It lists them for whoever sends another."""
        with Zmq() as sockets:
            answer = zmq_ask(sockets.req(self.broker.zmq), {"type": "x"})
        known = answer["message"].partition("known:")[2].split()
        websocket = Channel(self.documents, "websocket")
        self.assertEqual(set(known), {websocket.types[key] for key in websocket.sides["in"]})

    def test_events(self):
        channel = Channel(self.documents, "events")
        with Zmq() as sockets:
            sub = sockets.sub(self.broker.zmq_events, "t.", "system.")
            zmq_settle(self.broker, sub, "t.probe", self.ann["token"])
            self.broker.call("POST", "/api/v1/topics/t.one", {"a": 1}, token=self.ann["token"])
            self.assertIsNone(channel.complaint("out", zmq_event(sub)[1]))
            self.broker.call("POST", "/api/v1/system/update", {"to": "2"},
                             token=self.broker.token())
            event = zmq_event(sub)[1]
            self.assertIsNone(channel.complaint("out", event))
            pointer = pointer_of("asyncapi.json", "components", "schemas", "SystemUpdate")
            self.assertIsNone(self.documents.complaint(pointer, event["data"]))
        self.assertEqual(channel.missing(), set())


if __name__ == "__main__":
    unittest.main()
