/* SPDX-License-Identifier: Apache-2.0
 *
 * swarm.h - bare actors beside the broker: they use everything the runtime promises, and hold it to
 * its word.
 */
#ifndef POSTERN_TESTS_SIM_SWARM_H
#define POSTERN_TESTS_SIM_SWARM_H

#include "world.h"

#include <postern/runtime.h>

/* As many as the plan says, before the runtime runs. */
void swarm_spawn(ptn_runtime *rt, uint64_t seed);
void swarm_settle(void); /* faults are over: nothing new */
/* NULL: nothing is open; otherwise what is. */
const char *swarm_waits_for(void);
/* An actor was made to fail; at most one message, the one in its hands, is lost. */
void swarm_saw_crash(ptn_addr actor);

#endif
