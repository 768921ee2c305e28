/* SPDX-License-Identifier: Apache-2.0
 *
 * topics_table.c - the topics of one shard and their recent history in memory, both bounded.
 */
#include "actors/topics_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

/* ---- lists -------------------------------------------------------------------------------- */

static void list_remove(struct topics *s, enum topic_list k, struct topic *t) {
    struct topic_link *l = &t->link[k];
    if (!l->in)
        return;
    *(l->prev != NULL ? &l->prev->link[k].next : &s->first[k]) = l->next;
    *(l->next != NULL ? &l->next->link[k].prev : &s->last[k]) = l->prev;
    *l = (struct topic_link){0};
}

static void list_to_front(struct topics *s, enum topic_list k, struct topic *t) {
    list_remove(s, k, t);
    t->link[k] = (struct topic_link){.next = s->first[k], .in = true};
    *(s->first[k] != NULL ? &s->first[k]->link[k].prev : &s->last[k]) = t;
    s->first[k] = t;
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
    struct history *h = &t->history;
    while (h->n > 0)
        history_drop_oldest(s, h);
    free(h->events);
    *h = (struct history){0};
    list_remove(s, LIST_HISTORY, t);
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
    struct history *h = &t->history;
    size_t n = ptn_buf_bytes(b).n;
    if (n > s->config.history_bytes_max) {
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

void topic_free(struct topics *s, struct topic *t) {
    history_clear(s, t);
    durable_free(s, t);
    list_remove(s, LIST_UNHEARD, t);
    HASH_DELETE(hh, s->by_name, t);
    s->n_topics--;
    ptn_gauge_add(PTN_G_TOPICS, -1);
    free(t);
}

/* Makes room by forgetting the topic that nobody listens to and nobody used for longest. */
static bool evict_one(struct topics *s) {
    if (s->last[LIST_UNHEARD] == NULL)
        return false;
    topic_free(s, s->last[LIST_UNHEARD]);
    return true;
}

/* A topic in use is on no list of those that may go. */
static void keep_or_not(struct topics *s, struct topic *t) {
    if (t->hubs != 0 || t->pins > 0)
        list_remove(s, LIST_UNHEARD, t);
    else if (!t->link[LIST_UNHEARD].in)
        list_to_front(s, LIST_UNHEARD, t);
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

struct topic *topic_find(struct topics *s, ptn_str name) {
    struct topic *t = NULL;
    HASH_FIND(hh, s->by_name, name.p, name.n, t);
    return t;
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
        if (t->link[LIST_UNHEARD].in)
            list_to_front(s, LIST_UNHEARD, t);
        return t;
    }
    if (s->n_topics >= (int64_t)s->config.topics_max && !evict_one(s))
        return NULL;
    t = calloc(1, sizeof *t + name.n);
    if (t == NULL)
        return NULL;
    topic_make_epoch(c, t->epoch);
    memcpy(t->name, name.p, name.n);
    t->name_bytes = (uint32_t)name.n;
    HASH_ADD_KEYPTR(hh, s->by_name, t->name, t->name_bytes, t);
    if (t->hh.tbl == NULL) { /* no memory for the table */
        free(t);
        return NULL;
    }
    list_to_front(s, LIST_UNHEARD, t);
    s->n_topics++;
    ptn_gauge_add(PTN_G_TOPICS, 1);
    return t;
}
