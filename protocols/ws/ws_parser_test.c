/* SPDX-License-Identifier: Apache-2.0
 *
 * ws_parser_test.c - the WebSocket byte machine: a table of conversations, each in every split.
 *
 * Expected results are written as the calls in order: T"text" B"bytes" P"ping" O"pong" C"close
 * payload after the code" with the code before it, and !code for a refusal.
 */
#include <criterion/criterion.h>

#include "protocols/ws/parser.h"

#include <stdio.h>
#include <stdlib.h>

#define FIN 0x80u
#define TEXT (FIN | 1u)
#define TEXT_MORE 1u
#define BINARY (FIN | 2u)
#define CONT FIN
#define CONT_MORE 0u
#define CLOSE (FIN | 8u)
#define PING (FIN | 9u)
#define PONG (FIN | 10u)
#define BYTES_MAX 1000u

enum how { PLAIN, UNMASKED, LEN16, LEN64, LEN64_HIGH, HEAD_ONLY };

struct piece {
    unsigned b0;
    const char *p; /* NULL: n bytes of 'x' */
    size_t n;
    enum how how;
};

struct wire {
    uint8_t *p;
    size_t n;
};

static void put(struct wire *w, const void *p, size_t n) {
    memcpy(w->p + w->n, p, n);
    w->n += n;
}

/* One masked frame, or one that is wrong on purpose. */
static void put_frame(struct wire *w, const struct piece *f) {
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint8_t head[WS_HEAD_BYTES_MAX];
    size_t n_head = ws_head_write(head, WS_OP_TEXT, f->n);
    head[0] = (uint8_t)f->b0;
    if (f->how == LEN16 || f->how == LEN64 || f->how == LEN64_HIGH) {
        size_t n_length = f->how == LEN16 ? 2 : 8;
        head[1] = f->how == LEN16 ? 126 : 127;
        for (size_t i = 0; i < n_length; i++)
            head[2 + i] = (uint8_t)((uint64_t)f->n >> (8 * (n_length - 1 - i)));
        n_head = 2 + n_length;
        if (f->how == LEN64_HIGH)
            head[2] |= 0x80;
    }
    if (f->how != UNMASKED)
        head[1] |= 0x80;
    put(w, head, n_head);
    if (f->how != UNMASKED)
        put(w, mask, 4);
    for (size_t i = 0; i < f->n && f->how != HEAD_ONLY; i++) {
        uint8_t byte = f->p != NULL ? (uint8_t)f->p[i] : 'x';
        if (f->how != UNMASKED)
            byte ^= mask[i & 3];
        put(w, &byte, 1);
    }
}

struct trace {
    char text[4096];
    size_t n;
};

static void trace_put(struct trace *t, const char *s, size_t n) {
    cr_assert_lt(t->n + n, sizeof t->text);
    memcpy(t->text + t->n, s, n);
    t->n += n;
    t->text[t->n] = '\0';
}

static void trace_call(struct trace *t, const char *name, ptn_bytes payload) {
    char head[32];
    trace_put(t, name, strlen(name));
    if (payload.n > 64) {
        int n = snprintf(head, sizeof head, "%zu ", payload.n);
        trace_put(t, head, (size_t)n);
        return;
    }
    trace_put(t, "\"", 1);
    trace_put(t, (const char *)payload.p, payload.n);
    trace_put(t, "\" ", 2);
}

static bool take_message(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    trace_call(arg, opcode == WS_OP_TEXT ? "T" : "B", payload);
    return true;
}

static bool take_control(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    char name[16] = "P";
    if (opcode == WS_OP_PONG)
        name[0] = 'O';
    if (opcode == WS_OP_CLOSE) {
        unsigned code = payload.n >= 2 ? (unsigned)payload.p[0] << 8 | payload.p[1] : 0;
        snprintf(name, sizeof name, "C%u", code);
        if (payload.n >= 2)
            payload = (ptn_bytes){payload.p + 2, payload.n - 2};
    }
    trace_call(arg, name, payload);
    return true;
}

static const ws_parser_ops ops = {.on_message = take_message, .on_control = take_control};

static ws_deflate *deflate; /* NULL: not agreed on */

/* Feeds bytes cut at the given places (n_cuts of them, ascending); heap copies, so that a sanitizer
 * sees overreads. */
static void run(struct wire in, const size_t *cuts, size_t n_cuts, uint8_t accept,
                struct trace *t) {
    ws_parser p;
    size_t at = 0;
    unsigned code = 0;
    ws_parser_init(&p, accept, BYTES_MAX, deflate);
    for (size_t i = 0; i <= n_cuts; i++) {
        size_t to = i < n_cuts ? cuts[i] : in.n;
        if (to == at)
            continue;
        uint8_t *copy = malloc(to - at);
        memcpy(copy, in.p + at, to - at);
        size_t used;
        unsigned now = ws_parser_feed(&p, copy, to - at, &ops, t, &used);
        free(copy);
        cr_assert_eq(used, to - at);
        cr_assert(now == 0 || code == 0, "a dead machine answers nothing");
        code = now != 0 ? now : code;
        at = to;
    }
    if (code != 0) {
        char text[16];
        int n = snprintf(text, sizeof text, "!%u", code);
        trace_put(t, text, (size_t)n);
        cr_assert_not_null(p.why);
    }
    ws_parser_done(&p);
}

struct table_case {
    const char *name, *expected;
    uint8_t accept;
    struct piece pieces[8];
};

#define S(text) text, sizeof(text) - 1
static const struct table_case cases[] = {
    {"text", "T\"hello\" ", 0, {{TEXT, S("hello"), PLAIN}}},
    {"empty text", "T\"\" ", 0, {{TEXT, S(""), PLAIN}}},
    {"binary", "B\"\x01\xff\" ", 0, {{BINARY, S("\x01\xff"), PLAIN}}},
    {"empty binary", "B\"\" ", 0, {{BINARY, S(""), PLAIN}}},
    {"125 bytes", "T125 ", 0, {{TEXT, NULL, 125, PLAIN}}},
    {"126 bytes", "T126 ", 0, {{TEXT, NULL, 126, PLAIN}}},
    {"127 bytes", "B127 ", 0, {{BINARY, NULL, 127, PLAIN}}},
    {"128 bytes", "B128 ", 0, {{BINARY, NULL, 128, PLAIN}}},
    {"at the limit", "T1000 ", 0, {{TEXT, NULL, BYTES_MAX, PLAIN}}},
    {"over the limit", "!1009", 0, {{TEXT, NULL, BYTES_MAX + 1, PLAIN}}},
    {"over the limit, head only", "!1009", 0, {{TEXT, NULL, BYTES_MAX + 1, HEAD_ONLY}}},
    {"64-bit length over the limit", "!1009", 0, {{BINARY, NULL, (size_t)1 << 40, HEAD_ONLY}}},
    {"fragments over the limit",
     "!1009",
     0,
     {{TEXT_MORE, NULL, 600, PLAIN}, {CONT, NULL, 401, PLAIN}}},
    {"fragments at the limit",
     "T1000 ",
     0,
     {{TEXT_MORE, NULL, 600, PLAIN}, {CONT, NULL, 400, PLAIN}}},
    {"two messages", "T\"a\" T\"b\" ", 0, {{TEXT, S("a"), PLAIN}, {TEXT, S("b"), PLAIN}}},
    {"two fragments", "T\"hello\" ", 0, {{TEXT_MORE, S("hel"), PLAIN}, {CONT, S("lo"), PLAIN}}},
    {"empty fragments",
     "T\"\" ",
     0,
     {{TEXT_MORE, S(""), PLAIN}, {CONT_MORE, S(""), PLAIN}, {CONT, S(""), PLAIN}}},
    {"middle fragment has it all",
     "T\"mid\" ",
     0,
     {{TEXT_MORE, S(""), PLAIN}, {CONT_MORE, S("mid"), PLAIN}, {CONT, S(""), PLAIN}}},
    {"fragments grow the buffer",
     "B960 ",
     0,
     {{2, NULL, 10, PLAIN}, {CONT_MORE, NULL, 500, PLAIN}, {CONT, NULL, 450, PLAIN}}},
    {"ping", "P\"\" ", 0, {{PING, S(""), PLAIN}}},
    {"ping with payload", "P\"\x01\xff\xfe!\" ", 0, {{PING, S("\x01\xff\xfe!"), PLAIN}}},
    {"ping of 125", "P125 ", 0, {{PING, NULL, 125, PLAIN}}},
    {"ping of 126", "!1002", 0, {{PING, NULL, 126, PLAIN}}},
    {"ping with a 64-bit length", "!1002", 0, {{PING, NULL, 5, LEN64}}},
    {"pong", "O\"late\" ", 0, {{PONG, S("late"), PLAIN}}},
    {"fragmented ping", "!1002", 0, {{9, S("a"), PLAIN}, {CONT, S("b"), PLAIN}}},
    {"fragmented close", "!1002", 0, {{8, S("\x03\xe8"), PLAIN}}},
    {"control between fragments",
     "P\"p\" O\"\" T\"ab\" ",
     0,
     {{TEXT_MORE, S("a"), PLAIN},
      {PING, S("p"), PLAIN},
      {PONG, S(""), PLAIN},
      {CONT, S("b"), PLAIN}}},
    {"close between fragments",
     "C1000\"\" ",
     0,
     {{TEXT_MORE, S("a"), PLAIN}, {CLOSE, S("\x03\xe8"), PLAIN}, {CONT, S("b"), PLAIN}}},
    {"continuation of nothing", "!1002", 0, {{CONT, S("a"), PLAIN}}},
    {"continuation of nothing, more", "!1002", 0, {{CONT_MORE, S("a"), PLAIN}}},
    {"continuation after the end",
     "T\"a\" !1002",
     0,
     {{TEXT, S("a"), PLAIN}, {CONT, S("b"), PLAIN}}},
    {"text inside a message", "!1002", 0, {{TEXT_MORE, S("a"), PLAIN}, {TEXT, S("b"), PLAIN}}},
    {"binary inside a message", "!1002", 0, {{TEXT_MORE, S("a"), PLAIN}, {BINARY, S("b"), PLAIN}}},
    {"unmasked", "!1002", 0, {{TEXT, S("hello"), UNMASKED}}},
    {"unmasked ping", "!1002", 0, {{PING, S(""), UNMASKED}}},
    {"unmasked after masked", "T\"a\" !1002", 0, {{TEXT, S("a"), PLAIN}, {TEXT, S("b"), UNMASKED}}},
    {"rsv1", "!1002", 0, {{TEXT | 0x40u, S("a"), PLAIN}}},
    {"rsv2", "!1002", 0, {{TEXT | 0x20u, S("a"), PLAIN}}},
    {"rsv3", "!1002", 0, {{PING | 0x10u, S(""), PLAIN}}},
    {"opcode 3", "!1002", 0, {{FIN | 3u, S(""), PLAIN}}},
    {"opcode 4", "!1002", 0, {{FIN | 4u, S("a"), PLAIN}}},
    {"opcode 5", "!1002", 0, {{FIN | 5u, S(""), PLAIN}}},
    {"opcode 6", "!1002", 0, {{6u, S(""), PLAIN}}},
    {"opcode 7", "!1002", 0, {{FIN | 7u, S(""), PLAIN}}},
    {"opcode 11", "!1002", 0, {{FIN | 11u, S(""), PLAIN}}},
    {"opcode 12", "!1002", 0, {{FIN | 12u, S(""), PLAIN}}},
    {"opcode 13", "!1002", 0, {{FIN | 13u, S(""), PLAIN}}},
    {"opcode 14", "!1002", 0, {{FIN | 14u, S(""), PLAIN}}},
    {"opcode 15", "!1002", 0, {{FIN | 15u, S(""), PLAIN}}},
    {"16-bit length for 5", "!1002", 0, {{TEXT, S("hello"), LEN16}}},
    {"16-bit length for 125", "!1002", 0, {{TEXT, NULL, 125, LEN16}}},
    {"16-bit length for 126", "T126 ", 0, {{TEXT, NULL, 126, LEN16}}},
    {"64-bit length for 5", "!1002", 0, {{TEXT, S("hello"), LEN64}}},
    {"64-bit length for 500", "!1002", 0, {{TEXT, NULL, 500, LEN64}}},
    {"64-bit length, high bit", "!1002", 0, {{TEXT, NULL, 500, LEN64_HIGH}}},
    {"UTF-8 in one",
     "T\"\xce\xba\xe1\xbd\xb9\xcf\x83\xf0\x9f\x98\x80\" ",
     0,
     {{TEXT, S("\xce\xba\xe1\xbd\xb9\xcf\x83\xf0\x9f\x98\x80"), PLAIN}}},
    {"UTF-8 across fragments",
     "T\"\xf0\x9f\x98\x80\" ",
     0,
     {{TEXT_MORE, S("\xf0\x9f"), PLAIN}, {CONT_MORE, S("\x98"), PLAIN}, {CONT, S("\x80"), PLAIN}}},
    {"UTF-8 cut short", "!1007", 0, {{TEXT, S("a\xf0\x9f\x98"), PLAIN}}},
    {"UTF-8 cut short across fragments",
     "!1007",
     0,
     {{TEXT_MORE, S("a\xf0\x9f"), PLAIN}, {CONT, S("\x98"), PLAIN}}},
    {"lone continuation byte", "!1007", 0, {{TEXT, S("\x80"), PLAIN}}},
    {"overlong", "!1007", 0, {{TEXT, S("\xc0\xaf"), PLAIN}}},
    {"surrogate", "!1007", 0, {{TEXT, S("\xed\xa0\x80"), PLAIN}}},
    {"above U+10FFFF", "!1007", 0, {{TEXT, S("\xf4\x90\x80\x80"), PLAIN}}},
    {"bad in the first fragment",
     "!1007",
     0,
     {{TEXT_MORE, S("\xff"), PLAIN}, {PING, S(""), PLAIN}}},
    {"bad in the last fragment",
     "P\"\" !1007",
     0,
     {{TEXT_MORE, S("ok"), PLAIN}, {PING, S(""), PLAIN}, {CONT, S("\xfe"), PLAIN}}},
    {"bad bytes in binary are fine", "B\"\xff\xfe\" ", 0, {{BINARY, S("\xff\xfe"), PLAIN}}},
    {"state is fresh for each message",
     "!1007",
     0,
     {{TEXT_MORE, S("\xce"), PLAIN}, {CONT, S(""), PLAIN}}},
    {"close", "C0\"\" ", 0, {{CLOSE, S(""), PLAIN}}},
    {"close 1000", "C1000\"\" ", 0, {{CLOSE, S("\x03\xe8"), PLAIN}}},
    {"close with reason",
     "C1001\"bye\" ",
     0,
     {{CLOSE,
       S("\x03\xe9"
         "bye"),
       PLAIN}}},
    {"close 3000", "C3000\"\" ", 0, {{CLOSE, S("\x0b\xb8"), PLAIN}}},
    {"close 4999", "C4999\"\" ", 0, {{CLOSE, S("\x13\x87"), PLAIN}}},
    {"close 1012", "C1012\"\" ", 0, {{CLOSE, S("\x03\xf4"), PLAIN}}},
    {"close of one byte", "!1002", 0, {{CLOSE, S("\x03"), PLAIN}}},
    {"close 0", "!1002", 0, {{CLOSE, "\x00\x00", 2, PLAIN}}},
    {"close 999", "!1002", 0, {{CLOSE, S("\x03\xe7"), PLAIN}}},
    {"close 1004", "!1002", 0, {{CLOSE, S("\x03\xec"), PLAIN}}},
    {"close 1005", "!1002", 0, {{CLOSE, S("\x03\xed"), PLAIN}}},
    {"close 1006", "!1002", 0, {{CLOSE, S("\x03\xee"), PLAIN}}},
    {"close 1015", "!1002", 0, {{CLOSE, S("\x03\xf7"), PLAIN}}},
    {"close 2999", "!1002", 0, {{CLOSE, S("\x0b\xb7"), PLAIN}}},
    {"close 5000", "!1002", 0, {{CLOSE, S("\x13\x88"), PLAIN}}},
    {"close, bad reason", "!1007", 0, {{CLOSE, S("\x03\xe8\xff"), PLAIN}}},
    {"close of 126", "!1002", 0, {{CLOSE, NULL, 126, PLAIN}}},
    {"nothing after a close",
     "C1000\"\" ",
     0,
     {{CLOSE, S("\x03\xe8"), PLAIN}, {TEXT, S("a"), PLAIN}, {TEXT, S("b"), UNMASKED}}},
    {"nothing after a refusal", "!1002", 0, {{FIN | 3u, S("a"), PLAIN}, {TEXT, S("b"), PLAIN}}},
    {"JSON takes no binary",
     "T\"a\" !1003",
     WS_OP_TEXT,
     {{TEXT, S("a"), PLAIN}, {BINARY, S("b"), PLAIN}}},
    {"msgpack takes no text",
     "B\"a\" !1003",
     WS_OP_BINARY,
     {{BINARY, S("a"), PLAIN}, {TEXT, S("b"), PLAIN}}},
    {"refused type, head only", "!1003", WS_OP_TEXT, {{BINARY, NULL, 500, HEAD_ONLY}}},
};

static struct wire wire_of(const struct table_case *k) {
    size_t n = 0;
    for (size_t i = 0; i < 8; i++)
        n += WS_HEAD_BYTES_MAX + (k->pieces[i].how == HEAD_ONLY ? 0 : k->pieces[i].n);
    struct wire w = {malloc(n), 0};
    for (size_t i = 0; i < 8; i++) {
        const struct piece *f = &k->pieces[i];
        if (f->b0 == 0 && f->p == NULL && f->n == 0)
            break;
        put_frame(&w, f);
    }
    return w;
}

Test(ws_parser, table_in_one_piece) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        struct trace t = {0};
        struct wire w = wire_of(&cases[i]);
        run(w, NULL, 0, cases[i].accept, &t);
        cr_expect_str_eq(t.text, cases[i].expected, "%s: %s, expected %s", cases[i].name, t.text,
                         cases[i].expected);
        free(w.p);
    }
}

Test(ws_parser, table_split_at_every_byte) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        struct wire w = wire_of(&cases[i]);
        for (size_t cut = 1; cut < w.n; cut++) {
            struct trace whole = {0}, split = {0};
            run(w, NULL, 0, cases[i].accept, &whole);
            run(w, &cut, 1, cases[i].accept, &split);
            cr_assert_str_eq(split.text, whole.text, "%s, cut at %zu: %s, whole: %s", cases[i].name,
                             cut, split.text, whole.text);
        }
        free(w.p);
    }
}

static bool take_counted(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    size_t *n = arg;
    cr_assert_eq(opcode, WS_OP_BINARY);
    cr_assert_eq(payload.n, *n);
    for (size_t i = 0; i < payload.n; i++)
        cr_assert_eq(payload.p[i], (uint8_t)(i * 7 + 1), "byte %zu of %zu", i, *n);
    *n = 0;
    return true;
}

/* Every length, from every place of the mask: words and single bytes are unmasked alike. */
Test(ws_parser, unmasks_every_length_from_every_place) {
    static const ws_parser_ops counting = {.on_message = take_counted, .on_control = take_control};
    char payload[100];
    uint8_t memory[200];
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (char)(i * 7 + 1);
    for (size_t n = 1; n < sizeof payload; n++)
        for (size_t cut = 0; cut < n; cut++) {
            struct wire w = {memory, 0};
            struct piece piece = {.b0 = BINARY, .p = payload, .n = n, .how = PLAIN};
            ws_parser p;
            size_t left = n, used;
            put_frame(&w, &piece);
            ws_parser_init(&p, 0, 1000, NULL);
            cut += w.n - n;
            cr_assert_eq(ws_parser_feed(&p, w.p, cut, &counting, &left, &used), 0u);
            cr_assert_eq(ws_parser_feed(&p, w.p + cut, w.n - cut, &counting, &left, &used), 0u);
            cut -= w.n - n;
            cr_assert_eq(left, 0, "a whole message");
            ws_parser_done(&p);
        }
}

Test(ws_parser, table_one_byte_at_a_time) {
    size_t cuts[4096];
    for (size_t i = 0; i < PTN_ARRAY_LEN(cuts); i++)
        cuts[i] = i + 1;
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        struct wire w = wire_of(&cases[i]);
        struct trace whole = {0}, bytes = {0};
        cr_assert_leq(w.n, PTN_ARRAY_LEN(cuts));
        run(w, NULL, 0, cases[i].accept, &whole);
        run(w, cuts, w.n > 0 ? w.n - 1 : 0, cases[i].accept, &bytes);
        cr_assert_str_eq(bytes.text, whole.text, "%s", cases[i].name);
        free(w.p);
    }
}

/* ---- compressed (RFC 7692) ------------------------------------------------------------------- */

#define PACKED (TEXT | 0x40u)
#define PACKED_MORE 0x41u
#define HELLO "\xf2\x48\xcd\xc9\xc9\x07\x00"

static const struct table_case packed_cases[] = {
    {"one frame", "T\"Hello\" ", 0, {{PACKED, S(HELLO), PLAIN}}},
    {"three frames",
     "T\"Hello\" ",
     0,
     {{PACKED_MORE, S("\xf2\x48\xcd"), PLAIN},
      {CONT_MORE, S(""), PLAIN},
      {CONT, S("\xc9\xc9\x07\x00"), PLAIN}}},
    {"all in the last frame",
     "T\"Hello\" ",
     0,
     {{PACKED_MORE, S(""), PLAIN}, {CONT, S(HELLO), PLAIN}}},
    {"a ping inside",
     "P\"p\" T\"Hello\" ",
     0,
     {{PACKED_MORE, S("\xf2\x48\xcd"), PLAIN},
      {PING, S("p"), PLAIN},
      {CONT, S("\xc9\xc9\x07\x00"), PLAIN}}},
    {"without compression",
     "T\"Hello\" ",
     0,
     {{PACKED, S("\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), PLAIN}}},
    {"a final block", "T\"Hello\" ", 0, {{PACKED, S("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), PLAIN}}},
    {"two blocks",
     "T\"Hello\" ",
     0,
     {{PACKED, S("\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), PLAIN}}},
    {"empty", "T\"\" ", 0, {{PACKED, S("\x00"), PLAIN}}},
    {"binary", "B\"Hello\" ", 0, {{PACKED + 1, S(HELLO), PLAIN}}},
    {"each message for itself",
     "T\"Hello\" T\"plain\" T\"Hello\" ",
     0,
     {{PACKED, S(HELLO), PLAIN}, {TEXT, S("plain"), PLAIN}, {PACKED, S(HELLO), PLAIN}}},
    {"a reference to the message before",
     "T\"Hello\" !1007",
     0,
     {{PACKED, S(HELLO), PLAIN}, {PACKED, S("\xf2\x00\x11\x00\x00"), PLAIN}}},
    {"no bytes at all", "!1007", 0, {{PACKED, S(""), PLAIN}}},
    {"a block type that is none", "!1007", 0, {{PACKED, S("\x07"), PLAIN}}},
    {"the end is missing", "!1007", 0, {{PACKED, S("\xf2\x48\xcd"), PLAIN}}},
    {"not UTF-8", "!1007", 0, {{PACKED, S("\x00\x01\x00\xfe\xff\xff\x00"), PLAIN}}},
    {"a continuation that says so",
     "!1002",
     0,
     {{PACKED_MORE, S("\xf2"), PLAIN}, {CONT | 0x40, S("\x48"), PLAIN}}},
    {"a continuation of a plain message that says so",
     "!1002",
     0,
     {{TEXT_MORE, S("a"), PLAIN}, {CONT | 0x40, S("b"), PLAIN}}},
    {"a ping that says so", "!1002", 0, {{PING | 0x40, S(""), PLAIN}}},
    {"a close that says so", "!1002", 0, {{CLOSE | 0x40, S(""), PLAIN}}},
    {"the second reserved bit too", "!1002", 0, {{PACKED | 0x20, S(HELLO), PLAIN}}},
    {"the third one alone", "!1002", 0, {{TEXT | 0x10, S("a"), PLAIN}}},
    {"the other type", "!1003", WS_OP_BINARY, {{PACKED, S(HELLO), PLAIN}}},
    {"compressed over the limit", "!1009", 0, {{PACKED, NULL, BYTES_MAX + 1, HEAD_ONLY}}},
};

Test(ws_parser, packed_table_at_every_split) {
    deflate = ws_deflate_new();
    cr_assert_not_null(deflate);
    for (size_t i = 0; i < PTN_ARRAY_LEN(packed_cases); i++) {
        const struct table_case *one = &packed_cases[i];
        struct wire w = wire_of(one);
        for (size_t cut = 0; cut < w.n; cut++) {
            struct trace t = {0};
            run(w, &cut, cut > 0, one->accept, &t);
            cr_assert_str_eq(t.text, one->expected, "%s, cut at %zu: %s", one->name, cut, t.text);
        }
        free(w.p);
    }
    ws_deflate_free(deflate);
    deflate = NULL;
}

Test(ws_parser, a_bomb_is_refused_at_the_limit) {
    static uint8_t zeros[100000];
    ptn_bytes packed;
    deflate = ws_deflate_new();
    cr_assert_not_null(deflate);
    for (size_t n = BYTES_MAX - 1; n <= sizeof zeros; n = n > BYTES_MAX ? n * 10 : n + 1) {
        cr_assert_eq(ws_deflate_pack(deflate, (ptn_bytes){zeros, n}, &packed), 0);
        cr_assert_lt(packed.n, BYTES_MAX);
        const struct table_case bomb = {
            .pieces = {{PACKED + 1, (const char *)packed.p, packed.n, PLAIN}}};
        struct wire w = wire_of(&bomb);
        struct trace t = {0};
        run(w, NULL, 0, 0, &t);
        char whole[16];
        snprintf(whole, sizeof whole, "B%zu ", n);
        cr_assert_str_eq(t.text, n > BYTES_MAX ? "!1009" : whole, "%zu: %s", n, t.text);
        free(w.p);
    }
    ws_deflate_free(deflate);
    deflate = NULL;
}

Test(ws_parser, longest_close) {
    char payload[125];
    memset(payload, 'r', sizeof payload);
    payload[0] = 0x03;
    payload[1] = (char)0xe8;
    const struct piece f = {CLOSE, payload, sizeof payload, PLAIN};
    uint8_t bytes[256];
    struct wire w = {bytes, 0};
    struct trace t = {0};
    put_frame(&w, &f);
    run(w, NULL, 0, 0, &t);
    cr_assert_str_eq(t.text, "C1000123 ");
}

Test(ws_parser, an_unmasked_frame_is_refused_on_its_second_byte) {
    ws_parser p;
    size_t used;
    struct trace t = {0};
    ws_parser_init(&p, 0, BYTES_MAX, NULL);
    cr_assert_eq(ws_parser_feed(&p, (const uint8_t *)"\x81", 1, &ops, &t, &used), 0);
    cr_assert_eq(ws_parser_feed(&p, (const uint8_t *)"\x05", 1, &ops, &t, &used), 1002);
    ws_parser_done(&p);
}

Test(ws_parser, memory_follows_the_bytes_that_came) {
    static const uint8_t head[] = {0x82, 0xff, 0, 0, 0, 0, 0x03, 0xff, 0xff, 0xff, 1, 2, 3, 4, 9};
    ws_parser p;
    size_t used;
    struct trace t = {0};
    size_t cap;
    ws_parser_init(&p, 0, PTN_BUF_BYTES_MAX, NULL);
    cr_assert_eq(ws_parser_feed(&p, head, sizeof head, &ops, &t, &used), 0);
    cr_assert_not_null(p.message);
    (void)ptn_buf_data(p.message, &cap);
    cr_assert_leq(cap, 4096, "64 MiB announced, one byte sent: %zu bytes held", cap);
    ws_parser_done(&p);
    cr_assert_null(p.message);
}

static bool stop_message(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    (void)opcode;
    (void)payload;
    ++*(int *)arg;
    return false;
}

Test(ws_parser, a_callback_may_stop_it) {
    const ws_parser_ops stopping = {.on_message = stop_message, .on_control = take_control};
    const struct piece f = {TEXT, "a", 1, PLAIN};
    uint8_t bytes[64];
    struct wire w = {bytes, 0};
    ws_parser p;
    size_t used;
    int calls = 0;
    put_frame(&w, &f);
    put_frame(&w, &f);
    ws_parser_init(&p, 0, BYTES_MAX, NULL);
    cr_assert_eq(ws_parser_feed(&p, w.p, w.n, &stopping, &calls, &used), 0);
    cr_assert_eq(ws_parser_feed(&p, w.p, w.n, &stopping, &calls, &used), 0);
    cr_assert_eq(calls, 1);
    ws_parser_done(&p);
}

struct pausing {
    ws_parser p;
    struct trace t;
};

static bool pause_message(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    struct pausing *s = arg;
    s->p.paused = true;
    return take_message(&s->t, opcode, payload);
}

static bool pausing_control(void *arg, enum ws_opcode opcode, ptn_bytes payload) {
    return take_control(&((struct pausing *)arg)->t, opcode, payload);
}

Test(ws_parser, a_callback_may_pause_it) {
    const ws_parser_ops pausing = {.on_message = pause_message, .on_control = pausing_control};
    static const struct piece frames[] = {
        {TEXT, S("one"), PLAIN}, {PING, S("p"), PLAIN}, {TEXT, S(""), PLAIN}, {PING, S(""), PLAIN}};
    uint8_t bytes[128];
    struct wire w = {bytes, 0};
    struct pausing s = {0};
    size_t used;
    for (size_t i = 0; i < PTN_ARRAY_LEN(frames); i++)
        put_frame(&w, &frames[i]);
    ws_parser_init(&s.p, 0, BYTES_MAX, NULL);
    cr_assert_eq(ws_parser_feed(&s.p, w.p, w.n, &pausing, &s, &used), 0);
    cr_assert_eq(used, 9, "behind the first message");
    cr_assert_str_eq(s.t.text, "T\"one\" ");
    size_t at = used;
    cr_assert_eq(ws_parser_feed(&s.p, w.p + at, w.n - at, &pausing, &s, &used), 0);
    cr_assert_str_eq(s.t.text, "T\"one\" P\"p\" T\"\" ");
    at += used;
    cr_assert_eq(w.n - at, 6, "the last ping is left");
    cr_assert_eq(ws_parser_feed(&s.p, w.p + at, w.n - at, &pausing, &s, &used), 0);
    cr_assert_eq(used, 6);
    cr_assert_str_eq(s.t.text, "T\"one\" P\"p\" T\"\" P\"\" ");
    ws_parser_done(&s.p);
}

Test(ws_parser, heads_of_what_we_send) {
    uint8_t head[WS_HEAD_BYTES_MAX];
    cr_assert_eq(ws_head_write(head, WS_OP_TEXT, 125), 2);
    cr_assert_eq(head[0], 0x81);
    cr_assert_eq(head[1], 125);
    cr_assert_eq(ws_head_write(head, WS_OP_BINARY, 126), 4);
    cr_assert(memcmp(head, "\x82\x7e\x00\x7e", 4) == 0);
    cr_assert_eq(ws_head_write(head, WS_OP_TEXT, 65535), 4);
    cr_assert_eq(ws_head_write(head, WS_OP_TEXT, 65536), 10);
    cr_assert(memcmp(head, "\x81\x7f\0\0\0\0\0\1\0\0", 10) == 0);
}

Test(ws_parser, close_codes) {
    static const unsigned good[] = {1000, 1001, 1002, 1003, 1007, 1011,
                                    1014, 3000, 3999, 4000, 4999};
    static const unsigned bad[] = {0,    1,    999,  1004, 1005, 1006, 1015,
                                   1016, 1100, 2000, 2999, 5000, 65535};
    for (size_t i = 0; i < PTN_ARRAY_LEN(good); i++)
        cr_assert(ws_close_code_is_valid(good[i]), "%u", good[i]);
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++)
        cr_assert_not(ws_close_code_is_valid(bad[i]), "%u", bad[i]);
}
