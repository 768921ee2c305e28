/* SPDX-License-Identifier: Apache-2.0
 *
 * postern_frame.c - just enough msgpack (github.com/msgpack/msgpack/blob/master/spec.md).
 */
#include "bench/load/postern_frame.h"

static uint8_t *put_str(uint8_t *p, const void *z, size_t n) {
    if (n < 32) {
        *p++ = (uint8_t)(0xa0 | n);
    } else if (n < 256) {
        *p++ = 0xd9;
        *p++ = (uint8_t)n;
    } else {
        *p++ = 0xda;
        *p++ = (uint8_t)(n >> 8);
        *p++ = (uint8_t)n;
    }
    memcpy(p, z, n);
    return p + n;
}

size_t bench_postern_frame(uint8_t *out, const char *type, const char *topic, const char *token,
                           const char *durability) {
    const char *const pairs[][2] = {
        {"type", type}, {"topic", topic}, {"token", token}, {"durability", durability}};
    uint8_t *p = out + 1;
    out[0] = 0x80;
    for (size_t i = 0; i < PTN_ARRAY_LEN(pairs); i++) {
        if (pairs[i][1] == NULL)
            continue;
        p = put_str(p, pairs[i][0], strlen(pairs[i][0]));
        p = put_str(p, pairs[i][1], strlen(pairs[i][1]));
        out[0]++;
    }
    return (size_t)(p - out);
}

size_t bench_postern_data(uint8_t *out, size_t frame_bytes, const void *payload, size_t n) {
    uint8_t *p = put_str(out + frame_bytes, "data", 4);
    out[0]++;
    return (size_t)(put_str(p, payload, n) - out);
}

/* Behind the map's head stands "\xa4type", then the string that says which. */
enum bench_got bench_postern_msgpack(const struct bench_target *t, ptn_bytes frame,
                                     ptn_bytes *ret_payload) {
    static const struct {
        char text[12];
        size_t n;
        enum bench_got is;
    } types[] = {{"\xa5"
                  "event",
                  6, BENCH_DELIVERY},
                 {"\xa3"
                  "ack",
                  4, BENCH_ANSWER},
                 {"\xa4pong", 5, BENCH_ANSWER},
                 {"\xaasubscribed", 11, BENCH_ANSWER},
                 {"\xa7welcome", 8, BENCH_NOTHING}};
    *ret_payload = frame;
    for (size_t i = 0; i < PTN_ARRAY_LEN(types); i++) {
        if (frame.n < 6 + types[i].n || memcmp(frame.p + 6, types[i].text, types[i].n) != 0)
            continue;
        if (types[i].is == BENCH_DELIVERY && frame.n > t->payload_bytes)
            *ret_payload = (ptn_bytes){frame.p + frame.n - t->payload_bytes, t->payload_bytes};
        return types[i].is;
    }
    return BENCH_REFUSAL;
}
