/* SPDX-License-Identifier: Apache-2.0
 *
 * pack_inline.h - msgpack headers, encoded and decoded: the one place that knows the format's
 * bytes.
 *
 * Internal to the codec.  pack.c and json_read.c write through the ptn__put_* functions, unpack.c,
 * validate.c and json_write.c read through ptn__head_read, so writer and readers cannot disagree.
 * Everything is inline because it runs several times per message.
 */
#ifndef POSTERN_CODEC_PACK_INLINE_H
#define POSTERN_CODEC_PACK_INLINE_H

#include <postern/pack.h>

/* No scalar and no header is longer. */
#define PTN__HEAD_BYTES_MAX 9u

/* Nesting that the fixed stacks of the codec can hold, and the highest limit a caller can ask for.
 */
#define PTN__DEPTH_MAX 1024u

/* ---- writing: q has room for PTN__HEAD_BYTES_MAX; each returns the byte after what it wrote
 * ------ */

/* Network order from and to the host's. */
static inline uint64_t ptn__be(uint64_t v, unsigned width) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return __builtin_bswap64(v) >> (64 - 8 * width);
#else
    return v;
#endif
}

/* width is a constant wherever this is inlined, so the copy is one store. */
static inline uint8_t *ptn__put_be(uint8_t *q, uint8_t tag, uint64_t v, unsigned width) {
    uint64_t be = ptn__be(v, width);
    *q = tag;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(q + 1, &be, width);
#else
    memcpy(q + 1, (const uint8_t *)&be + 8 - width, width);
#endif
    return q + 1 + width;
}

static inline uint8_t *ptn__put_uint(uint8_t *q, uint64_t v) {
    if (v < 0x80) {
        *q = (uint8_t)v;
        return q + 1;
    }
    if (v <= UINT8_MAX)
        return ptn__put_be(q, 0xcc, v, 1);
    if (v <= UINT16_MAX)
        return ptn__put_be(q, 0xcd, v, 2);
    if (v <= UINT32_MAX)
        return ptn__put_be(q, 0xce, v, 4);
    return ptn__put_be(q, 0xcf, v, 8);
}

static inline uint8_t *ptn__put_int(uint8_t *q, int64_t v) {
    if (v >= 0)
        return ptn__put_uint(q, (uint64_t)v);
    if (v >= -32) {
        *q = (uint8_t)v;
        return q + 1;
    }
    if (v >= INT8_MIN)
        return ptn__put_be(q, 0xd0, (uint64_t)v, 1);
    if (v >= INT16_MIN)
        return ptn__put_be(q, 0xd1, (uint64_t)v, 2);
    if (v >= INT32_MIN)
        return ptn__put_be(q, 0xd2, (uint64_t)v, 4);
    return ptn__put_be(q, 0xd3, (uint64_t)v, 8);
}

/* bits: the IEEE 754 double, as an integer. */
static inline uint8_t *ptn__put_double_bits(uint8_t *q, uint64_t bits) {
    return ptn__put_be(q, 0xcb, bits, 8);
}

static inline uint8_t *ptn__put_str_head(uint8_t *q, uint32_t n) {
    if (n < 32) {
        *q = (uint8_t)(0xa0u | n);
        return q + 1;
    }
    if (n <= UINT8_MAX)
        return ptn__put_be(q, 0xd9, n, 1);
    if (n <= UINT16_MAX)
        return ptn__put_be(q, 0xda, n, 2);
    return ptn__put_be(q, 0xdb, n, 4);
}

static inline uint8_t *ptn__put_bin_head(uint8_t *q, uint32_t n) {
    if (n <= UINT8_MAX)
        return ptn__put_be(q, 0xc4, n, 1);
    if (n <= UINT16_MAX)
        return ptn__put_be(q, 0xc5, n, 2);
    return ptn__put_be(q, 0xc6, n, 4);
}

static inline uint8_t *ptn__put_array_head(uint8_t *q, uint32_t n) {
    if (n < 16) {
        *q = (uint8_t)(0x90u | n);
        return q + 1;
    }
    return n <= UINT16_MAX ? ptn__put_be(q, 0xdc, n, 2) : ptn__put_be(q, 0xdd, n, 4);
}

static inline uint8_t *ptn__put_map_head(uint8_t *q, uint32_t n) {
    if (n < 16) {
        *q = (uint8_t)(0x80u | n);
        return q + 1;
    }
    return n <= UINT16_MAX ? ptn__put_be(q, 0xde, n, 2) : ptn__put_be(q, 0xdf, n, 4);
}

/* pack.c.  Makes room for n more bytes, or sets w->err. */
bool ptn__pack_grow(ptn_pack *w, size_t n);

static inline bool ptn__pack_room(ptn_pack *w, size_t n) {
    return PTN_LIKELY((size_t)(w->end - w->p) >= n) || ptn__pack_grow(w, n);
}

/* ---- reading -------------------------------------------------------------------------------- */

struct ptn__head {
    enum ptn_kind kind;
    uint32_t n; /* STR, BIN, EXT: bytes of the body; ARRAY: elements; MAP: pairs */
    union {
        bool b;     /* BOOL */
        int64_t i;  /* INT */
        uint64_t u; /* UINT; and INT when it is not negative */
        double d;   /* FLOAT */
    } v;
};

/* One entry per first byte 0xc0 to 0xdf: the kind, and the width of the number that follows. */
struct ptn__head_form {
    uint8_t kind, width;
};

static const struct ptn__head_form ptn__head_forms[32] = {
    {PTN_KIND_NIL, 0},   {PTN_KIND_END, 0},   {PTN_KIND_BOOL, 0},  {PTN_KIND_BOOL, 0},  /* c0 */
    {PTN_KIND_BIN, 1},   {PTN_KIND_BIN, 2},   {PTN_KIND_BIN, 4},   {PTN_KIND_EXT, 1},   /* c4 */
    {PTN_KIND_EXT, 2},   {PTN_KIND_EXT, 4},   {PTN_KIND_FLOAT, 4}, {PTN_KIND_FLOAT, 8}, /* c8 */
    {PTN_KIND_UINT, 1},  {PTN_KIND_UINT, 2},  {PTN_KIND_UINT, 4},  {PTN_KIND_UINT, 8},  /* cc */
    {PTN_KIND_INT, 1},   {PTN_KIND_INT, 2},   {PTN_KIND_INT, 4},   {PTN_KIND_INT, 8},   /* d0 */
    {PTN_KIND_EXT, 0},   {PTN_KIND_EXT, 0},   {PTN_KIND_EXT, 0},   {PTN_KIND_EXT, 0},   /* d4 */
    {PTN_KIND_EXT, 0},   {PTN_KIND_STR, 1},   {PTN_KIND_STR, 2},   {PTN_KIND_STR, 4},   /* d8 */
    {PTN_KIND_ARRAY, 2}, {PTN_KIND_ARRAY, 4}, {PTN_KIND_MAP, 2},   {PTN_KIND_MAP, 4},   /* dc */
};

static inline uint64_t ptn__get_be(const uint8_t *p, unsigned width) {
    uint64_t v = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(&v, p, width);
    return ptn__be(v, width);
#else
    memcpy((uint8_t *)&v + 8 - width, p, width);
    return v;
#endif
}

/* The number field v of a float, integer, bool or nil header, as a value. */
static inline void ptn__head_scalar(struct ptn__head *h, uint8_t tag, uint64_t v, unsigned width) {
    if (h->kind == PTN_KIND_UINT) { /* the format's word; ours says INT when it fits */
        h->kind = v > INT64_MAX ? PTN_KIND_UINT : PTN_KIND_INT;
        h->v.u = v;
    } else if (h->kind == PTN_KIND_INT) {
        unsigned shift = 64 - 8 * width;
        h->v.i = (int64_t)(v << shift) >> shift; /* sign extension: arithmetic on gcc and clang */
    } else if (h->kind == PTN_KIND_FLOAT && width == 4) {
        uint32_t bits = (uint32_t)v;
        float f;
        memcpy(&f, &bits, sizeof(f));
        h->v.d = (double)f;
    } else if (h->kind == PTN_KIND_FLOAT) {
        memcpy(&h->v.d, &v, sizeof(v));
    } else {
        h->v.b = tag == 0xc3;
    }
}

/* Header forms 0xc0 to 0xdf; p is after the first byte. */
static inline const uint8_t *ptn__head_read_long(const uint8_t *p, const uint8_t *end, uint8_t tag,
                                                 struct ptn__head *h) {
    struct ptn__head_form form = ptn__head_forms[tag & 31];
    if ((size_t)(end - p) < form.width)
        return NULL;
    uint64_t v;
    switch (form.width) { /* constant widths, so that each read is one load */
    case 0:
        v = 0;
        break;
    case 1:
        v = p[0];
        break;
    case 2:
        v = ptn__get_be(p, 2);
        break;
    case 4:
        v = ptn__get_be(p, 4);
        break;
    default:
        v = ptn__get_be(p, 8);
        break;
    }
    p += form.width;
    h->kind = (enum ptn_kind)form.kind;
    h->n = (uint32_t)v;
    if (h->kind >= PTN_KIND_STR && h->kind != PTN_KIND_EXT)
        return p;
    if (h->kind == PTN_KIND_END)
        return NULL;
    if (h->kind == PTN_KIND_EXT) {
        if (form.width == 0)
            h->n = 1u << (tag - 0xd4);
        return p == end ? NULL : p + 1; /* the application's type byte */
    }
    ptn__head_scalar(h, tag, v, form.width);
    return p;
}

/* Reads one header.  Returns the byte after it (for STR, BIN and EXT the body, which is there in
 * full), or NULL when the bytes end early or cannot be msgpack.  Element counts that the remaining
 * bytes cannot hold count as ending early, so a caller may allocate by h->n. */
static inline const uint8_t *ptn__head_read(const uint8_t *p, const uint8_t *end,
                                            struct ptn__head *h) {
    if (PTN_UNLIKELY(p == end))
        return NULL;
    uint8_t tag = *p++;
    h->n = 0;
    if (tag < 0x80 || tag >= 0xe0) {
        h->kind = PTN_KIND_INT;
        h->v.i = (int8_t)tag;
        return p;
    }
    if (tag < 0xc0) {
        h->kind = tag < 0x90 ? PTN_KIND_MAP : tag < 0xa0 ? PTN_KIND_ARRAY : PTN_KIND_STR;
        h->n = tag & (tag < 0xa0 ? 15u : 31u);
    } else {
        p = ptn__head_read_long(p, end, tag, h);
        if (PTN_UNLIKELY(p == NULL))
            return NULL;
        if (h->kind < PTN_KIND_STR)
            return p;
    }
    size_t left = (size_t)(end - p);
    if (h->kind == PTN_KIND_MAP)
        left /= 2;
    return PTN_LIKELY(h->n <= left) ? p : NULL;
}

/* The short ways, for what messages are made of: a small value is stepped over, and a short text
 * read, without taking its header apart.  NULL, false: go the long way. */

static const uint8_t ptn__short_bytes[32] = {
    1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 5, 9, 2, 3, 5, 9, /* c0 */
    2, 3, 5, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};

static inline const uint8_t *ptn__skip_short(const uint8_t *p, const uint8_t *end) {
    size_t left = (size_t)(end - p), n;
    if (PTN_UNLIKELY(left < 2))
        return NULL;
    uint8_t tag = *p;
    if (tag < 0x80 || tag >= 0xe0)
        return p + 1;
    if (tag < 0xa0)
        return NULL;
    if (tag < 0xc0)
        n = 1 + (tag & 31u);
    else if (tag == 0xc4 || tag == 0xd9)
        n = 2 + (size_t)p[1];
    else
        n = ptn__short_bytes[tag & 31];
    return n - 1 < left ? p + n : NULL; /* 0 wraps */
}

static inline bool ptn__str_short(ptn_unpack *u, ptn_str *ret_s) {
    if (PTN_UNLIKELY(u->p == u->end) || (*u->p & 0xe0) != 0xa0)
        return false;
    size_t n = *u->p & 31u;
    if (PTN_UNLIKELY((size_t)(u->end - u->p) <= n))
        return false;
    *ret_s = (ptn_str){(const char *)u->p + 1, n};
    u->p += 1 + n;
    return true;
}

static inline bool ptn__bin_short(ptn_unpack *u, ptn_bytes *ret_b) {
    if (PTN_UNLIKELY((size_t)(u->end - u->p) < 2) || *u->p != 0xc4)
        return false;
    size_t n = u->p[1];
    if (PTN_UNLIKELY((size_t)(u->end - u->p) - 2 < n))
        return false;
    *ret_b = (ptn_bytes){u->p + 2, n};
    u->p += 2 + n;
    return true;
}

static inline bool ptn__uint_short(ptn_unpack *u, uint64_t *ret_v) {
    if (PTN_UNLIKELY(u->p == u->end) || *u->p >= 0x80)
        return false;
    *ret_v = *u->p++;
    return true;
}

/* n values; n < 16 */
static inline bool ptn__array_short(ptn_unpack *u, uint32_t n) {
    if (PTN_UNLIKELY((size_t)(u->end - u->p) <= n) || *u->p != (0x90 | n))
        return false;
    u->p++;
    return true;
}

static inline bool ptn__nil(ptn_unpack *u) {
    if (PTN_UNLIKELY(u->p == u->end) || *u->p != 0xc0)
        return false;
    u->p++;
    return true;
}

/* Bytes between the header and the next value: bodies of STR, BIN, EXT; none for the rest. */
static inline size_t ptn__head_body_bytes(const struct ptn__head *h) {
    return h->kind == PTN_KIND_STR || h->kind == PTN_KIND_BIN || h->kind == PTN_KIND_EXT ? h->n : 0;
}

#endif
