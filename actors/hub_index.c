/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_index.c - exact topics in a table, patterns in a trie of segments.  See hub_index.h.
 *
 * Matching walks the trie with an explicit stack.  At every node a topic can follow the literal
 * child and the `*` child, so the work is bounded by the nodes that patterns made, and the stack by
 * the segments of a topic.
 *
 * Names come from clients, so the hash is keyed.  A segment is hashed once, and its node found
 * under that hash and the parent's address.  A wildcard has a hash of its own.
 */
#include "actors/hub_feed.h"
#include "actors/hub_flow.h"
#include "actors/hub_latest.h"

#include <stdlib.h>

#define HUB_SEGMENTS_MAX ((PTN_TOPIC_BYTES_MAX + 1) / 2)
#define STAR_HASH 1u
#define REST_HASH 2u

_Static_assert(PTN_TOPIC_BYTES_MAX <= UINT8_MAX, "lengths of names are bytes");

/* ---- topics ------------------------------------------------------------------------------- */

struct hub_topic *hub_index_topic(struct hub_index *x, ptn_str topic, bool make) {
    const uint32_t hash = hub_index_hash(x, topic);
    uint32_t at = hash;
    struct hub_topic *t;
    while ((t = hash_table_seek(&x->topics, hash, &at)) != NULL)
        if (ptn_str_eq(topic, (ptn_str){t->name, t->name_bytes}))
            return t;
    if (!make)
        return NULL;
    t = calloc(1, offsetof(struct hub_topic, name) + topic.n);
    if (t == NULL)
        return NULL;
    memcpy(t->name, topic.p, topic.n);
    t->name_bytes = (uint8_t)topic.n;
    t->list.of = HUB_LIST_TOPIC;
    if (!hash_table_add(&x->topics, hash, t)) {
        free(t);
        return NULL;
    }
    return t;
}

static void slots_free(struct hub_list *l) {
    if (l->slots != &l->one)
        free(l->slots);
    l->slots = NULL;
    l->cap_log2 = 0;
}

bool hub_index_topic_release(struct hub_index *x, struct hub_topic *t) {
    if (t->list.n > 0 || t->pending > 0)
        return false;
    hash_table_remove(&x->topics, hub_index_hash(x, (ptn_str){t->name, t->name_bytes}), t);
    slots_free(&t->list);
    free(t);
    return true;
}

/* ---- patterns ----------------------------------------------------------------------------- */

/* The first segment of s, which has one. */
static ptn_str first_segment(ptn_str s) {
    const char *dot = memchr(s.p, '.', s.n);
    return (ptn_str){s.p, dot != NULL ? (size_t)(dot - s.p) : s.n};
}

/* What stands behind the first n bytes, which are whole segments; n == 0: nothing. */
static ptn_str behind(ptn_str s, size_t n) {
    return n < s.n ? (ptn_str){s.p + n + 1, s.n - n - 1} : (ptn_str){NULL, 0};
}

static bool is_star(ptn_str segment) {
    return segment.n == 1 && segment.p[0] == '*';
}
static bool is_rest(ptn_str segment) {
    return segment.n == 2 && segment.p[0] == '*' && segment.p[1] == '*';
}

/* How many bytes of whole segments two texts begin with alike. */
static size_t common_segments(ptn_str a, ptn_str b) {
    size_t i = 0, end = 0;
    while (i < a.n && i < b.n && a.p[i] == b.p[i]) {
        if (a.p[i] == '.')
            end = i;
        i++;
    }
    const bool a_ends = i == a.n || a.p[i] == '.', b_ends = i == b.n || b.p[i] == '.';
    return a_ends && b_ends ? i : end;
}

static ptn_str label_of(const struct hub_node *n) {
    return (ptn_str){(const char *)(n + 1), n->label_bytes};
}

static uint32_t segment_hash(const struct hub_index *x, ptn_str segment) {
    return is_star(segment) ? STAR_HASH : is_rest(segment) ? REST_HASH : hub_index_hash(x, segment);
}

static uint32_t child_hash(const struct hub_node *parent, uint32_t of_segment) {
    return (uint32_t)((of_segment + (uint64_t)(uintptr_t)parent) * UINT64_C(0x9e3779b97f4a7c15) >>
                      32);
}

static uint32_t node_hash(const struct hub_index *x, const struct hub_node *n) {
    return child_hash(n->parent, segment_hash(x, first_segment(label_of(n))));
}

/* The child whose first segment this is. */
static struct hub_node *child_of(const struct hub_index *x, const struct hub_node *parent,
                                 ptn_str segment, uint32_t of_segment) {
    const uint32_t hash = child_hash(parent, of_segment);
    uint32_t at = hash;
    struct hub_node *n;
    while ((n = hash_table_seek(&x->nodes, hash, &at)) != NULL)
        if (n->parent == parent && ptn_str_eq(first_segment(label_of(n)), segment))
            return n;
    return NULL;
}

/* Counts one child more or less that begins with this segment. */
static void children_changed(struct hub_node *parent, ptn_str segment, bool more) {
    parent->n_children += more ? 1u : UINT32_MAX;
    if (is_star(segment))
        parent->star = more;
    if (is_rest(segment))
        parent->rest = more;
}

static struct hub_node *node_alloc(struct hub_node *parent, ptn_str label) {
    struct hub_node *n = calloc(1, sizeof *n + label.n);
    if (n == NULL)
        return NULL;
    n->parent = parent;
    n->list.of = HUB_LIST_NODE;
    n->label_bytes = (uint8_t)label.n;
    memcpy(n + 1, label.p, label.n);
    return n;
}

/* A new leaf.  NULL: no memory. */
static struct hub_node *node_new(struct hub_index *x, struct hub_node *parent, ptn_str label) {
    struct hub_node *n = node_alloc(parent, label);
    if (n == NULL || !hash_table_add(&x->nodes, node_hash(x, n), n)) {
        free(n);
        return NULL;
    }
    children_changed(parent, first_segment(label), true);
    return n;
}

/* Parts a node: the first `bytes` of its label go to a new node above it, which is returned.  NULL:
 * no memory, and nothing has changed. */
static struct hub_node *node_split(struct hub_index *x, struct hub_node *n, size_t bytes) {
    const ptn_str label = label_of(n), lower = behind(label, bytes);
    const uint32_t hash = node_hash(x, n);
    struct hub_node *upper = node_alloc(n->parent, (ptn_str){label.p, bytes});
    if (upper == NULL)
        return NULL;
    if (!hash_table_add(&x->nodes, child_hash(upper, segment_hash(x, first_segment(lower))), n)) {
        free(upper);
        return NULL;
    }
    /* It stands there twice now; its old place is the upper one's. */
    hash_table_replace(&x->nodes, hash, n, upper);
    children_changed(upper, first_segment(lower), true);
    n->parent = upper;
    n->label_bytes = (uint8_t)lower.n;
    memmove(n + 1, lower.p, lower.n);
    return upper;
}

/* Frees a node and its ancestors as long as nothing hangs on them. */
static void node_prune(struct hub_index *x, struct hub_node *n) {
    while (n->parent != NULL && n->n_children == 0 && n->list.n == 0) {
        struct hub_node *parent = n->parent;
        hash_table_remove(&x->nodes, node_hash(x, n), n);
        children_changed(parent, first_segment(label_of(n)), false);
        slots_free(&n->list);
        free(n);
        n = parent;
    }
}

struct hub_list *hub_index_pattern(struct hub_index *x, ptn_str pattern, bool make) {
    struct hub_node *at = &x->root;
    while (pattern.p != NULL) {
        const ptn_str segment = first_segment(pattern);
        struct hub_node *next = child_of(x, at, segment, segment_hash(x, segment));
        if (next == NULL) {
            next = make ? node_new(x, at, pattern) : NULL;
            if (next == NULL && make)
                node_prune(x, at);
            return next != NULL ? &next->list : NULL;
        }
        const size_t n = common_segments(label_of(next), pattern);
        if (n < next->label_bytes) {
            next = make ? node_split(x, next, n) : NULL;
            if (next == NULL)
                return NULL;
        }
        pattern = behind(pattern, n);
        at = next;
    }
    return &at->list;
}

static struct hub_node *node_of(struct hub_list *l) {
    return (struct hub_node *)(void *)((char *)l - offsetof(struct hub_node, list));
}

void hub_index_pattern_release(struct hub_index *x, struct hub_list *l) {
    if (l->of == HUB_LIST_NODE)
        node_prune(x, node_of(l));
}

/* ---- subscriptions ------------------------------------------------------------------------ */

/* Room for one more.  False: no memory. */
static bool slots_grow(struct hub_list *l) {
    if (l->slots == NULL)
        l->slots = &l->one;
    if (l->n < UINT32_C(1) << l->cap_log2)
        return true;
    const size_t bytes = sizeof(struct hub_slot) << (l->cap_log2 + 1);
    struct hub_slot *slots = realloc(l->slots == &l->one ? NULL : l->slots, bytes);
    if (slots == NULL)
        return false;
    if (l->slots == &l->one)
        slots[0] = l->one;
    l->slots = slots;
    l->cap_log2++;
    return true;
}

/* Gives memory back when three quarters are empty. */
static void slots_shrink(struct hub_list *l) {
    if (l->cap_log2 < 3 || l->n > UINT32_C(1) << (l->cap_log2 - 2))
        return;
    struct hub_slot *slots = realloc(l->slots, sizeof(struct hub_slot) << (l->cap_log2 - 1));
    if (slots == NULL)
        return;
    l->slots = slots;
    l->cap_log2--;
}

struct hub_sub *hub_sub_add(struct hub_index *x, struct hub_list *l, struct hub_sink *sink,
                            struct hub_sub **sink_list, const struct hub_slot *slot) {
    struct hub_sub *s = slots_grow(l) ? calloc(1, sizeof *s) : NULL;
    if (s == NULL)
        return NULL;
    s->list = l;
    s->at = l->n;
    s->sink = sink;
    s->sink_next = *sink_list;
    s->sink_pprev = sink_list;
    if (s->sink_next != NULL)
        s->sink_next->sink_pprev = &s->sink_next;
    *sink_list = s;
    l->slots[l->n] = *slot;
    l->slots[l->n++].sub = s;
    x->n_subs++;
    x->n_pattern_subs += l->of != HUB_LIST_TOPIC;
    return s;
}

/* Without a look at what it leaves empty. */
static void sub_unlink(struct hub_index *x, struct hub_sub *s) {
    struct hub_list *l = s->list;
    hub_flow_end(s->flow);
    hub_latest_end(s);
    hub_cursor_free(s->cursor);
    l->n--;
    if (s->at != l->n) { /* the last one moves into the hole */
        l->slots[s->at] = l->slots[l->n];
        l->slots[s->at].sub->at = s->at;
    }
    *s->sink_pprev = s->sink_next;
    if (s->sink_next != NULL)
        s->sink_next->sink_pprev = s->sink_pprev;
    x->n_subs--;
    x->n_pattern_subs -= l->of != HUB_LIST_TOPIC;
    free(s);
}

void hub_sub_remove(struct hub_index *x, struct hub_sub *s) {
    struct hub_list *l = s->list;
    sub_unlink(x, s);
    slots_shrink(l);
    hub_index_pattern_release(x, l);
}

/* ---- matching ----------------------------------------------------------------------------- */

struct match {
    ptn_str segment[HUB_SEGMENTS_MAX];
    uint32_t n_segments;
    struct match_step {
        struct hub_node *node;
        uint32_t depth;            /* segments of the topic consumed */
    } stack[HUB_SEGMENTS_MAX + 1]; /* one pending sibling per level, plus the tip */
    uint32_t top;
};

/* The child's first segment fits at this depth: on behind its label, if all of that fits too. */
static void follow(struct match *m, struct hub_node *child, uint32_t depth) {
    if (child == NULL)
        return;
    ptn_str label = label_of(child);
    label = behind(label, first_segment(label).n);
    for (depth++; label.p != NULL; depth++) {
        const ptn_str s = first_segment(label);
        if (depth == m->n_segments)
            return;
        if (is_rest(s)) {
            depth = m->n_segments;
            break;
        }
        if (!is_star(s) && !ptn_str_eq(s, m->segment[depth]))
            return;
        label = behind(label, s.n);
    }
    m->stack[m->top++] = (struct match_step){child, depth};
}

void hub_index_match(struct hub_index *x, ptn_str topic,
                     void (*visit)(struct hub_list *l, void *arg), void *arg) {
    struct match m;
    if (x->root.n_children == 0)
        return;
    uint32_t hash[HUB_SEGMENTS_MAX], n_hashed = 0;
    const bool reserved = ptn_topic_is_reserved(topic);
    for (m.n_segments = 0; topic.p != NULL && m.n_segments < HUB_SEGMENTS_MAX; m.n_segments++) {
        const ptn_str s = first_segment(topic);
        m.segment[m.n_segments] = s;
        topic = behind(topic, s.n);
    }
    m.stack[0] = (struct match_step){&x->root, 0};
    m.top = 1;
    while (m.top > 0) {
        const struct match_step s = m.stack[--m.top];
        if (s.depth == m.n_segments) {
            if (s.node->list.n > 0)
                visit(&s.node->list, arg);
            continue;
        }
        /* A leading wildcard never sees reserved topics. */
        const bool rest = s.node->rest && !(reserved && s.depth == 0);
        const bool star = s.node->star && !(reserved && s.depth == 0);
        if (rest)
            visit(&child_of(x, s.node, PTN_STR("**"), REST_HASH)->list, arg);
        if (s.node->n_children > (uint32_t)s.node->star + s.node->rest) {
            for (; n_hashed <= s.depth; n_hashed++)
                hash[n_hashed] = hub_index_hash(x, m.segment[n_hashed]);
            follow(&m, child_of(x, s.node, m.segment[s.depth], hash[s.depth]), s.depth);
        }
        if (star)
            follow(&m, child_of(x, s.node, PTN_STR("*"), STAR_HASH), s.depth);
    }
}

/* ---- the end ------------------------------------------------------------------------------ */

static void list_clear(struct hub_index *x, struct hub_list *l) {
    while (l->n > 0)
        sub_unlink(x, l->slots[l->n - 1].sub);
    slots_free(l);
}

void hub_index_done(struct hub_index *x) {
    for (uint32_t i = 0; i < x->topics.cap; i++) {
        struct hub_topic *t = x->topics.entries[i].item;
        if (t != NULL)
            list_clear(x, &t->list);
        free(t);
    }
    for (uint32_t i = 0; i < x->nodes.cap; i++) {
        struct hub_node *n = x->nodes.entries[i].item;
        if (n != NULL)
            list_clear(x, &n->list);
        free(n);
    }
    list_clear(x, &x->all_public);
    list_clear(x, &x->all_reserved);
    hash_table_done(&x->topics);
    hash_table_done(&x->nodes);
    memset(x, 0, sizeof *x);
}
