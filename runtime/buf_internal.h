/* SPDX-License-Identifier: Apache-2.0
 *
 * buf_internal.h - how a payload lies in memory, for the path of a message.
 */
#ifndef POSTERN_RUNTIME_BUF_INTERNAL_H
#define POSTERN_RUNTIME_BUF_INTERNAL_H

#include <postern/buf.h>

#include <stdatomic.h>

#define PTN__BUF_MAGIC 0x5042u

struct ptn_buf {
    _Atomic(uint32_t) refs;
    uint32_t cap;
    uint32_t len;
    uint16_t magic;
    uint8_t pool_class;
    uint8_t sealed;
#ifdef PTN_DEBUG
    uint64_t sum; /* at the seal; a write after it is a bug somewhere, found at the release */
    uint64_t pad;
#endif
    uint8_t data[];
};
_Static_assert(sizeof(struct ptn_buf) % 16 == 0, "payloads are 16-byte aligned");

static inline size_t ptn__payload_len(const ptn_buf *b) {
    return b == NULL ? 0 : b->len;
}

#endif
