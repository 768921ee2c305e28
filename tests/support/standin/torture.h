/* SPDX-License-Identifier: Apache-2.0
 *
 * torture.h - lets one allocation of our code fail, chosen by its number.
 *
 * The linker sends every call of an allocator in our objects here (--wrap); what shared libraries
 * allocate for themselves is not touched, nor what the tests allocate (unfailing.h).  A test
 * process counts from torture_arm() on, all threads together.
 */
#ifndef POSTERN_TESTS_SUPPORT_TORTURE_H
#define POSTERN_TESTS_SUPPORT_TORTURE_H

#include <stdbool.h>

/* Before any thread of the test exists.  fail_at: 1 is the next allocation; 0: none fails.
 * say_where: prints the stack of the allocation that fails to standard error. */
void torture_arm(unsigned long fail_at, bool say_where);

/* Allocations since then. */
unsigned long torture_count(void);

#endif
