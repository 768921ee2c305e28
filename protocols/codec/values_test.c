/* SPDX-License-Identifier: Apache-2.0
 *
 * values_test.c - paths, queries, topics, ids, timestamps, and the common kinds of the catalogue.
 */
#include <postern/messages.h>

#include <criterion/criterion.h>

static void expect_segment(const char *path, unsigned i, const char *expected) {
    char buf[64];
    ptn_str s;
    bool ok = ptn_path_segment(ptn_str_of(path), i, buf, sizeof buf, &s);
    cr_assert_eq(ok, expected != NULL, "%s [%u]", path, i);
    if (ok)
        cr_assert(ptn_str_eqz(s, expected), "%s [%u] is %.*s", path, i, (int)s.n, s.p);
}

Test(values, path_segments) {
    expect_segment("/api/v1/topics/a.b/events", 1, "a.b");
    expect_segment("/api/v1/topics/a.b/events", 2, "events");
    expect_segment("/topics/x%20y", 1, "x y");
    expect_segment("/topics/%C3%A9", 1, "\xc3\xa9");
    expect_segment("/topics/", 1, "");
    expect_segment("/topics", 1, NULL);
    expect_segment("/topics/home%2Fdoor/events", 1, "home/door");
    expect_segment("/topics/%00", 1, NULL);
    expect_segment("/topics/%f", 1, NULL);
    expect_segment("/topics/%zz", 1, NULL);
    expect_segment("/topics/%ff", 1, NULL);
    expect_segment("", 0, NULL);
    char small[2];
    ptn_str s;
    cr_assert_not(ptn_path_segment(PTN_STR("/abc"), 0, small, sizeof small, &s));
}

Test(values, queries) {
    char buf[16];
    ptn_str s;
    int64_t v = 0;
    ptn_str q = PTN_STR("limit=20&after=-3&name=a+b%21&flag&bad=%4&long=12345678901234567890");
    cr_assert(ptn_query_get(q, "name", buf, sizeof buf, &s));
    cr_assert(ptn_str_eqz(s, "a b!"));
    cr_assert(ptn_query_get(q, "flag", buf, sizeof buf, &s));
    cr_assert_eq(s.n, 0);
    cr_assert_not(ptn_query_get(q, "bad", buf, sizeof buf, &s));
    cr_assert_not(ptn_query_get(q, "nam", buf, sizeof buf, &s));
    cr_assert_eq(ptn_query_int(q, "limit", 1, 20, &v), 1);
    cr_assert_eq(v, 20);
    cr_assert_eq(ptn_query_int(q, "limit", 1, 19, &v), -PTN_EINVAL);
    cr_assert_eq(ptn_query_int(q, "after", -10, 10, &v), 1);
    cr_assert_eq(v, -3);
    cr_assert_eq(ptn_query_int(q, "none", 0, 1, &v), 0);
    cr_assert_eq(ptn_query_int(q, "name", 0, 1, &v), -PTN_EINVAL);
    cr_assert_eq(ptn_query_int(q, "flag", 0, 1, &v), -PTN_EINVAL);
    cr_assert_eq(ptn_query_int(q, "long", 0, INT64_MAX, &v), -PTN_EINVAL);
    cr_assert_eq(ptn_query_int(q, "bad", 0, INT64_MAX, &v), -PTN_EINVAL, "malformed is not absent");
    cr_assert(ptn_query_has(q, "bad") && ptn_query_has(q, "flag") && !ptn_query_has(q, "nam"));
}

Test(values, topic_names) {
    static const char *const good[] = {"a", "a.b", "demo.t-1_x", "\xc3\xa9.x", "conversation.01"};
    static const char *const bad[] = {"",    ".", "a.",   ".a",   "a..b",   "a b",
                                      "a.*", "*", "a\tb", "\xff", "a.b\x7f"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(good); i++)
        cr_assert(ptn_topic_is_valid(ptn_str_of(good[i])), "%s", good[i]);
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++)
        cr_assert_not(ptn_topic_is_valid(ptn_str_of(bad[i])), "%s", bad[i]);
    char name[257];
    memset(name, 'a', sizeof name);
    cr_assert(ptn_topic_is_valid((ptn_str){name, 255}));
    cr_assert_not(ptn_topic_is_valid((ptn_str){name, 256}));
    cr_assert(ptn_pattern_is_valid(PTN_STR("a.*.**")));
    cr_assert(ptn_pattern_is_valid(PTN_STR("**")));
    cr_assert_not(ptn_pattern_is_valid(PTN_STR("**.a")));
    cr_assert_not(ptn_pattern_is_valid(PTN_STR("a.b*")));
    cr_assert_not(ptn_pattern_is_valid(PTN_STR("a.***")));
    cr_assert(ptn_topic_is_reserved(PTN_STR("user.1")));
    cr_assert(ptn_topic_is_reserved(PTN_STR("system")));
    cr_assert_not(ptn_topic_is_reserved(PTN_STR("systems.x")));
}

Test(values, patterns) {
    cr_assert(ptn_pattern_matches(PTN_STR("a.*"), PTN_STR("a.b")));
    cr_assert_not(ptn_pattern_matches(PTN_STR("a.*"), PTN_STR("a")));
    cr_assert_not(ptn_pattern_matches(PTN_STR("a.*"), PTN_STR("a.b.c")));
    cr_assert(ptn_pattern_matches(PTN_STR("a.**"), PTN_STR("a.b.c")));
    cr_assert_not(ptn_pattern_matches(PTN_STR("a.**"), PTN_STR("a")));
    cr_assert_not(ptn_pattern_matches(PTN_STR("**"), PTN_STR("user.7")));
    cr_assert(ptn_pattern_matches(PTN_STR("system.**"), PTN_STR("system.update.requested")));
}

Test(values, ulids_sort_by_time_and_are_valid) {
    char a[PTN_ULID_LEN + 1], b[PTN_ULID_LEN + 1];
    uint8_t ones[10], zeros[10] = {0};
    memset(ones, 0xff, sizeof ones);
    ptn_ulid_make(1469918176385, ones, a);
    ptn_ulid_make(1469918176386, zeros, b);
    cr_assert_eq(strncmp(a, "01ARYZ6S41", 10), 0, "%s", a); /* the specification's example time */
    cr_assert_lt(strcmp(a, b), 0);
    cr_assert(ptn_id_is_valid(ptn_str_of(a)));
    cr_assert(ptn_id_is_valid(PTN_STR("123e4567-e89b-12d3-a456-426614174000")));
    cr_assert_not(ptn_id_is_valid(PTN_STR("123e4567-e89b-12d3-a456-42661417400g")));
    cr_assert_not(ptn_id_is_valid(PTN_STR("81ARYZ6S41TSV4RRFFQ69G5FAV")));
    cr_assert_not(ptn_id_is_valid(PTN_STR("01ARYZ6S41TSV4RRFFQ69G5FAU")));
    cr_assert_not(ptn_id_is_valid(PTN_STR("")));
}

static void expect_time(const char *text, int64_t ms) {
    int64_t v;
    cr_assert(ptn_timestamp_parse(ptn_str_of(text), &v), "%s", text);
    cr_assert_eq(v, ms, "%s: %lld", text, (long long)v);
}

Test(values, timestamps) {
    char out[PTN_TIMESTAMP_LEN + 1];
    ptn_timestamp_format(0, out);
    cr_assert_str_eq(out, "1970-01-01T00:00:00.000Z");
    ptn_timestamp_format(951827696789, out);
    cr_assert_str_eq(out, "2000-02-29T12:34:56.789Z");
    ptn_timestamp_format(951827696007, out); /* of the same second; then of the next */
    cr_assert_str_eq(out, "2000-02-29T12:34:56.007Z");
    ptn_timestamp_format(951827697000, out);
    cr_assert_str_eq(out, "2000-02-29T12:34:57.000Z");
    for (int64_t ms = 0; ms < INT64_C(253402300799999); ms += INT64_C(86400000) * 13 + 12345678) {
        int64_t back;
        ptn_timestamp_format(ms, out);
        cr_assert(ptn_timestamp_parse((ptn_str){out, PTN_TIMESTAMP_LEN}, &back));
        cr_assert_eq(back, ms);
    }
    expect_time("2000-02-29T12:34:56Z", 951827696000);
    expect_time("2000-02-29T12:34:56.7891234Z", 951827696789);
    expect_time("2000-02-29T14:34:56.7+02:00", 951827696700);
    expect_time("2000-02-29t10:04:56.7-02:30", 951827696700);
    static const char *const bad[] = {"",
                                      "2000-02-30T00:00:00Z",
                                      "2001-02-29T00:00:00Z",
                                      "2000-13-01T00:00:00Z",
                                      "2000-02-29T24:00:00Z",
                                      "2000-02-29T12:34:56",
                                      "2000-02-29T12:34:56.Z",
                                      "2000-02-29 12:34:56Z",
                                      "2000-02-29T12:34:56+2:00",
                                      "20000-2-29T12:34:56Z"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++) {
        int64_t v;
        cr_assert_not(ptn_timestamp_parse(ptn_str_of(bad[i]), &v), "%s", bad[i]);
    }
}

Test(values, requests_survive_packing) {
    static const uint8_t trace[16] = {1, 2, 3}, body[] = {0x81, 0xa1, 'a', 0x01};
    ptn_request in = {
        .method = PTN_PATCH,
        .path = PTN_STR("/api/v1/users/me"),
        .query = PTN_STR("x=1"),
        .trace_id = {trace, sizeof trace},
        .protocol = PTN_PROTO_ZMQ,
        .flags = PTN_REQ_ADMIN_LISTENER,
        .principal = {.user = PTN_STR("u1"), .name = PTN_STR("ann"), .roles = 3, .expires_ms = 99}};
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_request_begin(&w, &in);
    ptn_pack_raw(&w, (ptn_bytes){body, sizeof body});
    ptn_buf *b = ptn_pack_finish(&w);
    ptn_request out;
    cr_assert(ptn_request_unpack(ptn_buf_bytes(b), &out));
    cr_assert_eq(out.method, PTN_PATCH);
    cr_assert(ptn_str_eq(out.path, in.path) && ptn_str_eq(out.query, in.query));
    cr_assert(ptn_str_eqz(out.principal.name, "ann"));
    cr_assert_eq(out.principal.session.n, 0);
    cr_assert_eq(out.principal.roles, 3);
    cr_assert_eq(out.body.n, sizeof body);
    cr_assert_eq(out.headers.n, 0);
    cr_assert_eq(memcmp(out.trace_id.p, trace, 16), 0);
    ptn_bytes cut = ptn_buf_bytes(b);
    for (cut.n--; cut.n > 0; cut.n--)
        cr_assert_not(ptn_request_unpack(cut, &out));
    ptn_buf_unref(b);
}

Test(values, publications_survive_packing) {
    static const uint8_t data[] = {0x81, 0xa1, 'a', 0x01};
    ptn_publish_call in = {.topic = PTN_STR("a.b"),
                           .user = PTN_STR("u1"),
                           .durability = PTN_DURABILITY_SYNCED,
                           .key = PTN_STR("k"),
                           .data = {data, sizeof data}};
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_publish_pack(&w, &in);
    ptn_buf *b = ptn_pack_finish(&w);
    ptn_publish_call out;
    cr_assert(ptn_publish_unpack(ptn_buf_bytes(b), &out));
    cr_assert(ptn_str_eq(out.topic, in.topic) && ptn_str_eq(out.user, in.user) &&
              ptn_str_eq(out.key, in.key));
    cr_assert_eq(out.durability, in.durability);
    cr_assert(out.data.n == sizeof data && memcmp(out.data.p, data, sizeof data) == 0);
    ptn_bytes cut = ptn_buf_bytes(b);
    for (cut.n--; cut.n > 0; cut.n--)
        cr_assert_not(ptn_publish_unpack(cut, &out));
    ptn_buf_unref(b);
    in.data =
        (ptn_bytes){(const uint8_t *)"\xc0", 1}; /* null is what a request without a body has */
    ptn_pack_init(&w, 64);
    ptn_publish_pack(&w, &in);
    b = ptn_pack_finish(&w);
    cr_assert(ptn_publish_unpack(ptn_buf_bytes(b), &out) && out.data.n == 0);
    ptn_buf_unref(b);
    for (unsigned i = 0; i < PTN_DURABILITY_DEFAULT; i++) {
        enum ptn_durability d;
        cr_assert(ptn_durability_of(ptn_str_of(ptn_durability_name(i)), &d) && d == i);
        cr_assert_not(ptn_durability_of(PTN_STR("hope"), &d));
    }
    cr_assert_null(ptn_durability_name(PTN_DURABILITY_DEFAULT));
}

Test(values, shards_are_stable_and_spread) {
    uint32_t hits[4] = {0};
    cr_assert_eq(ptn_shard(PTN_STR("anything"), 1), 0);
    for (int64_t i = 0; i < 4000; i++) {
        char id[PTN_ULID_LEN + 1];
        uint8_t random[10] = {(uint8_t)i, (uint8_t)(i >> 8)};
        ptn_ulid_make(1700000000000 + i, random, id);
        unsigned s = ptn_shard(ptn_str_of(id), 4);
        cr_assert_eq(s, ptn_shard(ptn_str_of(id), 4));
        hits[s]++;
    }
    for (int i = 0; i < 4; i++)
        cr_assert(hits[i] > 800 && hits[i] < 1200, "%u", hits[i]);
}
