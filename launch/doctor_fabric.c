/* doctor: what lies between hosts: InfiniBand, RoCE and EFA devices, and network cards. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/doctor_impl.h"

enum { PATH_BYTES = 512 };

/* An attribute below a folder of /sys; "" if it is not there. */
static const char *attribute(const char *folder, const char *name, char *buf, size_t bytes)
{
    char path[2 * PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    *buf = '\0';
    return sy__doctor_line(path, buf, bytes) ? buf : "";
}

/* Entries of a folder, one call each; how many. */
static int32_t each(const char *folder,
                    void (*look)(sy__doctor *d, const char *path, const char *name), sy__doctor *d)
{
    DIR *dir = opendir(folder);
    int32_t n = 0;
    for (struct dirent *e = dir != NULL ? readdir(dir) : NULL; e != NULL; e = readdir(dir)) {
        char path[2 * PATH_BYTES];
        if (e->d_name[0] != '.') {
            n++;
            snprintf(path, sizeof path, "%s/%.250s", folder, e->d_name);
            look(d, path, e->d_name);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return n;
}

static void look_at_port(sy__doctor *d, const char *path, const char *name)
{
    char state[64], layer[64], rate[64], link[PATH_BYTES];
    char driver[PATH_BYTES] = "";
    const char *device = path + strlen("/sys/class/infiniband/");
    attribute(path, "state", state, sizeof state);
    attribute(path, "link_layer", layer, sizeof layer);
    attribute(path, "rate", rate, sizeof rate);
    snprintf(link, sizeof link, "/sys/class/infiniband/%.*s/device/driver",
             (int)strcspn(device, "/"), device);
    const ssize_t n = readlink(link, driver, sizeof driver - 1);
    driver[n > 0 ? n : 0] = '\0';
    const bool efa = strstr(driver, "efa") != NULL, active = strstr(state, "ACTIVE") != NULL;
    const char *kind = efa ? "EFA" : strcmp(layer, "Ethernet") == 0 ? "RoCE" : "InfiniBand";
    sy__doctor_say(d, "fabric", active ? SY__FINE : SY__NOTE,
                   active ? NULL
                          : "look at its cable and switch, or leave it out (UCX_NET_DEVICES)",
                   active ? "%.*s port %s: %s, %s" : "%.*s port %s: %s, %s, not active",
                   (int)strcspn(device, "/"), device, name, kind, rate);
    if (active && efa) {
        sy__doctor_say(d, "fabric", SY__NOTE, "OMPI_MCA_pml=cm OMPI_MCA_mtl=ofi",
                       "EFA is used through libfabric only");
    }
}

static void look_at_device(sy__doctor *d, const char *path, const char *name)
{
    char ports[PATH_BYTES + 8];
    (void)name;
    snprintf(ports, sizeof ports, "%.500s/ports", path);
    each(ports, look_at_port, d);
}

void sy__doctor_fabric(sy__doctor *d)
{
    if (each("/sys/class/infiniband", look_at_device, d) == 0) {
        sy__doctor_say(d, "fabric", SY__FINE, NULL,
                       "no InfiniBand, RoCE or EFA here: hosts talk over TCP");
    }
}

static bool is_up(const char *path)
{
    char text[64];
    return strcmp(attribute(path, "operstate", text, sizeof text), "up") == 0;
}

static void look_at_card(sy__doctor *d, const char *path, const char *name)
{
    char real[PATH_BYTES + 8], text[64], mtu[64];
    snprintf(real, sizeof real, "%.500s/device", path);
    const long speed = strtol(attribute(path, "speed", text, sizeof text), NULL, 10);
    if (strcmp(name, "lo") == 0 || !is_up(path)) {
        return;
    }
    attribute(path, "mtu", mtu, sizeof mtu);
    snprintf(real, sizeof real, "%.500s/bridge", path);
    if (access(real, F_OK) == 0) {
        sy__doctor_say(d, "network", d->n_hosts > 1 ? SY__NOTE : SY__FINE,
                       d->n_hosts > 1 ? "launch/mpirun.sh --network NET names the network between "
                                        "the hosts; MPI tries this one, too"
                                      : NULL,
                       "%s: a bridge of this host", name);
    } else if (speed > 0) {
        const bool slow = speed < 10000 && d->n_hosts > 1;
        sy__doctor_say(d, "network", slow ? SY__NOTE : SY__FINE,
                       slow ? "experts that travel between hosts want 25 Gbit/s and more; keep "
                              "parallel.ep within a host"
                            : NULL,
                       "%s: %.1f Gbit/s, packets of %s bytes", name, (double)speed / 1000, mtu);
    } else {
        sy__doctor_say(d, "network", SY__FINE, NULL, "%s: speed not known, packets of %s bytes",
                       name, mtu);
    }
}

void sy__doctor_network(sy__doctor *d)
{
    each("/sys/class/net", look_at_card, d);
}
