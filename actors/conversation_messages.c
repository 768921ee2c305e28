/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_messages.c - sending, listing and reading messages.
 *
 * Many appends of one conversation are under way at once; the store orders them.  The sender is
 * answered before the event goes out, so a client that hears its own message has its answer first.
 */
#include "actors/conversation_internal.h"

#include "actors/idempotency.h"

#include <postern/codec.h>
#include <stdio.h>

#define LIST_MAX 200
#define LIST_DEFAULT 50
#define FUTURE_MS_MAX (INT64_C(24) * 3600 * 1000)

/* ---- checking ----------------------------------------------------------------------------- */

static void fault_add(struct faults *f, const char *field, const char *reason) {
    if (f->n < PTN_ARRAY_LEN(f->at))
        f->at[f->n++] = (struct fault){field, reason};
}

/* The values of a Message's members, the first of each name; n == 0: not there, or nil. */
struct members {
    ptn_bytes id, conversation, content, type, timestamp, metadata;
};

static struct members read_members(ptn_bytes body) {
    struct members m = {.id = {0}};
    ptn_unpack u = ptn_unpack_of(body);
    uint32_t n = 0;
    ptn_str key;
    ptn_bytes value;
    (void)ptn_unpack_map(&u, &n);
    for (; n > 0 && ptn_unpack_pair(&u, &key, &value); n--) {
        ptn_bytes *to = ptn_str_eqz(key, "content")          ? &m.content
                        : ptn_str_eqz(key, "id")             ? &m.id
                        : ptn_str_eqz(key, "conversationId") ? &m.conversation
                        : ptn_str_eqz(key, "type")           ? &m.type
                        : ptn_str_eqz(key, "timestamp")      ? &m.timestamp
                        : ptn_str_eqz(key, "metadata")       ? &m.metadata
                                                             : NULL;
        if (to != NULL && to->n == 0)
            *to = value;
    }
    return m;
}

static bool is_given(ptn_bytes value) {
    return value.n > 0 && ptn_kind_of(value) != PTN_KIND_NIL;
}

static bool read_str(ptn_bytes value, ptn_str *ret_s) {
    ptn_unpack u = ptn_unpack_of(value);
    return ptn_unpack_str(&u, ret_s);
}

static void read_type(ptn_bytes value, bool admin, struct draft *d, struct faults *f) {
    static const char *const types[] = {"text", "image", "audio", "file", "system"};
    d->type = PTN_STR("text");
    if (!is_given(value))
        return;
    bool known = false;
    if (read_str(value, &d->type))
        for (size_t i = 0; i < PTN_ARRAY_LEN(types); i++)
            known = known || ptn_str_eqz(d->type, types[i]);
    if (!known)
        fault_add(f, "type", "one of: text, image, audio, file, system");
    else if (ptn_str_eqz(d->type, "system") && !admin)
        fault_add(f, "type", "only administrators send system messages");
}

static void read_content(ptn_bytes value, struct draft *d, struct faults *f) {
    if (!read_str(value, &d->content))
        fault_add(f, "content", "a text is required");
    else if (d->content.n == 0 || d->content.n > MESSAGE_CONTENT_BYTES_MAX)
        fault_add(f, "content", "1 byte to 64 KiB");
    else if (memchr(d->content.p, '\0', d->content.n) != NULL)
        fault_add(f, "content", "no NUL characters");
}

static void read_timestamp(ptn_bytes value, int64_t now_ms, struct draft *d, struct faults *f) {
    ptn_str text;
    d->timestamp_ms = now_ms;
    if (!is_given(value))
        return;
    if (!read_str(value, &text) || !ptn_timestamp_parse(text, &d->timestamp_ms) ||
        d->timestamp_ms < 0)
        fault_add(f, "timestamp", "RFC 3339, for example 2026-01-31T12:00:00.000Z");
    else if (d->timestamp_ms > now_ms + FUTURE_MS_MAX)
        fault_add(f, "timestamp", "more than a day in the future");
}

void draft_read(ptn_bytes body, bool admin, int64_t now_ms, struct draft *ret_d,
                struct faults *ret_f) {
    ptn_str conversation;
    *ret_d = (struct draft){0};
    ret_f->n = 0;
    if (ptn_kind_of(body) != PTN_KIND_MAP) {
        fault_add(ret_f, "body", "an object is required");
        return;
    }
    const struct members m = read_members(body);
    if (is_given(m.id) && (!read_str(m.id, &ret_d->id) || !ptn_id_is_valid(ret_d->id)))
        fault_add(ret_f, "id", "a ULID or a UUID");
    if (is_given(m.conversation) &&
        (!read_str(m.conversation, &conversation) || conversation.n == 0))
        fault_add(ret_f, "conversationId", "the id of a conversation, or `current`");
    read_content(m.content, ret_d, ret_f);
    read_type(m.type, admin, ret_d, ret_f);
    read_timestamp(m.timestamp, now_ms, ret_d, ret_f);
    if (is_given(m.metadata)) {
        if (ptn_kind_of(m.metadata) != PTN_KIND_MAP)
            fault_add(ret_f, "metadata", "an object");
        else if (m.metadata.n > MESSAGE_METADATA_BYTES_MAX)
            fault_add(ret_f, "metadata", "at most 16 KiB");
        ret_d->metadata = m.metadata;
    }
}

static void fail_faults(ptn_ctx *c, struct op *op, const struct faults *f) {
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_pack_array(&w, 3);
    ptn_pack_int(&w, PTN_CODE_VALIDATION_FAILED);
    ptn_pack_cstr(&w, "the message is not valid; details names each field");
    ptn_pack_map(&w, f->n);
    for (uint32_t i = 0; i < f->n; i++) {
        ptn_pack_key(&w, f->at[i].field);
        ptn_pack_cstr(&w, f->at[i].reason);
    }
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL)
        (void)ptn_reply_err(c, op->to, -PTN_ENOMEM);
    else if (ptn_reply(c, op->to, PTN_MSG_PROBLEM, b) < 0)
        ptn_buf_unref(b);
    op_end(c, op);
}

/* ---- sending ------------------------------------------------------------------------------ */

/* The answer to an append, in the order of seq. */
static void message_stored(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct op *op = arg;
    struct conversation *v = op->conv;
    uint32_t n;
    uint64_t seq;
    bool is_new;
    ptn_bytes message;
    (void)state;
    if (err != 0 || reply->type != PTN_MSG_STORE_MSG) {
        /* Unless it was refused at the door, nobody knows whether it was stored: if so, it must
         * still be published. */
        if (err != 0 && err != -PTN_EOVERLOAD)
            catch_up(c, v);
        op_pass(c, op, err, reply);
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n) && n == 3 && ptn_unpack_uint(&u, &seq) &&
                       ptn_unpack_bool(&u, &is_new) && ptn_unpack_any(&u, &message));
    ptn_pack w;
    ptn_pack_init(&w, 32 + message.n);
    ptn_response_begin(&w, 201);
    ptn_pack_raw(&w, message);
    ptn_response_send(c, op->to, &w);
    if (is_new)
        conv_publish(c, v, seq, message);
    op_end(c, op);
}

void pack_append(ptn_pack *w, const struct op *op, const struct draft *d) {
    ptn_pack_array(w, 7);
    ptn_pack_str(w, conv_id(op->conv));
    ptn_pack_str(w, d->id);
    ptn_pack_str(w, op->user);
    ptn_pack_str(w, d->type);
    ptn_pack_str(w, d->content);
    if (d->metadata.n > 0)
        ptn_pack_raw(w, d->metadata);
    else
        ptn_pack_nil(w);
    ptn_pack_int(w, d->timestamp_ms);
}

void on_send(ptn_ctx *c, struct op *op) {
    struct draft d;
    struct faults f;
    char id[IDEMPOTENCY_ID_BYTES + 1];
    ptn_str key;
    if (!conv_is_member(op->conv, op->user)) {
        op_not_found(c, op);
        return;
    }
    int keyed = idempotency_key(&op->request, &key);
    if (keyed < 0) {
        op_fail_field(c, op, "the request is not valid", "Idempotency-Key", IDEMPOTENCY_KEY_RULE);
        return;
    }
    bool admin = (op->request.principal.roles & PTN_ROLE_ADMIN) != 0;
    draft_read(op->request.body, admin, ptn_wall_ms(c), &d, &f);
    if (f.n > 0) {
        fail_faults(c, op, &f);
        return;
    }
    if (d.id.n == 0) {
        if (keyed > 0) /* then the store's own check for duplicates does it */
            idempotency_id(op->shard->config->id_key, op->user, conv_id(op->conv), key, id);
        else
            ptn_ulid(c, id);
        d.id = ptn_str_of(id);
    }
    ptn_pack w;
    ptn_pack_init(&w, 192 + d.content.n + d.metadata.n);
    pack_append(&w, op, &d);
    (void)op_ask(c, op, PTN_MSG_STORE_MSG_APPEND, &w, message_stored);
}

/* ---- history ------------------------------------------------------------------------------ */

static ptn_str cursor(char *buf, size_t buf_bytes, uint64_t seq) {
    int n = snprintf(buf, buf_bytes, "%llu", (unsigned long long)seq);
    return (ptn_str){buf, (size_t)n};
}

static void messages_loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct op *op = arg;
    uint32_t n, pair;
    uint64_t last, seq = 0, first = 0;
    ptn_bytes message;
    char next[24], prev[24];
    (void)state;
    if (err != 0 || reply->type != PTN_MSG_STORE_MSGS) {
        op_pass(c, op, err, reply);
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c,
                ptn_unpack_array(&u, &n) && ptn_unpack_uint(&u, &last) && ptn_unpack_array(&u, &n));
    ptn_unpack ahead = u;
    for (uint32_t i = 0; i < n; i++) {
        PTN_REQUIRE(c, ptn_unpack_array(&ahead, &pair) && ptn_unpack_uint(&ahead, &seq) &&
                           ptn_unpack_any(&ahead, NULL));
        first = i == 0 ? seq : first;
    }
    ptn_pack w;
    ptn_pack_init(&w, 96 + reply->len);
    ptn_response_begin_page(&w, 200,
                            n > 0 && seq < last ? cursor(next, sizeof next, seq) : (ptn_str){0},
                            first > 1 ? cursor(prev, sizeof prev, first) : (ptn_str){0});
    ptn_pack_array(&w, n);
    for (uint32_t i = 0; i < n; i++) {
        (void)(ptn_unpack_array(&u, &pair) && ptn_unpack_uint(&u, &seq) &&
               ptn_unpack_any(&u, &message));
        ptn_pack_raw(&w, message);
    }
    op_respond(c, op, &w);
}

void on_list_messages(ptn_ctx *c, struct op *op) {
    int64_t after = 0, before = 0, limit = LIST_DEFAULT;
    ptn_str query = op->request.query;
    if (!conv_is_member(op->conv, op->user)) {
        op_not_found(c, op);
        return;
    }
    int given_after = ptn_query_int(query, "after", 0, INT64_MAX, &after);
    int given_before = ptn_query_int(query, "before", 0, INT64_MAX, &before);
    if (given_after < 0 || given_before < 0) {
        op_fail_field(c, op, "the query is not valid", given_after < 0 ? "after" : "before",
                      "a sequence number");
        return;
    }
    if (ptn_query_int(query, "limit", 1, LIST_MAX, &limit) < 0) {
        op_fail_field(c, op, "the query is not valid", "limit", "an integer from 1 to 200");
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 96);
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, conv_id(op->conv));
    if (given_after > 0)
        ptn_pack_int(&w, after);
    else
        ptn_pack_nil(&w);
    if (given_before > 0)
        ptn_pack_int(&w, before);
    else
        ptn_pack_nil(&w);
    ptn_pack_int(&w, limit);
    (void)op_ask(c, op, PTN_MSG_STORE_MSG_RANGE, &w, messages_loaded);
}

/* ---- read marks --------------------------------------------------------------------------- */

static void read_stored(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct op *op = arg;
    uint32_t n;
    uint64_t seq;
    bool moved;
    ptn_bytes message;
    (void)state;
    if (err != 0 || reply->type != PTN_MSG_STORE_MSG) {
        op_pass(c, op, err, reply);
        return;
    }
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n) && n == 3 && ptn_unpack_uint(&u, &seq) &&
                       ptn_unpack_bool(&u, &moved) && ptn_unpack_any(&u, &message));
    ptn_pack w;
    ptn_pack_init(&w, 32 + message.n);
    ptn_response_begin(&w, 200);
    ptn_pack_raw(&w, message);
    ptn_response_send(c, op->to, &w);
    if (moved)
        mark_read(c, op->shard, message, op->user, seq);
    op_end(c, op);
}

void pack_read(ptn_pack *w, const struct op *op, ptn_str message_id, int64_t now_ms) {
    ptn_pack_array(w, 3);
    ptn_pack_str(w, message_id);
    ptn_pack_str(w, op->user);
    ptn_pack_int(w, now_ms);
}

void on_read(ptn_ctx *c, struct op *op) {
    char buf[CONVERSATION_ID_BYTES_MAX];
    ptn_str id;
    if (!ptn_path_segment(op->request.path, 1, buf, sizeof buf, &id) || !ptn_id_is_valid(id)) {
        op_fail(c, op, PTN_CODE_NOT_FOUND, "no such message");
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 128);
    pack_read(&w, op, id, ptn_wall_ms(c));
    (void)op_ask_through(c, op, PTN_MSG_STORE_MSG_READ, &w, read_stored);
}
