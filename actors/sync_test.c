/* SPDX-License-Identifier: Apache-2.0
 *
 * sync_test.c - versions of records, edits with a condition, and synchronisation of clients that
 * were offline.
 */
#include "actors/domain_testing.h"
#include "actors/sync.h"

static struct fixture *f; /* large: not on the stack */
static unsigned r[64];    /* requests of the test */
static char conv[64];     /* the conversation of the test */

static void setup(void) {
    f = calloc(1, sizeof *f);
    cr_assert_not_null(f);
    fixture_open(f, 2);
}
static void teardown(void) {
    fixture_close(f);
    free(f);
}
TestSuite(sync, .init = setup, .fini = teardown, .timeout = 60);

/* alice makes a conversation with bob. */
static void create(ptn_ctx *c, struct fixture *x) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_map(&w, 2);
    ptn_pack_key(&w, "title");
    ptn_pack_cstr(&w, "First");
    ptn_pack_key(&w, "members");
    ptn_pack_array(&w, 1);
    ptn_pack_cstr(&w, "bob");
    r[0] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, "/conversations", "", ptn_pack_finish(&w));
}

static void remember(ptn_ctx *c, struct fixture *x) {
    ptn_str id;
    (void)c;
    cr_assert(ptn_map_get_str(data_of(x, r[0], 201), "id", &id));
    (void)snprintf(conv, sizeof conv, "%.*s", (int)id.n, id.p);
}

static unsigned conv_request(ptn_ctx *c, struct fixture *x, uint32_t route, const char *tail,
                             ptn_buf *take_body) {
    char path[160];
    (void)snprintf(path, sizeof path, "/conversations/%s%s", conv, tail);
    return request(c, x, route, path, "", take_body);
}

static int64_t int_at(ptn_bytes map, const char *key) {
    int64_t v = 0;
    cr_assert(ptn_map_get_int(map, key, &v), "no integer %s", key);
    return v;
}

static ptn_bytes at(ptn_bytes map, const char *key) {
    ptn_bytes v = {0};
    cr_assert(ptn_map_get(map, key, &v), "no %s", key);
    return v;
}

/* How often this event went to user.<id>. */
static unsigned told(const char *user, const char *type) {
    char topic[64];
    unsigned n = 0;
    (void)snprintf(topic, sizeof topic, "user.%s", user);
    for (unsigned i = 0; i < f->n_published; i++) {
        ptn_bytes p = ptn_buf_bytes(f->published[i].buf);
        n += f->published[i].type == PTN_MSG_TOPIC_PUBLISH && str_is(element(p, 0), topic) &&
             map_str_is(element(p, 1), "type", type);
    }
    return n;
}

/* ---- conditions ----------------------------------------------------------------------------- */

static void rename_it(ptn_ctx *c, struct fixture *x) {
    r[1] = conv_request(c, x, PTN_MSG_ROUTE_CONV_GET, "", NULL);
    r[2] = conv_request(c, x, PTN_MSG_ROUTE_MSG_SEND_TO, "/messages", texts("content", "m", NULL));
    x->if_match = "\"1.0\"";
    r[3] = conv_request(c, x, PTN_MSG_ROUTE_CONV_PATCH, "", texts("title", "Second", NULL));
    r[4] = conv_request(c, x, PTN_MSG_ROUTE_CONV_PATCH, "", texts("title", "Third", NULL));
    x->if_match = "W/\"2.1\"";
    r[5] = conv_request(c, x, PTN_MSG_ROUTE_CONV_PATCH, "", texts("title", "Third", NULL));
    x->if_match = "*";
    x->user = "bob";
    r[6] = conv_request(c, x, PTN_MSG_ROUTE_CONV_PATCH, "", texts("title", NULL, NULL));
    x->if_match = NULL;
    r[7] = conv_request(c, x, PTN_MSG_ROUTE_CONV_PATCH, "", texts("title", "\x01", NULL));
    r[8] = conv_request(c, x, PTN_MSG_ROUTE_CONV_PATCH, "", texts("name", "x", NULL));
    x->user = "carol";
    r[9] = conv_request(c, x, PTN_MSG_ROUTE_CONV_PATCH, "", texts("title", "mine", NULL));
    x->user = "alice";
    r[10] =
        conv_request(c, x, PTN_MSG_ROUTE_MEMBERS_ADD, "/members", texts("userId", "dave", NULL));
}
static void look(ptn_ctx *c, struct fixture *x) {
    r[11] = conv_request(c, x, PTN_MSG_ROUTE_CONV_GET, "", NULL);
}

Test(sync, a_title_changes_on_the_version_that_was_seen) {
    static const struct step steps[] = {
        {0, create}, {0, remember}, {0, rename_it}, {0, look}, {0, NULL}};
    fixture_run(f, steps);
    cr_expect(ptn_str_eqz(header_of(f, r[1], "etag"), "\"1.0\""));
    cr_expect_eq(int_at(data_of(f, r[1], 200), "version"), 1);
    ptn_bytes v = data_of(f, r[3], 200);
    cr_expect(map_str_is(v, "title", "Second"), "a message is not part of the record");
    cr_expect_eq(int_at(v, "version"), 2);
    cr_expect(ptn_str_eqz(header_of(f, r[3], "etag"), "\"2.1\""));
    for (unsigned i = 4; i <= 5; i++) {
        cr_expect_eq(code_of(f, r[i]), PTN_CODE_CONFLICT, "request %u", i);
        cr_expect(map_str_is(at(details_of(f, r[i]), "current"), "title", "Second"));
    }
    cr_expect_eq(ptn_kind_of(at(data_of(f, r[6], 200), "title")), PTN_KIND_NIL);
    cr_expect_eq(code_of(f, r[7]), PTN_CODE_VALIDATION_FAILED);
    cr_expect_eq(code_of(f, r[8]), PTN_CODE_VALIDATION_FAILED);
    cr_expect_eq(code_of(f, r[9]), PTN_CODE_NOT_FOUND);
    cr_expect_eq(int_at(data_of(f, r[10], 200), "version"), 4, "members are part of the record");
    cr_expect(ptn_str_eqz(header_of(f, r[11], "etag"), "\"4.1\""));
    cr_expect_eq(told("alice", "conversation.updated"), 2);
    cr_expect_eq(told("bob", "conversation.updated"), 2);
}

static void see_prefs(ptn_ctx *c, struct fixture *x) {
    r[1] = request(c, x, PTN_MSG_ROUTE_USERS_ME, "/users/me", "", NULL);
}
static void change_prefs(ptn_ctx *c, struct fixture *x) {
    const char *path = "/users/me/preferences";
    x->if_match = "\"1.0\"";
    r[2] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", texts("theme", "dark", NULL));
    r[3] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", texts("theme", "light", NULL));
    x->if_match = "\"nonsense\"";
    r[4] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", texts("theme", "light", NULL));
    x->if_match = NULL;
    r[5] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, path, "", texts("lang", "en", NULL));
}

Test(sync, preferences_change_on_the_version_that_was_seen) {
    static const struct step steps[] = {{0, see_prefs}, {0, change_prefs}, {0, NULL}};
    fixture_run(f, steps);
    cr_expect(ptn_str_eqz(header_of(f, r[1], "etag"), "\"1.0\""));
    cr_expect(ptn_str_eqz(header_of(f, r[2], "etag"), "\"2.0\""));
    for (unsigned i = 3; i <= 4; i++) {
        cr_expect_eq(code_of(f, r[i]), PTN_CODE_CONFLICT, "request %u", i);
        cr_expect(
            map_str_is(at(at(details_of(f, r[i]), "current"), "preferences"), "theme", "dark"));
    }
    cr_expect(map_str_is(at(data_of(f, r[5], 200), "preferences"), "theme", "dark"));
    cr_expect(ptn_str_eqz(header_of(f, r[5], "etag"), "\"3.0\""));
    cr_expect_eq(told("alice", "preferences.updated"), 2);
}
