/* SPDX-License-Identifier: Apache-2.0
 *
 * wire_test.c - the parsers of other servers' wires, fed in chunks of every length, and words that
 * WebSocket frames and reads cut anywhere.
 */
#include "bench/load/wire.h"

#include <criterion/criterion.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

/* What a server says on one wire, cut into words: '>' a delivery of "payload", 'a' an answer, '!' a
 * refusal, 'p' a ping, '.' nothing to us. */
struct said {
    const char *name;
    wire_parse *parse;
    const char *words;
    const char *bytes;
    size_t n;
};

#define SAID(name, parse, words, bytes)                                                            \
    { name, parse, words, bytes, sizeof bytes - 1 }

static const struct said said[] = {
    SAID("nats", nats_parse, ".ap>.>!",
         "INFO {\"server_id\":\"x\",\"max_payload\":1048576}\r\nPONG\r\nPING\r\n"
         "MSG bench.fanout 1 7\r\npayload\r\n+OK\r\nMSG bench.fanout 1 reply.to 7\r\npayload\r\n"
         "-ERR 'Unknown Protocol Operation'\r\n"),
    SAID("mqtt", mqtt_parse, "aaa>>!!",
         "\x20\x02\0\0"
         "\x90\x03\0\x01\0"
         "\xd0\0"
         "\x30\x15\0\x0c"
         "bench.fanoutpayload"
         "\x30\x0a\0\x01tpayload"
         "\x20\x02\0\x05"
         "\x90\x03\0\x01\x80"),
    SAID("redis", redis_parse, "aa>a!>",
         "+PONG\r\n*3\r\n$9\r\nsubscribe\r\n$12\r\nbench.fanout\r\n:1\r\n"
         "*3\r\n$7\r\nmessage\r\n$12\r\nbench.fanout\r\n$7\r\npayload\r\n:1000\r\n-ERR no\r\n"
         "*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$7\r\npayload\r\n"),
    SAID("redis echo", redis_parse, "a", "$7\r\npayload\r\n"),
    SAID("nchan", nchan_parse, "aa!",
         "HTTP/1.1 201 Created\r\nServer: nginx\r\nContent-Length: 3\r\n\r\n\r\n\r"
         "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
         "HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nForbid!"),
};

static char letter(enum wire_word word) {
    static const char letters[] = {
        [WIRE_MORE] = '?',     [WIRE_SKIP] = '.',   [WIRE_PING] = 'p',
        [WIRE_DELIVERY] = '>', [WIRE_ANSWER] = 'a', [WIRE_REFUSAL] = '!',
    };
    return letters[word];
}

static void check_payload(const struct said *s, enum wire_word word, ptn_bytes payload) {
    if (word == WIRE_DELIVERY)
        cr_assert(payload.n == 7 && memcmp(payload.p, "payload", 7) == 0, "%s: %.*s", s->name,
                  (int)payload.n, (const char *)payload.p);
}

/* Exactly the bytes there are, so that a look beyond them is seen by the sanitizer. */
static void feed(const struct said *s, size_t chunk) {
    char words[32] = "";
    size_t n_words = 0, at = 0, have = 0;
    while (at < s->n) {
        have = have + chunk < s->n - at ? have + chunk : s->n - at;
        for (bool whole = true; whole && have > 0;) {
            uint8_t *heap = malloc(have);
            cr_assert_not_null(heap);
            memcpy(heap, s->bytes + at, have);
            ptn_bytes payload = {NULL, 0};
            size_t used = 0;
            enum wire_word word = s->parse((ptn_bytes){heap, have}, &used, &payload);
            check_payload(s, word, payload);
            free(heap);
            whole = word != WIRE_MORE;
            if (!whole)
                break;
            cr_assert(used > 0 && used <= have, "%s: %zu of %zu", s->name, used, have);
            cr_assert_lt(n_words, sizeof words - 1);
            words[n_words++] = letter(word);
            at += used;
            have -= used;
        }
        cr_assert(at == s->n || have < s->n - at, "%s: no word in all that there is", s->name);
    }
    words[n_words] = '\0';
    cr_expect_str_eq(words, s->words, "%s in chunks of %zu", s->name, chunk);
}

Test(wire, every_parser_takes_any_chunks) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(said); i++)
        for (size_t chunk = 1; chunk <= said[i].n; chunk++)
            feed(&said[i], chunk);
}

Test(wire, numbers_end_where_they_say) {
    static const struct {
        const char *text;
        bool good;
        uint64_t value;
    } cases[] = {{"0\r", true, 0},
                 {"123\r", true, 123},
                 {"123", false, 0},
                 {"\r", false, 0},
                 {"12x\r", false, 0},
                 {"-1\r", false, 0},
                 {"99999999999999999999999\r", false, 0}};
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        const uint8_t *at = (const uint8_t *)cases[i].text;
        const uint8_t *limit = at + strlen(cases[i].text);
        uint64_t value = 0;
        cr_expect_eq(wire_number(&at, limit, '\r', &value), cases[i].good, "%s", cases[i].text);
        cr_expect_eq(value, cases[i].value, "%s", cases[i].text);
        cr_expect(!cases[i].good || at == limit, "%s", cases[i].text);
    }
}

/* ---- inside of WebSocket frames ---------------------------------------------------------------
 */

static enum bench_got next_nats(struct bench_link *l, ptn_bytes *ret_payload) {
    return wire_next(l, nats_parse, "PONG\r\n", ret_payload);
}

static const struct bench_driver nats_in_frames = {
    .name = "test", .next = next_nats, .close = wire_close};

/* A link whose server is the other end of a socket pair. */
static int linked(struct bench_link *l) {
    static const char ok[] = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    static const struct bench_target target = {.address = "nowhere"};
    int pair[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    *l = (struct bench_link){.driver = &nats_in_frames, .target = &target, .io = {.fd = pair[0]}};
    cr_assert_eq(write(pair[1], ok, sizeof ok - 1), (ssize_t)sizeof ok - 1);
    wire_upgrade(l, "/", NULL);
    return pair[1];
}

Test(wire, words_may_be_cut_by_frames_and_by_reads) {
    const char *text = said[0].bytes;
    size_t n = said[0].n;
    for (size_t frame = 1; frame < 60; frame++) {
        struct bench_link l;
        int server = linked(&l);
        unsigned deliveries = 0, answers = 0, refusals = 0;
        for (size_t at = 0; at < n; at += frame) {
            size_t part = n - at < frame ? n - at : frame;
            uint8_t bytes[64] = {0x82, (uint8_t)part};
            memcpy(bytes + 2, text + at, part);
            size_t cut = (at + frame) % (part + 2); /* the read ends inside of the frame */
            cr_assert_eq(write(server, bytes, cut), (ssize_t)cut);
            for (int half = 0; half < 2; half++) {
                ptn_bytes payload = {NULL, 0};
                bench_link_read(&l);
                for (enum bench_got got; (got = next_nats(&l, &payload)) != BENCH_NOTHING;) {
                    deliveries += got == BENCH_DELIVERY;
                    answers += got == BENCH_ANSWER;
                    refusals += got == BENCH_REFUSAL;
                    if (got == BENCH_DELIVERY)
                        check_payload(&said[0], WIRE_DELIVERY, payload);
                }
                if (half == 0)
                    cr_assert_eq(write(server, bytes + cut, part + 2 - cut),
                                 (ssize_t)(part + 2 - cut));
            }
        }
        cr_expect(deliveries == 2 && answers == 1 && refusals == 1, "frames of %zu: %u, %u, %u",
                  frame, deliveries, answers, refusals);
        char sent[1024]; /* the request, and the one pong */
        ssize_t got = read(server, sent, sizeof sent);
        cr_assert_gt(got, 0);
        cr_expect_not_null(memmem(sent, (size_t)got, "PONG\r\n", 6), "a ping wants its pong");
        bench_link_close(&l);
        close(server);
    }
}
