/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation.h - the conversation actor: one shard owns the order, the members and the events of
 * its conversations.
 */
#ifndef POSTERN_ACTORS_CONVERSATION_H
#define POSTERN_ACTORS_CONVERSATION_H

#include <postern/messages.h>

typedef struct conversation_config { /* arg of the actor; outlives it */
    const ptn_directory *directory;
    unsigned shard;
    uint8_t id_key[32];    /* secret of the installation: ids that stand for idempotency keys */
    uint32_t cache_max;    /* conversations in memory that nobody listens to; 0: 10,000 */
    uint32_t attached_max; /* conversations in memory at all; 0: 100,000 */
    uint32_t
        requests_max; /* in flight; 0: 8,192.  Give the mailbox the same bound: it bounds asks. */
} conversation_config;

extern const ptn_actor_ops conversation_actor;

#endif
