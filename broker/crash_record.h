/* SPDX-License-Identifier: Apache-2.0
 *
 * crash_record.h - where the crash record lives, and the news of the last one.
 */
#ifndef POSTERN_BROKER_CRASH_RECORD_H
#define POSTERN_BROKER_CRASH_RECORD_H

#include "broker/config.h"

/* Main thread, with the data directory locked, before threads start.  A record that is there is
 * told to the log once and kept as <data>/crash-previous.txt, in place of an older one; the next
 * goes to <data>/crash.txt.  0, -PTN_ETOOBIG or -PTN_EIO. */
int crash_record_open(const char *data, struct config_error *reterr);

/* What the log tells: the value of the first line of `text` that begins with `key`, cut to fit.
 * False: there is none, and ret_value is empty. */
bool crash_record_find(const char *text, const char *key, char *ret_value, size_t value_bytes);

#endif
