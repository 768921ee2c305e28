/* SPDX-License-Identifier: Apache-2.0
 *
 * pack_test.c - the writer: shortest forms at every border, growth, failure, and agreement with
 * msgpack-c.
 */
#include <math.h>
#include <msgpack.h>

#include "protocols/codec/testing.h"

static void expect_bytes(ptn_pack *w, ptn_bytes expected, const char *what) {
    cr_assert_eq(ptn_pack_len(w), expected.n, "%s: length %zu", what, ptn_pack_len(w));
    ptn_buf *b = ptn_pack_finish(w);
    cr_assert_not_null(b, "%s", what);
    cr_assert_eq(ptn_buf_bytes(b).n, expected.n, "%s", what);
    cr_assert_eq(memcmp(ptn_buf_bytes(b).p, expected.p, expected.n), 0, "%s", what);
    (void)ptn_buf_unref(b);
}

Test(pack, constants_and_floats) {
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_nil(&w);
    ptn_pack_bool(&w, true);
    ptn_pack_bool(&w, false);
    ptn_pack_cstr(&w, NULL);
    ptn_pack_cstr(&w, "");
    ptn_pack_key(&w, "k");
    ptn_pack_str_or_nil(&w, PTN_STR(""));
    ptn_pack_str_or_nil(&w, PTN_STR("x"));
    ptn_pack_double(&w, 1.0);
    ptn_pack_raw(&w, BYTES(0x93, 1, 2, 3));
    ptn_pack_raw(&w, (ptn_bytes){NULL, 0});
    expect_bytes(&w,
                 BYTES(0xc0, 0xc3, 0xc2, 0xc0, 0xa0, 0xa1, 'k', 0xc0, 0xa1, 'x', 0xcb, 0x3f, 0xf0,
                       0, 0, 0, 0, 0, 0, 0x93, 1, 2, 3),
                 "constants");
}

static const int64_t int_borders[] = {
    0,         1,      31,     32,        127,         128,        255,        256,
    32767,     32768,  65535,  65536,     INT32_MAX,   2147483648, UINT32_MAX, 4294967296,
    INT64_MAX, -1,     -31,    -32,       -33,         -127,       -128,       -129,
    -32767,    -32768, -32769, INT32_MIN, -2147483649, INT64_MIN,
};

Test(pack, integers_as_msgpack_c_writes_them) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(int_borders); i++) {
        msgpack_sbuffer expected;
        msgpack_sbuffer_init(&expected);
        msgpack_packer theirs;
        msgpack_packer_init(&theirs, &expected, msgpack_sbuffer_write);
        msgpack_pack_int64(&theirs, int_borders[i]);
        ptn_pack w;
        ptn_pack_init(&w, 1);
        ptn_pack_int(&w, int_borders[i]);
        expect_bytes(&w, (ptn_bytes){(const uint8_t *)expected.data, expected.size}, "int");
        msgpack_sbuffer_clear(&expected);
        uint64_t u = (uint64_t)int_borders[i];
        msgpack_pack_uint64(&theirs, u);
        ptn_pack_init(&w, 1);
        ptn_pack_uint(&w, u);
        expect_bytes(&w, (ptn_bytes){(const uint8_t *)expected.data, expected.size}, "uint");
        msgpack_sbuffer_destroy(&expected);
    }
}

static const uint32_t length_borders[] = {0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536, 70000};

/* str, bin, array and map of each length: the same bytes as msgpack-c, and read back by our reader.
 */
Test(pack, lengths_as_msgpack_c_writes_them) {
    static uint8_t text[70000];
    memset(text, 'x', sizeof(text));
    for (size_t i = 0; i < PTN_ARRAY_LEN(length_borders); i++) {
        uint32_t n = length_borders[i];
        msgpack_sbuffer expected;
        msgpack_sbuffer_init(&expected);
        msgpack_packer theirs;
        msgpack_packer_init(&theirs, &expected, msgpack_sbuffer_write);
        msgpack_pack_str(&theirs, n);
        msgpack_pack_str_body(&theirs, text, n);
        msgpack_pack_bin(&theirs, n);
        msgpack_pack_bin_body(&theirs, text, n);
        msgpack_pack_array(&theirs, n);
        for (uint32_t k = 0; k < n; k++)
            msgpack_pack_nil(&theirs);
        msgpack_pack_map(&theirs, n);
        for (uint32_t k = 0; k < 2 * n; k++)
            msgpack_pack_true(&theirs);

        ptn_pack w;
        ptn_pack_init(&w, 1);
        ptn_pack_str(&w, (ptn_str){(const char *)text, n});
        ptn_pack_bin(&w, (ptn_bytes){text, n});
        ptn_pack_array(&w, n);
        for (uint32_t k = 0; k < n; k++)
            ptn_pack_nil(&w);
        ptn_pack_map(&w, n);
        for (uint32_t k = 0; k < 2 * n; k++)
            ptn_pack_bool(&w, true);
        expect_bytes(&w, (ptn_bytes){(const uint8_t *)expected.data, expected.size}, "lengths");

        ptn_unpack u = ptn_unpack_of((ptn_bytes){(const uint8_t *)expected.data, expected.size});
        ptn_str s;
        ptn_bytes b;
        uint32_t count;
        cr_assert(ptn_unpack_str(&u, &s) && s.n == n && memcmp(s.p, text, n) == 0);
        cr_assert(ptn_unpack_bin(&u, &b) && b.n == n && memcmp(b.p, text, n) == 0);
        cr_assert(ptn_unpack_array(&u, &count) && count == n);
        for (uint32_t k = 0; k < n; k++)
            cr_assert(ptn_unpack_nil(&u));
        cr_assert(ptn_unpack_map(&u, &count) && count == n);
        msgpack_sbuffer_destroy(&expected);
    }
}

/* What we write, msgpack-c reads. */
Test(pack, msgpack_c_reads_it) {
    ptn_pack w;
    ptn_pack_init(&w, 1);
    ptn_pack_map(&w, 3);
    ptn_pack_key(&w, "n");
    ptn_pack_int(&w, -1000);
    ptn_pack_key(&w, "list");
    ptn_pack_array(&w, 2);
    ptn_pack_double(&w, 0.5);
    ptn_pack_uint(&w, UINT64_MAX);
    ptn_pack_key(&w, "bin");
    ptn_pack_bin(&w, BYTES(1, 2));
    ptn_buf *b = ptn_pack_finish(&w);
    msgpack_unpacked got;
    msgpack_unpacked_init(&got);
    size_t off = 0;
    cr_assert_eq(
        msgpack_unpack_next(&got, (const char *)ptn_buf_bytes(b).p, ptn_buf_bytes(b).n, &off),
        MSGPACK_UNPACK_SUCCESS);
    cr_assert_eq(off, ptn_buf_bytes(b).n);
    cr_assert_eq(got.data.type, MSGPACK_OBJECT_MAP);
    cr_assert_eq(got.data.via.map.size, 3);
    const msgpack_object_kv *kv = got.data.via.map.ptr;
    cr_assert_eq(kv[0].val.via.i64, -1000);
    cr_assert_eq(kv[1].val.via.array.ptr[0].via.f64, 0.5);
    cr_assert_eq(kv[1].val.via.array.ptr[1].via.u64, UINT64_MAX);
    cr_assert_eq(kv[2].val.via.bin.size, 2);
    msgpack_unpacked_destroy(&got);
    (void)ptn_buf_unref(b);
}

Test(pack, grows_and_keeps_contents) {
    ptn_pack w;
    ptn_pack_init(&w, 1);
    for (int i = 0; i < 100000; i++)
        ptn_pack_int(&w, i);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_not_null(b);
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(b));
    for (int64_t i = 0, v; i < 100000; i++)
        cr_assert(ptn_unpack_int(&u, &v) && v == i);
    cr_assert_eq(ptn_unpack_peek(&u), PTN_KIND_END);
    (void)ptn_buf_unref(b);
}

Test(pack, an_array_is_counted_at_its_end) {
    const uint32_t counts[] = {0, 1, 300, 70000};
    for (size_t k = 0; k < PTN_ARRAY_LEN(counts); k++) {
        ptn_pack w;
        uint32_t n;
        ptn_pack_init(&w, 1);
        ptn_pack_bool(&w, true); /* what stands before it stays */
        size_t at = ptn_pack_array_open(&w);
        for (uint32_t i = 0; i < counts[k]; i++)
            ptn_pack_uint(&w, i);
        ptn_pack_array_close(&w, at, counts[k]);
        ptn_buf *b = ptn_pack_finish(&w);
        ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(b));
        bool v = false;
        cr_assert(ptn_unpack_bool(&u, &v) && v);
        cr_assert(ptn_unpack_array(&u, &n) && n == counts[k]);
        for (uint64_t i = 0, at_i; i < n; i++)
            cr_assert(ptn_unpack_uint(&u, &at_i) && at_i == i);
        cr_assert_eq(ptn_unpack_peek(&u), PTN_KIND_END);
        (void)ptn_buf_unref(b);
    }
}

Test(pack, too_big_is_sticky_and_releases) {
    ptn_pack w;
    ptn_pack_init(&w, 16);
    ptn_pack_int(&w, 7);
    ptn_pack_bin(&w, (ptn_bytes){(const uint8_t *)"x", (size_t)PTN_BUF_BYTES_MAX + 1});
    cr_assert_eq(w.err, -PTN_ETOOBIG);
    ptn_pack_nil(&w);
    cr_assert_eq(ptn_pack_len(&w), 1);
    cr_assert_null(ptn_pack_finish(&w));
    cr_assert_eq(w.err, -PTN_ETOOBIG);
    cr_assert_null(w.buf);
    ptn_pack_abort(&w); /* harmless */
}

Test(pack, fills_to_the_limit_and_no_further) {
    static uint8_t mib[1u << 20];
    ptn_pack w;
    ptn_pack_init(&w, 0);
    for (int i = 0; i < 64; i++)
        ptn_pack_raw(&w, (ptn_bytes){mib, sizeof(mib)});
    cr_assert_eq(w.err, 0);
    cr_assert_eq(ptn_pack_len(&w), PTN_BUF_BYTES_MAX);
    ptn_pack_nil(&w);
    cr_assert_eq(w.err, -PTN_ETOOBIG);
    ptn_pack_abort(&w);
    cr_assert_null(w.buf);
}

Test(pack, memory_of_the_caller_is_used_as_far_as_it_goes) {
    uint8_t memory[16];
    ptn_bytes b;
    ptn_pack w;
    ptn_pack_init_in(&w, memory, sizeof memory);
    ptn_pack_cstr(&w, "five");
    cr_assert(ptn_pack_view(&w, &b));
    cr_expect_eq(b.p, memory);
    cr_expect_arr_eq(b.p,
                     "\xa4"
                     "five",
                     5);
    cr_expect_null(w.buf);
    ptn_pack_cstr(&w, "some more than sixteen bytes");
    cr_assert(ptn_pack_view(&w, &b));
    cr_expect_neq(b.p, memory);
    cr_assert_eq(b.n, 34);
    cr_expect_arr_eq(b.p,
                     "\xa4"
                     "five"
                     "\xbc"
                     "some more than sixteen bytes",
                     34);
    ptn_pack_abort(&w);
    cr_expect_not(ptn_pack_view(&w, &b));
    ptn_pack_init_in(&w, memory, sizeof memory);
    ptn_pack_bool(&w, true);
    ptn_buf *copy = ptn_pack_finish(&w);
    cr_assert_not_null(copy);
    cr_expect_eq(ptn_buf_bytes(copy).n, 1);
    ptn_buf_unref(copy);
}

Test(pack, abort_and_finish_close_the_writer) {
    ptn_pack w;
    ptn_pack_init(&w, 0);
    ptn_pack_nil(&w);
    (void)ptn_buf_unref(ptn_pack_finish(&w));
    ptn_pack_nil(&w);
    cr_assert_neq(w.err, 0);
    cr_assert_eq(ptn_pack_len(&w), 0);
    ptn_pack_init(&w, 0);
    ptn_pack_abort(&w);
    ptn_pack_str(&w, PTN_STR("after"));
    cr_assert_null(ptn_pack_finish(&w));
}

Test(pack, odd_doubles_keep_their_bits) {
    const double values[] = {0.0, -0.0, 5e-324, 1.7976931348623157e308, INFINITY, -INFINITY, 0.1};
    for (size_t i = 0; i < PTN_ARRAY_LEN(values); i++) {
        ptn_pack w;
        ptn_pack_init(&w, 0);
        ptn_pack_double(&w, values[i]);
        ptn_buf *b = ptn_pack_finish(&w);
        ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(b));
        double v;
        cr_assert(ptn_unpack_double(&u, &v));
        cr_assert_eq(memcmp(&v, &values[i], sizeof(v)), 0);
        (void)ptn_buf_unref(b);
    }
}
