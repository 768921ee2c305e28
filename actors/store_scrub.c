/* SPDX-License-Identifier: Apache-2.0
 *
 * store_scrub.c - the rows of each table and the entries of each index, in the order of their keys.
 *
 * Each slice asks for what comes behind the last key.  So every page below a root is read that can
 * be reached, and SQLite says which of them make no sense to it.  What it takes on trust is looked
 * at here: keys ascend, values have the types of their columns, and each row has its entry in each
 * index.  That an index has no entry too many is not looked at: nobody is told something wrong by
 * one.
 *
 * All of it comes from the schema, so a new table needs nothing here.  Keys have no NULL in our
 * schema (indexes of columns that may be NULL are partial); a comparison with one would end the
 * tree.
 */
#include "actors/store_scrub.h"

#include "actors/store_db_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define TREES_MAX 128
#define KEY_MAX 6
#define COLUMNS_MAX 48
#define INDEXES_MAX 8
#define SQL_BYTES 4096
#define ROWS_MAX 512 /* in a slice */
#define CACHE_KIB 1024

struct tree {
    int64_t root;
    char name[64], table[64];
    bool is_index;
};

struct store_scrub {
    sqlite3 *sql;
    struct tree tree[TREES_MAX]; /* by their roots */
    bool begun;
    int n_trees, at;
    store_scrub_place from; /* until the first row of the first tree */

    /* The tree that it is in. */
    bool prepared;
    char head[SQL_BYTES], condition[512], names[KEY_MAX][64];
    int n_key, n_indexes, n_columns; /* of the rows: first the key, then one look at each index,
                                        then the columns of the table */
    bool is_text[KEY_MAX];
    char index[INDEXES_MAX][64];
    struct column {
        char type; /* of its rows: I, T, B or R; 0: any */
        bool not_null;
    } column[COLUMNS_MAX];
    sqlite3_value *last[KEY_MAX]; /* key of the last row; [0] NULL: none yet */
};

/* ---- texts of SQL ------------------------------------------------------------------------- */

struct text {
    char *p;
    size_t n, bytes;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    if (t->n < t->bytes) {
        int n = vsnprintf(t->p + t->n, t->bytes - t->n, fmt, ap);
        t->n += n > 0 ? (size_t)n : 0; /* past the end: it does not fit */
    }
    va_end(ap);
}

/* A question to the schema. */
static int lookup(store_scrub *k, const char *sql, const char *name, const char *column,
                  sqlite3_stmt **ret_s) {
    int rc = sqlite3_prepare_v2(k->sql, sql, -1, ret_s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(*ret_s, 1, name, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK && column != NULL)
        rc = sqlite3_bind_text(*ret_s, 2, column, -1, SQLITE_STATIC);
    return rc;
}

static const char *text_of(sqlite3_stmt *s, int at) {
    const char *p = (const char *)sqlite3_column_text(s, at);
    return p != NULL ? p : "";
}

/* What an index is limited to, as its CREATE says; NULL: nothing. */
static const char *condition_of(const char *sql) {
    const char *where = strstr(sql, " WHERE ");
    return where != NULL ? where + 7 : NULL;
}

/* The columns of the index and (all) those of its table's key, each once.  Negative: an error. */
static int index_columns(store_scrub *k, const char *index, bool all, char names[KEY_MAX][64]) {
    sqlite3_stmt *s = NULL;
    int n = 0;
    int rc = lookup(k,
                    "SELECT coalesce(name, 'rowid') FROM pragma_index_xinfo(?1)"
                    " WHERE \"key\" = 1 OR ?2 = 'all'",
                    index, all ? "all" : "", &s);
    while (rc == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW && n < KEY_MAX)
        (void)snprintf(names[n++], 64, "%s", text_of(s, 0));
    (void)sqlite3_finalize(s);
    return rc == SQLITE_OK ? n : -1;
}

/* "1" when the row has its entry in the index. */
static void add_look(struct text *t, const char *table, const char *index, const char *condition,
                     char names[KEY_MAX][64], int n) {
    if (condition != NULL)
        add(t, ", CASE WHEN %s THEN ", condition);
    else
        add(t, ", ");
    add(t, "EXISTS(SELECT 1 FROM \"%s\" AS x INDEXED BY \"%s\" WHERE ", table, index);
    for (int i = 0; i < n; i++)
        add(t, "%sx.%s IS t.%s", i > 0 ? " AND " : "", names[i], names[i]);
    if (condition != NULL)
        add(t, " AND %s) ELSE 1 END", condition);
    else
        add(t, ")");
}

static int add_looks(store_scrub *k, const struct tree *t, struct text *out) {
    sqlite3_stmt *s = NULL;
    int rc = lookup(k,
                    "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'index'"
                    " AND tbl_name = ?1 ORDER BY rootpage",
                    t->name, NULL, &s);
    while (rc == SQLITE_OK && k->n_indexes < INDEXES_MAX && sqlite3_step(s) == SQLITE_ROW) {
        char names[KEY_MAX][64];
        char *index = k->index[k->n_indexes];
        (void)snprintf(index, sizeof k->index[0], "%s", text_of(s, 0));
        int n = index_columns(k, index, true, names);
        if (n < 0)
            rc = SQLITE_NOMEM;
        add_look(out, t->name, index, condition_of(text_of(s, 1)), names, n);
        k->n_indexes++;
    }
    (void)sqlite3_finalize(s);
    return rc;
}

/* The key of the table, in its order, and its columns. */
static int table_columns(store_scrub *k, const struct tree *t) {
    sqlite3_stmt *s = NULL;
    int rc = lookup(k, "SELECT name, pk, type, \"notnull\" FROM pragma_table_info(?1)", t->name,
                    NULL, &s);
    while (rc == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW && k->n_columns < COLUMNS_MAX) {
        int pk = sqlite3_column_int(s, 1);
        if (pk > 0 && pk <= KEY_MAX) {
            (void)snprintf(k->names[pk - 1], 64, "%s", text_of(s, 0));
            k->n_key = pk > k->n_key ? pk : k->n_key;
        }
        k->column[k->n_columns++] =
            (struct column){.type = text_of(s, 2)[0], .not_null = sqlite3_column_int(s, 3) != 0};
    }
    (void)sqlite3_finalize(s);
    if (k->n_key == 0) { /* a table of SQLite's own */
        (void)snprintf(k->names[0], sizeof k->names[0], "rowid");
        k->n_key = 1;
    }
    return rc;
}

static int read_condition(store_scrub *k, const char *index) {
    sqlite3_stmt *s = NULL;
    int rc =
        lookup(k, "SELECT coalesce(sql, '') FROM sqlite_schema WHERE name = ?1", index, NULL, &s);
    const char *condition =
        rc == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW ? condition_of(text_of(s, 0)) : NULL;
    if (condition != NULL)
        (void)snprintf(k->condition, sizeof k->condition, "%s", condition);
    (void)sqlite3_finalize(s);
    return rc;
}

static int read_types(store_scrub *k, const char *table) {
    int rc = SQLITE_OK;
    for (int i = 0; i < k->n_key && rc == SQLITE_OK; i++) {
        sqlite3_stmt *s = NULL;
        rc = lookup(k, "SELECT type FROM pragma_table_info(?1) WHERE name = ?2", table, k->names[i],
                    &s);
        k->is_text[i] =
            rc == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW && strcmp(text_of(s, 0), "TEXT") == 0;
        (void)sqlite3_finalize(s);
    }
    return rc;
}

static void add_key(struct text *t, store_scrub *k, int n) {
    for (int i = 0; i < n; i++)
        add(t, "%st.%s", i > 0 ? ", " : "", k->names[i]);
}

/* What there is to ask in the tree that it has come to. */
static int enter(store_scrub *k) {
    const struct tree *t = &k->tree[k->at];
    struct text head = {k->head, 0, sizeof k->head};
    int rc = SQLITE_OK;
    k->n_key = k->n_indexes = k->n_columns = 0;
    k->condition[0] = '\0';
    add(&head, "SELECT ");
    if (t->is_index) {
        /* That of a UNIQUE is in order without the table's key, and needs the table for it. */
        bool is_unique = strncmp(t->name, "sqlite_autoindex", 16) == 0;
        if ((k->n_key = index_columns(k, t->name, !is_unique, k->names)) < 0)
            return SQLITE_NOMEM;
        rc = read_condition(k, t->name);
        add_key(&head, k, k->n_key);
        add(&head, " FROM \"%s\" AS t INDEXED BY \"%s\"", t->table, t->name);
    } else {
        rc = table_columns(k, t);
        add_key(&head, k, k->n_key);
        if (rc == SQLITE_OK)
            rc = add_looks(k, t, &head);
        add(&head, ", t.* FROM \"%s\" AS t", t->name);
    }
    if (rc == SQLITE_OK)
        rc = read_types(k, t->table);
    if (rc == SQLITE_OK && head.n >= head.bytes)
        rc = SQLITE_TOOBIG;
    k->prepared = rc == SQLITE_OK;
    return rc;
}

/* Its rows from there on; n: how much of the key is bound. */
static int ask(store_scrub *k, const char *than, int n, sqlite3_stmt **ret_s) {
    char sql[SQL_BYTES + 1536];
    struct text t = {sql, 0, sizeof sql};
    add(&t, "%s", k->head);
    if (n > 0) {
        add(&t, " WHERE (");
        add_key(&t, k, n);
        add(&t, ") %s (", than);
        for (int i = 0; i < n; i++)
            add(&t, "%s?%d", i > 0 ? ", " : "", i + 1);
        add(&t, ")");
    }
    if (k->condition[0] != '\0')
        add(&t, " %s %s", n > 0 ? "AND" : "WHERE", k->condition);
    add(&t, " ORDER BY ");
    add_key(&t, k, k->n_key);
    return t.n < t.bytes ? sqlite3_prepare_v2(k->sql, sql, -1, ret_s, NULL) : SQLITE_TOOBIG;
}

/* ---- keys --------------------------------------------------------------------------------- */

/* As an index has them: NULL, numbers, texts, blobs. */
static int rank(int type) {
    return type == SQLITE_NULL ? 0 : type == SQLITE_TEXT ? 2 : type == SQLITE_BLOB ? 3 : 1;
}

static int value_compare(sqlite3_stmt *s, int at, sqlite3_value *last) {
    int type = rank(sqlite3_column_type(s, at)), other = rank(sqlite3_value_type(last));
    if (type != other || type == 0)
        return type - other;
    if (type == 1) {
        int64_t x = sqlite3_column_int64(s, at), y = sqlite3_value_int64(last);
        return (x > y) - (x < y);
    }
    const void *p = sqlite3_column_blob(s, at), *q = sqlite3_value_blob(last);
    int n = sqlite3_column_bytes(s, at), m = sqlite3_value_bytes(last), least = n < m ? n : m;
    int c = least > 0 ? memcmp(p, q, (size_t)least) : 0;
    return c != 0 ? c : (n > m) - (n < m);
}

static void last_forget(store_scrub *k) {
    for (int i = 0; i < KEY_MAX; i++) {
        sqlite3_value_free(k->last[i]);
        k->last[i] = NULL;
    }
}

static bool is_behind_last(const store_scrub *k, sqlite3_stmt *s) {
    int c = 0;
    for (int i = 0; i < k->n_key && c == 0; i++)
        c = value_compare(s, i, k->last[i]);
    return c > 0;
}

static bool key_keep(store_scrub *k, sqlite3_stmt *s) {
    bool ok = true;
    last_forget(k);
    for (int i = 0; i < k->n_key; i++)
        ok &= (k->last[i] = sqlite3_value_dup(sqlite3_column_value(s, i))) != NULL;
    if (!ok)
        last_forget(k);
    return ok;
}

static int64_t word_of(const uint8_t *p, int n) {
    uint64_t w = 0;
    for (int i = 0; i < 8; i++)
        w = w << 8 | (i < n ? p[i] : 0);
    return (int64_t)w;
}

store_scrub_place store_scrub_at(const store_scrub *k) {
    store_scrub_place place = {0};
    if (!k->begun || (k->last[0] == NULL && k->from.tree != 0))
        return k->from;
    if (k->at < k->n_trees)
        place.tree = k->tree[k->at].root;
    if (k->last[0] == NULL)
        return place;
    if (sqlite3_value_type(k->last[0]) == SQLITE_INTEGER) {
        place.key[0] = sqlite3_value_int64(k->last[0]);
        if (k->n_key > 1 && sqlite3_value_type(k->last[1]) == SQLITE_INTEGER)
            place.key[1] = sqlite3_value_int64(k->last[1]);
        return place;
    }
    const uint8_t *p = sqlite3_value_blob(k->last[0]);
    int n = p != NULL ? sqlite3_value_bytes(k->last[0]) : 0;
    place.key[0] = word_of(p, n);
    if (n > 8)
        place.key[1] = word_of(p + 8, n - 8);
    return place;
}

/* The smallest key that the place can stand for. */
static int ask_from_place(store_scrub *k, sqlite3_stmt **ret_s) {
    int n = !k->is_text[0] && k->n_key > 1 && !k->is_text[1] ? 2 : 1;
    int rc = ask(k, ">=", n, ret_s);
    for (int i = 0; i < n && rc == SQLITE_OK && !k->is_text[0]; i++)
        rc = sqlite3_bind_int64(*ret_s, i + 1, k->from.key[i]);
    if (rc != SQLITE_OK || !k->is_text[0])
        return rc;
    char text[16];
    int bytes = sizeof text;
    for (int i = 0; i < bytes; i++)
        text[i] = (char)(uint8_t)((uint64_t)k->from.key[i / 8] >> (56 - 8 * (i % 8)));
    while (bytes > 0 && text[bytes - 1] == 0)
        bytes--;
    return sqlite3_bind_text(*ret_s, 1, text, bytes, SQLITE_TRANSIENT);
}

/* ---- slices ------------------------------------------------------------------------------- */

static bool is_damage(int rc) {
    return (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB;
}

static int fail(store_scrub *k, int rc, char found[160]) {
    if (!is_damage(rc))
        return store_err_of(rc) != 0 ? store_err_of(rc) : -PTN_EIO;
    (void)snprintf(found, 160, "%s: %s", k->begun ? k->tree[k->at].name : "schema",
                   sqlite3_errmsg(k->sql));
    return -PTN_EPROTO;
}

/* 0, or -PTN_EPROTO. */
static int look_at_row(const store_scrub *k, sqlite3_stmt *s, char found[160]) {
    const struct tree *t = &k->tree[k->at];
    for (int i = 0; i < k->n_indexes; i++)
        if (sqlite3_column_int(s, k->n_key + i) == 0) {
            (void)snprintf(found, 160, "%s: a row is missing from %s", t->name, k->index[i]);
            return -PTN_EPROTO;
        }
    for (int i = 0; i < k->n_columns; i++) {
        int type = sqlite3_column_type(s, k->n_key + k->n_indexes + i);
        char want = k->column[i].type;
        bool fits = want == '\0'             ? true
                    : type == SQLITE_NULL    ? !k->column[i].not_null
                    : type == SQLITE_INTEGER ? want == 'I'
                    : type == SQLITE_TEXT    ? want == 'T'
                    : type == SQLITE_BLOB    ? want == 'B'
                                             : want == 'R';
        if (!fits) {
            (void)snprintf(found, 160, "%s: a value of the wrong type", t->name);
            return -PTN_EPROTO;
        }
    }
    return 0;
}

static uint32_t pages_read(store_scrub *k) {
    int now = 0, high = 0;
    (void)sqlite3_db_status(k->sql, SQLITE_DBSTATUS_CACHE_MISS, &now, &high, 1);
    return now > 0 ? (uint32_t)now : 0;
}

/* Some rows of the tree.  1: there are more; 0: it is at its end; or an error. */
static int read_rows(store_scrub *k, sqlite3_stmt *s, uint32_t max_pages, uint32_t *pages,
                     char found[160]) {
    int rc = SQLITE_ROW, err = 0;
    uint32_t end = *pages + max_pages; /* the schema, read anew by a new handle, is no row */
    for (int n = 0; n < ROWS_MAX && *pages < end; n++) {
        rc = sqlite3_step(s);
        *pages += pages_read(k);
        if (rc != SQLITE_ROW)
            break;
        if (k->last[0] != NULL && !is_behind_last(k, s)) {
            (void)snprintf(found, 160, "%s: keys are out of order", k->tree[k->at].name);
            return -PTN_EPROTO;
        }
        if ((err = look_at_row(k, s, found)) != 0)
            return err;
        if (!key_keep(k, s))
            return -PTN_ENOMEM;
    }
    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : fail(k, rc, found);
}

static int open_rows(store_scrub *k, sqlite3_stmt **ret_s) {
    int rc = k->prepared ? SQLITE_OK : enter(k);
    *ret_s = NULL;
    if (rc != SQLITE_OK)
        return rc;
    if (k->last[0] == NULL)
        return k->from.tree == k->tree[k->at].root ? ask_from_place(k, ret_s)
                                                   : ask(k, "", 0, ret_s);
    rc = ask(k, ">", k->n_key, ret_s);
    for (int i = 0; i < k->n_key && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_value(*ret_s, i + 1, k->last[i]);
    return rc;
}

static int read_trees(store_scrub *k) {
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(
        k->sql,
        "SELECT rootpage, name, tbl_name, type = 'index' FROM sqlite_schema WHERE"
        " rootpage > 0 ORDER BY rootpage",
        -1, &s, NULL);
    while (rc == SQLITE_OK && k->n_trees < TREES_MAX && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct tree *t = &k->tree[k->n_trees++];
        t->root = sqlite3_column_int64(s, 0);
        (void)snprintf(t->name, sizeof t->name, "%s", text_of(s, 1));
        (void)snprintf(t->table, sizeof t->table, "%s", text_of(s, 2));
        t->is_index = sqlite3_column_int(s, 3) != 0;
        rc = SQLITE_OK;
    }
    (void)sqlite3_finalize(s);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* The first slice: a bad schema is damage like any other. */
static int begin(store_scrub *k) {
    char pragmas[160];
    (void)snprintf(pragmas, sizeof pragmas,
                   "PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF;"
                   "PRAGMA mmap_size = 0; PRAGMA cache_size = -%d",
                   CACHE_KIB);
    k->n_trees = k->at = 0;
    int rc = sqlite3_exec(k->sql, pragmas, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = read_trees(k);
    if (rc != SQLITE_OK)
        return rc;
    while (k->at < k->n_trees && k->tree[k->at].root < k->from.tree)
        k->at++;
    if (k->at == k->n_trees || k->tree[k->at].root != k->from.tree)
        k->from = (store_scrub_place){0}; /* that tree is gone */
    k->begun = true;
    return SQLITE_OK;
}

int store_scrub_slice(store_scrub *k, uint32_t max_pages, uint32_t *ret_pages, char found[160]) {
    sqlite3_stmt *s = NULL;
    *ret_pages = 0;
    int rc = k->begun ? SQLITE_OK : begin(k);
    if (rc == SQLITE_OK && k->at >= k->n_trees)
        return 0;
    if (rc == SQLITE_OK)
        rc = open_rows(k, &s);
    *ret_pages = pages_read(k);
    int more = rc != SQLITE_OK ? fail(k, rc, found) : read_rows(k, s, max_pages, ret_pages, found);
    (void)sqlite3_finalize(s);
    *ret_pages += pages_read(k);
    if (more != 0)
        return more;
    last_forget(k);
    k->prepared = false;
    k->from = (store_scrub_place){0};
    return ++k->at < k->n_trees;
}

/* ---- open and close ----------------------------------------------------------------------- */

int store_scrub_open(const char *path, const char *vfs, const store_scrub_place *from,
                     store_scrub **ret_scrub) {
    store_scrub *k = calloc(1, sizeof *k);
    if (k == NULL)
        return -PTN_ENOMEM;
    k->from = *from;
    int rc = sqlite3_open_v2(
        path, &k->sql, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, vfs);
    if (rc != SQLITE_OK) {
        store_scrub_close(k);
        return store_err_of(rc);
    }
    *ret_scrub = k;
    return 0;
}

void store_scrub_close(store_scrub *k) {
    if (k == NULL)
        return;
    last_forget(k);
    (void)sqlite3_close(k->sql);
    free(k);
}
