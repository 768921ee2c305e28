/* SPDX-License-Identifier: Apache-2.0
 *
 * topics_table.c - the topics of one shard and their recent history in memory, both bounded.
 */
#include "actors/topics_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

/* ---- lists -------------------------------------------------------------------------------- */

static struct topic_link *link_of(struct topic *t, enum topic_list k) {
    return k == LIST_UNHEARD ? &t->unheard : &t->history->link;
}

static void list_take(struct topics *s, enum topic_list k, struct topic *t) {
    const struct topic_link l = *link_of(t, k);
    *(l.prev != NULL ? &link_of(l.prev, k)->next : &s->first[k]) = l.next;
    *(l.next != NULL ? &link_of(l.next, k)->prev : &s->last[k]) = l.prev;
}

static void list_put(struct topics *s, enum topic_list k, struct topic *t) {
    *link_of(t, k) = (struct topic_link){.next = s->first[k]};
    *(s->first[k] != NULL ? &link_of(s->first[k], k)->prev : &s->last[k]) = t;
    s->first[k] = t;
}

static void list_to_front(struct topics *s, enum topic_list k, struct topic *t) {
    list_take(s, k, t);
    list_put(s, k, t);
}

/* ---- history ------------------------------------------------------------------------------ */

static void history_drop_oldest(struct topics *s, struct history *h) {
    ptn_buf *b = h->events[h->first];
    size_t n = ptn_buf_bytes(b).n;
    h->first = (h->first + 1) % h->cap;
    h->n--;
    h->bytes -= n;
    s->history_bytes -= n;
    ptn_buf_unref(b);
}

static void history_clear(struct topics *s, struct topic *t) {
    struct history *h = t->history;
    if (h == NULL)
        return;
    while (h->n > 0)
        history_drop_oldest(s, h);
    list_take(s, LIST_HISTORY, t);
    free(h->events);
    free(h);
    t->history = NULL;
}

/* NULL: no memory. */
static struct history *history_of(struct topics *s, struct topic *t) {
    if (t->history != NULL)
        return t->history;
    t->history = calloc(1, sizeof *t->history);
    if (t->history != NULL)
        list_put(s, LIST_HISTORY, t);
    return t->history;
}

static bool history_grow(struct history *h, uint32_t max) {
    uint32_t cap = h->cap == 0 ? 4 : h->cap * 2;
    if (cap > max)
        cap = max;
    ptn_buf **events = malloc(cap * sizeof(ptn_buf *));
    if (events == NULL)
        return false;
    for (uint32_t i = 0; i < h->n; i++)
        events[i] = h->events[(h->first + i) % h->cap];
    free(h->events);
    h->events = events;
    h->first = 0;
    h->cap = cap;
    return true;
}

/* Keeps a reference to b.  What does not fit the bounds pushes the oldest out; topics that were not
 * used for longest lose their history first when the whole shard is over its budget. */
void history_add(struct topics *s, struct topic *t, ptn_buf *b) {
    size_t n = ptn_buf_bytes(b).n;
    struct history *h = n <= s->config.history_bytes_max ? history_of(s, t) : NULL;
    if (h == NULL) {
        history_clear(s, t); /* a hole is worse than nothing */
        return;
    }
    while (h->n > 0 &&
           (h->n == s->config.history_events_max || h->bytes + n > s->config.history_bytes_max))
        history_drop_oldest(s, h);
    if (h->n == h->cap && !history_grow(h, s->config.history_events_max)) {
        history_clear(s, t);
        return;
    }
    h->events[(h->first + h->n++) % h->cap] = ptn_buf_ref(b);
    h->bytes += n;
    s->history_bytes += n;
    list_to_front(s, LIST_HISTORY, t);
    while (s->history_bytes > s->config.history_total_bytes && s->last[LIST_HISTORY] != t)
        history_clear(s, s->last[LIST_HISTORY]);
}

/* ---- table -------------------------------------------------------------------------------- */

static void topic_free(struct topics *s, struct topic *t) {
    history_clear(s, t);
    durable_free(s, t);
    if (s->found == t)
        s->found = NULL;
    ptn_gauge_add(PTN_G_TOPICS, -1);
    free(t);
}

void topics_free(struct topics *s) {
    for (uint32_t i = 0; i < s->by_name.cap; i++)
        if (s->by_name.entries[i].item != NULL)
            topic_free(s, s->by_name.entries[i].item);
    hash_table_done(&s->by_name);
}

static uint32_t hash_of(const struct topics *s, ptn_str name) {
    _Static_assert(sizeof s->config.id_key >= HASH_TABLE_KEY_BYTES, "its first bytes will do");
    return hash_table_name(s->config.id_key, name);
}

/* Makes room by forgetting the topic that nobody listens to and nobody used for longest. */
static bool evict_one(struct topics *s) {
    struct topic *t = s->last[LIST_UNHEARD];
    if (t == NULL)
        return false;
    list_take(s, LIST_UNHEARD, t);
    hash_table_remove(&s->by_name, hash_of(s, topic_name(t)), t);
    topic_free(s, t);
    return true;
}

/* A topic in use is on no list of those that may go. */
static void keep_or_not(struct topics *s, struct topic *t) {
    const bool unheard = t->hubs == 0 && t->pins == 0;
    if (unheard == t->is_unheard)
        return;
    t->is_unheard = unheard;
    (unheard ? list_put : list_take)(s, LIST_UNHEARD, t);
}

void topic_set_hub(struct topics *s, struct topic *t, unsigned worker, bool attached) {
    uint64_t bit = UINT64_C(1) << worker;
    t->hubs = attached ? t->hubs | bit : t->hubs & ~bit;
    keep_or_not(s, t);
}

void topic_pin(struct topics *s, struct topic *t) {
    t->pins++;
    keep_or_not(s, t);
}

void topic_unpin(struct topics *s, struct topic *t) {
    PTN_ASSERT(t->pins > 0);
    t->pins--;
    keep_or_not(s, t);
}

/* Who publishes much often does so to one topic. */
struct topic *topic_find(struct topics *s, ptn_str name) {
    struct topic *t = s->found;
    if (t != NULL && ptn_str_eq(name, topic_name(t)))
        return t;
    const uint32_t hash = hash_of(s, name);
    uint32_t at = hash;
    while ((t = hash_table_seek(&s->by_name, hash, &at)) != NULL)
        if (ptn_str_eq(name, topic_name(t)))
            return s->found = t;
    return NULL;
}

void topic_make_epoch(ptn_ctx *c, char out[EPOCH_BYTES]) {
    static const char hex[] = "0123456789abcdef";
    uint8_t random[EPOCH_BYTES / 2];
    ptn_random(c, random, sizeof random);
    for (unsigned i = 0; i < EPOCH_BYTES; i++)
        out[i] = hex[random[i / 2] >> (i % 2 * 4) & 15];
}

struct topic *topic_of(ptn_ctx *c, struct topics *s, ptn_str name) {
    struct topic *t = topic_find(s, name);
    if (t != NULL) {
        if (t->is_unheard)
            list_to_front(s, LIST_UNHEARD, t);
        return t;
    }
    if (s->by_name.n >= s->config.topics_max && !evict_one(s))
        return NULL;
    PTN_ASSERT(name.n <= PTN_TOPIC_BYTES_MAX);
    t = calloc(1, offsetof(struct topic, name) + name.n);
    if (t == NULL)
        return NULL;
    topic_make_epoch(c, t->epoch);
    memcpy(t->name, name.p, name.n);
    t->name_bytes = (uint8_t)name.n;
    if (!hash_table_add(&s->by_name, hash_of(s, name), t)) {
        free(t);
        return NULL;
    }
    t->is_unheard = true;
    list_put(s, LIST_UNHEARD, t);
    ptn_gauge_add(PTN_G_TOPICS, 1);
    return t;
}
