/* Time from the kernel's monotonic clock, and the date for people. */
#include "core/clock.h"

#include <errno.h>
#include <time.h>

double sy_clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void sy_clock_sleep_s(double s)
{
    if (!(s > 0)) {
        return;
    }
    double end = sy_clock_s() + s;
    struct timespec until = {.tv_sec = (time_t)end};
    until.tv_nsec = (long)((end - (double)until.tv_sec) * 1e9);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

void sy_clock_utc(char *buf, size_t buf_bytes)
{
    time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    if (buf_bytes > 0 && strftime(buf, buf_bytes, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0) {
        buf[0] = '\0';
    }
}
