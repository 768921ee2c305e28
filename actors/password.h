/* SPDX-License-Identifier: Apache-2.0
 *
 * password.h - password hashes: Argon2id with libsodium's cost for interactive logins.
 *
 * Both functions take tens of milliseconds and 64 MiB by design: never on a worker, always through
 * ptn_work(). Any thread.
 */
#ifndef POSTERN_ACTORS_PASSWORD_H
#define POSTERN_ACTORS_PASSWORD_H

#include <postern/base.h>

#define PASSWORD_HASH_BYTES 128 /* of a hash with its terminator */
#define PASSWORD_BYTES_MIN 8    /* advice for new passwords (NIST SP 800-63B) */
#define PASSWORD_BYTES_MAX 256  /* bound for every password, new or tried */

/* Writes a terminated hash that carries its own salt and cost.  -PTN_EINVAL (empty or over
 * PASSWORD_BYTES_MAX), -PTN_ETOOBIG (out is smaller than PASSWORD_HASH_BYTES), -PTN_ENOMEM. */
int password_hash(ptn_str password, char *out, size_t out_bytes);

/* hash: as stored; empty or malformed (an account that cannot log in): false, after the same time
 * as for a real one, so that an answer does not tell who exists. */
bool password_verify(ptn_str password, ptn_str hash);

#endif
