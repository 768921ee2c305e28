/* SPDX-License-Identifier: Apache-2.0
 *
 * unfailing.h - included before the first line of every test: what a test allocates for itself is
 * neither counted nor made to fail, so that only the product is put to the torture.
 *
 * What an assertion abandons is no leak if a variable of the test has it.  Therefore a buffer gets
 * a name before it is sent: a call that fails does not take it.
 */
#ifndef POSTERN_TESTS_SUPPORT_UNFAILING_H
#define POSTERN_TESTS_SUPPORT_UNFAILING_H

#include <stdlib.h>
#include <string.h>
#include <time.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);

#define malloc(n) __real_malloc(n)
#define calloc(n, bytes) __real_calloc(n, bytes)
#define realloc(p, n) __real_realloc(p, n)
#define strdup(s) __real_strdup(s)

/* What a run makes that the failure ends is removed after it: sweep.c. */
char *cr__mkdtemp(char *template);
#define mkdtemp(template) cr__mkdtemp(template)

/* How long a test waits for an event that a failed allocation may have prevented. */
extern time_t cr__patience_s;
#define CLIENT_TIMEOUT_S cr__patience_s
#define RIG_WAIT_S cr__patience_s

/* Ends a run in which an allocation failed: the sweep counts them. */
void cr__waited_in_vain(void);
#define CLIENT_WAITED_IN_VAIN() cr__waited_in_vain()

#endif
