/* SPDX-License-Identifier: Apache-2.0
 *
 * wiring.h - the composition root: makes every part of the broker, introduces them to each other,
 * and takes them apart again.
 */
#ifndef POSTERN_BROKER_WIRING_H
#define POSTERN_BROKER_WIRING_H

#include "broker/config.h"

typedef struct wiring_options {
    bool print_listen; /* one JSON object with the real addresses as first line on `out` */
    bool hello;        /* then addresses, a token and commands to paste */
    FILE *out;
    const struct config_sources *sources; /* read again on SIGHUP; may be NULL */
} wiring_options;

/* The broker in the foreground, until a signal or a failure ends it.  Returns an exit code (wire.md
 * section 5); errors are one line each on standard error. */
int wiring_run(const struct postern_config *config, const wiring_options *options);

#endif
