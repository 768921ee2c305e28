/* SPDX-License-Identifier: Apache-2.0
 *
 * pack.c - the msgpack writer: values appended to a buffer that grows and is sealed at the end.
 *
 * The first failure is kept in w->err and closes the writer (p == end), so that every later call
 * fails its room check and does nothing; callers look once, at ptn_pack_finish.  Any thread.
 */
#include <postern/pack.h>

#include "protocols/codec/pack_inline.h"

#define PACK_HINT_BYTES_DEFAULT 256u
#define HEAD32_BYTES 5u

/* The shortest form is what peers and our own tests compare byte by byte. */
_Static_assert(PTN_BUF_BYTES_MAX <= UINT32_MAX, "every length fits a 32-bit msgpack header");

static bool pack_fail(ptn_pack *w, int err) {
    if (w->err == 0)
        w->err = err;
    w->end = w->p;
    return false;
}

/* hint_bytes is what the caller expects to write; 0 takes a default.  Failure shows in w->err. */
void ptn_pack_init(ptn_pack *w, size_t hint_bytes) {
    size_t cap = hint_bytes == 0 ? PACK_HINT_BYTES_DEFAULT : hint_bytes;
    *w = (ptn_pack){0};
    if (cap > PTN_BUF_BYTES_MAX)
        cap = PTN_BUF_BYTES_MAX; /* a hint, not a promise */
    w->buf = ptn_buf_new(cap);
    if (w->buf == NULL) {
        (void)pack_fail(w, -PTN_ENOMEM);
        return;
    }
    w->begin = w->p = ptn_buf_data(w->buf, &cap);
    w->end = w->p + cap;
}

void ptn_pack_init_in(ptn_pack *w, void *memory, size_t n) {
    *w = (ptn_pack){.begin = memory, .p = memory, .end = (uint8_t *)memory + n};
}

/* A larger buffer with what was written.  NULL: no memory. */
static ptn_buf *grown(const ptn_pack *w, size_t len, size_t cap) {
    if (w->buf != NULL)
        return ptn_buf_grow(w->buf, cap);
    ptn_buf *b = ptn_buf_new(cap);
    if (b != NULL && len > 0)
        memcpy(ptn_buf_data(b, NULL), w->begin, len);
    return b;
}

/* Makes room for n more bytes by at least doubling, up to PTN_BUF_BYTES_MAX. */
bool ptn__pack_grow(ptn_pack *w, size_t n) {
    if (w->err != 0)
        return false;
    size_t len = ptn_pack_len(w);
    if (n > PTN_BUF_BYTES_MAX - len)
        return pack_fail(w, -PTN_ETOOBIG);
    size_t cap = (size_t)(w->end - w->p) + len;
    cap = cap > PTN_BUF_BYTES_MAX / 2 ? PTN_BUF_BYTES_MAX : 2 * cap;
    if (cap < len + n)
        cap = len + n;
    ptn_buf *b = grown(w, len, cap);
    if (b == NULL)
        return pack_fail(w, -PTN_ENOMEM);
    w->buf = b;
    w->begin = ptn_buf_data(b, &cap);
    if (cap > PTN_BUF_BYTES_MAX)
        cap = PTN_BUF_BYTES_MAX;
    w->p = w->begin + len;
    w->end = w->begin + cap;
    return true;
}

void ptn_pack_nil(ptn_pack *w) {
    if (ptn__pack_room(w, 1))
        *w->p++ = 0xc0;
}

void ptn_pack_bool(ptn_pack *w, bool v) {
    if (ptn__pack_room(w, 1))
        *w->p++ = v ? 0xc3 : 0xc2;
}

void ptn_pack_int(ptn_pack *w, int64_t v) {
    if (ptn__pack_room(w, PTN__HEAD_BYTES_MAX))
        w->p = ptn__put_int(w->p, v);
}

void ptn_pack_uint(ptn_pack *w, uint64_t v) {
    if (ptn__pack_room(w, PTN__HEAD_BYTES_MAX))
        w->p = ptn__put_uint(w->p, v);
}

/* Always float 64, also when float 32 would hold the value: one form per value. */
void ptn_pack_double(ptn_pack *w, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    if (ptn__pack_room(w, PTN__HEAD_BYTES_MAX))
        w->p = ptn__put_double_bits(w->p, bits);
}

static void pack_body(ptn_pack *w, const void *p, size_t n) {
    if (n > 0) {
        memcpy(w->p, p, n);
        w->p += n;
    }
}

/* Room for a header and n bytes of body, without overflow for any n. */
static bool pack_body_room(ptn_pack *w, size_t n) {
    if (n > PTN_BUF_BYTES_MAX)
        return pack_fail(w, -PTN_ETOOBIG);
    return ptn__pack_room(w, PTN__HEAD_BYTES_MAX + n);
}

void ptn_pack_str(ptn_pack *w, ptn_str s) {
    if (!pack_body_room(w, s.n))
        return;
    w->p = ptn__put_str_head(w->p, (uint32_t)s.n);
    pack_body(w, s.p, s.n);
}

void ptn_pack_cstr(ptn_pack *w, const char *z) {
    if (z == NULL)
        ptn_pack_nil(w);
    else
        ptn_pack_str(w, ptn_str_of(z));
}

void ptn_pack_str_or_nil(ptn_pack *w, ptn_str s) {
    if (s.n == 0)
        ptn_pack_nil(w);
    else
        ptn_pack_str(w, s);
}

void ptn_pack_bin(ptn_pack *w, ptn_bytes b) {
    if (!pack_body_room(w, b.n))
        return;
    w->p = ptn__put_bin_head(w->p, (uint32_t)b.n);
    pack_body(w, b.p, b.n);
}

void ptn_pack_array(ptn_pack *w, uint32_t n) {
    if (ptn__pack_room(w, PTN__HEAD_BYTES_MAX))
        w->p = ptn__put_array_head(w->p, n);
}

/* The longest form: what follows cannot move. */
size_t ptn_pack_array_open(ptn_pack *w) {
    static const uint8_t head[HEAD32_BYTES] = {0xdd};
    size_t at = ptn_pack_len(w);
    ptn_pack_raw(w, (ptn_bytes){head, sizeof head});
    return at;
}

void ptn_pack_array_close(ptn_pack *w, size_t at, uint32_t n) {
    if (w->err != 0)
        return;
    uint8_t *head = w->p - (ptn_pack_len(w) - at);
    PTN_DEBUG_ASSERT(head[0] == 0xdd);
    for (size_t i = 1; i < HEAD32_BYTES; i++, n <<= 8)
        head[i] = (uint8_t)(n >> 24);
}

void ptn_pack_map(ptn_pack *w, uint32_t n) {
    if (ptn__pack_room(w, PTN__HEAD_BYTES_MAX))
        w->p = ptn__put_map_head(w->p, n);
}

void ptn_pack_raw(ptn_pack *w, ptn_bytes encoded) {
    if (ptn__pack_room(w, encoded.n))
        pack_body(w, encoded.p, encoded.n);
}

size_t ptn_pack_len(const ptn_pack *w) {
    return w->p == NULL ? 0 : (size_t)(w->p - w->begin);
}

ptn_buf *ptn_pack_finish(ptn_pack *w) {
    if (w->err != 0) {
        ptn_pack_abort(w);
        return NULL;
    }
    ptn_buf *b = w->buf;
    if (b != NULL)
        ptn_buf_seal(b, ptn_pack_len(w));
    else if (w->p != NULL)
        b = ptn_buf_copy(w->begin, ptn_pack_len(w));
    w->buf = NULL;
    w->begin = w->p = w->end = NULL;
    w->err = -PTN_EINVAL; /* a finished writer accepts nothing more */
    return b;
}

/* Releases everything; harmless after ptn_pack_finish. */
void ptn_pack_abort(ptn_pack *w) {
    w->buf = ptn_buf_unref(w->buf);
    w->begin = w->p = w->end = NULL;
    if (w->err == 0)
        w->err = -PTN_ECANCELED;
}

bool ptn_pack_view(const ptn_pack *w, ptn_bytes *ret_b) {
    *ret_b = (ptn_bytes){w->begin, ptn_pack_len(w)};
    return w->err == 0;
}
