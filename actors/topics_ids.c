/* SPDX-License-Identifier: Apache-2.0
 *
 * topics_ids.c - which publications of the last while carried an id, so that sending one twice
 * gives the first result.
 *
 * A window: bounded in number (the oldest goes) and in time.  Durable topics bring their newest ids
 * back from the store, so for them it outlives a restart.
 */
#include "actors/idempotency.h"
#include "actors/topics_internal.h"

#include <stdlib.h>

#define KEY_BYTES IDEMPOTENCY_HASH_BYTES
#define BODY_BYTES (EVENT_ID_LEVEL - KEY_BYTES)

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

static void drop_oldest(struct topics *s) {
    struct event_id *e = s->ids_oldest;
    s->ids_oldest = e->next;
    if (e->next == NULL)
        s->ids_youngest = NULL;
    HASH_DELETE(hh, s->ids, e);
    s->n_ids--;
    free(e);
}

static struct event_id *add(ptn_ctx *c, struct topics *s, const uint8_t id[EVENT_ID_BYTES]) {
    if (s->n_ids >= s->config.ids_max)
        drop_oldest(s);
    struct event_id *e = calloc(1, sizeof *e);
    if (e == NULL)
        return NULL;
    memcpy(e->bytes, id, EVENT_ID_BYTES);
    e->at = ptn_now(c);
    HASH_ADD(hh, s->ids, bytes, KEY_BYTES, e);
    if (e->hh.tbl == NULL) { /* no memory for the table */
        free(e);
        return NULL;
    }
    *(s->ids_youngest != NULL ? &s->ids_youngest->next : &s->ids_oldest) = e;
    s->ids_youngest = e;
    s->n_ids++;
    return e;
}

enum event_id_state event_id_begin(ptn_ctx *c, struct topics *s, const uint8_t id[EVENT_ID_BYTES],
                                   struct event_id **ret_e) {
    while (s->ids_oldest != NULL && s->ids_oldest->at + s->config.ids_ns <= ptn_now(c))
        drop_oldest(s);
    struct event_id *e = find(s, id);
    *ret_e = e;
    if (e == NULL) {
        *ret_e = add(c, s, id);
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
    struct event_id **at = &s->ids_oldest, *e = find(s, id), *before = NULL;
    if (e == NULL || e->offset != 0)
        return;
    for (; *at != e; at = &(*at)->next) /* a failure is rare, and mostly of a young one */
        before = *at;
    *at = e->next;
    if (s->ids_youngest == e)
        s->ids_youngest = before;
    HASH_DELETE(hh, s->ids, e);
    s->n_ids--;
    free(e);
}

void event_id_restore(ptn_ctx *c, struct topics *s, const uint8_t id[EVENT_ID_BYTES], ptn_str epoch,
                      uint64_t offset) {
    if (find(s, id) == NULL && add(c, s, id) != NULL)
        event_id_done(s, id, epoch, offset, 0);
}

void event_ids_free(struct topics *s) {
    while (s->ids_oldest != NULL)
        drop_oldest(s);
}
