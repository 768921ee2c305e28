/* SPDX-License-Identifier: Apache-2.0
 *
 * memory_internal.h - what memory.c asks of the pools.
 */
#ifndef POSTERN_RUNTIME_MEMORY_INTERNAL_H
#define POSTERN_RUNTIME_MEMORY_INTERNAL_H

/* Gives the free payloads of the depot back to the allocator.  Any thread. */
void ptn__buf_trim(void);

#endif
