/* SPDX-License-Identifier: Apache-2.0
 *
 * json_read.c - JSON to msgpack: one walk over simdjson's tape, without a stack.
 *
 * The tape carries element counts and everything in order, so each word becomes msgpack at once and
 * closing brackets vanish; depth is a counter.  Counts saturate at 2^24-1 and are then counted by
 * hand, stepping over nested containers.  A NUL can only come from an escape (raw control
 * characters are refused), so texts without a backslash need no search for it.
 *
 * Duplicate member names are passed on as they are; readers take the first (ptn_map_get).
 */
#include <postern/codec.h>

#include <stdlib.h>

#include "protocols/codec/json_diagnose.h"
#include "protocols/codec/json_tape.h"
#include "protocols/codec/limits.h"
#include "protocols/codec/pack_inline.h"

#define TAPE_COUNT_SATURATED 0xffffffu
#define SHORT_COPY_BYTES 16u /* strings up to this long are copied as one block */

struct ptn_json_parser {
    struct ptn__json_dom *dom;
};

ptn_json_parser *ptn_json_parser_new(void) {
    ptn_json_parser *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    /* The exact limit is ours to check; simdjson only needs to hold what could pass. */
    p->dom = ptn__json_dom_new(PTN__DEPTH_MAX + 2);
    if (p->dom == NULL) {
        free(p);
        return NULL;
    }
    return p;
}

void ptn_json_parser_free(ptn_json_parser *p) {
    if (p == NULL)
        return;
    ptn__json_dom_free(p->dom);
    free(p);
}

static char tape_type(uint64_t word) {
    return (char)(word >> 56);
}

/* Index after the value at index i. */
static size_t tape_next(const uint64_t *words, size_t i) {
    switch (tape_type(words[i])) {
    case '[':
    case '{':
        return (uint32_t)words[i];
    case 'l':
    case 'u':
    case 'd':
        return i + 2;
    default:
        return i + 1;
    }
}

/* Elements of the array, or pairs of the map, that opens at index i. */
static uint32_t tape_count(const uint64_t *words, size_t i) {
    uint32_t n = (uint32_t)(words[i] >> 32) & TAPE_COUNT_SATURATED;
    if (PTN_LIKELY(n < TAPE_COUNT_SATURATED))
        return n;
    size_t close = (uint32_t)words[i] - 1;
    uint32_t values = 0;
    for (size_t k = i + 1; k < close; k = tape_next(words, k))
        values++;
    return tape_type(words[i]) == '{' ? values / 2 : values;
}

/* Appends one string of the tape.  False: it has a NUL (only looked for when asked), or w failed.
 */
static bool write_string(const uint8_t *entry, bool may_have_nul, ptn_pack *w) {
    uint32_t n;
    memcpy(&n, entry, sizeof(n));
    const uint8_t *s = entry + sizeof(n);
    if (may_have_nul && memchr(s, 0, n) != NULL)
        return false;
    if (!ptn__pack_room(w, PTN__HEAD_BYTES_MAX + SHORT_COPY_BYTES + n))
        return false;
    uint8_t *q = ptn__put_str_head(w->p, n);
    memcpy(q, s, SHORT_COPY_BYTES); /* json_tape.h: readable; and there is room */
    if (n > SHORT_COPY_BYTES)
        memcpy(q + SHORT_COPY_BYTES, s + SHORT_COPY_BYTES, n - SHORT_COPY_BYTES);
    w->p = q + n;
    return true;
}

enum walk_end { WALK_DONE, WALK_REFUSED, WALK_OUTPUT };

/* Appends the whole tape to w.  WALK_REFUSED: too deep, or a NUL; WALK_OUTPUT: w->err is set. */
static enum walk_end walk(const struct ptn__json_tape *tape, bool may_have_nul, uint32_t depth_max,
                          ptn_pack *w) {
    const uint64_t *words = tape->words;
    size_t last = (uint32_t)words[0] - 1; /* the closing root word */
    uint32_t depth = 0;
    for (size_t i = 1; i < last; i++) {
        uint64_t word = words[i];
        if (!ptn__pack_room(w, PTN__HEAD_BYTES_MAX))
            return WALK_OUTPUT;
        switch (tape_type(word)) {
        case '"':
            if (!write_string(tape->strings + (word & UINT64_C(0xffffffffffffff)), may_have_nul, w))
                return w->err != 0 ? WALK_OUTPUT : WALK_REFUSED;
            break;
        case 'l':
            w->p = ptn__put_int(w->p, (int64_t)words[++i]);
            break;
        case 'u':
            w->p = ptn__put_uint(w->p, words[++i]);
            break;
        case 'd':
            w->p = ptn__put_double_bits(w->p, words[++i]);
            break;
        case '[':
        case '{':
            if (depth++ == depth_max)
                return WALK_REFUSED;
            w->p = tape_type(word) == '[' ? ptn__put_array_head(w->p, tape_count(words, i))
                                          : ptn__put_map_head(w->p, tape_count(words, i));
            break;
        case ']':
        case '}':
            depth--;
            break;
        case 't':
        case 'f':
            *w->p++ = tape_type(word) == 't' ? 0xc3 : 0xc2;
            break;
        default:
            *w->p++ = 0xc0; /* 'n': the tape has nothing else */
            break;
        }
    }
    return WALK_DONE;
}

/* Says what is wrong with a refused text, by a second look at it. */
static int refuse(ptn_str json, uint32_t depth_max, ptn_codec_error *reterr) {
    ptn_codec_error error;
    if (!ptn__json_diagnose(json, depth_max, &error))
        error = (ptn_codec_error){.what = "the body is not JSON; send one JSON value"};
    return ptn__codec_fail(reterr, -PTN_EPROTO, error.what, error.offset);
}

int ptn_json_to_msgpack(ptn_json_parser *p, ptn_str json, const ptn_codec_limits *limits,
                        ptn_pack *w, ptn_codec_error *reterr) {
    size_t bytes_max = ptn__limits_bytes(limits);
    uint32_t depth_max = ptn__limits_depth(limits);
    struct ptn__json_tape tape;
    if (json.n > bytes_max)
        return ptn__codec_fail(reterr, -PTN_ETOOBIG, "the body is too big; send less at a time",
                               bytes_max);
    /* simdjson may skip a byte order mark; we refuse it whatever the version does. */
    if (json.n >= 3 && memcmp(json.p, "\xef\xbb\xbf", 3) == 0)
        return refuse(json, depth_max, reterr);
    enum ptn__json_status status = ptn__json_dom_parse(p->dom, json.p, json.n, &tape);
    if (status == PTN__JSON_NO_MEMORY)
        return ptn__codec_fail(reterr, -PTN_ENOMEM, "out of memory; try again later", 0);
    if (status != PTN__JSON_OK)
        return refuse(json, depth_max, reterr);

    bool may_have_nul = memchr(json.p, '\\', json.n) != NULL;
    enum walk_end end = walk(&tape, may_have_nul, depth_max, w);
    if (end == WALK_REFUSED)
        return refuse(json, depth_max, reterr);
    if (end == WALK_OUTPUT)
        return ptn__codec_fail(reterr, w->err,
                               w->err == -PTN_ENOMEM ? "out of memory; try again later"
                                                     : "the body is too big; send less at a time",
                               json.n);
    return 0;
}
