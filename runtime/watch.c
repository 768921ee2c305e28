/* SPDX-License-Identifier: Apache-2.0
 *
 * watch.c - monitors: who wants to know that an actor is gone, and who that its mailbox fills.
 *
 * The list sits in the target's slot and only its owner touches it, so ptn_monitor() is a message
 * and works across workers.  The watcher keeps its references, and a DOWN whose reference it no
 * longer has is dropped: that makes "exactly once" and "none after ptn_demonitor()" local
 * decisions.  DOWN comes after everything the target sent to the watcher before it ended, because
 * it takes the same queue: also when the target had ended before ptn_monitor(), for then its worker
 * is asked all the same.
 */
#include "runtime/mbox.h"

#include <postern/metrics.h>
#include <stdlib.h>

_Static_assert(sizeof(void *) >= sizeof(ptn_addr), "the watch table keeps addresses as pointers");

#define MONITORS_MAX 65536u /* per target and per watcher */

struct ptn__monitor {
    struct ptn__monitor *next;
    ptn_addr watcher;
    uint64_t ref;
    bool pressure; /* wants the level, too */
};

static void send_news(struct ptn__worker *w, ptn_addr watcher, ptn_addr target, uint64_t ref,
                      uint32_t type) {
    struct ptn__env e = {.to = watcher,
                         .from = target,
                         .corr = ref,
                         .deadline = PTN_NEVER,
                         .type = type,
                         .kind = PTN__ENV_SYSTEM};
    int err = ptn__send(w, &e, NULL);
    PTN_ASSERT(err != -PTN_ENOMEM); /* a watcher would wait forever */
}

void ptn__send_down(struct ptn__worker *w, ptn_addr watcher, ptn_addr target, uint64_t ref) {
    send_news(w, watcher, target, ref, PTN_MSG_DOWN);
}

static int monitor(ptn_ctx *c, ptn_addr target, bool pressure, uint64_t *ret_ref) {
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
    if (ptn__send_control(w, target, s->self, PTN__CTL_MONITOR, ref, pressure ? 1 : 0) < 0)
        ptn__send_down(w, s->self, target, ref);
    if (ret_ref != NULL)
        *ret_ref = ref;
    return 0;
}

int ptn_monitor(ptn_ctx *c, ptn_addr target, uint64_t *ret_ref) {
    return monitor(c, target, false, ret_ref);
}

int ptn_pressure_watch(ptn_ctx *c, ptn_addr target, uint64_t *ret_ref) {
    return monitor(c, target, true, ret_ref);
}

int ptn_demonitor(ptn_ctx *c, uint64_t ref) {
    ptn_addr target = (uintptr_t)ptn__map_take(&c->slot->cold->watches, ref);
    if (target == PTN_ADDR_NONE)
        return -PTN_ENOTFOUND;
    (void)ptn__send_control(c->w, target, c->slot->self, PTN__CTL_DEMONITOR, ref, 0);
    return 0;
}

void ptn__watches_cancel(struct ptn__slot *s) {
    struct ptn__map *m = &s->cold->watches;
    if (m->cap == 0)
        return;
    for (uint32_t i = 0; i < m->cap; i++) {
        if (m->keys[i] != 0)
            (void)ptn__send_control(s->worker, (uintptr_t)m->vals[i], s->self, PTN__CTL_DEMONITOR,
                                    m->keys[i], 0);
    }
    ptn__map_done(m);
}

/* ---- the target's side -------------------------------------------------------------------- */

static void pressure_tell(struct ptn__slot *s, const struct ptn__monitor *m) {
    send_news(s->worker, m->watcher, s->self, m->ref,
              s->cold->pressed ? PTN_MSG_PRESSURE : PTN_MSG_RELIEF);
}

/* Only batches take messages out, so after a batch is the one place where the level can fall, and
 * soon enough to see it rise: until then the bound holds. */
void ptn__pressure_look(struct ptn__slot *s) {
    struct ptn__cold *k = s->cold;
    uint64_t load = ptn__load(s); /* whatever comes later is seen after the next batch */
    uint64_t msgs = load >> 40, bytes = load & PTN__LOAD_BYTES;
    uint64_t msgs_max = atomic_load_explicit(&s->msgs_max, memory_order_relaxed);
    uint64_t bytes_max = atomic_load_explicit(&s->bytes_max, memory_order_relaxed);
    bool high = msgs * 2 > msgs_max || bytes * 2 > bytes_max;
    bool low = msgs * 4 < msgs_max && bytes * 4 < bytes_max;
    if (k->pressed ? !low : !high)
        return;
    k->pressed = !k->pressed;
    ptn_gauge_add(PTN_G_ACTORS_PRESSED, k->pressed ? 1 : -1);
    for (const struct ptn__monitor *m = k->monitors; m != NULL; m = m->next)
        if (m->pressure)
            pressure_tell(s, m);
}

static void pressure_drop(struct ptn__slot *s) {
    struct ptn__cold *k = s->cold;
    if (--k->n_pressure > 0)
        return;
    s->notes &= (uint8_t)~PTN__NOTE_WATCHED;
    if (k->pressed)
        ptn_gauge_add(PTN_G_ACTORS_PRESSED, -1);
    k->pressed = false;
}

/* A target that cannot remember one more watcher reports itself down: never silence. */
void ptn__monitor_add(struct ptn__slot *s, ptn_addr watcher, uint64_t ref, bool pressure) {
    struct ptn__cold *k = ptn__cold_own(s);
    struct ptn__monitor *m = k != NULL && k->n_monitors < MONITORS_MAX ? malloc(sizeof(*m)) : NULL;
    if (m == NULL) {
        ptn__send_down(s->worker, watcher, s->self, ref);
        return;
    }
    *m = (struct ptn__monitor){
        .next = k->monitors, .watcher = watcher, .ref = ref, .pressure = pressure};
    k->monitors = m;
    k->n_monitors++;
    if (!pressure)
        return;
    k->n_pressure++;
    s->notes |= PTN__NOTE_WATCHED;
    if (k->pressed)
        pressure_tell(s, m);
}

static void monitor_free(struct ptn__slot *s, struct ptn__monitor *m) {
    if (m->pressure)
        pressure_drop(s);
    s->cold->n_monitors--;
    free(m);
}

void ptn__monitor_remove(struct ptn__slot *s, ptn_addr watcher, uint64_t ref) {
    for (struct ptn__monitor **p = &s->cold->monitors; *p != NULL; p = &(*p)->next) {
        struct ptn__monitor *m = *p;
        if (m->ref == ref && m->watcher == watcher) {
            *p = m->next;
            monitor_free(s, m);
            return;
        }
    }
}

void ptn__monitors_fire(struct ptn__slot *s) {
    while (s->cold->monitors != NULL) {
        struct ptn__monitor *m = s->cold->monitors;
        s->cold->monitors = m->next;
        ptn__send_down(s->worker, m->watcher, s->self, m->ref);
        monitor_free(s, m);
    }
}

void ptn__monitors_free(struct ptn__slot *s) {
    while (s->cold->monitors != NULL) {
        struct ptn__monitor *m = s->cold->monitors;
        s->cold->monitors = m->next;
        monitor_free(s, m);
    }
}
