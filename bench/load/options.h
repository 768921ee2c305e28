/* SPDX-License-Identifier: Apache-2.0
 *
 * options.h - what a reading is made of, and the command line that says it.
 */
#ifndef POSTERN_BENCH_LOAD_OPTIONS_H
#define POSTERN_BENCH_LOAD_OPTIONS_H

#include "bench/load/driver.h"
#include "bench/load/report.h"

struct options {
    const struct scenario *scenario;
    const struct bench_driver *driver;
    const char *address, *events, *token, *program, *workers, *topic, *path, *svg;
    unsigned subscribers, publishers, topics, connections, window, bytes, rounds, stalled;
    double seconds, warmup, rate, overload;
    unsigned server_pid;
    bool prose, discard, json, help;
};

struct scenario {
    const char *name, *about;
    unsigned needs;       /* BENCH_CAN_… of the driver; any of them */
    const char *target;   /* the default driver */
    const char *accepts;  /* options besides those that all accept, in words */
    struct options usual; /* defaults that differ from those of all: 0 is none */
    void (*run)(const struct options *o);
    const char *program; /* or: the tool beside us that does it, with options of its own */
};

/* Ends with a name of NULL. */
extern const struct scenario scenarios[];

/* Fills *ret_o from argv[1..argc).  false: ret_why holds one line that says what is wrong. */
bool options_parse(int argc, char **argv, struct options *ret_o, char *ret_why, size_t why_bytes);
/* What is measured: scenario, target, rounds, and the parameters that the scenario has. */
void options_tell(const struct options *o, struct report *r);
/* scenario: NULL: all of them. */
void options_help(FILE *f, const struct scenario *scenario);

#endif
