/* SPDX-License-Identifier: Apache-2.0
 *
 * unpack.c - the msgpack reader: a cursor that steps over one value or does not move at all.
 *
 * Every read goes through ptn__head_read, which checks all lengths against the end; the cursor
 * therefore stays inside its bytes whatever they hold.  Skipping a nested value counts what is
 * outstanding instead of keeping a stack, so depth costs nothing.  Any thread.
 */
#include <postern/pack.h>

#include "protocols/codec/pack_inline.h"

/* The kind of the next value, PTN_KIND_END when there is none or its header or body is cut short.
 */
enum ptn_kind ptn_unpack_peek(const ptn_unpack *u) {
    struct ptn__head h;
    return ptn__head_read(u->p, u->end, &h) == NULL ? PTN_KIND_END : h.kind;
}

bool ptn_unpack_nil(ptn_unpack *u) {
    if (u->p == u->end || *u->p != 0xc0)
        return false;
    u->p++;
    return true;
}

bool ptn_unpack_bool(ptn_unpack *u, bool *ret_v) {
    if (u->p == u->end || (*u->p != 0xc2 && *u->p != 0xc3))
        return false;
    *ret_v = *u->p++ == 0xc3;
    return true;
}

bool ptn_unpack_int(ptn_unpack *u, int64_t *ret_v) {
    struct ptn__head h;
    if (u->p != u->end && *u->p < 0x80) {
        *ret_v = *u->p++;
        return true;
    }
    const uint8_t *p = ptn__head_read(u->p, u->end, &h);
    if (p == NULL || h.kind != PTN_KIND_INT)
        return false;
    *ret_v = h.v.i;
    u->p = p;
    return true;
}

bool ptn_unpack_uint(ptn_unpack *u, uint64_t *ret_v) {
    struct ptn__head h;
    if (u->p != u->end && *u->p < 0x80) {
        *ret_v = *u->p++;
        return true;
    }
    const uint8_t *p = ptn__head_read(u->p, u->end, &h);
    if (p == NULL || !(h.kind == PTN_KIND_UINT || (h.kind == PTN_KIND_INT && h.v.i >= 0)))
        return false;
    *ret_v = h.v.u;
    u->p = p;
    return true;
}

bool ptn_unpack_double(ptn_unpack *u, double *ret_v) {
    struct ptn__head h;
    const uint8_t *p = ptn__head_read(u->p, u->end, &h);
    if (p == NULL)
        return false;
    if (h.kind == PTN_KIND_FLOAT)
        *ret_v = h.v.d;
    else if (h.kind == PTN_KIND_INT)
        *ret_v = (double)h.v.i;
    else if (h.kind == PTN_KIND_UINT)
        *ret_v = (double)h.v.u;
    else
        return false;
    u->p = p;
    return true;
}

/* STR or BIN, whichever kind says. */
static bool unpack_body(ptn_unpack *u, enum ptn_kind kind, ptn_bytes *ret_b) {
    struct ptn__head h;
    const uint8_t *p = ptn__head_read(u->p, u->end, &h);
    if (p == NULL || h.kind != kind)
        return false;
    *ret_b = (ptn_bytes){p, h.n};
    u->p = p + h.n;
    return true;
}

bool ptn_unpack_str(ptn_unpack *u, ptn_str *ret_s) {
    ptn_bytes b;
    if (ptn__str_short(u, ret_s))
        return true;
    if (!unpack_body(u, PTN_KIND_STR, &b))
        return false;
    *ret_s = (ptn_str){(const char *)b.p, b.n};
    return true;
}

bool ptn_unpack_str_or_nil(ptn_unpack *u, ptn_str *ret_s) {
    if (ptn_unpack_nil(u)) {
        *ret_s = PTN_STR("");
        return true;
    }
    return ptn_unpack_str(u, ret_s);
}

bool ptn_unpack_bin(ptn_unpack *u, ptn_bytes *ret_b) {
    return ptn__bin_short(u, ret_b) || unpack_body(u, PTN_KIND_BIN, ret_b);
}

/* ARRAY or MAP; the count is never more than the remaining bytes can hold. */
static bool unpack_count(ptn_unpack *u, enum ptn_kind kind, uint32_t *ret_n) {
    struct ptn__head h;
    const uint8_t *p = ptn__head_read(u->p, u->end, &h);
    if (p == NULL || h.kind != kind)
        return false;
    *ret_n = h.n;
    u->p = p;
    return true;
}

bool ptn_unpack_array(ptn_unpack *u, uint32_t *ret_n) {
    return unpack_count(u, PTN_KIND_ARRAY, ret_n);
}

bool ptn_unpack_map(ptn_unpack *u, uint32_t *ret_n) {
    return unpack_count(u, PTN_KIND_MAP, ret_n);
}

/* The byte after one whole value, or NULL.  outstanding cannot overflow: each header adds at most
 * what its remaining bytes could hold, and every value takes at least one byte. */
static const uint8_t *unpack_skip(const uint8_t *p, const uint8_t *end) {
    uint64_t outstanding = 1;
    while (outstanding > 0) {
        struct ptn__head h;
        const uint8_t *q = ptn__skip_short(p, end);
        if (q != NULL) {
            p = q;
            outstanding--;
            continue;
        }
        p = ptn__head_read(p, end, &h);
        if (p == NULL || outstanding - 1 > (size_t)(end - p))
            return NULL;
        p += ptn__head_body_bytes(&h);
        outstanding--;
        if (h.kind == PTN_KIND_ARRAY)
            outstanding += h.n;
        else if (h.kind == PTN_KIND_MAP)
            outstanding += 2 * (uint64_t)h.n;
    }
    return p;
}

static inline bool skip(ptn_unpack *u, ptn_bytes *ret_raw) {
    const uint8_t *p = ptn__skip_short(u->p, u->end);
    if (p == NULL && (p = unpack_skip(u->p, u->end)) == NULL)
        return false;
    if (ret_raw != NULL)
        *ret_raw = (ptn_bytes){u->p, (size_t)(p - u->p)};
    u->p = p;
    return true;
}

bool ptn_unpack_any(ptn_unpack *u, ptn_bytes *ret_raw) {
    return skip(u, ret_raw);
}

bool ptn_map_get(ptn_bytes map, const char *key, ptn_bytes *ret_value) {
    ptn_unpack u = ptn_unpack_of(map);
    size_t key_bytes = strlen(key);
    uint32_t pairs;
    if (!ptn_unpack_map(&u, &pairs))
        return false;
    for (uint32_t i = 0; i < pairs; i++) {
        ptn_str k;
        bool is_match = false;
        if (ptn__str_short(&u, &k) || ptn_unpack_str(&u, &k))
            is_match = k.n == key_bytes && memcmp(k.p, key, key_bytes) == 0;
        else if (!skip(&u, NULL)) /* another kind of key cannot match, but is not an error */
            return false;
        if (is_match)
            return skip(&u, ret_value);
        if (!skip(&u, NULL))
            return false;
    }
    return false;
}

bool ptn_unpack_pair(ptn_unpack *u, ptn_str *ret_key, ptn_bytes *ret_value) {
    ptn_unpack at = *u;
    ptn_str key;
    if (!ptn__str_short(&at, &key) && !ptn_unpack_str(&at, &key)) {
        key = (ptn_str){NULL, 0};
        if (!skip(&at, NULL))
            return false;
    }
    if (!skip(&at, ret_value))
        return false;
    *ret_key = key;
    *u = at;
    return true;
}

bool ptn_map_get_str(ptn_bytes map, const char *key, ptn_str *ret_s) {
    ptn_bytes v;
    if (!ptn_map_get(map, key, &v))
        return false;
    ptn_unpack u = ptn_unpack_of(v);
    return ptn_unpack_str(&u, ret_s);
}

bool ptn_map_get_int(ptn_bytes map, const char *key, int64_t *ret_v) {
    ptn_bytes v;
    if (!ptn_map_get(map, key, &v))
        return false;
    ptn_unpack u = ptn_unpack_of(v);
    return ptn_unpack_int(&u, ret_v);
}

bool ptn_map_get_uint(ptn_bytes map, const char *key, uint64_t *ret_v) {
    ptn_bytes v;
    if (!ptn_map_get(map, key, &v))
        return false;
    ptn_unpack u = ptn_unpack_of(v);
    return ptn_unpack_uint(&u, ret_v);
}

bool ptn_map_get_bool(ptn_bytes map, const char *key, bool *ret_v) {
    ptn_bytes v;
    if (!ptn_map_get(map, key, &v))
        return false;
    ptn_unpack u = ptn_unpack_of(v);
    return ptn_unpack_bool(&u, ret_v);
}

enum ptn_kind ptn_kind_of(ptn_bytes value) {
    ptn_unpack u = ptn_unpack_of(value);
    return ptn_unpack_peek(&u);
}
