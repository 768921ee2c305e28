/* SPDX-License-Identifier: Apache-2.0
 *
 * memory_internal.h - what memory.c asks of the pools, and what can be asked of it for an oracle.
 */
#ifndef POSTERN_RUNTIME_MEMORY_INTERNAL_H
#define POSTERN_RUNTIME_MEMORY_INTERNAL_H

#include <postern/memory.h>

/* Gives the free payloads of the depot back to the allocator.  Any thread. */
void ptn__buf_trim(void);
/* To the byte, where ptn_memory_read() leaves out what threads have not reported yet: true when
 * nobody but the calling thread has charged anything, or all others have ended in balance. */
int64_t ptn__memory_charged(enum ptn_pool pool);

#endif
