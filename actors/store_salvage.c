/* SPDX-License-Identifier: Apache-2.0
 *
 * store_salvage.c - copies what can be read of a damaged database into a new one.
 *
 * SQLite finds rows through B-trees, so a bad page hides the keys below it and no others.  Each
 * table is read forwards until an error and backwards until one; what lies between is halved by its
 * keys and tried again, until a range gives nothing any more.  That needs no knowledge of pages,
 * and a row is believed only when its types fit the new table (STRICT).  A conversation that only
 * an index still has is kept without its title.
 *
 * When the first page is gone, nothing can be found.  A copy of the file then gets one that is made
 * from the new database: tables are created in the same order by every version, so their roots
 * stand in the same places, unless an older version made the file.
 */
#include "actors/store_salvage.h"

#include "actors/store_backup.h"
#include "actors/store_db_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4352
#define COLUMNS_MAX 32
#define TABLES_MAX 64
#define PROBES_MAX 200000u
#define FRUITLESS_MAX 8u /* halvings of a range without a row */
#define KEY_COLUMNS 2
#define KEY_BYTES 40
#define BEYOND_MAX 64u

static _Thread_local char why_text[512];

/* A place in a table: the first columns of its key.  Bounds are inclusive; rows that are read twice
 * are stored once. */
struct key {
    struct part {
        bool is_text;
        int64_t n;
        uint8_t text[KEY_BYTES]; /* padded */
    } part[KEY_COLUMNS];
};

struct table {
    char name[64], columns[1024], key[KEY_COLUMNS][64];
    int n_columns, n_key, key_at[KEY_COLUMNS]; /* places of the key among the columns */
    bool is_text[KEY_COLUMNS];
};

struct work {
    sqlite3 *from, *to;
    store_salvage *report;
    unsigned probes;
    const struct table *table;
    bool seen; /* a row of this table; keys of the outermost ones: */
    struct key low, high;
    sqlite3_stmt *run[2][2], *add; /* upwards, from a key */
};

/* ---- keys --------------------------------------------------------------------------------- */

static void key_read(const struct table *t, sqlite3_stmt *row, struct key *ret_key) {
    memset(ret_key, 0, sizeof *ret_key);
    for (int i = 0; i < t->n_key; i++) {
        struct part *p = &ret_key->part[i];
        p->is_text = sqlite3_column_type(row, t->key_at[i]) != SQLITE_INTEGER;
        p->n = sqlite3_column_int64(row, t->key_at[i]);
        ptn_bytes b = store_column_blob(row, t->key_at[i]);
        if (p->is_text && b.n > 0)
            memcpy(p->text, b.p, b.n < KEY_BYTES ? b.n : KEY_BYTES);
    }
}

static void part_bind(sqlite3_stmt *s, int at, const struct part *p, bool is_end) {
    int n = KEY_BYTES;
    while (p->is_text && n > 0 && p->text[n - 1] == 0)
        n--;
    if (!p->is_text)
        (void)sqlite3_bind_int64(s, at, p->n);
    else if (is_end && n == KEY_BYTES) /* it may be longer than we know */
        (void)sqlite3_bind_blob(s, at, "", 0, SQLITE_STATIC);
    else
        (void)sqlite3_bind_text(s, at, (const char *)p->text, n, SQLITE_TRANSIENT);
}

static void key_bind(sqlite3_stmt *s, const struct table *t, const struct key *k, bool is_end) {
    for (int i = 0; i < t->n_key; i++)
        part_bind(s, 1 + i, &k->part[i], is_end);
}

static int part_compare(const struct part *a, const struct part *b) {
    if (a->is_text || b->is_text)
        return a->is_text != b->is_text ? a->is_text - b->is_text
                                        : memcmp(a->text, b->text, KEY_BYTES);
    return (a->n > b->n) - (a->n < b->n);
}

static int key_compare(const struct key *a, const struct key *b) {
    int first = part_compare(&a->part[0], &b->part[0]);
    return first != 0 ? first : part_compare(&a->part[1], &b->part[1]);
}

/* Half the way between two parts of one type.  False: nothing lies between. */
static bool part_middle(const struct part *a, const struct part *b, struct part *ret_m) {
    *ret_m = *a;
    if (a->is_text != b->is_text)
        return false;
    if (!a->is_text) {
        if (b->n <= a->n || (uint64_t)b->n - (uint64_t)a->n < 2)
            return false;
        ret_m->n = a->n + (int64_t)(((uint64_t)b->n - (uint64_t)a->n) / 2);
        return true;
    }
    unsigned carry = 0;
    uint16_t sum[KEY_BYTES];
    for (int i = KEY_BYTES - 1; i >= 0; i--) {
        unsigned v = (unsigned)a->text[i] + b->text[i] + carry;
        sum[i] = (uint16_t)(v & 0xff);
        carry = v >> 8;
    }
    for (int i = 0; i < KEY_BYTES; i++) {
        unsigned v = (carry << 8) | sum[i];
        ret_m->text[i] = (uint8_t)(v / 2);
        carry = v & 1;
    }
    return memcmp(ret_m->text, a->text, KEY_BYTES) > 0 &&
           memcmp(ret_m->text, b->text, KEY_BYTES) < 0;
}

static bool key_middle(const struct table *t, const struct key *a, const struct key *b,
                       struct key *ret_m) {
    memset(ret_m, 0, sizeof *ret_m);
    if (part_middle(&a->part[0], &b->part[0], &ret_m->part[0])) {
        ret_m->part[1].is_text = a->part[1].is_text; /* the smallest */
        return true;
    }
    if (t->n_key < 2)
        return false;
    struct part end = {.is_text = a->part[1].is_text, .n = INT64_MAX};
    bool same = memcmp(&a->part[0], &b->part[0], sizeof a->part[0]) == 0;
    memset(end.text, 0xff, sizeof end.text);
    return part_middle(&a->part[1], same ? &b->part[1] : &end, &ret_m->part[1]);
}

/* ---- reading a table ------------------------------------------------------------------------ */

/* False: it was there already. */
static bool keep_row(struct work *w, sqlite3_stmt *row) {
    for (int i = 0; i < w->table->n_columns; i++)
        (void)sqlite3_bind_value(w->add, i + 1, sqlite3_column_value(row, i));
    int rc = sqlite3_step(w->add);
    (void)sqlite3_reset(w->add);
    if (rc != SQLITE_DONE) {
        w->report->holes++;
        return true;
    }
    bool is_new = sqlite3_changes(w->to) > 0;
    w->report->rows += is_new;
    return is_new;
}

/* One direction: from the key (NULL: from the end of the table) on, to the other key or the end of
 * the table.  False: an error stopped it.  *ret_last: the last key that was read.  A damaged row
 * may have any key, so that one alone does not end the run; neither does a row that is known.
 */
static bool read_run(struct work *w, bool up, const struct key *from, const struct key *to,
                     struct key *ret_last, bool *ret_any) {
    sqlite3_stmt *s = w->run[up][from != NULL];
    unsigned beyond = 0, known = 0;
    struct key k;
    int rc = SQLITE_ROW;
    *ret_any = false;
    w->probes++;
    (void)sqlite3_reset(s);
    if (from != NULL)
        key_bind(s, w->table, from, !up);
    while (beyond < BEYOND_MAX && known < BEYOND_MAX && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        known = keep_row(w, s) ? 0 : known + 1;
        key_read(w->table, s, &k);
        if (!w->seen || key_compare(&k, &w->low) < 0)
            w->low = k;
        if (!w->seen || key_compare(&k, &w->high) > 0)
            w->high = k;
        w->seen = true;
        int side = to != NULL ? key_compare(&k, to) : 0;
        beyond = (up ? side > 0 : side < 0) ? beyond + 1 : 0;
        if (beyond == 0) {
            *ret_last = k;
            *ret_any = true;
        }
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_DONE || rc == SQLITE_ROW;
}

/* Between two keys; the ends themselves have been read, or cannot be. */
static void read_range(struct work *w, const struct key *from, const struct key *to,
                       unsigned fruitless) {
    struct key a = *from, b = *to, middle;
    bool any;
    uint64_t before = w->report->rows;
    if (read_run(w, true, from, to, &a, &any) || read_run(w, false, to, from, &b, &any))
        return;
    fruitless = w->report->rows > before ? 0 : fruitless + 1;
    if (fruitless > FRUITLESS_MAX || w->probes > PROBES_MAX ||
        !key_middle(w->table, &a, &b, &middle)) {
        w->report->holes++;
        return;
    }
    read_range(w, &a, &middle, fruitless);
    read_range(w, &middle, &b, fruitless);
}

/* Both ways from keys further and further away from the one that was read last. */
static void probe_from(struct work *w, const struct key *origin) {
    struct key ignored;
    bool any;
    for (int part = w->table->n_key - 1; part >= 0; part--) {
        int steps = origin->part[part].is_text ? 96 : 41;
        for (int i = 0; i < steps; i++) {
            struct key k = *origin;
            if (part == 0)
                k.part[1] = (struct part){.is_text = origin->part[1].is_text};
            if (k.part[part].is_text) {
                memset(k.part[part].text, 0, KEY_BYTES);
                k.part[part].text[0] = (uint8_t)(0x20 + i);
            } else {
                k.part[part].n += INT64_C(1) << i;
            }
            (void)read_run(w, true, &k, NULL, &ignored, &any);
            (void)read_run(w, false, &k, NULL, &ignored, &any);
        }
    }
}

/* The whole table, as one run each way if possible.  When an end of it is bad, nothing says how far
 * the keys go: then they are looked for. */
static void read_ends(struct work *w) {
    struct key first, last, origin = {.part = {{.is_text = false}}};
    bool any_up, any_down;
    w->seen = false;
    if (read_run(w, true, NULL, NULL, &last, &any_up) ||
        read_run(w, false, NULL, NULL, &first, &any_down))
        return;
    for (int i = 0; i < w->table->n_key; i++)
        origin.part[i].is_text = w->table->is_text[i];
    if (!any_up || !any_down) {
        probe_from(w, &origin);
        if (w->seen) {
            last = w->high;
            probe_from(w, &last);
        }
    }
    if (!w->seen) {
        w->report->holes++;
        return;
    }
    first = w->low;
    last = w->high;
    read_range(w, &first, &last, 0);
}

static sqlite3_stmt *prepare(sqlite3 *sql, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static sqlite3_stmt *prepare(sqlite3 *sql, const char *fmt, ...) {
    sqlite3_stmt *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    char *text = sqlite3_vmprintf(fmt, ap);
    va_end(ap);
    if (text != NULL)
        (void)sqlite3_prepare_v2(sql, text, -1, &s, NULL);
    sqlite3_free(text);
    return s;
}

static void read_table(struct work *w, const struct table *t) {
    char marks[4 * COLUMNS_MAX] = "";
    bool two = t->n_key == 2, ready = true;
    size_t n = 0;
    for (int i = 0; i < t->n_columns; i++)
        n += (size_t)snprintf(marks + n, sizeof marks - n, "%s", i == 0 ? "?" : ", ?");
    w->table = t;
    for (int up = 0; up < 2; up++) {
        for (int bound = 0; bound < 2; bound++) {
            char where[200] = "", order[200];
            const char *way = up ? "" : " DESC", *than = up ? ">=" : "<=";
            if (two)
                (void)snprintf(order, sizeof order, "%s%s, %s%s", t->key[0], way, t->key[1], way);
            else
                (void)snprintf(order, sizeof order, "%s%s", t->key[0], way);
            if (bound && two)
                (void)snprintf(where, sizeof where, "WHERE (%s, %s) %s (?1, ?2)", t->key[0],
                               t->key[1], than);
            else if (bound)
                (void)snprintf(where, sizeof where, "WHERE %s %s ?1", t->key[0], than);
            w->run[up][bound] = prepare(w->from, "SELECT %s FROM %s %s ORDER BY %s", t->columns,
                                        t->name, where, order);
            ready &= w->run[up][bound] != NULL;
        }
    }
    bool preset = strcmp(t->name, "totals") == 0 || strcmp(t->name, "meta") == 0;
    w->add = prepare(w->to, "INSERT OR %s INTO %s(%s) VALUES(%s)", preset ? "REPLACE" : "IGNORE",
                     t->name, t->columns, marks);
    if (ready && w->add != NULL)
        read_ends(w);
    else
        w->report->holes++; /* the table is not there */
    for (int i = 0; i < 4; i++)
        (void)sqlite3_finalize(w->run[i / 2][i % 2]);
    (void)sqlite3_finalize(w->add);
}

/* ---- which tables --------------------------------------------------------------------------- */

static bool has_column(sqlite3 *sql, const char *table, const char *column) {
    sqlite3_stmt *s =
        prepare(sql, "SELECT 1 FROM pragma_table_info('%s') WHERE name = '%s'", table, column);
    bool there = s != NULL && sqlite3_step(s) == SQLITE_ROW;
    (void)sqlite3_finalize(s);
    return there;
}

/* The columns that both have: the damaged file may be older. */
static bool table_describe(struct work *w, const char *name, struct table *ret_t) {
    struct table *t = ret_t;
    *t = (struct table){.n_columns = 0};
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    sqlite3_stmt *s = prepare(w->to, "SELECT name, pk, type FROM pragma_table_info('%s')", name);
    while (s != NULL && sqlite3_step(s) == SQLITE_ROW && t->n_columns < COLUMNS_MAX) {
        const char *column = (const char *)sqlite3_column_text(s, 0);
        int pk = sqlite3_column_int(s, 1);
        if (column == NULL || !has_column(w->from, name, column))
            continue;
        size_t n = strlen(t->columns);
        (void)snprintf(t->columns + n, sizeof t->columns - n, n == 0 ? "%s" : ", %s", column);
        if (pk >= 1 && pk <= KEY_COLUMNS) {
            (void)snprintf(t->key[pk - 1], sizeof t->key[0], "%s", column);
            t->key_at[pk - 1] = t->n_columns;
            t->is_text[pk - 1] = strcmp((const char *)sqlite3_column_text(s, 2), "INTEGER") != 0;
            t->n_key = pk > t->n_key ? pk : t->n_key;
        }
        t->n_columns++;
    }
    (void)sqlite3_finalize(s);
    return t->n_columns > 0 && t->n_key > 0;
}

/* Conversations whose rows are gone but whose keys an index still has: the messages need them. */
static void read_keys(struct work *w) {
    sqlite3_stmt *row =
        prepare(w->from, "SELECT id, key FROM conversations"
                         " INDEXED BY sqlite_autoindex_conversations_1 ORDER BY id");
    sqlite3_stmt *add =
        prepare(w->to, "INSERT OR IGNORE INTO conversations(id, key, creator, created_ms,"
                       " epoch) SELECT ?1, ?2, user, 0, '' FROM members"
                       " WHERE conversation = ?1 LIMIT 1");
    while (row != NULL && add != NULL && sqlite3_step(row) == SQLITE_ROW) {
        (void)sqlite3_bind_value(add, 1, sqlite3_column_value(row, 0));
        (void)sqlite3_bind_value(add, 2, sqlite3_column_value(row, 1));
        if (sqlite3_step(add) == SQLITE_DONE && sqlite3_changes(w->to) > 0)
            w->report->rows++;
        (void)sqlite3_reset(add);
    }
    (void)sqlite3_finalize(row);
    (void)sqlite3_finalize(add);
}

static int read_tables(struct work *w) {
    static struct table tables[TABLES_MAX]; /* one at a time, at the start */
    size_t n = 0;
    sqlite3_stmt *s = prepare(w->to, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name"
                                     " NOT LIKE 'sqlite%%' ORDER BY name <> 'users', rowid");
    while (s != NULL && sqlite3_step(s) == SQLITE_ROW && n < TABLES_MAX)
        n += table_describe(w, (const char *)sqlite3_column_text(s, 0), &tables[n]);
    (void)sqlite3_finalize(s);
    for (size_t i = 0; i < n; i++)
        read_table(w, &tables[i]);
    read_keys(w);
    /* Nobody is a member of nothing; counters are what is there. */
    static const char tidy[] =
        "DELETE FROM members WHERE user NOT IN (SELECT id FROM users)"
        " OR conversation NOT IN (SELECT id FROM conversations);"
        "DELETE FROM sessions WHERE user NOT IN (SELECT id FROM users);"
        "UPDATE totals SET n = (SELECT count(*) FROM users) WHERE name = 'users';"
        "UPDATE totals SET n = (SELECT count(*) FROM conversations) WHERE name = 'conversations';"
        "UPDATE totals SET n = (SELECT count(*) FROM messages) WHERE name = 'messages';";
    int rc = sqlite3_exec(w->to, tidy, NULL, NULL, NULL);
    for (size_t i = 0; i < n && rc == SQLITE_OK; i++) {
        char text[256];
        if (!has_column(w->to, tables[i].name, "change"))
            continue;
        (void)sqlite3_snprintf(sizeof text, text,
                               "UPDATE totals SET n = max(n, coalesce((SELECT max(change) FROM %s),"
                               " 0)) WHERE name = 'change'",
                               tables[i].name);
        rc = sqlite3_exec(w->to, text, NULL, NULL, NULL);
    }
    return rc;
}

/* ---- the damaged file ------------------------------------------------------------------------ */

/* As far as it can be read.  False: it cannot be written, and errno says why. */
static bool copy_file(const char *from, const char *to) {
    static char block[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return true;
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = out >= 0;
    for (ssize_t n = 1, written; ok && n > 0;) {
        n = read(in, block, sizeof block);
        written = n > 0 ? write(out, block, (size_t)n) : n;
        ok = written == n;
        if (written >= 0 && !ok)
            errno = ENOSPC; /* a part of it */
    }
    int e = errno;
    (void)close(in);
    if (out >= 0)
        (void)close(out);
    errno = e;
    return ok;
}

static sqlite3 *open_damaged(const char *path, char found[160]) {
    sqlite3 *sql = NULL;
    int rc = sqlite3_open_v2(path, &sql, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) {
        (void)sqlite3_db_config(sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)NULL);
        rc = sqlite3_exec(sql,
                          "PRAGMA query_only = ON; PRAGMA cell_size_check = ON;"
                          "PRAGMA trusted_schema = OFF; SELECT count(*) FROM users",
                          NULL, NULL, NULL);
    }
    /* Without the table of users the schema is useless; with a bad page in it, it is not. */
    if (rc == SQLITE_OK || (rc == SQLITE_CORRUPT && has_column(sql, "users", "id")))
        return sql;
    if (found != NULL)
        (void)snprintf(found, 160, "%s", sql != NULL ? sqlite3_errmsg(sql) : "out of memory");
    (void)sqlite3_close(sql);
    return NULL;
}

static uint32_t read_be(const uint8_t *p, unsigned n) {
    uint32_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

static bool copy_page(int in, int out, uint32_t number) {
    char page[4096];
    off_t at = (off_t)(number - 1) * (off_t)sizeof page;
    return number > 1 && pread(in, page, sizeof page, at) == (ssize_t)sizeof page &&
           pwrite(out, page, sizeof page, at) == (ssize_t)sizeof page;
}

/* The pages of the schema below the first one, whose B-tree header (sqlite.org/fileformat2.html
 * section 1.6) stands behind the file's: 5 is an interior page of a table. */
static bool copy_schema(int in, int out, const uint8_t *first) {
    const uint8_t *header = first + 100;
    if (header[0] != 5)
        return true;
    bool ok = copy_page(in, out, read_be(header + 8, 4));
    for (uint32_t i = 0, n = read_be(header + 3, 2); i < n && i < 256 && ok; i++) {
        uint32_t cell = read_be(header + 12 + 2 * i, 2);
        ok = cell <= 4096 - 4 && copy_page(in, out, read_be(first + cell, 4));
    }
    return ok;
}

/* A copy of the damaged file with a first page from `fresh`: its header, or all of it and the rest
 * of the schema.  *ret_e: errno when the copy cannot be written. */
static sqlite3 *open_repaired(const char *path, const char *fresh, const char *copy, size_t bytes,
                              int *ret_e) {
    uint8_t page[4096];
    char from[PATH_BYTES], to[PATH_BYTES];
    (void)snprintf(from, sizeof from, "%s-wal", path);
    (void)snprintf(to, sizeof to, "%s-wal", copy);
    if (!copy_file(path, copy) || !copy_file(from, to)) {
        *ret_e = errno;
        return NULL;
    }
    int in = open(fresh, O_RDONLY | O_CLOEXEC);
    bool ok = in >= 0 && pread(in, page, sizeof page, 0) == (ssize_t)sizeof page;
    memset(page + 24, 0, 4);  /* change counter and version-valid-for differ: */
    memset(page + 92, 1, 4);  /* the size of the file counts, not the header's */
    memset(page + 28, 0, 12); /* neither is there a list of free pages */
    int out = open(copy, O_WRONLY | O_CLOEXEC);
    ok = ok && out >= 0 && pwrite(out, page, bytes, 0) == (ssize_t)bytes;
    if (ok && bytes == sizeof page)
        ok = copy_schema(in, out, page);
    if (in >= 0)
        (void)close(in);
    if (out >= 0)
        (void)close(out);
    return ok ? open_damaged(copy, NULL) : NULL;
}

static void files_remove(const char *path) {
    static const char *const suffix[] = {"", "-wal", "-shm", "-journal"};
    char name[PATH_BYTES];
    for (size_t i = 0; i < PTN_ARRAY_LEN(suffix); i++)
        if (snprintf(name, sizeof name, "%s%s", path, suffix[i]) < (int)sizeof name)
            (void)unlink(name);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int fail(int err, const char **reterr_why, const char *path, const char *what) {
    (void)snprintf(why_text, sizeof why_text, "%.300s: cannot be rebuilt: %.150s", path, what);
    *reterr_why = why_text;
    return err;
}

static int fill(struct work *w, int64_t now_s, const char **reterr_why, const char *part) {
    int rc = sqlite3_exec(w->to,
                          "PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;"
                          "PRAGMA journal_mode = DELETE; BEGIN",
                          NULL, NULL, NULL);
    if (rc == SQLITE_OK && w->from != NULL)
        rc = read_tables(w);
    char note[200];
    (void)snprintf(note, sizeof note,
                   "DELETE FROM meta WHERE name = 'clean'; INSERT OR REPLACE INTO meta"
                   " VALUES('copied', 1), ('salvaged', %lld); COMMIT",
                   (long long)now_s);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(w->to, note, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : fail(store_err_of(rc), reterr_why, part, sqlite3_errmsg(w->to));
}

/* -PTN_EFULL promises that nothing has changed.  Of an exchange that was begun it would not be
 * true: the next start goes on with it, so nobody may write to what is there meanwhile. */
static int swapped(int err) {
    return err == 0 ? 1 : err == -PTN_EFULL ? -PTN_EIO : err;
}

static int salvage(const char *path, int64_t now_s, store_salvage *s, const char **reterr_why) {
    char part[PATH_BYTES], fresh[PATH_BYTES], copy[PATH_BYTES];
    store_db *db = NULL;
    struct work w = {.report = s};
    (void)snprintf(part, sizeof part, "%.4200s.part", path);
    (void)snprintf(fresh, sizeof fresh, "%.4200s.fresh", path);
    (void)snprintf(copy, sizeof copy, "%.4200s.repair", path);
    (void)snprintf(s->kept_as, sizeof s->kept_as, ".bad-%lld", (long long)now_s);
    files_remove(part);
    int err =
        store_db_open(part, NULL, &db, reterr_why); /* the schema; and a page to repair with */
    store_db_close(db);
    if (err != 0) {
        files_remove(part);
        return err;
    }
    w.from = open_damaged(path, NULL);
    int e = 0;
    if (w.from == NULL)
        w.from = open_repaired(path, part, copy, 100, &e);
    if (w.from == NULL && e == 0)
        w.from = open_repaired(path, part, copy, 4096, &e);
    int rc = sqlite3_open_v2(part, &w.to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (e != 0) /* half a copy would pass for all that there is */
        err =
            fail(e == ENOSPC || e == EDQUOT ? -PTN_EFULL : -PTN_EIO, reterr_why, copy, strerror(e));
    else
        err = rc == SQLITE_OK ? fill(&w, now_s, reterr_why, part)
                              : fail(store_err_of(rc), reterr_why, part, "cannot be opened");
    (void)sqlite3_close(w.from);
    (void)sqlite3_close(w.to);
    files_remove(copy);
    if (err == 0 &&
        (store_sync_file(part) < 0 || rename(part, fresh) < 0 || store_sync_directory_of(path) < 0))
        err = fail(-PTN_EIO, reterr_why, part, strerror(errno));
    if (err != 0) {
        files_remove(part);
        return err;
    }
    return swapped(store_swap(path, "bad", now_s, reterr_why));
}

/* ---- is it damaged? -------------------------------------------------------------------------- */

static bool is_damage(int rc) {
    return (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB ||
           (rc & 0xff) == SQLITE_ERROR /* a table is missing */ || rc == SQLITE_IOERR_SHORT_READ;
}

/* Steps a query to its end; a row of text that is not "ok" is a finding. */
static int look(sqlite3 *sql, const char *text, char found[160]) {
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(sql, text, -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(s);
    const char *says = rc == SQLITE_ROW && sqlite3_column_type(s, 0) == SQLITE_TEXT
                           ? (const char *)sqlite3_column_text(s, 0)
                           : NULL;
    bool finding =
        says != NULL && strncmp(text, "PRAGMA integrity_check", 22) == 0 && strcmp(says, "ok") != 0;
    if (finding)
        (void)snprintf(found, 160, "%s", says);
    else if (is_damage(rc))
        (void)snprintf(found, 160, "%s", sqlite3_errmsg(sql));
    (void)sqlite3_finalize(s);
    return finding ? SQLITE_CORRUPT : rc;
}

/* The ends of every table: cheap, whatever its size. */
static int look_at_tables(sqlite3 *sql, char found[160]) {
    /* Each by its first column, with which its key begins. */
    static const char *const tables[] = {"users",    "sessions",   "conversations", "members",
                                         "messages", "reads",      "topics",        "topic_log",
                                         "cursors",  "deliveries", "dead_letters",  "edits",
                                         "removals", "eras",       "meta",          "totals"};
    static const char *const orders[] = {"ASC", "DESC"};
    sqlite3_stmt *s = prepare(sql, "PRAGMA user_version");
    bool is_first = s != NULL && sqlite3_step(s) == SQLITE_ROW && sqlite3_column_int(s, 0) < 2;
    (void)sqlite3_finalize(s);
    size_t n = is_first ? 6 : PTN_ARRAY_LEN(tables);
    int rc = look(sql, "SELECT count(*) FROM totals", found);
    for (size_t i = 0; i < 2 * n && !is_damage(rc); i++) {
        char text[128];
        (void)snprintf(text, sizeof text, "SELECT * FROM %s ORDER BY 1 %s LIMIT 1", tables[i / 2],
                       orders[i % 2]);
        rc = look(sql, text, found);
    }
    return rc;
}

/* SQLITE_CORRUPT or the like with *found; anything else: not known to be damaged. */
static int look_at(const char *path, uint64_t check_bytes, char found[160]) {
    sqlite3 *sql = NULL;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    int rc = sqlite3_open_v2(path, &sql, flags, NULL);
    if (rc == SQLITE_OK)
        (void)sqlite3_db_config(sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)NULL);
    if (rc == SQLITE_OK)
        rc = look(sql, "PRAGMA schema_version", found);
    if (rc == SQLITE_ROW)
        rc = look(sql, "SELECT 1 FROM sqlite_schema", found);
    if (rc == SQLITE_ROW) { /* SQLITE_DONE: it is new */
        sqlite3_stmt *s = prepare(sql, "SELECT value FROM meta WHERE name = 'clean'");
        bool clean = s != NULL && sqlite3_step(s) == SQLITE_ROW && sqlite3_column_int(s, 0) != 0;
        (void)sqlite3_finalize(s);
        rc = look_at_tables(sql, found);
        struct stat st;
        bool small = stat(path, &st) == 0 && (uint64_t)st.st_size <= check_bytes;
        if (!is_damage(rc) && !clean && small)
            rc = look(sql, "PRAGMA integrity_check(1)", found);
    }
    (void)sqlite3_close(sql);
    return rc;
}

static bool requested(const char *path, char found[160]) {
    char note[PATH_BYTES];
    (void)snprintf(note, sizeof note, "%.4200s.damaged", path);
    int fd = open(note, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, found, 159);
    found[n > 0 ? n : 0] = '\0';
    (void)close(fd);
    return true;
}

void store_salvage_request(const char *path, const char *found) {
    char note[PATH_BYTES];
    (void)snprintf(note, sizeof note, "%.4200s.damaged", path);
    int fd = open(note, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    (void)!write(fd, found, strlen(found));
    (void)fsync(fd);
    (void)close(fd);
}

const char *store_salvage_note(const char *path, int64_t salvaged_s) {
    char name[PATH_BYTES];
    (void)snprintf(name, sizeof name, "%.4200s.damaged", path);
    if (access(name, F_OK) == 0)
        return "the database is damaged; a restart keeps what can be read";
    (void)snprintf(name, sizeof name, "%.4200s.bad-%lld", path, (long long)salvaged_s);
    return salvaged_s != 0 && access(name, F_OK) == 0
               ? "rebuilt from a damaged database, which is kept beside it until it is removed"
               : NULL;
}

int store_salvage_if_damaged(const char *path, int64_t now_s, uint64_t check_bytes,
                             store_salvage *ret_s, const char **reterr_why) {
    char note[PATH_BYTES];
    *ret_s = (store_salvage){.rows = 0};
    int err = store_swap_finish(path, "bad", now_s, reterr_why);
    if (err < 0)
        return swapped(err);
    if (access(path, F_OK) < 0)
        return 0;
    bool asked = requested(path, ret_s->found);
    if (!asked && !is_damage(look_at(path, check_bytes, ret_s->found)))
        return 0;
    err = salvage(path, now_s, ret_s, reterr_why);
    (void)snprintf(note, sizeof note, "%.4200s.damaged", path);
    if (err == 1)
        (void)unlink(note);
    return err;
}
