/* SPDX-License-Identifier: Apache-2.0
 *
 * deflate.c - the two zlib streams of a worker.  See deflate.h.
 *
 * Both are set back before each message and never after an error, so none can harm the next.
 */
#include "protocols/ws/deflate.h"

#include <postern/codec.h>
#include <postern/metrics.h>

#include <stdlib.h>
#define ZLIB_CONST
#include <zlib.h>

#define MEM_LEVEL 5        /* 2^12 hash heads and 2^11 codes at a time */
#define LEVEL Z_BEST_SPEED /* two thirds of level 6's time for a twentieth more bytes */
#define RAW (-1)           /* zlib: negative window bits mean no header and no checksum */
#define INFLATE_BITS MAX_WBITS
#define SCRATCH_BYTES_MAX (64u << 10) /* what d->packed may keep between uses */
#define MESSAGE_CAP_MIN 512u

/* What a sender cuts off its flushed block (RFC 7692 section 7.2.1) and a receiver puts back. */
static const uint8_t tail[4] = {0x00, 0x00, 0xff, 0xff};

struct ws_deflate {
    z_stream out, in;
    ptn_out packed;
};

static voidpf take(voidpf opaque, uInt n, uInt bytes) {
    (void)opaque;
    return calloc(n, bytes);
}

static void give(voidpf opaque, voidpf p) {
    (void)opaque;
    free(p);
}

ws_deflate *ws_deflate_new(void) {
    ws_deflate *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->out.zalloc = d->in.zalloc = take;
    d->out.zfree = d->in.zfree = give;
    if (deflateInit2(&d->out, LEVEL, Z_DEFLATED, RAW * (int)WS_DEFLATE_WINDOW_BITS, MEM_LEVEL,
                     Z_DEFAULT_STRATEGY) != Z_OK ||
        inflateInit2(&d->in, RAW * INFLATE_BITS) != Z_OK) {
        ws_deflate_free(d);
        return NULL;
    }
    return d;
}

void ws_deflate_free(ws_deflate *d) {
    if (d == NULL)
        return;
    (void)deflateEnd(&d->out); /* both accept a stream whose init has failed */
    (void)inflateEnd(&d->in);
    ptn_out_done(&d->packed);
    free(d);
}

int ws_deflate_pack(ws_deflate *d, ptn_bytes payload, ptn_bytes *ret_packed) {
    if (d->packed.cap > SCRATCH_BYTES_MAX)
        ptn_out_done(&d->packed);
    ptn_out_clear(&d->packed);
    uint8_t *to = ptn_out_reserve(&d->packed, payload.n + sizeof tail);
    if (to == NULL) {
        ptn_out_done(&d->packed);
        return -PTN_ENOMEM;
    }
    z_stream *z = &d->out;
    const int reset = deflateReset(z);
    PTN_ASSERT(reset == Z_OK);
    z->next_in = payload.p;
    z->avail_in = (uInt)payload.n;
    z->next_out = to;
    z->avail_out = (uInt)(payload.n + sizeof tail);
    const int r = deflate(z, Z_SYNC_FLUSH);
    PTN_ASSERT(r == Z_OK);
    /* Room is left when the flush is complete; then the tail stands at the end. */
    const bool shorter = z->avail_out > 0;
    const size_t n = shorter ? payload.n - z->avail_out : payload.n;
    ptn_count(PTN_C_DEFLATE_PLAIN, payload.n);
    ptn_count(PTN_C_DEFLATE_PACKED, n);
    if (!shorter)
        return -PTN_ETOOBIG;
    PTN_DEBUG_ASSERT(memcmp(to + n, tail, sizeof tail) == 0);
    *ret_packed = (ptn_bytes){to, n};
    return 0;
}

struct inflating {
    z_stream *z;
    ptn_buf *message;
    uint8_t *base;
    size_t n, cap, bytes_max;
    bool in_tail;
};

/* Room for at least one byte more; up to one beyond the limit, which tells that it is passed. */
static int grow(struct inflating *f) {
    if (f->n < f->cap)
        return 0;
    if (f->n > f->bytes_max)
        return -PTN_ETOOBIG;
    size_t cap = f->cap * 2;
    cap = cap > f->bytes_max + 1 ? f->bytes_max + 1 : cap;
    ptn_buf *grown = ptn_buf_grow(f->message, cap);
    if (grown == NULL)
        return -PTN_ENOMEM;
    f->message = grown;
    f->base = ptn_buf_data(grown, &(size_t){0});
    f->cap = cap;
    return 0;
}

/* One call of zlib.  1: the message is whole; 0: go on. */
static int inflate_step(struct inflating *f) {
    z_stream *z = f->z;
    const int err = grow(f);
    if (err != 0)
        return err;
    z->next_out = f->base + f->n;
    z->avail_out = (uInt)(f->cap - f->n);
    const int r = inflate(z, Z_SYNC_FLUSH);
    f->n = f->cap - z->avail_out;
    if (f->n > f->bytes_max)
        return -PTN_ETOOBIG;
    if (r == Z_MEM_ERROR)
        return -PTN_ENOMEM;
    if (r == Z_STREAM_END) { /* a final block may end the message, or others follow it (7.2.3.4) */
        if (f->in_tail || z->avail_in == 0)
            return f->in_tail ? -PTN_EPROTO : 1;
        return inflateReset(z) == Z_OK ? 0 : -PTN_EPROTO;
    }
    if (r != Z_OK && r != Z_BUF_ERROR)
        return -PTN_EPROTO;
    if (z->avail_out == 0)
        return 0;
    if (f->in_tail) /* 128: between two blocks, so nothing of the last one is missing */
        return (z->data_type & 128) != 0 ? 1 : -PTN_EPROTO;
    f->in_tail = true;
    z->next_in = tail;
    z->avail_in = sizeof tail;
    return 0;
}

int ws_deflate_unpack(ws_deflate *d, ptn_bytes packed, uint32_t bytes_max, ptn_buf **ret_message) {
    size_t cap = packed.n < SIZE_MAX / 4 ? packed.n * 4 : packed.n;
    cap = cap > MESSAGE_CAP_MIN ? cap : MESSAGE_CAP_MIN;
    cap = cap > (size_t)bytes_max + 1 ? (size_t)bytes_max + 1 : cap;
    struct inflating f = {
        .z = &d->in, .message = ptn_buf_new(cap), .cap = cap, .bytes_max = bytes_max};
    int r = f.message != NULL ? 0 : -PTN_ENOMEM;
    if (r == 0) {
        f.base = ptn_buf_data(f.message, &(size_t){0});
        const int reset = inflateReset(f.z);
        PTN_ASSERT(reset == Z_OK);
        f.z->next_in = packed.p;
        f.z->avail_in = (uInt)packed.n;
    }
    while (r == 0)
        r = inflate_step(&f);
    ptn_count(PTN_C_INFLATE_PACKED, packed.n);
    ptn_count(PTN_C_INFLATE_PLAIN, f.n);
    if (r < 0) {
        ptn_buf_unref(f.message);
        ptn_count(PTN_C_INFLATE_FAILED, 1);
        return r;
    }
    ptn_buf_seal(f.message, f.n);
    *ret_message = f.message;
    return 0;
}
