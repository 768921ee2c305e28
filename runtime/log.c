/* SPDX-License-Identifier: Apache-2.0
 *
 * log.c - the level of the log and the way to its sink.
 *
 * The level is the only thing that changes while threads run: relaxed, because a line more or less
 * around the change hurts nobody.  The sink is set before threads start, and thread creation
 * publishes it.
 */
#include <postern/log.h>

#include <stdatomic.h>

static _Atomic int current_level = PTN_LOG_INFO; /* partner: the relaxed loads in this file */
static ptn_log_sink current_sink;
static void *current_arg;

void ptn_log_set_sink(ptn_log_sink sink, void *arg) {
    current_sink = sink;
    current_arg = arg;
}

void ptn_log_set_level(enum ptn_log_level level) {
    atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

enum ptn_log_level ptn_log_get_level(void) {
    return (enum ptn_log_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

void ptn_log_write(enum ptn_log_level level, const char *event, const ptn_field *f, size_t n) {
    if (current_sink != NULL && level <= ptn_log_get_level())
        current_sink(level, event, f, n, current_arg);
}
