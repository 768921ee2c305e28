/* SPDX-License-Identifier: Apache-2.0
 *
 * store_salvage_test.c - databases damaged in every page: the start always ends with one that
 * works, and what could be read is in it.
 */
#include "actors/store_salvage.h"

#include "actors/store_backup.h"
#include "actors/store_testing.h"

#include <dirent.h>
#include <sqlite3.h>

#define USERS 30
#define CONVERSATIONS 5
#define MESSAGES 40 /* of each */
#define PAGE 4096u

static struct test_dir dir;
static uint8_t *whole; /* the sound file */
static size_t bytes;

static void ask(store_db *db, uint32_t type, ptn_buf *take, uint32_t expected) {
    uint32_t got;
    ptn_buf *r = store_db_execute(db, type, ptn_buf_bytes(take), &got);
    cr_assert_eq(got, expected);
    ptn_buf_unref(take);
    ptn_buf_unref(r);
}

static void populate(void) {
    store_db *db;
    char id[16], user[16], text[400];
    cr_assert_eq(store_db_open(dir.db, NULL, &db, NULL), 0);
    cr_assert_eq(store_db_begin(db), 0);
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int i = 0; i < USERS; i++) {
        (void)snprintf(user, sizeof user, "u%02d", i);
        ask(db, PTN_MSG_STORE_USER_ADD,
            packed("sssiSi", user, user, text, (int64_t)1, NULL, (int64_t)1), PTN_MSG_STORE_USER);
    }
    for (int k = 0; k < CONVERSATIONS; k++) {
        char conversation[16];
        (void)snprintf(conversation, sizeof conversation, "c%d", k);
        ask(db, PTN_MSG_STORE_CONV_ADD,
            packed("sSsis[ss]", conversation, NULL, "u00", (int64_t)1, "epoch", "u00", "u01"),
            PTN_MSG_STORE_CONV);
        for (int i = 0; i < MESSAGES; i++) {
            (void)snprintf(id, sizeof id, "m%d-%d", k, i);
            ask(db, PTN_MSG_STORE_MSG_APPEND,
                packed("sssssni", conversation, id, "u00", "text", text, (int64_t)1),
                PTN_MSG_STORE_MSG);
        }
    }
    cr_assert_eq(store_db_commit(db), 0);
    store_db_close(db);
}

static void setup(void) {
    test_dir_open(&dir);
    populate();
    FILE *f = fopen(dir.db, "rb");
    cr_assert_not_null(f);
    struct stat st;
    cr_assert_eq(fstat(fileno(f), &st), 0);
    bytes = (size_t)st.st_size;
    whole = malloc(bytes);
    cr_assert_not_null(whole);
    cr_assert_eq(fread(whole, 1, bytes, f), bytes);
    (void)fclose(f);
}

static void empty_dir(void) {
    DIR *d = opendir(dir.path);
    cr_assert_not_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            test_dir_remove_file(&dir, e->d_name);
    (void)closedir(d);
}

static void teardown(void) {
    empty_dir();
    (void)rmdir(dir.path);
    free(whole);
}

TestSuite(store_salvage, .init = setup, .fini = teardown, .timeout = 300);

static void put_file(const uint8_t *b, size_t n) {
    empty_dir();
    FILE *f = fopen(dir.db, "wb");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(b, 1, n, f), n);
    (void)fclose(f);
}

struct state {
    int64_t users, conversations, messages;
    bool same_epoch;
};

/* The start of a broker: it opens, whatever was there, and nothing is wrong with what it opens. */
static struct state start(int expected, store_salvage *ret_s) {
    const char *why = "";
    struct state st = {.same_epoch = false};
    store_db *db;
    uint32_t type;
    int err = store_salvage_if_damaged(dir.db, 1, 64u << 20, ret_s, &why);
    cr_assert(expected < 0 ? err >= 0 : err == expected, "%d: %s", err, why);
    cr_assert_eq(store_db_open(dir.db, NULL, &db, &why), 0, "%s", why);
    cr_assert_eq(store_db_claim(db), 0);
    static const uint8_t nil = 0xc0;
    ptn_buf *r = store_db_execute(db, PTN_MSG_STORE_STATS, (ptn_bytes){&nil, 1}, &type);
    cr_assert_eq(type, PTN_MSG_STORE_STATS_REPLY);
    st.users = int_of(element(ptn_buf_bytes(r), 0));
    st.conversations = int_of(element(ptn_buf_bytes(r), 1));
    st.messages = int_of(element(ptn_buf_bytes(r), 2));
    ptn_buf_unref(r);
    ptn_buf *q = packed("s", "c1");
    r = store_db_execute(db, PTN_MSG_STORE_CONV_GET, ptn_buf_bytes(q), &type);
    st.same_epoch = type == PTN_MSG_STORE_CONV && str_is(element(ptn_buf_bytes(r), 4), "epoch");
    ptn_buf_unref(q);
    ptn_buf_unref(r);
    store_db_close(db);
    return st;
}

Test(store_salvage, a_sound_database_is_left_alone) {
    store_salvage s;
    struct state st = start(0, &s);
    cr_expect(st.same_epoch);
    cr_expect_eq(st.messages, CONVERSATIONS * MESSAGES);
    empty_dir();
    (void)start(0, &s); /* nor a new one */
}

enum damage { ZEROS, FLIPS, GARBAGE };

static void damage(uint8_t *page, enum damage kind, unsigned seed) {
    srand(seed);
    for (unsigned i = 0; i < PAGE && kind != FLIPS; i++)
        page[i] = kind == ZEROS ? 0 : (uint8_t)rand();
    for (unsigned i = 0; i < 12 && kind == FLIPS; i++)
        page[(unsigned)rand() % (i < 6 ? 120 : PAGE)] ^= (uint8_t)(1u << (rand() & 7));
}

/* One page of any table or index, in each of the ways. */
Test(store_salvage, a_bad_page_costs_what_stood_in_it) {
    uint8_t *bad = malloc(bytes);
    unsigned salvaged = 0, much = 0;
    cr_assert_not_null(bad);
    for (size_t page = 0; page < bytes / PAGE; page++) {
        for (unsigned kind = ZEROS; kind <= (page % 4 == 0 ? GARBAGE : FLIPS); kind++) {
            store_salvage s;
            memcpy(bad, whole, bytes);
            damage(bad + page * PAGE, kind, (unsigned)page * 3 + kind);
            put_file(bad, bytes);
            struct state st = start(-1, &s);
            salvaged += s.found[0] != '\0';
            cr_expect(st.same_epoch == (s.found[0] == '\0') || st.conversations < CONVERSATIONS);
            if (s.found[0] != '\0') {
                char kept[160];
                (void)snprintf(kept, sizeof kept, "%s%s", dir.db, s.kept_as);
                cr_expect_eq(access(kept, F_OK), 0);
                cr_expect_eq(store_check(dir.db, NULL, NULL, &(const char *){NULL}), 0);
            }
            int64_t lost = CONVERSATIONS * MESSAGES - st.messages;
            cr_expect_geq(lost, 0);
            if (lost > 100 || st.users < USERS - 10 || st.conversations < CONVERSATIONS)
                much++;
        }
    }
    free(bad);
    cr_expect_gt(salvaged, bytes / PAGE, "%u", salvaged);
    cr_expect_leq(much, 5, "%u: only the roots of users and messages hide that much", much);
}

Test(store_salvage, a_file_of_any_length_is_started_from) {
    store_salvage s;
    for (size_t n = 0; n < bytes; n += n < 600 ? 97 : 3 * PAGE + 1111) {
        put_file(whole, n);
        (void)start(-1, &s);
    }
    put_file(whole, bytes - 5 * PAGE);
    struct state st = start(1, &s);
    cr_expect_eq(st.users, USERS);
    cr_expect_gt(st.messages, CONVERSATIONS * MESSAGES / 2);
    uint8_t *noise = malloc(bytes);
    cr_assert_not_null(noise);
    for (size_t i = 0; i < bytes; i++)
        noise[i] = (uint8_t)(i * 2654435761u >> 13);
    put_file(noise, bytes);
    st = start(1, &s);
    cr_expect_eq(st.users, 0);
    free(noise);
}

Test(store_salvage, several_bad_pages_hide_only_themselves) {
    store_salvage s;
    uint8_t *bad = malloc(bytes);
    cr_assert_not_null(bad);
    memcpy(bad, whole, bytes);
    size_t pages = bytes / PAGE;
    for (size_t i = pages / 3; i < pages; i += 7)
        memset(bad + i * PAGE, 0, PAGE);
    put_file(bad, bytes);
    struct state st = start(1, &s);
    cr_expect_geq(st.users, USERS - 10); /* at most one of their pages */
    cr_expect_gt(st.messages, CONVERSATIONS * MESSAGES / 2, "%d of %d", (int)st.messages,
                 CONVERSATIONS * MESSAGES);
    cr_expect_gt(s.holes, 0);
    free(bad);
}

Test(store_salvage, what_was_found_while_running_is_seen_to_by_the_next_start) {
    store_salvage s;
    store_salvage_request(dir.db, "a page is malformed");
    struct state st = start(1, &s);
    cr_expect_str_eq(s.found, "a page is malformed");
    cr_expect_eq(s.holes, 0);
    cr_expect_eq(st.messages, CONVERSATIONS * MESSAGES);
    cr_expect(!st.same_epoch);
    st = start(0, &s);
    cr_expect_eq(st.users, USERS);
}

/* The page with the last row of a table (sqlite.org/dbstat.html). */
static long last_page(const char *table) {
    sqlite3 *sql;
    sqlite3_stmt *s;
    cr_assert_eq(sqlite3_open(dir.db, &sql), SQLITE_OK);
    cr_assert_eq(
        sqlite3_prepare_v2(sql,
                           "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf'"
                           " ORDER BY path DESC LIMIT 1",
                           -1, &s, NULL),
        SQLITE_OK, "%s", sqlite3_errmsg(sql));
    (void)sqlite3_bind_text(s, 1, table, -1, SQLITE_STATIC);
    cr_assert_eq(sqlite3_step(s), SQLITE_ROW, "%s", table);
    long page = (long)sqlite3_column_int64(s, 0);
    (void)sqlite3_finalize(s);
    (void)sqlite3_close(sql);
    return page;
}

Test(store_salvage, a_bad_end_of_any_table_is_seen_after_an_orderly_end) {
    static const char *const tables[] = {"users",    "sessions",   "conversations", "members",
                                         "messages", "reads",      "topics",        "topic_log",
                                         "cursors",  "deliveries", "dead_letters",  "edits",
                                         "removals", "eras",       "meta",          "totals"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(tables); i++) {
        store_salvage s;
        const char *why = "";
        put_file(whole, bytes);
        cr_assert_eq(store_salvage_if_damaged(dir.db, 1, 0, &s, &why), 0, "sound: %s", why);
        FILE *f = fopen(dir.db, "r+b");
        cr_assert_not_null(f);
        cr_assert_eq(fseek(f, (last_page(tables[i]) - 1) * (long)PAGE, SEEK_SET), 0);
        for (unsigned k = 0; k < PAGE; k++)
            (void)fputc((int)(k * 131 + 7) & 0xff, f);
        (void)fclose(f);
        cr_expect_eq(store_salvage_if_damaged(dir.db, 1, 0, &s, &why), 1, "%s: %s", tables[i], why);
    }
}
