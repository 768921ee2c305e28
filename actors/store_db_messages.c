/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_messages.c - appending, reading and marking messages.
 *
 * The sequence number is taken inside the transaction and given back when it fails (the cache is
 * dropped), so that numbers have no gaps and nobody has seen one that was not stored.
 *
 * Read marks are one row per member and conversation, not per message: a message counts as read
 * when somebody other than its sender has read that far.
 */
#include "actors/idempotency.h"
#include "actors/store_db_internal.h"

struct message_row {
    int64_t seq, timestamp_ms;
    ptn_str id, conversation, sender, type, content;
    ptn_bytes metadata; /* p == NULL: none */
};

/* The two members who have got or read furthest: enough to know, for any sender, how far others
 * have. */
struct marks {
    int64_t seq[2];
    uint32_t user_bytes; /* of the first */
    char user[STORE_ID_BYTES_MAX];
};

struct life {
    struct marks delivered, read;
};

static bool reached(const struct marks *r, const struct message_row *m) {
    bool own = ptn_str_eq((ptn_str){r->user, r->user_bytes}, m->sender);
    return r->seq[own ? 1 : 0] >= m->seq;
}

static const char *status_of(const struct life *l, const struct message_row *m) {
    if (reached(&l->read, m))
        return "read";
    return reached(&l->delivered, m) ? "delivered" : "sent";
}

/* MESSAGE: the map of wire.md section 2. */
static void pack_message(ptn_pack *w, const struct message_row *m, const char *status) {
    ptn_pack_map(w, 9);
    ptn_pack_key(w, "id");
    ptn_pack_str(w, m->id);
    ptn_pack_key(w, "conversationId");
    ptn_pack_str(w, m->conversation);
    ptn_pack_key(w, "seq");
    ptn_pack_int(w, m->seq);
    ptn_pack_key(w, "content");
    ptn_pack_str(w, m->content);
    ptn_pack_key(w, "type");
    ptn_pack_str(w, m->type);
    ptn_pack_key(w, "senderId");
    ptn_pack_str(w, m->sender);
    ptn_pack_key(w, "timestamp");
    ptn_pack_timestamp(w, m->timestamp_ms);
    ptn_pack_key(w, "status");
    ptn_pack_cstr(w, status);
    ptn_pack_key(w, "metadata");
    if (m->metadata.n > 0)
        ptn_pack_raw(w, m->metadata);
    else
        ptn_pack_map(w, 0);
}

static ptn_buf *reply_message(store_db *db, const struct message_row *m, bool is_new,
                              const char *status, uint32_t *ret_type) {
    ptn_pack w;
    ptn_pack_init(&w, 256 + m->content.n + m->metadata.n);
    ptn_pack_array(&w, 3);
    ptn_pack_int(&w, m->seq);
    ptn_pack_bool(&w, is_new);
    pack_message(&w, m, status);
    return store_reply(db, &w, PTN_MSG_STORE_MSG, ret_type);
}

/* The columns seq .. timestamp_ms; views are valid until the statement's next step or reset. */
static struct message_row row_of(sqlite3_stmt *s, ptn_str conversation) {
    return (struct message_row){
        .seq = sqlite3_column_int64(s, 0),
        .id = store_column_str(s, 1),
        .conversation = conversation,
        .sender = store_column_str(s, 2),
        .type = store_column_str(s, 3),
        .content = store_column_str(s, 4),
        .metadata = store_column_blob(s, 5),
        .timestamp_ms = sqlite3_column_int64(s, 6),
    };
}

static ptn_buf *not_a_member(uint32_t *ret_type) {
    return store_problem(PTN_CODE_NOT_FOUND, "no such conversation", ret_type);
}

/* ---- append ------------------------------------------------------------------------------- */

/* No metadata and empty metadata look the same to whoever reads them. */
static bool same_metadata(ptn_bytes a, ptn_bytes b) {
    static const uint8_t empty = 0x80;
    a = a.n == 1 && a.p[0] == empty ? (ptn_bytes){NULL, 0} : a;
    b = b.n == 1 && b.p[0] == empty ? (ptn_bytes){NULL, 0} : b;
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* The timestamp is not compared: without one in the request it is the time of the arrival. */
static bool same_body(const struct message_row *a, const struct message_row *b) {
    return ptn_str_eq(a->type, b->type) && ptn_str_eq(a->content, b->content) &&
           same_metadata(a->metadata, b->metadata);
}

/* The id is taken: by this very message, sent twice, or by another one. */
static ptn_buf *reply_duplicate(store_db *db, const struct message_row *m, uint32_t *ret_type) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_MSG_BY_ID);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, m->id);
    if (sqlite3_step(s) != SQLITE_ROW) {
        /* The constraint was another one: (conversation, seq), that is, a stale cache. */
        return store_db_fail(db, ret_type);
    }
    struct message_row stored = row_of(s, store_column_str(s, 8));
    ptn_buf *b;
    if (ptn_str_eq(stored.conversation, m->conversation) && ptn_str_eq(stored.sender, m->sender))
        b = same_body(&stored, m)
                ? reply_message(db, &stored, false, "sent", ret_type)
                : store_problem(PTN_CODE_IDEMPOTENCY_MISMATCH, IDEMPOTENCY_MISMATCH_TEXT, ret_type);
    else
        b = store_problem_field(PTN_CODE_CONFLICT, "another message has this id; use a new one",
                                PTN_STR("id"), "already used", ret_type);
    (void)sqlite3_reset(s);
    return b;
}

static bool unpack_append(ptn_unpack *u, struct message_row *m) {
    m->metadata = (ptn_bytes){NULL, 0};
    if (!ptn_unpack_str(u, &m->conversation) || !ptn_unpack_str(u, &m->id) ||
        !ptn_unpack_str(u, &m->sender) || !ptn_unpack_str(u, &m->type) ||
        !ptn_unpack_str(u, &m->content))
        return false;
    if (!ptn_unpack_nil(u)) {
        if (ptn_unpack_peek(u) != PTN_KIND_MAP || !ptn_unpack_any(u, &m->metadata))
            return false;
    }
    return ptn_unpack_int(u, &m->timestamp_ms) && m->id.n > 0 && m->id.n <= STORE_ID_BYTES_MAX;
}

ptn_buf *store_msg_append(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct message_row m;
    struct store_conv *c;
    if (!unpack_append(u, &m))
        return store_malformed(ret_type);
    int err = store_conv_find(db, m.conversation, &c);
    if (err != 0)
        return err == -PTN_ENOTFOUND ? not_a_member(ret_type) : store_db_fail(db, ret_type);
    int member = store_is_sender(db, c, m.sender);
    if (member <= 0)
        return member == 0 ? not_a_member(ret_type) : store_db_fail(db, ret_type);
    m.seq = c->last_seq + 1;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_MSG_ADD);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    (void)sqlite3_bind_int64(s, 1, c->key);
    (void)sqlite3_bind_int64(s, 2, m.seq);
    store_bind_str(s, 3, m.id);
    store_bind_str(s, 4, m.sender);
    store_bind_str(s, 5, m.type);
    store_bind_str(s, 6, m.content);
    store_bind_blob(s, 7, m.metadata);
    (void)sqlite3_bind_int64(s, 8, m.timestamp_ms);
    (void)sqlite3_bind_int64(s, 9, store_change(db));
    int64_t total = c->total + (int64_t)(m.content.n + m.metadata.n);
    (void)sqlite3_bind_int64(s, 10, total);
    int rc = sqlite3_step(s);
    (void)sqlite3_reset(s);
    if ((rc & 0xff) == SQLITE_CONSTRAINT)
        return reply_duplicate(db, &m, ret_type);
    if (rc != SQLITE_DONE)
        return store_db_fail(db, ret_type);
    c->last_seq = m.seq;
    c->total = total;
    db->messages_added++;
    return reply_message(db, &m, true, "sent", ret_type);
}

/* ---- history ------------------------------------------------------------------------------ */

static bool load_marks(store_db *db, enum store_statement top, int64_t key, struct marks *ret_r) {
    *ret_r = (struct marks){0};
    sqlite3_stmt *s = store_sql(db, top);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, key);
    int rc, i = 0;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW && i < 2) {
        if (i == 0) {
            ptn_str user = store_column_str(s, 0);
            if (user.n <= sizeof ret_r->user) {
                memcpy(ret_r->user, user.p, user.n);
                ret_r->user_bytes = (uint32_t)user.n;
            }
        }
        ret_r->seq[i++] = sqlite3_column_int64(s, 1);
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

static bool load_life(store_db *db, int64_t key, struct life *ret_l) {
    return load_marks(db, STORE_SQL_READ_TOP, key, &ret_l->read) &&
           load_marks(db, STORE_SQL_DELIVERED_TOP, key, &ret_l->delivered);
}

struct range {
    ptn_str conversation;
    int64_t key, after, before; /* exclusive */
    uint32_t limit;
    bool descending;
};

/* Packs the rows one behind the other, with where each ends: a descending read is turned round
 * afterwards. */
static bool read_rows(store_db *db, const struct range *r, ptn_pack *rows, uint32_t *ends,
                      uint32_t *ret_n) {
    struct life life;
    if (!load_life(db, r->key, &life))
        return false;
    sqlite3_stmt *s = store_sql(db, r->descending ? STORE_SQL_MSG_BEFORE : STORE_SQL_MSG_AFTER);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, r->key);
    (void)sqlite3_bind_int64(s, 2, r->after);
    (void)sqlite3_bind_int64(s, 3, r->before);
    (void)sqlite3_bind_int64(s, 4, r->limit);
    uint32_t n = 0;
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW && n < r->limit) {
        struct message_row m = row_of(s, r->conversation);
        size_t begin = ptn_pack_len(rows);
        if (n > 0 && begin + m.content.n + m.metadata.n > STORE_RANGE_BYTES)
            break;
        ptn_pack_array(rows, 2);
        ptn_pack_int(rows, m.seq);
        pack_message(rows, &m, status_of(&life, &m));
        ends[n++] = (uint32_t)ptn_pack_len(rows);
    }
    *ret_n = n;
    bool ok = rc == SQLITE_ROW || rc == SQLITE_DONE;
    if (ok)
        (void)sqlite3_reset(s);
    return ok;
}

bool store_pack_messages(store_db *db, ptn_str conversation, int64_t key, int64_t after,
                         int64_t before, uint32_t limit, ptn_pack *w, uint32_t *ret_n,
                         int64_t *ret_last) {
    struct life life;
    sqlite3_stmt *s = load_life(db, key, &life) ? store_sql(db, STORE_SQL_MSG_AFTER) : NULL;
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, key);
    (void)sqlite3_bind_int64(s, 2, after);
    (void)sqlite3_bind_int64(s, 3, before);
    (void)sqlite3_bind_int64(s, 4, limit);
    int rc;
    for (*ret_n = 0; (rc = sqlite3_step(s)) == SQLITE_ROW; ++*ret_n) {
        struct message_row m = row_of(s, conversation);
        if (*ret_n > 0 && ptn_pack_len(w) + m.content.n + m.metadata.n > STORE_PAGE_BYTES)
            break;
        pack_message(w, &m, status_of(&life, &m));
        *ret_last = m.seq;
    }
    bool ok = rc == SQLITE_ROW || rc == SQLITE_DONE;
    if (ok)
        (void)sqlite3_reset(s);
    return ok;
}

static ptn_buf *reply_range(store_db *db, const struct range *r, int64_t last_seq,
                            uint32_t *ret_type) {
    uint32_t ends[STORE_ROWS_MAX], n = 0;
    ptn_pack rows, w;
    ptn_pack_init(&rows, 16384);
    if (!read_rows(db, r, &rows, ends, &n)) {
        ptn_pack_abort(&rows);
        return store_db_fail(db, ret_type);
    }
    ptn_buf *encoded = ptn_pack_finish(&rows);
    if (encoded == NULL && n > 0)
        return NULL;
    ptn_bytes b = ptn_buf_bytes(encoded);
    ptn_pack_init(&w, b.n + 32);
    ptn_pack_array(&w, 2);
    ptn_pack_int(&w, last_seq);
    ptn_pack_array(&w, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = r->descending ? n - 1 - i : i;
        uint32_t begin = at == 0 ? 0 : ends[at - 1];
        ptn_pack_raw(&w, (ptn_bytes){b.p + begin, ends[at] - begin});
    }
    ptn_buf_unref(encoded);
    return store_reply(db, &w, PTN_MSG_STORE_MSGS, ret_type);
}

/* An optional integer; absent: def. */
static bool unpack_bound(ptn_unpack *u, int64_t def, int64_t *ret_v, bool *ret_given) {
    *ret_v = def;
    *ret_given = false;
    if (ptn_unpack_nil(u))
        return true;
    *ret_given = true;
    return ptn_unpack_int(u, ret_v);
}

ptn_buf *store_msg_range(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct range r = {0};
    struct store_conv *c;
    uint64_t limit;
    bool after, before;
    if (!ptn_unpack_str(u, &r.conversation) || !unpack_bound(u, 0, &r.after, &after) ||
        !unpack_bound(u, INT64_MAX, &r.before, &before) || !ptn_unpack_uint(u, &limit))
        return store_malformed(ret_type);
    int err = store_conv_find(db, r.conversation, &c);
    if (err != 0)
        return err == -PTN_ENOTFOUND ? not_a_member(ret_type) : store_db_fail(db, ret_type);
    r.key = c->key;
    r.descending = !after;
    r.limit = (uint32_t)(limit < STORE_ROWS_MAX ? limit : STORE_ROWS_MAX);
    return reply_range(db, &r, c->last_seq, ret_type);
}

/* ---- read marks --------------------------------------------------------------------------- */

ptn_buf *store_msg_read(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str id, user;
    int64_t now_ms;
    if (!ptn_unpack_str(u, &id) || !ptn_unpack_str(u, &user) || !ptn_unpack_int(u, &now_ms))
        return store_malformed(ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_MSG_BY_ID);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, id);
    int rc = sqlite3_step(s);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return store_db_fail(db, ret_type);
    int member = rc == SQLITE_ROW ? store_is_member(db, store_column_str(s, 8), user) : 0;
    if (member < 0)
        return store_db_fail(db, ret_type);
    if (member == 0) {
        (void)sqlite3_reset(s);
        return store_problem(PTN_CODE_NOT_FOUND, "no such message", ret_type);
    }
    struct message_row m = row_of(s, store_column_str(s, 8));
    sqlite3_stmt *set = store_sql(db, STORE_SQL_READ_SET);
    if (set == NULL)
        return store_db_fail(db, ret_type);
    (void)sqlite3_bind_int64(set, 1, sqlite3_column_int64(s, 7));
    store_bind_str(set, 2, user);
    (void)sqlite3_bind_int64(set, 3, m.seq);
    (void)sqlite3_bind_int64(set, 4, now_ms);
    (void)sqlite3_bind_int64(set, 5, store_change(db));
    if (!store_run(db, set))
        return store_db_fail(db, ret_type);
    bool moved = sqlite3_changes(db->sql) > 0;
    ptn_buf *b = reply_message(db, &m, moved, "read", ret_type);
    (void)sqlite3_reset(s);
    return b;
}
