/* SPDX-License-Identifier: Apache-2.0
 *
 * deadletter.c - messages nobody will handle: a ring per worker, counters, and the first few
 * traced.
 *
 * Only the outline is kept (from, to, type, length, reason), never the payload: it may hold
 * secrets. After ten traces a worker stays quiet for five minutes, so that a storm does not fill
 * the log.
 */
#include "runtime/env/crash.h"
#include "runtime/internal.h"

#define TRACED_MAX 10u
#define QUIET_NS (300 * PTN_SEC)

void ptn__trace(ptn_runtime *rt, const ptn_trace_event *e) {
    static const char *const kinds[] = {"failed",  "restarted",    "dead letter",
                                        "gave up", "slow handler", "blocked turn"};
    ptn__crash_note(kinds[e->kind], e->actor, e->addr, e->msg_type, e->reason);
    if (rt->trace != NULL)
        rt->trace(e, rt->trace_arg);
}

void ptn__dead_letter(struct ptn__worker *w, const struct ptn__env *e, size_t len, int reason,
                      const char *actor) {
    uint64_t n = atomic_load_explicit(&w->dead_letters, memory_order_relaxed);
    w->dead_ring[n % PTN__DEAD_RING] = (struct ptn__dead_letter){
        .from = e->from, .to = e->to, .type = e->type, .len = (uint32_t)len, .reason = reason};
    ptn__count(&w->dead_letters, 1);
    if (w->kill_seen)
        return; /* the runtime is ending: what is left in mailboxes is no news */
    if (w->dead_traced >= TRACED_MAX) {
        if (w->clock < w->dead_quiet_until)
            return;
        w->dead_traced = 0;
    }
    if (++w->dead_traced == TRACED_MAX)
        w->dead_quiet_until = w->clock + QUIET_NS;
    ptn_trace_event t = {.kind = PTN_TRACE_DEAD_LETTER,
                         .actor = actor,
                         .addr = e->to,
                         .msg_type = e->type,
                         .reason = reason,
                         .text = ptn_err_text(reason)};
    ptn__trace(w->rt, &t);
}

size_t ptn__dead_letters_copy(const struct ptn__worker *w, struct ptn__dead_letter *ret, size_t n) {
    uint64_t total = atomic_load_explicit(&w->dead_letters, memory_order_relaxed);
    size_t have = total < PTN__DEAD_RING ? (size_t)total : PTN__DEAD_RING;
    n = n < have ? n : have;
    for (size_t i = 0; i < n; i++)
        ret[i] = w->dead_ring[(total - 1 - i) % PTN__DEAD_RING];
    return n;
}
