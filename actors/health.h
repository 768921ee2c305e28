/* SPDX-License-Identifier: Apache-2.0
 *
 * health.h - the health actor, one per worker: liveness, readiness, system status, metrics.
 */
#ifndef POSTERN_ACTORS_HEALTH_H
#define POSTERN_ACTORS_HEALTH_H

#include <postern/codec.h>
#include <postern/messages.h>
#include <stdatomic.h>

struct health_config { /* arg of the actor */
    const ptn_directory *directory;
    unsigned worker;
    const char *version, *revision;
    /* Written by the composition root, relaxed: one flag, nothing is published through it. */
    const _Atomic bool *draining;
};

extern const ptn_actor_ops health_actor;

/* The whole metrics page, Prometheus text format 0.0.4.  Any worker. */
void metrics_render(ptn_runtime *rt, const char *version, const char *revision, ptn_out *o);

#endif
