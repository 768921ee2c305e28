/* SPDX-License-Identifier: Apache-2.0
 *
 * log.h - the program's log sink: text for people, JSON lines for machines.
 */
#ifndef POSTERN_BROKER_LOG_H
#define POSTERN_BROKER_LOG_H

#include "broker/config.h"

/* Before threads start.  auto means text when standard error is a terminal, JSON otherwise. */
void log_install(enum config_log_format format, enum ptn_log_level level);

/* One line with its newline, as the sink writes it; returns its length.  Too long a line loses its
 * last fields and says so.  For the sink and its tests. */
#define LOG_LINE_BYTES 4096
size_t log_format_line(bool json, int64_t wall_ms, enum ptn_log_level level, const char *event,
                       const ptn_field *f, size_t n, char out[LOG_LINE_BYTES]);

#endif
