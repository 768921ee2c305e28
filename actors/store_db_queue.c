/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_queue.c - how far each device has acknowledged.
 *
 * A cursor is one row per user, conversation and device; a message waiting for a device is a row
 * between its cursor and the end of the conversation, never a copy.  So what waits for a user is,
 * in each conversation, what waits for the device that is furthest behind.  Cursors are written
 * without waiting for the disk: losing one only means that messages are delivered again.
 *
 * A message is delivered when a device of a member other than its sender has acknowledged it.  As
 * for read marks, one row per member and conversation says so.
 */
#include "actors/store_db_internal.h"

#include <postern/log.h>
#include <postern/metrics.h>

/* ---- dead letters ------------------------------------------------------------------------- */

struct dead {
    ptn_str user, device, conversation, reason;
    int64_t from, to, n, now_ms; /* n of those between the two */
};

static void dead_count(const struct dead *d) {
    ptn_count(ptn_str_eqz(d->reason, "overflow")  ? PTN_C_DEAD_LETTERS_OVERFLOW
              : ptn_str_eqz(d->reason, "expired") ? PTN_C_DEAD_LETTERS_EXPIRED
                                                  : PTN_C_DEAD_LETTERS_DELIVERIES,
              (uint64_t)d->n);
}

/* *ret_id (may be NULL): the letter's. */
static bool dead_add(store_db *db, const struct dead *d, int64_t *ret_id) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_DEAD_ADD);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, d->user);
    store_bind_str(s, 2, d->device);
    store_bind_str(s, 3, d->conversation);
    (void)sqlite3_bind_int64(s, 4, d->from);
    (void)sqlite3_bind_int64(s, 5, d->to);
    store_bind_str(s, 6, d->reason);
    (void)sqlite3_bind_int64(s, 7, d->now_ms);
    if (!store_run(db, s))
        return false;
    int64_t id = sqlite3_last_insert_rowid(db->sql);
    if (ret_id != NULL)
        *ret_id = id;
    dead_count(d);
    s = store_sql(db, STORE_SQL_DEAD_TRIM);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, id);
    (void)sqlite3_bind_int64(s, 2, db->dead_letters_max);
    if (!store_run(db, s))
        return false;
    ptn_count(PTN_C_DEAD_LETTERS_PURGED, (uint64_t)sqlite3_changes(db->sql));
    return true;
}

/* Onto the letter *id, which it follows, or as a new one: a queue that stays at its limit makes one
 * letter, not one per message. */
static bool dead_extend(store_db *db, const struct dead *d, int64_t *id) {
    sqlite3_stmt *s = *id > 0 ? store_sql(db, STORE_SQL_DEAD_EXTEND) : NULL;
    if (s != NULL) {
        (void)sqlite3_bind_int64(s, 1, *id);
        (void)sqlite3_bind_int64(s, 2, d->to);
        (void)sqlite3_bind_int64(s, 3, d->now_ms);
        (void)sqlite3_bind_int64(s, 4, d->from);
        store_bind_str(s, 5, d->reason);
        if (!store_run(db, s))
            return false;
        if (sqlite3_changes(db->sql) > 0) {
            dead_count(d);
            return true;
        }
    }
    return dead_add(db, d, id);
}

/* ---- cursors ------------------------------------------------------------------------------ */

struct cursor {
    int64_t seq, deliveries, replay_to;
    int64_t gap_from, gap_letter; /* gap_from 0: the device has been told of everything */
    char gap_reason[16];
    bool known; /* this device has one */
};

/* The device's cursor.  A new device begins where the furthest one is, the first one where the
 * member joined; so does one that was there before the member. */
static bool cursor_load(store_db *db, ptn_str user, ptn_str device, bool is_new, int64_t key,
                        int64_t joined, struct cursor *ret_k) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CURSORS);
    *ret_k = (struct cursor){.seq = joined};
    if (s == NULL)
        return false;
    store_bind_str(s, 1, user);
    (void)sqlite3_bind_int64(s, 2, key);
    int rc;
    while (!ret_k->known && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t seq = sqlite3_column_int64(s, 1);
        ret_k->known = ptn_str_eq(store_column_str(s, 0), device);
        if (ret_k->known) {
            ret_k->deliveries = sqlite3_column_int64(s, 2);
            ret_k->replay_to = sqlite3_column_int64(s, 3);
            ret_k->gap_from = sqlite3_column_int64(s, 4);
            ret_k->gap_letter = sqlite3_column_int64(s, 6);
            (void)sqlite3_snprintf(sizeof ret_k->gap_reason, ret_k->gap_reason, "%s",
                                   (const char *)sqlite3_column_text(s, 5));
        }
        if ((ret_k->known || is_new) && seq > ret_k->seq)
            ret_k->seq = seq;
    }
    bool ok = ret_k->known || rc == SQLITE_DONE;
    if (ok)
        (void)sqlite3_reset(s);
    return ok;
}

/* 1: the cursor is new, or has heard something new; 0: the device has acknowledged more, or there
 * is no such member; <0: failed.  Who has not noticed that the cursor went over own messages means
 * the same message by "the next one". */
static int cursor_set(store_db *db, ptn_str user, ptn_str conversation, ptn_str device,
                      const struct cursor *k, int64_t now_ms) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CURSOR_SET);
    if (s == NULL)
        return -1;
    store_bind_str(s, 1, user);
    store_bind_str(s, 2, conversation);
    store_bind_str(s, 3, device);
    (void)sqlite3_bind_int64(s, 4, k->seq);
    (void)sqlite3_bind_int64(s, 5, k->deliveries);
    (void)sqlite3_bind_int64(s, 6, now_ms);
    return store_run(db, s) ? sqlite3_changes(db->sql) > 0 : -1;
}

/* Own messages may stand between those that wait without end, as far as they have not been passed:
 * after so many of them nobody looks further back, and all that is there waits.  What is passed is
 * told apart by its senders while there are no more than so many rows. */
#define VISIT_ROWS_MAX 65536

struct visit { /* to one device */
    store_db *db;
    ptn_str user, device;
    bool is_new;   /* the device has no cursor at all */
    bool in_round; /* after the user's other devices, which share the limits with it */
    int64_t now_ms;
    uint64_t messages, bytes; /* what is left of the limits */
    uint32_t place;           /* in what the round has counted */
    int64_t alone;            /* counted, of one conversation outside of a round */
    int64_t waiting, rows;    /* found, looked at */
    int64_t own, missed;      /* rows that may still be looked at; see VISIT_ROWS_MAX */
    bool passed;              /* the cursor that was looked at last went over something */
};

/* A walk over what waits is bounded by it. */
static uint64_t messages_max(const store_queue *limits) {
    bool none = limits->messages == 0 || limits->messages > STORE_QUEUE_MESSAGES_MAX;
    return none ? STORE_QUEUE_MESSAGES_MAX : limits->messages;
}

static struct visit visit_of(store_db *db, ptn_str user, ptn_str device, int64_t now_ms) {
    return (struct visit){.db = db,
                          .user = user,
                          .device = device,
                          .now_ms = now_ms,
                          .own = VISIT_ROWS_MAX,
                          .missed = VISIT_ROWS_MAX,
                          .messages = messages_max(&db->queue.limits),
                          .bytes = db->queue.limits.bytes};
}

/* The first seq in (after, last + 1] that is young enough: sent times grow with seq, nearly. */
static bool find_young(store_db *db, int64_t key, int64_t after, int64_t last, int64_t oldest_ms,
                       int64_t *ret_seq) {
    int64_t low = after + 1, high = last + 1;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        sqlite3_stmt *s = store_sql(db, STORE_SQL_MSG_TIME);
        if (s == NULL)
            return false;
        (void)sqlite3_bind_int64(s, 1, key);
        (void)sqlite3_bind_int64(s, 2, middle);
        int rc = sqlite3_step(s);
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            return false;
        if (rc == SQLITE_DONE || sqlite3_column_int64(s, 0) >= oldest_ms)
            high = middle;
        else
            low = middle + 1;
        (void)sqlite3_reset(s);
    }
    *ret_seq = low;
    return true;
}

/* What waits at the end of a conversation: messages of others. */
struct tail {
    int64_t from; /* nothing before it fits */
    int64_t next; /* the oldest that waits; last + 1: none */
    bool overflow;
};

/* The next older row of MSG_SIZES.  False: it waits, and there is no room for it. */
static bool tail_take(struct visit *v, int64_t seq, sqlite3_stmt *row, struct tail *t) {
    const store_queue *limits = &v->db->queue.limits;
    uint64_t size = (uint64_t)sqlite3_column_int64(row, 1);
    if (v->messages == 0)
        return false;
    if (limits->bytes > 0 && size > v->bytes) {
        v->bytes = 0;
        return false;
    }
    v->messages--;
    v->bytes -= limits->bytes > 0 ? size : 0;
    v->waiting++;
    t->next = seq;
    return true;
}

/* From which message on a conversation has been counted, for the devices before this one. */
static int64_t *counted_of(struct visit *v, int64_t key) {
    struct queue *q = &v->db->queue;
    v->alone = INT64_MAX;
    if (!v->in_round)
        return &v->alone;
    uint32_t i = v->place; /* nearly always the one: lists of conversations have one order */
    if (i >= q->n_counted || q->counted[i].key != key)
        for (i = q->n_visited > 1 ? 0 : q->n_counted; i < q->n_counted; i++)
            if (q->counted[i].key == key)
                break;
    if (i == STORE_QUEUE_CONVERSATIONS_MAX)
        return &v->alone; /* joined since the first device was looked at */
    if (i == q->n_counted) {
        q->counted[i].key = key;
        q->counted[i].from = INT64_MAX;
        q->n_counted++;
    }
    v->place = i + 1;
    return &q->counted[i].from;
}

/* What waits from first on does so whatever the limits say. */
static void count_all(struct visit *v, int64_t first, int64_t last, int64_t *counted) {
    int64_t end = *counted <= last ? *counted : last + 1;
    if (end <= first)
        return;
    v->waiting += end - first;
    *counted = first;
}

/* Walks from the newest that has not been counted back to first, while there is room. */
static bool tail_find(struct visit *v, int64_t key, int64_t first, int64_t last, int64_t *counted,
                      struct tail *ret_t) {
    const store_queue *limits = &v->db->queue.limits;
    int64_t seq = *counted <= last ? *counted : last + 1;
    struct tail t = {.from = first, .next = seq};
    int rc = SQLITE_ROW;
    if (seq <= first || (limits->messages == 0 && limits->bytes == 0)) { /* no walk */
        count_all(v, first, last, counted);
        *ret_t = (struct tail){.from = first, .next = first};
        return true;
    }
    sqlite3_stmt *s = store_sql(v->db, STORE_SQL_MSG_SIZES);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, key);
    (void)sqlite3_bind_int64(s, 2, first - 1);
    store_bind_str(s, 3, v->user);
    (void)sqlite3_bind_int64(s, 4, seq);
    while (v->own > 0 && !t.overflow && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        seq = sqlite3_column_int64(s, 0);
        v->rows++;
        if (sqlite3_column_type(s, 1) == SQLITE_NULL)
            v->own--;
        else
            t.overflow = !tail_take(v, seq, s, &t);
    }
    (void)sqlite3_reset(s);
    if (t.overflow) {
        t.from = seq + 1;
    } else if (v->own == 0) {
        v->waiting += seq - first;
        t.next = first;
    }
    *counted = t.next;
    *ret_t = t;
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* The device gets nothing more up to d->to: a dead letter, and a gap that it has to hear of. */
static bool cursor_pass(store_db *db, const struct dead *d, int64_t key, struct cursor *k) {
    bool follows = k->gap_from > 0;
    if (!follows)
        k->gap_letter = 0;
    if (!dead_extend(db, d, &k->gap_letter))
        return false;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CURSOR_PASS);
    if (s == NULL)
        return false;
    k->gap_from = follows ? k->gap_from : d->from;
    k->seq = d->to;
    k->deliveries = 0;
    (void)sqlite3_snprintf(sizeof k->gap_reason, k->gap_reason, "%.*s", (int)d->reason.n,
                           d->reason.p);
    store_bind_str(s, 1, d->user);
    (void)sqlite3_bind_int64(s, 2, key);
    store_bind_str(s, 3, d->device);
    (void)sqlite3_bind_int64(s, 4, d->to);
    (void)sqlite3_bind_int64(s, 5, k->gap_from);
    store_bind_str(s, 6, d->reason);
    (void)sqlite3_bind_int64(s, 7, k->gap_letter);
    return store_run(db, s);
}

/* Of those between k and `to`, what the device has missed: from the first to the last message of
 * somebody else, or all where it would take too long to tell.  base: retention has removed
 * everything up to it, of which nobody knows whose it was, so all of it counts. */
static bool find_missed(struct visit *v, int64_t key, int64_t base, int64_t to,
                        const struct cursor *k, struct dead *d) {
    int64_t removed = base > k->seq ? base - k->seq : 0, rows = to - k->seq - removed;
    d->n = to - k->seq;
    d->from = k->seq + 1;
    d->to = to;
    if (rows > v->missed)
        return true;
    v->missed -= rows;
    v->rows += rows;
    sqlite3_stmt *s = store_sql(v->db, STORE_SQL_MSGS_OF_OTHERS);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, key);
    (void)sqlite3_bind_int64(s, 2, k->seq);
    (void)sqlite3_bind_int64(s, 3, to);
    store_bind_str(s, 4, v->user);
    if (sqlite3_step(s) != SQLITE_ROW)
        return false;
    int64_t n = sqlite3_column_int64(s, 0);
    d->n = removed + n;
    d->from = removed > 0 ? k->seq + 1 : sqlite3_column_int64(s, 1);
    d->to = n > 0 ? sqlite3_column_int64(s, 2) : base;
    (void)sqlite3_reset(s);
    return true;
}

/* Over own messages, of which the device hears nothing.  A gap that it still has to hear of ends at
 * the cursor, and stays as it is unless very many would be looked at again and again. */
#define SKIP_WITH_GAP 1000
static bool cursor_skip(struct visit *v, ptn_str conversation, int64_t key, int64_t to,
                        struct cursor *k) {
    if (to <= k->seq || (k->gap_from > 0 && to - k->seq < SKIP_WITH_GAP))
        return true;
    if (!k->known && cursor_set(v->db, v->user, conversation, v->device, k, v->now_ms) < 0)
        return false;
    sqlite3_stmt *s = store_sql(v->db, STORE_SQL_CURSOR_SKIP);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, v->user);
    (void)sqlite3_bind_int64(s, 2, key);
    store_bind_str(s, 3, v->device);
    (void)sqlite3_bind_int64(s, 4, to);
    k->seq = to;
    return store_run(v->db, s);
}

/* Passes what is too old, or over the limits, and counts what waits.  The user's own messages are
 * nothing that waits for him. */
static bool cursor_limit(struct visit *v, ptn_str conversation, int64_t key, int64_t base,
                         int64_t last, struct cursor *k) {
    store_db *db = v->db;
    int64_t ttl_ms = (int64_t)db->queue.limits.ttl_ms;
    int64_t first = (k->seq > base ? k->seq : base) + 1, young = first;
    struct tail t;
    struct dead d = {.user = v->user,
                     .device = v->device,
                     .conversation = conversation,
                     .reason = PTN_STR("expired"),
                     .now_ms = v->now_ms};
    int64_t *counted = counted_of(v, key);
    if (k->seq >= last)
        return true;
    if (k->seq < k->replay_to) {
        count_all(v, first, last, counted);
        return true;
    }
    if ((ttl_ms > 0 && !find_young(db, key, first - 1, last, v->now_ms - ttl_ms, &young)) ||
        !tail_find(v, key, young, last, counted, &t))
        return false;
    if (t.from > first && !find_missed(v, key, base, t.from - 1, k, &d))
        return false;
    if (d.n > 0) {
        if (t.overflow)
            d.reason = PTN_STR("overflow");
        v->passed = true;
        if (!k->known && cursor_set(db, v->user, conversation, v->device, k, v->now_ms) < 0)
            return false;
        return cursor_pass(db, &d, key, k);
    }
    return base > k->seq || cursor_skip(v, conversation, key, t.next - 1, k);
}

/* The current row of FEED_LIST. */
static bool visit_row(struct visit *v, sqlite3_stmt *row, struct cursor *ret_k) {
    v->rows++;
    v->passed = false;
    int64_t key = sqlite3_column_int64(row, 0);
    return cursor_load(v->db, v->user, v->device, v->is_new, key, sqlite3_column_int64(row, 2),
                       ret_k) &&
           cursor_limit(v, store_column_str(row, 1), key, sqlite3_column_int64(row, 4),
                        sqlite3_column_int64(row, 3), ret_k);
}

/* The user's conversations; NULL: failed. */
static sqlite3_stmt *feed_list(store_db *db, ptn_str user) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_FEED_LIST);
    if (s != NULL) {
        store_bind_str(s, 1, user);
        (void)sqlite3_bind_int64(s, 2, db->queue.limits.conversations);
    }
    return s;
}

/* ---- devices ------------------------------------------------------------------------------ */

/* Those that have been away longest go until the user has at most `keep` besides `device` (p NULL:
 * besides none). */
static bool devices_limit(store_db *db, ptn_str user, ptn_str device, uint32_t keep) {
    for (;;) {
        sqlite3_stmt *s = store_sql(db, STORE_SQL_DEVICE_OVER);
        if (s == NULL)
            return false;
        store_bind_str(s, 1, user);
        if (device.p != NULL)
            store_bind_str(s, 2, device);
        else
            (void)sqlite3_bind_null(s, 2);
        (void)sqlite3_bind_int64(s, 3, keep);
        int rc = sqlite3_step(s);
        sqlite3_stmt *gone = rc == SQLITE_ROW ? store_sql(db, STORE_SQL_DEVICE_FORGET) : NULL;
        if (gone == NULL) {
            (void)sqlite3_reset(s);
            return rc == SQLITE_DONE;
        }
        ptn_str name = store_column_str(s, 0);
        PTN_LOG(PTN_LOG_WARN, "queue.device_forgotten", PTN_F_STR("user", user),
                PTN_F_STR("device", name), PTN_F_INT("devices_max", db->queue.limits.devices),
                PTN_F_Z("effect", "it was away longest; when it comes back it is a new device"));
        store_bind_str(gone, 1, user);
        store_bind_str(gone, 2, name);
        bool ok = store_run(db, gone);
        (void)sqlite3_reset(s);
        if (!ok)
            return false;
        ptn_count(PTN_C_DEVICES_FORGOTTEN, 1);
    }
}

/* It is here now.  One of its cursors says so. */
static bool device_seen(struct visit *v, int64_t key) {
    sqlite3_stmt *s = store_sql(v->db, STORE_SQL_CURSOR_SEEN);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, v->user);
    (void)sqlite3_bind_int64(s, 2, key);
    store_bind_str(s, 3, v->device);
    (void)sqlite3_bind_int64(s, 4, v->now_ms);
    return store_run(v->db, s);
}

/* False: failed. */
static bool device_look_up(struct visit *v) {
    sqlite3_stmt *s = store_sql(v->db, STORE_SQL_DEVICE_KNOWN);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, v->user);
    store_bind_str(s, 2, v->device);
    int rc = sqlite3_step(s);
    v->is_new = rc == SQLITE_DONE;
    (void)sqlite3_reset(s);
    return rc == SQLITE_DONE || rc == SQLITE_ROW;
}

/* ---- opening a feed ----------------------------------------------------------------------- */

static bool open_row(struct visit *v, ptn_pack *w, sqlite3_stmt *row, bool first) {
    struct cursor k;
    int64_t key = sqlite3_column_int64(row, 0);
    ptn_str id = store_column_str(row, 1);
    if (!visit_row(v, row, &k))
        return false;
    if (k.seq > sqlite3_column_int64(row, 3)) /* saved from a damaged file, which had more */
        k.seq = sqlite3_column_int64(row, 3);
    if (!k.known && cursor_set(v->db, v->user, id, v->device, &k, v->now_ms) < 0)
        return false;
    if (first && k.known && !device_seen(v, key))
        return false;
    ptn_pack_array(w, 5);
    ptn_pack_str(w, id);
    ptn_pack_int(w, k.seq);
    ptn_pack_int(w, k.deliveries);
    ptn_pack_int(w, k.gap_from);
    ptn_pack_cstr(w, k.gap_from > 0 ? k.gap_reason : NULL);
    return true;
}

ptn_buf *store_feed_open(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str user, device;
    int64_t now_ms;
    if (!ptn_unpack_str(u, &user) || !ptn_unpack_str(u, &device) || !ptn_unpack_int(u, &now_ms) ||
        device.n > STORE_ID_BYTES_MAX)
        return store_malformed(ret_type);
    struct visit v = visit_of(db, user, device, now_ms);
    sqlite3_stmt *s = device_look_up(&v) ? feed_list(db, user) : NULL;
    if (s == NULL)
        return store_db_fail(db, ret_type);
    ptn_pack rows;
    uint32_t n = 0;
    int rc;
    ptn_pack_init(&rows, 1024);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW && open_row(&v, &rows, s, n == 0))
        n++;
    if (rc != SQLITE_DONE ||
        (v.is_new && n > 0 && !devices_limit(db, user, device, db->queue.limits.devices - 1))) {
        ptn_pack_abort(&rows);
        return store_db_fail(db, ret_type);
    }
    (void)sqlite3_reset(s);
    if (v.is_new && n > 0) /* were it forgotten, it would begin at another place the next time */
        db->must_sync = true;
    return store_reply_rows(db, &rows, n, PTN_MSG_STORE_FEED, ret_type);
}

/* ---- devices that are away ----------------------------------------------------------------- */

#define TEND_ROWS 500 /* looked at in one step, and then the device is finished */

/* Reads the row that s stands at, whose text is cut to STORE_ID_BYTES_MAX. */
static uint32_t read_name(sqlite3_stmt *s, char *buf) {
    ptn_str name = store_column_str(s, 0);
    uint32_t n = (uint32_t)(name.n < STORE_ID_BYTES_MAX ? name.n : STORE_ID_BYTES_MAX);
    memcpy(buf, name.p, n);
    return n;
}

/* 1: q->user is the next one with devices, 0: there is none, <0 failed. */
static int next_user(store_db *db) {
    struct queue *q = &db->queue;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_USER_NEXT);
    if (s == NULL)
        return -1;
    store_bind_str(s, 1, (ptn_str){q->user, q->user_bytes});
    int rc = sqlite3_step(s);
    bool found = rc == SQLITE_ROW && sqlite3_column_type(s, 0) == SQLITE_TEXT;
    if (found)
        q->user_bytes = read_name(s, q->user);
    (void)sqlite3_reset(s);
    if (rc != SQLITE_ROW)
        return -1;
    return found;
}

/* Its devices, and all of its limits. */
static bool user_begin(store_db *db) {
    struct queue *q = &db->queue;
    ptn_str user = {q->user, q->user_bytes};
    int rc;
    q->n_devices = q->n_visited = q->n_counted = 0;
    q->messages = messages_max(&q->limits);
    q->bytes = q->limits.bytes;
    if (!devices_limit(db, user, (ptn_str){NULL, 0}, q->limits.devices))
        return false;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_DEVICES);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, user);
    (void)sqlite3_bind_int64(s, 2, STORE_QUEUE_DEVICES_MAX);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        q->device[q->n_devices].bytes = (uint8_t)read_name(s, q->device[q->n_devices].name);
        q->n_devices++;
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_DONE;
}

/* 1: *ret_device is the next one, of q->user; 0: the round is over, <0 failed. */
static int next_device(store_db *db, ptn_str *ret_device) {
    struct queue *q = &db->queue;
    while (q->n_visited == q->n_devices) {
        int found = next_user(db);
        if (found <= 0)
            return found;
        if (!user_begin(db))
            return -1;
    }
    *ret_device = (ptn_str){q->device[q->n_visited].name, q->device[q->n_visited].bytes};
    q->n_visited++;
    return 1;
}

static bool tend_device(struct visit *v, ptn_pack *moved, uint32_t *n_moved) {
    sqlite3_stmt *s = feed_list(v->db, v->user);
    int rc = SQLITE_ERROR;
    while (s != NULL && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct cursor k;
        if (!visit_row(v, s, &k))
            return false;
        if (!v->passed)
            continue;
        ptn_pack_array(moved, 5);
        ptn_pack_str(moved, store_column_str(s, 1));
        ptn_pack_str(moved, v->user);
        ptn_pack_str(moved, v->device);
        ptn_pack_int(moved, k.seq);
        ptn_pack_cstr(moved, k.gap_reason);
        ++*n_moved;
    }
    if (rc == SQLITE_DONE)
        (void)sqlite3_reset(s);
    return rc == SQLITE_DONE;
}

/* A step of a round over all devices, and in it at least one. */
ptn_buf *store_feed_tend(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct queue *q = &db->queue;
    ptn_str device;
    int64_t now_ms, rows = 0;
    if (!ptn_unpack_int(u, &now_ms))
        return store_malformed(ret_type);
    ptn_pack moved;
    uint32_t n_moved = 0;
    int more = 1;
    ptn_pack_init(&moved, 256);
    while (more > 0 && rows < TEND_ROWS && (more = next_device(db, &device)) > 0) {
        struct visit v = visit_of(db, (ptn_str){q->user, q->user_bytes}, device, now_ms);
        v.in_round = true;
        v.messages = q->messages;
        v.bytes = q->bytes;
        if (!tend_device(&v, &moved, &n_moved))
            more = -1;
        rows += 1 + v.rows;
        q->messages = v.messages;
        q->bytes = v.bytes;
        q->waiting += v.waiting;
        q->devices++;
    }
    ptn_buf *list = ptn_pack_finish(&moved);
    if (more < 0 || (list == NULL && n_moved > 0)) {
        ptn_buf_unref(list);
        return store_db_fail(db, ret_type);
    }
    ptn_pack w;
    ptn_pack_init(&w, 64 + ptn_buf_bytes(list).n);
    ptn_pack_array(&w, 5);
    ptn_pack_bool(&w, more > 0);
    ptn_pack_int(&w, rows);
    ptn_pack_int(&w, q->waiting);
    ptn_pack_int(&w, q->devices);
    ptn_pack_array(&w, n_moved);
    if (n_moved > 0)
        ptn_pack_raw(&w, ptn_buf_bytes(list));
    ptn_buf_unref(list);
    if (more == 0) {
        q->user_bytes = q->n_devices = q->n_visited = 0;
        q->waiting = q->devices = 0;
    }
    return store_reply(db, &w, PTN_MSG_STORE_FEED_TENDED, ret_type);
}

/* ---- acknowledgements --------------------------------------------------------------------- */

struct ack {
    ptn_str user, device, conversation;
    struct cursor cursor;
    int64_t got;
};

static bool unpack_ack(ptn_unpack *u, struct ack *ret_a) {
    uint32_t n;
    return ptn_unpack_array(u, &n) && n == 6 && ptn_unpack_str(u, &ret_a->user) &&
           ptn_unpack_str(u, &ret_a->device) && ptn_unpack_str(u, &ret_a->conversation) &&
           ptn_unpack_int(u, &ret_a->cursor.seq) && ptn_unpack_int(u, &ret_a->cursor.deliveries) &&
           ptn_unpack_int(u, &ret_a->got);
}

/* Nobody has what does not exist, whatever a client says. */
static bool cut_to_end(store_db *db, struct ack *a) {
    struct store_conv *c;
    int err = store_conv_find(db, a->conversation, &c);
    if (err == 0 && a->cursor.seq > c->last_seq)
        a->cursor.seq = c->last_seq;
    if (err == 0 && a->got > c->last_seq)
        a->got = c->last_seq;
    return err == 0 || err == -PTN_ENOTFOUND;
}

/* Moves the member's mark.  *ret_news: for some sender it is the first to come so far.  The sender
 * may be one of the two who were further, so the second counts. */
static bool mark_delivered(store_db *db, const struct ack *a, int64_t now_ms, bool *ret_news) {
    struct store_conv *c;
    int64_t seq[2] = {0};
    int rc, n = 0;
    *ret_news = false;
    if (store_conv_find(db, a->conversation, &c) != 0)
        return false;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_DELIVERED_BY_OTHERS);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, c->key);
    store_bind_str(s, 2, a->user);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW && n < 2)
        seq[n++] = sqlite3_column_int64(s, 0);
    (void)sqlite3_reset(s);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        return false;
    s = store_sql(db, STORE_SQL_DELIVERED_SET);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, c->key);
    store_bind_str(s, 2, a->user);
    (void)sqlite3_bind_int64(s, 3, a->got);
    (void)sqlite3_bind_int64(s, 4, now_ms);
    (void)sqlite3_bind_int64(s, 5, store_change(db));
    if (!store_run(db, s))
        return false;
    *ret_news = sqlite3_changes(db->sql) > 0 && a->got > seq[1];
    return true;
}

ptn_buf *store_feed_ack(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    uint32_t n, news = 0;
    int64_t now_ms;
    ptn_unpack list = *u;
    if (!ptn_unpack_array(&list, &n) || !ptn_unpack_any(u, NULL) || !ptn_unpack_int(u, &now_ms))
        return store_malformed(ret_type);
    ptn_pack rows;
    ptn_pack_init(&rows, 1024);
    for (uint32_t i = 0; i < n; i++) {
        struct ack a;
        bool is_news = false;
        if (!unpack_ack(&list, &a)) {
            ptn_pack_abort(&rows);
            return store_malformed(ret_type);
        }
        int moved = cut_to_end(db, &a)
                        ? cursor_set(db, a.user, a.conversation, a.device, &a.cursor, now_ms)
                        : -1;
        if (moved < 0 || (moved > 0 && a.got > 0 && !mark_delivered(db, &a, now_ms, &is_news))) {
            ptn_pack_abort(&rows);
            return store_db_fail(db, ret_type);
        }
        if (!is_news)
            continue;
        ptn_pack_array(&rows, 3);
        ptn_pack_str(&rows, a.conversation);
        ptn_pack_str(&rows, a.user);
        ptn_pack_int(&rows, a.got);
        news++;
    }
    return store_reply_rows(db, &rows, news, PTN_MSG_STORE_FEED_ACKED, ret_type);
}

/* ---- dead letters: operations -------------------------------------------------------------- */

ptn_buf *store_dead_add(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct dead d;
    if (!ptn_unpack_str(u, &d.user) || !ptn_unpack_str(u, &d.device) ||
        !ptn_unpack_str(u, &d.conversation) || !ptn_unpack_int(u, &d.from) ||
        !ptn_unpack_int(u, &d.to) || !ptn_unpack_str(u, &d.reason) || !ptn_unpack_int(u, &d.now_ms))
        return store_malformed(ret_type);
    d.n = d.to - d.from + 1;
    struct store_conv *c;
    struct cursor k = {.known = false};
    int err = store_conv_find(db, d.conversation, &c);
    bool ok =
        err == 0 ? cursor_load(db, d.user, d.device, false, c->key, 0, &k) : err == -PTN_ENOTFOUND;
    if (ok)
        ok = k.known && k.seq < d.to ? cursor_pass(db, &d, c->key, &k) : dead_add(db, &d, NULL);
    return ok ? store_ok(ret_type) : store_db_fail(db, ret_type);
}
