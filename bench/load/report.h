/* SPDX-License-Identifier: Apache-2.0
 *
 * report.h - figures by name, one per round; what is shown is their median, how sure it is, and the
 * range.
 */
#ifndef POSTERN_BENCH_LOAD_REPORT_H
#define POSTERN_BENCH_LOAD_REPORT_H

#include "bench/load/histogram.h"

#include <stdio.h>

#define ROUNDS_MAX 99u
#define FIGURES_MAX 40u
#define PARAMETERS_MAX 16u

struct figure {
    const char *name; /* snake_case, the unit in it */
    double values[ROUNDS_MAX];
    unsigned n;
};

struct report { /* zeroed: empty */
    const char *scenario, *target;
    unsigned rounds;
    struct {
        const char *name;
        double value;
    } parameters[PARAMETERS_MAX];
    unsigned n_parameters;
    struct figure figures[FIGURES_MAX];
    unsigned n_figures;
    bool generator_limits;    /* in some round the load generator was what could not go on */
    struct histogram latency; /* of all rounds */
};

/* What was measured; 0: it has no such parameter.  name is kept, not copied. */
void report_parameter(struct report *r, const char *name, double value);
/* One more value of a figure; name is kept, not copied. */
void report_put(struct report *r, const char *name, double value);
/* p50, p90, p99, p99.9 and the greatest, in microseconds, as figures of this round. */
void report_latency(struct report *r, const struct histogram *h);
double report_median(const struct report *r, const char *name); /* 0: no such figure */

void report_json(FILE *f, const struct report *r);
void report_table(FILE *f, const struct report *r);
/* A file to be written when all is measured, or NULL without a path.  Opened first: nobody wants to
 * hear of it after a long run. */
FILE *report_svg_open(const char *path);
/* The percentiles as a drawing.  Closes the file, and dies when it cannot be written. */
void report_svg(FILE *f, const struct report *r, const char *path);

#endif
