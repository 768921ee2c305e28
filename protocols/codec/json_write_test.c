/* SPDX-License-Identifier: Apache-2.0
 *
 * json_write_test.c - msgpack to JSON: exact text, escapes at every place, numbers there and back,
 * bad input.
 */
#include <math.h>

#include "protocols/codec/testing.h"

static void expect_json(ptn_bytes b, const char *expected) {
    ptn_out o = {0};
    uint8_t *tight = testing_tight_copy(b.p, b.n);
    cr_expect_eq(ptn_msgpack_to_json((ptn_bytes){tight, b.n}, &o), 0, "%s", expected);
    cr_expect(o.len == strlen(expected) && memcmp(o.p, expected, o.len) == 0, "%s: got %.*s",
              expected, (int)o.len, (const char *)o.p);
    ptn_out_done(&o);
    free(tight);
}

static void expect_refused(ptn_bytes b, const char *what) {
    ptn_out o = {0};
    ptn_out_put(&o, "before", 6);
    uint8_t *tight = testing_tight_copy(b.p, b.n);
    cr_expect_eq(ptn_msgpack_to_json((ptn_bytes){tight, b.n}, &o), -PTN_EPROTO, "%s", what);
    cr_expect_eq(o.len, 6, "%s: the output is as before", what);
    cr_expect_eq(o.err, 0);
    ptn_out_done(&o);
    free(tight);
}

Test(json_write, values) {
    expect_json(BYTES(0xc0), "null");
    expect_json(BYTES(0xc3), "true");
    expect_json(BYTES(0xc2), "false");
    expect_json(BYTES(0x90), "[]");
    expect_json(BYTES(0x80), "{}");
    expect_json(BYTES(0xa0), "\"\"");
    expect_json(BYTES(0x93, 1, 0x92, 0x80, 0x90, 0xa1, 'x'), "[1,[{},[]],\"x\"]");
    expect_json(BYTES(0x82, 0xa1, 'a', 0x81, 0xa0, 0x91, 0xc0, 0xa1, 'b', 0x80),
                "{\"a\":{\"\":[null]},\"b\":{}}");
    expect_json(BYTES(0xdc, 0, 2, 0xdf, 0, 0, 0, 0, 0xd9, 1, 'q'), "[{},\"q\"]");
}

Test(json_write, integers) {
    expect_json(BYTES(0), "0");
    expect_json(BYTES(9), "9");
    expect_json(BYTES(10), "10");
    expect_json(BYTES(0x63), "99");
    expect_json(BYTES(0x64), "100");
    expect_json(BYTES(0xff), "-1");
    expect_json(BYTES(0xcd, 0x27, 0x0f), "9999");
    expect_json(BYTES(0xcf, 0x7f, 255, 255, 255, 255, 255, 255, 255), "9223372036854775807");
    expect_json(BYTES(0xcf, 255, 255, 255, 255, 255, 255, 255, 255), "18446744073709551615");
    expect_json(BYTES(0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0), "-9223372036854775808");
}

static void expect_double(double v, const char *expected) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    uint8_t b[9] = {0xcb};
    for (int i = 0; i < 8; i++)
        b[1 + i] = (uint8_t)(bits >> (56 - 8 * i));
    expect_json((ptn_bytes){b, 9}, expected);
}

Test(json_write, floats_keep_a_mark_and_are_shortest) {
    expect_double(0.0, "0.0");
    expect_double(-0.0, "-0.0");
    expect_double(1.0, "1.0");
    expect_double(-1.5, "-1.5");
    expect_double(0.1, "0.1");
    expect_double(0.1 + 0.2, "0.30000000000000004");
    expect_double(100000.0, "100000.0");
    expect_double(9007199254740993.0, "9007199254740992.0");
    expect_double(1e16, "10000000000000000.0");
    expect_double(1e17, "1e+17");
    expect_double(1e22, "1e+22");
    expect_double(1e-6, "0.000001");
    expect_double(1.25e-7, "1.25e-07");
    expect_double(5e-324, "5e-324");
    expect_double(1.7976931348623157e308, "1.7976931348623157e+308");
    expect_double(-1.7976931348623157e308, "-1.7976931348623157e+308");
    expect_double(NAN, "null");
    expect_double(INFINITY, "null");
    expect_double(-INFINITY, "null");
    expect_json(BYTES(0xca, 0x40, 0x20, 0, 0), "2.5");
    expect_json(BYTES(0xca, 0x7f, 0x80, 0, 0), "null");
}

/* Doubles of every size come back bit by bit through JSON. */
Test(json_write, doubles_round_trip) {
    ptn_json_parser *p = ptn_json_parser_new();
    ptn_out o = {0};
    uint64_t seed = 88172645463325252u;
    for (int i = 0; i < 200000; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        double v;
        memcpy(&v, &seed, sizeof(v));
        if (!isfinite(v))
            continue;
        ptn_pack w;
        ptn_pack_init(&w, 16);
        ptn_pack_double(&w, i % 2 ? v : fmod(v, 1e6));
        ptn_buf *b = ptn_pack_finish(&w);
        ptn_out_clear(&o);
        cr_assert_eq(ptn_msgpack_to_json(ptn_buf_bytes(b), &o), 0);
        ptn_pack_init(&w, 16);
        cr_assert_eq(ptn_json_to_msgpack(p, (ptn_str){(const char *)o.p, o.len}, NULL, &w, NULL),
                     0);
        ptn_buf *back = ptn_pack_finish(&w);
        cr_assert(ptn_buf_bytes(back).n == 9 &&
                      memcmp(ptn_buf_bytes(back).p, ptn_buf_bytes(b).p, 9) == 0,
                  "%.*s", (int)o.len, (const char *)o.p);
        (void)ptn_buf_unref(b);
        (void)ptn_buf_unref(back);
    }
    ptn_out_done(&o);
    ptn_json_parser_free(p);
}

Test(json_write, bin_is_base64) {
    expect_json(BYTES(0xc4, 0), "\"\"");
    expect_json(BYTES(0xc4, 1, 'f'), "\"Zg==\"");
    expect_json(BYTES(0xc4, 2, 'f', 'o'), "\"Zm8=\"");
    expect_json(BYTES(0xc4, 3, 'f', 'o', 'o'), "\"Zm9v\"");
    expect_json(BYTES(0xc5, 0, 6, 'f', 'o', 'o', 'b', 'a', 'r'), "\"Zm9vYmFy\"");
    expect_json(BYTES(0xc4, 4, 0xfb, 0xff, 0xfe, 0xff), "\"+//+/w==\"");
}

Test(json_write, refuses_what_json_cannot_say) {
    expect_refused((ptn_bytes){NULL, 0}, "nothing");
    expect_refused(BYTES(0xc1), "0xc1");
    expect_refused(BYTES(0xd4, 1, 2), "ext");
    expect_refused(BYTES(0x81, 1, 2), "key");
    expect_refused(BYTES(0x92, 1), "cut");
    expect_refused(BYTES(1, 2), "two values");
    expect_refused(BYTES(0x93, 1, 2, 0xa2, 'a'), "cut in a string");
    uint8_t deep[1026];
    memset(deep, 0x91, sizeof(deep));
    deep[1025] = 0xc0;
    expect_refused((ptn_bytes){deep, 1026}, "too deep");
    ptn_out o = {0};
    cr_expect_eq(ptn_msgpack_to_json((ptn_bytes){deep + 1, 1025}, &o), 0, "the deepest that fits");
    cr_expect_eq(o.len, 2 * 1024 + 4);
    ptn_out_done(&o);
}

/* ---- strings --------------------------------------------------------------------------------- */

/* The obvious writer, to hold ours against. */
static size_t slow_string(char *q, const uint8_t *p, size_t n) {
    static const char plain[] = "\b\t\n\f\r\"\\", letters[] = "btnfr\"\\";
    char *start = q;
    *q++ = '"';
    for (size_t i = 0; i < n; i++) {
        const char *named = p[i] == 0 ? NULL : strchr(plain, p[i]);
        if (named != NULL) {
            *q++ = '\\';
            *q++ = letters[named - plain];
        } else if (p[i] < 0x20) {
            q += snprintf(q, 7, "\\u%04x", p[i]);
        } else {
            *q++ = (char)p[i];
        }
    }
    *q++ = '"';
    return (size_t)(q - start);
}

/* As a member of an array: alone, before a text that can be read with it, and behind one. */
static void expect_in_arrays(const uint8_t *p, size_t n, const char *expected, size_t expected_n) {
    static const char other[] = "\"0123456789abcdef\"";
    for (int place = 0; place < 3; place++) {
        char text[4096];
        ptn_pack w;
        ptn_pack_init(&w, 16);
        ptn_pack_array(&w, place == 0 ? 1 : 2);
        if (place == 2)
            ptn_pack_cstr(&w, "0123456789abcdef");
        ptn_pack_str(&w, (ptn_str){(const char *)p, n});
        if (place == 1)
            ptn_pack_cstr(&w, "0123456789abcdef");
        ptn_buf *b = ptn_pack_finish(&w);
        (void)snprintf(text, sizeof text, "[%s%s%.*s%s%s]", place == 2 ? other : "",
                       place == 2 ? "," : "", (int)expected_n, expected, place == 1 ? "," : "",
                       place == 1 ? other : "");
        expect_json(ptn_buf_bytes(b), text);
        (void)ptn_buf_unref(b);
    }
}

static void expect_string(const uint8_t *p, size_t n) {
    char expected[4096];
    size_t expected_n = slow_string(expected, p, n);
    uint8_t *tight = testing_tight_copy(p, n);
    ptn_out o = {0};
    ptn_json_string(&o, (ptn_str){(const char *)tight, n});
    cr_assert(o.len == expected_n && memcmp(o.p, expected, o.len) == 0, "%.*s: got %.*s",
              (int)expected_n, expected, (int)o.len, (const char *)o.p);
    ptn_out_done(&o);
    free(tight);
    if (n < 36)
        expect_in_arrays(p, n, expected, expected_n);
}

Test(json_write, strings_of_every_length_with_an_escape_at_every_place) {
    static const uint8_t bad[] = {'"', '\\', 0, 1, 0x1f, '\n', '\t', '\r', '\b', '\f'};
    static const uint8_t good[] = {' ', '!', '#', '[', ']', '/', 0x7f};
    uint8_t text[80] = {0};
    for (size_t n = 0; n < sizeof(text); n++) {
        for (size_t i = 0; i < n; i++)
            text[i] = (uint8_t)('a' + i % 26);
        expect_string(text, n);
        for (size_t i = 0; i < n; i++) {
            for (size_t k = 0; k < sizeof(bad) + sizeof(good); k++) {
                text[i] = k < sizeof(bad) ? bad[k] : good[k - sizeof(bad)];
                expect_string(text, n);
            }
            text[i] = 'z';
        }
    }
    for (int c = 0; c < 0x80; c++) {
        memset(text, c, sizeof(text));
        expect_string(text, sizeof(text));
    }
}

Test(json_write, text_beyond_ascii_passes_and_bad_bytes_are_replaced) {
    expect_json(BYTES_OF("\xa5\xe2\x82\xac\xc3\xa9"), "\"\xe2\x82\xac\xc3\xa9\"");
    expect_json(BYTES_OF("\xd9\x15 \xe2\x82\xac 0123456789 \xc3\xa9\n\xc3"
                         "\xa9"),
                "\" \xe2\x82\xac 0123456789 \xc3\xa9\\n\xc3\xa9\"");
    expect_json(BYTES_OF("\xa3"
                         "a\xff"
                         "b"),
                "\"a\xef\xbf\xbd"
                "b\"");
    expect_json(BYTES_OF("\xa4\"\xc3\n\xa9"), "\"\\\"\xef\xbf\xbd\\n\xef\xbf\xbd\"");
    expect_json(BYTES_OF("\xa3\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    expect_json(BYTES_OF("\x93\xa1\xff\xa2\xc3\xa9\xb0"
                         "0123456789abcdef"),
                "[\"\xef\xbf\xbd\",\"\xc3\xa9\",\"0123456789abcdef\"]");
    expect_json(BYTES_OF("\xd9\x14"
                         "0123456789012345678\xff"),
                "\"0123456789012345678\xef\xbf\xbd\"");
}

Test(json_write, long_strings_with_escapes) {
    size_t n = 50000;
    uint8_t *text = malloc(n);
    cr_assert_not_null(text);
    memset(text, 1, n);
    ptn_out o = {0};
    ptn_json_string(&o, (ptn_str){(const char *)text, n});
    cr_assert_eq(o.len, 6 * n + 2);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(memcmp(o.p + 1 + 6 * i, "\\u0001", 6), 0);
    ptn_out_done(&o);
    free(text);
}

/* ---- the output ------------------------------------------------------------------------------ */

Test(out, appends_keeps_memory_and_is_sticky) {
    ptn_out o = {0};
    ptn_out_put(&o, NULL, 0);
    cr_assert_eq(o.len, 0);
    for (int i = 0; i < 1000; i++)
        ptn_out_put(&o, "0123456789", 10);
    cr_assert_eq(o.len, 10000);
    cr_assert_eq(memcmp(o.p + 9990, "0123456789", 10), 0);
    const uint8_t *p = o.p;
    ptn_out_clear(&o);
    ptn_out_put(&o, "x", 1);
    cr_assert(o.p == p && o.len == 1);
    cr_assert_null(ptn_out_reserve(&o, PTN_BUF_BYTES_MAX));
    cr_assert_eq(o.err, -PTN_ETOOBIG);
    ptn_out_put(&o, "y", 1);
    cr_assert_eq(o.len, 1);
    cr_assert_eq(ptn_msgpack_to_json(BYTES(0xc0), &o), -PTN_ETOOBIG);
    cr_assert_eq(o.len, 1);
    ptn_out_clear(&o);
    cr_assert_not_null(ptn_out_reserve(&o, PTN_BUF_BYTES_MAX));
    cr_assert_null(ptn_out_reserve(&o, SIZE_MAX));
    ptn_out_done(&o);
    ptn_out_done(&o);
}

/* Six bytes of JSON per byte of text: the output stops at its bound instead of growing on. */
Test(out, too_big_is_an_error_and_leaves_the_output_alone) {
    uint32_t n = PTN_BUF_BYTES_MAX / 5;
    uint8_t *b = malloc(n + 5);
    cr_assert_not_null(b);
    memcpy(b,
           (const uint8_t[]){0xdb, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
                             (uint8_t)n},
           5);
    memset(b + 5, 1, n);
    ptn_out o = {0};
    ptn_out_put(&o, "before", 6);
    cr_assert_eq(ptn_msgpack_to_json((ptn_bytes){b, n + 5}, &o), -PTN_ETOOBIG);
    cr_assert_eq(o.len, 6);
    ptn_out_done(&o);
    free(b);
}
