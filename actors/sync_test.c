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

/* ---- POST /sync ----------------------------------------------------------------------------- */

/* A list of items under way, as a client writes it. */
static ptn_pack list;
static uint32_t n_list;

static void list_begin(void) {
    ptn_pack_init(&list, 1024);
    n_list = 0;
}

/* An item from texts; baseVersion >= 0 is given too.  take_value: of the member named `key`. */
static void item(const char *id, const char *kind, const char *timestamp, int64_t base,
                 const char *key, ptn_buf *take_value) {
    n_list++;
    ptn_pack_map(&list, 4u + (base >= 0) + (key != NULL));
    ptn_pack_key(&list, "id");
    ptn_pack_cstr(&list, id);
    ptn_pack_key(&list, "kind");
    ptn_pack_cstr(&list, kind);
    ptn_pack_key(&list, "timestamp");
    ptn_pack_cstr(&list, timestamp);
    ptn_pack_key(&list, "conversationId");
    ptn_pack_cstr(&list, conv);
    if (base >= 0) {
        ptn_pack_key(&list, "baseVersion");
        ptn_pack_int(&list, base);
    }
    if (key != NULL) {
        ptn_pack_key(&list, key);
        ptn_pack_raw(&list, ptn_buf_bytes(take_value));
    }
    ptn_buf_unref(take_value);
}

static ptn_buf *text(const char *z) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_cstr(&w, z);
    return ptn_pack_finish(&w);
}

static unsigned push(ptn_ctx *c, struct fixture *x) {
    ptn_buf *items = ptn_pack_finish(&list);
    ptn_pack w;
    ptn_pack_init(&w, 1024);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "items");
    ptn_pack_array(&w, n_list);
    ptn_pack_raw(&w, ptn_buf_bytes(items));
    ptn_buf_unref(items);
    return request(c, x, PTN_MSG_ROUTE_SYNC_PUSH, "/sync", "", ptn_pack_finish(&w));
}

static ptn_bytes result(unsigned i, uint32_t k) {
    return element(at(data_of(f, i, 200), "results"), k);
}

static void expect_outcomes(unsigned i, const char *outcomes) {
    ptn_bytes all = at(data_of(f, i, 200), "results");
    cr_assert_eq(count_of(all), strlen(outcomes));
    for (uint32_t k = 0; outcomes[k] != '\0'; k++) {
        ptn_str s = str_of(at(element(all, k), "outcome"));
        cr_expect_eq(s.p[0], outcomes[k], "request %u item %u: %.*s", i, k, (int)s.n, s.p);
    }
}

#define PAST "1969-12-31T00:00:00.000Z"
#define M1 "01ARZ3NDEKTSV4RRFFQ69G0001"
#define M2 "01ARZ3NDEKTSV4RRFFQ69G0002"
#define E1 "1970-01-01T00:00:00.001Z"
#define E2 "1970-01-01T00:00:00.002Z"
#define E3 "1970-01-01T00:00:00.003Z"

/* What alice did offline: good and bad items of all kinds, in one list. */
static void mixed(void) {
    list_begin();
    item(M1, "message", E1, -1, "content", text("one"));
    item("not an id", "message", E1, -1, "content", text("two"));
    item(M2, "message", E1, -1, "content", text("three"));
    item("r1", "read", E1, -1, "messageId", text(M2));
    item("p1", "preferences", E1, -1, "preferences", texts("theme", "dark", NULL));
    item("p2", "preferences", E2, -1, "preferences", texts("lang", "en", NULL));
    item("t1", "conversation", E2, -1, "title", text("Second"));
    item("x1", "nothing", E2, -1, NULL, NULL);
    item("t2", "conversation", E1, -1, "title", text("Late"));
}
static void push_mixed(ptn_ctx *c, struct fixture *x) {
    mixed();
    r[20] = push(c, x);
}
static void push_again(ptn_ctx *c, struct fixture *x) {
    mixed();
    r[21] = push(c, x);
    r[3] = conv_request(c, x, PTN_MSG_ROUTE_MSG_LIST, "/messages", NULL);
}

Test(sync, a_list_is_applied_item_by_item_and_once) {
    static const struct step steps[] = {{0, create},     {0, remember}, {0, push_mixed},
                                        {0, push_again}, {0, look},     {0, see_prefs},
                                        {0, NULL}};
    fixture_run(f, steps);
    expect_outcomes(r[20], "araaaaars");
    expect_outcomes(r[21], "drdddddrs");
    ptn_bytes m = at(result(r[20], 2), "data");
    cr_expect_eq(int_at(m, "seq"), 2, "the bad one in between took no number");
    cr_expect(map_str_is(m, "content", "three"));
    cr_expect(map_str_is(result(r[20], 1), "code", "validation_failed"));
    cr_expect_eq(ptn_kind_of(at(at(result(r[20], 1), "details"), "id")), PTN_KIND_STR);
    cr_expect_eq(int_at(at(result(r[20], 3), "data"), "seq"), 2);
    cr_expect(map_str_is(at(result(r[20], 5), "data"), "theme", "dark"));
    cr_expect(map_str_is(at(result(r[20], 5), "data"), "lang", "en"));
    cr_expect_eq(int_at(result(r[20], 5), "version"), 3);
    cr_expect_eq(ptn_kind_of(at(at(result(r[20], 7), "details"), "kind")), PTN_KIND_STR);
    cr_expect(map_str_is(at(result(r[20], 8), "data"), "title", "Second"),
              "the loser hears who won");
    cr_expect_eq(count_of(data_of(f, r[3], 200)), 2);
    cr_expect(map_str_is(data_of(f, r[11], 200), "title", "Second"));
    cr_expect_eq(int_at(data_of(f, r[11], 200), "version"), 2);
    cr_expect_eq(int_at(result(r[21], 5), "version"), 3, "twice changes nothing");
    cr_expect_eq(told("bob", "conversation.updated"), 1);
    cr_expect_eq(told("alice", "preferences.updated"), 1);
}

/* Two devices, both offline.  The clock of the second one runs far ahead. */
static void first_device(ptn_ctx *c, struct fixture *x) {
    list_begin();
    item("a1", "preferences", E3, -1, "preferences", texts("theme", "dark", NULL));
    item("a2", "conversation", E3, 1, "title", text("A"));
    r[1] = push(c, x);
}
static void second_device(ptn_ctx *c, struct fixture *x) {
    list_begin();
    item("b1", "preferences", E2, -1, "preferences", texts("theme", "light", NULL));
    item("b2", "conversation", E3, 1, "title", text("B"));
    item("b3", "preferences", E3, 1, "preferences", texts("theme", "light", NULL));
    item("b4", "preferences", "2999-01-01T00:00:00.000Z", -1, "preferences",
         texts("theme", "blue", NULL));
    r[2] = push(c, x);
}
static void online_edit(ptn_ctx *c, struct fixture *x) {
    r[3] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, "/users/me/preferences", "",
                   texts("theme", "green", NULL));
}
static void second_device_again(ptn_ctx *c, struct fixture *x) {
    list_begin();
    item("b1", "preferences", E2, -1, "preferences", texts("theme", "light", NULL));
    item("b4", "preferences", "2999-01-01T00:00:00.000Z", -1, "preferences",
         texts("theme", "blue", NULL));
    item("b4", "preferences", "2999-01-01T00:00:00.000Z", -1, "preferences",
         texts("theme", "red", NULL));
    r[4] = push(c, x);
}

Test(sync, the_later_edit_wins_and_the_loser_hears_it) {
    static const struct step steps[] = {{0, create},       {0, remember},
                                        {0, first_device}, {0, second_device},
                                        {0, online_edit},  {0, second_device_again},
                                        {0, NULL}};
    fixture_run(f, steps);
    expect_outcomes(r[1], "aa");
    expect_outcomes(r[2], "scca");
    cr_expect(map_str_is(at(result(r[2], 0), "data"), "theme", "dark"));
    cr_expect(map_str_is(at(result(r[2], 1), "data"), "title", "A"));
    cr_expect(map_str_is(result(r[2], 1), "code", "conflict"));
    cr_expect_eq(int_at(result(r[2], 2), "version"), 2);
    cr_expect(map_str_is(at(data_of(f, r[3], 200), "preferences"), "theme", "green"));
    expect_outcomes(r[4], "sdr");
    cr_expect(map_str_is(at(result(r[4], 1), "data"), "theme", "green"),
              "a clock that runs ahead wins once");
    cr_expect(map_str_is(result(r[4], 2), "code", "idempotency_mismatch"));
}

static void refused(ptn_ctx *c, struct fixture *x) {
    list_begin();
    for (unsigned i = 0; i < 101; i++)
        item("i", "read", E1, -1, NULL, NULL);
    r[1] = push(c, x);
    r[2] = request(c, x, PTN_MSG_ROUTE_SYNC_PUSH, "/sync", "", texts("items", "x", NULL));
    r[3] = request(c, x, PTN_MSG_ROUTE_SYNC_PUSH, "/sync", "", NULL);
    char *big = calloc(1, 600000);
    cr_assert_not_null(big);
    memset(big, 'x', 599999);
    r[4] = request(c, x, PTN_MSG_ROUTE_SYNC_PUSH, "/sync", "", texts("items", big, NULL));
    free(big);
    list_begin();
    for (unsigned i = 0; i < 17; i++) {
        char id[8];
        (void)snprintf(id, sizeof id, "p%u", i);
        item(id, "preferences", E1, -1, "preferences", texts("a", "b", NULL));
    }
    r[5] = push(c, x);
    x->user = "carol";
    list_begin();
    item(M1, "message", E1, -1, "content", text("let me in"));
    item("t", "conversation", E1, -1, "title", text("mine"));
    r[6] = push(c, x);
    (void)snprintf(conv, sizeof conv, "current");
    list_begin();
    item(M2, "message", E1, -1, "content", text("to myself"));
    r[7] = push(c, x);
}

Test(sync, lists_are_bounded_and_strangers_learn_nothing) {
    static const struct step steps[] = {{0, create}, {0, remember}, {0, refused}, {0, NULL}};
    fixture_run(f, steps);
    for (unsigned i = 1; i <= 3; i++)
        cr_expect_eq(code_of(f, r[i]), PTN_CODE_VALIDATION_FAILED, "request %u", i);
    cr_expect_eq(code_of(f, r[4]), PTN_CODE_PAYLOAD_TOO_LARGE);
    expect_outcomes(r[5], "aaaaaaaaaaaaaaaar");
    expect_outcomes(r[6], "rr");
    cr_expect(map_str_is(result(r[6], 0), "code", "not_found"));
    expect_outcomes(r[7], "a");
    cr_expect(map_str_is(at(result(r[7], 0), "data"), "conversationId", "carol"));
}

/* The store's answer comes too late: nobody knows whether the list was applied. */
static void listen_in(ptn_ctx *c, struct fixture *x) {
    char topic[96];
    (void)snprintf(topic, sizeof topic, "conversation.%s", conv);
    r[5] = ask(c, x, x->d.conversation[ptn_shard(ptn_str_of(conv), x->d.workers)],
               PTN_MSG_TOPIC_ATTACH, packed("ssini", topic, "bob", (int64_t)1, (int64_t)0));
}
static void late_list(ptn_ctx *c, struct fixture *x) {
    x->store_delay_ns = 30 * PTN_MS;
    x->deadline_ns = 20 * PTN_MS;
    list_begin();
    item(M1, "message", E1, -1, "content", text("one"));
    item("t1", "conversation", E2, -1, "title", text("Late"));
    item("p1", "preferences", E1, -1, "preferences", texts("theme", "dark", NULL));
    item("x1", "nothing", E2, -1, NULL, NULL);
    r[6] = push(c, x);
    x->deadline_ns = 0;
}
static void late_list_again(ptn_ctx *c, struct fixture *x) {
    if (!x->answer[r[6]].ended || events_of(&x->hub[0]) == 0) {
        x->at--;
        return;
    }
    list_begin();
    item(M1, "message", E1, -1, "content", text("one"));
    item("t1", "conversation", E2, -1, "title", text("Late"));
    item("p1", "preferences", E1, -1, "preferences", texts("theme", "dark", NULL));
    r[7] = push(c, x);
    x->store_delay_ns = 0;
}
static void wait_for_again(ptn_ctx *c, struct fixture *x) {
    static unsigned rounds;
    (void)c;
    if (!x->answer[r[7]].ended || ++rounds < 50) /* the late answers have come too */
        x->at--;
}

Test(sync, a_list_without_an_answer_is_published_and_sent_again) {
    static const struct step steps[] = {
        {0, create},          {0, remember},       {0, listen_in}, {0, late_list},
        {0, late_list_again}, {0, wait_for_again}, {0, look},      {0, NULL}};
    fixture_run(f, steps);
    expect_outcomes(r[6], "rrrr");
    for (uint32_t k = 0; k < 3; k++) {
        cr_expect(map_str_is(result(r[6], k), "code", "timeout"));
        cr_expect(bool_of(at(result(r[6], k), "retryable")));
    }
    cr_expect(map_str_is(result(r[6], 3), "code", "validation_failed"));
    expect_outcomes(r[7], "ddd");
    expect_events(&f->hub[0], 1, 1);
    cr_expect(map_str_is(data_of(f, r[11], 200), "title", "Late"), "the owner has looked it up");
}

/* ---- GET /sync ------------------------------------------------------------------------------ */

static char token[256];
static unsigned n_pulls;

static unsigned pull(ptn_ctx *c, struct fixture *x, const char *since, unsigned limit) {
    char query[320];
    (void)snprintf(query, sizeof query, "limit=%u%s%s", limit, since[0] != '\0' ? "&since=" : "",
                   since);
    return request(c, x, PTN_MSG_ROUTE_SYNC_PULL, "/sync", query, NULL);
}

static void keep_token(ptn_ctx *c, struct fixture *x) {
    (void)c;
    ptn_str next = str_of(at(data_of(x, r[1], 200), "next"));
    (void)snprintf(token, sizeof token, "%.*s", (int)next.n, next.p);
}
static void pull_all(ptn_ctx *c, struct fixture *x) {
    r[1] = pull(c, x, "", 500);
}
static void pull_since(ptn_ctx *c, struct fixture *x) {
    r[1] = pull(c, x, token, 500);
}
static void send_three(ptn_ctx *c, struct fixture *x) {
    for (unsigned i = 0; i < 3; i++)
        (void)conv_request(c, x, PTN_MSG_ROUTE_MSG_SEND_TO, "/messages",
                           texts("content", "m", NULL));
}
static void as_bob(ptn_ctx *c, struct fixture *x) {
    (void)c;
    x->user = "bob";
}
static void as_alice(ptn_ctx *c, struct fixture *x) {
    (void)c;
    x->user = "alice";
}
static void drop_bob(ptn_ctx *c, struct fixture *x) {
    (void)conv_request(c, x, PTN_MSG_ROUTE_MEMBERS_REMOVE, "/members",
                       texts("userId", "bob", NULL));
}
static void add_bob(ptn_ctx *c, struct fixture *x) {
    (void)conv_request(c, x, PTN_MSG_ROUTE_MEMBERS_ADD, "/members", texts("userId", "bob", NULL));
}
static void read_last(ptn_ctx *c, struct fixture *x) {
    ptn_bytes m = at(data_of(x, r[1], 200), "messages");
    char path[128];
    ptn_str id = str_of(at(element(m, count_of(m) - 1), "id"));
    (void)snprintf(path, sizeof path, "/messages/%.*s/read", (int)id.n, id.p);
    (void)request(c, x, PTN_MSG_ROUTE_MSG_READ, path, "", NULL);
}

/* Conversations, messages, reads, removed; preferences when it is 1. */
static void expect_page(unsigned i, uint32_t convs, uint32_t msgs, uint32_t reads, uint32_t removed,
                        int preferences) {
    ptn_bytes d = data_of(f, i, 200);
    cr_expect_eq(count_of(at(d, "conversations")), convs, "pull %u: conversations", i);
    cr_expect_eq(count_of(at(d, "messages")), msgs, "pull %u: messages", i);
    cr_expect_eq(count_of(at(d, "reads")), reads, "pull %u: reads", i);
    cr_expect_eq(count_of(at(d, "removed")), removed, "pull %u: removed", i);
    cr_expect_eq(ptn_kind_of(at(d, "preferences")) == PTN_KIND_MAP, preferences, "pull %u", i);
}

static void expect_1(ptn_ctx *c, struct fixture *x) {
    (void)c, (void)x;
    expect_page(r[1], 1, 3, 0, 0, 1);
}
static void expect_nothing(ptn_ctx *c, struct fixture *x) {
    (void)c, (void)x;
    expect_page(r[1], 0, 0, 0, 0, 0);
}
static void expect_three_more(ptn_ctx *c, struct fixture *x) {
    (void)c, (void)x;
    expect_page(r[1], 0, 3, 1, 0, 0);
}
static void expect_removed(ptn_ctx *c, struct fixture *x) {
    (void)c, (void)x;
    expect_page(r[1], 0, 0, 0, 1, 0);
    cr_expect(str_is(element(at(data_of(f, r[1], 200), "removed"), 0), conv));
}
static void expect_all_again(ptn_ctx *c, struct fixture *x) {
    (void)c, (void)x;
    expect_page(r[1], 1, 6, 1, 0, 0);
}

static void deliver(ptn_ctx *c, struct fixture *x, const char *user, int64_t seq) {
    ptn_pack w;
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 2);
    ptn_pack_array(&w, 1);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, user);
    ptn_pack_cstr(&w, "phone");
    ptn_pack_cstr(&w, conv);
    ptn_pack_int(&w, seq);
    ptn_pack_int(&w, 0);
    ptn_pack_int(&w, seq);
    ptn_pack_int(&w, 1700000000000);
    (void)ask_store(c, x, PTN_MSG_STORE_FEED_ACK, ptn_pack_finish(&w));
}
static void deliver_two(ptn_ctx *c, struct fixture *x) {
    deliver(c, x, "bob", 2);
}
static void deliver_one(ptn_ctx *c, struct fixture *x) {
    deliver(c, x, "bob", 1);
}
static void expect_delivered(ptn_ctx *c, struct fixture *x) {
    (void)c, (void)x;
    expect_page(r[1], 0, 0, 0, 0, 0);
    ptn_bytes marks = at(data_of(f, r[1], 200), "deliveries");
    cr_assert_eq(count_of(marks), 1);
    cr_expect(str_is(at(element(marks, 0), "userId"), "bob"));
    cr_expect_eq(int_at(element(marks, 0), "seq"), 2);
    cr_expect(str_is(at(element(marks, 0), "deliveredAt"), "2023-11-14T22:13:20.000Z"));
}
static void expect_no_delivery(ptn_ctx *c, struct fixture *x) {
    (void)c, (void)x;
    cr_expect_eq(count_of(at(data_of(f, r[1], 200), "deliveries")), 0);
}

Test(sync, delivery_marks_come_once) {
    static const struct step steps[] = {
        {0, create},     {0, remember},    {0, send_three}, {0, pull_all},
        {0, keep_token}, {0, deliver_two}, {0, pull_since}, {0, expect_delivered},
        {0, keep_token}, {0, deliver_one}, {0, pull_since}, {0, expect_no_delivery},
        {0, NULL}};
    fixture_run(f, steps);
}

Test(sync, a_token_brings_what_changed_since) {
    static const struct step steps[] = {{0, create},     {0, remember},
                                        {0, send_three}, {0, as_bob},
                                        {0, pull_all},   {0, expect_1},
                                        {0, keep_token}, {0, read_last},
                                        {0, as_alice},   {0, send_three},
                                        {0, as_bob},     {0, pull_since},
                                        {0, keep_token}, {0, expect_three_more},
                                        {0, pull_since}, {0, expect_nothing},
                                        {0, keep_token}, {0, as_alice},
                                        {0, drop_bob},   {0, as_bob},
                                        {0, pull_since}, {0, expect_removed},
                                        {0, keep_token}, {0, as_alice},
                                        {0, add_bob},    {0, as_bob},
                                        {0, pull_since}, {0, expect_all_again},
                                        {0, NULL}};
    fixture_run(f, steps);
}

/* Pages of one while somebody writes: everything comes, and nothing for ever. */
static unsigned got_messages;
static int64_t last_seq;

static void next_page(ptn_ctx *c, struct fixture *x) {
    if (n_pulls > 0) {
        ptn_bytes d = data_of(x, r[1], 200), m = at(d, "messages");
        for (uint32_t i = 0; i < count_of(m); i++) {
            int64_t seq = int_at(element(m, i), "seq");
            cr_expect_eq(seq, last_seq + 1);
            last_seq = seq;
            got_messages++;
        }
        keep_token(c, x);
        if (!bool_of(at(d, "more"))) {
            return;
        }
    }
    x->user = "alice";
    (void)conv_request(c, x, PTN_MSG_ROUTE_MSG_SEND_TO, "/messages", texts("content", "m", NULL));
    x->user = "bob";
    r[1] = pull(c, x, token, 1);
    n_pulls++;
    x->at--; /* once more */
}

Test(sync, pages_are_whole_while_somebody_writes) {
    static const struct step steps[] = {{0, create},    {0, remember},   {0, send_three},
                                        {0, next_page}, {0, pull_since}, {0, NULL}};
    token[0] = '\0';
    n_pulls = 0;
    got_messages = 0;
    last_seq = 0;
    fixture_run(f, steps);
    cr_expect_geq(got_messages, 3);
    cr_expect_leq(n_pulls, 8);
    ptn_bytes m = at(data_of(f, r[1], 200), "messages");
    for (uint32_t i = 0; i < count_of(m); i++)
        cr_expect_eq(int_at(element(m, i), "seq"), ++last_seq);
    cr_expect_eq((unsigned)last_seq, 3 + n_pulls, "what came meanwhile comes in the next round");
}

static void bad_tokens(ptn_ctx *c, struct fixture *x) {
    static const char *const bad[] = {"x",
                                      "1",
                                      "1.2.3",
                                      "2.0.0.0.0.0.0.",
                                      "1.0.0.5.3.0.0.",
                                      "1.0.0.0.0.9.0.",
                                      "1.0.0.-2.0.0.0.",
                                      "1.9999999999999999999.0.0.0.0.0."};
    for (unsigned i = 0; i < PTN_ARRAY_LEN(bad); i++)
        r[10 + i] = pull(c, x, bad[i], 10);
    r[2] = pull(c, x, "1.7.abc.0.0.0.0.", 10);   /* an era that never was */
    r[3] = pull(c, x, "1.0.0.999.999.0.0.", 10); /* a change that never was */
    r[4] = request(c, x, PTN_MSG_ROUTE_SYNC_PULL, "/sync", "limit=0", NULL);
}

Test(sync, a_token_of_another_database_starts_over) {
    static const struct step steps[] = {{0, create}, {0, bad_tokens}, {0, NULL}};
    fixture_run(f, steps);
    for (unsigned i = 10; i < 18; i++)
        cr_expect_eq(code_of(f, r[i]), PTN_CODE_VALIDATION_FAILED, "token %u", i - 10);
    for (unsigned i = 2; i <= 3; i++) {
        cr_expect(bool_of(at(data_of(f, r[i], 200), "reset")));
        cr_expect_eq(count_of(at(data_of(f, r[i], 200), "conversations")), 1);
    }
    cr_expect_eq(code_of(f, r[4]), PTN_CODE_VALIDATION_FAILED);
}
