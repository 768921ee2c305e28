/* SPDX-License-Identifier: Apache-2.0
 *
 * buf.h - sealed, reference-counted payloads: what messages carry between actors.
 *
 * A buffer is written by its creator, sealed, and from then on immutable and shared by any number
 * of threads.  Memory comes from thread-local size-class free lists with a global depot behind
 * them, so that the steady path neither allocates nor locks.  All functions: any thread.
 */
#ifndef POSTERN_BUF_H
#define POSTERN_BUF_H

#include <postern/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ptn_buf ptn_buf;

#define PTN_BUF_BYTES_MAX (64u << 20) /* no single message is larger */

/* New, writable buffer of at least cap bytes, one reference.  NULL: no memory, or cap too big. */
ptn_buf *ptn_buf_new(size_t cap);

/* Writable bytes; only before the seal and only by the creator. */
uint8_t *ptn_buf_data(ptn_buf *b, size_t *ret_cap);

/* Grows an unsealed buffer (contents kept).  May move it: use the returned pointer.  NULL on
 * failure, and then the old buffer still belongs to the caller. */
ptn_buf *ptn_buf_grow(ptn_buf *take_b, size_t cap);

/* Sets the length; immutable from here on. */
void ptn_buf_seal(ptn_buf *b, size_t len);

/* Convenience: new + copy + seal.  NULL: out of memory. */
ptn_buf *ptn_buf_copy(const void *p, size_t n);

/* The sealed contents.  b may be NULL: an empty view. */
ptn_bytes ptn_buf_bytes(const ptn_buf *b);

/* Any thread.  One more reference, one less; the last one frees.  ref returns b, NULL included. */
ptn_buf *ptn_buf_ref(ptn_buf *b);
ptn_buf *ptn_buf_refn(ptn_buf *b, uint32_t n); /* one atomic add for a fan-out */
ptn_buf *ptn_buf_unref(ptn_buf *b);            /* accepts NULL; always returns NULL */

/* Bytes held by live buffers and by free lists, all threads, approximate: for metrics. */
void ptn_buf_stats(uint64_t *ret_live_bytes, uint64_t *ret_pooled_bytes);

#ifdef __cplusplus
}
#endif
#endif
