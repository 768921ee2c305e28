/* SPDX-License-Identifier: Apache-2.0
 *
 * validate.c - the gate for msgpack from peers: one well-formed value, nothing more and nothing
 * less.
 *
 * What passes here can be read, walked and written as JSON by everybody else without further
 * checks.  The stack is a fixed array: one word per open container, outstanding values times two,
 * plus one for a map.  In a map an even number of outstanding values means that a key is next.  Any
 * thread.
 */
#include <postern/codec.h>

#include "protocols/codec/limits.h"
#include "protocols/codec/pack_inline.h"
#include "protocols/codec/text.h"

struct validator {
    const uint8_t *p, *end;
    uint64_t open; /* the innermost container: outstanding << 1 | is_map */
    uint32_t depth;
    const char *what;
    uint64_t stack[PTN__DEPTH_MAX];
};

static const char *text_error(enum ptn__text t) {
    return t == PTN__TEXT_NUL
               ? "the msgpack value has a string with NUL (U+0000); remove it, or send bin"
               : "the msgpack value has a string that is not UTF-8; encode text as UTF-8, or send "
                 "bin";
}

/* What to say about a header that could not be read. */
static const char *head_error(const struct validator *v) {
    if (v->p != v->end && *v->p == 0xc1)
        return "the msgpack value contains the byte 0xc1, which no type uses; check the encoder";
    return "the msgpack value is cut short; send the whole value";
}

/* Takes one value or container header.  False: v->what says why. */
static bool validate_step(struct validator *v, uint32_t depth_max) {
    struct ptn__head h;
    const uint8_t *p = ptn__head_read(v->p, v->end, &h);
    if (p == NULL) {
        v->what = head_error(v);
        return false;
    }
    if ((v->open & 3) == 1 && h.kind != PTN_KIND_STR) {
        v->what = "the msgpack value has a map key that is not a string; use string keys";
        return false;
    }
    v->open -= 2;
    if (h.kind == PTN_KIND_STR) {
        enum ptn__text t = ptn__text_check(p, h.n);
        if (t != PTN__TEXT_OK) {
            v->what = text_error(t);
            return false;
        }
        p += h.n;
    } else if (h.kind == PTN_KIND_BIN) {
        p += h.n;
    } else if (h.kind == PTN_KIND_ARRAY || h.kind == PTN_KIND_MAP) {
        bool is_map = h.kind == PTN_KIND_MAP;
        if (v->depth == depth_max) {
            v->what = "the msgpack value is nested too deeply; flatten it";
            return false;
        }
        v->stack[v->depth++] = v->open;
        v->open = (uint64_t)h.n << (is_map ? 2 : 1) | (is_map ? 1 : 0);
    } else if (h.kind == PTN_KIND_EXT) {
        v->what = "the msgpack value has an extension type; use str, bin or numbers";
        return false;
    }
    v->p = p;
    return true;
}

/* Steps over what messages are made of, as far as that is all there is: short texts, and numbers as
 * values, of the innermost container.  Whatever is not as usual is left to validate_step(). */
static const uint8_t *validate_run(const uint8_t *p, const uint8_t *end, uint64_t *open) {
    uint64_t due = *open;
    while (due >= 2) {
        const uint8_t *next = ptn__skip_short(p, end);
        if (next == NULL)
            break;
        const uint8_t tag = *p;
        if ((tag & 0xe0) == 0xa0 || tag == 0xd9) {
            const uint8_t *text = p + (tag == 0xd9 ? 2 : 1);
            const size_t n = (size_t)(next - text);
            if (!(n < 8 && ptn__is_plain_short(text, n, end)) &&
                ptn__text_check(text, n) != PTN__TEXT_OK)
                break;
        } else if ((due & 3) == 1) {
            break; /* not a key */
        }
        p = next;
        due -= 2;
    }
    *open = due;
    return p;
}

int ptn_msgpack_validate(ptn_bytes b, const ptn_codec_limits *limits, ptn_codec_error *reterr) {
    if (b.n > ptn__limits_bytes(limits))
        return ptn__codec_fail(reterr, -PTN_ETOOBIG, "the body is too big; send less at a time",
                               ptn__limits_bytes(limits));
    if (b.n == 0)
        return ptn__codec_fail(reterr, -PTN_EPROTO, "the body is empty; send one msgpack value", 0);

    uint32_t depth_max = ptn__limits_depth(limits);
    struct validator v; /* the stack is written before it is read; clearing 8 KiB would cost more */
    v.p = b.p;
    v.end = b.p + b.n;
    v.open = 1 << 1;
    v.depth = 0;
    v.what = NULL;
    while (v.open >= 2) {
        if (!validate_step(&v, depth_max))
            return ptn__codec_fail(reterr, -PTN_EPROTO, v.what, (size_t)(v.p - b.p));
        v.p = validate_run(v.p, v.end, &v.open);
        while (v.open < 2 && v.depth > 0)
            v.open = v.stack[--v.depth];
    }
    if (v.p != v.end)
        return ptn__codec_fail(reterr, -PTN_EPROTO,
                               "bytes follow the msgpack value; send exactly one value",
                               (size_t)(v.p - b.p));
    return 0;
}
