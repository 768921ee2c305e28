/* SPDX-License-Identifier: Apache-2.0
 *
 * ws_fuzz.c - the WebSocket byte machine: any bytes, and random splits give the same calls as one
 * piece.
 *
 * Byte 0 chooses the accepted type and whether permessage-deflate is agreed on, byte 1 seeds the
 * splits, the rest is the stream.
 */
#include "protocols/ws/parser.h"

#include <postern/codec.h>

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MESSAGE_BYTES_MAX 4096u

struct digest { /* of all calls, in order */
    uint64_t hash;
    unsigned n_calls, code;
};

static void digest_add(struct digest *d, unsigned kind, ptn_bytes payload) {
    d->n_calls++;
    d->hash = (d->hash ^ kind) * UINT64_C(1099511628211);
    d->hash = (d->hash ^ payload.n) * UINT64_C(1099511628211);
    for (size_t i = 0; i < payload.n; i++)
        d->hash = (d->hash ^ payload.p[i]) * UINT64_C(1099511628211);
}

static bool take_message(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    PTN_ASSERT(opcode == WS_OP_TEXT || opcode == WS_OP_BINARY);
    PTN_ASSERT(payload.n <= MESSAGE_BYTES_MAX);
    PTN_ASSERT(opcode != WS_OP_TEXT || ptn_utf8_valid(payload.p, payload.n));
    digest_add(arg, opcode, payload);
    return true;
}

static bool take_control(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    PTN_ASSERT(opcode >= WS_OP_CLOSE && payload.n <= WS_CONTROL_BYTES_MAX);
    PTN_ASSERT(opcode != WS_OP_CLOSE || payload.n != 1);
    digest_add(arg, opcode, payload);
    return true;
}

static const ws_parser_ops ops = {.on_message = take_message, .on_control = take_control};

/* seed 0: one piece; otherwise pieces of 1 to 16 bytes, each in memory of its own. */
static struct digest run(const uint8_t *data, size_t size, uint8_t accept, ws_deflate *deflate,
                         uint32_t seed) {
    struct digest d = {.hash = UINT64_C(14695981039346656037)};
    ws_parser p;
    ws_parser_init(&p, accept, MESSAGE_BYTES_MAX, deflate);
    for (size_t at = 0; at < size;) {
        size_t n = size - at;
        if (seed != 0) {
            seed = seed * 1664525u + 1013904223u; /* any spread will do */
            const size_t piece = 1 + (seed >> 24) % 16;
            n = n < piece ? n : piece;
        }
        uint8_t *copy = malloc(n);
        if (copy == NULL)
            abort();
        memcpy(copy, data + at, n);
        size_t used;
        const unsigned code = ws_parser_feed(&p, copy, n, &ops, &d, &used);
        PTN_ASSERT(used == n);
        free(copy);
        PTN_ASSERT(code == 0 || d.code == 0);
        PTN_ASSERT(code == 0 || p.message == NULL);
        if (code != 0)
            d.code = code;
        at += n;
    }
    ws_parser_done(&p);
    return d;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t accepts[] = {0, WS_OP_TEXT, WS_OP_BINARY};
    if (size < 2)
        return 0;
    const uint8_t accept = accepts[data[0] % 3];
    static ws_deflate *shared; /* as by the connections of a worker: nothing may stay in it */
    if (shared == NULL)
        shared = ws_deflate_new();
    ws_deflate *deflate = data[0] / 3 % 2 == 1 ? shared : NULL;
    const struct digest whole = run(data + 2, size - 2, accept, deflate, 0);
    const struct digest split = run(data + 2, size - 2, accept, deflate, data[1] + 1u);
    PTN_ASSERT(whole.hash == split.hash && whole.n_calls == split.n_calls);
    PTN_ASSERT(whole.code == split.code);
    return 0;
}
