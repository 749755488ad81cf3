/* The parts of doctor's look at the run directory. */
#ifndef SY_LAUNCH_DOCTOR_DISK_IMPL_H
#define SY_LAUNCH_DOCTOR_DISK_IMPL_H

#include "launch/doctor_impl.h"

enum { SY__DOCTOR_PATH = 1024 };

/* Name of the file system that holds a path. *is_memory: it is gone when the machine is switched
   off. Not collective. */
const char *sy__doctor_kind_of_disk(const char *path, bool *is_memory);
/* Write, sync, rename and read a file in a folder, and say how that went. Not collective. */
void sy__doctor_disk_speed(sy__doctor *d, const char *folder, int32_t number, double free_bytes);

#endif
