#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The command line as wire.md section 5 promises it: what is printed where, and with which exit code."""
import base64
import json
import os
import pathlib
import pty
import re
import select
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
POSTERN = os.environ.get("POSTERN_BIN", str(ROOT / "build" / "postern"))


def clean_environment(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("POSTERN_")}
    env.update(extra or {})
    return env


class Cli(unittest.TestCase):
    def setUp(self):
        self.room = tempfile.TemporaryDirectory(prefix="postern-cli-")
        self.addCleanup(self.room.cleanup)
        self.data = os.path.join(self.room.name, "data")

    def postern(self, *args, stdin="", env=None, data=True):
        command = [POSTERN, *args] + (["--data", self.data] if data else [])
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60,
                              env=clean_environment(env), cwd=self.room.name)

    def one_line(self, result, code, *parts):
        self.assertEqual(result.returncode, code, result)
        self.assertEqual(result.stdout, "", "errors do not go to standard output")
        self.assertEqual(result.stderr.count("\n"), 1, "one line: %r" % result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)

    def file(self, name, text):
        path = os.path.join(self.room.name, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path


class Usage(Cli):
    def test_version(self):
        result = self.postern("version", data=False)
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stdout, r"\Apostern \d+\.\d+\.\d+ \(\S+\)\n\Z")

    def test_help(self):
        for args in (["--help"], ["-h"], ["help"], ["run", "--help"], ["user", "--help"], ["token", "--help"],
                     ["user", "add", "--help"]):
            result = self.postern(*args, data=False)
            self.assertEqual((result.returncode, result.stderr), (0, ""), args)
            self.assertIn("usage: postern", result.stdout)

    def test_wrong_usage_is_2_and_suggests(self):
        self.one_line(self.postern(data=False), 2, "run", "--help")
        self.one_line(self.postern("rnu", data=False), 2, "rnu", "did you mean run")
        self.one_line(self.postern("run", "--dta", "x", data=False), 2, "--dta", "--data")
        self.one_line(self.postern("run", "--lisen.http=x", data=False), 2, "--listen.http")
        self.one_line(self.postern("run", "extra", data=False), 2, "extra")
        self.one_line(self.postern("run", "--set", "nonsense", data=False), 2, "KEY=VALUE")
        self.one_line(self.postern("run", "--set", "listen.htp=x", data=False), 2, "listen.http")
        self.one_line(self.postern("run", "--config", data=False), 2, "needs a value")
        self.one_line(self.postern("run", "--print-listen=yes", data=False), 2, "no value")
        self.one_line(self.postern("user", data=False), 2, "add")
        self.one_line(self.postern("user", "lst", data=False), 2, "did you mean user list")
        self.one_line(self.postern("user", "add"), 2, "NAME")
        self.one_line(self.postern("user", "add", "a", "b"), 2, "b")
        self.one_line(self.postern("user", "add", "a", "--role", "admn"), 2, "did you mean admin")
        self.one_line(self.postern("token"), 2, "NAME")
        self.one_line(self.postern("token", "a", "--ttl", "soon"), 2, "--ttl")
        self.one_line(self.postern("version", "--loud", data=False), 2, "--loud")


class Config(Cli):
    def test_default_config_is_accepted(self):
        default = self.postern("default-config", data=False)
        self.assertEqual((default.returncode, default.stderr), (0, ""))
        path = self.file("default.yaml", default.stdout)
        check = self.postern("check-config", "--config", path, data=False)
        self.assertEqual((check.returncode, check.stdout, check.stderr), (0, "ok\n", ""))

    def test_bad_configuration_is_78(self):
        path = self.file("bad.yaml", "listen:\n  htpp: 127.0.0.1:1\n")
        self.one_line(self.postern("check-config", "--config", path, data=False), 78, ":2:", "listen.htpp",
                      "did you mean listen.http?")
        for command in (["run"], ["token", "x"], ["user", "list"], ["check-config"]):
            self.one_line(self.postern(*command, "--config", path), 78, "listen.http")
        self.one_line(self.postern("check-config", "--config", "/nonexistent.yaml", data=False), 78,
                      "/nonexistent.yaml")
        self.one_line(self.postern("check-config", "--limits.body=huge", data=False), 78, "limits.body", "1MiB")
        self.one_line(self.postern("check-config", "--workers", "99", data=False), 78, "workers", "64")

    def test_environment(self):
        self.one_line(self.postern("check-config", env={"POSTERN_LISTEN__HTPP": "x"}, data=False), 78,
                      "POSTERN_LISTEN__HTTP")
        self.one_line(self.postern("check-config", env={"POSTERN_LISTEN__HTTP": "nope"}, data=False), 78,
                      "HOST:PORT")
        path = self.file("bad.yaml", "x: 1\n")
        self.one_line(self.postern("check-config", env={"POSTERN_CONFIG": path}, data=False), 78, "bad.yaml:1")
        good = self.postern("check-config", env={"POSTERN_LOG__LEVEL": "debug", "POSTERN_WORKERS": ""}, data=False)
        self.assertEqual((good.returncode, good.stdout), (0, "ok\n"))

    def test_flags_win(self):
        path = self.file("c.yaml", "log:\n  level: loud\n")
        self.one_line(self.postern("check-config", "--config", path, "--log.level=info", data=False), 78, "loud")
        result = self.postern("check-config", "--set", "log.level=info", env={"POSTERN_LOG__LEVEL": "warn"},
                              data=False)
        self.assertEqual(result.returncode, 0)


class Accounts(Cli):
    def test_add_list_passwd(self):
        secret = self.file("secret", "correct horse battery\n")
        result = self.postern("user", "add", "ann", "--role", "user", "--role", "admin", "--household", "home",
                              "--password-file", secret)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(self.postern("user", "add", "bob", stdin="another password\n").returncode, 0)
        self.one_line(self.postern("user", "add", "ann", stdin="another password\n"), 1, "ann")
        listed = self.postern("user", "list")
        self.assertEqual((listed.returncode, listed.stderr), (0, ""))
        lines = listed.stdout.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertRegex(lines[1], r"^ann\s+\S+\s+user,admin\s+home\s+\d{4}-\d\d-\d\dT")
        self.assertRegex(lines[2], r"^bob\s+\S+\s+user\s+-\s")
        self.assertNotIn("argon2", listed.stdout)
        self.assertEqual(self.postern("user", "passwd", "bob", stdin="changed password\n").returncode, 0)
        self.one_line(self.postern("user", "passwd", "eve", stdin="changed password\n"), 1, "eve", "user list")

    def test_bad_passwords_and_names(self):
        self.one_line(self.postern("user", "add", "ann", stdin=""), 1, "password")
        self.one_line(self.postern("user", "add", "ann", stdin="\n"), 1, "password")
        self.one_line(self.postern("user", "add", "ann", stdin="x" * 300 + "\n"), 1, "password")
        self.one_line(self.postern("user", "add", "ann", "--password-file", "/nonexistent"), 1, "/nonexistent")
        self.one_line(self.postern("user", "add", "a b", stdin="correct horse\n"), 1, "a b")
        self.one_line(self.postern("user", "add", "ann", "--household", "a b", stdin="correct horse\n"), 1,
                      "household")
        self.assertEqual(len(self.postern("user", "list").stdout.splitlines()), 1)

    def test_files_are_private(self):
        self.postern("user", "add", "ann", stdin="correct horse\n")
        self.postern("token", "ann")
        self.assertEqual(os.stat(self.data).st_mode & 0o777, 0o700)
        self.assertEqual(os.stat(os.path.join(self.data, "postern.db")).st_mode & 0o777, 0o600)
        key = os.path.join(self.data, "keys", "token.key")
        self.assertEqual(os.stat(key).st_mode & 0o777, 0o600)
        os.chmod(key, 0o644)
        self.one_line(self.postern("token", "ann"), 1, "chmod 600")

    def test_password_is_asked_for_without_echo(self):
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(POSTERN, [POSTERN, "user", "add", "ann", "--data", self.data], clean_environment())
        seen = b""
        deadline = time.monotonic() + 30
        for prompt in (b"Password: ", b"Again: "):
            while prompt not in seen and time.monotonic() < deadline:
                if select.select([fd], [], [], 1)[0]:
                    seen += os.read(fd, 1000)
            self.assertIn(prompt, seen)
            os.write(fd, b"correct horse\n")
        while True:
            try:
                chunk = os.read(fd, 1000)
            except OSError:  # the other side of the terminal is gone
                break
            if not chunk:
                break
            seen += chunk
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0, seen)
        os.close(fd)
        self.assertNotIn(b"correct horse", seen)

    def test_token(self):
        self.postern("user", "add", "ann", "--role", "user", stdin="correct horse\n")
        result = self.postern("token", "ann", "--ttl", "90s")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertRegex(result.stdout, r"\A[\w-]+\.[\w-]+\.[\w-]{43}\n\Z")
        part = result.stdout.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        self.assertEqual(claims["name"], "ann")
        self.assertEqual(claims["roles"], ["user"])
        self.assertEqual(int(claims["exp"] - claims["iat"]), 90)  # rounded up to a second
        self.assertNotIn("sid", claims)
        self.one_line(self.postern("token", "bob"), 1, "bob", "user list")

    def test_another_writer_is_waited_for(self):
        self.postern("user", "list")
        other = sqlite3.connect(os.path.join(self.data, "postern.db"), isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.5, lambda: other.execute("COMMIT"))
        release.start()
        result = self.postern("user", "add", "ann", stdin="correct horse\n")
        release.join()
        other.close()
        self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_data_that_cannot_be_used_is_1(self):
        self.data = "/dev/null/x"
        self.one_line(self.postern("user", "list"), 1, "--data")


class Running(Cli):
    def start(self, *args, env=None):
        broker = subprocess.Popen(
            [POSTERN, "run", "--data", self.data, "--listen.http=127.0.0.1:0", "--listen.admin=127.0.0.1:0",
             "--print-listen", *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(env))
        self.addCleanup(self.stop, broker)
        first = broker.stdout.readline()
        self.assertTrue(first, broker.stderr.read() if broker.poll() is not None else "no first line")
        return broker, json.loads(first)

    def stop(self, broker):
        if broker.poll() is None:
            broker.send_signal(signal.SIGTERM)
            try:
                broker.wait(20)
            except subprocess.TimeoutExpired:
                broker.kill()
                broker.wait()
        broker.stdout.close()
        broker.stderr.close()

    def address(self, listen):
        found = re.search(r"127\.0\.0\.1:\d+", json.dumps(listen.get("http", listen)))
        self.assertIsNotNone(found, listen)
        self.assertNotIn(":0", found.group(0)[-2:])
        return "http://" + found.group(0)

    def call(self, base, method, path, body=None, token=None):
        request = urllib.request.Request(base + path, method=method,
                                         data=None if body is None else json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", "Bearer " + token)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as e:
            return e.code, json.loads(e.read())

    def login(self, base, name, password):
        return self.call(base, "POST", "/api/v1/auth/login", {"username": name, "password": password})

    def test_accounts_and_tokens_beside_a_running_broker(self):
        _, listen = self.start(env={"POSTERN_ADMIN_PASSWORD": "administration"})
        base = self.address(listen)
        self.assertEqual(self.postern("user", "add", "ann", stdin="correct horse\n").returncode, 0)
        status, body = self.login(base, "ann", "correct horse")
        self.assertEqual((status, body["success"]), (200, True))
        pair = body["data"]
        self.assertEqual((pair["tokenType"], pair["expiresIn"]), ("Bearer", 900))
        token = self.postern("token", "ann").stdout.strip()
        for good in (token, pair["accessToken"]):
            status, body = self.call(base, "GET", "/api/v1/users/me", token=good)
            self.assertEqual((status, body["data"]["username"]), (200, "ann"))
        self.assertEqual(self.login(base, "ann", "wrong horse")[0], 401)
        self.assertEqual(self.postern("user", "passwd", "ann", stdin="battery staple\n").returncode, 0)
        self.assertEqual(self.login(base, "ann", "correct horse")[0], 401)
        self.assertEqual(self.login(base, "ann", "battery staple")[0], 200)
        self.assertEqual(self.login(base, "admin", "administration")[0], 200)

    def test_refresh_logout_and_reuse(self):
        self.postern("user", "add", "ann", stdin="correct horse\n")
        _, listen = self.start("--workers=2")
        base = self.address(listen)
        me = lambda token: [self.call(base, "GET", "/api/v1/users/me", token=token)[0] for _ in range(6)]
        first = self.login(base, "ann", "correct horse")[1]["data"]
        status, body = self.call(base, "POST", "/api/v1/auth/refresh", {"refreshToken": first["refreshToken"]})
        self.assertEqual(status, 200)
        second = body["data"]
        self.assertEqual(me(second["accessToken"]), [200] * 6)
        status, body = self.call(base, "POST", "/api/v1/auth/refresh", {"refreshToken": first["refreshToken"]})
        self.assertEqual((status, body["code"]), (401, "unauthenticated"))
        self.assertEqual(me(second["accessToken"]), [401] * 6, "on every worker, at once")
        third = self.login(base, "ann", "correct horse")[1]["data"]
        self.assertEqual(me(third["accessToken"]), [200] * 6)
        status, body = self.call(base, "POST", "/api/v1/auth/logout", {}, token=third["accessToken"])
        self.assertEqual((status, body["data"]), (200, None))
        self.assertEqual(me(third["accessToken"]), [401] * 6)
        self.assertEqual(self.call(base, "POST", "/api/v1/auth/refresh",
                                   {"refreshToken": third["refreshToken"]})[0], 401)

    def test_revocation_survives_a_restart(self):
        self.postern("user", "add", "ann", stdin="correct horse\n")
        broker, listen = self.start()
        base = self.address(listen)
        pair = self.login(base, "ann", "correct horse")[1]["data"]
        kept = self.login(base, "ann", "correct horse")[1]["data"]
        self.assertEqual(self.call(base, "POST", "/api/v1/auth/logout", {}, token=pair["accessToken"])[0], 200)
        self.stop(broker)
        _, listen = self.start()
        base = self.address(listen)
        self.assertEqual(self.call(base, "GET", "/api/v1/users/me", token=pair["accessToken"])[0], 401)
        self.assertEqual(self.call(base, "GET", "/api/v1/users/me", token=kept["accessToken"])[0], 200)

    def test_first_start_shows_a_password_that_works(self):
        broker, listen = self.start()
        base = self.address(listen)
        broker.send_signal(signal.SIGTERM)
        out, err = broker.communicate(timeout=20)
        found = re.search(r"password (\S{16,})", out + err)
        self.assertIsNotNone(found, out + err)
        for line in (out + err).splitlines():
            if line.startswith("{"):
                self.assertNotIn(found.group(1), line, "not in the log")
        _, listen = self.start()
        base = self.address(listen)
        status, body = self.login(base, "admin", found.group(1))
        self.assertEqual(status, 200)
        self.assertEqual(sorted(body["data"]["user"]["roles"]), ["admin", "user"])


if __name__ == "__main__":
    unittest.main()
