/* SPDX-License-Identifier: Apache-2.0
 *
 * users.c - the users actor: accounts, preferences, households.
 *
 * It holds no state that matters: every answer comes from the store, so a restart loses nothing but
 * requests in flight.  Passwords are hashed on the pool (Argon2id costs tens of milliseconds and
 * megabytes), a bounded number at a time; a plain password lives in one buffer that is wiped, and
 * is never logged.
 */
#include "actors/users.h"

#include "actors/idempotency.h"
#include "actors/password.h"
#include "actors/sync.h"

#include <postern/codec.h>

#include <stdlib.h>

#define HASHINGS_MAX_DEFAULT 8u
#define LIST_MAX 200
#define LIST_DEFAULT 50
#define FAMILY_MAX 200
#define PREFERENCES_BYTES_MAX (16u << 10)

struct users {
    const users_config *config;
    struct users_op *ops; /* in flight: freed by users_forget() after a crash */
    uint32_t hashings, hashings_max;
    uint32_t pending; /* asks and hashings in flight */
    bool stopping;
};

struct users_op { /* one request in flight */
    struct users_op *next, **pprev;
    ptn_reply_to to;
    uint32_t limit; /* of a list */
};

struct hashing { /* an account being made; freed by hashing_done() whatever happens */
    ptn_reply_to to;
    int err;
    uint32_t roles;
    uint32_t password_bytes, name_bytes, household_bytes;
    char password[PASSWORD_BYTES_MAX];
    char hash[PASSWORD_HASH_BYTES];
    char name[USERNAME_BYTES_MAX];
    char household[HOUSEHOLD_BYTES_MAX];
    char id[IDEMPOTENCY_ID_BYTES + 1];
};

/* ---- checks ------------------------------------------------------------------------------- */

/* UTF-8 without blanks and control characters. */
static bool is_word(ptn_str s) {
    for (size_t i = 0; i < s.n; i++)
        if ((uint8_t)s.p[i] <= 0x20 || (uint8_t)s.p[i] == 0x7f)
            return false;
    return ptn_utf8_valid((const uint8_t *)s.p, s.n);
}

const char *username_check(ptn_str name) {
    if (name.n == 0 || name.n > USERNAME_BYTES_MAX)
        return "1 to 64 bytes";
    return is_word(name) ? NULL : "no blanks or control characters";
}

const char *password_check(ptn_str password) {
    if (password.n < PASSWORD_BYTES_MIN || password.n > PASSWORD_BYTES_MAX)
        return "8 to 256 bytes";
    return NULL;
}

const char *household_check(ptn_str household) {
    if (household.n == 0 || household.n > HOUSEHOLD_BYTES_MAX)
        return "1 to 64 bytes";
    return is_word(household) ? NULL : "no blanks or control characters";
}

/* ---- users as clients see them ------------------------------------------------------------- */

struct user_view {
    ptn_str id, name, household;
    uint64_t roles;
    int64_t created_ms;
    ptn_bytes preferences;
    uint64_t version;
};

static bool unpack_user(ptn_unpack *u, struct user_view *ret_v) {
    uint32_t n;
    ptn_str hash; /* read and dropped: it never leaves the broker */
    return ptn_unpack_array(u, &n) && n == 8 && ptn_unpack_str(u, &ret_v->id) &&
           ptn_unpack_str(u, &ret_v->name) && ptn_unpack_str_or_nil(u, &hash) &&
           ptn_unpack_uint(u, &ret_v->roles) && ptn_unpack_str_or_nil(u, &ret_v->household) &&
           ptn_unpack_int(u, &ret_v->created_ms) && ptn_unpack_any(u, &ret_v->preferences) &&
           ptn_unpack_uint(u, &ret_v->version);
}

static void pack_user(ptn_pack *w, const struct user_view *v, bool preferences) {
    ptn_pack_map(w, preferences ? 6 : 5);
    ptn_pack_key(w, "id");
    ptn_pack_str(w, v->id);
    ptn_pack_key(w, "username");
    ptn_pack_str(w, v->name);
    ptn_pack_key(w, "roles");
    ptn_pack_roles(w, (uint32_t)v->roles);
    ptn_pack_key(w, "household");
    ptn_pack_str_or_nil(w, v->household);
    ptn_pack_key(w, "createdAt");
    ptn_pack_timestamp(w, v->created_ms);
    if (preferences) {
        ptn_pack_key(w, "preferences");
        ptn_pack_raw(w, v->preferences);
    }
}

/* ---- asking the store --------------------------------------------------------------------- */

static struct users_op *op_new(struct users *s, ptn_reply_to to) {
    struct users_op *op = calloc(1, sizeof *op);
    if (op == NULL)
        return NULL;
    *op = (struct users_op){.next = s->ops, .pprev = &s->ops, .to = to};
    if (op->next != NULL)
        op->next->pprev = &op->next;
    s->ops = op;
    return op;
}

static void op_free(struct users_op *op) {
    *op->pprev = op->next;
    if (op->next != NULL)
        op->next->pprev = op->pprev;
    free(op);
}

/* At the actor's end, crash included. */
static void users_forget(void *arg) {
    struct users *s = arg;
    while (s->ops != NULL)
        op_free(s->ops);
}

/* Ends an operation that was not answered yet. */
static void op_fail(ptn_ctx *c, struct users_op *op, int err, const ptn_msg *reply) {
    ptn_problem_pass(c, op->to, err, reply);
    op_free(op);
}

static void settled(ptn_ctx *c, struct users *s) {
    s->pending--;
    if (s->stopping && s->pending == 0)
        ptn_exit(c, 0);
}

/* Consumes op and w: asks the store, or answers with the reason why that cannot be done.  The
 * user's other clients hear of an edit, whoever still waits. */
static void ask_store(ptn_ctx *c, struct users *s, struct users_op *op, uint32_t type, ptn_pack *w,
                      ptn_reply_cb cb) {
    ptn_addr store = s->config->directory->store;
    ptn_buf *b = ptn_pack_finish(w);
    int err = -PTN_ENOMEM;
    if (b != NULL && type == PTN_MSG_STORE_EDIT)
        err = ptn_ask_through(c, store, type, b, op->to.deadline, cb, op, NULL);
    else if (b != NULL)
        err = ptn_ask(c, store, type, b, op->to.deadline, cb, op, NULL);
    if (err == 0) {
        s->pending++;
        return;
    }
    ptn_buf_unref(b);
    op_fail(c, op, err, NULL);
}

/* STORE_USER -> RESPONSE with the user. */
static void answer_user(ptn_ctx *c, struct users_op *op, int err, const ptn_msg *reply,
                        unsigned status, bool preferences) {
    struct user_view v;
    if (err != 0 || reply->type != PTN_MSG_STORE_USER) {
        op_fail(c, op, err, reply);
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, unpack_user(&u, &v));
    ptn_pack w;
    ptn_pack_init(&w, 256 + v.preferences.n);
    if (preferences)
        ptn_response_begin_version(&w, status, v.version, 0);
    else
        ptn_response_begin(&w, status);
    pack_user(&w, &v, preferences);
    ptn_response_send(c, op->to, &w);
    op_free(op);
}

static void me_loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    answer_user(c, arg, err, reply, 200, true);
    settled(c, state);
}

static void user_added(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    answer_user(c, arg, err, reply, 201, false);
    settled(c, state);
}

/* STORE_USERS -> RESPONSE with the list; one more than the limit was asked for, to know of a next
 * page. */
static void answer_users(ptn_ctx *c, struct users_op *op, int err, const ptn_msg *reply,
                         bool paged) {
    struct user_view v;
    uint32_t n;
    ptn_str last = {0};
    if (err != 0 || reply->type != PTN_MSG_STORE_USERS) {
        op_fail(c, op, err, reply);
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n));
    uint32_t shown = n < op->limit ? n : op->limit;
    bool more =
        paged && (n > op->limit || (n > 0 && reply->len >= 512u << 10)); /* STORE_PAGE_BYTES */
    ptn_unpack ahead = u;
    for (uint32_t i = 0; i < shown; i++) {
        PTN_REQUIRE(c, unpack_user(&ahead, &v));
        last = v.name;
    }
    ptn_pack w;
    ptn_pack_init(&w, 128 + reply->len);
    ptn_response_begin_page(&w, 200, more ? last : (ptn_str){0}, (ptn_str){0});
    ptn_pack_array(&w, shown);
    for (uint32_t i = 0; i < shown && unpack_user(&u, &v); i++)
        pack_user(&w, &v, false);
    ptn_response_send(c, op->to, &w);
    op_free(op);
}

static void list_loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    answer_users(c, arg, err, reply, true);
    settled(c, state);
}

static void family_loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    answer_users(c, arg, err, reply, false);
    settled(c, state);
}

/* ---- routes of the caller ----------------------------------------------------------------- */

static void ask_user(ptn_ctx *c, struct users *s, struct users_op *op, ptn_str id,
                     ptn_reply_cb cb) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, id);
    ask_store(c, s, op, PTN_MSG_STORE_USER_BY_ID, &w, cb);
}

static void prefs_edited(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct users *s = state;
    struct users_op *op = arg;
    struct user_view v;
    struct sync_outcome o;
    ptn_bytes record;
    ptn_unpack u;
    uint32_t n;
    ptn_pack w;
    if (err != 0 || reply->type != PTN_MSG_STORE_EDITED) {
        op_fail(c, op, err, reply);
        settled(c, s);
        return;
    }
    PTN_REQUIRE(c, sync_edited_read(ptn_msg_bytes(reply), &record, &u, &n) && n == 1 &&
                       sync_outcome_read(&u, &o));
    u = ptn_unpack_of(record);
    ptn_pack_init(&w, 256 + reply->len);
    if (o.outcome == PTN_OUTCOME_REJECTED) {
        ptn_pack_raw(&w, o.value);
        ptn_problem_send_packed(c, op->to, &w);
    } else if (o.outcome == PTN_OUTCOME_CONFLICT) {
        PTN_REQUIRE(c, unpack_user(&u, &v));
        ptn_problem_begin_conflict(
            &w, "the preferences have changed since; details.current is how they stand");
        pack_user(&w, &v, true);
        ptn_problem_send_packed(c, op->to, &w);
    } else {
        PTN_REQUIRE(c, unpack_user(&u, &v));
        ptn_response_begin_version(&w, 200, v.version, 0);
        pack_user(&w, &v, true);
        ptn_response_send(c, op->to, &w);
        sync_tell_preferences(c, s->config->directory, v.id, v.version);
    }
    op_free(op);
    settled(c, s);
}

static void on_prefs(ptn_ctx *c, struct users *s, struct users_op *op, const ptn_request *r) {
    if (ptn_kind_of(r->body) != PTN_KIND_MAP) {
        ptn_problem_send(
            c, op->to, PTN_CODE_VALIDATION_FAILED,
            "the body is a merge patch (RFC 7396): an object with the members to change");
        op_free(op);
        return;
    }
    if (r->body.n > PREFERENCES_BYTES_MAX) {
        ptn_problem_send(c, op->to, PTN_CODE_PAYLOAD_TOO_LARGE, "preferences hold at most 16 KiB");
        op_free(op);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 128 + r->body.n);
    ptn_edit_begin(&w, r->principal.user, (ptn_str){NULL, 0}, ptn_wall_ms(c), PTN_EDIT_PREFERENCES,
                   r->headers);
    ptn_pack_raw(&w, r->body);
    ask_store(c, s, op, PTN_MSG_STORE_EDIT, &w, prefs_edited);
}

/* The caller's account is known: now the household, or the caller alone. */
static void family_head_loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct users *s = state;
    struct users_op *op = arg;
    struct user_view v;
    if (err != 0 || reply->type != PTN_MSG_STORE_USER) {
        op_fail(c, op, err, reply);
        settled(c, s);
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, unpack_user(&u, &v));
    ptn_pack w;
    ptn_pack_init(&w, 512);
    if (v.household.n > 0) {
        ptn_pack_array(&w, 2);
        ptn_pack_str(&w, v.household);
        ptn_pack_uint(&w, FAMILY_MAX);
        op->limit = FAMILY_MAX;
        ask_store(c, s, op, PTN_MSG_STORE_HOUSEHOLD, &w, family_loaded);
    } else {
        ptn_response_begin_page(&w, 200, (ptn_str){0}, (ptn_str){0});
        ptn_pack_array(&w, 1);
        pack_user(&w, &v, false);
        ptn_response_send(c, op->to, &w);
        op_free(op);
    }
    settled(c, s);
}

/* ---- routes of administrators --------------------------------------------------------------- */

static void on_list(ptn_ctx *c, struct users *s, struct users_op *op, const ptn_request *r) {
    int64_t limit = LIST_DEFAULT;
    char buf[USERNAME_BYTES_MAX];
    ptn_str after = {0};
    if (ptn_query_int(r->query, "limit", 1, LIST_MAX, &limit) < 0) {
        ptn_problem_send_field(c, op->to, PTN_CODE_VALIDATION_FAILED, "the query is not valid",
                               "limit", "an integer from 1 to 200");
        op_free(op);
        return;
    }
    (void)ptn_query_get(r->query, "after", buf, sizeof buf, &after);
    op->limit = (uint32_t)limit;
    ptn_pack w;
    ptn_pack_init(&w, 96);
    ptn_pack_array(&w, 2);
    ptn_pack_str_or_nil(&w, after);
    ptn_pack_int(&w, limit + 1);
    ask_store(c, s, op, PTN_MSG_STORE_USER_LIST, &w, list_loaded);
}

/* An optional text field; NULL or what is wrong with it. */
static const char *check_text(ptn_bytes value, const char *(*check)(ptn_str), char *out,
                              uint32_t *ret_bytes) {
    ptn_unpack u = ptn_unpack_of(value);
    ptn_str s;
    if (!ptn_unpack_str(&u, &s))
        return "must be a text";
    const char *why = check(s);
    if (why != NULL)
        return why;
    memcpy(out, s.p, s.n);
    *ret_bytes = (uint32_t)s.n;
    return NULL;
}

static const char *check_roles(ptn_bytes value, uint32_t *ret_roles) {
    static const char why[] = "must be an array of: user, admin, service";
    ptn_unpack u = ptn_unpack_of(value);
    ptn_str s;
    uint32_t n, roles = 0;
    if (!ptn_unpack_array(&u, &n))
        return why;
    for (uint32_t i = 0; i < n; i++) {
        if (!ptn_unpack_str(&u, &s) || ptn_role_of(s) == 0)
            return why;
        roles |= ptn_role_of(s);
    }
    *ret_roles = roles;
    return roles == 0 ? why : NULL;
}

/* Fields of POST /admin/users into h; what is wrong into *wrong.  A password of null is an account
 * that cannot log in; leaving it out is more likely a mistake, and is refused. */
static void check_new_user(ptn_bytes body, struct hashing *h, ptn_fields *wrong) {
    ptn_bytes value;
    const char *why = "required";
    if (ptn_map_get(body, "username", &value))
        why = check_text(value, username_check, h->name, &h->name_bytes);
    if (why != NULL)
        ptn_fields_add(wrong, "username", why);
    why = "required; null makes an account that cannot log in";
    if (ptn_map_get(body, "password", &value))
        why = ptn_kind_of(value) == PTN_KIND_NIL
                  ? NULL
                  : check_text(value, password_check, h->password, &h->password_bytes);
    if (why != NULL)
        ptn_fields_add(wrong, "password", why);
    if (ptn_map_get(body, "household", &value) && ptn_kind_of(value) != PTN_KIND_NIL) {
        why = check_text(value, household_check, h->household, &h->household_bytes);
        if (why != NULL)
            ptn_fields_add(wrong, "household", why);
    }
    h->roles = PTN_ROLE_USER;
    if (ptn_map_get(body, "roles", &value) && ptn_kind_of(value) != PTN_KIND_NIL) {
        why = check_roles(value, &h->roles);
        if (why != NULL)
            ptn_fields_add(wrong, "roles", why);
    }
}

static void hashing_free(struct hashing *h) {
    explicit_bzero(h, sizeof *h);
    free(h);
}

/* Consumes h: the account goes to the store. */
static void store_new_user(ptn_ctx *c, struct users *s, struct hashing *h) {
    struct users_op *op = op_new(s, h->to);
    if (op == NULL) {
        ptn_problem_pass(c, h->to, -PTN_ENOMEM, NULL);
        hashing_free(h);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 512);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, h->id);
    ptn_pack_str(&w, (ptn_str){h->name, h->name_bytes});
    ptn_pack_cstr(&w, h->password_bytes > 0 ? h->hash : "");
    ptn_pack_uint(&w, h->roles);
    ptn_pack_str_or_nil(&w, (ptn_str){h->household, h->household_bytes});
    ptn_pack_int(&w, ptn_wall_ms(c));
    hashing_free(h);
    ask_store(c, s, op, PTN_MSG_STORE_USER_ADD, &w, user_added);
}

/* Pool thread. */
static void hashing_work(void *job) {
    struct hashing *h = job;
    h->err = password_hash((ptn_str){h->password, h->password_bytes}, h->hash, sizeof h->hash);
}

static void hashing_done(ptn_ctx *c, void *state, void *job, int err) {
    struct hashing *h = job;
    struct users *s = state;
    if (c == NULL) { /* the actor has gone; its supervisor told the asker */
        hashing_free(h);
        return;
    }
    s->hashings--;
    if (err == 0)
        err = h->err;
    if (err < 0) {
        ptn_problem_pass(c, h->to, err, NULL);
        hashing_free(h);
    } else {
        store_new_user(c, s, h);
    }
    settled(c, s);
}

static void on_add(ptn_ctx *c, struct users *s, ptn_reply_to to, const ptn_request *r) {
    ptn_fields wrong = {.n = 0};
    struct hashing *h = calloc(1, sizeof *h);
    if (h == NULL) {
        ptn_problem_pass(c, to, -PTN_ENOMEM, NULL);
        return;
    }
    h->to = to;
    if (ptn_kind_of(r->body) == PTN_KIND_MAP)
        check_new_user(r->body, h, &wrong);
    else
        ptn_fields_add(&wrong, "body", "an object is required");
    ptn_str key;
    int keyed = idempotency_key(r, &key);
    if (keyed > 0)
        idempotency_id(s->config->id_key, r->principal.user, PTN_STR("/admin/users"), key, h->id);
    else
        ptn_ulid(c, h->id);
    if (keyed < 0)
        ptn_fields_add(&wrong, "Idempotency-Key", IDEMPOTENCY_KEY_RULE);
    if (wrong.n > 0) {
        ptn_problem_send_fields(c, to, "the account is not valid; details names each field",
                                &wrong);
        hashing_free(h);
        return;
    }
    if (h->password_bytes == 0) { /* an account that cannot log in with a password */
        store_new_user(c, s, h);
        return;
    }
    int err =
        s->hashings < s->hashings_max ? ptn_work(c, hashing_work, h, hashing_done) : -PTN_EOVERLOAD;
    if (err < 0) {
        ptn_problem_pass(c, to, err, NULL);
        hashing_free(h);
        return;
    }
    s->hashings++;
    s->pending++;
}

/* ---- the actor ---------------------------------------------------------------------------- */

static void on_route(ptn_ctx *c, struct users *s, const ptn_msg *m) {
    ptn_request r;
    ptn_reply_to to = ptn_reply_token(c, m);
    if (!ptn_request_unpack(ptn_msg_bytes(m), &r)) {
        ptn_problem_send(c, to, PTN_CODE_INVALID_REQUEST, "the request cannot be read");
        return;
    }
    if (m->type == PTN_MSG_ROUTE_ADMIN_USER_ADD) {
        on_add(c, s, to, &r);
        return;
    }
    struct users_op *op = op_new(s, to);
    if (op == NULL) {
        ptn_problem_pass(c, to, -PTN_ENOMEM, NULL);
        return;
    }
    switch (m->type) {
    case PTN_MSG_ROUTE_USERS_ME:
        ask_user(c, s, op, r.principal.user, me_loaded);
        break;
    case PTN_MSG_ROUTE_USERS_PREFS:
        on_prefs(c, s, op, &r);
        break;
    case PTN_MSG_ROUTE_USERS_FAMILY:
        ask_user(c, s, op, r.principal.user, family_head_loaded);
        break;
    default:
        on_list(c, s, op, &r);
        break;
    }
}

static int users_init(ptn_ctx *c, void *state, void *arg) {
    struct users *s = state;
    s->config = arg;
    s->hashings_max = s->config->hashings_max != 0 ? s->config->hashings_max : HASHINGS_MAX_DEFAULT;
    return ptn_defer(c, users_forget, s);
}

static int users_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct users *s = state;
    switch (m->type) {
    case PTN_MSG_ROUTE_USERS_ME:
    case PTN_MSG_ROUTE_USERS_PREFS:
    case PTN_MSG_ROUTE_USERS_FAMILY:
    case PTN_MSG_ROUTE_ADMIN_USERS:
    case PTN_MSG_ROUTE_ADMIN_USER_ADD:
        on_route(c, s, m);
        return 0;
    case PTN_MSG_STOPPING:
        s->stopping = true;
        if (s->pending == 0)
            ptn_exit(c, 0);
        return 0;
    default:
        return 0;
    }
}

const ptn_actor_ops users_actor = {.name = "users",
                                   .state_size = sizeof(struct users),
                                   .init = users_init,
                                   .handle = users_handle};
