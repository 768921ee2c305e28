/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_sync.c - what has changed for one user since a token.
 *
 * Whatever clients see carries the number of the transaction that changed it, so `since a token` is
 * a comparison.  Messages get their numbers in the order of seq: where a conversation goes on is
 * found by binary search, without an index.  A round of pages ends at the number that was the last
 * one when it began (`until`); what changes meanwhile may come twice, and is never missed.
 *
 * A token also names the era, that is, the start of the broker, that its `until` belongs to.  A
 * database that was restored from a backup goes another way from there on: its next era begins
 * before what tokens of the lost way have seen, or has another stamp.  Then the client starts over.
 */
#include "actors/store_db_internal.h"

#include <inttypes.h>
#include <stdio.h>

#define ERAS_KEPT 1000
#define VISITS_MAX 1000u /* conversations looked at for one page */
#define TOKEN_BYTES (160 + STORE_ID_BYTES_MAX)
#define SINCE_EVER (-1)

enum stage { PREFERENCES, REMOVED, CONVERSATIONS, MESSAGES };

struct token {
    int64_t era, stamp, since, until;
    enum stage stage;
    int64_t seq; /* MESSAGES: the last one that was sent */
    uint32_t id_bytes;
    char id[STORE_ID_BYTES_MAX]; /* the conversation that was dealt with last, or is being */
};

struct page {
    store_db *db;
    ptn_str user;
    struct token t;
    uint32_t limit, n, visits;
    bool reset, more;
    int64_t prefs_version; /* 0: not changed */
    ptn_pack prefs, convs, msgs, reads, deliveries,
        gone; /* each: its values, one behind the other */
    uint32_t n_convs, n_msgs, n_reads, n_deliveries, n_gone;
};

/* ---- tokens ------------------------------------------------------------------------------- */

static size_t token_write(const struct token *t, char out[TOKEN_BYTES]) {
    int n = snprintf(out, TOKEN_BYTES,
                     "1.%" PRId64 ".%" PRIx64 ".%" PRId64 ".%" PRId64 ".%d.%" PRId64 ".%.*s",
                     t->era, (uint64_t)t->stamp, t->since, t->until, (int)t->stage, t->seq,
                     (int)t->id_bytes, t->id);
    return (size_t)n;
}

/* One number up to the next point, at most 18 digits (16 of base 16). */
static bool take_number(ptn_str *s, unsigned base, int64_t *ret_v) {
    uint64_t v = 0;
    bool minus = base == 10 && s->n > 0 && s->p[0] == '-';
    size_t i = minus, begin = i, most = base == 10 ? 18 : 16;
    for (; i < s->n && s->p[i] != '.'; i++) {
        unsigned char ch = (unsigned char)s->p[i];
        unsigned d = 99;
        if (ch >= '0' && ch <= '9')
            d = ch - (unsigned)'0';
        else if (ch >= 'a' && ch <= 'f')
            d = ch - (unsigned)'a' + 10;
        if (d >= base || i - begin == most)
            return false;
        v = v * base + d;
    }
    if (i == begin || i == s->n)
        return false;
    *ret_v = minus ? -(int64_t)v : (int64_t)v;
    *s = (ptn_str){s->p + i + 1, s->n - i - 1};
    return true;
}

static bool token_read(ptn_str s, struct token *ret_t) {
    struct token t = {0};
    int64_t form, stage;
    if (!take_number(&s, 10, &form) || form != 1 || !take_number(&s, 10, &t.era) ||
        !take_number(&s, 16, &t.stamp) || !take_number(&s, 10, &t.since) ||
        !take_number(&s, 10, &t.until) || !take_number(&s, 10, &stage) ||
        !take_number(&s, 10, &t.seq) || stage < PREFERENCES || stage > MESSAGES ||
        t.since < SINCE_EVER || t.until < t.since || t.seq < 0 || s.n > sizeof t.id)
        return false;
    t.stage = (enum stage)stage;
    t.id_bytes = (uint32_t)s.n;
    memcpy(t.id, s.p, s.n);
    *ret_t = t;
    return true;
}

/* ---- eras --------------------------------------------------------------------------------- */

bool store_era_begin(store_db *db) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_ERA_ADD);
    if (s == NULL || !store_run(db, s))
        return false;
    s = store_sql(db, STORE_SQL_ERAS_PURGE);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, ERAS_KEPT);
    return store_run(db, s);
}

/* SQLITE_ROW or SQLITE_DONE; anything else failed. */
static int era_of(store_db *db, const struct token *t, int64_t *ret_stamp, int64_t *ret_end) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_ERA);
    if (s == NULL)
        return SQLITE_ERROR;
    (void)sqlite3_bind_int64(s, 1, t->era);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) {
        *ret_stamp = sqlite3_column_int64(s, 0);
        *ret_end =
            sqlite3_column_type(s, 1) == SQLITE_NULL ? INT64_MAX : sqlite3_column_int64(s, 1);
    }
    (void)sqlite3_reset(s);
    return rc;
}

/* The era of today, and the last change in it. */
static bool begin_round(store_db *db, struct token *t) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_ERA_LAST);
    int rc = s != NULL ? sqlite3_step(s) : SQLITE_ERROR;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return false;
    t->era = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    t->stamp = rc == SQLITE_ROW ? sqlite3_column_int64(s, 1) : 0;
    (void)sqlite3_reset(s);
    s = store_sql(db, STORE_SQL_CHANGE);
    if (s == NULL || sqlite3_step(s) != SQLITE_ROW)
        return false;
    t->until = sqlite3_column_int64(s, 0);
    (void)sqlite3_reset(s);
    t->stage = PREFERENCES;
    t->seq = 0;
    t->id_bytes = 0;
    return true;
}

/* What the token, if there is one, means today. */
static bool open_round(struct page *p, bool given) {
    struct token today = {.since = SINCE_EVER};
    int64_t stamp = 0, end = INT64_MAX;
    if (!begin_round(p->db, &today))
        return false;
    if (given) {
        int rc = era_of(p->db, &p->t, &stamp, &end);
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            return false;
        bool none = p->t.era == 0 && today.era == 0;
        if ((rc == SQLITE_ROW || none) && stamp == p->t.stamp && p->t.until <= end &&
            p->t.until <= today.until) {
            if (p->t.since < p->t.until || p->t.stage != PREFERENCES)
                return true; /* in the middle of a round */
            today.since = p->t.since;
            p->t = today;
            return true;
        }
        p->reset = true;
    }
    p->t = today;
    return true;
}

/* ---- the parts of a page -------------------------------------------------------------------- */

static bool full(const struct page *p) {
    return p->n >= p->limit || p->visits >= VISITS_MAX ||
           ptn_pack_len(&p->convs) + ptn_pack_len(&p->msgs) + ptn_pack_len(&p->reads) +
                   ptn_pack_len(&p->deliveries) >=
               STORE_PAGE_BYTES;
}

static void set_position(struct token *t, enum stage stage, ptn_str id, int64_t seq) {
    t->stage = stage;
    t->seq = seq;
    t->id_bytes = (uint32_t)(id.n <= sizeof t->id ? id.n : 0);
    memcpy(t->id, id.p, t->id_bytes);
}

static bool read_preferences(struct page *p) {
    sqlite3_stmt *s = store_sql(p->db, STORE_SQL_USER_CHANGED);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, p->user);
    (void)sqlite3_bind_int64(s, 2, p->t.since);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) {
        ptn_bytes preferences = store_column_blob(s, 2);
        p->prefs_version = sqlite3_column_int64(s, 0);
        p->n++;
        ptn_pack_map(&p->prefs, 3);
        ptn_pack_key(&p->prefs, "version");
        ptn_pack_int(&p->prefs, p->prefs_version);
        ptn_pack_key(&p->prefs, "updatedAt");
        if (sqlite3_column_int64(s, 1) > 0)
            ptn_pack_timestamp(&p->prefs, sqlite3_column_int64(s, 1));
        else
            ptn_pack_nil(&p->prefs); /* never edited */
        ptn_pack_key(&p->prefs, "value");
        if (preferences.n > 0)
            ptn_pack_raw(&p->prefs, preferences);
        else
            ptn_pack_map(&p->prefs, 0);
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* Conversations that the user is no longer a member of. */
static bool read_removed(struct page *p) {
    sqlite3_stmt *s = store_sql(p->db, STORE_SQL_REMOVALS);
    int rc = SQLITE_ROW;
    if (s == NULL)
        return false;
    store_bind_str(s, 1, p->user);
    store_bind_str(s, 2, (ptn_str){p->t.id, p->t.id_bytes});
    while (!full(p) && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        ptn_str id = store_column_str(s, 0);
        p->visits++;
        if (sqlite3_column_int64(s, 1) > p->t.since) {
            ptn_pack_str(&p->gone, id);
            p->n_gone++;
            p->n++;
        }
        set_position(&p->t, REMOVED, id, 0);
    }
    (void)sqlite3_reset(s);
    if (rc == SQLITE_DONE)
        set_position(&p->t, CONVERSATIONS, (ptn_str){"", 0}, 0);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* How far members have read, or got; named `at`: when. */
static bool read_marks(struct page *p, enum store_statement which, const char *at, int64_t key,
                       ptn_str id, int64_t since) {
    bool read = which == STORE_SQL_READS_CHANGED;
    ptn_pack *w = read ? &p->reads : &p->deliveries;
    sqlite3_stmt *s = store_sql(p->db, which);
    int rc;
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, key);
    (void)sqlite3_bind_int64(s, 2, since);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        ptn_pack_map(w, 4);
        ptn_pack_key(w, "conversationId");
        ptn_pack_str(w, id);
        ptn_pack_key(w, "userId");
        ptn_pack_str(w, store_column_str(s, 0));
        ptn_pack_key(w, "seq");
        ptn_pack_int(w, sqlite3_column_int64(s, 1));
        ptn_pack_key(w, at);
        ptn_pack_timestamp(w, sqlite3_column_int64(s, 2));
        ++*(read ? &p->n_reads : &p->n_deliveries);
        p->n++;
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_DONE;
}

/* The change and seq of the first message at or behind `seq`.  1, 0: none, <0 failed. */
static int message_at(struct page *p, int64_t key, int64_t *seq, int64_t *ret_change) {
    sqlite3_stmt *s = store_sql(p->db, STORE_SQL_MSG_CHANGE);
    if (s == NULL)
        return -1;
    (void)sqlite3_bind_int64(s, 1, key);
    (void)sqlite3_bind_int64(s, 2, *seq);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW) {
        *seq = sqlite3_column_int64(s, 0);
        *ret_change = sqlite3_column_int64(s, 1);
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : -1;
}

/* *ret_seq: the first message, of those up to `last`, with a change above this one; last + 1: none.
 */
static bool first_above(struct page *p, int64_t key, int64_t last, int64_t change,
                        int64_t *ret_seq) {
    int64_t low = 1, high = last + 1; /* it is in [low, high] */
    while (low < high) {
        int64_t middle = low + (high - low) / 2, at = middle, found = 0;
        int known = message_at(p, key, &at, &found);
        if (known < 0)
            return false;
        if (known == 0 || found > change)
            high = middle;
        else
            low = at + 1;
    }
    *ret_seq = low;
    return true;
}

/* *ret_all: no more of this conversation belongs to the round. */
static bool read_messages(struct page *p, int64_t key, ptn_str id, int64_t since, bool *ret_all) {
    int64_t begin, end, last, seq = p->t.stage == MESSAGES ? p->t.seq : 0;
    uint32_t n = 0;
    sqlite3_stmt *s = store_sql(p->db, STORE_SQL_LAST_SEQ);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, key);
    if (sqlite3_step(s) != SQLITE_ROW)
        return false;
    last = sqlite3_column_int64(s, 0);
    (void)sqlite3_reset(s);
    *ret_all = true;
    if (last == 0)
        return true;
    int64_t at = last, newest = 0;
    int known = message_at(p, key, &at, &newest);
    if (known <= 0 || newest <= since)
        return known >= 0;
    if (!first_above(p, key, last, since, &begin))
        return false;
    end = last + 1;
    if (newest > p->t.until && !first_above(p, key, last, p->t.until, &end))
        return false;
    if (begin - 1 > seq)
        seq = begin - 1;
    if (seq + 1 >= end)
        return true;
    uint32_t room = p->n < p->limit ? p->limit - p->n : 1;
    if (!store_pack_messages(p->db, id, key, seq, end, room, &p->msgs, &n, &seq))
        return false;
    p->n_msgs += n;
    p->n += n;
    *ret_all = seq + 1 >= end || n == 0;
    if (!*ret_all)
        set_position(&p->t, MESSAGES, id, seq);
    return true;
}

/* One conversation; row: STORE_CONV_COLUMNS, its change, and that of the membership. */
static bool read_conversation(struct page *p, sqlite3_stmt *row, bool *ret_all) {
    int64_t key = sqlite3_column_int64(row, 0), since = p->t.since;
    ptn_str id = store_column_str(row, 1);
    bool again = p->t.stage == MESSAGES;
    if (sqlite3_column_int64(row, 8) > since) /* a member since then: it is all new */
        since = SINCE_EVER;
    if (!again && sqlite3_column_int64(row, 7) > since) {
        if (!store_pack_conv(p->db, &p->convs, row))
            return false;
        p->n_convs++;
        p->n++;
    }
    return (again ||
            (read_marks(p, STORE_SQL_READS_CHANGED, "readAt", key, id, since) &&
             read_marks(p, STORE_SQL_DELIVERIES_CHANGED, "deliveredAt", key, id, since))) &&
           read_messages(p, key, id, since, ret_all);
}

static bool read_conversations(struct page *p) {
    sqlite3_stmt *s = store_sql(p->db, STORE_SQL_SYNC_CONVS);
    int rc = SQLITE_ROW;
    char id[STORE_ID_BYTES_MAX];
    if (s == NULL)
        return false;
    memcpy(id, p->t.id, p->t.id_bytes);
    ptn_str from = {id, p->t.id_bytes};
    store_bind_str(s, 1, p->user);
    store_bind_str(s, 2, from);
    while (!full(p) && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        ptn_str at = store_column_str(s, 1);
        bool same = ptn_str_eq(at, from), all = false;
        p->visits++;
        if (same && p->t.stage == CONVERSATIONS)
            continue; /* dealt with */
        if (!same)
            p->t.stage = CONVERSATIONS; /* the one in the middle of which we were has gone */
        if (!read_conversation(p, s, &all))
            return false;
        if (!all)
            break;
        set_position(&p->t, CONVERSATIONS, store_column_str(s, 1), 0);
    }
    (void)sqlite3_reset(s);
    p->more = rc == SQLITE_ROW;
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

static bool read_page(struct page *p) {
    if (p->t.stage == PREFERENCES) {
        if (!read_preferences(p))
            return false;
        set_position(&p->t, REMOVED, (ptn_str){"", 0}, 0);
    }
    if (p->t.stage == REMOVED && p->t.since == SINCE_EVER)
        set_position(&p->t, CONVERSATIONS, (ptn_str){"", 0}, 0);
    if (p->t.stage == REMOVED && !read_removed(p))
        return false;
    p->more = true;
    if (p->t.stage >= CONVERSATIONS && !read_conversations(p))
        return false;
    if (!p->more) { /* the next round begins where this one ended */
        p->t.since = p->t.until;
        set_position(&p->t, PREFERENCES, (ptn_str){"", 0}, 0);
    }
    return true;
}

/* ---- the answer --------------------------------------------------------------------------- */

/* An array of the n values in `part`, which is consumed.  False: no memory. */
static bool pack_part(ptn_pack *w, ptn_pack *part, uint32_t n) {
    ptn_pack_array(w, n);
    if (n == 0) {
        ptn_pack_abort(part);
        return true;
    }
    ptn_buf *b = ptn_pack_finish(part);
    ptn_pack_raw(w, ptn_buf_bytes(b));
    bool ok = b != NULL;
    ptn_buf_unref(b);
    return ok;
}

static ptn_buf *reply_page(struct page *p, bool ok, uint32_t *ret_type) {
    char token[TOKEN_BYTES];
    ptn_pack w;
    ptn_pack_init(&w, 256 + ptn_pack_len(&p->convs) + ptn_pack_len(&p->msgs) +
                          ptn_pack_len(&p->reads) + ptn_pack_len(&p->deliveries) +
                          ptn_pack_len(&p->gone));
    ptn_pack_array(&w, 9);
    ptn_pack_bool(&w, p->reset);
    ptn_pack_bool(&w, p->more);
    ptn_pack_str(&w, (ptn_str){token, token_write(&p->t, token)});
    bool whole = pack_part(&w, &p->prefs, p->prefs_version > 0);
    whole = pack_part(&w, &p->convs, p->n_convs) && whole;
    whole = pack_part(&w, &p->msgs, p->n_msgs) && whole;
    whole = pack_part(&w, &p->reads, p->n_reads) && whole;
    whole = pack_part(&w, &p->deliveries, p->n_deliveries) && whole;
    whole = pack_part(&w, &p->gone, p->n_gone) && whole;
    if (ok && whole)
        return store_reply(p->db, &w, PTN_MSG_STORE_SYNC_PAGE, ret_type);
    ptn_pack_abort(&w);
    return ok ? NULL : store_db_fail(p->db, ret_type);
}

ptn_buf *store_sync(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct page p = {.db = db};
    ptn_str token;
    uint64_t limit;
    if (!ptn_unpack_str(u, &p.user) || !ptn_unpack_str_or_nil(u, &token) ||
        !ptn_unpack_uint(u, &limit) || limit == 0)
        return store_malformed(ret_type);
    if (token.n > 0 && !token_read(token, &p.t))
        return store_problem_field(PTN_CODE_VALIDATION_FAILED, "the query is not valid",
                                   PTN_STR("since"), "`next` of an earlier answer", ret_type);
    p.limit = (uint32_t)(limit < STORE_ROWS_MAX ? limit : STORE_ROWS_MAX);
    ptn_pack_init(&p.prefs, 64);
    ptn_pack_init(&p.convs, 1024);
    ptn_pack_init(&p.msgs, 4096);
    ptn_pack_init(&p.reads, 256);
    ptn_pack_init(&p.deliveries, 256);
    ptn_pack_init(&p.gone, 64);
    bool ok = open_round(&p, token.n > 0) && read_page(&p);
    return reply_page(&p, ok, ret_type);
}
