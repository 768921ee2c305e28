/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_index.c - exact topics in a hash, patterns in a trie of segments.
 *
 * Matching walks the trie with an explicit stack.  At every level a topic can follow the literal
 * child and the
 * `*` child, so the work is bounded by the nodes that patterns made, and by HUB_MATCH_STACK
 * branches.
 */
#include "actors/hub_feed.h"
#include "actors/hub_flow.h"

#include <stdlib.h>

#define HUB_SEGMENTS_MAX ((PTN_TOPIC_BYTES_MAX + 1) / 2)

struct hub_topic *hub_index_topic(struct hub_index *x, ptn_str topic, bool make) {
    struct hub_topic *t = NULL;
    HASH_FIND(hh, x->topics, topic.p, topic.n, t);
    if (t != NULL || !make)
        return t;
    t = calloc(1, sizeof *t + topic.n);
    if (t == NULL)
        return NULL;
    memcpy(t->name, topic.p, topic.n);
    t->name_bytes = (uint32_t)topic.n;
    t->list.topic = t;
    HASH_ADD_KEYPTR(hh, x->topics, t->name, t->name_bytes, t);
    if (t->hh.tbl == NULL) {
        free(t);
        return NULL;
    }
    x->n_topics++;
    return t;
}

bool hub_index_topic_release(struct hub_index *x, struct hub_topic *t) {
    if (t->list.n > 0 || t->pending > 0)
        return false;
    HASH_DELETE(hh, x->topics, t);
    x->n_topics--;
    free(t->list.slots);
    free(t);
    return true;
}

/* ---- patterns ----------------------------------------------------------------------------- */

/* Cuts the first segment off *rest; *rest has p == NULL after the last one. */
static ptn_str cut_segment(ptn_str *rest) {
    const char *dot = memchr(rest->p, '.', rest->n);
    ptn_str s = *rest;
    if (dot == NULL) {
        *rest = (ptn_str){NULL, 0};
        return s;
    }
    s.n = (size_t)(dot - s.p);
    *rest = (ptn_str){dot + 1, rest->n - s.n - 1};
    return s;
}

static struct hub_node *child_of(struct hub_node *parent, ptn_str segment, bool make) {
    struct hub_node *n = NULL;
    bool star = ptn_str_eqz(segment, "*");
    if (star)
        n = parent->star;
    else
        HASH_FIND(hh, parent->children, segment.p, segment.n, n);
    if (n != NULL || !make)
        return n;
    n = calloc(1, sizeof *n + segment.n);
    if (n == NULL)
        return NULL;
    n->segment = (char *)(n + 1);
    memcpy(n->segment, segment.p, segment.n);
    n->segment_bytes = (uint32_t)segment.n;
    n->parent = parent;
    n->here.node = n->rest.node = n;
    if (star)
        parent->star = n;
    else
        HASH_ADD_KEYPTR(hh, parent->children, n->segment, n->segment_bytes, n);
    if (!star && n->hh.tbl == NULL) {
        free(n);
        return NULL;
    }
    return n;
}

/* Frees a node and its ancestors as long as nothing hangs on them. */
static void node_prune(struct hub_node *n) {
    while (n->parent != NULL && n->children == NULL && n->star == NULL && n->here.n == 0 &&
           n->rest.n == 0) {
        struct hub_node *parent = n->parent;
        if (parent->star == n)
            parent->star = NULL;
        else
            HASH_DELETE(hh, parent->children, n);
        free(n->here.slots);
        free(n->rest.slots);
        free(n);
        n = parent;
    }
}

struct hub_list *hub_index_pattern(struct hub_index *x, ptn_str pattern, bool make) {
    struct hub_node *at = &x->root;
    x->root.here.node = x->root.rest.node = &x->root;
    ptn_str rest = pattern;
    while (rest.p != NULL) {
        ptn_str s = cut_segment(&rest);
        if (ptn_str_eqz(s, "**"))
            return &at->rest;
        struct hub_node *next = child_of(at, s, make);
        if (next == NULL) {
            if (make)
                node_prune(at); /* no memory: take back what this call made */
            return NULL;
        }
        at = next;
    }
    return &at->here;
}

/* ---- subscriptions ------------------------------------------------------------------------ */

struct hub_sub *hub_sub_add(struct hub_index *x, struct hub_list *l, struct hub_sink *sink,
                            struct hub_sub **sink_list, const struct hub_slot *slot) {
    if (l->n == l->cap) {
        uint32_t cap = l->cap == 0 ? 2 : l->cap * 2;
        struct hub_slot *slots = realloc(l->slots, cap * sizeof *slots);
        if (slots == NULL)
            return NULL;
        l->slots = slots;
        l->cap = cap;
    }
    struct hub_sub *s = calloc(1, sizeof *s);
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
    x->n_pattern_subs += l->topic == NULL;
    return s;
}

void hub_sub_remove(struct hub_index *x, struct hub_sub *s) {
    struct hub_list *l = s->list;
    hub_flow_end(s->flow);
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
    x->n_pattern_subs -= l->topic == NULL;
    free(s);
    if (l->node != NULL)
        node_prune(l->node);
}

/* ---- matching ----------------------------------------------------------------------------- */

struct match_step {
    struct hub_node *node;
    uint32_t depth; /* segments of the topic consumed */
};

void hub_index_match(struct hub_index *x, ptn_str topic,
                     void (*visit)(struct hub_list *l, void *arg), void *arg) {
    ptn_str segment[HUB_SEGMENTS_MAX];
    uint32_t n_segments = 0;
    for (ptn_str rest = topic; rest.p != NULL && n_segments < HUB_SEGMENTS_MAX;)
        segment[n_segments++] = cut_segment(&rest);
    bool reserved = ptn_topic_is_reserved(topic);
    /* Two branches a level: the deepest stack is one pending sibling per level, plus the tip. */
    struct match_step stack[HUB_SEGMENTS_MAX + 1];
    uint32_t top = 0;
    stack[top++] = (struct match_step){&x->root, 0};
    while (top > 0) {
        struct match_step s = stack[--top];
        if (s.depth == n_segments) {
            if (s.node->here.n > 0)
                visit(&s.node->here, arg);
            continue;
        }
        bool hidden = reserved && s.depth == 0; /* a leading wildcard never sees reserved topics */
        if (s.node->rest.n > 0 && !hidden)
            visit(&s.node->rest, arg);
        struct hub_node *child = NULL;
        HASH_FIND(hh, s.node->children, segment[s.depth].p, segment[s.depth].n, child);
        if (child != NULL)
            stack[top++] = (struct match_step){child, s.depth + 1};
        if (s.node->star != NULL && !hidden)
            stack[top++] = (struct match_step){s.node->star, s.depth + 1};
    }
}

/* ---- the end ------------------------------------------------------------------------------ */

static void list_clear(struct hub_index *x, struct hub_list *l) {
    struct hub_node *node = l->node;
    l->node = NULL; /* no pruning under our feet */
    while (l->n > 0)
        hub_sub_remove(x, l->slots[l->n - 1].sub);
    free(l->slots);
    l->slots = NULL;
    l->cap = 0;
    l->node = node;
}

void hub_index_done(struct hub_index *x) {
    struct hub_topic *t, *next_topic;
    HASH_ITER(hh, x->topics, t, next_topic) {
        list_clear(x, &t->list);
        t->pending = 0;
        hub_index_topic_release(x, t);
    }
    list_clear(x, &x->all_public);
    list_clear(x, &x->all_reserved);
    struct hub_node *n = &x->root;
    for (;;) {
        list_clear(x, &n->here);
        list_clear(x, &n->rest);
        struct hub_node *child = n->star != NULL ? n->star : n->children;
        if (child == NULL && n->parent == NULL)
            break;
        if (child == NULL)
            node_prune(n); /* and every ancestor that it leaves bare */
        n = child != NULL ? child : &x->root;
    }
    memset(x, 0, sizeof *x);
}
