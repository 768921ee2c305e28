/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_topics.c - the log of durable topics.
 *
 * One B-tree for all of them, keyed by place = topic << 40 | offset: an append is an insert at the
 * end of a run of integers, a replay a range of neighbours.  The topics actor numbers the events;
 * an append that is not the next one is refused, so a log has no holes, whatever failed before it.
 *
 * Events that came in one message are one row, at the place of the newest, and its data is what
 * the message said: an insert costs SQLite much the same for one as for a hundred.
 *
 * Levels.  A `written` event may be lost with the power although subscribers have seen it.  The
 * topic is marked before the first one, on disk, and gets a new epoch after a start that follows no
 * clean end: then no position from before can be mistaken for one after.
 */
#include "actors/store_db_internal.h"

#include <stdlib.h>

#define TOPICS_MAX (INT64_C(1) << 23)
#define IDS_MAX 65536u
#define IDS_BYTES_MAX (INT64_C(16) << 20)
#define IDS_OLD_MAX 1000 /* of the newest events, however old: a clock may have been set */

/* ---- the cache ---------------------------------------------------------------------------- */

void store_topics_drop(store_db *db) {
    struct store_topic *t, *next;
    HASH_ITER(hh, db->topics, t, next) {
        HASH_DELETE(hh, db->topics, t);
        free(t);
    }
}

static struct store_topic *cache_add(store_db *db, ptn_str name) {
    if (HASH_COUNT(db->topics) >= db->convs_max) { /* insertion order: the oldest first */
        struct store_topic *oldest = db->topics;
        HASH_DELETE(hh, db->topics, oldest);
        free(oldest);
    }
    struct store_topic *t = calloc(1, sizeof *t + name.n);
    if (t == NULL)
        return NULL;
    memcpy(t->name, name.p, name.n);
    t->name_bytes = (uint32_t)name.n;
    HASH_ADD_KEYPTR(hh, db->topics, t->name, t->name_bytes, t);
    if (t->hh.tbl == NULL) { /* no memory for the table */
        free(t);
        return NULL;
    }
    return t;
}

/* Fills in where the log ends. */
static bool find_end(store_db *db, struct store_topic *t) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_EVENT_LAST);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, store_place(t, t->base));
    (void)sqlite3_bind_int64(s, 2, store_place(t, STORE_OFFSET_MAX));
    int rc = sqlite3_step(s);
    t->last = t->base;
    if (rc == SQLITE_ROW) {
        t->last = sqlite3_column_int64(s, 0) & STORE_OFFSET_MAX;
        t->total = sqlite3_column_int64(s, 1);
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

int store_topic_find(store_db *db, ptn_str name, struct store_topic **ret_t) {
    struct store_topic *t = NULL;
    HASH_FIND(hh, db->topics, name.p, name.n, t);
    *ret_t = t;
    if (t != NULL)
        return 0;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_TOPIC);
    if (s == NULL)
        return -PTN_EIO;
    store_bind_str(s, 1, name);
    int rc = sqlite3_step(s);
    if (rc != SQLITE_ROW) {
        (void)sqlite3_reset(s);
        return rc == SQLITE_DONE ? -PTN_ENOTFOUND : -PTN_EIO;
    }
    int64_t key = sqlite3_column_int64(s, 0), base = sqlite3_column_int64(s, 2);
    bool loose = sqlite3_column_int(s, 3) != 0;
    ptn_str epoch = store_column_str(s, 1);
    t = epoch.n == STORE_EPOCH_BYTES ? cache_add(db, name) : NULL;
    if (t != NULL) {
        t->key = key;
        t->base = base;
        t->loose = loose;
        memcpy(t->epoch, epoch.p, STORE_EPOCH_BYTES);
    }
    (void)sqlite3_reset(s);
    if (t == NULL)
        return -PTN_ENOMEM;
    if (!find_end(db, t)) {
        store_topics_drop(db);
        return -PTN_EIO;
    }
    *ret_t = t;
    return 0;
}

/* ---- rows --------------------------------------------------------------------------------- */

struct store_event_row store_event_row_of(sqlite3_stmt *s, ptn_bytes id) {
    int n = sqlite3_column_int(s, 2);
    return (struct store_event_row){.offset = sqlite3_column_int64(s, 0) & STORE_OFFSET_MAX,
                                    .n = n > 0 ? (uint32_t)n : 0,
                                    .left = n > 0 ? (uint32_t)n : 0,
                                    .id = id,
                                    .data = ptn_unpack_of(store_column_blob(s, 1))};
}

static bool unpack_event(ptn_unpack *u, ptn_bytes *ret_data, ptn_bytes *ret_id) {
    *ret_id = (ptn_bytes){NULL, 0};
    return ptn_unpack_any(u, ret_data) && (ptn_unpack_nil(u) || ptn_unpack_bin(u, ret_id));
}

bool store_event_next(struct store_event_row *r, struct store_event *ret_e) {
    ret_e->offset = r->offset - r->left + 1;
    if (r->left == 0)
        return false;
    r->left--;
    if (r->n > 1)
        return unpack_event(&r->data, &ret_e->data, &ret_e->id);
    ret_e->data = (ptn_bytes){r->data.p, (size_t)(r->data.end - r->data.p)};
    ret_e->id = r->id;
    return true;
}

/* The row is what is left of it. */
static bool shorten(store_db *db, const struct store_topic *t, struct store_event_row row) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_EVENTS_SHORTEN);
    ptn_bytes id = {NULL, 0}, data = {row.data.p, (size_t)(row.data.end - row.data.p)};
    if (s == NULL)
        return false;
    if (row.left == 1)
        (void)unpack_event(&row.data, &data, &id);
    (void)sqlite3_bind_int64(s, 1, store_place(t, row.offset));
    store_bind_blob(s, 2, data);
    (void)sqlite3_bind_int64(s, 3, row.left);
    store_bind_blob(s, 4, id);
    return store_run(db, s);
}

bool store_events_remove(store_db *db, const struct store_topic *t, int64_t cut) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_EVENTS_REMOVE);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, store_place(t, t->base));
    (void)sqlite3_bind_int64(s, 2, store_place(t, cut));
    if (!store_run(db, s) || (s = store_sql(db, STORE_SQL_EVENTS)) == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, store_place(t, cut));
    (void)sqlite3_bind_int64(s, 2, store_place(t, STORE_OFFSET_MAX));
    (void)sqlite3_bind_int64(s, 3, 1);
    int rc = sqlite3_step(s);
    bool ok = rc == SQLITE_ROW || rc == SQLITE_DONE;
    if (rc == SQLITE_ROW) {
        struct store_event_row row = store_event_row_of(s, (ptn_bytes){NULL, 0});
        struct store_event e;
        while (row.offset - row.left < cut && store_event_next(&row, &e))
            continue;
        if (row.left > 0 && row.left < row.n)
            ok = shorten(db, t, row);
    }
    (void)sqlite3_reset(s);
    return ok;
}

/* ---- opening ------------------------------------------------------------------------------ */

static bool topic_add(store_db *db, ptn_str name, ptn_str epoch) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_TOPIC_ADD);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, name);
    store_bind_str(s, 2, epoch);
    (void)sqlite3_bind_int64(s, 3, TOPICS_MAX);
    return store_run(db, s);
}

/* Moves *first on to where IDS_BYTES_MAX of the newest rows begin.  Of one that holds a single
 * event nothing but the page is read where its id is: its data can have any size. */
static bool bound_ids(store_db *db, const struct store_topic *t, int64_t *first) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_EVENT_BYTES);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, store_place(t, *first));
    (void)sqlite3_bind_int64(s, 2, store_place(t, STORE_OFFSET_MAX));
    (void)sqlite3_bind_int64(s, 3, STORE_PAGE);
    int64_t bytes = 0;
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW && bytes < IDS_BYTES_MAX)
        bytes += sqlite3_column_int64(s, 1);
    if (rc == SQLITE_ROW)
        *first = sqlite3_column_int64(s, 0) & STORE_OFFSET_MAX;
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* [id, offset] of each of them behind `first`, unless it is too old. */
static int read_ids(store_db *db, const struct store_topic *t, int64_t first, int64_t since_ms,
                    ptn_pack *rows, uint32_t *n) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_EVENT_IDS);
    if (s == NULL)
        return SQLITE_ERROR;
    int64_t old = t->last > IDS_OLD_MAX ? t->last - IDS_OLD_MAX : 0;
    (void)sqlite3_bind_int64(s, 1, store_place(t, first));
    (void)sqlite3_bind_int64(s, 2, store_place(t, STORE_OFFSET_MAX));
    (void)sqlite3_bind_int64(s, 3, since_ms);
    (void)sqlite3_bind_int64(s, 4, store_place(t, old));
    int rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW && *n < IDS_MAX) {
        struct store_event e;
        for (struct store_event_row r = store_event_row_of(s, store_column_blob(s, 3));
             store_event_next(&r, &e);) {
            if (e.offset <= first || e.id.n == 0 || *n == IDS_MAX)
                continue;
            ptn_pack_array(rows, 2);
            ptn_pack_bin(rows, e.id);
            ptn_pack_int(rows, e.offset);
            ++*n;
        }
    }
    (void)sqlite3_reset(s);
    return rc;
}

static ptn_buf *reply_opened(store_db *db, const struct store_topic *t, uint64_t ids,
                             int64_t since_ms, uint32_t *ret_type) {
    ptn_pack rows, w;
    ptn_pack_init(&rows, 64);
    uint32_t n = 0;
    int64_t first = t->last > (int64_t)ids ? t->last - (int64_t)ids : 0;
    int rc = bound_ids(db, t, &first) ? read_ids(db, t, first, since_ms, &rows, &n) : SQLITE_ERROR;
    ptn_buf *encoded = ptn_pack_finish(&rows);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        ptn_buf_unref(encoded);
        return store_db_fail(db, ret_type);
    }
    if (encoded == NULL && n > 0)
        return NULL;
    ptn_pack_init(&w, 64 + ptn_buf_bytes(encoded).n);
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, (ptn_str){t->epoch, STORE_EPOCH_BYTES});
    ptn_pack_int(&w, t->base);
    ptn_pack_int(&w, t->last);
    ptn_pack_array(&w, n);
    if (n > 0)
        ptn_pack_raw(&w, ptn_buf_bytes(encoded));
    ptn_buf_unref(encoded);
    return store_reply(db, &w, PTN_MSG_STORE_TOPIC, ret_type);
}

ptn_buf *store_topic_open(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str name, epoch;
    uint64_t ids;
    int64_t since_ms;
    struct store_topic *t;
    if (!ptn_unpack_str(u, &name) || !ptn_unpack_str(u, &epoch) || epoch.n != STORE_EPOCH_BYTES ||
        !ptn_unpack_uint(u, &ids) || !ptn_unpack_int(u, &since_ms))
        return store_malformed(ret_type);
    int err = store_topic_find(db, name, &t);
    if (err == -PTN_ENOTFOUND && topic_add(db, name, epoch)) {
        err = store_topic_find(db, name, &t);
        if (err == -PTN_ENOTFOUND)
            return store_problem(PTN_CODE_OVERLOADED, "there are too many durable topics",
                                 ret_type);
    }
    if (err != 0)
        return store_db_fail(db, ret_type);
    return reply_opened(db, t, ids < IDS_MAX ? ids : IDS_MAX, since_ms, ret_type);
}

/* ---- appending ---------------------------------------------------------------------------- */

struct appended { /* events that follow each other */
    ptn_str topic, epoch;
    uint64_t offset;           /* of the first */
    int64_t created_ms, bytes; /* bytes: of data */
    uint32_t n;
    ptn_bytes data, id; /* as in the row */
};

static bool unpack_append(ptn_unpack *u, struct appended *ret_a) {
    uint32_t values;
    ptn_bytes data, id;
    *ret_a = (struct appended){0};
    if (!ptn_unpack_str(u, &ret_a->topic) || !ptn_unpack_str(u, &ret_a->epoch) ||
        !ptn_unpack_uint(u, &ret_a->offset) || !ptn_unpack_int(u, &ret_a->created_ms) ||
        !ptn_unpack_array(u, &values) || values == 0 || values % 2 != 0)
        return false;
    ret_a->n = values / 2;
    const uint8_t *begin = u->p;
    for (uint32_t i = 0; i < ret_a->n; i++) {
        if (!unpack_event(u, &data, &id))
            return false;
        ret_a->bytes += (int64_t)data.n;
        if (id.n > 0)
            ret_a->id = ret_a->n == 1 ? id : (ptn_bytes){id.p, 0}; /* empty: they have some */
    }
    ret_a->data = ret_a->n == 1 ? data : (ptn_bytes){begin, (size_t)(u->p - begin)};
    return ret_a->offset <= (uint64_t)STORE_OFFSET_MAX - ret_a->n;
}

/* The mark comes to the disk before the event can be seen: store_db_commit() waits for it. */
static bool loosen(store_db *db, struct store_topic *t) {
    if (t->loose)
        return true;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_TOPIC_LOOSE);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, t->key);
    t->loose = store_run(db, s);
    db->must_sync = true;
    return t->loose;
}

/* False: the transaction is doomed, or will be by store_db_fail(). */
static bool add_events(store_db *db, struct store_topic *t, const struct appended *a) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_EVENTS_ADD);
    if (s == NULL)
        return false;
    t->last += a->n;
    t->total += a->bytes;
    (void)sqlite3_bind_int64(s, 1, store_place(t, t->last));
    (void)sqlite3_bind_int64(s, 2, a->created_ms);
    store_bind_blob(s, 3, a->id);
    store_bind_blob(s, 4, a->data);
    (void)sqlite3_bind_int64(s, 5, t->total);
    (void)sqlite3_bind_int64(s, 6, a->n);
    db->events_added += a->n;
    return store_run(db, s);
}

static ptn_buf *append(store_db *db, ptn_unpack *u, bool written, uint32_t *ret_type) {
    struct appended a;
    struct store_topic *t;
    if (!unpack_append(u, &a))
        return store_malformed(ret_type);
    int err = store_topic_find(db, a.topic, &t);
    if (err == -PTN_ENOTFOUND)
        return store_problem(PTN_CODE_INTERNAL, "the topic was not opened", ret_type);
    if (err != 0)
        return store_db_fail(db, ret_type);
    if ((int64_t)a.offset != t->last + 1 ||
        !ptn_str_eq(a.epoch, (ptn_str){t->epoch, STORE_EPOCH_BYTES}))
        return store_problem(PTN_CODE_OVERLOADED,
                             "an event before this one was not stored; send it again", ret_type);
    if ((written && !loosen(db, t)) || !add_events(db, t, &a))
        return store_db_fail(db, ret_type);
    return store_ok(ret_type);
}

ptn_buf *store_events_append(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    return append(db, u, /* written= */ false, ret_type);
}

ptn_buf *store_events_append_written(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    return append(db, u, /* written= */ true, ret_type);
}

/* ---- reading ------------------------------------------------------------------------------ */

struct event_range {
    int64_t after, before; /* exclusive */
    int limit, n;          /* n: read so far */
    bool full;
};

static void read_row(struct event_range *e, struct store_event_row row, ptn_pack *rows) {
    struct store_event v;
    while (!e->full && store_event_next(&row, &v)) {
        if (v.offset <= e->after)
            continue;
        e->full = v.offset >= e->before || e->n == e->limit ||
                  (e->n > 0 && ptn_pack_len(rows) + v.data.n > STORE_RANGE_BYTES);
        if (e->full)
            return;
        ptn_pack_array(rows, 2);
        ptn_pack_int(rows, v.offset);
        ptn_pack_raw(rows, v.data);
        e->n++;
    }
}

static bool read_events(store_db *db, const struct store_topic *t, struct event_range *e,
                        ptn_pack *rows) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_EVENTS);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, store_place(t, e->after));
    (void)sqlite3_bind_int64(s, 2, store_place(t, STORE_OFFSET_MAX));
    (void)sqlite3_bind_int64(s, 3, e->limit);
    int rc = SQLITE_DONE;
    while (!e->full && (rc = sqlite3_step(s)) == SQLITE_ROW)
        read_row(e, store_event_row_of(s, (ptn_bytes){NULL, 0}), rows);
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* An optional offset; absent: def. */
static bool unpack_offset(ptn_unpack *u, uint64_t def, uint64_t *ret_v) {
    *ret_v = def;
    if (ptn_unpack_nil(u))
        return true;
    if (!ptn_unpack_uint(u, ret_v))
        return false;
    if (*ret_v > STORE_OFFSET_MAX)
        *ret_v = STORE_OFFSET_MAX;
    return true;
}

ptn_buf *store_event_range(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str name;
    uint64_t after, before, limit;
    struct store_topic *t;
    if (!ptn_unpack_str(u, &name) || !unpack_offset(u, 0, &after) ||
        !unpack_offset(u, STORE_OFFSET_MAX, &before) || !ptn_unpack_uint(u, &limit))
        return store_malformed(ret_type);
    int err = store_topic_find(db, name, &t);
    if (err == -PTN_ENOTFOUND)
        return store_problem(PTN_CODE_NOT_FOUND, "no such durable topic", ret_type);
    if (err != 0)
        return store_db_fail(db, ret_type);
    ptn_pack rows, w;
    ptn_pack_init(&rows, 16384);
    struct event_range e = {.after = (int64_t)after,
                            .before = (int64_t)before,
                            .limit = (int)(limit < STORE_ROWS_MAX ? limit : STORE_ROWS_MAX)};
    bool ok = read_events(db, t, &e, &rows);
    ptn_buf *encoded = ptn_pack_finish(&rows);
    if (!ok) {
        ptn_buf_unref(encoded);
        return store_db_fail(db, ret_type);
    }
    if (encoded == NULL && e.n > 0)
        return NULL;
    ptn_pack_init(&w, 32 + ptn_buf_bytes(encoded).n);
    ptn_pack_array(&w, 2);
    ptn_pack_int(&w, t->last);
    ptn_pack_array(&w, (uint32_t)e.n);
    if (e.n > 0)
        ptn_pack_raw(&w, ptn_buf_bytes(encoded));
    ptn_buf_unref(encoded);
    return store_reply(db, &w, PTN_MSG_STORE_MSGS, ret_type);
}
