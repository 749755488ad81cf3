/* doctor: cores, memory and limits of this host, as the kernel and its control groups have them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/thread.h"
#include "launch/doctor_impl.h"

enum { PATH_BYTES = 512, MIB = 1 << 20 };

/* ---- control groups ---- */

/* The group of this process in version 2, or of `controller` in version 1: its folder. */
static bool find_group(const char *controller, char *folder, size_t bytes)
{
    char line[PATH_BYTES], want[64];
    bool found = false;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
        char *names = strchr(line, ':'), *path = names != NULL ? strchr(names + 1, ':') : NULL;
        if (path == NULL) {
            continue;
        }
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        path = strcmp(path, "/") == 0 ? path + 1 : path;
        snprintf(want, sizeof want, ",%s,", controller);
        char list[PATH_BYTES + 2];
        snprintf(list, sizeof list, ",%s,", names + 1);
        if (controller[0] == '\0' && names[1] == '\0') {
            found = snprintf(folder, bytes, "/sys/fs/cgroup%s", path) < (int)bytes;
        } else if (controller[0] != '\0' && strstr(list, want) != NULL) {
            found = snprintf(folder, bytes, "/sys/fs/cgroup/%s%s", controller, path) < (int)bytes;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return found;
}

/* The line of a file in a group or the nearest above it that has the file and does not say `none`.
 */
static bool find_setting(const char *controller, const char *file, const char *none, char *line,
                         size_t bytes)
{
    char folder[PATH_BYTES], path[PATH_BYTES + 64];
    if (!find_group(controller, folder, sizeof folder)) {
        return false;
    }
    while (strlen(folder) >= strlen("/sys/fs/cgroup")) {
        snprintf(path, sizeof path, "%s/%s", folder, file);
        if (sy__doctor_line(path, line, bytes) && strncmp(line, none, strlen(none)) != 0) {
            return true;
        }
        *strrchr(folder, '/') = '\0';
    }
    return false;
}

/* Cores that a quota of time allows; 0: no quota. */
static double quota_cores(void)
{
    char line[64], period[64];
    double quota = 0, of = 0;
    if (find_setting("", "cpu.max", "max", line, sizeof line)) {
        return sscanf(line, "%lf %lf", &quota, &of) == 2 && of > 0 ? quota / of : 0;
    }
    if (find_setting("cpu", "cpu.cfs_quota_us", "-1", line, sizeof line) &&
        find_setting("cpu", "cpu.cfs_period_us", "-1", period, sizeof period)) {
        of = strtod(period, NULL);
        return of > 0 ? strtod(line, NULL) / of : 0;
    }
    return 0;
}

static double limit_bytes(void)
{
    char line[64];
    if (find_setting("", "memory.max", "max", line, sizeof line) ||
        find_setting("memory", "memory.limit_in_bytes", "9223372036854", line, sizeof line)) {
        return strtod(line, NULL);
    }
    return 0;
}

/* ---- cores ---- */

void sy__doctor_cores(sy__doctor *d)
{
    const int32_t mine = sy_thread_cores(), node = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    const int32_t ranks = d->env->local_size, threads = d->env->threads;
    const double quota = quota_cores();
    char nodes[64] = "";
    const bool numa = sy__doctor_line("/sys/devices/system/node/online", nodes, sizeof nodes) &&
                      strcmp(nodes, "0") != 0;
    sy__doctor_say(d, "cores", SY__FINE, NULL,
                   "%d cores, %d for this rank; %d rank%s here, %d thread%s each", node, mine,
                   ranks, ranks == 1 ? "" : "s", threads, threads == 1 ? "" : "s");
    if (quota > 0 && quota < (double)threads * ranks) {
        sy__doctor_say(d, "cores", SY__NOTE,
                       "set device.threads to the quota divided by the ranks of a host, or raise "
                       "the quota of the container",
                       "a quota of %.1f cores, and %d threads will want to run: they are stopped "
                       "again and again",
                       quota, threads * ranks);
    } else if (quota > 0) {
        sy__doctor_say(d, "cores", SY__FINE, NULL, "a quota of %.1f cores", quota);
    }
    if (ranks > (mine < node ? mine * ranks : node)) {
        sy__doctor_say(d, "cores", SY__NOTE, "start fewer ranks, or more hosts",
                       "more ranks than cores: they wait for each other");
    }
    if (numa) {
        sy__doctor_say(d, "cores", mine < node ? SY__FINE : SY__NOTE,
                       mine < node ? NULL : "launch/mpirun.sh --bind CORES keeps a rank on its own",
                       mine < node ? "memory nodes %s; ranks are bound"
                                   : "memory nodes %s, and ranks are not bound to cores",
                       nodes);
    }
}

/* ---- memory ---- */

/* A figure of /proc/meminfo in bytes. */
static double meminfo(const char *name)
{
    char line[128];
    double kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0) {
            kib = strtod(line + strlen(name), NULL);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return 1024 * kib;
}

void sy__doctor_memory(sy__doctor *d)
{
    const double total = meminfo("MemTotal:"), free_bytes = meminfo("MemAvailable:");
    const double limit = limit_bytes(), gib = 1024.0 * MIB;
    char pages[128];
    sy__doctor_say(d, "memory", SY__FINE, NULL, "%.1f of %.1f GiB are free, %.1f GiB a rank",
                   free_bytes / gib, total / gib, free_bytes / gib / d->env->local_size);
    if (limit > 0 && limit < total) {
        sy__doctor_say(d, "memory", SY__NOTE,
                       "raise the limit of the container or the job (Slurm: --mem=0) if a rank "
                       "needs more",
                       "a limit of %.1f GiB: beyond it ranks are killed (exit status 137)",
                       limit / gib);
    }
    if (sy__doctor_line("/sys/kernel/mm/transparent_hugepage/enabled", pages, sizeof pages)) {
        const bool never = strstr(pages, "[never]") != NULL;
        sy__doctor_say(d, "memory", never ? SY__NOTE : SY__FINE,
                       never ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" : NULL,
                       never ? "huge pages are off: %s" : "huge pages: %s", pages);
    }
}

/* ---- limits ---- */

/* A limit as text; RLIM_INFINITY is the largest. */
static rlim_t soft(int what)
{
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    getrlimit(what, &limit);
    return limit.rlim_cur;
}

static void look_at_shm(sy__doctor *d)
{
    struct statvfs s;
    const double need = 16.0 * MIB * d->env->local_size;
    if (statvfs("/dev/shm", &s) != 0) {
        sy__doctor_say(d, "limits", SY__PROBLEM, "mount -t tmpfs tmpfs /dev/shm",
                       "there is no /dev/shm, through which the ranks of a host talk");
        return;
    }
    const double left = (double)s.f_bavail * (double)s.f_frsize;
    const bool enough = left >= need;
    sy__doctor_say(d, "limits", enough ? SY__FINE : SY__PROBLEM,
                   enough ? NULL
                          : "mount -o remount,size=1G /dev/shm (docker run --shm-size 1g), and "
                            "remove what killed jobs left there (vader_segment.*, sm_segment.*)",
                   enough ? "/dev/shm: %.0f MiB are free"
                          : "/dev/shm: %.0f MiB are free, and the ranks of this host need %.0f",
                   left / MIB, need / MIB);
}

void sy__doctor_limits(sy__doctor *d)
{
    const rlim_t files = soft(RLIMIT_NOFILE), locked = soft(RLIMIT_MEMLOCK);
    const rlim_t processes = soft(RLIMIT_NPROC), file_bytes = soft(RLIMIT_FSIZE);
    const rlim_t need = 128 + 2 * (rlim_t)d->env->world->size;
    const bool has_fabric = access("/sys/class/infiniband", F_OK) == 0;
    sy__doctor_say(d, "limits", files < need ? SY__PROBLEM : SY__FINE,
                   files < need ? "ulimit -n 65536 on every host (/etc/security/limits.conf, or "
                                  "LimitNOFILE of Slurm's daemon)"
                                : NULL,
                   files < need ? "%ju open files are allowed, and this job may need %ju"
                                : "%ju open files are allowed (this job may need %ju)",
                   (uintmax_t)files, (uintmax_t)need);
    if (locked == RLIM_INFINITY) {
        sy__doctor_say(d, "limits", SY__FINE, NULL, "locked memory is not limited");
    } else {
        sy__doctor_say(d, "limits", has_fabric ? SY__PROBLEM : SY__FINE,
                       has_fabric ? "ulimit -l unlimited on every host (/etc/security/limits.conf, "
                                    "or LimitMEMLOCK=infinity of Slurm's daemon)"
                                  : NULL,
                       has_fabric ? "%ju KiB of locked memory: InfiniBand cannot use its buffers"
                                  : "%ju KiB of locked memory (enough without InfiniBand)",
                       (uintmax_t)locked / 1024);
    }
    if (processes < 1024) {
        sy__doctor_say(d, "limits", SY__NOTE, "ulimit -u 65536",
                       "%ju processes and threads are allowed to this user", (uintmax_t)processes);
    }
    if (file_bytes != RLIM_INFINITY) {
        sy__doctor_say(d, "limits", SY__NOTE, "ulimit -f unlimited",
                       "a file may have %ju MiB: a larger checkpoint is not saved",
                       (uintmax_t)file_bytes / MIB);
    }
    if (soft(RLIMIT_AS) != RLIM_INFINITY) {
        sy__doctor_say(d, "limits", SY__NOTE, "ulimit -v unlimited",
                       "address space is limited to %ju MiB: allocation fails there",
                       (uintmax_t)soft(RLIMIT_AS) / MIB);
    }
    look_at_shm(d);
}
