/* SPDX-License-Identifier: Apache-2.0
 *
 * codec.c - postern-codec: nanoseconds per JSON and msgpack conversion, one thread, warm caches.
 *
 * The message is the 297-byte chat message that docs and README quote.
 * Each figure is the best of several rounds, because a busy machine only ever adds time.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <postern/codec.h>

#define ROUNDS 7
#define CALLS_DEFAULT 200000ul
#define CALLS_MAX 100000000ul

static const char chat[] =
    "{\"id\":\"01HZX3V8Q6T9M2K4N7P0R5S8W1\",\"conversationId\":\"01HZX3V8Q6T9M2K4N7P0R5S8AA\","
    "\"seq\":184467,"
    "\"content\":\"Dinner is at seven, can you bring the bread and some "
    "olives?\",\"type\":\"text\","
    "\"senderId\":\"01HZX3V8Q6T9M2K4N7P0R5S8BB\",\"timestamp\":\"2024-06-01T18:22:31.123Z\","
    "\"status\":\"sent\",\"metadata\":{\"n\":123}}";
_Static_assert(sizeof(chat) - 1 == 297, "the message that is quoted has 297 bytes");

struct state {
    ptn_json_parser *parser;
    ptn_bytes packed;
    ptn_out out;
    double total; /* keeps results alive */
};

static uint64_t clock_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int json_to_msgpack(struct state *s) {
    ptn_pack w;
    ptn_codec_error error;
    ptn_pack_init(&w, sizeof(chat));
    int err = ptn_json_to_msgpack(s->parser, (ptn_str){chat, sizeof(chat) - 1}, NULL, &w, &error);
    if (err != 0) {
        ptn_pack_abort(&w);
        return err;
    }
    (void)ptn_buf_unref(ptn_pack_finish(&w));
    return 0;
}

static int msgpack_to_json(struct state *s) {
    ptn_out_clear(&s->out);
    return ptn_msgpack_to_json(s->packed, &s->out);
}

static int msgpack_validate(struct state *s) {
    ptn_codec_error error;
    return ptn_msgpack_validate(s->packed, NULL, &error);
}

static int map_lookup(struct state *s) {
    ptn_str status;
    if (!ptn_map_get_str(s->packed, "status", &status))
        return -PTN_ENOTFOUND;
    s->total += (double)status.n;
    return 0;
}

static int utf8_valid(struct state *s) {
    (void)s;
    return ptn_utf8_valid((const uint8_t *)chat, sizeof(chat) - 1) ? 0 : -PTN_EPROTO;
}

static int double_to_json(struct state *s) {
    static const uint8_t packed[] = {0xcb, 0x40, 0x09, 0x21, 0xfb, 0x54, 0x44, 0x2d, 0x18};
    ptn_out_clear(&s->out);
    return ptn_msgpack_to_json((ptn_bytes){packed, sizeof(packed)}, &s->out);
}

static int measure(struct state *s, const char *name, int (*call)(struct state *),
                   unsigned long calls) {
    uint64_t best_ns = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start_ns = clock_ns();
        for (unsigned long i = 0; i < calls; i++) {
            int err = call(s);
            if (err != 0) {
                (void)fprintf(stderr, "postern-codec: %s: %s\n", name, ptn_err_text(err));
                return err;
            }
        }
        uint64_t ns = clock_ns() - start_ns;
        best_ns = ns < best_ns ? ns : best_ns;
    }
    (void)printf("%-18s %8.1f ns\n", name, (double)best_ns / (double)calls);
    return 0;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*call)(struct state *);
    } measures[] = {
        {"json-to-msgpack", json_to_msgpack},   {"msgpack-to-json", msgpack_to_json},
        {"msgpack-validate", msgpack_validate}, {"map-lookup-8th", map_lookup},
        {"utf8-297-bytes", utf8_valid},         {"double-to-json", double_to_json},
    };
    unsigned long calls = argc > 1 ? strtoul(argv[1], NULL, 10) : CALLS_DEFAULT;
    if (argc > 2 || calls == 0 || calls > CALLS_MAX) {
        (void)fprintf(stderr, "usage: postern-codec [calls per round, 1 to %lu]\n", CALLS_MAX);
        return 2;
    }
    struct state s = {.parser = ptn_json_parser_new()};
    ptn_buf *packed = NULL;
    ptn_pack w;
    int err = s.parser == NULL ? -PTN_ENOMEM : 0;
    if (err == 0) {
        ptn_pack_init(&w, sizeof(chat));
        err = ptn_json_to_msgpack(s.parser, (ptn_str){chat, sizeof(chat) - 1}, NULL, &w, NULL);
        packed = ptn_pack_finish(&w);
        s.packed = ptn_buf_bytes(packed);
    }
    for (size_t i = 0; i < PTN_ARRAY_LEN(measures) && err == 0; i++)
        err = measure(&s, measures[i].name, measures[i].call, calls);
    ptn_out_done(&s.out);
    (void)ptn_buf_unref(packed);
    ptn_json_parser_free(s.parser);
    return err == 0 ? 0 : 1;
}
