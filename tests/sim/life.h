/* SPDX-License-Identifier: Apache-2.0
 *
 * life.h - one life of a broker: assembled from the real actors and adapters, run in the simulated
 * environment among its clients, until it stops or is killed.
 */
#ifndef POSTERN_TESTS_SIM_LIFE_H
#define POSTERN_TESTS_SIM_LIFE_H

#include "world.h"

/* Accounts and conversations, once per run; on the simulated disk. */
void life_prepare(void);

/* Runs to the end of this life and never returns: 0 stopped in order, EXIT_KILLED, EXIT_ORACLE. */
_Noreturn void life_run(bool trace);

#endif
