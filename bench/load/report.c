/* SPDX-License-Identifier: Apache-2.0
 *
 * report.c - the table for people and the JSON object for programs.
 */
#include "bench/load/report.h"

#include "bench/common.h"

#include <math.h>

void report_parameter(struct report *r, const char *name, double value) {
    if (value == 0 || r->n_parameters == PARAMETERS_MAX)
        return;
    r->parameters[r->n_parameters].name = name;
    r->parameters[r->n_parameters++].value = value;
}

void report_put(struct report *r, const char *name, double value) {
    struct figure *f = NULL;
    for (unsigned i = 0; i < r->n_figures; i++)
        if (strcmp(r->figures[i].name, name) == 0)
            f = &r->figures[i];
    if (f == NULL && r->n_figures < FIGURES_MAX) {
        f = &r->figures[r->n_figures++];
        *f = (struct figure){.name = name};
    }
    if (f != NULL && f->n < ROUNDS_MAX)
        f->values[f->n++] = value;
}

void report_latency(struct report *r, const struct histogram *h) {
    static const struct {
        const char *name;
        double quantile;
    } shown[] = {
        {"p50_us", 0.5}, {"p90_us", 0.9}, {"p99_us", 0.99}, {"p999_us", 0.999}, {"max_us", 1}};
    for (size_t i = 0; h->n > 0 && i < PTN_ARRAY_LEN(shown); i++)
        report_put(r, shown[i].name, (double)histogram_at(h, shown[i].quantile) / 1000);
    histogram_merge(&r->latency, h);
}

struct summary {
    double median, least, greatest;
    double low, high, confidence; /* the true median lies between, with this probability */
};

/* The interval between two order statistics holds the median whatever the distribution (David and
 * Nagaraja, Order Statistics, 7.1): the k-th least to the k-th greatest of n does with probability
 * 1 - 2 * (C(n, 0) + ... + C(n, k - 1)) / 2^n.  The narrowest of at least 95 %; of fewer than six
 * rounds all of the range, and less confidence. */
static struct summary summary(const struct figure *f) {
    double v[ROUNDS_MAX];
    memcpy(v, f->values, f->n * sizeof *v);
    struct summary s = {.median = bench_median(v, f->n)}; /* sorts */
    s.least = v[0];
    s.greatest = v[f->n - 1];
    double choices = 1, outside = 0; /* C(n, k), and the sum of those before */
    for (unsigned k = 0; 2 * k < f->n; k++) {
        outside += choices;
        double confidence = 1 - 2 * ldexp(outside, -(int)f->n);
        if (k > 0 && confidence < 0.95)
            break;
        s.low = v[k];
        s.high = v[f->n - 1 - k];
        s.confidence = confidence;
        choices = choices * (f->n - k) / (k + 1);
    }
    return s;
}

double report_median(const struct report *r, const char *name) {
    for (unsigned i = 0; i < r->n_figures; i++)
        if (strcmp(r->figures[i].name, name) == 0)
            return summary(&r->figures[i]).median;
    return 0;
}

/* As many digits as are worth reading. */
static const char *number(double v, char *buf, size_t bytes) {
    int digits = v == floor(v) || fabs(v) >= 10000 ? 0 : fabs(v) >= 100 ? 1 : fabs(v) >= 1 ? 3 : 5;
    (void)snprintf(buf, bytes, "%.*f", digits, v);
    return buf;
}

static void json_text(FILE *f, const char *z) {
    fputc('"', f);
    for (; *z != '\0'; z++) {
        if ((unsigned char)*z < 32)
            fprintf(f, "\\u%04x", (unsigned)(unsigned char)*z);
        else
            fprintf(f, *z == '"' || *z == '\\' ? "\\%c" : "%c", *z);
    }
    fputc('"', f);
}

/* ,"name":{"figure":[from,to],...} */
static void json_intervals(FILE *f, const struct report *r, const char *name, bool whole) {
    char a[32], b[32];
    fprintf(f, ",\"%s\":{", name);
    for (unsigned i = 0; i < r->n_figures; i++) {
        struct summary s = summary(&r->figures[i]);
        fprintf(f, "%s\"%s\":[%s,%s]", i > 0 ? "," : "", r->figures[i].name,
                number(whole ? s.least : s.low, a, sizeof a),
                number(whole ? s.greatest : s.high, b, sizeof b));
    }
    fputc('}', f);
}

void report_json(FILE *f, const struct report *r) {
    char machine[320], a[32];
    double confidence = 0;
    bench_machine(machine, sizeof machine);
    fprintf(f, "{\"scenario\":\"%s\",\"target\":\"%s\",\"machine\":", r->scenario, r->target);
    json_text(f, machine);
    for (unsigned i = 0; i < r->n_parameters; i++)
        fprintf(f, ",\"%s\":%s", r->parameters[i].name,
                number(r->parameters[i].value, a, sizeof a));
    fprintf(f, ",\"rounds\":%u", r->rounds);
    for (unsigned i = 0; i < r->n_figures; i++) {
        struct summary s = summary(&r->figures[i]);
        confidence = s.confidence;
        fprintf(f, ",\"%s\":%s", r->figures[i].name, number(s.median, a, sizeof a));
    }
    if (r->generator_limits)
        fputs(",\"limit\":\"generator\"", f);
    json_intervals(f, r, "range", true);
    fprintf(f, ",\"confidence\":%.4f", confidence);
    json_intervals(f, r, "median_within", false);
    fputs("}\n", f);
    (void)fflush(f);
}

void report_table(FILE *f, const struct report *r) {
    char machine[320], a[32], b[32];
    double confidence = 0;
    bench_machine(machine, sizeof machine);
    fprintf(f, "%s\n%s, %s", machine, r->scenario, r->target);
    for (unsigned i = 0; i < r->n_parameters; i++)
        fprintf(f, ", %s %s", r->parameters[i].name, number(r->parameters[i].value, a, sizeof a));
    fprintf(f, "; medians of %u\n", r->rounds);
    for (unsigned i = 0; i < r->n_figures; i++) {
        struct summary s = summary(&r->figures[i]);
        fprintf(f, "  %-26s %12s", r->figures[i].name, number(s.median, a, sizeof a));
        if (s.low < s.high) {
            fprintf(f, "   (%s to %s)", number(s.low, a, sizeof a), number(s.high, b, sizeof b));
            confidence = s.confidence;
        }
        fputc('\n', f);
    }
    if (confidence > 0)
        fprintf(f,
                "  in brackets: where the median of many more rounds would lie, with %.0f %% "
                "confidence\n",
                confidence * 100);
    if (r->generator_limits)
        fputs(
            "  limit: load generator (client_cpu, lag_p99_us): the server may be able to do more\n",
            f);
    (void)fflush(f);
}
