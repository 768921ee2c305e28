#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Which libcrypto the code really calls: test programs have two in memory (see postern_criterion in CMakeLists.txt).

Usage: crypto_test.py PROGRAM, a program that calls the functions of NAMES; $POSTERN_CRYPTO says whose they must be.
The dynamic linker itself is asked, with LD_DEBUG=bindings, while the program lists its tests.
"""
import os
import re
import subprocess
import sys
import tempfile

NAMES = {"HMAC", "EVP_sha256", "CRYPTO_memcmp"}
WANTED = {"boringssl": r"/libcrypto\.so(\.0)?$", "openssl": r"/libcrypto\.so\.3$"}


def bindings(program):
    """(name, library) for each of NAMES that `program` itself is bound to."""
    with tempfile.TemporaryDirectory() as room:
        env = {**os.environ, "LD_BIND_NOW": "1", "LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": os.path.join(room, "ld")}
        subprocess.run([program, "--list"], env=env, capture_output=True, timeout=50, check=False)
        for name in os.listdir(room):
            with open(os.path.join(room, name), encoding="utf-8", errors="replace") as f:
                for line in f:
                    m = re.search(r"binding file (\S+) \[\d+\] to (\S+) \[\d+\]: normal symbol `(\w+)'", line)
                    if m and m.group(1) == program and m.group(3) in NAMES:
                        yield m.group(3), m.group(2)


def main():
    program, provider = sys.argv[1], os.environ.get("POSTERN_CRYPTO", "boringssl")
    found = set(bindings(program))
    wrong = sorted(f"{name} comes from {library}, not from {provider}"
                   for name, library in found if not re.search(WANTED[provider], library))
    wrong += sorted(f"{name} is not bound at all" for name in NAMES - {name for name, _ in found})
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
