/* SPDX-License-Identifier: Apache-2.0
 *
 * ws_deflate_test.c - which offers of permessage-deflate are taken, and that what is packed comes
 * out as it went in.
 */
#include <criterion/criterion.h>

#include "protocols/ws/internal.h"

#include <stdlib.h>

Test(ws_deflate, offers) {
    enum { MALFORMED = -1, OFF = WS_DEFLATE_OFF, ON = WS_DEFLATE_ON, BITS = WS_DEFLATE_ON_BITS };
    static const struct {
        const char *list;
        int expected;
    } cases[] = {
        {"", OFF},
        {"permessage-deflate", ON},
        {"permessage-deflate; client_max_window_bits", ON},
        {"permessage-deflate;client_max_window_bits=8", ON},
        {"permessage-deflate ; server_no_context_takeover ;\tclient_no_context_takeover", ON},
        {"permessage-deflate; server_max_window_bits=15", BITS},
        {"permessage-deflate; server_max_window_bits=12; client_max_window_bits=\"10\"", BITS},
        {"permessage-deflate; server_max_window_bits=\"13\"", BITS},
        {"permessage-deflate; server_max_window_bits=11", OFF},
        {"permessage-deflate; server_max_window_bits=8, permessage-deflate", ON},
        {"permessage-deflate; server_max_window_bits=14, permessage-deflate", BITS},
        {"x-webkit-deflate-frame, permessage-deflate", ON},
        {"foo; a=b; c=\"d\", bar, permessage-deflate; client_max_window_bits", ON},
        {",, permessage-deflate ,", ON},
        {" ", OFF},
        /* declined as they stand */
        {"permessage-deflate; server_max_window_bits", OFF},
        {"permessage-deflate; server_max_window_bits=16", OFF},
        {"permessage-deflate; server_max_window_bits=012", OFF},
        {"permessage-deflate; server_max_window_bits=+12", OFF},
        {"permessage-deflate; server_max_window_bits=120", OFF},
        {"permessage-deflate; server_max_window_bits=\"1\\2\"", OFF},
        {"permessage-deflate; server_max_window_bits=12; server_max_window_bits=12", OFF},
        {"permessage-deflate; client_max_window_bits=7", OFF},
        {"permessage-deflate; client_max_window_bits=16", OFF},
        {"permessage-deflate; client_max_window_bits=a", OFF},
        {"permessage-deflate; server_no_context_takeover=1", OFF},
        {"permessage-deflate; client_no_context_takeover; client_no_context_takeover", OFF},
        {"permessage-deflate; mystery", OFF},
        {"permessage-deflate; mystery=1, permessage-deflate; server_max_window_bits=15", BITS},
        {"Permessage-Deflate", OFF},
        {"permessage-deflate2", OFF},
        /* no list of extensions */
        {"permessage-deflate;", MALFORMED},
        {"permessage-deflate; =1", MALFORMED},
        {"permessage-deflate; client_max_window_bits=", MALFORMED},
        {"permessage-deflate; client_max_window_bits=\"\"", MALFORMED},
        {"permessage-deflate; client_max_window_bits=\"10", MALFORMED},
        {"permessage-deflate; client_max_window_bits=\"1 0\"", MALFORMED},
        {"permessage-deflate; a=\"\\", MALFORMED},
        {"permessage-deflate; a b", MALFORMED},
        {"permessage-deflate permessage-deflate", MALFORMED},
        {"permessage-deflate, (", MALFORMED},
        {";", MALFORMED},
        {"permessage-deflate; server_max_window_bits=1\x80", MALFORMED},
    };
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        /* Memory of its own, so that a sanitizer sees an overread. */
        const size_t n = strlen(cases[i].list);
        char *copy = malloc(n > 0 ? n : 1);
        memcpy(copy, cases[i].list, n);
        enum ws_deflate_answer answer = WS_DEFLATE_OFF;
        const bool good = ws__extensions((ptn_str){copy, n}, &answer);
        free(copy);
        cr_expect_eq(good ? (int)answer : MALFORMED, cases[i].expected, "%s", cases[i].list);
    }
}

/* Bytes of `kinds` different values. */
static uint8_t *noise(size_t n, uint32_t kinds, uint32_t seed) {
    uint8_t *p = malloc(n);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (uint8_t)((seed >> 24) % kinds);
    }
    return p;
}

Test(ws_deflate, what_is_packed_comes_out_as_it_went_in) {
    static const size_t sizes[] = {1, 3, 60, 219, 1000, 4095, 4097, 40000, 1 << 20};
    static const uint32_t kinds[] = {1, 2, 20, 256};
    ws_deflate *d = ws_deflate_new();
    cr_assert_not_null(d);
    for (size_t s = 0; s < PTN_ARRAY_LEN(sizes); s++) {
        for (size_t k = 0; k < PTN_ARRAY_LEN(kinds); k++) {
            uint8_t *p = noise(sizes[s], kinds[k], (uint32_t)(s + k));
            ptn_bytes packed;
            ptn_buf *back = NULL;
            const int err = ws_deflate_pack(d, (ptn_bytes){p, sizes[s]}, &packed);
            if (err != 0) {
                cr_assert_eq(err, -PTN_ETOOBIG);
                cr_assert(kinds[k] == 256 || sizes[s] < 100, "%zu bytes of %u", sizes[s], kinds[k]);
            } else {
                cr_assert_lt(packed.n, sizes[s]);
                cr_assert_eq(ws_deflate_unpack(d, packed, (uint32_t)sizes[s] - 1, &back),
                             -PTN_ETOOBIG);
                cr_assert_eq(ws_deflate_unpack(d, packed, (uint32_t)sizes[s], &back), 0);
                const ptn_bytes b = ptn_buf_bytes(back);
                cr_assert_eq(b.n, sizes[s]);
                cr_assert_eq(memcmp(b.p, p, b.n), 0);
                ptn_buf_unref(back);
            }
            free(p);
        }
    }
    ws_deflate_free(d);
}

Test(ws_deflate, every_truncation_is_noticed) {
    static const char text[] =
        "{\"type\":\"publish\",\"topic\":\"a.a.a.a\",\"data\":\"aaaaaaa bbb aaa\"}";
    ws_deflate *d = ws_deflate_new();
    ptn_bytes packed;
    ptn_buf *back;
    cr_assert_not_null(d);
    cr_assert_eq(ws_deflate_pack(d, (ptn_bytes){(const uint8_t *)text, sizeof text}, &packed), 0);
    for (size_t n = 0; n < packed.n; n++) {
        uint8_t *copy = malloc(n > 0 ? n : 1);
        memcpy(copy, packed.p, n);
        cr_expect_eq(ws_deflate_unpack(d, (ptn_bytes){copy, n}, 1000, &back), -PTN_EPROTO, "%zu",
                     n);
        free(copy);
    }
    ws_deflate_free(d);
}
