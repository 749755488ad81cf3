/* Machines that a run can be estimated for: a table of GPU nodes, and files that `bench machine`
   wrote. */
#ifndef SY_TRAIN_MACHINE_H
#define SY_TRAIN_MACHINE_H

#include "train/cost.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of the table, by name: "h100". An unknown name: SY_ERR_USAGE with the nearest. Not collective. */
sy_status sy_machine_find(const char *name, sy_machine *out);
/* Names and one line of figures each of the table, for a person. i counts from 0; NULL behind the
 * last. Not collective. */
const char *sy_machine_listed(int32_t i, char *line, size_t line_bytes);

/* Of a file. One that cannot be read, is no such file, or whose figures cannot be: SY_ERR_USAGE
   naming file and key. Not collective. */
sy_status sy_machine_read(const char *path, sy_machine *out);
/* Write to a file whose name is not there before it is whole. Not collective. */
sy_status sy_machine_write(const sy_machine *machine, const char *path);

#ifdef __cplusplus
}
#endif
#endif
