/* SPDX-License-Identifier: Apache-2.0
 *
 * text.h - checks on strings that the codec's files share: UTF-8, NUL, and words of eight bytes at
 * a time.
 */
#ifndef POSTERN_CODEC_TEXT_H
#define POSTERN_CODEC_TEXT_H

#include <postern/base.h>

#define PTN__EACH_BYTE(b) (UINT64_C(0x0101010101010101) * (b))
#define PTN__HIGH_BITS PTN__EACH_BYTE(0x80)

static inline uint64_t ptn__load64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t ptn__load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

/* Non-zero when any of the eight bytes is below limit (limit <= 0x80). */
static inline uint64_t ptn__any_below(uint64_t x, uint8_t limit) {
    return (x - PTN__EACH_BYTE(limit)) & ~x & PTN__HIGH_BITS;
}

/* Non-zero when any of the eight bytes equals b. */
static inline uint64_t ptn__any_equal(uint64_t x, uint8_t b) {
    return ptn__any_below(x ^ PTN__EACH_BYTE(b), 1);
}

/* Length of the well-formed character (RFC 3629) at p, which has n > 0 bytes; 0 when there is none.
 */
size_t ptn__utf8_char(const uint8_t *p, size_t n);

enum ptn__text { PTN__TEXT_OK, PTN__TEXT_NOT_UTF8, PTN__TEXT_NUL };

/* What keeps p from being text at this border: UTF-8 without NUL. */
enum ptn__text ptn__text_check(const uint8_t *p, size_t n);

/* True: a text of n < 8 bytes is ASCII without NUL, which one look at eight bytes says; end is that
 * of the memory around it.  False: look closer. */
static inline bool ptn__is_plain_short(const uint8_t *p, size_t n, const uint8_t *end) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (PTN_UNLIKELY((size_t)(end - p) < 8))
        return false;
    /* A borrow goes to higher bytes only, so what is behind the text does not count. */
    const uint64_t x = ptn__load64(p), text = (UINT64_C(1) << 8 * n) - 1;
    return ((x | (x - PTN__EACH_BYTE(1))) & PTN__HIGH_BITS & text) == 0;
#else
    (void)p, (void)n, (void)end;
    return false;
#endif
}

#endif
