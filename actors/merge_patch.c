/* SPDX-License-Identifier: Apache-2.0
 *
 * merge_patch.c - JSON Merge Patch (RFC 7396) on msgpack values, with an explicit stack.
 *
 * A frame is one object being merged.  Its members come out in a fixed order: first those of the
 * target that survive, then the new ones of the patch.  The same walk runs twice, once to count (a
 * msgpack map begins with its size) and once to write.  A key that a map holds twice counts once,
 * with its first value.
 */
#include "actors/merge_patch.h"

struct merge_frame {
    ptn_bytes target, patch; /* encoded maps; n == 0: empty */
    ptn_unpack target_at, patch_at;
    uint32_t target_left, patch_left;
};

struct member {
    ptn_str key;
    ptn_bytes value;  /* what the result holds, unless both are to be merged */
    bool merge;       /* the patch's value is a map: merge it into `target` */
    ptn_bytes target; /* n == 0: nothing to merge into */
};

static bool open_map(ptn_bytes map, ptn_unpack *ret_at, uint32_t *ret_n) {
    *ret_n = 0;
    *ret_at = ptn_unpack_of(map);
    return map.n == 0 || ptn_unpack_map(ret_at, ret_n);
}

static int frame_open(struct merge_frame *f, ptn_bytes target, ptn_bytes patch) {
    *f = (struct merge_frame){.target = target, .patch = patch};
    if (!open_map(target, &f->target_at, &f->target_left) ||
        !open_map(patch, &f->patch_at, &f->patch_left))
        return -PTN_EINVAL;
    if (f->target_left > MERGE_PATCH_MEMBERS_MAX || f->patch_left > MERGE_PATCH_MEMBERS_MAX)
        return -PTN_ETOOBIG;
    return 0;
}

/* The first value under key before the cursor `until` (NULL: anywhere). */
static bool lookup(ptn_bytes map, ptn_str key, const uint8_t *until, ptn_bytes *ret_value) {
    ptn_unpack u;
    uint32_t n;
    if (!open_map(map, &u, &n))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        ptn_str k;
        ptn_bytes value;
        if (until != NULL && u.p >= until)
            return false;
        if (!ptn_unpack_str(&u, &k) || !ptn_unpack_any(&u, &value))
            return false;
        if (ptn_str_eq(k, key)) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

/* The next member of the result: 1, 0 at the end, <0 malformed. */
static int next_member(struct merge_frame *f, struct member *ret_m) {
    struct member m;
    ptn_bytes other;
    while (f->target_left > 0) {
        const uint8_t *begin = f->target_at.p;
        m = (struct member){0};
        if (!ptn_unpack_str(&f->target_at, &m.key) || !ptn_unpack_any(&f->target_at, &m.value))
            return -PTN_EINVAL;
        f->target_left--;
        if (lookup(f->target, m.key, begin, &other))
            continue;
        if (lookup(f->patch, m.key, NULL, &other)) {
            if (ptn_kind_of(other) == PTN_KIND_NIL)
                continue;
            m.merge = ptn_kind_of(other) == PTN_KIND_MAP;
            if (m.merge && ptn_kind_of(m.value) == PTN_KIND_MAP)
                m.target = m.value;
            m.value = other;
        }
        *ret_m = m;
        return 1;
    }
    while (f->patch_left > 0) {
        const uint8_t *begin = f->patch_at.p;
        m = (struct member){0};
        if (!ptn_unpack_str(&f->patch_at, &m.key) || !ptn_unpack_any(&f->patch_at, &m.value))
            return -PTN_EINVAL;
        f->patch_left--;
        if (ptn_kind_of(m.value) == PTN_KIND_NIL || lookup(f->patch, m.key, begin, &other) ||
            lookup(f->target, m.key, NULL, &other))
            continue;
        m.merge = ptn_kind_of(m.value) == PTN_KIND_MAP;
        *ret_m = m;
        return 1;
    }
    return 0;
}

/* Opens f and writes the header of its result. */
static int frame_begin(struct merge_frame *f, ptn_bytes target, ptn_bytes patch, ptn_pack *w) {
    int err = frame_open(f, target, patch);
    if (err != 0)
        return err;
    struct merge_frame count = *f;
    struct member m;
    uint32_t n = 0;
    int more;
    while ((more = next_member(&count, &m)) > 0)
        n++;
    if (more < 0)
        return more;
    ptn_pack_map(w, n);
    return 0;
}

int merge_patch(ptn_bytes target, ptn_bytes patch, ptn_pack *w) {
    struct merge_frame stack[MERGE_PATCH_DEPTH_MAX];
    size_t depth = 1;
    if (ptn_kind_of(patch) != PTN_KIND_MAP)
        return -PTN_EINVAL;
    int err = frame_begin(&stack[0], target, patch, w);
    while (err == 0 && depth > 0) {
        struct member m;
        int more = next_member(&stack[depth - 1], &m);
        if (more <= 0) {
            err = more;
            depth--;
            continue;
        }
        ptn_pack_str(w, m.key);
        if (!m.merge) {
            ptn_pack_raw(w, m.value);
        } else if (depth == MERGE_PATCH_DEPTH_MAX) {
            err = -PTN_ETOOBIG;
        } else {
            err = frame_begin(&stack[depth], m.target, m.value, w);
            depth++;
        }
    }
    return err != 0 ? err : w->err;
}
