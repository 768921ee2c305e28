/* SPDX-License-Identifier: Apache-2.0
 *
 * watch.c - monitors: who wants to know that an actor is gone.
 *
 * The list sits in the target's slot and only its owner touches it, so ptn_monitor() is a message
 * and works across workers.  The watcher keeps its references, and a DOWN whose reference it no
 * longer has is dropped: that makes "exactly once" and "none after ptn_demonitor()" local
 * decisions.  DOWN comes after everything the target sent to the watcher before it ended, because
 * it takes the same queue.
 */
#include "runtime/mbox.h"

#include <stdlib.h>

_Static_assert(sizeof(void *) >= sizeof(ptn_addr), "the watch table keeps addresses as pointers");

#define MONITORS_MAX 65536u /* per target and per watcher */

struct ptn__monitor {
    struct ptn__monitor *next;
    ptn_addr watcher;
    uint64_t ref;
};

void ptn__send_down(struct ptn__worker *w, ptn_addr watcher, ptn_addr target, uint64_t ref) {
    struct ptn__sender sender = {.rt = w->rt, .w = w, .mag = &w->mag};
    struct ptn__env e = {.to = watcher,
                         .from = target,
                         .corr = ref,
                         .deadline = PTN_NEVER,
                         .type = PTN_MSG_DOWN,
                         .kind = PTN__ENV_SYSTEM};
    int err = ptn__send_unbounded(&sender, &e, NULL);
    PTN_ASSERT(err != -PTN_ENOMEM); /* a watcher would wait forever */
}

int ptn_monitor(ptn_ctx *c, ptn_addr target, uint64_t *ret_ref) {
    struct ptn__worker *w = c->w;
    struct ptn__slot *s = c->slot;
    if (target == PTN_ADDR_NONE)
        return -PTN_EINVAL;
    if (s->ending)
        return -PTN_ESTOPPING;
    if (s->cold->watches.n >= MONITORS_MAX)
        return -PTN_EOVERLOAD;
    struct ptn__cold *k = ptn__cold_own(s);
    if (k == NULL)
        return -PTN_ENOMEM;
    uint64_t ref = (uint64_t)(w->index + 1) << 56 | ++w->corr_next;
    int err = ptn__map_put(&k->watches, ref, (void *)(uintptr_t)target);
    if (err < 0)
        return err;
    if (ptn__slot_find(w->rt, target) == NULL)
        ptn__send_down(w, s->self, target, ref);
    else
        ptn__send_control(w, target, s->self, PTN__CTL_MONITOR, ref, 0);
    if (ret_ref != NULL)
        *ret_ref = ref;
    return 0;
}

int ptn_demonitor(ptn_ctx *c, uint64_t ref) {
    ptn_addr target = (uintptr_t)ptn__map_take(&c->slot->cold->watches, ref);
    if (target == PTN_ADDR_NONE)
        return -PTN_ENOTFOUND;
    ptn__send_control(c->w, target, c->slot->self, PTN__CTL_DEMONITOR, ref, 0);
    return 0;
}

void ptn__watches_cancel(struct ptn__slot *s) {
    struct ptn__map *m = &s->cold->watches;
    if (m->cap == 0)
        return;
    for (uint32_t i = 0; i < m->cap; i++) {
        if (m->keys[i] != 0)
            ptn__send_control(s->worker, (uintptr_t)m->vals[i], s->self, PTN__CTL_DEMONITOR,
                              m->keys[i], 0);
    }
    ptn__map_done(m);
}

/* A target that cannot remember one more watcher reports itself down: never silence. */
void ptn__monitor_add(struct ptn__slot *s, ptn_addr watcher, uint64_t ref) {
    struct ptn__cold *k = ptn__cold_own(s);
    struct ptn__monitor *m = k != NULL && k->n_monitors < MONITORS_MAX ? malloc(sizeof(*m)) : NULL;
    if (m == NULL) {
        ptn__send_down(s->worker, watcher, s->self, ref);
        return;
    }
    *m = (struct ptn__monitor){.next = k->monitors, .watcher = watcher, .ref = ref};
    k->monitors = m;
    k->n_monitors++;
}

void ptn__monitor_remove(struct ptn__slot *s, ptn_addr watcher, uint64_t ref) {
    for (struct ptn__monitor **p = &s->cold->monitors; *p != NULL; p = &(*p)->next) {
        struct ptn__monitor *m = *p;
        if (m->ref == ref && m->watcher == watcher) {
            *p = m->next;
            s->cold->n_monitors--;
            free(m);
            return;
        }
    }
}

void ptn__monitors_fire(struct ptn__slot *s) {
    while (s->cold->monitors != NULL) {
        struct ptn__monitor *m = s->cold->monitors;
        s->cold->monitors = m->next;
        ptn__send_down(s->worker, m->watcher, s->self, m->ref);
        free(m);
    }
}

void ptn__monitors_free(struct ptn__slot *s) {
    while (s->cold->monitors != NULL) {
        struct ptn__monitor *m = s->cold->monitors;
        s->cold->monitors = m->next;
        free(m);
    }
}
