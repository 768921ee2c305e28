/* SPDX-License-Identifier: Apache-2.0
 *
 * codec.h - JSON (RFC 8259) and msgpack, each into the other, strict and bounded.
 *
 * Nothing from a peer reaches an actor before one of these has accepted it.  Integers stay integers
 * (64 bits, signed and unsigned), everything with a fraction or exponent is a float; integers
 * beyond 64 bits are refused, not rounded.  Strings are UTF-8 and, at this border, without NUL
 * (wire.md section 2).
 *
 * Any thread; one ptn_json_parser per thread.
 */
#ifndef POSTERN_CODEC_H
#define POSTERN_CODEC_H

#include <postern/base.h>
#include <postern/buf.h>
#include <postern/pack.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ptn_codec_limits {
    size_t bytes_max;   /* of the input; 0: 1 MiB; never more than PTN_BUF_BYTES_MAX */
    uint32_t depth_max; /* nested arrays and maps; 0: 32; never more than 1024 */
} ptn_codec_limits;

typedef struct ptn_codec_error {
    const char *what; /* static text that says what is wrong and what to do */
    size_t offset;    /* where, as nearly as the parser knows */
} ptn_codec_error;

/* One JSON text to one msgpack value, appended to w.  -PTN_EPROTO with *reterr filled,
 * -PTN_ETOOBIG, -PTN_ENOMEM.  On error w may hold part of the value: abort it. */
typedef struct ptn_json_parser ptn_json_parser;
ptn_json_parser *ptn_json_parser_new(void);
void ptn_json_parser_free(ptn_json_parser *p); /* accepts NULL */
int ptn_json_to_msgpack(ptn_json_parser *p, ptn_str json, const ptn_codec_limits *limits,
                        ptn_pack *w, ptn_codec_error *reterr);

/* Exactly one well-formed value that fills the input: lengths, depth, UTF-8 without NUL in every
 * string, string keys in maps, no ext types.  Here and above, limits (the defaults) and reterr may
 * be NULL. */
int ptn_msgpack_validate(ptn_bytes b, const ptn_codec_limits *limits, ptn_codec_error *reterr);

/* A growable byte string for output. */
typedef struct ptn_out {
    uint8_t *p;
    size_t len, cap;
    int err; /* sticky */
} ptn_out;
void ptn_out_done(ptn_out *o);
void ptn_out_clear(ptn_out *o); /* keeps the memory */
uint8_t *ptn__out_grow(ptn_out *o, size_t n);
/* Room for n more bytes at the returned place; the caller adds to len what it used.  NULL: o->err.
 */
static inline uint8_t *ptn_out_reserve(ptn_out *o, size_t n) {
    bool fits = o->err == 0 && o->p != NULL && n <= o->cap - o->len;
    return fits ? o->p + o->len : ptn__out_grow(o, n);
}
static inline void ptn_out_put(ptn_out *o, const void *p, size_t n) {
    uint8_t *q = n != 0 ? ptn_out_reserve(o, n) : NULL;
    if (q != NULL) {
        memcpy(q, p, n);
        o->len += n;
    }
}

/* Appends one valid msgpack value as JSON.  bin becomes base64 text, NaN and infinities become
 * null, numbers round-trip.  -PTN_EPROTO: not one value of at most 1024 levels, or one that JSON
 * cannot say (ext types, keys that are not strings); -PTN_ETOOBIG, -PTN_ENOMEM.  On failure o is as
 * long as before. */
int ptn_msgpack_to_json(ptn_bytes value, ptn_out *o);
/* Appends one JSON string literal, quotes included. */
void ptn_json_string(ptn_out *o, ptn_str s);

/* True for well-formed UTF-8 (RFC 3629: no overlongs, no surrogates, at most U+10FFFF). */
bool ptn_utf8_valid(const uint8_t *p, size_t n);
/* Incremental form for fragmented messages: state starts at 0; false as soon as the bytes cannot be
 * UTF-8; a whole text ends with state 0. */
bool ptn_utf8_feed(uint32_t *state, const uint8_t *p, size_t n);

#ifdef __cplusplus
}
#endif
#endif
