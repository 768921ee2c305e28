/* SPDX-License-Identifier: Apache-2.0
 *
 * unpack_test.c - the reader: every form, wrong kinds, every cut, lookups, and the shared msgpack
 * cases.
 */
#include <msgpack.h>

#include "protocols/codec/testing.h"

/* Every getter; returns how many took the value, and checks that the others left the cursor alone.
 */
static int getters_that_take(ptn_bytes b) {
    int taken = 0;
    bool flag;
    int64_t i;
    uint64_t un;
    double d;
    ptn_str s;
    ptn_bytes bin;
    uint32_t n;
    for (int which = 0; which < 8; which++) {
        ptn_unpack u = ptn_unpack_of(b);
        bool took = which == 0   ? ptn_unpack_nil(&u)
                    : which == 1 ? ptn_unpack_bool(&u, &flag)
                    : which == 2 ? ptn_unpack_int(&u, &i)
                    : which == 3 ? ptn_unpack_uint(&u, &un)
                    : which == 4 ? ptn_unpack_double(&u, &d)
                    : which == 5 ? ptn_unpack_str(&u, &s)
                    : which == 6 ? ptn_unpack_bin(&u, &bin)
                                 : ptn_unpack_array(&u, &n) || ptn_unpack_map(&u, &n);
        cr_assert(u.p <= u.end);
        cr_assert(took || u.p == b.p, "getter %d moved without taking", which);
        taken += took;
    }
    return taken;
}

Test(unpack, kinds) {
    const struct {
        ptn_bytes b;
        enum ptn_kind kind;
        int taken;
    } cases[] = {
        {{NULL, 0}, PTN_KIND_END, 0},
        {BYTES(0xc0), PTN_KIND_NIL, 1},
        {BYTES(0xc1), PTN_KIND_END, 0},
        {BYTES(0xc2), PTN_KIND_BOOL, 1},
        {BYTES(0xc3), PTN_KIND_BOOL, 1},
        {BYTES(0x00), PTN_KIND_INT, 3},
        {BYTES(0x7f), PTN_KIND_INT, 3},
        {BYTES(0xe0), PTN_KIND_INT, 2},
        {BYTES(0xff), PTN_KIND_INT, 2},
        {BYTES(0xd0, 0x80), PTN_KIND_INT, 2},
        {BYTES(0xd0, 0x7f), PTN_KIND_INT, 3},
        {BYTES(0xcf, 0x7f, 255, 255, 255, 255, 255, 255, 255), PTN_KIND_INT, 3},
        {BYTES(0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0), PTN_KIND_UINT, 2},
        {BYTES(0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0), PTN_KIND_INT, 2},
        {BYTES(0xca, 0x3f, 0x80, 0, 0), PTN_KIND_FLOAT, 1},
        {BYTES(0xcb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0), PTN_KIND_FLOAT, 1},
        {BYTES(0xa0), PTN_KIND_STR, 1},
        {BYTES(0xd9, 1, 'a'), PTN_KIND_STR, 1},
        {BYTES(0xc4, 0), PTN_KIND_BIN, 1},
        {BYTES(0x90), PTN_KIND_ARRAY, 1},
        {BYTES(0x80), PTN_KIND_MAP, 1},
        {BYTES(0xdc, 0, 1, 0xc0), PTN_KIND_ARRAY, 1},
        {BYTES(0xdf, 0, 0, 0, 1, 0xa0, 0xc0), PTN_KIND_MAP, 1},
        {BYTES(0xd4, 1, 2), PTN_KIND_EXT, 0},
        {BYTES(0xd8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), PTN_KIND_EXT, 0},
        {BYTES(0xc7, 0, 1), PTN_KIND_EXT, 0},
        /* counts that the rest cannot hold */
        {BYTES(0x91), PTN_KIND_END, 0},
        {BYTES(0x81, 0xa0), PTN_KIND_END, 0},
        {BYTES(0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0), PTN_KIND_END, 0},
        {BYTES(0xdb, 0xff, 0xff, 0xff, 0xff, 'a'), PTN_KIND_END, 0},
        {BYTES(0xd4, 1), PTN_KIND_END, 0},
        {BYTES(0xd4), PTN_KIND_END, 0},
    };
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        uint8_t *tight = testing_tight_copy(cases[i].b.p, cases[i].b.n);
        ptn_bytes b = {tight, cases[i].b.n};
        cr_expect_eq(ptn_kind_of(b), cases[i].kind, "case %zu", i);
        cr_expect_eq(getters_that_take(b), cases[i].taken, "case %zu", i);
        ptn_unpack u = ptn_unpack_of(b);
        ptn_bytes raw;
        bool is_whole = cases[i].kind != PTN_KIND_END;
        cr_expect_eq(ptn_unpack_any(&u, &raw), is_whole, "case %zu", i);
        cr_expect(!is_whole || (raw.p == tight && raw.n == b.n), "case %zu", i);
        free(tight);
    }
}

Test(unpack, numbers_convert_only_when_they_fit) {
    int64_t i = 5;
    uint64_t un = 5;
    double d = 5;
    ptn_unpack u = ptn_unpack_of(BYTES(0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0));
    cr_assert_not(ptn_unpack_int(&u, &i));
    cr_assert_eq(i, 5);
    cr_assert(ptn_unpack_uint(&u, &un));
    cr_assert_eq(un, UINT64_C(1) << 63);
    u = ptn_unpack_of(BYTES(0xff));
    cr_assert_not(ptn_unpack_uint(&u, &un));
    cr_assert(ptn_unpack_double(&u, &d));
    cr_assert_eq(d, -1.0);
    u = ptn_unpack_of(BYTES(0xcf, 255, 255, 255, 255, 255, 255, 255, 255));
    cr_assert(ptn_unpack_double(&u, &d));
    cr_assert_eq(d, 18446744073709551616.0);
    u = ptn_unpack_of(BYTES(0xca, 0x40, 0x20, 0, 0));
    cr_assert_not(ptn_unpack_int(&u, &i));
    cr_assert(ptn_unpack_double(&u, &d));
    cr_assert_eq(d, 2.5);
    u = ptn_unpack_of(BYTES(0xd1, 0x80, 0x00, 0xd2, 0x80, 0, 0, 0));
    cr_assert(ptn_unpack_int(&u, &i));
    cr_assert_eq(i, INT16_MIN);
    cr_assert(ptn_unpack_int(&u, &i));
    cr_assert_eq(i, INT32_MIN);
}

Test(unpack, str_or_nil) {
    ptn_str s;
    ptn_unpack u = ptn_unpack_of(BYTES(0xc0, 0xa1, 'a', 0x01));
    cr_assert(ptn_unpack_str_or_nil(&u, &s) && s.n == 0);
    cr_assert(ptn_unpack_str_or_nil(&u, &s) && s.n == 1);
    cr_assert_not(ptn_unpack_str_or_nil(&u, &s));
}

/* A message with every kind in it, cut at every byte: never whole, never out of bounds, never
 * moved. */
Test(unpack, cut_at_every_byte) {
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_map(&w, 4);
    ptn_pack_key(&w, "numbers");
    ptn_pack_array(&w, 5);
    for (int shift = 0; shift < 64; shift += 15)
        ptn_pack_uint(&w, UINT64_C(1) << shift);
    ptn_pack_key(&w, "float");
    ptn_pack_double(&w, 1.5);
    ptn_pack_key(&w, "text of more than 31 bytes, so a longer header");
    ptn_pack_bin(&w, BYTES(1, 2, 3));
    ptn_pack_key(&w, "nested");
    ptn_pack_raw(&w, BYTES(0x91, 0x91, 0x81, 0xa1, 'k', 0xd7, 5, 1, 2, 3, 4, 5, 6, 7, 8));
    ptn_buf *b = ptn_pack_finish(&w);
    ptn_bytes whole = ptn_buf_bytes(b), value;
    ptn_unpack u = ptn_unpack_of(whole);
    cr_assert(ptn_unpack_any(&u, NULL));
    cr_assert(u.p == u.end);
    for (size_t n = 0; n < whole.n; n++) {
        uint8_t *tight = testing_tight_copy(whole.p, n);
        u = ptn_unpack_of((ptn_bytes){tight, n});
        cr_assert_not(ptn_unpack_any(&u, NULL), "cut at %zu", n);
        cr_assert(u.p == tight);
        (void)getters_that_take((ptn_bytes){tight, n});
        cr_assert_not(ptn_map_get((ptn_bytes){tight, n}, "nested", &value), "cut at %zu", n);
        cr_assert_not(ptn_map_get((ptn_bytes){tight, n}, "absent", &value), "cut at %zu", n);
        free(tight);
    }
    (void)ptn_buf_unref(b);
}

Test(unpack, skipping_deep_nesting_needs_no_stack) {
    size_t n = 1u << 20;
    uint8_t *deep = malloc(n);
    cr_assert_not_null(deep);
    memset(deep, 0x91, n);
    ptn_unpack u = ptn_unpack_of((ptn_bytes){deep, n});
    cr_assert_not(ptn_unpack_any(&u, NULL));
    deep[n - 1] = 0xc0;
    cr_assert(ptn_unpack_any(&u, NULL));
    cr_assert(u.p == u.end);
    free(deep);
}

Test(unpack, map_lookup) {
    int err;
    ptn_buf *b = testing_pack_json(PTN_STR("{\"a\":1,\"b\":\"two\",\"c\":true,\"d\":{\"a\":9},"
                                           "\"a\":7,\"u\":18446744073709551615}"),
                                   NULL, &err, NULL);
    ptn_bytes m = ptn_buf_bytes(b), v;
    int64_t i;
    uint64_t un;
    bool flag;
    ptn_str s;
    cr_assert(ptn_map_get_int(m, "a", &i) && i == 1, "the first of two is taken");
    cr_assert(ptn_map_get_uint(m, "u", &un) && un == UINT64_MAX);
    cr_assert_not(ptn_map_get_int(m, "u", &i));
    cr_assert(ptn_map_get_str(m, "b", &s) && ptn_str_eqz(s, "two"));
    cr_assert(ptn_map_get_bool(m, "c", &flag) && flag);
    cr_assert(ptn_map_get(m, "d", &v) && ptn_kind_of(v) == PTN_KIND_MAP);
    cr_assert(ptn_map_get_int(v, "a", &i) && i == 9);
    cr_assert_not(ptn_map_get(m, "", &v));
    cr_assert_not(ptn_map_get(m, "ab", &v));
    cr_assert_not(ptn_map_get_bool(m, "a", &flag));
    cr_assert_not(ptn_map_get(BYTES(0x91, 0xa1), "a", &v));
    cr_assert(ptn_map_get_int(BYTES(0x82, 0x01, 0x02, 0xa1, 'a', 0x03), "a", &i) && i == 3,
              "keys of other kinds are passed over");
    (void)ptn_buf_unref(b);
}

Test(unpack, pair_after_pair) {
    int err;
    ptn_buf *b = testing_pack_json(PTN_STR("{\"a\":1,\"b\":[{\"c\":2}],\"c\":{\"a\":9},\"a\":7}"),
                                   NULL, &err, NULL);
    ptn_bytes m = ptn_buf_bytes(b), value, one;
    static const char *const keys[] = {"a", "b", "c", "a"};
    ptn_str key;
    uint32_t n;
    ptn_unpack u = ptn_unpack_of(m);
    cr_assert(ptn_unpack_map(&u, &n) && n == PTN_ARRAY_LEN(keys));
    for (size_t i = 0; i < n; i++) {
        cr_assert(ptn_unpack_pair(&u, &key, &value) && ptn_str_eqz(key, keys[i]));
        cr_assert(ptn_map_get(m, keys[i], &one));
        cr_expect(i == 3 || (value.p == one.p && value.n == one.n), "as alone");
    }
    cr_assert(u.p == u.end && !ptn_unpack_pair(&u, &key, &value));
    for (size_t cut = 1; cut < m.n; cut++) {
        uint8_t *tight = testing_tight_copy(m.p, cut);
        u = (ptn_unpack){tight + 1, tight + cut}; /* behind the map's head */
        for (ptn_unpack before = u; ptn_unpack_pair(&u, &key, &value); before = u)
            cr_assert(value.p + value.n == u.p && u.p > before.p, "cut at %zu", cut);
        free(tight);
    }
    u = ptn_unpack_of(BYTES(0x01, 0x02, 0xa1, 'a', 0x03));
    cr_expect(ptn_unpack_pair(&u, &key, &value) && key.n == 0 && value.n == 1, "no text");
    cr_expect(ptn_unpack_pair(&u, &key, &value) && ptn_str_eqz(key, "a"));
    (void)ptn_buf_unref(b);
}

/* ---- the shared cases: one value, all encodings of it ---------------------------------------- */

static size_t from_hex(ptn_str hex, uint8_t *ret_bytes, size_t cap) {
    size_t n = 0;
    for (size_t i = 0; i + 1 < hex.n; i += hex.p[i + 2 < hex.n ? i + 2 : i] == '-' ? 3 : 2) {
        char pair[3] = {hex.p[i], hex.p[i + 1], 0};
        cr_assert_lt(n, cap);
        ret_bytes[n++] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return n;
}

static void check_case(ptn_bytes entry, ptn_str hex) {
    uint8_t raw[512];
    size_t n = from_hex(hex, raw, sizeof(raw));
    uint8_t *tight = testing_tight_copy(raw, n);
    ptn_bytes b = {tight, n}, expected;
    ptn_unpack u = ptn_unpack_of(b), e;
    double number = 0, wanted = 1;
    ptn_str text, got_text;
    bool is_refused =
        ptn_map_get(entry, "ext", &expected) || ptn_map_get(entry, "timestamp", &expected);
    cr_expect_eq(ptn_msgpack_validate(b, NULL, NULL) != 0, is_refused, "%.*s", (int)hex.n, hex.p);
    cr_expect(ptn_unpack_any(&u, NULL) && u.p == u.end, "%.*s", (int)hex.n, hex.p);
    u = ptn_unpack_of(b);
    if (is_refused) {
        cr_expect_eq(ptn_unpack_peek(&u), PTN_KIND_EXT);
    } else if (ptn_map_get(entry, "number", &expected)) {
        e = ptn_unpack_of(expected);
        cr_expect(ptn_unpack_double(&u, &number) && ptn_unpack_double(&e, &wanted));
        cr_expect_eq(number, wanted, "%.*s", (int)hex.n, hex.p);
    } else if (ptn_map_get_str(entry, "string", &text)) {
        cr_expect(ptn_unpack_str(&u, &got_text) && ptn_str_eq(text, got_text));
    } else if (ptn_map_get_str(entry, "bignum", &text)) {
        ptn_out o = {0};
        cr_expect_eq(ptn_msgpack_to_json(b, &o), 0);
        cr_expect(ptn_kind_of(b) == PTN_KIND_FLOAT ||
                  ptn_str_eq(text, (ptn_str){(const char *)o.p, o.len}));
        ptn_out_done(&o);
    } else if (ptn_map_get(entry, "array", &expected) || ptn_map_get(entry, "map", &expected)) {
        ptn_out got = {0}, want = {0};
        cr_expect_eq(ptn_msgpack_to_json(b, &got), 0);
        cr_expect_eq(ptn_msgpack_to_json(expected, &want), 0);
        cr_expect(got.len == want.len && memcmp(got.p, want.p, got.len) == 0);
        ptn_out_done(&got);
        ptn_out_done(&want);
    }
    free(tight);
}

Test(unpack, shared_cases) {
    char path[512], file[600];
    if (!testing_data_path("msgpack", path, sizeof(path)))
        cr_skip_test("no sample data at %s", path);
    (void)snprintf(file, sizeof(file), "%s/msgpack-test-suite.json", path);
    size_t n;
    uint8_t *json = testing_read_file(file, &n);
    int err;
    ptn_codec_error error = {0};
    ptn_buf *suite = testing_pack_json((ptn_str){(const char *)json, n}, NULL, &err, &error);
    cr_assert_not_null(suite, "%s", error.what);
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(suite));
    uint32_t groups, entries, forms, seen = 0;
    ptn_str name, hex;
    ptn_bytes entry, encodings;
    cr_assert(ptn_unpack_map(&u, &groups));
    while (groups-- > 0) {
        cr_assert(ptn_unpack_str(&u, &name) && ptn_unpack_array(&u, &entries));
        while (entries-- > 0) {
            cr_assert(ptn_unpack_any(&u, &entry) && ptn_map_get(entry, "msgpack", &encodings));
            ptn_unpack list = ptn_unpack_of(encodings);
            cr_assert(ptn_unpack_array(&list, &forms));
            for (; forms-- > 0; seen++) {
                cr_assert(ptn_unpack_str(&list, &hex));
                check_case(entry, hex);
            }
        }
    }
    cr_assert_gt(seen, 200);
    (void)ptn_buf_unref(suite);
    free(json);
}

/* What msgpack-c writes, we validate and read. */
Test(unpack, reads_msgpack_c) {
    msgpack_sbuffer theirs;
    msgpack_sbuffer_init(&theirs);
    msgpack_packer pk;
    msgpack_packer_init(&pk, &theirs, msgpack_sbuffer_write);
    msgpack_pack_map(&pk, 3);
    msgpack_pack_str_with_body(&pk, "f32", 3);
    msgpack_pack_float(&pk, 1.25f);
    msgpack_pack_str_with_body(&pk, "i", 1);
    msgpack_pack_int64(&pk, INT64_MIN);
    msgpack_pack_str_with_body(&pk, "list", 4);
    msgpack_pack_array(&pk, 2);
    msgpack_pack_false(&pk);
    msgpack_pack_bin_with_body(&pk, "\0\1", 2);
    ptn_bytes b = {(const uint8_t *)theirs.data, theirs.size}, v;
    cr_assert_eq(ptn_msgpack_validate(b, NULL, NULL), 0);
    int64_t i;
    cr_assert(ptn_map_get_int(b, "i", &i) && i == INT64_MIN);
    cr_assert(ptn_map_get(b, "f32", &v));
    ptn_unpack u = ptn_unpack_of(v);
    double d;
    cr_assert(ptn_unpack_double(&u, &d) && d == 1.25);
    msgpack_sbuffer_destroy(&theirs);
}
