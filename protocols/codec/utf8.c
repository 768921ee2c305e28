/* SPDX-License-Identifier: Apache-2.0
 *
 * utf8.c - is it UTF-8 (RFC 3629)?  Whole texts, single characters, and texts that arrive in
 * pieces.
 *
 * Most text is ASCII, so each check runs over ASCII sixteen bytes at a time first.  Long text that
 * is not ASCII goes to simdjson's vector validator, short text through ptn__utf8_char.
 *
 * State of the incremental form: 0 between characters; else the number of continuation bytes still
 * due in bits 0-7 and the range allowed for the next one in bits 8-15 and 16-23; UTF8_BAD after an
 * error.
 */
#include <postern/codec.h>

#include "protocols/codec/json_tape.h"
#include "protocols/codec/text.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define UTF8_BAD UINT32_MAX
#define UTF8_SIMD_BYTES_MIN 64u /* below, the call costs more than it saves */

/* Length of the longest prefix found quickly that is all ASCII. */
static size_t ascii_prefix(const uint8_t *p, size_t n) {
    size_t i = 0;
#ifdef __SSE2__
    for (; n - i >= 16; i += 16) {
        unsigned high =
            (unsigned)_mm_movemask_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + i)));
        if (high != 0)
            return i + (size_t)__builtin_ctz(high);
    }
#endif
    for (; n - i >= 8; i += 8)
        if ((ptn__load64(p + i) & PTN__HIGH_BITS) != 0)
            break;
    while (i < n && p[i] < 0x80)
        i++;
    return i;
}

/* For a lead byte: continuation bytes due and the range of the first one, packed as a state; 0 when
 * b cannot lead.  The ranges are what excludes overlongs, surrogates and everything above U+10FFFF.
 */
static uint32_t lead_state(uint8_t b) {
    uint32_t due = b >= 0xf0 ? 3 : b >= 0xe0 ? 2 : 1;
    uint32_t lo = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80;
    uint32_t hi = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
    if (b < 0xc2 || b > 0xf4)
        return 0;
    return due | lo << 8 | hi << 16;
}

size_t ptn__utf8_char(const uint8_t *p, size_t n) {
    if (p[0] < 0x80)
        return 1;
    uint32_t lead = lead_state(p[0]);
    size_t due = lead & 0xff;
    if (lead == 0 || n <= due || p[1] < (lead >> 8 & 0xff) || p[1] > lead >> 16)
        return 0;
    for (size_t i = 2; i <= due; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return due + 1;
}

/* p[0] is not ASCII. */
static bool utf8_valid_rest(const uint8_t *p, size_t n) {
    if (n >= UTF8_SIMD_BYTES_MIN)
        return ptn__simd_utf8_valid(p, n);
    for (size_t i = 0; i < n;) {
        size_t char_bytes = ptn__utf8_char(p + i, n - i);
        if (char_bytes == 0)
            return false;
        i += char_bytes;
    }
    return true;
}

bool ptn_utf8_valid(const uint8_t *p, size_t n) {
    size_t ascii = ascii_prefix(p, n);
    return ascii == n || utf8_valid_rest(p + ascii, n - ascii);
}

/* Bytes of an incomplete character at the end of p: 0 to 3.  What is before them can be checked as
 * a whole. */
static size_t utf8_open_tail(const uint8_t *p, size_t n) {
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        uint8_t b = p[n - k];
        if ((b & 0xc0) != 0x80)
            return b >= 0xc0 && (lead_state(b) & 0xff) >= k ? k : 0;
    }
    return 0;
}

/* One byte; false when it cannot follow. */
static bool utf8_step(uint32_t *state, uint8_t b) {
    uint32_t s = *state;
    if (s == 0) {
        *state = b < 0x80 ? 0 : lead_state(b);
        return b < 0x80 || *state != 0;
    }
    if (b < (s >> 8 & 0xff) || b > (s >> 16 & 0xff))
        return false;
    uint32_t due = (s & 0xff) - 1;
    *state = due == 0 ? 0 : due | 0x80u << 8 | 0xbfu << 16;
    return true;
}

/* After false the state stays bad: every later call is false too. */
bool ptn_utf8_feed(uint32_t *state, const uint8_t *p, size_t n) {
    size_t i = 0;
    bool is_ok = *state != UTF8_BAD;
    for (; is_ok && *state != 0 && i < n; i++)
        is_ok = utf8_step(state, p[i]);
    if (is_ok && i < n) {
        size_t whole = n - i - utf8_open_tail(p + i, n - i);
        is_ok = ptn_utf8_valid(p + i, whole);
        for (i += whole; is_ok && i < n; i++)
            is_ok = utf8_step(state, p[i]);
    }
    if (!is_ok)
        *state = UTF8_BAD;
    return is_ok;
}

/* True when all of p is ASCII other than NUL; false means "look closer". */
static inline bool is_plain(const uint8_t *p, size_t n) {
#ifdef __SSE2__
    if (n >= 16) {
        const __m128i zero = _mm_setzero_si128();
        __m128i good = _mm_set1_epi8(-1), x; /* per byte: above zero, as a signed one */
        for (size_t i = 0; n - i > 16; i += 16) {
            x = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
            good = _mm_and_si128(good, _mm_cmpgt_epi8(x, zero));
        }
        x = _mm_loadu_si128((const __m128i *)(const void *)(p + n - 16)); /* as below */
        return _mm_movemask_epi8(_mm_and_si128(good, _mm_cmpgt_epi8(x, zero))) == 0xffff;
    }
#endif
    if (n >= 8) {
        /* Two's complement trick, exact for ASCII: x - 1 borrows into the high bit only from a zero
         * byte. */
        uint64_t bad = 0, x;
        size_t i = 0;
        for (; n - i >= 8; i += 8) {
            x = ptn__load64(p + i);
            bad |= x | (x - PTN__EACH_BYTE(1));
        }
        x = ptn__load64(p + n - 8); /* overlaps what was seen; cheaper than a byte loop */
        bad |= x | (x - PTN__EACH_BYTE(1));
        return (bad & PTN__HIGH_BITS) == 0;
    }
    uint8_t bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= (uint8_t)(p[i] | (p[i] - 1));
    return (bad & 0x80) == 0;
}

enum ptn__text ptn__text_check(const uint8_t *p, size_t n) {
    if (PTN_LIKELY(is_plain(p, n)))
        return PTN__TEXT_OK;
    if (!ptn_utf8_valid(p, n))
        return PTN__TEXT_NOT_UTF8;
    return memchr(p, 0, n) != NULL ? PTN__TEXT_NUL : PTN__TEXT_OK;
}
