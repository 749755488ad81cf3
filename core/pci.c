#include "core/pci.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* First line of sys/name; "" if there is none. */
static void read_line(const char *sys, const char *name, char *buf, size_t buf_bytes)
{
    char path[PATH_MAX];
    FILE *f = NULL;
    buf[0] = '\0';
    if (snprintf(path, sizeof path, "%s/%s", sys, name) < (int)sizeof path) {
        f = fopen(path, "re");
    }
    if (f != NULL) {
        if (fgets(buf, (int)buf_bytes, f) == NULL) {
            buf[0] = '\0';
        }
        buf[strcspn(buf, "\n")] = '\0';
        fclose(f);
    }
}

/* How many folders two paths have in common. */
static int32_t n_common(const char *a, const char *b)
{
    int32_t n = 0;
    for (size_t i = 0; a[i] == b[i] && a[i] != '\0'; i++) {
        n += a[i] == '/';
    }
    return n;
}

/* Depth of the folder of a PCI host bridge: cards that share only that are not near. */
static int32_t bridge_depth(const char *path)
{
    const char *bridge = strstr(path, "/pci");
    int32_t n = 1;
    for (const char *c = path; bridge != NULL && c <= bridge; c++) {
        n += *c == '/';
    }
    return bridge != NULL ? n : INT32_MAX;
}

static void note_card(const char *name, bool nearer, char *cards, size_t cards_bytes)
{
    const size_t used = nearer ? 0 : strlen(cards);
    snprintf(cards + used, cards_bytes - used, "%s%s", used > 0 ? "," : "", name);
}

/* path: of the device, without links. */
static void find_cards(const char *sys, const char *path, char *cards, size_t cards_bytes)
{
    char folder[PATH_MAX], link[PATH_MAX + 300], card[PATH_MAX];
    int32_t most = bridge_depth(path);
    snprintf(folder, sizeof folder, "%s/class/infiniband", sys);
    DIR *dir = opendir(folder);
    for (struct dirent *e = dir ? readdir(dir) : NULL; e != NULL; e = readdir(dir)) {
        snprintf(link, sizeof link, "%s/%s/device", folder, e->d_name);
        if (e->d_name[0] == '.' || realpath(link, card) == NULL) {
            continue;
        }
        const int32_t n = n_common(path, card);
        if (n > most || (n == most && cards[0] != '\0')) {
            note_card(e->d_name, n > most, cards, cards_bytes);
            most = n;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

bool sy_pci_place_of(const char *sys, const char *address, sy_pci_place *out)
{
    char name[128], line[64], link[PATH_MAX], path[PATH_MAX];
    int n = snprintf(name, sizeof name, "bus/pci/devices/%s", address);
    *out = (sy_pci_place){.node = -1};
    for (char *c = name; *c != '\0'; c++) { /* CUDA writes capital letters, the kernel small ones */
        *c = (char)tolower(*c);
    }
    if (n >= (int)sizeof name ||
        snprintf(link, sizeof link, "%s/%s", sys, name) >= (int)sizeof link ||
        realpath(link, path) == NULL) {
        return false;
    }
    snprintf(name + n, sizeof name - (size_t)n, "/numa_node");
    read_line(sys, name, line, sizeof line);
    out->node = line[0] != '\0' ? (int32_t)strtol(line, NULL, 10) : -1;
    if (out->node >= 0) {
        snprintf(name, sizeof name, "devices/system/node/node%d/cpulist", out->node);
        read_line(sys, name, out->cores, sizeof out->cores);
    }
    find_cards(sys, path, out->cards, sizeof out->cards);
    return true;
}

/* Those of a list that are also in `of`. */
static cpu_set_t cores_in(const char *list, const cpu_set_t *of)
{
    cpu_set_t out;
    char *at = NULL;
    CPU_ZERO(&out);
    for (const char *word = list; isdigit((unsigned char)*word); word = at + (*at == ',')) {
        long first = strtol(word, &at, 10);
        long last = *at == '-' ? strtol(at + 1, &at, 10) : first;
        for (long i = first; i <= last && i < CPU_SETSIZE; i++) {
            if (CPU_ISSET((size_t)i, of)) {
                CPU_SET((size_t)i, &out);
            }
        }
    }
    return out;
}

bool sy_pci_bind_cores(const sy_pci_place *place)
{
    cpu_set_t now;
    if (sched_getaffinity(0, sizeof now, &now) != 0 ||
        CPU_COUNT(&now) < (int)sysconf(_SC_NPROCESSORS_ONLN)) {
        return false;
    }
    cpu_set_t near = cores_in(place->cores, &now);
    return CPU_COUNT(&near) > 0 && CPU_COUNT(&near) < CPU_COUNT(&now) &&
           sched_setaffinity(0, sizeof near, &near) == 0;
}
