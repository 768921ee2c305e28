#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Style rules that a compiler does not check and that a review should not have to.

* no function over 70 lines, no file over 800 lines;
* every file of C opens with the licence and a sentence of purpose;
* every function of include/postern has a comment: its own, or that of the group it stands in without a blank line;
* every runtime/foo.c has tests: a foo_test.c beside it, or the name of the test that covers it in COVERED;
* every foo_fuzz.c has seeds that `./dev fuzz` finds.

An exception needs its reason, here.  Those that have become unnecessary are errors too.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUNCTION_LINES = 70
FILE_LINES = 800

# path -> reason
LONG_FILES = {}
# (path, function) -> reason
LONG_FUNCTIONS = {}

# runtime files without a test of their own name -> the test that drives them
COVERED = {
    "runtime/actor.c": "runtime/worker_test.c",
    "runtime/arena.c": "runtime/worker_test.c",
    "runtime/base.c": "runtime/buf_test.c",
    "runtime/bounds.c": "tests/sim/main.c",
    "runtime/context.c": "runtime/worker_test.c",
    "runtime/deadletter.c": "runtime/supervise_test.c",
    "runtime/dispatch.c": "runtime/worker_test.c",
    "runtime/envelope.c": "runtime/worker_test.c",
    "runtime/env/crash.c": "runtime/watchdog_test.c",
    "runtime/env/env_sim.c": "tests/sim/main.c",
    "runtime/env/env_sim_net.c": "tests/sim/main.c",
    "runtime/log.c": "broker/log_test.c",
    "runtime/map.c": "runtime/ask_test.c",
    "runtime/metrics.c": "runtime/worker_test.c",
    "runtime/port.c": "runtime/lane_test.c",
    "runtime/registry.c": "runtime/worker_test.c",
    "runtime/runtime.c": "runtime/worker_test.c",
    "runtime/send.c": "runtime/worker_test.c",
    "runtime/slot.c": "runtime/worker_test.c",
    "runtime/watch.c": "runtime/supervise_test.c",
    "runtime/work.c": "runtime/worker_test.c",
}

problems = []


def problem(path, line, text):
    problems.append(f"{path}:{line}: {text}")


def sources():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "--", "*.c", "*.h", "*.cpp"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split()
    return sorted({p for p in listed if (ROOT / p).is_file()})


def blank_out(text):
    """The text with comments, strings and characters replaced by spaces, so that braces can be trusted."""
    def spaces(m):
        return re.sub(r"[^\n]", " ", m.group())
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', spaces, text, flags=re.S)


# ---- lengths -----------------------------------------------------------------------------------------------------------


def functions(text):
    """(name, first line, last line): clang-format puts the closing brace of a function, and of nothing inside one, in
    column 0."""
    lines = blank_out(text).split("\n")
    start = None
    for number, line in enumerate(lines, 1):
        if line.startswith("}"):
            if start is not None:
                head = " ".join(lines[start - 1:number])
                m = re.match(r"(?:[^({;=]*\W)?(\w+)\s*\(", head)
                if m and m.group(1) not in ("struct", "union", "enum") and ";" not in head[:m.end()]:
                    name = m.group(1)
                    if name == "Test":
                        name = re.sub(r"\s", "", head[m.end():head.find(")")])
                    yield name, start, number
            start = None
        elif start is None and re.match(r"[A-Za-z_]", line) and not line.rstrip().endswith(";"):
            start = number
        elif start is not None and line.rstrip().endswith(";") and "{" not in "".join(lines[start - 1:number]):
            start = None


def check_lengths(path, text):
    n = text.count("\n")
    if n > FILE_LINES and path not in LONG_FILES:
        problem(path, FILE_LINES, f"{n} lines; {FILE_LINES} at most")
    if n <= FILE_LINES and path in LONG_FILES:
        problem(path, 1, "needs no exception from the length of files any more")
    for name, first, last in functions(text):
        long = last - first + 1 > FUNCTION_LINES
        if long != ((path, name) in LONG_FUNCTIONS):
            problem(path, first, f"{name}() has {last - first + 1} lines; "
                    + (f"{FUNCTION_LINES} at most" if long else "needs no exception any more"))


def check_head(path, text):
    if not text.startswith("/* SPDX-License-Identifier: Apache-2.0\n"):
        problem(path, 1, "does not open with the licence")
    elif len(re.sub(r"[\s*/]+", " ", text[:text.find("*/")]).split()) < 8:
        problem(path, 1, "does not say what it is for")


# ---- public headers ----------------------------------------------------------------------------------------------------


def check_comments(path, text):
    """A prototype, or a static inline, must have a comment at the top of its group, on its line or after it."""
    clean = blank_out(text).split("\n")
    lines = text.split("\n")
    for number, line in enumerate(clean, 1):
        if not re.match(r"[A-Za-z_][\w\s*]*[\s*]\**(ptn_(?!_)\w+)\(", line) or line.startswith(("typedef", "#")):
            continue
        top = number - 1
        while top > 0 and lines[top - 1].strip():
            top -= 1
        if not any(re.search(r"/\*|\*/", l) for l in lines[top:number]):
            problem(path, number, "a public function without a comment: " + line.split("(")[0].split()[-1].strip("*"))


# ---- tests and corpora -------------------------------------------------------------------------------------------------


def check_tests(path, everything):
    if not re.fullmatch(r"runtime/(env/)?\w+\.c", path) or path.endswith(("_test.c", "_fuzz.c")):
        return
    own = path[:-2] + "_test.c"
    if own in everything:
        return
    stem = re.fullmatch(r"(.*?)(?:_[a-z]+)?\.c", path).group(1) + "_test.c"  # env_uv_net.c: env_uv_test.c
    if path in COVERED and COVERED[path] not in everything or path not in COVERED and stem not in everything:
        problem(path, 1, f"has no {own}, and COVERED names no other test that exists")


def check_corpus(path):
    """The folders that `./dev fuzz` looks into."""
    room, name = (ROOT / path).parent, pathlib.Path(path).name[:-len("_fuzz.c")]
    folders = [room / "corpus" / name] + ([room / "corpus"] if room.name == name else [])
    if not any(f.is_dir() and sum(1 for seed in f.iterdir() if seed.is_file()) >= 3 for f in folders):
        problem(path, 1, "has fewer than 3 seeds in " + " or ".join(str(f.relative_to(ROOT)) for f in folders))


def self_check():
    """The measuring of functions, on functions of known length."""
    text = "static int f(int a,\n             int b) {\n    if (a) {\n    }\n    return b;\n}\n\n" \
           "struct s {\n    int a;\n};\n\nint g(void);\n\nint g(void) {\n    return '}';\n}\n" \
           "static const struct t table[] = {\n    {1},\n};\nTest(a, b, .signal = 6) {\n}\n"
    got = list(functions(text))
    wanted = [("f", 1, 6), ("g", 14, 16), ("a,b,.signal=6", 20, 21)]
    if got != wanted:
        problem("tests/tidy/style_test.py", 1, f"measures {got}, not {wanted}")


def main():
    self_check()
    everything = sources()
    if len(everything) < 100:
        problem("tests/tidy/style_test.py", 1, f"sees only {len(everything)} files")
    for path in everything:
        text = (ROOT / path).read_text(encoding="utf-8")
        check_head(path, text)
        check_lengths(path, text)
        check_tests(path, everything)
        if path.startswith("include/postern/"):
            check_comments(path, text)
        if path.endswith("_fuzz.c"):
            check_corpus(path)
    for path in list(LONG_FILES) + [p for p, _ in LONG_FUNCTIONS]:
        if path not in everything:
            problem(path, 1, "is an exception and does not exist")
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
