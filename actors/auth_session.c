/* SPDX-License-Identifier: Apache-2.0
 *
 * auth_session.c - login, refresh and logout: the life of a session.
 *
 * A session is a row in the store: an id, a user, and the SHA-256 of its current refresh token. The
 * token itself is "<session>.<secret>" and is never stored.  Every login for one name goes to the
 * same worker, so that the count of failures is exact; unknown names and wrong passwords take the
 * same time and get the same answer.
 *
 * An operation lives on the heap, because a pool thread may hold it when the actor crashes; whoever
 * has it then frees it.  Passwords are wiped before the memory goes back.
 */
#include "actors/auth_internal.h"

#include <postern/log.h>
#include <postern/metrics.h>

#include <openssl/sha.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

#define REVOKE_ROUNDS_MAX 5
#define REVOKE_ROUND_NS (2 * PTN_SEC)
#define REVOKE_PAUSE_NS (50 * PTN_MS)
#define ACCESS_TOKEN_BYTES 1024
#define REFRESH_TOKEN_BYTES 128

struct auth_op {
    struct auth_op *next, **pprev; /* of auth.ops; pprev NULL: the actor has gone */
    struct auth_op *queue_next;
    ptn_reply_to to;
    bool login;   /* counted in n_logins */
    bool hashing; /* a pool thread has it */
    bool verified;
    /* login */
    char password[PASSWORD_BYTES_MAX];
    size_t password_bytes;
    char hash[PASSWORD_HASH_BYTES];
    /* who */
    char id[JWT_ID_BYTES_MAX + 1], name[JWT_NAME_BYTES_MAX + 1], household[65];
    uint32_t roles;
    /* session */
    char session[JWT_ID_BYTES_MAX + 1];
    uint8_t secret[AUTH_REFRESH_BYTES];
    /* revocation: one round asks every other verifier */
    ptn_buf *problem; /* the answer when all have heard of it; NULL: success */
    unsigned round, pending;
    bool round_failed, answered;
    ptn_timer timer;
};

/* ---- operations -------------------------------------------------------------------------------
 */

static struct auth_op *op_new(ptn_ctx *c, struct auth *s, ptn_reply_to to, bool login) {
    struct auth_op *op = NULL;
    if (s->n_ops < AUTH_OPS_MAX && !(login && s->n_logins >= AUTH_LOGINS_MAX))
        op = calloc(1, sizeof *op);
    if (op == NULL) {
        ptn_problem_send(c, to, PTN_CODE_OVERLOADED,
                         "too many logins at once; try again after the time in Retry-After");
        return NULL;
    }
    op->to = to;
    op->login = login;
    op->next = s->ops;
    op->pprev = &s->ops;
    if (op->next != NULL)
        op->next->pprev = &op->next;
    s->ops = op;
    s->n_ops++;
    s->n_logins += login;
    return op;
}

static void op_unlink(struct auth_op *op) {
    *op->pprev = op->next;
    if (op->next != NULL)
        op->next->pprev = op->pprev;
    op->pprev = NULL;
}

static void op_wipe_free(struct auth_op *op) {
    ptn_buf_unref(op->problem);
    sodium_memzero(op, sizeof *op);
    free(op);
}

/* After the answer. */
static void op_end(ptn_ctx *c, struct auth *s, struct auth_op *op) {
    s->n_ops--;
    s->n_logins -= op->login;
    ptn_timer_stop(c, &op->timer);
    op_unlink(op);
    op_wipe_free(op);
    if (s->stopping && s->n_ops == 0)
        ptn_exit(c, 0);
}

/* Ends with the outcome of an inner ask. */
static void op_pass(ptn_ctx *c, struct auth *s, struct auth_op *op, int err, const ptn_msg *reply) {
    ptn_problem_pass(c, op->to, err, reply);
    op_end(c, s, op);
}

static void op_problem(ptn_ctx *c, struct auth *s, struct auth_op *op, int code,
                       const char *message) {
    if (code == PTN_CODE_UNAUTHENTICATED || code == PTN_CODE_RATE_LIMITED)
        ptn_count(PTN_C_AUTH_FAILED, 1);
    ptn_problem_send(c, op->to, code, message);
    op_end(c, s, op);
}

void auth__ops_forget(struct auth *s) {
    while (s->ops != NULL) {
        struct auth_op *op = s->ops;
        bool hashing = op->hashing;
        op_unlink(op);
        if (!hashing)
            op_wipe_free(op); /* otherwise the pool still reads it, and hashed() frees it */
    }
}

/* Consumes w.  Asks the store; on failure the operation has ended.  That a session is over has to
 * be told everywhere, whether or not somebody still waits for the answer. */
static void ask_store(ptn_ctx *c, struct auth *s, struct auth_op *op, uint32_t type, ptn_pack *w,
                      ptn_reply_cb cb) {
    ptn_addr store = s->config->directory->store;
    ptn_buf *b = ptn_pack_finish(w);
    int err = -PTN_ENOMEM;
    if (b != NULL && op->login)
        err = ptn_ask(c, store, type, b, op->to.deadline, cb, op, NULL);
    else if (b != NULL)
        err = ptn_ask_through(c, store, type, b, op->to.deadline, cb, op, NULL);
    if (err < 0) {
        ptn_buf_unref(b);
        op_pass(c, s, op, err, NULL);
    }
}

/* An answer that says nothing about the session.  When nobody knows what has become of it, it is
 * looked up. */
static void session_unchanged(ptn_ctx *c, struct auth *s, struct auth_op *op, int err,
                              const ptn_msg *reply) {
    if (err == -PTN_ECRASHED)
        auth__look_anew(c, s);
    op_pass(c, s, op, err, reply);
}

/* Terminated copy; false when it does not fit. */
static bool copy_text(ptn_str v, char *out, size_t out_bytes) {
    if (v.n >= out_bytes)
        return false;
    if (v.n > 0)
        memcpy(out, v.p, v.n);
    out[v.n] = '\0';
    return true;
}

/* USER of the catalogue into the operation; ret_hash is a view into reply. */
static bool read_user(struct auth_op *op, const ptn_msg *reply, ptn_str *ret_hash) {
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    ptn_str id, name, household;
    uint32_t n;
    uint64_t roles;
    if (!ptn_unpack_array(&u, &n) || n != 8 || !ptn_unpack_str(&u, &id) ||
        !ptn_unpack_str(&u, &name) || !ptn_unpack_str_or_nil(&u, ret_hash) ||
        !ptn_unpack_uint(&u, &roles) || !ptn_unpack_str_or_nil(&u, &household))
        return false;
    op->roles = (uint32_t)roles;
    return copy_text(id, op->id, sizeof op->id) && copy_text(name, op->name, sizeof op->name) &&
           copy_text(household, op->household, sizeof op->household);
}

/* ---- a new pair of tokens ---------------------------------------------------------------------
 */

static bool secret_hash(const uint8_t *secret, uint8_t out[AUTH_HASH_BYTES]) {
    return SHA256(secret, AUTH_REFRESH_BYTES, out) != NULL;
}

static void pack_user(ptn_pack *w, const struct auth_op *op) {
    ptn_pack_map(w, 4);
    ptn_pack_key(w, "id");
    ptn_pack_cstr(w, op->id);
    ptn_pack_key(w, "username");
    ptn_pack_cstr(w, op->name);
    ptn_pack_key(w, "roles");
    ptn_pack_roles(w, op->roles);
    ptn_pack_key(w, "household");
    ptn_pack_str_or_nil(w, ptn_str_of(op->household));
}

/* The store has the session: answers with its tokens and ends the operation. */
static void grant(ptn_ctx *c, struct auth *s, struct auth_op *op) {
    char access[ACCESS_TOKEN_BYTES], refresh[REFRESH_TOKEN_BYTES], jti[PTN_ULID_LEN + 1];
    int64_t now_ms = ptn_wall_ms(c);
    ptn_principal p = {.user = ptn_str_of(op->id),
                       .name = ptn_str_of(op->name),
                       .session = ptn_str_of(op->session),
                       .roles = op->roles};
    ptn_ulid(c, jti);
    size_t at = strlen(op->session);
    memcpy(refresh, op->session, at);
    refresh[at++] = '.';
    int err = base64url_encode((ptn_bytes){op->secret, sizeof op->secret}, refresh + at,
                               sizeof refresh - at);
    if (err > 0)
        err = jwt_sign(s->config->key, s->config->key_bytes, &p, ptn_str_of(jti), now_ms,
                       now_ms + s->access_ttl_ms, access, sizeof access);
    if (err < 0) {
        op_pass(c, s, op, err, NULL);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 1024);
    ptn_response_begin(&w, 200);
    ptn_pack_map(&w, 5);
    ptn_pack_key(&w, "accessToken");
    ptn_pack_cstr(&w, access);
    ptn_pack_key(&w, "refreshToken");
    ptn_pack_cstr(&w, refresh);
    ptn_pack_key(&w, "tokenType");
    ptn_pack_cstr(&w, "Bearer");
    ptn_pack_key(&w, "expiresIn");
    ptn_pack_int(&w, s->access_ttl_ms / 1000);
    ptn_pack_key(&w, "user");
    pack_user(&w, op);
    ptn_response_send(c, op->to, &w);
    sodium_memzero(access, sizeof access);
    sodium_memzero(refresh, sizeof refresh);
    op_end(c, s, op);
}

/* ---- fields of a body -------------------------------------------------------------------------
 */

/* A required text field of 1 to max bytes; notes in f what is wrong with it. */
static void field_text(ptn_fields *f, ptn_bytes body, const char *key, size_t max, ptn_str *ret_s) {
    ptn_bytes value;
    if (!ptn_map_get(body, key, &value) || ptn_kind_of(value) == PTN_KIND_NIL)
        ptn_fields_add(f, key, "required");
    else if (!ptn_map_get_str(body, key, ret_s))
        ptn_fields_add(f, key, "must be a string");
    else if (ret_s->n == 0)
        ptn_fields_add(f, key, "must not be empty");
    else if (ret_s->n > max)
        ptn_fields_add(f, key, "too long");
}

static bool body_map(ptn_ctx *c, ptn_reply_to to, const ptn_request *r) {
    if (r->body.n > 0 && ptn_kind_of(r->body) == PTN_KIND_MAP)
        return true;
    ptn_problem_send_field(c, to, PTN_CODE_VALIDATION_FAILED, "send a JSON object", "body",
                           "must be an object");
    return false;
}

/* ---- login ------------------------------------------------------------------------------------
 */

static void start_hashings(ptn_ctx *c, struct auth *s);

static void session_added(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    if (err < 0 || reply->type != PTN_MSG_OK)
        op_pass(c, state, arg, err, reply);
    else
        grant(c, state, arg);
}

static void login_succeeded(ptn_ctx *c, struct auth *s, struct auth_op *op) {
    uint8_t hash[AUTH_HASH_BYTES];
    int64_t now_ms = ptn_wall_ms(c);
    auth_limiter_clear(&s->limiter, ptn_str_of(op->name));
    ptn_ulid(c, op->session);
    ptn_random(c, op->secret, sizeof op->secret);
    if (!secret_hash(op->secret, hash)) {
        op_pass(c, s, op, -PTN_ENOMEM, NULL);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 192);
    ptn_pack_array(&w, 5);
    ptn_pack_cstr(&w, op->session);
    ptn_pack_cstr(&w, op->id);
    ptn_pack_bin(&w, (ptn_bytes){hash, sizeof hash});
    ptn_pack_int(&w, now_ms + s->refresh_ttl_ms);
    ptn_pack_int(&w, now_ms);
    ask_store(c, s, op, PTN_MSG_STORE_SESSION_ADD, &w, session_added);
}

/* Pool thread. */
static void hash_work(void *job) {
    struct auth_op *op = job;
    op->verified =
        password_verify((ptn_str){op->password, op->password_bytes}, ptn_str_of(op->hash));
}

static void hashed(ptn_ctx *c, void *state, void *job, int err) {
    struct auth_op *op = job;
    struct auth *s = state;
    if (c == NULL) { /* the actor has gone, and auth__ops_forget() left this one to us */
        op_wipe_free(op);
        return;
    }
    op->hashing = false;
    s->n_hashings--;
    sodium_memzero(op->password, sizeof op->password);
    if (err < 0) {
        op_pass(c, s, op, err, NULL);
    } else if (op->verified) {
        login_succeeded(c, s, op);
    } else {
        auth_limiter_failed(&s->limiter, ptn_str_of(op->name), ptn_wall_ms(c));
        op_problem(c, s, op, PTN_CODE_UNAUTHENTICATED,
                   "the user name or the password is wrong; check both and try again");
    }
    start_hashings(c, s);
}

static void blocked(ptn_ctx *c, struct auth *s, struct auth_op *op) {
    op_problem(c, s, op, PTN_CODE_RATE_LIMITED,
               "too many failed logins for this user name; wait a minute and try again");
}

static void start_hashings(ptn_ctx *c, struct auth *s) {
    while (s->queue != NULL && s->n_hashings < AUTH_HASHINGS_MAX) {
        struct auth_op *op = s->queue;
        s->queue = op->queue_next;
        if (s->queue == NULL)
            s->queue_tail = &s->queue;
        if (op->to.deadline <= ptn_now(c)) { /* nobody waits: do not burn a core for it */
            op_pass(c, s, op, -PTN_EDEADLINE, NULL);
            continue;
        }
        if (auth_limiter_is_blocked(&s->limiter, ptn_str_of(op->name), ptn_wall_ms(c))) {
            blocked(c, s, op);
            continue;
        }
        int err = ptn_work(c, hash_work, op, hashed);
        if (err < 0) {
            op_pass(c, s, op, err, NULL);
            continue;
        }
        op->hashing = true;
        s->n_hashings++;
    }
}

static void login_found(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct auth *s = state;
    struct auth_op *op = arg;
    ptn_problem p;
    ptn_str hash = {0};
    if (err == 0 && reply->type == PTN_MSG_STORE_USER) {
        PTN_REQUIRE(c, read_user(op, reply, &hash) && copy_text(hash, op->hash, sizeof op->hash));
    } else if (err < 0 || reply->type != PTN_MSG_PROBLEM ||
               !ptn_problem_unpack(ptn_msg_bytes(reply), &p) || p.code != PTN_CODE_NOT_FOUND) {
        op_pass(c, s, op, err, reply);
        return;
    }
    /* A name that nobody has goes the same way, with no hash. */
    op->queue_next = NULL;
    *s->queue_tail = op;
    s->queue_tail = &op->queue_next;
    start_hashings(c, s);
}

/* Answers what cannot be a login.  True: the fields are good. */
static bool login_fields(ptn_ctx *c, ptn_reply_to to, const ptn_request *r, ptn_str *ret_name,
                         ptn_str *ret_password) {
    ptn_bytes otp;
    ptn_str code;
    ptn_fields wrong = {.n = 0};
    if (!body_map(c, to, r))
        return false;
    field_text(&wrong, r->body, "username", JWT_NAME_BYTES_MAX, ret_name);
    field_text(&wrong, r->body, "password", PASSWORD_BYTES_MAX, ret_password);
    if (ptn_map_get(r->body, "otp", &otp) && ptn_kind_of(otp) != PTN_KIND_NIL &&
        (!ptn_map_get_str(r->body, "otp", &code) || code.n > 0))
        ptn_fields_add(&wrong, "otp", "one-time passwords are not supported; leave it out");
    if (wrong.n == 0)
        return true;
    ptn_problem_send_fields(c, to, "send {username, password}; details names what is wrong",
                            &wrong);
    return false;
}

/* Hands the request to the worker that counts this name's failures.  True: it is ours. */
static bool login_is_ours(ptn_ctx *c, struct auth *s, const ptn_msg *m, ptn_str name) {
    const ptn_directory *d = s->config->directory;
    unsigned shard = ptn_shard(name, d->workers);
    if (shard == s->config->worker)
        return true;
    int err = ptn_forward(c, m, d->auth[shard], m->type);
    if (err < 0)
        ptn_problem_pass(c, ptn_reply_token(c, m), err, NULL);
    return false;
}

void auth__login(ptn_ctx *c, struct auth *s, const ptn_msg *m) {
    ptn_request r;
    ptn_str name, password;
    PTN_REQUIRE(c, ptn_request_unpack(ptn_msg_bytes(m), &r));
    ptn_bytes username;
    /* The token is taken only by the worker that answers: a forwarded request keeps its own. */
    if (r.body.n > 0 && ptn_map_get(r.body, "username", &username) &&
        ptn_map_get_str(r.body, "username", &name) && !login_is_ours(c, s, m, name))
        return;
    ptn_reply_to to = ptn_reply_token(c, m);
    if (!login_fields(c, to, &r, &name, &password))
        return;
    struct auth_op *op = op_new(c, s, to, true);
    if (op == NULL)
        return;
    (void)copy_text(name, op->name, sizeof op->name);
    memcpy(op->password, password.p, password.n);
    op->password_bytes = password.n;
    if (auth_limiter_is_blocked(&s->limiter, name, ptn_wall_ms(c))) {
        blocked(c, s, op);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 96);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, name);
    ask_store(c, s, op, PTN_MSG_STORE_USER_BY_NAME, &w, login_found);
}

/* ---- revocation on every worker ---------------------------------------------------------------
 */

static void revoke_round(ptn_ctx *c, struct auth *s, struct auth_op *op);

static void revoke_answer(ptn_ctx *c, struct auth_op *op) {
    op->answered = true;
    if (op->problem != NULL) {
        ptn_count(PTN_C_AUTH_FAILED, 1);
        if (ptn_reply(c, op->to, PTN_MSG_PROBLEM, op->problem) == 0)
            op->problem = NULL;
    } else {
        ptn_pack w;
        ptn_pack_init(&w, 16);
        ptn_response_begin(&w, 200);
        ptn_pack_nil(&w);
        ptn_response_send(c, op->to, &w);
    }
}

static void revoke_again(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)t;
    revoke_round(c, state, arg);
}

/* All answers of a round are in.  The connections of this worker come last: who has asked may be on
 * one of them, and is answered before it is closed. */
static void revoke_round_done(ptn_ctx *c, struct auth *s, struct auth_op *op) {
    if (!op->round_failed && !op->answered)
        revoke_answer(c, op);
    if (auth__revoke_connections(c, s, ptn_str_of(op->session)) < 0)
        op->round_failed = true;
    if (op->round_failed && op->round < REVOKE_ROUNDS_MAX) {
        ptn_timer_start(c, &op->timer, REVOKE_PAUSE_NS, revoke_again, op);
        return;
    }
    if (op->round_failed)
        PTN_LOG(PTN_LOG_ERROR, "auth.revocation_incomplete", PTN_F_Z("session", op->session));
    if (op->answered)
        op_end(c, s, op);
    else
        op_problem(
            c, s, op, PTN_CODE_OVERLOADED,
            "the session is ended in the store, but not every worker has confirmed it; its access "
            "token ends by itself");
}

static void revoke_confirmed(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct auth_op *op = arg;
    (void)reply;
    /* A verifier that has crashed or ended loads its table anew from the store, which knows
     * already. */
    if (err < 0 && err != -PTN_ECRASHED && err != -PTN_ENOACTOR && err != -PTN_ESTOPPING)
        op->round_failed = true;
    if (--op->pending == 0)
        revoke_round_done(c, state, op);
}

static void revoke_round(ptn_ctx *c, struct auth *s, struct auth_op *op) {
    const ptn_directory *d = s->config->directory;
    int64_t until_ms = ptn_wall_ms(c) + AUTH_ACCESS_TTL_MAX_MS + JWT_LEEWAY_MS;
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 2);
    ptn_pack_cstr(&w, op->session);
    ptn_pack_int(&w, until_ms);
    ptn_buf *b = ptn_pack_finish(&w);
    op->round++;
    op->round_failed = b == NULL;
    auth__revoke_tokens(c, s, ptn_str_of(op->session), until_ms);
    op->pending = 1; /* ours, until all are asked */
    for (unsigned i = 0; i < d->workers && b != NULL; i++) {
        if (i == s->config->worker)
            continue;
        ptn_buf_ref(b);
        int err = ptn_ask(c, d->auth[i], PTN_MSG_AUTH_REVOKE, b, ptn_now(c) + REVOKE_ROUND_NS,
                          revoke_confirmed, op, NULL);
        if (err == 0) {
            op->pending++;
        } else {
            ptn_buf_unref(b);
            op->round_failed = op->round_failed || err != -PTN_ENOACTOR;
        }
    }
    ptn_buf_unref(b);
    if (--op->pending == 0)
        revoke_round_done(c, s, op);
}

/* ---- refresh ----------------------------------------------------------------------------------
 */

static void rotated(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct auth *s = state;
    struct auth_op *op = arg;
    ptn_problem p;
    ptn_str hash;
    bool reused = false, ended = false;
    if (err == 0 && reply->type == PTN_MSG_STORE_USER) {
        PTN_REQUIRE(c, read_user(op, reply, &hash));
        grant(c, s, op);
    } else if (err == 0 && reply->type == PTN_MSG_PROBLEM &&
               ptn_problem_unpack(ptn_msg_bytes(reply), &p) && p.details.n > 0 &&
               (ptn_map_get_bool(p.details, "revoked", &reused) ||
                ptn_map_get_bool(p.details, "ended", &ended))) {
        /* Whoever has ended it before may have had no time to tell: 401 is said when all know. */
        if (reused)
            PTN_LOG(PTN_LOG_WARN, "auth.refresh_token_reused", PTN_F_Z("session", op->session));
        op->problem = ptn_buf_ref(reply->buf);
        revoke_round(c, s, op);
    } else {
        ptn_count(PTN_C_AUTH_FAILED, err == 0);
        session_unchanged(c, s, op, err, reply);
    }
}

/* "<session>.<secret>"; false when it cannot be one of ours. */
static bool read_refresh_token(struct auth_op *op, ptn_str token) {
    const char *dot = memchr(token.p, '.', token.n);
    if (dot == NULL)
        return false;
    ptn_str session = {token.p, (size_t)(dot - token.p)};
    ptn_str secret = {dot + 1, token.n - session.n - 1};
    return session.n > 0 && ptn_id_is_valid(session) &&
           copy_text(session, op->session, sizeof op->session) &&
           base64url_decode(secret, op->secret, sizeof op->secret) == (int)sizeof op->secret;
}

void auth__refresh(ptn_ctx *c, struct auth *s, const ptn_msg *m) {
    ptn_request r;
    ptn_str token;
    uint8_t old_hash[AUTH_HASH_BYTES], new_hash[AUTH_HASH_BYTES];
    PTN_REQUIRE(c, ptn_request_unpack(ptn_msg_bytes(m), &r));
    ptn_reply_to to = ptn_reply_token(c, m);
    ptn_fields wrong = {.n = 0};
    if (!body_map(c, to, &r))
        return;
    field_text(&wrong, r.body, "refreshToken", 4096, &token);
    if (wrong.n > 0) {
        ptn_problem_send_fields(c, to, "send {refreshToken}; details names what is wrong", &wrong);
        return;
    }
    struct auth_op *op = op_new(c, s, to, false);
    if (op == NULL)
        return;
    if (!read_refresh_token(op, token)) {
        op_problem(c, s, op, PTN_CODE_UNAUTHENTICATED,
                   "this is not a refresh token of ours; log in with POST /api/v1/auth/login");
        return;
    }
    bool hashed_both = secret_hash(op->secret, old_hash);
    ptn_random(c, op->secret, sizeof op->secret);
    hashed_both = secret_hash(op->secret, new_hash) && hashed_both;
    if (!hashed_both) {
        op_pass(c, s, op, -PTN_ENOMEM, NULL);
        return;
    }
    int64_t now_ms = ptn_wall_ms(c);
    ptn_pack w;
    ptn_pack_init(&w, 192);
    ptn_pack_array(&w, 5);
    ptn_pack_cstr(&w, op->session);
    ptn_pack_bin(&w, (ptn_bytes){old_hash, sizeof old_hash});
    ptn_pack_bin(&w, (ptn_bytes){new_hash, sizeof new_hash});
    ptn_pack_int(&w, now_ms + s->refresh_ttl_ms);
    ptn_pack_int(&w, now_ms);
    ask_store(c, s, op, PTN_MSG_STORE_SESSION_ROTATE, &w, rotated);
}

/* ---- logout -----------------------------------------------------------------------------------
 */

static void session_ended(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    if (err < 0 || reply->type != PTN_MSG_OK)
        session_unchanged(c, state, arg, err, reply);
    else
        revoke_round(c, state, arg);
}

void auth__logout(ptn_ctx *c, struct auth *s, const ptn_msg *m) {
    ptn_request r;
    PTN_REQUIRE(c, ptn_request_unpack(ptn_msg_bytes(m), &r));
    ptn_reply_to to = ptn_reply_token(c, m);
    ptn_pack w;
    if (r.principal.session.n == 0) {
        ptn_pack_init(&w, 160);
        ptn_response_begin(&w, 200);
        ptn_pack_map(&w, 2);
        ptn_pack_key(&w, "sessionEnded");
        ptn_pack_bool(&w, false);
        ptn_pack_key(&w, "reason");
        ptn_pack_cstr(&w, "this token belongs to no session; it ends at its expiry");
        ptn_response_send(c, to, &w);
        return;
    }
    struct auth_op *op = op_new(c, s, to, false);
    if (op == NULL)
        return;
    PTN_REQUIRE(c, copy_text(r.principal.session, op->session, sizeof op->session));
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 2);
    ptn_pack_str(&w, r.principal.session);
    ptn_pack_int(&w, ptn_wall_ms(c));
    ask_store(c, s, op, PTN_MSG_STORE_SESSION_REVOKE, &w, session_ended);
}
