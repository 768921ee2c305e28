/* SPDX-License-Identifier: Apache-2.0
 *
 * inflate.c - compressed WebSocket messages (RFC 7692, without context takeover), inflated once.
 *
 * A broadcast brings the same bytes to every subscriber: what was inflated lately is kept beside
 * what it was, so that the generator pays for a message once and not a thousand times.
 */
#include "bench/load/driver.h"

#include <stdlib.h>
#include <zlib.h>

#define KEPT 4096u /* messages */
#define INFLATED_MAX (BENCH_PAYLOAD_MAX + 4096u)

struct kept {
    uint8_t *compressed, *plain;
    size_t compressed_bytes, plain_bytes;
};

static struct kept kept[KEPT];

/* From 8 bytes of the middle, where messages differ, and the size. */
static struct kept *place(ptn_bytes m) {
    uint64_t v = 0;
    memcpy(&v, m.p + m.n / 2, m.n - m.n / 2 < sizeof v ? m.n - m.n / 2 : sizeof v);
    return &kept[((v + m.n) * UINT64_C(0x9e3779b97f4a7c15)) >> 52];
}

static void *copy(const void *p, size_t n) {
    void *q = malloc(n > 0 ? n : 1);
    if (q == NULL)
        bench_die("out of memory");
    return memcpy(q, p, n);
}

ptn_bytes bench_inflated(ptn_bytes m) {
    static uint8_t plain[INFLATED_MAX];
    static z_stream z;
    static bool ready;
    uint8_t tail[4] = {0, 0, 0xff, 0xff}; /* that the sender has left out */
    struct kept *k = place(m);
    if (k->compressed_bytes == m.n && k->plain != NULL && memcmp(k->compressed, m.p, m.n) == 0)
        return (ptn_bytes){k->plain, k->plain_bytes};
    if (!ready && inflateInit2(&z, -MAX_WBITS) != Z_OK)
        bench_die("inflateInit2: out of memory");
    ready = true;
    (void)inflateReset(&z);
    z.next_out = plain;
    z.avail_out = sizeof plain;
    for (int part = 0; part < 2; part++) {
        z.next_in = part == 0 ? (uint8_t *)(uintptr_t)m.p : tail;
        z.avail_in = part == 0 ? (uInt)m.n : (uInt)sizeof tail;
        int got = inflate(&z, Z_SYNC_FLUSH);
        if ((got != Z_OK && got != Z_BUF_ERROR) || z.avail_in > 0)
            bench_die("a compressed message that cannot be inflated: %d", got);
    }
    free(k->compressed);
    free(k->plain);
    *k = (struct kept){.compressed_bytes = m.n, .plain_bytes = sizeof plain - z.avail_out};
    k->compressed = copy(m.p, m.n);
    k->plain = copy(plain, k->plain_bytes);
    return (ptn_bytes){k->plain, k->plain_bytes};
}
