/* SPDX-License-Identifier: Apache-2.0
 *
 * utf8_test.c - UTF-8 checks against a table written from RFC 3629, for every position, length and
 * split.
 */
#include "protocols/codec/testing.h"
#include "protocols/codec/text.h"

static const struct {
    const char *text;
    size_t n;
    bool is_valid;
} cases[] = {
#define YES(s)                                                                                     \
    { s, sizeof(s) - 1, true }
#define NO(s)                                                                                      \
    { s, sizeof(s) - 1, false }
    YES(""),
    YES("a"),
    YES("\x7f"),
    YES("\xc2\x80"),
    YES("\xdf\xbf"),
    YES("\xe0\xa0\x80"),
    YES("\xed\x9f\xbf"),
    YES("\xee\x80\x80"),
    YES("\xef\xbf\xbf"),
    YES("\xf0\x90\x80\x80"),
    YES("\xf4\x8f\xbf\xbf"),
    YES("\xf0\x9f\x8d\xba"),
    NO("\x80"),
    NO("\xbf"),
    NO("\xc0\x80"),
    NO("\xc1\xbf"),
    NO("\xc2"),
    NO("\xc2\x41"),
    NO("\xc2\xc2"),
    NO("\xe0\x9f\xbf"),
    NO("\xe2\x82"),
    NO("\xe2\x82\x41"),
    NO("\xed\xa0\x80"),
    NO("\xed\xbf\xbf"),
    NO("\xf0\x8f\xbf\xbf"),
    NO("\xf0\x9f\x8d"),
    NO("\xf0\x9f\x8d\x41"),
    NO("\xf4\x90\x80\x80"),
    NO("\xf5\x80\x80\x80"),
    NO("\xf8\x88\x80\x80\x80"),
    NO("\xfe"),
    NO("\xff"),
    NO("\xe2\x82\xac\x80"),
#undef YES
#undef NO
};

/* The text in two pieces, cut at i. */
static bool valid_in_pieces(const uint8_t *p, size_t n, size_t i) {
    uint32_t state = 0;
    return ptn_utf8_feed(&state, p, i) && ptn_utf8_feed(&state, p + i, n - i) && state == 0;
}

Test(utf8, table_at_every_place) {
    for (size_t c = 0; c < PTN_ARRAY_LEN(cases); c++)
        for (size_t before = 0; before < 70; before++)
            for (size_t after = 0; after < 70; after += 7) {
                size_t n = before + cases[c].n + after;
                uint8_t *p = testing_tight_copy("", 0);
                p = realloc(p, n + 1);
                cr_assert_not_null(p);
                memset(p, 'x', n);
                memcpy(p + before, cases[c].text, cases[c].n);
                uint8_t *tight = testing_tight_copy(p, n);
                cr_assert_eq(ptn_utf8_valid(tight, n), cases[c].is_valid, "case %zu at %zu", c,
                             before);
                for (size_t cut = before; cut <= before + cases[c].n; cut++)
                    cr_assert_eq(valid_in_pieces(tight, n, cut), cases[c].is_valid, "case %zu", c);
                free(tight);
                free(p);
            }
}

/* Every two-byte and three-byte string against the definition. */
Test(utf8, short_strings_exhaustively) {
    for (uint32_t v = 0; v < 1u << 24; v += v < 1u << 16 ? 1 : 7) {
        uint8_t p[3] = {(uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
        bool c1 = (p[1] & 0xc0) == 0x80, c2 = (p[2] & 0xc0) == 0x80;
        bool one = p[0] < 0x80, two = p[0] >= 0xc2 && p[0] <= 0xdf && c1;
        uint32_t point = (p[0] & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
        bool three = (p[0] & 0xf0) == 0xe0 && c1 && c2 && point >= 0x800 && (point >> 11) != 27;
        bool rest2 = p[1] < 0x80 ? p[2] < 0x80 : p[1] >= 0xc2 && p[1] <= 0xdf && c2;
        bool expected = (one && rest2) || (two && p[2] < 0x80) || three;
        if (ptn_utf8_valid(p, 3) != expected)
            cr_assert_fail("%02x %02x %02x", p[0], p[1], p[2]);
    }
}

/* Pieces of random size give what the whole gives, valid or not. */
Test(utf8, pieces_equal_the_whole) {
    static const char *const units[] = {"a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8d\xba",
                                        "zzzzzzzz"};
    uint32_t seed = 12345;
    int bad = 0, good = 0;
    for (int round = 0; round < 20000; round++) {
        uint8_t text[400];
        size_t n = 0;
        while (n < 300 && (seed = seed * 1664525 + 1013904223) >> 24 > 4) {
            const char *unit = units[(seed >> 16) % PTN_ARRAY_LEN(units)];
            memcpy(text + n, unit, strlen(unit));
            n += strlen(unit);
        }
        if (n > 0 && round % 2 == 1)
            text[(seed >> 8) % n] ^= (uint8_t)(0x80 >> (seed >> 28 & 3));
        bool expected = ptn_utf8_valid(text, n), is_ok = true;
        size_t i = 0;
        for (size_t k = 0; k < n && expected;) { /* character by character it is well-formed too */
            size_t char_bytes = ptn__utf8_char(text + k, n - k);
            cr_assert_gt(char_bytes, 0);
            k += char_bytes;
        }
        uint32_t state = 0;
        while (i < n) {
            size_t piece = 1 + ((seed = seed * 1664525 + 1013904223) >> 16) % 40;
            piece = piece > n - i ? n - i : piece;
            is_ok = ptn_utf8_feed(&state, text + i, piece);
            i += piece;
            if (!is_ok)
                break;
        }
        cr_assert_eq(is_ok && state == 0, expected, "round %d", round);
        bad += !expected;
        good += expected;
    }
    cr_assert(bad > 1000 && good > 1000, "both outcomes are exercised: %d %d", bad, good);
}

Test(utf8, refused_as_soon_as_it_is_hopeless) {
    uint32_t state = 0;
    cr_assert(ptn_utf8_feed(&state, (const uint8_t *)"\xe2", 1));
    cr_assert_neq(state, 0);
    cr_assert(ptn_utf8_feed(&state, NULL, 0));
    cr_assert(ptn_utf8_feed(&state, (const uint8_t *)"\x82", 1));
    cr_assert_not(ptn_utf8_feed(&state, (const uint8_t *)"a", 1));
    cr_assert_not(ptn_utf8_feed(&state, (const uint8_t *)"a", 1), "the error is sticky");
    state = 0;
    cr_assert_not(ptn_utf8_feed(&state, (const uint8_t *)"\xed\xa0", 2), "a surrogate, seen early");
    state = 0;
    cr_assert_not(ptn_utf8_feed(&state, (const uint8_t *)"\xf4\x90", 2), "too high, seen early");
    state = 0;
    cr_assert_not(ptn_utf8_feed(&state, (const uint8_t *)"abc\xc0", 4));
}

Test(utf8, text_check_tells_nul_from_bad_bytes) {
    cr_assert_eq(ptn__text_check((const uint8_t *)"abc", 3), PTN__TEXT_OK);
    cr_assert_eq(ptn__text_check((const uint8_t *)"a\0c", 3), PTN__TEXT_NUL);
    cr_assert_eq(ptn__text_check((const uint8_t *)"a\xff", 2), PTN__TEXT_NOT_UTF8);
    cr_assert_eq(ptn__text_check((const uint8_t *)"\xc3\xa9\0", 3), PTN__TEXT_NUL);
    cr_assert_eq(ptn__text_check((const uint8_t *)"\xc3\xa9 is plain text", 16), PTN__TEXT_OK);
    cr_assert_eq(ptn__text_check(NULL, 0), PTN__TEXT_OK);
}
