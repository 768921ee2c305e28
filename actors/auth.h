/* SPDX-License-Identifier: Apache-2.0
 *
 * auth.h - the auth actor, one per worker: verifies access tokens, and handles login, refresh and
 * logout.
 */
#ifndef POSTERN_ACTORS_AUTH_H
#define POSTERN_ACTORS_AUTH_H

#include <postern/messages.h>

/* No access token lives longer, whatever the configuration says now or said before a restart. */
#define AUTH_ACCESS_TTL_MAX_MS (INT64_C(24) * 3600 * 1000)

typedef struct auth_config { /* arg of the actor, which it outlives */
    const ptn_directory *directory;
    unsigned worker;
    const uint8_t *key; /* signs and verifies; JWT_KEY_BYTES_MIN or more */
    size_t key_bytes;
    int64_t access_ttl_ms;  /* 0: 15 min; at most AUTH_ACCESS_TTL_MAX_MS */
    int64_t refresh_ttl_ms; /* 0: 30 days */
    ptn_time look_ns; /* from one look at what other processes have changed to the next, at least;
                         0: 500 ms */
} auth_config;

extern const ptn_actor_ops auth_actor;

#endif
