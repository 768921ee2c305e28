/* SPDX-License-Identifier: Apache-2.0
 *
 * json_write.c - msgpack to JSON (RFC 8259), straight into the output.
 *
 * The value was validated when it entered or was written by us; the writer still checks every
 * length and its own depth, and refuses what it cannot express (extension types, map keys that are
 * not strings).  Strings are copied sixteen bytes at a time while they are checked for what must be
 * escaped.  What it writes is always JSON in valid UTF-8: bytes that are not UTF-8, which only our
 * own code could have put there, become U+FFFD.
 */
#include <postern/codec.h>

#include <math.h>

#include "protocols/codec/json_tape.h"
#include "protocols/codec/pack_inline.h"
#include "protocols/codec/text.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define BLOCK_BYTES 16u
#define ESCAPE_BYTES_MAX 6u  /* \u001f */
#define SHORT_TEXT_BYTES 50u /* 31 bytes in quotes, what follows, and a block beyond them */
#define SCALAR_BYTES_MAX 48u /* any number or word, and the comma or colon around it */
#define ESCAPED_PART_BYTES                                                                         \
    4096u /* room is reserved for this much at a time once escapes are needed */

_Static_assert(SCALAR_BYTES_MAX > PTN__DOUBLE_TEXT_BYTES_MAX + 2, "a double and its separator fit");

/* ---- strings -------------------------------------------------------------------------------- */

static bool needs_escape(uint8_t b) {
    return b < 0x20 || b == '"' || b == '\\';
}

/* Non-zero when any of eight bytes needs an escape. */
static inline uint64_t any_escape(uint64_t x) {
    return ptn__any_below(x, 0x20) | ptn__any_equal(x, '"') | ptn__any_equal(x, '\\');
}

/* Copies p to q up to the first byte that needs an escape or is not ASCII (then *ret_high); byte by
 * byte. */
static size_t copy_bytes(uint8_t *q, const uint8_t *p, size_t n, bool *ret_high) {
    size_t i = 0;
    uint8_t seen = 0;
    for (; i < n && !needs_escape(p[i]); i++) {
        q[i] = p[i];
        seen |= p[i];
    }
    *ret_high |= seen >= 0x80;
    return i;
}

/* The same for 4 to 15 bytes: two overlapping words, and bytes only when one of them has an escape.
 */
static size_t copy_short(uint8_t *q, const uint8_t *p, size_t n, bool *ret_high) {
    uint64_t a, b;
    if (n >= 8) {
        a = ptn__load64(p);
        b = ptn__load64(p + n - 8);
    } else {
        a = b = ptn__load32(p) | ptn__load32(p + n - 4) << 32;
    }
    if (PTN_UNLIKELY((any_escape(a) | any_escape(b)) != 0))
        return copy_bytes(q, p, n, ret_high);
    *ret_high |= ((a | b) & PTN__HIGH_BITS) != 0;
    if (n >= 8) {
        memcpy(q, &a, 8);
        memcpy(q + n - 8, &b, 8);
    } else {
        memcpy(q, p, 4);
        memcpy(q + n - 4, p + n - 4, 4);
    }
    return n;
}

#ifdef __SSE2__

/* Bit per byte of the block at p that needs an escape; the block is copied to q either way. */
static inline unsigned copy_block(uint8_t *q, const uint8_t *p, bool *ret_high) {
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1f)), x);
    __m128i quote = _mm_cmpeq_epi8(x, _mm_set1_epi8('"'));
    __m128i slash = _mm_cmpeq_epi8(x, _mm_set1_epi8('\\'));
    _mm_storeu_si128((__m128i *)(void *)q, x);
    *ret_high |= _mm_movemask_epi8(x) != 0;
    return (unsigned)_mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, slash)));
}

#else

static inline unsigned copy_block(uint8_t *q, const uint8_t *p, bool *ret_high) {
    unsigned bits = 0;
    memcpy(q, p, BLOCK_BYTES);
    for (unsigned i = 0; i < BLOCK_BYTES; i += 8) {
        uint64_t x = ptn__load64(p + i);
        *ret_high |= (x & PTN__HIGH_BITS) != 0;
        for (unsigned k = 0; any_escape(x) != 0 && k < 8; k++)
            bits |= (unsigned)needs_escape(p[i + k]) << (i + k);
    }
    return bits;
}

#endif

/* Copies p to q up to the first byte that needs an escape and returns how many; q has room for n +
 * BLOCK_BYTES. *ret_high becomes true when the copied part may hold bytes beyond ASCII. */
static size_t copy_clean(uint8_t *q, const uint8_t *p, size_t n, bool *ret_high) {
    if (n < 4)
        return copy_bytes(q, p, n, ret_high);
    if (n < BLOCK_BYTES)
        return copy_short(q, p, n, ret_high);
    size_t i = 0;
    for (; n - i >= BLOCK_BYTES; i += BLOCK_BYTES) {
        unsigned bits = copy_block(q + i, p + i, ret_high);
        if (PTN_UNLIKELY(bits != 0))
            return i + (size_t)__builtin_ctz(bits);
    }
    if (i == n)
        return n;
    /* The rest as a last full block that overlaps what is known to be clean. */
    unsigned bits = copy_block(q + n - BLOCK_BYTES, p + n - BLOCK_BYTES, ret_high);
    return PTN_LIKELY(bits == 0) ? n : n - BLOCK_BYTES + (size_t)__builtin_ctz(bits);
}

/* At most a block, of which only the first n bytes count: p can be read and q be written as a
 * whole. False: one of them needs an escape or is not ASCII. */
static inline bool copy_masked(uint8_t *q, const uint8_t *p, size_t n) {
#ifdef __SSE2__
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    bool is_high = false;
    const unsigned bits = copy_block(q, p, &is_high) | (unsigned)_mm_movemask_epi8(x);
    return (bits & ((1u << n) - 1)) == 0;
#else
    bool is_high = false;
    return copy_clean(q, p, n, &is_high) == n && !is_high;
#endif
}

static uint8_t *put_escape(uint8_t *q, uint8_t b) {
    static const char short_form[0x20] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't',
    };
    static const char hex[] = "0123456789abcdef";
    char letter = b >= 0x20 ? (char)b : short_form[b];
    *q++ = '\\';
    if (letter != 0) {
        *q++ = (uint8_t)letter;
        return q;
    }
    memcpy(q, "u00", 3);
    q[3] = (uint8_t)hex[b >> 4];
    q[4] = (uint8_t)hex[b & 15];
    return q + 5;
}

/* Appends p, some of whose bytes need escapes, in parts of bounded room. */
static void put_escaped(ptn_out *o, const uint8_t *p, size_t n) {
    bool is_high = false;
    while (n > 0) {
        size_t part = n < ESCAPED_PART_BYTES ? n : ESCAPED_PART_BYTES;
        uint8_t *q = ptn_out_reserve(o, part * ESCAPE_BYTES_MAX + BLOCK_BYTES), *start = q;
        if (q == NULL)
            return;
        const uint8_t *end = p + part;
        while (p < end) {
            size_t clean = copy_clean(q, p, (size_t)(end - p), &is_high);
            q += clean;
            p += clean;
            if (p < end)
                q = put_escape(q, *p++);
        }
        n -= part;
        o->len += (size_t)(q - start);
    }
}

/* Appends p, which is not UTF-8: each stray byte becomes U+FFFD. */
static void put_repaired(ptn_out *o, const uint8_t *p, size_t n) {
    while (n > 0) {
        size_t char_bytes = ptn__utf8_char(p, n);
        if (char_bytes == 0)
            ptn_out_put(o, "\xef\xbf\xbd", 3);
        else
            put_escaped(o, p, char_bytes);
        p += char_bytes == 0 ? 1 : char_bytes;
        n -= char_bytes == 0 ? 1 : char_bytes;
    }
}

void ptn_json_string(ptn_out *o, ptn_str s) {
    const uint8_t *p = (const uint8_t *)s.p;
    if (s.n > PTN_BUF_BYTES_MAX) {
        (void)ptn_out_reserve(o, PTN_BUF_BYTES_MAX + (size_t)1); /* sets the error */
        return;
    }
    uint8_t *q = ptn_out_reserve(o, s.n + 2 + BLOCK_BYTES);
    if (q == NULL)
        return;
    *q++ = '"';
    bool is_high = false;
    size_t clean = copy_clean(q, p, s.n, &is_high);
    bool is_utf8 = (clean == s.n && !is_high) || ptn_utf8_valid(p, s.n);
    if (PTN_LIKELY(clean == s.n && is_utf8)) {
        q[clean] = '"';
        o->len += clean + 2;
        return;
    }
    o->len += 1;
    if (is_utf8) {
        o->len += clean;
        put_escaped(o, p + clean, s.n - clean);
    } else {
        put_repaired(o, p, s.n);
    }
    ptn_out_put(o, "\"", 1);
}

/* Appends bytes as base64 (RFC 4648 section 4, with padding) in quotes. */
static void put_base64(ptn_out *o, const uint8_t *p, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t *q = ptn_out_reserve(o, (n / 3 + 1) * 4 + 2), *start = q;
    if (q == NULL)
        return;
    *q++ = '"';
    for (; n >= 3; n -= 3, p += 3, q += 4) {
        uint32_t v = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
        q[0] = (uint8_t)digits[v >> 18];
        q[1] = (uint8_t)digits[v >> 12 & 63];
        q[2] = (uint8_t)digits[v >> 6 & 63];
        q[3] = (uint8_t)digits[v & 63];
    }
    if (n > 0) {
        uint32_t v = (uint32_t)p[0] << 16 | (n == 2 ? (uint32_t)p[1] << 8 : 0);
        q[0] = (uint8_t)digits[v >> 18];
        q[1] = (uint8_t)digits[v >> 12 & 63];
        q[2] = n == 2 ? (uint8_t)digits[v >> 6 & 63] : '=';
        q[3] = '=';
        q += 4;
    }
    *q++ = '"';
    o->len += (size_t)(q - start);
}

/* ---- numbers -------------------------------------------------------------------------------- */

static const char digit_pairs[] =
    "00010203040506070809101112131415161718192021222324252627282930313233"
    "34353637383940414243444546474849505152535455565758596061626364656667"
    "68697071727374757677787980818283848586878889909192939495969798"
    "99";

static uint8_t *put_u64(uint8_t *q, uint64_t v) {
    uint8_t text[20];
    size_t i = sizeof(text);
    while (v >= 100) {
        i -= 2;
        memcpy(text + i, digit_pairs + v % 100 * 2, 2);
        v /= 100;
    }
    if (v >= 10) {
        i -= 2;
        memcpy(text + i, digit_pairs + v * 2, 2);
    } else {
        text[--i] = (uint8_t)('0' + v);
    }
    memcpy(q, text + i, sizeof(text) - i);
    return q + (sizeof(text) - i);
}

static uint8_t *put_i64(uint8_t *q, int64_t v) {
    if (v >= 0)
        return put_u64(q, (uint64_t)v);
    *q++ = '-';
    return put_u64(q, 0 - (uint64_t)v);
}

static uint8_t *put_text(uint8_t *q, const char *s, size_t n) {
    memcpy(q, s, n);
    return q + n;
}

static uint8_t *put_double(uint8_t *q, double v) {
    if (!isfinite(v))
        return put_text(q, "null", 4);
    return q + ptn__double_text(v, (char *)q);
}

/* ---- values --------------------------------------------------------------------------------- */

struct writer {
    ptn_out *o;
    const uint8_t *p, *end;
    uint64_t open; /* the innermost container: outstanding << 1 | is_map, as in validate.c */
    uint32_t depth;
    uint64_t stack[PTN__DEPTH_MAX];
};

/* Opens a container.  False: deeper than the stack. */
static bool write_open(struct writer *w, const struct ptn__head *h, uint8_t *q) {
    bool is_map = h->kind == PTN_KIND_MAP;
    if (w->depth == PTN__DEPTH_MAX)
        return false;
    *q = is_map ? '{' : '[';
    w->o->len++;
    w->stack[w->depth++] = w->open;
    w->open = (uint64_t)h->n << (is_map ? 2 : 1) | (is_map ? 1 : 0);
    return true;
}

/* Odd outstanding in a map: a key was written. */
static uint8_t separator(const struct writer *w) {
    return (w->open & 3) == 3 ? ':' : ',';
}

/* After a value: the comma or colon that separates it from the next, or the brackets that close. */
static bool write_after(struct writer *w) {
    for (;;) {
        if (w->open >= 2) {
            if (w->depth == 0)
                return true;
            uint8_t *q = ptn_out_reserve(w->o, 1);
            if (q == NULL)
                return false;
            *q = separator(w);
            w->o->len++;
            return true;
        }
        if (w->depth == 0)
            return true;
        uint8_t *q = ptn_out_reserve(w->o, 1);
        if (q == NULL)
            return false;
        *q = (w->open & 1) != 0 ? '}' : ']';
        w->o->len++;
        w->open = w->stack[--w->depth];
    }
}

/* Appends a nil, bool or number. */
static void write_scalar(ptn_out *o, const struct ptn__head *h, uint8_t *q) {
    uint8_t *start = q;
    switch (h->kind) {
    case PTN_KIND_BOOL:
        q = h->v.b ? put_text(q, "true", 4) : put_text(q, "false", 5);
        break;
    case PTN_KIND_INT:
        q = put_i64(q, h->v.i);
        break;
    case PTN_KIND_UINT:
        q = put_u64(q, h->v.u);
        break;
    case PTN_KIND_FLOAT:
        q = put_double(q, h->v.d);
        break;
    default:
        q = put_text(q, "null", 4);
        break;
    }
    o->len += (size_t)(q - start);
}

/* A text of less than 32 bytes that needs no escape, which keys and most texts are: one look at the
 * room, for what follows it as well.  False: the long way is the one to go. */
static bool write_short(struct writer *w) {
    ptn_str s;
    ptn_unpack u = {.p = w->p, .end = w->end};
    bool is_high = false;
    if (!ptn__str_short(&u, &s))
        return false;
    const uint8_t *p = (const uint8_t *)s.p;
    uint8_t *q = ptn_out_reserve(w->o, SHORT_TEXT_BYTES);
    if (q == NULL)
        return false;
    *q = '"';
    if (s.n <= BLOCK_BYTES && (size_t)(w->end - p) >= BLOCK_BYTES) {
        if (!copy_masked(q + 1, p, s.n))
            return false;
    } else if (copy_clean(q + 1, p, s.n, &is_high) != s.n || is_high) {
        return false;
    }
    q += 1 + s.n;
    *q++ = '"';
    w->p = u.p;
    w->open -= 2;
    if (w->open >= 2)
        *q++ = separator(w);
    w->o->len = (size_t)(q - w->o->p);
    return true;
}

/* Takes one value or container header.  0, or -PTN_EPROTO; output errors stay in the output. */
static int write_step(struct writer *w) {
    struct ptn__head h;
    if (PTN_LIKELY(write_short(w)))
        return w->open >= 2 || write_after(w) ? 0 : w->o->err;
    const uint8_t *p = ptn__head_read(w->p, w->end, &h);
    if (p == NULL || h.kind == PTN_KIND_EXT || ((w->open & 3) == 1 && h.kind != PTN_KIND_STR))
        return -PTN_EPROTO;
    uint8_t *q = ptn_out_reserve(w->o, SCALAR_BYTES_MAX);
    if (q == NULL)
        return w->o->err;
    w->p = p + ptn__head_body_bytes(&h);
    w->open -= 2;
    if (h.kind == PTN_KIND_STR)
        ptn_json_string(w->o, (ptn_str){(const char *)p, h.n});
    else if (h.kind == PTN_KIND_BIN)
        put_base64(w->o, p, h.n);
    else if (h.kind != PTN_KIND_ARRAY && h.kind != PTN_KIND_MAP)
        write_scalar(w->o, &h, q);
    else if (!write_open(w, &h, q))
        return -PTN_EPROTO;
    else if (h.n > 0)
        return 0; /* the first element follows without a separator */
    return write_after(w) ? 0 : w->o->err;
}

/* On failure the output is as long as before the call. */
int ptn_msgpack_to_json(ptn_bytes value, ptn_out *o) {
    struct writer w; /* the stack is written before it is read; clearing 8 KiB would cost more */
    size_t len = o->len;
    int err = o->err;
    w.o = o;
    w.p = value.p;
    w.end = value.n == 0 ? value.p : value.p + value.n;
    w.open = 1 << 1;
    w.depth = 0;
    while (err == 0 && w.open >= 2)
        err = write_step(&w);
    if (err == 0)
        err = o->err;
    if (err == 0 && w.p != w.end)
        err = -PTN_EPROTO;
    if (err != 0)
        o->len = len;
    return err;
}
