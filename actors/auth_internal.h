/* SPDX-License-Identifier: Apache-2.0
 *
 * auth_internal.h - what auth.c (tokens, revocations) and auth_session.c (login, refresh, logout)
 * share.
 */
#ifndef POSTERN_ACTORS_AUTH_INTERNAL_H
#define POSTERN_ACTORS_AUTH_INTERNAL_H

#include "actors/auth.h"
#include "actors/auth_tables.h"
#include "actors/jwt.h"
#include "actors/password.h"

#define AUTH_OPS_MAX 1024u     /* login, refresh and logout requests in flight */
#define AUTH_LOGINS_MAX 68u    /* of them logins: 4 being hashed, 64 waiting */
#define AUTH_HASHINGS_MAX 4u   /* each takes a core and 64 MiB for a tenth of a second */
#define AUTH_WAITING_MAX 512u  /* tokens that wait until the revocations are loaded */
#define AUTH_REFRESH_BYTES 32u /* of the secret in a refresh token */
#define AUTH_HASH_BYTES 32u    /* SHA-256 of it */

struct auth_waiting {
    bool ticket;
    ptn_reply_to to;
    ptn_buf *message; /* AUTH_TOKEN payload */
};

struct auth {
    const auth_config *config;
    int64_t access_ttl_ms, refresh_ttl_ms;
    ptn_json_parser *json;
    uint8_t
        ticket_key[JWT_KEY_BYTES_MIN]; /* a ticket is no access token, nor the other way round */
    struct auth_revocations revoked;   /* sessions */
    struct auth_revocations users;     /* what they were issued before a change of password */
    struct auth_limiter limiter;
    struct auth_cache cache;

    bool loaded; /* revocations that were made before this incarnation are in the table */
    bool loading;
    bool stale;         /* the last load was asked for before something that it must bring */
    bool troubled;      /* the last load failed: what is known counts until the next one */
    bool told_badly;    /* an edge has not heard of all that the last load brought */
    int64_t changes;    /* of the store that this has seen; -1: none */
    ptn_time looked_at; /* when the last load ended */
    ptn_time load_retry_ns;
    ptn_timer load_timer;
    struct auth_waiting waiting[AUTH_WAITING_MAX];
    uint32_t n_waiting;

    struct auth_op *ops; /* all but those that a pool thread holds after a crash */
    uint32_t n_ops, n_logins, n_hashings;
    struct auth_op *queue, **queue_tail; /* logins that wait for a pool thread */
    bool stopping;
};

/* auth.c.  Forgets what the session's tokens allow on this worker. */
void auth__revoke_tokens(ptn_ctx *c, struct auth *s, ptn_str session, int64_t until_ms);
/* auth.c.  Closes the session's connections on this worker.  0, or -PTN_EOVERLOAD: the edge has not
 * heard of it; say it again. */
int auth__revoke_connections(ptn_ctx *c, const struct auth *s, ptn_str session);

/* auth.c.  Loads all that is over from the store, as soon as that can; whatever is news goes to
 * every worker. */
void auth__look_anew(ptn_ctx *c, struct auth *s);

/* auth_session.c: the three routes, and the end of the actor. */
void auth__login(ptn_ctx *c, struct auth *s, const ptn_msg *m);
void auth__refresh(ptn_ctx *c, struct auth *s, const ptn_msg *m);
void auth__logout(ptn_ctx *c, struct auth *s, const ptn_msg *m);
void auth__ops_forget(struct auth *s);

#endif
