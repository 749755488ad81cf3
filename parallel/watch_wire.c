/* The watchdog's wire: UDP, because nothing of it can block, nothing queues up at a process that is
   stopped, and nothing is shared with the library whose calls are being watched. */
#include "parallel/watch_impl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"

enum { RECEIVE_BYTES = 4 << 20 }; /* several thousand ranks may speak at once */

sy_status sy__watch_wire_open(sy__watch_wire *wire)
{
    sy_status st = SY_OK;
    struct sockaddr_in any = {.sin_family = AF_INET};
    const int bytes = RECEIVE_BYTES;
    wire->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    wire->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    SY_REQUIRE(wire->fd >= 0 && wire->wake >= 0, SY_ERR_IO, "no socket: %s", strerror(errno));
    setsockopt(wire->fd, SOL_SOCKET, SO_RCVBUF, &bytes,
               sizeof bytes); /* less is worse, not wrong */
    SY_REQUIRE(bind(wire->fd, (const struct sockaddr *)&any, sizeof any) == 0, SY_ERR_IO,
               "no UDP port: %s", strerror(errno));
cleanup:
    if (st != SY_OK) {
        sy__watch_wire_close(wire);
    }
    return st;
}

void sy__watch_wire_close(sy__watch_wire *wire)
{
    if (wire->fd >= 0) {
        close(wire->fd);
    }
    if (wire->wake >= 0) {
        close(wire->wake);
    }
    wire->fd = wire->wake = -1;
}

void sy__watch_addresses(const sy__watch_wire *wire, sy__watch_observer *out)
{
    struct sockaddr_in own = {0};
    socklen_t own_bytes = sizeof own;
    struct ifaddrs *list = NULL;
    out->n = 0;
    if (getsockname(wire->fd, (struct sockaddr *)&own, &own_bytes) != 0 || getifaddrs(&list) != 0) {
        return;
    }
    for (const struct ifaddrs *i = list; i != NULL && out->n < SY__WATCH_ADDRESSES;
         i = i->ifa_next) {
        if (i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET && (i->ifa_flags & IFF_UP)) {
            const struct sockaddr_in *a = (const void *)i->ifa_addr;
            out->address[out->n++] = (sy__watch_address){a->sin_addr.s_addr, own.sin_port};
        }
    }
    freeifaddrs(list);
}

void sy__watch_send(const sy__watch_wire *wire, sy__watch_message *message, sy__watch_address to)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = to.port, .sin_addr.s_addr = to.ip};
    memcpy(message->key, wire->key, sizeof message->key);
    (void)!sendto(wire->fd, message, sizeof *message, MSG_DONTWAIT | MSG_NOSIGNAL,
                  (const struct sockaddr *)&address, sizeof address);
}

/* False: nothing is there. */
static bool take(const sy__watch_wire *wire, sy__watch_message *message, sy__watch_address *from)
{
    for (;;) {
        struct sockaddr_in address = {0};
        socklen_t address_bytes = sizeof address;
        ssize_t n = recvfrom(wire->fd, message, sizeof *message, MSG_DONTWAIT,
                             (struct sockaddr *)&address, &address_bytes);
        if (n < 0 && errno != ECONNREFUSED && errno != EINTR) {
            return false; /* a refusal is the answer to an earlier datagram of ours */
        }
        if (n == (ssize_t)sizeof *message && address.sin_family == AF_INET &&
            memcmp(message->key, wire->key, sizeof message->key) == 0) {
            *from = (sy__watch_address){address.sin_addr.s_addr, address.sin_port};
            return true;
        }
    }
}

bool sy__watch_receive(const sy__watch_wire *wire, double until_s, sy__watch_message *message,
                       sy__watch_address *from)
{
    struct pollfd fds[2] = {{.fd = wire->fd, .events = POLLIN},
                            {.fd = wire->wake, .events = POLLIN}};
    if (take(wire, message, from)) {
        return true;
    }
    const double wait_s = until_s - sy_clock_s();
    if (wait_s > 0 && poll(fds, 2, (int)(1e3 * wait_s) + 1) > 0) {
        return take(wire, message, from);
    }
    return false;
}

void sy__watch_wake(const sy__watch_wire *wire)
{
    const uint64_t one = 1;
    (void)!write(wire->wake, &one, sizeof one);
}
