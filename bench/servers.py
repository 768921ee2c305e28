# SPDX-License-Identifier: Apache-2.0
"""Servers that a benchmark starts, pins to cores, and stops: brokers of our own and their peers.

Each has a temporary directory, a port that the system chose, and dies with whoever started it.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("POSTERN_BIN_DIR") or os.path.join(HERE, "..", "build")
POSTERN = os.path.join(BUILD, "postern")
PATIENCE_S = 60
LIBC = ctypes.CDLL(None)


def end_on_term():
    """SIGTERM ends this program like an error: what it runs is ended, its directories are removed."""
    def end(number, _):
        signal.signal(number, signal.SIG_IGN)  # once is enough, and nobody interrupts the tidying
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, end)


def die_with_parent(cores=None, realtime=False):
    """Between fork and exec: whoever ends this program by force ends what it runs.  cores, realtime: as of
    Servers.spawn()."""
    LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if cores:
        os.sched_setaffinity(0, cores)
    if realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def realtime_allowed():
    """Whether what we start may have real-time priority: tried on ourselves, for a moment."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


def check_writable(parser, option, path):
    """That a file can be written is found out before hours of measuring; "-" and None are no files."""
    try:
        if path not in (None, "-"):
            open(path, "a", encoding="utf-8").close()
    except OSError as e:
        parser.error(f"{option}: {e.strerror}: {path}")


def wait_for(what, condition, patience=PATIENCE_S):
    end = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > end:
            sys.exit(f"bench: waited {patience} s in vain for {what}")
        time.sleep(0.01)
    return value


def accepts(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def configured(source, directory, **values):
    """The configuration `source` in `directory`, with its @PLACES@ filled in."""
    with open(source, encoding="utf-8") as f:
        text = f.read()
    for key, value in {"DIR": directory, **values}.items():
        text = text.replace(f"@{key}@", str(value))
    path = os.path.join(directory, os.path.basename(source))
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def without_postern(**more):
    """The environment without any setting of the person who measures."""
    return {k: v for k, v in os.environ.items() if not k.startswith("POSTERN_")} | more


def program(name):
    """Of a package; some are installed where only root's PATH looks."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        sys.exit(f"bench: {name} is not installed; ./dev bench peers installs it")
    return path


def allow_files(n):
    """Open files for this process and its children; as many as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n if hard == resource.RLIM_INFINITY else min(n, hard), hard))


class Servers:
    """Processes by name, all in directories of their own below one."""

    def __init__(self, name, directory=None):
        self.root = tempfile.mkdtemp(prefix=f"postern-{name}-", dir=directory)
        self.processes = {}

    def directory(self, name):
        path = os.path.join(self.root, name)
        os.makedirs(path, exist_ok=True)
        return path

    def spawn(self, name, *argv, cores=None, realtime=False, **how):
        """cores: those it may run on; None: all.  realtime: at the least real-time priority, before all usual work,
        and nobody of the same priority takes a core from it before it sleeps."""
        self.processes[name] = subprocess.Popen(argv, preexec_fn=lambda: die_with_parent(cores, realtime), **how)
        return self.processes[name]

    def listening(self, name, port, *argv, **how):
        """spawn(), and wait until it accepts; False: it ended, as when the port was taken meanwhile."""
        with open(os.path.join(self.directory(name), "log"), "ab") as log:
            process = self.spawn(name, *argv, stdout=log, stderr=log, **how)
        return wait_for(name, lambda: process.poll() is not None or accepts(port)) and process.poll() is None

    def stop(self, name):
        process = self.processes.pop(name, None)
        if process is not None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self):
        for name in list(self.processes):
            self.stop(name)
        shutil.rmtree(self.root, ignore_errors=True)

    def postern(self, name, *flags, cores=None, realtime=False):
        """Starts a broker; returns what it listens on, and a token."""
        d = os.path.join(self.directory(name), "data")
        env = without_postern(POSTERN_ADMIN_PASSWORD="bench-only-password")
        process = self.spawn(name, POSTERN, "run", "--print-listen", "--data", d, "--listen.http=127.0.0.1:0",
                             "--listen.admin=127.0.0.1:0", "--log.level=error", *flags, cores=cores,
                             realtime=realtime, env=env, stdout=subprocess.PIPE)
        line = process.stdout.readline()
        if not line:
            sys.exit("bench: the broker did not start; its error is above")
        listen = json.loads(line)
        listen["token"] = subprocess.run([POSTERN, "token", "admin", "--ttl", "12h", "--data", d], check=True, env=env,
                                         capture_output=True, text=True).stdout.strip()
        return listen
