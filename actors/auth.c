/* SPDX-License-Identifier: Apache-2.0
 *
 * auth.c - the auth actor: who is behind a token, and which sessions are over.
 *
 * Owns, per worker: the revoked sessions of the last day, the failed logins of the names that fall
 * to this worker, and a cache of verified tokens.  The store is the truth; the table is loaded from
 * it before the first token with a session is accepted, so neither a restart of the actor nor of
 * the broker brings a revoked session back.
 *
 * Why the cache: measured on a 2-core virtual machine with a token of 312 bytes, verifying (HMAC,
 * base64, JSON) takes 2.3 us and a hit 0.04 us; every keep-alive request pays one of the two.
 */
#include "actors/auth_internal.h"

#include <postern/log.h>
#include <postern/metrics.h>

#include <sodium.h>

#define REVOKED_FOR_MS (AUTH_ACCESS_TTL_MAX_MS + JWT_LEEWAY_MS)
#define ACCESS_TTL_DEFAULT_MS (INT64_C(15) * 60 * 1000)
#define REFRESH_TTL_DEFAULT_MS (INT64_C(30) * 24 * 3600 * 1000)
#define LOAD_TIMEOUT_NS (10 * PTN_SEC)
#define LOOK_TIMEOUT_NS (1 * PTN_SEC) /* of a load when one has succeeded before */
#define LOAD_RETRY_MIN_NS (100 * PTN_MS)
#define LOAD_RETRY_MAX_NS (5 * PTN_SEC)
/* From one look at what the command line has changed to the next: what it says holds after two. */
#define LOOK_NS (500 * PTN_MS)
#define TOKEN_TTL_MAX_MS (INT64_C(367) * 86400 * 1000) /* of any, the command line's too */

static const char invalid_text[] =
    "the access token is not valid; log in with POST /api/v1/auth/login and send its accessToken";
static const char expired_text[] =
    "the access token has expired; get a new one with POST /api/v1/auth/refresh, or log in again";
static const char changed_text[] =
    "the password was changed after this token was issued; log in with POST /api/v1/auth/login";
static const char revoked_text[] = "this session was ended; log in with POST /api/v1/auth/login";

/* ---- tokens -----------------------------------------------------------------------------------
 */

static void refuse(ptn_ctx *c, ptn_reply_to to, int code, const char *message) {
    ptn_count(PTN_C_AUTH_FAILED, 1);
    ptn_problem_send(c, to, code, message);
}

/* Answers with a reference of its own to the principal. */
static void answer_principal(ptn_ctx *c, ptn_reply_to to, ptn_buf *principal) {
    ptn_buf_ref(principal);
    if (ptn_reply(c, to, PTN_MSG_PRINCIPAL, principal) < 0)
        ptn_buf_unref(principal); /* the asker has gone */
}

/* A token whose signature and times are good: 0 when it may be used. */
static int check_session(ptn_ctx *c, struct auth *s, ptn_reply_to to,
                         const struct jwt_claims *claims) {
    if (auth_revocations_check(&s->users, claims->principal.user, claims->issued_ms,
                               ptn_wall_ms(c)) != AUTH_VALID) {
        refuse(c, to, PTN_CODE_UNAUTHENTICATED, changed_text);
        return -PTN_EACCESS;
    }
    if (claims->principal.session.n == 0)
        return 0;
    switch (auth_revocations_check(&s->revoked, claims->principal.session, claims->issued_ms,
                                   ptn_wall_ms(c))) {
    case AUTH_VALID:
        return 0;
    case AUTH_STALE:
        refuse(c, to, PTN_CODE_TOKEN_EXPIRED, expired_text);
        return -PTN_EDEADLINE;
    default:
        refuse(c, to, PTN_CODE_UNAUTHENTICATED, revoked_text);
        return -PTN_EACCESS;
    }
}

/* Keeps a token's question until the revocations are known; bounded, and what nobody waits for any
 * more makes room first. */
static void wait_for_load(ptn_ctx *c, struct auth *s, ptn_reply_to to, ptn_buf *message,
                          bool ticket) {
    if (s->n_waiting == AUTH_WAITING_MAX) {
        uint32_t kept = 0;
        for (uint32_t i = 0; i < s->n_waiting; i++) {
            if (s->waiting[i].to.deadline > ptn_now(c))
                s->waiting[kept++] = s->waiting[i];
            else
                ptn_buf_unref(s->waiting[i].message);
        }
        s->n_waiting = kept;
    }
    if (s->n_waiting == AUTH_WAITING_MAX) {
        ptn_problem_send(c, to, PTN_CODE_OVERLOADED,
                         "the broker is still reading which sessions were ended; try again after "
                         "the time in Retry-After");
        return;
    }
    s->waiting[s->n_waiting++] = (struct auth_waiting){ticket, to, ptn_buf_ref(message)};
}

static void load(ptn_ctx *c, struct auth *s);

static ptn_time look_ns(const struct auth *s) {
    return s->config->look_ns != 0 ? s->config->look_ns : LOOK_NS;
}

/* Whether a token may be judged by what is known.  If not, a load is under way, and the question
 * waits for it.  Looks come with questions, so that an idle broker sleeps.  Under steady traffic
 * nobody waits for a look, and after a rest of two everybody does: one that waited alone would be
 * overtaken by those behind it on its connection.  A store in trouble stops nobody: until the retry
 * succeeds, what was known counts. */
static bool is_fresh(ptn_ctx *c, struct auth *s) {
    ptn_time age = ptn_now(c) - s->looked_at;
    if (age < look_ns(s) || s->troubled)
        return true;
    if (!s->loading)
        load(c, s);
    return !s->loading || age < 2 * look_ns(s); /* it may have failed at once */
}

/* AUTH_TOKEN and AUTH_RESUME: [token or ticket] -> PRINCIPAL.  Tickets are used once in a while,
 * and must not be found in the cache of tokens. */
static void verify(ptn_ctx *c, struct auth *s, ptn_reply_to to, ptn_buf *message, bool ticket) {
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(message));
    struct jwt_claims claims;
    ptn_str token;
    uint32_t n;
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n) && n == 1 && ptn_unpack_str(&u, &token));
    if (s->loaded && !is_fresh(c, s)) {
        wait_for_load(c, s, to, message, ticket);
        return;
    }
    int64_t now_ms = ptn_wall_ms(c);
    ptn_buf *known = ticket ? NULL : auth_cache_get(&s->cache, token, now_ms);
    if (known != NULL) {
        answer_principal(c, to, known);
        return;
    }
    int err =
        jwt_verify(s->json, ticket ? s->ticket_key : s->config->key,
                   ticket ? sizeof s->ticket_key : s->config->key_bytes, token, now_ms, &claims);
    if (err == -PTN_ENOMEM) {
        (void)ptn_reply_err(c, to, err);
        return;
    }
    if (err < 0) {
        bool expired = err == -PTN_EDEADLINE;
        refuse(c, to, expired ? PTN_CODE_TOKEN_EXPIRED : PTN_CODE_UNAUTHENTICATED,
               expired ? expired_text : invalid_text);
        return;
    }
    if (!s->loaded) {
        wait_for_load(c, s, to, message, ticket);
        return;
    }
    if (check_session(c, s, to, &claims) < 0)
        return;
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_principal_pack(&w, &claims.principal);
    ptn_buf *principal = ptn_pack_finish(&w);
    if (principal == NULL) {
        (void)ptn_reply_err(c, to, -PTN_ENOMEM);
        return;
    }
    if (!ticket)
        auth_cache_put(&s->cache, token, claims.principal.session, claims.principal.expires_ms,
                       principal);
    answer_principal(c, to, principal);
    ptn_buf_unref(principal);
}

/* AUTH_TICKET: PRINCIPAL -> [ticket]. */
static void make_ticket(ptn_ctx *c, struct auth *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    ptn_reply_to to = ptn_reply_token(c, m);
    ptn_principal p;
    char text[JWT_BYTES_MAX], id[PTN_ULID_LEN + 1]; /* so that each connection has one of its own */
    PTN_REQUIRE(c, ptn_principal_unpack(&u, &p));
    ptn_ulid(c, id);
    int n = jwt_sign(s->ticket_key, sizeof s->ticket_key, &p, ptn_str_of(id), ptn_wall_ms(c),
                     p.expires_ms, text, sizeof text);
    if (n < 0) {
        (void)ptn_reply_err(c, to, n);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 16 + (size_t)n);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, (ptn_str){text, (size_t)n});
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL)
        (void)ptn_reply_err(c, to, -PTN_ENOMEM);
    else if (ptn_reply(c, to, PTN_MSG_AUTH_TICKET, b) < 0)
        ptn_buf_unref(b); /* the asker has gone */
}

/* ---- revocations ------------------------------------------------------------------------------
 */

static int remember(ptn_ctx *c, struct auth *s, ptn_str session, int64_t until_ms) {
    int err = auth_revocations_add(&s->revoked, session, until_ms, AUTH_EVER, ptn_wall_ms(c));
    if (err < 0) {
        auth_cache_clear(&s->cache);
        PTN_LOG(PTN_LOG_WARN, "auth.revocations_full", PTN_F_Z("error", ptn_err_name(err)),
                PTN_F_Z("effect", "older access tokens are refused; clients refresh"));
    } else {
        auth_cache_drop_session(&s->cache, session);
    }
    return err;
}

/* No edge there: no connections to close. */
static int tell_edge(ptn_ctx *c, ptn_addr edge, ptn_buf *session) {
    int err = ptn_cast(c, edge, PTN_MSG_SESSION_REVOKED, ptn_buf_ref(session));
    if (err < 0)
        ptn_buf_unref(session);
    return err == -PTN_ENOACTOR ? 0 : err;
}

/* Connections of the session, or (session empty) those that the user has without one. */
static int tell_edges(ptn_ctx *c, const struct auth *s, ptn_str session, ptn_str user) {
    const ptn_directory *d = s->config->directory;
    ptn_pack w;
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 2);
    ptn_pack_str(&w, session);
    ptn_pack_str_or_nil(&w, user);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL)
        return -PTN_ENOMEM;
    int err = tell_edge(c, d->edge[s->config->worker], b);
    int admin_err = tell_edge(c, d->admin_edge[s->config->worker], b);
    ptn_buf_unref(b);
    return err < 0 ? err : admin_err;
}

static void load_again(ptn_ctx *c, void *state, ptn_timer *t, void *arg);

/* What there was no memory for is in the store: it is loaded anew, with everything. */
void auth__revoke_tokens(ptn_ctx *c, struct auth *s, ptn_str session, int64_t until_ms) {
    if (remember(c, s, session, until_ms) == -PTN_ENOMEM) {
        s->stale = true;
        s->changes = -1;
        if (!s->loading)
            ptn_timer_start(c, &s->load_timer, s->load_retry_ns, load_again, NULL);
    }
}

int auth__revoke_connections(ptn_ctx *c, const struct auth *s, ptn_str session) {
    return tell_edges(c, s, session, (ptn_str){0});
}

/* AUTH_REVOKE: [session, untilMs] -> OK. */
static void revoke_asked(ptn_ctx *c, struct auth *s, const ptn_msg *m) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    ptn_str session;
    int64_t until_ms;
    uint32_t n;
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n) && n == 2 && ptn_unpack_str(&u, &session) &&
                       ptn_unpack_int(&u, &until_ms));
    auth__revoke_tokens(c, s, session, until_ms);
    int err = auth__revoke_connections(c, s, session);
    ptn_reply_to to = ptn_reply_token(c, m);
    if (err < 0)
        (void)ptn_reply_err(c, to, err);
    else
        (void)ptn_reply(c, to, PTN_MSG_OK, NULL);
}

/* ---- loading ----------------------------------------------------------------------------------
 */

static void load_again(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)t;
    (void)arg;
    load(c, state);
}

static void waiting_verify(ptn_ctx *c, struct auth *s) {
    for (uint32_t i = 0; i < s->n_waiting; i++) {
        verify(c, s, s->waiting[i].to, s->waiting[i].message, s->waiting[i].ticket);
        s->waiting[i].message = ptn_buf_unref(s->waiting[i].message);
    }
    s->n_waiting = 0;
}

static ptn_time longer(ptn_time retry_ns) {
    return retry_ns * 2 < LOAD_RETRY_MAX_NS ? retry_ns * 2 : LOAD_RETRY_MAX_NS;
}

static void load_failed(ptn_ctx *c, struct auth *s, int err) {
    s->loading = false;
    s->troubled = true;
    if (s->stopping)
        return;
    PTN_LOG(PTN_LOG_WARN, "auth.revocations_not_loaded", PTN_F_Z("error", ptn_err_name(err)),
            PTN_F_INT("retry_ms", s->load_retry_ns / PTN_MS));
    ptn_timer_start(c, &s->load_timer, s->load_retry_ns, load_again, NULL);
    s->load_retry_ns = longer(s->load_retry_ns);
    if (s->loaded)
        waiting_verify(c, s); /* by what is known: a store in trouble stops nobody */
}

/* An edge that is already loaded has no connection of what was over before.  0; -PTN_ENOMEM: load
 * again; -PTN_ETOOBIG: not all are in the table.  *news: something was new. */
static int load_sessions(ptn_ctx *c, struct auth *s, ptn_unpack *u, bool again, bool *news) {
    int64_t now_ms = ptn_wall_ms(c);
    uint32_t n;
    bool any = false;
    PTN_REQUIRE(c, ptn_unpack_array(u, &n));
    int err = auth_revocations_reserve(&s->revoked, n, now_ms);
    if (err < 0)
        return err;
    for (; n > 0; n--) {
        ptn_str session;
        PTN_REQUIRE(c, ptn_unpack_str(u, &session));
        bool known = auth_revocations_check(&s->revoked, session, AUTH_EVER, now_ms) != AUTH_VALID;
        any = any || !known;
        if (remember(c, s, session, now_ms + REVOKED_FOR_MS) < 0)
            err = -PTN_ETOOBIG;
        if (s->loaded && (!known || again) && tell_edges(c, s, session, (ptn_str){0}) < 0)
            s->told_badly = true;
    }
    *news = *news || (any && err == 0); /* a table that was full knows nobody */
    return err;
}

/* The others have connections to close, too, and perhaps nobody who asks. */
static void tell_verifiers(ptn_ctx *c, struct auth *s) {
    const ptn_directory *d = s->config->directory;
    for (unsigned i = 0; i < d->workers; i++) {
        int err = i != s->config->worker ? ptn_cast(c, d->auth[i], PTN_MSG_AUTH_LOOK, NULL) : 0;
        if (err < 0 && err != -PTN_ENOACTOR)
            s->told_badly = true;
    }
}

static int load_users(ptn_ctx *c, struct auth *s, ptn_unpack *u, bool again, bool *news) {
    int64_t now_ms = ptn_wall_ms(c), before_ms;
    uint32_t n, two;
    bool any = false;
    PTN_REQUIRE(c, ptn_unpack_array(u, &n));
    int err = auth_revocations_reserve(&s->users, n, now_ms);
    if (err < 0)
        return err;
    for (; n > 0; n--) {
        ptn_str user;
        PTN_REQUIRE(c, ptn_unpack_array(u, &two) && two == 2 && ptn_unpack_str(u, &user) &&
                           ptn_unpack_int(u, &before_ms));
        bool known = auth_revocations_check(&s->users, user, before_ms, now_ms) != AUTH_VALID;
        if (auth_revocations_add(&s->users, user, before_ms + TOKEN_TTL_MAX_MS, before_ms, now_ms) <
            0)
            err = -PTN_ETOOBIG;
        any = any || !known;
        if (s->loaded && (!known || again) && tell_edges(c, s, (ptn_str){"", 0}, user) < 0)
            s->told_badly = true;
    }
    if (any)
        auth_cache_clear(&s->cache);
    *news = *news || (any && err == 0);
    return err;
}

static void load_done(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct auth *s = state;
    (void)arg;
    if (err < 0 || reply->type != PTN_MSG_STORE_SESSIONS) {
        load_failed(c, s, err < 0 ? err : -PTN_EIO);
        return;
    }
    if (s->stopping)
        return;
    bool again = s->told_badly; /* then everybody hears of everything once more */
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    uint32_t n;
    int64_t changes;
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n) && n == 3 && ptn_unpack_int(&u, &changes));
    bool news = again;
    s->told_badly = false;
    int sessions_err = load_sessions(c, s, &u, again, &news);
    int users_err = sessions_err != -PTN_ENOMEM ? load_users(c, s, &u, again, &news) : -PTN_ENOMEM;
    if (news && s->loaded)
        tell_verifiers(c, s);
    if (users_err == -PTN_ENOMEM) {
        s->told_badly = s->told_badly || again;
        load_failed(c, s, users_err);
        return;
    }
    bool all = changes != s->changes && !s->stale; /* otherwise nothing, or not the latest, came */
    if (all && sessions_err == 0)
        s->revoked.all_before_ms = 0;
    if (all && users_err == 0)
        s->users.all_before_ms = 0;
    s->changes = s->told_badly || s->stale ? -1 : changes;
    s->loaded = true;
    s->loading = s->troubled = false;
    s->looked_at = ptn_now(c);
    if (!s->told_badly)
        s->load_retry_ns = LOAD_RETRY_MIN_NS;
    if (s->stale || s->told_badly) /* whoever did not hear may never ask */
        ptn_timer_start(c, &s->load_timer, s->load_retry_ns, load_again, NULL);
    if (s->told_badly)
        s->load_retry_ns = longer(s->load_retry_ns);
    waiting_verify(c, s);
}

static void load(ptn_ctx *c, struct auth *s) {
    ptn_pack w;
    ptn_timer_stop(c, &s->load_timer);
    s->loading = true;
    s->stale = false;
    ptn_pack_init(&w, 16);
    ptn_pack_array(&w, 3);
    ptn_pack_int(&w, s->changes);
    ptn_pack_int(&w, ptn_wall_ms(c) - REVOKED_FOR_MS);
    ptn_pack_int(&w, ptn_wall_ms(c) - TOKEN_TTL_MAX_MS);
    ptn_buf *b = ptn_pack_finish(&w);
    int err = b == NULL ? -PTN_ENOMEM
                        : ptn_ask(c, s->config->directory->store, PTN_MSG_STORE_SESSIONS_REVOKED, b,
                                  ptn_now(c) + (s->loaded ? LOOK_TIMEOUT_NS : LOAD_TIMEOUT_NS),
                                  load_done, NULL, NULL);
    if (err < 0) {
        ptn_buf_unref(b);
        load_failed(c, s, err);
    }
}

void auth__look_anew(ptn_ctx *c, struct auth *s) {
    s->changes = -1;
    if (s->loading)
        s->stale = true;
    else
        load(c, s);
}

/* ---- the actor --------------------------------------------------------------------------------
 */

/* At the end, crash included. */
static void auth_release(void *arg) {
    struct auth *s = arg;
    for (uint32_t i = 0; i < s->n_waiting; i++)
        ptn_buf_unref(s->waiting[i].message);
    auth__ops_forget(s);
    auth_cache_clear(&s->cache);
    auth_revocations_done(&s->revoked);
    auth_revocations_done(&s->users);
    ptn_json_parser_free(s->json);
}

static int auth_init(ptn_ctx *c, void *state, void *arg) {
    struct auth *s = state;
    const auth_config *config = arg;
    if (sodium_init() < 0 || config->key_bytes < JWT_KEY_BYTES_MIN ||
        config->access_ttl_ms > AUTH_ACCESS_TTL_MAX_MS)
        return -PTN_EINVAL;
    s->config = config;
    s->access_ttl_ms = config->access_ttl_ms != 0 ? config->access_ttl_ms : ACCESS_TTL_DEFAULT_MS;
    s->refresh_ttl_ms =
        config->refresh_ttl_ms != 0 ? config->refresh_ttl_ms : REFRESH_TTL_DEFAULT_MS;
    s->queue_tail = &s->queue;
    s->load_retry_ns = LOAD_RETRY_MIN_NS;
    (void)crypto_generichash(s->ticket_key, sizeof s->ticket_key, (const uint8_t *)"ticket",
                             sizeof "ticket" - 1, config->key, config->key_bytes);
    s->changes = -1;
    ptn_random(c, s->revoked.secret, sizeof s->revoked.secret);
    ptn_random(c, s->users.secret, sizeof s->users.secret);
    ptn_random(c, s->limiter.secret, sizeof s->limiter.secret);
    ptn_random(c, s->cache.secret, sizeof s->cache.secret);
    int err = ptn_defer(c, auth_release, s);
    if (err < 0)
        return err;
    s->json = ptn_json_parser_new();
    if (s->json == NULL)
        return -PTN_ENOMEM;
    load(c, s);
    return 0;
}

static int auth_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct auth *s = state;
    switch (m->type) {
    case PTN_MSG_AUTH_TOKEN:
        verify(c, s, ptn_reply_token(c, m), m->buf, false);
        return 0;
    case PTN_MSG_AUTH_RESUME:
        verify(c, s, ptn_reply_token(c, m), m->buf, true);
        return 0;
    case PTN_MSG_AUTH_TICKET:
        make_ticket(c, s, m);
        return 0;
    case PTN_MSG_AUTH_REVOKE:
        revoke_asked(c, s, m);
        return 0;
    case PTN_MSG_AUTH_LOOK:
        auth__look_anew(c, s);
        return 0;
    case PTN_MSG_ROUTE_AUTH_LOGIN:
        auth__login(c, s, m);
        return 0;
    case PTN_MSG_ROUTE_AUTH_REFRESH:
        auth__refresh(c, s, m);
        return 0;
    case PTN_MSG_ROUTE_AUTH_LOGOUT:
        auth__logout(c, s, m);
        return 0;
    case PTN_MSG_STOPPING:
        s->stopping = true;
        if (s->n_ops == 0)
            ptn_exit(c, 0);
        return 0;
    default:
        if (m->corr != 0)
            (void)ptn_reply_err(c, ptn_reply_token(c, m), -PTN_EINVAL);
        return 0;
    }
}

const ptn_actor_ops auth_actor = {
    .name = "auth", .state_size = sizeof(struct auth), .init = auth_init, .handle = auth_handle};
