/* SPDX-License-Identifier: Apache-2.0
 *
 * suggest.h - "did you mean": the candidate nearest to a mistyped word.
 */
#ifndef POSTERN_BROKER_SUGGEST_H
#define POSTERN_BROKER_SUGGEST_H

#include <stddef.h>

/* Optimal string alignment distance (Levenshtein plus adjacent transpositions), case ignored. Words
 * longer than 63 bytes are compared by their first 63. */
size_t suggest_distance(const char *a, const char *b);

/* The nearest of n candidates, the first of equals; NULL only when n is 0. */
const char *suggest_nearest(const char *word, const char *const *candidates, size_t n);

#endif
