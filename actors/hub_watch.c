/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_watch.c - patterns and gateways: who listens to every event.
 *
 * They are granted here: the hub asks every owner for everything (TOPIC_WATCH_ALL), and a pattern
 * starts when all have agreed.  When the last one has gone, the owners stop.
 */
#include "actors/hub_internal.h"

#define WATCH_RETRY_NS (50 * PTN_MS)

/* All owners agreed (or one did not). */
static void watch_settled(ptn_ctx *c, ptn_hub *h, struct hub_attach *a) {
    struct hub_sink *s = hub_sink_of(h, a->sink);
    ptn_str name = {a->name, a->name_bytes};
    if (s != NULL && a->canceled) {
        hub_refuse(c, s, a->tag, name, PTN_CODE_CONFLICT, hub_canceled_text);
    } else if (s != NULL) {
        struct hub_list *l = a->failed ? NULL : hub_index_pattern(&h->index, name, true);
        struct hub_sub *sub = l != NULL ? hub_join(h, s, l, a->policy, false) : NULL;
        if (sub != NULL) {
            sub->every_ms = a->every_ms;
            hub_flow_drop(sub); /* it had subscribed before, maybe with another policy */
            ptn_subscribed r = {.tag = a->tag, .topic = name, .code = -1, .epoch = PTN_STR("*")};
            s->ops->subscribed(c, s->self, &r);
        } else if (a->failed) {
            hub_refuse(c, s, a->tag, name, PTN_CODE_OVERLOADED,
                       "try to subscribe again in a moment");
        } else {
            if (l != NULL)
                hub_index_pattern_release(&h->index, l);
            hub_refuse_full(c, h, s, a->tag, name, false);
        }
    }
    hub_attach_end(h, a);
    hub_unwatch(c, h);
    hub_report_subscriptions(h);
}

static void watch_ended(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct hub_attach *a = arg;
    (void)state, (void)reply;
    a->failed |= err < 0;
    if (--a->waiting == 0)
        watch_settled(c, a->hub, a);
}

static ptn_buf *pack_bool(bool on) {
    ptn_pack w;
    ptn_pack_init(&w, 8);
    ptn_pack_array(&w, 1);
    ptn_pack_bool(&w, on);
    return ptn_pack_finish(&w);
}

static void watch_retry(ptn_ctx *c, void *state, ptn_timer *t, void *arg);

void hub_watch_tell(ptn_ctx *c, ptn_hub *h, unsigned k, unsigned owner) {
    struct hub_watch *w = &h->watch[k];
    uint64_t bit = UINT64_C(1) << owner;
    ptn_buf *b = pack_bool(w->on);
    int err = b != NULL ? ptn_cast(c, w->owners[owner], PTN_MSG_TOPIC_WATCH_ALL, b) : -PTN_ENOMEM;
    w->untold &= ~bit;
    if (err == 0)
        return;
    ptn_buf_unref(b);
    if (err == -PTN_ENOACTOR)
        return;
    w->untold |= bit;
    if (!ptn_timer_is_armed(&h->watch_timer))
        ptn_timer_start(c, &h->watch_timer, WATCH_RETRY_NS, watch_retry, h);
}

static void watch_retry(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    ptn_hub *h = arg;
    (void)state, (void)t;
    for (unsigned k = 0; k < WATCHES; k++)
        for (unsigned i = 0; i < h->directory->workers; i++)
            if (h->watch[k].untold & UINT64_C(1) << i)
                hub_watch_tell(c, h, k, i);
}

void hub_watch_set(ptn_ctx *c, ptn_hub *h, unsigned k, bool on) {
    h->watch[k].on = on;
    for (unsigned i = 0; i < h->directory->workers; i++)
        hub_watch_tell(c, h, k, i);
}

/* The same by asks, for a subscription that starts when all owners have agreed.  Owners are
 * idempotent; asking each time also makes `subscribed` wait for those that restarted. */
static void watch_ask(ptn_ctx *c, ptn_hub *h, struct hub_attach *a) {
    struct hub_watch *w = &h->watch[WATCH_TOPICS];
    w->on = true;
    for (unsigned i = 0; i < h->directory->workers; i++) {
        ptn_buf *b = pack_bool(true);
        int r = b != NULL ? ptn_ask(c, w->owners[i], PTN_MSG_TOPIC_WATCH_ALL, b,
                                    ptn_now(c) + 10 * PTN_SEC, watch_ended, a, NULL)
                          : -PTN_ENOMEM;
        if (r == 0) {
            a->waiting++;
            w->untold &= ~(UINT64_C(1) << i);
        } else {
            ptn_buf_unref(b);
            a->failed = true;
        }
    }
}

void hub_subscribe_pattern(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, uint64_t tag,
                           ptn_str pattern, uint8_t policy, uint16_t every_ms) {
    struct hub_attach *a = hub_attach_new(h, s, tag, pattern, policy);
    if (a == NULL) {
        hub_refuse(c, s, tag, pattern, PTN_CODE_OVERLOADED, "the broker is out of memory");
        return;
    }
    a->every_ms = every_ms;
    watch_ask(c, h, a);
    if (a->waiting == 0)
        watch_settled(c, h, a);
}

int hub_subscribe_all(ptn_ctx *c, ptn_hub *h, struct hub_sink *s, bool reserved) {
    struct hub_list *all = reserved ? &h->index.all_reserved : &h->index.all_public;
    ptn_str name = PTN_STR("**");
    if (hub_join(h, s, all, PTN_POLICY_DISCONNECT, false) == NULL) {
        hub_refuse_full(c, h, s, 0, name, false);
        return 0;
    }
    hub_watch_set(c, h, WATCH_TOPICS, true);
    if (reserved)
        hub_watch_set(c, h, WATCH_CONVERSATIONS, true);
    ptn_subscribed r = {.topic = name, .code = -1, .epoch = PTN_STR("*")};
    s->ops->subscribed(c, s->self, &r);
    return 0;
}

void hub_unwatch(ptn_ctx *c, ptn_hub *h) {
    if (h->watch[WATCH_CONVERSATIONS].on && h->index.all_reserved.n == 0)
        hub_watch_set(c, h, WATCH_CONVERSATIONS, false);
    if (!h->watch[WATCH_TOPICS].on || h->index.n_pattern_subs > 0)
        return;
    for (struct hub_attach *a = h->attaches; a != NULL; a = a->next)
        if (a->topic == NULL)
            return; /* a pattern is about to come */
    hub_watch_set(c, h, WATCH_TOPICS, false);
}

static bool listens_to_pattern(const struct hub_sink *s) {
    for (const struct hub_sub *sub = s->subs; sub != NULL; sub = sub->sink_next)
        if (sub->list->of == HUB_LIST_NODE)
            return true;
    return false;
}

void hub_reset_patterns(ptn_ctx *c, ptn_hub *h) {
    uint32_t gateways = h->index.all_public.n + h->index.all_reserved.n;
    if (h->index.n_pattern_subs == gateways)
        return;
    for (uint32_t i = 0; i < h->sinks_cap; i++)
        if (h->sinks[i] != NULL && listens_to_pattern(h->sinks[i]))
            hub_reset_sink(c, h, h->sinks[i]);
}
