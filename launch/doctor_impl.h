/* doctor: one table of checks, each a small function that says what it found. A finding is fine,
   worth knowing, or stops a run; the latter two come with their mend. */
#ifndef SY_LAUNCH_DOCTOR_IMPL_H
#define SY_LAUNCH_DOCTOR_IMPL_H

#include "launch/cli.h"

typedef enum sy__doctor_level { SY__FINE, SY__NOTE, SY__PROBLEM } sy__doctor_level;

enum { SY__DOCTOR_TEXT = 320, SY__DOCTOR_HOST = 64 };

typedef struct sy__finding {
    sy__doctor_level level;
    int32_t host;  /* number of the host that it is about; -1: of the job */
    uint64_t kind; /* findings of one sentence, with whatever figures */
    char topic[16];
    char text[SY__DOCTOR_TEXT], mend[SY__DOCTOR_TEXT];
} sy__finding;

typedef struct sy__host {
    char name[SY__DOCTOR_HOST];
    int32_t n_ranks;
} sy__host;

typedef struct sy__doctor {
    const sy_env *env;
    const char *dir;  /* --run-dir */
    bool is_first;    /* this rank speaks for its host */
    int32_t *host_of; /* [world size] */
    sy__host *host;   /* [n_hosts], in the order of their first ranks */
    int32_t n_hosts;
    sy__finding *item; /* [n] */
    int32_t n, n_max;
    sy_status st; /* a failure to note something sticks */
} sy__doctor;

typedef struct sy__doctor_check {
    const char *topic;
    bool is_collective; /* called on all ranks; else on the first of each host, and may not
                           communicate */
    void (*look)(sy__doctor *d);
} sy__doctor_check;

/* Note a finding; mend NULL where it is fine. Not collective. */
void sy__doctor_say(sy__doctor *d, const char *topic, sy__doctor_level level, const char *mend,
                    const char *format, ...) __attribute__((format(printf, 5, 6)));
/* The last finding is about the job, not about this host. Not collective. */
void sy__doctor_of_job(sy__doctor *d);
/* First line of a small text file, as of /proc and /sys, without its line break; false if it cannot
   be read. Not collective. */
bool sy__doctor_line(const char *path, char *buf, size_t buf_bytes);

/* Findings of all ranks come together on all of them. Collective. */
sy_status sy__doctor_gather(sy__doctor *d);
/* For people, and as one JSON object, on standard output. Not collective. */
void sy__doctor_print(const sy__doctor *d);
void sy__doctor_print_json(const sy__doctor *d);

/* The checks; each is a row of the table in cmd_doctor.c. */
void sy__doctor_mpi(sy__doctor *d);
void sy__doctor_libraries(sy__doctor *d);
void sy__doctor_gpus(sy__doctor *d);
void sy__doctor_hosts(sy__doctor *d);
void sy__doctor_cores(sy__doctor *d);
void sy__doctor_memory(sy__doctor *d);
void sy__doctor_limits(sy__doctor *d);
void sy__doctor_fabric(sy__doctor *d);
void sy__doctor_network(sy__doctor *d);
void sy__doctor_files(sy__doctor *d);
void sy__doctor_clocks(sy__doctor *d);
void sy__doctor_pairs(sy__doctor *d);

#endif
