# SPDX-License-Identifier: Apache-2.0
"""What postern-sim says to bad input: one line, exit status 2, and nothing is run."""
import pathlib
import subprocess
import sys
import tempfile


def run(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=110, check=False)
    return done.returncode, done.stdout, done.stderr


def refuses(program, says, *arguments):
    code, out, err = run(program, *arguments)
    assert code == 2 and not out, (arguments, code, out)
    assert err.count("\n") == 1 and says in err, (arguments, err)


def main():
    program = sys.argv[1]
    for text in ("-1", "0", "+1", " 1", "1x", "", "18446744073709551616"):
        refuses(program, "--seeds takes a number from 1", "--seeds", text)
    refuses(program, "--seeds takes a number from 1", "--seeds")
    refuses(program, "--seed takes a number from 0", "--seed", "-1")
    refuses(program, "--jobs takes a number from 1", "--jobs", "0")
    refuses(program, "--cpu-max takes a number from 1", "--cpu-max", "0")
    refuses(program, "usage:", "--file")
    refuses(program, "usage:", "--sed", "1")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "seeds.txt")
        refuses(program, "No such file", "--file", str(file))
        refuses(program, "directory", "--file", folder)
        for line in ("foo", "12abc", "-1", "1 2", "1; # no", "18446744073709551616"):
            file.write_text(f"# ours\n\n1  # one\n{line}\n", encoding="utf-8")
            refuses(program, "seeds.txt:4: a seed is a number", "--file", str(file))
        file.write_text("1\n" * 1025, encoding="utf-8")
        refuses(program, "seeds.txt:1025: more than 1024 seeds", "--file", str(file))
        file.write_text("# a comment of any length " + 400 * "7 " + "\n 1\t# one\r\n3", encoding="utf-8")
        code, out, err = run(program, "--file", str(file), "--seeds", "1")
        assert code == 0 and out.startswith("3 seeds, 0 failed"), (code, out, err)
        code, out, err = run(program, "--seeds", "8", "--cpu-max", "1")
        assert code == 1 and ", 0 failed" in out and "TOO SLOW" in out, (code, out, err)


main()
