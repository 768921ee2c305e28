/* SPDX-License-Identifier: Apache-2.0
 *
 * router.h - the router actor, one per worker: method and path to owner, kind and required
 * permission.
 */
#ifndef POSTERN_ACTORS_ROUTER_H
#define POSTERN_ACTORS_ROUTER_H

#include <postern/messages.h>

struct router_config { /* arg of the actor */
    const ptn_directory *directory;
    unsigned worker;
};

extern const ptn_actor_ops router_actor;

/* The route table, for tests and for the reference: kind of a method and path (with or without
 * /api/v1), 0: no such path, -1: the path exists with other methods (their names in ret_allow,
 * "GET, POST"). */
int router_match(enum ptn_method method, ptn_str path, bool admin_listener, char *ret_allow,
                 size_t ret_allow_bytes);

#endif
