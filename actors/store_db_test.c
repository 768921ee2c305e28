/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_test.c - the database: every operation, refusals, duplicates, transactions, crashes,
 * migration.
 */
#include "actors/store_db_testing.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static void open_db(void) {
    const char *why = "";
    int err = store_db_open(dir.db, NULL, &db, &why);
    cr_assert_eq(err, 0, "%s", why);
}

static void setup(void) {
    test_dir_open(&dir);
    open_db();
}

TestSuite(store_db, .init = setup, .fini = teardown, .timeout = 60);

static void add_user(const char *id, const char *name) {
    (void)run(STORE_USER_ADD, "sssiSi", id, name, "hash", (int64_t)1, NULL, (int64_t)1000);
    cr_assert_eq(last_type, PTN_MSG_STORE_USER);
}

/* alice, bob and carol; c1 with alice and bob. */
static void populate(void) {
    add_user("alice", "Alice");
    add_user("bob", "Bob");
    add_user("carol", "Carol");
    (void)run(STORE_CONV_ADD, "sssis[ss]", "c1", "First", "alice", (int64_t)5, "epoch1", "alice",
              "bob");
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
}

static ptn_bytes append(const char *conversation, const char *id, const char *sender,
                        const char *content) {
    return run(STORE_MSG_APPEND, "sssssni", conversation, id, sender, "text", content,
               (int64_t)86400000);
}

static uint64_t stat_messages(void) {
    return (uint64_t)int_of(element(run_buf(PTN_MSG_STORE_STATS, NULL), 2));
}

/* ---- accounts ----------------------------------------------------------------------------- */

Test(store_db, users_are_stored_and_found) {
    ptn_bytes u =
        run(STORE_USER_ADD, "sssisi", "u1", "Ann", "hash", (int64_t)3, "home", (int64_t)77);
    cr_assert_eq(last_type, PTN_MSG_STORE_USER);
    cr_expect_eq(count_of(u), 8);
    cr_expect(str_is(element(u, 0), "u1"));
    cr_expect(str_is(element(u, 1), "Ann"));
    cr_expect(str_is(element(u, 2), "hash"));
    cr_expect_eq(int_of(element(u, 3)), 3);
    cr_expect(str_is(element(u, 4), "home"));
    cr_expect_eq(int_of(element(u, 5)), 77);
    cr_expect_eq(ptn_kind_of(element(u, 6)), PTN_KIND_MAP);
    cr_expect(str_is(element(run(STORE_USER_BY_NAME, "s", "Ann"), 0), "u1"));
    cr_expect(str_is(element(run(STORE_USER_BY_ID, "s", "u1"), 1), "Ann"));
    (void)run(STORE_USER_BY_NAME, "s", "ann");
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
}

Test(store_db, a_request_that_is_sent_twice_makes_one_account) {
    populate();
    ptn_bytes v =
        run(STORE_USER_ADD, "sssiSi", "alice", "Alice", "x", (int64_t)1, NULL, (int64_t)9);
    cr_assert_eq(last_type, PTN_MSG_STORE_USER);
    cr_expect_eq(int_of(element(v, 5)), 1000, "the first result");
    (void)run(STORE_USER_ADD, "sssiSi", "alice", "Alicia", "x", (int64_t)1, NULL, (int64_t)9);
    cr_expect_eq(problem_code(), PTN_CODE_IDEMPOTENCY_MISMATCH);
    (void)run(STORE_USER_ADD, "sssiSi", "alice", "Alice", "x", (int64_t)3, NULL, (int64_t)9);
    cr_expect_eq(problem_code(), PTN_CODE_IDEMPOTENCY_MISMATCH);
    (void)run(STORE_USER_ADD, "sssisi", "alice", "Alice", "x", (int64_t)1, "h", (int64_t)9);
    cr_expect_eq(problem_code(), PTN_CODE_IDEMPOTENCY_MISMATCH);
}

Test(store_db, a_taken_name_is_a_conflict) {
    populate();
    (void)run(STORE_USER_ADD, "sssiSi", "u9", "Alice", "", (int64_t)1, NULL, (int64_t)1);
    cr_expect_eq(problem_code(), PTN_CODE_CONFLICT);
    (void)run(STORE_USER_BY_ID, "s", "u9");
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
    cr_expect_eq(int_of(element(run_buf(PTN_MSG_STORE_STATS, NULL), 0)), 3);
}

Test(store_db, users_are_listed_by_name_in_pages) {
    populate();
    ptn_bytes l = run(STORE_USER_LIST, "ni", (int64_t)2);
    cr_assert_eq(count_of(l), 2);
    cr_expect(str_is(element(element(l, 0), 1), "Alice"));
    l = run(STORE_USER_LIST, "si", "Bob", (int64_t)2);
    cr_assert_eq(count_of(l), 1);
    cr_expect(str_is(element(element(l, 0), 1), "Carol"));
    cr_expect_eq(count_of(run(STORE_USER_LIST, "si", "Carol", (int64_t)2)), 0);
}

Test(store_db, households) {
    (void)run(STORE_USER_ADD, "sssisi", "u1", "A", "", (int64_t)1, "home", (int64_t)1);
    (void)run(STORE_USER_ADD, "sssisi", "u2", "B", "", (int64_t)1, "home", (int64_t)1);
    (void)run(STORE_USER_ADD, "sssiSi", "u3", "C", "", (int64_t)1, NULL, (int64_t)1);
    cr_expect_eq(count_of(run(STORE_HOUSEHOLD, "si", "home", (int64_t)10)), 2);
    cr_expect_eq(count_of(run(STORE_HOUSEHOLD, "si", "", (int64_t)10)), 0);
}

Test(store_db, passwords_change) {
    populate();
    (void)run(STORE_USER_PASSWORD, "ssi", "alice", "other", (int64_t)1);
    cr_expect_eq(last_type, PTN_MSG_OK);
    cr_expect(str_is(element(run(STORE_USER_BY_ID, "s", "alice"), 2), "other"));
    (void)run(STORE_USER_PASSWORD, "ssi", "nobody", "other", (int64_t)1);
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
}

static ptn_bytes revoked_since(int64_t since_ms) {
    return element(run(STORE_SESSIONS_REVOKED, "iii", (int64_t)-1, since_ms, (int64_t)0), 1);
}

Test(store_db, a_new_password_ends_the_sessions_of_its_user_only) {
    populate();
    (void)run(STORE_SESSION_ADD, "ssbii", "s1", "alice", "h1", (int64_t)9000, (int64_t)1);
    (void)run(STORE_SESSION_ADD, "ssbii", "s2", "bob", "h1", (int64_t)9000, (int64_t)1);
    (void)run(STORE_USER_PASSWORD, "ssi", "alice", "other", (int64_t)7);
    cr_assert_eq(last_type, PTN_MSG_OK);
    (void)run(STORE_SESSION_ROTATE, "sbbii", "s1", "h1", "h2", (int64_t)9500, (int64_t)8);
    cr_expect_eq(problem_code(), PTN_CODE_UNAUTHENTICATED);
    (void)run(STORE_SESSION_ROTATE, "sbbii", "s2", "h1", "h2", (int64_t)9500, (int64_t)8);
    cr_expect_eq(last_type, PTN_MSG_STORE_USER);
    ptn_bytes revoked = revoked_since(7);
    cr_assert_eq(count_of(revoked), 1);
    cr_expect(str_is(element(revoked, 0), "s1"));
    ptn_bytes all = ptn_buf_bytes(last), cut = element(element(all, 2), 0);
    cr_assert_eq(count_of(element(all, 2)), 1, "and what was issued before to her");
    cr_expect(str_is(element(cut, 0), "alice"));
    cr_expect_eq(int_of(element(cut, 1)), 7);
    int64_t seen = int_of(element(all, 0));
    all = run(STORE_SESSIONS_REVOKED, "iii", seen, (int64_t)0, (int64_t)0);
    cr_expect_eq(count_of(element(all, 1)) + count_of(element(all, 2)), 0, "nothing since");
    store_db *other;
    uint32_t type;
    cr_assert_eq(store_db_open(dir.db, NULL, &other, NULL), 0); /* as the command line does */
    ptn_buf *b = packed("ssi", "bob", "new", (int64_t)9);
    ptn_buf_unref(store_db_execute(other, PTN_MSG_STORE_USER_PASSWORD, ptn_buf_bytes(b), &type));
    ptn_buf_unref(b);
    store_db_close(other);
    all = run(STORE_SESSIONS_REVOKED, "iii", seen, (int64_t)0, (int64_t)8);
    cr_assert_eq(count_of(element(all, 2)), 1);
    cr_expect(str_is(element(element(element(all, 2), 0), 0), "bob"));
    cr_expect_eq(count_of(element(all, 1)), 2);
}

static ptn_buf *texts2(const char *key, const char *value) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_map(&w, 1);
    ptn_pack_cstr(&w, key);
    ptn_pack_cstr(&w, value);
    return ptn_pack_finish(&w);
}

/* One patch of preferences, made now: its outcome. */
static ptn_bytes edit_now(const char *user, ptn_buf *take_patch) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 4);
    ptn_pack_cstr(&w, user);
    ptn_pack_nil(&w);
    ptn_pack_int(&w, 1000);
    ptn_pack_array(&w, 1);
    ptn_pack_array(&w, 7);
    ptn_pack_int(&w, PTN_EDIT_PREFERENCES);
    for (int i = 0; i < 4; i++)
        ptn_pack_nil(&w);
    ptn_pack_bool(&w, true);
    ptn_pack_raw(&w, ptn_buf_bytes(take_patch));
    ptn_buf_unref(take_patch);
    ptn_bytes b = run_buf(PTN_MSG_STORE_EDIT, ptn_pack_finish(&w));
    cr_assert_eq(last_type, PTN_MSG_STORE_EDITED);
    return element(element(b, 1), 0);
}

static int rejected_code(ptn_bytes outcome) {
    ptn_problem p = {.code = -1};
    cr_assert_eq(int_of(element(outcome, 0)), PTN_OUTCOME_REJECTED);
    cr_assert(ptn_problem_unpack(element(outcome, 2), &p));
    return p.code;
}

Test(store_db, preferences_merge) {
    populate();
    ptn_bytes o = edit_now("alice", texts2("theme", "dark"));
    cr_expect_eq(int_of(element(o, 0)), PTN_OUTCOME_APPLIED);
    cr_expect(map_str_is(element(o, 2), "theme", "dark"));
    (void)edit_now("alice", texts2("lang", "en"));
    ptn_bytes u = run(STORE_USER_BY_ID, "s", "alice");
    cr_expect(map_str_is(element(u, 6), "theme", "dark"));
    cr_expect(map_str_is(element(u, 6), "lang", "en"));
    cr_expect_eq(rejected_code(edit_now("nobody", texts2("a", "b"))), PTN_CODE_NOT_FOUND);
    char *big = calloc(1, STORE_PREFERENCES_BYTES + 1);
    memset(big, 'x', STORE_PREFERENCES_BYTES);
    cr_expect_eq(rejected_code(edit_now("alice", texts2("big", big))), PTN_CODE_PAYLOAD_TOO_LARGE);
    free(big);
    cr_expect_eq(rejected_code(edit_now("alice", packed("s", "text"))), PTN_CODE_INVALID_REQUEST);
}

/* ---- sessions ----------------------------------------------------------------------------- */

Test(store_db, sessions_rotate_and_detect_reuse) {
    populate();
    (void)run(STORE_SESSION_ADD, "ssbii", "s1", "alice", "h1", (int64_t)9000, (int64_t)1);
    cr_assert_eq(last_type, PTN_MSG_OK);
    ptn_bytes u = run(STORE_SESSION_ROTATE, "sbbii", "s1", "h1", "h2", (int64_t)9500, (int64_t)2);
    cr_assert_eq(last_type, PTN_MSG_STORE_USER);
    cr_expect(str_is(element(u, 0), "alice"));
    cr_expect_eq(count_of(revoked_since(0)), 0);
    ptn_bytes p = run(STORE_SESSION_ROTATE, "sbbii", "s1", "h1", "h3", (int64_t)9500, (int64_t)3);
    cr_expect_eq(problem_code(), PTN_CODE_UNAUTHENTICATED);
    bool revoked = false;
    cr_expect(ptn_map_get_bool(element(p, 2), "revoked", &revoked) && revoked);
    p = run(STORE_SESSION_ROTATE, "sbbii", "s1", "h2", "h3", (int64_t)9500, (int64_t)4);
    bool ended = false;
    cr_expect(ptn_map_get_bool(element(p, 2), "ended", &ended) && ended,
              "verifiers may not have heard");
    cr_expect_eq(problem_code(), PTN_CODE_UNAUTHENTICATED, "the whole session is dead");
    p = revoked_since(3);
    cr_assert_eq(count_of(p), 1);
    cr_expect(str_is(element(p, 0), "s1"));
    cr_expect_eq(count_of(revoked_since(4)), 0);
}

Test(store_db, sessions_end) {
    populate();
    (void)run(STORE_SESSION_ADD, "ssbii", "s1", "alice", "h1", (int64_t)100, (int64_t)1);
    (void)run(STORE_SESSION_ADD, "ssbii", "s2", "alice", "h1", (int64_t)100, (int64_t)1);
    (void)run(STORE_SESSION_ADD, "ssbii", "s2", "alice", "h1", (int64_t)100, (int64_t)1);
    cr_expect_eq(problem_code(), PTN_CODE_CONFLICT);
    (void)run(STORE_SESSION_ADD, "ssbii", "s3", "nobody", "h1", (int64_t)100, (int64_t)1);
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
    (void)run(STORE_SESSION_ROTATE, "sbbii", "s1", "h1", "h2", (int64_t)200, (int64_t)100);
    cr_expect_eq(problem_code(), PTN_CODE_UNAUTHENTICATED, "expired");
    (void)run(STORE_SESSION_REVOKE, "si", "s2", (int64_t)50);
    cr_expect_eq(last_type, PTN_MSG_OK);
    (void)run(STORE_SESSION_ROTATE, "sbbii", "s2", "h1", "h2", (int64_t)200, (int64_t)60);
    cr_expect_eq(problem_code(), PTN_CODE_UNAUTHENTICATED, "revoked");
    (void)run(STORE_SESSION_ROTATE, "sbbii", "s9", "h1", "h2", (int64_t)200, (int64_t)60);
    cr_expect_eq(problem_code(), PTN_CODE_UNAUTHENTICATED, "unknown");
    /* A login long after removes what ended long before. */
    int64_t later = INT64_C(3) * 86400000;
    (void)run(STORE_SESSION_ADD, "ssbii", "s4", "alice", "h1", later + 1, later);
    cr_expect_eq(last_type, PTN_MSG_OK);
    cr_expect_eq(count_of(revoked_since(0)), 0, "purged");
}

/* ---- conversations ------------------------------------------------------------------------ */

Test(store_db, conversations_are_made_once) {
    populate();
    ptn_bytes v = run(STORE_CONV_GET, "s", "c1");
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
    cr_expect(str_is(element(v, 1), "First"));
    cr_expect(str_is(element(v, 4), "epoch1"));
    cr_expect_eq(int_of(element(v, 5)), 0);
    cr_expect_eq(count_of(element(v, 6)), 2);
    v = run(STORE_CONV_ADD, "sSsis[s]", "c1", "Other", "bob", (int64_t)6, "epoch2", "bob");
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
    cr_expect(str_is(element(v, 4), "epoch1"), "the stored one is returned");
    cr_expect_eq(int_of(element(run_buf(PTN_MSG_STORE_STATS, NULL), 1)), 1);
    (void)run(STORE_CONV_GET, "s", "c2");
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
}

Test(store_db, a_request_that_is_sent_twice_makes_one_conversation) {
    populate();
    (void)run(STORE_CONV_ADD, "sSsis[s]b", "c2", NULL, "alice", (int64_t)6, "e1", "alice", "hash");
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
    ptn_bytes v =
        run(STORE_CONV_ADD, "sSsis[s]b", "c2", NULL, "alice", (int64_t)9, "e2", "alice", "hash");
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
    cr_expect(str_is(element(v, 4), "e1"));
    (void)run(STORE_CONV_ADD, "sSsis[s]b", "c2", NULL, "alice", (int64_t)9, "e2", "alice", "HASH");
    cr_expect_eq(problem_code(), PTN_CODE_IDEMPOTENCY_MISMATCH);
    (void)run(STORE_CONV_ADD, "sSsis[s]b", "c1", NULL, "alice", (int64_t)9, "e2", "alice", "hash");
    cr_expect_eq(problem_code(), PTN_CODE_IDEMPOTENCY_MISMATCH, "made without a key");
}

Test(store_db, unknown_members_are_named) {
    populate();
    ptn_bytes p = run(STORE_CONV_ADD, "sSsis[sss]", "c2", NULL, "alice", (int64_t)6, "e", "alice",
                      "ghost", "bob");
    cr_expect_eq(problem_code(), PTN_CODE_VALIDATION_FAILED);
    cr_expect(map_str_is(element(p, 2), "members", "no such user: ghost"));
    (void)run(STORE_CONV_GET, "s", "c2");
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND, "nothing of it was stored");
    (void)run(STORE_CONV_ADD, "sSsis[]", "c2", NULL, "ghost", (int64_t)6, "e");
    cr_expect_eq(problem_code(), PTN_CODE_VALIDATION_FAILED);
}

Test(store_db, lists_newest_first_and_only_mine) {
    populate();
    (void)run(STORE_CONV_ADD, "sSsis[s]", "c3", NULL, "alice", (int64_t)6, "e", "alice");
    (void)run(STORE_CONV_ADD, "sSsis[s]", "c2", NULL, "carol", (int64_t)6, "e", "carol");
    ptn_bytes l = run(STORE_CONV_LIST, "sni", "alice", (int64_t)10);
    cr_assert_eq(last_type, PTN_MSG_STORE_CONVS);
    cr_assert_eq(count_of(l), 2);
    cr_expect(str_is(element(element(l, 0), 0), "c3"));
    cr_expect(str_is(element(element(l, 1), 0), "c1"));
    l = run(STORE_CONV_LIST, "ssi", "alice", "c3", (int64_t)10);
    cr_assert_eq(count_of(l), 1);
    cr_expect_eq(count_of(run(STORE_CONV_LIST, "sni", "alice", (int64_t)1)), 1);
}

Test(store_db, members_come_and_go) {
    populate();
    ptn_bytes v = run(STORE_MEMBERS_ADD, "s[ss]i", "c1", "carol", "bob", (int64_t)9);
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
    cr_expect_eq(count_of(element(v, 6)), 3);
    (void)run(STORE_MEMBERS_ADD, "s[s]i", "c1", "ghost", (int64_t)9);
    cr_expect_eq(problem_code(), PTN_CODE_VALIDATION_FAILED);
    (void)run(STORE_MEMBERS_ADD, "s[s]i", "c9", "bob", (int64_t)9);
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
    (void)append("c1", "m0", "bob", "hi"); /* known as a recent sender from here on */
    cr_assert_eq(last_type, PTN_MSG_STORE_MSG);
    v = run(STORE_MEMBERS_REMOVE, "s[ss]", "c1", "bob", "ghost");
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
    cr_expect_eq(count_of(element(v, 6)), 2);
    (void)append("c1", "m1", "bob", "hi");
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND, "a former member does not write");
}

Test(store_db, a_conversation_has_at_most_1000_members) {
    populate();
    cr_assert_eq(store_db_begin(db), 0);
    char id[16];
    for (int i = 0; i < 1000; i++) {
        (void)snprintf(id, sizeof id, "u%d", i);
        add_user(id, id);
        (void)run(STORE_MEMBERS_ADD, "s[s]i", "c1", id, (int64_t)9);
        if (i < 998)
            cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
        else
            cr_assert_eq(problem_code(), PTN_CODE_VALIDATION_FAILED);
    }
    cr_assert_eq(store_db_commit(db), 0);
    cr_expect_eq(count_of(element(run(STORE_CONV_GET, "s", "c1"), 6)), 1000);
}

/* ---- messages ----------------------------------------------------------------------------- */

Test(store_db, appends_count_up_and_come_back_whole) {
    populate();
    ptn_bytes r = run(STORE_MSG_APPEND, "sssssmi", "c1", "m1", "alice", "image", "caf\xc3\xa9", "k",
                      "v", (int64_t)86400123);
    cr_assert_eq(last_type, PTN_MSG_STORE_MSG);
    cr_expect_eq(int_of(element(r, 0)), 1);
    cr_expect(bool_of(element(r, 1)));
    ptn_bytes m = element(r, 2), metadata;
    cr_expect(map_str_is(m, "id", "m1"));
    cr_expect(map_str_is(m, "conversationId", "c1"));
    cr_expect(map_str_is(m, "content", "caf\xc3\xa9"));
    cr_expect(map_str_is(m, "type", "image"));
    cr_expect(map_str_is(m, "senderId", "alice"));
    cr_expect(map_str_is(m, "timestamp", "1970-01-02T00:00:00.123Z"));
    cr_expect(map_str_is(m, "status", "sent"));
    cr_assert(ptn_map_get(m, "metadata", &metadata));
    cr_expect(map_str_is(metadata, "k", "v"));
    int64_t seq = 0;
    cr_expect(ptn_map_get_int(m, "seq", &seq) && seq == 1);
    ptn_buf *first = ptn_buf_ref(last);
    cr_expect_eq(int_of(element(append("c1", "m2", "bob", "x"), 0)), 2);
    ptn_bytes h = run(STORE_MSG_RANGE, "snni", "c1", (int64_t)10);
    cr_assert_eq(last_type, PTN_MSG_STORE_MSGS);
    cr_expect_eq(int_of(element(h, 0)), 2);
    ptn_bytes stored = element(element(element(h, 1), 0), 1),
              sent = element(ptn_buf_bytes(first), 2);
    cr_assert_eq(stored.n, sent.n);
    cr_expect_eq(memcmp(stored.p, sent.p, sent.n), 0, "history shows what was sent, byte for byte");
    ptn_buf_unref(first);
}

Test(store_db, the_same_id_twice_is_one_message) {
    populate();
    (void)append("c1", "m1", "alice", "one");
    ptn_bytes r = append("c1", "m1", "alice", "one");
    cr_assert_eq(last_type, PTN_MSG_STORE_MSG);
    cr_expect_eq(int_of(element(r, 0)), 1);
    cr_expect_not(bool_of(element(r, 1)));
    cr_expect(map_str_is(element(r, 2), "content", "one"), "the stored record is returned");
    (void)append("c1", "m1", "alice", "two");
    cr_expect_eq(problem_code(), PTN_CODE_IDEMPOTENCY_MISMATCH, "another body");
    (void)append("c1", "m1", "bob", "one");
    cr_expect_eq(problem_code(), PTN_CODE_CONFLICT, "another sender");
    (void)run(STORE_CONV_ADD, "sSsis[s]", "c2", NULL, "alice", (int64_t)6, "e", "alice");
    (void)append("c2", "m1", "alice", "one");
    cr_expect_eq(problem_code(), PTN_CODE_CONFLICT, "another conversation");
    cr_expect_eq(int_of(element(append("c1", "m2", "alice", "x"), 0)), 2, "no gap");
    cr_expect_eq(int_of(element(append("c2", "m3", "alice", "x"), 0)), 1);
    cr_expect_eq(stat_messages(), 3);
}

Test(store_db, only_members_append) {
    populate();
    (void)append("c1", "m1", "carol", "x");
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
    (void)append("c9", "m1", "alice", "x");
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
    cr_expect_eq(int_of(element(append("c1", "m1", "alice", "x"), 0)), 1);
}

static void expect_seqs(ptn_bytes reply, int64_t first, uint32_t n) {
    ptn_bytes list = element(reply, 1);
    cr_assert_eq(count_of(list), n);
    for (uint32_t i = 0; i < n; i++)
        cr_expect_eq(int_of(element(element(list, i), 0)), first + i);
}

Test(store_db, ranges) {
    populate();
    cr_assert_eq(store_db_begin(db), 0);
    for (int i = 1; i <= 20; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "m%d", i);
        (void)append("c1", id, "alice", "x");
    }
    cr_assert_eq(store_db_commit(db), 0);
    expect_seqs(run(STORE_MSG_RANGE, "snni", "c1", (int64_t)5), 16, 5);
    expect_seqs(run(STORE_MSG_RANGE, "snii", "c1", (int64_t)10, (int64_t)5), 5, 5);
    expect_seqs(run(STORE_MSG_RANGE, "sini", "c1", (int64_t)10, (int64_t)5), 11, 5);
    expect_seqs(run(STORE_MSG_RANGE, "sini", "c1", (int64_t)18, (int64_t)5), 19, 2);
    expect_seqs(run(STORE_MSG_RANGE, "siii", "c1", (int64_t)3, (int64_t)6, (int64_t)5), 4, 2);
    expect_seqs(run(STORE_MSG_RANGE, "sini", "c1", (int64_t)20, (int64_t)5), 0, 0);
    expect_seqs(run(STORE_MSG_RANGE, "snii", "c1", (int64_t)1, (int64_t)5), 0, 0);
    expect_seqs(run(STORE_MSG_RANGE, "sini", "c1", (int64_t)-5, (int64_t)0), 0, 0);
    (void)run(STORE_MSG_RANGE, "snni", "c9", (int64_t)5);
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
}

Test(store_db, a_range_is_bounded_in_bytes_at_the_right_end) {
    populate();
    char *big = calloc(1, 65537), id[16];
    memset(big, 'x', 65536);
    cr_assert_eq(store_db_begin(db), 0);
    for (int i = 1; i <= 20; i++) {
        (void)snprintf(id, sizeof id, "m%d", i);
        (void)append("c1", id, "alice", big);
    }
    cr_assert_eq(store_db_commit(db), 0);
    free(big);
    ptn_bytes r = run(STORE_MSG_RANGE, "sini", "c1", (int64_t)0, (int64_t)1000);
    uint32_t n = count_of(element(r, 1));
    cr_expect_lt(n, 20);
    cr_expect_leq(r.n, STORE_RANGE_BYTES + 1024);
    expect_seqs(r, 1, n);
    r = run(STORE_MSG_RANGE, "snni", "c1", (int64_t)1000);
    n = count_of(element(r, 1));
    cr_expect_lt(n, 20);
    expect_seqs(r, 21 - (int64_t)n, n);
}

Test(store_db, read_marks) {
    populate();
    (void)append("c1", "m1", "alice", "x");
    (void)append("c1", "m2", "alice", "x");
    ptn_bytes r = run(STORE_MSG_READ, "ssi", "m1", "bob", (int64_t)5);
    cr_assert_eq(last_type, PTN_MSG_STORE_MSG);
    cr_expect(bool_of(element(r, 1)));
    cr_expect(map_str_is(element(r, 2), "status", "read"));
    cr_expect_not(bool_of(element(run(STORE_MSG_READ, "ssi", "m1", "bob", (int64_t)6), 1)),
                  "no news");
    (void)run(STORE_MSG_READ, "ssi", "m2", "alice", (int64_t)5);
    r = element(run(STORE_MSG_RANGE, "snni", "c1", (int64_t)5), 1);
    cr_expect(map_str_is(element(element(r, 0), 1), "status", "read"));
    cr_expect(map_str_is(element(element(r, 1), 1), "status", "sent"),
              "the sender's own mark does not count");
    (void)run(STORE_MSG_READ, "ssi", "m1", "carol", (int64_t)5);
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
    (void)run(STORE_MSG_READ, "ssi", "m9", "bob", (int64_t)5);
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
}

/* ---- hostile payloads --------------------------------------------------------------------- */

Test(store_db, malformed_payloads_are_refused_and_harmless) {
    populate();
    static const uint8_t shapes[][4] = {{0xc0},
                                        {0x90},
                                        {0x91, 0xc0},
                                        {0x97, 0xa1},
                                        {0xdd, 0xff, 0xff, 0xff},
                                        {0x93, 0x01, 0x02, 0xc0},
                                        {0xc1},
                                        {0x80}};
    cr_assert_eq(store_db_begin(db), 0);
    for (uint32_t type = PTN_MSG_STORE_USER_ADD; type < PTN_MSG_STORE_STATS; type++)
        for (size_t i = 0; i < PTN_ARRAY_LEN(shapes); i++) {
            ptn_buf_unref(last);
            last = store_db_execute(db, type, (ptn_bytes){shapes[i], sizeof shapes[i]}, &last_type);
            cr_assert_not_null(last);
            cr_expect_eq(last_type, PTN_MSG_PROBLEM, "%s accepted shape %zu",
                         ptn_msg_type_name(type), i);
        }
    ptn_buf_unref(last);
    last = store_db_execute(db, PTN_MSG_REQUEST, (ptn_bytes){0}, &last_type);
    cr_expect_eq(last_type, PTN_MSG_PROBLEM);
    (void)append("c1", "m1", "alice", "still works");
    cr_expect_eq(last_type, PTN_MSG_STORE_MSG);
    cr_expect_eq(store_db_commit(db), 0);
    cr_expect_eq(stat_messages(), 1);
}

/* ---- transactions ------------------------------------------------------------------------- */

Test(store_db, rollback_takes_numbers_back) {
    populate();
    (void)append("c1", "m1", "alice", "x");
    cr_assert_eq(store_db_begin(db), 0);
    cr_expect_eq(int_of(element(append("c1", "m2", "alice", "x"), 0)), 2);
    store_db_rollback(db);
    cr_expect_eq(int_of(element(append("c1", "m3", "alice", "x"), 0)), 2,
                 "2 was never seen by anybody");
    cr_expect_eq(stat_messages(), 2);
}

Test(store_db, a_refusal_does_not_harm_the_batch) {
    populate();
    cr_assert_eq(store_db_begin(db), 0);
    (void)append("c1", "m1", "alice", "x");
    (void)append("c1", "m1", "bob", "x");   /* conflict */
    (void)append("c1", "m2", "carol", "x"); /* not a member */
    (void)run(STORE_USER_ADD, "sssiSi", "u9", "Alice", "", (int64_t)1, NULL,
              (int64_t)1); /* taken */
    cr_expect_eq(int_of(element(append("c1", "m3", "bob", "x"), 0)), 2);
    cr_expect_eq(store_db_commit(db), 0);
    cr_expect_eq(store_db_rows_committed(db), 2);
    cr_expect_eq(stat_messages(), 2);
}

Test(store_db, a_full_disk_fails_the_whole_batch_and_heals) {
    populate();
    (void)append("c1", "m1", "alice", "x");
    char *big = calloc(1, 65537), id[16];
    memset(big, 'x', 65536);
    /* The limit on the size of files stands for the full disk. */
    struct rlimit old, small = {.rlim_cur = 256u << 10, .rlim_max = RLIM_INFINITY};
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    cr_assert_eq(sigaction(SIGXFSZ, &ignore, &before), 0);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    cr_assert_eq(store_db_begin(db), 0);
    for (int i = 2; i < 12; i++) {
        (void)snprintf(id, sizeof id, "m%d", i);
        (void)append("c1", id, "alice", big);
    }
    int err = store_db_commit(db);
    cr_expect(err == -PTN_EFULL || err == -PTN_EIO, "got %s", ptn_err_name(err));
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    cr_expect_eq(stat_messages(), 1, "nothing of the batch was stored");
    cr_expect_eq(int_of(element(append("c1", "m2", "alice", big), 0)), 2, "and it works again");
    free(big);
    ptn_buf *p = store_db_problem_of(-PTN_EFULL);
    ptn_problem problem;
    cr_assert(ptn_problem_unpack(ptn_buf_bytes(p), &problem));
    cr_expect_eq(problem.code, PTN_CODE_STORAGE_FULL);
    ptn_buf_unref(p);
}

Test(store_db, another_process_may_write_meanwhile) {
    populate();
    (void)append("c1", "m1", "alice", "x");
    store_db *other = NULL;
    cr_assert_eq(store_db_open(dir.db, NULL, &other, NULL), 0);
    store_db *mine = db;
    db = other;
    cr_expect_eq(int_of(element(append("c1", "m2", "alice", "x"), 0)), 2);
    add_user("dave", "Dave");
    db = mine;
    cr_expect_eq(int_of(element(append("c1", "m3", "alice", "x"), 0)), 3,
                 "the cached number was stale");
    cr_expect(str_is(element(run(STORE_USER_BY_NAME, "s", "Dave"), 0), "dave"));
    store_db_close(other);
}

Test(store_db, a_locked_database_is_busy_not_broken) {
    store_db_opts o = {.busy_ms = 20};
    store_db *other = NULL;
    cr_assert_eq(store_db_open(dir.db, &o, &other, NULL), 0);
    cr_assert_eq(store_db_begin(db), 0);
    cr_expect_eq(store_db_begin(other), -PTN_EOVERLOAD);
    cr_assert_eq(store_db_commit(db), 0);
    cr_expect_eq(store_db_begin(other), 0);
    store_db_rollback(other);
    store_db_close(other);
}

Test(store_db, the_sequence_cache_is_bounded_and_right) {
    store_db_close(db);
    store_db_opts o = {.conversations_max = 4};
    cr_assert_eq(store_db_open(dir.db, &o, &db, NULL), 0);
    populate();
    char conv[16], id[32];
    for (int round = 1; round <= 3; round++)
        for (int i = 0; i < 10; i++) {
            (void)snprintf(conv, sizeof conv, "k%d", i);
            if (round == 1)
                (void)run(STORE_CONV_ADD, "sSsis[s]", conv, NULL, "alice", (int64_t)6, "e",
                          "alice");
            (void)snprintf(id, sizeof id, "m%d-%d", round, i);
            cr_assert_eq(int_of(element(append(conv, id, "alice", "x"), 0)), round);
        }
}

/* ---- crashes, opening --------------------------------------------------------------------- */

Test(store_db, what_was_committed_survives_a_crash) {
    populate();
    store_db_close(db);
    db = NULL;
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        open_db();
        bool ok = store_db_begin(db) == 0;
        (void)append("c1", "m1", "alice", "committed");
        ok = ok && store_db_commit(db) == 0 && store_db_begin(db) == 0;
        (void)append("c1", "m2", "alice", "never committed");
        _exit(ok ? 0 : 1); /* no close, no checkpoint: as a crash */
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    open_db();
    ptn_bytes h = run(STORE_MSG_RANGE, "snni", "c1", (int64_t)10);
    cr_expect_eq(int_of(element(h, 0)), 1);
    cr_assert_eq(count_of(element(h, 1)), 1);
    cr_expect_eq(stat_messages(), 1);
    cr_expect_eq(int_of(element(append("c1", "m2", "alice", "again"), 0)), 2);
}

static void copy_file(const char *from, const char *to, off_t bytes_max) {
    char buf[4096];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert(in >= 0 && out >= 0);
    ssize_t n;
    for (off_t left = bytes_max; left > 0 && (n = read(in, buf, sizeof buf)) > 0; left -= n)
        cr_assert_eq(write(out, buf, (size_t)(n < left ? n : left)), n < left ? n : left);
    (void)close(in);
    (void)close(out);
}

/* The files as a power cut leaves them: the log torn at any place. */
Test(store_db, a_torn_log_opens_with_a_prefix_of_the_commits) {
    populate();
    for (int i = 1; i <= 10; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "m%d", i);
        (void)append("c1", id, "alice", "x");
    }
    char wal[128], copy[128], copy_wal[136];
    (void)snprintf(wal, sizeof wal, "%s-wal", dir.db);
    (void)snprintf(copy, sizeof copy, "%s/copy.db", dir.path);
    (void)snprintf(copy_wal, sizeof copy_wal, "%s-wal", copy);
    struct stat st;
    cr_assert_eq(stat(wal, &st), 0);
    store_db *mine = db;
    int64_t before = 0;
    for (off_t cut = st.st_size / 2; cut <= st.st_size; cut += st.st_size / 32) {
        off_t at = cut + st.st_size / 32 > st.st_size ? st.st_size : cut;
        copy_file(dir.db, copy, INT64_MAX);
        copy_file(wal, copy_wal, at);
        cr_assert_eq(store_db_open(copy, NULL, &db, NULL), 0);
        ptn_bytes h = run(STORE_MSG_RANGE, "sini", "c1", (int64_t)0, (int64_t)100);
        int64_t n = last_type == PTN_MSG_PROBLEM ? 0 : int_of(element(h, 0)); /* not even c1 */
        cr_expect_geq(n, before, "a longer log holds no less");
        if (last_type != PTN_MSG_PROBLEM)
            expect_seqs(h, 1, (uint32_t)n);
        cr_expect_eq((int64_t)stat_messages(), n);
        before = n;
        store_db_close(db);
        test_dir_remove_file(&dir, "copy.db");
        test_dir_remove_file(&dir, "copy.db-wal");
        test_dir_remove_file(&dir, "copy.db-shm");
    }
    cr_expect_eq(before, 10, "the whole log holds everything that was acknowledged");
    db = mine;
}

Test(store_db, files_are_private) {
    populate();
    struct stat st;
    char wal[128];
    cr_assert_eq(stat(dir.db, &st), 0);
    cr_expect_eq(st.st_mode & 0777, 0600);
    (void)snprintf(wal, sizeof wal, "%s-wal", dir.db);
    cr_assert_eq(stat(wal, &st), 0);
    cr_expect_eq(st.st_mode & 0777, 0600);
}

Test(store_db, a_newer_schema_is_refused_and_untouched) {
    store_db_close(db);
    db = NULL;
    sqlite3 *raw;
    cr_assert_eq(sqlite3_open(dir.db, &raw), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(raw, "PRAGMA user_version = 1000", NULL, NULL, NULL), SQLITE_OK);
    cr_assert_eq(sqlite3_close(raw), SQLITE_OK);
    const char *why = NULL;
    cr_expect_eq(store_db_open(dir.db, NULL, &db, &why), -PTN_EPROTO);
    cr_assert_not_null(why);
    cr_expect_not_null(strstr(why, "newer version"));
    cr_expect_null(db);
}

Test(store_db, what_is_not_a_database_is_refused) {
    store_db_close(db);
    db = NULL;
    FILE *f = fopen(dir.db, "w");
    cr_assert_not_null(f);
    for (int i = 0; i < 1000; i++)
        (void)fputs("this is not a database ", f);
    (void)fclose(f);
    const char *why = NULL;
    cr_expect_lt(store_db_open(dir.db, NULL, &db, &why), 0);
    cr_expect_not_null(why);
    cr_expect_lt(store_db_open("/nonexistent/dir/x.db", NULL, &db, &why), 0);
    cr_expect_not_null(strstr(why, "/nonexistent/dir/x.db"));
}

Test(store_db, opens_fast_with_100000_messages) {
    populate();
    char id[16];
    cr_assert_eq(store_db_begin(db), 0);
    for (int i = 0; i < 100000; i++) {
        (void)snprintf(id, sizeof id, "m%d", i);
        (void)append("c1", id, "alice", "a message of an ordinary length, more or less");
        cr_assert_eq(last_type, PTN_MSG_STORE_MSG);
    }
    cr_assert_eq(store_db_commit(db), 0);
    store_db_close(db);
    struct timespec a, b;
    (void)clock_gettime(CLOCK_MONOTONIC, &a);
    open_db();
    cr_expect_eq(int_of(element(run(STORE_CONV_GET, "s", "c1"), 5)), 100000);
    cr_expect_eq(stat_messages(), 100000);
    (void)clock_gettime(CLOCK_MONOTONIC, &b);
    int64_t us = (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000;
    cr_expect_lt(us, 1000000, "opening took %lld us",
                 (long long)us); /* a scan of the table takes longer */
}
