/* SPDX-License-Identifier: Apache-2.0
 *
 * auth_tables.h - what an auth actor remembers: revoked sessions, failed logins, tokens it has
 * verified.
 *
 * Plain data structures without messages, each of them bounded.  Owner worker only.  Keys are
 * hashed with SipHash under a secret of the process, so nobody can aim at a slot.
 */
#ifndef POSTERN_ACTORS_AUTH_TABLES_H
#define POSTERN_ACTORS_AUTH_TABLES_H

#include <postern/base.h>
#include <postern/buf.h>

#define AUTH_SECRET_BYTES 16
#define AUTH_DIGEST_BYTES 16

/* ---- revoked sessions, and users whose older tokens are over ----------------------------------
 */

#define AUTH_REVOKED_MAX 65536u

struct auth_revoked_slot {
    uint8_t digest[AUTH_DIGEST_BYTES];
    int64_t until_ms;  /* 0: free */
    int64_t before_ms; /* tokens issued up to then are revoked */
};

struct auth_revocations {
    uint8_t secret[AUTH_SECRET_BYTES]; /* set before use */
    struct auth_revoked_slot *slots;   /* open addressing, at most half full */
    uint32_t n, cap;
    /* Session tokens issued at or before this time are refused: what stands in for a table that was
     * full, or without memory. Their holders refresh, which a revoked session cannot.  0: none.
     * It never goes back, because a clock that was set back makes no old token newer.  Then new
     * tokens are refused too, until the clock is there again: whoever can load all revocations anew
     * does, and takes it back. */
    int64_t all_before_ms;
};

#define AUTH_EVER INT64_MAX
/* Makes memory for n more.  0, or -PTN_ENOMEM.  More than a table may hold need none. */
int auth_revocations_reserve(struct auth_revocations *r, uint32_t n, int64_t now_ms);
/* Never fails to revoke.  0; -PTN_ENOMEM or -PTN_ETOOBIG (the table was full, and is empty now):
 * every older token is refused instead. */
int auth_revocations_add(struct auth_revocations *r, ptn_str name, int64_t until_ms,
                         int64_t before_ms, int64_t now_ms);
enum auth_verdict { AUTH_VALID, AUTH_REVOKED, AUTH_STALE };
enum auth_verdict auth_revocations_check(const struct auth_revocations *r, ptn_str name,
                                         int64_t issued_ms, int64_t now_ms);
void auth_revocations_done(struct auth_revocations *r);

/* ---- failed logins ----------------------------------------------------------------------------
 */

#define AUTH_FAILURES_MAX 10u
#define AUTH_FAILURES_WINDOW_MS 60000
#define AUTH_LIMITER_NAMES 1024u

/* Each name has a count of its own; nobody's failures are counted for another.  When the table is
 * full, the name with the fewest failures makes room, of those the one whose window began first:
 * to have a count of n forgotten before its time, somebody has to fail n times with every other
 * name in the table, within one window, and each time costs him a password hash.  A clock that is
 * set back begins the windows anew. */
struct auth_limiter {
    uint8_t secret[AUTH_SECRET_BYTES]; /* set before use */
    uint32_t n;
    struct auth_failures {
        uint8_t digest[AUTH_DIGEST_BYTES];
        int64_t since_ms;
        uint32_t failures; /* > 0 */
    } name[AUTH_LIMITER_NAMES];
};

bool auth_limiter_is_blocked(struct auth_limiter *l, ptn_str name, int64_t now_ms);
void auth_limiter_failed(struct auth_limiter *l, ptn_str name, int64_t now_ms);
void auth_limiter_clear(struct auth_limiter *l, ptn_str name);

/* ---- verified tokens --------------------------------------------------------------------------
 */

#define AUTH_CACHE_SLOTS 1024u
#define AUTH_CACHE_TOKEN_BYTES_MAX 1024u

struct auth_cached;
struct auth_cache {
    uint8_t secret[AUTH_SECRET_BYTES];
    struct auth_cached *slot[AUTH_CACHE_SLOTS];
};

/* The PRINCIPAL payload of a token that was verified before and has not expired; NULL: not known.
 */
ptn_buf *auth_cache_get(const struct auth_cache *k, ptn_str token, int64_t now_ms);
/* Best effort: without memory nothing is kept.  Takes a reference of its own. */
void auth_cache_put(struct auth_cache *k, ptn_str token, ptn_str session, int64_t expires_ms,
                    ptn_buf *principal);
void auth_cache_drop_session(struct auth_cache *k, ptn_str session);
void auth_cache_clear(struct auth_cache *k);

#endif
