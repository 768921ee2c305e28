/* SPDX-License-Identifier: Apache-2.0
 *
 * pack.h - reading and writing msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md),
 * the form of every message between actors.
 *
 * The writer fills a ptn_buf; the reader is a cursor over bytes that were validated when they
 * entered the process (ptn_msgpack_validate), yet it never reads past its end whatever it is given.
 * Pure functions, any thread.  Errors are sticky, so callers check once, at the end.
 */
#ifndef POSTERN_PACK_H
#define POSTERN_PACK_H

#include <postern/base.h>
#include <postern/buf.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- writer ------------------------------------------------------------------------------- */

typedef struct ptn_pack {
    ptn_buf *buf; /* NULL: the memory is the caller's */
    uint8_t *begin, *p, *end;
    int err; /* 0, or -PTN_ENOMEM / -PTN_ETOOBIG, sticky */
} ptn_pack;

/* Start writing into a new buffer of about that size, then append value after value; an error
 * sticks and is reported at the end. */
void ptn_pack_init(ptn_pack *w, size_t hint_bytes);
/* The same in n bytes of the caller, and in a buffer from where they do not suffice: for what is
 * read at once, through ptn_pack_view(). */
void ptn_pack_init_in(ptn_pack *w, void *memory, size_t n);
void ptn_pack_nil(ptn_pack *w);
void ptn_pack_bool(ptn_pack *w, bool v);
void ptn_pack_int(ptn_pack *w, int64_t v); /* shortest form */
void ptn_pack_uint(ptn_pack *w, uint64_t v);
void ptn_pack_double(ptn_pack *w, double v);
void ptn_pack_str(ptn_pack *w, ptn_str s);
void ptn_pack_cstr(ptn_pack *w, const char *z);   /* NULL writes nil */
void ptn_pack_str_or_nil(ptn_pack *w, ptn_str s); /* n == 0 writes nil */
void ptn_pack_bin(ptn_pack *w, ptn_bytes b);
void ptn_pack_array(ptn_pack *w, uint32_t n); /* header; n values follow */
void ptn_pack_map(ptn_pack *w, uint32_t n);   /* header; n key-value pairs follow */
/* An array whose length shows at its end: close() takes what open() returned. */
size_t ptn_pack_array_open(ptn_pack *w);
void ptn_pack_array_close(ptn_pack *w, size_t at, uint32_t n);
void ptn_pack_raw(ptn_pack *w, ptn_bytes encoded); /* an already encoded value */
/* Of a map; inline, so that a literal is a few stores: a fixstr, and nearly always there is room.
 */
static inline void ptn_pack_key(ptn_pack *w, const char *z) {
    size_t n = strlen(z);
    if (PTN_UNLIKELY(n > 31 || (size_t)(w->end - w->p) <= n)) {
        ptn_pack_str(w, (ptn_str){z, n});
        return;
    }
    *w->p = (uint8_t)(0xa0 | n);
    memcpy(w->p + 1, z, n);
    w->p += 1 + n;
}
size_t ptn_pack_len(const ptn_pack *w);
/* The sealed buffer, or NULL when anything failed (then everything is released). */
ptn_buf *ptn_pack_finish(ptn_pack *w);
void ptn_pack_abort(ptn_pack *w);
/* What was written, while neither writer nor memory changes; ptn_pack_abort() releases it.  False:
 * something failed. */
bool ptn_pack_view(const ptn_pack *w, ptn_bytes *ret_b);

/* ---- reader ------------------------------------------------------------------------------- */

enum ptn_kind {
    PTN_KIND_END, /* nothing left, or malformed */
    PTN_KIND_NIL,
    PTN_KIND_BOOL,
    PTN_KIND_INT,  /* fits int64_t */
    PTN_KIND_UINT, /* above INT64_MAX */
    PTN_KIND_FLOAT,
    PTN_KIND_STR,
    PTN_KIND_BIN,
    PTN_KIND_ARRAY,
    PTN_KIND_MAP,
    PTN_KIND_EXT,
};

typedef struct ptn_unpack {
    const uint8_t *p, *end;
} ptn_unpack;

/* A cursor at the first value of b, which must outlive it. */
static inline ptn_unpack ptn_unpack_of(ptn_bytes b) {
    return (ptn_unpack){b.p, b.n == 0 ? b.p : b.p + b.n}; /* NULL + 0 is undefined in C */
}
enum ptn_kind ptn_unpack_peek(const ptn_unpack *u);
/* Each returns true and advances, or false and leaves the cursor and ret_* untouched (wrong kind or
 * end). */
bool ptn_unpack_nil(ptn_unpack *u);
bool ptn_unpack_bool(ptn_unpack *u, bool *ret_v);
bool ptn_unpack_int(ptn_unpack *u, int64_t *ret_v);   /* any integer that fits */
bool ptn_unpack_uint(ptn_unpack *u, uint64_t *ret_v); /* any integer >= 0 */
bool ptn_unpack_double(ptn_unpack *u, double *ret_v); /* float 32 and 64, and integers */
bool ptn_unpack_str(ptn_unpack *u, ptn_str *ret_s);
bool ptn_unpack_str_or_nil(ptn_unpack *u, ptn_str *ret_s); /* nil: empty */
bool ptn_unpack_bin(ptn_unpack *u, ptn_bytes *ret_b);
bool ptn_unpack_array(ptn_unpack *u, uint32_t *ret_n);
bool ptn_unpack_map(ptn_unpack *u, uint32_t *ret_n);
/* One whole value of any kind; ret_raw (may be NULL) is its encoding. */
bool ptn_unpack_any(ptn_unpack *u, ptn_bytes *ret_raw);

/* The next pair of a map, for those who want several members of it: once for each of the count that
 * ptn_unpack_map() gave.  A key that is no string comes as the empty one. */
bool ptn_unpack_pair(ptn_unpack *u, ptn_str *ret_key, ptn_bytes *ret_value);

/* Looks a string key up in an encoded map (first match); linear.  False: not a map, or no such key.
 */
bool ptn_map_get(ptn_bytes map, const char *key, ptn_bytes *ret_value);
bool ptn_map_get_str(ptn_bytes map, const char *key, ptn_str *ret_s);
bool ptn_map_get_int(ptn_bytes map, const char *key, int64_t *ret_v);
bool ptn_map_get_uint(ptn_bytes map, const char *key, uint64_t *ret_v);
bool ptn_map_get_bool(ptn_bytes map, const char *key, bool *ret_v);
enum ptn_kind ptn_kind_of(ptn_bytes value);

#ifdef __cplusplus
}
#endif
#endif
