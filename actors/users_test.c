/* SPDX-License-Identifier: Apache-2.0
 *
 * users_test.c - the users actor: own account, preferences, family, administration.
 */
#include "actors/domain_testing.h"
#include "actors/password.h"

static struct fixture *f; /* large: not on the stack */
static unsigned r[16];    /* requests of the test */

static void setup(void) {
    f = calloc(1, sizeof *f);
    cr_assert_not_null(f);
    fixture_open(f, 1);
}
static void teardown(void) {
    fixture_close(f);
    free(f);
}
TestSuite(users, .init = setup, .fini = teardown, .timeout = 60);

static ptn_str text_at(ptn_bytes map, const char *key) {
    ptn_str s = {"", 0};
    cr_assert(ptn_map_get_str(map, key, &s), "no text %s", key);
    return s;
}

static bool has(ptn_bytes map, const char *key) {
    ptn_bytes v;
    return ptn_map_get(map, key, &v);
}

/* The answer, encoded, holds no trace of a password hash. */
static void expect_no_hash(unsigned i) {
    ptn_bytes b = ptn_buf_bytes(f->answer[i].buf);
    cr_expect_null(memmem(b.p, b.n, "hash", 4));
    cr_expect_null(memmem(b.p, b.n, "argon2", 6));
}

static void me(ptn_ctx *c, struct fixture *x) {
    r[0] = request(c, x, PTN_MSG_ROUTE_USERS_ME, "/api/v1/users/me", "", NULL);
    x->user = "ghost";
    r[1] = request(c, x, PTN_MSG_ROUTE_USERS_ME, "/api/v1/users/me", "", NULL);
}

Test(users, me) {
    static const struct step steps[] = {{0, me}, {0, NULL}};
    fixture_run(f, steps);
    ptn_bytes u = data_of(f, r[0], 200), v;
    cr_expect(map_str_is(u, "id", "alice"));
    cr_expect(map_str_is(u, "username", "alice"));
    cr_expect(map_str_is(u, "household", "home"));
    cr_expect(map_str_is(u, "createdAt", "1970-01-01T00:00:01.000Z"));
    cr_assert(ptn_map_get(u, "roles", &v));
    cr_expect(str_is(element(v, 0), "user"));
    cr_assert(ptn_map_get(u, "preferences", &v));
    cr_expect_eq(ptn_kind_of(v), PTN_KIND_MAP);
    expect_no_hash(r[0]);
    cr_expect_eq(code_of(f, r[1]), PTN_CODE_NOT_FOUND);
}

static void change(ptn_ctx *c, struct fixture *x) {
    const char *path = "/api/v1/users/me/preferences";
    char *big = calloc(1, 20000);
    cr_assert_not_null(big);
    memset(big, 'x', 19999);
    r[0] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", texts("theme", "dark", NULL));
    r[1] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", texts("theme", NULL, NULL));
    r[2] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", NULL);
    r[3] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", packed("s", "array"));
    r[4] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", texts("big", big, NULL));
    r[5] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", texts("lang", "en", NULL));
    free(big);
}

Test(users, preferences_are_patched) {
    static const struct step steps[] = {{0, change}, {0, me}, {0, NULL}};
    fixture_run(f, steps);
    ptn_bytes v;
    cr_assert(ptn_map_get(data_of(f, f->n_answers - 2, 200), "preferences", &v));
    cr_expect_not(has(v, "theme"), "null removes");
    cr_expect(map_str_is(v, "lang", "en"));
    cr_expect_not(has(v, "big"));
    cr_expect_eq(code_of(f, 2), PTN_CODE_VALIDATION_FAILED);
    cr_expect_eq(code_of(f, 3), PTN_CODE_VALIDATION_FAILED);
    cr_expect_eq(code_of(f, 4), PTN_CODE_PAYLOAD_TOO_LARGE);
    cr_assert(ptn_map_get(data_of(f, 0, 200), "preferences", &v));
    cr_expect(map_str_is(v, "theme", "dark"));
    expect_no_hash(0);
}

static void family(ptn_ctx *c, struct fixture *x) {
    r[0] = request(c, x, PTN_MSG_ROUTE_USERS_FAMILY, "/api/v1/users/family", "", NULL);
    x->user = "carol";
    r[1] = request(c, x, PTN_MSG_ROUTE_USERS_FAMILY, "/api/v1/users/family", "", NULL);
}

Test(users, family_is_the_household_or_the_caller_alone) {
    static const struct step steps[] = {{0, family}, {0, NULL}};
    fixture_run(f, steps);
    ptn_bytes l = data_of(f, r[0], 200);
    cr_assert_eq(count_of(l), 2);
    cr_expect(map_str_is(element(l, 1), "id", "bob"));
    cr_expect_not(has(element(l, 1), "preferences"), "those are private");
    l = data_of(f, r[1], 200);
    cr_assert_eq(count_of(l), 1);
    cr_expect(map_str_is(element(l, 0), "id", "carol"));
}

static void list(ptn_ctx *c, struct fixture *x) {
    r[0] = request(c, x, PTN_MSG_ROUTE_ADMIN_USERS, "/api/v1/admin/users", "limit=3", NULL);
    r[1] = request(c, x, PTN_MSG_ROUTE_ADMIN_USERS, "/api/v1/admin/users", "limit=3&after=carol",
                   NULL);
    r[2] = request(c, x, PTN_MSG_ROUTE_ADMIN_USERS, "/api/v1/admin/users", "limit=201", NULL);
    r[3] = request(c, x, PTN_MSG_ROUTE_ADMIN_USERS, "/api/v1/admin/users", "limit=x", NULL);
}

Test(users, administrators_list_in_pages) {
    static const struct step steps[] = {{0, list}, {0, NULL}};
    fixture_run(f, steps);
    ptn_bytes v;
    cr_expect_eq(count_of(data_of(f, r[0], 200)), 3);
    cr_expect(map_str_is(page_of(f, r[0]), "next", "carol"));
    cr_expect_eq(count_of(data_of(f, r[1], 200)), 1);
    cr_assert(ptn_map_get(page_of(f, r[1]), "next", &v));
    cr_expect_eq(ptn_kind_of(v), PTN_KIND_NIL);
    cr_expect_eq(code_of(f, r[2]), PTN_CODE_VALIDATION_FAILED);
    cr_expect_eq(code_of(f, r[3]), PTN_CODE_VALIDATION_FAILED);
    cr_expect(has(details_of(f, r[3]), "limit"));
}

/* {username, password?, roles?} */
static ptn_buf *account(const char *name, const char *password, const char *role) {
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_pack_map(&w, 3);
    ptn_pack_key(&w, "username");
    ptn_pack_cstr(&w, name);
    ptn_pack_key(&w, "password");
    ptn_pack_cstr(&w, password);
    ptn_pack_key(&w, "roles");
    if (role == NULL) {
        ptn_pack_nil(&w);
    } else {
        ptn_pack_array(&w, 1);
        ptn_pack_cstr(&w, role);
    }
    return ptn_pack_finish(&w);
}

static unsigned add(ptn_ctx *c, struct fixture *x, ptn_buf *take_body) {
    return request(c, x, PTN_MSG_ROUTE_ADMIN_USER_ADD, "/api/v1/admin/users", "", take_body);
}

static void add_some(ptn_ctx *c, struct fixture *x) {
    r[0] = add(c, x, account("erika", "correct horse", "admin"));
    r[1] = add(c, x, account("sensor-7", NULL, "service"));
    r[2] = add(c, x, account("alice", NULL, NULL));
    r[3] = add(c, x, account("", NULL, NULL));
    r[4] = add(c, x, account("two words", NULL, NULL));
    r[5] = add(c, x, account("frank", "short", NULL));
    r[6] = add(c, x, account("frank", NULL, "emperor"));
    r[7] = add(c, x, NULL);
    r[8] = add(c, x, account("plain", NULL, NULL));
}

static void find_erika(ptn_ctx *c, struct fixture *x) {
    r[9] = ask_store(c, x, PTN_MSG_STORE_USER_BY_NAME, packed("s", "erika"));
    r[10] = ask_store(c, x, PTN_MSG_STORE_USER_BY_NAME, packed("s", "sensor-7"));
}

Test(users, accounts_are_made_and_checked) {
    static const struct step steps[] = {{0, add_some}, {0, find_erika}, {0, NULL}};
    fixture_run(f, steps);
    ptn_bytes u = data_of(f, r[0], 201), v;
    cr_expect(map_str_is(u, "username", "erika"));
    cr_expect(ptn_id_is_valid(text_at(u, "id")));
    cr_assert(ptn_map_get(u, "roles", &v));
    cr_assert_eq(count_of(v), 1);
    cr_expect(str_is(element(v, 0), "admin"));
    expect_no_hash(r[0]);
    (void)data_of(f, r[1], 201);
    cr_assert(ptn_map_get(data_of(f, r[8], 201), "roles", &v));
    cr_expect(str_is(element(v, 0), "user"), "the default role");
    cr_expect_eq(code_of(f, r[2]), PTN_CODE_CONFLICT);
    static const char *const field[] = {"username", "username", "password", "roles", "body"};
    for (unsigned i = 0; i < 5; i++) {
        cr_expect_eq(code_of(f, r[3 + i]), PTN_CODE_VALIDATION_FAILED, "request %u", i);
        cr_expect(has(details_of(f, r[3 + i]), field[i]), "details name %s", field[i]);
    }
    cr_assert_eq(f->answer[r[9]].type, PTN_MSG_STORE_USER);
    ptn_str hash = str_of(element(ptn_buf_bytes(f->answer[r[9]].buf), 2));
    cr_expect(password_verify(PTN_STR("correct horse"), hash));
    cr_expect_not(password_verify(PTN_STR("wrong horse"), hash));
    hash = str_of(element(ptn_buf_bytes(f->answer[r[10]].buf), 2));
    cr_expect_eq(hash.n, 0);
    cr_expect_not(password_verify(PTN_STR(""), hash), "no password: no login");
}

static void add_too_many(ptn_ctx *c, struct fixture *x) {
    char name[16];
    for (unsigned i = 0; i < 4; i++) {
        (void)snprintf(name, sizeof name, "user%u", i);
        r[i] = add(c, x, account(name, "correct horse", NULL));
    }
}

Test(users, concurrent_hashings_are_bounded) {
    static const struct step steps[] = {{0, add_too_many}, {0, NULL}};
    f->users.hashings_max = 2;
    fixture_run(f, steps);
    (void)data_of(f, r[0], 201);
    (void)data_of(f, r[1], 201);
    cr_expect_eq(code_of(f, r[2]), PTN_CODE_OVERLOADED);
    cr_expect_eq(code_of(f, r[3]), PTN_CODE_OVERLOADED);
}

Test(users, names_passwords_households) {
    char long_name[80];
    memset(long_name, 'x', sizeof long_name);
    cr_expect_null(username_check(PTN_STR("a")));
    cr_expect_null(username_check(PTN_STR("J\xc3\xbcrgen.M-7_x")));
    cr_expect_null(username_check((ptn_str){long_name, 64}));
    cr_expect_not_null(username_check((ptn_str){long_name, 65}));
    cr_expect_not_null(username_check(PTN_STR("")));
    cr_expect_not_null(username_check(PTN_STR("a\tb")));
    cr_expect_not_null(username_check(PTN_STR("a\0b")));
    cr_expect_not_null(username_check(PTN_STR("a\xff")));
    cr_expect_null(password_check(PTN_STR("12345678")));
    cr_expect_not_null(password_check(PTN_STR("1234567")));
    cr_expect_not_null(household_check(PTN_STR("")));
    cr_expect_null(household_check(PTN_STR("home")));
    static const struct step steps[] = {{0, NULL}};
    fixture_run(f, steps);
}
