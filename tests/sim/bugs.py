#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Puts known bugs into the broker, one at a time, and checks that the simulator finds each by the oracle named here.

    tests/sim/bugs.py BUILD_DIR [NAME..]      BUILD_DIR is a build with Ninja that has made postern-sim

A bug is a replacement of text in one source file, compiled on the side and linked before the library; the sources are
not touched.  A text that is not there exactly once is an error: the bug has to follow the code.
"""
import json
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH, BATCHES = 10, 12

# name: (source, text, replacement, oracles that may speak)
BUGS = {
    "commit_is_skipped": (
        "actors/store.c", "err = store_db_commit(s->db);",
        "static unsigned turn;\n if (++turn % 4 != 0) err = store_db_commit(s->db); else store_db_rollback(s->db);",
        {"order", "exactly", "durability", "store", "liveness"}),
    "lane_reverses_jobs": (
        "runtime/lane.c", "    ptn_lane_job *fifo = NULL;\n",
        "    ptn_lane_job *fifo = NULL;\n    if (j != NULL) { l->pending = j; return; }\n", {"fifo"}),
    "wake_is_lost": (
        "runtime/worker.c", "        w->env->ops->wake(w->env, w->index);\n    }\n}\n\nvoid ptn__runq_push",
        "        if (w->wakes % 16 != 0) w->env->ops->wake(w->env, w->index);\n    }\n}\n\nvoid ptn__runq_push",
        {"liveness"}),
    "epoch_is_ignored": (
        "actors/topics.c", "return ptn_str_eq(epoch, (ptn_str){t->epoch, EPOCH_BYTES}) && offset",
        "(void)epoch; return offset", {"recovery"}),
    "event_is_leaked": (
        "actors/topics.c", "            send_event(c, s, worker, event, p);\n    ptn_buf_unref(event);",
        "            send_event(c, s, worker, event, p);", {"balance"}),
    "history_misses_one": (
        "actors/topics.c", "pack_history(&w, t, recovered ? (uint32_t)(t->offset - since_offset) : 0);",
        "pack_history(&w, t, recovered && t->offset - since_offset > 3 ? (uint32_t)(t->offset - since_offset) - 1 :"
        " recovered ? (uint32_t)(t->offset - since_offset) : 0);", {"contiguous"}),
    "refused_event_is_forgotten": (
        "actors/topics.c", "    ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);\n    resync(c, s, worker);",
        "    ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);", {"contiguous", "liveness"}),
    "short_write_resumes_wrongly": (
        "runtime/stream.c", "s->head_done += (uint32_t)n;", "s->head_done = (uint32_t)n;",
        {"wire", "content", "one"}),
    "problem_is_not_sent": (
        "protocols/frames/request.c", "            frames__send_problem(c, s, call, &e);", "            (void)0;",
        {"liveness"}),
    "mailbox_is_unbounded": (
        "runtime/send.c", "(old >> 40) < atomic_load_explicit(&s->msgs_max, memory_order_relaxed)",
        "(old >> 40) < 100000u", {"bounds"}),
    "address_decides": (
        "actors/conversation_events.c", "    /* From a timer: an ask that is made here would inherit",
        "    if (((uintptr_t)v >> 4 & 3) == 0) { ptn_timer_start(c, &v->timer, 2 * PTN_MS, catch_up_due, v); return; }\n"
        "    /* From a timer: an ask that is made here would inherit", {"determinism"}),
}


def commands(build, target):
    out = subprocess.run(["ninja", "-C", build, "-t", "commands", target], check=True, capture_output=True, text=True)
    return out.stdout.splitlines()


def compile_bug(build, name, source, text, replacement):
    """The object file of the source with the bug."""
    original = (ROOT / source).read_text()
    if original.count(text) != 1:
        raise SystemExit(f"{name}: its text is there {original.count(text)} times in {source}; the bug must follow the code")
    folder = build / "bugs"
    folder.mkdir(exist_ok=True)
    mutant = folder / f"{name}.c"
    mutant.write_text(original.replace(text, replacement))
    entry = next(e for e in json.loads((build / "compile_commands.json").read_text())
                 if e["file"] == str(ROOT / source))
    args = shlex.split(entry["command"])
    args[args.index("-o") + 1] = str(mutant) + ".o"
    args[args.index("-c") + 1] = str(mutant)
    subprocess.run([*args, "-w"], check=True, cwd=entry["directory"])
    return str(mutant) + ".o"


def link_bug(build, name, obj):
    line = commands(build, "tests/postern-sim")[-1]
    args = shlex.split(line.removeprefix(": && ").removesuffix(" && :"))
    program = str(build / "bugs" / name)
    args[args.index("-o") + 1] = program
    args.insert(next(i for i, a in enumerate(args) if a.endswith(".o")), obj)
    subprocess.run(args, check=True, cwd=build)
    return program


def hunt(program):
    """The oracle that speaks first and the seed, or None."""
    for batch in range(BATCHES):
        out = subprocess.run([program, "--seed", str(1 + batch * BATCH), "--seeds", str(BATCH)],
                             capture_output=True, text=True, cwd=ROOT).stdout
        for line in out.splitlines():
            if line.startswith("FAILED seed "):
                return line.removeprefix("FAILED seed ").split(": ", 2)
    return None


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    build = pathlib.Path(sys.argv[1]).resolve()
    missed = []
    for name in sys.argv[2:] or BUGS:
        source, text, replacement, oracles = BUGS[name]
        found = hunt(link_bug(build, name, compile_bug(build, name, source, text, replacement)))
        ok = found is not None and found[1].split()[0] in oracles
        print(f"{'found ' if ok else 'MISSED'} {name}: {'nothing' if found is None else 'seed ' + ': '.join(found)}",
              flush=True)
        if not ok:
            missed.append(name)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
