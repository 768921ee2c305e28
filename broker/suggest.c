/* SPDX-License-Identifier: Apache-2.0
 *
 * suggest.c - nearest word by edit distance (optimal string alignment), three rows of the usual
 * table.
 */
#include "broker/suggest.h"

#include <ctype.h>
#include <string.h>

#define WORD_MAX 63u

static size_t word_length(const char *s) {
    size_t n = strlen(s);
    return n < WORD_MAX ? n : WORD_MAX;
}

static char lower(const char *s, size_t i) {
    return (char)tolower((unsigned char)s[i]);
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

size_t suggest_distance(const char *a, const char *b) {
    size_t rows[3][WORD_MAX + 1];
    size_t *before = rows[0], *last = rows[1], *now = rows[2];
    size_t na = word_length(a), nb = word_length(b);
    for (size_t j = 0; j <= nb; j++) {
        last[j] = j;
        before[j] = j;
    }
    for (size_t i = 1; i <= na; i++) {
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            char x = lower(a, i - 1), y = lower(b, j - 1);
            now[j] = least(least(last[j], now[j - 1]) + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == lower(b, j - 2) && lower(a, i - 2) == y)
                now[j] = least(now[j], before[j - 2] + 1);
        }
        size_t *free_row = before;
        before = last;
        last = now;
        now = free_row;
    }
    return last[nb];
}

const char *suggest_nearest(const char *word, const char *const *candidates, size_t n) {
    const char *best = NULL;
    size_t best_distance = 0;
    for (size_t i = 0; i < n; i++) {
        size_t distance = suggest_distance(word, candidates[i]);
        if (best == NULL || distance < best_distance) {
            best = candidates[i];
            best_distance = distance;
        }
    }
    return best;
}
