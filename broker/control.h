/* SPDX-License-Identifier: Apache-2.0
 *
 * control.h - the control actor: signals in, an orderly drain out.
 */
#ifndef POSTERN_BROKER_CONTROL_H
#define POSTERN_BROKER_CONTROL_H

#include "broker/config.h"

#include <postern/messages.h>
#include <stdatomic.h>

struct control_config { /* arg of the actor */
    const ptn_addr
        *edges; /* who talks to clients; not the admin listener, which stays to the end */
    size_t n_edges;
    ptn_time connections_ns; /* how long a drain waits for them; the rest is cut off */
    _Atomic bool *draining;
    void (*ready)(void *arg); /* called once, when the listeners of this worker accept */
    void *ready_arg;
    const struct postern_config *running; /* what the broker was started with */
    const struct config_sources *sources; /* SIGHUP reads them again; may be NULL */
};

extern const ptn_actor_ops control_actor;

#endif
