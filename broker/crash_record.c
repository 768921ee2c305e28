/* SPDX-License-Identifier: Apache-2.0
 *
 * crash_record.c - crash.txt in the data directory.
 *
 * Two records at most: of a broker that crashes again and again the last two are enough, and they
 * do not fill a disk.
 */
#include "broker/crash_record.h"

#include "broker/config_internal.h"
#include "broker/version.h"

#include <errno.h>
#include <fcntl.h>
#include <postern/messages.h>
#include <unistd.h>

bool crash_record_find(const char *text, const char *key, char *ret_value, size_t value_bytes) {
    size_t key_bytes = strlen(key);
    ret_value[0] = '\0';
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n');
        if (strncmp(line, key, key_bytes) == 0) {
            const char *value = line + key_bytes;
            size_t n = end != NULL ? (size_t)(end - value) : strlen(value);
            n = n < value_bytes - 1 ? n : value_bytes - 1;
            memcpy(ret_value, value, n);
            ret_value[n] = '\0';
            return true;
        }
        line = end != NULL ? end + 1 : NULL;
    }
    return false;
}

/* What matters stands in the first lines. */
static void tell(int fd, const char *kept) {
    char text[8192], why[256], thread[256], build[64], version[64], seconds[24];
    size_t n = 0;
    for (ssize_t got = 1; got > 0 && n<sizeof text - 1; n += got> 0 ? (size_t)got : 0)
        got = read(fd, text + n, sizeof text - 1 - n);
    text[n] = '\0';
    (void)crash_record_find(text, "why: ", why, sizeof why);
    (void)crash_record_find(text, "thread: ", thread, sizeof thread);
    (void)crash_record_find(text, "version: ", version, sizeof version);
    (void)crash_record_find(text, "build: ", build, sizeof build);
    (void)crash_record_find(text, "time: ", seconds, sizeof seconds);
    PTN_LOG(PTN_LOG_ERROR, "broker.crashed_before", PTN_F_Z("why", why), PTN_F_Z("thread", thread),
            PTN_F_Z("version", version), PTN_F_Z("build", build), PTN_F_Z("unix_time", seconds),
            PTN_F_Z("record", kept));
}

int crash_record_open(const char *data, struct config_error *reterr) {
    char path[4096], kept[4096];
    int n = snprintf(path, sizeof path, "%s/crash.txt", data);
    int m = snprintf(kept, sizeof kept, "%s/crash-previous.txt", data);
    if (n < 0 || m < 0 || (size_t)m >= sizeof kept)
        return config_fail(reterr, -PTN_ETOOBIG, "data: the path is too long");
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd >= 0 && rename(path, kept) == 0)
        tell(fd, kept); /* after the rename: told once, whatever comes */
    if (fd >= 0)
        close(fd);
    static char version[64]; /* the record needs it until the end */
    (void)snprintf(version, sizeof version, "%s (%s)", postern_version(), postern_revision());
    const ptn_crash_opts o = {.path = path, .version = version, .msg_name = ptn_msg_type_name};
    int err = ptn_crash_install(&o);
    return err < 0 ? config_fail(reterr, err, "%.300s: cannot prepare crash records", path) : 0;
}
