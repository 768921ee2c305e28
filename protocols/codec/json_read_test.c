/* SPDX-License-Identifier: Apache-2.0
 *
 * json_read_test.c - JSON to msgpack: values byte by byte, refusals with reason and place, limits,
 * shared cases.
 */
#include "protocols/codec/json_diagnose.h"
#include "protocols/codec/testing.h"

static void expect_packed(ptn_str json, ptn_bytes expected) {
    int err;
    ptn_codec_error error = {0};
    uint8_t *tight =
        testing_tight_copy(json.p, json.n); /* no padding: the parser must bring its own */
    ptn_buf *b = testing_pack_json((ptn_str){(const char *)tight, json.n}, NULL, &err, &error);
    cr_assert_not_null(b, "%.*s: %s", (int)json.n, json.p, error.what);
    ptn_bytes got = ptn_buf_bytes(b);
    cr_expect(got.n == expected.n && memcmp(got.p, expected.p, got.n) == 0, "%.*s", (int)json.n,
              json.p);
    cr_expect_eq(ptn_msgpack_validate(got, NULL, NULL), 0, "%.*s", (int)json.n, json.p);
    cr_expect_not(ptn__json_diagnose((ptn_str){(const char *)tight, json.n}, 32, &error), "%s",
                  error.what);
    (void)ptn_buf_unref(b);
    free(tight);
}

static void expect_refused(ptn_str json, const char *part, size_t offset) {
    int err;
    ptn_codec_error error = {0};
    uint8_t *tight = testing_tight_copy(json.p, json.n);
    ptn_buf *b = testing_pack_json((ptn_str){(const char *)tight, json.n}, NULL, &err, &error);
    cr_assert_null(b, "%.*s was accepted", (int)json.n, json.p);
    cr_expect_eq(err, -PTN_EPROTO);
    cr_expect(strstr(error.what, part) != NULL, "%.*s: %s", (int)json.n, json.p, error.what);
    cr_expect_eq(error.offset, offset, "%.*s: at %zu", (int)json.n, json.p, error.offset);
    free(tight);
}

#define J(literal) PTN_STR(literal)

Test(json_read, values) {
    expect_packed(J("null"), BYTES(0xc0));
    expect_packed(J(" true\n"), BYTES(0xc3));
    expect_packed(J("\tfalse\r"), BYTES(0xc2));
    expect_packed(J("\"\""), BYTES(0xa0));
    expect_packed(J("\"a\""), BYTES(0xa1, 'a'));
    expect_packed(J("[]"), BYTES(0x90));
    expect_packed(J("{}"), BYTES(0x80));
    expect_packed(J("[1,[2,{}],\"x\"]"), BYTES(0x93, 1, 0x92, 2, 0x80, 0xa1, 'x'));
    expect_packed(J("{\"a\":{\"b\":[null]},\"c\":true}"),
                  BYTES(0x82, 0xa1, 'a', 0x81, 0xa1, 'b', 0x91, 0xc0, 0xa1, 'c', 0xc3));
    expect_packed(J("{\"a\":1,\"a\":2}"), BYTES(0x82, 0xa1, 'a', 1, 0xa1, 'a', 2));
    expect_packed(J("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
                  BYTES(0xa8, '"', '\\', '/', '\b', '\f', '\n', '\r', '\t'));
    expect_packed(J("\"\\u20ac\\ud83c\\udf7a\""),
                  BYTES(0xa7, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x8d, 0xba));
    expect_packed(J("\"\\\\u0000\""), BYTES(0xa6, '\\', 'u', '0', '0', '0', '0'));
}

Test(json_read, integers_stay_integers) {
    expect_packed(J("0"), BYTES(0));
    expect_packed(J("-0"), BYTES(0));
    expect_packed(J("127"), BYTES(127));
    expect_packed(J("128"), BYTES(0xcc, 128));
    expect_packed(J("-32"), BYTES(0xe0));
    expect_packed(J("-33"), BYTES(0xd0, 0xdf));
    expect_packed(J("65536"), BYTES(0xce, 0, 1, 0, 0));
    expect_packed(J("9223372036854775807"), BYTES(0xcf, 0x7f, 255, 255, 255, 255, 255, 255, 255));
    expect_packed(J("9223372036854775808"), BYTES(0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0));
    expect_packed(J("18446744073709551615"), BYTES(0xcf, 255, 255, 255, 255, 255, 255, 255, 255));
    expect_packed(J("-9223372036854775808"), BYTES(0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0));
    expect_refused(J("18446744073709551616"), "64 bits", 0);
    expect_refused(J("[1,-9223372036854775809]"), "64 bits", 3);
    expect_refused(J("{\"n\": 123456789012345678901234567890}"), "64 bits", 6);
}

Test(json_read, floats_stay_floats) {
    expect_packed(J("1.0"), BYTES(0xcb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0));
    expect_packed(J("1e0"), BYTES(0xcb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0));
    expect_packed(J("-0.0"), BYTES(0xcb, 0x80, 0, 0, 0, 0, 0, 0, 0));
    expect_packed(J("0.1"), BYTES(0xcb, 0x3f, 0xb9, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a));
    expect_packed(J("1.7976931348623157e308"),
                  BYTES(0xcb, 0x7f, 0xef, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff));
    expect_packed(J("5e-324"), BYTES(0xcb, 0, 0, 0, 0, 0, 0, 0, 1));
    expect_packed(J("1e-999"), BYTES(0xcb, 0, 0, 0, 0, 0, 0, 0, 0));
    expect_packed(J("0.0e999"), BYTES(0xcb, 0, 0, 0, 0, 0, 0, 0, 0));
    expect_refused(J("1e999"), "range of a double", 0);
    expect_refused(J("[0.5, -1e309]"), "range of a double", 6);
    expect_refused(J("1.8e308"), "range of a double", 0);
    expect_refused(J("0.0001e99999999999999999999"), "range of a double", 0);
}

Test(json_read, refuses_with_reason_and_place) {
    expect_refused((ptn_str){NULL, 0}, "empty", 0);
    expect_refused(J("  \n"), "empty", 3);
    expect_refused(J("\xef\xbb\xbf{}"), "byte order mark", 0);
    expect_refused(J("nul"), "unknown word", 0);
    expect_refused(J("[true, yes]"), "unexpected character", 7);
    expect_refused(J("[1,]"), "unexpected character", 3);
    expect_refused(J("[1 2]"), "comma or ]", 3);
    expect_refused(J("{\"a\":1 \"b\":2}"), "comma or }", 7);
    expect_refused(J("{\"a\" 1}"), "colon", 5);
    expect_refused(J("{a:1}"), "member name", 1);
    expect_refused(J("{1:1}"), "member name", 1);
    expect_refused(J("{"), "not closed", 1);
    expect_refused(J("[1"), "not closed", 2);
    expect_refused(J("[1}"), "comma or ]", 2);
    expect_refused(J("{\"a\":"), "ends where a value", 5);
    expect_refused(J("[\"abc"), "not closed", 1);
    expect_refused(J("{} {}"), "follows", 3);
    expect_refused(J("1\0"), "follows", 1);
    expect_refused(J("01"), "starts with 0", 0);
    expect_refused(J("-"), "minus", 1);
    expect_refused(J("1."), "decimal point", 2);
    expect_refused(J("1e+"), "exponent", 3);
    expect_refused(J("\"a\nb\""), "control character", 2);
    expect_refused(J("\"a\\x\""), "unknown escape", 2);
    expect_refused(J("\"\\u12g4\""), "hexadecimal", 1);
    expect_refused(J("NaN"), "unexpected character", 0);
}

Test(json_read, refuses_what_is_not_clean_text) {
    expect_refused(J("\"a\\u0000b\""), "NUL", 2);
    expect_refused(J("{\"k\\u0000\":1}"), "NUL", 3);
    expect_refused(J("[\"\\\\\",\"0123456789012345678901234567890\\u0000\"]"), "NUL", 38);
    expect_refused(J("\"\\ud800\""), "low", 1);
    expect_refused(J("\"\\udc00\""), "low surrogate", 1);
    expect_refused(J("\"\\ud800\\u0041\""), "high surrogate", 1);
    expect_refused(J("\"\\ud83d\\ud83d\\ude00\""), "high surrogate", 1);
    expect_refused(J("\"\xff\""), "UTF-8", 1);
    expect_refused(J("\"ab\xed\xa0\x80\""), "UTF-8", 3);
    expect_refused(J("{\"\xc0\x80\":1}"), "UTF-8", 2);
}

/* depth containers around a 1. */
static int convert_nested(size_t depth, bool is_map, const ptn_codec_limits *limits,
                          ptn_codec_error *reterr) {
    static char json[16384];
    size_t n = 0;
    for (size_t i = 0; i < depth; i++) {
        memcpy(json + n, is_map ? "{\"\":" : "[", is_map ? 4 : 1);
        n += is_map ? 4 : 1;
    }
    json[n++] = '1';
    memset(json + n, is_map ? '}' : ']', depth);
    int err;
    ptn_buf *b = testing_pack_json((ptn_str){json, n + depth}, limits, &err, reterr);
    (void)ptn_buf_unref(b);
    return err;
}

Test(json_read, depth_limit_is_exact) {
    ptn_codec_limits three = {.depth_max = 3}, most = {.depth_max = UINT32_MAX};
    ptn_codec_error error = {0};
    for (int map = 0; map <= 1; map++) {
        cr_expect_eq(convert_nested(3, map, &three, &error), 0);
        cr_expect_eq(convert_nested(4, map, &three, &error), -PTN_EPROTO);
        cr_expect(strstr(error.what, "deeply") != NULL, "%s", error.what);
        cr_expect_eq(error.offset, map ? 12 : 3);
        cr_expect_eq(convert_nested(32, map, NULL, &error), 0);
        cr_expect_eq(convert_nested(33, map, NULL, &error), -PTN_EPROTO);
        cr_expect_eq(convert_nested(1024, map, &most, &error), 0);
        cr_expect_eq(convert_nested(1025, map, &most, &error), -PTN_EPROTO);
        cr_expect(strstr(error.what, "deeply") != NULL, "%s", error.what);
        cr_expect_eq(convert_nested(3000, map, &most, &error), -PTN_EPROTO);
    }
}

Test(json_read, size_limit_is_exact) {
    ptn_codec_limits ten = {.bytes_max = 10};
    ptn_codec_error error = {0};
    int err;
    ptn_buf *b = testing_pack_json(J("[1,2,3,45]"), &ten, &err, &error);
    cr_expect_not_null(b);
    (void)ptn_buf_unref(b);
    b = testing_pack_json(J("[1,2,3,456]"), &ten, &err, &error);
    cr_expect_null(b);
    cr_expect_eq(err, -PTN_ETOOBIG);
    cr_expect(strstr(error.what, "too big") != NULL);
}

/* A failed writer is reported as such, not as bad JSON. */
Test(json_read, output_errors_are_passed_on) {
    ptn_json_parser *p = ptn_json_parser_new();
    ptn_codec_error error = {0};
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_bin(&w, (ptn_bytes){(const uint8_t *)"", (size_t)PTN_BUF_BYTES_MAX + 1});
    cr_expect_eq(ptn_json_to_msgpack(p, J("[\"x\"]"), NULL, &w, &error), -PTN_ETOOBIG);
    ptn_pack_abort(&w);
    ptn_json_parser_free(p);
    ptn_json_parser_free(NULL);
}

/* One parser after good, bad, large and small texts; w keeps what was there before. */
Test(json_read, parser_is_reusable_and_appends) {
    ptn_json_parser *p = ptn_json_parser_new();
    ptn_codec_limits limits = {.bytes_max = 4u << 20};
    size_t n = 3u << 20;
    char *large = malloc(n);
    cr_assert_not_null(large);
    memset(large, 'x', n);
    large[0] = large[n - 1] = '"';
    for (int round = 0; round < 3; round++) {
        ptn_pack w;
        ptn_pack_init(&w, 0);
        ptn_pack_array(&w, 3);
        cr_expect_eq(ptn_json_to_msgpack(p, J("[\"first\"]"), NULL, &w, NULL), 0);
        cr_expect_eq(ptn_json_to_msgpack(p, (ptn_str){large, n}, &limits, &w, NULL), 0);
        cr_expect_eq(ptn_json_to_msgpack(p, J("2"), NULL, &w, NULL), 0);
        ptn_buf *b = ptn_pack_finish(&w);
        cr_assert_not_null(b);
        cr_expect_eq(ptn_msgpack_validate(ptn_buf_bytes(b), &limits, NULL), 0);
        (void)ptn_buf_unref(b);
        ptn_pack_init(&w, 0);
        cr_expect_eq(ptn_json_to_msgpack(p, J("[1,"), NULL, &w, NULL), -PTN_EPROTO);
        ptn_pack_abort(&w);
    }
    free(large);
    ptn_json_parser_free(p);
}

/* simdjson's element counts saturate at 2^24-1: around that border, arrays and maps are counted
 * right. */
Test(json_read, counts_beyond_the_tape) {
    ptn_json_parser *p = ptn_json_parser_new();
    ptn_codec_limits limits = {.bytes_max = 64u << 20};
    size_t cap = (UINT32_C(1) << 25) + 64;
    char *json = malloc(cap);
    cr_assert_not_null(json);
    for (uint32_t n = (1u << 24) - 2; n <= (1u << 24) + 1; n++) {
        size_t len = 0;
        memcpy(json, "[[],", 4);
        for (len = 4; len < 2 * (size_t)n + 2; len += 2)
            memcpy(json + len, "1,", 2);
        json[len - 1] = ']';
        ptn_pack w;
        ptn_pack_init(&w, 0);
        cr_assert_eq(ptn_json_to_msgpack(p, (ptn_str){json, len}, &limits, &w, NULL), 0);
        ptn_buf *b = ptn_pack_finish(&w);
        ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(b));
        uint32_t count;
        cr_assert(ptn_unpack_array(&u, &count));
        cr_expect_eq(count, n);
        (void)ptn_buf_unref(b);
    }
    free(json);
    ptn_json_parser_free(p);
}

/* A text cut at every byte is refused, and the second look at it finds the reason. */
Test(json_read, cut_at_every_byte) {
    ptn_str whole =
        J("{\"a\":[1,2.5e3,-300,\"t\\u00e9\\n\xe2\x82\xac\",null,true],\"b\":{\"c\":false}}");
    for (size_t n = 0; n < whole.n; n++) {
        uint8_t *tight = testing_tight_copy(whole.p, n);
        ptn_str part = {(const char *)tight, n};
        int err;
        ptn_codec_error error = {0};
        cr_expect_null(testing_pack_json(part, NULL, &err, &error), "cut at %zu", n);
        cr_expect(ptn__json_diagnose(part, 32, &error), "cut at %zu", n);
        cr_expect_leq(error.offset, n);
        free(tight);
    }
}

/* ---- the shared cases ------------------------------------------------------------------------ */

/* wire.md section 2 refuses NUL in strings, so these two valid texts are refused. */
static bool has_nul_exception(const char *name) {
    return strcmp(name, "y_object_escaped_null_in_key.json") == 0 ||
           strcmp(name, "y_string_null_escape.json") == 0;
}

Test(json_read, shared_cases) {
    char path[512], file[1024];
    if (!testing_data_path("json", path, sizeof(path)))
        cr_skip_test("no sample data at %s", path);
    DIR *d = opendir(path);
    cr_assert_not_null(d);
    int seen = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strstr(e->d_name, ".json") == NULL)
            continue;
        (void)snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
        size_t n;
        uint8_t *raw = testing_read_file(file, &n), *json = testing_tight_copy(raw, n);
        free(raw);
        int err;
        ptn_codec_error error = {0};
        ptn_codec_limits limits = {.depth_max = 1024};
        ptn_buf *b = testing_pack_json((ptn_str){(const char *)json, n}, &limits, &err, &error);
        bool must_pass = e->d_name[0] == 'y' && !has_nul_exception(e->d_name);
        if (must_pass)
            cr_expect_not_null(b, "%s: %s", e->d_name, error.what);
        else if (e->d_name[0] != 'i')
            cr_expect_null(b, "%s was accepted", e->d_name);
        ptn_codec_error second;
        cr_expect_eq(ptn__json_diagnose((ptn_str){(const char *)json, n}, 1024, &second), b == NULL,
                     "%s: both parsers agree", e->d_name);
        (void)ptn_buf_unref(b);
        free(json);
        seen++;
    }
    (void)closedir(d);
    cr_assert_gt(seen, 100);
}
