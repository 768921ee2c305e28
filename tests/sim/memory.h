/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.h - allocations of the broker's code that fail.
 */
#ifndef POSTERN_TESTS_SIM_MEMORY_H
#define POSTERN_TESTS_SIM_MEMORY_H

#include "world.h"

/* From now on: single allocations fail with fail_ppm, and with drought_ppm an allocation begins a
 * drought of up to 20 ms in which all fail; not more than one a second, and none at the start. */
void memory_fail(ptn_env *env, uint64_t seed, uint32_t fail_ppm, uint32_t drought_ppm);
void memory_recover(void);

#endif
