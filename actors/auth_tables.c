/* SPDX-License-Identifier: Apache-2.0
 *
 * auth_tables.c - revoked sessions, failed logins, verified tokens.
 *
 * A session is stored as a 128-bit keyed digest: 24 bytes each, and a collision is out of reach.
 * Tokens are stored whole and compared in constant time, because a hit stands for a verified
 * signature.
 */
#include "actors/auth_tables.h"

#include <sodium.h>
#include <stdlib.h>

#define REVOKED_SLOTS_MIN 64u
#define CACHE_HASH_BYTES 32u

static void digest_of(const uint8_t secret[AUTH_SECRET_BYTES], ptn_str s,
                      uint8_t out[AUTH_DIGEST_BYTES]) {
    (void)crypto_shorthash_siphashx24(out, (const uint8_t *)s.p, s.n, secret);
}

static uint32_t hash_of(const uint8_t secret[AUTH_SECRET_BYTES], ptn_str s) {
    uint8_t out[crypto_shorthash_BYTES];
    uint32_t h;
    (void)crypto_shorthash(out, (const uint8_t *)s.p, s.n, secret);
    memcpy(&h, out, sizeof h);
    return h;
}

/* ---- revoked sessions -------------------------------------------------------------------------
 */

/* The digest's slot, or the free one where it belongs.  cap > 0 and at least one slot is free. */
static struct auth_revoked_slot *revoked_find(struct auth_revoked_slot *slots, uint32_t cap,
                                              const uint8_t digest[AUTH_DIGEST_BYTES]) {
    uint32_t at;
    memcpy(&at, digest, sizeof at);
    for (at &= cap - 1; slots[at].until_ms != 0; at = (at + 1) & (cap - 1))
        if (memcmp(slots[at].digest, digest, AUTH_DIGEST_BYTES) == 0)
            break;
    return &slots[at];
}

/* Makes room for more: forgets what is over, and grows when that is not enough. */
static int revoked_room(struct auth_revocations *r, uint32_t more, int64_t now_ms) {
    uint32_t live = 0, cap = r->cap == 0 ? REVOKED_SLOTS_MIN : r->cap;
    if (r->n + more <= r->cap / 2)
        return 0;
    for (uint32_t i = 0; i < r->cap; i++)
        live += r->slots[i].until_ms > now_ms;
    if (live + more > AUTH_REVOKED_MAX)
        return -PTN_ETOOBIG;
    while (live + more > cap / 4)
        cap *= 2;
    struct auth_revoked_slot *slots = calloc(cap, sizeof *slots);
    if (slots == NULL)
        return -PTN_ENOMEM;
    for (uint32_t i = 0; i < r->cap; i++)
        if (r->slots[i].until_ms > now_ms)
            *revoked_find(slots, cap, r->slots[i].digest) = r->slots[i];
    free(r->slots);
    r->slots = slots;
    r->cap = cap;
    r->n = live;
    return 0;
}

int auth_revocations_reserve(struct auth_revocations *r, uint32_t n, int64_t now_ms) {
    int err = n <= AUTH_REVOKED_MAX ? revoked_room(r, n, now_ms) : 0;
    return err == -PTN_ENOMEM ? err : 0;
}

int auth_revocations_add(struct auth_revocations *r, ptn_str name, int64_t until_ms,
                         int64_t before_ms, int64_t now_ms) {
    if (until_ms <= now_ms)
        return 0;
    int err = revoked_room(r, 1, now_ms);
    if (err < 0) {
        if (err == -PTN_ETOOBIG)
            auth_revocations_done(r);
        if (r->all_before_ms < now_ms)
            r->all_before_ms = now_ms;
        return err;
    }
    uint8_t digest[AUTH_DIGEST_BYTES];
    digest_of(r->secret, name, digest);
    struct auth_revoked_slot *slot = revoked_find(r->slots, r->cap, digest);
    if (slot->until_ms == 0) {
        memcpy(slot->digest, digest, sizeof digest);
        r->n++;
    }
    if (slot->until_ms < until_ms)
        slot->until_ms = until_ms;
    if (slot->before_ms < before_ms)
        slot->before_ms = before_ms;
    return 0;
}

enum auth_verdict auth_revocations_check(const struct auth_revocations *r, ptn_str name,
                                         int64_t issued_ms, int64_t now_ms) {
    uint8_t digest[AUTH_DIGEST_BYTES];
    /* Workers' clocks differ by little: what was issued in the same second is older. */
    if (r->all_before_ms != 0 && issued_ms - issued_ms % 1000 <= r->all_before_ms)
        return AUTH_STALE;
    if (r->n == 0)
        return AUTH_VALID;
    digest_of(r->secret, name, digest);
    const struct auth_revoked_slot *slot = revoked_find(r->slots, r->cap, digest);
    return slot->until_ms > now_ms && issued_ms <= slot->before_ms ? AUTH_REVOKED : AUTH_VALID;
}

void auth_revocations_done(struct auth_revocations *r) {
    free(r->slots);
    r->slots = NULL;
    r->n = r->cap = 0;
}

/* ---- failed logins ----------------------------------------------------------------------------
 */

/* A look at each of them is nothing beside the password hash that comes with it. */
static struct auth_failures *limiter_find(struct auth_limiter *l, ptn_str name, int64_t now_ms) {
    uint8_t digest[AUTH_DIGEST_BYTES];
    digest_of(l->secret, name, digest);
    for (uint32_t i = 0; i < l->n; i++) {
        struct auth_failures *f = &l->name[i];
        if (memcmp(f->digest, digest, sizeof digest) != 0)
            continue;
        if (f->since_ms > now_ms) /* the clock was set back */
            f->since_ms = now_ms;
        return f;
    }
    return NULL;
}

static bool is_over(const struct auth_failures *f, int64_t now_ms) {
    return now_ms - f->since_ms >= AUTH_FAILURES_WINDOW_MS;
}

static bool goes_first(const struct auth_failures *a, const struct auth_failures *b,
                       int64_t now_ms) {
    if (is_over(a, now_ms) != is_over(b, now_ms))
        return is_over(a, now_ms);
    return a->failures != b->failures ? a->failures < b->failures : a->since_ms < b->since_ms;
}

static struct auth_failures *limiter_place(struct auth_limiter *l, int64_t now_ms) {
    if (l->n < AUTH_LIMITER_NAMES)
        return &l->name[l->n++];
    struct auth_failures *first = &l->name[0];
    for (uint32_t i = 1; i < l->n; i++)
        if (goes_first(&l->name[i], first, now_ms))
            first = &l->name[i];
    return first;
}

bool auth_limiter_is_blocked(struct auth_limiter *l, ptn_str name, int64_t now_ms) {
    const struct auth_failures *f = limiter_find(l, name, now_ms);
    return f != NULL && f->failures >= AUTH_FAILURES_MAX && !is_over(f, now_ms);
}

void auth_limiter_failed(struct auth_limiter *l, ptn_str name, int64_t now_ms) {
    struct auth_failures *f = limiter_find(l, name, now_ms);
    if (f == NULL) {
        f = limiter_place(l, now_ms);
        *f = (struct auth_failures){.since_ms = now_ms};
        digest_of(l->secret, name, f->digest);
    } else if (is_over(f, now_ms)) {
        f->since_ms = now_ms;
        f->failures = 0;
    }
    f->failures++;
}

void auth_limiter_clear(struct auth_limiter *l, ptn_str name) {
    struct auth_failures *f = limiter_find(l, name, INT64_MAX);
    if (f != NULL)
        *f = l->name[--l->n];
}

/* ---- verified tokens --------------------------------------------------------------------------
 */

struct auth_cached {
    ptn_buf *principal;
    int64_t expires_ms;
    uint8_t session[AUTH_DIGEST_BYTES];
    uint32_t token_bytes;
    char token[];
};

static void cached_free(struct auth_cached **slot) {
    if (*slot == NULL)
        return;
    ptn_buf_unref((*slot)->principal);
    sodium_memzero((*slot)->token, (*slot)->token_bytes);
    free(*slot);
    *slot = NULL;
}

/* The end of a token is its signature, as good as random: enough to choose a slot. */
static struct auth_cached *const *cached_slot(const struct auth_cache *k, ptn_str token) {
    size_t n = token.n < CACHE_HASH_BYTES ? token.n : CACHE_HASH_BYTES;
    ptn_str tail = {token.p + (token.n - n), n};
    return &k->slot[hash_of(k->secret, tail) % AUTH_CACHE_SLOTS];
}

/* Time depends on n alone; words, because the byte-wise comparisons of the libraries cost more here
 * than all the rest of a hit. */
static bool equal_in_constant_time(const char *a, const char *b, size_t n) {
    uint64_t diff = 0, x, y;
    size_t i = 0;
    for (; i + sizeof x <= n; i += sizeof x) {
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        diff |= x ^ y;
    }
    for (; i < n; i++)
        diff |= (uint64_t)(uint8_t)(a[i] ^ b[i]);
    return diff == 0;
}

ptn_buf *auth_cache_get(const struct auth_cache *k, ptn_str token, int64_t now_ms) {
    if (token.n > AUTH_CACHE_TOKEN_BYTES_MAX)
        return NULL;
    const struct auth_cached *e = *cached_slot(k, token);
    if (e == NULL || e->token_bytes != token.n || e->expires_ms <= now_ms ||
        !equal_in_constant_time(e->token, token.p, token.n))
        return NULL;
    return e->principal;
}

void auth_cache_put(struct auth_cache *k, ptn_str token, ptn_str session, int64_t expires_ms,
                    ptn_buf *principal) {
    if (token.n > AUTH_CACHE_TOKEN_BYTES_MAX)
        return;
    struct auth_cached *e = malloc(sizeof *e + token.n);
    if (e == NULL)
        return;
    *e = (struct auth_cached){.principal = ptn_buf_ref(principal),
                              .expires_ms = expires_ms,
                              .token_bytes = (uint32_t)token.n};
    memcpy(e->token, token.p, token.n);
    digest_of(k->secret, session, e->session);
    struct auth_cached **slot = &k->slot[cached_slot(k, token) - k->slot];
    cached_free(slot);
    *slot = e;
}

void auth_cache_drop_session(struct auth_cache *k, ptn_str session) {
    uint8_t digest[AUTH_DIGEST_BYTES];
    digest_of(k->secret, session, digest);
    for (size_t i = 0; i < AUTH_CACHE_SLOTS; i++)
        if (k->slot[i] != NULL && memcmp(k->slot[i]->session, digest, sizeof digest) == 0)
            cached_free(&k->slot[i]);
}

void auth_cache_clear(struct auth_cache *k) {
    for (size_t i = 0; i < AUTH_CACHE_SLOTS; i++)
        cached_free(&k->slot[i]);
}
