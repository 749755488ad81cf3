#include "data/fingerprint.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { N_BLOCKS = 8, BLOCK = 4096 };

/* The first block, the last, and some between. */
static uint64_t digest_of(int fd, int64_t bytes, uint64_t seed)
{
    char block[BLOCK];
    uint64_t h = XXH3_64bits_withSeed(&bytes, sizeof bytes, seed);
    const int64_t last = bytes > BLOCK ? bytes - BLOCK : 0;
    for (int32_t i = 0; i < N_BLOCKS && (i == 0 || last > 0); i++) {
        ssize_t n = pread(fd, block, sizeof block, (off_t)(last / (N_BLOCKS - 1) * i));
        h = XXH3_64bits_withSeed(block, n > 0 ? (size_t)n : 0, h);
    }
    return h;
}

uint64_t sy_data_fingerprint(const char *path, char *words, size_t words_bytes)
{
    static const char *const suffix[] = {"", ".bin", ".idx"};
    uint64_t h = 0;
    size_t used = 0;
    *words = '\0';
    for (size_t i = 0; i < sizeof suffix / sizeof suffix[0]; i++) {
        char name[4096];
        struct stat s;
        int fd;
        snprintf(name, sizeof name, "%s%s", path, suffix[i]);
        fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0 && fstat(fd, &s) == 0 && S_ISREG(s.st_mode)) {
            const char *base = strrchr(name, '/');
            h = digest_of(fd, (int64_t)s.st_size, h + i + 1);
            used += (size_t)snprintf(words + used, words_bytes - used, "%s%s of %lld bytes",
                                     used > 0 ? ", " : "", base != NULL ? base + 1 : name,
                                     (long long)s.st_size);
            used = used < words_bytes ? used : words_bytes - 1;
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    if (h == 0) {
        snprintf(words, words_bytes, "no file");
    }
    return h;
}
