/* What a loss of power takes from a folder: the model that tests hold saves against, harsher than
   most file systems. Bytes are safe once their file was synced; names once the folder was. */
#ifndef SY_TESTS_SUPPORT_IO_POWER_H
#define SY_TESTS_SUPPORT_IO_POWER_H

#include <stdbool.h>
#include <stdint.h>

/* Before the change is made: bytes of a file, its size, a name that will be there, one that will
   become another (`to` may be there and is lost), one that will be gone. */
void io_power_note_bytes(int fd, int64_t n, int64_t at);
void io_power_note_size(int fd);
void io_power_note_made(const char *path);
void io_power_note_renamed(const char *from, const char *to);
void io_power_note_removed(const char *path);
/* This file, or folder, was synced. */
void io_power_settle(int fd);
/* Take back what is not safe. seed 0: all of it; else of every 4096 bytes a random choice, and
   names back to some moment. */
void io_power_lose(uint64_t seed);

#endif
