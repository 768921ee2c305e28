/* SPDX-License-Identifier: Apache-2.0
 *
 * store_scrub_test.c - the search for damage: it ends with nothing on sound databases, whatever is
 * written meanwhile, goes on where it was, and finds pages, keys and values that are not what they
 * were.
 */
#include "actors/store_scrub.h"

#include "actors/store_testing.h"

#include <sqlite3.h>

#define CONVERSATIONS 4
#define MESSAGES 150 /* of each */
#define PAGE 4096

static struct test_dir dir;
static store_db *db;

static void run(uint32_t type, ptn_buf *payload) {
    uint32_t got;
    ptn_buf *r = store_db_execute(db, type, ptn_buf_bytes(payload), &got);
    bool ok = r != NULL && got != PTN_MSG_PROBLEM;
    ptn_buf_unref(r);
    ptn_buf_unref(payload);
    cr_assert(ok, "%s", ptn_msg_type_name(type));
}

static void append(int conversation, int i) {
    char id[24], c[8], text[400];
    (void)snprintf(c, sizeof c, "c%d", conversation);
    (void)snprintf(id, sizeof id, "m%d-%d", i * 7919 % 100003, conversation); /* in no order */
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    run(PTN_MSG_STORE_MSG_APPEND,
        packed("sssssni", c, id, "alice", "text", text, (int64_t)(1000 + i)));
}

static void setup(void) {
    test_dir_open(&dir);
    cr_assert_eq(store_db_open(dir.db, NULL, &db, NULL), 0);
    cr_assert_eq(store_db_begin(db), 0);
    run(PTN_MSG_STORE_USER_ADD,
        packed("sssiSi", "alice", "alice", "hash", (int64_t)1, "home", (int64_t)1));
    run(PTN_MSG_STORE_USER_ADD,
        packed("sssiSi", "bob", "bob", "hash", (int64_t)1, NULL, (int64_t)1));
    for (int k = 0; k < CONVERSATIONS; k++) {
        char c[8];
        (void)snprintf(c, sizeof c, "c%d", k);
        run(PTN_MSG_STORE_CONV_ADD,
            packed("sSsis[ss]", c, NULL, "alice", (int64_t)1, "epoch", "alice", "bob"));
        for (int i = 0; i < MESSAGES; i++)
            append(k, i);
    }
    cr_assert_eq(store_db_commit(db), 0);
}

static void teardown(void) {
    store_db_close(db);
    test_dir_remove_file(&dir, "postern.db.damaged");
    test_dir_close(&dir);
}

TestSuite(store_scrub, .init = setup, .fini = teardown, .timeout = 120);

static store_scrub *scrub_from(store_scrub_place from) {
    store_scrub *k;
    cr_assert_eq(store_scrub_open(dir.db, NULL, &from, &k), 0);
    return k;
}

/* The whole, in slices of so many pages. */
static int scrub_all(uint32_t max_pages, unsigned *ret_slices, char found[160]) {
    store_scrub *k = scrub_from((store_scrub_place){0});
    uint32_t pages;
    int more;
    *ret_slices = 0;
    do {
        more = store_scrub_slice(k, max_pages, &pages, found);
        ++*ret_slices;
    } while (more == 1 && *ret_slices < 100000);
    store_scrub_close(k);
    return more;
}

Test(store_scrub, a_sound_database_is_sound_in_slices_of_any_size) {
    static const uint32_t sizes[] = {1, 3, 64, 100000};
    char found[160] = "";
    unsigned slices, before = 100000;
    for (size_t i = 0; i < PTN_ARRAY_LEN(sizes); i++) {
        cr_expect_eq(scrub_all(sizes[i], &slices, found), 0, "%s", found);
        cr_expect_lt(slices, before);
        before = sizes[i] < 64 ? slices : before;
    }
}

Test(store_scrub, a_slice_reads_little_and_all_of_them_read_the_file) {
    store_scrub *k = scrub_from((store_scrub_place){0});
    char found[160];
    uint32_t pages, all = 0;
    struct stat st;
    int more;
    cr_assert_eq(store_db_checkpoint(db), 0);
    do {
        more = store_scrub_slice(k, 8, &pages, found);
        cr_expect_leq(pages, 8 + 16, "and the way down to the first row");
        all += pages;
    } while (more == 1);
    cr_expect_eq(more, 0);
    cr_assert_eq(stat(dir.db, &st), 0);
    cr_expect_geq(all, (uint32_t)(st.st_size / PAGE) * 8 / 10);
    store_scrub_close(k);
}

Test(store_scrub, what_is_written_meanwhile_is_no_damage) {
    store_scrub *k = scrub_from((store_scrub_place){0});
    char found[160] = "";
    uint32_t pages;
    int more = 1;
    for (int i = 0; more == 1; i++) {
        more = store_scrub_slice(k, 2, &pages, found);
        if (i < 400)
            append(i % CONVERSATIONS, MESSAGES + i);
        if (i == 20)
            run(PTN_MSG_STORE_MEMBERS_REMOVE, packed("s[s]", "c1", "bob"));
        if (i % 50 == 0)
            cr_assert_eq(store_db_checkpoint(db), 0);
    }
    cr_expect_eq(more, 0, "%s", found);
    store_scrub_close(k);
}

/* A new handle for each slice, as after a restart: each row is read, few of them twice. */
Test(store_scrub, it_goes_on_where_it_was) {
    store_scrub_place at = {0};
    char found[160] = "";
    uint32_t pages;
    unsigned slices, opens = 0;
    int more = 1;
    while (more == 1 && opens++ < 10000) {
        store_scrub *k = scrub_from(at);
        more = store_scrub_slice(k, 16, &pages, found);
        store_scrub_place next = store_scrub_at(k);
        cr_assert(more != 1 || memcmp(&next, &at, sizeof at) != 0, "it moves on");
        at = next;
        store_scrub_close(k);
    }
    cr_expect_eq(more, 0, "%s", found);
    cr_assert_eq(scrub_all(16, &slices, found), 0);
    cr_expect_leq(opens, 5 * slices, "%u instead of %u, which have a cache", opens, slices);
    cr_expect_eq(at.tree, 0);
}

/* ---- damage ------------------------------------------------------------------------------- */

/* Everything in the file itself. */
static void settle(void) {
    store_db_close(db);
    db = NULL;
    cr_assert_eq(store_db_open(dir.db, NULL, &db, NULL), 0);
    cr_assert_eq(store_db_checkpoint(db), 0);
}

static void write_at(long at, const void *p, size_t n) {
    FILE *f = fopen(dir.db, "r+b");
    cr_assert_not_null(f);
    bool ok = fseek(f, at, SEEK_SET) == 0 && fwrite(p, 1, n, f) == n;
    cr_assert(fclose(f) == 0 && ok);
}

/* Where the bytes are in the file, from there on; -1: nowhere. */
static long find(const void *p, size_t n, long from) {
    static uint8_t content[4 << 20];
    FILE *f = fopen(dir.db, "rb");
    cr_assert_not_null(f);
    size_t bytes = fread(content, 1, sizeof content, f);
    cr_assert_eq(fclose(f), 0);
    const uint8_t *at =
        (size_t)from < bytes ? memmem(content + from, bytes - (size_t)from, p, n) : NULL;
    return at != NULL ? (long)(at - content) : -1;
}

static void expect_damage(const char *what) {
    unsigned slices;
    char found[160] = "";
    int r = scrub_all(4, &slices, found);
    cr_expect_eq(r, -PTN_EPROTO);
    cr_expect_not_null(strstr(found, what), "%s", found);
}

/* Every page that holds rows or keys: of each, the header is overwritten. */
Test(store_scrub, no_page_of_noise_goes_unnoticed) {
    uint8_t noise[64], saved[64];
    struct stat st;
    unsigned slices, noticed = 0;
    char found[160] = "";
    settle();
    cr_assert_eq(stat(dir.db, &st), 0);
    memset(noise, 0xa5, sizeof noise);
    long pages = (long)(st.st_size / PAGE);
    FILE *f = fopen(dir.db, "r+b");
    cr_assert_not_null(f);
    for (long page = 1; page < pages; page++) {
        cr_assert(fseek(f, page * PAGE, SEEK_SET) == 0 &&
                  fread(saved, 1, sizeof saved, f) == sizeof saved);
        write_at(page * PAGE, noise, sizeof noise);
        int r = scrub_all(1000, &slices, found);
        noticed += r == -PTN_EPROTO;
        cr_expect_eq(r, -PTN_EPROTO, "page %ld", page + 1);
        write_at(page * PAGE, saved, sizeof saved);
    }
    (void)fclose(f);
    cr_expect_eq(scrub_all(1000, &slices, found), 0, "%s", found);
    cr_expect_eq(noticed, (unsigned)pages - 1);
}

Test(store_scrub, a_schema_of_noise_is_noticed) {
    uint8_t noise[64];
    settle();
    memset(noise, 0xa5, sizeof noise);
    write_at(100, noise, sizeof noise); /* behind the header of the file */
    expect_damage("schema: ");
}

/* An id has two places, the row and the index of ids; one of them changes, in its last letter.
 */
Test(store_scrub, a_row_and_an_index_that_do_not_agree_are_noticed) {
    char id[24];
    settle();
    (void)snprintf(id, sizeof id, "m%d-2", 77 * 7919 % 100003);
    long at = find(id, strlen(id), 0);
    cr_assert_geq(at, 0);
    write_at(at + (long)strlen(id) - 1, "7", 1);
    expect_damage("a row is missing from sqlite_autoindex_messages");
}

/* In a table without an index, so that nothing else can notice. */
Test(store_scrub, keys_that_do_not_ascend_are_noticed) {
    settle();
    long at = find("messages", 8, PAGE); /* a name in the table of totals, behind the schema */
    cr_assert(at > 0 && at < 2 * PAGE);
    write_at(at, "z", 1);
    expect_damage("totals: keys are out of order");
}

/* Other handles see it as the store does. */
static void sql_run(const char *text) {
    sqlite3 *sql;
    cr_assert_eq(sqlite3_open(dir.db, &sql), SQLITE_OK);
    int rc = sqlite3_exec(sql, text, NULL, NULL, NULL);
    (void)sqlite3_close(sql);
    cr_assert_eq(rc, SQLITE_OK);
}

/* What the schema promises of a column: here its type is changed behind the back of the rows. */
Test(store_scrub, a_value_of_the_wrong_type_is_noticed) {
    store_db_close(db);
    db = NULL;
    sql_run("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql,"
            " 'timestamp_ms INTEGER', 'timestamp_ms BLOB') WHERE name = 'messages'");
    expect_damage("messages: a value of the wrong type");
}

Test(store_scrub, a_truncated_file_is_noticed) {
    struct stat st;
    settle();
    cr_assert_eq(stat(dir.db, &st), 0);
    cr_assert_eq(truncate(dir.db, st.st_size / PAGE / 2 * PAGE), 0);
    unsigned slices;
    char found[160] = "";
    cr_expect_eq(scrub_all(4, &slices, found), -PTN_EPROTO);
}

/* ---- when ---------------------------------------------------------------------------------- */

static store_scrub_plan plan_after(bool clean) {
    store_scrub_plan p;
    if (!clean) { /* as a crash leaves it */
        store_db_close(db);
        db = NULL;
        sql_run("UPDATE meta SET value = 0 WHERE name = 'clean'");
        cr_assert_eq(store_db_open(dir.db, NULL, &db, NULL), 0);
    }
    cr_assert_eq(store_db_claim(db), 0);
    cr_assert_eq(store_db_scrub_plan(db, &p), 0);
    return p;
}

static void note(const store_scrub_plan *p) {
    run(PTN_MSG_STORE_SCRUB_NOTE,
        packed("iiiii", p->rounds, p->at.tree, p->at.key[0], p->at.key[1], p->ended_ms));
}

Test(store_scrub, only_an_end_that_was_not_clean_asks_for_one) {
    cr_expect_eq(plan_after(true).rounds, 0);
    store_db_close(db);
    cr_assert_eq(store_db_open(dir.db, NULL, &db, NULL), 0);
    cr_expect_eq(plan_after(true).rounds, 0);
    store_scrub_plan p = plan_after(false);
    cr_expect_eq(p.rounds, 1);
    /* In the middle: a clean end goes on there, another one finishes it and begins anew. */
    p.at = (store_scrub_place){.tree = 7, .key = {-5, INT64_MAX}};
    note(&p);
    store_db_close(db);
    cr_assert_eq(store_db_open(dir.db, NULL, &db, NULL), 0);
    p = plan_after(true);
    cr_expect_eq(p.rounds, 1);
    cr_expect_eq(p.at.tree, 7);
    cr_expect_eq(p.at.key[0], -5);
    cr_expect_eq(p.at.key[1], INT64_MAX);
    p = plan_after(false);
    cr_expect_eq(p.rounds, 2);
    cr_expect_eq(p.at.tree, 7);
    cr_expect_eq(plan_after(false).rounds, 2, "never more");
}
