/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_members.c - creating, listing and showing conversations, and who belongs to them.
 */
#include "actors/conversation_internal.h"
#include "actors/idempotency.h"

#include <postern/codec.h>

#include <stdlib.h>

#define LIST_MAX 200
#define LIST_DEFAULT 50
#define LIST_REPLY_BYTES (512u << 10) /* the store stops a page there */
#define ID_TRIES_MAX 65536

void make_epoch(ptn_ctx *c, char out[CONVERSATION_EPOCH_BYTES + 1]) {
    static const char digits[] = "0123456789abcdef";
    uint8_t random[CONVERSATION_EPOCH_BYTES / 2];
    ptn_random(c, random, sizeof random);
    for (size_t i = 0; i < sizeof random; i++) {
        out[2 * i] = digits[random[i] >> 4];
        out[2 * i + 1] = digits[random[i] & 15];
    }
    out[CONVERSATION_EPOCH_BYTES] = '\0';
}

/* ---- creating ----------------------------------------------------------------------------- */

/* An id that belongs to this shard, so that the conversation lives where it was made. */
static bool make_id(ptn_ctx *c, const struct shard *s, char out[PTN_ULID_LEN + 1]) {
    for (int i = 0; i < ID_TRIES_MAX; i++) {
        ptn_ulid(c, out);
        if (ptn_shard((ptn_str){out, PTN_ULID_LEN}, s->directory->workers) == s->config->shard)
            return true;
    }
    return false;
}

const char *read_title(ptn_bytes body, ptn_str *ret_title) {
    ptn_bytes value;
    uint32_t chars = 0;
    if (!ptn_map_get(body, "title", &value) || ptn_kind_of(value) == PTN_KIND_NIL)
        return NULL;
    if (!ptn_map_get_str(body, "title", ret_title))
        return "a text";
    for (size_t i = 0; i < ret_title->n; i++) {
        uint8_t b = (uint8_t)ret_title->p[i];
        if (b < 0x20 || b == 0x7f)
            return "no control characters";
        chars += (b & 0xc0) != 0x80; /* everything but continuation bytes begins a character */
    }
    return chars > CONVERSATION_TITLE_CHARS_MAX ? "at most 200 characters" : NULL;
}

/* Checks an array of user ids at value; *ret_u stands at the first.  NULL: fine. */
static const char *read_users(ptn_bytes value, ptn_unpack *ret_u, uint32_t *ret_n) {
    ptn_str user;
    ptn_unpack u = ptn_unpack_of(value);
    if (!ptn_unpack_array(&u, ret_n))
        return "an array of user ids";
    if (*ret_n > CONVERSATION_MEMBERS_MAX - 1)
        return "at most 1000 members";
    *ret_u = u;
    for (uint32_t i = 0; i < *ret_n; i++)
        if (!ptn_unpack_str(&u, &user) || user.n == 0 || user.n > CONVERSATION_ID_BYTES_MAX)
            return "an array of user ids";
    return NULL;
}

static void created(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct op *op = arg;
    struct shard *s = state;
    ptn_str id, user;
    uint32_t n;
    if (err != 0 || reply->type != PTN_MSG_STORE_CONV) {
        op_pass(c, op, err, reply);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 256 + 2 * reply->len);
    ptn_response_begin(&w, 201);
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, conv_pack_record(&w, &u, &id));
    ptn_response_send(c, op->to, &w);
    u = ptn_unpack_of(ptn_msg_bytes(reply));
    bool ok = ptn_unpack_array(&u, &n);
    for (int i = 0; i < 6 && ok; i++) /* up to the members */
        ok = ptn_unpack_any(&u, NULL);
    if (ok && ptn_unpack_array(&u, &n))
        for (; n > 0 && ptn_unpack_str(&u, &user); n--) {
            tell_user(c, s, user, "conversation.added", id);
            conv_tell_joined(c, s, id, &user, 1, 0);
        }
    op_end(c, op);
}

/* The id of a conversation to make: the key's, or a new one.  The hash of the body tells another
 * one under the same key.  False: it was answered. */
static bool choose_id(ptn_ctx *c, struct op *op, char id[IDEMPOTENCY_ID_BYTES + 1],
                      uint8_t hash[IDEMPOTENCY_HASH_BYTES], bool *ret_keyed) {
    const uint8_t *secret = op->shard->config->id_key;
    ptn_bytes body = op->request.body;
    ptn_str key;
    int keyed = idempotency_key(&op->request, &key);
    *ret_keyed = keyed > 0;
    if (keyed < 0) {
        op_fail_field(c, op, "the request is not valid", "Idempotency-Key", IDEMPOTENCY_KEY_RULE);
        return false;
    }
    if (keyed > 0) {
        idempotency_id(secret, op->user, PTN_STR("/conversations"), key, id);
        idempotency_hash(secret, &(ptn_str){(const char *)body.p, body.n}, 1, hash);
    } else if (!make_id(c, op->shard, id)) {
        op_fail(c, op, PTN_CODE_INTERNAL, "no id could be made");
        return false;
    }
    return true;
}

void on_create(ptn_ctx *c, struct op *op) {
    ptn_bytes body = op->request.body, value;
    ptn_str title = {0}, user;
    ptn_unpack users = {0};
    uint32_t n = 0;
    char id[IDEMPOTENCY_ID_BYTES + 1], epoch[CONVERSATION_EPOCH_BYTES + 1];
    uint8_t hash[IDEMPOTENCY_HASH_BYTES];
    bool keyed;
    const char *why = NULL;
    if (body.n > 0 && ptn_kind_of(body) != PTN_KIND_MAP) {
        op_fail_field(c, op, "the conversation is not valid", "body", "an object is required");
        return;
    }
    if ((why = read_title(body, &title)) != NULL) {
        op_fail_field(c, op, "the conversation is not valid", "title", why);
        return;
    }
    if (ptn_map_get(body, "members", &value) && ptn_kind_of(value) != PTN_KIND_NIL)
        why = read_users(value, &users, &n);
    if (why != NULL) {
        op_fail_field(c, op, "the conversation is not valid", "members", why);
        return;
    }
    if (!choose_id(c, op, id, hash, &keyed))
        return;
    make_epoch(c, epoch);
    ptn_pack w;
    ptn_pack_init(&w, 256 + value.n * (n > 0));
    ptn_pack_array(&w, 7);
    ptn_pack_cstr(&w, id);
    ptn_pack_str_or_nil(&w, title);
    ptn_pack_str(&w, op->user);
    ptn_pack_int(&w, ptn_wall_ms(c));
    ptn_pack_cstr(&w, epoch);
    ptn_pack_array(&w, n + 1);
    ptn_pack_str(&w, op->user);
    for (uint32_t i = 0; i < n && ptn_unpack_str(&users, &user); i++)
        ptn_pack_str(&w, user);
    if (keyed)
        ptn_pack_bin(&w, (ptn_bytes){hash, sizeof hash});
    else
        ptn_pack_nil(&w);
    (void)op_ask_through(c, op, PTN_MSG_STORE_CONV_ADD, &w, created);
}

/* ---- showing ------------------------------------------------------------------------------ */

void on_get(ptn_ctx *c, struct op *op) {
    if (!conv_is_member(op->conv, op->user)) {
        op_not_found(c, op);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 512);
    ptn_response_begin_version(&w, 200, op->conv->version, op->conv->last_seq);
    conv_pack(&w, op->conv);
    op_respond(c, op, &w);
}

static void listed(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct op *op = arg;
    uint32_t n;
    ptn_str last = {0};
    (void)state;
    if (err != 0 || reply->type != PTN_MSG_STORE_CONVS) {
        op_pass(c, op, err, reply);
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n));
    uint32_t shown = n < op->limit ? n : op->limit;
    bool more = n > op->limit || (n > 0 && reply->len >= LIST_REPLY_BYTES);
    ptn_pack rows, w;
    ptn_pack_init(&rows, 1024 + 2 * reply->len);
    for (uint32_t i = 0; i < shown; i++)
        PTN_REQUIRE(c, conv_pack_record(&rows, &u, &last));
    ptn_buf *encoded = shown > 0 ? ptn_pack_finish(&rows) : NULL;
    if (shown == 0)
        ptn_pack_abort(&rows);
    ptn_pack_init(&w, 128 + ptn_buf_bytes(encoded).n);
    ptn_response_begin_page(&w, 200, more ? last : (ptn_str){0}, (ptn_str){0});
    ptn_pack_array(&w, encoded != NULL ? shown : 0);
    if (encoded != NULL)
        ptn_pack_raw(&w, ptn_buf_bytes(encoded));
    if (shown > 0 && encoded == NULL) {
        ptn_pack_abort(&w);
        op_pass(c, op, -PTN_ENOMEM, NULL);
        return;
    }
    ptn_buf_unref(encoded);
    op_respond(c, op, &w);
}

void on_list(ptn_ctx *c, struct op *op) {
    int64_t limit = LIST_DEFAULT;
    char buf[CONVERSATION_ID_BYTES_MAX];
    ptn_str after = {0};
    if (ptn_query_int(op->request.query, "limit", 1, LIST_MAX, &limit) < 0) {
        op_fail_field(c, op, "the query is not valid", "limit", "an integer from 1 to 200");
        return;
    }
    (void)ptn_query_get(op->request.query, "after", buf, sizeof buf, &after);
    op->limit = (uint32_t)limit;
    ptn_pack w;
    ptn_pack_init(&w, 160);
    ptn_pack_array(&w, 3);
    ptn_pack_str(&w, op->user);
    ptn_pack_str_or_nil(&w, after);
    ptn_pack_int(&w, limit + 1);
    (void)op_ask(c, op, PTN_MSG_STORE_CONV_LIST, &w, listed);
}

/* ---- members ------------------------------------------------------------------------------ */

/* Whom a request is about; into its bytes, and buf. */
struct targets {
    ptn_unpack many; /* cursor at the first one; unless it is about one */
    ptn_str one;
    uint32_t n;
    char buf[CONVERSATION_ID_BYTES_MAX];
};

static bool body_has(const struct op *op, const char *key, ptn_bytes *ret_value) {
    return ptn_map_get(op->request.body, key, ret_value) && ptn_kind_of(*ret_value) != PTN_KIND_NIL;
}

/* One of {members: [..]} and {userId} in the body, and ?userId= (a DELETE may come without a body).
 * False: the client has been told. */
static bool read_targets(ptn_ctx *c, struct op *op, struct targets *t) {
    ptn_bytes members, user;
    const bool many = body_has(op, "members", &members), one = body_has(op, "userId", &user);
    const bool query = ptn_query_has(op->request.query, "userId");
    const char *field = many || !(one || query) ? "members" : "userId";
    const char *why = NULL;
    *t = (struct targets){.n = 1};
    if (many + one + query != 1) {
        why = many + one + query == 0
                  ? "an array of user ids (or userId: one)"
                  : "one of members, userId and the query's userId; not two of them";
    } else if (many) {
        why = read_users(members, &t->many, &t->n);
        if (why == NULL && t->n == 0)
            why = "at least one user id";
    } else {
        const bool read =
            one ? ptn_map_get_str(op->request.body, "userId", &t->one)
                : ptn_query_get(op->request.query, "userId", t->buf, sizeof t->buf, &t->one);
        if (!read || t->one.n == 0 || t->one.n > CONVERSATION_ID_BYTES_MAX)
            why = "a user id";
    }
    if (why != NULL)
        op_fail_field(c, op, "the members are not valid", field, why);
    return why == NULL;
}

static ptn_str next_target(struct targets *t) {
    ptn_str user = t->one;
    if (user.n == 0)
        (void)ptn_unpack_str(&t->many, &user);
    return user;
}

/* Of a CONV: where new members begin. */
static uint64_t record_last_seq(ptn_buf *record) {
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(record));
    uint32_t n;
    uint64_t seq = 0;
    bool ok = ptn_unpack_array(&u, &n);
    for (int i = 0; i < 5 && ok; i++)
        ok = ptn_unpack_any(&u, NULL);
    return ok && ptn_unpack_uint(&u, &seq) ? seq : 0;
}

int members_adopt(ptn_ctx *c, struct conversation *v, ptn_buf *record) {
    struct shard *s = v->shard;
    ptn_buf *old_record = ptn_buf_ref(v->record); /* keeps the old views alive */
    ptn_str *old = v->members;
    uint32_t n_old = v->n_members;
    v->members = NULL;
    int err = conv_adopt(v, record);
    if (err < 0) {
        v->members = old;
        ptn_buf_unref(old_record);
        return err;
    }
    /* Both lists are sorted by bytes: one walk finds the differences. */
    for (uint32_t i = 0; i < n_old; i++)
        if (!conv_is_member(v, old[i])) {
            conv_evict_user(c, v, old[i]);
            tell_user(c, s, old[i], "conversation.removed", conv_id(v));
        }
    struct conversation before = {.members = old, .n_members = n_old};
    for (uint32_t i = 0; i < v->n_members; i++)
        if (!conv_is_member(&before, v->members[i])) {
            tell_user(c, s, v->members[i], "conversation.added", conv_id(v));
            conv_tell_joined(c, s, conv_id(v), &v->members[i], 1, record_last_seq(record));
        }
    free(old);
    ptn_buf_unref(old_record);
    return 0;
}

void members_answer(ptn_ctx *c, struct op *op) {
    struct shard *s = op->shard;
    if (s->resync != 0) {
        op->wait_next = s->held;
        s->held = op;
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 256 + ptn_buf_bytes(op->conv->record).n);
    ptn_response_begin(&w, 200);
    conv_pack(&w, op->conv);
    op_respond(c, op, &w);
}

static void members_changed(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct op *op = arg;
    struct conversation *v = op->conv;
    (void)state;
    bool changed = err == 0 && reply->type == PTN_MSG_STORE_CONV;
    if (changed)
        err = members_adopt(c, v, reply->buf);
    if (err != 0 || !changed) {
        if (err != 0 && err != -PTN_EOVERLOAD) { /* nobody knows whether it was done */
            v->members_unsure = true;
            catch_up(c, v);
        }
        op_pass(c, op, err, reply);
        return;
    }
    members_answer(c, op);
}

static void ask_members(ptn_ctx *c, struct op *op, uint32_t type, struct targets t) {
    bool add = type == PTN_MSG_STORE_MEMBERS_ADD;
    ptn_pack w;
    ptn_pack_init(&w, 512);
    ptn_pack_array(&w, add ? 3 : 2);
    ptn_pack_str(&w, conv_id(op->conv));
    ptn_pack_array(&w, t.n);
    for (uint32_t i = 0; i < t.n; i++)
        ptn_pack_str(&w, next_target(&t));
    if (add)
        ptn_pack_int(&w, ptn_wall_ms(c));
    (void)op_ask(c, op, type, &w, members_changed);
}

void on_members_add(ptn_ctx *c, struct op *op) {
    struct targets t;
    if (!conv_is_member(op->conv, op->user)) {
        op_not_found(c, op);
        return;
    }
    if (read_targets(c, op, &t))
        ask_members(c, op, PTN_MSG_STORE_MEMBERS_ADD, t);
}

void on_members_remove(ptn_ctx *c, struct op *op) {
    struct conversation *v = op->conv;
    struct targets t;
    if (!conv_is_member(v, op->user)) {
        op_not_found(c, op);
        return;
    }
    if (!read_targets(c, op, &t))
        return;
    bool any =
        ptn_str_eq(op->user, v->creator) || (op->request.principal.roles & PTN_ROLE_ADMIN) != 0;
    struct targets check = t;
    for (uint32_t i = 0; i < t.n; i++) {
        ptn_str user = next_target(&check);
        if (!any && !ptn_str_eq(user, op->user)) {
            op_fail(c, op, PTN_CODE_FORBIDDEN,
                    "only the creator or an administrator removes others; you can remove yourself");
            return;
        }
        if (ptn_str_eq(user, conv_id(v))) {
            op_fail(c, op, PTN_CODE_CONFLICT, "nobody can leave their own default conversation");
            return;
        }
    }
    ask_members(c, op, PTN_MSG_STORE_MEMBERS_REMOVE, t);
}
