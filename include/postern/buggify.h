/* SPDX-License-Identifier: Apache-2.0
 *
 * buggify.h - deliberate misfortune: what may legally happen but hardly ever does, made frequent.
 *
 * A site names one such thing: a full mailbox, a batch that is cut short, an eviction that comes
 * early.  `if (full(q) || PTN_BUGGIFY("queue.full"))` reads: this branch is part of the contract,
 * so nobody may depend on its being rare.  The idea and the name are FoundationDB's (Zhou et al.,
 * "FoundationDB: A Distributed Unbundled Transactional Key Value Store", SIGMOD 2021).
 *
 * Only the simulator (runtime/env/env_sim.h) switches sites on: it draws for each run which are
 * enabled, one in four, and for each visit whether an enabled one fires, one in four.  Without it
 * they are false, and in a build without PTN_WITH_BUGGIFY (every release) they are the constant.
 * A site must leave all promises of its function intact, and its name must be its own.
 *
 * Any thread; the hook is set before threads start, by an environment that has only one.
 */
#ifndef POSTERN_BUGGIFY_H
#define POSTERN_BUGGIFY_H

#include <postern/base.h>

enum ptn_bug {
    PTN_BUG_TURN,  /* something takes another turn than usual */
    PTN_BUG_CRASH, /* the actor fails here; rare, so that supervisors do not give up */
    PTN_BUG_STALL, /* time has passed; rare */
};

#ifdef PTN_WITH_BUGGIFY
struct ptn_buggify {
    bool (*hook)(void *arg, enum ptn_bug kind, const char *site); /* NULL: every site is false */
    void *arg;
};
extern struct ptn_buggify ptn__buggify;
#define PTN__BUGGIFY(kind, site)                                                                   \
    (PTN_UNLIKELY(ptn__buggify.hook != NULL) &&                                                    \
     ptn__buggify.hook(ptn__buggify.arg, (kind), "" site))
#else
#define PTN__BUGGIFY(kind, site) ((void)(kind), (void)("" site), false)
#endif

#define PTN_BUGGIFY(site) PTN__BUGGIFY(PTN_BUG_TURN, site)
#define PTN_BUGGIFY_CRASH(site) PTN__BUGGIFY(PTN_BUG_CRASH, site)
#define PTN_BUGGIFY_STALL(site) PTN__BUGGIFY(PTN_BUG_STALL, site)

#endif
