/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_address.c - which addresses the gateway may bind.
 *
 * Without CURVE a TCP port tells nobody apart, so only loopback is allowed; on ipc the mode of the
 * socket file is the authorization, which rules abstract sockets out.
 */
#include "protocols/zmq/zmq_int.h"

#include <stdio.h>

#define IPC_PATH_BYTES_MAX 107u /* sun_path, terminator excluded */

static bool is_digit(char ch) {
    return ch >= '0' && ch <= '9';
}

/* A decimal number of at most max, without sign or leading zeros. */
static bool number_is_valid(ptn_str s, uint32_t max) {
    if (s.n == 0 || s.n > 5 || (s.n > 1 && s.p[0] == '0'))
        return false;
    uint32_t v = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (!is_digit(s.p[i]))
            return false;
        v = v * 10 + (uint32_t)(s.p[i] - '0');
    }
    return v <= max;
}

/* 127.0.0.0/8 in dotted-quad form. */
static bool host_is_loopback4(ptn_str host) {
    size_t at = 0;
    for (int octet = 0; octet < 4; octet++) {
        size_t end = at;
        while (end < host.n && host.p[end] != '.')
            end++;
        ptn_str part = {host.p + at, end - at};
        if (!number_is_valid(part, 255) || (octet == 0 && !ptn_str_eqz(part, "127")))
            return false;
        if (octet == 3)
            return end == host.n;
        if (end == host.n)
            return false;
        at = end + 1;
    }
    return false;
}

static int check_tcp(ptn_str rest, zmq_gw_address *ret_address, const char **reterr_why) {
    size_t colon = rest.n;
    while (colon > 0 && rest.p[colon - 1] != ':')
        colon--;
    if (colon == 0) {
        *reterr_why =
            "a tcp address needs a port: tcp://127.0.0.1:PORT (0 asks the system for one)";
        return -PTN_EINVAL;
    }
    ptn_str host = {rest.p, colon - 1};
    ptn_str port = {rest.p + colon, rest.n - colon};
    if (!ptn_str_eqz(port, "*") && !number_is_valid(port, 65535)) {
        *reterr_why = "the port must be a number from 0 to 65535 (0 asks the system for one)";
        return -PTN_EINVAL;
    }
    /* libzmq resolves no names when it binds. */
    if (ptn_str_eqz(host, "localhost"))
        host = PTN_STR("127.0.0.1");
    ret_address->ipv6 = ptn_str_eqz(host, "[::1]");
    if (!ret_address->ipv6 && !host_is_loopback4(host)) {
        *reterr_why = "tcp without encryption is allowed on loopback only: use 127.0.0.1, [::1] or "
                      "localhost, or an ipc:// address";
        return -PTN_EINVAL;
    }
    ret_address->side = ZMQ_GW_TCP;
    (void)snprintf(ret_address->text, sizeof(ret_address->text), "tcp://%.*s:%.*s", (int)host.n,
                   host.p, (int)port.n, port.p);
    return 0;
}

static int check_ipc(ptn_str path, zmq_gw_address *ret_address, const char **reterr_why) {
    if (path.n == 0 || path.n > IPC_PATH_BYTES_MAX) {
        *reterr_why =
            "an ipc address needs a path of 1 to 107 bytes: ipc:///run/postern/postern.ipc";
        return -PTN_EINVAL;
    }
    if (path.p[0] == '@' || path.p[0] == '*') {
        *reterr_why =
            "abstract and wildcard ipc sockets have no file mode to protect them: give a path";
        return -PTN_EINVAL;
    }
    ret_address->side = ZMQ_GW_IPC;
    ret_address->ipv6 = false;
    (void)snprintf(ret_address->text, sizeof(ret_address->text), "ipc://%.*s", (int)path.n, path.p);
    return 0;
}

int zmq_gw_address_check(const char *where, zmq_gw_address *ret_address, const char **reterr_why) {
    ptn_str s = ptn_str_of(where);
    if (s.n >= ZMQ_GW_ADDRESS_BYTES - 16) {
        *reterr_why = "the address is too long";
        return -PTN_EINVAL;
    }
    if (ptn_str_starts(s, PTN_STR("tcp://")))
        return check_tcp((ptn_str){s.p + 6, s.n - 6}, ret_address, reterr_why);
    if (ptn_str_starts(s, PTN_STR("ipc://")))
        return check_ipc((ptn_str){s.p + 6, s.n - 6}, ret_address, reterr_why);
    *reterr_why = "a ZeroMQ address begins with ipc:// or tcp://";
    return -PTN_EINVAL;
}
