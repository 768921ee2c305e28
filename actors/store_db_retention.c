/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_retention.c - what is older, larger or more than the rules keep is removed, from the old
 * end and a bounded piece at a time.
 *
 * A step looks at the next few topics and conversations behind a cursor and removes about ROWS_MAX
 * messages and events, in the transaction of the batch it comes with, so that nobody waits long for
 * it.  Rows of events and messages carry the running total of the bytes of their topic or
 * conversation: how much lies between two of them is one subtraction.
 */
#include "actors/store_db_internal.h"

#define ROWS_MAX 1000
#define PLACES_MAX 64 /* topics or conversations looked at in one step */

struct step {
    store_db *db;
    int64_t now_ms;
    int rows; /* that may still be looked at */
    int64_t events, messages;
    ptn_pack moved; /* [topic, base], .. */
    uint32_t n_moved;
};

/* Its owner hears of it, so that it recovers no position before base any more. */
static void note_moved(struct step *p, ptn_str prefix, ptn_str name, int64_t base) {
    char topic[PTN_TOPIC_BYTES_MAX];
    if (prefix.n + name.n > sizeof topic)
        return;
    memcpy(topic, prefix.p, prefix.n);
    memcpy(topic + prefix.n, name.p, name.n);
    ptn_pack_array(&p->moved, 2);
    ptn_pack_str(&p->moved, (ptn_str){topic, prefix.n + name.n});
    ptn_pack_int(&p->moved, base);
    p->n_moved++;
}

static bool is_old(const struct step *p, uint64_t age_ms, int64_t created_ms) {
    return age_ms > 0 && created_ms < p->now_ms - (int64_t)age_ms;
}

/* behind: bytes after it. */
static bool event_goes(const struct store_topic *t, const struct topic_rule *rule, int64_t offset,
                       uint64_t behind) {
    return (rule->events > 0 && (uint64_t)(t->last - offset) >= rule->events) ||
           (rule->bytes > 0 && behind >= rule->bytes);
}

/* The newest event that goes of a row whose newest one stays; the one before the row: none does. */
static int64_t cut_inside(const struct store_topic *t, const struct topic_rule *rule,
                          sqlite3_stmt *s, uint64_t behind) {
    struct store_event_row row = store_event_row_of(s, (ptn_bytes){NULL, 0}), again = row;
    struct store_event e;
    int64_t cut = row.offset - row.n;
    while (store_event_next(&row, &e))
        behind += e.data.n;
    while (store_event_next(&again, &e)) {
        behind -= e.data.n;
        if (!event_goes(t, rule, e.offset, behind))
            break;
        cut = e.offset;
    }
    return cut;
}

/* The newest offset that has to go, at least t->base.  <0: failed. */
static int64_t events_cut(struct step *p, const struct store_topic *t,
                          const struct topic_rule *rule) {
    sqlite3_stmt *s = store_sql(p->db, STORE_SQL_EVENTS_OLDEST);
    if (s == NULL)
        return -1;
    (void)sqlite3_bind_int64(s, 1, store_place(t, t->base));
    (void)sqlite3_bind_int64(s, 2, store_place(t, t->last));
    (void)sqlite3_bind_int64(s, 3, p->rows);
    int64_t cut = t->base;
    int rc = SQLITE_ROW;
    bool goes = true;
    while (goes && p->rows > 0 && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t offset = sqlite3_column_int64(s, 0) & STORE_OFFSET_MAX,
                n = sqlite3_column_int(s, 2);
        uint64_t behind = (uint64_t)(t->total - sqlite3_column_int64(s, 4));
        goes = is_old(p, rule->age_ms, sqlite3_column_int64(s, 3)) ||
               event_goes(t, rule, offset, behind);
        int64_t up_to = goes ? offset : n > 1 ? cut_inside(t, rule, s, behind) : cut;
        cut = up_to > cut ? up_to : cut;
        p->rows -= (int)n;
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? cut : -1;
}

static bool remove_events(struct step *p, struct store_topic *t, int64_t cut) {
    sqlite3_stmt *s;
    if (!store_events_remove(p->db, t, cut) || (s = store_sql(p->db, STORE_SQL_TOPIC_BASE)) == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, t->key);
    (void)sqlite3_bind_int64(s, 2, cut);
    if (!store_run(p->db, s))
        return false;
    p->events += cut - t->base;
    t->base = cut;
    note_moved(p, (ptn_str){"", 0}, (ptn_str){t->name, t->name_bytes}, cut);
    return true;
}

/* An upper bound of what a step is about: the next key and name behind a cursor.  1 found, 0 none,
 * <0 failed; ret_name is bounded by its buffer. */
static int next_place(store_db *db, enum store_statement which, int64_t after, int64_t *ret_key,
                      char *buf, size_t buf_bytes, ptn_str *ret_name) {
    sqlite3_stmt *s = store_sql(db, which);
    if (s == NULL)
        return -1;
    (void)sqlite3_bind_int64(s, 1, after);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) {
        ptn_str name = store_column_str(s, 1);
        *ret_key = sqlite3_column_int64(s, 0);
        *ret_name = (ptn_str){buf, name.n < buf_bytes ? name.n : buf_bytes};
        memcpy(buf, name.p, ret_name->n);
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : -1;
}

/* 1: go on, 0: the last one was looked at, <0 failed. */
static int one_topic(struct step *p) {
    store_db *db = p->db;
    char buf[PTN_TOPIC_BYTES_MAX];
    ptn_str name;
    int64_t key;
    struct store_topic *t;
    int found =
        next_place(db, STORE_SQL_TOPIC_NEXT, db->retention.topic, &key, buf, sizeof buf, &name);
    if (found <= 0)
        return found;
    const struct topic_rule *rule =
        topic_rule_of(db->retention.rules.topics, db->retention.rules.n_topics, name);
    if (rule != NULL && (rule->age_ms | rule->bytes | rule->events) != 0) {
        if (store_topic_find(db, name, &t) != 0)
            return -1;
        int64_t cut = events_cut(p, t, rule);
        if (cut < 0 || (cut > t->base && !remove_events(p, t, cut)))
            return -1;
    }
    if (p->rows > 0)
        db->retention.topic = key; /* else there may be more of this one */
    return 1;
}

/* The newest message stays: it says where the conversation stands. */
static int64_t messages_cut(struct step *p, const struct store_conv *c) {
    const store_retention *r = &p->db->retention.rules;
    sqlite3_stmt *s = store_sql(p->db, STORE_SQL_MSGS_OLDEST);
    if (s == NULL)
        return -1;
    (void)sqlite3_bind_int64(s, 1, c->key);
    (void)sqlite3_bind_int64(s, 2, p->rows);
    int64_t cut = 0;
    int rc;
    bool goes = true;
    while (goes && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t seq = sqlite3_column_int64(s, 0);
        goes = seq < c->last_seq &&
               (is_old(p, r->messages_age_ms, sqlite3_column_int64(s, 1)) ||
                (r->messages > 0 && (uint64_t)(c->last_seq - seq) >= r->messages) ||
                (r->messages_bytes > 0 &&
                 (uint64_t)(c->total - sqlite3_column_int64(s, 2)) >= r->messages_bytes));
        if (goes) {
            cut = seq;
            p->messages++;
        }
        p->rows--;
    }
    (void)sqlite3_reset(s);
    return !goes || rc == SQLITE_DONE ? cut : -1;
}

static int one_conversation(struct step *p) {
    store_db *db = p->db;
    char buf[STORE_ID_BYTES_MAX];
    ptn_str id;
    int64_t key;
    struct store_conv *c;
    int found =
        next_place(db, STORE_SQL_CONV_NEXT, db->retention.conversation, &key, buf, sizeof buf, &id);
    if (found <= 0)
        return found;
    if (store_conv_find(db, id, &c) != 0)
        return -1;
    int64_t cut = messages_cut(p, c);
    if (cut < 0)
        return -1;
    if (cut > 0) {
        sqlite3_stmt *s = store_sql(db, STORE_SQL_MSGS_REMOVE);
        if (s == NULL)
            return -1;
        (void)sqlite3_bind_int64(s, 1, c->key);
        (void)sqlite3_bind_int64(s, 2, cut);
        if (!store_run(db, s))
            return -1;
        note_moved(p, PTN_STR("conversation."), id, cut);
    }
    if (p->rows > 0)
        db->retention.conversation = key;
    return 1;
}

/* A round goes once through the topics, then through the conversations.  1: it goes on, 0: it is at
 * its end, <0 failed. */
static int run_step(struct step *p) {
    struct retention *r = &p->db->retention;
    bool conversations =
        (r->rules.messages_age_ms | r->rules.messages | r->rules.messages_bytes) > 0;
    for (int i = 0; i < PLACES_MAX && p->rows > 0; i++) {
        int more = r->topics_done ? 0 : one_topic(p);
        if (more == 0) {
            r->topics_done = true;
            more = conversations ? one_conversation(p) : 0;
        }
        if (more < 0)
            return -1;
        if (more == 0) {
            r->topic = r->conversation = 0;
            r->topics_done = false;
            return 0;
        }
    }
    return 1;
}

ptn_buf *store_retain(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct step p = {.db = db, .rows = ROWS_MAX};
    if (!ptn_unpack_int(u, &p.now_ms))
        return store_malformed(ret_type);
    ptn_pack_init(&p.moved, 256);
    int more = run_step(&p);
    ptn_buf *moved = ptn_pack_finish(&p.moved);
    if (more < 0 || (moved == NULL && p.n_moved > 0)) {
        ptn_buf_unref(moved);
        return store_db_fail(db, ret_type);
    }
    db->messages_removed += p.messages;
    ptn_pack w;
    ptn_pack_init(&w, 32 + ptn_buf_bytes(moved).n);
    ptn_pack_array(&w, 4);
    ptn_pack_bool(&w, more > 0);
    ptn_pack_int(&w, p.events);
    ptn_pack_int(&w, p.messages);
    ptn_pack_array(&w, p.n_moved);
    if (p.n_moved > 0)
        ptn_pack_raw(&w, ptn_buf_bytes(moved));
    ptn_buf_unref(moved);
    return store_reply(db, &w, PTN_MSG_STORE_RETAINED, ret_type);
}
