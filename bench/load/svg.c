/* SPDX-License-Identifier: Apache-2.0
 *
 * svg.c - the percentiles as a drawing: each step to the right is one nine more.
 */
#include "bench/load/report.h"

#include "bench/common.h"

#include <errno.h>
#include <math.h>

#define LEFT 70.0
#define TOP 40.0
#define WIDTH 600.0
#define HEIGHT 300.0
#define NINES 4.0 /* up to p99.99 */

struct plot {
    FILE *f;
    double low, high; /* powers of ten, of microseconds */
};

/* nines: -log10(1 - quantile). */
static double x_of(double nines) {
    return LEFT + WIDTH * nines / NINES;
}

static double y_of(const struct plot *p, double us) {
    return TOP + HEIGHT * (p->high - log10(us > 0 ? us : 1)) / (p->high - p->low);
}

static void text(struct plot *p, double x, double y, const char *anchor, const char *z) {
    fprintf(p->f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor, z);
}

static void line(struct plot *p, double x1, double y1, double x2, double y2) {
    fprintf(p->f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ccc\"/>\n", x1,
            y1, x2, y2);
}

static void axes(struct plot *p) {
    static const char *const marks[] = {"0", "p90", "p99", "p99.9", "p99.99"};
    for (int i = 0; i < (int)PTN_ARRAY_LEN(marks); i++) {
        line(p, x_of(i), TOP, x_of(i), TOP + HEIGHT);
        text(p, x_of(i), TOP + HEIGHT + 18, "middle", marks[i]);
    }
    for (int e = (int)p->low; e <= (int)p->high; e++) {
        char label[32];
        double us = pow(10, e), y = y_of(p, us);
        line(p, LEFT, y, LEFT + WIDTH, y);
        if (e >= 6)
            (void)snprintf(label, sizeof label, "%g s", us / 1e6);
        else if (e >= 3)
            (void)snprintf(label, sizeof label, "%g ms", us / 1e3);
        else
            (void)snprintf(label, sizeof label, "%g us", us);
        text(p, LEFT - 8, y + 4, "end", label);
    }
}

FILE *report_svg_open(const char *path) {
    FILE *f = path != NULL ? fopen(path, "we") : NULL;
    if (path != NULL && f == NULL)
        bench_die("%s: %s", path, strerror(errno));
    return f;
}

void report_svg(FILE *f, const struct report *r, const char *path) {
    struct plot p = {.f = f};
    char title[200];
    double least = (double)histogram_at(&r->latency, 0) / 1000,
           most = (double)r->latency.max / 1000;
    p.low = floor(log10(least > 0.001 ? least : 0.001));
    p.high = ceil(log10(most > 0.001 ? most : 0.001));
    p.high = p.high > p.low ? p.high : p.low + 1;
    fprintf(p.f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            LEFT + WIDTH + 40, TOP + HEIGHT + 40);
    (void)snprintf(title, sizeof title, "%s, %s: latency by percentile, %llu values, %.0f/s",
                   r->scenario, r->target, (unsigned long long)r->latency.n,
                   report_median(r, "rate"));
    text(&p, LEFT, 22, "start", title);
    axes(&p);
    fputs("<polyline fill=\"none\" stroke=\"#06c\" stroke-width=\"2\" points=\"", p.f);
    for (int i = 0; i <= 100 && r->latency.n > 0; i++) {
        double nines = NINES * i / 100;
        uint64_t v = histogram_at(&r->latency, 1 - pow(10, -nines));
        fprintf(p.f, "%.1f,%.1f ", x_of(nines), y_of(&p, (double)v / 1000));
    }
    fputs("\"/>\n</svg>\n", p.f);
    if (fclose(p.f) != 0)
        bench_die("%s: %s", path, strerror(errno));
}
