/* SPDX-License-Identifier: Apache-2.0
 *
 * offline_queue.h - the offline-queue actor: what each device of its users has not acknowledged.
 */
#ifndef POSTERN_ACTORS_OFFLINE_QUEUE_H
#define POSTERN_ACTORS_OFFLINE_QUEUE_H

#include <postern/messages.h>

typedef struct offline_queue_config { /* arg of the actor; outlives it.  0: the default */
    const ptn_directory *directory;
    uint32_t acks_max; /* kept for the next write: 16,384 */
} offline_queue_config;

extern const ptn_actor_ops offline_queue_actor;

#endif
