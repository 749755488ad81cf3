/* A cheap digest of a data path: which files stand there, how long they are, and a few of their
   blocks. Enough to tell another file, and what a copy that broke off left; not a checksum. */
#ifndef SY_DATA_FINGERPRINT_H
#define SY_DATA_FINGERPRINT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of `path`, PATH.bin and PATH.idx, those that are files; *words says the same: "text.bin of 40000
   bytes, text.idx of 74 bytes". Reads at most 32 KiB of each. A file that cannot be read counts as
   not there: whoever opens it says why. Not collective. */
uint64_t sy_data_fingerprint(const char *path, char *words, size_t words_bytes);

#ifdef __cplusplus
}
#endif
#endif
