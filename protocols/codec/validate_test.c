/* SPDX-License-Identifier: Apache-2.0
 *
 * validate_test.c - the gate for msgpack: what it refuses, why, where, and exactly at which limits.
 */
#include "protocols/codec/testing.h"

static void expect_refused(ptn_bytes b, const char *part, size_t offset) {
    ptn_codec_error error = {0};
    uint8_t *tight = testing_tight_copy(b.p, b.n);
    cr_expect_eq(ptn_msgpack_validate((ptn_bytes){tight, b.n}, NULL, &error), -PTN_EPROTO, "%s",
                 part);
    cr_expect(error.what != NULL && strstr(error.what, part) != NULL, "%s: %s", part, error.what);
    cr_expect_eq(error.offset, offset, "%s: at %zu", part, error.offset);
    free(tight);
}

static int validate(ptn_bytes b) {
    uint8_t *tight = testing_tight_copy(b.p, b.n);
    int err = ptn_msgpack_validate((ptn_bytes){tight, b.n}, NULL, NULL);
    free(tight);
    return err;
}

Test(validate, accepts) {
    cr_expect_eq(validate(BYTES(0xc0)), 0);
    cr_expect_eq(validate(BYTES(0x80)), 0);
    cr_expect_eq(validate(BYTES(0x90)), 0);
    cr_expect_eq(validate(BYTES(0xa0)), 0);
    cr_expect_eq(validate(BYTES(0x92, 0x90, 0x80)), 0);
    cr_expect_eq(validate(BYTES(0x82, 0xa1, 'a', 0x91, 0x01, 0xa1, 'a', 0x80)), 0);
    cr_expect_eq(validate(BYTES(0x81, 0xda, 0, 1, 'a', 0xc4, 2, 0, 0xff)), 0, "long forms, bin");
    cr_expect_eq(validate(BYTES(0x81, 0xa0, 0x81, 0xa0, 0x92, 1, 0xa3, 0xe2, 0x82, 0xac)), 0);
}

Test(validate, refuses_with_reason_and_place) {
    expect_refused((ptn_bytes){NULL, 0}, "empty", 0);
    expect_refused(BYTES(0xc1), "0xc1", 0);
    expect_refused(BYTES(0x92, 1, 0xc1), "0xc1", 2);
    expect_refused(BYTES(0x92, 1), "cut short", 0);
    expect_refused(BYTES(0x92, 0xa1, 'a'), "cut short", 3);
    expect_refused(BYTES(0xa2, 'a'), "cut short", 0);
    expect_refused(BYTES(0xdd, 0xff, 0xff, 0xff, 0xff), "cut short", 0);
    expect_refused(BYTES(0x01, 0x02), "follow", 1);
    expect_refused(BYTES(0x90, 0x90), "follow", 1);
    expect_refused(BYTES(0x91, 0xd4, 1, 2), "extension", 1);
    expect_refused(BYTES(0xc7, 0, 1), "extension", 0);
    expect_refused(BYTES(0xd6, 0xff, 0, 0, 0, 0), "extension", 0);
    expect_refused(BYTES(0x81, 0x01, 0x02), "key", 1);
    expect_refused(BYTES(0x82, 0xa1, 'a', 0x02, 0xc4, 0, 0x01), "key", 4);
    expect_refused(BYTES(0x81, 0x90, 0x01), "key", 1);
    expect_refused(BYTES(0xa2, 0xc3, 0x28), "UTF-8", 0);
    expect_refused(BYTES(0x91, 0xa3, 0xed, 0xa0, 0x80), "UTF-8", 1);
    expect_refused(BYTES(0x81, 0xa1, 0xff, 0x01), "UTF-8", 1);
    expect_refused(BYTES(0xa1, 0x00), "NUL", 0);
    expect_refused(BYTES(0x81, 0xa3, 'a', 0x00, 'b', 0x01), "NUL", 1);
}

/* Bad bytes at each place of strings of each length: no fast path may miss one. */
Test(validate, finds_one_bad_byte_anywhere) {
    for (size_t n = 1; n < 100; n++) {
        uint8_t *b = testing_tight_copy("", 0);
        b = realloc(b, n + 2);
        cr_assert_not_null(b);
        b[0] = 0xd9;
        b[1] = (uint8_t)n;
        memset(b + 2, 'a', n);
        cr_assert_eq(ptn_msgpack_validate((ptn_bytes){b, n + 2}, NULL, NULL), 0);
        for (size_t i = 0; i < n; i++) {
            b[2 + i] = 0;
            cr_assert_neq(ptn_msgpack_validate((ptn_bytes){b, n + 2}, NULL, NULL), 0);
            b[2 + i] = 0xff;
            cr_assert_neq(ptn_msgpack_validate((ptn_bytes){b, n + 2}, NULL, NULL), 0);
            b[2 + i] = 0x7f;
            cr_assert_eq(ptn_msgpack_validate((ptn_bytes){b, n + 2}, NULL, NULL), 0);
            b[2 + i] = 'a';
        }
        free(b);
    }
}

/* The same for texts inside a container, as keys and values, with bytes behind them and without. */
Test(validate, finds_one_bad_byte_in_short_texts) {
    for (size_t n = 1; n < 32; n++)
        for (size_t tail = 0; tail < 12; tail++) {
            uint8_t *b = malloc(3 + 2 * n + tail);
            cr_assert_not_null(b);
            const ptn_bytes whole = {b, 3 + 2 * n + tail};
            b[0] = (uint8_t)(tail > 0 ? 0x92 : 0x81);
            b[1] = (uint8_t)(0xa0 | n);
            b[2 + n] = (uint8_t)(tail > 0 ? 0xa0 | (n + tail) : 0xa0 | n);
            memset(b + 2, 'a', n);
            memset(b + 3 + n, 'b', n + tail);
            if (n + tail > 31) {
                free(b);
                continue;
            }
            cr_assert_eq(validate(whole), 0);
            for (size_t i = 2; i < whole.n; i++) {
                static const uint8_t bad[] = {0x00, 0x80, 0xc3, 0xff};
                const uint8_t was = b[i];
                for (size_t k = 0; k < PTN_ARRAY_LEN(bad) && i != 2 + n; k++) {
                    b[i] = bad[k];
                    cr_assert_eq(validate(whole), -PTN_EPROTO, "%zu bytes, %zu behind, at %zu", n,
                                 tail, i);
                }
                b[i] = was;
            }
            free(b);
        }
}

/* depth arrays, then, innermost, tail. */
static int validate_nested(size_t depth, uint8_t open, const ptn_codec_limits *limits) {
    uint8_t b[4096];
    size_t n = 0;
    for (size_t i = 0; i < depth; i++) {
        b[n++] = open;
        if (open == 0x81)
            b[n++] = 0xa0;
    }
    b[n++] = 0xc0;
    return ptn_msgpack_validate((ptn_bytes){b, n}, limits, NULL);
}

Test(validate, depth_limit_is_exact) {
    ptn_codec_limits three = {.depth_max = 3}, most = {.depth_max = UINT32_MAX};
    for (int map = 0; map <= 1; map++) {
        uint8_t open = map ? 0x81 : 0x91;
        cr_expect_eq(validate_nested(3, open, &three), 0);
        cr_expect_eq(validate_nested(4, open, &three), -PTN_EPROTO);
        cr_expect_eq(validate_nested(32, open, NULL), 0);
        cr_expect_eq(validate_nested(33, open, NULL), -PTN_EPROTO);
        cr_expect_eq(validate_nested(1024, open, &most), 0);
        cr_expect_eq(validate_nested(1025, open, &most), -PTN_EPROTO);
    }
    /* an empty container is as deep as a full one; siblings do not add up */
    cr_expect_eq(ptn_msgpack_validate(BYTES(0x91, 0x91, 0x91, 0x90), &three, NULL), -PTN_EPROTO);
    cr_expect_eq(
        ptn_msgpack_validate(BYTES(0x94, 0x91, 0x90, 0x91, 0x90, 0x80, 0x91, 0x80), &three, NULL),
        0);
}

Test(validate, size_limit_is_exact) {
    ptn_codec_limits ten = {.bytes_max = 10};
    uint8_t b[11] = {0xc4, 8};
    ptn_codec_error error = {0};
    cr_expect_eq(ptn_msgpack_validate((ptn_bytes){b, 10}, &ten, &error), 0);
    b[1] = 9;
    cr_expect_eq(ptn_msgpack_validate((ptn_bytes){b, 11}, &ten, &error), -PTN_ETOOBIG);
    cr_expect_not_null(error.what);
    static uint8_t big[(1u << 20) + 1] = {0xc6, 0, 0x0f, 0xff, 0xfb};
    cr_expect_eq(ptn_msgpack_validate((ptn_bytes){big, 1u << 20}, NULL, NULL), 0);
    big[4] = 0xfc;
    cr_expect_eq(ptn_msgpack_validate((ptn_bytes){big, (1u << 20) + 1}, NULL, NULL), -PTN_ETOOBIG);
}

Test(validate, cut_at_every_byte) {
    int err;
    ptn_buf *b = testing_pack_json(
        PTN_STR(
            "{\"a\":[1,2.5,-300,\"text\",null,true,{\"deep\":[[\"\xe2\x82\xac\"]]}],\"z\":70000}"),
        NULL, &err, NULL);
    ptn_bytes whole = ptn_buf_bytes(b);
    cr_assert_eq(validate(whole), 0);
    for (size_t n = 0; n < whole.n; n++)
        cr_expect_eq(validate((ptn_bytes){whole.p, n}), -PTN_EPROTO, "cut at %zu", n);
    (void)ptn_buf_unref(b);
}
