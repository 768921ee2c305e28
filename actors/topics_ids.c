/* SPDX-License-Identifier: Apache-2.0
 *
 * topics_ids.c - which publications of the last while carried an id, so that sending one twice
 * gives the first result.
 *
 * Windows, bounded in number (the oldest goes) and in time: one of each durable topic, so that no
 * other topic pushes its ids out, and one of all the rest.  All of them together are bounded, too;
 * there the fullest one gives.  Durable topics bring their ids back from the store when they are
 * opened, so for them a window outlives a restart.
 */
#include "actors/idempotency.h"
#include "actors/topics_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

#define KEY_BYTES IDEMPOTENCY_HASH_BYTES
#define BODY_BYTES (EVENT_ID_LEVEL - KEY_BYTES)
#define WINDOWS_FULL 4u /* so many full windows are as much as there may be */

void event_id_make(const struct topics *s, ptn_str user, ptn_str topic, ptn_str key, ptn_bytes data,
                   uint8_t ret_id[EVENT_ID_BYTES]) {
    uint8_t body[IDEMPOTENCY_HASH_BYTES];
    idempotency_hash(s->config.id_key, (const ptn_str[]){user, topic, key}, 3, ret_id);
    idempotency_hash(s->config.id_key, &(ptn_str){(const char *)data.p, data.n}, 1, body);
    memcpy(ret_id + KEY_BYTES, body, BODY_BYTES);
    ret_id[EVENT_ID_LEVEL] = 0;
}

static struct event_id *find(const struct topics *s, const uint8_t id[EVENT_ID_BYTES]) {
    struct event_id *e = NULL;
    HASH_FIND(hh, s->ids, id, KEY_BYTES, e);
    return e;
}

static void drop_oldest(struct topics *s, struct id_window *w) {
    struct event_id *e = w->oldest;
    w->oldest = e->next;
    if (e->next == NULL)
        w->youngest = NULL;
    w->n--;
    HASH_DELETE(hh, s->ids, e);
    s->n_ids--;
    free(e);
}

static bool is_over(ptn_ctx *c, const struct topics *s, const struct event_id *e) {
    return e->at + s->config.ids_ns <= ptn_now(c);
}

/* For one more in w. */
static void make_room(ptn_ctx *c, struct topics *s, struct id_window *w) {
    uint32_t max = s->config.ids_max;
    struct id_window *from = w->n >= max                      ? w
                             : s->n_ids / WINDOWS_FULL >= max ? s->ids_fullest
                                                              : NULL;
    if (from == NULL || from->oldest == NULL)
        return;
    if (!is_over(c, s, from->oldest))
        ptn_count(PTN_C_IDS_EVICTED, 1);
    drop_oldest(s, from);
}

static struct event_id *add(ptn_ctx *c, struct topics *s, struct id_window *w,
                            const uint8_t id[EVENT_ID_BYTES]) {
    make_room(c, s, w);
    struct event_id *e = calloc(1, sizeof *e);
    if (e == NULL)
        return NULL;
    memcpy(e->bytes, id, EVENT_ID_BYTES);
    e->at = ptn_now(c);
    e->window = w;
    HASH_ADD(hh, s->ids, bytes, KEY_BYTES, e);
    if (e->hh.tbl == NULL) { /* no memory for the table */
        free(e);
        return NULL;
    }
    *(w->youngest != NULL ? &w->youngest->next : &w->oldest) = e;
    w->youngest = e;
    w->n++;
    s->n_ids++;
    if (s->ids_fullest == NULL || w->n > s->ids_fullest->n)
        s->ids_fullest = w;
    return e;
}

enum event_id_state event_id_begin(ptn_ctx *c, struct topics *s, struct id_window *w,
                                   const uint8_t id[EVENT_ID_BYTES], struct event_id **ret_e) {
    while (w->oldest != NULL && is_over(c, s, w->oldest))
        drop_oldest(s, w);
    struct event_id *e = find(s, id);
    *ret_e = e;
    if (e == NULL) {
        *ret_e = add(c, s, w, id);
        return *ret_e != NULL ? ID_NEW : ID_NO_MEMORY;
    }
    if (memcmp(e->bytes + KEY_BYTES, id + KEY_BYTES, BODY_BYTES) != 0)
        return ID_MISMATCH;
    return e->offset == 0 ? ID_UNDER_WAY : ID_KNOWN;
}

void event_id_done(struct topics *s, const uint8_t id[EVENT_ID_BYTES], ptn_str epoch,
                   uint64_t offset, uint64_t subscribers) {
    struct event_id *e = find(s, id);
    if (e == NULL || e->offset != 0)
        return; /* pushed out by younger ones meanwhile */
    e->offset = offset;
    e->subscribers = subscribers;
    e->bytes[EVENT_ID_LEVEL] = id[EVENT_ID_LEVEL];
    memcpy(e->epoch, epoch.p, epoch.n < EPOCH_BYTES ? epoch.n : EPOCH_BYTES);
}

void event_id_forget(struct topics *s, const uint8_t id[EVENT_ID_BYTES]) {
    struct event_id *e = find(s, id), *before = NULL;
    if (e == NULL || e->offset != 0)
        return;
    struct id_window *w = e->window;
    struct event_id **at = &w->oldest;
    for (; *at != e; at = &(*at)->next) /* a failure is rare, and mostly of a young one */
        before = *at;
    *at = e->next;
    if (w->youngest == e)
        w->youngest = before;
    w->n--;
    HASH_DELETE(hh, s->ids, e);
    s->n_ids--;
    free(e);
}

void event_id_restore(ptn_ctx *c, struct topics *s, struct id_window *w,
                      const uint8_t id[EVENT_ID_BYTES], ptn_str epoch, uint64_t offset) {
    if (find(s, id) == NULL && add(c, s, w, id) != NULL)
        event_id_done(s, id, epoch, offset, 0);
}

void event_ids_drop(struct topics *s, struct id_window *w) {
    while (w->oldest != NULL)
        drop_oldest(s, w);
    if (s->ids_fullest == w)
        s->ids_fullest = NULL;
}
